"""``twotower plan``: how deep each stage of a trained cascade should look, and how deep it should store."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from twotower.cli.options import Json, Quiet, RunDirectory
from twotower.cli.session import reported_errors, show
from twotower.errors import ConfigError


class Rule(StrEnum):
    """Which of the plans within the limits."""

    safe = "safe"
    best = "best"
    equal = "equal"


class Queries(StrEnum):
    """Which validation queries."""

    fresh = "fresh"
    all = "all"


class Time(StrEnum):
    """What is measured."""

    wall = "wall"
    cpu = "cpu"


def plan(
    directory: RunDirectory,
    ms: Annotated[float | None, typer.Option("--ms", help="Milliseconds of a request, at most.")] = None,
    bytes_: Annotated[float | None, typer.Option("--bytes", help="Bytes per item, at most.")] = None,
    floor: Annotated[
        float | None, typer.Option("--floor", help="Quality at least: then the cheapest plan is chosen.")
    ] = None,
    rule: Annotated[
        Rule,
        typer.Option(
            help="safe: cheapest shown to lose at most the margin; best: highest; equal: cheapest not shown "
            "to be worse."
        ),
    ] = Rule.safe,
    margin: Annotated[float, typer.Option(help="safe: share of the best quality that may be lost.")] = 0.005,
    depth: Annotated[
        list[str] | None,
        typer.Option("--depth", help="Depths to try of a stage or source, such as --depth retrieve=100,200."),
    ] = None,
    measure: Annotated[str, typer.Option(help="What quality is.")] = "nDCG@10",
    queries: Annotated[
        Queries, typer.Option(help="fresh: validation queries that no ranker learnt from; all: all.")
    ] = Queries.fresh,
    rounds: Annotated[int, typer.Option(min=1, help="Requests timed at each depth.")] = 40,
    clock: Annotated[
        Time, typer.Option(help="wall, or the CPU time of the thread, for a busy machine.")
    ] = Time.wall,
    recipe: Annotated[
        Path | None, typer.Option("--recipe", help="Write the planned recipe to this new file.")
    ] = None,
    plot: Annotated[Path | None, typer.Option("--plot", help="Draw the plans to this SVG file.")] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Choose the depth of every stage, and how deep item tables store, for a budget.

    Measures the cost of each stage on this machine and the quality at all depths on validation queries,
    explains the choice, and keeps it as plan.json in the run.

    Examples: twotower plan runs/demo --ms 1.0 --plot plan.svg

              twotower plan runs/demo --floor 0.16 --recipe planned.yaml
    """
    with reported_errors():
        if recipe is not None and recipe.exists():  # said before the work, not behind it
            raise ConfigError(f"{recipe} exists already; name another file for the planned recipe")
        tried = _depths(depth or [])
        from twotower.optional import require

        if plot is not None:
            require("matplotlib", extra="bench")
        from twotower.pipeline.planning.choice import Limits
        from twotower.pipeline.planning.planner import survey_run
        from twotower.pipeline.planning.plot import draw_plan
        from twotower.pipeline.workspace import Workspace

        limits = Limits.parse(
            {"ms": ms, "bytes_per_item": bytes_, "floor": floor, "rule": rule.value, "margin": margin},
            where="options",
        )
        survey = survey_run(
            directory,
            depths=tried,
            measure=measure,
            queries=queries.value,
            rounds=rounds,
            clock=clock.value,
            say=(lambda line: None) if quiet else (lambda line: print(line, file=sys.stderr)),
        )
        found = survey.plan(limits)
        found.save(directory)
        if recipe is not None:
            found.save_recipe(Workspace(directory).recipe(), recipe)
        if plot is not None:
            draw_plan(found, plot)
        show(found.plain() if as_json else str(found), as_json)


def _depths(texts: list[str]) -> dict[str, list[int]]:
    """``stage=number,number`` options as data."""
    depths = {}
    for text in texts:
        name, _, numbers = text.partition("=")
        parts = numbers.split(",")
        if not name or not all(part.isdigit() and int(part) for part in parts):
            raise ConfigError(f"--depth {text!r}: expected stage=depths, such as retrieve=100,200,500")
        depths[name] = [int(part) for part in parts]
    return depths
