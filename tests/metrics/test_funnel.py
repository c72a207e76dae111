"""Survival of relevant items: against sets, stage by stage."""

import pytest
import torch

from twotower.errors import DataError
from twotower.metrics.funnel import KEPT, NEVER_RETRIEVED, overlap, survival
from twotower.types import Ragged


def cascade(seed, n_queries=20, n_items=40):
    """Three stages that each keep a random part, in random order, and random relevant items."""
    g = torch.Generator().manual_seed(seed)
    stages, keys = [], torch.rand(n_queries, n_items, generator=g).argsort(1)
    for name, k in (("retrieve", 20), ("prerank", 10), ("rank", 4)):
        keys = keys.gather(1, torch.rand(keys.shape, generator=g).argsort(1))[:, :k]
        stages.append((name, keys))
    rows = [
        torch.randperm(n_items, generator=g)[: int(n)].tolist()
        for n in torch.randint(0, 6, (n_queries,), generator=g)
    ]
    return stages, rows


@pytest.mark.parametrize("seed", range(3))
def test_survival_equals_sets(seed):
    stages, rows = cascade(seed)
    fate = survival(stages, Ragged.of(rows))
    lost = []
    for q, row in enumerate(rows):
        reached = set(row)
        for s, (_, keys) in enumerate(stages):
            out = reached & set(keys[q].tolist())
            assert fate.relevant_in[s, q] == len(reached)
            assert fate.relevant_out[s, q] == len(out)
            if row:
                assert fate.share_alive[s, q] == len(out) / len(row)
            else:
                assert fate.share_alive[s, q].isnan()
            assert fate.share_kept[s, q].item() == (
                len(out) / len(reached) if reached else pytest.approx(float("nan"), nan_ok=True)
            )
            reached = out
        for key in row:
            gone = [s for s, (_, keys) in enumerate(stages) if key not in keys[q].tolist()]
            lost.append(gone[0] if gone else KEPT)
    assert fate.lost_at.tolist() == lost
    assert sum(fate.losses().values()) == len(lost)
    assert fate.losses()["never retrieved"] == lost.count(NEVER_RETRIEVED)


def test_losses_are_named_in_the_order_of_the_funnel():
    stages, rows = cascade(0)
    losses = survival(stages, Ragged.of(rows)).losses()
    assert list(losses) == ["never retrieved", "lost by prerank", "lost by rank", "kept"]


def test_one_stage_and_no_relevant_item():
    fate = survival([("retrieve", torch.tensor([[1, -1]]))], Ragged.of([[]]))
    assert fate.losses() == {"never retrieved": 0, "kept": 0}
    assert fate.share_alive.isnan().all()


def test_a_stage_that_invents_items_is_found_out():
    with pytest.raises(DataError, match="'rank' returned 1 relevant items that 'retrieve' did not hand on"):
        survival([("retrieve", torch.tensor([[1]])), ("rank", torch.tensor([[2]]))], Ragged.of([[1, 2]]))


def test_a_stage_that_adds_is_no_inventor_and_the_last_loss_counts():
    stages = [("retrieve", [1, 2, 3]), ("rank", [2, 3]), ("rules", [1, 5, 3]), ("page", [1, 3])]
    tensors = [(name, torch.tensor([keys])) for name, keys in stages]
    fate = survival(tensors, Ragged.of([[1, 2, 3, 4, 5]]), adding=["rules"])
    assert fate.lost_at.tolist() == [KEPT, 2, KEPT, NEVER_RETRIEVED, 3]
    assert fate.losses() == {
        "never retrieved": 1, "lost by rank": 0, "lost by rules": 1, "lost by page": 1, "kept": 2
    }  # fmt: skip
    assert fate.relevant_out[:, 0].tolist() == [3, 2, 3, 2]
    assert fate.share_kept[:, 0].tolist() == [3 / 5, 2 / 3, 1 / 2, 2 / 3]
    with pytest.raises(DataError, match="'rules' returned 2 relevant items"):
        survival(tensors, Ragged.of([[1, 2, 3, 4, 5]]), adding=["rank"])


def test_stages_must_exist_and_differ_in_name():
    with pytest.raises(DataError, match="no stage"):
        survival([], Ragged.of([[1]]))
    with pytest.raises(DataError, match="share a name"):
        survival([("a", torch.tensor([[1]])), ("a", torch.tensor([[1]]))], Ragged.of([[1]]))


def test_overlap_is_a_share_of_the_reference():
    a = torch.tensor([[1, 2, 3, 4], [1, 2, 3, 4], [5, 6, 7, 8], [1, 2, 3, 4], [-1, -1, -1, -1]])
    b = torch.tensor([[2, 1, 9, 3], [9, 8, 7, 6], [8, -1, -1, -1], [-1, -1, -1, -1], [1, 2, 3, 4]])
    assert overlap(a, b, k=2).nan_to_num(-1).tolist() == [1, 0, 0, -1, 0]
    assert overlap(a, b, k=4).nan_to_num(-1).tolist() == [0.75, 0, 1, -1, 0]
    assert overlap(a, b[:, :1], k=4).nan_to_num(-1).tolist() == [1, 0, 1, -1, 0]
