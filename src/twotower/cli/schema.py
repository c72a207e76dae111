"""``twotower schema``: what a recipe may say of your own data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from twotower.cli.session import reported_errors


def schema(
    path: Annotated[
        Path, typer.Argument(help="Events: a Parquet, CSV, TSV or JSON-lines file.", show_default=False)
    ],
    query: Annotated[str, typer.Option("--query", help="Column of the query or user id.")],
    item: Annotated[str, typer.Option("--item", help="Column of the item id.")],
    time: Annotated[str | None, typer.Option("--time", help="Column of the time.")] = None,
    label: Annotated[
        list[str] | None,
        typer.Option("--label", help="Column of a label. Default: columns of a usual name, such as click."),
    ] = None,
) -> None:
    """Propose a schema for your own data, to paste into a recipe, with a reason for every column.

    Read it before you use it: a label that is not called like one is taken for a feature unless you name it.

    Example: twotower schema log.csv --query user --item ad --time at --label clicked
    """
    with reported_errors():
        from twotower.data.infer import propose

        typer.echo(propose(path, query=query, item=item, time=time, labels=label or None))
