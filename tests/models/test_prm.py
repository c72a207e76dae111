"""PRM against the paper's forward pass: one list at a time, one candidate and one head after the other."""

import pytest
import torch

from twotower.cascade.rank import Rank
from twotower.cascade.stage import Request
from twotower.data.features import Column, FeatureSpec
from twotower.errors import ConfigError
from twotower.index.item_table import ItemTable
from twotower.losses.listwise import listnet
from twotower.models.prm import PRM, PRMConfig
from twotower.types import NO_ITEM, Batch, Candidates

SPEC = FeatureSpec(
    columns=(
        Column(name="user", kind="id", side="query", size=6, width=1),
        Column(name="movie", kind="id", side="item", size=14, width=1),
        Column(name="year", kind="number", side="item", size=0, width=2),
    )
)
N = 12
DRAW = torch.Generator().manual_seed(7)
ITEMS = Batch(movie=torch.arange(N) + 2, year=torch.randn(N, 2, generator=DRAW))
QUERY = Batch(user=torch.tensor([2, 1, 5]))


def made(**config):
    torch.manual_seed(0)
    model = PRM(SPEC, PRMConfig(**{"embedding": 3, "dim": 4, "hidden": 5, "list_length": 6, **config}))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    if model.pair is not None:
        model.pair.norm.norm.running_mean.uniform_()
        model.pair.norm.norm.running_var.uniform_(0.5, 2)
    if model.places is not None:
        model.places.last.fill_(4)
    return model.eval()


def textbook(model, q, keys, pair=None, place=None):
    """The scores of one list."""
    D = model.config.dim
    query = model.inputs.query(QUERY)[q].flatten()
    rows, shortcut = [], []
    for i, key in enumerate(keys):
        parts = [query, model.inputs.item(ITEMS)[key].flatten()]
        shortcut.append(torch.zeros(()))
        if pair is not None:
            norm = model.pair.norm.norm
            known = (pair[i] - norm.running_mean) / (norm.running_var + 1e-5).sqrt()
            known = known * norm.weight + norm.bias
            parts.append(model.pair.vector(known))
            shortcut[-1] = known @ model.pair.weight
        x = model.first.whole(torch.cat(parts))
        if place is not None:
            x = x + model.places.table.weight[min(int(place[i]), 4)]  # training met places 0 .. 4
        rows.append(x)
    for block in model.encoder.blocks:
        width = D // block.heads
        projected = [block.query_key_value(x) for x in rows]
        after = []
        for x, mine in zip(rows, projected, strict=True):
            heads = []
            for h in range(block.heads):
                q_at, k_at, v_at = (slice(n * D + h * width, n * D + (h + 1) * width) for n in range(3))
                logits = torch.stack([mine[q_at] @ other[k_at] / width**0.5 for other in projected])
                weight = logits.exp() / logits.exp().sum()
                heads.append(sum(w * other[v_at] for w, other in zip(weight, projected, strict=True)))
            seen = block.behind_attention(x + block.out(torch.cat(heads)))
            after.append(block.behind_feed_forward(seen + block.feed_forward(seen)))
        rows = after
    return torch.stack([model.out(x)[0] + s for x, s in zip(rows, shortcut, strict=True)])


@pytest.mark.parametrize("store", ["ids", "embeddings", "first_layer"])
@pytest.mark.parametrize("blocks", [1, 3])
@pytest.mark.parametrize("pair", [(), ("a", "b")], ids=["alone", "pair"])
@pytest.mark.parametrize("position", [None, "place"])
@torch.inference_mode()
def test_every_storage_depth_scores_like_the_paper(store, blocks, pair, position):
    model = made(blocks=blocks, store=store, pair=pair, position=position)
    keys = torch.tensor([[0, 7, 3, 11, 2], [4, 4, 9, 0, 1], [5, 6, 8, 0, 0]])
    mask = torch.tensor([[True] * 5, [True] * 5, [True] * 3 + [False] * 2])
    known = torch.randn(3, 5, 2)
    place = torch.tensor([[0, 1, 2, 3, 4], [3, 0, 8, 1, 5], [0, 2, 1, 0, 0]])
    fields = Batch(a=known[..., 0], b=known[..., 1], place=place.float())
    found = model.score(model.encode_query(QUERY), model.encode_item(ITEMS.take(keys)), fields, mask)
    for q, real in enumerate(mask):
        expected = textbook(
            model, q, keys[q][real], known[q][real] if pair else None, place[q][real] if position else None
        )
        torch.testing.assert_close(found[q][real], expected, atol=1e-5, rtol=1e-5)


def test_a_fresh_model_keeps_the_order_it_is_handed():
    torch.manual_seed(0)
    model = PRM(SPEC, PRMConfig(embedding=3, dim=4)).eval()
    pair = Batch(rank_score=torch.tensor([[3.0, 2.0, 1.0]]).expand(3, 3), rank_rank=torch.zeros(3, 3))
    with torch.inference_mode():
        scores = model.score(model.encode_query(QUERY), model.encode_item(ITEMS.slice(0, 3)), pair)
    assert (scores.diff() < 0).all()


def test_it_reads_the_place_and_says_what_is_missing():
    model = made(pair=(), position="light_rank")
    assert model.pair_fields == ("light_rank",)
    assert made(pair=("rank_score", "rank_rank")).pair_fields == ("rank_score", "rank_rank")
    with pytest.raises(ConfigError, match=r"\['light_rank'\], but was handed \['rank_rank'\]"):
        model.score(model.encode_query(QUERY), model.encode_item(ITEMS), Batch(rank_rank=torch.zeros(3, N)))


def served(K=6):
    draw = torch.Generator().manual_seed(2)
    keys = torch.stack([torch.randperm(N, generator=draw)[:K] for _ in range(3)])
    keys[1, 4:] = NO_ITEM
    scores = torch.randn(3, K, generator=draw).sort(1, descending=True).values
    rank = torch.arange(K).expand(3, K).float()
    return Candidates(
        keys, scores.masked_fill(keys < 0, -torch.inf), Batch(rank_score=scores, rank_rank=rank)
    )


def stage(**more):
    model = made()
    table = ItemTable.build(
        lambda keys: model.encode_item(ITEMS.take(keys)), N, model.item_specs(), model.item_digest()
    )
    return Rank(model, table, name="rerank", **more)


@pytest.mark.parametrize("k", [0, 1, 4, 6, 9])
def test_a_stage_of_it_never_cuts_a_list_apart(k):
    """However few pairs it may score at once; and queries are answered the same alone."""
    given, request = served(), Request(QUERY)
    whole = stage().run(request, given, k)
    for pairs_at_once in (1, 7, 13):
        part = stage(pairs_at_once=pairs_at_once).run(request, given, k)
        assert torch.equal(part.keys, whole.keys)
        torch.testing.assert_close(part.scores, whole.scores)
    for q in range(3):
        rows = slice(q, q + 1)
        one = Candidates(given.keys[rows], given.scores[rows], given.pair.slice(q, q + 1))
        alone = stage().run(request.rows(q, q + 1), one, k)
        assert torch.equal(alone.keys, whole.keys[rows])
        torch.testing.assert_close(alone.scores, whole.scores[rows])
    assert whole.keys.shape == (3, min(k, 6))
    assert whole.keys.shape == whole.pair["rerank_rank"].shape == whole.pair["rank_rank"].shape


def test_a_stage_of_it_answers_lists_of_nobody():
    nobody = torch.full((3, 4), NO_ITEM)
    pair = Batch(rank_score=torch.zeros(3, 4), rank_rank=torch.arange(4.0).expand(3, 4))
    out = stage().run(Request(QUERY), Candidates(nobody, torch.full((3, 4), -torch.inf), pair), 2)
    assert out.keys.tolist() == [[NO_ITEM] * 2] * 3
    assert out.counts.tolist() == [0, 0, 0]
    assert stage().run(Request(QUERY), served(0), 5).keys.shape == (3, 0)


def test_it_learns_what_no_ranker_of_single_candidates_could():
    """The positive is the odd one out of its list: old among new, or new among old."""
    draw = torch.Generator().manual_seed(0)
    items = Batch(movie=torch.tensor([2, 2]), year=torch.tensor([[-1.0, 0.0], [1.0, 0.0]]))
    labels = torch.nn.functional.one_hot(torch.randint(0, 6, (128,), generator=draw), 6).float()
    keys = (labels.long() + torch.randint(0, 2, (128, 1), generator=draw)) % 2
    query = Batch(user=torch.full((128,), 2))
    torch.manual_seed(0)
    model = PRM(SPEC, PRMConfig(pair=(), position=None, embedding=4, dim=8, blocks=1, dropout=0.0))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(60):
        scores = model.score(model.encode_query(query), model.encode_item(items.take(keys)))
        optimizer.zero_grad()
        listnet(scores, labels).backward()
        optimizer.step()
    assert (scores.argmax(1) == labels.argmax(1)).all()
