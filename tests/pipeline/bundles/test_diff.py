"""What changed between two bundles."""

import json

import polars as pl
import pytest

from twotower.errors import StorageError
from twotower.pipeline.bundles.bundle import build
from twotower.pipeline.bundles.diff import Growth, diff


@pytest.fixture(scope="module")
def found(packed, other):
    return diff(packed.root, other.bundle.directory)


def test_growth_counts_what_came_and_what_went():
    growth = Growth.of(pl.Series(["a", "b", "b"]), pl.Series(["b", "c", "d"]))
    assert growth == Growth(before=2, after=3, added=2, removed=1)
    assert Growth.of(pl.Series([1, 2]), pl.Series(["2", "1"])).changed is False
    assert Growth.of(pl.Series([], dtype=pl.String), pl.Series([7])) == Growth(0, 1, 1, 0)


def test_a_bundle_built_again_has_changed_in_nothing(packed, tmp_path):
    build(packed.run, tmp_path)
    same = diff(packed.root, tmp_path)
    assert (same.parts, same.settings, same.vocabularies) == ({}, {}, {})
    assert not same.items.changed
    assert all(was == now for was, now in same.metrics.values())
    assert "nothing changed but the time it was built" in same.text()


def test_models_settings_and_sizes_that_differ_are_named(packed, other, found):
    was, now = (bundle.manifest.models["ranker"].digest for bundle in (packed.bundle, other.bundle))
    assert found.parts["model ranker"] == (was, now)
    assert found.parts["number of items"] == (120, 130)
    assert not any(name.startswith("field ") for name in found.parts)
    assert found.settings["cascade.0.k"] == (30, 25)
    assert found.settings["models.ranker.config.crosses"] == (1, 2)
    assert "cascade.1.k" not in found.settings


def test_vocabularies_and_items_are_counted(packed, other, found):
    ids = [bundle.encoded.dataset.items["item"].to_list() for bundle in (packed.bundle, other.bundle)]
    old, new = map(set, ids)
    assert found.items == Growth(120, 130, len(new - old), len(old - new))
    words = [
        set(bundle.encoded.features.vocabulary("item").values) for bundle in (packed.bundle, other.bundle)
    ]
    growth = found.vocabularies["item"]
    assert (growth.before, growth.after) == tuple(map(len, words))
    assert growth.added == len(words[1] - words[0])


def test_metrics_stand_side_by_side_and_may_be_missing(packed, found):
    measured = packed.bundle.manifest.metrics["stages"][1]["nDCG@10"]
    assert found.metrics["rank nDCG@10"] == (measured, None)


def test_plain_is_json_and_text_has_a_line_for_each(found):
    assert json.loads(json.dumps(found.plain()))["items"]["after"] == 130
    text = found.text()
    assert text.startswith(f"{found.a} -> {found.b}\n")
    assert "recipe cascade.0.k: 30 -> 25\n" in text
    assert "rank nDCG@10" in text
    assert text.count("vocabulary ") == len(found.vocabularies)


def test_a_version_and_the_root_that_serves_it_are_the_same(packed):
    same = diff(packed.bundle.directory, packed.root)
    assert same.text() == f"{packed.bundle.version}: both are this version, there is nothing to compare"
    assert same.plain()["from"] == same.plain()["to"]


def test_one_that_is_none_is_refused(packed, tmp_path):
    with pytest.raises(StorageError, match="no version of a bundle is current"):
        diff(packed.root, tmp_path)
