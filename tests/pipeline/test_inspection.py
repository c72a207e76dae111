"""What a run directory says of itself."""

import json
import shutil

import pytest

from twotower.errors import StorageError
from twotower.pipeline.inspection import inspect_run
from twotower.pipeline.pipeline import Pipeline
from twotower.pipeline.recipe import Recipe


def test_a_finished_run_shows_steps_data_models_and_results(trained):
    about = inspect_run(trained.directory)
    assert about["run"] == "tiny"
    assert about["steps done"] == [
        "build ranker",
        "build retriever",
        "measure after ranker",
        "measure after retriever",
        "prepare",
        "train ranker",
        "train retriever",
    ]
    assert "click (number, label)" in about["data"]["fields"]
    assert "history (sequence, query)" in about["data"]["fields"]
    assert about["data"]["split"]["split"] == "time"
    for name in ("retriever", "ranker"):
        model = about["models"][name]
        assert model["digest"] == trained.pipeline.model(name).digest()
        assert model["training"]["steps"] > 0
        assert model["size_mb"] > 0
    assert about["results"] == trained.report.plain()
    json.dumps(about)


def test_a_run_that_was_only_prepared_shows_that(tiny, tmp_path):
    Pipeline(Recipe.parse(tiny()), tmp_path).prepare()
    about = inspect_run(tmp_path)
    assert about["steps done"] == ["prepare"]
    assert about["models"] == {}
    assert "results" not in about


def test_a_damaged_file_is_named(trained, tmp_path):
    copy = shutil.copytree(trained.directory, tmp_path / "run")
    (copy / "models/ranker/model.json").write_text("{")
    with pytest.raises(StorageError, match=r"ranker/model.json: not readable"):
        inspect_run(copy)


def test_there_is_nothing_to_see_where_there_is_no_run(tmp_path):
    with pytest.raises(StorageError, match="no run here"):
        inspect_run(tmp_path)
