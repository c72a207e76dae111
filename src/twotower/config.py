"""Typed configuration: unknown keys are errors that name the nearest known one."""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import yaml
from pydantic import BaseModel, ConfigDict, Tag, ValidationError

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
            raise ConfigError("\n".join(_complaints(cls, error, where))) from None

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


def _complaints(root: type[BaseModel], error: ValidationError, where: str) -> list[str]:
    """A line for everything that is wrong, but not for what only follows from it."""
    errors = error.errors()
    return [_explain(root, e, where) for e in errors if not _follows(e, errors)]


def _follows(error: Any, errors: typing.Iterable[Any]) -> bool:
    """Whether a list is only too short because pydantic leaves out its wrong entries."""
    if error["type"] != "too_short" or len(error["input"]) < error["ctx"]["min_length"]:
        return False
    place = error["loc"]
    return any(e["loc"][: len(place)] == place and len(e["loc"]) > len(place) for e in errors)


def _explain(root: type[BaseModel], error: Any, where: str) -> str:
    path, form = _place(root, error["loc"])
    if error["type"] == "extra_forbidden":
        *parent, word = path
        _, form = _place(root, error["loc"][:-1])
        return f"{_at(where, parent)}: unknown key {word!r}{nearest(str(word), _keys(form))}"
    if error["type"] == "value_error":  # our own validators say what was found themselves
        return f"{_at(where, path)}: {error['ctx']['error']}"
    key, members = _members(form)
    found = error["input"]
    match error["type"]:
        case "union_tag_not_found" if key:
            return f"{_at(where, path)}: {key} is missing; known: {', '.join(sorted(members))}"
        case "union_tag_invalid" if key:
            tag = found[key] if isinstance(found, Mapping) else getattr(found, key)
            return f"{_at(where, [*path, key])}: found {tag!r}{nearest(str(tag), members)}"
        case "model_attributes_type" if key:
            expected = f"expected {{{key}: ...}}{nearest(str(found), members)}"
            return f"{_at(where, path)}: found {found!r}, {expected}"
    shown = "" if error["type"] == "missing" else f" (found {found!r})"
    return f"{_at(where, path or ['value'])}: {error['msg']}{shown}"


def _at(where: str, path: typing.Sequence[str | int]) -> str:
    return f"{where}: {'.'.join(map(str, path))}" if path else where


def _place(root: type[BaseModel], loc: typing.Iterable[str | int]) -> tuple[list[str | int], Any]:
    """Pydantic's place of an error as the path of its key, and the annotation of what stands there.

    Pydantic enters a union by the tag of the member it chose, which is no key: nobody could ``--set`` it.
    """
    path, form = list[str | int](), typing.cast(Any, root)
    for part in loc:
        _, members = _members(form)
        if part in members:
            form = members[str(part)]
        else:
            path.append(part)
            form = _below(form, part)
    return path, form


def _members(form: Any) -> tuple[str, dict[str, Any]]:
    """The key that tells the members of a union apart ("" where a function does), and the members by tag."""
    union, notes = _bare(form)
    by = next((d for note in notes if (d := getattr(note, "discriminator", None)) is not None), None)
    members: dict[str, Any] = {}
    for member in typing.get_args(union) if by is not None else ():
        cls, about = _bare(member)
        tags = [note.tag for note in about if isinstance(note, Tag)]
        members |= dict.fromkeys(tags or typing.get_args(cls.model_fields[by].annotation), cls)
    return by if isinstance(by, str) else "", members


def _below(form: Any, part: str | int) -> Any:
    """The annotation of a field or entry; None where there is no telling."""
    bare, _ = _bare(form)
    if isinstance(bare, type) and issubclass(bare, BaseModel):
        for name, field in bare.model_fields.items():
            if part in (name, field.alias):
                return typing.Annotated[field.annotation, field, *field.metadata]
        return None
    inside = typing.get_args(bare)
    if typing.get_origin(bare) is dict:
        return inside[1]
    return inside[0] if typing.get_origin(bare) in (tuple, list) else None


def _bare(form: Any) -> tuple[Any, list[Any]]:
    """An annotation without what `Annotated` notes, which comes second, and without "or None"."""
    notes: list[Any] = []
    while True:
        inside, origin = typing.get_args(form), typing.get_origin(form)
        some = [each for each in inside if each is not types.NoneType]
        if origin is typing.Annotated:
            form, notes = inside[0], [*notes, *inside[1:]]
        elif origin in (typing.Union, types.UnionType) and len(some) == 1:
            form = some[0]
        else:
            return form, notes


def _keys(form: Any) -> set[str]:
    fields = getattr(_bare(form)[0], "model_fields", {})
    return {field.alias or name for name, field in fields.items()}
