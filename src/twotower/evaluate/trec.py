"""Runs and relevance judgements as files: TREC's text formats, and Parquet for runs.

A run line is ``query Q0 item rank score tag``, a qrels line ``query 0 item gain``. Inside, both are frames of
ids with one row per pair: a run has the columns query, item, rank (from 1), score; qrels have query, item,
gain. `to_candidates` and `to_relevant` turn them into keys, the form that the measures take.
"""

from __future__ import annotations

import gzip
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import polars as pl
import torch
from torch import Tensor

from twotower.data.catalogue import Catalogue
from twotower.errors import ConfigError, DataError, StorageError
from twotower.metrics.ranking import Measure, evaluate
from twotower.types import NO_ITEM, Candidates, Ragged

_RUN = r"^\s*(\S+)\s+(?:\S+)\s+(\S+)\s+(?:\S+)\s+(\S+)(?:\s.*)?$"
_QRELS = r"^\s*(\S+)\s+(?:\S+)\s+(\S+)\s+(\S+)\s*$"


def write_run(
    path: str | Path, query_ids: pl.Series, candidates: Candidates, items: Catalogue, tag: str = "twotower"
) -> None:
    """Write ranked lists, in the order they stand: Parquet if the path ends so, else TREC text.

    Tools re-sort a run by score and break ties each in their own way, some after rounding to float32. So the
    scores in the *text* file fall strictly: each is lowered, if need be, to the next float32 below its
    predecessor. Any tool then reads our order. Parquet keeps the scores untouched beside the rank.

    Raises
    ------
    DataError
        Query ids are not one per row or repeat, a score is NaN, or an id has blanks (text only).
    StorageError
        The file could not be written; nothing is left behind.
    """
    path = Path(path)
    if len(query_ids) != len(candidates.keys) or query_ids.n_unique() != len(query_ids):
        raise DataError(
            f"{query_ids.n_unique()} different query ids for {len(candidates.keys)} lists",
            remedy="give every list an id of its own, for example user and time",
        )
    real = candidates.mask.cpu()
    row, column = real.nonzero().unbind(1)
    scores = candidates.scores.detach().cpu().float().numpy()
    if np.isnan(scores[real.numpy()]).any():
        raise DataError("a candidate's score is NaN")
    text = path.suffix != ".parquet"
    run = pl.DataFrame(
        {
            "query": query_ids[row.numpy()],
            "item": items.ids(candidates.keys.cpu()[real].numpy()),
            "rank": (real.cumsum(1)[real]).numpy(),
            "score": (strictly_falling(scores) if text else scores)[row.numpy(), column.numpy()],
        }
    )
    if not text:
        _write(path, run)
        return
    if not tag or tag.split() != [tag]:
        raise ConfigError(f"the tag {tag!r} of a run must be one word")
    lines = run.select(
        _word(run, "query"), pl.lit("Q0"), _word(run, "item"), "rank", "score", pl.lit(tag).alias("tag")
    )
    _write(path, lines)


def read_run(path: str | Path, ties: Literal["trec", "file"] = "trec") -> pl.DataFrame:
    """Read a run as rows (query, item, rank, score), by query in order of appearance and then by rank.

    As trec_eval does, the order of a text file is that of its scores, taken as float32, and not that of its
    rank column. Equal scores stand by falling item id (``ties="trec"``) or as in the file (``"file"``). Text
    may be gzipped; ids are read as text. A file without a line is a run that found nothing. Parquet is read
    as `write_run` wrote it.

    Raises
    ------
    DataError
        No such file, or it is truncated, malformed (file and line), or holds a pair twice.
    """
    path = Path(path)
    if path.suffix == ".parquet":
        return _read_parquet(path)
    rows = _fields(path, _RUN, ("query", "item", "score"), "query Q0 item rank score tag")
    rows = _number(path, rows, "score", pl.Float64).with_columns(pl.col("score").cast(pl.Float32))
    first_line = pl.col("line").min().over("query")
    by = [first_line, -pl.col("score"), pl.col("item")]
    rows = rows.sort(
        by if ties == "trec" else [*by[:2], pl.col("line")], descending=[False, False, ties == "trec"]
    )
    return rows.select("query", "item", _rank(), "score")


def write_qrels(
    path: str | Path, query_ids: pl.Series, relevant: Ragged, items: Catalogue, gains: Tensor | None = None
) -> None:
    """Write relevance judgements; gains (N,) belong to ``relevant.values``, must be whole, and default to 1.

    A query without judgements has no line, for the format cannot say so. Errors as in `write_run`.
    """
    if len(query_ids) != len(relevant) or query_ids.n_unique() != len(query_ids):
        raise DataError(f"{query_ids.n_unique()} different query ids for {len(relevant)} queries")
    gain = torch.ones_like(relevant.values) if gains is None else gains.cpu()
    if (gain != gain.round()).any():
        raise DataError("gains are not whole numbers", remedy="qrels hold integers; scale the gains")
    if (relevant.values == NO_ITEM).any():
        raise DataError("a relevant item is outside the catalogue and has no id to write")
    qrels = pl.DataFrame(
        {
            "query": query_ids[relevant.row_of_value().cpu().numpy()],
            "item": items.ids(relevant.values.cpu().numpy()),
            "gain": gain.long().numpy(),
        }
    )
    _write(Path(path), qrels.select(_word(qrels, "query"), pl.lit(0), _word(qrels, "item"), "gain"))


def read_qrels(path: str | Path) -> pl.DataFrame:
    """Read judgements as rows (query, item, gain) in file order; ids are text.

    Errors as in `read_run`; and there must be one.
    """
    path = Path(path)
    form = "query 0 item gain"
    rows = _fields(path, _QRELS, ("query", "item", "gain"), form)
    if rows.is_empty():
        raise DataError("the file holds no line", file=path, remedy=f"expected lines of the form: {form}")
    return _number(path, rows, "gain", pl.Int64).drop("line")


def to_candidates(run: pl.DataFrame, queries: Catalogue, items: Catalogue) -> Candidates:
    """A run as keys (Q, K), one row for *every* query; those the run lacks are empty, and so count as 0.

    Raises
    ------
    DataError
        The run names a query or an item that the catalogues do not hold.
    """
    query, item = _keys(run, "query", queries), _keys(run, "item", items)
    column = run["rank"].to_numpy() - 1
    shape = (len(queries), int(column.max()) + 1 if len(run) else 0)
    keys = np.full(shape, NO_ITEM, dtype=np.int64)
    scores = np.full(shape, -np.inf, dtype=np.float32)
    keys[query, column] = item
    scores[query, column] = run["score"].to_numpy()
    return Candidates(torch.from_numpy(keys), torch.from_numpy(scores))


def to_relevant(qrels: pl.DataFrame, queries: Catalogue, items: Catalogue) -> tuple[Ragged, Tensor]:
    """Judgements as keys and gains, one row per query of the catalogue; gains (N,) float64.

    Judged items outside the item catalogue get the key -1: no list can hold them, denominators count them.
    An unknown query is a `DataError`.
    """
    query = _keys(qrels, "query", queries)
    order = np.argsort(query, kind="stable")
    offsets = np.concatenate([[0], np.bincount(query, minlength=len(queries)).cumsum()])
    values = items.keys(qrels["item"])[order].copy()
    gains = qrels["gain"].to_numpy()[order].astype(np.float64)
    return Ragged(torch.from_numpy(values), torch.from_numpy(offsets)), torch.from_numpy(gains)


def evaluate_files(
    run: str | Path,
    qrels: str | Path,
    measures: Sequence[Measure | str],
    ties: Literal["trec", "file"] = "trec",
) -> pl.DataFrame:
    """Judge a run file against a qrels file: one row per query of the qrels, one column per measure.

    Agrees with ``trec_eval -c``: a judged query that the run lacks scores 0. Queries of the run that nobody
    judged are ignored, as trec_eval does. Queries judged without a relevant item are null: trec_eval has 0
    for them, and counts them in its means.
    """
    judged = read_qrels(qrels)
    answered = read_run(run, ties).with_columns(pl.col("query", "item").cast(pl.String))
    queries = Catalogue(judged["query"].unique(maintain_order=True))
    answered = answered.filter(pl.col("query").is_in(queries.all_ids().implode()))
    items = Catalogue(pl.concat([judged["item"], answered["item"]]).unique(maintain_order=True))
    relevant, gains = to_relevant(judged, queries, items)
    values = evaluate(to_candidates(answered, queries, items).keys, relevant, measures, gains)
    columns = {name: pl.Series(v.numpy()).fill_nan(None) for name, v in values.items()}
    return pl.DataFrame({"query": queries.all_ids(), **columns})


def strictly_falling(scores: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Each row (Q, K) lowered as little as float32 allows so that every score is below the one before.

    >>> strictly_falling(np.array([[2.0, 1.0, 1.0, 3.0]], dtype=np.float32)).tolist()
    [[2.0, 1.0, 0.9999999403953552, 0.9999998807907104]]
    """
    # Floats as integers that count float32 steps from zero, so "the next one below" is minus 1. The largest
    # magnitude keeps room for the steps: infinities, too, become finite numbers that every tool can parse.
    width = scores.shape[1]
    bits = np.ascontiguousarray(scores, dtype=np.float32).view(np.int32).astype(np.int64)
    step = np.where(bits >= 0, bits, -(bits & 0x7FFFFFFF))
    largest = int(np.array(np.finfo(np.float32).max).view(np.int32))
    place = np.arange(width)
    step = np.minimum.accumulate(step.clip(-largest + width, largest) + place, axis=1) - place
    back = np.where(step >= 0, step, -step | 0x80000000).astype(np.uint32)
    return back.view(np.float32)


def _word(frame: pl.DataFrame, column: str) -> pl.Series:
    """The ids as text; blanks would break the line into the wrong fields."""
    words = frame[column].cast(pl.String)
    broken = words.filter(words.str.contains(r"\s|^$"))
    if len(broken):
        raise DataError(
            f"the id {broken[0]!r} is empty or has blanks, which a TREC file cannot hold",
            column=frame[column].name,
            remedy="write Parquet (a path ending in .parquet), or rename the ids",
        )
    return words


def _write(path: Path, frame: pl.DataFrame) -> None:
    """All or nothing: beside the target first, then in its place."""
    part = path.with_name(path.name + ".part")
    try:
        with open(part, "wb") as file:
            if path.suffix == ".parquet":
                frame.write_parquet(file)
            else:
                frame.write_csv(file, include_header=False, separator=" ", quote_style="never")
        os.replace(part, path)
    except (OSError, pl.exceptions.PolarsError) as error:  # polars wraps a full disk in its own error
        part.unlink(missing_ok=True)
        raise StorageError(f"{path}: could not be written: {error}") from error


def _fields(path: Path, pattern: str, names: tuple[str, ...], form: str) -> pl.DataFrame:
    """The named groups of every line, with its number; blank lines are skipped."""
    try:
        with (
            gzip.open(path, "rt", encoding="utf-8")
            if path.suffix == ".gz"
            else open(path, encoding="utf-8") as file
        ):
            text = file.read()
    except FileNotFoundError:
        raise DataError("no such file", file=path) from None
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise DataError(f"could not be read: {error}", file=path, remedy="fetch the file again") from error
    lines = pl.DataFrame({"text": pl.Series([text]).str.split("\n").explode()}).with_row_index(
        "line", offset=1
    )
    lines = lines.filter(pl.col("text").str.contains(r"\S"))
    groups = pl.col("text").str.extract_groups(pattern).struct.rename_fields(list(names))
    rows = lines.with_columns(groups.alias("fields")).unnest("fields")
    _refuse(path, rows, pl.col(names[0]).is_null(), "the line has not the form: " + form)
    rows = rows.drop("text")
    _refuse(
        path,
        rows,
        pl.struct("query", "item").is_first_distinct().not_(),
        "the item stands twice in this query",
    )
    return rows


def _number(
    path: Path, rows: pl.DataFrame, column: str, dtype: type[pl.Float64] | type[pl.Int64]
) -> pl.DataFrame:
    number = pl.col(column).cast(dtype, strict=False)
    broken = number.is_null() | number.cast(pl.Float64).is_nan()
    kind = "a number" if dtype is pl.Float64 else "a whole number"
    _refuse(path, rows, broken, f"the {column} is not {kind}", column)
    return rows.with_columns(number)


def _refuse(path: Path, rows: pl.DataFrame, broken: pl.Expr, message: str, column: str | None = None) -> None:
    wrong = rows.filter(broken)
    if len(wrong):
        found = "" if column is None else f": {wrong[column][0]!r}"
        more = f" (and {len(wrong) - 1} more lines)" if len(wrong) > 1 else ""
        raise DataError(f"{message}{found}{more}", file=path, line=wrong["line"][0])


def _rank() -> pl.Expr:
    return pl.int_range(1, pl.len() + 1).over("query").alias("rank")


def _read_parquet(path: Path) -> pl.DataFrame:
    try:
        run = pl.read_parquet(path, glob=False)
    except FileNotFoundError:
        raise DataError("no such file", file=path) from None
    except (OSError, pl.exceptions.PolarsError) as error:
        raise DataError(f"is not a Parquet file: {error}", file=path) from error
    missing = {"query", "item", "rank", "score"} - set(run.columns)
    if missing:
        raise DataError(
            f"a run needs the columns query, item, rank, score; missing: {sorted(missing)}", file=path
        )
    run = run.sort(pl.int_range(pl.len()).min().over("query"), "rank")
    if run.select(pl.struct("query", "item").is_duplicated().any()).item():
        raise DataError("an item stands twice in a query", file=path)
    return run.select("query", "item", _rank(), "score")


def _keys(
    frame: pl.DataFrame, column: Literal["query", "item"], catalogue: Catalogue
) -> npt.NDArray[np.int64]:
    keys = catalogue.keys(frame[column])
    unknown = frame[column].filter(pl.Series(keys < 0)).unique(maintain_order=True)
    if len(unknown):
        raise DataError(
            f"{len(unknown)} {column} ids are not in the catalogue, first {unknown[0]!r}",
            column=column,
            remedy="read with the catalogue the file was made for, or filter the rows",
        )
    return keys
