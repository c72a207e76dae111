"""Histories become vectors: the mean, attention pooling (Yang et al., NAACL 2016, eq. 5-7), or causal
self-attention (SASRec, Kang & McAuley, ICDM 2018).

Letters: B rows, L places of the history (oldest first, padding on the right), H heads, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from twotower.errors import ConfigError
from twotower.nn.dropout import Dropout, dropout
from twotower.types import PAD


class Block(nn.Module):
    """Self-attention and a feed-forward layer, each behind a LayerNorm and around a residual."""

    def __init__(self, dim: int, heads: int, dropout: float, widen: int) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.before_attention = nn.LayerNorm(dim)
        self.query_key_value = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(dim),
            nn.Linear(dim, widen * dim),
            nn.GELU(),
            nn.Linear(widen * dim, dim),
            Dropout(dropout),
        )

    def forward(self, x: Tensor) -> Tensor:
        B, L, D = x.shape
        parts = self.query_key_value(self.before_attention(x)).view(B, L, 3, self.heads, D // self.heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4)  # each (B, H, L, D / H)
        # without dropout on its weights, attention never holds its (L, L) matrix
        seen = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + dropout(self.out(seen.transpose(1, 2).reshape(B, L, D)), self.dropout, self.training)
        out: Tensor = x + self.feed_forward(x)
        return out


class CausalEncoder(nn.Module):
    """Each place sees itself and what came before.

    Differs from SASRec: pre-norm, GELU, ``widen`` x feed-forward, and dropout only behind the embeddings and
    each layer: on attention weights it would force the (L, L) matrix to be held.

    Padding stands on the right, so the causal mask alone keeps it out of every real place.
    """

    def __init__(
        self, dim: int, max_length: int, *, blocks: int, heads: int, dropout: float, widen: int = 4
    ) -> None:
        super().__init__()
        if dim % heads:
            raise ConfigError(f"attention: {heads} heads do not divide a history of {dim} floats")
        self.places = nn.Embedding(max_length, dim)
        nn.init.normal_(self.places.weight, std=dim**-0.5)
        self.dropout = Dropout(dropout)
        self.blocks = nn.ModuleList(Block(dim, heads, dropout, widen) for _ in range(blocks))
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, D) item vectors -> (B, L, D): place l knows the events 0..l."""
        x = self.dropout(x + self.places.weight[: x.shape[1]])
        for block in self.blocks:
            x = block(x)
        out: Tensor = self.norm(x)
        return out


class CausalMean(nn.Module):
    """The running mean of the item vectors: the cheapest history, and a baseline for the others."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, D) item vectors -> (B, L, D): place l holds the mean of the events 0..l."""
        count = torch.arange(1, x.shape[1] + 1, device=x.device, dtype=x.dtype)
        out: Tensor = self.norm(x.cumsum(1) / count[:, None])
        return out


class CausalPooling(nn.Module):
    """The running weighted mean: each event weighs exp(w . tanh(W x + b)), whatever the others are."""

    def __init__(self, dim: int, dropout: float) -> None:
        super().__init__()
        self.weigh = nn.Sequential(nn.Linear(dim, dim), nn.Tanh(), nn.Linear(dim, 1))
        self.dropout = Dropout(dropout)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, D) item vectors -> (B, L, D): place l holds the weighted mean of the events 0..l."""
        # the log weight lies within the norm of w, so that 15 bounds nothing that training reaches
        weight = self.weigh(x).float().clamp(-15, 15).exp()  # (B, L, 1)
        out: Tensor = self.norm(self.dropout((weight * x).cumsum(1) / weight.cumsum(1)))
        return out


def last_place(history: Tensor) -> Tensor:
    """(B,) place of the last real event of each row, -1 when the history is empty."""
    return (history != PAD).sum(1) - 1
