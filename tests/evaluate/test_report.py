"""What a run says at the end, on numbers that can be checked by hand."""

import json

import pytest
import torch

from twotower.evaluate.experiment import Experiment, StageResult
from twotower.evaluate.latency import Latency
from twotower.evaluate.report import Report
from twotower.evaluate.task import make_task
from twotower.metrics.ranking import evaluate
from twotower.types import Batch, Candidates, Ragged

RELEVANT = [[0], [1, 2], [3]]
RETRIEVED = [[0, 5, 6, 7], [4, 2, 1, 6], [4, 5, 6, -1]]
RANKED = [[0, 6], [1, 4], [6, 5]]


def stage(name, keys, relevant, k):
    keys = torch.tensor(keys)
    scores = torch.arange(keys.shape[1], 0, -1.0).expand(keys.shape).masked_fill(keys < 0, -torch.inf)
    return StageResult(
        name, k, Candidates(keys, scores), evaluate(keys, relevant, ["nDCG@2", f"R@{k}"]), 64.0
    )


@pytest.fixture
def report():
    keys, none = torch.arange(3), Ragged.of([[], [], []])
    task = make_task(keys, Batch(user=keys), none, none, Ragged.of(RELEVANT), 8)
    stages = (stage("retrieve", RETRIEVED, task.relevant, 4), stage("rank", RANKED, task.relevant, 2))
    return Report(
        "toy",
        Experiment(task, stages),
        {"retrieve": Latency(1.0, 2.0, 9), "rank": Latency(3.0, 4.0, 9), "total": Latency(4.5, 6.5, 9)},
        {"popularity": {"nDCG@2": torch.tensor([0.0, 0.0, 0.0]), "R@4": torch.tensor([0.0, 0.0, 0.0])}},
        {"ranker": {"AUC": 0.75, "GAUC": float("nan")}},
        ["split time"],
        ("nDCG@2",),
        samples=200,
        about={"items": 8, "queries": 3},
    )


def test_funnel_has_a_row_per_stage(report):
    rows = {row[0]: row[1:] for row in report.funnel().rows}
    first, last = rows["retrieve(4)"], rows["rank(2)"]
    assert first[0] == 8  # of the catalogue
    assert first[1] == last[0] == pytest.approx(11 / 3)
    assert last[1] == 2
    # query 1 has rank 2's item at rank 2 of the retriever: 1 / log2(3) of 1 + 1 / log2(3)
    gain = 1 / 1.584962500721156
    assert first[2] == pytest.approx((1 + gain / (1 + gain) + 0) / 3)
    assert last[2] == pytest.approx((1 + 1 / (1 + gain) + 0) / 3)
    assert (first[3], last[3]) == (pytest.approx(2 / 3), pytest.approx(0.5))
    assert (first[4], last[4]) == (pytest.approx(200 / 3), pytest.approx(50))
    assert first[5:] == (1.0, 2.0, 64.0)
    assert rows["all stages"][-3:] == (4.5, 6.5, None)


def test_losses_add_up_to_all_positives(report):
    assert report.plain()["fate"] == {"never retrieved": 1, "lost by rank": 1, "kept": 2}
    assert "never retrieved 1 (25.0%), lost by rank 1 (25.0%), kept 2 (50.0%)" in report.text()


def test_comparison_holds_stages_and_baselines_with_intervals(report):
    names = [row[0] for row in report.comparison().rows]
    assert names == ["retrieve", "rank", "popularity"]
    last = report.comparison().rows[1]
    assert last[-1] == ""  # not against itself


def test_a_difference_relative_to_nothing_is_unknown(report):
    assert report.comparison().rows[2][-1] == "-"


def test_json_holds_no_nan(report):
    def never(word):
        raise AssertionError(word)

    plain = json.loads(json.dumps(report.plain()), parse_constant=never)
    assert plain["ratings"] == {"ranker": {"AUC": 0.75, "GAUC": None}}
    assert [s["stage"] for s in plain["stages"]] == ["retrieve", "rank"]
    assert plain["stages"][0]["alive"] == pytest.approx(2 / 3)
    assert plain["baselines"]["popularity"]["R@4"] == 0
    assert plain["last_against_first"]["measure"] == "nDCG@2"
    assert plain["about"] == {"items": 8, "queries": 3}


def test_a_run_without_a_cascade_reports_its_ratings(report):
    alone = Report("ctr", None, {}, {}, {"lr": {"AUC": 0.75}}, ["split hash-random"], ("nDCG@10",))
    assert alone.funnel() is None
    assert alone.comparison() is None
    assert alone.plain()["stages"] == []
    assert alone.text().splitlines()[0] == "ctr"
    assert "0.7500" in alone.text()
    assert alone.text().endswith("- split hash-random")


def test_stages_without_a_time_show_none(report):
    untimed = Report("toy", report.experiment, {}, {}, {}, [], ("nDCG@2",), samples=100)
    assert [row[-3:-1] for row in untimed.funnel().rows] == [(None, None), (None, None)]
    assert untimed.plain()["stages"][0]["p50_ms"] is None
