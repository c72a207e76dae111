"""Token vectors as a centroid and a few bits per dimension (ColBERTv2, Santhanam et al., NAACL 2022, 3.3).

What a token differs from its centroid by is cut, number by number, into stretches; each is remembered by its
number and read back as one value. Cuts and values are those of least squared error (Lloyd, "Least Squares
Quantization in PCM", 1982): the cuts half-way between values, the values the means of their stretches.

Differs from the paper: it cuts at quantiles and reads back middle quantiles, of more than twice the squared
error where differences are normal and have 4 bits.

Letters: N tokens, D vector length, n values, P numbers in a byte, W bytes of a token.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Self

import torch
from torch import Tensor
from torch.nn import functional

from twotower.errors import ConfigError

Bits = Literal[1, 2, 4]

ROWS_AT_ONCE = 2**16
SAMPLE = 2**20
"""Numbers that buckets are fitted on."""
ROUNDS = 50


@dataclass(frozen=True)
class Buckets:
    """Where differences are cut, and what each stretch is read back as.

    >>> buckets = Buckets.fit(torch.tensor([[-3.0, -1.0, 1.0, 3.0]]), bits=1)
    >>> buckets.values.tolist()
    [-2.0, 2.0]
    >>> buckets.unpack(buckets.pack(torch.tensor([[0.3, -0.7, 0.1]])), 3).tolist()
    [[2.0, -2.0, 2.0]]
    """

    cuts: Tensor  # (2^bits - 1,) rising
    values: Tensor  # (2^bits,)

    @classmethod
    def fit(cls, differences: Tensor, bits: Bits, generator: torch.Generator | None = None) -> Self:
        """From differences (N, D), all dimensions alike. ``generator`` draws whole rows of them where there
        are many; the same draws by default.
        """
        if bits not in (1, 2, 4):
            raise ConfigError(f"residuals take 1, 2 or 4 bits per dimension, found {bits}")
        n = 2**bits
        if differences.numel() > SAMPLE:
            generator = generator or torch.Generator().manual_seed(0)
            rows = torch.randperm(len(differences), generator=generator)
            differences = differences[rows[: max(1, SAMPLE // differences.shape[1])]]
        numbers = differences.flatten().double().sort().values
        if not len(numbers):
            numbers = torch.zeros(1, dtype=torch.float64)
        at = (torch.arange(n) + 0.5) / n * (len(numbers) - 1)  # the middle quantiles
        values = least_squares(numbers, numbers[at.round().long()]).float()
        return cls(_between(values), values)

    @property
    def bits(self) -> int:
        return len(self.values).bit_length() - 1

    def pack(self, differences: Tensor) -> Tensor:
        """(N, D) -> (N, W) uint8, the first number in the lowest bits."""
        P = 8 // self.bits
        number = torch.bucketize(differences.contiguous(), self.cuts)
        number = functional.pad(number, (0, -differences.shape[1] % P))
        shift = torch.arange(P) * self.bits
        packed: Tensor = (number.view(len(number), number.shape[1] // P, P) << shift).sum(2)
        return packed.to(torch.uint8)

    def unpack(self, packed: Tensor, dim: int) -> Tensor:
        """(N, W) uint8 -> (N, D) float32."""
        P = 8 // self.bits
        number = (torch.arange(256)[:, None] >> (torch.arange(P) * self.bits)) & (2**self.bits - 1)
        read = self.values[number]  # (256, P): what each byte stands for
        out = read.index_select(0, packed.flatten().int())
        out = out.view(len(packed), packed.shape[1] * P)
        return out[:, :dim]


def least_squares(numbers: Tensor, values: Tensor) -> Tensor:
    """Rising ``values`` (n,) after Lloyd's rounds on rising ``numbers`` (N,).

    A value that is nearest to no number stays.

    >>> least_squares(torch.tensor([0.0, 1.0, 5.0, 6.0, 7.0]), torch.tensor([1.0, 2.0, 90.0])).tolist()
    [0.5, 6.0, 90.0]
    """
    sums = torch.cat([numbers.new_zeros(1), numbers.cumsum(0)])
    zero, all_ = torch.tensor([0]), torch.tensor([len(numbers)])
    for _ in range(ROUNDS):
        ends = torch.cat([zero, torch.searchsorted(numbers, _between(values), right=True), all_])
        count = ends.diff()
        moved = torch.where(count > 0, sums[ends].diff() / count.clamp(min=1), values)
        if torch.equal(moved, values):
            break
        values = moved
    return values


def _between(values: Tensor) -> Tensor:
    return (values[1:] + values[:-1]) / 2


@dataclass(frozen=True)
class Residuals:
    """The vectors of N tokens, given their centroids."""

    packed: Tensor  # (N, W) uint8
    buckets: Buckets
    dim: int

    @classmethod
    def of(cls, vectors: Tensor, codes: Tensor, centroids: Tensor, buckets: Buckets) -> Self:
        """Encode vectors (N, D), whose centroids are ``codes`` (N,)."""
        parts = [
            buckets.pack(some.float() - centroids[own.long()])
            for some, own in zip(
                torch.split(vectors, ROWS_AT_ONCE), torch.split(codes, ROWS_AT_ONCE), strict=True
            )
        ]
        width = -(-vectors.shape[1] * buckets.bits // 8)
        packed = torch.cat([torch.empty(0, width, dtype=torch.uint8), *parts])
        return cls(packed, buckets, vectors.shape[1])

    def at(self, places: Tensor, codes: Tensor, centroids: Tensor) -> Tensor:
        """The vectors of chosen tokens, (n, D) float32."""
        own = centroids.index_select(0, codes.index_select(0, places))
        return own.add_(self.buckets.unpack(self.packed.index_select(0, places), self.dim))
