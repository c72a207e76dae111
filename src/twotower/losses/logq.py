"""How often an item is drawn as a candidate: the q of logQ correction, from counts or from the stream."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from twotower.errors import ConfigError, DataError


def log_q_from_counts(counts: Tensor) -> Tensor:
    """Log-probability (N,) that one random event is of each item: log(count / total), float32.

    This is the q of in-batch candidates, whose columns are events. ``counts`` (N,) come from the training
    part. An item without events cannot be drawn: minus infinity (the losses clip it).

    Raises
    ------
    DataError
        A negative count, or no event at all.

    >>> log_q_from_counts(torch.tensor([3, 1])).exp()
    tensor([0.7500, 0.2500])
    """
    if not bool((counts >= 0).all()) or not bool(counts.sum() > 0):
        raise DataError("item counts must be non-negative, with at least one event")
    return (counts.double() / counts.sum()).log().float()


class StreamingLogQ(nn.Module):
    """Running estimate of each item's frequency in a stream (Yi et al. 2019, algorithms 2 and 3).

    For every slot of a hash table it keeps A, when it was last hit, and B, the moving average of the gaps
    between hits: ``B <- (1 - alpha) B + alpha (t - A)``; q = 1 / B. Of several hash functions the largest B
    counts, since a collision can only shorten gaps. State lives in buffers: ``state_dict`` checkpoints it.

    What differs from the paper: the clock t counts events, not batches, so q is the probability of one draw
    (as `log_q_from_counts` gives it), and an item twice in a batch is simply two hits, in row order. The
    first hit of a slot sets B to the gap since the stream began rather than to a share of it.

    ``slots`` are those of each of the ``hashes`` hash functions (several times the number of items keep
    collisions rare); ``alpha`` is the step: about the last 1 / alpha hits of an item count.

    >>> estimate = StreamingLogQ(slots=64, hashes=2, alpha=0.1)
    >>> for _ in range(50):
    ...     estimate.update(torch.tensor([1, 2, 1, 3]))
    >>> [round(q, 2) for q in estimate(torch.tensor([1, 2])).exp().tolist()]
    [0.5, 0.25]
    """

    last_hit: Tensor
    mean_gap: Tensor
    clock: Tensor

    def __init__(self, slots: int, hashes: int = 4, alpha: float = 0.01) -> None:
        super().__init__()
        if slots < 1 or hashes < 1 or not 0 < alpha <= 1:
            raise ConfigError(
                f"needs slots >= 1, hashes >= 1 and 0 < alpha <= 1; found {slots}, {hashes}, {alpha}"
            )
        self.slots, self.hashes, self.alpha = slots, hashes, alpha
        self.register_buffer("last_hit", torch.full((hashes * slots,), -1, dtype=torch.int64))  # A
        self.register_buffer("mean_gap", torch.zeros(hashes * slots, dtype=torch.float64))  # B, 0 = never hit
        self.register_buffer("clock", torch.zeros((), dtype=torch.int64))  # events so far

    def forward(self, keys: Tensor) -> Tensor:
        """Log-probability per draw, float32, in the shape of ``keys``; never seen = seen once."""
        gaps = self.mean_gap[self._slots(keys.reshape(-1))]  # (hashes, n): a seen key hit all its slots
        gap = torch.where((gaps > 0).all(0), gaps.amax(0), (self.clock + 1).double())
        return -gap.log().float().reshape(keys.shape)

    @torch.no_grad()
    def update(self, keys: Tensor) -> None:
        """Take in one batch of events, keys (n,) in stream order: the same as one event after the other."""
        n = len(keys)
        if n == 0:
            return
        slot, event = self._slots(keys).reshape(-1).sort(stable=True)
        time = self.clock + event % n  # the sort is stable: rising within a slot
        fresh = torch.ones_like(slot, dtype=torch.bool)
        fresh[1:] = slot[1:] != slot[:-1]
        final = torch.ones_like(fresh)
        final[:-1] = fresh[1:]
        before = torch.where(fresh, self.last_hit[slot], time.roll(1))
        gap = (time - before).double()

        # the recurrence, unrolled: a hit with r hits of its slot after it weighs alpha * (1 - alpha)^r
        group = fresh.cumsum(0) - 1
        end = final.nonzero()[:, 0]
        hits_after = end[group] - torch.arange(len(slot), device=slot.device)
        first_ever = fresh & (before < 0)
        step = torch.where(first_ever, 1.0, self.alpha).double()
        share = step * torch.pow(1 - self.alpha, hits_after.double())
        touched = slot[end]
        hits = end.diff(prepend=end.new_full((1,), -1))
        self.mean_gap[touched] *= torch.pow(1 - self.alpha, hits.double())
        self.mean_gap.index_add_(0, slot, share * gap)
        self.last_hit[touched] = time[end]
        self.clock += n

    def _slots(self, keys: Tensor) -> Tensor:
        """Position of each key in each hash table, (hashes, n), the tables laid one after the other."""
        table = torch.arange(self.hashes, device=keys.device)[:, None]
        # a multiply-xorshift mix in int64, which wraps and is the same on every machine
        mixed = (keys.to(torch.int64) + 1 + table * 0x1F123BB5) * 0x2545F4914F6CDD1D
        mixed = (mixed ^ (mixed >> 29)) * 0x369DEA0F31A53F85
        mixed = mixed ^ (mixed >> 32)
        return mixed.remainder(self.slots) + table * self.slots
