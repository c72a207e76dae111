"""The representations of all items, computed once, kept on disk and memory-mapped.

Row i of every tensor belongs to the item with key i. Shape letters as in `twotower.types`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal, Self

import torch
from torch import Tensor

from twotower.errors import ConfigError, StorageError
from twotower.index.draft import Draft, publish_in_chunks
from twotower.index.manifest import Artefact, open_artefact, publish, write_tensor
from twotower.index.ragged_rows import packed, padded
from twotower.index.stored_rep import as_stored, dtype_of, name_of
from twotower.types import NO_ITEM, Ragged, Rep, RepSpec

Storage = Literal["float32", "bfloat16", "float16"]
Encode = Callable[[Tensor], Rep]
"""Keys (C,) int64 to the representation (C, ...) of these items: ``model.encode_item`` of their features."""
Progress = Callable[[int, int], None]
"""Told of items done and of all: where the work begins (at 0, or where it resumes), then of each chunk."""

KIND = "item table"
CHUNK, RAGGED_CHUNK = 8192, 2048
"""Items encoded at once; fewer where each has many rows."""


class ItemTable:
    """The `Rep` of a whole catalogue, and the digest of what produced it.

    Floating tensors may be *stored* in fewer bits than the model declares; what `take` and `slice` return has
    the declared dtype again. Ragged ones are stored without padding, and come back padded to the longest of
    those asked for, their lengths beside them.

    >>> specs = [RepSpec("vector", (2,))]
    >>> table = ItemTable.build(lambda keys: Rep(vector=keys[:, None] * torch.ones(2)), 4, specs, "digest")
    >>> table.take(torch.tensor([[3, NO_ITEM]]))["vector"].tolist(), table.bytes_per_item
    ([[[3.0, 3.0], [0.0, 0.0]]], 8)
    """

    def __init__(
        self,
        stored: Rep,
        specs: Sequence[RepSpec],
        produced_by: str,
        ragged: Mapping[str, Ragged] | None = None,
    ) -> None:
        self.stored = stored
        self.ragged = dict(ragged or {})
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
        chunk: int | None = None,
        storage: Storage | None = None,
        directory: str | Path | None = None,
        resume: bool = True,
        progress: Progress | None = None,
    ) -> Self:
        """Encode items 0 .. rows-1, ``chunk`` at a time, by default `CHUNK`, or `RAGGED_CHUNK`.

        With a ``directory`` each chunk goes straight to disk and the published table comes back mapped, so
        memory never holds more than a chunk. A build that died there is gone on with behind its last chunk,
        by one with the same digest, specs, rows, chunk and storage (`twotower.index.draft`): it ends with the
        bytes of one that was never killed. Not with ``resume=False``, for items that may have changed since.

        Raises
        ------
        MismatchError
            ``encode`` returns other names, shapes or dtypes than ``specs`` declares.
        DataError
            A number is NaN or infinite, or too large for ``storage``.
        ConfigError
            Two of ``specs``, or the lengths of a ragged one, have the same name.
        StorageError
            The disk refuses, or another process builds in the same directory.
        """
        _check(specs)
        kept = tuple(_kept(spec, storage) for spec in specs)
        chunk = chunk or (RAGGED_CHUNK if any(spec.ragged for spec in specs) else CHUNK)
        work = partial(_encode_chunks, encode, rows, specs, kept, chunk, progress)
        if directory is None:
            stored, ragged = _gathered(work(0), rows, kept)
            return cls(stored, specs, produced_by, ragged)
        about = _about(rows, specs, kept)
        with publish_in_chunks(
            directory, kind=KIND, produced_by=produced_by, about=about, chunk=chunk, resume=resume
        ) as draft:
            _streamed(work(draft.rows), kept, draft)
        return cls.load(directory, expect=produced_by, verify=False)

    def save(self, directory: str | Path) -> None:
        """Write the table beside whatever the directory holds, then make it the current one at once."""
        about = _about(self.rows, self.specs, self.kept)
        with publish(directory, kind=KIND, produced_by=self.produced_by, about=about) as draft:
            for name, tensor in self.stored.items():
                write_tensor(draft / f"{name}.bin", tensor)
            for name, rows in self.ragged.items():
                write_tensor(draft / f"{name}.bin", rows.values)
                write_tensor(draft / f"{name}_offsets.bin", rows.offsets)

    @classmethod
    def load(cls, directory: str | Path, expect: str | None = None, *, verify: bool = True) -> Self:
        """Map a saved table into memory; checked as `twotower.index.manifest.open_artefact` says."""
        artefact = open_artefact(directory, KIND, expect, verify)
        try:
            rows = int(artefact.about["rows"])
            specs, kept = (
                [
                    RepSpec(s["name"], tuple(s["shape"]), s["dtype"], s.get("ragged", False))
                    for s in artefact.about[which]
                ]
                for which in ("specs", "kept")
            )
        except (KeyError, TypeError) as error:
            raise StorageError(f"{directory}: the manifest does not describe a table: {error!r}") from None
        stored = Rep(
            (s.name, artefact.tensor(f"{s.name}.bin", (rows, *s.shape), s.dtype))
            for s in kept
            if not s.ragged
        )
        ragged = {s.name: read_ragged(artefact, s.name, rows, s.shape, s.dtype) for s in kept if s.ragged}
        return cls(stored, specs, artefact.produced_by, ragged)

    @property
    def rows(self) -> int:
        return next((len(rows) for rows in self.ragged.values()), self.stored.rows)

    @property
    def kept(self) -> tuple[RepSpec, ...]:
        """The specs with the dtypes that are really stored."""
        return tuple(replace(s, dtype=name_of(self._values(s).dtype)) for s in self.specs)

    @property
    def bytes_per_item(self) -> float:
        """Bytes of one item in this table, as stored; of a ragged tensor the mean, its offset included."""
        return sum(self._bytes_per_item(spec) for spec in self.kept)

    @cached_property
    def taken_bytes(self) -> int:
        """Bytes of one item as `take` hands it out at most: padded to the longest there is."""
        longest = {name: int(rows.lengths.max()) if len(rows) else 0 for name, rows in self.ragged.items()}
        return sum(spec.bytes_per_item * longest.get(spec.name, 1) for spec in self.specs)

    def take(self, keys: Tensor) -> Rep:
        """Rows by key, (Q, K) -> tensors (Q, K, ...); `NO_ITEM` gives zeros, which the caller masks."""
        if keys.numel() and not NO_ITEM <= int(keys.min()) <= int(keys.max()) < self.rows:
            raise IndexError(
                f"keys {int(keys.min())} to {int(keys.max())} asked of a table of {self.rows} items"
            )
        return self._in_order(self._fixed(keys), keys)

    def slice(self, start: int, stop: int) -> Rep:
        """Rows start .. stop-1, (C, ...)."""
        keys = torch.arange(self.rows)[start:stop] if self.ragged else None
        return self._in_order(self.as_declared(self.stored.slice(start, stop)), keys)

    def as_declared(self, rep: Rep) -> Rep:
        """Stored rows in the dtypes the model declares."""
        return Rep((name, t.to(self._declared.get(name, t.dtype))) for name, t in rep.items())

    def _fixed(self, keys: Tensor) -> Rep:
        """The tensors that are not ragged."""
        empty = keys == NO_ITEM
        if not empty.any():
            return self.as_declared(self.stored.take(keys))
        rep = Rep(
            (s.name, torch.zeros(*keys.shape, *s.shape, dtype=dtype_of(s.dtype)))
            for s in self.specs
            if not s.ragged
        )
        for name, tensor in self.as_declared(self.stored.take(keys[~empty])).items():
            rep[name][~empty] = tensor
        return rep

    def _in_order(self, fixed: Rep, keys: Tensor | None) -> Rep:
        """``fixed`` and the ragged tensors of ``keys``, in the order of the specs."""
        rep = Rep()
        for spec in self.specs:
            if spec.ragged:
                assert keys is not None
                dtype = dtype_of(spec.dtype)
                rep[spec.name], rep[spec.length] = padded(self.ragged[spec.name], keys, dtype)
            else:
                rep[spec.name] = fixed[spec.name]
        return rep

    @property
    def _declared(self) -> dict[str, torch.dtype]:
        return {spec.name: dtype_of(spec.dtype) for spec in self.specs}

    def _values(self, spec: RepSpec) -> Tensor:
        return self.ragged[spec.name].values if spec.ragged else self.stored[spec.name]

    def _bytes_per_item(self, kept: RepSpec) -> float:
        if not kept.ragged:
            return kept.bytes_per_item
        rows = self.ragged[kept.name]
        return rows.offsets.itemsize + kept.bytes_per_item * len(rows.values) / max(1, len(rows))

    def __repr__(self) -> str:
        kept = ", ".join(f"{s.name} {'n x ' * s.ragged}{s.shape} {s.dtype}" for s in self.kept)
        return f"ItemTable({self.rows:,} items of {self.bytes_per_item:.0f} bytes: {kept})"


def _encode_chunks(
    encode: Encode,
    rows: int,
    specs: Sequence[RepSpec],
    kept: Sequence[RepSpec],
    chunk: int,
    progress: Progress | None,
    first: int,
) -> Iterator[tuple[int, Rep]]:
    """(first key, representation as it will be stored) of one chunk after the other, from ``first`` on."""
    if progress is not None:
        progress(first, rows)
    for start in range(first, rows, chunk):
        keys = torch.arange(start, min(start + chunk, rows))
        with torch.no_grad():
            rep = as_stored(encode(keys), keys, specs, kept)
        yield start, rep
        if progress is not None:  # whoever asked for the next chunk has kept this one
            progress(start + len(keys), rows)


def _gathered(
    chunks: Iterable[tuple[int, Rep]], rows: int, kept: Sequence[RepSpec]
) -> tuple[Rep, dict[str, Ragged]]:
    """All chunks in memory: tensors with one row per item, and ragged ones."""
    stored = Rep((s.name, torch.empty(rows, *s.shape, dtype=dtype_of(s.dtype))) for s in kept if not s.ragged)
    values = {s.name: [torch.empty(0, *s.shape, dtype=dtype_of(s.dtype))] for s in kept if s.ragged}
    lengths = {s.name: [torch.zeros(1, dtype=torch.int64)] for s in kept if s.ragged}
    for start, rep in chunks:
        for spec in kept:
            if spec.ragged:
                values[spec.name].append(packed(rep[spec.name], rep[spec.length]).values)
                lengths[spec.name].append(rep[spec.length])
            else:
                stored[spec.name][start : start + len(rep[spec.name])] = rep[spec.name]
    return stored, {n: Ragged(torch.cat(values.pop(n)), torch.cat(lengths[n]).cumsum(0)) for n in lengths}


def _streamed(chunks: Iterable[tuple[int, Rep]], kept: Sequence[RepSpec], draft: Draft) -> None:
    """One chunk after the other behind those that the draft holds, to the files `ItemTable.load` maps."""
    ends = {}
    for spec in kept:
        (draft.files / f"{spec.name}.bin").touch()
        if spec.ragged:
            path = draft.files / f"{spec.name}_offsets.bin"
            if not draft.rows:
                write_tensor(path, torch.zeros(1, dtype=torch.int64))
            ends[spec.name] = torch.from_file(str(path), size=draft.rows + 1, dtype=torch.int64)[-1:]
    for start, rep in chunks:
        for spec in kept:
            if spec.ragged:
                rows = packed(rep[spec.name], rep[spec.length])
                offsets = rows.offsets[1:] + ends[spec.name]
                write_tensor(draft.files / f"{spec.name}.bin", rows.values)
                write_tensor(draft.files / f"{spec.name}_offsets.bin", offsets)
                ends[spec.name] = offsets[-1:]
            else:
                write_tensor(draft.files / f"{spec.name}.bin", rep[spec.name])
        draft.advance(start + len(rep[kept[0].name]))


def read_ragged(artefact: Artefact, name: str, rows: int, shape: tuple[int, ...], dtype: str) -> Ragged:
    """The ragged tensor in files ``name.bin`` and ``name_offsets.bin``, both mapped."""
    offsets = artefact.tensor(f"{name}_offsets.bin", (rows + 1,), "int64")
    values = artefact.tensor(f"{name}.bin", (int(offsets[-1]), *shape), dtype)
    return Ragged(values, offsets)


def _about(rows: int, specs: Sequence[RepSpec], kept: Sequence[RepSpec]) -> dict[str, Any]:
    return {"rows": rows, "specs": [asdict(s) for s in specs], "kept": [asdict(s) for s in kept]}


def _check(specs: Sequence[RepSpec]) -> None:
    names = [name for s in specs for name in ([s.name, s.length] if s.ragged else [s.name])]
    if len(set(names)) != len(names):
        raise ConfigError(f"the specs of a table use a name twice: {names}")


def _kept(spec: RepSpec, storage: Storage | None) -> RepSpec:
    return replace(spec, dtype=storage) if storage and dtype_of(spec.dtype).is_floating_point else spec
