"""A pre-ranker between the two, taught by the ranker behind it."""

import json

import pytest
import torch

from twotower.cascade.cascade import Cascade
from twotower.errors import ConfigError
from twotower.evaluate.experiment import request_of
from twotower.metrics.consistency import measure_served
from twotower.metrics.ranking import average
from twotower.models.catalogue import load_model, make_model
from twotower.pipeline.changes import changed
from twotower.pipeline.learning import measured_for
from twotower.pipeline.pipeline import Pipeline
from twotower.pipeline.prepared import Prepared
from twotower.pipeline.preranking import train_on_stages
from twotower.pipeline.recipe import Recipe
from twotower.pipeline.replay import replay
from twotower.pipeline.served import ServedValidation, dealt, gains_of, is_relevant, reorder, scores_by, serve
from twotower.train.lists import FullStageConfig
from twotower.train.settings import TrainSettings
from twotower.types import NO_ITEM

PRERANKER = {
    "model": "two-tower",
    "features": ["user", "item", "category", "history"],
    "config": {"embedding": 4, "layers": [8], "history": {"kind": "mean"}},
    "objective": {
        "kind": "full-stage",
        "teacher": "ranker",
        "positives": 2,
        "requests": 2,
        "sample": {"ranked": 4, "preranked": 4, "retrieved": 4, "random": 2},
        "distil": {"loss": "kl", "temperature": 2.0},
        "order": 0.5,
    },
    "train": {"epochs": 2, "batch_size": 32, "learning_rate": 0.01},
}


@pytest.fixture
def three(tiny):
    """The tiny recipe with a prerank stage; arguments change single keys."""

    def make(*changes):
        plain = tiny()
        plain["models"]["light"] = PRERANKER
        plain["cascade"].insert(1, {"stage": "prerank", "model": "light", "k": 15})
        return changed(plain, changes, "three")

    return make


@pytest.fixture(scope="module")
def prepared(tiny):
    return Prepared.make(Recipe.parse(tiny()), None, "raise")


def test_the_teacher_trains_before_its_pupil_and_stands_behind_it(three, tmp_path):
    said = []
    pipeline = Pipeline(Recipe.parse(three()), tmp_path, say=said.append)
    report = pipeline.run().plain()
    assert [line for line in said if "training" in line] == [
        "retriever: training two-tower by full-softmax",
        "ranker: training dcn-v2 by lists",
        "light: training two-tower by full-stage",
    ]
    assert [(stage["stage"], stage["k"]) for stage in report["stages"]] == [
        ("retrieve", 30),
        ("prerank", 15),
        ("rank", 10),
    ]
    assert any("which light learnt from as from a teacher" in note for note in report["notes"])
    for name in three()["models"]:  # what can be chosen by is known before anything is measured
        history = json.loads((tmp_path / f"models/{name}/result.json").read_text())["history"]
        measured = [key for key in history[0] if key not in ("epoch", "step") and "loss/" not in key]
        assert tuple(measured) == measured_for(pipeline.recipe, name)
    assert measured == ["kept@15", "GAUC", "Overlap@10", "RCS@10@15", "nDCG@10 by ranker"]
    assert {"loss/distil", "loss/order"} < set(history[0])

    # a second run makes nothing again; another teacher, or another depth, trains the pupil again
    again = Pipeline(Recipe.parse(three()), tmp_path, say=said.append)
    del said[:]
    again.train()
    assert sum("trained already" in line for line in said) == 3
    for change, trains in {
        "models.ranker.train.epochs=2": ["ranker", "light"],
        "cascade.1.k=12": ["ranker", "light"],  # the last change is taken back
        "evaluate.requests_timed=2": ["light"],
    }.items():
        del said[:]
        Pipeline(Recipe.parse(three(change)), tmp_path, say=said.append).train()
        assert [line.split(":")[0] for line in said if ": training" in line] == trains, change


def test_a_preranker_that_reads_the_retriever_learns_the_rankers_order_on_served_lists(three, tmp_path):
    plain = three(
        "models.light.model=cold",
        "models.light.config={embedding: 4, layers: [8], norm: none, pair: [retrieve_score, retrieve_rank]}",
        "models.light.objective={kind: lists, teacher: ranker, liked: 0, share: 0.5}",
        "models.light.train={epochs: 6, batch_size: 16, learning_rate: 0.01}",
    )
    said = []
    pipeline = Pipeline(Recipe.parse(plain), tmp_path, say=said.append)
    pipeline.prepare()
    pipeline.train()
    assert [line.split(":")[0] for line in said if ": training" in line] == ["retriever", "ranker", "light"]
    epochs = json.loads((tmp_path / "models/light/result.json").read_text())["history"]
    assert "loss/list" not in epochs[0]  # no label was looked at
    assert epochs[-1]["loss/distil"] < epochs[0]["loss/distil"]
    # on queries that taught neither; it starts from the retriever's order, which is nearly the ranker's here
    assert epochs[-1]["nDCG@10 by ranker"] >= epochs[0]["nDCG@10 by ranker"] > 0.9


def test_scores_of_given_items_stand_in_their_own_order(three, tmp_path):
    pipeline = Pipeline(Recipe.parse(three()), tmp_path)
    pipeline.prepare()
    pipeline.train()
    retrieve, _, ranker = pipeline.cascade().stages
    task = pipeline.prepared.task("valid")
    served = serve(Cascade(retrieve), task)
    scores = scores_by(ranker, request_of(task), served.keys, served.pair, requests_at_once=7)
    ranked = reorder(ranker, task, served)
    for row in range(len(task)):
        theirs = dict(zip(ranked.keys[row].tolist(), ranked.scores[row].tolist(), strict=True))
        for key, score in zip(served.keys[row].tolist(), scores[row].tolist(), strict=True):
            assert key == NO_ITEM or score == pytest.approx(theirs[key], abs=1e-5)


def test_a_preranker_without_a_teacher_learns_from_the_log(three, tmp_path):
    plain = three(
        "models.light.objective.teacher=null",
        "models.light.objective.source=log",
        "models.light.model=dcn-v2",
        "models.light.config={embedding: 4, layers: [8], store: ids}",
    )
    pipeline = Pipeline(Recipe.parse(plain), tmp_path)
    pipeline.prepare()
    pipeline.train()
    assert [stage.name for stage in pipeline.cascade().stages] == ["retrieve", "prerank", "rank"]
    assert load_model(tmp_path / "models/light").config.store == "ids"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("models.light.objective.teacher=rankre", "names the teacher 'rankre'; models:"),
        ("models.light.objective.teacher=light", "'light' is its own teacher"),
        (
            "models.ranker.config.pair=[prerank_score]",
            "as it teaches stage 'prerank'.*retrieve_score",
        ),
        ("models.ranker.config.pair=[retreive_score]", "did you mean 'retrieve_score'"),
        ("models.light.objective.teacher=null", "distil needs a teacher"),
        ("cascade.1.model=ranker", "ranks in more than one stage"),
        ("cascade.2={stage: prerank, model: ranker, k: 3}", None),
        ("cascade.1.stage=rank", None),
        (
            "models.retriever.objective={kind: full-stage}",
            "'retriever' learns from the lists of the stage before",
        ),
    ],
)
def test_recipes_with_a_prerank_stage_are_checked(three, change, message):
    if message is None:
        Recipe.parse(three(change))
        return
    with pytest.raises(ConfigError, match=message):
        Recipe.parse(three(change))


def test_nothing_preranks_behind_a_ranker(three):
    plain = three()
    plain["cascade"][1], plain["cascade"][2] = plain["cascade"][2], plain["cascade"][1]
    with pytest.raises(ConfigError, match="stage 2 is a prerank stage, but a rank stage stands before it"):
        Recipe.parse(plain)


def test_objectives_can_be_compared_on_the_same_samples(trained, prepared):
    retrieve, rank = trained.pipeline.cascade().stages
    samples = replay(prepared, Cascade(retrieve), rank, requests=2, positives=2, ranked=5, preranked=10)
    validation = ServedValidation(prepared, Cascade(retrieve), prepared.task("valid"), 10, rank)
    none = {"ranked": 0, "preranked": 0, "retrieved": 0, "random": 0}
    ways = {
        "exposures": {"softmax": 0, "sample": none},
        "full": {"teacher": "ranker", "distil": {"loss": "mse"}},
    }
    overlap = {}
    for way, objective in ways.items():
        torch.manual_seed(0)
        model = make_model("two-tower", prepared.spec(None), {"embedding": 4, "layers": []})
        config = FullStageConfig.parse(objective)
        settings = TrainSettings(epochs=6, batch_size=32, learning_rate=0.02)
        result = train_on_stages(prepared, model, samples, config, settings, validate=validation)
        assert result.best_value == max(row["kept@10"] for row in result.history)
        overlap[way] = validation(model)["Overlap@10"]
    assert overlap["full"] > overlap["exposures"]


def test_validation_is_measure_served_of_the_models_order(trained, prepared):
    retrieve, rank = trained.pipeline.cascade().stages
    task = prepared.task("valid")
    validation = ServedValidation(prepared, Cascade(retrieve), task, 12, rank)
    served = serve(Cascade(retrieve), task)
    ordered = reorder(rank, task, served, queries_at_once=5)
    assert torch.equal(validation.reference, ordered.keys)
    itself = measure_served(ordered, task.relevant, ordered.keys, depths=[12], k=10)
    model = trained.pipeline.model("ranker")
    ours = validation(model)
    assert list(ours) == list(itself)
    for name, values in itself.items():
        assert ours[name] == pytest.approx(average(values).value)
    assert ours["Overlap@10"] == 1


def test_teaching_and_choosing_queries_are_dealt_once(prepared):
    task = prepared.task("valid")
    learn, choose = dealt(prepared, task, 0.5)
    assert sorted([*learn.query_keys.tolist(), *choose.query_keys.tolist()]) == task.query_keys.tolist()
    assert set(learn.query_keys.tolist()) <= set(dealt(prepared, task, 0.8)[0].query_keys.tolist())


def test_gains_are_values_of_the_valid_events(tiny, prepared):
    plain = tiny()
    plain["value"] = [{"label": "click"}, {"label": "buy", "weight": 4}]
    valued = Prepared.make(Recipe.parse(plain), None, "raise")
    task = valued.task("valid")
    keys = torch.arange(valued.n_items).expand(len(task), -1)
    gains = gains_of(keys, task, valued)
    events = valued.split.valid
    expected = torch.zeros_like(gains)
    place = {int(key): row for row, key in enumerate(task.query_keys)}
    inside = valued.interactions(events)
    for n in range(len(events)):
        row = place.get(int(inside.query_keys[n]))
        if row is not None:
            expected[row, inside.item_keys[n]] = events["click"][n] + 4 * events["buy"][n]
    assert torch.equal(gains, expected)
    assert gains.max() == 5
    plain_gains = gains_of(keys, task, prepared)
    assert torch.equal(plain_gains, is_relevant(keys, task).float())
