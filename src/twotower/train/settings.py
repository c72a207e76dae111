"""What a training run is told."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field as Option
from pydantic import (
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    SerializerFunctionWrapHandler,
    model_serializer,
)

from twotower.config import Config

LOWER_IS_BETTER = ("loss", "error", "rmse", "mae", "mse", "ece", "nll", "brier", "perplexity")


class FTRLSettings(Config):
    """What FTRL-proximal needs beside its learning rate alpha, in units of the mean loss of a batch.

    Vectors and scalars (biases) bear no penalty.
    """

    beta: PositiveFloat = Option(1.0, description="slows the first steps: about the norm of one gradient")
    l1: NonNegativeFloat = Option(0.0, description="weights that earn less than this stay exactly zero")
    l2: NonNegativeFloat = 0.0


class TrainSettings(Config):
    """Everything that decides which parameters a run ends with, and how often it reports and saves.

    ``batch_size`` is for whoever builds the batch source; `fit` itself only remembers it.

    >>> settings = TrainSettings(epochs=3, metric="nDCG@10", patience=2)
    >>> settings.minimises("nDCG@10"), settings.minimises("log_loss"), settings.total_steps(100)
    (False, True, 300)
    """

    epochs: PositiveInt = 10
    max_steps: PositiveInt | None = Option(
        None, description="stops earlier than epochs, in the middle of one if need be"
    )
    batch_size: PositiveInt = 4096

    optimizer: Literal["adam", "adamw", "adagrad", "ftrl"] = "adam"
    learning_rate: PositiveFloat = 1e-3
    learning_rates: dict[str, PositiveFloat] = Option(
        {},
        description="other rates, by how the names of parameters begin: {head: 1.0e-3} lets what begins at "
        "zero move while a pretrained encoder hardly does",
    )
    weight_decay: NonNegativeFloat = Option(
        0.0, description="matrices only: never biases, norms, embedding tables"
    )
    embedding_weight_decay: NonNegativeFloat = Option(
        0.0, description="embedding tables; sparse ones decay the rows they touch"
    )
    table_optimizer: Literal["rowwise_adagrad", "sparse_adam", "ftrl"] = Option(
        "rowwise_adagrad", description="of tables with sparse: true"
    )
    table_learning_rate: PositiveFloat | None = Option(
        None, description="null: 0.05 for row-wise Adagrad, else learning_rate"
    )
    ftrl: FTRLSettings = Option(
        FTRLSettings(), description="of optimizer: ftrl and table_optimizer: ftrl, which take no weight decay"
    )
    schedule: Literal["constant", "cosine", "linear"] = "constant"
    warmup_steps: NonNegativeInt = 0
    clip_norm: PositiveFloat | None = None

    average: float | None = Option(
        None,
        gt=0,
        lt=1,
        description="decay per step of averaged weights, which then are validated and kept; about .998",
    )

    precision: Literal["fp32", "bf16"] = "fp32"
    device: str = "auto"
    seed: int = 0

    metric: str | None = Option(None, description="what epochs are compared by; null: the first one measured")
    direction: Literal["auto", "max", "min"] = Option("auto", description="auto: by the metric's name")
    validate_every: PositiveInt = 1
    validate_unit: Literal["epoch", "step"] = "epoch"
    patience: PositiveInt | None = Option(
        None, description="stop after so many validations without a better one"
    )

    report_every_s: NonNegativeFloat = 1.0
    checkpoint_every_s: NonNegativeFloat = 300.0
    checkpoint_every_steps: PositiveInt | None = None

    @model_serializer(mode="wrap")
    def _without_empty(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """What was trained before there was this key keeps its fingerprint."""
        return {name: value for name, value in plain(self).items() if name != "learning_rates" or value}

    def minimises(self, metric: str) -> bool:
        """Whether lower values of ``metric`` are better: as told, or by its name."""
        if self.direction == "auto":
            return any(word in metric.lower() for word in LOWER_IS_BETTER)
        return self.direction == "min"

    def total_steps(self, steps_per_epoch: int | None) -> int | None:
        """Steps of a whole run; None when neither the source nor ``max_steps`` knows."""
        if steps_per_epoch is None:
            return self.max_steps
        return min(self.epochs * steps_per_epoch, self.max_steps or self.epochs * steps_per_epoch)

    def decisive(self) -> dict[str, object]:
        """The settings that a resumed run must share: all but how often it reports and saves."""
        cadence = {"report_every_s", "checkpoint_every_s", "checkpoint_every_steps"}
        return {name: value for name, value in self.plain().items() if name not in cadence}
