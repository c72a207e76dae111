"""Cross-encoder: a transformer over both texts at once (Nogueira & Cho, "Passage Re-ranking with BERT",
arXiv 1901.04085).

    score = w . T([CLS] query [SEP] document [SEP])_1 + b  (+ v . pair fields)

Tokens up to the first [SEP] have the query's type vector, the others the document's. Nothing of this splits:
already in the first layer every token looks at all tokens of both sides, so all that can be kept of an item
are its token indices, and a pair costs a whole pass. It stands last, behind few candidates, or teaches the
models before it (`twotower.losses.distil`).

Differs from BERT's classifier: the head reads the first state itself, without the pooler's layer.

Letters: Q queries, C shared or K own candidates, n pairs, L tokens, P pair fields.
"""

from __future__ import annotations

import torch
from pydantic import Field as Option
from torch import Tensor, nn

from twotower.config import Config
from twotower.data.spec import FeatureSpec, Special
from twotower.errors import ConfigError
from twotower.models.base import Model, pair_columns
from twotower.nn.cost import linear_flops
from twotower.nn.dropout import Dropout
from twotower.nn.pair import PairShare
from twotower.nn.text.columns import text_column
from twotower.nn.text.config import TextConfig
from twotower.nn.text.encoder import TextEncoder
from twotower.nn.text.lengths import micro_batches
from twotower.nn.text.make import make_text_encoder
from twotower.nn.text.pretrained import Pretrained
from twotower.nn.text.transformer import Transformer
from twotower.types import PAD, Batch, Rep, RepSpec

TOKENS_AT_ONCE = 4096
"""Tokens of one pass, padding counted: memory does not grow with the number of pairs."""
SPECIAL = 3
"""[CLS] and two [SEP]."""


class CrossEncoderConfig(Config):
    query_text: str | None = Option(None, description="text column of the query; null: its only one")
    item_text: str | None = Option(None, description="text column of the item; null: its only one")
    text: TextConfig = Option(description="the transformer, from scratch or pretrained")
    max_length: int = Option(
        256, gt=SPECIAL, description="tokens of a pair; of a longer one the longer text loses its tail"
    )
    pair: tuple[str, ...] = Option((), description="pair fields, such as retrieve_score")
    dropout: float = Option(0.1, ge=0, lt=1, description="before the head")


class CrossEncoder(Model):
    kind = "joint"
    config: CrossEncoderConfig

    def __init__(self, spec: FeatureSpec, config: CrossEncoderConfig) -> None:
        super().__init__()
        self.spec, self.config = spec, config
        self.query_column = text_column(spec, "query", config.query_text)
        self.item_column = text_column(spec, "item", config.item_text)
        if self.query_column.tokenizer != self.item_column.tokenizer:
            raise ConfigError(
                f"a cross-encoder reads both texts as one: {self.query_column.name!r} and "
                f"{self.item_column.name!r} need the same tokenizer, found {self.query_column.tokenizer!r} "
                f"and {self.item_column.tokenizer!r}"
            )
        if config.text.kind == "table":
            raise ConfigError(
                "a cross-encoder needs text: {kind: transformer} or pretrained: in a table no token "
                "looks at another"
            )
        column = self.item_column.model_copy(update={"width": config.max_length})
        own = column.special or Special()
        self.before, self.behind = int(own.first > 0), int(own.last > 0)  # what stands around each text
        self.ends = (
            own.first or own.last,
            own.last or own.first,
        )  # one stands for the other where it is missing
        if not self.before + self.behind:  # two rows more, for [CLS] and [SEP]
            self.ends = column.size, column.size + 1
            column = column.model_copy(update={"size": column.size + 2})
        self.encoder = make_text_encoder(column, config.text, segments=2)
        self.config = config.model_copy(update={"text": self.encoder.config})
        self.dropout = Dropout(config.dropout)
        self.head = nn.Linear(self.encoder.dim, 1)
        self.pair_fields = config.pair
        self.known = PairShare(config.pair) if config.pair else None
        if self.known is not None:  # the first scores are the pair fields' own
            nn.init.zeros_(self.head.weight)

    def encode_query(self, query: Batch) -> Rep:
        return Rep(tokens=query[self.query_column.name].int())

    def encode_item(self, item: Batch) -> Rep:
        return Rep(tokens=item[self.item_column.name].int())

    def item_specs(self) -> tuple[RepSpec, ...]:
        return (RepSpec("tokens", (self.item_column.width,), "int32"),)

    def item_state(self) -> dict[str, Tensor]:
        return {}  # a table of token indices outlives training

    @property
    def flops_per_pair(self) -> int:
        """FLOPs of one pair of the longest texts the columns keep: real pairs cost what they are long."""
        widths = self.query_column.width + self.item_column.width - 2 * (self.before + self.behind)
        L = min(self.config.max_length, widths + SPECIAL)
        attention = 4 * L * self.encoder.dim * _blocks(self.encoder)
        head = linear_flops(self.head) + (0 if self.known is None else self.known.flops)
        return L * (linear_flops(self.encoder) + attention) + head

    def score(self, query: Rep, item: Rep, pair: Batch | None = None, mask: Tensor | None = None) -> Tensor:
        ours, theirs = query["tokens"], item["tokens"]
        own = theirs.dim() == 3
        Q, K = len(ours), theirs.shape[-2]
        real = torch.ones(Q, K, dtype=torch.bool, device=ours.device) if mask is None else mask.expand(Q, K)
        row, column = real.nonzero(as_tuple=True)  # what is masked costs nothing
        scores = self._of_pairs(ours, row, theirs.flatten(0, -2), row * K + column if own else column)
        if self.known is not None:
            scores = scores + self.known(pair_columns(pair, self.pair_fields, (Q, K))[row, column])
        return scores.new_full((Q, K), -torch.inf).index_put((row, column), scores)

    def _of_pairs(self, ours: Tensor, row: Tensor, theirs: Tensor, place: Tensor) -> Tensor:
        """(n,) scores of the texts ``ours[row]`` with ``theirs[place]``, the longest pairs first.

        Pairs of about the same length share a pass, so that next to no padding is computed.
        """
        room = self.config.max_length - SPECIAL
        a, b = longest_first(self._lengths(ours)[row], self._lengths(theirs)[place], room)
        places, parts = [], []
        for some in micro_batches(a + b + SPECIAL, TOKENS_AT_ONCE):
            tokens, types = joined(
                ours[row[some]], theirs[place[some]], (a[some], b[some]), self.ends, self.before
            )
            places.append(some)
            parts.append(self.encoder(tokens, types).vectors[:, 0])
        if not parts:
            return self.head.weight.new_zeros(0)
        scores: Tensor = self.head(self.dropout(torch.cat(parts))).squeeze(1)
        return torch.empty_like(scores).index_put((torch.cat(places),), scores)

    def _lengths(self, tokens: Tensor) -> Tensor:
        """(N,) tokens of each text, those that the tokenizer set around it left out."""
        return ((tokens != PAD).sum(1) - self.before - self.behind).clamp(min=0)


def joined(
    query: Tensor, item: Tensor, lengths: tuple[Tensor, Tensor], ends: tuple[int, int], skip: int
) -> tuple[Tensor, Tensor]:
    """[CLS] query [SEP] item [SEP] of n pairs, nothing between them: tokens (n, L) and their types, 0 or 1.

    ``query`` (n, Lq) and ``item`` (n, Li) token indices, of which ``lengths`` (n,) behind the first ``skip``
    are taken; ``ends`` are the indices of [CLS] and [SEP]. L is the longest of these pairs, padding on the
    right.

    >>> query, item = torch.tensor([[5, 6, 0], [7, 0, 0]]), torch.tensor([[8, 0], [3, 4]])
    >>> joined(query, item, (torch.tensor([2, 1]), torch.tensor([1, 2])), (1, 2), 0)[0]
    tensor([[1, 5, 6, 2, 8, 2],
            [1, 7, 2, 3, 4, 2]])
    """
    a, b = (length[:, None] for length in lengths)
    at = torch.arange(int((a + b).amax()) + SPECIAL, device=query.device).expand(len(query), -1)
    cls, sep = ends
    left = query.gather(1, (at - 1 + skip).clamp(0, query.shape[1] - 1))
    right = item.gather(1, (at - a - 2 + skip).clamp(0, item.shape[1] - 1))
    tokens = torch.where(at <= a, left, right)
    tokens = tokens.masked_fill(at == 0, cls).masked_fill((at == a + 1) | (at == a + b + 2), sep)
    tokens = tokens.masked_fill(at > a + b + 2, PAD)
    return tokens, ((at > a + 1) & (at <= a + b + 2)).long()


def _blocks(encoder: TextEncoder) -> int:
    if isinstance(encoder, Transformer):
        return len(encoder.blocks)
    assert isinstance(encoder, Pretrained)
    return int(encoder.body.config.num_hidden_layers)


def longest_first(query: Tensor, item: Tensor, room: int) -> tuple[Tensor, Tensor]:
    """Lengths (n,) of both texts after tokens were taken from the longer one until they fit into ``room``.

    As the tokenizers of transformers do it (``longest_first``): an odd token goes to the longer text, of two
    texts of one length to the item.

    >>> longest_first(torch.tensor([9, 2, 4]), torch.tensor([9, 9, 1]), 7)
    (tensor([3, 2, 4]), tensor([4, 5, 1]))
    """
    short, long = torch.minimum(query, item).clamp(max=room // 2), torch.maximum(query, item)
    long = torch.minimum(long, room - short)
    first = query <= item
    return torch.where(first, short, long), torch.where(first, long, short)
