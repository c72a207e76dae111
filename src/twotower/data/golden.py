"""Golden rows: a few raw rows and the tensors they became, replayed when a bundle is loaded.

If another version of a library, or a hand in a file, changes what a value encodes to, the models of the
bundle are silently wrong. The replay goes both ways, by table and by request, and says where they part.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from twotower.data.dataset import Dataset
from twotower.data.features import Features
from twotower.errors import DataError, MismatchError, StorageError
from twotower.types import Batch

SIDES = ("queries", "items", "context")


@dataclass(frozen=True)
class GoldenRows:
    """N events as raw rows, each with its query and its item, and their encoded tensors.

    Row 0 is missing in all values; the others are drawn from the data.
    """

    queries: pl.DataFrame  # (N, query columns)
    items: pl.DataFrame  # (N, item columns)
    context: pl.DataFrame  # (N, context columns)
    encoded: Batch  # "queries/age": (N, ...), ...

    @classmethod
    def take(cls, features: Features, dataset: Dataset, n: int = 16, seed: int = 0) -> GoldenRows:
        """Draw ``n`` events (fewer when there are fewer), and encode them."""
        generator = np.random.default_rng(seed)
        chosen = generator.choice(len(dataset.events), size=min(n, len(dataset.events)), replace=False)
        events = dataset.events[np.sort(chosen)]
        schema = dataset.schema
        side_rows = {
            "queries": dataset.queries[dataset.query_catalogue.keys(events[schema.query])],
            "items": dataset.items[dataset.item_catalogue.keys(events[schema.item])],
            "context": events,
        }
        columns = {
            "queries": [c.name for c in features.spec.side("query") if c.kind != "sequence"],
            "items": [c.name for c in features.spec.side("item")],
            "context": [c.name for c in features.spec.side("context")],
        }
        raw = {}
        for side, names in columns.items():
            frame = side_rows[side].select(list(dict.fromkeys(schema[name].source for name in names)))
            raw[side] = pl.concat([frame.clear(1), frame])
        return cls(**raw, encoded=_encode(features, raw))

    def replay(self, features: Features) -> None:
        """Encode the rows again.

        Raises
        ------
        MismatchError
            The first column and row that differ from what was stored, or are encoded differently when
            they come as a request.
        """
        try:
            again = _encode(features, {side: getattr(self, side) for side in SIDES})
        except DataError as error:
            raise MismatchError(f"golden rows: the features cannot encode them: {error}") from error
        if again.keys() != self.encoded.keys():
            raise MismatchError(
                f"golden rows hold {sorted(self.encoded)}, the features encode {sorted(again)}"
            )
        for name, stored in self.encoded.items():
            _compare(name, stored, again[name], first_row=0)
        for row in range(max(len(self.queries), len(self.context))):
            request = features.encode_request({**_row(self.queries, row), **_row(self.context, row)})
            for column, tensor in request.items():
                name = f"context/{column}" if f"context/{column}" in self.encoded else f"queries/{column}"
                _compare(f"{name} (as a request)", self.encoded[name][row : row + 1], tensor, first_row=row)

    def save(self, directory: str | Path) -> None:
        """Write the raw rows as Parquet and the tensors as safetensors."""
        directory = Path(directory)
        try:
            directory.mkdir(parents=True, exist_ok=True)
            for side in SIDES:
                getattr(self, side).write_parquet(directory / f"{side}.parquet")
            save_file({n: t.contiguous() for n, t in self.encoded.items()}, directory / "encoded.safetensors")
        except (OSError, SafetensorError, pl.exceptions.PolarsError) as error:
            raise StorageError(f"{directory}: golden rows not written: {error}") from error

    @classmethod
    def load(cls, directory: str | Path) -> GoldenRows:
        """Read what `save` wrote; a missing or cut file is a `StorageError`."""
        directory = Path(directory)
        try:
            frames = {side: pl.read_parquet(directory / f"{side}.parquet", glob=False) for side in SIDES}
            return cls(**frames, encoded=Batch(load_file(directory / "encoded.safetensors")))
        except (OSError, SafetensorError, pl.exceptions.PolarsError) as error:
            raise StorageError(f"{directory}: no readable golden rows: {error}") from error


def _encode(features: Features, raw: dict[str, pl.DataFrame]) -> Batch:
    batches = {
        "queries": features.encode_queries(raw["queries"]),
        "items": features.encode_items(raw["items"]),
        "context": features.encode_context(raw["context"]),
    }
    return Batch((f"{side}/{name}", t) for side, batch in batches.items() for name, t in batch.items())


def _row(frame: pl.DataFrame, row: int) -> dict[str, Any]:
    return frame.row(row, named=True) if frame.width else {}


def _compare(name: str, stored: torch.Tensor, again: torch.Tensor, first_row: int) -> None:
    if (stored.shape, stored.dtype) != (again.shape, again.dtype):
        raise MismatchError(
            f"golden rows: {name} was {tuple(stored.shape)} {stored.dtype}, "
            f"is {tuple(again.shape)} {again.dtype}"
        )
    if stored.is_floating_point():  # the last bit may differ between processors
        same = torch.isclose(stored, again, rtol=1e-5, atol=1e-6)
    else:
        same = stored == again
    wrong = (~same.reshape(len(same), -1).all(dim=1)).nonzero()
    if len(wrong):
        row = int(wrong[0])
        raise MismatchError(
            f"golden rows: {name}, row {first_row + row}: was {stored[row].tolist()}, "
            f"is {again[row].tolist()}; model and features do not belong together"
        )
