"""MovieLens 100K, 1M and latest (also 20M, 25M, 32M, which are written like latest), in one schema.

F. M. Harper, J. A. Konstan. The MovieLens Datasets: History and Context. ACM TiiS 5(4), 2015.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import polars as pl
from pydantic import Field as Option

from twotower.config import Config
from twotower.data.dataset import Dataset
from twotower.data.delimited import Form, read_delimited
from twotower.data.files import find_file, first_file
from twotower.data.rows import Broken, Column, OnError, checked
from twotower.errors import DataError
from twotower.schema import TIME_EXACT, Field, Schema

Variant = Literal["100k", "1m", "latest"]

_CSV = Form()
_COLONS = Form(separator="::", quoted=False, latin1=True)
_TAB = Form(separator="\t", quoted=False)
_BAR = Form(separator="|", quoted=False, latin1=True)

AGE_GROUPS = (18, 25, 35, 45, 50, 56)
"""Lower bounds of ML-1M's age groups above the first ("under 18"), which is called 1."""

GENRES_100K = (
    *("Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama", "Fantasy"),
    *("Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western"),
)
"""Genre flags of ``u.item``, in file order, after the first flag ("unknown")."""

_YEAR = r"\((\d{4})(?:\s*[-\u2013]\s*(?:\d{4})?)?\)\s*$"  # (1995), and series: (2006-2007), (2011- )


class MovieLens(Config):
    """Ratings of movies: ``user, movie, rating, timestamp`` with what is known of users and movies.

    Users: gender, age (category: ML-1M's groups by youngest age 1, 18, 25, 35, 45, 50, 56; the exact ages of
    100K are put into the same groups) and occupation (number codes in 1M, words in 100K). Latest has no user
    features. Movies: title, year (from the title; 100K falls back to the release date) and genres; a movie
    whose genre is "unknown" or "(no genres listed)" has an empty bag.

    The ratings of 1M may also come as ``ratings.csv`` with a column ``timestamp_exact`` (1: as published, 0:
    estimated); it is kept as the bool event column ``time_exact``, all true for the original file.
    """

    reader: Literal["movielens"] = "movielens"
    variant: Variant | None = Option(None, description="100k, 1m or latest; found from the files when absent")
    rated_only: bool = Option(True, description="leave movies without any rating out of the catalogue")

    def read(self, path: Path, on_error: OnError = "raise") -> Dataset:
        """Read the folder ``path``.

        Raises
        ------
        DataError
            Files of no known variant, a missing file, or a broken row (unless ``on_error`` is "skip").
        """
        path = Path(path)
        variant = self.variant or _detect(path)
        source = _Source(path, on_error)
        events, users, movies = {"100k": _read_100k, "1m": _read_1m, "latest": _read_latest}[variant](source)
        notes = list(source.notes)
        estimated = int((~events[TIME_EXACT]).sum()) if TIME_EXACT in events.columns else 0
        if estimated:
            notes.append(
                f"{estimated:,} of {len(events):,} ratings have an estimated time (time_exact is false)"
            )
        if self.rated_only:
            rated = movies.filter(pl.col("movie").is_in(events["movie"].unique().implode()))
            if left_out := len(movies) - len(rated):
                notes.append(
                    f"{left_out:,} of {len(movies):,} movies have no rating and were left out (rated_only)"
                )
            movies = rated
        return Dataset.build(f"movielens-{variant}", _schema(users), events, users, movies, tuple(notes))


class _Source:
    """One folder being read: how broken rows are met, and what there was to say."""

    def __init__(self, directory: Path, on_error: OnError) -> None:
        self.directory, self.on_error = directory, on_error
        self.notes: list[str] = []

    def table(self, path: Path, form: Form, columns: Sequence[Column]) -> pl.DataFrame:
        broken = Broken(path, self.on_error)
        raw = read_delimited(path, form, [column.source for column in columns], broken)
        frame = checked(raw, columns, broken)
        self.notes += broken.notes()
        return frame


def _detect(directory: Path) -> Variant:
    """1M has ``movies.dat``, 100K has ``u.data``, latest has ``movies.csv``."""
    marks: dict[Variant, str] = {"1m": "movies.dat", "100k": "u.data", "latest": "movies.csv"}
    for variant, name in marks.items():
        if first_file(directory, name):
            return variant
    raise DataError(
        "none of movies.dat (1M), u.data (100K), movies.csv (latest) is in this folder",
        file=directory,
        remedy="give the unpacked folder; GroupLens has it: https://grouplens.org/datasets/movielens/",
    )


def _schema(users: pl.DataFrame | None) -> Schema:
    about_users = () if users is None else ("gender", "age", "occupation")
    return Schema(
        query="user",
        item="movie",
        fields=(
            Field(name="user", kind="id", role="query"),
            *(Field(name=name, kind="category", role="query") for name in about_users),
            Field(name="movie", kind="id", role="item"),
            Field(name="title", kind="text", role="item"),
            Field(name="year", kind="category", role="item"),
            Field(name="genres", kind="bag", role="item"),
            Field(name="rating", kind="number", role="label"),
            Field(name="timestamp", kind="number", role="time"),
        ),
    )


Tables = tuple[pl.DataFrame, pl.DataFrame | None, pl.DataFrame]


def _rating_columns(user: str, movie: str) -> tuple[Column, ...]:
    return (
        Column("user", "integer", user, required=True),
        Column("movie", "integer", movie, required=True),
        Column("rating", "number", "rating", required=True),
        Column("timestamp", "time", "timestamp", required=True),
    )


def _movie_columns(movie: str) -> tuple[Column, ...]:
    return (
        Column("movie", "integer", movie, required=True, unique=True),
        Column("title", "text", "title", required=True),
        Column("genres", "bag", "genres"),
    )


def _read_1m(source: _Source) -> Tables:
    here = source.directory
    ratings = find_file(here, "ratings.dat", "ratings.csv")
    columns = _rating_columns("user_id", "movie_id")
    if ratings.name.startswith("ratings.dat"):
        form = Form("::", quoted=False, names=("user_id", "movie_id", "rating", "timestamp"))
        events = source.table(ratings, form, columns).with_columns(pl.lit(True).alias(TIME_EXACT))
    else:
        exact = Column(TIME_EXACT, "integer", "timestamp_exact", required=True)
        events = source.table(ratings, _CSV, (*columns, exact)).with_columns(pl.col(TIME_EXACT) == 1)
    users = source.table(
        find_file(here, "users.dat"),
        _named(_COLONS, "user", "gender", "age", "occupation", "zip"),
        (
            Column("user", "integer", "user", required=True, unique=True),
            Column("gender", "text", "gender"),
            Column("age", "integer", "age"),
            Column("occupation", "integer", "occupation"),
        ),
    )
    movies = source.table(
        find_file(here, "movies.dat"), _named(_COLONS, "movie", "title", "genres"), _movie_columns("movie")
    )
    return events, users, movies.with_columns(_year("title"))


def _read_100k(source: _Source) -> Tables:
    here = source.directory
    events = source.table(
        find_file(here, "u.data"),
        _named(_TAB, "user", "movie", "rating", "timestamp"),
        _rating_columns("user", "movie"),
    )
    users = source.table(
        find_file(here, "u.user"),
        _named(_BAR, "user", "age", "gender", "occupation", "zip"),
        (
            Column("user", "integer", "user", required=True, unique=True),
            Column("gender", "text", "gender"),
            Column("age", "integer", "age"),
            Column("occupation", "text", "occupation"),
        ),
    ).with_columns(age=_age_group(pl.col("age")))
    movies = source.table(
        find_file(here, "u.item"),
        _named(_BAR, "movie", "title", "released", "video", "url", "unknown", *GENRES_100K),
        (
            Column("movie", "integer", "movie", required=True, unique=True),
            Column("title", "text", "title", required=True),
            Column("released", "text", "released"),  # 01-Jan-1995
            *(Column(genre, "integer", genre, required=True) for genre in GENRES_100K),
        ),
    )
    released = pl.col("released").str.extract(r"(\d{4})$").cast(pl.Int64)
    flags = [pl.when(pl.col(genre) == 1).then(pl.lit(genre)) for genre in GENRES_100K]
    movies = movies.with_columns(
        pl.coalesce(_year("title"), released).alias("year"),
        pl.concat_list(flags).list.drop_nulls().alias("genres"),
    )
    return events, users, movies


def _read_latest(source: _Source) -> Tables:
    here = source.directory
    events = source.table(find_file(here, "ratings.csv"), _CSV, _rating_columns("userId", "movieId"))
    movies = source.table(find_file(here, "movies.csv"), _CSV, _movie_columns("movieId"))
    none = pl.element() != "(no genres listed)"
    movies = movies.with_columns(_year("title"), pl.col("genres").list.eval(pl.element().filter(none)))
    return events, None, movies


def _named(form: Form, *names: str) -> Form:
    return Form(form.separator, form.quoted, names, form.latin1)


def _year(title: str) -> pl.Expr:
    return pl.col(title).str.extract(_YEAR).cast(pl.Int64).alias("year")


def _age_group(age: pl.Expr) -> pl.Expr:
    """ML-1M's group of an exact age, named by its youngest member; null stays null."""
    group = pl.when(age.is_not_null()).then(pl.lit(1, dtype=pl.Int64))
    return pl.max_horizontal(group, *(pl.when(age >= low).then(low) for low in AGE_GROUPS))
