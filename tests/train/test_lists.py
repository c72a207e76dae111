"""Objectives over lists against the losses of single candidates."""

import math

import pytest
import torch

from twotower.data.batches import Examples
from twotower.data.full_stage import LOG_Q, TEACHER_SCORE, FullStage, FullStageBatches, Role, StageSampling
from twotower.data.spec import Column, FeatureSpec
from twotower.errors import ConfigError
from twotower.losses import distil
from twotower.losses.listwise import lambda_loss, list_mle
from twotower.losses.pairwise import pairwise_logistic
from twotower.models.catalogue import make_model
from twotower.train.lists import FullStageConfig, ListsConfig
from twotower.train.objectives import make_objective
from twotower.types import NO_ITEM, Batch

SPEC = FeatureSpec(
    columns=(
        Column(name="user", kind="id", side="query", size=9),
        Column(name="movie", kind="id", side="item", size=14),
    )
)
ITEMS = Batch(movie=torch.arange(12) + 2)
NAN = float("nan")
KEYS = torch.tensor([[0, 5, 7, 3, 9, 11], [2, 4, 6, -1, 8, -1], [1, 3, -1, -1, -1, -1]])
ROLES = torch.tensor([[0, 0, 1, 2, 4, 5], [0, 1, 3, -1, 5, -1], [1, 2, -1, -1, -1, -1]])
GAINS = torch.tensor([[1.0, 5.0, 0.0, 0.0, 0.0, 0.0], [2.0, 0, 0, 0, 0, 0], [0.0, 0, 0, 0, 0, 0]])
TEACHER = torch.tensor(
    [[0.5, NAN, -1.0, 0.2, 0.1, NAN], [3.0, 2.0, 1.0, NAN, NAN, NAN], [NAN, 1.0, NAN, NAN, NAN, NAN]]
)
# 1 of 2 ranked, 1 of 8 retrieved, 1 random of 20; 1 of 4 preranked, 3 random of 20; 1 of 3 ranked
Q = torch.tensor([[1, 1, 1, 1 / 2, 1 / 8, 0.05], [1, 1, 1 / 4, 1, 0.15, 1], [1, 1 / 3, 1, 1, 1, 1]])
EXAMPLES = Examples(
    Batch(user=torch.arange(3) + 2),
    KEYS,
    torch.arange(3),
    labels=GAINS,
    pair=Batch(role=ROLES.to(torch.int8), teacher_score=TEACHER, log_q=Q.log()),
)


def model(name="two-tower", **config):
    torch.manual_seed(2)
    return make_model(name, SPEC, {"embedding": 4, "layers": [6], **config})


def losses(plain, one=None, examples=EXAMPLES):
    config = FullStageConfig.parse({"bce": 0, "softmax": 0, **plain})
    return make_objective(config, ITEMS, torch.ones(12), 0)(model().eval() if one is None else one, examples)


def scores():
    one = model().eval()
    query, item = one.encode_query(EXAMPLES.query), one.encode_item(ITEMS.take(KEYS.clamp(min=0)))
    return one.score(query, item, mask=KEYS >= 0).detach()


def test_bce_learns_from_the_exposed_only():
    each = [
        math.log(1 + math.exp(-s if role == 0 else s))
        for s, role in zip(scores().reshape(-1).tolist(), ROLES.reshape(-1).tolist(), strict=True)
        if role in (0, 1)
    ]
    loss = losses({"bce": 2.0})
    assert list(loss) == ["bce"]
    assert loss["bce"].item() == pytest.approx(2 * sum(each) / len(each), rel=1e-5)


def test_softmax_sets_each_positive_against_what_was_not_exposed():
    total = weight = 0.0
    for row, role in enumerate(ROLES.tolist()):
        s, q = scores()[row].tolist(), Q[row].tolist()
        rest = sum(math.exp(s[n]) / q[n] for n in range(6) if role[n] >= 2)  # each stands for 1 / q
        for place in range(6):
            if role[place] == 0:
                gain = GAINS[row, place].item()
                total -= gain * math.log(math.exp(s[place]) / (math.exp(s[place]) + rest))
                weight += gain
    assert losses({"softmax": 1})["softmax"].item() == pytest.approx(total / weight, rel=1e-5)


STRATA = torch.tensor([0] * 4 + [1] * 8 + [2] * 24 + [3] * 12)  # ranked, preranked, retrieved, catalogue


class Offsets(type(model())):
    """Each stratum's offset, and noise that knows nothing; no feature is read."""

    def encode_query(self, query):
        return query

    def encode_item(self, item):
        return item

    def score(self, query, item, pair=None, mask=None):
        place = item["movie"] - 2
        return self.offset[STRATA[place]] + self.noise[place]


def mean_slope(corrected, spread, epochs=200):
    """Mean gradient of the softmax part by the strata's offsets, each item being the positive of one list."""
    n, kinds = len(STRATA), torch.tensor([Role.RANKED, Role.PRERANKED, Role.RETRIEVED, -1])
    own = torch.eye(n, dtype=torch.bool)
    roles = kinds[STRATA].expand(n, n).masked_fill(own, Role.EXPOSED_POSITIVE).to(torch.int8)
    items = torch.arange(n).expand(n, n).masked_fill(roles < 0, -1)
    samples = FullStage(torch.zeros(n, dtype=torch.int64), items, roles, own.float(), torch.full((n, n), NAN))
    sampling = StageSampling(ranked=2, preranked=2, retrieved=2, random=6)
    catalogue = (STRATA == 3).nonzero()[:, 0]
    batches = FullStageBatches(samples, Batch(user=torch.ones(1)), sampling, catalogue, batch_size=n)
    objective = make_objective(
        FullStageConfig(bce=0), Batch(movie=torch.arange(n) + 2), torch.ones(n), seed=0
    )
    one, draw = model(), torch.Generator().manual_seed(1)
    one.__class__ = Offsets
    one.offset = torch.zeros(4, requires_grad=True)
    for epoch in range(epochs):
        one.noise = spread * torch.randn(n, generator=draw)
        for examples in batches.epoch(epoch):
            if not corrected:
                examples.pair[LOG_Q].zero_()
            objective(one, examples)["softmax"].backward()
    return one.offset.grad / epochs


@pytest.mark.parametrize("spread", [0.0, 0.5])
def test_a_stratum_as_likely_to_be_liked_as_any_is_pushed_nowhere(spread):
    """Labels drawn whatever the stratum, scores without information: all offsets equal is the optimum."""
    corrected, plain = mean_slope(True, spread), mean_slope(False, spread)
    assert corrected.abs().max() < (0.02 if spread else 1e-3)
    assert plain[0] > 0.05  # descent lowers the smallest stratum and raises the largest
    assert plain[2] < -0.2


def test_order_is_lambda_loss_of_gains_and_grades():
    graded = GAINS + torch.tensor([[0, 0, 0.1, 0.4, 0.2, 0], [0, 0.1, 0.3, 0, 0, 0], [0.1, 0.4, 0, 0, 0, 0]])
    grades = {"exposed": 0.1, "ranked": 0.4, "preranked": 0.3, "retrieved": 0.2}
    loss = losses({"order": 1, "grades": grades})["order"]
    torch.testing.assert_close(loss, lambda_loss(scores(), graded, KEYS >= 0))
    torch.testing.assert_close(losses({"order": 1})["order"], lambda_loss(scores(), GAINS, KEYS >= 0))


@pytest.mark.parametrize("kind", ["mse", "kl", "margin", "list-mle"])
def test_distillation_covers_every_candidate_with_a_teacher_score(kind):
    known = ~TEACHER.isnan()
    expected = {
        "mse": lambda: distil.mse(scores(), TEACHER, known),
        "kl": lambda: distil.kl(scores(), TEACHER, known, temperature=2.0),
        "margin": lambda: distil.margin(scores(), TEACHER, known),
        "list-mle": lambda: list_mle(scores(), TEACHER, known, top=2),
    }[kind]()
    about = {"loss": kind, "weight": 3.0, "temperature": 2.0, "top": 2}
    loss = losses({"distil": about, "teacher": "ranker"})["distil"]
    torch.testing.assert_close(loss, 3 * expected)


def test_parts_are_added_up_and_every_parameter_learns():
    one = model()
    found = losses({"bce": 1, "softmax": 1, "order": 1, "distil": {}, "teacher": "ranker"}, one)
    assert list(found) == ["bce", "softmax", "order", "distil"]
    sum(found.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in one.parameters())


def test_lists_of_nothing_but_random_items_teach_nothing():
    role = torch.where(ROLES >= 0, 5, -1).to(torch.int8)
    pair = Batch({"role": role, TEACHER_SCORE: torch.full_like(TEACHER, NAN), LOG_Q: Q.log()})
    nothing = Examples(EXAMPLES.query, KEYS, EXAMPLES.query_keys, torch.zeros_like(GAINS), pair=pair)
    one = model()
    found = losses({"bce": 1, "softmax": 1, "order": 1, "distil": {}, "teacher": "ranker"}, one, nothing)
    assert all(loss == 0 for loss in found.values())
    sum(found.values()).backward()
    assert all((p.grad is None) or (p.grad == 0).all() for p in one.parameters())


def test_penalties_are_handed_the_gains_and_what_is_real():
    class Counted(type(model())):
        def penalties(self, query, item, labels, mask=None):
            return {"gain": labels.sum(), "real": mask.sum()}

    one = model().eval()
    one.__class__ = Counted
    found = losses({"bce": 1}, one)
    assert (found["gain"], found["real"]) == (8, 12)


@pytest.mark.parametrize("name", ["two-tower", "int-tower", "mol", "fit", "cold", "dcn-v2"])
@pytest.mark.parametrize("objective", ["lists", "full-stage"])
def test_gaps_enter_no_statistic_of_a_batch(name, objective):
    """More empty places at the end of the lists change neither the losses nor what is kept for serving."""
    wider = Examples(
        EXAMPLES.query,
        torch.cat([KEYS, torch.full((3, 4), NO_ITEM)], 1),
        EXAMPLES.query_keys,
        labels=torch.cat([GAINS, torch.zeros(3, 4)], 1),
        pair=Batch({n: torch.cat([t, t[2:, 5:].expand(3, 4)], 1) for n, t in EXAMPLES.pair.items()}),
    )
    config = {"norm": "batch"} | ({"layers": [6, 6]} if name != "mol" else {"gate_dropout": 0.0})
    found = []
    for examples in (EXAMPLES, wider):
        one = model(name, **config).train()
        if objective == "lists":
            terms = make_objective(ListsConfig(), ITEMS, torch.ones(12), 0)(one, examples)
        else:
            terms = losses({"bce": 1, "softmax": 1, "order": 1}, one, examples)
        found.append((terms, one.state_dict()))
    for one, other in zip(*found, strict=True):
        assert one.keys() == other.keys()
        for key, value in one.items():
            torch.testing.assert_close(value, other[key], msg=lambda text, key=key: f"{key}: {text}")


def test_joint_models_learn_from_it_but_not_with_pair_fields():
    assert losses({"bce": 1}, model("dcn-v2"))["bce"] > 0
    with pytest.raises(ConfigError, match=r"pair fields \['retrieve_score'\].*take them out"):
        losses({"bce": 1}, model("dcn-v2", pair=["retrieve_score"]))


@pytest.mark.parametrize(
    ("plain", "message"),
    [
        ({"bce": 0, "softmax": 0}, "every part is switched off"),
        ({"distil": {}}, "distil needs a teacher"),
        ({"distil": {"loss": "mae"}, "teacher": "r"}, "distil.loss"),
    ],
)
def test_what_makes_no_sense_is_refused(plain, message):
    with pytest.raises(ConfigError, match=message):
        FullStageConfig.parse(plain)
    assert FullStageConfig.parse({"distil": {}, "source": "log"}).teacher is None  # the log's own ranker


@pytest.mark.parametrize("count", ["lists", "positives"])
@pytest.mark.parametrize(("loss", "function"), [("pairwise", pairwise_logistic), ("lambda", lambda_loss)])
def test_lists_by_other_losses(loss, function, count):
    objective = make_objective(ListsConfig(loss=loss, count=count), ITEMS, torch.ones(12), 0)
    weight = None if count == "lists" else GAINS.sum(1)
    expected = function(scores(), GAINS, KEYS >= 0, weight)
    torch.testing.assert_close(objective(model().eval(), EXAMPLES)["list"], expected)


@pytest.mark.parametrize("liked", [0, 0.5])
def test_lists_with_a_teacher_follow_what_was_liked_and_its_scores(liked):
    plain = {"teacher": "ranker", "liked": liked, "distil": {"loss": "mse", "weight": 3.0}}
    found = make_objective(ListsConfig.parse(plain), ITEMS, torch.ones(12), 0)(model().eval(), EXAMPLES)
    torch.testing.assert_close(found["distil"], 3 * distil.mse(scores(), TEACHER, ~TEACHER.isnan()))
    assert list(found) == (["list", "distil"] if liked else ["distil"])
    if liked:
        alone = make_objective(ListsConfig(), ITEMS, torch.ones(12), 0)(model().eval(), EXAMPLES)
        torch.testing.assert_close(found["list"], liked * alone["list"])


@pytest.mark.parametrize(
    ("plain", "message"), [({"distil": {}}, "distil needs a teacher"), ({"liked": 0}, "liked: 0")]
)
def test_lists_that_teach_nothing_are_refused(plain, message):
    with pytest.raises(ConfigError, match=message):
        ListsConfig.parse(plain)
