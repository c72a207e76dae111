"""What a model reads and is chosen by."""

import pytest
import torch

from twotower.cascade.rank import Rank
from twotower.errors import DataError
from twotower.evaluate.experiment import request_of
from twotower.evaluate.task import make_task
from twotower.index.item_table import ItemTable
from twotower.metrics.ranking import average, evaluate
from twotower.pipeline.learning import train_model
from twotower.pipeline.prepared import Prepared
from twotower.pipeline.recipe import Recipe
from twotower.pipeline.served import is_relevant, rescore, serve
from twotower.pipeline.validation import LabelledEvents, best_of_catalogue, rank_catalogue
from twotower.types import NO_ITEM, Batch, Ragged


def test_is_relevant_knows_each_query_its_own():
    none, keys = Ragged.of([[], [], []]), torch.arange(3)
    task = make_task(keys, Batch(user=keys), none, none, Ragged.of([[4], [0, 2], [9]]), 10)
    served = torch.tensor([[4, 0, 2], [4, 0, 2], [-1, -1, 9]])
    assert is_relevant(served, task).tolist() == [
        [True, False, False],
        [False, True, True],
        [False, False, True],
    ]
    assert is_relevant(torch.empty(3, 0, dtype=torch.int64), task).shape == (3, 0)


def test_an_item_outside_the_catalogue_is_relevant_in_no_list():
    none, keys = Ragged.of([[], []]), torch.arange(2)
    task = make_task(keys, Batch(user=keys), none, none, Ragged.of([[4], [-1, 2]]), 10)
    served = torch.tensor([[4, 9, -1], [4, 2, -1]])
    assert is_relevant(served, task).tolist() == [[True, False, False], [False, True, False]]


@pytest.fixture(scope="module")
def prepared(tiny):
    return Prepared.make(Recipe.parse(tiny()), None, "raise")


def test_serving_in_chunks_is_serving_at_once(trained, prepared):
    task, retrieve = prepared.task("test"), trained.pipeline.cascade()
    one, other = serve(retrieve, task), serve(retrieve, task, queries_at_once=5)
    assert torch.equal(one.keys, other.keys)
    torch.testing.assert_close(one.pair["retrieve_score"], other.pair["retrieve_score"])


def test_rescoring_while_learning_is_what_the_stage_will_do(trained, prepared):
    task, cascade = prepared.task("test"), trained.pipeline.cascade()
    retrieve, rank = cascade.stages
    assert isinstance(rank, Rank)
    served = retrieve.run(request_of(task), None, 30)
    ours = rescore(rank.model, prepared.items, task, served, queries_at_once=7)
    theirs = rank.run(request_of(task), served, 30)
    assert torch.equal(ours.keys, theirs.keys)
    torch.testing.assert_close(ours.scores, theirs.scores)


def test_ranking_the_catalogue_is_the_retrievers_own_order(trained, prepared):
    task, retrieve = prepared.task("test"), trained.pipeline.cascade().stages[0]
    found = retrieve.run(request_of(task), None, 10)
    values = evaluate(found.keys, task.relevant, ["nDCG@10", "R@10"])
    expected = {name: average(value).value for name, value in values.items()}
    assert rank_catalogue(retrieve.model, prepared.items, task) == pytest.approx(expected)
    assert torch.equal(best_of_catalogue(retrieve.model, prepared.items, task, 10), found.keys)


@pytest.mark.parametrize("objective", ["{kind: sampled, negatives: 20}", "{kind: full-softmax}"])
def test_a_late_model_learns_to_rank_the_catalogue_from_sequences(tiny, objective):
    plain = tiny(
        "models.retriever.model=mol",
        "models.retriever.config.layers=[]",
        f"models.retriever.objective={objective}",
        "models.retriever.train.epochs=1",
    )
    plain |= {"models": {"retriever": plain["models"]["retriever"]}, "cascade": []}  # it may not retrieve
    prepared = Prepared.make(Recipe.parse(plain), None, "raise")
    model, result = train_model(prepared, "retriever")
    task = prepared.task("valid")
    with torch.inference_mode():
        scores = model.score(model.encode_query(task.query), model.encode_item(prepared.items))
    scores = scores.clone()
    scores[task.seen.row_of_value(), task.seen.values] = -torch.inf
    best = scores.argsort(dim=1, descending=True, stable=True)[:, :10]
    best = best.masked_fill(scores.gather(1, best) == -torch.inf, NO_ITEM)  # all others were seen
    expected = {n: average(v).value for n, v in evaluate(best, task.relevant, ["nDCG@10", "R@10"]).items()}
    assert rank_catalogue(model, prepared.items, task) == pytest.approx(expected)
    assert torch.equal(best_of_catalogue(model, prepared.items, task, 10, queries_at_once=9), best)
    assert result.best_value == pytest.approx(expected["nDCG@10"])


def test_labelled_events_score_each_event_with_the_past_it_had(trained, prepared):
    """Against one event at a time, its history cut by hand."""
    retriever = trained.pipeline.model("retriever")
    before = prepared.split.history("test")
    events = LabelledEvents(prepared, prepared.split.test, before, rows=50)
    scores = events.scores(retriever)
    found = prepared.interactions(prepared.split.test)
    index = prepared.features.item_index_of_keys(prepared.dataset.items)
    past = prepared.history(before, "positive").lists()
    for at in (0, 17, len(found) - 1):
        key = found.query_keys[at : at + 1]
        history = torch.zeros(1, 8, dtype=torch.int64)
        recent = index[past[int(key)][-8:]]
        history[0, : len(recent)] = recent
        query = retriever.encode_query(prepared.queries.take(key).join(Batch(history=history)))
        item = retriever.encode_item(prepared.items.take(found.item_keys[at : at + 1]))
        assert scores[at].item() == pytest.approx(retriever.score(query, item)[0, 0].item(), abs=1e-5)
    assert events.labels.sum() == prepared.split.test["click"].sum()
    assert set(events.measure(retriever)) == {"AUC", "log loss", "GAUC", "ECE"}


def test_labelled_events_need_both_labels(prepared):
    clicked = prepared.split.test.filter(prepared.split.test["click"] == 1)
    with pytest.raises(DataError, match="both positives and negatives"):
        LabelledEvents(prepared, clicked, prepared.split.train)


def test_lists_teach_on_some_validation_queries_and_choose_by_others(tiny):
    """With next to no query on one side there is nothing to learn from, or to choose by."""
    for share in (0.001, 0.999):
        plain = tiny(f"models.ranker.objective.share={share}")
        prepared = Prepared.make(Recipe.parse(plain), None, "raise")
        with pytest.raises(DataError, match="validation queries are too few to learn from lists"):
            train_model(prepared, "ranker", before=_Everything())


class _Everything:
    """Never asked: the queries are dealt before anything is served."""


def test_training_leaves_the_programs_own_random_numbers_alone(prepared):
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    train_model(prepared, "retriever")
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_table_built_from_the_trained_model_is_its_own(trained, prepared):
    model = trained.pipeline.model("ranker")
    made_by = f"{model.item_digest()}:{trained.pipeline.space.item_source()}"
    table = ItemTable.load(trained.directory / "tables/ranker", made_by)
    fresh = model.encode_item(prepared.items)
    for name, tensor in table.slice(0, prepared.n_items).items():
        torch.testing.assert_close(tensor, fresh[name])
