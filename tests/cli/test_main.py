"""The command line: exit codes, what goes where, and every command once."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys

import polars as pl
import pytest

from twotower import __version__
from twotower.config import dump_yaml
from twotower.data.funnel import Funnel
from twotower.models.catalogue import load_model
from twotower.pipeline.pipeline import Pipeline
from twotower.train.interrupts import Interrupted


@pytest.fixture
def recipe(tiny, tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(dump_yaml(tiny()))
    return path


@pytest.fixture
def finished(trained, tmp_path):
    """A copy of the finished run."""
    return shutil.copytree(trained.directory, tmp_path / "run")


def strict(text):
    """JSON and nothing else, without Python's NaN."""

    def refuse(word):
        raise AssertionError(f"{word} is no JSON")

    return json.loads(text, parse_constant=refuse)


# -- run, prepare, train, evaluate -------------------------------------------------------------------


def test_run_ends_with_the_funnel_and_where_it_lies(twotower, recipe, finished):
    result = twotower("run", recipe, "--out", finished)
    assert result.exit_code == 0
    assert "Funnel\nstage" in result.stdout
    assert "retrieve(30)" in result.stdout
    assert "retriever: trained already" in result.stderr
    assert result.stderr.endswith(f"written to {finished}\n")


def test_json_is_all_there_is_on_standard_output(twotower, recipe, finished):
    result = twotower("run", recipe, "--out", finished, "--json")
    assert strict(result.stdout)["stages"][1]["stage"] == "rank"
    assert "evaluating" in result.stderr


def test_quiet_says_nothing_beside_the_result(twotower, recipe, finished):
    result = twotower("evaluate", recipe, "--out", finished, "--json", "-q")
    assert strict(result.stdout)["name"] == "tiny"
    assert result.stderr == ""


def test_prepare_prints_the_leakage_report(twotower, recipe, tmp_path):
    result = twotower("prepare", recipe, "--out", tmp_path / "run")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "rows of cold items" in result.stderr
    again = twotower("prepare", recipe, "--out", tmp_path / "run", "--json")
    assert strict(again.stdout)["parts"]["train"]["rows"] > 0
    assert "reading" not in again.stderr


def test_train_says_what_it_made(twotower, recipe, finished):
    plain = twotower("train", recipe, "--out", finished)
    assert "retriever: class TwoTower, parameters" in plain.stdout
    models = strict(twotower("train", recipe, "--out", finished, "--json").stdout)
    assert models["ranker"]["digest"] == load_model(finished / "models/ranker").digest()


def test_set_and_seed_change_the_recipe_that_is_kept(twotower, recipe, tmp_path):
    changes = ["--set", "split.kind=by-user", "--set", "cascade.0.k=17", "--seed", "4"]
    assert twotower("prepare", recipe, "--out", tmp_path / "run", *changes).exit_code == 0
    kept = Pipeline.open(tmp_path / "run").recipe
    assert (kept.split.kind, kept.cascade[0].k, kept.seed) == ("by-user", 17, 4)


def test_a_run_lies_in_runs_under_its_name_unless_told(twotower, recipe, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert twotower("prepare", recipe).exit_code == 0
    assert (tmp_path / "runs/tiny/data/events.parquet").exists()


def test_skipped_rows_stay_skipped_in_later_steps(twotower, tiny, tmp_path):
    """Later commands read the same data the same way, and a run may lie among its data."""
    recipe, out = tmp_path / "r.yaml", tmp_path / "run"
    (tmp_path / "log.csv").write_text("user,item,click\n1,5,1\n1,6,maybe\n2,5,0\n")
    plain = tiny("split={kind: by-user, fractions: [1, 0, 0]}")
    fields = [("user", "id", "query"), ("item", "id", "item"), ("click", "number", "label")]
    named = [dict(zip(("name", "kind", "role"), field, strict=True)) for field in fields]
    schema = {"query": "user", "item": "item", "fields": named}
    plain["data"] = {"reader": "tabular", "schema": schema, "interactions": {"file": "log.csv"}}
    recipe.write_text(dump_yaml(plain))
    arguments = (recipe, "--data", tmp_path, "--out", out, "--on-error", "skip")
    assert "1 broken row dropped, first in line 3" in twotower("prepare", *arguments).stderr
    assert "reading" not in twotower("train", *arguments).stderr
    assert len(Pipeline.open(out).prepared.dataset.events) == 2


# -- recommend ---------------------------------------------------------------------------------------


def test_recommend_answers_for_a_known_user(twotower, trained):
    result = twotower("recommend", trained.directory, "--user", "1000001", "--k", "3")
    assert result.exit_code == 0
    assert result.stdout.startswith("user 1000001\nrank  item")
    assert "rank: 24 -> 3 in" in result.stdout


def test_recommend_keeps_to_what_this_request_may_be_shown_and_take(twotower, trained, tmp_path):
    asked = ("recommend", trained.directory, "--user", "1000001", "--json")
    first = [row["item"] for row in json.loads(twotower(*asked).stdout)["items"]]
    only = json.dumps({"ids": first[:2]})
    told = json.loads(
        twotower(*asked, "--where", only, "--budget", "rank=0", "--log", tmp_path / "served").stdout
    )
    assert {row["item"] for row in told["items"]} == set(first[:2])
    assert told["degraded"] == ["rank"]
    assert set(Funnel(tmp_path / "served").rows()["request"]) == {told["request"]}
    assert json.loads(twotower(*asked, "--budget", "60000").stdout)["items"][0]["item"] == first[0]
    for wrong in ("soon", "rank=", "-1", "nan"):
        result = twotower(*asked, "--budget", wrong)
        assert (result.exit_code, "expected milliseconds" in result.stderr) == (2, True)


def test_recommend_answers_for_someone_unseen(twotower, trained):
    result = twotower(
        "recommend", trained.directory, "--features", '{"country": "de"}', "--history", "50000003, 50000006,",
        "--k", "4", "--depth", "retrieve=25", "--json",
    )  # fmt: skip
    answer = strict(result.stdout)
    assert [item["rank"] for item in answer["items"]] == [1, 2, 3, 4]
    assert answer["trace"][0]["out"] == 25
    assert set(answer["items"][0]) == {"rank", "item", "title", "retrieve score", "rank score"}


def test_k_above_the_catalogue_gives_all_there_is(twotower, trained):
    result = twotower("recommend", trained.directory, "--features", "{}", "--k", "5000", "--json")
    assert len(strict(result.stdout)["items"]) == 120


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--user", "nobody"], "no user has the id 'nobody'; describe an unseen one with its features"),
        ([], "name a known user, or give the features"),
        (["--history", "50000003"], "--features '{}'"),
        (["--features", "{}", "--history", "50000003,7"], "the catalogue holds no item 7"),
        (["--features", "{country: de}"], "--features is not valid JSON"),
        (["--features", "[]"], "--features must be a JSON object"),
        (["--features", '{"contry": "de"}'], "unknown field 'contry'; did you mean 'country'?"),
        (["--features", "{}", "--depth", "retrieve"], "--depth 'retrieve': expected stage=number"),
        (["--features", "{}", "--depth", "retrieve=-3"], "expected stage=number"),
        (["--features", "{}", "--depth", "prerank=3"], "stages: retrieve(30) >> rank(10)"),
        (["--features", "{}", "--k", "0"], "--k"),
    ],
)
def test_what_recommend_cannot_answer(twotower, trained, arguments, message):
    result = twotower("recommend", trained.directory, *arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr


# -- inspect, help ---------------------------------------------------------------------------


def test_inspect_a_run(twotower, trained):
    assert "steps done:" in twotower("inspect", trained.directory).stdout
    about = strict(twotower("inspect", trained.directory, "--json").stdout)
    assert about["models"]["ranker"]["model"] == "dcn-v2"


def test_inspect_a_recipe_fills_in_every_default(twotower, recipe):
    full = strict(twotower("inspect", recipe, "--json").stdout)
    assert full["models"]["ranker"]["train"]["optimizer"] == "adam"
    assert "optimizer: adam" in twotower("inspect", recipe).stdout


def test_the_package_runs_as_the_command():
    done = subprocess.run([sys.executable, "-m", "twotower", "--version"], capture_output=True, text=True)
    assert (done.returncode, done.stdout.split()[-1]) == (0, __version__)


def test_version_and_help(twotower):
    assert twotower("--version").stdout == f"twotower {__version__}\n"
    assert "Usage" in twotower("--help").stdout
    for command in ("run", "prepare", "train", "evaluate", "recommend", "inspect", "schema"):
        assert command in twotower("--help").stdout
        assert twotower(command, "--help").exit_code == 0


def test_help_says_what_depths_are_of_and_where_the_leakage_report_goes(twotower):
    def plain(command):
        return " ".join(twotower(command, "--help").stdout.split())

    for command in ("recommend", "search"):
        assert "Depth of a stage or source, such as" in plain(command)
    assert "leakage report of the split goes to standard error" in plain("prepare")


# -- exit codes --------------------------------------------------------------------------------------


def test_2_for_a_wrong_recipe_or_argument(twotower, recipe, tmp_path):
    for arguments, message in (
        (("run", tmp_path / "none.yaml"), "no such file"),
        (("run", recipe, "--set", "seed"), "expected key=value"),
        (("run", recipe, "--set", "splitt=1"), "unknown key 'splitt'; did you mean 'split'?"),
        (("run", recipe, "--set", "models.ranker.objective={}"), "objective: kind is missing; known: counts"),
        (("run", recipe, "--sed", "1"), "--sed"),
        (("run",), "Missing argument"),
        (("rnu",), "rnu"),
    ):
        result = twotower(*arguments)
        assert (result.exit_code, result.stdout) == (2, ""), arguments
        assert message in result.stderr
    assert not (tmp_path / "runs").exists()


def test_a_model_of_ones_own_that_is_not_found_comes_with_the_remedy(twotower, recipe, tmp_path, monkeypatch):
    asked = ("run", recipe, "--set", "models.ranker.model=my_model:Factors")
    found = twotower(*asked)
    assert found.exit_code == 2
    assert (
        "No module named 'my_model'; install its package, or run `PYTHONPATH=. twotower ...`" in found.stderr
    )

    (tmp_path / "my_model.py").write_text("import nowhere_at_all\n")
    monkeypatch.syspath_prepend(tmp_path)
    found = twotower(*asked)  # it is found; what it misses is another package
    assert "No module named 'nowhere_at_all'\n" in found.stderr


def test_65_for_broken_data(twotower, recipe, tmp_path):
    changes = ["--set", "data={reader: movielens}", "--data", tmp_path / "none"]
    result = twotower("prepare", recipe, "--out", tmp_path / "run", *changes)
    assert result.exit_code == 65
    assert result.stderr.startswith("reading")
    assert "twotower: " in result.stderr


def test_69_for_a_missing_extra(twotower, recipe, finished, monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    result = twotower("train", recipe, "--out", finished, "--set", "cascade.0.index.kind=faiss", "-q")
    assert result.exit_code == 69
    assert "pip install 'twotower[faiss]'" in result.stderr


def test_70_for_artefacts_that_do_not_belong_together(twotower, finished):
    path = finished / "data/golden/items.parquet"
    rows = pl.read_parquet(path)
    rows.with_columns(category=pl.col("category").shift(1)).write_parquet(path)
    result = twotower("recommend", finished, "--user", "1000001")
    assert result.exit_code == 70
    assert "golden rows" in result.stderr


def test_74_for_what_cannot_be_read(twotower, tmp_path, finished):
    assert twotower("recommend", tmp_path, "--user", "1").exit_code == 74
    assert "start one with: twotower run" in twotower("inspect", tmp_path).stderr
    (finished / "models/ranker/model.safetensors").write_bytes(b"cut")
    result = twotower("recommend", finished, "--user", "1000001")
    assert result.exit_code == 74
    assert "the model cannot be read" in result.stderr


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (KeyboardInterrupt(), 130, "interrupted: run the same command again: finished steps are skipped"),
        (Interrupted("stopped by SIGINT", signal.SIGINT), 130, "interrupted: stopped by SIGINT"),
        (Interrupted("stopped by SIGTERM", signal.SIGTERM), 143, "interrupted: stopped by SIGTERM"),
        (BrokenPipeError(), 141, ""),
    ],
)
def test_interrupts_and_closed_pipes_have_codes_of_their_own(
    twotower, recipe, tmp_path, monkeypatch, error, code, message
):
    def fail(self):
        raise error

    monkeypatch.setattr(Pipeline, "prepare", fail)
    result = twotower("run", recipe, "--out", tmp_path / "run")
    assert result.exit_code == code
    assert message in result.stderr


def test_a_bug_keeps_its_traceback(twotower, recipe, tmp_path, monkeypatch):
    def fail(self):
        raise ZeroDivisionError

    monkeypatch.setattr(Pipeline, "prepare", fail)
    assert isinstance(twotower("run", recipe, "--out", tmp_path / "run").exception, ZeroDivisionError)
