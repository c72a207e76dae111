"""ColBERT (Khattab & Zaharia, SIGIR 2020): a text keeps a vector of every token, and every token of the query
takes the one of the document that suits it best.

    E_q = norm(W encode([Q] q_1 .. q_l [MASK] ..))    E_d = drop(norm(W encode([D] d_1 .. d_n)))
    score(q, d) = sum_i max_j E_q_i . E_d_j
    with pair fields p: v . norm([score, p]), each standardised with running statistics; v begins at 1

One encoder and one projection W for both sides; queries are filled with mask tokens to a fixed length (query
augmentation); of documents the vectors of punctuation are dropped once they have been context.

Differs from the paper: [Q] and [D] are learned vectors that stand before the encoded ones as a token of
their own, so they are not context for the others (there: unused words of BERT behind [CLS]), and no text is
without a token. The mask tokens see each other and are seen. A vocabulary of words has no [MASK], so the
table has one row more for it, and punctuation is no word of it. A word that it does not know matches nothing:
queries are read without it, and of documents its vector is dropped as that of punctuation is. (The unknown
token of a pretrained tokenizer is one of its tokens.) Pair fields, such as BM25's score, are ours: behind a
good first stage MaxSim alone would forget what that one knew. With them a ColBERT only re-ranks.

Letters: Q queries of Lq tokens, N texts, C or K documents of Ld tokens, L encoded tokens, D vector length.
"""

from __future__ import annotations

import string
from collections.abc import Mapping
from typing import Any

import torch
from pydantic import Field as Option
from torch import Tensor, nn
from torch.nn import functional

from twotower.config import Config
from twotower.data.spec import Column, FeatureSpec
from twotower.data.text.tokenizer import Tokenizer
from twotower.errors import ConfigError, MismatchError
from twotower.models.base import Model, pair_columns
from twotower.nn.pair import PairShare
from twotower.nn.text.columns import text_column
from twotower.nn.text.config import TableConfig, TextConfig
from twotower.nn.text.lengths import lengths, trimmed
from twotower.nn.text.make import make_text_encoder
from twotower.nn.token_lists import without_unknown
from twotower.scores.maxsim import maxsim
from twotower.types import PAD, UNKNOWN, Batch, Rep, RepSpec

TEXTS_AT_ONCE = 512
"""Documents whose states are held at once when nothing is to be learnt."""


class ColBERTConfig(Config):
    query_text: str | None = Option(None, description="text column of the query; null: the only one")
    item_text: str | None = Option(None, description="that of the item")
    text: TextConfig = TableConfig()
    dim: int = Option(128, ge=1, le=128, description="length of a token's vector")
    query_length: int = Option(32, ge=2, description="tokens of a query, [Q] included; longer ones are cut")
    augment: bool = Option(True, description="shorter queries are filled with mask tokens")
    skip: tuple[int, ...] | None = Option(
        None, description="tokens dropped of documents; null: punctuation, looked up when first built"
    )
    pair: tuple[str, ...] = Option((), description="pair fields that count beside MaxSim, such as bm25_score")


class ColBERT(Model):
    kind = "late"
    max_sim = True
    config: ColBERTConfig

    def __init__(self, spec: FeatureSpec, config: ColBERTConfig) -> None:
        super().__init__()
        self.spec = spec
        self.query_text = text_column(spec, "query", config.query_text)
        self.item_text = text_column(spec, "item", config.item_text)
        if self.query_text.tokenizer != self.item_text.tokenizer:
            raise ConfigError(
                f"one encoder reads both texts: give {self.query_text.name!r} ({self.query_text.tokenizer}) "
                f"and {self.item_text.name!r} ({self.item_text.tokenizer}) the same tokenizer"
            )
        widest = max(self.query_text.width, self.item_text.width, config.query_length - 1)
        column = self.item_text.model_copy(update={"width": widest})
        special = self.query_text.special
        # of a pretrained tokenizer no token is UNKNOWN, so that it may stand in for a mask that is missing
        self.mask_token = special.mask or UNKNOWN if special is not None else column.size
        self.own_mask = special is None and config.augment
        if self.own_mask:
            column = column.model_copy(update={"size": column.size + 1})
        self.encoder = make_text_encoder(column, config.text)
        skip = _punctuation(self.item_text) if config.skip is None else config.skip
        self.config = config.model_copy(update={"text": self.encoder.config, "skip": skip})
        self.projection = nn.Linear(self.encoder.dim, config.dim, bias=False)
        self.query_marker = nn.Parameter(torch.randn(config.dim))
        self.item_marker = nn.Parameter(torch.randn(config.dim))
        self.pair_fields = config.pair
        self.known = (
            PairShare(("maxsim", *config.pair)) if config.pair else None
        )  # MaxSim is the first of them

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """As of any module.

        Raises
        ------
        MismatchError
            The weights are of the time when UNKNOWN was the mask token of words.
        """
        table = state_dict.get("encoder.embedding.weight")
        if self.own_mask and table is not None and len(table) == self.mask_token:
            raise MismatchError(
                f"a colbert of an earlier version: its table has {len(table):,} rows and none for the mask "
                f"token, {len(table) + 1:,} are expected; train the model again"
            )
        return super().load_state_dict(state_dict, strict, assign)

    # towers -------------------------------------------------------------------------------------------

    def encode_query(self, query: Batch) -> Rep:
        """(Q, Lq, D) unit vectors; those of padding, if there is any, are zero and add nothing."""
        tokens = without_unknown(query[self.query_text.name])[:, : self.config.query_length - 1]
        if self.config.augment:
            missing = self.config.query_length - 1 - tokens.shape[1]
            tokens = functional.pad(tokens, (0, missing), value=PAD)
            tokens = tokens.masked_fill(tokens == PAD, self.mask_token)
        vectors, _ = self._vectors(tokens, self.query_marker)
        return Rep(tokens=vectors)

    def encode_item(self, item: Batch) -> Rep:
        """(..., Ld, D) unit vectors, [D] first, and how many are real (...)."""
        tokens = item[self.item_text.name]
        flat = tokens.reshape(-1, tokens.shape[-1])
        if torch.is_grad_enabled() or len(flat) <= TEXTS_AT_ONCE:
            vectors, length = self._document(flat)
        else:
            vectors, length = self._documents(flat)
        width = vectors.shape[1]
        return Rep(
            tokens=vectors.view(*tokens.shape[:-1], width, self.config.dim),
            tokens_length=length.view(tokens.shape[:-1]),
        )

    def _documents(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """`_document` of many, those of like length together."""
        out = torch.zeros(len(tokens), trimmed(tokens).shape[1] + 1, self.config.dim, device=tokens.device)
        length = torch.zeros(len(tokens), dtype=torch.int64, device=tokens.device)
        for rows in torch.split(lengths(tokens).argsort(), TEXTS_AT_ONCE):
            vectors, length[rows] = self._document(tokens[rows])
            out[rows, : vectors.shape[1]] = vectors
        return out[:, : int(length.max())], length

    def _document(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """(N, L) -> (N, Ld, D) without gaps, zeros at the end, and lengths (N,)."""
        tokens = trimmed(tokens)
        vectors, mask = self._vectors(tokens, self.item_marker)
        dropped = torch.isin(tokens, torch.tensor([UNKNOWN, *(self.config.skip or ())], device=tokens.device))
        mask = mask & ~functional.pad(dropped, (1, 0))
        length = mask.sum(1)
        width = int(length.max()) if len(length) else 0
        order = (~mask).to(torch.int8).argsort(dim=1, stable=True)[:, :width]
        vectors = vectors.gather(1, order[..., None].expand(-1, -1, self.config.dim))
        there = torch.arange(width, device=length.device) < length[:, None]
        return vectors.masked_fill(~there[..., None], 0), length

    def _vectors(self, tokens: Tensor, marker: Tensor) -> tuple[Tensor, Tensor]:
        """(N, L) -> (N, 1 + L, D) unit vectors, the side's marker first, and (N, 1 + L) which are real."""
        states = self.encoder(trimmed(tokens))
        projected = self.projection(states.vectors)
        first = marker.expand(len(projected), 1, -1)
        vectors = functional.normalize(torch.cat([first, projected], 1), dim=-1)
        mask = functional.pad(states.mask, (1, 0), value=True)
        return vectors.masked_fill(~mask[..., None], 0), mask

    # interaction --------------------------------------------------------------------------------------

    def score(self, query: Rep, item: Rep, pair: Batch | None = None, mask: Tensor | None = None) -> Tensor:
        tokens, length = item["tokens"], item["tokens_length"]
        real = torch.arange(tokens.shape[-2], device=length.device) < length[..., None]
        scores = maxsim(query["tokens"], tokens, mask, item_mask=real)
        if self.known is None:
            return scores
        columns = torch.cat([scores[..., None], pair_columns(pair, self.pair_fields, scores.shape)], -1)
        candidates = torch.ones_like(scores, dtype=torch.bool) if mask is None else mask.expand_as(scores)
        return scores.masked_scatter(candidates, self.known(columns[candidates]))  # no gap in the statistics

    # costs --------------------------------------------------------------------------------------------

    def item_specs(self) -> tuple[RepSpec, ...]:
        return (RepSpec("tokens", (self.config.dim,), ragged=True),)

    def item_state(self) -> dict[str, Tensor]:
        own = ("query_marker", "known.")
        return {name: t for name, t in self.state_dict().items() if not name.startswith(own)}

    @property
    def bytes_per_item(self) -> int:
        """Of the longest document a table may hold: all its tokens, [D], and the length."""
        return (self.item_text.width + 1) * self.item_specs()[0].bytes_per_item + 8

    @property
    def flops_per_pair(self) -> int:
        """For the longest document, and query."""
        longest = min(self.query_text.width + 1, self.config.query_length)
        Lq = self.config.query_length if self.config.augment else longest
        maxsim_flops = 2 * Lq * (self.item_text.width + 1) * self.config.dim
        return maxsim_flops + (0 if self.known is None else self.known.flops)


def _punctuation(column: Column) -> tuple[int, ...]:
    """Tokens of a pretrained tokenizer that are a punctuation mark, and nothing else."""
    if column.special is None or column.tokenizer is None:
        return ()
    tokenizer = Tokenizer.find(column.tokenizer)
    around = {column.special.first, column.special.last, column.special.mask}
    tokens, counts = tokenizer.encode([*string.punctuation], longest=8)
    ends = counts.cumsum()
    inside = [
        set(tokens[end - count : end].tolist()) - around for end, count in zip(ends, counts, strict=True)
    ]
    return tuple(sorted({token for mark in inside if len(mark) == 1 for token in mark} - {PAD, UNKNOWN}))
