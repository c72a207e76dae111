"""Imports go down only. The table is the architecture; see docs/architecture.md."""

import ast
from pathlib import Path

import pytest

import twotower

FLOORS = [
    {"types", "schema", "errors", "config", "optional", "timing", "memory"},
    {"data", "metrics", "parallel", "kernels"},
    {"nn", "losses"},
    {"scores"},
    {"models", "baselines", "index"},
    {"train", "cascade"},
    {"evaluate"},
    {"pipeline"},
    {"serve", "launch"},
    {"cli"},
]
FLOOR = {room: height for height, rooms in enumerate(FLOORS) for room in rooms}
ROOT = Path(twotower.__file__).parent


def room(module: str) -> str:
    """``twotower.data.splits`` -> ``data``."""
    return module.split(".")[1] if "." in module else ""


def imports(tree: ast.AST) -> list[str]:
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.append(node.module)
    return [name for name in found if name.split(".")[0] == "twotower"]


def test_imports_go_down_only():
    wrong = []
    for file in sorted(ROOT.rglob("*.py")):
        here = room("twotower." + ".".join(file.relative_to(ROOT).with_suffix("").parts))
        if here in ("__init__", "__main__"):
            continue  # the front door names what lies behind it
        assert here in FLOOR, f"{file}: no floor is set for {here!r}"
        for module in imports(ast.parse(file.read_text(encoding="utf-8"))):
            there = room(module)
            ground = FLOOR[here] == 0  # the words of the ground floor may know each other
            if there and there != here and FLOOR[there] >= FLOOR[here] + ground:
                wrong.append(
                    f"{file.relative_to(ROOT)} (floor {FLOOR[here]}) imports {module} ({FLOOR[there]})"
                )
    assert not wrong, "\n".join(wrong)


def test_the_walker_sees_an_upward_import():
    tree = ast.parse("def f():\n    from twotower.cli.main import main\n    import twotower.data.splits\n")
    assert imports(tree) == ["twotower.cli.main", "twotower.data.splits"]


@pytest.mark.parametrize("name", ["utils", "util", "helpers", "helper", "common", "misc", "manager"])
def test_no_file_has_a_name_that_says_nothing(name):
    assert not list(ROOT.rglob(f"{name}.py"))
