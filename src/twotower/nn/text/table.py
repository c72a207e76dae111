"""A vector per token, whatever stands beside it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from twotower.data.spec import Column
from twotower.nn.text.config import TableConfig
from twotower.nn.text.encoder import TextEncoder
from twotower.types import PAD


class Table(TextEncoder):
    """Rows of one table. Pooled over hashed letter trigrams it is the word hashing of DSSM (Huang et al.,
    CIKM 2013, section 3.2) with a mean where the paper has a sum.
    """

    def __init__(self, column: Column, config: TableConfig) -> None:
        super().__init__()
        self.config, self.dim = config, config.dim
        self.embedding = nn.Embedding(column.size, config.dim, sparse=config.sparse)
        nn.init.normal_(self.embedding.weight, std=config.dim**-0.5)
        with torch.no_grad():
            self.embedding.weight[PAD].zero_()

    def encode(self, tokens: Tensor, mask: Tensor, segments: Tensor | None) -> Tensor:
        rows: Tensor = self.embedder(tokens)
        return rows
