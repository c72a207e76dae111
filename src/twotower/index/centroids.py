"""Centroids of token vectors: Lloyd's k-means on a sample, and the nearest centroid of every token.

Own and not FAISS's: the index then needs no extra, and the work is one matrix product either way.

Letters: N tokens, K centroids, D vector length.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

TOKENS_PER_CENTROID = 32  # of the sample that the centroids are fitted on
CHUNK_FLOATS = 2**21
"""Inner products held at once: they stay in the processor's cache until the largest is found."""


def default_centroids(tokens: int) -> int:
    """A power of two near 2.5 times the root of N, and never more than a token in four has its own.

    PLAID (Santhanam et al., CIKM 2022) takes 16 times the root; on a CPU finding the nearest of so many for
    all tokens would be most of building.

    >>> default_centroids(10_000_000), default_centroids(300), default_centroids(0)
    (8192, 32, 0)
    """
    if tokens == 0:
        return 0
    return int(max(1, min(2 ** round(math.log2(2.5 * math.sqrt(tokens))), 2 ** int(math.log2(tokens)) // 4)))


def kmeans(vectors: Tensor, count: int, iterations: int, generator: torch.Generator) -> Tensor:
    """(N, D) float32 -> at most ``count`` centroids (K, D), fitted on a sample; empty ones start again.

    >>> points = torch.tensor([[0.0], [1.0], [10.0], [11.0]])
    >>> kmeans(points, 2, 5, torch.Generator().manual_seed(0)).sort(0).values.tolist()
    [[0.5], [10.5]]
    """
    size = min(len(vectors), TOKENS_PER_CENTROID * count)
    some = vectors[torch.randperm(len(vectors), generator=generator)[:size].sort().values].float()
    count = min(count, size)
    centroids = some[torch.randperm(size, generator=generator)[:count]]
    for _ in range(iterations if count else 0):
        own = nearest(some, centroids)
        counts = torch.bincount(own, minlength=count)
        sums = torch.zeros_like(centroids).index_add_(0, own, some)
        empty = counts == 0
        centroids = sums / counts.clamp(min=1)[:, None]
        centroids[empty] = some[torch.randint(size, (int(empty.sum()),), generator=generator)]
    return centroids


def nearest(vectors: Tensor, centroids: Tensor) -> Tensor:
    """The centroid of smallest Euclidean distance of each vector, (N,) int64."""
    if not len(vectors):
        return torch.empty(0, dtype=torch.int64)
    half = centroids.square().sum(1) / 2
    step = max(1, CHUNK_FLOATS // max(1, len(centroids)))
    out = np.empty(len(vectors), dtype=np.int64)
    for start in range(0, len(vectors), step):
        close = torch.addmm(half, vectors[start : start + step].float(), centroids.T, beta=-1)
        close.numpy().argmax(1, out=out[start : start + step])  # far faster than torch's
    return torch.from_numpy(out)
