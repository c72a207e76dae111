"""Which encoded column is the text of a side."""

from __future__ import annotations

from typing import Literal

from twotower.data.spec import Column, FeatureSpec
from twotower.errors import ConfigError

EMPTY = "declare a field of kind text with a tokenizer, and name it among the model's features"


def text_column(spec: FeatureSpec, side: Literal["query", "item"], name: str | None) -> Column:
    """The text column ``name`` of a side, or the only one there is; texts of the context are the query's.

    Raises
    ------
    ConfigError
        There is none, none of that name, or without a name more than one.
    """
    sides = ("query", "context") if side == "query" else ("item",)
    texts = {column.name: column for column in spec.columns if column.kind == "text" and column.side in sides}
    if not texts:
        raise ConfigError(f"the model reads a text of the {side}, but none is encoded; {EMPTY}")
    if name is None and len(texts) > 1:
        raise ConfigError(f"the {side} has the texts {list(texts)}: name one of them as {side}_text")
    if name is not None and name not in texts:
        raise ConfigError(f"{side}_text: {name!r} is no encoded text of the {side}; known: {list(texts)}")
    return texts[name] if name is not None else next(iter(texts.values()))
