"""FSCD (Ma et al., SIGIR 2021): a ranker that learns which of its fields a pre-ranker can do without.

    z_j ~ Bernoulli(p_j), relaxed in training: z_j = sigmoid((logit p_j + log u - log(1 - u)) / t), u uniform
    score = MLP([z_1 e_1, ..., z_M e_M])
    loss = loss of the scores + weight * sum_j c_j p_j        (c_j: what field j costs a pre-ranker)

Drawn anew for each query and each item; out of training p_j stands for z_j. After training, `kept` names the
fields whose p_j is high; the pre-ranker is the same network on those fields alone, without gates, begins
with the ranker's parameters (`inherit`) and is trained on. Each z_j belongs to one side, so that the first
layer splits exactly.

Differs from the paper: c_j, which it makes of online cost by type of feature, embedding size and number of
keys, is log2(1 + values read) + .01 E + 1e-7 rows here, and may be set per field; ``weight`` is the loss
that a unit of cost must save, not one over the number of training rows; what is inherited takes p_j into the
first layer, so that with all fields kept the pre-ranker scores as the ranker did.

Letters: Q queries, C or K candidates, F fields of one side, M of both, E embedding, H first layer.
"""

from __future__ import annotations

import math
from typing import Self

import torch
from pydantic import Field as Option
from pydantic import NonNegativeFloat
from torch import Tensor, nn

from twotower.config import nearest
from twotower.data.spec import Column, FeatureSpec
from twotower.errors import ConfigError, MismatchError
from twotower.models.joint import Joint, JointConfig
from twotower.nn.cost import linear_flops
from twotower.nn.mlp import Norm, behind, mlp
from twotower.nn.split import SplitLinear
from twotower.types import Rep, RepSpec

QUERY, ITEM, PAIR = 0, 1, 2  # the parts of the input
SPEED = 10.0  # Adam moves a parameter by its rate a step: at 1 a gate would take a thousand steps to shut
TABLE, FIRST = "inputs.embeddings.table.weight", "first.linear.weight"  # what `inherit` takes parts of


class FSCDConfig(JointConfig):
    gate: bool = Option(True, description="learn which fields to drop; false for the pre-ranker")
    keep: tuple[str, ...] | None = Option(None, description="fields to read; null: all")
    weight: float = Option(1e-3, ge=0, description="loss that a field must save per unit of its cost")
    costs: dict[str, NonNegativeFloat] = Option(
        default_factory=dict, description="cost by field, where the default does not fit"
    )
    temperature: float = Option(0.1, gt=0, description="of the relaxed gates; towards 0 they are hard")
    start: float = Option(0.9, gt=0, lt=1, description="keep probability of every field to begin with")
    layers: tuple[int, ...] = Option((256, 256), min_length=1)
    norm: Norm = "none"
    dropout: float = Option(0.2, ge=0, lt=1)


class FSCD(Joint):
    config: FSCDConfig
    costs: Tensor
    """(M,) c_j."""

    def __init__(self, spec: FeatureSpec, config: FSCDConfig) -> None:
        names = [column.name for column in spec.columns]
        for option, given in (("keep", config.keep or ()), ("costs", config.costs)):
            for name in given:
                if name not in names:
                    raise ConfigError(f"{option}: no field {name!r}{nearest(name, names)}")
        super().__init__(spec, config, keep=config.keep)
        self.query_fields = [column.name for column in self.inputs.query_columns]
        self.query_fields += [self.history] if self.history else []
        self.fields = (*self.query_fields, *(column.name for column in self.inputs.item_columns))
        """Names of the M fields: the query's, its history, the item's."""
        costs = [config.costs.get(name, field_cost(spec[name], config.embedding)) for name in self.fields]
        self.register_buffer("costs", torch.tensor(costs), persistent=False)
        start = math.log(config.start / (1 - config.start))
        self.gates = nn.Parameter(torch.full((len(self.fields),), start / SPEED)) if config.gate else None
        """(M,) logit p_j / `SPEED`."""
        pair = config.embedding if config.pair else 0
        sizes = [self.inputs.query_size, self.inputs.item_size, pair]
        self.first = SplitLinear(sizes, config.layers[0])
        self.deep = nn.Sequential(
            *behind(config.layers[0], norm=config.norm, dropout=config.dropout),
            *mlp(config.layers, norm=config.norm, dropout=config.dropout),
        )
        self.out = nn.Linear(config.layers[-1], 1)
        self.start_from_pair(self.out)

    # fields, their probabilities, and who inherits them ------------------------------------------------

    @property
    def keep_probabilities(self) -> Tensor:
        """(M,) p_j; ones without gates."""
        return torch.ones_like(self.costs) if self.gates is None else (SPEED * self.gates).sigmoid()

    @torch.no_grad()
    def kept(self, threshold: float = 0.5) -> tuple[str, ...]:
        """Fields of at least this keep probability, in order; of each side at least the likeliest."""
        likely = self.keep_probabilities
        kept = likely >= threshold
        for part, chosen in zip(
            torch.split(likely, self._sides), torch.split(kept, self._sides), strict=True
        ):
            chosen[part.argmax()] = True
        return tuple(name for name, keep in zip(self.fields, kept.tolist(), strict=True) if keep)

    @torch.no_grad()
    def inherit(self, ranker: Self) -> None:
        """Begin with the ranker's parameters: of the table and the first layer the share of the fields kept.

        Raises
        ------
        MismatchError
            This model has gates, reads a field the ranker does not, or is not of the ranker's shape.
        """
        strange = set(self.fields) - set(ranker.fields)
        if self.gates is not None or strange or self.spec.digest() != ranker.spec.digest():
            found = "gates" if self.gates is not None else f"the fields {list(self.fields)}"
            raise MismatchError(
                f"a pre-ranker has no gates (gate: false) and inherits from a ranker of the same features, "
                f"some of its fields; found {found}, and a ranker of {list(ranker.fields)}"
            )
        if self.pair_fields != ranker.pair_fields:
            raise MismatchError(
                f"the pre-ranker reads the pair fields {list(self.pair_fields)}, the ranker "
                f"{list(ranker.pair_fields)}; keep pair as it is"
            )
        state = ranker.state_dict()
        columns, shares = self._columns_in(ranker)
        state[FIRST] = state[FIRST][:, columns] * shares
        state[TABLE] = state[TABLE][self._rows_in(ranker)]
        own = self.state_dict()
        for name, tensor in own.items():
            if name not in state or state[name].shape != tensor.shape:
                there = str(tuple(state[name].shape)) if name in state else "missing"
                raise MismatchError(
                    f"{name}: {there} in the ranker, {tuple(tensor.shape)} in the pre-ranker; "
                    "keep embedding, layers, norm, history and pair as they are"
                )
        self.load_state_dict({name: state[name] for name in own})

    def _columns_in(self, ranker: Self) -> tuple[Tensor, Tensor]:
        """Of each input of the first layer: its place in the ranker's, and the share that passes there."""
        E = self.config.embedding
        at = [ranker.fields.index(name) for name in self.fields]
        shares = [ranker.keep_probabilities[at], torch.ones(1 if self.pair else 0).to(self.costs)]
        starts = torch.tensor([*at, *([len(ranker.fields)] if self.pair else [])]) * E
        return (starts[:, None] + torch.arange(E)).flatten(), torch.cat(shares).repeat_interleave(E)

    def _rows_in(self, ranker: Self) -> Tensor:
        """Of each row of the embedding table: its place in the ranker's."""
        ours, theirs = self.inputs.embeddings, ranker.inputs.embeddings
        rows = torch.empty(ours.table.num_embeddings, dtype=torch.int64)
        for name, start in ours.starts.items():
            each = torch.arange(self.spec[name].size)
            rows[start + each] = theirs.starts[name] + each
        return rows

    # the ranker ----------------------------------------------------------------------------------------

    def query_part(self, fields: Tensor) -> Rep:
        return Rep(deep=self.first.part(QUERY, self._gated(fields, QUERY).flatten(-2)))

    def item_part(self, fields: Tensor) -> Rep:
        return Rep(deep=self.first.part(ITEM, self._gated(fields, ITEM).flatten(-2)))

    def part_specs(self) -> tuple[RepSpec, ...]:
        return (RepSpec("deep", (self.config.layers[0],)),)

    def interact(self, query: Rep, item: Rep, pair: Tensor | None) -> Tensor:
        deep = query["deep"][:, None] + item["deep"]  # (Q, K, H): the shared (C, H) broadcasts
        deep = deep if pair is None else deep + self.first.part(PAIR, pair)
        out: Tensor = self.out(self.deep(deep)).squeeze(-1)
        return out

    def penalties(
        self, query: Rep, item: Rep, labels: Tensor, mask: Tensor | None = None
    ) -> dict[str, Tensor]:
        if self.gates is None:
            return {}
        return {"feature cost": self.config.weight * (self.costs * self.keep_probabilities).sum()}

    @property
    def part_flops(self) -> int:
        return self.first.flops(ITEM)

    @property
    def interact_flops(self) -> int:
        pair = 0 if self.pair is None else self.pair.flops + self.first.flops(PAIR)
        return linear_flops(self.deep, self.out) + pair

    @property
    def _sides(self) -> list[int]:
        return [len(self.query_fields), len(self.fields) - len(self.query_fields)]

    def _gated(self, fields: Tensor, side: int) -> Tensor:
        """(..., F, E) field vectors, each times its gate."""
        if self.gates is None:
            return fields
        logits = SPEED * torch.split(self.gates, self._sides)[side]
        if not self.training:
            return fields * logits.sigmoid()[:, None]
        noise = torch.rand(fields.shape[:-1], device=fields.device).clamp(1e-6, 1 - 1e-6).logit()
        return fields * ((logits + noise) / self.config.temperature).sigmoid().unsqueeze(-1)


def field_cost(column: Column, embedding: int) -> float:
    """What reading a column costs: log2(1 + values read) + .01 embedding + 1e-7 rows of its table.

    >>> round(field_cost(Column(name="user", kind="id", side="query", size=1_000_000), 16), 3)
    1.26
    """
    return math.log2(1 + column.width) + 0.01 * embedding + 1e-7 * column.size
