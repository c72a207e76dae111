"""twotower: cascade ranking, from raw interactions to a measured funnel.

Public names are loaded when they are first used, so that importing the package is free.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

_PLACES = {
    "Answerer": "twotower.pipeline.answerer",
    "Batch": "twotower.types",
    "Budget": "twotower.cascade.deadline",
    "Bundle": "twotower.pipeline.bundles.bundle",
    "Candidates": "twotower.types",
    "Cascade": "twotower.cascade.cascade",
    "DCNv2": "twotower.models.dcn_v2",
    "Dataset": "twotower.data.dataset",
    "Diversify": "twotower.cascade.diversify",
    "ExactIndex": "twotower.index.exact",
    "FaissIndex": "twotower.index.faiss_index",
    "Features": "twotower.data.features",
    "Field": "twotower.schema",
    "Filter": "twotower.cascade.filter",
    "Fuse": "twotower.cascade.fuse",
    "ItemTable": "twotower.index.item_table",
    "LiveBundle": "twotower.pipeline.bundles.live",
    "Model": "twotower.models.base",
    "Pipeline": "twotower.pipeline.pipeline",
    "Ragged": "twotower.types",
    "Rank": "twotower.cascade.rank",
    "Recipe": "twotower.pipeline.recipe",
    "Request": "twotower.cascade.stage",
    "Retrieve": "twotower.cascade.retrieve",
    "RetrieveFrom": "twotower.cascade.retrieve",
    "Rules": "twotower.cascade.rules",
    "Schema": "twotower.schema",
    "TwoTower": "twotower.models.two_tower",
}

__all__ = sorted(_PLACES)


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_PLACES[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
