"""The vectors of an index with their keys, in the order of keys."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from twotower.errors import ConfigError, DataError, MismatchError, StorageError
from twotower.index.keyed_rows import find
from twotower.index.manifest import Artefact, write_tensor
from twotower.types import NO_ITEM, Ragged


class Keyed:
    """Items in the order of their keys: an earlier position is a smaller key, so ties resolve by position."""

    keys: Tensor  # (C,) int64, rising

    def __len__(self) -> int:
        return len(self.keys)

    def positions(self, keys: Tensor) -> Tensor:
        """Position of each key, -1 for one that is not here."""
        return find(self.keys, keys)

    def keys_at(self, positions: Tensor) -> Tensor:
        """Key of each position, `NO_ITEM` for -1."""
        if len(self) == 0:
            return torch.full_like(positions, NO_ITEM)
        return self.keys[positions.clamp(min=0)].masked_fill(positions < 0, NO_ITEM)

    def excluded(self, exclude: Ragged | None, queries: int) -> Ragged | None:
        """The excluded positions of each query, rising and each once; keys that are not here vanish."""
        if exclude is None:
            return None
        if len(exclude) != queries:
            raise ConfigError(f"exclude has {len(exclude)} rows for {queries} queries")
        position = self.positions(exclude.values)
        row = exclude.row_of_value()[position >= 0]
        width = max(len(self), 1)
        cell = torch.unique(row * width + position[position >= 0])
        counts = torch.bincount(cell // width, minlength=queries)
        offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        return Ragged(cell % width, offsets)


@dataclass(frozen=True)
class Vectors(Keyed):
    """C item vectors, sorted by key.

    >>> vectors = Vectors.of(torch.tensor([[1.0], [2.0]]), keys=torch.tensor([7, 3]))
    >>> vectors.keys.tolist(), vectors.positions(torch.tensor([7, 8])).tolist()
    ([3, 7], [1, -1])
    """

    values: Tensor  # (C, D) float32
    keys: Tensor  # (C,) int64, rising

    @classmethod
    def of(cls, values: Tensor, keys: Tensor | None = None) -> Self:
        """Check and sort; without ``keys``, row i has key i.

        Raises
        ------
        ConfigError
            Shapes do not fit together, or keys are negative or occur twice.
        DataError
            A vector holds NaN or infinity: it would stand first, or nowhere, in every result.
        """
        if values.dim() != 2:
            raise ConfigError(f"item vectors must be (C, D), found shape {tuple(values.shape)}")
        if keys is None:
            keys = torch.arange(len(values))
        elif keys.shape != (len(values),):
            raise ConfigError(f"{len(values)} vectors need as many keys, found shape {tuple(keys.shape)}")
        elif keys.is_floating_point() or keys.dtype == torch.bool:
            raise ConfigError(f"keys of an index must be integers, found {keys.dtype}")
        keys = keys.to("cpu", torch.int64)
        if (keys.diff() <= 0).any():
            keys, order = keys.sort()
            values = values[order.to(values.device)]
        if len(keys) and (int(keys[0]) < 0 or (keys.diff() == 0).any()):
            raise ConfigError("keys of an index must be 0 or more and occur once")
        values = values.detach().to("cpu", torch.float32).contiguous()
        broken = ~values.isfinite().all(1)
        if broken.any():
            raise DataError(
                f"{int(broken.sum())} of {len(values)} item vectors hold NaN or infinity, "
                f"first the one of key {int(keys[broken][0])}",
                remedy="look for a diverged training run, or missing values in item features",
            )
        return cls(values, keys.contiguous())

    @property
    def dim(self) -> int:
        return self.values.shape[1]

    @property
    def bytes_per_item(self) -> int:
        return self.values.element_size() * self.dim + self.keys.element_size()

    def checked_query(self, query: Tensor, k: int) -> Tensor:
        """The query as (Q, D) float32 on the CPU, or an error that says what is wrong with the request."""
        if k < 1:
            raise ConfigError(f"k must be at least 1, found {k}")
        if query.dim() != 2 or query.shape[1] != self.dim:
            raise MismatchError(
                f"queries of shape {tuple(query.shape)} asked of an index of vectors with {self.dim} "
                f"floats, expected (Q, {self.dim}): was the index built from another model?"
            )
        query = query.detach().to("cpu", torch.float32).contiguous()
        if not query.isfinite().all():
            raise DataError(
                "a query vector holds NaN or infinity", remedy="check the features of the request"
            )
        return query

    def write(self, draft: Path) -> None:
        write_tensor(draft / "vectors.bin", self.values)
        write_tensor(draft / "keys.bin", self.keys)

    @property
    def about(self) -> dict[str, Any]:
        return {"rows": len(self), "dim": self.dim}

    @classmethod
    def read(cls, artefact: Artefact) -> Self:
        """Map what `write` wrote."""
        try:
            rows, dim = int(artefact.about["rows"]), int(artefact.about["dim"])
        except (KeyError, TypeError, ValueError) as error:
            raise StorageError(f"{artefact.directory}: the manifest lacks rows and dim: {error!r}") from None
        values = artefact.tensor("vectors.bin", (rows, dim), "float32")
        return cls(values, artefact.tensor("keys.bin", (rows,), "int64"))
