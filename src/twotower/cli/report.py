"""``twotower report``: the funnel of a finished run as one HTML file."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from twotower.cli.options import Quiet, RunDirectory
from twotower.cli.session import reported_errors


class PartChoice(StrEnum):
    """Which held-out part is reported."""

    test = "test"
    valid = "valid"


def report(
    run: RunDirectory,
    out: Annotated[
        Path | None, typer.Option("--out", help="The file. Default: results/funnel.html of the run.")
    ] = None,
    part: Annotated[PartChoice, typer.Option("--part", help="The held-out part.")] = PartChoice.test,
    requests: Annotated[
        int, typer.Option("--requests", min=0, help="Single requests to show with their trace.")
    ] = 8,
    quiet: Quiet = False,
) -> None:
    """Show the funnel of a run: what survives, where relevant items die, time, slices, single requests.

    One self-contained HTML file, made to be read, printed and sent.

    Example: twotower report runs/demo --out report.html
    """
    with reported_errors():
        from twotower.pipeline.funnel_report import write_funnel_report

        path = write_funnel_report(
            run,
            run / "results" / "funnel.html" if out is None else out,
            part=part.value,
            requests=requests,
            say=(lambda line: None) if quiet else (lambda line: print(line, file=sys.stderr)),
        )
        typer.echo(path)
