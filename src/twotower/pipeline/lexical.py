"""BM25 as a recipe describes it: which texts it compares, fitted on those of the items."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import Field as Option
from torch import Tensor

from twotower.baselines.bm25 import BM25, Variant
from twotower.cascade.lexical import RetrieveLexical
from twotower.config import Config, nearest
from twotower.data.spec import Column, FeatureSpec
from twotower.errors import ConfigError
from twotower.types import Batch

TOKENIZERS = ("words", "stems", "letters")
"""Those whose tokens all stand for something in the text; others put marks of their own into each."""


class Lexical(Config):
    """A source that finds items by the query's words."""

    query: str | None = Option(None, description="a text field of the query; null: its only words or stems")
    item: str | None = Option(None, description="a text field of the item; null: its only words or stems")
    k1: float = Option(1.2, ge=0, description="how soon repetitions of a word stop counting")
    b: float = Option(0.75, ge=0, le=1, description="how much long texts are marked down")
    variant: Variant = "lucene"

    def fit(self, spec: FeatureSpec, items: Batch) -> dict[str, Tensor]:
        """What BM25 learns from the texts of all items, encoded (N, ...), to be kept."""
        _, item = self.columns(spec)
        return self._bm25().fit(items[item.name], item.size).state()

    def stage(
        self, spec: FeatureSpec, n_items: int, state: Mapping[str, Tensor], k: int, name: str
    ) -> RetrieveLexical:
        """The source again, from what was kept of ``n_items`` items."""
        query, item = self.columns(spec)
        return RetrieveLexical(self._bm25().restore(n_items, item.size, state), query.name, k, name)

    def columns(self, spec: FeatureSpec) -> tuple[Column, Column]:
        """The encoded texts that are compared: the query's and the item's.

        Raises
        ------
        ConfigError
            A text that is not there or not the only one, or two that share no vocabulary.
        """
        query = _column(spec, ("query", "context"), "query", self.query)
        item = _column(spec, ("item",), "item", self.item)
        if query.tokenizer != item.tokenizer:
            raise ConfigError(
                f"lexical: the texts {query.name!r} ({query.tokenizer}) and {item.name!r} ({item.tokenizer}) "
                "share no vocabulary; give both fields the same tokenizer"
            )
        return query, item

    def _bm25(self) -> BM25:
        return BM25(self.k1, self.b, self.variant)


def _column(
    spec: FeatureSpec, sides: tuple[str, ...], side: Literal["query", "item"], name: str | None
) -> Column:
    known = [c for c in spec.columns if c.side in sides and c.kind == "text" and c.tokenizer in TOKENIZERS]
    found = [
        column for column in known if column.name == name or (name is None and column.tokenizer != "letters")
    ]
    if len(found) == 1:
        return found[0]
    names = [column.name for column in known]
    if not names:
        raise ConfigError(
            f"lexical: no text of the {side} is encoded as words; declare a text field with a tokenizer: "
            f"{', '.join(TOKENIZERS)}"
        )
    if name is None:
        raise ConfigError(f"lexical: the {side} has the texts {names}: name one as {side}:")
    raise ConfigError(f"lexical: {side}: {name!r} is no text that is encoded as words{nearest(name, names)}")
