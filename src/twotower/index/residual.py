"""Token vectors as a centroid and a few bits per dimension (ColBERTv2, Santhanam et al., NAACL 2022, 3.3).

What a token differs from its centroid by is cut, number by number, at the quantiles of such differences;
each stretch between two cuts is remembered by its number and read back as its middle quantile.

Letters: N tokens, D vector length, P numbers in a byte, W bytes of a token.
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


@dataclass(frozen=True)
class Buckets:
    """Where differences are cut, and what each stretch is read back as.

    >>> buckets = Buckets.fit(torch.arange(-4.0, 5.0)[:, None], bits=1)
    >>> buckets.values.tolist()
    [-2.0, 2.0]
    >>> buckets.unpack(buckets.pack(torch.tensor([[0.3, -0.7, 0.1]])), 3).tolist()
    [[2.0, -2.0, 2.0]]
    """

    cuts: Tensor  # (2^bits - 1,) rising
    values: Tensor  # (2^bits,)

    @classmethod
    def fit(cls, differences: Tensor, bits: Bits) -> Self:
        """From a sample of differences (n, D), all dimensions alike."""
        if bits not in (1, 2, 4):
            raise ConfigError(f"residuals take 1, 2 or 4 bits per dimension, found {bits}")
        n = 2**bits
        flat = differences.flatten()
        flat = flat[:: max(1, len(flat) // 2**20)].float()  # torch sorts what it takes quantiles of
        if not len(flat):
            flat = torch.zeros(1)
        at = torch.arange(2 * n + 1) / (2 * n)
        quantiles = torch.quantile(flat, at)
        cuts, values = quantiles[2:-2:2], quantiles[1::2]
        return cls(*(t.clone(memory_format=torch.contiguous_format) for t in (cuts, values)))

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
