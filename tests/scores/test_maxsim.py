"""MaxSim against a loop over tokens, with every kind of mask, in every layout and chunk."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from twotower.errors import ConfigError
from twotower.scores.maxsim import maxsim, maxsim_packed
from twotower.types import Ragged

INF = float("inf")


def naive(query: list[Tensor], item: list[Tensor]) -> float:
    """One query's and one document's real tokens."""
    if not item:
        return -INF
    return float(sum(max(float(q @ d) for d in item) for q in query))


def case(Q: int, Lq: int, C: int, Ld: int, seed: int, negative: bool) -> tuple[Tensor, ...]:
    draw = torch.Generator().manual_seed(seed)
    query, item = torch.randn(Q, Lq, 4, generator=draw), torch.randn(C, Ld, 4, generator=draw)
    if negative:
        query, item = query.abs() + 0.01, -item.abs() - 0.01
    query_mask = torch.rand(Q, Lq, generator=draw) < 0.7
    item_mask = torch.rand(C, Ld, generator=draw) < 0.7
    # whatever stands in padding must not matter
    return (
        query.masked_fill(~query_mask[..., None], 9.0),
        item.masked_fill(~item_mask[..., None], 9.0),
        query_mask,
        item_mask,
    )


SHAPES = st.tuples(*[st.integers(0, 6)] * 4, st.integers(0, 99), st.booleans())


@settings(max_examples=80, deadline=None)
@given(SHAPES, st.sampled_from([1e-5, 1e-4, 1.0]))
def test_equals_the_naive_loop(shape: tuple[int, int, int, int, int, bool], memory_mb: float) -> None:
    query, item, query_mask, item_mask = case(*shape)
    Q, C = len(query), len(item)
    expected = torch.tensor(
        [[naive([*query[q, query_mask[q]]], [*item[c, item_mask[c]]]) for c in range(C)] for q in range(Q)]
    ).reshape(Q, C)
    masks = {"query_mask": query_mask, "memory_mb": memory_mb}
    torch.testing.assert_close(maxsim(query, item, item_mask=item_mask, **masks), expected)
    own, own_mask = item.expand(Q, *item.shape), item_mask.expand(Q, *item_mask.shape)
    torch.testing.assert_close(maxsim(query, own, item_mask=own_mask, **masks), expected)
    packed = Ragged(
        item[item_mask], torch.cat([torch.zeros(1, dtype=torch.int64), item_mask.sum(1).cumsum(0)])
    )
    zeroed = query.masked_fill(~query_mask[..., None], 0)
    torch.testing.assert_close(maxsim_packed(zeroed, packed, memory_mb=memory_mb), expected)


def test_padding_never_wins_where_all_similarities_are_negative() -> None:
    query, item, query_mask, item_mask = case(3, 4, 5, 6, 1, negative=True)
    zeros = item.masked_fill(~item_mask[..., None], 0)  # zero beats every negative similarity
    scores = maxsim(query, zeros, query_mask=query_mask, item_mask=item_mask)
    there = item_mask.any(1)
    assert (scores[query_mask.any(1)][:, there] < 0).all()
    assert (maxsim(query, zeros, query_mask=query_mask)[query_mask.any(1)] >= scores[query_mask.any(1)]).all()


def test_a_document_without_tokens_scores_what_is_said() -> None:
    query, item = torch.ones(2, 3, 4), torch.ones(2, 5, 4)
    mask = torch.tensor([[True] * 5, [False] * 5])
    assert maxsim(query, item, item_mask=mask).tolist() == [[12.0, -INF]] * 2
    assert maxsim(query, item, item_mask=mask, empty=-7.0).tolist() == [[12.0, -7.0]] * 2
    assert maxsim(query, item[:, :0], empty=-7.0).tolist() == [[-7.0, -7.0]] * 2
    nothing = Ragged(torch.empty(0, 4), torch.zeros(3, dtype=torch.int64))
    assert maxsim_packed(query, nothing, empty=-7.0).tolist() == [[-7.0, -7.0]] * 2
    nobody = torch.zeros(2, 3, dtype=torch.bool)
    assert maxsim(query, item, item_mask=mask, query_mask=nobody).tolist() == [[0.0, -INF]] * 2


def test_a_floor_is_what_a_query_token_finds_at_least() -> None:
    items = Ragged(torch.tensor([[3.0], [-1.0], [0.5]]), torch.tensor([0, 2, 2, 3]))
    query, floor = torch.tensor([[[1.0], [2.0]]]), torch.tensor([[1.0, -5.0]])
    assert maxsim_packed(query, items, floor=floor).tolist() == [[3.0 + 6.0, 1.0 - 5.0, 1.0 + 1.0]]


def test_a_query_without_tokens_likes_all_documents_alike() -> None:
    assert maxsim(torch.ones(2, 0, 4), torch.ones(3, 5, 4)).tolist() == [[0.0] * 3] * 2


@pytest.mark.parametrize("memory_mb", [1e-5, 4.0])
def test_gradients_are_those_of_the_chosen_tokens(memory_mb: float) -> None:
    query, item, query_mask, item_mask = case(3, 4, 5, 6, 2, negative=True)
    query, item = query.double().requires_grad_(), item.double().requires_grad_()
    weight = torch.rand(3, 5, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    there = item_mask.any(1)
    options = {"query_mask": query_mask, "item_mask": item_mask[there], "memory_mb": memory_mb}
    (maxsim(query, item[there], **options) * weight[:, there]).sum().backward()
    found = query.grad, item.grad
    query.grad = item.grad = None
    total = sum(
        weight[q, c] * (query[q, i] @ item[c, item_mask[c]].T).max()
        for q in range(3)
        for c in there.nonzero()[:, 0].tolist()
        for i in query_mask[q].nonzero()[:, 0].tolist()
    )
    assert isinstance(total, Tensor)
    total.backward()
    torch.testing.assert_close(found, (query.grad, item.grad))


def test_shapes_that_do_not_fit_are_named() -> None:
    with pytest.raises(ConfigError, match="do not meet"):
        maxsim(torch.ones(1, 2, 3), torch.ones(1, 2, 4))
