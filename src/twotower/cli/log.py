"""``twotower log``: how long the log of served requests is kept, and in how many files."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from twotower.cli.options import Json
from twotower.cli.session import reported_errors, show

app = typer.Typer(
    help="Look after the log of served requests, a directory of Parquet files.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.callback()
def log() -> None:
    """Look after the log of served requests, a directory of Parquet files."""


@app.command()
def prune(
    directory: Annotated[Path, typer.Argument(help="Directory of the log.", show_default=False)],
    keep_days: Annotated[
        float | None, typer.Option("--keep-days", help="Remove what was written before so many days.")
    ] = None,
    keep_bytes: Annotated[
        int | None, typer.Option("--keep-bytes", help="Keep the newest files, so many bytes at most.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Remove old files, the oldest first, while servers go on logging.

    Example: twotower log prune served --keep-days 30 --keep-bytes 20000000000
    """
    with reported_errors():
        from twotower.cascade.funnel_retention import prune_log

        found = prune_log(directory, keep_days=keep_days, keep_bytes=keep_bytes)
        show(asdict(found) if as_json else str(found), as_json)


@app.command()
def compact(
    directory: Annotated[Path, typer.Argument(help="Directory of the log.", show_default=False)],
    file_bytes: Annotated[
        int, typer.Option("--file-bytes", min=1, help="How large merged files become at most.")
    ] = 64 << 20,
    as_json: Json = False,
) -> None:
    """Merge small files into larger ones, while servers go on logging and others read.

    Example: twotower log compact served
    """
    with reported_errors():
        from twotower.cascade.funnel_compaction import compact_log

        found = compact_log(directory, file_bytes=file_bytes)
        show(asdict(found) if as_json else str(found), as_json)
