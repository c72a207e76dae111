"""Residual codes: what is packed is read back, and more bits are nearer."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from twotower.errors import ConfigError
from twotower.index.centroids import default_centroids, kmeans, nearest
from twotower.index.residual import Bits, Buckets, Residuals, least_squares


@pytest.mark.parametrize("bits", [1, 2, 4])
@pytest.mark.parametrize("dim", [1, 7, 16])
def test_every_number_comes_back_as_its_stretch(bits: Bits, dim: int) -> None:
    differences = torch.randn(200, dim, generator=torch.Generator().manual_seed(0))
    buckets = Buckets.fit(differences, bits)
    packed = buckets.pack(differences)
    assert packed.shape == (200, -(-dim * bits // 8))
    expected = buckets.values[torch.bucketize(differences, buckets.cuts)]
    assert torch.equal(buckets.unpack(packed, dim), expected)
    assert buckets.bits == bits


def test_more_bits_are_nearer_to_the_vectors() -> None:
    draw = torch.Generator().manual_seed(0)
    vectors = torch.nn.functional.normalize(torch.randn(3000, 32, generator=draw), dim=-1)
    centroids = kmeans(vectors, 64, 4, draw)
    codes = nearest(vectors, centroids).int()
    errors = [float((vectors - centroids[codes.long()]).square().sum(1).mean())]
    for bits in (1, 2, 4):
        buckets = Buckets.fit(vectors - centroids[codes.long()], bits)
        read = Residuals.of(vectors, codes, centroids, buckets).at(torch.arange(3000), codes, centroids)
        errors.append(float((vectors - read).square().sum(1).mean()))
    assert errors[0] > 2 * errors[1] > 4 * errors[2] > 16 * errors[3]


def error(buckets: Buckets, differences: Tensor) -> float:
    read = buckets.unpack(buckets.pack(differences), differences.shape[1])
    return float((read - differences).square().mean())


@pytest.mark.parametrize(("bits", "optimum"), [(1, 1 - 2 / math.pi), (2, 0.1175), (4, 0.0095)])
def test_of_normal_numbers_the_error_is_nearly_the_least_there_is(bits: Bits, optimum: float) -> None:
    """Max, "Quantizing for Minimum Distortion", 1960, table I, for a variance of one."""
    draw = torch.Generator().manual_seed(0)
    buckets = Buckets.fit(torch.randn(12_500, 16, generator=draw), bits)
    assert error(buckets, torch.randn(12_500, 16, generator=draw)) == pytest.approx(optimum, rel=0.03)


def test_dimensions_of_every_variance_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many numbers a row as a stride would leave out: it saw one dimension, all zeros here."""
    monkeypatch.setattr("twotower.index.residual.SAMPLE", 2**14)
    draw = torch.Generator().manual_seed(0)
    spread = torch.tensor([0.0, 1.0] * 16)
    buckets = Buckets.fit(torch.randn(2**12, 32, generator=draw) * spread, 4)
    other = torch.randn(2**10, 32, generator=draw) * spread
    assert error(buckets, other) < 0.03 * float(other.square().mean())
    assert error(buckets, other) == pytest.approx(error(Buckets.fit(other, 4), other), rel=0.3)


def test_the_same_rows_are_drawn_again_and_by_nothing_global(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("twotower.index.residual.SAMPLE", 2**10)
    differences = torch.randn(1000, 8, generator=torch.Generator().manual_seed(0))
    before = torch.get_rng_state()
    first = Buckets.fit(differences, 4)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(3)
    again, other = Buckets.fit(differences, 4), Buckets.fit(differences, 4, torch.Generator().manual_seed(1))
    assert torch.equal(first.values, again.values)
    assert torch.equal(first.cuts, again.cuts)
    assert not torch.equal(first.values, other.values)


def test_a_value_without_a_number_stays_and_values_rise() -> None:
    numbers, values = torch.tensor([-1.0, 0.0, 0.0, 0.0, 3.0]), torch.tensor([-1.0, 0.0, 0.0, 8.0])
    assert least_squares(numbers, values).tolist() == [-1.0, 0.0, 3.0, 8.0]
    constant = Buckets.fit(torch.full((50, 3), 0.25), 4)
    assert constant.values.tolist() == [0.25] * 16
    assert error(constant, torch.full((2, 3), 0.25)) == 0


def test_no_vectors_and_odd_bits() -> None:
    none = torch.empty(0, 5)
    buckets = Buckets.fit(none, 2)
    assert buckets.unpack(buckets.pack(none), 5).shape == (0, 5)
    with pytest.raises(ConfigError, match="1, 2 or 4 bits per dimension, found 3"):
        Buckets.fit(none, 3)
    assert kmeans(none, 0, 3, torch.Generator()).shape == (0, 5)
    assert nearest(none, torch.empty(0, 5)).shape == (0,)


def test_nearest_is_that_of_smallest_distance_in_every_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = torch.Generator().manual_seed(1)
    vectors, centroids = torch.randn(50, 3, generator=draw), torch.randn(7, 3, generator=draw)
    expected = torch.cdist(vectors, centroids).argmin(1)
    assert torch.equal(nearest(vectors, centroids), expected)
    monkeypatch.setattr("twotower.index.centroids.CHUNK_FLOATS", 20)
    assert torch.equal(nearest(vectors, centroids), expected)


def test_no_centroid_stays_empty_where_vectors_differ() -> None:
    draw = torch.Generator().manual_seed(2)
    vectors = torch.randn(400, 4, generator=draw)
    centroids = kmeans(vectors, 10, 8, draw)
    assert (torch.bincount(nearest(vectors, centroids), minlength=10) > 0).all()
    assert [default_centroids(n) for n in (1, 4, 1000)] == [1, 1, 64]
