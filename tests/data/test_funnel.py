"""A directory of logged requests, read again as data to learn from."""

from pathlib import Path

import polars as pl
import pytest

from twotower.data.catalogue import Catalogue
from twotower.data.full_stage import FullStage, Role
from twotower.data.funnel import Funnel
from twotower.data.funnel_part import FunnelAbout, FunnelSampling, write_part
from twotower.errors import ConfigError, DataError, StorageError

USERS, ITEMS = Catalogue(pl.Series("user", ["a", "b"])), Catalogue(pl.Series("item", list(range(20))))
NAMES = ["request", "user", "time", "item", "stage", "rank", "rank_score"]
FIRST = [
    ("r1", "a", 100, 1, "exposed", 0, 0.9),
    ("r1", "a", 100, 2, "exposed", 1, 0.8),
    ("r1", "a", 100, 3, "rank", 2, 0.7),
    ("r1", "a", 100, 4, "prerank", 9, None),
    ("r1", "a", 100, 5, "retrieve", 40, None),
    ("r2", "b", 150, 1, "exposed", 0, 0.5),
    ("r2", "b", 150, 6, "prerank", 7, None),
]
SECOND = [("r3", "a", 160, 1, "exposed", 0, 0.6), ("r3", "a", 160, 7, "retrieve", 3, None)]
EVENTS = [("a", 1, 155, 1.0), ("a", 1, 158, 3.0), ("a", 1, 170, 0.0), ("b", 1, 149, 1.0), ("b", 9, 151, 1.0)]


def frame(rows, degraded=()):
    table = pl.DataFrame(rows, schema=NAMES, orient="row")
    return table.with_columns(pl.lit(list(degraded), dtype=pl.List(pl.String)).alias("degraded"))


def events(rows, end=1000):
    names = ["user", "item", "time", "gain"]
    return pl.DataFrame([*rows, ("b", 19, end, 0.0)], schema=names, orient="row")


def about(*stages, **rates):
    sampling = FunnelSampling(requests=0.5, stages=rates)
    return FunnelAbout(stages=stages, query="user", sampling=sampling)


@pytest.fixture
def funnel(tmp_path: Path) -> Funnel:
    """Two files: of a cascade with a pre-ranker, and of one without."""
    write_part(tmp_path / "1.parquet", frame(FIRST), about("retrieve", "prerank", "rank", retrieve=0.1))
    write_part(tmp_path / "2.parquet", frame(SECOND).drop("rank_score"), about("retrieve", "rank"))
    (tmp_path / ".3.parquet.partial").write_bytes(b"PAR1 killed here")
    return Funnel(tmp_path)


def samples(funnel, found=EVENTS, end=1000, within_s=60, **more):
    return funnel.full_stage(
        events(found, end), "rank", queries=USERS, items=ITEMS, within_s=within_s, **more
    )


def test_rows_stand_file_by_file_and_know_their_weight(funnel):
    rows = funnel.rows()
    assert rows.select(NAMES).equals(
        frame([*FIRST, *(SECOND)])
        .select(NAMES)
        .with_columns(pl.when(pl.col("request") != "r3").then("rank_score"))
    )
    assert rows["weight"].to_list() == [2, 2, 2, 2, 20, 2, 2, 2, 2]
    assert funnel.rows(since=150, until=160)["request"].unique().to_list() == ["r2"]
    assert funnel.rows(since=900).is_empty()


def test_an_event_belongs_to_the_last_exposure_before_it(tmp_path: Path):
    write_part(tmp_path / "1.parquet", frame([*FIRST, *SECOND]), about("retrieve", "prerank", "rank"))
    rows = samples(Funnel(tmp_path)).rows
    gains = rows.filter(pl.col("stage") == "exposed").select("request", "item", "gain").rows()
    # the first two events are of request r1, the best counts; that of b came before the exposure
    assert gains == [("r1", 1, 3.0), ("r1", 2, 0.0), ("r2", 1, 0.0), ("r3", 1, 0.0)]
    assert rows.filter(pl.col("stage") != "exposed")["gain"].null_count() == 5
    late = samples(Funnel(tmp_path), within_s=54).rows
    assert late["gain"].fill_null(0).sum() == 0


def test_events_that_name_their_request_belong_to_it(funnel):
    named = events([("b", 1, 3, 2.0)], end=700).with_columns(request=pl.Series(["r2", "other"]))
    rows = funnel.full_stage(named, "rank", queries=USERS, items=ITEMS, within_s=60).rows
    assert rows.filter(pl.col("gain") > 0).select("request", "item", "gain").rows() == [("r2", 1, 2.0)]


def test_samples_are_full_stage_training_data(tmp_path: Path):
    write_part(tmp_path / "1.parquet", frame(FIRST), about("retrieve", "prerank", "rank"))
    found = samples(Funnel(tmp_path))
    assert found.notes == ()
    full = FullStage.of_log(found.rows, USERS, ITEMS)
    assert full.query_keys.tolist() == [0, 1]
    assert full.items.tolist() == [[1, 2, 3, 4, 5], [1, 6, -1, -1, -1]]
    assert full.roles.tolist() == [
        [
            Role.EXPOSED_POSITIVE,
            Role.EXPOSED_NEGATIVE,
            Role.RANKED,
            Role.PRERANKED,
            Role.RETRIEVED,
        ],
        [Role.EXPOSED_NEGATIVE, Role.PRERANKED, -1, -1, -1],
    ]
    assert full.gains[0].tolist() == [3, 0, 0, 0, 0]
    assert full.teacher.nan_to_num(-1)[0].tolist() == pytest.approx([0.9, 0.8, 0.7, -1, -1])


def test_what_cannot_be_learnt_from_is_left_out_and_counted(tmp_path: Path):
    strangers = [("r4", None, 100, 1, "exposed", 0, 0.1), ("r5", "zoe", 100, 1, "exposed", 0, 0.1)]
    gone = [("r6", "a", 100, 99, "rank", 0, 0.1), ("r6", "a", 100, 3, "exposed", 0, 0.1)]
    young = [("r7", "a", 141, 1, "exposed", 0, 0.3), ("r8", "a", 140, 1, "exposed", 0, 0.3)]
    stages = ("retrieve", "prerank", "rank")
    write_part(tmp_path / "1.parquet", frame([*strangers, *gone, *young]), about(*stages))
    write_part(tmp_path / "2.parquet", frame(SECOND[:1], degraded=["rank"]), about(*stages))
    found = samples(Funnel(tmp_path), [], end=220, within_s=80)
    assert found.rows["request"].to_list() == ["r6", "r8"]
    assert found.notes == (
        "2 requests left out: their events may still come",
        "2 requests left out: their user is not in the catalogue",
        "1 candidates left out: their item is not in the catalogue",
    )
    found = samples(Funnel(tmp_path), [], since=141)
    assert found.rows["request"].to_list() == ["r7"]
    assert found.notes == ("1 requests left out: a stage of theirs was degraded",)


def test_a_later_exposure_outside_the_range_keeps_its_event(tmp_path: Path):
    write_part(tmp_path / "1.parquet", frame([*FIRST, *SECOND]), about("retrieve", "prerank", "rank"))
    found = samples(Funnel(tmp_path), [("a", 1, 161, 1.0)], within_s=70, until=160)
    assert set(found.rows["request"]) == {"r1", "r2"}
    assert found.rows["gain"].fill_null(0).sum() == 0
    assert found.notes == ()  # they were not asked for


def test_what_is_no_log_is_refused(funnel, tmp_path: Path):
    with pytest.raises(DataError, match="no events"):
        funnel.full_stage(events([])[:0], "rank", queries=USERS, items=ITEMS, within_s=60)
    with pytest.raises(ConfigError, match="no logged stage is called 'prerank'"):
        funnel.full_stage(events([]), "prerank", queries=USERS, items=ITEMS, within_s=60)
    with pytest.raises(DataError, match="no logged requests"):
        Funnel(tmp_path / "nowhere")
    path = tmp_path / "2.parquet"
    whole = path.read_bytes()
    path.write_bytes(whole[:4] + b"?" * 60 + whole[64:])
    with pytest.raises(StorageError, match="a file is damaged"):
        Funnel(tmp_path).rows()
    write_part(path, frame(SECOND).rename({"user": "who"}), FunnelAbout(stages=("retrieve",), query="who"))
    with pytest.raises(DataError, match="two data sets in two folders"):
        Funnel(tmp_path)


def test_what_goes_between_listing_and_reading_is_listed_anew(funnel, tmp_path: Path):
    merged = about("retrieve", "rank").model_copy(update={"replaces": ("2.parquet",)})
    write_part(tmp_path / "4.parquet", frame(SECOND).drop("rank_score"), merged)
    before = funnel.rows()
    assert Funnel(tmp_path).rows().equals(before)  # one of both
    (tmp_path / "2.parquet").unlink()
    assert funnel.rows().equals(before)
    assert [path.name for path in funnel.parts] == ["1.parquet", "4.parquet"]
    (tmp_path / "1.parquet").unlink()
    assert set(funnel.rows()["request"]) == {"r3"}
    (tmp_path / "4.parquet").unlink()
    with pytest.raises(DataError, match="no logged requests"):
        funnel.rows()
