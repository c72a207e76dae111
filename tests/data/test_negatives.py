"""Samplers draw what they say, as often as they say."""

import math

import pytest
import torch

from twotower.data.negatives import InBatch, Logged, Mixed, Negatives, Popularity, Uniform
from twotower.errors import ConfigError, DataError
from twotower.types import NO_ITEM, Ragged

POSITIVES = torch.tensor([0, 3, 3, 1])


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def assert_drawn_as_stated(keys: torch.Tensor, q: torch.Tensor) -> None:
    """Chi-square of drawn keys against probabilities q (N,), at a false alarm in a million."""
    counts = torch.bincount(keys.reshape(-1), minlength=len(q)).double()
    assert counts[q == 0].sum() == 0
    expected = (q.double() * keys.numel())[q > 0]
    statistic = ((counts[q > 0] - expected) ** 2 / expected).sum().item()
    # Wilson and Hilferty (1931): the cube root of a chi-square is nearly normal, with few degrees too
    df = len(expected) - 1
    spread = 2 / (9 * df)
    assert statistic < df * (1 - spread + 4.75 * math.sqrt(spread)) ** 3


def test_the_chi_square_notices_a_wrong_probability():
    keys = Popularity(torch.tensor([100, 100, 108]), 25_000, layout="shared").sample(POSITIVES, seeded()).keys
    with pytest.raises(AssertionError):
        assert_drawn_as_stated(keys, torch.full((3,), 1 / 3))


SAMPLERS = {
    "uniform": lambda layout: Uniform(5, 25_000, layout),
    "uniform of some": lambda layout: Uniform(torch.tensor([1, 2, 4]), 25_000, layout),
    "popularity": lambda layout: Popularity(torch.tensor([4, 0, 9, 1, 25]), 25_000, 1.0, layout),
    "flattened": lambda layout: Popularity(torch.tensor([4, 0, 9, 1, 25]), 25_000, 0.5, layout),
    "alpha 0": lambda layout: Popularity(torch.tensor([4, 0, 9, 1, 25]), 25_000, 0.0, layout),
}
STATED = {
    "uniform": [0.2] * 5,
    "uniform of some": [0, 1 / 3, 1 / 3, 0, 1 / 3],
    "popularity": [4 / 39, 0, 9 / 39, 1 / 39, 25 / 39],
    "flattened": [2 / 11, 0, 3 / 11, 1 / 11, 5 / 11],
    "alpha 0": [0.25, 0, 0.25, 0.25, 0.25],
}


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("layout", ["shared", "own"])
def test_draws_follow_the_stated_probability(name, layout):
    sampler = SAMPLERS[name](layout)
    negatives = sampler.sample(POSITIVES, seeded())
    assert negatives.shared == (layout == "shared")
    assert negatives.keys.shape == ((25_000,) if layout == "shared" else (4, 25_000))
    q = torch.tensor(STATED[name])
    torch.testing.assert_close(negatives.log_q, q.log()[negatives.keys])
    assert_drawn_as_stated(negatives.keys, q)


@pytest.mark.parametrize("name", SAMPLERS)
def test_same_generator_same_draws_and_no_global_seed(name):
    sampler = SAMPLERS[name]("shared")
    state = torch.get_rng_state()
    first, second = (sampler.sample(POSITIVES, seeded(7)).keys for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(first, sampler.sample(POSITIVES, seeded(8)).keys)
    assert torch.equal(state, torch.get_rng_state())


def test_popularity_over_a_large_catalogue():
    counts = torch.arange(1_000_000) % 7
    negatives = Popularity(counts, n=100, alpha=0.75).sample(torch.zeros(500, dtype=torch.int64), seeded())
    assert (counts[negatives.keys] > 0).all()
    q = torch.arange(7.0).pow(0.75) * (counts[None] == torch.arange(7)[:, None]).sum(1)
    assert_drawn_as_stated(counts[negatives.keys], q / q.sum())


def test_in_batch_are_the_positives_with_their_share_of_events():
    negatives = InBatch(torch.tensor([5, 3, 0, 2])).sample(POSITIVES)
    assert torch.equal(negatives.keys, POSITIVES)
    assert negatives.log_q.exp().tolist() == pytest.approx([0.5, 0.2, 0.2, 0.3])
    assert InBatch().sample(POSITIVES).log_q.tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize("keys", [None, torch.tensor([0, 2, 4])])
def test_mixed_states_the_probability_of_the_mixture(keys):
    counts = torch.tensor([10.0, 5, 0, 4, 1])
    share = counts / counts.sum()
    rows, n = 20_000, 10_000
    positives = torch.multinomial(share, rows, replacement=True, generator=seeded())
    negatives = Mixed(counts, n, keys).sample(positives, seeded(1))
    assert negatives.shared
    assert torch.equal(negatives.keys[:rows], positives)
    uniform = torch.zeros(5)
    uniform[slice(None) if keys is None else keys] = 1 / (5 if keys is None else 3)
    q = (2 * share + uniform) / 3
    torch.testing.assert_close(negatives.log_q, q.log()[negatives.keys])
    assert_drawn_as_stated(negatives.keys, q)


class TestLogged:
    lists = Ragged.of([[7, 8, 9, 5], [], [4, 3], [6]])

    def test_different_entries_of_the_own_list_without_the_positive(self):
        groups = torch.tensor([0, 1, 2, 3])
        negatives = Logged(self.lists, n=3).sample(torch.tensor([8, 1, 4, 2]), seeded(), groups=groups)
        rows = [sorted(key for key in row if key != NO_ITEM) for row in negatives.keys.tolist()]
        assert rows == [[5, 7, 9], [], [3], [6]]
        assert negatives.keys[2].tolist() == [3, NO_ITEM, NO_ITEM]
        expected = [-math.log(3)] * 3
        assert negatives.log_q[0].tolist() == pytest.approx(expected)
        assert negatives.log_q[1:].abs().sum() == 0  # log 1, and empty slots

    def test_each_slot_is_uniform_over_the_list(self):
        groups = torch.zeros(20_000, dtype=torch.int64)
        negatives = Logged(self.lists, n=2).sample(torch.full((20_000,), 8), seeded(), groups=groups)
        q = torch.tensor([0, 0, 0, 0, 0, 1 / 3, 0, 1 / 3, 0, 1 / 3])
        for slot in (0, 1):
            assert_drawn_as_stated(negatives.keys[:, slot], q)
        assert (negatives.keys[:, 0] != negatives.keys[:, 1]).all()

    def test_an_empty_batch(self):
        nothing = torch.zeros(0, dtype=torch.int64)
        assert Logged(self.lists, n=2).sample(nothing, groups=nothing).keys.shape == (0, 2)

    def test_groups_are_required(self):
        with pytest.raises(ConfigError, match="need groups"):
            Logged(self.lists, n=2).sample(POSITIVES)


def test_hits_mark_the_positive_among_candidates():
    shared = Negatives(torch.tensor([3, 1]), torch.zeros(2))
    assert shared.hits(torch.tensor([1, 2])).tolist() == [[False, True], [False, False]]
    own = Negatives(torch.tensor([[3, 1], [2, 2]]), torch.zeros(2, 2))
    assert own.hits(torch.tensor([1, 2])).tolist() == [[False, True], [True, True]]


@pytest.mark.parametrize(
    "make",
    [
        lambda: Uniform(0, 1),
        lambda: Uniform(3, 0),
        lambda: Uniform(3, 1, "mine"),
        lambda: Popularity(torch.ones(3), 1, alpha=-1),
    ],
)
def test_wrong_options_are_refused(make):
    with pytest.raises(ConfigError):
        make()


@pytest.mark.parametrize("make", [lambda c: Popularity(c, 1), InBatch, lambda c: Mixed(c, 1)])
@pytest.mark.parametrize("counts", [[0, 0], [2, -1]])
def test_impossible_counts_are_refused(make, counts):
    with pytest.raises(DataError, match="non-negative"):
        make(torch.tensor(counts))
