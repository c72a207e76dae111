import numpy as np
import pytest
import torch
from benchmarks.pre_ranking.files import write_arrays
from benchmarks.text import dual
from benchmarks.text.cells import difference, judged
from benchmarks.text.learning import in_turn
from benchmarks.text.probe import pairs, separability
from benchmarks.text.untouched import fused

from twotower.cascade.fusion import NormalisedScore
from twotower.evaluate.task import make_task
from twotower.types import Batch, Candidates, Ragged


def found(*keys: list[int]) -> Candidates:
    rows = torch.tensor(keys)
    return Candidates(rows, -torch.arange(float(rows.shape[1])).expand(rows.shape))


def test_two_lists_take_turns_and_hold_an_item_once():
    assert in_turn(found([1, 2, 3]), found([2, 4, -1])).keys.tolist() == [[1, 2, 4, 3, -1, -1]]


def test_a_weight_decides_between_the_sources():
    lists = [found([1, 2, 3]), found([3, 2, 1])]
    assert fused(lists, NormalisedScore(), 3.0).best(3).keys.tolist() == [[3, 2, 1]]
    assert fused(lists, NormalisedScore(), 0.3).best(3).keys.tolist() == [[1, 2, 3]]


def test_the_probe_takes_no_query_and_no_document_twice():
    relevant = Ragged.of([[0, 1, 2], [2], [2, 3]])
    none = Ragged.of([[], [], []])
    task = make_task(torch.arange(3), Batch(q=torch.arange(3)), none, none, relevant, 5)
    rows, documents = pairs(task)
    assert len(set(rows.tolist())) == len(rows) == len(set(documents.tolist()))
    assert all(d in relevant[r].tolist() for r, d in zip(rows.tolist(), documents.tolist(), strict=True))


def test_the_probe_tells_two_clouds_from_one():
    pytest.importorskip("sklearn")
    draw = torch.Generator().manual_seed(0)
    query, item = (torch.randn(60, 5, generator=draw) for _ in range(2))
    assert separability(query, item)["accuracy"] < 0.7
    assert separability(query, item + 3)["accuracy"] > 0.95


def test_seeds_are_averaged_before_systems_are_paired():
    ours = [judged({"nDCG@10": [0.2, 0.4]}), judged({"nDCG@10": [0.4, 0.6]})]
    gain = difference(ours, [judged({"nDCG@10": [0.2, 0.4]})])
    assert gain.mean == pytest.approx(0.1)
    assert (gain.low, gain.high) == pytest.approx((0.1, 0.1))


def test_a_collection_is_drawn_from_the_places_that_are_there(tmp_path):
    pytest.importorskip("matplotlib")
    places = {side: np.zeros((3, 2), dtype=np.float32) for side in dual.SIDES}
    write_arrays(tmp_path / "cells" / "dual" / "scifact" / "sde-places.npz", **places)
    dual.draw(tmp_path / "cells", tmp_path / "pictures")
    assert [path.name for path in (tmp_path / "pictures").iterdir()] == ["scifact.png"]
