"""The page: made of whatever files are there, and every verdict as its intervals say."""

import re

import numpy as np
import pytest

pytest.importorskip("optuna", reason="the benchmarks' packages (extra: bench) are not installed")
pytest.importorskip("matplotlib")

from benchmarks.machine import machine
from benchmarks.pre_ranking import page, sections
from benchmarks.pre_ranking.claims import judge
from benchmarks.pre_ranking.files import read_json, write_arrays, write_json
from benchmarks.pre_ranking.learning_section import learning
from benchmarks.pre_ranking.opening import chosen_system
from benchmarks.pre_ranking.results import Results
from benchmarks.pre_ranking.search import FIRST

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
                "params": FIRST,
                "recipe": {"train": {"epochs": 40}},
                "best_epoch": 7,
                "parameters": 1234,
                "cpu_seconds": 60,
                "bytes_per_item": {"vectors": size},
                "events": {"train": 3200, "valid": 400, "test": EVENTS},
                "machine": about,
            }
            write_json(folder / f"{model}-{seed}.json", cell)
    for number, (loss, last) in enumerate(((0.35, 14), (0.34, 40))):  # the second ends at the bound
        trial = {
            "model": "two-tower",
            "number": number,
            "params": FIRST,
            "log loss": loss,
            "AUC": 0.9,
            "epochs": [{"epoch": epoch, "log loss": 1 - epoch / 100} for epoch in range(1, last + 1)],
            "seconds": 130,
            "cpu_seconds": 120,
            "recipe": {"train": {"epochs": 40}},
            "machine": about,
        }
        write_json(tmp_path / "results" / "search" / f"two-tower-{number}.json", trial)
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
    assert "| `two-tower` | 2 | 0.3400 | 0.3500 | 0.9000 | 1.0e-04 | 0.2 | 0.006 | 4 |" in text
    assert "1 of 2 trials and cells ended at the bound" in text
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


def sequence_cell(system, seed, test, valid=None):
    how = {"trained": "earlier"} if valid is None else {"valid": [{"epoch": 1, "nDCG@10": v} for v in valid]}
    metrics = {"nDCG@10": test, "R@10": 2 * test}
    return {"data": "ml-1m-leave-last-out", "system": system, "seed": seed, "metrics": metrics, **how}


def test_a_system_is_chosen_by_the_best_epochs_of_its_validation_and_never_by_test():
    cells = [
        sequence_cell("earlier", 1, test=0.9),
        sequence_cell("better in test", 1, test=0.3, valid=[0.1]),
        sequence_cell("chosen", 1, test=0.2, valid=[0.1, 0.3, 0.2]),
        sequence_cell("chosen", 2, test=0.1, valid=[0.1]),
        sequence_cell("half", 1, test=0.8, valid=[0.9]),
        sequence_cell("half", 2, test=0.8),
    ]
    name, own = chosen_system(cells, "nDCG@10")
    assert name == "chosen"
    assert [cell["seed"] for cell in own] == [1, 2]
    assert chosen_system(cells[:1], "nDCG@10") is None


def test_an_aim_with_and_without_the_time_of_the_request_has_a_row_each(results, tmp_path):
    cells = (
        sequence_cell("two-tower-further", 1, test=0.16, valid=[0.16]),
        sequence_cell("two-tower-elapsed", 1, test=0.19, valid=[0.19]),
    )
    for cell in cells:
        write_json(results.root / "sequences" / f"{cell['system']}-1.json", cell)
    page.write(results, tmp_path / "docs")
    text = (tmp_path / "docs" / "pre-ranking.md").read_text()
    assert "| R@10 ≥ 0.31, nDCG@10 ≥ 0.18 | `two-tower-further` | 0.3200, 0.1600 | missed |" in text
    assert "| R@10 ≥ 0.31, nDCG@10 ≥ 0.18 | `two-tower-elapsed` | 0.3800, 0.1900 | **reached** |" in text


def test_the_orders_of_the_stages_around_come_first():
    kept = {"exposures": 0.3, "full-stage": 0.4, "retriever's order": 0.5, "ranker itself": 0.6}
    cells = [
        {"data": "a", "system": system, "seed": 1, "metrics": {"kept@100": value}}
        for system, value in kept.items()
    ]
    text = learning(cells)
    rows = re.findall(r"^\| `([^`]+)`", text, flags=re.MULTILINE)
    assert rows == ["retriever's order", "ranker itself", "exposures", "full-stage"]
    assert "No pre-ranker here keeps as many positives as the retriever's own first 100: 0.5000" in text
    cells[1]["metrics"]["kept@100"] = 0.55
    assert "No pre-ranker here" not in learning(cells)


def test_cells_of_an_earlier_search_are_marked_and_compared_with_no_others(results):
    folder = results.root / "ml-1m-hash"
    assert judge(results, "ml-1m-hash") != []

    def age(*seeds):
        for path in (folder / f"two-tower-{seed}.json" for seed in seeds):
            old = read_json(path)
            write_json(path, old | {"params": FIRST | {"embedding_weight_decay": 1e-6}})
        return Results(results.root)

    mixed = age(1)
    assert [cell["seed"] for cell in mixed.of("ml-1m-hash", "two-tower")] == [2, 3]
    assert not mixed.outdated("ml-1m-hash", "two-tower")
    old = age(2, 3)
    assert old.outdated("ml-1m-hash", "two-tower")
    assert "| `two-tower` † |" in sections.table(old, "ml-1m-hash")
    assert judge(old, "ml-1m-hash") == []
