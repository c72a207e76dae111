"""The competitors, as data: what each one is, at comparable capacity."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from twotower.models.catalogue import model_class

TRAIN: dict[str, Any] = {
    "epochs": 30,
    "batch_size": 4096,
    "weight_decay": 1e-5,
    "metric": "log loss",
    "patience": 2,
}
"""What all share; the searched settings come on top."""


@dataclass(frozen=True)
class Competitor:
    """One row of the tables."""

    model: str  # name in the catalogue
    decoupled: bool  # items can be stored as vectors, and the score is cheap: fit to pre-rank
    config: dict[str, Any] = field(default_factory=dict)
    tuned_as: str | None = None  # takes the settings found for another competitor
    note: str = ""

    def recipe(self, params: dict[str, float], train: dict[str, Any]) -> dict[str, Any]:
        """The model's part of a recipe, with searched settings; one without dropout ignores that."""
        config = dict(self.config)
        if self.reads_dropout:
            config["dropout"] = params["dropout"]
        rates = {name: params[name] for name in ("learning_rate", "embedding_weight_decay")}
        return {
            "model": self.model,
            "config": config,
            "objective": {"kind": "pointwise"},
            "train": TRAIN | train | rates,
        }

    @property
    def reads_dropout(self) -> bool:
        return "dropout" in model_class(self.model)[1].model_fields


TOWERS: dict[str, Any] = {"embedding": 16, "layers": [256, 64]}
DEEP: dict[str, Any] = {"embedding": 16, "layers": [256, 256]}

MODELS: dict[str, Competitor] = {
    "two-tower": Competitor("two-tower", True, TOWERS),
    "two-tower-mean": Competitor("two-tower", True, TOWERS | {"history": {"kind": "mean"}}, "two-tower"),
    "two-tower-pooling": Competitor(
        "two-tower", True, TOWERS | {"history": {"kind": "pooling"}}, "two-tower"
    ),
    "two-tower-attention": Competitor(
        "two-tower", True, TOWERS | {"history": {"kind": "attention", "blocks": 1}}, "two-tower"
    ),
    "dcn-v2": Competitor("dcn-v2", False, DEEP),
    "dcn-v2-mean": Competitor("dcn-v2", False, DEEP | {"history": {"kind": "mean"}}, "dcn-v2"),
    "dcn-v2-pooling": Competitor("dcn-v2", False, DEEP | {"history": {"kind": "pooling"}}, "dcn-v2"),
}
"""Name in files and tables -> competitor."""
