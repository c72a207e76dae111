"""Processes that are stopped and disks that are full: nothing is lost, and the same command goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from twotower.config import dump_yaml
from twotower.models.catalogue import load_model
from twotower.pipeline.recipe import Recipe

from .shop import Shop, recipe

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
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path)


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
