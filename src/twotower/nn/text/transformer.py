"""A small transformer encoder (Vaswani et al., NeurIPS 2017) that learns from nothing.

Letters: N texts, L tokens, H heads, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from twotower.data.spec import Column
from twotower.nn.dropout import Dropout, dropout
from twotower.nn.text.config import TransformerConfig
from twotower.nn.text.encoder import TextEncoder
from twotower.types import PAD


class Block(nn.Module):
    """Self-attention and a feed-forward layer, each behind a LayerNorm and around a residual."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        dim, self.heads, self.dropout = config.dim, config.heads, config.dropout
        self.before_attention = nn.LayerNorm(dim)
        self.query_key_value = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(dim),
            nn.Linear(dim, config.widen * dim),
            nn.GELU(),
            nn.Linear(config.widen * dim, dim),
            Dropout(config.dropout),
        )

    def forward(self, x: Tensor, seen: Tensor | None) -> Tensor:
        N, L, D = x.shape
        parts = self.query_key_value(self.before_attention(x)).view(N, L, 3, self.heads, D // self.heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4)  # each (N, H, L, D / H)
        mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=seen)
        mixed = self.out(mixed.transpose(1, 2).reshape(N, L, D))
        x = x + dropout(mixed, self.dropout, self.training)
        out: Tensor = x + self.feed_forward(x)
        return out


class Transformer(TextEncoder):
    """Learned places, blocks of full attention, a last LayerNorm.

    Differs from the paper: pre-norm, GELU, and no dropout on attention weights. ``segments`` > 1 adds a
    learned vector for each of so many texts that are joined.
    """

    def __init__(self, column: Column, config: TransformerConfig, segments: int = 1) -> None:
        super().__init__()
        self.config, self.dim = config, config.dim
        self.embedding = nn.Embedding(column.size, config.dim)
        self.places = nn.Embedding(column.width, config.dim)
        self.segments = nn.Embedding(segments, config.dim) if segments > 1 else None
        for table in (self.embedding, self.places, *([self.segments] if self.segments else [])):
            nn.init.normal_(table.weight, std=config.dim**-0.5)
        with torch.no_grad():
            self.embedding.weight[PAD].zero_()
        self.dropout = Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.blocks))
        self.norm = nn.LayerNorm(config.dim)

    def encode(self, tokens: Tensor, mask: Tensor, segments: Tensor | None) -> Tensor:
        x = self.embedder(tokens) + self.places.weight[: tokens.shape[1]]
        if self.segments is not None and segments is not None:
            x = x + self.segments(segments)
        x = self.dropout(x)
        seen = attended(mask)
        for block in self.blocks:
            x = block(x, seen)
        out: Tensor = self.norm(x)
        return out


def attended(mask: Tensor) -> Tensor | None:
    """(N, 1, 1, L) which tokens attention sees; None when all are real, which is faster.

    A text without tokens sees its first place, as attention to nothing is not a number.
    """
    if mask.all():
        return None
    nothing = ~mask.any(1, keepdim=True)
    first = torch.arange(mask.shape[1], device=mask.device) == 0
    return (mask | (nothing & first))[:, None, None, :]
