"""What is served is what is read; what is killed loses its buffer, and nothing else."""

import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
import torch

from twotower.cascade import funnel_log
from twotower.cascade.deadline import Budget
from twotower.cascade.funnel_log import FunnelLog
from twotower.cascade.fuse import Fuse
from twotower.cascade.stage import Request, Stage, rank_pair
from twotower.cascade.trace import Trace
from twotower.data.catalogue import Catalogue
from twotower.data.full_stage import FullStage
from twotower.data.funnel import Funnel
from twotower.data.funnel_part import FunnelAbout, FunnelSampling
from twotower.errors import ConfigError, StorageError
from twotower.types import Batch, Candidates

N, Q = 60, 4
ITEMS = Catalogue(pl.Series("film", [f"f{n}" for n in range(N)]))
USERS = Catalogue(pl.Series("user", [f"u{n}" for n in range(Q)]))
STAGES = ("retrieve", "prerank", "rank")
NAMES = {"query": "user", "item": "film", "time": "timestamp"}


class Lottery(Stage):
    """Scores by a hash of query and item; first in a row, it draws its candidates as well."""

    bytes_per_item = 0.0

    def __init__(self, name, k, salt):
        super().__init__(name, k)
        self.salt = salt

    def run(self, request, candidates, k):
        user = request.query["user"][:, None]
        if candidates is None:
            keys = (user * 31 + self.salt + 7 * torch.arange(N // 2)) % N
            candidates = Candidates(keys, torch.zeros(keys.shape))
        scores = ((candidates.keys * 104729 + user * 7919 + self.salt) % 997).float()
        request.check_time()
        return rank_pair(self.name, Candidates(candidates.keys, scores, candidates.pair).sorted().best(k))


def answered(users=range(Q), **more):
    sources = Fuse([Lottery("near", 12, 1), Lottery("new", 12, 2)], k=20)
    cascade = sources >> Lottery("prerank", 10, 3) >> Lottery("rank", 5, 4)
    return cascade(Request(Batch(user=torch.tensor(list(users), dtype=torch.int64)), **more))[1]


def holding(keys):
    """The trace of one request in which every stage returned these items."""
    found = Candidates(torch.tensor([keys]), torch.zeros(1, len(keys)))
    return Trace(tuple(replace(step, output=found) for step in answered([0]).steps))


def log_of(folder, sampling=None, items=ITEMS, **more):
    about = FunnelAbout(stages=STAGES, sampling=sampling or FunnelSampling(), **NAMES)
    return FunnelLog(folder, about, items, **more)


def record(log, trace, first=0, **more):
    numbers = range(first, first + len(trace.steps[0].output.keys))
    return log.record(
        trace,
        requests=[f"r{n}" for n in numbers],
        queries=[f"u{n % Q}" for n in numbers],
        times=[100 + n for n in numbers],
        **more,
    )


def test_what_was_served_is_what_is_read(tmp_path: Path):
    trace = answered()
    with log_of(tmp_path) as log:
        assert record(log, trace, shown=3) == Q
    rows = Funnel(tmp_path).rows()
    assert rows["request"].unique(maintain_order=True).to_list() == ["r0", "r1", "r2", "r3"]
    assert not rows.select("request", "film").is_duplicated().any()
    assert (rows["weight"] == 1).all()
    for row in range(Q):
        mine = rows.filter(request=f"r{row}")
        assert set(mine["user"]) == {f"u{row}"}
        assert set(mine["timestamp"]) == {100 + row}
        for number, step in enumerate(trace.steps):
            served, name = step.output, step.stage
            there = served.mask[row]
            read = mine.drop_nulls(f"{name}_rank").sort(f"{name}_rank")
            assert read["film"].to_list() == ITEMS.ids(served.keys[row][there].numpy()).to_list()
            assert read[f"{name}_score"].to_list() == served.scores[row][there].tolist()
            assert mine.filter(pl.col("stage").is_in([*STAGES[number:], "exposed"])).height == len(read)
        shown = mine.filter(stage="exposed")
        assert shown["rank"].to_list() == [0, 1, 2]
        assert shown["score"].to_list() == trace.steps[-1].output.scores[row, :3].tolist()
    for sources, near, new in rows.select("sources", "from_near", "from_new").iter_rows():
        assert sources == ["near"] * int(near) + ["new"] * int(new)
        assert sources


def test_the_log_teaches_the_stages_that_wrote_it(tmp_path: Path):
    trace = answered()
    with log_of(tmp_path) as log:
        record(log, trace, shown=2)
    best = trace.steps[-1].output.keys[:, 0]
    clicks = pl.DataFrame({"user": USERS.all_ids(), "film": ITEMS.ids(best.numpy())})
    clicks = clicks.with_columns(timestamp=pl.Series([110, 110, 170, 110]), gain=pl.lit(1.0))
    found = Funnel(tmp_path).full_stage(clicks, "rank", queries=USERS, items=ITEMS, within_s=60)
    assert found.notes == ()
    full = FullStage.of_log(found.rows, USERS, ITEMS)
    counts = full.counts()
    assert full.query_keys.tolist() == list(range(Q))
    assert full.gains.sum(1).tolist() == [1, 1, 0, 1]  # u2 came more than a minute later
    assert (counts["exposed_positive"], counts["exposed_negative"]) == (3, 5)
    retrieved = int(trace.steps[0].output.counts.sum()) - 10 * Q
    assert [counts[role] for role in ("ranked", "preranked", "retrieved")] == [3 * Q, 5 * Q, retrieved]
    assert torch.equal(full.items[:, 0], best)
    assert torch.equal(full.teacher[:, :5], trace.steps[-1].output.scores)
    assert full.teacher[:, 5:].isnan().all()


def test_requests_are_logged_whole_or_not_at_all(tmp_path: Path):
    users = [n % Q for n in range(200)]
    thin = FunnelSampling(requests=0.3, stages={"retrieve": 0.5})
    with log_of(tmp_path / "some", thin) as log:
        taken = record(log, answered(users))
    with log_of(tmp_path / "all") as log:
        record(log, answered(users))
    some, everything = Funnel(tmp_path / "some").rows(), Funnel(tmp_path / "all").rows()
    assert taken == some["request"].n_unique()
    assert 40 < taken < 80
    served = everything.join(some.select("request").unique(), on="request", how="semi", maintain_order="left")
    for stage in ("prerank", "exposed"):
        assert some.filter(stage=stage).drop("weight").equals(served.filter(stage=stage).drop("weight"))
    early, all_early = some.filter(stage="retrieve"), served.filter(stage="retrieve")
    assert early.height == pytest.approx(all_early.height / 2, rel=0.15)
    assert early.join(all_early, on=["request", "film"], how="anti").is_empty()
    assert some["weight"].sum() == pytest.approx(everything.height, rel=0.3)
    with log_of(tmp_path / "again", thin) as log:
        for number in range(0, 200, 10):  # other batches, the same choice
            record(log, answered(users[number : number + 10]), first=number)
    assert Funnel(tmp_path / "again").rows().equals(some)


def test_a_degraded_stage_is_told(tmp_path: Path):
    late = answered(budget=Budget(stages={"rank": 1e-6}))
    assert late.degraded == ("rank",)
    with log_of(tmp_path) as log:
        record(log, late)
        record(log, answered(), first=Q)
    rows = Funnel(tmp_path).rows()
    told = rows.group_by("request").agg(pl.col("degraded").first()).sort("request")["degraded"].to_list()
    assert told == [["rank"]] * Q + [[]] * Q
    exposed = rows.filter(stage="exposed")
    assert exposed.height == 10 * Q
    assert exposed["rank_score"].null_count() == 5 * Q  # nobody ranked


def test_strangers_empty_answers_and_other_depths(tmp_path: Path):
    with log_of(tmp_path) as log:
        assert record(log, answered(depths={"retrieve": 0})) == Q
        assert log.record(answered([]), requests=[], queries=[], times=[]) == 0
        log.flush()
        assert not list(tmp_path.iterdir())
        one = answered([0], depths={"rank": 2})
        log.record(one, requests=["x"], queries=[None], times=[5])
        log.flush()
        record(log, answered([1]), first=1)
    rows = Funnel(tmp_path).rows()
    assert set(rows.filter(request="x")["user"]) == {None}
    shown = rows.filter(stage="exposed").group_by("request").len().sort("request")
    assert shown.rows() == [("r1", 5), ("x", 2)]


def files(folder):
    """Waits for a file, at most ten seconds."""
    for _ in range(1000):
        if found := list(folder.glob("*.parquet")):
            return found
        time.sleep(0.01)
    raise AssertionError("no file after ten seconds")


def test_a_full_buffer_and_an_old_one_are_written(tmp_path: Path):
    with log_of(tmp_path / "full", buffer=3 * (20 + 10 + 5 + 1), seconds=1000) as log:
        for number in range(3):
            assert not list((tmp_path / "full").iterdir())
            record(log, answered([number]), first=number)
        assert len(files(tmp_path / "full")) == 1
        record(log, answered([3]), first=3)
        assert Funnel(tmp_path / "full").rows()["request"].n_unique() == 3
    assert Funnel(tmp_path / "full").rows()["request"].n_unique() == 4
    with log_of(tmp_path / "old", seconds=0.05) as log:
        record(log, answered())
        assert len(files(tmp_path / "old")) == 1


def test_a_disk_that_refuses_costs_what_does_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(*_):
        raise StorageError("the disk is full")

    write = funnel_log.write_part
    monkeypatch.setattr(funnel_log, "write_part", refuse)
    log = log_of(tmp_path, buffer=10**9, seconds=1000)
    record(log, answered([0]))
    for _ in range(2):
        with pytest.raises(StorageError, match="the disk is full"):
            log.flush()
    log.buffer = 40  # two requests fit into twice as much
    assert [record(log, answered([0]), first=number) for number in range(1, 5)] == [1, 0, 0, 0]
    assert log.dropped == 3
    for _ in range(1000):
        if log.error is not None:
            break
        time.sleep(0.01)
    assert str(log.error) == "the disk is full"
    with pytest.raises(StorageError, match="the disk is full"):
        log.close()
    monkeypatch.setattr(funnel_log, "write_part", write)
    log.close()
    assert Funnel(tmp_path).rows()["request"].unique().sort().to_list() == ["r0", "r1"]
    assert record(log, answered([0])) == 0  # too late, and counted
    assert log.dropped == 4


def test_what_cannot_be_written_does_not_stop_the_rest(tmp_path: Path):
    log = log_of(tmp_path)
    record(log, holding([N + 1, 1]))
    with pytest.raises(pl.exceptions.OutOfBoundsError):
        log.flush()
    assert log.dropped == 1
    record(log, holding([2, 1]))
    log.close()
    assert Funnel(tmp_path).rows()["film"].to_list() == ["f2", "f1"]


def test_two_writers_may_share_a_folder(tmp_path: Path):
    with log_of(tmp_path) as one, log_of(tmp_path) as other:
        record(one, answered())
        record(other, answered(), first=Q)
    assert len(Funnel(tmp_path).parts) == 2
    assert Funnel(tmp_path).rows()["request"].n_unique() == 2 * Q


def test_what_does_not_fit_is_named(tmp_path: Path):
    with log_of(tmp_path) as log:
        with pytest.raises(ConfigError, match="4 requests were answered, but there are 1 ids"):
            log.record(answered(), requests=["a"], queries=["u"] * 4, times=[1] * 4)
        with pytest.raises(ConfigError, match="got a trace of"):
            record(log, Trace(answered().steps[1:]))
    with pytest.raises(ConfigError, match="buffer must be at least 1"):
        log_of(tmp_path, buffer=0)
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="could not be made"):
        log_of(tmp_path / "file")


def test_kill_nine_leaves_whole_files_and_loses_the_buffer_alone(tmp_path: Path):
    program = Path(__file__).parent / "killed_funnel.py"
    command = [sys.executable, str(program), str(tmp_path), "6", "0"]
    said = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert said.returncode == 0, said.stderr
    found = json.loads(said.stdout)
    assert found["kills"] == 6
    assert found["requests"] > 100
