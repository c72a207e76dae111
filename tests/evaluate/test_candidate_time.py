"""Time per candidate: what is timed, not how long it takes."""

import pytest
import torch

from twotower.data.spec import Column, FeatureSpec
from twotower.evaluate.candidate_time import time_per_candidate
from twotower.models.catalogue import make_model
from twotower.types import Batch

SPEC = FeatureSpec(
    columns=(
        Column(name="user", kind="id", side="query", size=9),
        Column(name="movie", kind="id", side="item", size=12),
    )
)


@pytest.mark.parametrize("store", ["ids", "first_layer"])
def test_every_model_answers_every_request_on_one_thread(store, monkeypatch):
    model = make_model("dcn-v2", SPEC, {"embedding": 4, "layers": [8], "store": store}).eval()
    seen = []
    score = type(model).score

    def watched(self, query, item, *rest):
        scores = score(self, query, item, *rest)
        seen.append((tuple(scores.shape), torch.get_num_threads()))
        return scores

    monkeypatch.setattr(type(model), "score", watched)
    queries, items = Batch(user=torch.tensor([2, 3])), Batch(movie=torch.arange(1, 8))
    times = time_per_candidate({"a": model, "b": model}, queries, items, candidates=30, requests=4, warm_up=1)
    assert times.keys() == {"a", "b"}
    assert all(time > 0 for time in times.values())
    assert seen == [((1, 30), 1)] * 2 * 5
