"""``twotower plan`` from the outside."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

FAST = ("--rounds", "1", "--depth", "retrieve=10,30", "--quiet")


@pytest.fixture
def run(trained, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained.directory, tmp_path / "tiny"))


def test_a_plan_is_explained_kept_and_written_as_a_recipe(twotower, run: Path, tmp_path: Path) -> None:
    result = twotower("plan", run, *FAST, "--recipe", tmp_path / "planned.yaml")
    assert result.exit_code == 0, result.output
    assert "Chosen: retrieve" in result.stdout
    assert json.loads((run / "plan.json").read_text())["limits"]["rule"] == "safe"
    assert "Chosen" in (tmp_path / "planned.yaml").read_text().splitlines()[0]


def test_json_is_the_plan(twotower, run: Path) -> None:
    result = twotower("plan", run, *FAST, "--json", "--rule", "best", "--clock", "cpu")
    assert json.loads(result.stdout) == json.loads((run / "plan.json").read_text())


def test_a_recipe_is_never_overwritten(twotower, run: Path) -> None:
    before = (run / "recipe.yaml").read_bytes()
    result = twotower("plan", run, *FAST, "--recipe", run / "recipe.yaml")
    assert result.exit_code == 2
    assert "exists already" in result.stderr
    assert (run / "recipe.yaml").read_bytes() == before


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--depth", "retrieve"), "expected stage=depths"),
        (("--depth", "retrieve=0"), "expected stage=depths"),
        (("--ms", "0.0000001", *FAST), "the fastest takes"),
    ],
)
def test_what_cannot_be_is_an_error(twotower, run: Path, options: tuple[str, ...], says: str) -> None:
    result = twotower("plan", run, *options)
    assert result.exit_code == 2
    assert says in result.stderr
    assert not (run / "plan.json").exists()
