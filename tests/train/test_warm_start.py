import pytest
import torch
from torch import nn

from twotower.errors import MismatchError
from twotower.train.warm_start import warm_start


class Tower(nn.Module):
    def __init__(self, rows, extra=False):
        super().__init__()
        self.table, self.out = nn.Embedding(rows, 3), nn.Linear(3, 2)
        if extra:
            self.more = nn.Linear(1, 1, bias=False)


def test_rows_move_with_their_values_and_the_rest_by_name():
    old, new = Tower(5), Tower(6, extra=True)
    before = new.table.weight.detach().clone()
    rows = torch.tensor([0, 1, 4, -1, 2, -1])  # value 3 was dropped, two are new
    done = warm_start(new, {**old.state_dict(), "gone": torch.zeros(1)}, {"table.weight": rows})
    for new_row, old_row in enumerate(rows.tolist()):
        expected = before[new_row] if old_row < 0 else old.table.weight[old_row]
        assert torch.equal(new.table.weight[new_row], expected)
    assert torch.equal(new.out.weight, old.out.weight)
    assert (done.copied, done.grown) == (("out.weight", "out.bias"), {"table.weight": (4, 2)})
    assert (done.fresh, done.left) == (("more.weight",), ("gone",))
    assert "table.weight: 4 rows taken over, 2 new" in str(done)


def test_new_rows_may_start_as_the_unknown_value():
    old, new = Tower(3), Tower(4)
    warm_start(new, old.state_dict(), {"table.weight": torch.tensor([0, 1, 2, -1])}, new_rows="unknown")
    assert torch.equal(new.table.weight[3], old.table.weight[1])


@pytest.mark.parametrize(
    ("maps", "words"),
    [
        ({}, "needs a vocabulary map"),
        ({"table.weight": torch.tensor([0, 1])}, r"shape \(2,\), expected \(4,\)"),
        ({"table.weight": torch.tensor([0, 1, 2, 3])}, "points to rows 0 to 3, expected -1 to 2"),
        ({"table.weight": torch.arange(3).repeat(2)[:4], "tabel": torch.arange(3)}, "has no such tensor"),
        ({"out.weight": torch.arange(2), "out.bias": torch.tensor([0, -2])}, "points to rows -2"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_copied(maps, words):
    old, new = Tower(3), Tower(4)
    before = {name: tensor.clone() for name, tensor in new.state_dict().items()}
    with pytest.raises(MismatchError, match=words):
        warm_start(new, old.state_dict(), maps)
    assert all(torch.equal(tensor, before[name]) for name, tensor in new.state_dict().items())


def test_another_width_is_refused():
    new = nn.Embedding(4, 3)
    with pytest.raises(MismatchError, match=r"rows of \(2,\) in the earlier model, of \(3,\)"):
        warm_start(new, {"weight": torch.zeros(4, 2)}, {"weight": torch.arange(4)})
