"""What a run directory holds, as data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from twotower.errors import StorageError
from twotower.pipeline.workspace import Workspace


def inspect_run(directory: Path) -> dict[str, Any]:
    """Steps done, data and split, models with their sizes, and the last results."""
    space = Workspace(directory)
    recipe = space.recipe()
    about: dict[str, Any] = {"run": recipe.name, "steps done": sorted(space.finished())}
    if (space.data / "dataset.json").exists():
        dataset = read_json(space.data / "dataset.json")
        about["data"] = {
            "name": dataset["name"],
            "fields": [_field(field) for field in dataset["schema"]["fields"]],
            "notes": dataset["notes"],
            "split": read_json(space.data / "leakage.json"),
        }
    about["models"] = {
        name: {
            **{
                key: value
                for key, value in read_json(space.model(name) / "model.json").items()
                if key != "spec"
            },
            "training": {
                k: v for k, v in read_json(space.model(name) / "result.json").items() if k != "history"
            },
            "size_mb": round((space.model(name) / "model.safetensors").stat().st_size / 2**20, 3),
        }
        for name in recipe.models
        if (space.model(name) / "result.json").exists()
    }
    if (space.results / "report.json").exists():
        about["results"] = read_json(space.results / "report.json")
    return about


def _field(field: dict[str, Any]) -> str:
    """Name, kind and role; of a text that models read, how, and from which column if not its own."""
    about = [field["kind"], field["role"]]
    if field.get("tokenizer"):
        source = f" of {field['of']}" if field["of"] else ""
        about.append(f"{field['tokenizer']}{source}")
    return f"{field['name']} ({', '.join(about)})"


def read_json(path: Path) -> dict[str, Any]:
    try:
        plain: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StorageError(f"{path}: not readable: {error}") from error
    return plain
