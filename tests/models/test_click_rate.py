"""Click rates against hand-computed sums and a loop over events."""

import pytest
import torch

from twotower.data.spec import Column, FeatureSpec
from twotower.errors import ConfigError
from twotower.models.click_rate import ClickRate, ClickRateConfig
from twotower.types import Batch

SPEC = FeatureSpec(
    columns=(
        Column(name="user", kind="id", side="query", size=4),
        Column(name="movie", kind="id", side="item", size=6),
    )
)
DAY = 24 * 3600


def make(**config):
    return ClickRate(SPEC, ClickRateConfig(**config)).eval()


def movies(*values):
    return Batch(movie=torch.tensor(values, dtype=torch.int64))


def events(n=200):
    draw = torch.Generator().manual_seed(1)
    items = movies(*torch.randint(2, 5, (n,), generator=draw).tolist())  # film 5 is never shown
    labels = (torch.rand(n, generator=draw) < 0.3).float()
    times = 1_000_000_000 + torch.randint(0, 30 * DAY, (n,), generator=draw)
    return items, labels, times


def naive(items, labels, times, half_life, strength):
    now = max(times.tolist())
    clicks, shown = dict.fromkeys(range(6), 0.0), dict.fromkeys(range(6), 0.0)
    for item, label, time in zip(items["movie"].tolist(), labels.tolist(), times.tolist(), strict=True):
        weight = 1.0 if half_life is None else 0.5 ** ((now - time) / half_life)
        clicks[item] += weight * label
        shown[item] += weight
    prior = (sum(clicks.values()) + 0.5) / (sum(shown.values()) + 1)
    return [(clicks[i] + strength * prior) / (shown[i] + strength) for i in range(6)]


def test_numbers_by_hand():
    model = make(half_life=10.0, strength=2.0)
    model.update(movies(2, 2, 3), torch.tensor([1.0, 0.0, 0.0]), torch.tensor([0, 10, 10]))
    # weights .5, 1, 1: prior (.5 + .5) / (2.5 + 1) = 2/7
    assert model.rates()[2:].tolist() == pytest.approx([(0.5 + 4 / 7) / 3.5, (4 / 7) / 3, 2 / 7, 2 / 7])


@pytest.mark.parametrize("half_life", [None, 3.0 * DAY])
@pytest.mark.parametrize("pieces", [1, 7, 200])
def test_counting_in_pieces_in_any_order_is_counting_at_once(half_life, pieces):
    items, labels, times = events()
    model = make(half_life=half_life, strength=5.0)
    for at in torch.randperm(len(times), generator=torch.Generator().manual_seed(2)).chunk(pieces):
        model.update(items.take(at), labels[at], times[at])
    model.update(items.take(torch.arange(0)), labels[:0], times[:0])
    assert model.rates().tolist() == pytest.approx(naive(items, labels, times, half_life, 5.0), rel=1e-9)


def test_a_weight_counts_like_a_repeated_event():
    once, twice = make(), make()
    once.update(movies(2, 3), torch.tensor([1.0, 0.0]), torch.zeros(2), torch.tensor([2.0, 1.0]))
    twice.update(movies(2, 2, 3), torch.tensor([1.0, 1.0, 0.0]), torch.zeros(3))
    assert torch.equal(once.rates(), twice.rates())


def test_scores_are_the_logits_of_the_rates_for_every_query():
    model = make(strength=1.0)
    model.update(*events())
    item = movies(2, 3, 4, 5, 1)
    scores = model.score(model.encode_query(Batch(user=torch.tensor([1, 3]))), model.encode_item(item))
    expected = model.rates()[item["movie"]].float()
    torch.testing.assert_close(scores.sigmoid(), expected.expand(2, 5))


def test_unknown_and_unseen_items_have_the_prior_whatever_was_counted_for_the_unknown():
    model = make()
    model.update(movies(1, 1, 2, 2), torch.tensor([1.0, 1.0, 1.0, 0.0]), torch.zeros(4))
    assert model.rates()[[1, 5]].tolist() == pytest.approx([3.5 / 5, 3.5 / 5])


@pytest.mark.parametrize("label", [0.0, 1.0])
def test_rates_stay_inside_0_and_1_and_scores_finite(label):
    model = make(strength=0.01)
    assert model.rates().tolist() == [0.5] * 6, "nothing known: one half"
    model.update(movies(*[2] * 1000), torch.full((1000,), label), torch.zeros(1000))
    assert model.encode_item(movies(2, 3))["vector"].isfinite().all()


def test_an_item_without_an_id_is_refused():
    genre = Column(name="genre", kind="category", side="item", size=4)
    with pytest.raises(ConfigError, match="no id field"):
        ClickRate(FeatureSpec(columns=(SPEC["user"], genre)), ClickRateConfig())
