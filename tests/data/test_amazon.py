import gzip
import json
import os
from pathlib import Path

import pytest

from twotower.data.amazon import AmazonReviews, AmazonSequences
from twotower.errors import DataError


def review(user="A1", item="B1", stars=5.0, time=1393545600, **more) -> str:
    return json.dumps({"reviewerID": user, "asin": item, "overall": stars, "unixReviewTime": time, **more})


def write(folder: Path, *lines: str, name="reviews.json") -> Path:
    (folder / name).write_text("\n".join(lines) + "\n")
    return folder


def test_reviews(tmp_path):
    lines = (
        review(reviewText="", summary="good"),
        review("A2", "0001", 1.0, 7, reviewText="bad", helpful=[0, 1]),
    )
    (tmp_path / "reviews_5.json.gz").write_bytes(gzip.compress("\n".join(lines).encode()))
    data = AmazonReviews().read(tmp_path)
    assert data.events.rows() == [("A1", "B1", 5.0, 1393545600, 0), ("A2", "0001", 1.0, 7, 1)]
    with_text = AmazonReviews(text=True).read(tmp_path / "reviews_5.json.gz")
    assert with_text.events.select("summary", "review").rows() == [("good", ""), (None, "bad")]


BAD_REVIEWS = {
    "cut off": ('{"reviewerID": "A', None, "not valid JSON"),
    "no user": (review(None), "reviewerID", "no value"),
    "stars in words": (review(stars="five"), "overall", "found 'five', expected a finite number"),
    "NaN stars": (review(stars=float("nan")), "overall", "expected a finite number"),
    "no time": ('{"reviewerID": "A", "asin": "B", "overall": 1}', "unixReviewTime", "no value"),
}


@pytest.mark.parametrize(("line", "column", "message"), BAD_REVIEWS.values(), ids=BAD_REVIEWS)
def test_bad_reviews_are_named_or_dropped_and_counted(tmp_path, line, column, message):
    write(tmp_path, review(), line, review("A2"))
    with pytest.raises(DataError, match=message) as caught:
        AmazonReviews().read(tmp_path)
    assert (caught.value.line, caught.value.column) == (2, column)
    data = AmazonReviews().read(tmp_path, on_error="skip")
    assert data.events["user"].to_list() == ["A1", "A2"]
    assert data.notes[0].startswith("reviews.json: 1 broken row dropped, first in line 2")


def test_the_file_must_be_one(tmp_path):
    with pytest.raises(DataError, match=r"0 files match \*\.json"):
        AmazonReviews().read(tmp_path)
    write(write(tmp_path, review(), name="a.json"), review(), name="b.json")
    with pytest.raises(DataError, match=r"2 files match .*a\.json, b\.json"):
        AmazonReviews().read(tmp_path)
    assert len(AmazonReviews(file="b.json").read(tmp_path).events) == 1


def write_sequences(folder: Path, *lines: str, attributes='{"5": [1, 2], "6": [], "9": [3]}') -> Path:
    (folder / "README.txt").write_text("not data")
    write(folder, attributes, name="attributes.json")
    return write(folder, *lines, name="seq.txt")


def test_sequences_order_events_by_their_position(tmp_path):
    data = AmazonSequences().read(write_sequences(tmp_path, "1 5 6 5", "", "2 9 "))
    assert data.events.select("user", "item", "time").rows() == [(1, 5, 0), (1, 6, 1), (1, 5, 2), (2, 9, 0)]
    assert data.items.rows() == [(5, [1, 2]), (6, []), (9, [3])]
    assert "no timestamps" in data.notes[-1]


BAD_SEQUENCES = {
    "a user alone": ("7", "found '7', expected a user and at least one item"),
    "an item in words": ("7 5 x", "found '7 5 x'"),
    "a user in words": ("seven 5", "found 'seven', expected an integer"),
    "a user twice": ("1 9", "1 stands here a second time"),
}


@pytest.mark.parametrize(("line", "message"), BAD_SEQUENCES.values(), ids=BAD_SEQUENCES)
def test_bad_sequences_are_named_or_dropped_and_counted(tmp_path, line, message):
    write_sequences(tmp_path, "1 5 6", "", line, "2 9")
    with pytest.raises(DataError, match=message) as caught:
        AmazonSequences().read(tmp_path)
    assert caught.value.line == 3
    data = AmazonSequences().read(tmp_path, on_error="skip")
    assert data.events["item"].to_list() == [5, 6, 9]
    assert data.notes[0].startswith("seq.txt: 1 broken row dropped, first in line 3")


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ("{", "not valid JSON"),
        ("[1]", "found list"),
        ('{"a": [1]}', "invalid literal"),
        ('{"1": ["x"]}', "attributes"),
    ],
)
def test_bad_attributes_are_errors(tmp_path, attributes, message):
    with pytest.raises(DataError, match=message):
        AmazonSequences().read(write_sequences(tmp_path, "1 5", attributes=attributes))


@pytest.mark.data
def test_published_counts():
    if "TWOTOWER_DATA" not in os.environ:
        pytest.skip("TWOTOWER_DATA is not set")
    root = Path(os.environ["TWOTOWER_DATA"])
    reviews = AmazonReviews(text=True).read(root / "amazon-musical-instruments-5core")
    assert (len(reviews.events), len(reviews.queries), len(reviews.items)) == (10_261, 1_429, 900)
    counts = reviews.events["rating"].value_counts().sort("rating")["count"].to_list()
    assert counts == [217, 250, 772, 2_084, 6_938]
    assert (reviews.events["review"] == "").sum() == 7
    beauty = AmazonSequences().read(root / "amazon-beauty-seq")
    assert (len(beauty.events), len(beauty.queries), len(beauty.items)) == (198_502, 22_363, 12_101)
    lengths = beauty.events.group_by("user").len()["len"]
    assert (lengths.min(), lengths.max()) == (5, 204)
    assert beauty.items["attributes"].explode().n_unique() == 637
