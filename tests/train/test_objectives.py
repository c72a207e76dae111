"""Objectives against naive formulas, one pair at a time."""

import math

import pytest
import torch

from twotower.data.batches import Examples
from twotower.errors import ConfigError
from twotower.losses.logq import StreamingLogQ
from twotower.models.two_tower import TwoTower
from twotower.train.lists import ListsConfig
from twotower.train.objectives import PointwiseConfig, make_objective
from twotower.train.softmax import FullSoftmaxConfig, InBatchConfig, SampledConfig
from twotower.types import NO_ITEM, Batch

from .objective_world import (
    COUNTS,
    ITEMS,
    SEED,
    TRAINED,
    B,
    N,
    dcn,
    events,
    late,
    lists,
    sequences,
    two_tower,
)


def flat(examples):
    """(query columns, item key) of every positive; a place of a sequence sees the past up to itself."""
    if examples.items.dim() == 1:
        return [(examples.query.slice(b, b + 1), int(examples.items[b])) for b in range(len(examples))]
    out = []
    for b, place in (examples.items != NO_ITEM).nonzero().tolist():
        query = examples.query.slice(b, b + 1)
        past = query["past"].clone()
        past[:, place + 1 :] = 0
        out.append((Batch({**query, "past": past}), int(examples.items[b, place])))
    return out


def score(model, query, key):
    return model.score(model.encode_query(query), model.encode_item(ITEMS.slice(key, key + 1)))[0, 0]


def naive_softmax(model, positives, candidates, log_q, weights=None):
    """Mean over positives of -log softmax; ``candidates(t)`` are keys, the positive's place first."""
    losses = []
    for t, (query, key) in enumerate(positives):
        own = candidates(t)
        logits = [score(model, query, c) - max(log_q(c), math.log(1e-6)) for c in own]
        logits = [l for place, (c, l) in enumerate(zip(own, logits, strict=True)) if place == 0 or c != key]
        losses.append(torch.logsumexp(torch.stack(logits), 0) - logits[0])
    weight = torch.ones(len(losses)) if weights is None else weights
    return (torch.stack(losses) * weight).sum() / weight.sum()


def in_batch(keys, extra=()):
    return lambda t: [keys[t], *keys[:t], *keys[t + 1 :], *extra]


def share(counts):
    return (counts.double() / counts.sum()).clamp(min=1e-300).log().tolist()


def same(loss, naive, model):
    """The same number and the same gradients."""
    torch.testing.assert_close(loss, naive, atol=1e-5, rtol=1e-5)
    parameters = [p for p in model.parameters() if p.requires_grad]
    ours = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
    theirs = torch.autograd.grad(naive, parameters, allow_unused=True, materialize_grads=True)
    assert any(gradient.abs().sum() > 0 for gradient in ours)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


BATCHES = pytest.mark.parametrize(
    "examples", [events(), events(weights=True), sequences()], ids=["events", "weights", "sequences"]
)


@pytest.mark.parametrize("weights", [False, True])
@pytest.mark.parametrize("make", [two_tower, dcn])
def test_pointwise_is_bce_of_naive_scores(make, weights):
    model, examples = make(), events(weights)
    losses = make_objective(PointwiseConfig(), ITEMS, COUNTS, SEED)(model, examples)
    scores = torch.stack([score(model, query, key) for query, key in flat(examples)])
    each = torch.nn.functional.softplus(scores) - examples.labels * scores
    weight = examples.weights if weights else torch.ones(B)
    assert list(losses) == ["bce"]
    same(losses["bce"], (each * weight).sum() / weight.sum(), model)


@BATCHES
@pytest.mark.parametrize("log_q", ["counts", "streaming", "none"])
def test_in_batch_is_the_naive_softmax_over_the_batch(examples, log_q):
    model = two_tower()
    loss = make_objective(InBatchConfig(log_q=log_q), ITEMS, COUNTS, SEED)(model, examples)["softmax"]
    positives = flat(examples)
    keys = [key for _, key in positives]
    table = share(COUNTS)
    if log_q == "streaming":
        estimate = StreamingLogQ(4 * N)
        estimate.update(torch.tensor(keys))
        table = estimate(torch.arange(N)).tolist()
    naive = naive_softmax(
        model, positives, in_batch(keys), lambda c: 0.0 if log_q == "none" else table[c], examples.weights
    )
    same(loss, naive, model)


@BATCHES
def test_uniform_negatives_beside_the_batch_have_the_mixtures_q(examples):
    model, uniform = two_tower(), 5
    loss = make_objective(InBatchConfig(uniform=uniform), ITEMS, COUNTS, SEED)(model, examples)["softmax"]
    positives = flat(examples)
    keys, T = [key for _, key in positives], len(positives)
    draws = torch.randint(len(TRAINED), (uniform,), generator=torch.Generator().manual_seed(SEED))
    drawn = [TRAINED[place] for place in draws]
    q = ((T * COUNTS / COUNTS.sum() + uniform / len(TRAINED)) / (T + uniform)).log().tolist()
    same(loss, naive_softmax(model, positives, in_batch(keys, drawn), q.__getitem__, examples.weights), model)


@BATCHES
@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_sampled_is_the_naive_softmax_over_target_and_pool(examples, alpha):
    model = two_tower()
    objective = make_objective(SampledConfig(negatives=7, alpha=alpha), ITEMS, COUNTS, SEED)
    mass = torch.where(COUNTS > 0, COUNTS.double() ** alpha, 0.0)
    pool = objective.sampler.sample(torch.zeros(1).long(), torch.Generator().manual_seed(SEED)).keys.tolist()
    assert len(pool) == 7
    assert set(pool) <= set(TRAINED)
    positives, q = flat(examples), share(mass)
    naive = naive_softmax(
        model, positives, lambda t: [positives[t][1], *pool], q.__getitem__, examples.weights
    )
    same(objective(model, examples)["softmax"], naive, model)


@BATCHES
def test_sampled_bpr_asks_the_positive_to_stand_above_each_negative(examples):
    model = two_tower()
    objective = make_objective(SampledConfig(negatives=7, loss="bpr"), ITEMS, COUNTS, SEED)
    pool = objective.sampler.sample(torch.zeros(1).long(), torch.Generator().manual_seed(SEED)).keys.tolist()
    losses = []
    for query, key in flat(examples):
        margins = [score(model, query, key) - score(model, query, c) for c in pool if c != key]
        losses.append(torch.nn.functional.softplus(-torch.stack(margins)).mean())
    weight = torch.ones(len(losses)) if examples.weights is None else examples.weights
    same(objective(model, examples)["bpr"], (torch.stack(losses) * weight).sum() / weight.sum(), model)


@BATCHES
def test_full_softmax_is_the_naive_one_over_all_trained_items(examples):
    model = two_tower()
    loss = make_objective(FullSoftmaxConfig(), ITEMS, COUNTS, SEED)(model, examples)["softmax"]
    positives = flat(examples)

    def all_of(t):
        return [positives[t][1], *(c for c in TRAINED if c != positives[t][1])]

    same(loss, naive_softmax(model, positives, all_of, lambda c: 0.0, examples.weights), model)


@BATCHES
@pytest.mark.parametrize("tile", [1, 1 << 28])
@pytest.mark.parametrize("name", ["int-tower", "mol", "fit"])
def test_full_softmax_of_late_models_is_the_naive_one_too(examples, tile, name, monkeypatch):
    monkeypatch.setattr("twotower.train.softmax.TILE_FLOPS", tile)  # row by row, or all at once
    model = late(name)
    loss = make_objective(FullSoftmaxConfig(), ITEMS, COUNTS, SEED)(model, examples)["softmax"]
    positives = flat(examples)

    def all_of(t):
        return [positives[t][1], *(c for c in TRAINED if c != positives[t][1])]

    same(loss, naive_softmax(model, positives, all_of, lambda c: 0.0, examples.weights), model)


@pytest.mark.parametrize("pair", [[], ["retrieve_score"]])
def test_lists_is_cross_entropy_with_the_labels_of_each_list(pair):
    model, examples = dcn(pair=pair).eval(), lists()
    loss = make_objective(ListsConfig(), ITEMS, COUNTS, SEED)(model, examples)["list"]
    losses = []
    for b in range(2):  # the other lists hold no positive
        real = [place for place in range(3) if examples.items[b, place] != NO_ITEM]
        query = model.encode_query(examples.query.slice(b, b + 1))
        scores = []
        for place in real:
            item = model.encode_item(ITEMS.take(examples.items[b : b + 1, place : place + 1]))
            known = Batch((n, t[b : b + 1, place : place + 1]) for n, t in examples.pair.items())
            scores.append(model.score(query, item, known)[0, 0])
        logs = torch.log_softmax(torch.stack(scores), 0)
        gains = examples.labels[b, real]
        losses.append(-(gains * logs).sum() / gains.sum())
    same(loss, torch.stack(losses).mean(), model)


def test_lists_without_any_positive_teach_nothing():
    model, examples = dcn(), lists()
    nothing = Examples(
        examples.query, examples.items, examples.query_keys, torch.zeros(4, 3), pair=examples.pair
    )
    loss = make_objective(ListsConfig(), ITEMS, COUNTS, SEED)(model, nothing)["list"]
    loss.backward()
    assert loss == 0
    assert all((p.grad is None) or (p.grad == 0).all() for p in model.parameters())


def test_in_batch_refuses_joint_models():
    with pytest.raises(ConfigError, match="in-batch softmax scores all pairs"):
        make_objective(InBatchConfig(), ITEMS, COUNTS, SEED)(dcn(), events())


def test_lists_may_count_positives_instead():
    model, examples = dcn().eval(), lists()
    labels = examples.labels.clone()
    labels[0, :2] = 1.0  # a list with two positives weighs twice as much
    gains = labels * (examples.items != NO_ITEM)
    more = Examples(examples.query, examples.items, examples.query_keys, labels, pair=examples.pair)
    each = []
    for b in range(len(labels)):
        one = Examples(
            more.query.slice(b, b + 1), more.items[b : b + 1], more.query_keys[b : b + 1], labels[b : b + 1]
        )
        loss = make_objective(ListsConfig(), ITEMS, COUNTS, SEED)(model, one)["list"]
        each.append(loss * gains[b].sum())
    loss = make_objective(ListsConfig(count="positives"), ITEMS, COUNTS, SEED)(model, more)["list"]
    torch.testing.assert_close(loss, sum(each) / gains.sum())


@pytest.mark.parametrize(
    "config", [InBatchConfig(uniform=4), InBatchConfig(), FullSoftmaxConfig(), SampledConfig(negatives=5)]
)
@pytest.mark.parametrize("examples", [events(), sequences()], ids=["events", "sequences"])
def test_every_parameter_learns(config, examples):
    model = two_tower()
    sum(make_objective(config, ITEMS, COUNTS, SEED)(model, examples).values()).backward()
    skipped = (
        {"inputs.past.empty"} if examples.items.dim() == 2 else set()
    )  # a place of a sequence is never empty
    dead = {name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()}
    assert dead == skipped


def test_penalties_of_the_model_are_added():
    class Sized(TwoTower):
        def penalties(self, query, item, labels, mask=None):
            assert labels.shape == (len(query["vector"]), len(item["vector"]))
            assert (labels.sum(1) == 1).all()
            return {"size": item["vector"].square().mean()}

    model = two_tower()
    model.__class__ = Sized
    assert list(make_objective(FullSoftmaxConfig(), ITEMS, COUNTS, SEED)(model, events())) == [
        "softmax",
        "size",
    ]


@pytest.mark.parametrize("config", [InBatchConfig(uniform=5), SampledConfig(negatives=6)])
def test_copies_of_a_target_are_no_further_positives(config):
    seen = []

    class Sized(TwoTower):
        def penalties(self, query, item, labels, mask=None):
            seen.append(labels)
            return {}

    model, batch = two_tower(), events()
    model.__class__ = Sized
    batch.items[:] = batch.items[0]
    make_objective(config, ITEMS, COUNTS, SEED)(model, batch)
    T = len(batch.items)
    assert torch.equal(seen[0].nonzero(), torch.arange(T)[:, None].expand(T, 2))


@pytest.mark.parametrize(
    "config",
    [InBatchConfig(uniform=5), InBatchConfig(log_q="streaming"), SampledConfig(negatives=6, alpha=1.0)],
)
def test_a_restored_state_goes_on_with_the_same_negatives(config):
    model, examples = two_tower(), events()
    one = make_objective(config, ITEMS, COUNTS, SEED)
    for _ in range(3):
        one(model, examples)
    other = make_objective(config, ITEMS, COUNTS, SEED + 1)
    other.load_state_dict({name: tensor.clone() for name, tensor in one.state_dict().items()})
    for _ in range(2):
        (ours,), (theirs,) = one(model, examples).values(), other(model, examples).values()
        assert torch.equal(ours, theirs)


def test_objectives_without_randomness_have_no_state():
    assert make_objective(FullSoftmaxConfig(), ITEMS, COUNTS, SEED).state_dict() == {}


def test_the_seed_chooses_the_negatives():
    def loss(seed):
        objective = make_objective(SampledConfig(negatives=5), ITEMS, COUNTS, seed)
        return objective(two_tower(), events())["softmax"].item()

    assert loss(1) == loss(1) != loss(2)


def test_uniform_negatives_need_counts():
    with pytest.raises(ConfigError, match="uniform negatives beside the batch need log_q: counts"):
        make_objective(InBatchConfig(uniform=5, log_q="streaming"), ITEMS, COUNTS, SEED)


def test_pointwise_without_labels_is_refused():
    examples = events()
    unlabelled = Examples(examples.query, examples.items, examples.query_keys)
    with pytest.raises(ConfigError, match="needs labels"):
        make_objective(PointwiseConfig(), ITEMS, COUNTS, SEED)(two_tower(), unlabelled)


def test_full_softmax_refuses_what_has_no_two_towers():
    with pytest.raises(ConfigError, match=r"DCNv2 \(joint\) is not made for"):
        make_objective(FullSoftmaxConfig(), ITEMS, COUNTS, SEED)(dcn(), events())


def test_sequences_need_a_model_that_answers_at_every_place():
    with pytest.raises(ConfigError, match="DCNv2 cannot learn from sequences"):
        make_objective(SampledConfig(negatives=5), ITEMS, COUNTS, SEED)(dcn(), sequences())


def test_what_describes_no_objective_is_refused():
    with pytest.raises(ConfigError, match="no objective is described by Batch"):
        make_objective(Batch(), ITEMS, COUNTS, SEED)
