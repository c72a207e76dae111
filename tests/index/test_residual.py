"""Residual codes: what is packed is read back, and more bits are nearer."""

from __future__ import annotations

import pytest
import torch

from twotower.errors import ConfigError
from twotower.index.centroids import default_centroids, kmeans, nearest
from twotower.index.residual import Bits, Buckets, Residuals


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
