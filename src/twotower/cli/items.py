"""``twotower items``: add, change and delete items under a bundle that serves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from twotower.cli.bundle import Code, Version
from twotower.cli.options import Json
from twotower.cli.session import reported_errors, show
from twotower.errors import ConfigError, DataError

if TYPE_CHECKING:
    import polars as pl

    from twotower.index.item_store import ItemStore

app = typer.Typer(
    help=(
        "Add, change and delete items without training and without a new bundle.\n\n"
        "Changes are kept in a log beside the bundle; they are on the disk when the command returns. Whoever "
        "serves the same bundle with the same log takes them in."
    ),
    no_args_is_help=True,
    rich_markup_mode=None,
)

After = Annotated[int, typer.Option("--after", min=0, help="Only changes later than this number.")]
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

    A column that is not there is missing for all of them. Fields are taken as they are given: where a reader
    makes `text` of title and body, write it so.

    Example: twotower items upsert bundles new.jsonl --log items.sqlite
    """
    with reported_errors():
        from twotower.pipeline.bundles.live import LiveBundle

        rows = _rows(file)
        with LiveBundle.load(bundle, log, code=code or ()) as live:
            _check(file, rows, live.store)
            count = live.upsert(rows.values())
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
            count = live.delete([_number(each) if numbers else each for each in ids])
            alive = len(live.store)
        about = {"deleted": count, "items": alive}
        show(about if as_json else f"{count:,} items deleted; {alive:,} there are now", as_json)


@app.command("list")
def list_(
    log: Annotated[Path, typer.Argument(help="The log of changes.", show_default=False)],
    after: After = 0,
    as_json: Json = False,
) -> None:
    """Show what holds for every item that was changed: the number of its last change, and its features.

    Example: twotower items list items.sqlite
    """
    with reported_errors():
        from twotower.index.item_log import entries_of

        found = entries_of(log, after)
        if as_json:
            plain = [{"number": n, "id": e.id, "features": e.features} for n, e in found]
            show(plain, as_json)
            return
        for number, entry in found:
            typer.echo(f"{number}  {entry.id}  {_told(entry.features)}")
        gone = sum(entry.features is None for _, entry in found)
        typer.echo(f"{len(found) - gone:,} items added or changed, {gone:,} deleted")


@app.command()
def carry(
    bundle: Version,
    log: Log,
    earlier: Annotated[
        Path, typer.Option("--from", help="The log of the bundle that served before.", show_default=False)
    ],
    after: After = 0,
    code: Code = None,
    as_json: Json = False,
) -> None:
    """Take the changes of an earlier bundle's log over to a new bundle, which begins a log of its own.

    What a newer bundle was built of may hold some changes already, and later ones of the same items: name the
    last change that its data knew by --after, or they are put back. Items that the new log has changed
    already stay as they are, so that a second call finishes a first one and undoes nothing.

    Example: twotower items carry bundles --log new.sqlite --from items.sqlite --after 1200
    """
    with reported_errors():
        from twotower.index.item_log import entries_of
        from twotower.pipeline.bundles.live import LiveBundle

        entries = [entry for _, entry in entries_of(earlier, after)]
        with LiveBundle.load(bundle, log, code=code or ()) as live:
            changed_since = {entry.id for entry in live.store.changes(after=0)}
            entries = [entry for entry in entries if entry.id not in changed_since]
            name = live.store.catalogue.name
            kept = [{name: e.id, **e.features} for e in entries if e.features is not None]
            changed = live.upsert(kept)
            deleted = live.delete([e.id for e in entries if e.features is None])
            alive = len(live.store)
        about = {"changed": changed, "deleted": deleted, "items": alive}
        told = f"{changed:,} items added or changed, {deleted:,} deleted; {alive:,} there are now"
        show(about if as_json else told, as_json)


@app.command()
def trim(bundle: Version, log: Log, as_json: Json = False) -> None:
    """Remove changes that a later one of the same item replaced, while servers go on.

    Example: twotower items trim bundles --log items.sqlite
    """
    with reported_errors():
        from twotower.index.item_log import ItemLog, check_begun
        from twotower.pipeline.bundles.manifest import stored_digest
        from twotower.pipeline.bundles.root import find_version

        check_begun(log)
        entries = ItemLog(log, stored_digest(find_version(bundle)))
        removed = entries.trim()
        entries.close()
        show({"removed": removed} if as_json else f"{removed:,} replaced changes removed", as_json)


def _told(features: dict[str, Any] | None) -> str:
    return "deleted" if features is None else json.dumps(features, ensure_ascii=False)


def _number(id: str) -> int:
    try:
        return int(id)
    except ValueError:
        raise ConfigError(f"found the id {id!r}, expected an integer as the ids of this bundle are") from None


def _rows(path: Path) -> dict[int, dict[str, Any]]:
    """Items as they stand in a file, one mapping each, by line (in Parquet by row, from 1)."""
    import polars as pl

    try:
        if path.suffix == ".parquet":
            return dict(enumerate(pl.read_parquet(path, glob=False).to_dicts(), 1))
        # not splitlines(): JSON may hold U+2028 and its like within a string
        lines = path.read_bytes().decode("utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError, pl.exceptions.PolarsError) as error:
        raise DataError(f"cannot be read: {error}", file=path) from None
    rows = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"not JSON: {error}", file=path, line=number) from None
        if not isinstance(row, dict):
            raise DataError("expected an object of fields and values", file=path, line=number)
        rows[number] = row
    return rows


def _check(path: Path, rows: dict[int, dict[str, Any]], store: ItemStore) -> None:
    """Every row has an id of its own and values of its fields' types; unknown fields the store refuses."""
    name, line_of = store.catalogue.name, dict[Any, int]()
    unit = "row" if path.suffix == ".parquet" else "line"
    for line, row in rows.items():
        id = row.get(name)
        if id is None or isinstance(id, bool) or (isinstance(id, str) and not id.strip()):
            remedy = "give every item an id that is not empty"
            message = f"the item lacks its id: {name} is {id!r}"
            raise DataError(message, file=path, line=line, column=name, remedy=remedy)
    for field, dtype in store.columns.items():
        if not _holds([row.get(field) for row in rows.values()], dtype):
            for line, row in rows.items():
                if not _holds([row.get(field)], dtype):
                    message = f"item {row[name]!r}: found {row[field]!r}, expected {_expected(dtype)}"
                    raise DataError(message, file=path, line=line, column=field, remedy="repair the value")
    for line, row in rows.items():
        first = line_of.setdefault(row[name], line)
        if first != line:
            message = f"the item {row[name]!r} stands in {unit} {first} already, and here a second time"
            remedy = "keep one of them"
            raise DataError(message, file=path, line=line, column=name, remedy=remedy)


def _holds(values: list[Any], dtype: pl.DataType) -> bool:
    """Whether a column of this type takes all values."""
    import polars as pl

    if isinstance(dtype, pl.List | pl.Array) and any(isinstance(value, str) for value in values):
        return False  # polars would take it for a list of one
    try:
        pl.Series(values, dtype=dtype, strict=True)
    except (TypeError, ValueError, OverflowError, pl.exceptions.PolarsError):
        return False
    return True


def _expected(dtype: pl.DataType) -> str:
    """A type of the item table in words."""
    import polars as pl

    if isinstance(dtype, pl.Array):
        return f"a list of {dtype.size} numbers"
    if isinstance(dtype, pl.List):
        return "a list of texts" if dtype.inner == pl.String else "a list of numbers"
    if dtype == pl.Boolean:
        return "true or false"
    return "a text" if dtype == pl.String else "an integer" if dtype.is_integer() else "a finite number"
