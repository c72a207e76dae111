"""A ranker scores what it is handed, pair by pair, with what earlier stages knew of each pair."""

from dataclasses import replace

import pytest
import torch

from twotower.cascade.deadline import Deadline
from twotower.cascade.rank import PIECE, Rank
from twotower.cascade.retrieve import Retrieve
from twotower.cascade.stage import Request
from twotower.data.spec import Column, FeatureSpec
from twotower.errors import ConfigError, MismatchError
from twotower.index.delta_table import DeltaTable
from twotower.index.exact import ExactIndex
from twotower.index.item_table import ItemTable
from twotower.models.catalogue import make_model
from twotower.types import NO_ITEM, Batch, Candidates

SPEC = FeatureSpec(
    columns=(
        Column(name="user", kind="id", side="query", size=9),
        Column(name="movie", kind="id", side="item", size=25),
        Column(name="genres", kind="bag", side="item", size=7, width=3),
    )
)
Q, N, K = 5, 20, 11
DRAW = torch.Generator().manual_seed(0)
ITEMS = Batch(movie=torch.arange(N) + 2, genres=torch.randint(0, 7, (N, 3), generator=DRAW))
REQUEST = Request(Batch(user=torch.arange(Q) + 2))
MODELS = [
    ("two-tower", {"embedding": 4, "layers": [6]}),
    ("dcn-v2", {"embedding": 4, "crosses": 2, "layers": [8]}),
    ("dcn-v2", {"embedding": 4, "crosses": 2, "layers": [8], "pair": ["retrieve_score"], "store": "ids"}),
    ("dcn-v2", {"embedding": 4, "crosses": 2, "layers": [8], "pair": ["retrieve_score", "retrieve_rank"]}),
]


def make(name, config):
    torch.manual_seed(1)
    model = make_model(name, SPEC, config).eval()
    table = ItemTable.build(
        lambda keys: model.encode_item(ITEMS.take(keys)), N, model.item_specs(), model.item_digest()
    )
    return model, table


def served():
    draw = torch.Generator().manual_seed(2)
    keys = torch.stack([torch.randperm(N, generator=draw)[:K] for _ in range(Q)])
    keys[3, 4:] = NO_ITEM
    scores = torch.randn(Q, K, generator=draw).masked_fill(keys == NO_ITEM, -torch.inf)
    rank = torch.arange(K).expand(Q, K).float()
    return Candidates(keys, scores, Batch(retrieve_score=scores.clamp(min=-9), retrieve_rank=rank))


@pytest.mark.parametrize("pairs_at_once", [1, 25, 10_000])
@pytest.mark.parametrize(("name", "config"), MODELS)
def test_equals_scoring_each_pair_alone(name, config, pairs_at_once):
    model, table = make(name, config)
    given = served()
    out = Rank(model, table, pairs_at_once=pairs_at_once).run(REQUEST, given, K)
    for row in range(Q):
        expected = {}
        for place, key in enumerate(given.keys[row].tolist()):
            if key != NO_ITEM:
                with torch.inference_mode():
                    query = model.encode_query(REQUEST.query.slice(row, row + 1))
                    item = model.encode_item(ITEMS.slice(key, key + 1))
                    pair = Batch((n, t[row, place].reshape(1, 1)) for n, t in given.pair.items())
                    expected[key] = float(model.score(query, item, pair))
        found = dict(zip(out.keys[row].tolist(), out.scores[row].tolist(), strict=True))
        found.pop(NO_ITEM, None)
        assert found == pytest.approx(expected, abs=1e-5)


def test_a_ranker_sees_the_score_of_the_stage_before_it():
    retriever, _ = make(*MODELS[0])
    with torch.inference_mode():
        vectors = retriever.encode_item(ITEMS)["vector"].clone()
    retrieve = Retrieve(retriever, ExactIndex.build(vectors, produced_by=retriever.item_digest()), k=8)
    model, _ = make(*MODELS[3])
    for name, parameter in model.named_parameters():
        if not name.startswith("pair.norm"):
            parameter.data.zero_()
    model.pair.weight.data = torch.tensor([0.0, 1.0])  # the score is the retriever's rank: its order reversed
    table = ItemTable.build(
        lambda keys: model.encode_item(ITEMS.take(keys)), N, model.item_specs(), model.item_digest()
    )
    found, trace = (retrieve >> Rank(model, table, k=8))(REQUEST)
    assert torch.equal(found.keys, trace.steps[0].output.keys.flip(1))
    assert torch.equal(found.pair["rank_rank"], torch.arange(8.0).expand(Q, 8))
    assert torch.equal(found.pair["retrieve_rank"], torch.arange(8.0).flip(0).expand(Q, 8))


def test_without_the_pair_field_it_declares_a_model_refuses():
    model, table = make(*MODELS[2])
    given = served()
    with pytest.raises(ConfigError, match=r"retrieve_score.*was handed \['other'\]"):
        Rank(model, table).run(REQUEST, Candidates(given.keys, given.scores, Batch(other=given.scores)), 3)


def test_an_empty_slot_stands_behind_the_worst_score():
    model, table = make(*MODELS[1])
    with torch.no_grad():
        model.out.bias -= 1000
    table = ItemTable.build(
        lambda keys: model.encode_item(ITEMS.take(keys)), N, model.item_specs(), model.item_digest()
    )
    out = Rank(model, table).run(REQUEST, served(), K)
    assert out.counts.tolist() == [K, K, K, 4, K]
    assert (out.scores[out.mask] < -900).all()
    assert (out.keys[3, 4:] == NO_ITEM).all()


def test_a_table_of_another_model_is_refused():
    model, table = make(*MODELS[1])
    other = make_model("dcn-v2", SPEC, {**MODELS[1][1], "dropout": 0.1})
    with pytest.raises(MismatchError, match=rf"{model.item_digest()}.*{other.digest()}.*rebuild the table"):
        Rank(other, table)


def test_a_ranker_cannot_stand_first():
    with pytest.raises(ConfigError, match="'rank' ranks candidates, but stands first"):
        Rank(*make(*MODELS[1])).run(REQUEST, None, 3)


TEXTS = FeatureSpec(
    columns=(
        Column(name="asked", kind="text", side="query", size=40, width=4, tokenizer="words"),
        Column(name="body", kind="text", side="item", size=40, width=30, tokenizer="words"),
    )
)


@pytest.fixture
def late():
    """A model with a vector of every token, its table, 200 documents of 0 to 30 tokens and 3 queries."""
    torch.manual_seed(4)
    model = make_model("colbert", TEXTS, {"text": {"kind": "table", "dim": 8}, "dim": 8}).eval()
    real = torch.arange(30) < torch.arange(200)[:, None] % 31
    items = Batch(body=torch.randint(2, 40, (200, 30)) * real)
    table = ItemTable.build(
        lambda keys: model.encode_item(items.take(keys)), 200, model.item_specs(), model.item_digest()
    )
    request = Request(Batch(asked=torch.randint(2, 40, (3, 4))))
    with torch.inference_mode():
        scores = model.score(model.encode_query(request.query), model.encode_item(items))
    return model, table, request, scores


def test_many_long_texts_are_ranked_within_a_bound_of_memory(late, monkeypatch):
    """The bound counts texts as they are handed out, padded to the longest: 31 tokens of 8 floats."""
    model, table, request, scores = late
    taken = []
    take = ItemTable.take

    def watched(self, keys):
        rep = take(self, keys)
        taken.append(rep["tokens"].nbytes)
        return rep

    monkeypatch.setattr(ItemTable, "take", watched)
    keys = torch.stack([torch.randperm(200, generator=DRAW) for _ in range(3)])
    keys[1, 150:] = NO_ITEM
    given = Candidates(keys, torch.zeros(3, 200).masked_fill(keys == NO_ITEM, -torch.inf))
    expected = scores.gather(1, keys.clamp(min=0)).masked_fill(keys == NO_ITEM, -torch.inf)
    truth = Candidates(keys, expected).sorted().best(120)
    assert table.taken_bytes == DeltaTable(table).taken_bytes == 31 * 8 * 4
    for memory_mb, calls in ((256, 1), (0.02, 3 * 10), (0.3, 3 * 1), (1e-9, 3 * 200)):
        monkeypatch.setattr("twotower.cascade.rank.MEMORY_MB", memory_mb)
        taken.clear()
        out = Rank(model, table).run(request, given, 120)
        torch.testing.assert_close(out.scores, truth.scores, atol=1e-5, rtol=0)
        assert (out.keys == truth.keys).float().mean() > 0.99  # the last bits may part what nearly ties
        assert len(taken) == calls
        assert max(taken) <= max(memory_mb * 2**20, table.taken_bytes)
    table_now = DeltaTable(table)
    table_now.upsert(
        torch.tensor([200]), Batch(tokens=torch.ones(1, 40, 8), tokens_length=torch.tensor([40]))
    )
    assert table_now.taken_bytes == 40 * 8 * 4


def test_one_query_with_little_time_is_scored_in_pieces_of_some_hundred_pairs(late, monkeypatch):
    model, table, request, _ = late
    sizes = []
    take = ItemTable.take
    monkeypatch.setattr(ItemTable, "take", lambda self, keys: sizes.append(keys.numel()) or take(self, keys))
    one = replace(request.rows(0, 1), deadline=Deadline.after_ms(60_000))
    Rank(model, table).run(
        one, Candidates(torch.arange(200).repeat(1, 6)[:, :1100], torch.zeros(1, 1100)), 10
    )
    assert sizes == [PIECE, PIECE, 1100 - 2 * PIECE]
