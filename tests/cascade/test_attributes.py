"""Predicates over columns equal the loop over items; items with a common value have a common code."""

import math

import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from twotower.cascade.attributes import Attributes
from twotower.cascade.predicates import Predicate
from twotower.errors import ConfigError, DataError

COLUMNS = {
    "movie": ["10", "11", "12", "13", "14"],
    "genre": [["Crime", "Drama"], ["Drama", "Drama"], [], None, ["War", None]],
    "country": ["US", None, "7", "FR", "US"],
    "year": [1994, 1950, None, 2003, 1994],
    "price": [9.5, float("nan"), None, 20.0, -1.0],
    "stock": [3, 0, None, 1, -2],
    "free": [True, False, None, True, False],
    "vector": [[0.5, 1.0]] * 5,
}
ITEMS = pl.DataFrame(COLUMNS, schema_overrides={"stock": pl.Int8})
ATTRIBUTES = Attributes(ITEMS, item="movie")

LEAVES = st.sampled_from(
    [
        {"field": "genre", "in": ["Drama"]},
        {"field": "genre", "in": ["Crime", "War"]},
        {"field": "country", "in": ["US", 7]},
        {"field": "year", "in": [1994, 3]},
        {"field": "year", "in": [1994.0, 2003.5]},
        {"field": "stock", "in": [3, 300]},
        {"field": "free", "in": [False]},
        {"field": "price", "at_most": 20},
        {"field": "price", "at_least": 9.5},
        {"field": "year", "at_least": 1950, "at_most": 1994},
        {"available": "stock"},
        {"available": "free"},
        *({"missing": name} for name in COLUMNS),
        {"ids": [10, "14", 99]},
        {"ids": []},
    ]
)
PREDICATES = st.recursive(
    LEAVES,
    lambda inner: (
        st.fixed_dictionaries({"not": inner})
        | st.fixed_dictionaries({"all": st.lists(inner, min_size=1, max_size=3)})
        | st.fixed_dictionaries({"any": st.lists(inner, min_size=1, max_size=3)})
    ),
    max_leaves=6,
)


def means(plain: dict, row: int) -> bool:
    """The naive reading, one item at a time."""
    if "not" in plain:
        return not means(plain["not"], row)
    if "all" in plain:
        return all(means(p, row) for p in plain["all"])
    if "any" in plain:
        return any(means(p, row) for p in plain["any"])
    if "ids" in plain:
        return COLUMNS["movie"][row] in map(str, plain["ids"])
    field = plain.get("field") or plain.get("missing") or plain["available"]
    value = COLUMNS[field][row]
    values = value if isinstance(value, list) else [value]
    there = [v for v in values if v is not None and not (isinstance(v, float) and math.isnan(v))]
    if "missing" in plain:
        return not there
    if "available" in plain:
        return any(v > 0 for v in there)
    if "in" in plain:
        return any(v == w or v == str(w) for v in there for w in plain["in"])
    return any(plain.get("at_least", -math.inf) <= v <= plain.get("at_most", math.inf) for v in there)


@settings(max_examples=120, deadline=None)
@given(PREDICATES)
def test_equals_the_loop_over_items(plain):
    mask = ATTRIBUTES.mask(Predicate.parse(plain))
    assert mask.dtype == torch.bool
    assert mask.tolist() == [means(plain, row) for row in range(len(ATTRIBUTES))]


@pytest.mark.parametrize("field", [name for name in COLUMNS if name != "vector"])
def test_items_share_a_code_exactly_where_they_share_a_value(field):
    codes = ATTRIBUTES.codes(field).tolist()
    for a, mine in enumerate(codes):
        own = [code for code in mine if code >= 0]
        assert len(own) == len(set(own))
        assert mine == own + [-1] * (len(mine) - len(own))
        for b, others in enumerate(codes):
            both = [COLUMNS[field][row] for row in (a, b)]
            sets = [
                {v for v in (x if isinstance(x, list) else [x]) if v is not None and v == v} for x in both
            ]
            assert len(set(own) & {c for c in others if c >= 0}) == len(sets[0] & sets[1])


def test_numbers_are_nan_where_they_are_missing():
    numbers = ATTRIBUTES.numbers("price")
    assert numbers.isnan().tolist() == [False, True, True, False, False]
    assert numbers.dtype == torch.float64


@pytest.mark.parametrize(
    ("plain", "message"),
    [
        ({"field": "gerne", "in": ["a"]}, r"rules\.2\.field: no item field 'gerne'; did you mean 'genre'"),
        ({"not": {"any": [{"missing": "x9"}]}}, r"rules\.2\.not\.any\.0\.missing: .*known: country"),
        ({"field": "country", "at_most": 3}, "at_most ask for a number, and 'country' is String"),
        ({"field": "free", "at_most": 3}, "'free' is Boolean"),
        ({"field": "country", "in": [True]}, "write words that look like numbers or yes/no in quotes"),
        ({"field": "country", "in": [0.5]}, "holds words"),
        ({"field": "year", "in": ["1994"]}, "holds numbers"),
        ({"field": "year", "in": [True]}, "holds numbers"),
        ({"field": "free", "in": [1]}, "holds yes or no"),
        ({"field": "vector", "in": [1]}, "vectors"),
        ({"available": "genre"}, "must be yes/no or a number"),
    ],
)
def test_a_predicate_that_does_not_fit_the_columns_is_refused(plain, message):
    with pytest.raises(ConfigError, match=message):
        ATTRIBUTES.mask(Predicate.parse(plain), where="rules.2")


def test_columns_that_group_or_count_nothing_are_refused():
    with pytest.raises(ConfigError, match="vectors"):
        ATTRIBUTES.codes("vector")
    with pytest.raises(ConfigError, match="must be a number, found String"):
        ATTRIBUTES.numbers("country")
    with pytest.raises(ConfigError, match="no item field 'film'"):
        Attributes(ITEMS, item="film")
    with pytest.raises(DataError, match="unique"):
        Attributes(ITEMS, item="year")


def test_a_column_or_a_table_without_values():
    empty = Attributes(pl.DataFrame({"id": [1, 2], "a": [None, None], "b": [[], None]}), item="id")
    for field in ("a", "b"):
        assert empty.mask(Predicate.parse({"field": field, "in": [1]})).tolist() == [False, False]
        assert empty.mask(Predicate.parse({"missing": field})).tolist() == [True, True]
        assert (empty.codes(field) == -1).all()
    nobody = Attributes(pl.DataFrame({"id": pl.Series([], dtype=pl.Int64)}), item="id")
    assert nobody.mask(Predicate.parse({"ids": [1]})).shape == (0,)


def test_ids_become_keys():
    assert ATTRIBUTES.keys((12, "10", 99)).tolist() == [2, 0, -1]


ROWS = ITEMS.drop("movie").to_dicts()
FIELDS = ("genre", "country", "free", "stock")


def table(rows: dict[int, dict]) -> pl.DataFrame:
    return pl.DataFrame([{"movie": str(10 + key), **row} for key, row in rows.items()], schema=ITEMS.schema)


def asked(attributes: Attributes, predicate: Predicate) -> list[torch.Tensor]:
    return [attributes.mask(predicate), attributes.numbers("price"), *map(attributes.codes, FIELDS)]


@settings(max_examples=25, deadline=None)
@given(st.lists(st.lists(st.sampled_from(range(25)), max_size=4), max_size=5), PREDICATES)
def test_updated_step_by_step_is_as_made_afresh(changes, predicate):
    attributes, rows = ATTRIBUTES, dict(enumerate(ROWS))
    predicate = Predicate.parse(predicate)
    for drawn in changes:  # every number is a row, and an item: an old one, or the next
        asked(attributes, predicate)
        new = {}
        for number in drawn:
            key = number // 5 if number < 20 else len(rows | new)
            new[key if key in rows else len(rows | new)] = ROWS[number % 5]
        rows |= new
        attributes = attributes.updated(torch.tensor(list(new), dtype=torch.int64), table(new))
    afresh = Attributes(table(rows), item="movie")
    assert attributes.items.equals(afresh.items)
    mask, numbers, *codes = asked(attributes, predicate)
    expected_mask, expected_numbers, *expected_codes = asked(afresh, predicate)
    assert mask.equal(expected_mask)
    assert torch.equal(numbers.nan_to_num(-9), expected_numbers.nan_to_num(-9))
    for one, other in zip(codes, expected_codes, strict=True):  # numbered otherwise, shared alike
        assert shared(one).equal(shared(other))
    assert attributes.keys(("10", "14", "99")).tolist() == afresh.keys(("10", "14", "99")).tolist()


def shared(codes: torch.Tensor) -> torch.Tensor:
    """(N, N) how many values two items have in common."""
    pairs = (codes[:, None, :, None] == codes[None, :, None, :]) & (codes[:, None, :, None] >= 0)
    return pairs.sum((2, 3))


def test_what_was_not_asked_for_is_not_carried_and_the_old_stays_as_it_was():
    old = Attributes(ITEMS, item="movie")
    late = Predicate.parse({"field": "year", "at_least": 2000})
    before = old.mask(late).clone()
    new = old.updated(torch.tensor([0]), ITEMS[3:4].with_columns(pl.lit("10").alias("movie")))
    assert new.mask(late).tolist() == [True, *before.tolist()[1:]]
    assert old.mask(late).equal(before)


def test_one_and_yes_are_remembered_apart():
    attributes = Attributes(pl.DataFrame({"id": [1, 2], "n": [1, 0]}), item="id")
    assert attributes.mask(Predicate.parse({"field": "n", "in": [1]})).tolist() == [True, False]
    with pytest.raises(ConfigError, match="holds numbers"):
        attributes.mask(Predicate.parse({"field": "n", "in": [True]}))
