import math

import pytest
import torch

from twotower.errors import ConfigError, DataError
from twotower.losses.logq import StreamingLogQ, log_q_from_counts


class TestFromCounts:
    def test_probabilities_sum_to_one(self):
        counts = torch.tensor([5, 0, 3, 2])
        assert log_q_from_counts(counts).exp().tolist() == pytest.approx([0.5, 0, 0.3, 0.2])
        assert log_q_from_counts(counts)[1] == -math.inf

    @pytest.mark.parametrize("counts", [[0, 0], [], [1, -1]])
    def test_impossible_counts_are_refused(self, counts):
        with pytest.raises(DataError, match="non-negative"):
            log_q_from_counts(torch.tensor(counts))


def one_by_one(keys: list[int], alpha: float) -> dict[int, float]:
    """The recurrence as the paper writes it, one event at a time, a slot per item."""
    last: dict[int, int] = {}
    gap: dict[int, float] = {}
    for t, key in enumerate(keys):
        now = t - last.get(key, -1)
        gap[key] = (1 - alpha) * gap[key] + alpha * now if key in gap else float(now)
        last[key] = t
    return gap


class TestStreaming:
    def test_batches_equal_one_event_after_the_other(self):
        generator = torch.Generator().manual_seed(0)
        keys = torch.randint(12, (200,), generator=generator)
        estimate = StreamingLogQ(slots=4096, hashes=2, alpha=0.2)
        start = 0
        for size in (1, 7, 0, 64, 28, 100):
            estimate.update(keys[start : start + size])
            start += size
        expected = one_by_one(keys.tolist(), 0.2)
        for key, gap in expected.items():
            assert -estimate(torch.tensor([key])).item() == pytest.approx(math.log(gap), rel=1e-5)

    def test_converges_to_the_true_frequency(self):
        generator = torch.Generator().manual_seed(1)
        p = torch.tensor([0.5, 0.3, 0.15, 0.05])
        estimate = StreamingLogQ(slots=1024, hashes=3, alpha=0.005)
        for _ in range(200):
            estimate.update(torch.multinomial(p, 512, replacement=True, generator=generator))
        torch.testing.assert_close(estimate(torch.arange(4)).exp(), p, rtol=0.15, atol=0)

    def test_a_key_that_was_never_seen_is_not_taken_for_one_that_shares_a_slot(self):
        estimate = StreamingLogQ(slots=40, hashes=4)
        for _ in range(200):
            estimate.update(torch.arange(10))
        hit = estimate.mean_gap[estimate._slots(torch.arange(10, 200))] > 0
        strange = torch.arange(10, 200)[~hit.all(0) & hit.any(0)]
        assert len(strange) > 10
        assert estimate(strange).exp().tolist() == pytest.approx([1 / 2001] * len(strange), rel=1e-4)

    def test_follows_a_change(self):
        generator = torch.Generator().manual_seed(2)
        estimate = StreamingLogQ(slots=64, alpha=0.05)
        for p in (torch.tensor([0.9, 0.1]), torch.tensor([0.1, 0.9])):
            for _ in range(40):
                estimate.update(torch.multinomial(p, 128, replacement=True, generator=generator))
        assert estimate(torch.tensor([1])).exp().item() == pytest.approx(0.9, rel=0.2)

    def test_more_hashes_lose_less_to_collisions(self):
        generator = torch.Generator().manual_seed(3)
        stream = torch.randint(300, (60, 512), generator=generator)
        errors = []
        for hashes in (1, 4):
            estimate = StreamingLogQ(slots=1000, hashes=hashes, alpha=0.02)
            for keys in stream:
                estimate.update(keys)
            errors.append((estimate(torch.arange(300)) + math.log(300)).abs().mean().item())
        assert errors[1] < errors[0]

    def test_unseen_keys_count_as_one_event(self):
        estimate = StreamingLogQ(slots=2**16)
        assert estimate(torch.tensor([4])).item() == 0
        estimate.update(torch.zeros(9, dtype=torch.int64))
        assert estimate(torch.tensor([[4]])).exp().tolist() == [[pytest.approx(0.1)]]

    def test_state_dict_continues_exactly(self):
        first, second = StreamingLogQ(slots=32), StreamingLogQ(slots=32)
        first.update(torch.tensor([1, 2, 1]))
        second.load_state_dict(first.state_dict())
        for estimate in (first, second):
            estimate.update(torch.tensor([2, 2, 3]))
        keys = torch.arange(5)
        assert torch.equal(first(keys), second(keys))

    def test_slots_are_spread_evenly(self):
        estimate = StreamingLogQ(slots=100, hashes=2)
        counts = torch.bincount(estimate._slots(torch.arange(100_000))[1] - 100, minlength=100)
        chi_square = ((counts - 1000.0) ** 2 / 1000).sum().item()
        assert chi_square < 99 + 5 * math.sqrt(2 * 99)

    @pytest.mark.parametrize("options", [{"slots": 0}, {"slots": 1, "alpha": 0.0}, {"slots": 1, "hashes": 0}])
    def test_wrong_sizes_are_refused(self, options):
        with pytest.raises(ConfigError, match="alpha"):
            StreamingLogQ(**options)
