"""Attention across a list against one candidate and one head at a time; places as training met them."""

import pytest
import torch

from twotower.errors import ConfigError
from twotower.nn.list_encoder import ListEncoder, ListPlaces


def textbook(block, x):
    """(K, D) -> (K, D): the sums of the paper, written out."""
    K, D = x.shape
    width = D // block.heads
    queries, keys, values = block.query_key_value(x).chunk(3, dim=-1)
    rows = []
    for i in range(K):
        heads = []
        for h in range(block.heads):
            at = slice(h * width, (h + 1) * width)
            weight = torch.stack([queries[i, at] @ keys[j, at] / width**0.5 for j in range(K)]).softmax(0)
            heads.append(sum(weight[j] * values[j, at] for j in range(K)))
        seen = block.behind_attention(x[i] + block.out(torch.cat(heads)))
        wide, _, narrow, _ = block.feed_forward
        rows.append(block.behind_feed_forward(seen + narrow(wide(seen).relu())))
    return torch.stack(rows)


def made(**more):
    torch.manual_seed(0)
    encoder = ListEncoder(6, **{"blocks": 2, "heads": 3, "hidden": 5, "dropout": 0.3, **more})
    for parameter in encoder.parameters():
        torch.nn.init.normal_(parameter, std=0.6)
    return encoder.eval()


@pytest.mark.parametrize("heads", [1, 2, 3])
def test_equals_the_textbook_list_by_list(heads):
    encoder, x = made(heads=heads), torch.randn(3, 4, 6)
    mask = torch.tensor([[True] * 4, [True, False, True, False], [False] * 3 + [True]])
    with torch.inference_mode():
        found = encoder(x, mask)
        for q in range(3):
            real = x[q][mask[q]]
            for block in encoder.blocks:
                real = textbook(block, real)
            torch.testing.assert_close(found[q][mask[q]], real, atol=1e-5, rtol=1e-5)


def test_a_list_of_nobody_has_finite_gradients():
    encoder, x = made().train(), torch.randn(2, 3, 6, requires_grad=True)
    mask = torch.tensor([[False] * 3, [True] * 3])
    encoder(x, mask)[mask].sum().backward()
    assert x.grad.isfinite().all()
    assert not x.grad[0].any()


def test_an_empty_list_is_empty():
    assert made()(torch.randn(2, 0, 6), torch.ones(2, 0, dtype=torch.bool)).shape == (2, 0, 6)


def test_heads_must_divide_the_width():
    with pytest.raises(ConfigError, match="dim 6 cannot be divided among 4 heads"):
        made(heads=4)


def test_places_beyond_training_are_as_the_last_one_it_met():
    places = ListPlaces(6, 2)
    mask = torch.tensor([[True, True, True, False]])
    places(torch.tensor([[0.0, 1.0, 3.0, 5.0]]), mask)  # 5 is nobody's
    assert int(places.last) == 3
    places(torch.tensor([[0.0]]), None)
    places(torch.empty(1, 0), None)
    assert int(places.last) == 3
    places.eval()
    found = places(torch.tensor([[-1.0, 3.0, 4.0, 900.0]]), None)
    assert torch.equal(found[0], places.table.weight[[0, 3, 3, 3]])
    assert int(places.last) == 3


def test_a_list_longer_than_the_table_trains_its_last_place():
    places = ListPlaces(3, 2)
    places(torch.arange(5.0)[None], None)
    assert int(places.last) == 2
