"""A model that counts goes the way of every other: trained, saved, loaded, in a cascade, in the report."""

import pytest

from twotower.pipeline.learning import measured_for, train_model
from twotower.pipeline.pipeline import Pipeline
from twotower.pipeline.recipe import Recipe

RATE = {"model": "click-rate", "config": {"strength": 10, "half_life": 50}, "objective": {"kind": "counts"}}


@pytest.fixture
def recipe(tiny):
    plain = tiny()
    plain["models"] = {"rate": RATE}
    plain["cascade"] = [{"stage": "retrieve", "model": "rate", "k": 10}]
    return plain


def test_a_run_counts_the_training_part_and_retrieves_by_rate(recipe, tmp_path):
    pipeline = Pipeline(Recipe.parse(recipe), tmp_path / "run", say=lambda _: None)
    report = pipeline.run()
    model, train = pipeline.model("rate"), pipeline.prepared.split.train
    assert report.ratings["rate"]["AUC"] > 0.5
    events = pipeline.prepared.interactions(train)
    assert model.now == events.times.max()
    again, result = train_model(pipeline.prepared, "rate")
    assert again.digest() == model.digest()
    assert result.best_value == result.history[0]["AUC"]
    assert set(measured_for(pipeline.recipe, "rate")) < set(result.history[0])
    assert len(model.rates().unique()) > 2
