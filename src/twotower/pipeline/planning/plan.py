"""A plan: depths and storage for a cascade, what was predicted of them, and what else there was to choose."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from twotower.config import dump_yaml
from twotower.errors import ConfigError, StorageError
from twotower.metrics.table import Cell, Column, Table
from twotower.pipeline.planning.choice import Choice, Limits, Point, choose, front_of
from twotower.pipeline.planning.costs import Costs
from twotower.pipeline.recipe import Recipe
from twotower.pipeline.workspace import write_text


@dataclass(frozen=True)
class Survey:
    """What was measured of a run: each plan's cost, and its quality on every query."""

    points: tuple[Point, ...]  # all depths of the grid at all storage depths
    values: Tensor  # (depths of the grid, Q)
    now: Point  # the plan that the recipe has
    costs: Costs
    measure: str
    notes: tuple[str, ...] = ()
    shorter: tuple[str, ...] = ()  # what the cascade is worth without its last ranking stages

    def plan(self, limits: Limits | None = None) -> Plan:
        """Choose, as `twotower.pipeline.planning.choice.choose` does; for as many limits as one likes.

        Raises
        ------
        ConfigError
            No plan is within the limits; says what the nearest one, and what a shorter cascade would take.
        """
        limits = limits or Limits()
        try:
            return Plan(self, limits, choose(self.points, self.values, limits))
        except ConfigError as error:
            raise ConfigError("; ".join([str(error), *self.shorter])) from None


@dataclass(frozen=True)
class Plan:
    """The chosen depths and storage depths; ``str()`` says why they were chosen."""

    survey: Survey
    limits: Limits
    choice: Choice

    @property
    def front(self) -> list[Point]:
        """The plans within the limit of memory that no cheaper one equals, cheapest first."""
        most = self.limits.bytes_per_item or float("inf")
        return front_of(point for point in self.survey.points if point.bytes_per_item <= most)

    @property
    def queries(self) -> int:
        return self.survey.values.shape[1]

    @property
    def depths(self) -> Mapping[str, int]:
        """Stage -> candidates it hands on."""
        return self.choice.point.depths

    @property
    def stores(self) -> Mapping[str, str]:
        """Stage -> storage depth, of the stages that offer several."""
        return self.choice.point.stores

    def recipe(self, recipe: Recipe) -> Recipe:
        """The recipe with the plan; nothing is trained anew for it, tables of other depths are built."""
        plan = {"depths": dict(self.depths), "stores": dict(self.stores)}
        return Recipe.parse(recipe.plain() | {"plan": plan}, where="the planned recipe")

    def save(self, directory: Path) -> Path:
        """Write ``plan.json`` into the directory of a run; returns where."""
        path = directory / "plan.json"
        write_text(path, json.dumps(self.plain(), indent=2))
        return path

    def save_recipe(self, recipe: Recipe, path: Path) -> None:
        """Write the planned recipe as a new file.

        Raises
        ------
        ConfigError
            The file exists: nobody's recipe is overwritten.
        """
        about = " ".join(str(self).splitlines()[-1].split())
        text = f"# {about}\n{dump_yaml(self.recipe(recipe).plain())}"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(path, "x", encoding="utf-8") as file:
                file.write(text)
        except FileExistsError:
            raise ConfigError(f"{path} exists already; name another file for the planned recipe") from None
        except OSError as error:
            raise StorageError(f"{path}: could not be written: {error}") from error

    def plain(self) -> dict[str, Any]:
        """The plan as JSON holds it; a bundle keeps it in its manifest."""
        choice = self.choice
        return {
            "depths": dict(self.depths),
            "stores": dict(self.stores),
            "reason": choice.reason,
            "limits": self.limits.plain(),
            "measure": self.survey.measure,
            "queries": self.queries,
            "chosen": _plain(choice.point),
            "best": _plain(choice.best),
            "difference": None if choice.interval is None else asdict(choice.interval),
            "recipe": _plain(self.survey.now),
            "front": [_plain(point) for point in self.front],
            "costs": {
                "clock": self.survey.costs.clock,
                "around_ms": self.survey.costs.around_ms,
                "waited": self.survey.costs.waited,
                "stages": {
                    name: {
                        store: {
                            **asdict(line),
                            "bytes_per_item": self.survey.costs.bytes_per_item[name][store],
                        }
                        for store, line in lines.items()
                    }
                    for name, lines in self.survey.costs.lines.items()
                },
            },
            "notes": [*self.survey.notes, *self.survey.shorter],
        }

    def __str__(self) -> str:
        chosen, best, now = self.choice.point, self.choice.best, self.survey.now
        lines = ["What a stage costs", self._cost_table().text(), "", "Plans", self._plan_table().text(), ""]
        lines += [f"- {note}" for note in (*self.survey.notes, *self.survey.shorter)]
        depths = ", ".join(f"{name} {k}" for name, k in chosen.depths.items())
        stores = ", ".join(f"{name} {store}" for name, store in chosen.stores.items())
        why = f"Chosen: {depths}" + (f", items stored as {stores}" if stores else "")
        why += f"; it is {self.choice.reason}"
        if self.choice.interval is not None:
            low, high = self.choice.interval.low, self.choice.interval.high
            why += f" ({low:+.1%} .. {high:+.1%} against it, at {chosen.ms / best.ms:.0%} of its time)"
        if now.ms:
            why += f"; {chosen.ms / now.ms:.0%} of the time of the recipe's own plan"
        return "\n".join([*lines, why])

    def _cost_table(self) -> Table:
        columns = (
            "stage",
            "store",
            Column("fixed", "ms", 3),
            Column("each", "us", 3),
            Column("misfit", "%", 1),
            Column("bytes", "per item", 0),
        )
        rows: list[tuple[Cell, ...]] = [
            (
                name,
                store,
                line.fixed_ms,
                line.each_ms * 1e3,
                line.misfit * 100,
                self.survey.costs.bytes_per_item[name][store],
            )
            for name, lines in self.survey.costs.lines.items()
            for store, line in lines.items()
        ]
        return Table(columns, (*rows, ("between", "-", self.survey.costs.around_ms, 0.0, None, None)))

    def _plan_table(self) -> Table:
        """The front, the recipe's plan and the chosen one, cheapest first."""
        chosen, best = self.choice.point, self.choice.best
        shown = sorted(
            {id(p): p for p in (*self.front, self.survey.now, chosen, best)}.values(), key=lambda p: p.cost
        )
        columns = (
            Column(" "),
            *(Column(name) for name in self.depths),
            *(Column(f"{name} stores") for name in self.stores),
            Column("predicted", "ms", 3),
            Column("bytes", "per item", 0),
            Column(self.survey.measure),
            Column("of the best", "%", 1),
        )
        rows: list[tuple[Cell, ...]] = [
            (
                " ".join(
                    word
                    for word, one in (("chosen", chosen), ("best", best), ("recipe", self.survey.now))
                    if point is one
                ),
                *point.depths.values(),
                *point.stores.values(),
                point.ms,
                point.bytes_per_item,
                point.quality,
                100 * point.quality / best.quality if best.quality else None,
            )
            for point in shown
        ]
        return Table(columns, tuple(rows))


def _plain(point: Point) -> dict[str, Any]:
    return {
        "depths": dict(point.depths),
        "stores": dict(point.stores),
        "ms": point.ms,
        "bytes_per_item": point.bytes_per_item,
        "quality": point.quality,
    }
