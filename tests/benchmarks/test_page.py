"""The page: made of whatever files are there, and every verdict as its intervals say."""

import re

import numpy as np
import pytest

pytest.importorskip("optuna", reason="the benchmarks' packages (extra: bench) are not installed")
pytest.importorskip("matplotlib")

from benchmarks.machine import machine
from benchmarks.pre_ranking import page
from benchmarks.pre_ranking.claims import judge
from benchmarks.pre_ranking.files import write_arrays, write_json
from benchmarks.pre_ranking.results import Results

from twotower.metrics.rating import auc

EVENTS = 400


@pytest.fixture
def results(tmp_path):
    """Two models, three seeds each; int-tower is clearly better than two-tower."""
    draw, about = np.random.default_rng(0), machine()
    labels = draw.random(EVENTS) < 0.6
    folder = tmp_path / "results" / "ml-1m-hash"
    write_arrays(folder / "events.npz", label=labels, user=np.arange(EVENTS, dtype=np.int32) % 80)
    for model, gain, size in (("two-tower", 1.0, 264), ("int-tower", 3.0, 500)):
        for seed in (1, 2, 3):
            scores = gain * labels + draw.normal(size=EVENTS)
            write_arrays(folder / f"{model}-{seed}.npz", score=(scores * 64).round().astype(np.int16))
            figures = {"AUC": 0.8 + gain / 30, "log loss": 0.4 - gain / 30, "GAUC": 0.7, "ECE": 0.01}
            cell = {
                "data": "ml-1m-hash",
                "model": model,
                "seed": seed,
                "test": {**figures, "AUC": figures["AUC"] + seed / 1000},
                "valid": figures,
                "served": {"kept@100": gain / 10},
                "tuned": True,
                "best_epoch": 7,
                "parameters": 1234,
                "cpu_seconds": 60,
                "bytes_per_item": {"vectors": size},
                "events": {"train": 3200, "valid": 400, "test": EVENTS},
                "machine": about,
            }
            write_json(folder / f"{model}-{seed}.json", cell)
    write_json(
        tmp_path / "results" / "learning" / "a-1.json",
        {"data": "synthetic", "system": "exposures", "seed": 1, "metrics": {"kept@100": 0.625}},
    )
    write_json(
        tmp_path / "results" / "served" / "ml-1m-hash.json",
        {"data": "ml-1m-hash", "metrics": {"the retriever's order": {"kept@100": 0.75}}},
    )
    return Results(tmp_path / "results")


def test_a_clear_difference_is_a_verdict(results):
    verdict = {v.claim.text: v for v in judge(results, "ml-1m-hash")}["IntTower beats the two-tower"]
    assert verdict.word == "confirmed"
    assert (verdict.agreeing, verdict.seeds) == (3, 3)
    assert verdict.auc.low > 0


def test_the_page_says_what_is_there_and_what_is_not(results, tmp_path):
    page.write(results, tmp_path / "docs")
    text = (tmp_path / "docs" / "pre-ranking.md").read_text()
    assert "| `two-tower` | 0.8353 ± 0.0010 | 0.3667 ± 0.0000 |" in text
    assert "| IntTower without a history | AUC ≥ 0.8995 | `int-tower` | 0.9020 ± 0.0010, " in text
    assert "| `exposures` | 0.6250 | 1 |" in text
    assert "| *the retriever's order* | 0.7500 | - |" in text
    assert re.search(r"\| `int-tower` \| 0\.\d{4} ± 0\.0000 \| 3 \|", text)
    assert re.search(r"IntTower beats the two-tower \| IntTower \| \+0\.\d{4} \[\+", text)
    assert "- open-bandit: no cell of any model" in text
    assert "- learning to pre-rank" not in text  # it is there
    for picture in re.findall(r"\]\((pre-ranking/[^)]+)\)", text):
        assert (tmp_path / "docs" / picture).exists()


def test_a_page_of_nothing(tmp_path):
    page.write(Results(tmp_path / "none"), tmp_path / "docs")
    text = (tmp_path / "docs" / "pre-ranking.md").read_text()
    assert "no cells yet" in text
    assert "times per candidate of any model" in text


def test_scores_are_read_back_as_they_were_kept(results):
    labels, _ = results.events("ml-1m-hash")
    scores = results._scores("ml-1m-hash", "int-tower", 1)
    assert len(scores) == EVENTS
    assert auc(scores, labels.long()) > 0.9
