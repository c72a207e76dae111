"""What a file of a logged funnel says of itself, and which rows it holds."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from twotower.data.funnel_part import METADATA, FunnelAbout, FunnelSampling, about_part, write_part
from twotower.errors import ConfigError, StorageError

ABOUT = FunnelAbout(stages=("retrieve", "rank"), query="user", sampling=FunnelSampling(requests=0.5))
ROWS = pl.DataFrame({"request": ["a"], "item": [3]})


def test_a_request_is_in_or_out_by_its_id_alone():
    ids = pl.Series([f"request {n}" for n in range(20_000)])
    tenth, half = (FunnelSampling(requests=rate).takes(ids) for rate in (0.1, 0.5))
    assert abs(tenth.mean() - 0.1) < 0.01
    assert (half | ~tenth).all()  # a higher rate only adds
    assert (FunnelSampling(requests=0.1).takes(ids[::-1])[::-1] == tenth).all()
    assert FunnelSampling().takes(ids).all()
    assert not FunnelSampling(requests=0).takes(ids).any()


def test_weights_undo_the_rates_of_stages():
    sampling = FunnelSampling(requests=0.5, stages={"retrieve": 0.2})
    rows = pl.DataFrame(
        {
            "request": np.repeat([f"r{n}" for n in range(200)], 100),
            "item": np.tile(np.arange(100), 200),
            "stage": ["retrieve", "rank"] * 10_000,
        }
    )
    kept = sampling.thinned(rows, "item").with_columns(sampling.weight.alias("weight"))
    counts = dict(kept.group_by("stage").agg(pl.len()).iter_rows())
    assert counts["rank"] == 10_000
    assert abs(counts["retrieve"] - 2000) < 150
    assert dict(kept.group_by("stage").agg(pl.col("weight").unique().first()).iter_rows()) == {
        "rank": 2.0,
        "retrieve": 10.0,
    }
    per_item = kept.filter(pl.col("stage") == "retrieve").group_by("item").agg(pl.len())
    assert len(per_item) == 50  # another choice in every request
    assert sampling.thinned(rows, "item").equals(kept.drop("weight"))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"stages": ()}, "stages"),
        ({"stages": ("retrieve", "exposed")}, "no stage can be called 'exposed'"),
        ({"item": "query"}, "names of their own"),
        ({"time": "rank"}, "names of their own"),
        ({"sampling": {"stages": {"retreive": 0.5}}}, "did you mean 'retrieve'"),
        ({"sampling": {"stages": {"retrieve": 0}}}, "greater than 0"),
        ({"sampling": {"requests": 1.5}}, "less than or equal to 1"),
    ],
)
def test_what_makes_no_sense_is_refused(wrong, message):
    with pytest.raises(ConfigError, match=message):
        FunnelAbout.parse({"stages": ("retrieve", "rank"), **wrong})


def test_roles_are_counted_from_the_ranker():
    about = FunnelAbout(stages=("retrieve", "filter", "prerank", "rank", "rules"))
    assert list(about.roles("rank").values()) == [
        "retrieved",
        "retrieved",
        "preranked",
        "ranked",
        "ranked",
        "exposed",
    ]
    assert about.roles("retrieve")["retrieve"] == "ranked"
    assert FunnelAbout(stages=("retrieve", "rank")).roles("rank")["retrieve"] == "preranked"
    with pytest.raises(ConfigError, match="no logged stage is called 'ranker'; did you mean 'rank'"):
        about.roles("ranker")


def test_a_file_describes_itself(tmp_path: Path):
    write_part(tmp_path / "a.parquet", ROWS, ABOUT)
    assert about_part(tmp_path / "a.parquet") == ABOUT
    assert pl.read_parquet(tmp_path / "a.parquet").equals(ROWS)
    assert [path.name for path in tmp_path.iterdir()] == ["a.parquet"]


def test_files_of_another_kind_are_refused(tmp_path: Path):
    path = tmp_path / "a.parquet"
    with pytest.raises(StorageError, match="not a sound Parquet file"):
        about_part(path)
    ROWS.write_parquet(path)
    with pytest.raises(StorageError, match="no log of a funnel, expected format 1"):
        about_part(path)
    ROWS.write_parquet(path, metadata={METADATA: '{"format": 2, "new": 1}'})
    with pytest.raises(StorageError, match="format 2, expected format 1"):
        about_part(path)
    write_part(path, ROWS, ABOUT)
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(StorageError, match="not a sound Parquet file"):
        about_part(path)
