"""Do the times of MovieLens 1M tell a label to who reads a history? A score that knows no label looks for it.

    TWOTOWER_DATA=<folder> python -m benchmarks.pre_ranking.time_leak     # half a minute

All ratings of 4 and 5 have exact times, and some of 1 and 2 estimated ones. An event is scored by how often
its film stands near the user's last positives in the histories of *other* users, whose times are all exact:
the mean of log (pairs seen / pairs expected). That tells how much an event belongs where its time puts it.
If it tells negatives of estimated time from those of exact time, of the same users, it tells a label too: the
AUC between them must be .5. Measured for the times as they are in our copy, for estimates drawn anew from the
user's exact times, and for all times of these users shuffled, as the benchmark reads them.
"""

from __future__ import annotations

import numpy as np
import polars as pl
import torch

from benchmarks.machine import machine
from benchmarks.pre_ranking.data import LAST_ESTIMATED, data_root, draw_times, shuffle_times
from benchmarks.pre_ranking.files import RESULTS, write_json
from twotower.data.movielens import MovieLens
from twotower.metrics.rating import auc
from twotower.schema import TIME_EXACT

NEAR, LAST = 5, 10
"""Places apart at which two positives are neighbours; positives that an event is compared with."""
FIRST_ESTIMATED = 3000  # users below have exact times only


def leak(events: pl.DataFrame, times: np.ndarray) -> float:
    """AUC of the score between negatives of exact and of estimated time, of the users who have both."""
    order = np.lexsort((times, events["user"].to_numpy()))
    events, times = events[order], times[order]
    user, (_, movie) = events["user"].to_numpy(), np.unique(events["movie"].to_numpy(), return_inverse=True)
    positive, exact = events["rating"].to_numpy() >= 4, events[TIME_EXACT].to_numpy()
    near = _neighbours(user, movie, np.flatnonzero(positive & (user < FIRST_ESTIMATED)))
    negative = events["rating"].to_numpy() <= 2
    rows = np.flatnonzero(negative & (user >= FIRST_ESTIMATED) & (times <= LAST_ESTIMATED))
    liked = np.flatnonzero(positive)
    total, count = np.zeros(len(rows)), np.zeros(len(rows))
    for back in range(1, LAST + 1):
        place = np.searchsorted(liked, rows) - back
        before = liked[np.clip(place, 0, None)]
        there = (place >= 0) & (user[before] == user[rows]) & (times[before] < times[rows])
        total += np.where(there, near[movie[before], movie[rows]], 0)
        count += there
    known = count > 0
    return auc(torch.from_numpy(total[known] / count[known]), torch.from_numpy(exact[rows][known]).float())


def _neighbours(user: np.ndarray, movie: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """(N, N) log of how often two films are neighbours among ``rows``, over how often by chance."""
    pairs = np.zeros((movie.max() + 1,) * 2)
    for apart in range(1, NEAR + 1):
        one, other = rows[:-apart], rows[apart:]
        same = user[one] == user[other]
        np.add.at(pairs, (movie[one[same]], movie[other[same]]), 1)
    pairs += pairs.T
    share = (pairs.sum(1) + 1) / (pairs.sum() + len(pairs))
    chance = share[:, None] * share * pairs.sum()
    return np.log((pairs + 1) / (chance + 1))


def main() -> None:
    events = MovieLens().read(data_root() / "ml-1m").events
    found = {
        "as estimated": leak(events, events["timestamp"].to_numpy()),
        "drawn": leak(events, draw_times(events, np.random.default_rng(0))),
        "shuffled": leak(events, shuffle_times(events)["timestamp"].to_numpy()),
    }
    content = {"AUC, exact against estimated negatives": found, "seed": 0, "machine": machine()}
    write_json(RESULTS / "time_leak.json", content)
    print(found)


if __name__ == "__main__":
    main()
