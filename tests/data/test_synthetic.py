"""The synthetic world: frozen bytes, a known truth, and the effects that models are to be compared on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import xxhash

from twotower.data.dataset import Dataset
from twotower.data.exposure import CHUNK
from twotower.data.synthetic import Synthetic
from twotower.data.world import AGES, CATEGORIES, COMPLEMENTS, SPAN_S, START_S, World
from twotower.errors import ConfigError

DEVICES = {"mobile": 0, "desktop": 1, "tablet": 2}
MIDDLE = START_S + SPAN_S // 2


@pytest.fixture(scope="module")
def data() -> Dataset:
    return Synthetic().read()


@pytest.fixture(scope="module")
def world() -> World:
    return Synthetic().world()


@pytest.fixture(scope="module")
def log() -> pl.DataFrame:
    return Synthetic().stage_log()


@pytest.fixture(scope="module")
def shown(data: Dataset, log: pl.DataFrame) -> pl.DataFrame:
    """Events with what the truth knows of them: attraction, chance of being looked at, keys."""
    table = data.events.join(log.filter(stage="exposed"), on=["user", "item", "timestamp"], how="left")
    device = table["device"].replace_strict(DEVICES).to_numpy()
    looked = Synthetic().world().examination[device, table["position"].to_numpy()]
    return table.with_columns(
        looked=looked,
        query_key=data.query_catalogue.keys(table["user"]),
        item_key=data.item_catalogue.keys(table["item"]),
        last_key=data.item_catalogue.keys(table["last_clicked"].fill_null(-1)),
    )


def fingerprint(table: pl.DataFrame) -> str:
    """Hash of the values alone: text as UTF-8, numbers as whole hundredths."""
    digest = xxhash.xxh64()
    for column in table:
        if column.dtype == pl.List(pl.String):
            column = column.list.join(",")
        if column.dtype == pl.String:
            digest.update("\n".join(column.fill_null("-").to_list()).encode())
        else:
            hundredths = np.rint(column.cast(pl.Float64).fill_null(1e9).to_numpy() * 100)
            digest.update(hundredths.astype("<i8").tobytes())
    return digest.hexdigest()


# Frozen: a change of these makes every earlier comparison of models on this world worthless.
def test_the_default_world_is_frozen(data: Dataset) -> None:
    assert fingerprint(data.events) == "118dd2ef7048a9d2"
    assert fingerprint(data.queries) == "19f4c28e4eb54850"
    assert fingerprint(data.items) == "3f61df91295c9d43"


def test_the_default_truth_is_frozen(world: World) -> None:
    last = np.arange(world.n_items) - 1
    p = world.probability(np.arange(0, 2000, 100)[:, None], np.arange(world.n_items), MIDDLE, last)
    assert fingerprint(pl.DataFrame({"p": 1e4 * p.ravel()})) == "d2e68e216e0f4563"
    assert (
        fingerprint(pl.DataFrame({"best": world.best(np.arange(50), 10, MIDDLE).ravel()}))
        == "28d4e2671f01448e"
    )


def test_sizes_and_rates_are_in_their_bands(data: Dataset) -> None:
    events = data.events
    assert (len(data.queries), len(data.items)) == (2000, 1500)
    assert 40 <= len(events) / len(data.queries) <= 60
    assert 0.12 <= events["click"].sum() / len(events) <= 0.18
    assert events.filter(click=0, buy=1).is_empty()
    assert 0.1 <= events["buy"].sum() / events["click"].sum() <= 0.3
    test = events.filter(pl.col("timestamp") > pl.col("timestamp").quantile(0.9))
    assert test.filter(click=1)["user"].n_unique() >= 300


def test_same_seed_same_data_other_seed_other_data() -> None:
    small = Synthetic(n_queries=40, n_items=80)
    assert small.read().events.equals(small.read().events)
    assert not small.read().events.equals(Synthetic(n_queries=40, n_items=80, seed=1).read().events)


def test_the_number_of_queries_does_not_change_the_items() -> None:
    one, two = (Synthetic(n_queries=n, n_items=80).read() for n in (20, 30))
    assert one.items.equals(two.items)


def test_scores_lie_on_the_grid_so_that_sums_are_exact(world: World) -> None:
    for values in (world.style, world.taste, world.popularity, world.trend, world.log_price, world.budget):
        assert np.array_equal(values * 1024, np.rint(values * 1024))
        assert np.abs(values).max() < 32
    logit = world.logit(np.arange(200)[:, None], np.arange(200), MIDDLE)
    assert np.array_equal(logit * 2.0**20, np.rint(logit * 2.0**20))


def test_logit_is_the_sum_that_the_docstring_tells(world: World) -> None:
    tau = 0.5
    rng = np.random.default_rng(0)
    for q, i in zip(rng.integers(0, 2000, 50), rng.integers(0, 1500, 50), strict=True):
        wishes = (1 - tau) * world.early_wishes + tau * world.late_wishes
        expected = (
            -1.875
            + world.popularity[i]
            + world.trend[i] * (tau - 0.5)
            + sum(world.taste[q, d] * world.style[i, d] for d in range(8))
            + wishes[world.age[q], world.category[i]]
            + world.country_brand[world.country[q], world.brand[i]]
            - 1.75 * abs(world.log_price[i] - world.budget[q])
            + 0.25 * world.quality[i]
        )
        assert world.logit(q, i, MIDDLE) == expected  # exact, not approximate


def test_best_is_a_full_sort_of_what_exists(world: World) -> None:
    queries = np.array([3, 1500])
    best = world.best(queries, 5, START_S)
    for query, found in zip(queries, best, strict=True):
        p = world.probability(query, np.arange(1500), START_S)
        there = np.flatnonzero(world.arrival <= START_S)
        assert found.tolist() == there[np.lexsort((there, -p[there]))][:5].tolist()
    assert world.best(queries, 2000, START_S)[:, 1500:].max() == -1  # k above the catalogue pads
    assert (world.best(queries, 2000, START_S) >= 0).sum(1).tolist() == [len(there)] * 2
    assert world.best(queries[:0], 5, START_S).shape == (0, 5)


def test_no_dot_product_of_small_rank_is_the_truth(world: World) -> None:
    """Eckart and Young (1936): truncated SVD is the best approximation of its rank, biases given for free."""
    logit = world.logit(np.arange(0, 2000, 5)[:, None], np.arange(0, 1500, 2), MIDDLE)
    centred = logit - logit.mean(1, keepdims=True) - logit.mean(0) + logit.mean()
    left, singular, right = np.linalg.svd(centred, full_matrices=False)
    p = 1 / (1 + np.exp(-logit))
    reachable = np.sort(p, axis=1)[:, -10:].mean()
    kept = {}
    for rank in (8, 16, 64):
        approximate = (left[:, :rank] * singular[:rank]) @ right[:rank] + logit.mean(0)
        top = np.argpartition(-approximate, 10, axis=1)[:, :10]
        kept[rank] = np.take_along_axis(p, top, 1).mean() / reachable
    assert kept[8] < 0.85
    assert kept[16] < 0.97
    assert kept[64] > 0.999
    assert (singular[16:] ** 2).sum() / (singular**2).sum() > 0.04


def test_price_acts_by_distance(world: World) -> None:
    """All else equal, the item at the budget beats the cheaper and the dearer one."""
    twin = World(1, 50, seed=3)
    for name in ("popularity", "trend", "quality", "category", "brand", "style"):
        getattr(twin, name)[:3] = getattr(twin, name)[0]
    twin.log_price[:3] = twin.budget[0] + np.array([-1.0, 0.0, 1.0])
    low, right, high = twin.logit(0, np.arange(3), MIDDLE)
    assert low == high == right - 1.75


def test_a_click_raises_its_complements_and_their_category(world: World) -> None:
    last = np.arange(1500)
    complements = world.complements(last)
    assert complements.shape == (1500, COMPLEMENTS)
    assert (world.category[complements] == world.following[world.category[last]][:, None]).all()
    lift = world.logit(0, np.arange(1500), MIDDLE, last[:, None]) - world.logit(0, np.arange(1500), MIDDLE)
    is_complement = (np.arange(1500) == complements[:, :, None]).any(1)
    follows = world.category == world.following[world.category[last]][:, None]
    assert set(np.unique(lift[is_complement])) == {3.0}
    assert set(np.unique(lift[follows & ~is_complement])) == {1.0}
    assert set(np.unique(lift[~follows])) == {0.0}
    assert np.array_equal(
        world.logit(0, np.arange(9), MIDDLE, np.array(-1)), world.logit(0, np.arange(9), MIDDLE)
    )
    assert world.complements(np.array([-1])).tolist() == [[-1] * COMPLEMENTS]


def test_history_matters_in_the_labels(world: World, shown: pl.DataFrame) -> None:
    follow = (world.complements(shown["last_key"].to_numpy()) == shown["item_key"].to_numpy()[:, None]).any(1)
    after = shown.filter(follow)
    assert len(after) > 2000
    blind = world.probability(
        after["query_key"].to_numpy(), after["item_key"].to_numpy(), after["timestamp"].to_numpy()
    )
    assert after["click"].sum() > 2 * (blind * after["looked"].to_numpy()).sum()


def test_last_clicked_is_what_the_events_tell(shown: pl.DataFrame) -> None:
    """A plain walk over one in a hundred users gives the state that the simulation had."""
    for _, mine in shown.filter(pl.col("query_key") % 100 == 0).group_by("user"):
        last, pending, time = -1, -1, 0
        for row in mine.sort("timestamp", "position").iter_rows(named=True):
            if row["timestamp"] != time:
                last, time = pending, row["timestamp"]
            assert row["last_key"] == last
            if row["click"]:
                pending = row["item_key"]


def test_labels_agree_with_the_truth(world: World, shown: pl.DataFrame) -> None:
    expected = (shown["probability"] * shown["looked"]).to_numpy()
    clicks = shown["click"].to_numpy()
    order = np.argsort(expected)
    for part in np.array_split(order, 20):  # calibration in twenty equal bins, within four standard errors
        p = expected[part]
        assert abs(clicks[part].sum() - p.sum()) < 4 * np.sqrt((p * (1 - p)).sum())
    clicked = shown.filter(click=1)
    p = world.buy_probability(clicked["query_key"].to_numpy(), clicked["item_key"].to_numpy())
    assert abs(clicked["buy"].sum() - p.sum()) < 4 * np.sqrt((p * (1 - p)).sum())


def test_lower_places_are_looked_at_less(world: World, shown: pl.DataFrame) -> None:
    assert (np.diff(world.examination, axis=1) < 0).all()
    by_place = shown.group_by("position").agg(pl.col("click", "probability").mean()).sort("position")
    ratio = (by_place["click"] / by_place["probability"]).to_numpy()
    assert ratio[0] > 0.95
    assert ratio[-1] < 0.75


def test_time_moves_wishes_and_popularity(world: World) -> None:
    assert np.corrcoef(world.early_wishes.ravel(), world.late_wishes.ravel())[0, 1] < 0.5
    assert world.early_wishes.shape == (AGES, CATEGORIES)
    queries = np.arange(0, 2000, 20)
    early = world.logit(queries[:, None], np.arange(1500), START_S)
    late = world.logit(queries[:, None], np.arange(1500), START_S + SPAN_S)
    overlap = [len(np.intersect1d(a, b)) for a, b in zip(*map(_top10, (early, late)), strict=True)]
    assert np.mean(overlap) < 7


def _top10(logit: np.ndarray) -> np.ndarray:
    return np.argsort(-logit, axis=1)[:, :10]


def test_new_items_and_new_users_come_to_the_end(data: Dataset, world: World, shown: pl.DataFrame) -> None:
    assert (world.arrival[shown["item_key"]] <= shown["timestamp"].to_numpy()).all()
    assert (world.joined[shown["query_key"]] <= shown["timestamp"].to_numpy()).all()
    cut = data.events["timestamp"].quantile(0.9)
    before = data.events.filter(pl.col("timestamp") <= cut)
    after = data.events.filter(pl.col("timestamp") > cut)
    assert after.join(before, on="item", how="anti")["item"].n_unique() >= 20
    assert after.join(before, on="user", how="anti")["user"].n_unique() >= 50


def test_exposure_is_skewed_but_reaches_nearly_all(data: Dataset) -> None:
    counts = data.events["item"].value_counts()["count"].sort(descending=True)
    assert counts[:150].sum() / counts.sum() > 0.4
    assert len(counts) > 1450


def test_no_item_is_shown_twice_to_one_user(data: Dataset) -> None:
    assert not data.events.select("user", "item").is_duplicated().any()


def test_stage_log_is_nested_and_holds_all_events(data: Dataset, log: pl.DataFrame) -> None:
    reached = log.group_by("request", "timestamp", maintain_order=True).agg(
        exposed=(pl.col("stage") == "exposed").sum(),
        ranked=pl.col("stage").is_in(["exposed", "ranked"]).sum(),
        preranked=pl.col("stage").is_in(["exposed", "ranked", "preranked"]).sum(),
        retrieved=pl.len(),
        places=pl.col("position").n_unique(),
    )
    assert (reached["exposed"] == 8).all()
    assert (reached["ranked"] == 20).all()
    assert (reached["preranked"] <= 48).all()
    assert (reached["retrieved"] <= 128).all()
    assert (reached["places"] == reached["retrieved"]).all()
    # positions fill the stages in order: what went further stands before what was dropped
    depth = log["stage"].replace_strict({"exposed": 0, "ranked": 1, "preranked": 2, "retrieved": 3})
    ordered = log.with_columns(depth=depth).sort("request", "position")
    same = (ordered["request"].diff() == 0).fill_null(False)
    assert (ordered["depth"].diff().fill_null(0).filter(same) >= 0).all()
    exposed = log.filter(stage="exposed").select("user", "item", "timestamp", "position")
    both = exposed.join(data.events, on=["user", "item", "timestamp", "position"])
    assert len(both) == len(exposed) == len(data.events)


def test_each_stage_of_the_old_policy_helps(log: pl.DataFrame) -> None:
    mean = dict(log.group_by("stage").agg(pl.col("probability").mean()).iter_rows())
    assert mean["exposed"] > mean["ranked"] > mean["preranked"] > mean["retrieved"]


def test_the_truth_is_not_in_the_data_set(data: Dataset) -> None:
    assert data.events.columns == [
        "user", "item", "position", "device", "click", "buy", "timestamp", "row"
    ]  # fmt: skip
    assert data.queries.columns == ["user", "country", "age"]
    assert data.items.columns == ["item", "category", "brand", "tags", "price", "quality", "title"]


def test_features_are_as_raw_as_in_life(data: Dataset, world: World) -> None:
    assert data.events["row"].to_list() == list(range(len(data.events)))
    assert data.events.select("timestamp", "user", "position").equals(
        data.events.select("timestamp", "user", "position").sort("timestamp", "user", "position")
    )
    assert 0.15 < data.items["quality"].null_count() / 1500 < 0.25
    assert 0.02 < data.queries["age"].null_count() / 2000 < 0.08
    lengths = data.items["tags"].list.len()
    assert (lengths.min(), lengths.max()) == (1, 4)
    assert (data.items["tags"].list.n_unique() == lengths).all()
    assert np.allclose(np.log(data.items["price"].to_numpy()), world.log_price, atol=0.01)
    assert np.array_equal(data.item_catalogue.keys(data.items["item"]), np.arange(1500))


def test_parquet_shards_hold_the_rows_of_read(tmp_path: Path) -> None:
    config = Synthetic(
        n_queries=CHUNK + 300, n_items=200, requests_per_query=1, retrieved=32, preranked=24, ranked=16
    )
    total = config.write_parquet(tmp_path, shards=5)  # two chunks, so two shards
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["events-00000.parquet", "events-00001.parquet", "items.parquet", "queries.parquet"]
    data = config.read()
    order = ["timestamp", "user", "position"]
    shards = pl.concat([pl.read_parquet(tmp_path / name) for name in names[:2]]).sort(order)
    assert total == len(shards)
    assert shards.equals(data.events.select(shards.columns))
    assert pl.read_parquet(tmp_path / "items.parquet").equals(data.items)
    assert pl.read_parquet(tmp_path / "queries.parquet").equals(data.queries)


def test_wrong_arguments_are_told() -> None:
    with pytest.raises(ConfigError, match="exposed <= ranked"):
        Synthetic.parse({"ranked": 4})
    with pytest.raises(ConfigError, match="did you mean 'n_items'"):
        Synthetic.parse({"n_item": 4})
    with pytest.raises(ConfigError, match="shards must be at least 1"):
        Synthetic(n_queries=10, n_items=60).write_parquet(Path("nowhere"), shards=0)


@pytest.mark.parametrize("n_items", [50, 64, 1000])
def test_small_worlds_work(n_items: int) -> None:
    data = Synthetic(n_queries=3, n_items=n_items, requests_per_query=20, seed=7).read()
    assert data.events["position"].max() == 7
    assert set(data.events["click"]) <= {0, 1}
