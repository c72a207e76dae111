"""What a model learns from a batch: the loss, and the candidates it is computed over.

Letters: B rows of the batch, N items.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field as Option
from torch import Tensor

from twotower.config import Config
from twotower.data.batches import Examples
from twotower.data.hard_negatives import HardNegatives, Judged
from twotower.errors import ConfigError
from twotower.losses.pointwise import bce
from twotower.models.base import Model
from twotower.train.lists import FullStageConfig, FullStageObjective, Lists, ListsConfig
from twotower.train.objective import Objective
from twotower.train.softmax import (
    FullSoftmax,
    FullSoftmaxConfig,
    InBatch,
    InBatchConfig,
    Sampled,
    SampledConfig,
)
from twotower.types import Batch


class PointwiseConfig(Config):
    """Binary cross entropy on labelled events."""

    kind: Literal["pointwise"] = "pointwise"


class CountsConfig(Config):
    """No gradients: one pass over the labelled events, for models that count."""

    kind: Literal["counts"] = "counts"


ObjectiveConfig = Annotated[
    PointwiseConfig
    | CountsConfig
    | InBatchConfig
    | SampledConfig
    | FullSoftmaxConfig
    | ListsConfig
    | FullStageConfig,
    Option(discriminator="kind"),
]


class Pointwise(Objective):
    def __call__(self, model: Model, examples: Examples) -> dict[str, Tensor]:
        if examples.labels is None:
            raise ConfigError(
                "the pointwise objective needs labels; declare a positive rule or a label field"
            )
        query = model.encode_query(examples.query)
        item = self.encode(model, examples.items[:, None])  # (B, 1, ...)
        scores = model.score(query, item, examples.pair)[:, 0]
        labels = examples.labels
        loss = bce(scores, labels, examples.weights)
        return {"bce": loss, **self.penalties(model, query, item, lambda: labels[:, None])}


def make_objective(
    config: Any,
    items: Batch,
    counts: Tensor,
    seed: int,
    hard: HardNegatives | None = None,
    judged: Judged | None = None,
) -> Objective:
    """``items`` (N, ...) encoded item columns by key; ``counts`` (N,) positives per item in training.

    ``hard`` is what was mined for an in-batch objective that asks for it, ``judged`` the training positives,
    which in-batch and sampled softmaxes then mask (``mask_known``).
    """
    match config:
        case PointwiseConfig():
            return Pointwise(items)
        case ListsConfig():
            return Lists(items, config)
        case FullStageConfig():
            return FullStageObjective(items, config)
        case InBatchConfig():
            return InBatch(items, counts, config, seed, hard, judged)
        case SampledConfig():
            return Sampled(items, counts, config, seed, judged)
        case FullSoftmaxConfig():
            return FullSoftmax(items, counts)
    raise ConfigError(f"no objective is described by {type(config).__name__}")
