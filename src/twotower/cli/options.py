"""The arguments and options the commands share."""

from __future__ import annotations

import json
import math
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from twotower.errors import ConfigError

if TYPE_CHECKING:
    from twotower.cascade.deadline import Budget

RecipeFile = Annotated[Path, typer.Argument(help="The recipe, a YAML file.", show_default=False)]
Data = Annotated[Path | None, typer.Option("--data", help="File or directory the reader reads.")]
Out = Annotated[
    Path | None, typer.Option("--out", help="Directory of the run. Default: runs/<name of the recipe>.")
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", help="Change one key of the recipe, such as --set split.kind=leave-last-out."),
]
Seed = Annotated[int | None, typer.Option("--seed", help="Seed of initialisation and batch order.")]


class OnErrorChoice(StrEnum):
    """What to do with a broken row."""

    stop = "raise"
    skip = "skip"


OnError = Annotated[
    OnErrorChoice, typer.Option("--on-error", help="Broken rows: raise, or skip and count them.")
]
Json = Annotated[bool, typer.Option("--json", help="Results as JSON on standard output, nothing else there.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress on standard error.")]
Warm = Annotated[
    Path | None, typer.Option("--warm-from", help="An earlier run to start from; its vocabularies grow.")
]
RunDirectory = Annotated[
    Path, typer.Argument(help="Directory of a run, such as runs/demo.", show_default=False)
]


Where = Annotated[
    str | None,
    typer.Option(
        "--where",
        help='Show only these items, a predicate as JSON, such as \'{"not": {"ids": [7, 9]}}\' or '
        '\'{"field": "price", "at_most": 20}\'.',
    ),
]
BudgetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--budget",
        help="Milliseconds of this request, --budget 8, or of a stage, --budget rank=2; in place of the "
        "recipe's.",
    ),
]
FunnelLogOption = Annotated[
    Path | None, typer.Option("--log", help="Log the funnel of the answer to this directory, as Parquet.")
]


def json_object(text: str, option: str) -> dict[str, Any]:
    """An option that holds a JSON object."""
    try:
        value = json.loads(text)
    except ValueError as error:
        raise ConfigError(f"{option} is not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise ConfigError(f"{option} must be a JSON object of field names and values")
    return value


def stage_depths(texts: list[str]) -> dict[str, int]:
    """``stage=number`` options as data."""
    depths = {}
    for text in texts:
        name, _, number = text.partition("=")
        if not (number.isascii() and number.isdigit()):
            raise ConfigError(f"--depth {text!r}: expected stage=number, such as retrieve=200")
        depths[name] = int(number)
    return depths


def budget_of(texts: list[str]) -> Budget | None:
    """``8`` and ``stage=2`` options as a budget; None of none."""
    from twotower.cascade.deadline import Budget

    if not texts:
        return None
    total, stages = None, {}
    for text in texts:
        name, _, number = text.rpartition("=")
        try:
            ms = float(number)
        except ValueError:
            ms = math.nan
        if not 0 <= ms < math.inf:
            raise ConfigError(f"--budget {text!r}: expected milliseconds, such as 8, or rank=2 for a stage")
        if name:
            stages[name] = ms
        else:
            total = ms
    return Budget(total_ms=total, stages=stages)
