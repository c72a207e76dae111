"""Requests of the past, against one query at a time."""

from dataclasses import replace

import polars as pl
import pytest
import torch

from twotower.cascade.cascade import Cascade
from twotower.cascade.rank import Rank
from twotower.data.full_stage import Role
from twotower.errors import ConfigError, DataError
from twotower.index.item_table import ItemTable
from twotower.pipeline.pipeline import Pipeline
from twotower.pipeline.prepared import Prepared
from twotower.pipeline.recipe import Recipe
from twotower.pipeline.replay import _moments, _request, logged, replay
from twotower.types import NO_ITEM


@pytest.fixture(scope="module")
def prepared(tiny):
    return Prepared.make(Recipe.parse(tiny()), None, "raise")


@pytest.fixture(scope="module")
def stages(trained):
    retrieve, rank = trained.pipeline.cascade().stages
    return Cascade(retrieve), rank


@pytest.fixture(scope="module")
def samples(prepared, stages):
    before, rank = stages
    return replay(prepared, before, rank, requests=3, positives=2, ranked=5, preranked=12)


def naive_windows(prepared, query, requests, positives):
    """(items before, items of the window with their labels) of one query, latest window first."""
    events = prepared.interactions(prepared.split.train)
    own = sorted(
        (int(events.times[n]), int(events.rows[n]), int(events.item_keys[n]), float(events.labels[n]))
        for n in (events.query_keys == query).nonzero()[:, 0].tolist()
    )
    liked = [n for n, event in enumerate(own) if event[3]]
    for number in range(requests):
        stop = len(liked) - number * positives
        start = max(1, stop - positives)
        if start < stop:
            end = liked[stop] if stop < len(liked) else len(own)
            yield own[: liked[start]], own[liked[start] : end]


def test_a_moment_divides_what_is_known_from_what_is_shown(prepared, samples):
    index = prepared.features.item_index_of_keys(prepared.dataset.items)
    past = prepared.past(prepared.split.train)
    history = past.column(samples.query_keys, samples.positions)
    found = 0
    for query in range(0, len(prepared.dataset.queries), 7):
        rows = (samples.query_keys == query).nonzero()[:, 0].tolist()
        windows = list(naive_windows(prepared, query, 3, 2))
        assert len(rows) == len(windows)
        for row, (before, shown) in zip(rows, windows, strict=True):
            liked = [index[item].item() for _, _, item, label in before if label]
            assert [v for v in history[row].tolist() if v] == liked[-8:]
            real = samples.items[row] >= 0
            role = dict(
                zip(samples.items[row][real].tolist(), samples.roles[row][real].tolist(), strict=True)
            )
            assert len(role) == int(real.sum())  # no item twice
            exposed = {item: (0 if label else 1) for _, _, item, label in shown}
            assert {item: r for item, r in role.items() if r < 2} == exposed
            seen = {item for _, _, item, _ in before}
            assert not seen & {item for item, r in role.items() if r >= 2}
            found += len(exposed)
    assert found > 20


def test_what_is_liked_later_in_training_is_no_negative(prepared, stages, samples):
    before, _ = stages
    request, _ = _request(prepared, _moments(prepared, 3, 2)[0])
    served, _ = before(request)
    row_of = {}
    for row, query in enumerate(samples.query_keys.tolist()):
        row_of.setdefault(query, []).append(row)
    taken_out = 0
    for query, rows in row_of.items():
        windows = list(naive_windows(prepared, query, 3, 2))
        later = set()  # the latest window comes first
        for row, (_, shown) in zip(rows, windows, strict=True):
            role = dict(zip(samples.items[row].tolist(), samples.roles[row].tolist(), strict=True))
            own = {item for _, _, item, _ in shown}
            assert not (later - own) & set(role)
            assert set(samples.barred[row].tolist()) - {-1} == later
            candidates = set(served.keys[row][served.mask[row]].tolist())
            assert candidates - set(role) == candidates & (later - own)  # nothing else is missing
            assert {role[item] for item in own} <= {Role.EXPOSED_POSITIVE, Role.EXPOSED_NEGATIVE}
            taken_out += len(candidates & (later - own))
            later |= {item for _, _, item, label in shown if label}
    assert taken_out > 20


def test_one_request_of_each_query_has_nothing_later(prepared, stages):
    latest = replay(prepared, stages[0], positives=2)
    assert (latest.barred == NO_ITEM).all()
    assert len(latest) == len(latest.query_keys.unique())


def test_nothing_of_the_held_out_parts_is_touched(prepared, samples):
    train = prepared.interactions(prepared.split.train)
    stride = prepared.n_items
    known = train.query_keys * stride + train.item_keys
    exposed = (samples.roles == 0) | (samples.roles == 1)
    code = (samples.query_keys[:, None] * stride + samples.items)[exposed]
    assert torch.isin(code, known).all()
    assert torch.equal(samples.gains > 0, samples.roles == Role.EXPOSED_POSITIVE)


def test_served_candidates_stand_in_the_teachers_order(prepared, stages, samples):
    before, _ = stages
    alone = replay(prepared, before, requests=3, positives=2)
    assert set(alone.roles.unique().tolist()) <= {-1, 0, 1, 4}
    assert alone.teacher.isnan().all()
    served = samples.items[:, :30]
    assert torch.equal(served.sort(1).values, alone.items[:, :30].sort(1).values)
    scores = samples.teacher[:, :30]
    assert torch.equal(scores.isnan(), served < 0)
    lowest = scores.nan_to_num(torch.inf).cummin(1).values  # what was taken out leaves its place empty
    assert torch.equal(lowest[served >= 0], scores[served >= 0])
    place = torch.arange(30).expand_as(served)
    by_place = torch.where(place < 5, 2, torch.where(place < 12, 3, 4)).masked_fill(served < 0, -1)
    unexposed = samples.roles[:, :30] >= 2
    assert torch.equal(samples.roles[:, :30].long()[unexposed], by_place[unexposed])


def test_replaying_in_chunks_is_replaying_at_once(prepared, stages, samples):
    before, rank = stages
    again = replay(
        prepared, before, rank, requests=3, positives=2, ranked=5, preranked=12, requests_at_once=7
    )
    assert torch.equal(again.items, samples.items)
    torch.testing.assert_close(again.teacher, samples.teacher, equal_nan=True)


def test_known_columns_are_those_of_a_task_without_its_history(prepared):
    task = prepared.task("valid")
    known = prepared.known_columns(task.query_keys)
    assert set(known) == set(task.query) - {"history"}
    assert all(torch.equal(tensor, task.query[name]) for name, tensor in known.items())


def test_queries_with_too_little_are_left_out(prepared, stages):
    split = replace(prepared.split, train=prepared.split.train.head(3))
    few = replace(prepared, split=split)
    with pytest.raises(DataError, match="no query has 2 positive training events"):
        replay(few, stages[0])


def test_a_log_is_cut_where_training_ends(prepared):
    log = prepared.recipe.data.stage_log()
    samples = logged(prepared, log)
    last = prepared.split.train["timestamp"].max()
    part = log.filter(log["timestamp"] <= last)
    assert len(samples) == part["request"].n_unique()
    counts = samples.counts()
    train = prepared.split.train
    assert counts["exposed_positive"] == train["click"].sum()
    assert counts["exposed_positive"] + counts["exposed_negative"] == len(train)
    assert counts["retrieved"] == (part["stage"] == "retrieved").sum()
    scored = ~samples.teacher.isnan()
    assert torch.equal(scored, (samples.roles >= 0) & (samples.roles != Role.RETRIEVED))
    request = part.filter(part["request"] == part["request"][0])
    ranked = request.filter(request["stage"] == "ranked")
    keys = torch.from_numpy(prepared.dataset.item_catalogue.keys(ranked["item"]).copy())
    own = dict(zip(samples.items[0].tolist(), samples.teacher[0].tolist(), strict=True))
    assert [own[int(key)] for key in keys] == pytest.approx(ranked["score"].to_list(), rel=1e-6)


def test_a_logged_request_knows_what_was_before_it(prepared):
    samples = logged(prepared, prepared.recipe.data.stage_log())
    events = prepared.positives(prepared.split.train)
    log = prepared.recipe.data.stage_log()
    log = log.filter(log["timestamp"] <= prepared.split.train["timestamp"].max())
    first = log.group_by("request", maintain_order=True).first()
    for row in range(0, len(samples), 60):
        earlier = (events.query_keys == samples.query_keys[row]) & (events.times < first["timestamp"][row])
        assert samples.positions[row] == earlier.sum()


def test_another_teacher_scores_the_log(prepared, trained):
    """A ranker without pair fields: the retriever's own model as a stage that ranks."""
    model = trained.pipeline.model("retriever")
    table = ItemTable.build(
        lambda keys: model.encode_item(prepared.items.take(keys)),
        prepared.n_items,
        model.item_specs(),
        model.item_digest(),
    )
    samples = logged(prepared, prepared.recipe.data.stage_log(), Rank(model, table))
    assert torch.equal(samples.teacher.isnan(), samples.items < 0)
    past = prepared.past(prepared.split.train)
    for row in (0, 40):
        key = samples.query_keys[row : row + 1]
        query = past.join(prepared.known_columns(key), key, samples.positions[row : row + 1])
        there = samples.items[row] >= 0
        mine = samples.items[row][there]
        expected = model.score(model.encode_query(query), model.encode_item(prepared.items.take(mine)))[0]
        torch.testing.assert_close(samples.teacher[row][there], expected.detach())


def test_a_log_calls_nothing_a_negative_that_its_query_takes_later(prepared):
    log = prepared.recipe.data.stage_log()
    train = prepared.split.train
    log = log.filter(log["timestamp"] <= train["timestamp"].max())
    samples = logged(prepared, log)
    liked = train.filter(click=1)
    requests = log.group_by("request", maintain_order=True).agg(pl.all())
    taken_out = 0
    for row, request in enumerate(requests.iter_rows(named=True)):
        user, asked = request["user"][0], request["timestamp"][0]
        exposed = {i for i, s in zip(request["item"], request["stage"], strict=True) if s == "exposed"}
        own = liked.filter((pl.col("user") == user) & (pl.col("timestamp") >= asked))
        later = set(own["item"])
        kept = samples.items[row][samples.items[row] >= 0]
        found = set(prepared.dataset.item_catalogue.ids(kept.numpy()).to_list())
        gone = set(request["item"]) - found
        assert gone == set(request["item"]) & later - exposed
        barred = samples.barred[row][samples.barred[row] >= 0]
        assert set(prepared.dataset.item_catalogue.ids(barred.numpy()).to_list()) == later
        taken_out += len(gone)
    assert taken_out > 20


def test_logs_need_a_split_by_time(tiny):
    prepared = Prepared.make(Recipe.parse(tiny("split.kind=leave-last-out")), None, "raise")
    with pytest.raises(ConfigError, match=r"need split: \{kind: time\}"):
        logged(prepared, prepared.recipe.data.stage_log())


def test_without_a_history_all_positives_answer_one_request(collection, tmp_path):
    recipe = {
        "name": "words",
        "data": {"reader": "beir"},
        "split": {"kind": "predefined"},
        "history": None,
        "fields": {"query_text": {"tokenizer": "words"}, "text": {"tokenizer": "words"}},
        "cascade": [{"stage": "retrieve", "k": 9, "sources": [{"name": "bm25", "k": 9, "lexical": {}}]}],
    }
    pipeline = Pipeline(Recipe.parse(recipe), tmp_path, data=collection)
    pipeline.prepare()
    pipeline.train()
    prepared = pipeline.prepared
    samples = replay(prepared, pipeline.cascade(), None, requests=3, positives=2, ranked=0, preranked=0)
    train = prepared.positives(prepared.split.train)
    assert sorted(samples.query_keys.tolist()) == sorted(set(train.query_keys.tolist()))
    wanted = set(zip(train.query_keys.tolist(), train.item_keys.tolist(), strict=True))
    row, place = (samples.roles == Role.EXPOSED_POSITIVE).nonzero(as_tuple=True)
    found = zip(samples.query_keys[row].tolist(), samples.items[row, place].tolist(), strict=True)
    assert set(found) == wanted
