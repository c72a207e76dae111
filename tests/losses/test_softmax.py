"""In-batch and sampled softmax: closed forms, and one property per correction."""

import math

import pytest
import torch
from torch.nn import functional as F

from twotower.errors import ConfigError
from twotower.losses.softmax import keep_hard_negatives, sampled_softmax

INF = float("inf")


def random_scores(seed: int, rows: int = 6, columns: int = 9) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


class TestClosedForms:
    """The values of TensorFlow Recommenders' retrieval task tests; its loss is a sum."""

    query = torch.tensor([[1.0, 2.0, 3.0], [2.0, 3.0, 4.0]])
    item = torch.tensor([[1.0, 1.0, 1.0], [1.0, 1.0, 0.0]])

    def test_two_by_two(self):
        # scores are [[6, 3], [9, 5]]: margins +3 and -4
        scores = self.query @ self.item.T
        expected = (-math.log(sigmoid(3)) - math.log(1 - sigmoid(4))) / 2
        assert sampled_softmax(scores).item() == pytest.approx(expected, rel=1e-6)

    def test_weights_are_shares_of_the_mean(self):
        scores = self.query @ self.item.T
        expected = -0.7 * math.log(sigmoid(3)) - 0.3 * math.log(1 - sigmoid(4))
        assert sampled_softmax(scores, weight=torch.tensor([0.7, 0.3])).item() == pytest.approx(
            expected, rel=1e-6
        )
        assert sampled_softmax(scores, weight=torch.tensor([7.0, 3.0])).item() == pytest.approx(
            expected, rel=1e-6
        )

    def test_extra_negatives_after_the_batch(self):
        extra = torch.tensor([[0.0, 0.0, 1.0]])  # scores 3 and 4
        scores = self.query @ torch.cat([self.item, extra]).T
        first = -6 + math.log(math.exp(6) + math.exp(3) + math.exp(3))
        second = -5 + math.log(math.exp(9) + math.exp(5) + math.exp(4))
        assert sampled_softmax(scores).item() == pytest.approx((first + second) / 2, rel=1e-6)


@pytest.mark.parametrize("seed", [0, 1, 2])
class TestLossLayers:
    """The properties of TensorFlow Recommenders' loss layer tests."""

    def test_hard_negatives_keep_the_positive_and_the_highest(self, seed):
        scores = random_scores(seed)
        positive = F.one_hot(torch.arange(6), 9).bool()
        kept = keep_hard_negatives(scores, positive, 3)
        assert ((kept > -INF).sum(1) == 4).all()
        assert torch.equal(kept[positive], scores[positive])
        negatives = scores.masked_fill(positive, -INF)
        expected = negatives.sort(1, descending=True).values[:, :3]
        assert torch.equal(kept.masked_fill(positive, -INF).sort(1, descending=True).values[:, :3], expected)

    def test_more_hard_negatives_than_there_are_change_nothing(self, seed):
        scores = random_scores(seed)
        assert sampled_softmax(scores, hard_negatives=8) == sampled_softmax(scores)
        assert sampled_softmax(scores, hard_negatives=99) == sampled_softmax(scores)

    def test_duplicates_of_the_positive_are_masked_but_not_itself(self, seed):
        scores = random_scores(seed)
        keys = torch.tensor([5, 6, 5, 7, 8, 5, 6, 9, 10])
        expected = torch.stack(
            [
                scores[i].masked_fill((keys == keys[i]) & (torch.arange(9) != i), -INF).log_softmax(0)[i]
                for i in range(6)
            ]
        )
        loss = sampled_softmax(scores, item_keys=keys)
        assert loss.item() == pytest.approx(-expected.mean().item(), rel=1e-12)
        assert sampled_softmax(scores, item_keys=keys.expand(6, 9)) == loss

    def test_log_q_raises_logits_and_is_clipped(self, seed):
        scores = random_scores(seed)
        q = torch.rand(9, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        expected = F.cross_entropy(scores - q.log(), torch.arange(6))
        assert sampled_softmax(scores, log_q=q.log()).item() == pytest.approx(expected.item(), rel=1e-12)
        q[3] = 0
        clipped = q.clamp_min(1e-6).log()
        assert sampled_softmax(scores, log_q=q.log()) == sampled_softmax(scores, log_q=clipped)


def test_order_temperature_before_log_q_and_masks_last():
    scores, q = random_scores(3), torch.linspace(0.05, 0.4, 9, dtype=torch.float64)
    keys = torch.tensor([1, 2, 1, 3, 4, 5, 6, 2, 7])
    seen = torch.zeros(6, 9, dtype=torch.bool)
    seen[0, 4] = seen[1, 1] = seen[5, 0] = True  # (1, 1) is a positive: must survive
    logits = scores / 0.5 - q.log()
    rows = []
    for i in range(6):
        left = [j for j in range(9) if j != i and keys[j] != keys[i] and not seen[i, j]]
        hardest = sorted(left, key=lambda j: -logits[i, j])[:2]
        rows.append(torch.logsumexp(logits[i, [i, *hardest]], 0) - logits[i, i])
    loss = sampled_softmax(
        scores, temperature=0.5, log_q=q.log(), item_keys=keys, seen=seen, hard_negatives=2
    )
    assert loss.item() == pytest.approx(torch.stack(rows).mean().item(), rel=1e-12)


def test_a_constant_factor_in_q_cancels():
    scores, q = random_scores(4), torch.linspace(0.01, 0.4, 9, dtype=torch.float64)
    assert sampled_softmax(scores, log_q=q.log()).item() == pytest.approx(
        sampled_softmax(scores, log_q=(q / 7).log()).item()
    )


def test_target_names_the_column_of_the_positive():
    scores = random_scores(5)
    target = torch.tensor([8, 0, 3, 3, 1, 7])
    assert sampled_softmax(scores, target).item() == pytest.approx(F.cross_entropy(scores, target).item())


def test_temperature_is_learned():
    temperature = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda t: sampled_softmax(random_scores(6), temperature=t), (temperature,)
    )


@pytest.mark.parametrize("correction", ["standard", "positive-free"])
def test_rows_without_negatives_give_zero_and_no_nan(correction):
    scores = random_scores(7, 3, 3).requires_grad_()
    seen = torch.tensor([[True, True, True], [False, True, False], [False, False, True]])
    loss = sampled_softmax(
        scores, seen=seen, log_q=torch.full((3,), -1.0), correction=correction, weight=torch.tensor([1, 0, 0])
    )
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(scores.grad, torch.zeros(3, 3, dtype=torch.float64))


def test_padded_candidates_take_no_part():
    scores = torch.tensor([[-3.0, -4.0, -INF]])
    expected = sampled_softmax(scores[:, :2])
    assert sampled_softmax(scores) == expected


def test_empty_batch_is_zero():
    assert sampled_softmax(torch.zeros(0, 4)).item() == 0


def test_half_precision_scores_are_widened():
    assert sampled_softmax(torch.zeros(2, 2, dtype=torch.bfloat16)).dtype == torch.float32


class TestPositiveFree:
    def test_equals_the_published_form(self):
        f = random_scores(8, 1, 4)
        q = torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=torch.float64)
        corrected = f[0, 1:] - (q[1:] / (1 - q[0])).log()
        catalogue = corrected.exp().mean()
        p = f[0, 0].exp() / (f[0, 0].exp() + catalogue)
        expected = (1 - p) * (corrected.logsumexp(0) - f[0, 0])
        loss = sampled_softmax(f, log_q=q.log(), correction="positive-free")
        assert loss.item() == pytest.approx(expected.item(), rel=1e-12)

    def test_gradient_is_that_of_full_softmax_when_every_item_is_drawn_once(self):
        scores, target = random_scores(9, 5, 8).requires_grad_(), torch.tensor([0, 7, 3, 3, 1])
        log_q = torch.full((8,), -math.log(8), dtype=torch.float64)
        (free,) = torch.autograd.grad(
            sampled_softmax(scores, target, log_q=log_q, correction="positive-free"), scores
        )
        (full,) = torch.autograd.grad(F.cross_entropy(scores, target), scores)
        torch.testing.assert_close(free, full)

    def test_expected_gradient_is_nearer_to_full_softmax_than_the_standard_one(self):
        generator = torch.Generator().manual_seed(0)
        n_items, n_draws, repeats = 20, 50, 2_000
        item_scores = torch.randn(n_items, generator=generator)
        q = torch.softmax(torch.randn(n_items, generator=generator), 0).sort(descending=True).values
        item_scores[0] = 3.0  # a positive the model is already sure of, p near one half
        full = item_scores.softmax(0)
        full[0] -= 1
        drawn = torch.multinomial(q, repeats * n_draws, replacement=True, generator=generator)
        keys = torch.cat([torch.zeros(repeats, 1, dtype=torch.int64), drawn.view(repeats, n_draws)], 1)
        errors = {}
        for correction in ("standard", "positive-free"):
            scores = item_scores[keys].requires_grad_()
            loss = sampled_softmax(
                scores,
                torch.zeros(repeats, dtype=torch.int64),
                log_q=q.log()[keys],
                item_keys=keys,
                correction=correction,
            )
            (gradient,) = torch.autograd.grad(loss, scores)
            mean = torch.zeros(n_items).index_add_(0, keys.reshape(-1), gradient.reshape(-1))
            errors[correction] = float((mean - full).norm() / full.norm())
        assert errors["positive-free"] < 0.5 * errors["standard"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0.0}, "temperature"),
        ({"hard_negatives": 0}, "hard_negatives"),
        ({"correction": "positive-free"}, "needs log_q"),
        ({"correction": "none"}, "known: positive-free, standard"),
        (
            {"correction": "positive-free", "log_q": torch.zeros(9), "hard_negatives": 2},
            "no hard_negatives",
        ),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(ConfigError, match=message):
        sampled_softmax(random_scores(0), **options)


def test_more_rows_than_columns_need_a_target():
    with pytest.raises(ConfigError, match="3 rows but 2 candidates"):
        sampled_softmax(torch.zeros(3, 2))


def test_a_learned_temperature_has_a_slope_beside_masked_candidates():
    temperature = torch.tensor(0.5, requires_grad=True)
    gone = torch.tensor([[1.0, 0.5, -torch.inf], [0.0, 2.0, -torch.inf]])
    sampled_softmax(gone, temperature=temperature).backward()
    slope = temperature.grad.clone()
    temperature.grad = None
    sampled_softmax(gone[:, :2], temperature=temperature).backward()
    torch.testing.assert_close(slope, temperature.grad)
