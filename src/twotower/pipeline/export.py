"""Vectors for other engines: item and query vectors of a retriever as Parquet."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from twotower.data.atomic import replacing
from twotower.data.catalogue import Catalogue
from twotower.errors import ConfigError, StorageError
from twotower.pipeline.pipeline import Pipeline

ROWS_AT_ONCE = 65_536


def export_vectors(directory: str | Path, out: str | Path) -> dict[str, tuple[Path, int]]:
    """Write ``items.parquet`` and ``queries.parquet``: the id, and ``vector`` as a list of float32.

    Temperature and biases are inside the vectors, so their inner product is the retriever's score. A query's
    history is everything in the data. Returns the path and the number of rows of each file.

    Raises
    ------
    ConfigError
        The run has no cascade, or its retriever is not trained.
    MismatchError
        The recipe or the data have changed since it was trained.
    StorageError
        A file could not be written; nothing half-written is left.
    """
    pipeline = Pipeline.open(directory)
    if not pipeline.recipe.cascade:
        raise ConfigError(f"{directory}: the recipe has no cascade, so no retriever to export")
    first = pipeline.recipe.cascade[0]
    retriever = next((n for n in first.models if pipeline.recipe.model_kind(n) == "dot"), None)
    if retriever is None:
        raise ConfigError(f"{directory}: the retrieve stage has no model, so there are no vectors to export")
    pipeline.check_trained(retriever)
    model = pipeline.model(retriever)
    prepared = pipeline.prepared

    def item_vectors(keys: Tensor) -> Tensor:
        return model.encode_item(prepared.items.take(keys))["vector"]

    def query_vectors(keys: Tensor) -> Tensor:
        return model.encode_query(prepared.request_columns(keys, prepared.dataset.events))["vector"]

    written = {}
    for name, catalogue, encode in (
        ("items", prepared.dataset.item_catalogue, item_vectors),
        ("queries", prepared.dataset.query_catalogue, query_vectors),
    ):
        path = Path(out) / f"{name}.parquet"
        chunks = (
            (torch.arange(start, min(start + ROWS_AT_ONCE, len(catalogue))), encode)
            for start in range(0, len(catalogue), ROWS_AT_ONCE)
        )
        with torch.inference_mode():
            _write(path, catalogue, ((keys, encode(keys)) for keys, encode in chunks))
        written[name] = (path, len(catalogue))
    return written


def _write(path: Path, catalogue: Catalogue, chunks: Iterator[tuple[Tensor, Tensor]]) -> None:
    """One row group a chunk, so that memory never holds more than one."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"{path.parent}: could not be made: {error}") from error
    writer: pq.ParquetWriter | None = None
    with replacing(path) as draft:
        try:
            for keys, vectors in chunks:
                ids = catalogue.ids(keys.numpy())
                values = pl.Series("vector", vectors.float().numpy())
                table = pl.DataFrame({catalogue.name: ids, "vector": values}).with_columns(
                    pl.col("vector").arr.to_list()
                )
                arrow: pa.Table = table.to_arrow()
                writer = writer or pq.ParquetWriter(draft, arrow.schema)
                writer.write_table(arrow)
        finally:
            if writer is not None:
                writer.close()
