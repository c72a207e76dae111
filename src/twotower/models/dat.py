"""DAT, the dual augmented two-tower model (Yu et al., DLP-KDD 2021): each side learns to imitate the vectors
that it met on the other one.

    u = MLP([query fields; a_u])    v = MLP([item fields; a_v])    score = <u, v>        (a: tables by id)
    mimic      L_u = mean |a_u - v|^2, L_v = mean |a_v - u|^2 over the positive pairs; only the a learn
    alignment  L_c = mean over the other categories of |Cov(w of the largest one) - Cov(w of that one)|_F^2
                     with w = v / |v|
    loss = prediction + .5 L_u + .5 L_v + L_c

so that a query's tower reads, in a_u, what its positive items look like, and serving is one inner product.
Categories are those of the items in the batch.

Differs from the paper: L_u and L_v are means over the positives, not over all pairs, so that their weight
does not depend on the share of negatives; vectors are compared at unit length unless ``mimic_unit`` is off
(the paper compares them raw); no alignment unless ``category`` names a column. The towers are those of
`twotower.models.two_tower`. An augmented vector is as long as the tower's, which it imitates.

L_c differs thrice. The paper sums, over all categories, distances of the covariances of v itself: that grows
with the fourth power of the length of v, so that it mostly makes vectors short, and a category with few items
in the batch adds noise instead of a difference. Here vectors have unit length, categories of fewer than
``alignment_items`` items in the batch are left out, and the rest are averaged. Two categories of n and m
items that are distributed alike then cost at most 1/(n - 1) + 1/(m - 1) in expectation; any two, about 2.

Letters: B queries, C shared or K own candidates, T chosen (row, place) pairs, N items, G categories,
D vector length.
"""

from __future__ import annotations

import torch
from pydantic import Field as Option
from torch import Tensor

from twotower.data.spec import Column, FeatureSpec
from twotower.errors import ConfigError
from twotower.models.two_tower import TwoTower, TwoTowerConfig
from twotower.nn.cosine import unit
from twotower.nn.embedding import Embeddings
from twotower.types import PAD, UNKNOWN, Batch, Ragged, Rep


class DATConfig(TwoTowerConfig):
    augment: bool = Option(True, description="off: a two-tower model, for comparison")
    query_id: str | None = Option(
        None, description="id column of the query's augmented vector; null: the first"
    )
    item_id: str | None = Option(None, description="that of the item's")
    mimic: float = Option(0.5, ge=0, description="weight of each side's mimic loss")
    mimic_unit: bool = Option(True, description="compare vectors at unit length (a cosine always does)")
    category: str | None = Option(
        None, description="item column whose values are aligned; of a bag the first"
    )
    alignment: float = Option(1.0, ge=0, description="weight of the category alignment loss")
    alignment_items: int = Option(
        32, ge=2, description="categories with fewer items in a batch are not aligned (the paper: all are)"
    )


class DAT(TwoTower):
    config: DATConfig

    def __init__(self, spec: FeatureSpec, config: DATConfig) -> None:
        super().__init__(spec, config)
        if config.augment:
            self.query_id = self._id(self.inputs.query_columns, config.query_id, "query")
            self.item_id = self._id(self.inputs.item_columns, config.item_id, "item")
            self.category = self._category(config.category) if config.category else None
            self.augmented = Embeddings([self.query_id, self.item_id], self.dim, sparse=config.sparse)

    @property
    def sizes(self) -> tuple[int, int]:
        query, item = super().sizes
        if not self.config.augment:
            return query, item
        if not self.config.layers:
            raise ConfigError("DAT reads its augmented vectors beside the fields: its towers need layers")
        return query + self.config.layers[-1], item + self.config.layers[-1]

    def _id(self, columns: list[Column], name: str | None, side: str) -> Column:
        ids = [c for c in columns if c.kind == "id"]
        found = [c for c in ids if name in (None, c.name)]
        if not found:
            raise ConfigError(
                f"DAT learns a vector for each {side} and needs an id column there; "
                f"asked for {name or 'any'!r}, found {[c.name for c in ids]}"
            )
        return found[0]

    def _category(self, name: str) -> Column:
        for column in self.inputs.item_columns:
            if column.name == name and column.kind in ("category", "bag"):
                return column
        known = [c.name for c in self.inputs.item_columns if c.kind in ("category", "bag")]
        raise ConfigError(f"category: {name!r} is no category or bag of the item; known: {known}")

    # towers -------------------------------------------------------------------------------------------

    def encode_query(self, query: Batch) -> Rep:
        if not self.config.augment:
            return super().encode_query(query)
        return self._augment(self.inputs.query(query), query, self.query_id, None)

    def encode_places(self, query: Batch, at: Tensor) -> Rep:
        if not self.config.augment:
            return super().encode_places(query, at)
        return self._augment(self.inputs.places(query, at), query, self.query_id, at.nonzero()[:, 0])

    def encode_item(self, item: Batch) -> Rep:
        if not self.config.augment:
            return super().encode_item(item)
        rep = self._augment(self.inputs.item(item), item, self.item_id, None)
        if self.training and self.category is not None:
            values = item[self.category.name]
            rep["category"] = values[..., 0] if self.category.kind == "bag" else values
        return rep

    def _augment(self, fields: Tensor, batch: Batch, column: Column, row: Tensor | None) -> Rep:
        """One side's representation from [fields; a]; training keeps the a beside it, (..., D)."""
        ids = Batch({column.name: batch[column.name]})
        own = self.augmented(ids if row is None else ids.take(row), [column])  # (..., 1, D)
        both = torch.cat([fields.flatten(-2), own.squeeze(-2)], dim=-1).unsqueeze(-2)
        rep = self.query_part(both) if column is self.query_id else self.item_part(both)
        return Rep({**rep, "augmented": own.squeeze(-2)}) if self.training else rep

    # training -----------------------------------------------------------------------------------------

    def penalties(
        self, query: Rep, item: Rep, labels: Tensor, mask: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Mimic losses of the positive pairs (weighted by their labels), and the categories' alignment."""
        if not self.config.augment:
            return {}
        out = {}
        if self.config.mimic:
            row, column = labels.nonzero(as_tuple=True)
            which = (row, column) if item["vector"].dim() == 3 else (column,)
            weight = labels[row, column] / labels.sum().clamp(min=1e-9)
            for name, learner, target in (
                ("query mimic", query["augmented"][row], item["vector"][which]),
                ("item mimic", item["augmented"][which], query["vector"][row]),
            ):
                far = self._comparable(learner) - self._comparable(target[:, : self.dim].detach())
                out[name] = self.config.mimic * (weight * far.square().sum(-1)).sum()
        if self.category is not None and self.config.alignment:
            vectors = item["vector"][..., : self.dim].reshape(-1, self.dim)
            category = item["category"] if mask is None else item["category"].masked_fill(~mask, PAD)
            apart = alignment(vectors, category.reshape(-1), self.config.alignment_items)
            out["alignment"] = self.config.alignment * apart
        return out

    def _comparable(self, vectors: Tensor) -> Tensor:
        alike = self.config.mimic_unit or self.config.similarity == "cosine"
        return unit(vectors) if alike else vectors


def alignment(vectors: Tensor, category: Tensor, at_least: int) -> Tensor:
    """L_c: mean over categories of the squared distance of their covariance from that of the largest one.

    ``vectors`` (N, D), of which only the directions count; ``category`` (N,) vocabulary indices: without a
    known one an item belongs to none. Categories of fewer than ``at_least`` (2 or more) items are skipped; of
    equally large ones the lowest is the largest. Fewer than two are left: zero, with a gradient of zero.
    """
    counts = category.bincount(minlength=UNKNOWN + 1)
    counts[: UNKNOWN + 1] = 0
    usable, lengths = counts[category] >= at_least, counts[counts >= at_least]
    if len(lengths) < 2:
        return vectors[:0].float().sum()
    offsets = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
    order = category[usable].argsort(stable=True)
    with torch.autocast(vectors.device.type, enabled=False):  # small differences of large products
        units = unit(vectors[usable][order].float())
        rows = Ragged(units, offsets).padded()  # (G, M, D), zero behind the last
        inside = torch.arange(rows.shape[1], device=rows.device) < lengths[:, None]
        mean = rows.sum(1, keepdim=True) / lengths[:, None, None]
        centred = (rows - mean) * inside[..., None]
        covariance = centred.transpose(1, 2) @ centred / (lengths - 1)[:, None, None]
        apart: Tensor = (covariance - covariance[lengths.argmax()]).square().sum() / (len(lengths) - 1)
    return apart
