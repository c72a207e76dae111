"""What every command does around its work: open the pipeline, report errors, print results."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from twotower.cli.options import OnErrorChoice
from twotower.errors import TwotowerError

if TYPE_CHECKING:
    from twotower.pipeline.answerer import Answerer
    from twotower.pipeline.pipeline import Pipeline


@contextmanager
def reported_errors() -> Iterator[None]:
    """The package's errors become one message and an exit code; bugs keep their traceback."""
    try:
        yield
    except TwotowerError as error:
        print(f"twotower: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None
    except KeyboardInterrupt as error:
        how = str(error) or "run the same command again: finished steps are skipped"
        print(f"twotower: interrupted: {how}", file=sys.stderr)
        raise SystemExit(getattr(error, "exit_code", 130)) from None
    except BrokenPipeError:
        raise SystemExit(141) from None


@contextmanager
def opened_pipeline(
    recipe: Path,
    data: Path | None,
    out: Path | None,
    changes: Sequence[str] | None,
    seed: int | None,
    on_error: OnErrorChoice,
    quiet: bool,
    warm_from: Path | None = None,
) -> Iterator[Pipeline]:
    """The pipeline a command works on, with live progress on standard error."""
    with reported_errors():
        from twotower.config import load_yaml
        from twotower.memory import keep_heap

        keep_heap()  # before torch is loaded: fresh pages cost training as much as its arithmetic
        from twotower.pipeline.changes import changed
        from twotower.pipeline.pipeline import Pipeline
        from twotower.pipeline.recipe import Recipe
        from twotower.train.events import silent
        from twotower.train.progress import Progress

        events = None if quiet else Progress()
        seeds = [] if seed is None else [f"seed={seed}"]
        checked = Recipe.parse(
            changed(load_yaml(recipe), [*(changes or []), *seeds], str(recipe)), where=str(recipe)
        )
        pipeline = Pipeline(
            checked,
            out or Path("runs") / checked.name,
            data=data,
            on_error=on_error.value,
            warm_from=warm_from,
            say=(lambda line: None) if quiet else (lambda line: print(line, file=sys.stderr)),
            events=events or silent,
        )
        with events or nullcontext():
            yield pipeline
        if not quiet:
            print(f"written to {pipeline.space.directory}", file=sys.stderr)


@contextmanager
def opened_answerer(
    directory: Path, items_log: Path | None, code: Sequence[str] | None, log: Path | None
) -> Iterator[Answerer]:
    """Who answers for a run or for a bundle, with the changes of its items; begins no log of them.

    What is answered is logged below ``log``, if given.
    """
    from twotower.index.item_log import check_begun
    from twotower.pipeline.answerer import Answerer
    from twotower.pipeline.bundles.bundle import Bundle, is_bundle
    from twotower.pipeline.bundles.live import LiveBundle

    with ExitStack() as stack:
        if items_log is not None:
            check_begun(items_log)
            live = stack.enter_context(LiveBundle.load(directory, items_log, code=code or ()))
            if log is not None:
                stack.enter_context(live.logging(log))
            yield live.answerer()
            return
        version = ""
        if is_bundle(directory):
            bundle = Bundle.load(directory, code=code or ())
            answerer, version = bundle.answerer(), bundle.version
        else:
            answerer = Answerer.open(directory)
        if log is not None:
            stack.enter_context(answerer.logging(log, produced_by=version))
        yield answerer


def show(what: Any, as_json: bool) -> None:
    """Results on standard output: JSON, a text as it stands, or a line per name."""
    if as_json:
        typer.echo(json.dumps(what, indent=2, ensure_ascii=False))
    elif isinstance(what, str):
        typer.echo(what.rstrip("\n"))
    else:
        for name, about in what.items():
            typer.echo(f"{name}: " + ", ".join(f"{key} {value}" for key, value in about.items()))


def about_model(model: Any) -> dict[str, Any]:
    """A trained model in a few words."""
    return {
        "class": type(model).__name__,
        "parameters": sum(p.numel() for p in model.parameters()),
        "bytes per item": model.bytes_per_item,
        "digest": model.digest(),
    }
