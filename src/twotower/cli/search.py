"""``twotower search``: the twin of ``twotower recommend`` for queries that are words."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from twotower.cli.bundle import Code
from twotower.cli.options import (
    BudgetOption,
    FunnelLogOption,
    Json,
    Where,
    budget_of,
    json_object,
    stage_depths,
)
from twotower.cli.session import opened_answerer, reported_errors, show

Directory = Annotated[Path, typer.Argument(help="Directory of a run, or of bundles.", show_default=False)]
Depth = Annotated[
    list[str] | None,
    typer.Option("--depth", help="Depth of a stage or source, such as --depth retrieve=200."),
]
ItemsLog = Annotated[Path | None, typer.Option("--items", help="Of a bundle: the log of `twotower items`.")]


def search(
    directory: Directory,
    query: Annotated[str, typer.Argument(help="The words to search for, in quotes.", show_default=False)],
    k: Annotated[int, typer.Option("--k", "-k", min=1, help="How many items.")] = 10,
    field: Annotated[
        str | None, typer.Option("--field", help="Which text of the query the words are, if it has several.")
    ] = None,
    depth: Depth = None,
    where: Where = None,
    budget: BudgetOption = None,
    items_log: ItemsLog = None,
    log: FunnelLogOption = None,
    code: Code = None,
    as_json: Json = False,
) -> None:
    """Search by words, in a run or a bundle: items with titles and the score of every stage.

    Example: twotower search runs/scifact "does vitamin D prevent fractures" -k 5
    """
    with reported_errors(), opened_answerer(directory, items_log, code, log) as answerer:
        answer = answerer.search(
            query,
            field=field,
            k=k,
            depths=stage_depths(depth or []),
            where=None if where is None else json_object(where, "--where"),
            budget=budget_of(budget or []),
        )
        show(answer.plain() if as_json else answer.text(), as_json)
