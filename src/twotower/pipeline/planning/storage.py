"""Stages at every depth their models can store items at: the same scores, at other costs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from twotower.cascade.cascade import Cascade
from twotower.cascade.rank import Rank
from twotower.cascade.stage import Stage
from twotower.index.item_table import Encode, ItemTable
from twotower.models.base import Model

AS_IT_IS = "-"
"""The storage depth of a stage that offers none."""

Variants = dict[str, dict[str, Stage]]
"""Stage -> storage depth -> the stage with it; stages in their order."""


def store_of(stage: Stage) -> str | None:
    """How deep a stage stores; None where there is nothing to choose."""
    if not isinstance(stage, Rank):
        return None
    store = stage.model.config.plain().get("store")
    return store if store in stage.model.stores else None


def variants_of(cascade: Cascade, encode: Callable[[Model], Encode], directory: Path) -> Variants:
    """Every stage at every storage depth its model offers.

    Tables that are not there yet are built below ``directory`` and mapped, as those of a run are.
    """
    found: Variants = {}
    for stage in cascade.stages:
        own = store_of(stage)
        if own is None or not isinstance(stage, Rank):
            found[stage.name] = {AS_IT_IS: stage}
            continue
        found[stage.name] = {
            store: stage if store == own else at_store(stage, store, encode, directory / stage.name / store)
            for store in stage.model.stores
        }
    return found


def at_store(stage: Rank, store: str, encode: Callable[[Model], Encode], directory: Path | None) -> Rank:
    """The same stage with another storage depth; its table in memory, or mapped from ``directory``."""
    model = stage.model.at_store(store)
    table = ItemTable.build(
        encode(model), stage.table.rows, model.item_specs(), model.item_digest(), directory=directory
    )
    return Rank(model, table, stage.k, stage.name, stage.pairs_at_once)
