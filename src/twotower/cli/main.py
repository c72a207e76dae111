"""The command ``twotower``. Heavy imports happen inside the commands, so that help is free."""

from __future__ import annotations

import json
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from twotower import __version__
from twotower.errors import TwotowerError

if TYPE_CHECKING:
    from twotower.pipeline.pipeline import Pipeline

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
    with _pipeline(recipe, data, out, set_, seed, on_error, quiet, warm) as pipeline:
        report = pipeline.run()
        _show(report.plain() if as_json else report.text(), as_json)
        _where(pipeline, quiet)


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
    """Read the data, split it, fit the features; prints the leakage report of the split."""
    with _pipeline(recipe, data, out, set_, seed, on_error, quiet) as pipeline:
        prepared = pipeline.prepare()
        if as_json:
            _show(prepared.leakage.plain(), as_json)
        _where(pipeline, quiet)


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
    with _pipeline(recipe, data, out, set_, seed, on_error, quiet) as pipeline:
        pipeline.prepare()
        models = pipeline.train()
        _show({name: _about(model) for name, model in models.items()}, as_json)
        _where(pipeline, quiet)


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
    with _pipeline(recipe, data, out, set_, seed, on_error, quiet) as pipeline:
        pipeline.prepare()
        pipeline.train()
        report = pipeline.evaluate()
        _show(report.plain() if as_json else report.text(), as_json)
        _where(pipeline, quiet)


@app.command()
def recommend(
    directory: RunDirectory,
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
    depth: Annotated[
        list[str] | None, typer.Option("--depth", help="Depth of a stage, such as --depth retrieve=200.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Answer for one user: items with titles and the score of every stage.

    Examples: twotower recommend runs/demo --user 1000001

              twotower recommend runs/demo --features '{"country": "de"}' --history 50000003,50000006
    """
    with _errors():
        from twotower.pipeline.answer import Answerer

        answer = Answerer.open(directory).answer(
            user=user,
            features=None if features is None else _json(features, "--features"),
            history=[] if history is None else [part.strip() for part in history.split(",") if part.strip()],
            k=k,
            depths=_depths(depth or []),
        )
        _show(answer.plain() if as_json else answer.text(), as_json)


@app.command()
def inspect(
    path: Annotated[Path, typer.Argument(help="A run directory, or a recipe.", show_default=False)],
    as_json: Json = False,
) -> None:
    """Show what a run holds (data, models, sizes, results), or a recipe with every default filled in."""
    with _errors():
        from twotower.config import dump_yaml
        from twotower.pipeline.inspection import inspect_run
        from twotower.pipeline.recipe import Recipe

        if path.is_file():
            plain = Recipe.load(path).plain()
            _show(plain if as_json else dump_yaml(plain), as_json)
        else:
            about = inspect_run(path)
            _show(about if as_json else dump_yaml(about), as_json)


@app.command()
def export(
    directory: RunDirectory,
    out: Annotated[Path, typer.Option("--out", help="Directory for items.parquet and queries.parquet.")],
) -> None:
    """Write the retriever's item and query vectors as Parquet, for another engine to serve."""
    with _errors():
        from twotower.pipeline.export import export_vectors

        for path, rows in export_vectors(directory, out).values():
            typer.echo(f"{path}: {rows:,} vectors")


@app.command()
def schema(
    path: Annotated[Path, typer.Argument(help="A Parquet or CSV file of events.", show_default=False)],
    query: Annotated[str, typer.Option("--query", help="Column of the query or user id.")],
    item: Annotated[str, typer.Option("--item", help="Column of the item id.")],
    time: Annotated[str | None, typer.Option("--time", help="Column of the time.")] = None,
    label: Annotated[list[str] | None, typer.Option("--label", help="Column of a label.")] = None,
) -> None:
    """Propose a schema for your own data, to paste into a recipe."""
    with _errors():
        from twotower.data.infer import explain, infer_schema

        typer.echo(explain(infer_schema(path, query=query, item=item, time=time, labels=tuple(label or ()))))


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


class _errors:
    """Turns the package's errors into one message and an exit code; bugs keep their traceback."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, TwotowerError):
            print(f"twotower: {error}", file=sys.stderr)
            raise SystemExit(error.exit_code) from None
        if isinstance(error, KeyboardInterrupt):
            how = str(error) or "run the same command again: finished steps are skipped"
            print(f"twotower: interrupted: {how}", file=sys.stderr)
            raise SystemExit(getattr(error, "exit_code", 130)) from None
        if isinstance(error, BrokenPipeError):
            raise SystemExit(141) from None


class _pipeline(_errors):
    """The pipeline a command works on, with live progress on standard error."""

    def __init__(
        self,
        recipe: Path,
        data: Path | None,
        out: Path | None,
        changes: list[str] | None,
        seed: int | None,
        on_error: OnErrorChoice,
        quiet: bool,
        warm_from: Path | None = None,
    ) -> None:
        self.arguments = (recipe, data, out, changes or [], seed, on_error, quiet, warm_from)

    def __enter__(self) -> Pipeline:  # type: ignore[override]
        with _errors():
            return self._open()

    def _open(self) -> Pipeline:
        from twotower.config import load_yaml
        from twotower.memory import keep_heap

        keep_heap()  # before torch is loaded: fresh pages cost training as much as its arithmetic
        from twotower.pipeline.changes import changed
        from twotower.pipeline.pipeline import Pipeline
        from twotower.pipeline.recipe import Recipe
        from twotower.train.events import silent
        from twotower.train.progress import Progress

        path, data, out, changes, seed, on_error, quiet, warm_from = self.arguments
        plain = changed(load_yaml(path), [*changes, *([] if seed is None else [f"seed={seed}"])], str(path))
        recipe = Recipe.parse(plain, where=str(path))
        return Pipeline(
            recipe,
            out or Path("runs") / recipe.name,
            data=data,
            on_error=on_error.value,
            warm_from=warm_from,
            say=(lambda line: None) if quiet else (lambda line: print(line, file=sys.stderr)),
            events=silent if quiet else Progress(),
        )


def _show(what: Any, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(what, indent=2, ensure_ascii=False))
    elif isinstance(what, str):
        typer.echo(what.rstrip("\n"))
    else:
        for name, about in what.items():
            typer.echo(f"{name}: " + ", ".join(f"{key} {value}" for key, value in about.items()))


def _where(pipeline: Pipeline, quiet: bool) -> None:
    if not quiet:
        print(f"written to {pipeline.space.directory}", file=sys.stderr)


def _about(model: Any) -> dict[str, Any]:
    return {
        "class": type(model).__name__,
        "parameters": sum(p.numel() for p in model.parameters()),
        "bytes per item": model.bytes_per_item,
        "digest": model.digest(),
    }


def _json(text: str, option: str) -> dict[str, Any]:
    from twotower.errors import ConfigError

    try:
        value = json.loads(text)
    except ValueError as error:
        raise ConfigError(f"{option} is not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise ConfigError(f"{option} must be a JSON object of field names and values")
    return value


def _depths(texts: list[str]) -> dict[str, int]:
    from twotower.errors import ConfigError

    depths = {}
    for text in texts:
        name, _, number = text.partition("=")
        if not number.isdigit():
            raise ConfigError(f"--depth {text!r}: expected stage=number, such as retrieve=200")
        depths[name] = int(number)
    return depths
