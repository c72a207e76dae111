"""The competitors, as data: what each one is, at comparable capacity."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from benchmarks.pre_ranking.data import DataSet
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
    crosses: bool = False  # is told the data's crosses of query and item fields
    tuned_as: str | None = None  # takes the settings found for another competitor
    note: str = ""

    def recipe(self, params: dict[str, float], data: DataSet) -> dict[str, Any]:
        """The model's part of a recipe, with searched settings; one without dropout ignores that."""
        config = self.config | ({"crosses": data.crosses} if self.crosses else {})
        if self.reads_dropout:
            config["dropout"] = params["dropout"]
        rates = {name: params[name] for name in ("learning_rate", "embedding_weight_decay")}
        return {
            "model": self.model,
            "config": config,
            "objective": {"kind": "pointwise"},
            "train": TRAIN | data.train | rates,
        }

    @property
    def reads_dropout(self) -> bool:
        return "dropout" in model_class(self.model)[1].model_fields


TOWERS: dict[str, Any] = {"embedding": 16, "layers": [256, 64]}
DEEP: dict[str, Any] = {"embedding": 16, "layers": [256, 256]}


def _with_history(model: str, decoupled: bool, config: dict[str, Any], history: dict[str, Any]) -> Competitor:
    return Competitor(model, decoupled, config | {"history": history}, tuned_as=model)


HEADS: dict[str, Any] = {"heads": 4, "head_dim": 31}  # with the bias 125 floats: 512 bytes of an item hold it

MODELS: dict[str, Competitor] = {
    # pre-rankers: an item is a vector or a few
    "two-tower": Competitor("two-tower", True, TOWERS),
    "int-tower": Competitor("int-tower", True, TOWERS | HEADS),
    # rankers, and pre-rankers in the way of rankers
    "logistic-regression": Competitor("logistic-regression", False, {"sparse": False}),
    "cold": Competitor("cold", False, {"embedding": 16}, crosses=True),
    "wide-and-deep": Competitor("wide-and-deep", False, DEEP, crosses=True),
    "deepfm": Competitor("deepfm", False, DEEP),
    "dcn": Competitor("dcn", False, DEEP),
    "dcn-v2": Competitor("dcn-v2", False, DEEP),
    # what a history adds
    "two-tower-mean": _with_history("two-tower", True, TOWERS, {"kind": "mean"}),
    "two-tower-pooling": _with_history("two-tower", True, TOWERS, {"kind": "pooling"}),
    "two-tower-attention": _with_history("two-tower", True, TOWERS, {"kind": "attention", "blocks": 1}),
    "dcn-v2-mean": _with_history("dcn-v2", False, DEEP, {"kind": "mean"}),
    "dcn-v2-pooling": _with_history("dcn-v2", False, DEEP, {"kind": "pooling"}),
}
"""Name in files and tables -> competitor."""
