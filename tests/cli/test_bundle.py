"""``twotower bundle``: every command once, and what it says when it refuses."""

from __future__ import annotations

import json

import pytest


@pytest.fixture
def root(twotower, trained, tmp_path):
    result = twotower("bundle", "build", trained.directory, tmp_path / "bundles")
    assert result.exit_code == 0
    assert result.stdout.startswith("Bundle(0001-")
    return tmp_path / "bundles"


def test_build_verify_diff_and_rollback(twotower, trained, root):
    plan = root.parent / "plan.json"
    plan.write_text('{"retrieve": 20}')
    built = twotower("bundle", "build", trained.directory, root, "--no-people", "--plan", plan, "--json")
    second = json.loads(built.stdout)
    assert second["version"].startswith("0002-")
    assert (second["items"], second["queries"]) == (120, 0)
    assert "whole, and answers as it did" in twotower("bundle", "verify", root).stdout
    assert "sizes only" in twotower("bundle", "verify", root, "--fast").stdout
    about = json.loads(twotower("bundle", "verify", root, "--fast", "--json").stdout)
    assert about["version"] == second["version"]
    rolled = twotower("bundle", "rollback", root)
    first = rolled.stdout.split()[0]
    assert rolled.stdout == f"{first} is current\n"
    assert first.startswith("0001-")
    changes = twotower("bundle", "diff", root, root / second["version"])
    assert "plan: none -> {'retrieve': 20}" in changes.stdout
    assert "number of queries: 150 -> 0" in changes.stdout
    plain = json.loads(twotower("bundle", "diff", root, root / second["version"], "--json").stdout)
    assert plain["parts"]["plan"] == [None, {"retrieve": 20}]


def test_what_is_refused_has_the_exit_code_of_its_kind(twotower, trained, root, tmp_path):
    first_only = twotower("bundle", "rollback", root)
    assert (first_only.exit_code, first_only.stdout) == (2, "")
    assert "there is none to go back to" in first_only.stderr
    assert twotower("bundle", "verify", tmp_path).exit_code == 74
    assert twotower("bundle", "build", tmp_path / "none", root).exit_code == 74
    index = next(root.glob("0001-*/index/retriever/vectors-*"))
    index.chmod(0o644)
    index.write_bytes(bytes(index.stat().st_size))
    damaged = twotower("bundle", "verify", root)
    assert damaged.exit_code == 74
    assert "its checksum is wrong" in damaged.stderr
    assert twotower("bundle", "verify", root, "--fast").exit_code == 70


def test_a_version_answers_from_within_and_through_a_link(twotower, root, tmp_path, monkeypatch):
    version = next(root.glob("0001-*[0-9a-f]"))
    (tmp_path / "production").symlink_to(version)
    monkeypatch.chdir(version)
    for path in (".", tmp_path / "production"):
        assert "whole, and answers as it did" in twotower("bundle", "verify", path).stdout
        assert twotower("recommend", path, "--user", 1000001, "--k", 1).exit_code == 0
    assert "both are this version" in twotower("bundle", "diff", version, root).stdout


def test_reading_begins_no_log_of_items(twotower, root, tmp_path):
    """A mistyped name is said, instead of being answered as if nothing had changed."""
    typo = tmp_path / "itmes.sqlite"
    for command in (("recommend", root, "--user", 1000001), ("search", root, "tent")):
        refused = twotower(*command, "--items", typo)
        assert refused.exit_code == 74
        assert f"{typo}: there is no such log of items" in refused.stderr
        assert not typo.exists()
    typo.touch()
    assert "is empty" in twotower("recommend", root, "--user", 1000001, "--items", typo).stderr
    assert typo.stat().st_size == 0
    log = tmp_path / "items.sqlite"
    assert twotower("items", "delete", root, 50000003, "--log", log).exit_code == 0
    assert twotower("recommend", root, "--user", 1000001, "--items", log).exit_code == 0


@pytest.mark.parametrize("content", ['"x"', "[1, 2]", "null", "{"])
def test_a_plan_that_is_no_object_is_refused(twotower, trained, tmp_path, content):
    plan = tmp_path / "plan.json"
    plan.write_text(content)
    refused = twotower("bundle", "build", trained.directory, tmp_path / "bundles", "--plan", plan)
    assert refused.exit_code == (74 if content == "{" else 2)
    assert str(plan) in refused.stderr
    assert not (tmp_path / "bundles").exists()


def test_help_shows_every_command(twotower):
    for command in ("build", "verify", "diff", "rollback"):
        assert command in twotower("bundle", "--help").stdout
        assert "Example: twotower bundle " in twotower("bundle", command, "--help").stdout
