"""The bad-input table: what is tried, the exit code, and what the message must say.

Every row damages a small sound shop (events and items as CSV) or asks it for what it has not, through the
command line. The rows that need a process of their own, to be interrupted or to fill a disk, come last.
"""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from twotower.config import dump_yaml
from twotower.models.catalogue import load_model
from twotower.pipeline.recipe import Recipe

USERS, ITEMS, TIMES = 20, 40, 12
FIELDS = [
    {"name": "user", "kind": "id", "role": "query"},
    {"name": "item", "kind": "id", "role": "item"},
    {"name": "price", "kind": "number", "role": "item"},
    {"name": "click", "kind": "number", "role": "label"},
    {"name": "time", "kind": "number", "role": "time"},
]


def recipe() -> dict[str, Any]:
    train = {"epochs": 1, "batch_size": 32}
    return {
        "name": "shop",
        "data": {
            "reader": "tabular",
            "schema": {"query": "user", "item": "item", "fields": FIELDS},
            "interactions": {"file": "log.csv"},
            "items": {"file": "items.csv"},
        },
        "positive": {"label": "click"},
        "history": {"max_length": 5},
        "models": {
            "towers": {
                "model": "two-tower",
                "config": {"embedding": 4, "layers": [4], "history": {"kind": "mean"}},
                "objective": {"kind": "full-softmax"},
                "batches": "events",
                "train": train,
            }
        },
        "cascade": [{"stage": "retrieve", "model": "towers", "k": 5}],
        "evaluate": {"requests_timed": 1, "samples": 100},
        "threads": 1,
    }


class Shop:
    """A folder with sound data and a recipe, to be damaged."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.out = folder, folder / "run"
        rows = [
            f"{user},{(user * 7 + time * 3) % ITEMS},{int((user + time) % 3 > 0)},{time * 100 + user}"
            for time in range(TIMES)
            for user in range(USERS)
        ]
        self.write("log.csv", ["user,item,click,time", *rows])
        self.write("items.csv", ["item,price", *(f"{item},{item / 2}" for item in range(ITEMS))])
        self.recipe = folder / "shop.yaml"
        self.recipe.write_text(dump_yaml(recipe()))

    def write(self, name: str, lines: list[str]) -> None:
        (self.folder / name).write_text("\n".join(lines) + "\n")

    def edit(self, name: str, line: int, text: str) -> None:
        lines = (self.folder / name).read_text().splitlines()
        lines[line - 1] = text
        self.write(name, lines)

    def arguments(self, command: str) -> list[str]:
        return [command, str(self.recipe), "--data", str(self.folder), "--out", str(self.out)]


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
        ("no file log.csv (plain or .gz); the folder holds: items.csv, run, shop.yaml", "remedy:"),
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


# -- processes that are stopped, and disks that are full ---------------------------------------------

SLOW = {"epochs": 8, "batch_size": 32, "checkpoint_every_steps": 1}
PROGRAM = "from twotower.cli.main import main\nmain()\n"


def start(arguments: list[str], before: str = "") -> subprocess.Popen[str]:
    quiet = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    return subprocess.Popen(
        [sys.executable, "-c", before + PROGRAM, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | quiet,
    )


def stopped_in_training(shop: Shop, number: signal.Signals) -> tuple[int, str]:
    """Exit code and messages of a training that got a signal after its first snapshots."""
    process = start(shop.arguments("train"))
    snapshot, patience = shop.out / "models/towers/training/last.safetensors", time.monotonic() + 120
    while not snapshot.exists() and process.poll() is None and time.monotonic() < patience:
        time.sleep(0.002)
    process.send_signal(number)
    _, said = process.communicate(timeout=120)
    return process.returncode, said


@pytest.fixture
def slow_shop(shop: Shop) -> Shop:
    plain = recipe()
    plain["models"]["towers"]["train"] = SLOW
    shop.recipe.write_text(dump_yaml(plain))
    return shop


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Digest of the weights that a training nobody stops ends with."""
    from twotower.pipeline.pipeline import Pipeline

    shop = Shop(tmp_path_factory.mktemp("undisturbed"))
    plain = recipe()
    plain["models"]["towers"]["train"] = SLOW
    pipeline = Pipeline(Recipe.parse(plain), shop.out, data=shop.folder)
    pipeline.prepare()
    return pipeline.train()["towers"].digest()


def resumed_at(shop: Shop) -> list[int]:
    lines = (shop.out / "models/towers/train.jsonl").read_text().splitlines()
    return [line["resumed_at_step"] for line in map(json.loads, lines) if line["event"] == "started"]


def test_interrupted_run(slow_shop: Shop, twotower: Callable[..., Any], undisturbed: str) -> None:
    code, said = stopped_in_training(slow_shop, signal.SIGINT)
    assert code == 130, said
    assert "twotower: interrupted: stopped by SIGINT in epoch" in said
    assert "run the same again to continue from there" in said
    assert "Traceback" not in said
    assert twotower("recommend", slow_shop.out, "--user", "1").exit_code == 74  # not taken for finished
    assert twotower(*slow_shop.arguments("train")).exit_code == 0
    assert resumed_at(slow_shop)[1] > 0
    assert load_model(slow_shop.out / "models/towers").digest() == undisturbed


def test_killed_run(slow_shop: Shop, twotower: Callable[..., Any], undisturbed: str) -> None:
    code, _ = stopped_in_training(slow_shop, signal.SIGKILL)
    assert code == -signal.SIGKILL
    steps = json.loads((slow_shop.out / "steps.json").read_text())
    assert steps["train towers"].startswith("unfinished")
    result = twotower(*slow_shop.arguments("train"))
    assert result.exit_code == 0
    assert "resumed at step" in result.stderr
    assert resumed_at(slow_shop)[1] > 0
    assert load_model(slow_shop.out / "models/towers").digest() == undisturbed


@pytest.mark.parametrize(("command", "limit_bytes"), [("prepare", 1500), ("train", 6000)])
def test_disk_full_while_saving(
    command: str, limit_bytes: int, shop: Shop, twotower: Callable[..., Any]
) -> None:
    both = (limit_bytes, -1)  # soft, and no hard limit
    limit = f"import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, {both})\n"
    process = start(shop.arguments(command), limit)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 74, said
    assert "could not be written" in said or "not written" in said
    assert str(shop.out) in said
    assert "Traceback" not in said
    result = twotower(*shop.arguments("run"), "--json")  # with room again
    assert result.exit_code == 0, result.stderr
    assert ("reading" in result.stderr) == (command == "prepare")
    fresh = twotower(*shop.arguments("run")[:-1], shop.folder / "fresh", "--json")
    assert (
        json.loads(result.stdout)["stages"][0]["nDCG@10"] == json.loads(fresh.stdout)["stages"][0]["nDCG@10"]
    )
