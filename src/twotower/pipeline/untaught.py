"""Validation queries to judge a cascade by: not those whose lists a ranker of it has learnt from."""

from __future__ import annotations

from typing import Literal

import torch

from twotower.evaluate.task import Task
from twotower.pipeline.order import share_taught
from twotower.pipeline.prepared import Prepared
from twotower.pipeline.served import dealt

ENOUGH = 200
"""Queries below which differences are mostly luck, and it is said."""


def validation_task(
    prepared: Prepared, queries: Literal["fresh", "all"], at_most: int, seed: int
) -> tuple[Task, list[str]]:
    """The validation queries to judge by, and what is to be known of them.

    ``fresh`` leaves out those that a ranker of the cascade learnt lists from: there it finds what it was
    taught. Where more than ``at_most`` are left, so many are drawn.
    """
    recipe, task, notes = prepared.recipe, prepared.task("valid"), list[str]()
    taught = share_taught(recipe)
    if taught and queries == "fresh":
        everyone = len(task)
        _, task = dealt(prepared, task, taught)
        notes.append(f"{everyone - len(task):,} validation queries taught a ranker and are left out")
    elif taught:
        notes.append(f"{taught:.0%} of the queries taught a ranker: depths look better than they are")
    if len(task) > at_most:
        drawn = torch.randperm(len(task), generator=torch.Generator().manual_seed(seed))
        task = task.take(drawn[:at_most].sort().values)
    if len(task) < ENOUGH:
        notes.append(f"only {len(task)} queries: differences are mostly luck")
    return task, notes
