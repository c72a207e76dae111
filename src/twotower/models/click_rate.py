"""Each item's recent click rate, the same for everybody: the first generation of pre-ranking models.

    n_i = sum over its impressions of 2^(-age / half_life),    c_i = the same over its clicks
    rate_i = (c_i + strength * prior) / (n_i + strength),      prior = sum_i c_i / sum_i n_i
    score(q, i) = logit(rate_i)

The "recent average click-through rate" that COLD (Wang et al., DLP-KDD 2020, figure 1) names as where
pre-ranking began. The smoothing is the mean of a Beta posterior with ``strength`` impressions at the global
rate before the first real one, so an item never seen scores that rate. It learns by counting, one pass in any
order or a stream, and its scores are calibrated logits.

Letters: N events, Q queries, C or K candidates.
"""

from __future__ import annotations

import torch
from pydantic import Field as Option
from torch import Tensor

from twotower.config import Config
from twotower.data.spec import FeatureSpec
from twotower.errors import ConfigError
from twotower.models.base import Model, masked
from twotower.scores.dot import dot
from twotower.types import UNKNOWN, Batch, Rep, RepSpec


class ClickRateConfig(Config):
    half_life: float | None = Option(
        None, gt=0, description="in units of the time column; null: old events count in full"
    )
    strength: float = Option(20.0, gt=0, description="impressions that the prior, the global rate, is worth")


class ClickRate(Model):
    kind = "dot"
    config: ClickRateConfig

    clicked: Tensor
    passed: Tensor
    now: Tensor

    def __init__(self, spec: FeatureSpec, config: ClickRateConfig) -> None:
        super().__init__()
        self.spec, self.config = spec, config
        ids = [column for column in spec.side("item") if column.kind == "id"]
        if not ids:
            raise ConfigError("a click rate is an item's own, but the schema declares no id field of items")
        self.column = ids[0].name
        self.register_buffer("clicked", torch.zeros(ids[0].size, dtype=torch.float64))  # decayed to `now`
        self.register_buffer("passed", torch.zeros(ids[0].size, dtype=torch.float64))  # shown, not clicked
        self.register_buffer("now", torch.tensor(-torch.inf, dtype=torch.float64))  # the newest event's time

    @torch.no_grad()
    def update(self, items: Batch, labels: Tensor, times: Tensor, weights: Tensor | None = None) -> None:
        """Count N events: encoded item columns (N, ...); ``labels`` in [0, 1], ``times``, ``weights`` (N,).

        Events may come in any order and any pieces: an event older than ``now`` counts as decayed as if it
        had come in time.
        """
        if not len(times):
            return
        now = torch.maximum(self.now, times.max().double())
        shown = self._decay(now - times) * (1.0 if weights is None else weights)
        for counts, gains in ((self.clicked, shown * labels), (self.passed, shown * (1 - labels))):
            counts *= self._decay(now - self.now)
            counts.index_add_(0, items[self.column].long(), gains)
        self.now.copy_(now)

    def rates(self) -> Tensor:
        """(values of the id,) float64 in (0, 1); values never counted have the prior."""
        prior = (self.clicked.sum() + 0.5) / (self.clicked.sum() + self.passed.sum() + 1)  # never 0, never 1
        smooth = self.config.strength
        rates = (self.clicked + smooth * prior) / (self.clicked + self.passed + smooth)
        rates[: UNKNOWN + 1] = prior  # an unknown id is no item: what was counted there says nothing of it
        return rates

    def encode_query(self, query: Batch) -> Rep:
        return Rep(vector=torch.ones(query.rows, 1, device=self.now.device))

    def encode_item(self, item: Batch) -> Rep:
        return Rep(vector=self.rates().logit().float()[item[self.column].long()].unsqueeze(-1))

    def score(self, query: Rep, item: Rep, pair: Batch | None = None, mask: Tensor | None = None) -> Tensor:
        return masked(dot(query["vector"], item["vector"]), mask)

    def item_specs(self) -> tuple[RepSpec, ...]:
        return (RepSpec("vector", (1,)),)

    @property
    def flops_per_pair(self) -> int:
        return 2

    def _decay(self, age: Tensor) -> Tensor:
        half_life = self.config.half_life
        return torch.ones_like(age, dtype=torch.float64) if half_life is None else (-age / half_life).exp2()
