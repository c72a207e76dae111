"""Objectives over lists of candidates: those that earlier stages served, and those of a whole funnel.

Letters: B lists, K candidates of each.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import Field as Option
from pydantic import SerializerFunctionWrapHandler, model_serializer, model_validator
from torch import Tensor

from twotower.config import Config
from twotower.data.batches import Examples
from twotower.data.full_stage import LOG_Q, TEACHER_SCORE, Role, StageSampling
from twotower.errors import ConfigError
from twotower.losses import distil
from twotower.losses.listwise import lambda_loss, list_mle, listnet, softmax_against
from twotower.losses.pairwise import pairwise_logistic
from twotower.losses.pointwise import bce
from twotower.models.base import Model
from twotower.train.objective import Objective
from twotower.types import NO_ITEM, Batch


class Distil(Config):
    """How a student follows its teacher's scores."""

    loss: Literal["mse", "kl", "margin", "list-mle"] = Option(
        "kl", description="the numbers, the softmax over the list, the differences, or the order alone"
    )
    weight: float = Option(1.0, gt=0)
    temperature: float = Option(1.0, gt=0, description="kl: above 1, candidates behind the first few count")
    top: int | None = Option(None, ge=1, description="list-mle: only the first places of the teacher's order")

    def follow(self, scores: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
        """The loss of (B, K) scores against the teacher's, where it has finite ones; scalar, weighted."""
        known = mask & teacher.isfinite()
        match self.loss:
            case "mse":
                loss = distil.mse(scores, teacher, known)
            case "margin":
                loss = distil.margin(scores, teacher, known)
            case "list-mle":
                loss = list_mle(scores, teacher, known, top=self.top)
            case "kl":
                loss = distil.kl(scores, teacher, known, temperature=self.temperature)
        return self.weight * loss


class ListsConfig(Config):
    """A list-wise loss over the candidates that the stages before this model serve.

    ``share`` of the validation queries teach, the others choose the epoch: the earlier stages have not been
    trained on either, so the scores they hand over look as they will when serving. Behind a stage that learnt
    from lists itself, that holds for the queries which that one left: a re-ranker needs a ranker that leaves
    it some.

    A ``teacher``, a later stage's model, adds its scores of the same candidates to what was liked: a
    pre-ranker that reads what the retriever thought learns the ranker's order on the very lists it will be
    served. It is chosen by what it keeps of them, not by its first ten.
    """

    kind: Literal["lists"] = "lists"
    loss: Literal["softmax", "pairwise", "lambda"] = Option(
        "softmax", description="ListNet, RankNet over lists, or LambdaLoss (NDCG-Loss2)"
    )
    share: float = Option(0.8, gt=0, lt=1, description="validation queries to learn from; the rest select")
    queries: Literal["fresh", "all"] = Option(
        "fresh", description="share is of those that no earlier stage learnt lists from, or of all"
    )
    count: Literal["lists", "positives"] = Option(
        "lists", description="what weighs the same: each list, or each positive in them"
    )
    teacher: str | None = Option(
        None, description="the ranker that teaches, a key of models:; it is trained first"
    )
    distil: Distil | None = Option(None, description="how the teacher is followed; null: as distil: {}")
    liked: float = Option(1.0, ge=0, description="weight of loss; 0: the teacher's opinion alone")

    @model_validator(mode="after")
    def _check(self) -> ListsConfig:
        if self.teacher is None and self.distil is not None:
            raise ValueError("distil needs a teacher: name the model whose scores are to be learnt")
        if self.teacher is None and not self.liked:
            raise ValueError("liked: 0 leaves nothing to learn: name a teacher")
        return self


class Grades(Config):
    """Gains of candidates that brought nothing, for the ``order`` part: full-stage learning to rank."""

    exposed: float = Option(0.0, ge=0, description="shown, and not taken")
    ranked: float = Option(0.0, ge=0)
    preranked: float = Option(0.0, ge=0)
    retrieved: float = Option(0.0, ge=0)
    random: float = Option(0.0, ge=0)


class LoggedFunnel(Config):
    """Where answers were logged (`twotower.cascade.funnel_log`), and which labels belong to them."""

    directory: str
    ranker: str = Option("rank", description="the stage whose scores teach, and whose list was ranked")
    within_s: int = Option(86_400, ge=0, description="an event at most so much later is of the exposure")


class FullStageConfig(Config):
    """Lists of a whole funnel, every role with its own loss; a weight of 0 switches a part off.

    ``bce`` learns from the exposed, ``softmax`` sets each positive against all that was not exposed,
    ``order`` sorts the list by gain, ``distil`` follows the teacher on every candidate it scored: those that
    the pre-ranker will serve. With ``bce`` alone the model learns from exposures only, on the same requests.
    """

    kind: Literal["full-stage"] = "full-stage"
    teacher: str | None = Option(
        None, description="the ranker that teaches, a key of models:; it is trained first"
    )
    source: Literal["replay", "log"] = Option(
        "replay", description="our own stages asked again about the past, or a log of what was served"
    )
    log: LoggedFunnel | None = Option(None, description="source: log; null is the log of synthetic data")
    by: tuple[str, ...] = Option(
        (),
        description="replay: sources of the cascade, or models trained before, that serve the candidates; "
        "none: the stages before this one",
    )
    requests: int = Option(
        1, ge=1, description="replay: past moments of each query, the latest ones; without a history: one"
    )
    positives: int = Option(
        5, ge=1, description="replay: positive events after each such moment; without a history: all"
    )
    sample: StageSampling = StageSampling()
    bce: float = Option(1.0, ge=0)
    softmax: float = Option(1.0, ge=0)
    order: float = Option(0.0, ge=0, description="LambdaLoss")
    grades: Grades = Grades()
    distil: Distil | None = None

    @model_serializer(mode="wrap")
    def _without_nobody(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """What was trained before there was ``by`` keeps its fingerprint."""
        return {name: value for name, value in plain(self).items() if (name, value) != ("by", [])}

    @model_validator(mode="after")
    def _check(self) -> FullStageConfig:
        if self.by and self.source == "log":
            raise ValueError("by names who serves when requests are replayed; a log says what was served")
        if not (self.bce or self.softmax or self.order or self.distil):
            raise ValueError("every part is switched off: give bce, softmax, order or distil a weight")
        if self.distil is not None and self.teacher is None and self.source == "replay":
            raise ValueError("distil needs a teacher: name the model whose scores are to be learnt")
        return self


class Lists(Objective):
    """A list-wise loss between the labels and the scores. Lists without a positive teach and weigh nothing.

    Counting lists favours queries with few positives, as recall does; counting positives favours those with
    many, whose first places an nDCG looks at.
    """

    def __init__(self, items: Batch, config: ListsConfig) -> None:
        super().__init__(items)
        self.config = config
        self.loss = {"softmax": listnet, "pairwise": pairwise_logistic, "lambda": lambda_loss}[config.loss]

    def __call__(self, model: Model, examples: Examples) -> dict[str, Tensor]:
        assert examples.labels is not None
        mask = examples.items != NO_ITEM
        query = model.encode_query(examples.query)
        item = self.encode_lists(model, examples.items)  # (B, K, ...)
        scores = model.score(query, item, examples.pair, mask).float()
        gains = examples.labels * mask
        losses = {}
        if self.config.liked:
            weight = None if self.config.count == "lists" else gains.sum(1)
            losses["list"] = self.config.liked * self.loss(scores, gains, mask, weight)
        if self.config.teacher is not None:
            how = self.config.distil or Distil()
            losses["distil"] = how.follow(scores, examples.pair[TEACHER_SCORE], mask)
        return {**losses, **self.penalties(model, query, item, lambda: gains, mask)}


class FullStageObjective(Objective):
    """See `FullStageConfig`; examples are those of `twotower.data.full_stage.FullStageBatches`.

    Lists hold so many of each role, whatever a request's shares of them are. What the parts are over:

    - ``softmax``: the whole request and the catalogue of the random items; `LOG_Q` corrects the negatives.
    - ``order``: the list as drawn, uncorrected: roles weigh by their slots in ``sample``. Grades that rise
      towards the exposed teach the order of the stages; by gains alone a role comes to stand the lower, the
      larger the share of it that is drawn.
    - ``distil``: those of the drawn list that the teacher scored, uncorrected; *kl* compares two softmaxes
      over them. Scores that are the teacher's but for a constant are the optimum whatever is drawn; for a
      student that cannot have them, the slots in ``sample`` say which of them count.
    """

    def __init__(self, items: Batch, config: FullStageConfig) -> None:
        super().__init__(items)
        self.config = config
        g = config.grades
        # by role: exposed positives have gains of their own
        self.grades = torch.tensor([0.0, g.exposed, g.ranked, g.preranked, g.retrieved, g.random])

    def __call__(self, model: Model, examples: Examples) -> dict[str, Tensor]:
        assert examples.labels is not None
        if model.pair_fields:
            raise ConfigError(
                f"{type(model).__name__} scores with the pair fields {list(model.pair_fields)}, which "
                "exposed and random candidates of full-stage lists do not have; take them out of its config"
            )
        config, mask, role = self.config, examples.items != NO_ITEM, examples.pair["role"].long()
        query = model.encode_query(examples.query)
        item = self.encode_lists(model, examples.items)  # (B, K, ...)
        scores = model.score(query, item, mask=mask).float()
        gains = examples.labels * mask
        exposed = mask & (role <= Role.EXPOSED_NEGATIVE)
        losses = {}
        if config.bce:
            clicked = (role[exposed] == Role.EXPOSED_POSITIVE).float()
            losses["bce"] = config.bce * bce(scores[exposed], clicked)
        if config.softmax:
            log_q = examples.pair[LOG_Q]
            losses["softmax"] = config.softmax * softmax_against(scores, gains, mask & ~exposed, log_q=log_q)
        if config.order:
            graded = gains + self.grades.to(gains.device)[role.clamp(min=0)] * mask
            losses["order"] = config.order * lambda_loss(scores, graded, mask)
        if config.distil is not None:
            losses["distil"] = config.distil.follow(scores, examples.pair[TEACHER_SCORE], mask)
        return {**losses, **self.penalties(model, query, item, lambda: gains, mask)}
