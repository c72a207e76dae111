"""The published IntTower protocol: which labels each row is shown, and the baseline that cannot be sure."""

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from benchmarks.pre_ranking import replication
from benchmarks.pre_ranking.protocol import SCHEMA, VARIANTS, protocol
from torch.nn import functional

from twotower.data.dataset import Dataset
from twotower.data.features import Features
from twotower.data.movielens import MovieLens
from twotower.models.catalogue import make_model
from twotower.schema import PART

USERS, MOVIES = 40, 25


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A tiny MovieLens 1M, rating 3 included; high movies and high users are liked."""
    here, draw = tmp_path_factory.mktemp("ml"), np.random.default_rng(0)
    pairs = draw.choice(USERS * MOVIES, 700, replace=False)
    users, movies = pairs // MOVIES, pairs % MOVIES
    stars = np.clip(1 + 4 * (users / USERS + movies / MOVIES) / 2 + draw.normal(size=700), 1, 5).round()
    lines = (
        f"{u}::{m}::{int(r)}::{t}\n" for t, (u, m, r) in enumerate(zip(users, movies, stars, strict=True))
    )
    (here / "ratings.dat").write_text("".join(lines))
    (here / "users.dat").write_text("".join(f"{u}::{'FM'[u % 2]}::25::{u % 5}::0\n" for u in range(USERS)))
    (here / "movies.dat").write_text("".join(f"{m}::M (1990)::Drama|War\n" for m in range(MOVIES)))
    return here


@pytest.fixture(scope="module")
def ratings(folder) -> Dataset:
    return MovieLens().read(folder)


def shown(dataset: Dataset) -> pl.DataFrame:
    """Events with all that is known of both sides, the statistics included."""
    events = dataset.events.join(dataset.queries, on="user_as_seen", maintain_order="left")
    events = events.join(dataset.items, on="movie_as_seen", maintain_order="left")
    return events.with_columns(label=(pl.col("rating") >= 4).cast(pl.Float64))


def mean_of(events: pl.DataFrame, side: str, key: int) -> float | None:
    """The naive mean label of one user or movie."""
    labels = [row["label"] for row in events.iter_rows(named=True) if row[side] == key]
    return sum(labels) / len(labels) if labels else None


@pytest.mark.parametrize("side", ["user", "movie"])
@pytest.mark.parametrize("name", ["published", "own-label", "test-statistics"])
def test_leaking_rows_are_shown_means_with_their_own_label(ratings, name, side):
    events = shown(protocol(ratings, VARIANTS[name]))
    test = events.filter(pl.col(PART) == "test")
    rest = events.filter(pl.col(PART) != "test")
    leaking = []
    if name in ("published", "own-label"):
        leaking.append((rest, rest))
    if name in ("published", "test-statistics"):
        leaking.append((test, test))
    for rows, source in leaking:
        for row in rows.head(40).iter_rows(named=True):
            assert row[f"{side}_mean"] == pytest.approx(mean_of(source, side, row[side]))


@pytest.mark.parametrize("side", ["user", "movie"])
def test_no_row_is_shown_its_own_label_out_of_fold(ratings, side):
    """Turning the labels of a fold, of validation or of test changes no mean those rows are shown."""
    variant = VARIANTS["out-of-fold"]
    before = shown(protocol(ratings, variant))
    held_out = before["user_as_seen"].str.split("@").list.last() + before[PART]
    for rows in held_out.unique():
        mine = (held_out == rows).to_numpy()
        places = before["row"].filter(pl.Series(mine))
        turned = pl.when(pl.col("row").is_in(places.implode())).then(6 - pl.col("rating")).otherwise("rating")
        other = replace(ratings, events=ratings.events.with_columns(rating=turned))
        after = shown(protocol(other, variant))
        assert after["rating"].to_list() != before["rating"].to_list()
        column = f"{side}_mean"
        assert after.filter(pl.Series(mine))[column].equals(before.filter(pl.Series(mine))[column])
    test, train = (before.filter(pl.col(PART) == part) for part in ("test", "train"))
    for row in test.head(40).iter_rows(named=True):
        expected = mean_of(train, side, row[side])
        assert row[f"{side}_mean"] == (None if expected is None else pytest.approx(expected))


@pytest.mark.parametrize("name", VARIANTS)
def test_all_variants_are_tested_on_the_same_rows(ratings, name):
    dataset = protocol(ratings, VARIANTS[name])
    clean = protocol(ratings, VARIANTS["clean"])
    test = dataset.events.filter(pl.col(PART) == "test")
    assert test["row"].equals(clean.events.filter(pl.col(PART) == "test")["row"])
    assert len(test) == round(0.2 * len(dataset.events))
    assert not (dataset.events["rating"] == 3).any()
    assert dataset.notes == ()  # every row found its user and its movie
    known = shown(dataset).join(ratings.events, on="row", suffix="_raw")
    assert (known["user"] == known["user_raw"]).all()
    assert (known["movie"] == known["movie_raw"]).all()
    has_statistics = dataset.items["movie_mean"].is_not_null().any()
    assert has_statistics == VARIANTS[name].has_statistics == ("user_mean" in features_of(name))


def features_of(name: str) -> tuple[str, ...]:
    return replication.recipe_of("two-tower", VARIANTS[name], 0).models["two-tower"].features


@pytest.mark.parametrize("name", ["published", "unseen-movies"])
def test_published_validation_is_on_movies_that_training_never_saw(ratings, name):
    events = shown(protocol(ratings, VARIANTS[name]))
    train, valid = (events.filter(pl.col(PART) == part)["movie"] for part in ("train", "valid"))
    assert valid.min() >= train.max()
    assert len(valid) == pytest.approx(0.2 * (len(train) + len(valid)), abs=1)
    tenth = shown(protocol(ratings, VARIANTS["clean"])).filter(pl.col(PART) == "valid")
    assert 0.05 < len(tenth) / (len(train) + len(valid)) < 0.15
    assert tenth["movie"].min() < train.median()


def test_the_published_two_tower_cannot_be_sure(ratings):
    """Naive forward pass; and no logit leaves [b, b + 1]."""
    dataset = protocol(ratings, VARIANTS["published"])
    features = Features.fit(dataset, dataset.events)
    torch.manual_seed(0)
    model = make_model(
        "benchmarks.pre_ranking.replication:PublishedTwoTower",
        features.spec,
        {"embedding": 3, "layers": [8, 4]},
    ).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)
    queries, items = features.encode_queries(dataset.queries), features.encode_items(dataset.items)
    queries, items = queries.slice(0, 5), items.slice(0, 6)
    found = model.score(model.encode_query(queries), model.encode_item(items))
    for q in range(5):
        for i in range(6):
            u = model.query_tower(model.inputs.query(queries.slice(q, q + 1)).flatten())
            v = model.item_tower(model.inputs.item(items.slice(i, i + 1)).flatten())
            expected = functional.cosine_similarity(u, v, dim=0) + model.bias
            torch.testing.assert_close(found[q, i], expected, atol=1e-5, rtol=1e-5)
    assert ((found >= model.bias - 1e-6) & (found <= model.bias + 1 + 1e-6)).all()


def test_cells_and_table(folder, tmp_path):
    for seed in (1, 2):
        path = tmp_path / f"published-two-tower-{seed}.json"
        replication.run_cell(path, "published", "two-tower", seed, folder, 1.0)
    alone = tmp_path / "published-statistics.json"
    replication.measure_statistics(alone, "published", folder, 1.0)
    cell = json.loads(path.read_text())
    assert set(cell["config"]["features"]) >= {"user_mean", "movie_mean"}
    assert cell["test"].keys() == {"AUC", "log loss", "GAUC", "ECE"}
    assert sum(cell["rows"].values()) == len(protocol(MovieLens().read(folder), VARIANTS["clean"]).events)
    assert json.loads(alone.read_text())["test"]["AUC of user + movie"] > 0.7
    lines = replication.table(tmp_path).splitlines()
    assert lines[2].startswith("| published | the two means, no model | 0.")
    assert lines[3].startswith("| published | two-tower | 0.")
    assert lines[3].endswith("| 2 |")


@pytest.mark.data
def test_published_row_counts():
    """739,012 rows, 77.8 % positive: the numbers of the published script."""
    if "TWOTOWER_DATA" not in os.environ:
        pytest.skip("TWOTOWER_DATA is not set")
    dataset = protocol(MovieLens().read(Path(os.environ["TWOTOWER_DATA"]) / "ml-1m"), VARIANTS["published"])
    assert dataset.schema == SCHEMA
    assert len(dataset.events) == 739_012
    assert round(float((dataset.events["rating"] >= 4).mean()), 3) == 0.778
    parts = dict(dataset.events[PART].value_counts().rows())
    assert parts == {"train": 472_968, "valid": 118_242, "test": 147_802}
    assert len(dataset.queries) <= 2 * 6_040
