import polars as pl
import pytest

from twotower.data.weights import SampleWeights
from twotower.errors import ConfigError


@pytest.mark.parametrize(
    "column", [pl.Series([1, 2, 3]), pl.Series([1.0, 2.0, 3.0]), pl.Series(["1", "2", "3"])], ids=str
)
def test_values_are_found_whatever_the_type_of_the_column(column):
    rule = SampleWeights(field="x", values={"1": 0.5, "3": 4.0})
    assert rule.of(pl.DataFrame({"x": column})).tolist() == [0.5, 1.0, 4.0]


def test_fractions_keep_their_own_spelling():
    rule = SampleWeights(field="x", values={"0.5": 3.0})
    assert rule.of(pl.DataFrame({"x": [0.5, 4.0]})).tolist() == [3.0, 1.0]


def test_whole_values_are_found_among_fractions():
    rule = SampleWeights(field="x", values={"5": 2.0, "0.50": 3.0})
    assert rule.of(pl.DataFrame({"x": [5.0, 4.5, 0.5, float("nan"), None]})).tolist() == [2, 1, 3, 1, 1]
    with pytest.raises(ConfigError, match="'x' holds numbers, and 'five' is none"):
        SampleWeights(field="x", values={"five": 2.0}).of(pl.DataFrame({"x": [5.0]}))
    with pytest.raises(ConfigError, match="two values of 'x' are the same number"):
        SampleWeights(field="x", values={"5": 2.0, "5.0": 3.0}).of(pl.DataFrame({"x": [5.0]}))


def test_an_unknown_column_names_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'position'"):
        SampleWeights(field="postion", values={"1": 2.0}).of(pl.DataFrame({"position": [1]}))


@pytest.mark.parametrize("values", [{}, {"1": -1.0}])
def test_weights_are_never_negative_and_never_nothing(values):
    with pytest.raises(ConfigError):
        SampleWeights.parse({"field": "x", "values": values})
