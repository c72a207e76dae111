"""Likeness is a matrix that is asked row by row: between 0 and 1, symmetric, positive semi-definite."""

import pytest
import torch

from twotower.cascade.likeness import by_angle, by_values
from twotower.errors import DataError

Q, K = 3, 7
DRAW = torch.Generator().manual_seed(0)
VECTORS = torch.randn(Q, K, 4, generator=DRAW)
BAGS = torch.randint(0, 6, (Q, K, 3), generator=DRAW)  # some values twice, some padding, some unknown


def matrix(likeness, width=K, queries=Q):
    rows = [likeness(torch.full((queries,), column)) for column in range(width)]
    return torch.stack(rows, dim=1)


@pytest.mark.parametrize("likeness", [by_angle(VECTORS), by_values(BAGS), by_values(BAGS[..., 0])])
def test_lies_between_0_and_1_and_is_symmetric_and_semi_definite(likeness):
    found = matrix(likeness)
    assert found.dtype == torch.float64
    assert found.min() >= 0
    assert found.max() <= 1 + 1e-12
    torch.testing.assert_close(found, found.mT)
    assert torch.linalg.eigvalsh(found).min() > -1e-12


def test_each_query_names_a_column_of_its_own():
    found = by_angle(VECTORS)(torch.tensor([4, 0, 2]))
    full = matrix(by_angle(VECTORS))
    assert torch.equal(found, torch.stack([full[0, 4], full[1, 0], full[2, 2]]))


def test_values_are_the_cosine_of_count_vectors():
    counts = torch.nn.functional.one_hot(BAGS, 6).sum(2)[..., 2:].double()  # padding, unknown: no values
    unit = torch.nn.functional.normalize(counts, dim=-1)
    torch.testing.assert_close(matrix(by_values(BAGS)), unit @ unit.mT)


def test_a_single_value_is_the_same_or_not():
    found = matrix(by_values(torch.tensor([[5, 1, 5, 6, 1]])), width=5, queries=1)[0]
    assert found.tolist() == [[1, 0, 1, 0, 0], [0] * 5, [1, 0, 1, 0, 0], [0, 0, 0, 1, 0], [0] * 5]


def test_length_of_a_vector_does_not_matter_and_zeros_are_half_like_everything():
    vectors = torch.tensor([[[1.0, 1.0], [1e-20, 1e-20], [0.0, 0.0], [-1e20, -1e20]]])
    found = by_angle(vectors)(torch.tensor([0]))
    torch.testing.assert_close(found, torch.tensor([[1.0, 1.0, 0.5, 0.0]]).double())


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_vector_that_is_not_finite_is_refused(bad):
    vectors = VECTORS.clone()
    vectors[1, 2, 0] = bad
    with pytest.raises(DataError, match="NaN or infinity"):
        by_angle(vectors)
