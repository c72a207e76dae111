import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from twotower.data.sharding import Share, random_order
from twotower.errors import ConfigError


@given(rows=st.integers(1, 200), batch_size=st.integers(1, 20), world=st.integers(1, 7))
def test_ranks_share_all_rows_once_in_equal_steps(rows, batch_size, world):
    if rows < world:
        with pytest.raises(ConfigError, match="use fewer ranks"):
            Share(rows, batch_size, 0, world)
        return
    shares = [Share(rows, batch_size, rank, world) for rank in range(world)]
    batches = [share.batches() for share in shares]
    assert len({len(own) for own in batches}) == 1
    visited = [row for own in batches for first, last in own for row in range(first, last)]
    assert sorted(visited) == list(range(rows))
    sizes = [last - first for own in batches for first, last in own]
    assert min(sizes) > 0
    assert max(sizes) <= batch_size + (world > 1)


@given(rows=st.integers(1, 200), batch_size=st.integers(1, 20), world=st.integers(1, 7))
def test_drop_last_makes_full_batches_only(rows, batch_size, world):
    if rows // world < batch_size:
        with pytest.raises(ConfigError, match="drop_last=False"):
            Share(rows, batch_size, 0, world, drop_last=True)
        return
    for rank in range(world):
        share = Share(rows, batch_size, rank, world, drop_last=True)
        assert {last - first for first, last in share.batches()} == {batch_size}
        assert share.batches()[-1][1] <= share.stop


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rows": 3, "batch_size": 0}, "batch_size"),
        ({"rows": 3, "batch_size": 1, "rank": 2, "world": 2}, "rank"),
        ({"rows": 0, "batch_size": 1}, "0 rows make no batch"),
    ],
)
def test_impossible_shares_are_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        Share(**arguments)


def test_orders_depend_on_the_whole_path_and_on_nothing_else():
    torch.manual_seed(1)
    orders = [random_order(50, *path).tolist() for path in [(0, 0), (0, 1), (1, 0), (0, 0, 0), (0, 0)]]
    assert orders[0] == orders[4]
    assert len({tuple(order) for order in orders}) == 4
    assert all(sorted(order) == list(range(50)) for order in orders)
