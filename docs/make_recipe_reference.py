"""Write the table of every key of a recipe into docs/recipes.md; a test fails when it is out of date.

python docs/make_recipe_reference.py            # rewrite the page
python docs/make_recipe_reference.py --check    # exit 1 when the page differs
"""

from __future__ import annotations

import inspect
import json
import re
import sys
import types
import typing
from collections import abc
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from twotower.baselines.catalogue import BASELINES
from twotower.models.catalogue import MODELS, model_class
from twotower.pipeline.recipe import Recipe
from twotower.schema import Field

PAGE = Path(__file__).parent / "recipes.md"
START, STOP = "<!-- reference: start (docs/make_recipe_reference.py) -->", "<!-- reference: stop -->"
KINDS = ("reader", "kind", "stage")  # keys that choose between the members of a union
WORDS = {int: "integer", float: "number", str: "text", bool: "true or false"}


class Reference:
    """One section per config, from the recipe downwards, in the order in which a reader meets them."""

    def __init__(self) -> None:
        self.sections: list[str] = []
        self.done: set[type[BaseModel]] = set()

    def add(self, title: str, config: type[BaseModel]) -> None:
        """The table of one config, then those of the configs inside it that have not been shown."""
        if config in self.done:
            return
        self.done.add(config)
        rows = ["| key | value | default | meaning |", "| :-- | :-- | :-- | :-- |"]
        for name, field in config.model_fields.items():
            key = field.alias or name
            meaning = field.description or ""
            cells = (f"`{key}`", _type(field), _default(field), meaning)
            rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
        about = _about(config)
        self.sections.append(f"### {title}\n\n" + (f"{about}\n\n" if about else "") + "\n".join(rows))
        for name, field in config.model_fields.items():
            key = field.alias or name
            for inner in _configs(field.annotation):
                self.add(_title(title, key, inner), inner)

    def add_baselines(self) -> None:
        rows = ["| baseline | options | |", "| :-- | :-- | :-- |"]
        for name, cls in BASELINES.items():
            known = inspect.signature(cls).parameters.values()
            options = ", ".join(
                f"`{p.name}: {json.dumps(p.default)}`" for p in known if p.kind != p.VAR_POSITIONAL
            )
            rows.append(f"| `{name}` | {options or 'none'} | {_sentence(cls.__doc__)} |")
        self.sections.append("### Baselines\n\n" + "\n".join(rows))


def reference() -> str:
    """The generated part of the page."""
    made = Reference()
    made.add("The recipe", Recipe)
    made.add("`fields.<name>`", Field)
    for name in MODELS:
        made.add(f"`models.<name>.config` of `{name}`", model_class(name)[1])
    made.add_baselines()
    return "\n\n".join(made.sections)


def _title(parent: str, key: str, config: type[BaseModel]) -> str:
    path = key if parent == "The recipe" else f"{parent.split('`')[1]}.{key}"
    path = {"models": "models.<name>", "cascade": "cascade[]", "baselines": "baselines[]"}.get(path, path)
    for kind in KINDS:
        choice = config.model_fields.get(kind)
        values = () if choice is None else typing.get_args(choice.annotation)
        if len(values) == 1 or (values and kind == "stage"):
            return f"`{path}`, `{kind}: {' | '.join(values)}`"
    return f"`{path}`"


def _configs(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [config for inner in typing.get_args(annotation) for config in _configs(inner)]


def _type(field: FieldInfo) -> str:
    return _words(field.annotation, _limits(field.metadata))


def _limits(metadata: typing.Iterable[Any]) -> str:
    signs = ((">", "gt"), ("≥", "ge"), ("<", "lt"), ("≤", "le"))
    found = [
        f"{sign} {getattr(about, name):g}"
        for about in metadata
        for sign, name in signs
        if getattr(about, name, None) is not None
    ]
    return (" " + ", ".join(found)) if found else ""


def _words(annotation: Any, limits: str = "") -> str:
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation is type(None):
        return "`null`"
    if annotation in WORDS:
        return WORDS[annotation] + (limits if annotation in (int, float) else "")
    if annotation is Any:
        return "any value"
    if origin is Literal:
        return ", ".join(f"`{json.dumps(value) if isinstance(value, bool) else value}`" for value in inner)
    if origin is typing.Annotated:
        return _words(inner[0], _limits(inner[1:]) or limits)
    if origin in (typing.Union, types.UnionType):
        parts = list(dict.fromkeys(_words(member, limits) for member in inner))
        return " or ".join(parts)
    if origin is tuple:
        members = [member for member in inner if member is not Ellipsis]
        many = "list of " + _words(members[0])
        return many if Ellipsis in inner else f"{many}, {len(members)} of them"
    if origin in (dict, abc.Mapping):
        return "keys and values" if inner[1] is Any else f"{_words(inner[1])}, by name"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "keys below"
    raise TypeError(f"no words for {annotation!r}")


def _default(field: FieldInfo) -> str:
    value = field.default_factory() if field.default_factory is not None else field.default  # type: ignore[call-arg]
    if value is PydanticUndefined:
        return "**required**"
    if isinstance(value, BaseModel):
        inside = value.model_dump(mode="json", by_alias=True)
        plain = type(value)().model_dump(mode="json", by_alias=True)
        return "its defaults" if inside == plain else f"`{json.dumps(inside)}`"
    return f"`{json.dumps(value, ensure_ascii=False)}`"


def _about(config: type[BaseModel]) -> str:
    """The docstring without its examples; a config without one of its own says nothing."""
    text = inspect.cleandoc(config.__dict__.get("__doc__") or "")
    text = re.split(r"\n\s*(?:>>>|Raises\n)", text)[0].strip()
    return re.sub(r"``(.+?)``", r"`\1`", text)


def _sentence(text: str | None) -> str:
    paragraph = re.split(r"\n\s*\n", inspect.cleandoc(text or ""))[0]
    return re.sub(r"``(.+?)``", r"`\1`", " ".join(paragraph.split()))


def page(old: str) -> str:
    """The page with its generated part made anew."""
    before, _, rest = old.partition(START)
    _, _, after = rest.partition(STOP)
    return f"{before}{START}\n\n{reference()}\n\n{STOP}{after}"


def main() -> int:
    old = PAGE.read_text(encoding="utf-8")
    new = page(old)
    if "--check" in sys.argv:
        if new != old:
            print(f"{PAGE} is out of date: run python docs/make_recipe_reference.py", file=sys.stderr)
        return int(new != old)
    PAGE.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
