"""``twotower items``: add, change and delete items under a bundle that serves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from twotower.cli.bundle import Code, Version
from twotower.cli.options import Json
from twotower.cli.session import reported_errors, show
from twotower.errors import DataError

app = typer.Typer(
    help=(
        "Add, change and delete items without training and without a new bundle.\n\n"
        "Changes are kept in a log beside the bundle; they are on the disk when the command returns. Whoever "
        "serves the same bundle with the same log takes them in."
    ),
    no_args_is_help=True,
    rich_markup_mode=None,
)

Log = Annotated[Path, typer.Option("--log", help="The log of changes; a new one is begun if there is none.")]


@app.command()
def upsert(
    bundle: Version,
    file: Annotated[
        Path, typer.Argument(help="Items with their features: Parquet, or JSON lines.", show_default=False)
    ],
    log: Log,
    code: Code = None,
    as_json: Json = False,
) -> None:
    """Add items, or replace them where the id is known: all rows of the file, or none.

    A column that is not there is missing for all of them.

    Example: twotower items upsert bundles new.jsonl --log items.sqlite
    """
    with reported_errors():
        from twotower.pipeline.bundles.live import LiveBundle

        rows = _rows(file)
        with LiveBundle.load(bundle, log, code=code or ()) as live:
            count = live.upsert(rows)
            alive = len(live.store)
        about = {"changed": count, "items": alive}
        show(about if as_json else f"{count:,} items added or changed; {alive:,} there are now", as_json)


@app.command()
def delete(
    bundle: Version,
    ids: Annotated[list[str], typer.Argument(help="Ids of the items.", show_default=False)],
    log: Log,
    code: Code = None,
    as_json: Json = False,
) -> None:
    """Take items out. An id that is not there is no error.

    Example: twotower items delete bundles 50000003 50000006 --log items.sqlite
    """
    with reported_errors():
        from twotower.pipeline.bundles.live import LiveBundle

        with LiveBundle.load(bundle, log, code=code or ()) as live:
            numbers = live.bundle.encoded.dataset.item_catalogue.all_ids().dtype.is_integer()
            count = live.delete([int(each) if numbers else each for each in ids])
            alive = len(live.store)
        about = {"deleted": count, "items": alive}
        show(about if as_json else f"{count:,} items deleted; {alive:,} there are now", as_json)


def _rows(path: Path) -> list[dict[str, Any]]:
    """Items as they stand in a file, one mapping each."""
    import polars as pl

    try:
        if path.suffix == ".parquet":
            return pl.read_parquet(path).to_dicts()
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError, pl.exceptions.PolarsError) as error:
        raise DataError(f"cannot be read: {error}", file=path) from None
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line) if line.strip() else None
        except ValueError as error:
            raise DataError(f"not JSON: {error}", file=path, line=number) from None
        if row is not None and not isinstance(row, dict):
            raise DataError("expected an object of fields and values", file=path, line=number)
        rows += [] if row is None else [row]
    return rows
