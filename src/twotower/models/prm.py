"""PRM (Pei et al., RecSys 2019): a re-ranker that sees the whole list before it scores any of it.

    x_i = W [query; item_i; pair_i] + p_(place of i in the initial list)      (the paper's input layer)
    F = encoder(x_1 .. x_K)                    (section 4.2-4.3, `twotower.nn.list_encoder`)
    score_i = w . F_i + b                      (eq. 8, before the softmax over the list)

W splits exactly: an item keeps its share, the query's is computed once per request. From the first attention
on everything depends on everything and nothing splits. The cost per pair grows with the list: it is declared
for lists of ``list_length``.

Differs from the paper: its personalised vector, a hidden layer of a ranker trained before, is here the
query's fields and the earlier stages' scores of the pair; the sum of those is also added to the score, so
that training begins with the order the list came in. The place's vector is added behind W and not before it,
which expresses the same. Dropout leaves the attention weights alone.

Letters: Q queries, C shared or K own candidates, E embedding, D width of a candidate.
"""

from __future__ import annotations

from pydantic import Field as Option
from torch import Tensor, nn

from twotower.data.spec import FeatureSpec
from twotower.models.base import pair_columns
from twotower.models.joint import ITEM, PAIR, QUERY, Joint, JointConfig
from twotower.nn.cost import linear_flops
from twotower.nn.list_encoder import ListEncoder, ListPlaces
from twotower.nn.split import SplitLinear
from twotower.types import Batch, Rep, RepSpec


class PRMConfig(JointConfig):
    pair: tuple[str, ...] = Option(("rank_score",), description="pair fields, such as rank_score")
    position: str | None = Option(
        "rank_rank", description="pair field with the place in the initial list, from 0; null: none is read"
    )
    list_length: int = Option(
        50, ge=1, description="places with a vector of their own; deeper ones are as the last"
    )
    dim: int = Option(32, ge=1, description="floats of a candidate inside the encoder")
    blocks: int = Option(2, ge=1, description="encoder blocks")
    heads: int = Option(2, ge=1, description="attention heads of a block, dividing dim")
    hidden: int = Option(64, ge=1, description="width of a block's feed-forward layer")
    dropout: float = Option(0.2, ge=0, lt=1)


class PRM(Joint):
    kind = "list"
    config: PRMConfig

    def __init__(self, spec: FeatureSpec, config: PRMConfig) -> None:
        super().__init__(spec, config)
        self.first = SplitLinear(self.sizes, config.dim)
        self.places = ListPlaces(config.list_length, config.dim) if config.position else None
        self.encoder = ListEncoder(
            config.dim,
            blocks=config.blocks,
            heads=config.heads,
            hidden=config.hidden,
            dropout=config.dropout,
        )
        self.out = nn.Linear(config.dim, 1)
        position = () if config.position is None else (config.position,)
        self.pair_fields = tuple(dict.fromkeys((*config.pair, *position)))
        self.start_from_pair(self.out)

    def score(self, query: Rep, item: Rep, pair: Batch | None = None, mask: Tensor | None = None) -> Tensor:
        shape = next(iter(query.values())).shape[0], self._candidates(item)[0]
        of_list = Rep() if mask is None else Rep(mask=mask)
        if self.config.position:
            of_list["place"] = pair_columns(pair, (self.config.position,), shape)[..., 0]
        return super().score(query.join(of_list), item, pair, mask)

    def query_part(self, fields: Tensor) -> Rep:
        return Rep(share=self.first.part(QUERY, fields.flatten(-2)))

    def item_part(self, fields: Tensor) -> Rep:
        return Rep(share=self.first.part(ITEM, fields.flatten(-2)))

    def part_specs(self) -> tuple[RepSpec, ...]:
        return (RepSpec("share", (self.config.dim,)),)

    def interact(self, query: Rep, item: Rep, pair: Tensor | None) -> Tensor:
        mask = query.get("mask")
        x = query["share"][:, None] + item["share"]  # (Q, K, D): the shared (C, D) broadcasts
        if pair is not None:
            x = x + self.first.part(PAIR, pair)
        if self.places is not None:
            x = x + self.places(query["place"], mask)
        out: Tensor = self.out(self.encoder(x, mask)).squeeze(-1)
        return out

    @property
    def part_flops(self) -> int:
        return self.first.flops(ITEM)

    @property
    def interact_flops(self) -> int:
        """FLOPs of one of ``list_length`` candidates."""
        own = self.encoder.flops(self.config.list_length) + linear_flops(self.out)
        return own + (0 if self.pair is None else self.pair.flops + self.first.flops(PAIR))
