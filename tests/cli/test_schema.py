"""``twotower schema``: what is printed goes into a recipe as it stands."""

from __future__ import annotations

import polars as pl
import pytest
import yaml

from twotower.schema import Schema


def test_schema_proposes_what_a_recipe_takes(twotower, tmp_path):
    events = {
        "user": [1, 1, 2, 3],
        "ad": ["a", "b", "a", "c"],
        "clicked": [0, 1, 0, 1],
        "at": [10, 20, 30, 40],
    }
    pl.DataFrame(events).write_csv(tmp_path / "log.csv")
    result = twotower(
        "schema",
        tmp_path / "log.csv",
        "--query",
        "user",
        "--item",
        "ad",
        "--time",
        "at",
        "--label",
        "clicked",
    )
    assert result.exit_code == 0
    for name in events:
        assert name in result.stdout
    proposal = "\n".join(line for line in result.stdout.splitlines() if not line.startswith("#"))
    found = yaml.safe_load(proposal)
    schema = Schema.parse(found.get("schema", found))
    assert (schema.query, schema.item, schema.time) == ("user", "ad", "at")


def proposed(result):
    assert result.exit_code == 0, result.stderr
    return Schema.parse(yaml.safe_load(result.stdout)["schema"])


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl"])
def test_schema_guesses_a_label_that_is_not_named_and_says_what_it_left_out(twotower, tmp_path, ending):
    """A label taken for a feature would tell the model the answer."""
    events = pl.DataFrame(
        {"user": [1, 1, 2, 3], "ad": [1, 2, 1, 3], "click": [0, 1, 0, 1], "shop": ["a"] * 4}
    )
    path = tmp_path / f"log.{ending}"
    if ending == "jsonl":
        events.write_ndjson(path)
    else:
        events.write_csv(path, separator="\t" if ending == "tsv" else ",")
    result = twotower("schema", path, "--query", "user", "--item", "ad")
    schema = proposed(result)
    assert [(field.name, field.role) for field in schema.fields] == [
        ("user", "query"),
        ("ad", "item"),
        ("click", "label"),
    ]
    assert "- {name: click, kind: number, role: label}  # usual name of a label\n" in result.stdout
    assert "  # left out: shop (always 'a')\n" in result.stdout


def test_schema_takes_the_labels_that_are_named(twotower, tmp_path):
    events = {"user": [1, 1, 2, 3], "ad": [1, 2, 1, 3], "click": [0, 1, 0, 1], "bought": [0, 1, 0, 0]}
    pl.DataFrame(events).write_csv(tmp_path / "log.csv")
    asked = ("schema", tmp_path / "log.csv", "--query", "user", "--item", "ad")
    for named in (["bought"], ["click", "bought"]):
        schema = proposed(twotower(*asked, *(word for label in named for word in ("--label", label))))
        assert [field.name for field in schema.labels] == named


def test_help_names_the_files_it_reads(twotower):
    text = " ".join(twotower("schema", "--help").stdout.split())
    assert "Parquet, CSV, TSV or JSON-lines file" in text
