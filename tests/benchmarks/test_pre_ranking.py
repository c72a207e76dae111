"""The benchmark of pre-ranking models: what its figures stand on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

pytest.importorskip("optuna", reason="the benchmarks' packages (extra: bench) are not installed")

from benchmarks.pre_ranking import cells
from benchmarks.pre_ranking import search as searching
from benchmarks.pre_ranking.cells import is_stale
from benchmarks.pre_ranking.data import DATA, data_root, draw_times, recipe_of, shuffle_times
from benchmarks.pre_ranking.files import write_json
from benchmarks.pre_ranking.models import MODELS
from benchmarks.pre_ranking.search import FIRST, OPENING, SPACE, replayed
from benchmarks.pre_ranking.time_leak import leak

from twotower.data.movielens import MovieLens
from twotower.errors import DataError


def ratings(rows: list[tuple[int, int, bool]]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=["user", "timestamp", "time_exact"], orient="row")


def test_estimated_and_exact_times_of_a_user_trade_places() -> None:
    """Afterwards the order of a user's events, by which alone they differed, tells neither from the other."""
    events = ratings([(user, 1000 * user + i, True) for user in (1, 2) for i in range(400)])
    events = pl.concat([events, ratings([(1, 1200, False)] * 400)])
    times = shuffle_times(events)["timestamp"].to_numpy()
    assert set(times[:400]) | set(times[800:]) <= set(range(1000, 1400))
    assert abs(np.corrcoef(times[:400], np.arange(400))[0, 1]) < 0.15
    assert (times[400:800] == np.arange(2000, 2400)).all(), "a user without estimates"
    first = np.sort(times[:400]), np.sort(times[800:])
    assert abs(np.mean(first[0]) - np.mean(first[1])) < 30


@pytest.mark.data
def test_times_of_movielens_tell_no_label_once_they_are_shuffled() -> None:
    events = MovieLens().read(data_root() / "ml-1m").events
    assert leak(events, draw_times(events, np.random.default_rng(0))) > 0.7
    assert leak(events, shuffle_times(events)["timestamp"].to_numpy()) == pytest.approx(0.5, abs=0.005)


def test_times_after_the_estimated_period_stay() -> None:
    later = [(1, 999_999_999, True), (1, 999_999_998, True)]
    times = shuffle_times(ratings([(1, 5, False), *later, (1, 7, True)]))["timestamp"].to_list()
    assert times[1:3] == [999_999_999, 999_999_998]
    assert (times[0], times[3]) == (7, 7)
    assert shuffle_times(ratings([(1, 5, False), *later]))["timestamp"][0] == 5, "no exact one to draw"


def test_the_next_trial_depends_on_the_files_alone() -> None:
    done = [
        {
            "log loss": 0.4 - n / 100,
            "params": p,
            "epochs": [{"epoch": 1, "log loss": 0.4}],
        }
        for n, p in enumerate(OPENING)
    ]
    assert replayed(done).ask(SPACE).params == replayed(done).ask(SPACE).params


def test_a_search_resumes_where_it_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    files: list[dict[str, object]] = []
    asked: list[dict[str, float]] = []

    def run(study: object, model: str, number: int, data: str) -> None:
        params = study.ask(SPACE).params
        asked.append(params)
        loss = params["embedding_weight_decay"]
        epochs = [{"epoch": 1, "log loss": loss}]
        files.append(
            {
                "model": model,
                "number": number,
                "params": params,
                "log loss": loss,
                "epochs": epochs,
            }
        )

    monkeypatch.setattr(searching, "_run", run)
    monkeypatch.setattr(searching, "trials_of", lambda model, data="": list(files))
    best = searching.search("two-tower", trials=6)
    whole = list(asked)
    assert whole[: len(OPENING)] == list(OPENING)
    assert best["log loss"] == min(f["log loss"] for f in files)
    del files[4:]
    asked.clear()
    searching.search("two-tower", trials=6)
    assert asked == whole[4:]


@pytest.mark.parametrize("name", MODELS)
def test_every_competitor_makes_a_valid_recipe(name: str) -> None:
    recipe = recipe_of("ml-1m-hash", MODELS[name].recipe(FIRST, DATA["ml-1m-hash"]), seed=3)
    assert recipe.models["model"].train.learning_rate == FIRST["learning_rate"]
    assert MODELS[name].tuned_as is None or MODELS[name].tuned_as in MODELS


@pytest.mark.parametrize(
    ("model", "params", "best_epoch", "bound", "stale"),
    [
        ("two-tower", {}, 4, 40, False),
        ("two-tower", {"embedding_weight_decay": 3e-4}, 4, 40, True),
        ("two-tower", {"dropout": 0.4}, 4, 40, True),
        ("logistic-regression", {"dropout": 0.4}, 4, 40, False),  # it reads none
        ("click-rate", {"learning_rate": 3e-3}, 4, 40, False),  # nothing is searched
        ("two-tower", {}, 14, 15, False),  # it stopped by itself
        ("two-tower", {}, 15, 15, True),
        ("two-tower", {}, 40, 40, False),
    ],
)
def test_a_cell_is_stale_by_its_settings_or_a_bound_that_has_moved(
    model: str, params: dict[str, float], best_epoch: int, bound: int, stale: bool
) -> None:
    cell = {
        "model": model,
        "data": "ml-1m-hash",
        "params": FIRST | params,
        "best_epoch": best_epoch,
        "recipe": {"train": {"epochs": bound}},
    }
    assert is_stale(cell, FIRST) == stale


def test_a_search_that_is_not_done_stops_no_other_cell(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def unfinished(model: str) -> None:
        raise LookupError(f"1 of 3 trials of {model} are there")

    cell = {
        "model": "fit",
        "data": "ml-1m-hash",
        "params": FIRST,
        "best_epoch": 4,
        "recipe": {"train": {"epochs": 40}},
    }
    write_json(tmp_path / "fit-1.json", cell)
    monkeypatch.setattr(cells, "cell_path", lambda data, model, seed: tmp_path / f"{model}-{seed}.json")
    assert cells.is_made("ml-1m-hash", "fit", 1, tuned=False)
    assert not cells.is_made("ml-1m-hash", "fit", 2, tuned=False)
    monkeypatch.setattr(cells, "best", unfinished)
    assert not cells.is_made("ml-1m-hash", "fit", 1)


def test_scores_are_kept_in_the_order_of_the_cells_before() -> None:
    """Whatever order the events of another cell come in, its scores stand beside the same pairs."""
    draw = np.random.default_rng(0)
    first = {name: draw.integers(0, 9, 300) for name in ("user", "item")}
    first["label"] = (first["user"] + first["item"]) % 2
    moved = draw.permutation(300)
    place = cells.places({name: values[moved] for name, values in first.items()}, first)
    for values in first.values():
        assert (values[moved][place] == values).all()
    with pytest.raises(DataError, match="not those of the others: label"):
        cells.places(first | {"label": 1 - first["label"]}, first)
