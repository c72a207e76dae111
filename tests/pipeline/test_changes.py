"""Single keys set from outside."""

import pytest

from twotower.errors import ConfigError
from twotower.pipeline.changes import changed

PLAIN = {"seed": 0, "split": {"kind": "time"}, "cascade": [{"k": 30}, {"k": 10}], "history": None}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("seed=3", {"seed": 3}),
        ("split.kind=by-user", {"split": {"kind": "by-user"}}),
        ("split.fractions=[0.5, 0.25, 0.25]", {"split": {"kind": "time", "fractions": [0.5, 0.25, 0.25]}}),
        ("cascade.1.k=20", {"cascade": [{"k": 30}, {"k": 20}]}),
        ("cascade=[]", {"cascade": []}),
        ("history.max_length=5", {"history": {"max_length": 5}}),
        ("models.a.config.layers=[8, 4]", {"models": {"a": {"config": {"layers": [8, 4]}}}}),
        ("name=a=b", {"name": "a=b"}),
        ("history=null", {"history": None}),
        ("fields={}", {"fields": {}}),
    ],
)
def test_sets_one_key_and_leaves_the_rest(change, expected):
    assert changed(PLAIN, [change], "r.yaml") == PLAIN | expected
    assert PLAIN["split"] == {"kind": "time"}  # a copy was changed


def test_later_changes_win():
    assert changed(PLAIN, ["seed=1", "seed=2"], "r.yaml")["seed"] == 2


@pytest.mark.parametrize(
    ("plain", "change", "message"),
    [
        (PLAIN, "seed", "expected key=value"),
        (PLAIN, "=3", "expected key=value"),
        (PLAIN, "cascade.2.k=3", "'2' is no place of a list of 2"),
        (PLAIN, "cascade.first.k=3", "'first' is no place of a list of 2"),
        (PLAIN, "seed.a.b=3", "'a' lies below a value"),
        (PLAIN, "seed=[1", "not valid YAML"),
        (None, "seed=1", "the file is empty"),
        (["a"], "seed=1", "expected keys and values, found list"),
    ],
)
def test_what_cannot_be_set_is_an_error(plain, change, message):
    with pytest.raises(ConfigError, match=message):
        changed(plain, [change], "r.yaml")
