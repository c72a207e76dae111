"""``twotower items``: changes count in the answers of a bundle, and a wrong file changes nothing."""

from __future__ import annotations

import json

import polars as pl
import pytest


@pytest.fixture
def root(twotower, trained, tmp_path):
    assert twotower("bundle", "build", trained.directory, tmp_path / "bundles").exit_code == 0
    return tmp_path / "bundles"


def shown(twotower, root, user, *more):
    result = twotower("recommend", root, "--user", user, "--json", *more)
    assert result.exit_code == 0, result.output
    return [row["item"] for row in json.loads(result.stdout)["items"]]


def test_delete_add_and_ask(twotower, trained, root, tmp_path):
    log = tmp_path / "items.sqlite"
    user = trained.pipeline.prepared.dataset.queries["user"][0]
    before = shown(twotower, root, user)
    assert before == shown(twotower, trained.directory, user)  # a bundle answers as its run
    gone = twotower("items", "delete", root, before[0], "5", "--log", log)
    assert gone.stdout == "1 items deleted; 119 there are now\n"
    assert before[0] not in shown(twotower, root, user, "--items", log)
    assert shown(twotower, root, user) == before  # the bundle itself is as it was
    row = trained.pipeline.prepared.dataset.items.filter(item=before[0]).to_dicts()[0]
    (tmp_path / "back.jsonl").write_text(json.dumps(row) + "\n\n")
    back = twotower("items", "upsert", root, tmp_path / "back.jsonl", "--log", log, "--json")
    assert json.loads(back.stdout) == {"changed": 1, "items": 120}
    assert shown(twotower, root, user, "--items", log) == before
    pl.DataFrame([row | {"item": 7}]).write_parquet(tmp_path / "new.parquet")
    assert (
        "121 there are now"
        in twotower("items", "upsert", root, tmp_path / "new.parquet", "--log", log).stdout
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[1]\n", "items.jsonl:1: expected an object"),
        ('{"item": 3}\n{"item"\n', "items.jsonl:2: not JSON"),
        ('{"item": 3, "brnad": "x"}\n', "unknown feature 'brnad'; did you mean 'brand'"),
        ('{"item": 3, "price": "dear"}\n', "price"),
        ('{"brand": "x"}\n', "lacks its id"),
    ],
)
def test_a_wrong_item_is_named_and_changes_nothing(twotower, root, tmp_path, content, message):
    (tmp_path / "items.jsonl").write_text(content)
    result = twotower("items", "upsert", root, tmp_path / "items.jsonl", "--log", tmp_path / "log")
    assert result.exit_code in (2, 65)
    assert message in result.stderr
    after = twotower("items", "delete", root, "0", "--log", tmp_path / "log")
    assert "120 there are now" in after.stdout
