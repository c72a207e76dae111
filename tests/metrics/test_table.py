"""Tables: alignment, missing values, and JSON any parser reads."""

import json

import pytest

from twotower.metrics.table import Column, Table

FUNNEL = Table(
    ("stage", Column("out"), Column("R@10"), Column("p99", "ms", 1)),
    (("retrieve", 1_500, 0.25, float("nan")), ("rank | re-rank", 50, None, 1234.56)),
)


def test_text_is_aligned_and_missing_values_are_dashes():
    lines = FUNNEL.text().splitlines()
    assert lines[0].split("  ")[0] == "stage"
    assert [len(line) for line in lines] == [len(lines[0])] * 4
    assert lines[2].split() == ["retrieve", "1,500", "0.2500", "-"]
    assert lines[3].endswith("1,234.6")
    assert str(FUNNEL) == FUNNEL.text()


def test_markdown_escapes_bars():
    lines = FUNNEL.markdown().splitlines()
    assert "rank \\| re-rank" in lines[3]
    assert lines[1].startswith("| :--")
    assert lines[1].endswith("-: |")


def test_json_keeps_precision_and_turns_nan_into_null():
    plain = json.loads(FUNNEL.json())
    assert plain["units"] == {"p99": "ms"}
    assert plain["rows"][0] == {"stage": "retrieve", "out": 1500, "R@10": 0.25, "p99": None}
    assert plain["rows"][1]["p99"] == 1234.56


def test_a_table_without_rows_still_shows_its_columns():
    empty = Table(("stage", "out"), ())
    assert empty.text().split() == ["stage", "out", "-----", "---"]
    assert json.loads(empty.json())["rows"] == []


def test_words_show_as_they_are_and_truth_as_words():
    assert Column("x").show(True) == "yes"
    assert Column("x", digits=2).show(-0.125) in ("-0.12", "-0.13")


def test_misfits_are_refused():
    with pytest.raises(ValueError, match="2 cells for 1 columns"):
        Table(("a",), ((1, 2),))
    with pytest.raises(ValueError, match="share a name"):
        Table(("a", Column("a", "ms")), ())
