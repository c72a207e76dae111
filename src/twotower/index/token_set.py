"""What a multi-vector index keeps of its items: their tokens as centroid numbers, and the vectors.

Letters: C items, N tokens of all of them, K centroids, D vector length.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from twotower.errors import ConfigError, DataError, MismatchError, StorageError
from twotower.index.manifest import Artefact, write_tensor
from twotower.index.residual import Buckets, Residuals
from twotower.index.vectors import Keyed
from twotower.types import Ragged


@dataclass(frozen=True)
class TokenSet(Keyed):
    """The tokens of C items, sorted by key, one item after the other."""

    keys: Tensor  # (C,) int64, rising
    offsets: Tensor  # (C + 1,) int64
    codes: Tensor  # (N,) int32: the centroid of each token
    centroids: Tensor  # (K, D) float32
    kept: Tensor | Residuals  # (N, D) floats, or what they differ from their centroids by

    @property
    def dim(self) -> int:
        return self.centroids.shape[1]

    @property
    def n_tokens(self) -> int:
        return len(self.codes)

    @property
    def dtype(self) -> str:
        """What one number of a vector is kept as: ``float16``, or ``2 bits``."""
        if isinstance(self.kept, Residuals):
            return f"{self.kept.buckets.bits} bits"
        return str(self.kept.dtype).removeprefix("torch.")

    @property
    def n_bytes(self) -> int:
        kept = self.kept.packed if isinstance(self.kept, Residuals) else self.kept
        tensors = (self.keys, self.offsets, self.codes, self.centroids, kept)
        return sum(t.numel() * t.element_size() for t in tensors)

    def places(self, positions: Tensor) -> Ragged:
        """Where the tokens of chosen items (n,) lie."""
        lengths = self.offsets[positions + 1] - self.offsets[positions]
        offsets = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
        shift = torch.repeat_interleave(self.offsets[positions] - offsets[:-1], lengths)
        return Ragged(shift.add_(torch.arange(len(shift))), offsets)

    def at(self, places: Tensor) -> Tensor:
        """The vectors of chosen tokens, (n, D) float32."""
        if isinstance(self.kept, Residuals):
            return self.kept.at(places, self.codes, self.centroids)
        return self.kept.index_select(0, places).float()

    def take(self, positions: Tensor) -> Ragged:
        """The vectors of chosen items, (n, D) float32 each."""
        places = self.places(positions)
        return Ragged(self.at(places.values), places.offsets)

    def merged(self, positions: Tensor, other: TokenSet) -> Self:
        """Chosen items of this set and all of another with the same centroids, nothing encoded again."""
        order = torch.cat([self.keys[positions], other.keys]).argsort()
        keys = torch.cat([self.keys[positions], other.keys])[order]
        mine = self.places(positions)
        lengths = torch.cat([mine.lengths, other.offsets.diff()])
        both = torch.cat([mine.values, torch.arange(other.n_tokens) + self.n_tokens])
        rows = Ragged(both, torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])).take(order)

        def chosen(mine: Tensor, others: Tensor) -> Tensor:
            out = torch.empty(len(rows.values), *mine.shape[1:], dtype=mine.dtype)
            old = rows.values < self.n_tokens
            out[old] = mine[rows.values[old]]
            out[~old] = others[rows.values[~old] - self.n_tokens]
            return out

        codes = chosen(self.codes, other.codes)
        if isinstance(self.kept, Residuals) and isinstance(other.kept, Residuals):
            packed = chosen(self.kept.packed, other.kept.packed)
            kept: Tensor | Residuals = Residuals(packed, self.kept.buckets, self.dim)
        else:
            assert isinstance(self.kept, Tensor)
            assert isinstance(other.kept, Tensor)
            kept = chosen(self.kept, other.kept)
        return type(self)(keys, rows.offsets, codes, self.centroids, kept)

    # -- on disk ---------------------------------------------------------------------------------------

    def write(self, draft: Path) -> None:
        tensors = {
            "keys": self.keys,
            "offsets": self.offsets,
            "codes": self.codes,
            "centroids": self.centroids,
        }
        if isinstance(self.kept, Residuals):
            buckets = self.kept.buckets
            tensors |= {"residuals": self.kept.packed, "cuts": buckets.cuts, "values": buckets.values}
        else:
            tensors["vectors"] = self.kept
        for name, tensor in tensors.items():
            write_tensor(draft / f"{name}.bin", tensor)

    @property
    def about(self) -> dict[str, Any]:
        return {
            "rows": len(self),
            "tokens": self.n_tokens,
            "dim": self.dim,
            "centroids": len(self.centroids),
            "kept": self.dtype,
        }

    @classmethod
    def read(cls, artefact: Artefact) -> Self:
        """Map what `write` wrote."""
        try:
            C, N, D, K = (int(artefact.about[name]) for name in ("rows", "tokens", "dim", "centroids"))
            kind, _, unit = str(artefact.about["kept"]).partition(" ")
            bits = int(kind) if unit else 0
        except (KeyError, TypeError, ValueError) as error:
            raise StorageError(f"{artefact.directory}: the manifest lacks its sizes: {error!r}") from None
        if bits:
            cuts = artefact.tensor("cuts.bin", (2**bits - 1,), "float32")
            values = artefact.tensor("values.bin", (2**bits,), "float32")
            packed = artefact.tensor("residuals.bin", (N, -(-D * bits // 8)), "uint8")
            kept: Tensor | Residuals = Residuals(packed, Buckets(cuts, values), D)
        else:
            kept = artefact.tensor("vectors.bin", (N, D), kind)
        return cls(
            artefact.tensor("keys.bin", (C,), "int64"),
            artefact.tensor("offsets.bin", (C + 1,), "int64"),
            artefact.tensor("codes.bin", (N,), "int32"),
            artefact.tensor("centroids.bin", (K, D), "float32"),
            kept,
        )


def checked(tokens: Ragged | Tensor, keys: Tensor | None) -> tuple[Ragged, Tensor]:
    """Items by rising key; without ``keys``, row i has key i. A matrix (C, D) is items of one token each.

    Raises
    ------
    ConfigError
        Shapes do not fit together, or keys are negative or occur twice.
    DataError
        A vector holds NaN or infinity.
    """
    values = tokens.values if isinstance(tokens, Ragged) else tokens
    if values.dim() != 2:
        raise ConfigError(f"item vectors must be (C, D), tokens (N, D), found shape {tuple(values.shape)}")
    values = values.detach().to("cpu")
    offsets = tokens.offsets.to("cpu") if isinstance(tokens, Ragged) else torch.arange(len(values) + 1)
    rows = Ragged(values, offsets)
    keys = torch.arange(len(rows)) if keys is None else keys.to("cpu", torch.int64).contiguous()
    if keys.shape != (len(rows),):
        raise ConfigError(f"{len(rows)} items need as many keys, found shape {tuple(keys.shape)}")
    if (keys.diff() <= 0).any():
        keys, order = keys.sort()
        rows = rows.take(order)
    if len(keys) and (int(keys[0]) < 0 or (keys.diff() == 0).any()):
        raise ConfigError("keys of an index must be 0 or more and occur once")
    broken = ~rows.values.isfinite().all(1)
    if broken.any():
        owner = torch.unique(rows.row_of_value()[broken])
        raise DataError(
            f"{len(owner)} of {len(rows)} item vectors hold NaN or infinity, "
            f"first the one of key {int(keys[owner[0]])}",
            remedy="look for a diverged training run, or missing values in item features",
        )
    return rows, keys


def checked_query(query: Tensor, k: int, dim: int) -> Tensor:
    """The query as (Q, L, D) float32 on the CPU, or an error that says what is wrong with the request;
    (Q, D) is queries of one token."""
    if k < 1:
        raise ConfigError(f"k must be at least 1, found {k}")
    if query.dim() not in (2, 3) or query.shape[-1] != dim:
        raise MismatchError(
            f"queries of shape {tuple(query.shape)} asked of an index of vectors with {dim} floats, "
            f"expected (Q, {dim}) or (Q, L, {dim}): was the index built from another model?"
        )
    query = query.detach().to("cpu", torch.float32)
    if not query.isfinite().all():
        raise DataError("a query vector holds NaN or infinity", remedy="check the features of the request")
    return query[:, None] if query.dim() == 2 else query
