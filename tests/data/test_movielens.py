import gzip
import os
from pathlib import Path

import polars as pl
import pytest

from twotower.data.movielens import GENRES_100K, MovieLens
from twotower.errors import DataError

ONE_M = {
    "ratings.dat": "1::10::5::978300760\n2::10::3::978300761\n1::30::4::978300762\n",
    "users.dat": "1::F::1::10::48067\n2::M::56::16::70072\n",
    "movies.dat": (
        "10::Misérables, Les: I (1995)::Drama|Musical\n20::Never Seen (1950)::Drama\n30::Up (2009)::Comedy\n"
    ),
}
NO_GENRE, DRAMA = "0|" * 18 + "0", "0|" * 8 + "1|" + "0|" * 9 + "0"
HUNDRED_K = {
    "u.data": "1\t10\t5\t881250949\n2\t20\t3\t881250950\n",
    "u.user": "1|24|M|technician|85711\n2|17|F|other|94043\n",
    "u.item": f"10|Misérables (1995)|01-Jan-1995||url|{DRAMA}\n20|unknown|04-Feb-1971|||1{NO_GENRE[1:]}\n",
}
LATEST = {
    "ratings.csv": "userId,movieId,rating,timestamp\r\n1,10,4.5,964982703\r\n2,20,0.5,964982704\r\n",
    "movies.csv": (
        "movieId,title,genres\r\n"
        '10,"Misérables, Les (1995)",Drama|Musical\r\n'
        "20,Babylon 5,(no genres listed)\r\n"
        "30,War (2006\u20132007),War\r\n"
    ),
}


def write(folder: Path, files: dict[str, str], encoding="latin-1", packed=()) -> Path:
    for name, text in files.items():
        data = text.encode(encoding)
        (folder / (f"{name}.gz" if name in packed else name)).write_bytes(
            gzip.compress(data) if name in packed else data
        )
    return folder


@pytest.mark.parametrize("packed", [(), ("ratings.dat", "users.dat", "movies.dat")])
def test_1m(tmp_path, packed):
    data = MovieLens().read(write(tmp_path, ONE_M, packed=packed))
    assert data.name == "movielens-1m"
    assert data.events["time_exact"].all()  # the original file
    assert data.events.drop("time_exact").rows() == [
        (1, 10, 5.0, 978300760, 0),
        (2, 10, 3.0, 978300761, 1),
        (1, 30, 4.0, 978300762, 2),
    ]
    assert data.queries.rows() == [(1, "F", 1, 10), (2, "M", 56, 16)]
    assert data.items.rows() == [
        (10, "Misérables, Les: I (1995)", 1995, ["Drama", "Musical"]),
        (30, "Up (2009)", 2009, ["Comedy"]),
    ]
    assert data.notes == ("1 of 3 movies have no rating and were left out (rated_only)",)


def test_1m_as_csv_keeps_what_is_known_of_the_times(tmp_path):
    csv = "user_id,movie_id,rating,timestamp,timestamp_exact\n1,10,5,978300760,1\n2,20,3,978300761,0\n"
    files = {"ratings.csv": csv} | {name: ONE_M[name] for name in ("users.dat", "movies.dat")}
    data = MovieLens(rated_only=False).read(write(tmp_path, files))
    assert data.events["time_exact"].to_list() == [True, False]
    assert len(data.items) == 3
    assert data.notes == ("1 of 2 ratings have an estimated time (time_exact is false)",)


def test_100k(tmp_path):
    data = MovieLens().read(write(tmp_path, HUNDRED_K, packed=("u.data",)))
    assert data.events.select("user", "movie", "rating").rows() == [(1, 10, 5.0), (2, 20, 3.0)]
    assert data.queries.rows() == [(1, "M", 18, "technician"), (2, "F", 1, "other")]
    assert data.items.rows() == [(10, "Misérables (1995)", 1995, ["Drama"]), (20, "unknown", 1971, [])]
    assert len(GENRES_100K) == 18


def test_latest_has_no_user_features_and_titles_in_quotes(tmp_path):
    data = MovieLens(rated_only=False).read(write(tmp_path, LATEST, "utf-8", packed=("ratings.csv",)))
    assert data.schema.side_columns("query") == ("user",)
    assert data.events["rating"].to_list() == [4.5, 0.5]
    assert data.items.rows() == [
        (10, "Misérables, Les (1995)", 1995, ["Drama", "Musical"]),
        (20, "Babylon 5", None, []),
        (30, "War (2006\u20132007)", 2006, ["War"]),
    ]


BAD = {
    "a field too few": ("ratings.dat", "1::10::5\n", 1, None, "found 3 fields, expected 4"),
    "a rating in words": ("ratings.dat", "1::10::5::7\n1::10::good::7\n", 2, "rating", "found 'good'"),
    "a rating that is NaN": ("ratings.dat", "1::10::5::7\n1::10::nan::7\n", 2, "rating", "found 'nan'"),
    "no rating": ("ratings.dat", "1::10::::7\n1::10::5::7\n", 1, "rating", "no value"),
    "no integer id": ("ratings.dat", "u1::10::5::7\n2::10::5::7\n", 1, "user_id", "found 'u1'"),
    "a user twice": (
        "users.dat",
        ONE_M["users.dat"] + "1::M::1::1::1\n",
        3,
        "user",
        "1 stands here a second",
    ),
    "a movie twice": (
        "movies.dat",
        ONE_M["movies.dat"] + "10::A::B\n",
        4,
        "movie",
        "10 stands here a second",
    ),
}


@pytest.mark.parametrize(("name", "text", "line", "column", "message"), BAD.values(), ids=BAD)
def test_bad_rows_are_named_or_dropped_and_counted(tmp_path, name, text, line, column, message):
    write(tmp_path, ONE_M | {name: text})
    with pytest.raises(DataError, match=message) as caught:
        MovieLens().read(tmp_path)
    found = caught.value
    assert (found.file, found.line, found.column) == (tmp_path / name, line, column)
    if text.count("\n") > 1:
        notes = MovieLens().read(tmp_path, on_error="skip").notes
        assert notes[0].startswith(f"{name}: 1 broken row dropped, first in line {line}")


def test_a_folder_without_the_files_says_what_was_expected(tmp_path):
    with pytest.raises(DataError, match=r"none of movies\.dat"):
        MovieLens().read(tmp_path)
    write(tmp_path, {"movies.dat": ONE_M["movies.dat"]})
    with pytest.raises(DataError, match=r"no file ratings\.dat or ratings\.csv .*holds: movies\.dat"):
        MovieLens().read(tmp_path)
    with pytest.raises(DataError, match="no such directory"):
        MovieLens(variant="1m").read(tmp_path / "nowhere")


@pytest.mark.data
@pytest.mark.parametrize(
    ("folder", "events", "users", "movies", "catalogue", "first", "last", "stars"),
    [
        (
            "ml-1m", 1_000_209, 6_040, 3_706, 3_883, 956703932, 1046454590,
            [56174, 107557, 261197, 348971, 226310],
        ),
        ("ml-100k", 100_000, 943, 1_682, 1_682, 874724710, 893286638, [6110, 11370, 27145, 34174, 21201]),
        (
            "ml-latest-small", 100_836, 610, 9_724, 9_742, 828124615, 1537799250,
            [1370, 2811, 1791, 7551, 5550, 20047, 13136, 26818, 8551, 13211],
        ),
    ],
)  # fmt: skip
def test_published_counts(folder, events, users, movies, catalogue, first, last, stars):
    if "TWOTOWER_DATA" not in os.environ:
        pytest.skip("TWOTOWER_DATA is not set")
    path = Path(os.environ["TWOTOWER_DATA"]) / folder
    data = MovieLens().read(path)
    assert (len(data.events), len(data.queries), len(data.items)) == (events, users, movies)
    assert (data.events["timestamp"].min(), data.events["timestamp"].max()) == (first, last)
    assert data.events["rating"].value_counts().sort("rating")["count"].to_list() == stars
    assert len(MovieLens(rated_only=False).read(path).items) == catalogue
    if folder == "ml-1m":
        assert data.events["time_exact"].sum() == 858_772
        assert data.queries["gender"].value_counts().sort("gender")["count"].to_list() == [1_709, 4_331]
        assert data.items["genres"].explode().n_unique() == 18
        assert (data.queries["age"].n_unique(), data.queries["occupation"].n_unique()) == (7, 21)
        assert not data.items.filter(pl.col("title").str.contains("\ufffd")).height
    if folder == "ml-100k":
        assert sorted(data.queries["age"].unique()) == [1, 18, 25, 35, 45, 50, 56]
        assert data.queries["occupation"].n_unique() == 21
