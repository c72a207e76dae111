"""COLD's choice of feature groups (Wang et al., DLP-KDD 2020, section 3.2): quality against measured time.

    1. train with a gate per group, and rank the groups by their mean gate on the validation part
    2. train the best K groups without a gate, for several K
    3. measure each one's GAUC on the validation part and its time per candidate on this machine
    4. choose the best GAUC among those that fit the budget

Differs from the paper: the budget is time per candidate on one thread, not queries per second of a cluster.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import torch

from twotower.data.spec import FeatureSpec
from twotower.errors import ConfigError, StorageError
from twotower.evaluate.candidate_time import time_per_candidate
from twotower.models.base import Model
from twotower.models.cold import COLD
from twotower.pipeline.pipeline import Pipeline
from twotower.pipeline.recipe import ModelRecipe, Recipe
from twotower.pipeline.validation import LabelledEvents
from twotower.pipeline.workspace import fingerprint, write_text

Say = Callable[[str], None]


@dataclass(frozen=True)
class Subset:
    """The best groups, as many as ``groups`` names, trained without a gate and measured."""

    model: str  # its name in the run that trained it
    groups: tuple[str, ...]  # best first
    gauc: float  # weighted by impressions
    us_per_candidate: float
    bytes_per_item: int

    @property
    def config(self) -> dict[str, Any]:
        """What to change in COLD's config to have this subset."""
        return {"gate": False, "keep": list(self.groups)}


@dataclass(frozen=True)
class GroupSearch:
    """What was tried; ``str()`` is the table."""

    gates: dict[str, float]  # mean gate of each group on the validation part, largest first
    subsets: tuple[Subset, ...]  # few groups to many; the last one has all

    def choose(self, *, max_us: float | None = None, max_share: float | None = None) -> Subset:
        """The best GAUC within the budget, on ties the faster; None is no limit.

        ``max_us`` is in microseconds per candidate, ``max_share`` a share of what all groups take.

        Raises
        ------
        ConfigError
            Not even the fastest subset is within the budget.
        """
        limit = min(
            float("inf") if max_us is None else max_us,
            float("inf") if max_share is None else max_share * self.subsets[-1].us_per_candidate,
        )
        affordable = [subset for subset in self.subsets if subset.us_per_candidate <= limit]
        if not affordable:
            fastest = min(subset.us_per_candidate for subset in self.subsets)
            raise ConfigError(
                f"the budget is {limit:.3g} us per candidate, the fastest subset of the groups takes "
                f"{fastest:.3g}; raise the budget or make the layers narrower"
            )
        return max(affordable, key=lambda subset: (subset.gauc, -subset.us_per_candidate))

    def save(self, path: Path) -> None:
        write_text(path, json.dumps(asdict(self), indent=2))

    @classmethod
    def load(cls, path: Path) -> Self:
        try:
            plain = json.loads(path.read_text(encoding="utf-8"))
            subsets = [Subset(**{**s, "groups": tuple(s["groups"])}) for s in plain["subsets"]]
            return cls(plain["gates"], tuple(subsets))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StorageError(f"{path}: no readable search of groups ({error!r}); remove it") from error

    def __str__(self) -> str:
        lines = ["  K    GAUC  us/candidate  bytes/item  joins (mean gate)"]
        before: tuple[str, ...] = ()
        for s in self.subsets:
            joins = ", ".join(f"{g} ({self.gates[g]:.3f})" for g in s.groups if g not in before)
            cost = f"{s.us_per_candidate:12.2f}  {s.bytes_per_item:10,}"
            lines.append(f"{len(s.groups):>3}  {s.gauc:.4f}  {cost}  {joins}")
            before = s.groups
        return "\n".join(lines)


def search_groups(
    recipe: Recipe,
    name: str,
    directory: str | Path,
    *,
    data: str | Path | None = None,
    sizes: Sequence[int] | None = None,
    epochs: int | None = None,
    candidates: int = 1000,
    requests: int = 50,
    say: Say = lambda line: None,
) -> GroupSearch:
    """Train and measure subsets of the feature groups of the model ``name``, a ``cold`` learning pointwise.

    Parameters
    ----------
    directory
        A run of its own: the model with a gate, a model per subset, and ``groups.json``. A call that was
        interrupted goes on where it stopped; a finished search is read and not repeated.
    sizes
        Numbers of groups to try; all groups are always among them. None: each up to 8, then powers of two.
        Best groups that leave the query or the items without a field make no model and are passed over.
    epochs
        Instead of the recipe's own, to search by shorter trainings.
    candidates, requests
        How the time is measured, see `twotower.evaluate.candidate_time`.

    Raises
    ------
    ConfigError
        The model is not a ``cold`` that learns pointwise.
    """
    about = _searched(recipe, name, epochs)

    def run(models: dict[str, dict[str, Any]]) -> Pipeline:
        """The run of the model alone, once per change of its config."""
        made = {
            label: about.model_copy(update={"config": {**about.config, **changes}})
            for label, changes in models.items()
        }
        alone = recipe.model_copy(update={"models": made, "cascade": (), "baselines": ()})
        return Pipeline(alone, directory, data=data, say=say)

    gated = run({"gate": {"gate": True, "keep": None}})
    space, prepared = gated.space, gated.prepare()
    path = space.directory / "groups.json"
    mark = fingerprint(gated.recipe.plain(), space.finished()["prepare"], sizes, candidates, requests)
    if space.done("groups", mark, path):
        return GroupSearch.load(path)
    space.begin("groups", mark)
    valid = LabelledEvents(prepared, prepared.split.valid, prepared.split.history("valid"))
    gates = mean_gates(_cold(gated.train()["gate"]), valid)
    say("mean gates: " + ", ".join(f"{group} {gate:.3f}" for group, gate in gates.items()))
    subsets = _subsets(tuple(gates), sizes, prepared.spec(about.features))
    models = run({f"top-{len(s)}": {"gate": False, "keep": s} for s in subsets}).train()
    times = time_per_candidate(
        models,
        next(valid.batches.epoch(0)).query,
        prepared.items,
        candidates=candidates,
        requests=requests,
    )
    search = GroupSearch(
        gates,
        tuple(
            Subset(label, groups, valid.measure(model)["GAUC"], times[label], model.bytes_per_item)
            for groups, (label, model) in zip(subsets, models.items(), strict=True)
        ),
    )
    search.save(path)
    space.finish("groups", mark)
    return search


@torch.inference_mode()
def mean_gates(model: COLD, valid: LabelledEvents) -> dict[str, float]:
    """Mean gate of each group over labelled events, largest first."""
    total = torch.zeros(len(model.groups), dtype=torch.float64)
    for examples in valid.batches.epoch(0):
        item = model.encode_item(valid.prepared.items.take(examples.items[:, None]))
        total += model.gates(model.encode_query(examples.query), item).double().sum((0, 1))
    means = (total / len(valid.labels)).tolist()
    return dict(sorted(zip(model.groups, means, strict=True), key=lambda pair: -pair[1]))


def _searched(recipe: Recipe, name: str, epochs: int | None) -> ModelRecipe:
    """The model's part of the recipe, checked."""
    about = recipe.models.get(name)
    if about is None or about.model != "cold" or about.objective.kind != "pointwise":
        pointwise = [
            n for n, m in recipe.models.items() if (m.model, m.objective.kind) == ("cold", "pointwise")
        ]
        raise ConfigError(
            f"{name!r} is no model of kind cold that learns pointwise; the recipe has {pointwise or 'none'}"
        )
    if about.config.get("pair"):
        raise ConfigError(f"model {name!r} reads pair fields, which the validation events do not have")
    train = about.train if epochs is None else about.train.model_copy(update={"epochs": epochs})
    return about.model_copy(update={"train": train})


def _subsets(
    ranked: tuple[str, ...], sizes: Sequence[int] | None, spec: FeatureSpec
) -> list[tuple[str, ...]]:
    """The best K groups for each K that is tried and leaves each side a field."""
    M = len(ranked)
    wanted = range(1, M + 1) if sizes is None else sizes
    tried = {K for K in wanted if K < M and (sizes is not None or K <= 8 or K & (K - 1) == 0)} | {M}
    sides = {column.name: column.side == "item" for column in spec.columns}
    best = [ranked[:K] for K in sorted(tried)]
    return [groups for groups in best if len({sides[group] for group in groups if group in sides}) == 2]


def _cold(model: Model) -> COLD:
    assert isinstance(model, COLD)
    return model
