"""Markup cannot be broken from inside."""

from hypothesis import given
from hypothesis import strategies as st

from twotower.evaluate.html.markup import Html, joined, number, tag

EVIL = "</td><script>alert('x')</script> & \"q\""


def test_words_and_attributes_are_escaped():
    made = tag("td", EVIL, data_x=EVIL, class_="n")
    assert made.count("<") == 2
    assert made.startswith('<td data-x="&lt;/td&gt;')
    assert joined([EVIL]).count("<") == 0


def test_markup_is_not_escaped_twice():
    assert tag("p", tag("b", "&")) == "<p><b>&amp;</b></p>"
    assert isinstance(tag("p"), Html)
    assert tag("br") == "<br>"


@given(st.text())
def test_no_text_makes_an_element(words):
    assert "<" not in joined([words])


def test_numbers_are_short():
    assert [number(v) for v in (1.0, 0.126, 100.0, -3.5, "a", 7)] == ["1", "0.13", "100", "-3.5", "a", "7"]
