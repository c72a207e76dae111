"""``twotower report``: the file, the words, and the refusals."""

import shutil

import pytest


@pytest.fixture
def run(trained, tmp_path):
    return shutil.copytree(trained.directory, tmp_path / "run")


def test_it_writes_into_the_run_and_says_where(twotower, run):
    result = twotower("report", run, "--requests", 2)
    assert result.exit_code == 0
    path = run / "results" / "funnel.html"
    assert result.stdout == f"{path}\n"
    assert "evaluating retrieve(30) >> rank(10)" in result.stderr
    assert path.read_text(encoding="utf-8").startswith("<!doctype html>")


def test_options_are_heard(twotower, run, tmp_path):
    out = tmp_path / "valid.html"
    result = twotower("report", run, "--out", out, "--part", "valid", "--requests", 0, "--quiet")
    assert (result.exit_code, result.stderr) == (0, "")
    assert "of the valid part" in out.read_text(encoding="utf-8")


def test_refusals_have_their_exit_codes(twotower, run, tmp_path):
    assert twotower("report", tmp_path / "none").exit_code == 74
    assert twotower("report", run, "--part", "train").exit_code == 2
    assert twotower("report", run, "--requests", -1).exit_code == 2
    assert "Example: twotower report" in twotower("report", "--help").stdout
