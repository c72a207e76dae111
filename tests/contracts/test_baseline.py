"""What `twotower.baselines.base.Baseline` promises, for every member."""

from __future__ import annotations

from copy import copy

import pytest
import torch
from safetensors.torch import load, save

from twotower.baselines import base
from twotower.baselines.base import Baseline
from twotower.baselines.ease import EASE
from twotower.baselines.ials import IALS
from twotower.baselines.item_knn import ItemKNN
from twotower.baselines.popularity import Popularity, RecentPopularity
from twotower.errors import ConfigError, DataError, MismatchError
from twotower.types import NO_ITEM, Ragged

pytest.importorskip("implicit")
pytest.importorskip("scipy")

N = 40
HISTORY = Ragged.of([[0, 3, 3, 7], [], [12], [5, 6, 7, 8, 9]])


def interactions() -> tuple[Ragged, torch.Tensor]:
    """Two tastes: half of the queries take from the lower items, half from the upper; all take item 0."""
    generator = torch.Generator().manual_seed(0)
    lower, upper = (torch.randint(1, N // 2, (30, 6), generator=generator) + shift for shift in (0, N // 2))
    rows = [[0, *row] for row in torch.cat([lower, upper]).tolist()]
    return Ragged.of(rows), torch.arange(60 * 7).double()


@pytest.fixture(params=[Popularity, RecentPopularity, ItemKNN, EASE, IALS])
def baseline(request: pytest.FixtureRequest) -> Baseline:
    made: Baseline = (
        IALS(factors=8, l2=0.1, alpha=10, threads=1) if request.param is IALS else request.param()
    )
    lists, times = interactions()
    return made.fit(lists, N, times)


def test_scores_every_item_for_every_history(baseline: Baseline) -> None:
    scores = baseline.scores(HISTORY)
    assert scores.shape == (4, N)
    assert scores.dtype == torch.float32
    assert scores.isfinite().all()
    alone = torch.cat([baseline.scores(HISTORY.take(torch.tensor([row]))) for row in range(4)])
    torch.testing.assert_close(alone, scores, msg="no query's scores depend on another query")


def test_repeated_unknown_and_missing_items_in_a_history_say_nothing(baseline: Baseline) -> None:
    dirty = Ragged.of([[0, 3, 7], [NO_ITEM, 10**9], [12, NO_ITEM, 12], [9, 8, 7, 6, 5]])
    torch.testing.assert_close(baseline.scores(dirty), baseline.scores(HISTORY))


def spoken_for(baseline: Baseline, history: torch.Tensor, score: torch.Tensor) -> bool:
    """Whether anything says that the item is for this query."""
    if isinstance(baseline, ItemKNN):
        return bool(score > 0)
    return isinstance(baseline, Popularity) or len(history) > 0


@pytest.mark.parametrize("at_once", [1, 2 * N, 10**6])
def test_search_is_a_sort_of_the_scores(
    baseline: Baseline, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base, "SCORES_AT_ONCE", at_once)
    exclude = Ragged.of([[0, 3, 7, NO_ITEM], [], [1, 10**9], list(range(N - 5))])
    found = baseline.search(HISTORY, N + 2, exclude)
    assert found.keys.shape == (4, N + 2)
    assert torch.equal(found.keys, found.sorted().keys)
    for row, gone in enumerate(exclude):
        kept = found.keys[row][found.mask[row]]
        scores = baseline.scores(HISTORY)[row]
        there = [key for key in range(N) if spoken_for(baseline, HISTORY[row], scores[key])]
        assert sorted(kept.tolist()) == sorted(set(there) - set(gone.tolist()))
        torch.testing.assert_close(found.scores[row][found.mask[row]], scores[kept])
    assert torch.equal(baseline.search(HISTORY, 3, exclude).keys, found.keys[:, :3])


@pytest.mark.parametrize("baseline", [ItemKNN, EASE, IALS], indirect=True)
def test_a_query_of_which_nothing_is_known_is_given_nothing(baseline: Baseline) -> None:
    """Otherwise the lowest keys would stand there, as if they had been found."""
    found = baseline.search(Ragged.of([[], [NO_ITEM, 10**9], [3]]), 5)
    assert found.counts.tolist() == [0, 0, 5]
    assert found.scores[:2].tolist() == [[-torch.inf] * 5] * 2


def test_fitting_again_gives_the_same(baseline: Baseline) -> None:
    first = baseline.scores(HISTORY)
    lists, times = interactions()
    assert torch.equal(baseline.fit(lists, N, times).scores(HISTORY), first)


def made_like(baseline: Baseline) -> Baseline:
    """One of the same options that has learned nothing."""
    return IALS(factors=8, l2=0.1, alpha=10, threads=1) if isinstance(baseline, IALS) else type(baseline)()


def test_what_was_kept_in_a_file_scores_the_same_bytes(baseline: Baseline) -> None:
    again = made_like(baseline).restore(N, load(save(baseline.state())))
    assert again.n_items == N
    assert torch.equal(again.scores(HISTORY), baseline.scores(HISTORY))
    found, wanted = (each.search(HISTORY, 7, HISTORY) for each in (again, baseline))
    assert torch.equal(found.keys, wanted.keys)
    twice = made_like(baseline).restore(N, again.state())
    assert torch.equal(twice.scores(HISTORY), baseline.scores(HISTORY))


def test_a_restored_one_can_be_fitted_again(baseline: Baseline) -> None:
    again = made_like(baseline).restore(N, baseline.state())
    lists, times = interactions()
    lists = Ragged(lists.values.flip(0), lists.offsets)
    expected = made_like(baseline).fit(lists, N, times).scores(HISTORY)
    assert torch.equal(again.fit(lists, N, times).scores(HISTORY), expected)


def test_the_state_of_something_else_is_refused(baseline: Baseline) -> None:
    state, before = baseline.state(), baseline.scores(HISTORY)
    name, tensor = next(iter(state.items()))
    other = copy(baseline)
    for broken in ({}, {**state, "more": tensor}, {**state, name: tensor[None]}):
        with pytest.raises(MismatchError, match="is kept as"):
            other.restore(N, broken)
    with pytest.raises(MismatchError, match="for 41 items is kept as"):
        other.restore(N + 1, state)
    assert torch.equal(other.scores(HISTORY), before)  # and goes on as it was


@pytest.mark.parametrize("baseline", [ItemKNN, EASE, IALS], indirect=True)
def test_a_taste_is_served(baseline: Baseline) -> None:
    lower, upper = baseline.search(Ragged.of([[2, 3, 4, 5], [22, 23, 24, 25]]), 11).keys
    assert (lower < N // 2).sum() >= 10
    assert (upper >= N // 2).sum() >= 10


def test_no_query_is_no_error(baseline: Baseline) -> None:
    assert baseline.scores(Ragged.of([])).shape == (0, N)
    assert baseline.search(Ragged.of([]), 5, Ragged.of([])).keys.shape == (0, 5)


def test_broken_input_is_named(baseline: Baseline) -> None:
    with pytest.raises(DataError, match="no interaction to learn from"):
        baseline.fit(Ragged.of([[], []]), N)
    with pytest.raises(DataError, match="keys -1 to 40 do not lie in a catalogue of 40"):
        baseline.fit(Ragged.of([[-1, 40]]), N)
    with pytest.raises(ConfigError, match="2 interactions, but times of shape"):
        baseline.fit(Ragged.of([[1, 2]]), N, torch.ones(3))
    with pytest.raises(ConfigError, match="k must be at least 1"):
        baseline.search(HISTORY, 0)
    with pytest.raises(ConfigError, match="1 rows for 4 histories"):
        baseline.search(HISTORY, 5, Ragged.of([[1]]))
    with pytest.raises(ConfigError, match="call fit first"):
        type(baseline)().scores(HISTORY)
    with pytest.raises(ConfigError, match="call fit first"):
        type(baseline)().state()
