"""``twotower bundle``: pack a run, check and compare what was packed, go back."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from twotower.cli.options import Json, RunDirectory
from twotower.cli.session import reported_errors, show
from twotower.errors import ConfigError

app = typer.Typer(
    help=(
        "Pack a finished run into one immutable directory, and move it to production safely.\n\n"
        "A root holds the versions; its file `current` names the one that is served. Every file of a version "
        "has a checksum, and requests kept inside are answered again whenever it is loaded."
    ),
    no_args_is_help=True,
    rich_markup_mode=None,
)

Root = Annotated[Path, typer.Argument(help="Directory of the versions, such as bundles.", show_default=False)]
Version = Annotated[
    Path, typer.Argument(help="A root, for its current version, or a version in it.", show_default=False)
]

Code = Annotated[
    list[str] | None,
    typer.Option("--code", help="Code of your own it may import, such as our_shop.models:Factors."),
]


@app.command()
def build(
    run: RunDirectory,
    root: Root,
    people: Annotated[
        bool, typer.Option(help="Bring the users and their events, to answer known users by id.")
    ] = True,
    plan: Annotated[
        Path | None,
        typer.Option(
            "--plan",
            help="A JSON file of the planner to keep in the manifest, instead of the run's plan.json.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Pack a run as a new version, verify it, publish it, and make it the current one.

    Example: twotower bundle build runs/demo bundles
    """
    with reported_errors():
        from twotower.pipeline.bundles.bundle import build as build_bundle
        from twotower.pipeline.inspection import read_json

        chosen = None if plan is None else read_json(plan)
        if plan is not None and not isinstance(chosen, dict):
            raise ConfigError(f"--plan {plan}: expected a JSON object, as `twotower plan` writes it")
        bundle = build_bundle(
            run, root, people=people, plan=chosen, say=lambda line: print(line, file=sys.stderr)
        )
        show({"version": bundle.version, **bundle.manifest.counts} if as_json else str(bundle), as_json)


@app.command()
def verify(
    path: Version,
    fast: Annotated[
        bool, typer.Option("--fast", help="Compare sizes instead of checksums; golden answers are replayed.")
    ] = False,
    code: Code = None,
    as_json: Json = False,
) -> None:
    """Load a version with every check: checksums, parts that belong together, golden rows and answers.

    Example: twotower bundle verify bundles
    """
    with reported_errors():
        from twotower.pipeline.bundles.bundle import Bundle

        bundle = Bundle.load(path, fast=fast, code=code or ())
        found = {"version": bundle.version, **bundle.manifest.counts, **bundle.manifest.provenance}
        whole = "of the right sizes (sizes only: no checksum was compared)" if fast else "whole"
        show(found if as_json else f"{bundle}: {whole}, and answers as it did", as_json)


@app.command()
def diff(
    old: Annotated[Path, typer.Argument(help="A version, or a root.", show_default=False)],
    new: Annotated[Path, typer.Argument(help="Another one.", show_default=False)],
    as_json: Json = False,
) -> None:
    """Say what changed: models, vocabularies, items, settings, and the metrics side by side.

    Example: twotower bundle diff bundles/0001-b8074daf5cc1 bundles
    """
    with reported_errors():
        from twotower.pipeline.bundles.diff import diff as diff_bundles

        found = diff_bundles(old, new)
        show(found.plain() if as_json else found.text(), as_json)


@app.command()
def rollback(root: Root, code: Code = None, as_json: Json = False) -> None:
    """Serve the previous version again, after checking it; a second rollback goes forward again.

    Example: twotower bundle rollback bundles
    """
    with reported_errors():
        from twotower.pipeline.bundles.bundle import rollback as roll_back

        bundle = roll_back(root, code=code or ())
        show({"version": bundle.version} if as_json else f"{bundle.version} is current", as_json)
