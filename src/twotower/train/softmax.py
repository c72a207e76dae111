"""Softmaxes over the catalogue, or a part of it: what stands beside the positive, and what is no negative.

Letters: B rows of the batch, T targets (B, or the chosen places of B sequences), C shared candidates, K own
candidates, N items.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import torch
from pydantic import Field as Option
from pydantic import SerializerFunctionWrapHandler, model_serializer, model_validator
from torch import Tensor

from twotower.config import Config
from twotower.data.batches import Examples
from twotower.data.hard_negatives import HardNegatives, Judged, Mining
from twotower.data.negatives import InBatch as BatchNegatives
from twotower.data.negatives import Mixed, Popularity
from twotower.errors import ConfigError
from twotower.losses.full_softmax import full_softmax, tiled_softmax
from twotower.losses.logq import StreamingLogQ
from twotower.losses.pairwise import bpr
from twotower.losses.scored_softmax import scored_softmax
from twotower.losses.softmax import sampled_softmax
from twotower.models.base import Model, SequenceModel
from twotower.train.lists import Distil
from twotower.train.objective import Objective
from twotower.types import NO_ITEM, Batch, Rep

TILE_FLOPS = 1 << 28
"""Of a late model's scores that are held at once: some tens of megabytes, milliseconds of work."""


class HardConfig(Mining):
    """Hard negatives of every positive, mined before the model is trained: `twotower.data.hard_negatives`."""

    by: tuple[str, ...] = Option(
        min_length=1, description="sources of the cascade, or other models: who serves; several are united"
    )
    n: int = Option(4, ge=1, description="drawn for each positive in each batch")
    teacher: str | None = Option(
        None, description="a source or model whose scores guard, and are distilled; null: the first of by"
    )

    @property
    def scorer(self) -> str:
        """Whose scores the guard compares, and a student follows."""
        return self.teacher or self.by[0]


MaskKnown = Annotated[
    bool | None,
    Option(
        description="training positives of a row's query are none of its negatives, which costs each step a "
        "look-up of batch x candidates; null: on for text collections and recipes without a history"
    ),
]


class InBatchConfig(Config):
    """Softmax over the items of the batch, corrected for their frequency (Yi et al., RecSys 2019)."""

    kind: Literal["in-batch"] = "in-batch"
    log_q: Literal["counts", "streaming", "none"] = "counts"
    uniform: int = Option(0, ge=0, description="uniform negatives beside the batch (Yang et al., WWW 2020)")
    mask_known: MaskKnown = None
    hard: HardConfig | None = Option(
        None, description="mined negatives beside the batch, as candidates of all its rows; with log_q: none"
    )
    distil: Distil | None = Option(
        None,
        description="follow what hard.teacher, trained before, says of each positive and its drawn negatives",
    )

    @model_serializer(mode="wrap")
    def _without_null(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """What was trained before there were these keys keeps its fingerprint."""
        return {name: value for name, value in plain(self).items() if value is not None}

    @model_validator(mode="after")
    def _fit_for_hard(self) -> InBatchConfig:
        if self.hard is not None and self.log_q != "none":
            raise ValueError(f"hard negatives are no sample, log_q cannot be {self.log_q}; set log_q: none")
        if self.distil is not None and (self.hard is None or self.hard.teacher is None):
            raise ValueError(
                "distil follows a teacher's scores of hard negatives: give hard, and its teacher"
            )
        if self.hard is not None and self.mask_known is False:
            raise ValueError(
                "one row's hard negatives may be another's positives; take mask_known: false out"
            )
        return self


class SampledConfig(Config):
    """Softmax over the target and sampled negatives, shared by the batch, or BPR against them."""

    kind: Literal["sampled"] = "sampled"
    negatives: int = Option(512, ge=1)
    alpha: float = Option(0.0, ge=0, le=1, description="sample by popularity^alpha; 0 is uniform")
    loss: Literal["softmax", "bpr"] = "softmax"
    mask_known: MaskKnown = None

    @model_serializer(mode="wrap")
    def _without_null(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """What was trained before there was this key keeps its fingerprint."""
        return {name: value for name, value in plain(self).items() if value is not None}


class FullSoftmaxConfig(Config):
    """Softmax over every item of the training range; never holds the whole logits matrix."""

    kind: Literal["full-softmax"] = "full-softmax"


class _Softmax(Objective):
    """Softmaxes over positives: events (B,) or the places of causal sequences (B, L)."""

    judged: Judged | None = None  # positives that are no negatives of their query

    def positives(self, model: Model, examples: Examples) -> tuple[Rep, Tensor, Tensor | None]:
        """Query reps (T, ...), item keys (T,) and weights (T,) of the batch's positives."""
        if examples.items.dim() == 1:
            return model.encode_query(examples.query), examples.items, examples.weights
        if not isinstance(model, SequenceModel):
            raise ConfigError(f"{type(model).__name__} cannot learn from sequences; use an event objective")
        at = examples.items != NO_ITEM
        weights = None if examples.weights is None else examples.weights[at.nonzero()[:, 0]]
        return model.encode_places(examples.query, at), examples.items[at], weights

    def seen(self, examples: Examples, candidates: Tensor) -> Tensor | None:
        """(T, C) true where one of the candidates (C,) is a known positive of the row's query."""
        if self.judged is None:
            return None
        return self.judged.contains(owners(examples), candidates.cpu()).to(candidates.device)


class InBatch(_Softmax):
    """The other rows' items are the negatives; with ``uniform`` > 0 the catalogue sends some too.

    With ``hard`` each row brings some of its own, for all rows. Known positives of a row, which another one
    may bring, are masked: those of ``hard``, or ``judged``, unless ``mask_known`` is false. With ``distil``
    the scores of each row's positive and own negatives follow those of the teacher (Hofstätter et al. 2020,
    "Improving Efficient Neural Ranking Models with Cross-Architecture Knowledge Distillation").
    """

    def __init__(
        self,
        items: Batch,
        counts: Tensor,
        config: InBatchConfig,
        seed: int,
        hard: HardNegatives | None = None,
        judged: Judged | None = None,
    ) -> None:
        super().__init__(items)
        if (config.hard is None) != (hard is None):
            raise ConfigError(
                "hard negatives are mined before training: give both, what is to be and what was"
            )
        self.hard, self.n_hard = hard, 0 if config.hard is None else config.hard.n
        self.distil = config.distil
        if self.distil is not None and (hard is None or hard.scores is None):
            raise ConfigError("there is nothing to distil: what was mined has no teacher's scores")
        self.judged = masked_by(config, judged if hard is None else hard.judged)
        if config.uniform and config.log_q != "counts":
            raise ConfigError("uniform negatives beside the batch need log_q: counts, for the mixture's q")
        known = counts if config.log_q == "counts" else None
        self.sampler = (
            Mixed(counts, config.uniform, counts.nonzero()[:, 0]) if config.uniform else BatchNegatives(known)
        )
        self.streaming = StreamingLogQ(4 * len(counts)) if config.log_q == "streaming" else None
        self.draw = torch.Generator().manual_seed(seed)

    def __call__(self, model: Model, examples: Examples) -> dict[str, Tensor]:
        if model.kind in ("joint", "list") or model.pair_fields:
            raise ConfigError(
                f"in-batch softmax scores all pairs of a batch, which {type(model).__name__} ({model.kind}) "
                "is not made for; train it pointwise, on sampled negatives or on lists"
            )
        query, keys, weights = self.positives(model, examples)
        drawn = self.sampler.sample(keys.cpu(), self.draw)
        candidates, log_q = drawn.keys.to(keys.device), drawn.log_q
        if self.streaming is not None:
            self.streaming.update(keys.cpu())
            log_q = self.streaming(keys.cpu())
        mined = None
        if self.hard is not None:
            mined = self.hard.draw(owners(examples), keys.cpu(), self.n_hard, self.draw)
            more = torch.unique(mined[mined != NO_ITEM]).to(keys.device)
            candidates = torch.cat([candidates, more[~torch.isin(more, candidates)]])
            log_q = torch.zeros(len(candidates))
        log_q, seen = log_q.to(keys.device), self.seen(examples, candidates)
        item = self.encode(model, candidates)
        if model.kind == "dot":
            loss = tiled_softmax(
                query["vector"], item["vector"], log_q=log_q, item_keys=candidates, seen=seen, weight=weights
            )
        else:
            loss = sampled_softmax(
                model.score(query, item), log_q=log_q, item_keys=candidates, seen=seen, weight=weights
            )
        losses = {"softmax": loss}
        if self.distil is not None and self.hard is not None and mined is not None:
            own = torch.cat([keys.cpu()[:, None], mined], 1)  # (T, 1 + n)
            said = self.hard.said(owners(examples), keys.cpu(), own).to(keys.device)
            column = _columns(candidates, own.to(keys.device))
            scores = model.score(query, Rep((name, t[column]) for name, t in item.items()))
            losses["distil"] = self.distil.follow(scores.float(), said, own.to(keys.device) != NO_ITEM)
        return {**losses, **self.penalties(model, query, item, lambda: _own_column(keys, candidates))}

    def state_dict(self) -> dict[str, Tensor]:
        state = {"draw": self.draw.get_state()}
        if self.streaming is not None:
            state |= {f"streaming.{k}": v for k, v in self.streaming.state_dict().items()}
        return state

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.draw.set_state(state["draw"])
        if self.streaming is not None:
            name = "streaming."
            own = {k.removeprefix(name): v for k, v in state.items() if k.startswith(name)}
            self.streaming.load_state_dict(own)


class Sampled(_Softmax):
    """One pool of negatives for the whole batch: its cost does not grow with the catalogue."""

    def __init__(
        self, items: Batch, counts: Tensor, config: SampledConfig, seed: int, judged: Judged | None = None
    ) -> None:
        super().__init__(items)
        self.loss, self.judged = config.loss, masked_by(config, judged)
        self.sampler = Popularity(counts, config.negatives, config.alpha, layout="shared")
        self.draw = torch.Generator().manual_seed(seed)

    def __call__(self, model: Model, examples: Examples) -> dict[str, Tensor]:
        if model.kind == "list" or model.pair_fields:
            raise ConfigError(
                f"sampled softmax scores items that no stage has served, which {type(model).__name__} "
                f"({model.kind}) is not made for; train it on lists"
            )
        query, keys, weights = self.positives(model, examples)
        drawn = self.sampler.sample(keys.cpu(), self.draw)
        negatives, T = drawn.keys.to(keys.device), len(keys)
        item = self.encode(model, torch.cat([keys, negatives]))
        positive, shared = self._scores(model, query, item, T)
        seen = self.seen(examples, negatives)
        if seen is not None:
            shared = shared.masked_fill(seen, -torch.inf)
        if self.loss == "bpr":
            loss = bpr(positive[:, 0], shared.masked_fill(negatives == keys[:, None], -torch.inf), weights)
        else:
            pool = torch.cat([keys[:, None], negatives.expand(T, -1)], 1)
            loss = sampled_softmax(
                torch.cat([positive, shared], 1),
                torch.zeros_like(keys),
                log_q=self.sampler.log_q(pool),
                item_keys=pool,
                weight=weights,
            )
        shown = torch.cat([keys, negatives])
        return {self.loss: loss, **self.penalties(model, query, item, lambda: _own_column(keys, shown))}

    def _scores(self, model: Model, query: Rep, item: Rep, T: int) -> tuple[Tensor, Tensor]:
        """(T, 1) of the targets, which come first in ``item``, and (T, C) of the shared negatives."""
        if model.kind != "joint":
            positive = model.score(query, Rep((n, t[:T, None]) for n, t in item.items()))
            return positive, model.score(query, Rep((n, t[T:]) for n, t in item.items()))
        # together: a batch norm of targets alone would tell them by its statistics
        place = torch.arange(item.rows, device=next(iter(item.values())).device)
        own = torch.cat([place[:T, None], place[T:].expand(T, -1)], 1)  # (T, 1 + C)
        scores = model.score(query, Rep((n, t[own]) for n, t in item.items()))
        return scores[:, :1], scores[:, 1:]

    def state_dict(self) -> dict[str, Tensor]:
        return {"draw": self.draw.get_state()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.draw.set_state(state["draw"])


class FullSoftmax(_Softmax):
    def __init__(self, items: Batch, counts: Tensor) -> None:
        super().__init__(items)
        self.trained = counts.nonzero()[:, 0]  # an item without a training event is no negative either
        self.place = torch.full((len(counts),), NO_ITEM)
        self.place[self.trained] = torch.arange(len(self.trained))

    def __call__(self, model: Model, examples: Examples) -> dict[str, Tensor]:
        if model.kind in ("joint", "list") or model.pair_fields:
            raise ConfigError(
                f"full-softmax scores the whole catalogue, which {type(model).__name__} ({model.kind}) is "
                "not made for; train it pointwise, on sampled negatives or on lists"
            )
        query, keys, weights = self.positives(model, examples)
        item = self.encode(model, self.trained.to(keys.device))
        target = self.place[keys.cpu()].to(keys.device)
        if model.kind == "dot":
            loss = full_softmax(query["vector"], item["vector"], target, weight=weights)
        else:
            rows = max(1, TILE_FLOPS // max(1, model.flops_per_pair * len(self.trained)))
            loss = scored_softmax(
                lambda some: model.score(Rep((n, t[some]) for n, t in query.items()), item),
                target,
                rows,
                weights,
            )
        return {
            "softmax": loss,
            **self.penalties(model, query, item, lambda: same(keys, self.trained.to(keys.device))),
        }


def same(keys: Tensor, candidates: Tensor) -> Tensor:
    """(T, C) labels of shared candidates: 1 where a candidate is the target itself."""
    return (keys[:, None] == candidates).float()


def _own_column(keys: Tensor, candidates: Tensor) -> Tensor:
    """(T, C) the same where candidate t is row t's target: other copies of it are no further positives."""
    return torch.eye(len(keys), len(candidates), device=keys.device)


def _columns(candidates: Tensor, keys: Tensor) -> Tensor:
    """(T, K) a column of ``candidates`` (C,) that holds each key; any column for an empty slot."""
    order = candidates.argsort()
    at = torch.searchsorted(candidates[order], keys.contiguous()).clamp(max=len(candidates) - 1)
    return order[at]


def owners(examples: Examples) -> Tensor:
    """(T,) the query of each target, on the CPU."""
    if examples.items.dim() == 1:
        return examples.query_keys.cpu()
    return examples.query_keys.cpu()[(examples.items != NO_ITEM).nonzero()[:, 0].cpu()]


def masked_by(config: InBatchConfig | SampledConfig, judged: Judged | None) -> Judged | None:
    """The known positives that are given, unless they shall not be masked."""
    if config.mask_known and judged is None:
        raise ConfigError("mask_known masks the training positives, and there are none: give judged")
    return None if config.mask_known is False else judged
