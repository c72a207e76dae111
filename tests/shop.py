"""A small sound shop, events and items as CSV and a recipe, for tests that damage or interrupt it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from twotower.config import dump_yaml

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
