"""Search over items of many vectors each, by MaxSim: centroids first, vectors only of what is left.

PLAID's way (Santhanam et al., CIKM 2022) over ColBERTv2's codes (NAACL 2022), in four stages:

1. The centroids nearest to each query token are *probed*; a list tells which items have a token there.
2. Every item's MaxSim is bounded by its centroids alone, walking those lists. Where an item has no token near
   a query token, the best centroid that was not probed stands in (as in WARP, Scheerer et al., SIGIR 2025).
3. The best of these are scored with the vectors of those tokens whose centroids were probed, the others
   pruned: seldom one in five is left.
4. The best of these are scored by all their tokens.

Why own, and not fast-plaid: that engine keeps its own files and its own model of changes, while what this
house promises of an index (keys, ties, exclusions, checksums, the delta) is a few lines over torch.

Letters: Q queries of L tokens, C items, N tokens of all of them, K centroids, D vector length.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, Self

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from twotower.config import Config
from twotower.errors import DataError, StorageError
from twotower.index.centroids import default_centroids, kmeans, nearest
from twotower.index.manifest import open_artefact, publish, write_tensor
from twotower.index.residual import Buckets, Residuals
from twotower.index.token_set import TokenSet, checked, checked_query
from twotower.scores.catalogue import top_k_of
from twotower.scores.maxsim import maxsim_packed
from twotower.types import NO_ITEM, Candidates, Ragged

KIND = "multi-vector index"
FEWEST = 25
"""A search for fewer items looks at as many as one for so many."""
ITEMS_AT_ONCE = 2048
"""Items whose vectors are held at once while they are scored."""
SAMPLE = 2**16
"""Tokens from which the residuals' buckets are fitted."""


class MultiVectorConfig(Config):
    """What is kept of a token, and what a search may spend."""

    kind: Literal["multivector"] = "multivector"
    centroids: int | None = Field(None, ge=1, description="null: by the number of tokens")
    iterations: int = Field(4, ge=1, description="of k-means")
    bits: Literal[1, 2, 4] | None = Field(None, description="per dimension; null keeps the vectors")
    storage: Literal["float32", "bfloat16", "float16"] = Field("float16", description="of kept vectors")
    probes: int = Field(32, ge=1, description="centroids probed for each query token")
    candidates: int = Field(20, ge=2, description="items scored by their probed tokens, for each one wanted")
    rescored: int = Field(3, ge=2, description="items scored by all their tokens, for each one wanted")


@dataclass(frozen=True)
class Effort:
    """What a search may spend: see `MultiVectorConfig`."""

    probes: int = 32
    candidates: int = 20
    rescored: int = 3


class MultiVectorIndex:
    """Finds items by MaxSim over their tokens; scores are those of the vectors as they are kept.

    A query is (L, D), padded with zero vectors, which add nothing; an item without tokens is never found. A
    search asked for all items, or nearly all, scores them exactly.

    >>> tokens = Ragged(torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]), torch.tensor([0, 2, 2, 3]))
    >>> index = MultiVectorIndex.build(tokens)
    >>> index.search(torch.tensor([[[2.0, 0.0], [0.0, 3.0]]]), k=3)
    Candidates(keys=tensor([[ 0,  2, -1]]), scores=tensor([[5., 5., -inf]]), pair={})
    """

    exact = False

    def __init__(
        self,
        vectors: TokenSet,
        produced_by: str = "",
        *,
        effort: Effort | None = None,
        fitted: int | None = None,
        lists: Ragged | None = None,
    ) -> None:
        self.vectors = vectors
        self.produced_by = produced_by
        self.effort = effort or Effort()
        # tokens there were when the centroids were fitted
        self.fitted = vectors.n_tokens if fitted is None else fitted
        # of each centroid the positions of the items that have a token there, int32
        self.lists = _lists(vectors) if lists is None else lists

    @classmethod
    def build(
        cls,
        tokens: Ragged | Tensor,
        keys: Tensor | None = None,
        produced_by: str = "",
        *,
        config: MultiVectorConfig | None = None,
        generator: torch.Generator | None = None,
    ) -> Self:
        """An index of C items with ``tokens`` (N, D), or of one token each, (C, D), and ``keys`` (C,), by
        default 0 .. C-1. ``generator`` draws what the centroids are fitted on; the same draws by default.

        Raises
        ------
        ConfigError
            Shapes do not fit together, or keys are negative or occur twice.
        DataError
            A vector holds NaN or infinity, or a number too large for what it is stored as.
        """
        config = config or MultiVectorConfig()
        generator = generator or torch.Generator().manual_seed(0)
        rows, keys = checked(tokens, keys)
        count = min(config.centroids or default_centroids(len(rows.values)), len(rows.values))
        centroids = kmeans(rows.values, count, config.iterations, generator)
        codes = nearest(rows.values, centroids).int()
        if config.bits is None:
            kept: Tensor | Residuals = _narrowed(rows.values, getattr(torch, config.storage)).contiguous()
        else:
            some = torch.randperm(len(codes), generator=generator)[:SAMPLE]
            differences = rows.values[some].float() - centroids[codes[some].long()]
            kept = Residuals.of(rows.values, codes, centroids, Buckets.fit(differences, config.bits))
        vectors = TokenSet(keys.contiguous(), rows.offsets.contiguous(), codes, centroids, kept)
        effort = Effort(config.probes, config.candidates, config.rescored)
        return cls(vectors, produced_by, effort=effort)

    def changed(self, gone: Tensor, fresh: Ragged, keys: Tensor) -> Self:
        """An index without the items of keys ``gone``, and with ``fresh`` ones, in time by their number.

        What stays is not encoded again, and the centroids stay, unless the tokens are more than twice those
        they were fitted on: then all is built afresh, from what is kept.
        """
        stay = torch.ones(len(self), dtype=torch.bool)
        stay[self.vectors.positions(gone)] = False
        positions = stay.nonzero()[:, 0]
        old = self.vectors
        n_tokens = int(old.offsets.diff()[positions].sum()) + len(fresh.values)
        if n_tokens > 2 * self.fitted:
            rest = old.take(positions)
            lengths = torch.cat([rest.lengths, fresh.lengths])
            offsets = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
            all_tokens = Ragged(torch.cat([rest.values, fresh.values.float()]), offsets)
            return type(self).build(
                all_tokens, torch.cat([old.keys[positions], keys]), self.produced_by, config=self.config
            )
        codes = nearest(fresh.values, old.centroids).int() if len(fresh.values) else old.codes[:0]
        if isinstance(old.kept, Residuals):
            kept: Tensor | Residuals = Residuals.of(fresh.values, codes, old.centroids, old.kept.buckets)
        else:
            kept = _narrowed(fresh.values, old.kept.dtype)
        vectors = old.merged(positions, TokenSet(keys, fresh.offsets, codes, old.centroids, kept))
        return type(self)(vectors, self.produced_by, effort=self.effort, fitted=self.fitted)

    @property
    def config(self) -> MultiVectorConfig:
        """How to build another index as this one was; the number of centroids follows the tokens."""
        kept = self.vectors.kept
        how = {"bits": kept.buckets.bits} if isinstance(kept, Residuals) else {"storage": self.vectors.dtype}
        return MultiVectorConfig.parse({**how, **asdict(self.effort)})

    def __len__(self) -> int:
        return len(self.vectors)

    @property
    def dim(self) -> int:
        return self.vectors.dim

    @property
    def bytes_per_item(self) -> float:
        """Mean over the items: vectors or codes, and lists."""
        size = self.vectors.n_bytes + sum(
            t.numel() * t.element_size() for t in (self.lists.values, self.lists.offsets)
        )
        return size / max(1, len(self))

    # -- searching -------------------------------------------------------------------------------------

    def search(
        self, query: Tensor, k: int, exclude: Ragged | None = None, *, effort: Effort | None = None
    ) -> Candidates:
        """The k best items of each query (Q, L, D), as `twotower.index.base.Index.search`; (Q, D) is queries
        of one token. ``effort`` for this call."""
        query = self.checked_query(query, k)
        excluded = self.vectors.excluded(exclude, len(query))
        keys = torch.full((len(query), k), NO_ITEM)
        scores = torch.full((len(query), k), -torch.inf)
        for row, tokens in enumerate(query):
            banned = None if excluded is None else excluded.take(torch.tensor([row]))
            found = self._search(tokens, k, banned, effort or self.effort)
            width = found.keys.shape[1]
            keys[row, :width] = self.vectors.keys_at(found.keys[0])
            scores[row, :width] = found.scores[0]
        return Candidates(keys, scores)

    def checked_query(self, query: Tensor, k: int) -> Tensor:
        """The query as (Q, L, D) float32 on the CPU; see `twotower.index.token_set.checked_query`."""
        return checked_query(query, k, self.dim)

    def _search(self, query: Tensor, k: int, banned: Ragged | None, effort: Effort) -> Candidates:
        """Positions and scores (1, n <= k) of one query (L, D)."""
        query = query[query.any(1)]
        wanted = max(k, FEWEST)
        n = effort.rescored * wanted
        if (
            n >= len(self) or not len(query) or not len(self.vectors.centroids)
        ):  # none where no item has a token
            positions = self._with_tokens
        else:
            scores, floor, probed = self._by_centroids(query, effort.probes)
            positions = _best(scores, max(n, effort.candidates * wanted), banned)
            if len(positions) > n:
                near = self._by_probed_tokens(query, positions, floor, probed)
                positions = positions[_best(near, n)].sort().values
        return self._by_all_tokens(query, positions, k, banned)

    def _by_centroids(self, query: Tensor, probes: int) -> tuple[Tensor, Tensor, Tensor]:
        """Approximate scores of all items (C,); what a query token finds in any of them (L,); which
        centroids some query token probed (K,) bool."""
        probes = min(probes, len(self.vectors.centroids))
        near = (query @ self.vectors.centroids.T).topk(min(probes + 1, len(self.vectors.centroids)), dim=1)
        floor = near.values[:, -1]
        gain, probed = (near.values - floor[:, None])[:, :probes].tolist(), near.indices[:, :probes]
        items, ends = self.lists.values.numpy(), self.lists.offsets.tolist()
        total, best = np.zeros(len(self), dtype=np.float32), np.empty(len(self), dtype=np.float32)
        for gains, centroids in zip(gain, probed.tolist(), strict=True):
            best.fill(0)
            for worth, centroid in zip(reversed(gains), reversed(centroids), strict=True):
                best[items[ends[centroid] : ends[centroid + 1]]] = worth  # the best one is written last
            total += best
        scores = torch.from_numpy(total).add_(floor.sum())
        scores[self._empty] = -torch.inf
        chosen = torch.zeros(len(self.vectors.centroids), dtype=torch.bool)
        chosen[probed.flatten()] = True
        return scores, floor, chosen

    def _by_probed_tokens(self, query: Tensor, positions: Tensor, floor: Tensor, probed: Tensor) -> Tensor:
        """Scores (n,) from the vectors of those tokens alone whose centroids were probed."""
        scores = []
        for some in torch.split(positions, ITEMS_AT_ONCE):
            places = self.vectors.places(some)
            kept = probed[self.vectors.codes.index_select(0, places.values).long()]
            before = torch.cat([kept.new_zeros(1, dtype=torch.int64), kept.cumsum(0)])
            tokens = Ragged(self.vectors.at(places.values[kept]), before[places.offsets])
            scores.append(maxsim_packed(query[None], tokens, floor=floor[None])[0])
        return torch.cat(scores)

    def _by_all_tokens(self, query: Tensor, positions: Tensor, k: int, banned: Ragged | None) -> Candidates:
        if not len(query):
            scores = [torch.zeros(len(positions))]
        else:
            parts = torch.split(positions, ITEMS_AT_ONCE)
            scores = [maxsim_packed(query[None], self.vectors.take(some))[0] for some in parts]
        found = Candidates(positions[None], torch.cat(scores)[None])
        if banned is not None:
            there = ~torch.isin(positions, banned.values)
            found = Candidates(found.keys[:, there], found.scores[:, there])
        return found.sorted().best(k)

    @cached_property
    def _empty(self) -> Tensor:
        """Positions of items without a token."""
        return (self.vectors.offsets.diff() == 0).nonzero()[:, 0]

    @cached_property
    def _with_tokens(self) -> Tensor:
        return self.vectors.offsets.diff().nonzero()[:, 0]

    # -- on disk ---------------------------------------------------------------------------------------

    def save(self, directory: str | Path) -> None:
        about = {
            **self.vectors.about,
            "fitted": self.fitted,
            "entries": len(self.lists.values),
            **asdict(self.effort),
        }
        with publish(directory, kind=KIND, produced_by=self.produced_by, about=about) as draft:
            self.vectors.write(draft)
            write_tensor(draft / "lists.bin", self.lists.values)
            write_tensor(draft / "list_offsets.bin", self.lists.offsets)

    @classmethod
    def load(cls, directory: str | Path, expect: str | None = None, *, verify: bool = True) -> Self:
        """Map a saved index into memory; checked as `twotower.index.manifest.open_artefact` says."""
        artefact = open_artefact(directory, KIND, expect, verify)
        vectors = TokenSet.read(artefact)
        try:
            effort = Effort(*(int(artefact.about[name]) for name in asdict(Effort())))
            fitted, entries = int(artefact.about["fitted"]), int(artefact.about["entries"])
        except (KeyError, TypeError, ValueError) as error:
            raise StorageError(f"{directory}: the manifest lacks its sizes: {error!r}") from None
        lists = Ragged(
            artefact.tensor("lists.bin", (entries,), "int32"),
            artefact.tensor("list_offsets.bin", (len(vectors.centroids) + 1,), "int64"),
        )
        return cls(vectors, artefact.produced_by, effort=effort, fitted=fitted, lists=lists)

    def __repr__(self) -> str:
        return (
            f"MultiVectorIndex({len(self):,} items of {self.vectors.n_tokens:,} tokens with {self.dim} x "
            f"{self.vectors.dtype}, {len(self.vectors.centroids):,} centroids, {self.effort})"
        )


def _narrowed(values: Tensor, dtype: torch.dtype) -> Tensor:
    kept = values.to(dtype)
    if not kept.isfinite().all():
        largest = float(values.abs().max())
        raise DataError(f"a token vector holds {largest:g}, too much for {dtype}", remedy="store bfloat16")
    return kept


def _lists(vectors: TokenSet) -> Ragged:
    """Of each centroid the positions of the items that have a token there, rising and each once."""
    K, C = len(vectors.centroids), max(1, len(vectors))
    owner = torch.repeat_interleave(torch.arange(len(vectors)), vectors.offsets.diff())
    cell = torch.unique(vectors.codes.long() * C + owner)
    counts = torch.bincount(cell // C, minlength=K)
    return Ragged((cell % C).int(), torch.cat([counts.new_zeros(1), counts.cumsum(0)]))


def _best(scores: Tensor, n: int, banned: Ragged | None = None) -> Tensor:
    """Positions of the n best scores (C,), rising; ties to the lower position."""
    found = top_k_of(lambda start, stop: scores[None, start:stop], 1, len(scores), n, exclude=banned)
    return found.keys[found.mask].sort().values
