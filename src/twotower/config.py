"""Typed configuration: unknown keys are errors that name the nearest known one."""

from __future__ import annotations

import difflib
import typing
from pathlib import Path
from typing import Any, Self

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from twotower.errors import ConfigError


class Config(BaseModel):
    """Base of every config: immutable, and strict about its keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)

    @classmethod
    def parse(cls, values: Any, where: str = "config") -> Self:
        """Validate plain data; every complaint says where it is and what would be right.

        >>> class Door(Config):
        ...     width: int = 1
        >>> Door.parse({"widht": 2}, where="house.yaml")
        Traceback (most recent call last):
        twotower.errors.ConfigError: house.yaml: unknown key 'widht'; did you mean 'width'?
        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise ConfigError("\n".join(_explain(cls, e, where) for e in error.errors())) from None

    def plain(self) -> dict[str, Any]:
        """The config as data that JSON and YAML can hold."""
        return self.model_dump(mode="json", by_alias=True)


class _UniqueKeys(yaml.SafeLoader):
    """Plain YAML that refuses a key that stands twice in one mapping: YAML itself drops the first."""

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, str | int) and key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} stands twice", key_node.start_mark
                )
            seen |= {key} if isinstance(key, str | int) else set()
        return super().construct_mapping(node, deep)


def load_yaml(path: str | Path) -> Any:
    """Read one YAML file; a missing or malformed file is a `ConfigError` with the line."""
    try:
        with open(path, encoding="utf-8") as file:
            return yaml.load(file, _UniqueKeys)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise ConfigError(f"{path}: is a directory, expected a YAML file") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from None


def dump_yaml(values: Any) -> str:
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


def nearest(word: str, known: typing.Iterable[str]) -> str:
    """A hint for a mistyped word: ``; did you mean 'x'?`` or the list of what is known."""
    known = sorted(known)
    match = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f"; did you mean {match[0]!r}?" if match else f"; known: {', '.join(known)}"


def _explain(root: type[BaseModel], error: Any, where: str) -> str:
    path = [part for part in error["loc"] if isinstance(part, str | int)]
    dotted = ".".join(str(part) for part in path)
    if error["type"] == "extra_forbidden":
        parent = ".".join(str(part) for part in path[:-1])
        place = f"{where}: {parent}" if parent else where
        return f"{place}: unknown key {path[-1]!r}{nearest(str(path[-1]), _keys_at(root, path[:-1]))}"
    if error["type"] == "value_error":  # our own validators say what was found themselves
        return f"{where}: {dotted + ': ' if dotted else ''}{error['ctx']['error']}"
    found = "" if error["type"] == "missing" else f" (found {error['input']!r})"
    return f"{where}: {dotted or 'value'}: {error['msg']}{found}"


def _keys_at(root: type[BaseModel], path: list[str | int]) -> set[str]:
    """Names of the fields of the config that ``path`` leads to; unions offer all members' names."""
    classes: list[type[BaseModel]] = [root]
    for part in path:
        below: list[type[BaseModel]] = []
        for cls in classes:
            for name, field in cls.model_fields.items():
                if part == (field.alias or name):
                    below += _configs_in(field.annotation)
        classes = below or classes  # an index or a union's tag stays at the same level
    return {field.alias or name for cls in classes for name, field in cls.model_fields.items()}


def _configs_in(annotation: Any) -> list[type[BaseModel]]:
    inside = typing.get_args(annotation)
    if inside:
        return [cls for arg in inside for cls in _configs_in(arg)]
    return [annotation] if isinstance(annotation, type) and issubclass(annotation, BaseModel) else []
