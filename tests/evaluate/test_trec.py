"""TREC and Parquet files: NIST's own numbers, order that every tool reads alike, and broken files."""

import gzip
import os
from pathlib import Path

import ir_measures
import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from twotower.data.catalogue import Catalogue
from twotower.evaluate.trec import (
    evaluate_files,
    read_qrels,
    read_run,
    strictly_falling,
    to_candidates,
    to_relevant,
    write_qrels,
    write_run,
)
from twotower.metrics.ranking import evaluate
from twotower.types import Candidates

from .trec_world import random_run, write

NINE = {
    "AP": 0.1785,
    "Rprec": 0.2174,
    "Bpref": 0.1981,
    "RR": 0.4064,
    "P@10": 0.3000,
    "R@100": 0.4980,
    "nDCG": 0.4021,
    "nDCG@10": 0.3016,
    "Success@10": 0.6667,
}


@pytest.fixture
def nist():
    if "TWOTOWER_DATA" not in os.environ:
        pytest.skip("TWOTOWER_DATA is not set")
    return Path(os.environ["TWOTOWER_DATA"]) / "trec-eval-test"


def unzipped(path):
    return gzip.decompress(path.read_bytes()).decode()


@pytest.mark.data
def test_the_nine_numbers_of_nist(nist):
    found = evaluate_files(nist / "results.test.gz", nist / "qrels.test.gz", list(NINE))
    assert len(found) == 3
    for name, value in NINE.items():
        assert round(found[name].mean(), 4) == value, name


@pytest.mark.data
def test_every_query_of_nist(nist):
    """What trec_eval -q prints, per query."""
    names = {"map": "AP", "Rprec": "Rprec", "bpref": "Bpref", "recip_rank": "RR", "ndcg": "nDCG"}
    names |= {f"P_{k}": f"P@{k}" for k in (5, 10, 100, 1000)} | {
        f"recall_{k}": f"R@{k}" for k in (5, 100, 1000)
    }
    names |= {f"ndcg_cut_{k}": f"nDCG@{k}" for k in (5, 10, 100)} | {
        f"map_cut_{k}": f"AP@{k}" for k in (10, 100)
    }
    names |= {f"success_{k}": f"Success@{k}" for k in (1, 5, 10)}
    found = evaluate_files(nist / "results.test.gz", nist / "qrels.test.gz", list(names.values()))
    ours = {row["query"]: row for row in found.to_dicts()}
    lines = [line.split() for line in unzipped(nist / "out.test.aq.gz").splitlines()]
    compared = [
        round(ours[query][names[name]], 4) == float(value)
        for name, query, value in lines
        if name in names and query != "all"
    ]
    assert len(compared) == 3 * len(names)
    assert all(compared)


@pytest.mark.data
def test_a_missing_query_counts_as_zero(nist, tmp_path):
    """Case 2: trec_eval -c. Without query 301 AP is .1677, not the .2516 of the two that are left."""
    lines = unzipped(nist / "results.test.gz").splitlines(keepends=True)
    (tmp_path / "run").write_text("".join(line for line in lines if not line.startswith("301")))
    found = evaluate_files(tmp_path / "run", nist / "qrels.test.gz", ["AP"])["AP"]
    assert (round(found.mean(), 4), found[0]) == (0.1677, 0.0)


@pytest.mark.data
def test_graded_judgements_and_a_truncated_run_of_nist_agree_with_ir_measures(nist):
    run, qrels = nist / "results.trunc", nist / "qrels.rel_level.gz"
    found = evaluate_files(run, qrels, ["nDCG", "nDCG@10", "Bpref", "AP"])
    judged = list(ir_measures.read_trec_qrels(unzipped(qrels)))
    listed = [
        ir_measures.ScoredDoc(f[0], f[2], float(f[4])) for f in map(str.split, run.read_text().splitlines())
    ]
    ours = {row["query"]: row for row in found.to_dicts()}
    measures = [ir_measures.parse_measure(name) for name in ("nDCG", "nDCG@10", "Bpref", "AP")]
    for metric in ir_measures.iter_calc(measures, judged, listed):
        assert ours[metric.query_id][str(metric.measure)] == pytest.approx(metric.value, abs=1e-9), metric


def test_ties_stand_by_falling_id_as_in_trec_eval_or_as_in_the_file(tmp_path):
    """Case 4: of three documents with equal scores, c is first and a last."""
    run = write(tmp_path / "run", "".join(f"q Q0 {d} 1 0.5 t\n" for d in "bac"))
    assert read_run(run)["item"].to_list() == ["c", "b", "a"]
    assert read_run(run, ties="file")["item"].to_list() == ["b", "a", "c"]
    for relevant, rank in (("c", 1), ("a", 3)):
        qrels = write(tmp_path / "qrels", f"q 0 {relevant} 1\n")
        assert evaluate_files(run, qrels, ["RR"])["RR"].item() == pytest.approx(1 / rank)
        theirs = ir_measures.calc_aggregate(
            [ir_measures.RR],
            ir_measures.read_trec_qrels(qrels.read_text()),
            ir_measures.read_trec_run(run.read_text()),
        )
        assert theirs[ir_measures.RR] == pytest.approx(1 / rank)


def test_scores_that_differ_beyond_float32_are_tied(tmp_path):
    """Case 5, as pytrec_eval has it."""
    run = write(tmp_path / "run", "q Q0 a 1 1.0000000001 t\nq Q0 b 2 1.0 t\n")
    assert read_run(run)["item"].to_list() == ["b", "a"]


@pytest.mark.parametrize("seed", range(4))
def test_any_tool_reads_our_order_from_the_files(seed, tmp_path):
    candidates, relevant, gains, items, queries = random_run(seed)
    names = ["nDCG@10", "R@5", "RR", "AP", "P@10", "Success@1"]
    ours = evaluate(candidates.keys, relevant, names, gains)
    write_run(tmp_path / "run.txt", queries, candidates, items)
    write_qrels(tmp_path / "qrels.txt", queries, relevant, items, gains)
    theirs = ir_measures.iter_calc(
        [ir_measures.parse_measure(name) for name in names],
        ir_measures.read_trec_qrels((tmp_path / "qrels.txt").read_text()),
        ir_measures.read_trec_run((tmp_path / "run.txt").read_text()),
    )
    n = 0
    for metric in theirs:
        query = int(metric.query_id) - 100
        assert ours[str(metric.measure)][query].item() == pytest.approx(metric.value, abs=1e-9), metric
        n += 1
    assert n == len(names) * len(queries)
    found = evaluate_files(tmp_path / "run.txt", tmp_path / "qrels.txt", names)
    for name in names:
        assert found[name].to_list() == pytest.approx(ours[name].tolist(), abs=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_files_with_ties_zeros_and_nothing_to_find_agree_with_ir_measures(seed, tmp_path):
    """Ties by score stand by falling id; grades from -1 to 3; a third of the queries has no relevant item."""
    draw = np.random.default_rng(seed)
    run, qrels = [], []
    for query in range(30):
        items = draw.permutation(40)
        run += [f"q{query} Q0 d{item} 0 {draw.integers(4)} t" for item in items[: draw.integers(1, 30)]]
        best = 1 if query % 3 == 0 else 4
        qrels += [f"q{query} 0 d{item} {draw.integers(-1, best)}" for item in draw.permutation(40)[:12]]
    files = write(tmp_path / "run", "\n".join(run)), write(tmp_path / "qrels", "\n".join(qrels))
    names = ["nDCG@10", "nDCG", "AP", "RR", "R@5", "Bpref"]
    ours = evaluate_files(*files, names)
    nothing = set(ours.filter(pl.col("AP").is_null())["query"])
    assert nothing == {f"q{query}" for query in range(0, 30, 3)}
    theirs = ir_measures.iter_calc(
        [ir_measures.parse_measure(name) for name in names],
        ir_measures.read_trec_qrels(files[1].read_text()),
        ir_measures.read_trec_run(files[0].read_text()),
    )
    compared = 0
    for metric in theirs:
        if metric.query_id not in nothing:
            own = ours.filter(pl.col("query") == metric.query_id)[str(metric.measure)].item()
            assert own == pytest.approx(metric.value, abs=1e-9), metric
            compared += 1
    assert compared == len(names) * 20


@pytest.mark.parametrize("name", ["run.txt", "run.parquet"])
def test_a_run_comes_back_as_it_was(name, tmp_path):
    candidates, relevant, gains, items, ids = random_run(9)
    write_run(tmp_path / name, ids, candidates, items)
    back = to_candidates(read_run(tmp_path / name), Catalogue(ids), items)
    width = back.keys.shape[1]
    assert torch.equal(back.keys, candidates.keys[:, :width])
    assert (candidates.keys[:, width:] == -1).all()
    if name.endswith("parquet"):
        assert torch.equal(back.scores, candidates.scores[:, :width])
    write_qrels(tmp_path / "qrels", ids, relevant, items, gains)
    again, gains_again = to_relevant(read_qrels(tmp_path / "qrels"), Catalogue(ids), items)
    assert torch.equal(again.values, relevant.values)
    assert torch.equal(again.offsets, relevant.offsets)
    assert torch.equal(gains_again, gains)
    assert [p.name for p in tmp_path.glob("*.part")] == []


def test_candidates_that_do_not_fall_by_score_keep_their_order(tmp_path):
    """A re-ranker for diversity hands on an order that its scores do not show."""
    shown = Candidates(torch.tensor([[2, 0, 1]]), torch.tensor([[0.1, 0.9, torch.inf]]))
    items = Catalogue(pl.Series("item", ["a", "b", "c"]))
    write_run(tmp_path / "run", pl.Series(["q"]), shown, items)
    assert read_run(tmp_path / "run")["item"].to_list() == ["c", "a", "b"]


@given(
    arrays(
        np.float32,
        st.tuples(st.integers(1, 3), st.integers(0, 8)),
        elements=st.floats(width=32, allow_nan=False),
    )
)
def test_strictly_falling_is_strict_finite_and_lowers_as_little_as_it_can(scores):
    fallen = strictly_falling(scores)
    assert fallen.dtype == np.float32
    assert np.isfinite(fallen).all()
    assert (np.diff(fallen.astype(np.float64), axis=1) < 0).all()
    for row, low in zip(scores, fallen, strict=True):
        for j, score in enumerate(row):
            below = np.nextafter(low[j - 1], np.float32(-np.inf)) if j else np.float32(np.inf)
            if abs(score) < 1e38:
                assert low[j] == min(score, below)
