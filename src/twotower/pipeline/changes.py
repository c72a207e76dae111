"""Single keys of a recipe changed from outside: ``split.kind=leave-last-out``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import yaml

from twotower.errors import ConfigError


def changed(plain: Any, changes: Sequence[str], where: str) -> Any:
    """A copy of the recipe's plain data with dotted keys set; values are read as YAML.

    Lists are entered by number. Whether a key exists is the recipe's own check, which comes after.

    >>> changed({"split": {"kind": "time"}}, ["split.kind=by-user", "seed=3"], "r.yaml")
    {'split': {'kind': 'by-user'}, 'seed': 3}
    """
    if plain is None:
        raise ConfigError(f"{where}: the file is empty, expected a recipe")
    if not isinstance(plain, dict):
        raise ConfigError(f"{where}: expected keys and values, found {type(plain).__name__}")
    for change in changes:
        path, equals, text = change.partition("=")
        if not equals or not path:
            raise ConfigError(f"--set {change!r}: expected key=value, such as seed=3")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ConfigError(f"--set {change!r}: the value is not valid YAML: {error}") from None
        plain = _with(plain, path.split("."), value, change)
    return plain


def _with(plain: Any, path: list[str], value: Any, change: str) -> Any:
    if not path:
        return value
    head, rest = path[0], path[1:]
    if isinstance(plain, list):
        if not head.isdigit() or int(head) >= len(plain):
            raise ConfigError(f"--set {change!r}: {head!r} is no place of a list of {len(plain)}")
        place = int(head)
        return [*plain[:place], _with(plain[place], rest, value, change), *plain[place + 1 :]]
    if plain is None or (not rest and not isinstance(plain, dict)):
        plain = {}
    if not isinstance(plain, dict):
        raise ConfigError(f"--set {change!r}: {head!r} lies below a value that has no keys")
    return {**plain, head: _with(plain.get(head), rest, value, change)}
