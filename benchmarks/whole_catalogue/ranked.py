"""The lists of a system for every query of a task, kept on disk piece by piece."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from benchmarks.whole_catalogue.full import RankAll
from twotower.cascade.cascade import Cascade
from twotower.evaluate.experiment import joined, request_of
from twotower.evaluate.task import Task
from twotower.pipeline.workspace import fingerprint
from twotower.types import NO_ITEM, Batch, Candidates, Ragged


def ranked(
    stage: RankAll, task: Task, k: int, kept: Path, queries_at_once: int = 16, piece: int = 128
) -> Candidates:
    """The stage's first ``k`` of every query; pieces that lie in ``kept`` already are read."""
    request, parts, maker = request_of(task), [], stage.rank.model.digest()
    for start in range(0, len(task), piece):
        mark = fingerprint(maker, k, task.query_keys[start : start + piece].tolist())
        path = kept / f"{mark}.safetensors"
        if not path.exists():
            stop = min(start + piece, len(task))
            starts = range(start, stop, queries_at_once)
            own = joined(
                [stage.run(request.rows(s, min(s + queries_at_once, stop)), None, k) for s in starts]
            )
            path.parent.mkdir(parents=True, exist_ok=True)
            save_file({"keys": own.keys, "scores": own.scores}, path)
        tensors = load_file(path)
        place = torch.arange(tensors["keys"].shape[1]).expand_as(tensors["keys"]).float()
        pair = Batch({f"{stage.name}_score": tensors["scores"], f"{stage.name}_rank": place})
        parts.append(Candidates(tensors["keys"], tensors["scores"], pair))
    return joined(parts)


def answers(cascade: Cascade, task: Task, queries_at_once: int = 256) -> Candidates:
    """What the last stage hands on."""
    request = request_of(task)
    starts = range(0, len(task), queries_at_once)
    return joined([cascade(request.rows(s, min(s + queries_at_once, len(task))))[0] for s in starts])


def as_lists(keys: Tensor) -> Ragged:
    """(Q, K) keys as lists without their empty slots."""
    real = keys != NO_ITEM
    return Ragged(keys[real], torch.cat([torch.zeros(1, dtype=torch.int64), real.sum(1).cumsum(0)]))
