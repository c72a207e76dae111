"""Complaints say where, what was found, and what would be right."""

from typing import Annotated, Literal

import pytest
from pydantic import Field, ValidationError, model_validator

from twotower.config import Config, dump_yaml, load_yaml, nearest
from twotower.errors import ConfigError


class Mean(Config):
    kind: Literal["mean"] = "mean"
    size: int = 1


class Attention(Config):
    kind: Literal["attention"] = "attention"
    blocks: int = Field(2, ge=1)


class Model(Config):
    rate: float = 0.1
    past: Annotated[Mean | Attention, Field(discriminator="kind")] = Mean()


class Recipe(Config):
    name: str
    models: dict[str, Model] = Field(default_factory=dict)
    stages: tuple[Mean, ...] = ()

    @model_validator(mode="after")
    def _check(self):
        if "best" in self.models:
            raise ValueError("no model is the best")
        return self


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"name": "x", "nmae": "y"}, "r.yaml: unknown key 'nmae'; did you mean 'name'?"),
        ({"name": "x", "qqq": 1}, "r.yaml: unknown key 'qqq'; known: models, name, stages"),
        (
            {"name": "x", "models": {"a": {"rat": 1}}},
            "r.yaml: models.a: unknown key 'rat'; did you mean 'rate'?",
        ),
        (
            {"name": "x", "stages": [{}, {"siez": 1}]},
            "r.yaml: stages.1: unknown key 'siez'; did you mean 'size'?",
        ),
        (
            {"name": "x", "models": {"a": {"past": {"kind": "attention", "block": 1}}}},
            "r.yaml: models.a.past.attention: unknown key 'block'; did you mean 'blocks'?",
        ),
        ({}, "r.yaml: name: Field required"),
        ({"name": "x", "models": {"a": {"rate": "fast"}}}, "r.yaml: models.a.rate: .* (found 'fast')"),
        (
            {"name": "x", "models": {"a": {"past": {"kind": "attention", "blocks": 0}}}},
            "r.yaml: models.a.past.attention.blocks: .*greater than or equal to 1 (found 0)",
        ),
        ({"name": "x", "models": {"best": {}}}, "r.yaml: no model is the best"),
        ([1], "r.yaml: value: .* (found [1])"),
    ],
)
def test_every_complaint_is_one_that_helps(values, message):
    with pytest.raises(ConfigError) as caught:
        Recipe.parse(values, where="r.yaml")
    before, _, after = message.partition(".*")
    assert str(caught.value).startswith(before)
    assert str(caught.value).endswith(after)


def test_all_complaints_come_at_once():
    with pytest.raises(ConfigError) as caught:
        Recipe.parse({"nam": "x", "stages": [{"size": "big"}]})
    assert len(str(caught.value).splitlines()) == 3


def test_a_config_does_not_change():
    with pytest.raises(ValidationError):
        Mean().size = 3


def test_plain_data_parses_back():
    recipe = Recipe.parse({"name": "x", "models": {"a": {"past": {"kind": "attention", "blocks": 3}}}})
    assert Recipe.parse(recipe.plain()) == recipe


def test_yaml_keeps_the_order_and_parses_back(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text(dump_yaml({"z": [1, 2], "a": {"name": "Müller"}}), encoding="utf-8")
    assert load_yaml(path) == {"z": [1, 2], "a": {"name": "Müller"}}
    assert path.read_text(encoding="utf-8").startswith("z:")


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "no such file"), (b"a: [1", "not valid YAML.*line 1"), (b"a: \xff", "not valid YAML")],
)
def test_an_unreadable_file_is_named(tmp_path, content, message):
    path = tmp_path / "r.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=rf"(?s)r.yaml: {message}"):
        load_yaml(path)


def test_a_key_that_stands_twice_is_an_error_with_its_line(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text("a: 1\nb: {c: 1}\na: 2\n")
    with pytest.raises(ConfigError, match=r"(?s)the key 'a' stands twice.*line 3"):
        load_yaml(path)
    path.write_text("a: &base {x: 1, y: 2}\nb: {<<: *base, x: 3}\nc: {a: 1, b: {a: 1}}\n")
    assert load_yaml(path)["b"] == {"x": 3, "y": 2}


def test_a_directory_is_no_recipe(tmp_path):
    with pytest.raises(ConfigError, match="is a directory"):
        load_yaml(tmp_path)


def test_yaml_runs_no_code(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text("!!python/object/apply:os.getcwd []")
    with pytest.raises(ConfigError, match="not valid YAML"):
        load_yaml(path)


def test_the_nearest_word_or_all_of_them():
    assert nearest("retreive", ["retrieve", "rank"]) == "; did you mean 'retrieve'?"
    assert nearest("zzz", ["b", "a"]) == "; known: a, b"
