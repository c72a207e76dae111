"""Hashed crosses: stable rows, few collisions, and the sum that a plain loop finds."""

import pytest
import torch

from twotower.data.spec import Column
from twotower.nn.hashed import HashedCrosses, mix64
from twotower.types import Batch

USER = Column(name="user", kind="id", side="query", size=50)
LIKES = Column(name="likes", kind="bag", side="query", size=9, width=2)
MOVIE = Column(name="movie", kind="id", side="item", size=60)
GENRES = Column(name="genres", kind="bag", side="item", size=8, width=3)


def reference(x: int) -> int:
    """splitmix64's finaliser on Python's integers."""
    whole = 2**64 - 1
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & whole
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & whole
    return x ^ (x >> 31)


def test_mixing_is_splitmix64():
    values = [0, 1, 2, 12345, 2**62, 2**64 - 1, 2**63, 987654321987654321]
    signed = torch.tensor([v - 2**64 if v >= 2**63 else v for v in values])
    assert [v % 2**64 for v in mix64(signed).tolist()] == [reference(v) for v in values]


def test_rows_follow_the_documented_formula_for_good():
    crosses = HashedCrosses([(USER, MOVIE), (USER, GENRES)], buckets=1000)
    expected = [((reference(reference(3 + seed) ^ 7) >> 32) * 1000 >> 32) + 1 for seed in crosses.seeds]
    found = [int(crosses.rows(torch.tensor(3), torch.tensor(7), cross)) for cross in (0, 1)]
    assert found == expected == [22, 894], "trained weights lie in these rows"


def test_a_row_depends_on_no_vocabulary_and_on_no_other_cross():
    alone = HashedCrosses([(USER, GENRES)], buckets=512)
    grown = USER.model_copy(update={"size": 5000})
    among = HashedCrosses([(grown, MOVIE), (grown, GENRES)], buckets=512)
    x, y = torch.arange(2, 50)[:, None], torch.arange(2, 8)
    assert torch.equal(alone.rows(x, y, 0), among.rows(x, y, 1))


@pytest.mark.parametrize("buckets", [1 << 14, 10_007, 3])
def test_collisions_are_as_rare_as_chance(buckets):
    """n pairs in m rows leave m (1 - 1/m)^n rows empty, give or take chance."""
    crosses = HashedCrosses([(USER, MOVIE)], buckets)
    n = 100 * 120
    rows = crosses.rows(torch.arange(100)[:, None], torch.arange(120), 0)
    assert rows.min() >= 1
    assert rows.max() <= buckets
    used = len(rows.unique())
    expected = buckets * (1 - (1 - 1 / buckets) ** n)
    assert abs(used - expected) <= 5 * expected**0.5 * (1 - 1 / buckets) ** (n / 2) + 1e-6
    per_row = torch.bincount(rows.flatten(), minlength=buckets + 1)[1:].double()
    chi2 = float(((per_row - n / buckets) ** 2).sum() / (n / buckets))
    assert abs(chi2 - buckets) < 6 * (2 * buckets) ** 0.5, "the load of the rows is uneven"


def test_the_sum_is_that_of_a_plain_loop():
    torch.manual_seed(0)
    crosses = HashedCrosses([(USER, MOVIE), (USER, GENRES), (LIKES, GENRES)], buckets=40, dim=2)
    torch.nn.init.normal_(crosses.table.weight)
    query = Batch(user=torch.tensor([4, 9]), likes=torch.tensor([[3, 0], [0, 0]]))
    item = Batch(
        movie=torch.tensor([2, 30, 7]), genres=torch.tensor([[2, 3, 0], [0, 0, 0], [5, 5, 6]])
    )  # the second film has no genre
    expected = torch.zeros(2, 3, 2)
    for q in range(2):
        for i in range(3):
            for number, (left, right) in enumerate(crosses.crosses):
                pairs = [
                    (x, y)
                    for x in query[left][q].reshape(-1).tolist()
                    for y in item[right][i].reshape(-1).tolist()
                    if x and y
                ]
                for x, y in pairs:
                    row = crosses.rows(torch.tensor(x), torch.tensor(y), number)
                    expected[q, i] += crosses.table.weight[row].detach() / len(pairs)
    torch.testing.assert_close(crosses(query, item, own=False), expected)
    own = item.take(torch.arange(3).expand(2, 3))
    torch.testing.assert_close(crosses(query, own, own=True), expected)


@pytest.mark.parametrize("sparse", [True, False])
def test_padding_gets_no_gradient(sparse):
    crosses = HashedCrosses([(USER, GENRES)], buckets=1 << 20, sparse=sparse)
    query, item = Batch(user=torch.tensor([4])), Batch(genres=torch.tensor([[2, 0, 0], [0, 0, 0]]))
    crosses(query, item, own=False).sum().backward()
    gradient = crosses.table.weight.grad
    touched = gradient.coalesce().indices()[0] if sparse else gradient.nonzero()[:, 0]
    assert touched.tolist() == [int(crosses.rows(torch.tensor(4), torch.tensor(2), 0))]


def test_no_candidates_give_no_sums():
    crosses = HashedCrosses([(USER, GENRES)], buckets=8)
    none = Batch(genres=torch.zeros(2, 0, 3, dtype=torch.int64))
    assert crosses(Batch(user=torch.tensor([4, 5])), none, own=True).shape == (2, 0, 1)
