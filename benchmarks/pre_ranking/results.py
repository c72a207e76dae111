"""All result files of the benchmark, read for the page; what is missing is simply not there."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor

from benchmarks.pre_ranking.cells import STEP, is_stale
from benchmarks.pre_ranking.data import DATA
from benchmarks.pre_ranking.files import RESULTS, read_all, read_json
from benchmarks.pre_ranking.intervals import Bootstrap
from benchmarks.pre_ranking.models import MODELS

Cell = dict[str, Any]


@dataclass
class Results:
    """The files below one folder."""

    root: Path = RESULTS
    _draws: dict[str, Bootstrap] = field(default_factory=dict)

    @cached_property
    def cells(self) -> dict[str, dict[str, list[Cell]]]:
        """Data set -> model -> its cells by seed, in the order of the lists of data and models.

        A model with cells of the search's present settings has those alone.
        """
        found: dict[str, dict[str, list[Cell]]] = {}
        for data in DATA:
            read = [cell for cell in read_all(self.root / data) if cell["model"] in MODELS]
            by_model = {name: [cell for cell in read if cell["model"] == name] for name in MODELS}
            if read:
                found[data] = {
                    name: [cell for cell in cells if not self._is_stale(cell)] or cells
                    for name, cells in by_model.items()
                    if cells
                }
        return found

    def outdated(self, data: str, model: str) -> bool:
        """Whether a model's cells are of settings that the search has changed since."""
        return any(map(self._is_stale, self.of(data, model)))

    def _is_stale(self, cell: Cell) -> bool:
        trials = self.trials.get(MODELS[cell["model"]].tuned_as or cell["model"])
        if not trials:
            return False
        return is_stale(cell, min(trials, key=lambda trial: float(trial["log loss"]))["params"])

    def of(self, data: str, model: str) -> list[Cell]:
        return self.cells.get(data, {}).get(model, [])

    def truth(self, data: str) -> Cell | None:
        path = self.root / data / "truth-0.json"
        return read_json(path) if path.exists() else None

    def served_orders(self, data: str) -> dict[str, dict[str, float]]:
        """The set metrics of the orders of the stages around a pre-ranker: order -> measure."""
        path = self.root / "served" / f"{data}.json"
        orders: dict[str, dict[str, float]] = read_json(path)["metrics"] if path.exists() else {}
        return orders

    @cached_property
    def costs(self) -> dict[str, Cell]:
        """Model -> what the cost step measured."""
        return {cost["model"]: cost for cost in read_all(self.root / "cost") if cost["model"] in MODELS}

    @cached_property
    def trials(self) -> dict[str, list[Cell]]:
        """Model -> its trials in order."""
        read = read_all(self.root / "search")
        by_model = {name: [trial for trial in read if trial["model"] == name] for name in MODELS}
        return {name: sorted(ts, key=lambda t: int(t["number"])) for name, ts in by_model.items() if ts}

    def searched(self, name: str) -> bool:
        """Whether the settings of a model come from a search."""
        about = MODELS[name]
        return not about.searched or bool(self.trials.get(about.tuned_as or name))

    def systems(self, folder: str) -> list[Cell]:
        """Files of the form {"data", "system", "seed", "metrics": {...}}."""
        return [cell for cell in read_all(self.root / folder) if "metrics" in cell]

    def per_query(self, folder: str, cell: Cell) -> dict[str, np.ndarray]:
        """Measure -> (n,) values of a cell of `systems`, NaN where there is nothing to compare."""
        path = self.root / folder / f"{cell['system']}-{cell['seed']}.parquet"
        return {name: values.to_numpy() for name, values in pl.read_parquet(path).to_dict().items()}

    def exact_sequences(self) -> np.ndarray | None:
        """(n,) bool: whether all times of a leave-last-out query's user are exact."""
        return self._of_sequences("exact")

    def waited(self) -> np.ndarray | None:
        """(n,) seconds between the last event of a leave-last-out query and the request."""
        return self._of_sequences("waited", "seconds")

    def _of_sequences(self, file: str, name: str | None = None) -> np.ndarray | None:
        path = self.root / "sequences" / f"{file}.npz"
        if not path.exists():
            return None
        with np.load(path) as arrays:
            found: np.ndarray = arrays[name or file]
        return found

    def events(self, data: str) -> tuple[Tensor, Tensor] | None:
        """(n,) labels and users of the test events."""
        path = self.root / data / "events.npz"
        if not path.exists():
            return None
        with np.load(path) as file:
            return torch.from_numpy(file["label"]), torch.from_numpy(file["user"])

    def draws(self, data: str) -> Bootstrap | None:
        """Resampled figures of the models of a data set."""
        events = self.events(data)
        if events is None:
            return None
        if data not in self._draws:
            self._draws[data] = Bootstrap(*events, lambda model, seed: self._scores(data, model, seed))
        return self._draws[data]

    def seeds(self, data: str, *models: str) -> list[int]:
        """The seeds of which all these models have a cell."""
        each = [{int(cell["seed"]) for cell in self.of(data, model)} for model in models]
        return sorted(set.intersection(*each))

    def _scores(self, data: str, model: str, seed: int) -> Tensor:
        with np.load(self.root / data / f"{model}-{seed}.npz") as file:
            return torch.from_numpy(file["score"].astype(np.float32) * STEP)


def at_bound(one: Cell) -> bool:
    """Whether the last epoch that a trial or a cell was allowed was the best."""
    if not one.get("epochs"):
        return False
    best = min(one["epochs"], key=lambda epoch: float(epoch["log loss"]))
    return bool(best["epoch"] == one["recipe"]["train"]["epochs"])


def values(cells: list[Cell], *path: str) -> list[float]:
    """One figure of each cell: ``values(cells, "test", "AUC")``."""
    found = []
    for cell in cells:
        value: Any = cell
        for name in path:
            value = value[name]
        found.append(float(value))
    return found


def mean(cells: list[Cell], *path: str) -> float:
    return statistics.mean(values(cells, *path))


def spread(numbers: list[float], digits: int = 4) -> str:
    """Mean ± standard deviation, without the second where there is one number.

    >>> spread([0.5, 0.7], 2), spread([0.5], 2)
    ('0.60 ± 0.14', '0.50')
    """
    text = f"{statistics.mean(numbers):.{digits}f}"
    return f"{text} ± {statistics.stdev(numbers):.{digits}f}" if len(numbers) > 1 else text


def fastest(cost: Cell, size: str = "1000") -> tuple[str, Cell]:
    """The storage depth at which a candidate takes least time."""
    stores: dict[str, Cell] = cost["stores"]
    name = min(stores, key=lambda store: float(stores[store]["us_per_candidate"][size]))
    return name, stores[name]


def bytes_of(cells: list[Cell]) -> int:
    """Bytes per item at the deepest store."""
    return int(list(cells[0]["bytes_per_item"].values())[-1])
