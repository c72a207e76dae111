"""The representations of all items, computed once, kept on disk and memory-mapped.

Row i of every tensor belongs to the item with key i. Shape letters as in `twotower.types`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal, Self

import torch
from torch import Tensor

from twotower.errors import MismatchError, StorageError
from twotower.index.manifest import open_artefact, publish, write_tensor
from twotower.types import NO_ITEM, Rep, RepSpec

Storage = Literal["float32", "bfloat16", "float16"]
Encode = Callable[[Tensor], Rep]
"""Keys (C,) int64 to the representation (C, ...) of these items: ``model.encode_item`` of their features."""

KIND = "item table"


class ItemTable:
    """The `Rep` of a whole catalogue, and the digest of what produced it.

    Floating tensors may be *stored* in fewer bits than the model declares; what `take` and `slice` return has
    the declared dtype again.

    >>> specs = [RepSpec("vector", (2,))]
    >>> table = ItemTable.build(lambda keys: Rep(vector=keys[:, None] * torch.ones(2)), 4, specs, "digest")
    >>> table.take(torch.tensor([[3, NO_ITEM]]))["vector"].tolist(), table.bytes_per_item
    ([[[3.0, 3.0], [0.0, 0.0]]], 8)
    """

    def __init__(self, stored: Rep, specs: Sequence[RepSpec], produced_by: str) -> None:
        self.stored = stored
        self.specs = tuple(specs)
        self.produced_by = produced_by

    @classmethod
    def build(
        cls,
        encode: Encode,
        rows: int,
        specs: Sequence[RepSpec],
        produced_by: str,
        *,
        chunk: int = 8192,
        storage: Storage | None = None,
        directory: str | Path | None = None,
    ) -> Self:
        """Encode items 0 .. rows-1, ``chunk`` at a time.

        With a ``directory`` each chunk goes straight to disk and the published table comes back mapped, so
        memory never holds more than a chunk.

        Raises
        ------
        MismatchError
            ``encode`` returns other names, shapes or dtypes than ``specs`` declares.
        """
        kept = tuple(_kept(spec, storage) for spec in specs)
        chunks = _encode_chunks(encode, rows, specs, kept, chunk)
        if directory is None:
            stored = Rep((s.name, torch.empty(rows, *s.shape, dtype=_dtype(s.dtype))) for s in kept)
            for start, rep in chunks:
                for name, tensor in rep.items():
                    stored[name][start : start + len(tensor)] = tensor
            return cls(stored, specs, produced_by)
        with publish(directory, kind=KIND, produced_by=produced_by, about=_about(rows, specs, kept)) as draft:
            for spec in kept:
                (draft / f"{spec.name}.bin").touch()
            for _, rep in chunks:
                for name, tensor in rep.items():
                    write_tensor(draft / f"{name}.bin", tensor)
        return cls.load(directory, expect=produced_by, verify=False)

    def save(self, directory: str | Path) -> None:
        """Write the table beside whatever the directory holds, then make it the current one at once."""
        about = _about(self.rows, self.specs, self.kept)
        with publish(directory, kind=KIND, produced_by=self.produced_by, about=about) as draft:
            for name, tensor in self.stored.items():
                write_tensor(draft / f"{name}.bin", tensor)

    @classmethod
    def load(cls, directory: str | Path, expect: str | None = None, *, verify: bool = True) -> Self:
        """Map a saved table into memory; checked as `twotower.index.manifest.open_artefact` says."""
        artefact = open_artefact(directory, KIND, expect, verify)
        try:
            rows = int(artefact.about["rows"])
            specs, kept = (
                [RepSpec(s["name"], tuple(s["shape"]), s["dtype"]) for s in artefact.about[which]]
                for which in ("specs", "kept")
            )
        except (KeyError, TypeError) as error:
            raise StorageError(f"{directory}: the manifest does not describe a table: {error!r}") from None
        stored = Rep((s.name, artefact.tensor(f"{s.name}.bin", (rows, *s.shape), s.dtype)) for s in kept)
        return cls(stored, specs, artefact.produced_by)

    @property
    def rows(self) -> int:
        return self.stored.rows

    @property
    def kept(self) -> tuple[RepSpec, ...]:
        """The specs with the dtypes that are really stored."""
        return tuple(replace(s, dtype=_name(self.stored[s.name].dtype)) for s in self.specs)

    @property
    def bytes_per_item(self) -> int:
        """Bytes of one item in this table, as stored."""
        return sum(spec.bytes_per_item for spec in self.kept)

    def take(self, keys: Tensor) -> Rep:
        """Rows by key, (Q, K) -> tensors (Q, K, ...); `NO_ITEM` gives zeros, which the caller masks."""
        if keys.numel() and not NO_ITEM <= int(keys.min()) <= int(keys.max()) < self.rows:
            raise IndexError(
                f"keys {int(keys.min())} to {int(keys.max())} asked of a table of {self.rows} items"
            )
        empty = keys == NO_ITEM
        if not empty.any():
            return self.as_declared(self.stored.take(keys))
        rep = Rep((s.name, torch.zeros(*keys.shape, *s.shape, dtype=_dtype(s.dtype))) for s in self.specs)
        for name, tensor in self.as_declared(self.stored.take(keys[~empty])).items():
            rep[name][~empty] = tensor
        return rep

    def slice(self, start: int, stop: int) -> Rep:
        """Rows start .. stop-1, (C, ...)."""
        return self.as_declared(self.stored.slice(start, stop))

    def as_declared(self, rep: Rep) -> Rep:
        """Stored rows in the dtypes the model declares."""
        return Rep((s.name, rep[s.name].to(_dtype(s.dtype))) for s in self.specs)

    def __repr__(self) -> str:
        kept = ", ".join(f"{s.name} {s.shape} {s.dtype}" for s in self.kept)
        return f"ItemTable({self.rows:,} items of {self.bytes_per_item} bytes: {kept})"


def _encode_chunks(
    encode: Encode, rows: int, specs: Sequence[RepSpec], kept: Sequence[RepSpec], chunk: int
) -> Iterator[tuple[int, Rep]]:
    """(first key, representation as it will be stored) of one chunk after the other."""
    for start in range(0, rows, chunk):
        keys = torch.arange(start, min(start + chunk, rows))
        with torch.no_grad():
            yield start, as_stored(encode(keys), keys, specs, kept)


def as_stored(rep: Rep, keys: Tensor, specs: Sequence[RepSpec], kept: Sequence[RepSpec]) -> Rep:
    """What a table keeps of the representation of ``keys``; a `MismatchError` if it is not as declared."""
    found = {name: (tuple(t.shape), _name(t.dtype)) for name, t in rep.items()}
    wanted = {s.name: ((len(keys), *s.shape), s.dtype) for s in specs}
    if found != wanted:
        raise MismatchError(
            f"encode returned {found} for items {keys[:1].tolist()}.., the specs declare {wanted}"
        )
    return Rep((s.name, rep[s.name].detach().to("cpu", _dtype(s.dtype))) for s in kept)


def _about(rows: int, specs: Sequence[RepSpec], kept: Sequence[RepSpec]) -> dict[str, Any]:
    return {"rows": rows, "specs": [asdict(s) for s in specs], "kept": [asdict(s) for s in kept]}


def _kept(spec: RepSpec, storage: Storage | None) -> RepSpec:
    return replace(spec, dtype=storage) if storage and _dtype(spec.dtype).is_floating_point else spec


def _dtype(name: str) -> torch.dtype:
    dtype: torch.dtype = getattr(torch, name)
    return dtype


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
