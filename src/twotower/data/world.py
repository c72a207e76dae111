"""The truth behind the synthetic data: who likes what, and when.

Shape letters: Q queries, N items, D latent dimensions, T tags.

The same seed must give the same bytes on every machine. So all draws are made from uniform doubles (the top
bits of PCG64, whose stream NumPy promises to keep), and every quantity in a score lies on a grid of 2**-10:
products and sums of such numbers are exact in float64, and no order of summation can turn a comparison.
"""

from __future__ import annotations

import numpy as np

START_S = 1_704_067_200  # 2024-01-01 00:00 UTC
SPAN_S = 90 * 86_400
AGES, COUNTRIES, CATEGORIES, BRANDS, TAGS = 6, 12, 24, 32, 40
DEVICES, POSITIONS = 3, 64
DIM = 8
COMPLEMENTS = 3

_BASE, _PRICE, _QUALITY = -1.875, 1.75, 0.25
_NEXT_CATEGORY, _COMPLEMENT = 1.0, 2.0


def stream(seed: int, *path: int) -> np.random.Generator:
    """A generator of its own for each part of the world, so that sizes of one never disturb another."""
    return np.random.Generator(np.random.PCG64([seed, *path]))


def normal(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Nearly normal draws, bit-equal on every machine: twelve uniforms, which have variance one, less six."""
    total = rng.random(shape)
    for _ in range(11):
        total += rng.random(shape)
    return total - 6.0


def on_grid(values: np.ndarray) -> np.ndarray:
    """The nearest multiples of 2**-10."""
    return np.rint(values * 1024.0) / 1024.0


def _skewed(rng: np.random.Generator, sizes: int, n: int) -> np.ndarray:
    """(n,) codes below ``sizes``; low codes are common (a power law made of exact operations)."""
    u = rng.random(n)
    return (u * np.sqrt(u) * sizes).astype(np.int64)


def _since_start(rng: np.random.Generator, n: int, first_share: float) -> np.ndarray:
    """(n,) seconds of arrival: ``first_share`` are there from the start, the rest come one after another."""
    late = (rng.random(n) - first_share) / (1.0 - first_share)
    return START_S + (np.maximum(late, 0.0) * (0.97 * SPAN_S)).astype(np.int64)


class World:
    """Queries and items with all that decides a click; nothing here is ever written into a data set.

    The logit of a click, for a query that looks at the item, is the sum of

    - the item's popularity (Zipf) and its own trend in time,
    - taste: the inner product of two latent vectors, of which the features tell a part,
    - age group x category, moving from one random table to another through time,
    - country x brand, a random table,
    - price: minus the *distance* of the item's log price from the query's budget,
    - quality,
    - the last click: the category that follows it is wanted, and in it the `COMPLEMENTS` of the item most.

    Only the first two fit a dot product of small rank. Keys are the row numbers of the data set's tables.

    >>> world = World(n_queries=20, n_items=50, seed=0)
    >>> world.probability(np.array([[0], [1]]), np.arange(50), START_S).shape
    (2, 50)
    """

    def __init__(self, n_queries: int, n_items: int, seed: int = 0) -> None:
        self.n_queries, self.n_items, self.seed = n_queries, n_items, seed
        self._make_tables(stream(seed, 0))
        self._make_items(stream(seed, 1))
        self._make_queries(stream(seed, 2))

    def _make_tables(self, rng: np.random.Generator) -> None:
        self.early_wishes = on_grid(1.0 * normal(rng, AGES, CATEGORIES))  # age x category at the start
        self.late_wishes = on_grid(1.0 * normal(rng, AGES, CATEGORIES))  # and at the end
        self.country_brand = on_grid(1.25 * normal(rng, COUNTRIES, BRANDS))
        self._age_taste, self._country_taste = normal(rng, AGES, DIM), normal(rng, COUNTRIES, DIM)
        self._category_style, self._tag_style = normal(rng, CATEGORIES, DIM), normal(rng, TAGS, DIM)
        self._age_budget, self._category_price = normal(rng, AGES), normal(rng, CATEGORIES)
        self._category_trend = normal(rng, CATEGORIES)
        circle = np.argsort(rng.random(CATEGORIES), kind="stable")
        self.following = np.empty(CATEGORIES, dtype=np.int64)  # category wanted after each one
        self.following[circle] = np.roll(circle, -1)
        # how likely a place is looked at, by device (mobile, desktop, tablet): the exposure's position bias
        fall = np.array([0.15, 0.06, 0.10])[:, None]
        self.examination = 1.0 / (1.0 + fall * np.arange(POSITIONS))  # (DEVICES, POSITIONS)

    def _make_items(self, rng: np.random.Generator) -> None:
        n = self.n_items
        self.category = _skewed(rng, CATEGORIES, n)
        self.brand = _skewed(rng, BRANDS, n)
        steps = np.concatenate([rng.random((n, 1)) * TAGS, 1 + rng.random((n, 3)) * 9], axis=1)
        self.tags = steps.astype(np.int64).cumsum(1) % TAGS  # (N, 4), four different ones
        self.n_tags = 1 + (rng.random(n) * 4).astype(np.int64)  # of which the first so many hold
        held = np.arange(4) < self.n_tags[:, None]
        tag_style = sum(self._tag_style[self.tags[:, j]] * held[:, j, None] for j in range(4))
        style = 0.6 * self._category_style[self.category] + 0.6 * tag_style / self.n_tags[:, None]
        self.style = on_grid(0.7 * (style + 0.4 * normal(rng, n, DIM)))  # (N, D)
        rank = np.argsort(rng.random(n), kind="stable")
        self.by_popularity = rank  # keys, the most popular first
        self.popularity = np.empty(n)
        self.popularity[rank] = on_grid(1.75 - 0.375 * np.log(1500 / n * np.arange(n) + 1))
        self.trend = on_grid(0.5 * self._category_trend[self.category] + 0.4 * normal(rng, n))
        self.log_price = on_grid(3.0 + 0.4 * self._category_price[self.category] + 0.7 * normal(rng, n))
        self.quality = on_grid(normal(rng, n))
        self.arrival = _since_start(rng, n, first_share=0.5)
        # places of the items in their category, in a random order: the chains of complements
        self.chain = np.argsort(self.category + rng.random(n), kind="stable")
        self.category_size = np.bincount(self.category, minlength=CATEGORIES)
        self.category_start = self.category_size.cumsum() - self.category_size
        self.place = np.empty(n, dtype=np.int64)
        self.place[self.chain] = np.arange(n) - self.category_start[self.category[self.chain]]

    def _make_queries(self, rng: np.random.Generator) -> None:
        n = self.n_queries
        self.age = (rng.random(n) * AGES).astype(np.int64)
        self.country = _skewed(rng, COUNTRIES, n)
        self.device = _skewed(rng, DEVICES, n)
        taste = 0.6 * self._age_taste[self.age] + 0.6 * self._country_taste[self.country]
        self.taste = on_grid(0.6 * (taste + 0.5 * normal(rng, n, DIM)))  # (Q, D)
        self.budget = on_grid(3.0 + 0.8 * self._age_budget[self.age] + 0.35 * normal(rng, n))
        self.joined = _since_start(rng, n, first_share=0.6)

    def logit(
        self,
        query_keys: np.ndarray,
        item_keys: np.ndarray,
        time: np.ndarray | int,
        last_clicked: np.ndarray | None = None,
    ) -> np.ndarray:
        """Log odds of a click when looked at; arguments broadcast. ``last_clicked`` holds item keys or -1."""
        age, category = self.age[query_keys], self.category[item_keys]
        tau = self._progress(time)
        value = self.popularity[item_keys] + self.trend[item_keys] * (tau - 0.5) + _BASE
        value = value + np.einsum("...d,...d->...", self.taste[query_keys], self.style[item_keys])
        value = value + self.early_wishes[age, category] * (1.0 - tau) + self.late_wishes[age, category] * tau
        value = value + self.country_brand[self.country[query_keys], self.brand[item_keys]]
        value = value - _PRICE * np.abs(self.log_price[item_keys] - self.budget[query_keys])
        value = value + _QUALITY * self.quality[item_keys]
        if last_clicked is not None:
            value = value + self._follow_up(np.asarray(last_clicked), item_keys)
        return np.asarray(value)

    def probability(
        self,
        query_keys: np.ndarray,
        item_keys: np.ndarray,
        time: np.ndarray | int,
        last_clicked: np.ndarray | None = None,
    ) -> np.ndarray:
        """P(click | query, item, time, last click, looked at): the truth no model can beat.

        A logged click has this probability times ``examination[device, position]``.
        """
        return np.asarray(1.0 / (1.0 + np.exp(-self.logit(query_keys, item_keys, time, last_clicked))))

    def buy_probability(self, query_keys: np.ndarray, item_keys: np.ndarray) -> np.ndarray:
        """P(buy | click): rises with quality, falls with what the price is above the budget."""
        above = np.maximum(self.log_price[item_keys] - self.budget[query_keys], 0.0)
        return np.asarray(1.0 / (1.0 + np.exp(1.5 - 0.75 * self.quality[item_keys] + 1.5 * above)))

    def best(
        self,
        query_keys: np.ndarray,
        k: int,
        time: np.ndarray | int,
        last_clicked: np.ndarray | None = None,
    ) -> np.ndarray:
        """(Q, k) keys of the likeliest items of the whole catalogue that exist at ``time``; -1 pads.

        The ceiling of every funnel. Ties stand in the order of rising keys.
        """
        query_keys = np.asarray(query_keys)
        times = np.broadcast_to(time, query_keys.shape)
        last = np.full(query_keys.shape, -1) if last_clicked is None else np.asarray(last_clicked)
        best = np.full((len(query_keys), k), -1, dtype=np.int64)
        rows = max(1, 2**22 // self.n_items)
        for i in range(0, len(query_keys), rows):
            part = (x[i : i + rows, None] for x in (query_keys, times, last))
            query, now, clicked = part
            logit = self.logit(query, np.arange(self.n_items), now, clicked)
            logit = np.where(self.arrival <= now, logit, -np.inf)
            order = np.argsort(-logit, axis=1, kind="stable")[:, :k]
            found = np.where(np.isfinite(np.take_along_axis(logit, order, 1)), order, -1)
            best[i : i + rows, : found.shape[1]] = found
        return best

    def complements(self, item_keys: np.ndarray) -> np.ndarray:
        """(..., COMPLEMENTS) keys of the items wanted after each one; -1 where there are none."""
        after = self.following[self.category[item_keys]][..., None]
        size = np.maximum(self.category_size[after], 1)
        place = (COMPLEMENTS * self.place[item_keys][..., None] + np.arange(COMPLEMENTS)) % size
        keys = self.chain[np.minimum(self.category_start[after] + place, self.n_items - 1)]
        return np.where((self.category_size[after] > 0) & (item_keys[..., None] >= 0), keys, -1)

    def _follow_up(self, last: np.ndarray, item_keys: np.ndarray) -> np.ndarray:
        category = self.category[item_keys]
        follows = (last >= 0) & (self.following[self.category[last]] == category)
        step = (self.place[item_keys] - COMPLEMENTS * self.place[last]) % self.category_size[category]
        return np.asarray(follows * (_NEXT_CATEGORY + _COMPLEMENT * (step < COMPLEMENTS)))

    @staticmethod
    def _progress(time: np.ndarray | int) -> np.ndarray:
        """Time as a share of the whole span, on the grid."""
        return (np.asarray(time, dtype=np.int64) - START_S) * 1024 // SPAN_S / 1024.0
