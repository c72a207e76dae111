"""What a retriever refuses. What it promises is tested in contracts/test_stage.py."""

import pytest
import torch

from twotower.baselines.popularity import Popularity
from twotower.cascade.retrieve import Retrieve, RetrieveFrom
from twotower.cascade.stage import Request
from twotower.data.spec import Column, FeatureSpec
from twotower.errors import ConfigError, MismatchError
from twotower.index.build import IndexConfig, build_index
from twotower.index.exact import ExactIndex
from twotower.index.multivector import MultiVectorConfig
from twotower.index.ragged_rows import packed
from twotower.models.catalogue import make_model
from twotower.types import NO_ITEM, Batch, Candidates, Ragged

SPEC = FeatureSpec(
    columns=(
        Column(name="user", kind="id", side="query", size=9),
        Column(name="movie", kind="id", side="item", size=9),
    )
)


def test_an_index_of_another_model_is_refused():
    model = make_model("two-tower", SPEC, {"embedding": 2, "layers": []})
    index = ExactIndex.build(torch.zeros(3, 4), produced_by="0123abcd")
    with pytest.raises(MismatchError, match=rf"0123abcd.*{model.digest()}.*rebuild the index"):
        Retrieve(model, index)


def test_the_same_model_after_one_more_step_is_another_model():
    model = make_model("two-tower", SPEC, {"embedding": 2, "layers": []})
    index = ExactIndex.build(torch.zeros(3, 4), produced_by=model.digest())
    Retrieve(model, index)
    with torch.no_grad():
        next(model.parameters())[0, 0] += 1e-3
    with pytest.raises(MismatchError):
        Retrieve(model, index)


def test_only_a_dot_model_retrieves():
    model = make_model("dcn-v2", SPEC, {"embedding": 2, "layers": [4]})
    with pytest.raises(ConfigError, match="DCNv2 is 'joint'"):
        Retrieve(model, ExactIndex.build(torch.zeros(3, 4), produced_by=model.digest()))


def test_a_late_model_retrieves_by_tokens_or_not_at_all():
    spec = FeatureSpec(
        columns=(
            Column(name="asked", kind="text", side="query", size=40, width=4, tokenizer="words"),
            Column(name="body", kind="text", side="item", size=40, width=6, tokenizer="words"),
        )
    )
    torch.manual_seed(0)
    query, items = Batch(asked=torch.randint(2, 40, (3, 4))), Batch(body=torch.randint(2, 40, (50, 6)))
    kernels = make_model("knrm", spec, {"text": {"kind": "table", "dim": 8}})
    with pytest.raises(ConfigError, match="MaxSim over tokens; KNRM is 'late': let it rank"):
        Retrieve(kernels, ExactIndex.build(torch.zeros(3, 4), produced_by=kernels.item_digest()))
    model = make_model("colbert", spec, {"text": {"kind": "table", "dim": 8}, "dim": 8}).eval()
    with torch.inference_mode():
        rep = model.encode_item(items)
        scores = model.score(model.encode_query(query), rep)
    tokens = packed(rep["tokens"].clone(), rep["tokens_length"].clone())
    for config in (IndexConfig(), MultiVectorConfig(storage="float32")):
        index = build_index(config, tokens, produced_by=model.item_digest())
        for allow in (None, torch.arange(50) % 7 == 0, torch.arange(50) % 7 > 0):
            out = Retrieve(model, index).run(Request(query, allow=allow), None, 60)
            shown = torch.ones(50, dtype=torch.bool) if allow is None else allow
            truth = best_allowed(scores, 60, shown, Ragged.of([[], [], []]))
            assert torch.equal(out.keys[:, :50], truth.keys)
            torch.testing.assert_close(out.scores[:, :50], truth.scores, atol=1e-5, rtol=1e-6)  # scores of 26


def test_dropout_is_off_when_retrieving():
    model = make_model("two-tower", SPEC, {"embedding": 8, "layers": [8, 8], "dropout": 0.5})
    assert model.training
    assert not Retrieve(
        model, ExactIndex.build(torch.zeros(3, 10), produced_by=model.digest())
    ).model.training


SHARES = [0.0, 0.01, 0.1, 0.5, 1.0]


def mask_of(share: float, shape: tuple[int, ...]) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(3)) < share


def best_allowed(scores: torch.Tensor, k: int, allow: torch.Tensor, exclude: Ragged) -> Candidates:
    may = allow.expand(scores.shape).clone()
    may[exclude.row_of_value(), exclude.values] = False
    keys = torch.arange(scores.shape[1]).expand(scores.shape).masked_fill(~may, NO_ITEM)
    return Candidates(keys, scores.masked_fill(~may, -torch.inf)).sorted().best(k)


@pytest.mark.parametrize("per_query", [False, True])
@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("kind", ["exact", "faiss"])
def test_an_index_shows_what_a_request_allows_and_still_k_of_it(kind, share, per_query):
    model = make_model("two-tower", SPEC, {"embedding": 4, "layers": []}).eval()
    query = Batch(user=torch.arange(5) + 2)
    vectors = torch.randn(300, 6, generator=torch.Generator().manual_seed(1))
    index = build_index(IndexConfig(kind=kind, factory="Flat"), vectors, produced_by=model.item_digest())
    allow = mask_of(share, (5, 300) if per_query else (300,))
    gone = Ragged.of([[1, 2], [], [3], [], [299]])
    out = Retrieve(model, index).run(Request(query, exclude=gone, allow=allow), None, 40)
    with torch.inference_mode():
        scores = model.encode_query(query)["vector"] @ vectors.T
    assert torch.equal(out.keys, best_allowed(scores, 40, allow, gone).keys)
    assert out.pair["retrieve_score"].isfinite().all()


@pytest.mark.parametrize("per_query", [False, True])
@pytest.mark.parametrize("share", SHARES)
def test_a_source_shows_what_a_request_allows_and_still_k_of_it(share, per_query):
    draw = torch.Generator().manual_seed(2)
    source = Popularity().fit(Ragged.of([torch.randint(0, 300, (900,), generator=draw).tolist()]), 300)
    history = Ragged.of([[], [4], [5, 6], [], [7]])
    allow = mask_of(share, (5, 300) if per_query else (300,))
    gone = Ragged.of([[1, 2], [], [3], [], [299]])
    request = Request(Batch(), history, gone, allow=allow)
    out = RetrieveFrom(source).run(request, None, 40)
    truth = best_allowed(source.scores(history), 40, allow, gone)
    assert torch.equal(out.keys, truth.keys)
    assert torch.equal(out.scores, truth.scores)


def test_a_source_needs_histories():
    stage = RetrieveFrom(Popularity().fit(Ragged.of([[0]]), 3))
    with pytest.raises(ConfigError, match="'retrieve' retrieves from histories"):
        stage.run(Request(Batch(user=torch.arange(2))), None, 2)
