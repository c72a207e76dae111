"""Where every stage put each relevant item: among those it handed on, or how far below its cut.

Shape letters: S stages, Q queries, K candidates of one query, N relevant (query, item) pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from twotower.cascade.cascade import Cascade
from twotower.evaluate.experiment import Experiment, request_of
from twotower.metrics.funnel import Survival
from twotower.metrics.ranking import relevant_ranks
from twotower.types import Candidates, Ragged


@dataclass(frozen=True)
class Places:
    """The rank of every relevant item in the order of every stage. Make one with `find_places`.

    A rank is 1 to the stage's cut where the stage handed the item on, and above the cut where the stage
    would have put it, had it been asked for more. It is 0 where the stage was not given the item, dropped it
    without a rank (a filter), or would have put it further down than it was asked.
    """

    stages: tuple[str, ...]
    cuts: tuple[int, ...]  # k of each stage
    reached: tuple[int, ...]  # the longest list it gave when asked for more; at least k
    relevant: Ragged  # Q rows, N values
    ranks: Tensor  # (S, N) int64

    @property
    def fate(self) -> Survival:
        cuts = torch.tensor(self.cuts)[:, None]
        return Survival(self.stages, self.relevant, (self.ranks > 0) & (self.ranks <= cuts))

    def recall(self, stage: int) -> Tensor:
        """(reached,) float64: recall at every depth 1, 2, ... of the stage's order, mean over queries.

        The value at the cut is the stage's ``R@k``; behind it stands what a deeper cut would let through.
        Queries without a relevant item do not count.
        """
        lengths = self.relevant.lengths.cpu()
        weight = 1 / lengths.clamp(min=1)[self.relevant.row_of_value().cpu()].double()
        at = torch.bincount(self.ranks[stage], weight, minlength=self.reached[stage] + 1)[1:]
        return at.cumsum(0) / max(1, int((lengths > 0).sum()))

    def depths(self, stage: int) -> Tensor:
        """(n,) float64: rank over cut of the n items the stage lost, above 1; infinite where unknown."""
        ranks = self.ranks[stage][self.fate.lost_at == stage].double()
        return (ranks / self.cuts[stage]).masked_fill(ranks == 0, torch.inf)

    def deaths(self, stage: int, edges: Sequence[float]) -> list[int]:
        """How many of the items the stage lost stood at most ``edges[i]`` cuts down; the last: further.

        >>> ranks = torch.tensor([[1, 3, 6, 0]])
        >>> places = Places(("retrieve",), (2,), (8,), Ragged.of([[5, 6, 7, 8]]), ranks)
        >>> places.deaths(0, [1.5, 2, 4])
        [1, 0, 1, 1]
        """
        band = torch.bucketize(self.depths(stage), torch.tensor(edges, dtype=torch.float64))
        return torch.bincount(band, minlength=len(edges) + 1).tolist()


def find_places(
    cascade: Cascade,
    experiment: Experiment,
    *,
    reach: int = 10,
    queries_at_once: int = 256,
    progress: Callable[[str, int, int], None] | None = None,
) -> Places:
    """Ask every stage again, of what it was given, for its order below its cut.

    The first stage is asked for ``reach`` times its depth, the others for all they were given.
    ``experiment`` is the cascade's own, run without a budget: outputs are never asked for again, so items
    that were handed on keep the rank they had. ``progress(stage, done, total)`` is called after each chunk.
    """
    task = experiment.task
    request = cascade.narrowed(request_of(task))
    ranks, reached = [], []
    given: Candidates | None = None
    for stage, result in zip(cascade.stages, experiment.stages, strict=True):
        width = reach * result.k if given is None else given.keys.shape[1]
        kept = relevant_ranks(result.output.keys, task.relevant)
        deeper, longest = [], result.k
        for start in range(0, len(task), queries_at_once):
            stop = min(start + queries_at_once, len(task))
            part = None if given is None else _rows(given, start, stop)
            found = stage.run(request.rows(start, stop), part, max(width, result.k))
            longest = max(longest, int(found.counts.max()))
            deeper.append(relevant_ranks(found.keys, task.relevant.take(torch.arange(start, stop))))
            if progress is not None:
                progress(stage.name, stop, len(task))
        below = torch.cat(deeper)
        below = below.masked_fill(below <= result.k, 0)  # replaced by a rule, not outranked
        ranks.append(torch.where(kept > 0, kept, below))
        reached.append(longest)
        given = result.output
    stages, cuts = zip(*((s.name, s.k) for s in experiment.stages), strict=True)
    return Places(stages, cuts, tuple(reached), task.relevant, torch.stack(ranks))


def _rows(candidates: Candidates, start: int, stop: int) -> Candidates:
    return Candidates(
        candidates.keys[start:stop], candidates.scores[start:stop], candidates.pair.slice(start, stop)
    )
