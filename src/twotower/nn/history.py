"""The part of a query tower that reads the history column."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field as Option
from torch import Tensor, nn

from twotower.config import Config
from twotower.data.spec import Column
from twotower.nn.embedding import Embeddings
from twotower.nn.sequence import CausalEncoder, CausalMean, CausalPooling, last_place
from twotower.types import PAD, Batch


class HistoryConfig(Config):
    kind: Literal["mean", "pooling", "attention"] = Option(
        "mean", description="running mean, attention pooling, or causal self-attention"
    )
    blocks: int = Option(2, ge=1, description="attention: number of self-attention blocks")
    heads: int = Option(1, ge=1, description="attention: heads per block")
    widen: int = Option(4, ge=1, description="attention: width of the feed-forward layer, times dim")
    dropout: float = Option(0.2, ge=0, lt=1)


class History(nn.Module):
    """(Q, L) vocabulary indices -> (Q, D); an empty history is a learned vector of its own."""

    def __init__(self, column: Column, dim: int, config: HistoryConfig) -> None:
        super().__init__()
        self.name = column.name
        self.encoder = _encoder(column, dim, config)
        self.empty = nn.Parameter(torch.zeros(dim))

    def places(self, batch: Batch, embeddings: Embeddings) -> Tensor:
        """(B, L, D): place l answers for the events 0..l; values at padded places mean nothing."""
        out: Tensor = self.encoder(embeddings.sequence(self.name, batch[self.name]))
        return out

    def forward(self, batch: Batch, embeddings: Embeddings) -> Tensor:
        """(Q, D): the whole history of each query."""
        history = batch[self.name]
        if history.shape[1] == 0:
            return self.empty.expand(len(history), -1)
        last = last_place(history)
        if isinstance(self.encoder, CausalMean):  # the last place alone needs no running mean
            mean = self.encoder.norm(embeddings.sequence_mean(self.name, history))
            return torch.where(last[:, None] >= 0, mean, self.empty.to(mean.dtype))
        # padding may be wider than the longest history: what is never read is never computed
        width = max(1, int((history != PAD).sum(1).max()))
        places = self.places(Batch({self.name: history[:, :width]}), embeddings)
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
