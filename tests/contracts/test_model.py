"""What every model promises, tested for every model. A new one is one more line in MODELS, or in LISTS where
the company of a candidate may change its score.
"""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from twotower.data.features import Column, FeatureSpec
from twotower.models.catalogue import load_model, make_model, save_model
from twotower.types import Batch

SPEC = FeatureSpec(
    columns=(
        Column(name="user", kind="id", side="query", size=9, width=1, dropout=0.2),
        Column(name="age", kind="number", side="query", size=0, width=2),
        Column(name="device", kind="category", side="context", size=5, width=1),
        Column(name="history", kind="sequence", side="query", size=12, width=6, of="movie"),
        Column(name="movie", kind="id", side="item", size=12, width=1),
        Column(name="genres", kind="bag", side="item", size=7, width=3),
        Column(name="poster", kind="vector", side="item", size=0, width=4),
    )
)
MEAN, ATTENTION = {"kind": "mean"}, {"kind": "attention", "blocks": 2, "heads": 2}
CROSSES = [["user", "genres"], ["device", "movie"]]
MODELS = [
    ("click-rate", {"strength": 3.0}),
    ("logistic-regression", {"buckets": 64}),
    ("logistic-regression", {"crosses": [["user", "movie"]], "sparse": False, "pair": ["retrieve_score"]}),
    ("logistic-regression", {"crosses": []}),
    ("two-tower", {"embedding": 8, "layers": [16, 6], "dropout": 0.3}),
    (
        "two-tower",
        {"embedding": 8, "layers": [16, 6], "similarity": "cosine", "norm": "layer", "bias": False},
    ),
    ("two-tower", {"embedding": 8, "layers": [], "history": ATTENTION}),
    ("two-tower", {"embedding": 8, "layers": [6], "history": {"kind": "pooling"}}),
    ("two-tower", {"embedding": 8, "layers": [6], "norm": "batch", "history": MEAN, "sparse": True}),
    ("dat", {"embedding": 4, "layers": [16, 6], "dropout": 0.3, "category": "genres"}),
    ("dat", {"embedding": 4, "layers": [6], "similarity": "cosine", "mimic": 0, "history": ATTENTION}),
    ("dat", {"embedding": 4, "layers": [6], "norm": "batch", "bias": False, "sparse": True}),
    ("dat", {"embedding": 4, "layers": [6], "augment": False}),
    ("int-tower", {"embedding": 4, "layers": [9, 8, 7], "heads": 2, "head_dim": 5, "dropout": 0.3}),
    ("int-tower", {"embedding": 4, "layers": [8], "gate": "senet", "scale": False, "bias": False, "cir": 0}),
    ("int-tower", {"embedding": 4, "layers": [8, 6], "fe_layers": "last", "norm": "batch", "history": MEAN}),
    ("int-tower", {"embedding": 4, "layers": [8, 6], "fe": False, "gate": "none", "history": ATTENTION}),
    ("fit", {"embedding": 4, "layers": [9, 7], "heads": 3, "head_dim": 5, "dropout": 0.3}),
    ("fit", {"embedding": 4, "layers": [8], "norm": "batch", "bias": False, "metas": 1}),
    ("fit", {"embedding": 4, "layers": [8], "norm": "layer", "history": MEAN, "hidden": 5}),
    ("mol", {"embedding": 4, "layers": [9], "dim": 5, "query_vectors": 3, "item_vectors": 2, "dropout": 0.3}),
    ("mol", {"embedding": 8, "layers": [], "cross": 6, "query_id": "user", "history": ATTENTION}),
    ("mol", {"embedding": 4, "layers": [8], "norm": "batch", "bias": False, "history": MEAN, "sparse": True}),
    ("dcn-v2", {"embedding": 4, "crosses": 2, "layers": [8, 5]}),
    (
        "dcn-v2",
        {"embedding": 4, "crosses": 3, "rank": 2, "layers": [8], "norm": "batch", "store": "embeddings"},
    ),
    ("dcn-v2", {"embedding": 4, "layers": [8], "store": "ids", "history": MEAN}),
    ("dcn-v2", {"embedding": 4, "layers": [8], "pair": ["retrieve_score", "retrieve_rank"]}),
    ("fscd", {"embedding": 4, "layers": [8, 5], "history": MEAN}),
    ("fscd", {"embedding": 4, "layers": [8], "norm": "batch", "pair": ["retrieve_score"], "store": "ids"}),
    ("fscd", {"embedding": 4, "layers": [8], "gate": False, "keep": ["user", "genres", "poster"]}),
    ("cold", {"embedding": 4, "layers": [8, 5], "crosses": CROSSES, "buckets": 64, "history": MEAN}),
    ("cold", {"embedding": 4, "layers": [8], "crosses": CROSSES, "gate": True, "pair": ["retrieve_score"]}),
    (
        "cold",
        {"embedding": 4, "layers": [8], "crosses": CROSSES, "keep": ["history", "poster", "user x genres"]}
        | {"history": MEAN, "norm": "none", "pair": ["retrieve_score"]},
    ),
    ("wide-and-deep", {"embedding": 4, "layers": [8, 5]}),
    (
        "wide-and-deep",
        {"embedding": 4, "layers": [8], "crosses": [["user", "genres"], ["history", "movie"]], "buckets": 50},
    ),
    (
        "wide-and-deep",
        {"embedding": 4, "layers": [8], "store": "embeddings", "crosses": [["device", "genres"]]},
    ),
    (
        "wide-and-deep",
        {
            "embedding": 4,
            "layers": [8],
            "store": "ids",
            "sparse": True,
            "crosses": [["device", "movie"]],
            "history": MEAN,
            "pair": ["retrieve_score"],
        },
    ),
    ("deepfm", {"embedding": 4, "layers": [8, 5]}),
    ("deepfm", {"embedding": 4, "layers": [8], "store": "embeddings", "history": MEAN, "sparse": True}),
    ("deepfm", {"embedding": 4, "layers": [8], "store": "ids", "norm": "batch", "pair": ["retrieve_score"]}),
    ("dcn", {"embedding": 4, "crosses": 3, "layers": [8, 5]}),
    ("dcn", {"embedding": 4, "crosses": 1, "layers": [8], "store": "embeddings", "history": MEAN}),
    ("dcn", {"embedding": 4, "layers": [8], "store": "ids", "norm": "layer", "pair": ["retrieve_rank"]}),
    ("autoint", {"embedding": 4, "heads": 2, "head_dim": 3, "layers": [8, 5]}),
    ("autoint", {"embedding": 4, "blocks": 1, "layers": [], "store": "embeddings", "history": MEAN}),
    ("autoint", {"embedding": 4, "head_dim": 3, "layers": [8], "store": "ids", "pair": ["retrieve_score"]}),
    ("din", {"embedding": 4, "attention": 5, "layers": [8, 5]}),
    ("din", {"embedding": 4, "layers": [8], "store": "embeddings", "weighting": "linear", "history": MEAN}),
    ("din", {"embedding": 4, "layers": [8], "store": "ids", "weighting": "softmax", "activation": "prelu"}),
    ("din", {"embedding": 4, "layers": [8], "activation": "relu", "pair": ["retrieve_score"]}),
]
PLACED = {"pair": ["retrieve_score"], "position": "retrieve_rank"}
LISTS = [
    ("prm", {"embedding": 4, "dim": 6, "list_length": 8, "history": MEAN, **PLACED}),
    ("prm", {"embedding": 4, "dim": 6, "list_length": 5, "blocks": 1, "store": "ids", **PLACED}),
    ("prm", {"embedding": 4, "dim": 9, "heads": 3, "pair": [], "position": "retrieve_rank"}),
    ("prm", {"embedding": 4, "dim": 4, "pair": ["retrieve_rank"], "position": None, "store": "embeddings"}),
    ("prm", {"embedding": 4, "dim": 4, "heads": 1, "pair": [], "position": None, "sparse": True}),
]
Q, C = 5, 8


def queries(rows: int = Q, seed: int = 0) -> Batch:
    draw = torch.Generator().manual_seed(seed)
    length = torch.arange(rows) * 3 % 7  # an empty history, and a full one
    history = torch.randint(1, 12, (rows, 6), generator=draw)
    return Batch(
        user=torch.randint(1, 9, (rows,), generator=draw),
        age=torch.randn(rows, 2, generator=draw),
        device=torch.randint(1, 5, (rows,), generator=draw),
        history=history * (torch.arange(6) < length[:, None]),
    )


def items(rows: int = C, seed: int = 1) -> Batch:
    draw = torch.Generator().manual_seed(seed)
    return Batch(
        movie=torch.randint(1, 12, (rows,), generator=draw),
        genres=torch.randint(0, 7, (rows, 3), generator=draw),
        poster=torch.randn(rows, 4, generator=draw),
    )


def pairs(Q: int = Q, K: int = C) -> Batch:
    draw = torch.Generator().manual_seed(2)
    return Batch(
        retrieve_score=torch.randn(Q, K, generator=draw),
        retrieve_rank=torch.arange(K).expand(Q, K).float(),
    )


def label(about):
    return f"{about[0]}-{about[1]}"


@pytest.fixture(params=[*MODELS, *LISTS], ids=label)
def named(request):
    return request.param[0], after_training(*request.param)


def after_training(name, config):
    torch.manual_seed(0)
    model = make_model(name, SPEC, config)
    if model.kind == "list":  # which places it knows
        model.score(model.encode_query(queries()), model.encode_item(items()), pairs())
    for label, buffer in model.named_buffers():  # as after some training, so that norms do something
        if buffer.dtype.is_floating_point:
            low, high = (-0.2, 0.2) if label.endswith("running_mean") else (0.5, 1.5)  # 1 silences a ReLU
            buffer.uniform_(low, high)
    for parameter in model.parameters():  # a layer that starts at zero would hide what stands before it
        if not parameter.any():
            torch.nn.init.normal_(parameter)
    return model.eval()


@pytest.fixture
def model(named):
    return named[1]


def scores(model, query, item, pair=None, mask=None):
    with torch.inference_mode():
        return model.score(model.encode_query(query), model.encode_item(item), pair, mask)


def own(item: Batch) -> Batch:
    return item.take(torch.arange(C).expand(Q, C))


def test_shared_and_own_candidates_score_the_same(model):
    shared = scores(model, queries(), items(), pairs())
    assert shared.shape == (Q, C)
    torch.testing.assert_close(shared, scores(model, queries(), own(items()), pairs()), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("about", MODELS, ids=label)
def test_other_candidates_never_change_a_score(about):
    model = after_training(*about)
    some = torch.tensor([6, 1])
    few = scores(model, queries(), items().take(some), Batch((n, t[:, some]) for n, t in pairs().items()))
    torch.testing.assert_close(few, scores(model, queries(), items(), pairs())[:, some], atol=1e-5, rtol=1e-5)


def test_other_queries_never_change_a_score(model):
    alone = torch.cat(
        [scores(model, queries().slice(q, q + 1), items(), pairs().slice(q, q + 1)) for q in range(Q)]
    )
    torch.testing.assert_close(alone, scores(model, queries(), items(), pairs()), atol=1e-5, rtol=1e-5)


def test_padding_never_changes_a_score(model):
    query, item = queries(), items()
    wider = Batch({**item, "genres": torch.cat([item["genres"], torch.zeros(C, 2, dtype=torch.int64)], 1)})
    longer = Batch({**query, "history": torch.cat([query["history"][:, :4], torch.zeros(Q, 2).long()], 1)})
    shorter = Batch({**query, "history": query["history"][:, :4]})
    torch.testing.assert_close(scores(model, query, wider, pairs()), scores(model, query, item, pairs()))
    torch.testing.assert_close(scores(model, longer, item, pairs()), scores(model, shorter, item, pairs()))


@pytest.mark.parametrize("about", MODELS, ids=label)
def test_masked_candidates_score_minus_infinity_and_change_no_other(about):
    model = after_training(*about)
    mask = torch.rand(Q, C, generator=torch.Generator().manual_seed(3)) < 0.5
    out = scores(model, queries(), own(items()), pairs(), mask)
    assert (out[~mask] == -torch.inf).all()
    torch.testing.assert_close(out[mask], scores(model, queries(), own(items()), pairs())[mask])


def test_item_rep_is_what_the_spec_says(model):
    rep = model.encode_item(items())
    specs = {spec.name: spec for spec in model.item_specs()}
    assert rep.keys() == specs.keys()
    for name, tensor in rep.items():
        assert tuple(tensor.shape[1:]) == specs[name].shape
        assert str(tensor.dtype) == f"torch.{specs[name].dtype}"
    assert model.bytes_per_item == sum(t[0].numel() * t.element_size() for t in rep.values())


def test_every_storage_depth_scores_the_same_and_declares_its_cost(model):
    expected = scores(model, queries(), own(items()), pairs())
    depths = [model.at_store(store) for store in model.stores] or [model]
    for depth in depths:
        torch.testing.assert_close(
            scores(depth, queries(), own(items()), pairs()), expected, atol=1e-5, rtol=1e-5
        )
        assert depth.flops_per_pair == measured_flops(depth)


@torch.no_grad()
def measured_flops(model) -> float:
    """What the counter of torch finds in `score`, per candidate: from two numbers of candidates, or for a
    list model from one list as long as it declares.
    """
    if model.kind == "list":
        return counted_flops(model, model.config.list_length) / (Q * model.config.list_length)
    return (counted_flops(model, 7) - counted_flops(model, 3)) / (4 * Q)


def counted_flops(model, K: int) -> int:
    at = torch.arange(K) % C
    query, item = model.encode_query(queries()), model.encode_item(items().take(at.expand(Q, K)))
    pair = Batch((n, t[:, at]) for n, t in pairs().items())
    # the counter knows attention by its products only, not fused
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model.score(query, item, pair)
    return int(counter.get_total_flops())


def test_only_what_the_item_rep_depends_on_is_in_its_digest(model):
    before = model.encode_item(items()), model.item_digest()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.5)
    after = model.encode_item(items())
    same = all(torch.equal(before[0][name], after[name]) for name in after)
    assert same == (model.item_digest() == before[1])


def test_unseen_ids_and_missing_values_score_finite(model):
    query = Batch({**queries(), "user": torch.ones(Q).long(), "history": torch.zeros(Q, 6).long()})
    item = Batch({**items(), "movie": torch.ones(C).long(), "genres": torch.zeros(C, 3).long()})
    assert scores(model, query, item, pairs()).isfinite().all()


def test_an_empty_candidate_list_gives_an_empty_score(model):
    none = items().take(torch.empty(Q, 0, dtype=torch.int64))
    assert scores(model, queries(), none, pairs(Q, 0)).shape == (Q, 0)


def test_save_and_load_give_the_same_bytes_of_output(named, tmp_path):
    name, model = named
    save_model(model, name, tmp_path)
    loaded = load_model(tmp_path)
    assert loaded.digest() == model.digest()
    assert torch.equal(
        scores(loaded, queries(), items(), pairs()), scores(model, queries(), items(), pairs())
    )


def test_every_parameter_learns(model):
    if not list(model.parameters()):
        return  # it counts
    model.train()
    loss = model.score(model.encode_query(queries()), model.encode_item(own(items())), pairs()).square().sum()
    loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, f"{name} is dead"


SEQUENCE = [
    m for m in MODELS if m[0] in ("two-tower", "dat", "int-tower", "mol", "fit") and "history" in m[1]
]


@pytest.mark.parametrize(("name", "config"), SEQUENCE, ids=str)
def test_every_place_of_a_sequence_answers_as_if_the_history_ended_there(name, config):
    torch.manual_seed(0)
    model = make_model(name, SPEC, config).eval()
    query = queries()
    at = query["history"] != 0
    with torch.inference_mode():
        places = model.encode_places(query, at)
        row, place = at.nonzero(as_tuple=True)
        for t in range(len(row)):
            cut = query["history"][row[t]].clone()
            cut[place[t] + 1 :] = 0
            one = Batch({**query.slice(int(row[t]), int(row[t]) + 1), "history": cut[None]})
            single = model.encode_query(one)
            assert places.keys() == single.keys()
            for part, tensor in places.items():
                torch.testing.assert_close(tensor[t], single[part][0], atol=1e-5, rtol=1e-5)


@pytest.fixture(params=LISTS, ids=label)
def list_model(request):
    return after_training(*request.param)


def test_the_company_may_change_a_score_of_a_list_model(list_model):
    assert list_model.kind == "list"
    few = Batch((n, t[:, :3]) for n, t in pairs().items())
    alone = scores(list_model, queries(), items().slice(0, 3), few)
    assert (alone - scores(list_model, queries(), items(), pairs())[:, :3]).abs().max() > 1e-3


@torch.inference_mode()
def test_candidates_nobody_sees_change_no_other(list_model):
    """Masked ones are as if they were not there, whatever stands in their places."""
    mask = torch.rand(Q, C, generator=torch.Generator().manual_seed(4)) < 0.6
    mask[1] = False
    broken = Batch((n, t.masked_fill(~mask, float("nan"))) for n, t in pairs().items() if n.endswith("score"))
    broken["retrieve_rank"] = pairs()["retrieve_rank"]
    found = scores(list_model, queries(), own(items()), broken, mask)
    assert (found[~mask] == -torch.inf).all()
    for q in range(Q):
        at = mask[q].nonzero()[:, 0]
        pair = Batch((n, t[q : q + 1, at]) for n, t in pairs().items())
        real = scores(list_model, queries().slice(q, q + 1), items().take(at), pair)
        torch.testing.assert_close(found[q : q + 1, at], real, atol=1e-5, rtol=1e-5)


def test_a_permuted_list_has_permuted_scores(list_model):
    """The place in the list is what the pair says of it, not the column a candidate stands in."""
    order = torch.stack([torch.randperm(C, generator=torch.Generator().manual_seed(q)) for q in range(Q)])
    item = own(items())
    moved = Batch((n, torch.stack([t[q, order[q]] for q in range(Q)])) for n, t in item.items())
    pair = Batch((n, t.gather(1, order)) for n, t in pairs().items())
    expected = scores(list_model, queries(), item, pairs()).gather(1, order)
    torch.testing.assert_close(scores(list_model, queries(), moved, pair), expected, atol=1e-5, rtol=1e-5)
