"""Histories: what a place may see, and what padding may not do."""

import pytest
import torch

from twotower.data.spec import Column
from twotower.nn.embedding import Embeddings
from twotower.nn.history import History, HistoryConfig
from twotower.nn.sequence import CausalEncoder, CausalMean, last_place
from twotower.types import Batch

L, D = 6, 4
MOVIE = Column(name="movie", kind="id", side="item", size=12)
PAST = Column(name="past", kind="sequence", side="query", size=12, width=L, of="movie")
KINDS = pytest.mark.parametrize("kind", ["mean", "attention"])


def encoder(kind):
    torch.manual_seed(0)
    return CausalMean(D) if kind == "mean" else CausalEncoder(D, L, blocks=2, heads=2, dropout=0.3).eval()


@KINDS
def test_no_place_sees_the_future(kind):
    encode, x = encoder(kind), torch.randn(2, L, D)
    out = encode(x)
    for place in range(L):
        changed = x.clone()
        changed[:, place + 1 :] = 99.0
        torch.testing.assert_close(encode(changed)[:, : place + 1], out[:, : place + 1])


@KINDS
def test_every_place_sees_the_past(kind):
    encode, x = encoder(kind), torch.randn(1, L, D)
    changed = x.clone()
    changed[0, 0, 0] += 3  # a norm would not see a shift of all
    assert ((encode(changed) - encode(x)).abs().amax(-1) > 1e-6).all()


def test_the_mean_is_the_mean_before_its_norm():
    encode, x = CausalMean(D), torch.randn(3, L, D)
    torch.testing.assert_close(encode(x)[:, 2], encode.norm(x[:, :3].mean(1)))


def test_attention_knows_the_order():
    encode, x = encoder("attention"), torch.randn(1, L, D)
    swapped = x[:, [1, 0, 2, 3, 4, 5]]
    assert not torch.allclose(encode(x)[:, -1], encode(swapped)[:, -1], atol=1e-4)


def test_last_place_counts_what_is_there():
    assert last_place(torch.tensor([[3, 4, 0], [0, 0, 0], [1, 1, 1]])).tolist() == [1, -1, 2]


@pytest.fixture(params=["mean", "attention"])
def history(request):
    torch.manual_seed(0)
    embeddings = Embeddings([MOVIE, PAST], D).eval()
    past = History(PAST, D, HistoryConfig(kind=request.param)).eval()
    past.empty.data.normal_()
    return lambda rows: past(Batch(past=rows), embeddings), past, embeddings


def test_the_history_of_a_query_is_its_last_place(history):
    encode, past, embeddings = history
    rows = torch.tensor([[3, 4, 5, 0, 0, 0], [6, 7, 8, 9, 10, 11]])
    places = past.places(Batch(past=rows), embeddings)
    torch.testing.assert_close(encode(rows), torch.stack([places[0, 2], places[1, 5]]))


def test_an_empty_history_is_a_vector_of_its_own(history):
    encode, past, _ = history
    out = encode(torch.tensor([[0, 0, 0], [4, 0, 0]]))
    torch.testing.assert_close(out[0], past.empty)
    assert not torch.allclose(out[1], past.empty)
    torch.testing.assert_close(encode(torch.empty(3, 0, dtype=torch.int64)), past.empty.expand(3, -1))


def test_padding_and_neighbours_change_nothing(history):
    encode, _, _ = history
    short = encode(torch.tensor([[3, 4]]))
    torch.testing.assert_close(encode(torch.tensor([[3, 4, 0, 0, 0, 0], [6, 7, 8, 9, 10, 11]]))[:1], short)
