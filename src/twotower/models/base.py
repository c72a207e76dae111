"""The contract of every ranking model: two towers and an interaction.

Letters: Q queries, C shared candidates, K own candidates of a query, T (query, place) pairs of a sequence.
"""

from __future__ import annotations

import copy
import hashlib
import itertools
import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Literal, Self

import torch
from torch import Tensor, nn

from twotower.config import Config
from twotower.data.spec import FeatureSpec
from twotower.errors import ConfigError
from twotower.types import Batch, Rep, RepSpec

ModelKind = Literal["dot", "late", "joint", "list"]


class Model(nn.Module, ABC):
    """Two towers and an interaction. What is known per item alone is computed ahead, exactly.

    In eval mode shared and own candidates score the same, padding changes nothing, and (``list`` models
    excepted) no candidate changes another's score.
    """

    kind: ClassVar[ModelKind]
    config: Config
    spec: FeatureSpec
    stores: ClassVar[tuple[str, ...]] = ()
    """Storage depths on offer, shallow to deep: values of the config's ``store``."""
    max_sim: ClassVar[bool] = False
    """Of a late model: `score` is MaxSim over the "tokens" of both sides, an item's ragged, a query's padded
    with zero vectors; an index can then find its items."""
    pair_fields: Sequence[str] = ()
    """Names of the pair fields `score` reads; an undeclared one is never shown to it."""
    history: str | None = None
    """Name of the query's history column, when the query tower reads one."""

    @abstractmethod
    def encode_query(self, query: Batch) -> Rep:
        """(Q, ...) encoded query columns -> the query's representation, once per request."""

    @abstractmethod
    def encode_item(self, item: Batch) -> Rep:
        """(C, ...) or (Q, K, ...) encoded item columns -> the item's representation, ahead of time."""

    @abstractmethod
    def score(self, query: Rep, item: Rep, pair: Batch | None = None, mask: Tensor | None = None) -> Tensor:
        """The only work per candidate.

        ``query`` (Q, ...); ``item`` shared (C, ...) gives (Q, C), own (Q, K, ...) gives (Q, K). ``pair`` and
        ``mask`` (true = a real candidate) are (Q, K, ...); masked candidates score minus infinity.
        """

    @abstractmethod
    def item_specs(self) -> tuple[RepSpec, ...]:
        """What `encode_item` returns for one item."""

    @classmethod
    def searched(cls) -> str | None:
        """Name of the tensor, of both sides, by which an index finds items; None where only `score` can tell.

        One "vector" each and their inner product, or "tokens" and their MaxSim.
        """
        if cls.kind == "dot":
            return "vector"
        return "tokens" if cls.max_sim else None

    def see_items(self, items: Batch) -> None:
        """Learn of the encoded catalogue, before training and without labels; by default nothing."""

    def penalties(
        self, query: Rep, item: Rep, labels: Tensor, mask: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Auxiliary losses of training, each a scalar already weighted; none by default.

        ``query`` (B, ...); ``item`` and ``labels`` are own, (B, K, ...) and (B, K), or shared, (C, ...) and
        (B, C). ``mask`` (B, K) of own candidates is true where one is real; nothing may depend on the others,
        whose labels are 0. In training mode `encode_query` and `encode_item` may return more than scoring
        needs: what the penalties read, and no table ever holds.
        """
        return {}

    @property
    @abstractmethod
    def flops_per_pair(self) -> int:
        """FLOPs of `score` for one own candidate at the configured storage depth.

        Matrix products only, 2 per multiply-add; gathers and element-wise work are not counted. For a
        ``list`` model, whose cost grows with the list: of a list as long as its config says.
        """

    @property
    def bytes_per_item(self) -> int:
        return sum(spec.bytes_per_item for spec in self.item_specs())

    def at_store(self, store: str) -> Self:
        """The same weights with another of `stores`: the same scores at other costs."""
        if store not in self.stores:
            raise ConfigError(f"{type(self).__name__} stores {list(self.stores)}, not {store!r}")
        other = copy.deepcopy(self)  # no weight depends on the depth
        other.config = self.config.model_copy(update={"store": store})
        return other

    def item_state(self) -> dict[str, Tensor]:
        """The part of the state that `encode_item` reads; all of it unless a model knows better."""
        return self.state_dict()

    @property
    def device(self) -> torch.device:
        """Where the model's tensors lie."""
        return next(itertools.chain(self.parameters(), self.buffers())).device

    def digest(self) -> str:
        """Hash of config, feature spec and every parameter."""
        return self._digest(self.state_dict())

    def item_digest(self) -> str:
        """Hash of config, feature spec and `item_state`: tables and indexes carry it.

        Where only ids are stored it stays the same while the model learns, and so does the table.
        """
        return self._digest(self.item_state())

    def _digest(self, state: dict[str, Tensor]) -> str:
        content = hashlib.sha256(type(self).__qualname__.encode())
        content.update(json.dumps(self.config.plain(), sort_keys=True).encode())
        content.update(self.spec.digest().encode())
        for name, tensor in sorted(state.items()):
            content.update(name.encode())
            content.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        return content.hexdigest()[:16]


class SequenceModel(Model):
    """A model whose query tower can answer for every place of a history in one pass."""

    @abstractmethod
    def encode_places(self, query: Batch, at: Tensor) -> Rep:
        """``at`` (B, L) bool chooses T places; place l answers as if the history ended with event l.

        The first axis of the result enumerates (row, place) in row-major order.
        """


def masked(scores: Tensor, mask: Tensor | None) -> Tensor:
    """Scores with minus infinity where there is no candidate."""
    return scores if mask is None else scores.masked_fill(~mask, -float("inf"))


def pair_columns(pair: Batch | None, names: Sequence[str], shape: Sequence[int]) -> Tensor:
    """(Q, K, n): the declared pair fields side by side; a missing one is an error, never a zero."""
    if pair is None or any(name not in pair for name in names):
        found = sorted(pair) if pair is not None else []
        raise ConfigError(f"the model scores with the pair fields {list(names)}, but was handed {found}")
    return torch.stack([pair[name].expand(*shape).float() for name in names], dim=-1)
