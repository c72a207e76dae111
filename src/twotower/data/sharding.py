"""Who reads which rows of an epoch, and in which random order: plain arithmetic, no communication."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from twotower.errors import ConfigError


@dataclass(frozen=True)
class Share:
    """The rows of an epoch that one of ``world`` ranks reads, cut into batches.

    Every row belongs to exactly one rank and every rank takes the same number of steps: the shares differ
    by one row at most, and where that row would need a step of its own it joins the last batch instead.
    ``drop_last`` makes all batches exactly ``batch_size`` long and leaves the rest out of this epoch.

    >>> [Share(rows=9, batch_size=2, rank=r, world=2).batches() for r in (0, 1)]
    [[(0, 2), (2, 4)], [(4, 6), (6, 9)]]
    """

    rows: int
    batch_size: int
    rank: int = 0
    world: int = 1
    drop_last: bool = False

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ConfigError(f"batch_size must be at least 1, found {self.batch_size}")
        if not 0 <= self.rank < self.world:
            raise ConfigError(f"rank must lie in 0..{self.world - 1}, found {self.rank}")
        if self.steps == 0:
            raise ConfigError(
                f"{self.rows:,} rows make no batch of {self.batch_size:,} for each of {self.world} ranks; "
                "use fewer ranks, a smaller batch_size, or drop_last=False"
            )

    @property
    def start(self) -> int:
        return self.rows * self.rank // self.world

    @property
    def stop(self) -> int:
        return self.rows * (self.rank + 1) // self.world

    @property
    def steps(self) -> int:
        smallest = self.rows // self.world
        return smallest // self.batch_size if self.drop_last else -(-smallest // self.batch_size)

    def batch(self, step: int) -> tuple[int, int]:
        """First and behind-last place of a step's rows in the order of the epoch."""
        first = self.start + step * self.batch_size
        last_one = step == self.steps - 1 and not self.drop_last
        return first, self.stop if last_one else first + self.batch_size

    def batches(self, start_step: int = 0) -> list[tuple[int, int]]:
        """All batches of this rank from a step on."""
        if start_step < 0:
            raise ConfigError(f"start_step must not be negative, found {start_step}")
        return [self.batch(step) for step in range(start_step, self.steps)]


def random_order(rows: int, *path: int) -> Tensor:
    """(rows,) a permutation that depends on ``path`` (seed, epoch, ...) alone."""
    return torch.randperm(rows, generator=generator_at(*path))


def generator_at(*path: int) -> torch.Generator:
    """A generator seeded by a path of numbers, none of them negative; nearby paths are unrelated."""
    entropy = (len(path), *path)  # the length too: numpy takes (0,) and (0, 0) for the same seed
    state = int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0])
    return torch.Generator().manual_seed(state >> 1)
