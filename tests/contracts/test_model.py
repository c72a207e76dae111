"""What every model promises, tested for every model of `model_members`."""

import copy

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import pad
from torch.utils.flop_counter import FlopCounterMode

from twotower.index.item_table import ItemTable
from twotower.models.catalogue import load_model, make_model, model_class, save_model
from twotower.types import Batch

from .model_members import LISTS, MODELS, SPEC, C, Q, full, items, pairs, queries


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
    state = model.state_dict()
    for label, buffer in model.named_buffers():  # as after some training, so that norms do something
        if buffer.dtype.is_floating_point and label in state:
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
    asked = Batch({**query, "asked": pad(query["asked"], (0, 2))})
    wider = Batch({**item, "genres": pad(item["genres"], (0, 2)), "body": pad(item["body"], (0, 3))})
    longer = Batch({**query, "history": torch.cat([query["history"][:, :4], torch.zeros(Q, 2).long()], 1)})
    shorter = Batch({**query, "history": query["history"][:, :4]})
    torch.testing.assert_close(scores(model, asked, wider, pairs()), scores(model, query, item, pairs()))
    torch.testing.assert_close(scores(model, longer, item, pairs()), scores(model, shorter, item, pairs()))


@pytest.mark.parametrize("about", MODELS, ids=label)
def test_masked_candidates_score_minus_infinity_and_change_no_other(about):
    model = after_training(*about)
    mask = torch.rand(Q, C, generator=torch.Generator().manual_seed(3)) < 0.5
    out = scores(model, queries(), own(items()), pairs(), mask)
    assert (out[~mask] == -torch.inf).all()
    torch.testing.assert_close(out[mask], scores(model, queries(), own(items()), pairs())[mask])


def table_of(model, item: Batch) -> ItemTable:
    """Built as the pipeline does it: names, shapes and types that are not as declared are refused."""
    return ItemTable.build(
        lambda keys: model.encode_item(item.take(keys)), C, model.item_specs(), "digest", chunk=3
    )


def test_a_table_of_what_the_specs_say_scores_as_the_model(model):
    table, expected = table_of(model, items()), scores(model, queries(), items(), pairs())
    query = model.encode_query(queries())
    for item in (table.slice(0, C), table.take(torch.arange(C).expand(Q, C))):
        torch.testing.assert_close(model.score(query, item, pairs()), expected, atol=1e-5, rtol=1e-5)
    assert table.bytes_per_item <= model.bytes_per_item == table_of(model, full(items())).bytes_per_item


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
    query = model.encode_query(full(queries()))
    item = model.encode_item(full(items()).take(at.expand(Q, K)))
    pair = Batch((n, t[:, at]) for n, t in pairs().items())
    # the counter knows attention by its products only, not fused
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model.score(query, item, pair)
    return int(counter.get_total_flops())


def test_only_what_the_item_rep_depends_on_is_in_its_digest(model):
    before, digest = model.encode_item(items()), model.item_digest()
    inside = model.item_state()

    def same() -> bool:
        return all(torch.equal(before[name], tensor) for name, tensor in model.encode_item(items()).items())

    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.add_(0.5 * (name not in inside))
        assert same()
        assert model.item_digest() == digest
        for name, parameter in model.named_parameters():
            parameter.add_(0.5 * (name in inside))
        assert same() == (model.item_digest() == digest)


def test_unseen_ids_and_missing_values_score_finite(model):
    query = Batch({**queries(), "user": torch.ones(Q).long(), "history": torch.zeros(Q, 6).long()})
    item = Batch({**items(), "movie": torch.ones(C).long(), "genres": torch.zeros(C, 3).long()})
    for asked, body in ((0, 1), (1, 0), (0, 0)):
        query["asked"], item["body"] = torch.full((Q, 5), asked), torch.full((C, 7), body)
        assert scores(model, query, item, pairs()).isfinite().all()


def test_an_empty_candidate_list_gives_an_empty_score(model):
    none = items().take(torch.empty(Q, 0, dtype=torch.int64))
    assert scores(model, queries(), none, pairs(Q, 0)).shape == (Q, 0)


def test_no_query_gives_no_score(model):
    nobody = queries().slice(0, 0)
    assert scores(model, nobody, items(), pairs(0)).shape == (0, C)
    assert scores(model, nobody, own(items()).slice(0, 0), pairs(0)).shape == (0, C)


def test_it_learns_and_serves_in_half_precision(model):
    with torch.autocast("cpu", torch.bfloat16):
        assert scores(model, queries(), items(), pairs()).isfinite().all()
        model.train()
        out = model.score(model.encode_query(queries()), model.encode_item(own(items())), pairs())
    if out.requires_grad:
        out.float().sum().backward()
        assert all(p.grad is None or p.grad.to_dense().isfinite().all() for p in model.parameters())


def test_it_learns_from_a_single_row(model):
    """As the last batch of an epoch may be, and the only one of a stream."""
    model.train()
    one = own(items()).slice(0, 1).take(torch.tensor([0]))
    item = Batch((name, tensor[:, :1]) for name, tensor in one.items())
    pair = Batch((name, tensor[:1, :1]) for name, tensor in pairs().items())
    assert (
        model.score(model.encode_query(queries().slice(0, 1)), model.encode_item(item), pair).isfinite().all()
    )


RANKERS = [
    m for m in MODELS if make_model(m[0], SPEC, m[1]).kind == "joint" and m[0] != "fscd"
]  # draws gates


@pytest.mark.parametrize("about", [*RANKERS, *LISTS], ids=label)
def test_gaps_of_a_list_change_no_other_score_in_training(about):
    name, config = about
    columns = tuple(column.model_copy(update={"dropout": 0.0}) for column in SPEC.columns)
    spec = SPEC.model_copy(update={"columns": columns})
    still = {"dropout": 0.0} if "dropout" in model_class(name)[1].model_fields else {}
    if config.get("text", {}).get("kind") == "transformer":
        still["text"] = config["text"] | {"dropout": 0.0}
    model = make_model(name, spec, config | still)
    real = torch.arange(C) < 4
    gaps = Batch((n, t.masked_fill(~real, 1e4)) for n, t in pairs().items())
    few = Batch((n, t[:, real]) for n, t in pairs().items())
    found = []
    for columns, pair, mask in (
        (real.nonzero()[:, 0], few, None),
        (torch.arange(C), gaps, real.expand(Q, C)),
    ):
        torch.manual_seed(0)
        learner = copy.deepcopy(
            after_training(name, config | still) if model.kind == "list" else model
        ).train()
        own_items = items().take(columns.expand(Q, -1))
        out = learner.score(learner.encode_query(queries()), learner.encode_item(own_items), pair, mask)
        found.append((out[:, :4], learner.state_dict()))
    torch.testing.assert_close(found[0][0], found[1][0])
    for key, tensor in found[0][1].items():
        torch.testing.assert_close(tensor, found[1][1][key], msg=key)


def test_save_and_load_give_the_same_bytes_of_output(named, tmp_path):
    name, model = named
    save_model(model, name, tmp_path)
    loaded = load_model(tmp_path)
    assert loaded.digest() == model.digest()
    assert torch.equal(
        scores(loaded, queries(), items(), pairs()), scores(model, queries(), items(), pairs())
    )


BATCH, SOFTMAX = "batch normalisation takes constants out", "a softmax does not see what its inputs share"
STILL = [  # whose gradient is zero or rounding alone: the end of its name, in which configs, and why
    ("metas.route.weight", lambda c: c.metas == 1, "the share of one meta query is one"),
    (
        "biases",
        lambda c: hasattr(c, "crosses") and c.pair,
        "what meets them starts at zero, beside the pair's",
    ),
    ("weigh.2.bias", lambda c: c.history, SOFTMAX),
    ("attention.out.bias", lambda c: c.weighting == "softmax", SOFTMAX),
    ("tower.0.bias", lambda c: c.norm == "batch", BATCH),
    ("tower.0.0.bias", lambda c: c.norm == "batch", BATCH),
    ("first.linear.bias", lambda c: c.norm == "batch", BATCH),
    ("first_deep.linear.bias", lambda c: c.norm == "batch", BATCH),
    ("deep.2.bias", lambda c: c.norm == "batch", BATCH),
    ("pair.vector.bias", lambda c: c.norm == "batch", BATCH),
]


def test_every_parameter_learns(model):
    if not list(model.parameters()):
        return  # it counts
    model.train()
    loss = model.score(model.encode_query(queries()), model.encode_item(own(items())), pairs()).square().sum()
    loss.backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, f"{name} is dead"
        if parameter.grad is not None and not parameter.grad.to_dense().any():
            assert any(name.endswith(end) and where(model.config) for end, where, _ in STILL), (
                f"{name} is dead"
            )


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
