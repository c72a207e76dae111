"""How a published sentence encoder makes one vector of its tokens, from the files beside its weights.

The library ``sentence-transformers`` writes ``modules.json``, the parts that a text passes one after the
other, and a folder for each with its settings.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from twotower.data.text.folder import model_folder
from twotower.errors import ConfigError
from twotower.nn.text.pooling import Pool

POOLS: dict[str, Pool] = {"mean": "mean", "cls": "first", "max": "max"}
READ = ("Transformer", "Pooling", "Normalize")
"""Parts that a dual encoder has too; cosine makes the last one."""


def published_pool(path: str, *, projected: bool = False) -> Pool:
    """The pooling of the encoder at ``path``; the mean where its files say nothing.

    ``projected`` says that what comes behind the pooling is learnt anew.

    Raises
    ------
    ConfigError
        It pools in a way that is not known here, or its vectors pass a part that is not read.
    """
    folder = model_folder(path)
    parts = _read(folder / "modules.json", list)
    kinds = [
        (str(part.get("type", "")).rsplit(".", 1)[-1], str(part.get("path", "")))
        for part in parts
        if isinstance(part, dict)
    ]
    for kind, _ in kinds:
        if kind not in READ and not projected:
            raise ConfigError(
                f"{path}: behind its pooling the published encoder has a part {kind}, which is not read; set "
                "projection to a length, to learn one in its place"
            )
    named: list[Any] = []
    for kind, place in kinds:
        if kind == "Pooling":
            named += _named(_read(folder / place / "config.json", dict))
    if not named:
        return "mean"
    if len(named) > 1 or str(named[0]) not in POOLS:
        raise ConfigError(
            f"{path}: it pools by {' and '.join(map(str, named))}; known are {', '.join(POOLS)}: set pool to "
            "say what to use instead"
        )
    return POOLS[str(named[0])]


def _named(about: dict[str, Any]) -> list[Any]:
    """The ways of pooling that a folder's settings turn on, as newer and as older versions write them."""
    if "pooling_mode" in about:
        mode = about["pooling_mode"]
        return list(mode) if isinstance(mode, list) else [mode]
    begins = "pooling_mode_"
    chosen = [name for name, on in about.items() if name.startswith(begins) and on is True]
    return [name.removeprefix(begins).removesuffix("_tokens").removesuffix("_token") for name in chosen]


def _read(file: Path, kind: type[Any]) -> Any:
    """The list or mapping that a JSON file holds, an empty one where there is no such file."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(found, kind):
            raise ValueError(f"found {type(found).__name__}, expected {kind.__name__}")
    except FileNotFoundError:
        return kind()
    except (OSError, ValueError) as error:
        raise ConfigError(f"{file}: cannot be read: {error}; fetch the model again") from None
    return found
