"""DIN, the Deep Interest Network (Zhou et al., KDD 2018): what a user's past says about this candidate.

    v_U(t) = sum_l a(k_l, t) k_l                             (eq. 3)
    score = MLP([query fields; item fields; v_U(t)])         (figure 2, before the sigmoid)

k_l are the vectors of the items in the history and t that of the candidate, of one table: the history column
says which item column it is made ``of``. The network's first layer splits exactly for query and item; the
activation unit a splits as `twotower.nn.target_attention` says. The work per candidate grows with the length
of the history.

Differs from the paper: in the activation unit k - t stands beside k, t and their product, as in the authors'
code, and its activation is PReLU (Dice would need statistics without the padding); weights pass a sigmoid by
default, so that long histories do not swamp the rest; no mini-batch aware regularisation.

Letters: Q queries, C shared or K own candidates, L places of a history, F fields, E embedding.
"""

from __future__ import annotations

from pydantic import Field as Option
from torch import Tensor, nn

from twotower.data.spec import FeatureSpec
from twotower.errors import ConfigError
from twotower.models.joint import DeepConfig, Joint
from twotower.nn.activation import Activation
from twotower.nn.cost import linear_flops
from twotower.nn.split_mlp import SplitMLP
from twotower.nn.target_attention import TargetAttention, Weighting
from twotower.types import PAD, Batch, Rep, RepSpec

QUERY, ITEM, PAST, PAIR = 0, 1, 2, 3  # the parts of the network's input


class DINConfig(DeepConfig):
    attention: int = Option(36, ge=1, description="hidden units of the activation unit")
    weighting: Weighting = Option("sigmoid", description="what weighs a place; linear is the paper's")
    activation: Activation = Option("dice", description="of the deep network")


class DIN(Joint):
    config: DINConfig

    def __init__(self, spec: FeatureSpec, config: DINConfig) -> None:
        super().__init__(spec, config)
        names = [column.name for column in self.inputs.item_columns]
        past = next((c for c in spec.columns if c.kind == "sequence" and c.of in names), None)
        if past is None:
            raise ConfigError(
                "DIN attends to a history, but the schema declares no sequence of an item field"
            )
        self.history, self.places, self.of = past.name, past.width, str(past.of)
        self.target = names.index(self.of)
        self.attention = TargetAttention(config.embedding, config.attention, config.weighting)
        self.deep = SplitMLP(
            (*self.sizes[:2], config.embedding, config.embedding if config.pair else 0),
            config.layers,
            norm=config.norm,
            dropout=config.dropout,
            bend=config.activation,
        )
        self.out = nn.Linear(config.layers[-1], 1)
        self.start_from_pair(self.out)

    def query_beside(self, query: Batch) -> Rep:
        """The history's item vectors, as wide as the longest: what is never read is never computed."""
        history = query[str(self.history)]
        real = history != PAD
        width = int(real.any(0).sum())
        keys = self.inputs.embeddings.sequence(self.of, history[:, :width])
        return Rep(past=keys, real=real[:, :width])

    def query_part(self, fields: Tensor) -> Rep:
        return Rep(deep=self.deep.part(QUERY, fields.flatten(-2)))

    def item_part(self, fields: Tensor) -> Rep:
        target = fields[..., self.target, :]
        return Rep(
            deep=self.deep.part(ITEM, fields.flatten(-2)),
            target=target,
            share=self.attention.target_share(target),
        )

    def part_specs(self) -> tuple[RepSpec, ...]:
        return (
            RepSpec("deep", (self.config.layers[0],)),
            RepSpec("target", (self.config.embedding,)),
            RepSpec("share", (self.config.attention,)),
        )

    def interact(self, query: Rep, item: Rep, pair: Tensor | None) -> Tensor:
        past = self.attention.pool(query["past"], query["real"], item["target"], item["share"])  # (Q, K, E)
        deep = query["deep"][:, None] + item["deep"] + self.deep.part(PAST, past)
        if pair is not None:
            deep = deep + self.deep.part(PAIR, pair)
        out: Tensor = self.out(self.deep(deep)).squeeze(-1)
        return out

    @property
    def part_flops(self) -> int:
        return self.deep.part_flops(ITEM) + self.attention.share_flops

    @property
    def interact_flops(self) -> int:
        """Of a full history; a shorter one costs less."""
        own = self.attention.flops(self.places) + self.deep.part_flops(PAST)
        own += self.deep.rest_flops + linear_flops(self.out)
        return own + (0 if self.pair is None else self.pair.flops + self.deep.part_flops(PAIR))
