"""The part of a query tower that reads the history column."""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import Field as Option
from pydantic import SerializerFunctionWrapHandler, model_serializer
from torch import Tensor, nn

from twotower.config import Config
from twotower.data.elapsed import ELAPSED, elapsed_name
from twotower.data.spec import Column
from twotower.errors import ConfigError
from twotower.nn.embedding import Embeddings
from twotower.nn.sequence import CausalEncoder, CausalMean, CausalPooling, last_place
from twotower.types import PAD, UNKNOWN, Batch

HIDDEN = 0.05
"""Share of elapsed times that training hides."""


class HistoryConfig(Config):
    kind: Literal["mean", "pooling", "attention"] = Option(
        "mean", description="running mean, attention pooling, or causal self-attention"
    )
    blocks: int = Option(2, ge=1, description="attention: number of self-attention blocks")
    heads: int = Option(1, ge=1, description="attention: heads per block")
    widen: int = Option(4, ge=1, description="attention: width of the feed-forward layer, times dim")
    dropout: float = Option(0.2, ge=0, lt=1, description="pooling, attention; a mean has none")
    elapsed: bool = Option(
        False,
        description="events also tell how long each was the last one; needs the recipe's history.elapsed",
    )

    @model_serializer(mode="wrap")
    def _without_false(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """A model saved before there were times has the digest it had."""
        values: dict[str, Any] = plain(self)
        return {name: value for name, value in values.items() if (name, value) != ("elapsed", False)}


class History(nn.Module):
    """(Q, L) vocabulary indices -> (Q, D); an empty history is a vector of its own.

    Batches of events teach that vector. Of a sequence every target has a past, so that there it stays zero:
    what the query's other fields say is then all that a new user is answered by.
    """

    def __init__(self, column: Column, dim: int, config: HistoryConfig) -> None:
        super().__init__()
        self.name = column.name
        self.encoder = _encoder(column, dim, config)
        self.empty = nn.Parameter(torch.zeros(dim))
        self.elapsed = nn.Embedding(ELAPSED, dim, padding_idx=PAD) if config.elapsed else None
        if self.elapsed is not None:
            nn.init.zeros_(self.elapsed.weight)  # time tells nothing until training says so

    def places(self, batch: Batch, embeddings: Embeddings) -> Tensor:
        """(B, L, D): place l answers for the events 0..l; values at padded places mean nothing."""
        events = embeddings.sequence(self.name, batch[self.name])
        if self.elapsed is not None:
            events = events + self.elapsed(self._times(batch))
        out: Tensor = self.encoder(events)
        return out

    def _columns(self, batch: Batch) -> list[str]:
        """Names of the columns that are read."""
        if self.elapsed is None:
            return [self.name]
        times = elapsed_name(self.name)
        if times not in batch:
            raise ConfigError(f"the model reads times: set history: {{elapsed: true}} (no column {times!r})")
        return [self.name, times]

    def _times(self, batch: Batch) -> Tensor:
        """(B, L) elapsed times; in training a few are hidden, so that the model can serve without them."""
        times = batch[self._columns(batch)[1]]
        if not self.training:
            return times
        hidden = torch.rand(times.shape, device=times.device) < HIDDEN
        return torch.where(hidden & (times != PAD), UNKNOWN, times)

    def forward(self, batch: Batch, embeddings: Embeddings) -> Tensor:
        """(Q, D): the whole history of each query."""
        history = batch[self.name]
        if not history.numel():
            return self.empty.expand(len(history), -1)
        last = last_place(history)
        if isinstance(self.encoder, CausalMean) and self.elapsed is None:
            # the last place alone needs no running mean
            mean = self.encoder.norm(embeddings.sequence_mean(self.name, history))
            return torch.where(last[:, None] >= 0, mean, self.empty.to(mean.dtype))
        # padding may be wider than the longest history: what is never read is never computed
        width = max(1, int((history != PAD).sum(1).max()))
        places = self.places(
            Batch((name, batch[name][:, :width]) for name in self._columns(batch)), embeddings
        )
        at_last = places[torch.arange(len(history), device=history.device), last.clamp(min=0)]
        return torch.where(last[:, None] >= 0, at_last, self.empty.to(at_last.dtype))


def _encoder(column: Column, dim: int, config: HistoryConfig) -> nn.Module:
    match config.kind:
        case "mean":
            return CausalMean(dim)
        case "pooling":
            return CausalPooling(dim, config.dropout)
        case "attention":
            return CausalEncoder(
                dim,
                column.width,
                blocks=config.blocks,
                heads=config.heads,
                dropout=config.dropout,
                widen=config.widen,
            )
