"""TREC and Parquet files that are broken, foreign, or cannot be written."""

import gzip
from pathlib import Path

import polars as pl
import pytest
import torch

from twotower.data.catalogue import Catalogue
from twotower.errors import ConfigError, DataError, StorageError
from twotower.evaluate.trec import (
    evaluate_files,
    read_qrels,
    read_run,
    to_candidates,
    to_relevant,
    write_qrels,
    write_run,
)
from twotower.types import Candidates, Ragged

from .trec_world import random_run, write


def test_ids_with_blanks_are_refused_in_text_and_kept_in_parquet(tmp_path):
    one = Candidates(torch.tensor([[0]]), torch.tensor([[1.0]]))
    items = Catalogue(pl.Series("title", ["Toy Story"]))
    with pytest.raises(DataError, match="'Toy Story' is empty or has blanks"):
        write_run(tmp_path / "run", pl.Series(["q"]), one, items)
    with pytest.raises(DataError, match="column query"):
        write_run(tmp_path / "run", pl.Series([""]), one, Catalogue(pl.Series(["a"])))
    assert list(tmp_path.iterdir()) == []
    write_run(tmp_path / "run.parquet", pl.Series(["q"]), one, items)
    assert read_run(tmp_path / "run.parquet")["item"].item() == "Toy Story"


def test_what_cannot_be_written_is_refused(tmp_path):
    items = Catalogue(pl.Series(["a", "b"]))
    two = Candidates(torch.tensor([[0], [1]]), torch.tensor([[1.0], [2.0]]))
    with pytest.raises(DataError, match="1 different query ids for 2 lists"):
        write_run(tmp_path / "run", pl.Series(["q", "q"]), two, items)
    with pytest.raises(DataError, match="NaN"):
        write_run(
            tmp_path / "run",
            pl.Series(["q"]),
            Candidates(torch.tensor([[0]]), torch.tensor([[torch.nan]])),
            items,
        )
    with pytest.raises(ConfigError, match="one word"):
        write_run(tmp_path / "run", pl.Series(["p", "q"]), two, items, tag="my run")
    with pytest.raises(StorageError, match="could not be written"):
        write_run(tmp_path / "no" / "folder", pl.Series(["p", "q"]), two, items)
    with pytest.raises(DataError, match="whole numbers"):
        write_qrels(tmp_path / "qrels", pl.Series(["q"]), Ragged.of([[0]]), items, torch.tensor([0.5]))
    with pytest.raises(DataError, match="outside the catalogue"):
        write_qrels(tmp_path / "qrels", pl.Series(["q"]), Ragged.of([[-1]]), items)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("q Q0 a 1 0.5 t\n\nq Q0 b\n", r"run:3: the line has not the form: query Q0 item"),
        ("q Q0 a 1 high t\n", r"run:1: the score is not a number: 'high'"),
        ("q Q0 a 1 nan t\n", "the score is not a number"),
        ("q Q0 a 1 0.5 t\nq Q0 b 2 0.4 t\nq Q0 a 3 0.3 t\n", "run:3: the item stands twice"),
    ],
)
def test_broken_runs_are_named_by_line(text, message, tmp_path):
    with pytest.raises(DataError, match=message):
        read_run(write(tmp_path / "run", text))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no line"),
        ("q 0 a 1\nq 0 b\n", "qrels:2: the line has not the form: query 0 item gain"),
        ("q 0 a 0.5\n", "the gain is not a whole number: '0.5'"),
        ("q 0 a 1\nq 0 a 2\n", "qrels:2: the item stands twice"),
    ],
)
def test_broken_qrels_are_named_by_line(text, message, tmp_path):
    with pytest.raises(DataError, match=message):
        read_qrels(write(tmp_path / "qrels", text))


def test_missing_truncated_and_foreign_files(tmp_path):
    for name in ("run", "run.gz", "run.parquet"):
        with pytest.raises(DataError, match="no such file"):
            read_run(tmp_path / name)
    whole = gzip.compress(b"q Q0 a 1 0.5 t\n" * 500)
    (tmp_path / "run.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="could not be read"):
        read_run(tmp_path / "run.gz")
    (tmp_path / "run.parquet").write_text("q Q0 a 1 0.5 t\n")
    with pytest.raises(DataError, match="not a Parquet file"):
        read_run(tmp_path / "run.parquet")
    pl.DataFrame({"query": ["q"], "item": ["a"]}).write_parquet(tmp_path / "run.parquet")
    with pytest.raises(DataError, match=r"missing: \['rank', 'score'\]"):
        read_run(tmp_path / "run.parquet")


@pytest.mark.parametrize("name", ["run.txt", "run.parquet"])
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
def test_a_full_disk_leaves_the_old_file_and_no_debris(name, tmp_path):
    candidates, _, _, items, ids = random_run(0, n_queries=5_000)  # larger than a write buffer
    (tmp_path / name).write_text("old")
    (tmp_path / f"{name}.part").symlink_to("/dev/full")
    with pytest.raises(StorageError, match="No space left"):
        write_run(tmp_path / name, ids, candidates, items)
    assert [p.name for p in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "old"


def test_windows_line_ends_tabs_and_remarks_are_read(tmp_path):
    (tmp_path / "run").write_bytes(b" q\tQ0\ta\t1\t 2.5e-1\tt with a remark\r\nq Q0 b 2 -3 t\r\n")
    run = read_run(tmp_path / "run")
    assert run.select("item", "rank", "score").rows() == [("a", 1, 0.25), ("b", 2, -3.0)]


def test_unknown_ids_are_refused_and_judged_items_outside_the_catalogue_kept(tmp_path):
    queries, items = Catalogue(pl.Series(["q"])), Catalogue(pl.Series(["a"]))
    run = read_run(write(tmp_path / "run", "q Q0 z 1 1 t\n"))
    with pytest.raises(DataError, match="1 item ids are not in the catalogue, first 'z'"):
        to_candidates(run, queries, items)
    judged = read_qrels(write(tmp_path / "qrels", "q 0 a 1\nq 0 z 2\n"))
    relevant, gains = to_relevant(judged, queries, items)
    assert (relevant.values.tolist(), gains.tolist()) == ([0, -1], [1, 2])
    with pytest.raises(DataError, match="1 query ids"):
        to_relevant(judged, Catalogue(pl.Series(["p"])), items)


@pytest.mark.parametrize("name", ["run.txt", "run.parquet"])
def test_a_run_that_found_nothing_is_read_and_judged(name, tmp_path):
    nothing = Candidates(torch.full((2, 3), -1), torch.full((2, 3), -torch.inf))
    items, queries = Catalogue(pl.Series(["a"])), Catalogue(pl.Series(["q", "r"]))
    write_run(tmp_path / name, pl.Series(["q", "r"]), nothing, items)
    run = read_run(tmp_path / name)
    assert (len(run), run.columns) == (0, ["query", "item", "rank", "score"])
    assert to_candidates(run, queries, items).keys.shape == (2, 0)
    qrels = write(tmp_path / "qrels", "q 0 a 1\nr 0 a 0\n")
    assert evaluate_files(tmp_path / name, qrels, ["RR", "nDCG@10"]).rows() == [
        ("q", 0.0, 0.0),
        ("r", None, None),
    ]


def test_queries_nobody_judged_are_ignored_and_nothing_to_find_is_null(tmp_path):
    run = write(tmp_path / "run", "p Q0 a 1 1 t\nq Q0 a 1 1 t\n")
    qrels = write(tmp_path / "qrels", "q 0 a 1\nr 0 a 0\ns 0 a 1\n")
    assert evaluate_files(run, qrels, ["RR"]).rows() == [("q", 1.0), ("r", None), ("s", 0.0)]
