"""Complaints say where, what was found, and what would be right."""

from typing import Annotated, Literal

import pytest
from pydantic import Discriminator, Field, Tag, ValidationError, model_validator

from twotower.config import Config, dump_yaml, load_yaml, nearest
from twotower.errors import ConfigError
from twotower.pipeline.changes import changed


class Mean(Config):
    kind: Literal["mean"] = "mean"
    size: int = 1


class Attention(Config):
    kind: Literal["attention"] = "attention"
    blocks: int = Field(2, ge=1)


Past = Annotated[Mean | Attention, Field(discriminator="kind")]


class Sums(Config):
    kind: Literal["first", "last"] = "first"
    plus: int = 0


class Nearest(Config):
    kind: Literal["nearest"] = "nearest"
    above: float = 0.0


def _which(values):
    return "nearest" if isinstance(values, dict) and values.get("kind") == "nearest" else "sums"


class Model(Config):
    rate: float = 0.1
    past: Past = Mean()
    other: Past | None = None
    found: Annotated[
        Annotated[Sums, Tag("sums")] | Annotated[Nearest, Tag("nearest")], Discriminator(_which)
    ] = Sums()


class Recipe(Config):
    name: str
    models: dict[str, Model] = Field(default_factory=dict)
    stages: tuple[Mean, ...] = ()
    steps: tuple[Annotated[Mean | Sums, Field(discriminator="kind")], ...] = Field((Mean(),), min_length=1)
    below: Past | None = Field(None, alias="under")

    @model_validator(mode="after")
    def _check(self):
        if "best" in self.models:
            raise ValueError("no model is the best")
        return self


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"name": "x", "nmae": "y"}, "r.yaml: unknown key 'nmae'; did you mean 'name'?"),
        ({"name": "x", "qqq": 1}, "r.yaml: unknown key 'qqq'; known: models, name, stages, steps, under"),
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
            "r.yaml: models.a.past: unknown key 'block'; did you mean 'blocks'?",
        ),
        ({}, "r.yaml: name: Field required"),
        ({"name": "x", "models": {"a": {"rate": "fast"}}}, "r.yaml: models.a.rate: .* (found 'fast')"),
        (
            {"name": "x", "models": {"a": {"past": {"kind": "attention", "blocks": 0}}}},
            "r.yaml: models.a.past.blocks: .*greater than or equal to 1 (found 0)",
        ),
        (
            {"name": "x", "models": {"a": {"other": {"kind": "mean", "blocks": 2}}}},
            "r.yaml: models.a.other: unknown key 'blocks'; known: kind, size",
        ),
        (
            {"name": "x", "models": {"a": {"found": {"kind": "last", "abov": 2}}}},
            "r.yaml: models.a.found: unknown key 'abov'; known: kind, plus",
        ),
        (
            {"name": "x", "models": {"a": {"found": {"kind": "nearest", "abov": 2}}}},
            "r.yaml: models.a.found: unknown key 'abov'; did you mean 'above'?",
        ),
        (
            {"name": "x", "steps": [{"kind": "mean"}, {"kind": "last", "pls": 2}]},
            "r.yaml: steps.1: unknown key 'pls'; did you mean 'plus'?",
        ),
        (
            {"name": "x", "under": {"kind": "mean", "size": "big"}},
            "r.yaml: under.size: .* (found 'big')",
        ),
        (
            {"name": "x", "models": {"a": {"past": {}}}},
            "r.yaml: models.a.past: kind is missing; known: attention, mean",
        ),
        (
            {"name": "x", "models": {"a": {"past": {"kind": "atention"}}}},
            "r.yaml: models.a.past.kind: found 'atention'; did you mean 'attention'?",
        ),
        (
            {"name": "x", "models": {"a": {"other": {"kind": None}}}},
            "r.yaml: models.a.other.kind: found None; known: attention, mean",
        ),
        (
            {"name": "x", "models": {"a": {"past": "attention"}}},
            "r.yaml: models.a.past: found 'attention', expected {kind: ...}; did you mean 'attention'?",
        ),
        (
            {"name": "x", "steps": [{"kind": "lst"}]},
            "r.yaml: steps.0.kind: found 'lst'; did you mean 'last'?",
        ),
        ({"name": "x", "steps": []}, "r.yaml: steps: .* at least 1 item.* (found [])"),
        ({"name": "x", "models": {"best": {}}}, "r.yaml: no model is the best"),
        ([1], "r.yaml: value: .* (found [1])"),
    ],
)
def test_every_complaint_is_one_that_helps(values, message):
    with pytest.raises(ConfigError) as caught:
        Recipe.parse(values, where="r.yaml")
    before, *_, after = message.split(".*") if ".*" in message else (message, message)
    assert str(caught.value).startswith(before)
    assert str(caught.value).endswith(after)
    assert "\n" not in str(caught.value)  # one mistake, one line


def test_all_complaints_come_at_once():
    with pytest.raises(ConfigError) as caught:
        Recipe.parse({"nam": "x", "stages": [{"size": "big"}]})
    assert len(str(caught.value).splitlines()) == 3


def test_a_path_in_a_complaint_is_one_that_leads_there():
    """What is printed can be set: no tag of a union stands between the keys."""
    values = {"name": "x", "models": {"a": {"past": {"kind": "attention", "blocks": 0}}}}
    with pytest.raises(ConfigError) as caught:
        Recipe.parse(values, where="r.yaml")
    path = str(caught.value).split(": ")[1]
    right = changed(values, [f"{path}=3"], "r.yaml")
    assert Recipe.parse(right).models["a"].past == Attention(blocks=3)


def test_an_object_of_another_config_is_told_by_its_kind():
    with pytest.raises(ConfigError, match=r"under\.kind: found 'first'; known: attention, mean"):
        Recipe.parse({"name": "x", "under": Sums()})


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
