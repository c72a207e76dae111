"""A catalogue is encoded in chunks, tells how far it is, and goes on where a run was killed."""

from __future__ import annotations

import math

import pytest
import torch

from twotower.data.spec import Column, FeatureSpec
from twotower.index.item_table import CHUNK, RAGGED_CHUNK
from twotower.models.catalogue import make_model
from twotower.pipeline import encoding
from twotower.pipeline.encoding import Meter, encode_all, items_at_once
from twotower.types import Batch


def spec(width):
    def text(name, side):
        return Column(name=name, kind="text", side=side, size=40, width=width, tokenizer="words")

    tags = Column(name="tags", kind="bag", side="item", size=7, width=512)
    return FeatureSpec(columns=(text("asked", "query"), text("body", "item"), tags))


def model(name="dual-encoder", width=6, **config):
    torch.manual_seed(0)
    text = {"kind": "transformer", "dim": 8, "blocks": 1, "heads": 2, "dropout": 0.0}
    return make_model(name, spec(width), {"text": text, **config}).eval()


@pytest.mark.parametrize(
    ("name", "width", "expected"),
    [
        ("dual-encoder", 6, CHUNK),
        ("dual-encoder", 256, 256),
        ("colbert", 6, RAGGED_CHUNK),
        ("colbert", 256, 256),
    ],
)
def test_long_texts_come_in_smaller_chunks(name, width, expected):
    assert items_at_once(model(name, width)) == expected


def test_longer_than_any_chunk_they_come_one_by_one(monkeypatch):
    monkeypatch.setitem(encoding.TOKENS, "cpu", 5)
    assert items_at_once(model()) == 1


@pytest.mark.parametrize("name", ["dual-encoder", "colbert"])
@pytest.mark.parametrize("rows", [0, 1, 6, 7])
def test_in_chunks_is_at_once(monkeypatch, name, rows):
    draw = torch.Generator().manual_seed(1)
    length = torch.arange(rows) % 7
    body = torch.randint(1, 40, (rows, 6), generator=draw) * (torch.arange(6) < length[:, None])
    items = Batch(body=body, tags=torch.randint(0, 7, (rows, 512), generator=draw))
    own, heard = model(name), []
    with torch.inference_mode():
        expected = own.encode_item(items)
        monkeypatch.setitem(encoding.TOKENS, "cpu", 12)  # two texts
        found = encode_all(own, items, lambda done, total: heard.append((done, total)))
    assert found.keys() == expected.keys()
    for tensor in expected:
        torch.testing.assert_close(found[tensor], expected[tensor])
    ends = [min(start + 2, rows) for start in range(0, max(rows, 1), 2)]
    assert heard == [(done, rows) for done in [0, *ends]]


def meter(seconds):
    """A meter on a clock that shows ``seconds``, and what it tells."""
    told = []
    return Meter(told.append, "items", iter(seconds).__next__), told


def test_a_short_encoding_says_nothing():
    tell, told = meter([0.0, 1.0, 1.9])
    for done in (0, 500, 1000):
        tell(done, 1000)
    assert told == []


def test_a_long_one_is_heard_of_once_a_second_and_at_its_end():
    tell, told = meter([0.0, 1.0, 2.0, 2.5, 3.5, 3.6])
    for done in (0, 100, 200, 300, 400, 500):
        tell(done, 500)
    assert [event.done for event in told] == [200, 400, 500]
    assert (told[0].per_second, told[0].eta_s, told[0].kind) == (100.0, 3.0, "encoding")


def test_what_was_encoded_before_makes_no_speed():
    tell, told = meter([10.0, 15.0])
    tell(900, 1000)
    tell(950, 1000)
    assert (told[0].resumed_at, told[0].per_second, told[0].seconds) == (900, 10.0, 5.0)
    assert math.isclose(told[0].eta_s, 5.0)


class Killed(BaseException):
    """As SIGKILL: nobody repairs it."""


def test_a_run_goes_on_with_the_tables_that_are_whole(tiny, tmp_path, monkeypatch):
    """Killed between two tables, and while an index is built, nothing is encoded twice."""
    from twotower.pipeline import assembly
    from twotower.pipeline.pipeline import Pipeline
    from twotower.pipeline.recipe import Recipe

    encoded, encode_all = [], assembly.Assembly.encode_all

    def counting(self, name, *args):
        encoded.append(name)
        return encode_all(self, name, *args)

    def die(*args, **kwargs):
        raise Killed

    monkeypatch.setattr(assembly.Assembly, "encode_all", counting)
    pipeline = Pipeline(Recipe.parse(tiny()), tmp_path / "run")
    pipeline.prepare()
    with monkeypatch.context() as patch:
        patch.setattr(assembly, "build_index", die)
        with pytest.raises(Killed):
            pipeline.train()
    assert encoded == ["retriever"]
    assert list((tmp_path / "run" / "encoded").iterdir())
    again = Pipeline(Recipe.parse(tiny()), tmp_path / "run")
    again.train()
    assert encoded == ["retriever", "ranker"]
    assert not (tmp_path / "run" / "encoded").exists()
    assert again.cascade() is not None
