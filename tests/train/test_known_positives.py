"""Known positives of a query, which are no negatives of it: softmaxes against a loop over what is allowed."""

import math

import pytest
import torch

from twotower.data.batches import Examples
from twotower.data.hard_negatives import Judged
from twotower.errors import ConfigError
from twotower.models.catalogue import make_model
from twotower.train.objectives import make_objective
from twotower.train.softmax import InBatchConfig, SampledConfig
from twotower.types import Batch

from .objective_world import COUNTS, ITEMS, SEED, SPEC, TRAINED, N, sequences, two_tower

KNOWN = {(3, 0), (3, 9), (3, 4), (5, 6), (5, 2), (7, 0)}
"""Query 3 has two positives in the batch and one outside it, query 5 one of each."""
JUDGED = Judged.of(*torch.tensor(sorted(KNOWN)).T, N)


def events(weights=False):
    keys = torch.tensor([3, 3, 5, 7, 3])
    past = torch.zeros(5, 4, dtype=torch.int64)
    return Examples(
        Batch(user=keys, past=past),
        torch.tensor([0, 9, 6, 0, 0]),  # one pair twice, and its item with another query
        keys,
        weights=torch.tensor([1.0, 2.0, 0.5, 1.0, 3.0]) if weights else None,
    )


def late():
    torch.manual_seed(1)
    return make_model("int-tower", SPEC, {"embedding": 4, "layers": [6]}).eval()


def negative_model(make):
    """Its every similarity is negative, so that a mask by zeros would show."""
    model = make()
    score = model.score
    model.score = lambda *args: score(*args) - 50
    return model


def naive(model, examples, negatives, log_q, loss="softmax", known=frozenset(KNOWN)):
    """Mean over the rows of the loss against the allowed ones of ``negatives(row)``, one score at a time."""
    losses = []
    for row, (query, positive) in enumerate(
        zip(examples.query_keys.tolist(), examples.items.tolist(), strict=True)
    ):
        rep = model.encode_query(examples.query.slice(row, row + 1))

        def score(key, rep=rep):
            return model.score(rep, model.encode_item(ITEMS.slice(key, key + 1)))[0, 0]

        allowed = [key for key in negatives(row) if key != positive and (query, key) not in known]
        if loss == "bpr":
            each = [torch.nn.functional.softplus(score(key) - score(positive)) for key in allowed]
            losses.append(torch.stack(each).mean())
            continue
        logits = [score(key) - max(log_q(key), math.log(1e-6)) for key in (positive, *allowed)]
        losses.append(torch.stack(logits).logsumexp(0) - logits[0])
    weights = torch.ones(len(losses)) if examples.weights is None else examples.weights
    return (torch.stack(losses) * weights).sum() / weights.sum()


def same(loss, wanted, model):
    """The same number and the same gradients."""
    torch.testing.assert_close(loss, wanted, atol=1e-5, rtol=1e-5)
    parameters = [p for p in model.parameters() if p.requires_grad]
    ours, theirs = (
        torch.autograd.grad(value, parameters, allow_unused=True, materialize_grads=True)
        for value in (loss, wanted)
    )
    assert any(gradient.abs().sum() > 0 for gradient in ours)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def share(counts):
    return (counts.double() / counts.sum()).clamp(min=1e-300).log().tolist()


@pytest.mark.parametrize("weights", [False, True])
@pytest.mark.parametrize("log_q", ["counts", "none"])
@pytest.mark.parametrize("mask_known", [None, True])
@pytest.mark.parametrize(
    "make", [two_tower, late, lambda: negative_model(late)], ids=["dot", "late", "below"]
)
def test_in_batch_is_the_naive_softmax_over_what_is_allowed(make, mask_known, log_q, weights):
    model, examples, table = make(), events(weights), share(COUNTS)
    config = InBatchConfig(log_q=log_q, mask_known=mask_known)
    loss = make_objective(config, ITEMS, COUNTS, SEED, judged=JUDGED)(model, examples)["softmax"]
    items = examples.items.tolist()
    q = (lambda key: 0.0) if log_q == "none" else table.__getitem__

    def others(row):
        return items[:row] + items[row + 1 :]

    same(loss, naive(model, examples, others, q), model)
    unmasked = naive(model, examples, others, q, known=frozenset())
    assert (loss - unmasked).abs() > 1e-3  # query 3's two positives were each other's negatives


def test_uniform_negatives_beside_the_batch_may_be_known_too():
    model, examples, n = two_tower(), events(), 40
    config = InBatchConfig(uniform=n)
    loss = make_objective(config, ITEMS, COUNTS, SEED, judged=JUDGED)(model, examples)["softmax"]
    draws = torch.randint(len(TRAINED), (n,), generator=torch.Generator().manual_seed(SEED))
    drawn, items = [TRAINED[place] for place in draws], examples.items.tolist()
    assert {4, 2} <= set(drawn)  # the positives outside the batch
    rows = len(items)
    q = ((rows * COUNTS / COUNTS.sum() + n / len(TRAINED)) / (rows + n)).log().tolist()
    same(
        loss,
        naive(model, examples, lambda row: items[:row] + items[row + 1 :] + drawn, q.__getitem__),
        model,
    )


@pytest.mark.parametrize("loss", ["softmax", "bpr"])
def test_sampled_is_the_naive_loss_over_what_is_allowed(loss):
    model, examples = two_tower(), events(weights=True)
    config = SampledConfig(negatives=80, loss=loss)
    objective = make_objective(config, ITEMS, COUNTS, SEED, judged=JUDGED)
    pool = objective.sampler.sample(torch.zeros(1).long(), torch.Generator().manual_seed(SEED)).keys.tolist()
    assert {0, 9, 4, 6, 2} <= set(pool)
    found = objective(model, examples)[loss]
    q = share((COUNTS > 0).double())
    same(found, naive(model, examples, lambda row: pool, q.__getitem__, loss), model)


def test_a_query_whose_every_candidate_is_known_teaches_nothing():
    model, keys = two_tower(), torch.tensor([3, 3])
    query = Batch(user=keys, past=torch.zeros(2, 4, dtype=torch.int64))
    examples = Examples(query, torch.tensor([0, 9]), keys)
    loss = make_objective(InBatchConfig(), ITEMS, COUNTS, SEED, judged=JUDGED)(model, examples)["softmax"]
    loss.backward()
    assert loss == 0
    assert all(p.grad is None or (p.grad == 0).all() for p in model.parameters())


def test_places_of_a_sequence_have_the_positives_of_their_query():
    model, examples = two_tower(), sequences()  # 6, 1, 4, 0 of query 0; 0, 9 of query 1; 6 of query 2
    at = examples.items >= 0
    keys, owner = examples.items[at].tolist(), at.nonzero()[:, 0].tolist()
    judged = Judged.of(torch.tensor(owner), torch.tensor(keys), N)
    config = InBatchConfig(log_q="none")
    loss = make_objective(config, ITEMS, COUNTS, SEED, judged=judged)(model, examples)["softmax"]
    scores = model.score(
        model.encode_places(examples.query, at), model.encode_item(ITEMS.take(torch.tensor(keys)))
    )
    known = set(zip(owner, keys, strict=True))
    total = 0.0
    for place, query in enumerate(owner):
        allowed = [c for c, key in enumerate(keys) if c == place or (query, key) not in known]
        total += scores[place, allowed].logsumexp(0) - scores[place, place]
    torch.testing.assert_close(loss, total / len(keys))


@pytest.mark.parametrize(
    "make",
    [
        lambda **more: InBatchConfig(**more),
        lambda **more: InBatchConfig(uniform=7, **more),
        lambda **more: SampledConfig(negatives=9, **more),
        lambda **more: SampledConfig(negatives=9, loss="bpr", **more),
    ],
)
def test_off_changes_nothing(make):
    def loss(config, judged):
        (value,) = make_objective(config, ITEMS, COUNTS, SEED, judged=judged)(two_tower(), events()).values()
        return value

    plain = loss(make(), None)
    assert torch.equal(loss(make(mask_known=False), JUDGED), plain)
    assert not torch.equal(loss(make(), JUDGED), plain)


@pytest.mark.parametrize("config", [InBatchConfig, SampledConfig])
def test_what_is_not_said_keeps_the_fingerprint_of_what_was_trained(config):
    assert "mask_known" not in config().plain()
    for said in (True, False):
        assert config.parse(config(mask_known=said).plain()).mask_known is said
    with pytest.raises(ConfigError, match="mask_known masks the training positives, and there are none"):
        make_objective(config(mask_known=True), ITEMS, COUNTS, SEED)


def test_hard_negatives_are_never_known_ones():
    with pytest.raises(ConfigError, match="take mask_known: false out"):
        InBatchConfig.parse({"log_q": "none", "hard": {"by": ["bm25"]}, "mask_known": False})


def test_membership_of_shared_candidates_is_that_of_own_ones():
    draw = torch.Generator().manual_seed(3)
    for _ in range(20):
        judged = Judged.of(*torch.randint(0, 9, (2, 25), generator=draw), 9)
        queries = torch.randint(0, 12, (7,), generator=draw)  # some without any positive
        items = torch.randint(-1, 9, (11,), generator=draw)  # some twice, some `NO_ITEM`
        pairs = set(zip(judged.query_keys.tolist(), judged.item_keys.tolist(), strict=True))
        shared = judged.contains(queries, items)
        assert shared.tolist() == [[(q, i) in pairs for i in items.tolist()] for q in queries.tolist()]
        assert torch.equal(shared, judged.contains(queries, items.expand(7, -1)))
    assert judged.contains(queries[:0], items).shape == (0, 11)
    assert judged.contains(queries, items[:0]).shape == (7, 0)
