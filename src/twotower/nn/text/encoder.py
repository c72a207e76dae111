"""What every text encoder promises: tokens in, a vector per token out, padding never computed for nothing.

Letters: N texts, L tokens as given, L' tokens of the longest text given, D vector length.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from twotower.nn.text.config import TextConfig
from twotower.nn.text.lengths import lengths, micro_batches, trimmed
from twotower.nn.text.pooling import Pool, pool
from twotower.types import PAD

BUDGET = {"cpu": 4096, "other": 131072}
"""Tokens that are computed at once when nothing is to be learnt."""


class States(NamedTuple):
    """The tokens of N texts as vectors; those of padding are zero."""

    vectors: Tensor  # (N, L', D)
    mask: Tensor  # (N, L') bool: true where there is a token


class TextEncoder(nn.Module, ABC):
    """(N, L) int64 tokens -> `States`. Neither padding nor other texts change a vector.

    ``embedding`` is the token embedder, (rows, E); `borrow` replaces it by another encoder's. ``config`` says
    how to build the same encoder again: models keep it, see `twotower.nn.text.make`.
    """

    dim: int
    config: TextConfig
    embedding: nn.Embedding | None

    def __init__(self) -> None:
        super().__init__()
        self._lender: tuple[
            TextEncoder, ...
        ] = ()  # in a tuple: nn.Module would take it for a part of this one

    @abstractmethod
    def encode(self, tokens: Tensor, mask: Tensor, segments: Tensor | None) -> Tensor:
        """(N, L') trimmed tokens and their mask -> (N, L', D); what stands at padding is ignored."""

    @property
    def embedder(self) -> nn.Embedding:
        """The token embedder in use."""
        embedding = self._lender[0].embedder if self._lender else self.embedding
        assert embedding is not None
        return embedding

    def borrow(self, lender: TextEncoder) -> None:
        """Read the token embedder of ``lender``, whose parameters it stays, and forget the own one."""
        self.embedding, self._lender = None, (lender,)

    def forward(self, tokens: Tensor, segments: Tensor | None = None) -> States:
        """A vector per token, (N, L', D), and where there is one.

        ``segments`` (N, L) says to which of two joined texts each token belongs (encoders made for one text
        ignore it). When nothing is to be learnt, texts are encoded in micro-batches of similar length.
        """
        tokens = trimmed(tokens)
        mask = tokens != PAD
        if segments is not None:
            segments = segments[:, : tokens.shape[1]]
        if len(tokens) and (torch.is_grad_enabled() or tokens.numel() <= self._budget(tokens)):
            return States(self._masked(tokens, mask, segments), mask)
        out = torch.zeros(*tokens.shape, self.dim, device=tokens.device)
        for rows in micro_batches(lengths(tokens), self._budget(tokens)):
            part = trimmed(tokens[rows])
            L = part.shape[1]
            beside = None if segments is None else segments[rows, :L]
            out[rows, :L] = self._masked(part, part != PAD, beside)
        return States(out, mask)

    def pooled(
        self, tokens: Tensor, how: Pool = "mean", progress: Callable[[int, int], None] | None = None
    ) -> Tensor:
        """(N, L) -> (N, D): one vector per text; a text without tokens is zero.

        When nothing is to be learnt, the vectors of all tokens are never held at once, and
        ``progress(done, all)`` is told of every micro-batch.
        """
        if torch.is_grad_enabled():
            states = self(tokens)
            return pool(states.vectors, states.mask, how)
        out = torch.zeros(len(tokens), self.dim, device=tokens.device)
        done = 0
        for rows in micro_batches(lengths(tokens), self._budget(tokens)):
            part = trimmed(tokens[rows])
            mask = part != PAD
            out[rows] = pool(self._masked(part, mask, None), mask, how)
            done += len(rows)
            if progress is not None:
                progress(done, len(tokens))
        return out

    def _masked(self, tokens: Tensor, mask: Tensor, segments: Tensor | None) -> Tensor:
        return self.encode(tokens, mask, segments).float().masked_fill(~mask.unsqueeze(-1), 0.0)

    def _budget(self, tokens: Tensor) -> int:
        return BUDGET["cpu" if tokens.device.type == "cpu" else "other"]
