"""A bundle: one directory that holds all a cascade needs to answer, and proves that it still does.

<version>/manifest.json                       checksums, digests, recipe, schema, plan, metrics, provenance
          data/{items,queries,events}.parquet the catalogues, and the events that histories are made of
          data/dataset.json, features/, golden/   schema and notes; vocabularies and means; encoded rows
          models/<name>/  index/<name>/  tables/<name>/  sources/
          golden/                             requests and what every stage answered them

It has the layout of a run, so what opens a run's cascade opens a bundle's. How versions lie beside each other
is `twotower.pipeline.bundles.root`'s business.
"""

from __future__ import annotations

import platform
import shutil
import subprocess
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import polars as pl
import torch

from twotower import __version__
from twotower.cascade.cascade import Cascade
from twotower.errors import ConfigError, MismatchError, StorageError
from twotower.index.manifest import files_of
from twotower.models.base import Model
from twotower.pipeline.answerer import Answerer
from twotower.pipeline.assembly import Assembly
from twotower.pipeline.bundles.golden_answers import GoldenAnswers
from twotower.pipeline.bundles.manifest import MANIFEST, BundleManifest, check, seal, stored_digest
from twotower.pipeline.bundles.own_code import check_own_code, own_code
from twotower.pipeline.bundles.root import CURRENT, BundleRoot, find_version
from twotower.pipeline.encoded import Encoded
from twotower.pipeline.inspection import read_json
from twotower.pipeline.pipeline import Pipeline, Say
from twotower.pipeline.recipe import Recipe
from twotower.pipeline.workspace import Workspace


@dataclass(frozen=True)
class Bundle:
    """A version that was checked: a cascade, the data behind it, and what the manifest says of them."""

    directory: Path
    manifest: BundleManifest
    encoded: Encoded
    cascade: Cascade

    @property
    def version(self) -> str:
        return self.directory.name

    @classmethod
    def load(cls, path: str | Path, *, fast: bool = False, code: Collection[str] = ()) -> Bundle:
        """The current version below a root, or the one whose directory it is, checked and replayed.

        Every file is read once and compared with its checksum. ``fast`` compares only the sizes, for bundles
        of many gigabytes on a disk that is trusted: then a changed byte of a memory-mapped table is found
        only if a golden answer rests on it.

        Raises
        ------
        StorageError
            Nothing to load, or a file is missing, damaged, added, or of a format that is not known.
        MismatchError
            Parts do not belong together, or golden rows or answers come out otherwise than when it was built.
        ConfigError
            It rests on code that ``code`` does not name.
        """
        directory = find_version(path)
        return _open(directory, check(directory, stored_digest(directory), fast=fast), code)

    def answerer(self) -> Answerer:
        """Answers for known queries (unless they were left out) and for described ones."""
        return Answerer(self.encoded, self.cascade)

    def __repr__(self) -> str:
        sizes = ", ".join(f"{count:,} {name}" for name, count in self.manifest.counts.items())
        return f"Bundle({self.version}: {self.cascade}; {sizes})"


def build(
    run: str | Path,
    root: str | Path,
    *,
    people: bool = True,
    plan: Mapping[str, Any] | None = None,
    say: Say = lambda line: None,
) -> Bundle:
    """Pack a finished run into a new version below ``root``, verify it, publish it and make it current.

    It is built in a hidden directory and loaded from there with every check; only then a rename publishes it
    and a second one makes it current. Killed anywhere, the root serves the old version or the new one, and
    the next build removes what was left. Files are copied: what later happens to the run does not matter.

    Parameters
    ----------
    people
        Bring the table of queries and the events, which answers by id need. Without them the bundle answers
        described queries only. The vocabulary and the golden rows still hold ids.
    plan
        What the planner chose, as data; kept in the manifest. None: the run's ``plan.json``, if its depths
        and stores are those of the recipe's plan.
    say
        Is told what is left out of the manifest, and why.

    Raises
    ------
    ConfigError
        The run has no cascade, a step of it is not finished, or the plan is no mapping.
    MismatchError
        The recipe asks for another model than was trained, or the run's parts do not belong together.
    StorageError
        The disk is full or refuses, or another build is under way.
    """
    if plan is not None and not isinstance(plan, Mapping):
        raise ConfigError(f"plan: expected an object as `twotower plan` writes it, found {plan!r}")
    pipeline = Pipeline.open(run)
    models = _finished_models(pipeline)
    cascade = pipeline.cascade()
    assert cascade is not None  # a recipe without one has no finished models
    place = BundleRoot(root)
    encoded = Encoded.read(pipeline.recipe, pipeline.space.data)
    answers = GoldenAnswers.take(Answerer(encoded, cascade))
    with place.locked():
        place.clean()
        with place.draft() as draft:
            _copy(pipeline, encoded, draft, models, people)
            answers.save(draft / "golden")
            about = _about(pipeline, encoded, models, people)
            about |= {"plan": _plan(pipeline, say) if plan is None else dict(plan)}
            digest = seal(draft, about | {"metrics": _metrics(pipeline, say)})
            made = _open(draft, check(draft, digest), own_code(pipeline.recipe.plain()))
            directory = place.publish(draft, digest)
        place.switch(directory.name)
    return replace(made, directory=directory)


def is_bundle(path: str | Path) -> bool:
    """Whether a directory is a bundle, or a root of bundles; a run is neither."""
    return any((Path(path) / name).exists() for name in (CURRENT, MANIFEST))


def rollback(root: str | Path, *, code: Collection[str] = ()) -> Bundle:
    """Serve the previous version again, after checking it; a second rollback goes forward again.

    Raises
    ------
    ConfigError
        There is no previous version, or it rests on code that ``code`` does not name.
    StorageError, MismatchError
        As `Bundle.load`: a damaged version is not gone back to.
    """
    place = BundleRoot(root)
    place.served()  # where nothing is served, not even a lock is left
    with place.locked():
        bundle = Bundle.load(place.path(place.previous()), code=code)
        place.switch(bundle.version)
    return bundle


def _open(directory: Path, manifest: BundleManifest, code: Collection[str]) -> Bundle:
    """Load what the files hold: whether they are the right files has been checked."""
    check_own_code(manifest.recipe, code, directory)
    recipe, space = Recipe.parse(manifest.recipe, where=f"{directory}: recipe"), Workspace(directory)
    if recipe.threads:
        torch.set_num_threads(recipe.threads)
    encoded = Encoded.read(recipe, space.data)
    _same("the features", encoded.features.digest(), manifest.features, directory)
    _same("the item table", space.item_source(), manifest.items, directory)
    _same("the schema", encoded.dataset.schema, manifest.data_schema, directory)
    for name in _names(recipe):  # a model's file may not name other code than the recipe does
        found = read_json(space.model(name) / "model.json").get("model")
        _same(f"the class of the model {name!r}", found, recipe.models[name].model, directory)
    # of the encoded data alone: without people there are no events that a run's data could be split by
    cascade = Assembly(recipe, space, lambda: encoded).cascade(verify=False)
    if cascade is None or manifest.models.keys() != set(_names(recipe)):
        raise MismatchError(f"{directory}: the models of the manifest are not those of its recipe's cascade")
    for name, about in manifest.models.items():
        found = read_json(space.model(name) / "model.json")["digest"]  # the weights' own, when loaded
        _same(f"the model {name!r}", found, about.digest, directory)
    bundle = Bundle(directory, manifest, encoded, cascade)
    GoldenAnswers.load(directory / "golden").replay(bundle.answerer())
    return bundle


def _same(what: str, found: object, expected: object, directory: Path) -> None:
    if found != expected:
        shown = f" ({found}, expected {expected})" if isinstance(found, str) else ""
        raise MismatchError(f"{directory}: not what the bundle was built with: {what}{shown}")


def _names(recipe: Recipe) -> list[str]:
    """Models of the cascade, each once."""
    return list(dict.fromkeys(name for stage in recipe.cascade for name in stage.models))


def _finished_models(pipeline: Pipeline) -> dict[str, Model]:
    """The cascade's models, all trained as the recipe says."""
    space, recipe = pipeline.space, pipeline.recipe
    if not recipe.cascade:
        raise ConfigError(f"{space.directory}: the recipe has no cascade to bundle")
    done, models = space.finished(), {}
    for name in _names(recipe):
        missing = [step for step in (f"train {name}", f"build {name}") if step not in done]
        if missing:
            raise ConfigError(f"{space.directory}: not finished: {', '.join(missing)}; run: twotower train")
        pipeline.check_trained(name)
        models[name] = pipeline.model(name)
    return models


def _copy(
    pipeline: Pipeline, encoded: Encoded, draft: Path, models: Mapping[str, Model], people: bool
) -> None:
    """The run's files that a bundle holds, one by one: leftovers of training stay behind."""
    space = pipeline.space
    data = [space.data / "items.parquet", space.data / "dataset.json"]
    data += [path for part in ("features", "golden") for path in (space.data / part).rglob("*")]
    files = [path for path in data if path.is_file()]
    for name in models:
        files += [space.model(name) / part for part in ("model.json", "model.safetensors")]
        files += [file for kept in pipeline.assembly.kept(name) for file in files_of(kept)]
    files += [space.source(s.name) for s in pipeline.recipe.sources if s.fitted]
    if people:
        files += [space.data / "queries.parquet", space.data / "events.parquet"]
    for path in files:
        copy = draft / path.relative_to(space.directory)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
    if not people:
        try:
            encoded.dataset.queries.clear().write_parquet(draft / "data" / "queries.parquet")
            encoded.dataset.events.clear().write_parquet(draft / "data" / "events.parquet")
        except pl.exceptions.PolarsError as error:
            raise StorageError(f"{draft}: could not be written: {error}") from error


def _about(pipeline: Pipeline, encoded: Encoded, models: Mapping[str, Model], people: bool) -> dict[str, Any]:
    """What the manifest says beside the files, but for plan and metrics."""
    recipe, dataset = pipeline.recipe, encoded.dataset
    return {
        "name": recipe.name,
        "recipe": recipe.plain(),
        "schema": dataset.schema.plain(),
        "features": encoded.features.digest(),
        "items": pipeline.space.item_source(),
        "models": {
            name: {
                "model": recipe.models[name].model,
                "digest": model.digest(),
                "item_digest": model.item_digest(),
            }
            for name, model in models.items()
        },
        "counts": {
            "items": len(dataset.items),
            "queries": len(dataset.queries) if people else 0,
            "events": len(dataset.events) if people else 0,
        },
        "provenance": {
            "built": datetime.now(UTC).isoformat(timespec="seconds"),
            "data": dataset.name,
            "notes": list(dataset.notes),
            "commit": _commit(pipeline.space.directory),
            "code": list(own_code(recipe.plain())),
            "python": platform.python_version(),
            "twotower": __version__,
            **{package: version(package) for package in ("torch", "polars", "numpy", "safetensors")},
        },
    }


def _plan(pipeline: Pipeline, say: Say) -> dict[str, Any] | None:
    """The run's own ``plan.json``, where it is the plan that the recipe has."""
    asked, path = pipeline.recipe.plan, pipeline.space.directory / "plan.json"
    if asked is None:
        return None
    found: Any = read_json(path) if path.exists() else None
    if isinstance(found, dict) and {name: found.get(name) for name in asked.plain()} == asked.plain():
        return found
    why = "differs from the recipe's plan" if path.exists() else "is missing"
    say(f"plan: left out of the manifest, {path} {why}; the depths are in the recipe, or name one by --plan")
    return None


def _metrics(pipeline: Pipeline, say: Say) -> dict[str, Any] | None:
    """The run's report; nothing where it was measured of another recipe, of other models or of other data."""
    path = pipeline.space.results / "report.json"
    report = read_json(path) if path.exists() else None
    if report is not None and report.get("about", {}).get("measured") == pipeline.measured_mark():
        return report
    why = "the run was not evaluated" if report is None else f"{path} is of another recipe or other models"
    say(f"metrics: left out of the manifest, {why}; run: twotower evaluate, and build it again")
    return None


def _commit(directory: Path) -> str | None:
    """The commit of the repository the run lies in, with ``-dirty`` when something was changed since."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
    except OSError:  # no git here
        return None
    return done.stdout.strip() or None
