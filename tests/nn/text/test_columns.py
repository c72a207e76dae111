"""The text of a side is found, or it is said what there is."""

import pytest

from twotower.data.spec import Column, FeatureSpec
from twotower.errors import ConfigError
from twotower.nn.text.columns import text_column


def text(name, side):
    return Column(name=name, kind="text", side=side, size=9, width=4, tokenizer="words")


SPEC = FeatureSpec(
    columns=(
        Column(name="user", kind="id", side="query", size=3),
        text("asked", "context"),
        text("title", "item"),
        text("body", "item"),
    )
)


def test_the_only_one_or_the_named_one():
    assert text_column(SPEC, "query", None).name == "asked"
    assert text_column(SPEC, "item", "body").name == "body"


@pytest.mark.parametrize(
    ("spec", "side", "name", "message"),
    [
        (SPEC, "item", None, r"the item has the texts \['title', 'body'\]: name one of them as item_text"),
        (SPEC, "item", "asked", r"item_text: 'asked' is no encoded text of the item; known: \['title'"),
        (
            FeatureSpec(columns=SPEC.columns[:1]),
            "query",
            None,
            "none is encoded; declare a field of kind text",
        ),
    ],
)
def test_what_cannot_be_found(spec, side, name, message):
    with pytest.raises(ConfigError, match=message):
        text_column(spec, side, name)
