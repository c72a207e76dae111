"""The command ``twotower``. Heavy imports happen inside the commands, so that help is free."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from twotower import __version__
from twotower.cli import bundle, items, plan, report, schema, search
from twotower.cli import log as served_log
from twotower.cli.options import (
    BudgetOption,
    Data,
    FunnelLogOption,
    Json,
    OnError,
    OnErrorChoice,
    Out,
    Quiet,
    RecipeFile,
    RunDirectory,
    Seed,
    Set,
    Warm,
    Where,
    budget_of,
    json_object,
    stage_depths,
)
from twotower.cli.session import about_model, opened_answerer, opened_pipeline, reported_errors, show

app = typer.Typer(
    help=(
        "Cascade ranking: from raw interactions to a measured funnel.\n\n"
        "A recipe (YAML) says what to read, how to split, which models to train and which stages to chain. "
        "Every run lives in a directory of its own; a step whose inputs have not changed is skipped, and an "
        "interrupted training resumes where it stopped.\n\n"
        "Start with:  twotower run recipes/demo.yaml"
    ),
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(bundle.app, name="bundle")
app.add_typer(items.app, name="items")
app.add_typer(served_log.app, name="log")
app.command()(plan.plan)
app.command()(report.report)
app.command()(search.search)
app.command()(schema.schema)


@app.command()
def run(
    recipe: RecipeFile,
    data: Data = None,
    out: Out = None,
    set_: Set = None,
    seed: Seed = None,
    on_error: OnError = OnErrorChoice.stop,
    warm: Warm = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Prepare, train and evaluate; ends with the funnel.

    Example: twotower run recipes/movielens-1m.yaml --data ml-1m
    """
    with opened_pipeline(recipe, data, out, set_, seed, on_error, quiet, warm) as pipeline:
        report = pipeline.run()
        show(report.plain() if as_json else report.text(), as_json)


@app.command()
def prepare(
    recipe: RecipeFile,
    data: Data = None,
    out: Out = None,
    set_: Set = None,
    seed: Seed = None,
    on_error: OnError = OnErrorChoice.stop,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Read the data, split it, fit the features.

    The leakage report of the split goes to standard error, with --json as JSON to standard output.
    """
    with opened_pipeline(recipe, data, out, set_, seed, on_error, quiet) as pipeline:
        prepared = pipeline.prepare()
        if as_json:
            show(prepared.leakage.plain(), as_json)


@app.command()
def train(
    recipe: RecipeFile,
    data: Data = None,
    out: Out = None,
    set_: Set = None,
    seed: Seed = None,
    on_error: OnError = OnErrorChoice.stop,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train the recipe's models and build their tables and indexes; prepares first if need be.

    Interrupt it whenever you like: the same command goes on from the last snapshot.
    """
    with opened_pipeline(recipe, data, out, set_, seed, on_error, quiet) as pipeline:
        pipeline.prepare()
        models = pipeline.train()
        show({name: about_model(model) for name, model in models.items()}, as_json)


@app.command()
def evaluate(
    recipe: RecipeFile,
    data: Data = None,
    out: Out = None,
    set_: Set = None,
    seed: Seed = None,
    on_error: OnError = OnErrorChoice.stop,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Measure the trained cascade on the test part: the funnel, the baselines, the intervals."""
    with opened_pipeline(recipe, data, out, set_, seed, on_error, quiet) as pipeline:
        pipeline.prepare()
        pipeline.train()
        report = pipeline.evaluate()
        show(report.plain() if as_json else report.text(), as_json)


@app.command()
def recommend(
    directory: search.Directory,
    user: Annotated[str | None, typer.Option("--user", help="Id of a known query (user).")] = None,
    features: Annotated[
        str | None,
        typer.Option("--features", help='An unseen user as JSON, such as \'{"age": "25-34"}\'.'),
    ] = None,
    history: Annotated[
        str | None,
        typer.Option("--history", help="Item ids the unseen user interacted with, comma separated."),
    ] = None,
    k: Annotated[int, typer.Option("--k", min=1, help="How many items.")] = 10,
    depth: search.Depth = None,
    where: Where = None,
    budget: BudgetOption = None,
    items_log: search.ItemsLog = None,
    log: FunnelLogOption = None,
    code: bundle.Code = None,
    as_json: Json = False,
) -> None:
    """Answer for one user, from a run or a bundle: items with titles and the score of every stage.

    Examples: twotower recommend runs/demo --user 1000001

              twotower recommend runs/demo --features '{"country": "de"}' --history 50000003,50000006
    """
    with reported_errors(), opened_answerer(directory, items_log, code, log) as answerer:
        answer = answerer.answer(
            user=user,
            features=None if features is None else json_object(features, "--features"),
            history=[] if history is None else [part.strip() for part in history.split(",") if part.strip()],
            k=k,
            depths=stage_depths(depth or []),
            where=None if where is None else json_object(where, "--where"),
            budget=budget_of(budget or []),
        )
        show(answer.plain() if as_json else answer.text(), as_json)


@app.command()
def inspect(
    path: Annotated[Path, typer.Argument(help="A run directory, or a recipe.", show_default=False)],
    as_json: Json = False,
) -> None:
    """Show what a run holds (data, models, sizes, results), or a recipe with every default filled in."""
    with reported_errors():
        from twotower.config import dump_yaml
        from twotower.pipeline.inspection import inspect_run
        from twotower.pipeline.recipe import Recipe

        if path.is_file():
            plain = Recipe.load(path).plain()
            show(plain if as_json else dump_yaml(plain), as_json)
        else:
            about = inspect_run(path)
            show(about if as_json else dump_yaml(about), as_json)


@app.command()
def export(
    directory: RunDirectory,
    out: Annotated[Path, typer.Option("--out", help="Directory for items.parquet and queries.parquet.")],
) -> None:
    """Write the retriever's item and query vectors as Parquet, for another engine to serve."""
    with reported_errors():
        from twotower.pipeline.export import export_vectors

        for path, rows in export_vectors(directory, out).values():
            typer.echo(f"{path}: {rows:,} vectors")


def main() -> None:
    """Entry point of the command line."""
    app(prog_name="twotower")


def version(show: bool) -> None:
    if show:
        typer.echo(f"twotower {__version__}")
        raise typer.Exit


@app.callback()
def options(
    show_version: Annotated[
        bool, typer.Option("--version", callback=version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Options of the program itself."""
