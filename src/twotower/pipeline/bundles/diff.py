"""What changed from one bundle to another: parts, vocabularies, items, settings and metrics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from twotower.data.features import Features
from twotower.errors import StorageError
from twotower.metrics.table import Cell, Column, Table
from twotower.pipeline.bundles.manifest import BundleManifest, check, stored_digest
from twotower.pipeline.bundles.root import find_version


@dataclass(frozen=True)
class Growth:
    """Values of a vocabulary, or ids of a catalogue, before and after."""

    before: int
    after: int
    added: int
    removed: int

    @classmethod
    def of(cls, a: pl.Series, b: pl.Series) -> Growth:
        """Compare as text: a column of numbers may have become one of words."""
        old, new = (series.cast(pl.String).unique() for series in (a, b))
        both = int(old.is_in(new.implode()).sum())
        return cls(len(old), len(new), len(new) - both, len(old) - both)

    @property
    def changed(self) -> bool:
        return bool(self.added or self.removed)


@dataclass(frozen=True)
class BundleDiff:
    """From version ``a`` to version ``b``; only what differs, metrics excepted."""

    a: str
    b: str
    parts: dict[str, tuple[Any, Any]]  # models, features, items, plan, schema: digest or content
    settings: dict[str, tuple[Any, Any]]  # keys of the recipe, dotted
    vocabularies: dict[str, Growth]
    items: Growth
    metrics: dict[str, tuple[float | None, float | None]]  # "rank nDCG@10": side by side

    def plain(self) -> dict[str, Any]:
        """Everything as data for JSON."""
        return {
            "from": self.a,
            "to": self.b,
            "parts": {name: list(pair) for name, pair in self.parts.items()},
            "settings": {name: list(pair) for name, pair in self.settings.items()},
            "vocabularies": {name: vars(growth) for name, growth in self.vocabularies.items()},
            "items": vars(self.items),
            "metrics": {name: list(pair) for name, pair in self.metrics.items()},
        }

    def text(self) -> str:
        """A line per change and a table of metrics, for a terminal."""
        if self.a == self.b:  # a name holds the digest of all that is in it
            return f"{self.a}: both are this version, there is nothing to compare"
        lines = [f"{self.a} -> {self.b}"]
        lines += [f"{name}: {_short(was)} -> {_short(now)}" for name, (was, now) in self.parts.items()]
        for name, (was, now) in self.settings.items():
            lines.append(f"recipe {name}: {_short(was)} -> {_short(now)}")
        grown = {f"vocabulary {name}": growth for name, growth in self.vocabularies.items()}
        for name, growth in (grown | ({"item ids": self.items} if self.items.changed else {})).items():
            counts = f"{growth.before:,} -> {growth.after:,} (+{growth.added:,} -{growth.removed:,})"
            lines.append(f"{name}: {counts}")
        if len(lines) == 1:
            lines.append("nothing changed but the time it was built")
        if self.metrics:
            rows: list[tuple[Cell, ...]] = [
                (name, was, now, None if was is None or now is None else now - was)
                for name, (was, now) in self.metrics.items()
            ]
            columns = (Column("metric"), Column(self.a), Column(self.b), Column("change"))
            lines += ["", Table(columns, tuple(rows)).text()]
        return "\n".join(lines)


def diff(a: str | Path, b: str | Path) -> BundleDiff:
    """Compare two bundles, each a version's directory or a root; both are checked but for their checksums.

    Raises
    ------
    StorageError
        One of them cannot be read.
    """
    old, new = (_Side.read(path) for path in (a, b))
    before, after = old.manifest, new.manifest
    return BundleDiff(
        old.directory.name,
        new.directory.name,
        _changes(_parts(before), _parts(after)),
        _changes(_flat(before.recipe), _flat(after.recipe)),
        {
            name: growth
            for name in sorted(old.vocabularies.keys() & new.vocabularies.keys())
            if (growth := Growth.of(old.vocabularies[name], new.vocabularies[name])).changed
        },
        Growth.of(old.items, new.items),
        _side_by_side(_metrics(before), _metrics(after)),
    )


@dataclass(frozen=True)
class _Side:
    """What of a bundle is compared; the models stay on the disk."""

    directory: Path
    manifest: BundleManifest
    items: pl.Series
    vocabularies: dict[str, pl.Series]

    @classmethod
    def read(cls, path: str | Path) -> _Side:
        directory = find_version(path)
        manifest = check(directory, stored_digest(directory), fast=True)
        features = Features.load(directory / "data" / "features")
        item = manifest.data_schema.item
        try:
            items = pl.read_parquet(directory / "data" / "items.parquet", columns=[item], glob=False)[item]
        except (OSError, pl.exceptions.PolarsError) as error:
            raise StorageError(f"{directory}: the item table cannot be read: {error}") from error
        worded = [f.name for f in manifest.data_schema.fields if f.kind in ("id", "category", "bag")]
        encoded = {column.name for column in features.spec.columns}
        words = {name: features.vocabulary(name).values for name in worded if name in encoded}
        return cls(directory, manifest, items, words)


def _parts(manifest: BundleManifest) -> dict[str, Any]:
    models = {f"model {name}": about.digest for name, about in manifest.models.items()}
    schema = {f"field {field.name}": field.plain() for field in manifest.data_schema.fields}
    parts = {"features": manifest.features, "items and features": manifest.items, "plan": manifest.plan}
    counts = {f"number of {name}": count for name, count in manifest.counts.items()}
    return {**models, **parts, **counts, **schema}


def _metrics(manifest: BundleManifest) -> dict[str, float | None]:
    """Measures of the last report by stage and name."""
    return {
        f"{stage['stage']} {name}": value
        for stage in (manifest.metrics or {}).get("stages", [])
        for name, value in stage.items()
        if name != "stage"
    }


def _flat(plain: Any, at: str = "") -> dict[str, Any]:
    """Nested settings by dotted names."""
    pairs = (
        plain.items() if isinstance(plain, Mapping) else enumerate(plain) if isinstance(plain, list) else ()
    )
    inner = {name: value for key, below in pairs for name, value in _flat(below, f"{at}.{key}").items()}
    return inner or {at.removeprefix("."): plain}


def _changes(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    return {name: pair for name, pair in _side_by_side(a, b).items() if pair[0] != pair[1]}


def _side_by_side(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    return {name: (a.get(name), b.get(name)) for name in dict.fromkeys((*a, *b))}


def _short(value: Any) -> str:
    text = "none" if value is None else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
