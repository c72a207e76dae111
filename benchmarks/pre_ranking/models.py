"""The competitors, as data: what each one is, at comparable capacity."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from benchmarks.pre_ranking.data import DataSet
from twotower.models.catalogue import MODELS as CATALOGUE
from twotower.models.catalogue import model_class

TRAIN: dict[str, Any] = {
    "epochs": 40,  # a bound: patience should end a run before it
    "batch_size": 4096,
    "average": 0.998,
    "weight_decay": 1e-5,
    "metric": "log loss",
    "patience": 1,  # averaged weights improve smoothly, until they do not
}
"""What all share; the searched settings come on top."""


BOTH, SMALL = ("ml-1m-hash", "ml-100k"), ("ml-100k",)
"""Where models with another history, and with a part taken out, are compared with what they vary."""


@dataclass(frozen=True)
class Competitor:
    """One row of the tables."""

    model: str  # name in the catalogue
    decoupled: bool  # items can be stored as vectors, and the score is cheap: fit to pre-rank
    config: dict[str, Any] = field(default_factory=dict)
    crosses: bool = False  # is told the data's crosses of query and item fields
    category: bool = False  # is told the data's category of items
    tuned_as: str | None = None  # takes the settings found for another competitor
    searched: bool = True  # has settings to search for
    reduced: bool = False  # what is measured are the fields a gated ranker keeps, trained on
    chosen: bool = False  # reads the groups that the step groups has chosen on the data
    ablates: str | None = None  # the competitor of which this is a part
    objective: str = "pointwise"
    varied_on: tuple[str, ...] = ()  # the data that a variant is measured on
    note: str = ""

    def fits(self, data: DataSet) -> bool:
        """Whether the data have what the model reads."""
        return data.has_history or not (self.model == "din" or "history" in self.config)

    def is_asked(self, name: str, data: DataSet) -> bool:
        """Whether the benchmark wants it on these data: variants on one or two of them, models on all."""
        return self.fits(data) and (self.tuned_as is None or name in self.varied_on)

    def recipe(self, params: dict[str, float], data: DataSet) -> dict[str, Any]:
        """The model's part of a recipe, with searched settings; one without dropout ignores that."""
        config = self.config | ({"crosses": data.crosses} if self.crosses else {})
        if self.category and "category" not in config:
            config["category"] = data.category
        if self.reads_dropout:
            config["dropout"] = params["dropout"]
        rates = {name: params[name] for name in ("learning_rate", "embedding_weight_decay")}
        return {
            "model": self.model,
            "config": config,
            "objective": {"kind": self.objective},
            "train": TRAIN | data.train | rates,
        }

    @property
    def reads_dropout(self) -> bool:
        return "dropout" in model_class(self.model)[1].model_fields


TOWERS: dict[str, Any] = {"embedding": 16, "layers": [256, 64]}
DEEP: dict[str, Any] = {"embedding": 16, "layers": [256, 256]}
HEADS: dict[str, Any] = {"heads": 4, "head_dim": 31}  # with the bias 125 floats: 512 bytes of an item hold it
VECTORS: dict[str, Any] = {"query_vectors": 4, "item_vectors": 4, "dim": 27}  # with gate and bias 125 floats
MEAN: dict[str, Any] = {"history": {"kind": "mean"}}
POOLING: dict[str, Any] = {"history": {"kind": "pooling"}}
ATTENTION: dict[str, Any] = {"history": {"kind": "attention", "blocks": 1}}


def _with(
    name: str, of: Competitor, config: dict[str, Any], on: tuple[str, ...] = BOTH
) -> tuple[str, Competitor]:
    """A competitor with another input, and the settings found for it without."""
    return name, replace(of, config=of.config | config, tuned_as=of.tuned_as or of.model, varied_on=on)


def _without(
    name: str, of: Competitor, config: dict[str, Any], note: str, on: tuple[str, ...] = BOTH
) -> tuple[str, Competitor]:
    """A part of a competitor taken out or exchanged, the rest as it was."""
    return name, replace(
        of, config=of.config | config, tuned_as=of.model, ablates=of.model, note=note, varied_on=on
    )


CLICK_RATE = Competitor("click-rate", True, searched=False, objective="counts")
TWO_TOWER = Competitor("two-tower", True, TOWERS)
INT_TOWER = Competitor("int-tower", True, TOWERS | HEADS)
DAT = Competitor("dat", True, TOWERS, category=True)
MOL = Competitor("mol", True, {"embedding": 16, "layers": [256], **VECTORS})
FIT = Competitor("fit", True, TOWERS | HEADS)
DCN_V2 = Competitor("dcn-v2", False, DEEP)
# at the others' size: seven layers with layer norm did not learn at a rate of .006, and when these cells were
# made batch norm kept statistics of weights that are not the averaged ones
COLD = Competitor("cold", False, DEEP | {"norm": "none"}, crosses=True)

ALL: dict[str, Competitor] = {
    "click-rate": CLICK_RATE,
    "click-rate-month": replace(
        CLICK_RATE,
        config={"half_life": 30 * 86400.0},
        tuned_as="click-rate",
        varied_on=("ml-1m-time",),
        note="half-life of 30 days",
    ),
    # pre-rankers: an item is a vector or a few
    "two-tower": TWO_TOWER,
    "dat": DAT,
    "int-tower": INT_TOWER,
    "mol": MOL,
    "fit": FIT,
    # rankers, and pre-rankers in the way of rankers
    "logistic-regression": Competitor("logistic-regression", False, {"sparse": False}),
    "cold": COLD,
    "fscd": Competitor("fscd", False, DEEP, reduced=True),
    "wide-and-deep": Competitor("wide-and-deep", False, DEEP, crosses=True),
    "deepfm": Competitor("deepfm", False, DEEP),
    "dcn": Competitor("dcn", False, DEEP),
    "autoint": Competitor("autoint", False, DEEP),
    "dcn-v2": DCN_V2,
    "din": Competitor("din", False, DEEP, note="reads the history by its nature"),
    # what a history adds
    **dict(
        [
            _with("two-tower-mean", TWO_TOWER, MEAN),
            _with("two-tower-pooling", TWO_TOWER, POOLING, SMALL),
            _with("two-tower-attention", TWO_TOWER, ATTENTION, SMALL),
            _with("int-tower-mean", INT_TOWER, MEAN),
            _with("int-tower-pooling", INT_TOWER, POOLING, SMALL),
            _with("mol-mean", MOL, MEAN, SMALL),
            _with("fit-mean", FIT, MEAN, SMALL),
            _with("dcn-v2-mean", DCN_V2, MEAN),
            _with("dcn-v2-pooling", DCN_V2, POOLING, SMALL),
            # what a choice of features, and each part of a model, is worth
            (
                "cold-chosen",
                # on ml-100k no subset of the groups is fast enough to be chosen, see results/groups
                replace(COLD, tuned_as="cold", chosen=True, varied_on=BOTH[:1], note="groups chosen"),
            ),
            _without("int-tower-no-gate", INT_TOWER, {"gate": "none"}, "without Light-SE"),
            _without("int-tower-senet", INT_TOWER, {"gate": "senet"}, "SENET for Light-SE", SMALL),
            _without("int-tower-dot", INT_TOWER, {"fe": False}, "without FE-Block: inner product"),
            _without(
                "int-tower-cir-alone",
                INT_TOWER,
                {"gate": "none", "fe": False},
                "CIR alone: a two-tower with it",
            ),
            _without("int-tower-last", INT_TOWER, {"fe_layers": "last"}, "FE-Block on the last layer only"),
            _without("int-tower-no-cir", INT_TOWER, {"cir": 0.0}, "without CIR"),
            _without("int-tower-no-scale", INT_TOWER, {"scale": False}, "without learned layer weights"),
            _without(
                "dat-no-augment", DAT, {"augment": False}, "without augmented vectors: a two-tower", SMALL
            ),
            _without("dat-no-mimic", DAT, {"mimic": 0.0}, "without mimic losses"),
            _without("dat-no-alignment", DAT, {"category": None}, "without category alignment", SMALL),
        ]
    ),
}

MODELS: dict[str, Competitor] = {name: c for name, c in ALL.items() if c.model in CATALOGUE}
"""Name in files and tables -> competitor."""
