"""Which index a recipe asks for, and what is said of one that there is not."""

from __future__ import annotations

import pytest

from twotower.config import Config
from twotower.errors import ConfigError
from twotower.index.build import AnyIndex, IndexConfig
from twotower.index.multivector import MultiVectorConfig


class Stage(Config):
    index: AnyIndex = IndexConfig()


@pytest.mark.parametrize(
    ("index", "expected"),
    [
        ({}, IndexConfig(kind="exact")),
        ({"kind": "faiss", "factory": "Flat"}, IndexConfig(kind="faiss", factory="Flat")),
        ({"kind": "multivector", "probes": 8}, MultiVectorConfig(probes=8)),
    ],
)
def test_the_kind_says_which(index, expected):
    assert Stage.parse({"index": index}).index == expected


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("hnsw", "found 'hnsw'; known: exact, faiss, multivector; HNSW is {kind: faiss, factory: HNSW32}"),
        (
            "HNSW16",
            "found 'HNSW16'; known: exact, faiss, multivector; HNSW is {kind: faiss, factory: HNSW32}",
        ),
        ("annoy", "found 'annoy'; known: exact, faiss, multivector"),
        ("multi-vector", "found 'multi-vector'; did you mean 'multivector'?"),
        (None, "found None; known: exact, faiss, multivector"),
        (["exact"], "found ['exact']; did you mean 'exact'?"),
    ],
)
def test_an_unknown_kind_is_told_all_there_are(kind, message):
    with pytest.raises(ConfigError) as caught:
        Stage.parse({"index": {"kind": kind}}, where="r.yaml")
    assert str(caught.value) == f"r.yaml: index.kind: {message}"


def test_a_remedy_that_is_named_is_one():
    assert Stage.parse({"index": {"kind": "faiss", "factory": "HNSW32"}}).index.kind == "faiss"


def test_keys_are_those_of_the_chosen_kind():
    with pytest.raises(
        ConfigError, match=r"r\.yaml: index: unknown key 'probes'; known: ef_construction, effort"
    ):
        Stage.parse({"index": {"kind": "faiss", "probes": 8}}, where="r.yaml")
