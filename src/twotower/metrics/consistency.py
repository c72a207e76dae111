"""What a pre-ranker keeps of the candidates it is served, and how far it agrees with the ranker it serves.

Lists hold item keys, best first, -1 for an empty slot, of the *same* candidates in two orders: ``keys``
(Q, K), the pre-ranker's, and ``reference`` (Q, K), the ranker's. Values are (Q,) float64, NaN where a query
has nothing to compare; `twotower.metrics.ranking.average` leaves those out.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from twotower.errors import DataError
from twotower.metrics.funnel import overlap, survival
from twotower.metrics.ranking import evaluate
from twotower.metrics.rating import grouped_auc
from twotower.types import NO_ITEM, Candidates, Ragged


def share_kept(keys: Tensor, relevant: Ragged, depth: int) -> Tensor:
    """Of the relevant items that were served, the share among the first ``depth``; NaN where none was.

    >>> share_kept(torch.tensor([[4, 7, 9]]), Ragged.of([[9, 4, 5]]), depth=2).tolist()
    [0.5]
    """
    stages = [("served", keys.cpu()), ("kept", keys[:, :depth].cpu())]
    return survival(stages, relevant).share_kept[1]


def ranking_consistency(keys: Tensor, reference: Tensor, k: int, depth: int) -> Tensor:
    """RCS: the share of the ranker's first k that come through a pre-ranker that keeps ``depth``.

    It is the hit rate of "On ranking consistency of pre-ranking stage" (arXiv 2205.01289): how much of what
    the ranker would have shown it still can. With ``depth`` = k it is `twotower.metrics.funnel.overlap`.

    >>> keys, reference = torch.tensor([[1, 2, 3, 4]]), torch.tensor([[4, 2, 1, 3]])
    >>> [ranking_consistency(keys, reference, k=2, depth=d).item() for d in (2, 3, 4)]
    [0.5, 0.5, 1.0]
    """
    return survival([("kept", keys[:, :depth].cpu())], _first(reference, k)).share_alive[0]


def ndcg_by_reference(keys: Tensor, reference: Tensor, k: int) -> Tensor:
    """nDCG@k of the pre-ranker's order, relevant being the ranker's first k with the gains k, k - 1, ..., 1.

    >>> ndcg_by_reference(torch.tensor([[1, 2, 3]]), torch.tensor([[1, 2, 3]]), k=2).tolist()
    [1.0]
    """
    wanted = _first(reference, k)
    place = torch.arange(len(wanted.values)) - wanted.offsets[wanted.row_of_value()]
    return evaluate(keys.cpu(), wanted, [f"nDCG@{k}"], (k - place).double())[f"nDCG@{k}"]


def auc_of_lists(candidates: Candidates, relevant: Ragged) -> Tensor:
    """AUC within each query's candidates, relevant against the rest, ties counted half; NaN with one class.

    >>> served = Candidates(torch.tensor([[4, 7, 9]]), torch.tensor([[3.0, 2.0, 1.0]]))
    >>> auc_of_lists(served, Ragged.of([[4, 9]])).tolist()
    [0.5]
    """
    keys, mask = candidates.keys.cpu(), candidates.mask.cpu()
    row = torch.arange(len(keys))[:, None].expand_as(keys)[mask]
    stride = int(torch.cat([keys.reshape(-1), relevant.values, keys.new_zeros(1)]).max()) + 2
    wanted = relevant.row_of_value() * stride + relevant.values + 1  # -1 becomes 0, inside its own row
    good = torch.isin(row * stride + keys[mask] + 1, wanted)
    found = grouped_auc(candidates.scores.cpu()[mask], good, row)
    return torch.full((len(keys),), torch.nan, dtype=torch.float64).index_copy(0, found.groups, found.values)


def measure_served(
    candidates: Candidates,
    relevant: Ragged,
    reference: Tensor | None = None,
    *,
    depths: Sequence[int] = (100,),
    k: int = 20,
) -> dict[str, Tensor]:
    """All of this page for one pre-ranker: ``candidates`` are those it was served, in its own order.

    Names: ``kept@100`` for each depth, ``GAUC``, and with the ranker's order as ``reference``
    ``Overlap@20``, ``RCS@20@100`` for each depth, ``nDCG@20 by ranker``.

    Raises
    ------
    DataError
        The two orders are not of the same candidates.
    """
    keys = candidates.keys
    values = {f"kept@{depth}": share_kept(keys, relevant, depth) for depth in depths}
    values["GAUC"] = auc_of_lists(candidates, relevant)
    if reference is None:
        return values
    if keys.shape != reference.shape or not torch.equal(keys.sort(1).values, reference.sort(1).values):
        raise DataError("the two orders hold different candidates", remedy="rank the same served lists twice")
    values[f"Overlap@{k}"] = overlap(keys, reference, k)
    for depth in depths:
        values[f"RCS@{k}@{depth}"] = ranking_consistency(keys, reference, k, depth)
    values[f"nDCG@{k} by ranker"] = ndcg_by_reference(keys, reference, k)
    return values


def _first(reference: Tensor, k: int) -> Ragged:
    wanted = reference[:, :k].cpu()
    real = wanted != NO_ITEM
    return Ragged(wanted[real], torch.cat([torch.zeros(1, dtype=torch.int64), real.sum(1).cumsum(0)]))
