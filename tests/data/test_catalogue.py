"""Ids outside, keys inside."""

import numpy as np
import polars as pl
import pytest

from twotower.data.catalogue import Catalogue
from twotower.errors import DataError


@pytest.mark.parametrize("ids", [[318, 50, -7], ["b", "a", "ü"]])
def test_keys_are_rows_and_ids_come_back(ids):
    catalogue = Catalogue(pl.Series("movie", ids))
    assert (len(catalogue), catalogue.name, catalogue.all_ids().to_list()) == (3, "movie", ids)
    assert catalogue.keys(pl.Series(ids)).tolist() == [0, 1, 2]
    assert catalogue.ids(np.array([2, 0, 2])).to_list() == [ids[2], ids[0], ids[2]]


@pytest.mark.parametrize(
    ("asked", "keys"),
    [
        (pl.Series([50, 999, 318, 50]), [1, -1, 0, 1]),
        (pl.Series(["50", "abc", "318"]), [1, -1, 0]),  # as the command line gives them
        (pl.Series([50, None]), [1, -1]),
        (pl.Series([], dtype=pl.Int64), []),
        (pl.Series([50], dtype=pl.UInt8), [1]),
        (pl.Series(["99999999999999999999"]), [-1]),
        (pl.Series([50.0, 50.5, float("nan"), None]), [1, -1, -1, -1]),  # a column that once had gaps
        (pl.Series(["050", "50"]), [-1, 1]),
    ],
)
def test_an_unknown_id_has_no_key(asked, keys):
    found = Catalogue(pl.Series("movie", [318, 50])).keys(asked)
    assert (found.tolist(), found.dtype) == (keys, np.int64)


def test_numbers_find_ids_that_are_words():
    assert Catalogue(pl.Series("movie", ["7", "8"])).keys(pl.Series([8, 9])).tolist() == [1, -1]


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (pl.Series("movie", [1.5, 2.0]), "integers or strings, found Float64"),
        (pl.Series("movie", [1, 1]), "present and unique"),
        (pl.Series("movie", ["a", None]), "present and unique"),
    ],
)
def test_ids_that_name_nobody_are_refused(ids, message):
    with pytest.raises(DataError, match=rf"column movie: .*{message}"):
        Catalogue(ids)


def test_an_empty_catalogue_knows_nobody():
    assert Catalogue(pl.Series("movie", [], dtype=pl.String)).keys(pl.Series(["a"])).tolist() == [-1]


@pytest.mark.parametrize("kind", [pl.Int64, pl.String])
def test_few_ids_are_found_as_many_are(kind):
    draw = np.random.default_rng(0)
    ids = draw.permutation(np.arange(-1000, 4000, 2))
    catalogue = Catalogue(pl.Series("movie", ids).cast(kind))
    place = {id: key for key, id in enumerate(ids.tolist())}
    asked = [None, -1000, 3998, 3999, -2000, 9999, *draw.integers(-1500, 4500, 20).tolist()]
    wanted = [place.get(id, -1) for id in asked]
    few, many = pl.Series(asked).cast(kind), pl.Series(asked * 10).cast(kind)
    assert catalogue.keys(few).tolist() == wanted
    assert catalogue.keys(many).tolist() == wanted * 10
