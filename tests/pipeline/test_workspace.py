"""Which steps are done, and what they were made from."""

import os
import shutil

import pytest

from twotower.errors import StorageError
from twotower.pipeline.pipeline import Pipeline
from twotower.pipeline.recipe import Recipe
from twotower.pipeline.workspace import Workspace, fingerprint, write_text


@pytest.fixture
def space(tmp_path):
    return Workspace(tmp_path / "run")


def test_a_step_is_done_for_its_own_inputs_only(space):
    space.begin("train a", "one")
    assert not space.done("train a", "one")
    space.finish("train a", "one")
    assert space.done("train a", "one")
    assert not space.done("train a", "two")
    assert not space.done("train b", "one")


def test_a_step_whose_output_is_gone_is_not_done(space, tmp_path):
    (tmp_path / "made").touch()
    space.finish("train a", "one")
    assert space.done("train a", "one", tmp_path / "made")
    assert not space.done("train a", "one", tmp_path / "made", tmp_path / "gone")


def test_only_the_same_inputs_may_go_on(space):
    assert not space.resumable("train a", "one")
    space.begin("train a", "one")
    assert space.resumable("train a", "one")
    assert not space.resumable("train a", "two")
    assert space.finished() == {}
    space.finish("train a", "one")
    assert space.resumable("train a", "one")
    assert space.finished() == {"train a": "one"}


def test_beginning_removes_what_it_is_told_to(space, tmp_path):
    (tmp_path / "old").mkdir()
    (tmp_path / "old/file").touch()
    (tmp_path / "kept").touch()
    space.begin("prepare", "one", tmp_path / "old", tmp_path / "never there")
    assert not (tmp_path / "old").exists()
    assert (tmp_path / "kept").exists()


def test_a_memory_that_cannot_be_read_says_what_to_do(space):
    write_text(space.directory / "steps.json", "{")
    with pytest.raises(StorageError, match=r"steps.json: not readable.*remove it"):
        space.done("prepare", "one")


def test_fingerprints_are_of_content():
    assert fingerprint({"a": 1, "b": 2}, [3]) == fingerprint({"b": 2, "a": 1}, [3])
    assert fingerprint({"a": 1}) != fingerprint({"a": 2})
    assert fingerprint("a", "b") != fingerprint("ab")


def test_data_is_told_apart_by_names_and_content(space, tmp_path):
    data = tmp_path / "data"
    write_text(data / "a.csv", "1")
    before = space.digests_of(data)
    write_text(data / "a.csv", "2")
    changed = space.digests_of(data)
    write_text(data / "b/c.csv", "")
    assert before.keys() == changed.keys() == {"a.csv"}
    assert before != changed
    assert space.digests_of(data) == changed | {"b/c.csv": space.digests_of(data / "b/c.csv")["c.csv"]}
    assert space.digests_of(tmp_path / "none") == space.digests_of(None) == {}


def test_data_copied_elsewhere_or_touched_is_the_same(space, tmp_path):
    write_text(tmp_path / "data/a.csv", "1")
    before = space.digests_of(tmp_path / "data")
    shutil.copytree(tmp_path / "data", tmp_path / "copy")
    os.utime(tmp_path / "copy/a.csv", (1, 1))
    assert space.digests_of(tmp_path / "copy") == before


def test_only_what_changed_is_read_again(space, tmp_path):
    for name in "ab":
        write_text(tmp_path / f"data/{name}.csv", "1")
    before = space.digests_of(tmp_path / "data")
    times = (tmp_path / "data/a.csv").stat()
    (tmp_path / "data/a.csv").write_text("2")
    os.utime(tmp_path / "data/a.csv", ns=(times.st_atime_ns, times.st_mtime_ns))
    assert space.digests_of(tmp_path / "data") == before  # size and time are as noted
    (space.directory / "files.json").write_text("{")
    assert space.digests_of(tmp_path / "data") != before


def test_a_file_replaced_within_a_tick_of_the_clock_is_read(space, tmp_path):
    write_text(tmp_path / "data/a.csv", "1")
    before, times = space.digests_of(tmp_path / "data"), (tmp_path / "data/a.csv").stat()
    write_text(tmp_path / "data/a.csv", "2")
    os.utime(tmp_path / "data/a.csv", ns=(times.st_atime_ns, times.st_mtime_ns))
    assert space.digests_of(tmp_path / "data") != before


def test_a_run_among_its_data_is_no_data(tmp_path):
    space = Workspace(tmp_path / "run")
    write_text(tmp_path / "a.csv", "1")
    write_text(space.data / "items.parquet", "")
    assert space.digests_of(tmp_path).keys() == {"a.csv"}


def test_text_is_replaced_at_once(tmp_path):
    write_text(tmp_path / "deep/er/a.txt", "one")
    write_text(tmp_path / "deep/er/a.txt", "two")
    assert [path.name for path in (tmp_path / "deep/er").iterdir()] == ["a.txt"]
    assert (tmp_path / "deep/er/a.txt").read_text() == "two"


def test_where_no_directory_can_be_made_it_says_so(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="could not be made"):
        write_text(tmp_path / "file/below/a.txt", "one")


def test_a_run_is_prepared_and_trained_by_one_process_at_a_time(tiny, tmp_path):
    pipeline = Pipeline(Recipe.parse(tiny()), tmp_path)
    pipeline.prepare()
    with Workspace(tmp_path).alone():
        for step in (pipeline.prepare, pipeline.train):
            with pytest.raises(StorageError, match="another process is at work in this run; wait for it"):
                step()
    pipeline.prepare()


def test_a_run_in_a_place_that_cannot_be_written_is_refused(tiny, tmp_path):
    (tmp_path / "file").touch()
    pipeline = Pipeline(Recipe.parse(tiny()), tmp_path / "file")
    with pytest.raises(StorageError, match="file: could not be written: "):
        pipeline.prepare()
