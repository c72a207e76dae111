"""The bad-input table: what is tried, the exit code, and what the message must say.

Every row damages a small sound shop (events and items as CSV) or asks it for what it has not, through the
command line.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from .shop import ITEMS, Shop


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path)


def test_the_sound_shop_is_sound(shop: Shop, twotower: Callable[..., Any]) -> None:
    result = twotower(*shop.arguments("run"), "--json")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["about"]["items"] == ITEMS


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    name: str
    damage: Callable[[Shop], object]
    code: int
    says: tuple[str, ...]
    more: tuple[str, ...] = ()
    command: str = "prepare"


def nothing(_: Shop) -> None:
    """The data is sound; what is asked is not."""


def cut_gzip(shop: Shop) -> None:
    path = shop.folder / "log.csv"
    packed = gzip.compress(path.read_bytes(), mtime=0)
    path.unlink()
    (shop.folder / "log.csv.gz").write_bytes(packed[: len(packed) // 2])


REPAIR = "remedy: repair the row, or drop such rows with --on-error skip"
TABLE = [
    Row(
        "missing column",
        lambda shop: shop.edit("log.csv", 1, "user,item,clicked,time"),
        65,
        ("log.csv:1 [column click]: no such column; did you mean 'clicked'?", "remedy:"),
    ),
    Row(
        "missing column of the items",
        lambda shop: shop.edit("items.csv", 1, "item,cost"),
        65,
        ("items.csv:1 [column price]: no such column", "remedy:"),
    ),
    Row(
        "wrong type",
        lambda shop: shop.edit("log.csv", 4, "3,1,1,yesterday"),
        65,
        ("log.csv:4 [column time]: found 'yesterday', expected a number or an ISO date", REPAIR),
    ),
    Row(
        "wrong number of fields",
        lambda shop: shop.edit("log.csv", 4, "3,1,1,100,5"),
        65,
        ("log.csv:4: ", "5", REPAIR),
    ),
    Row(
        "empty file",
        lambda shop: (shop.folder / "log.csv").write_text(""),
        65,
        ("log.csv: the file is empty", "remedy: fetch or export the file again"),
    ),
    Row(
        "header alone",
        lambda shop: shop.write("log.csv", ["user,item,click,time"]),
        65,
        ("log.csv: the file has no rows", "remedy: fetch or export the file again"),
    ),
    Row(
        "missing file",
        lambda shop: (shop.folder / "log.csv").unlink(),
        65,
        ("no file log.csv (plain or .gz); the folder holds: items.csv, run/, shop.yaml", "remedy:"),
    ),
    Row("missing folder", nothing, 65, ("no such directory", "remedy:"), ("--data", "no such folder")),
    Row("no folder named", nothing, 2, ("say where with --data",), ("--no-data",)),
    Row(
        "truncated gzip",
        cut_gzip,
        65,
        ("log.csv.gz:", "the gzip file is truncated or damaged", "remedy: fetch the file again"),
    ),
    Row(
        "duplicate ids",
        lambda shop: shop.edit("items.csv", 5, "2,9.5"),
        65,
        ("items.csv:5 [column item]: ", "2", REPAIR),
    ),
    Row(
        "missing id",
        lambda shop: shop.edit("log.csv", 3, ",1,1,100"),
        65,
        ("log.csv:3 [column user]: ", REPAIR),
    ),
    Row(
        "NaN label",
        lambda shop: shop.edit("log.csv", 6, "4,1,NaN,100"),
        65,
        ("log.csv:6 [column click]: ", REPAIR),
    ),
    Row(
        "missing label",
        lambda shop: shop.edit("log.csv", 6, "4,1,,100"),
        65,
        ("log.csv:6 [column click]: ", REPAIR),
    ),
    Row(
        "broken rows skipped",
        lambda shop: shop.edit("log.csv", 6, "4,1,NaN,100"),
        0,
        ("log.csv: 1 broken row dropped, first in line 6 [column click]",),
        ("--on-error", "skip"),
    ),
    Row(
        "unknown recipe key",
        nothing,
        2,
        ("shop.yaml: models.towers.train: unknown key 'epocs'; did you mean 'epochs'?",),
        ("--set", "models.towers.train.epocs=3"),
    ),
    Row(
        "recipe that is no YAML",
        lambda shop: shop.recipe.write_text("name: [shop"),
        2,
        ("shop.yaml: not valid YAML", "line"),
    ),
    Row(
        "empty recipe", lambda shop: shop.recipe.write_text(""), 2, ("the file is empty, expected a recipe",)
    ),
    Row(
        "mapping of a field that does not exist",
        nothing,
        2,
        ("interactions.columns maps 'clik', which is no field of that table; fields there: click",),
        ("--set", "data.interactions.columns={clik: click}"),
    ),
    Row(
        "field that the data has not",
        nothing,
        2,
        ("fields: the data has no field 'prize'; did you mean 'price'?",),
        ("--set", "fields.prize.buckets=4"),
    ),
    Row(
        "labels all alike",
        nothing,
        65,
        ("labelled events must hold both positives and negatives",),
        ("--set", "positive.at_least=0", "--set", "models.towers.objective={kind: pointwise}"),
        "run",
    ),
    Row(
        "k above the catalogue",
        nothing,
        0,
        ("retrieve(5000)",),
        ("--set", "cascade.0.k=5000"),
        "run",
    ),
]


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.name)
def test_bad_input(row: Row, shop: Shop, twotower: Callable[..., Any]) -> None:
    row.damage(shop)
    arguments = [*shop.arguments(row.command), *row.more]
    if "--no-data" in arguments:
        arguments = [row.command, str(shop.recipe), "--out", str(shop.out)]
    result = twotower(*arguments)
    assert result.exit_code == row.code, result.stderr
    for words in row.says:
        assert words in result.stderr
    if row.code:
        assert result.stdout == ""
        assert "Traceback" not in result.stderr
        again = Shop(shop.folder)  # repaired, it works: nothing half-made is taken for good
        assert twotower(*again.arguments("prepare")).exit_code == 0


SERVING = [
    (
        "unseen user",
        ["--user", "999"],
        2,
        "no user has the id '999'; describe an unseen one with its features",
    ),
    (
        "unseen item in a history",
        ["--features", "{}", "--history", "3,777"],
        2,
        "the catalogue holds no item 777",
    ),
    ("unseen value of a feature", ["--features", '{"user": 999}'], 0, ""),
    ("k above the catalogue", ["--features", "{}", "--k", "5000"], 0, ""),
]


def test_bad_input_at_serving(shop: Shop, twotower: Callable[..., Any]) -> None:
    assert twotower(*shop.arguments("train")).exit_code == 0
    for name, arguments, code, words in SERVING:
        result = twotower("recommend", shop.out, *arguments, "--json")
        assert result.exit_code == code, (name, result.stderr)
        assert words in result.stderr, name
        if name == "k above the catalogue":
            assert len(json.loads(result.stdout)["items"]) == ITEMS
