"""Self-attention across the candidates of one list (PRM, Pei et al., RecSys 2019, section 4.2-4.3).

    A = norm(x + heads(x) W),   heads: softmax(Q K^T / sqrt(D / H)) V over the real candidates
    F = norm(A + W_2 relu(W_1 A + b_1) + b_2)

Letters: Q lists, K candidates of each, H heads, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from twotower.errors import ConfigError
from twotower.nn.cost import linear_flops
from twotower.nn.dropout import Dropout, dropout


class ListPlaces(nn.Module):
    """A learnt vector for each place of the initial list; places that training never met are as the last one
    that it did.

    Lists may so be served deeper than they were learnt from.
    """

    last: Tensor

    def __init__(self, places: int, dim: int) -> None:
        super().__init__()
        self.table = nn.Embedding(places, dim)
        nn.init.normal_(self.table.weight, std=dim**-0.5)
        self.register_buffer("last", torch.zeros((), dtype=torch.int64))  # the deepest place of training

    def forward(self, place: Tensor, mask: Tensor | None) -> Tensor:
        """(Q, K) places from 0 -> (Q, K, D)"""
        place = place.long().clamp(0, self.table.num_embeddings - 1)
        if self.training and place.numel():
            real = place if mask is None else place.masked_fill(~mask, 0)
            self.last.copy_(torch.maximum(self.last, real.max()))
        out: Tensor = self.table(torch.minimum(place, self.last))
        return out


class ListBlock(nn.Module):
    """Attention, then a feed-forward layer, each within a residual and before a LayerNorm."""

    def __init__(self, dim: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.query_key_value = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)
        self.behind_attention = nn.LayerNorm(dim)
        self.feed_forward = nn.Sequential(
            nn.Linear(dim, hidden), nn.ReLU(), nn.Linear(hidden, dim), Dropout(dropout)
        )
        self.behind_feed_forward = nn.LayerNorm(dim)

    def forward(self, x: Tensor, seen: Tensor | None) -> Tensor:
        """(Q, K, D) -> (Q, K, D); ``seen`` (Q, 1, 1, K) bool says whom all others look at."""
        Q, K, D = x.shape
        parts = self.query_key_value(x).view(Q, K, 3, self.heads, D // self.heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4)  # each (Q, H, K, D / H)
        # without dropout on its weights, attention never holds its (K, K) matrix
        mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=seen)
        mixed = self.out(mixed.transpose(1, 2).reshape(Q, K, D))
        x = self.behind_attention(x + dropout(mixed, self.dropout, self.training))
        out: Tensor = self.behind_feed_forward(x + self.feed_forward(x))
        return out


class ListEncoder(nn.Module):
    """Blocks in a row. Masked candidates are seen by nobody; what stands in their places means nothing."""

    def __init__(self, dim: int, *, blocks: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        if dim % heads:
            raise ConfigError(f"dim {dim} cannot be divided among {heads} heads")
        self.dim = dim
        self.blocks = nn.ModuleList(ListBlock(dim, heads, hidden, dropout) for _ in range(blocks))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """(Q, K, D) -> (Q, K, D); ``mask`` (Q, K), true = a candidate."""
        seen = None
        if mask is not None:  # a softmax over nobody has no gradient: in an empty list all see all
            seen = (mask | ~mask.any(1, keepdim=True))[:, None, None]
            x = x.masked_fill(~mask[..., None], 0.0)  # a weight of zero would not silence a NaN
        for block in self.blocks:
            x = block(x, seen)
        return x

    def flops(self, length: int) -> int:
        """FLOPs per candidate of a list so long; what grows with the length is attention alone."""
        return linear_flops(self.blocks) + len(self.blocks) * 4 * length * self.dim
