"""What all models of the interaction matrix share: token lists on both sides, and reading a pair's matrix.

    encode: the tokens of a text, or the values of fields -> unit vectors, a list per query and per item
    score:  M_ij = cos(q_i, d_j) -> `read` a few numbers off it -> `judge` them -> + the pair fields' share

Item tables keep the lists, so that a candidate costs the matrix and what is read off it. Pair fields, such as
BM25's score, are standardised and weighed beside the matrix; the last layer then starts at zero, and with it
the ranker at the order it was handed.

A query or an item without a token has a score like any other: what `read` makes of an empty matrix.

Letters: Q queries, C shared or K own candidates, Lq and Ld tokens of a query and of an item, D vector length,
P pair fields.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar, Literal

import torch
from pydantic import Field as Option
from torch import Tensor, nn
from torch.nn import functional

from twotower.config import Config
from twotower.data.spec import FeatureSpec
from twotower.models.base import Model, ModelKind, masked, pair_columns
from twotower.nn.pair import PairShare
from twotower.nn.text.config import TableConfig, TextConfig
from twotower.nn.token_lists import FieldTokens, TextTokens, TokenLists, Tokens
from twotower.scores.matrix import read_matrix
from twotower.types import Batch, Rep, RepSpec

LENGTH_BYTES = 8
"""What a table takes to know how long an item's list is."""


class MatrixConfig(Config):
    tokens: Literal["text", "fields"] = Option("text", description="words of texts, or values of fields")
    query_text: str | None = Option(None, description="text column of the query; null is the only one")
    item_text: str | None = Option(None, description="text column of the item; null is the only one")
    text: TextConfig = Option(TableConfig(), description="tokens: text; how words become vectors")
    fields: tuple[str, ...] = Option((), description="tokens: fields; columns whose values count; () is all")
    embedding: int = Option(32, ge=1, description="tokens: fields; floats per value")
    sparse: bool = Option(False, description="tokens: fields; row-wise updates of the table")
    pair: tuple[str, ...] = Option((), description="pair fields, such as lexical_score")


class MatrixRanker(Model):
    """`read` works chunk by chunk on matrices, `judge` on the little that is left of them."""

    kind: ClassVar[ModelKind] = "late"
    item_part: ClassVar[tuple[str, ...]] = ("lists.",)
    """Where the names of tensors begin that `encode_item` reads."""
    config: MatrixConfig

    def __init__(self, spec: FeatureSpec, config: MatrixConfig) -> None:
        super().__init__()
        self.spec = spec
        self.lists = token_lists(spec, config)
        if isinstance(self.lists, TextTokens):  # a pretrained encoder knows more than it was told
            config = config.model_copy(update={"text": self.lists.encoder.config})
        self.config = config
        self.history = self.lists.history
        self.pair_fields = config.pair
        self.known = PairShare(config.pair) if config.pair else None

    # what a model of the matrix consists of -----------------------------------------------------------

    @abstractmethod
    def read(self, matrix: Tensor, query_real: Tensor, item_real: Tensor) -> Tensor:
        """(q, k, Lq, Ld) cosines, real places (q, 1, Lq) and (q or 1, k, Ld) -> (q, k, ...)."""

    @abstractmethod
    def judge(self, features: Tensor, query: Rep) -> Tensor:
        """(Q, K, ...) as `read` left them -> (Q, K) scores."""

    @property
    @abstractmethod
    def judge_flops(self) -> int:
        """FLOPs of `read` and `judge` for one pair of the longest lists."""

    @property
    def per_cell(self) -> int:
        """Floats that `read` holds for each cell of a matrix."""
        return 4

    def units(self, tokens: Tokens) -> Rep:
        """What meets in the matrix: (..., L, D) unit vectors of the tokens themselves, and how many."""
        return Rep(tokens=functional.normalize(tokens.vectors.float(), dim=-1), tokens_length=tokens.length)

    @property
    def unit_size(self) -> tuple[int, int]:
        """Units at each place of a list, and floats of a unit."""
        return 1, self.lists.dim

    # what follows from it -----------------------------------------------------------------------------

    def encode_query(self, query: Batch) -> Rep:
        return self.units(self.lists.query(query))

    def encode_item(self, item: Batch) -> Rep:
        return self.units(self.lists.item(item))

    def score(self, query: Rep, item: Rep, pair: Batch | None = None, mask: Tensor | None = None) -> Tensor:
        words, documents = query["tokens"].float(), item["tokens"].float()
        with torch.autocast(words.device.type, enabled=False):  # rounded, a near match would be an exact one
            features = read_matrix(
                words,
                query["tokens_length"],
                documents,
                item["tokens_length"],
                self.read,
                per_cell=self.per_cell,
            )
        scores = self.judge(features, query)
        if self.known is not None:
            scores = scores + self.known(pair_columns(pair, self.pair_fields, scores.shape), mask)
        return masked(scores, mask)

    def item_specs(self) -> tuple[RepSpec, ...]:
        return (RepSpec("tokens", self.unit_size[1:], ragged=True),)

    @property
    def bytes_per_item(self) -> int:
        """Of an item as long as its columns allow; tables report what theirs take."""
        return self.lists.item_width * self.unit_size[0] * self.item_specs()[0].bytes_per_item + LENGTH_BYTES

    def item_state(self) -> dict[str, Tensor]:
        return {name: t for name, t in self.state_dict().items() if name.startswith(self.item_part)}

    @property
    def flops_per_pair(self) -> int:
        return self.matrix_flops + self.judge_flops + (0 if self.known is None else self.known.flops)

    @property
    def matrix_flops(self) -> int:
        """FLOPs of the cosines of one pair of the longest lists."""
        n, dim = self.unit_size
        return 2 * (n * self.lists.query_width) * (n * self.lists.item_width) * dim

    def start_from_pair(self, last: nn.Linear) -> None:
        """With pair fields: zero the last layer's weights, so that the first scores are the pair's own."""
        if self.config.pair:
            nn.init.zeros_(last.weight)


def token_lists(spec: FeatureSpec, config: MatrixConfig) -> TokenLists:
    """What the config calls tokens."""
    if config.tokens == "text":
        return TextTokens(spec, config.query_text, config.item_text, config.text)
    keep = config.fields if config.fields else None
    return FieldTokens(spec, config.embedding, sparse=config.sparse, keep=keep)
