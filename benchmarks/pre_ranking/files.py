"""Where results lie, and how they get there: whole or not at all."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import RESULTS as ALL_RESULTS

RESULTS = ALL_RESULTS / "pre_ranking"


def write_json(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = _draft(path)
    draft.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    os.replace(draft, path)


def write_arrays(path: Path, **arrays: np.ndarray) -> None:
    """A compressed .npz."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = _draft(path)
    with open(draft, "wb") as file:
        np.savez_compressed(file, **arrays)
    os.replace(draft, path)


def read_json(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text(encoding="utf-8")))


def read_all(directory: Path, pattern: str = "*.json") -> list[dict[str, Any]]:
    """The JSON files of a folder in order of name; none when there is no such folder."""
    return [read_json(path) for path in sorted(directory.glob(pattern))]


def _draft(path: Path) -> Path:
    """Another name for every process, so that two that make the same file cannot mix their halves."""
    return path.with_name(f".{path.name}.{os.getpid()}.part")
