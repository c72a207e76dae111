"""Learning from a stream: honest scores, a state that goes on exactly, tables that stay valid."""

import math

import pytest
import torch

from twotower.data.batches import EventBatches, Examples
from twotower.data.interactions import Interactions
from twotower.data.spec import Column, FeatureSpec
from twotower.errors import DataError, TrainingError
from twotower.index.item_table import ItemTable
from twotower.metrics.rating import auc, log_loss
from twotower.models.catalogue import make_model
from twotower.train.checkpoint import load_tree, save_tree
from twotower.train.objectives import Pointwise
from twotower.train.online import OnlineLearner, Progress, learn_online
from twotower.train.optimizers import Optimizer
from twotower.train.settings import TrainSettings
from twotower.types import Batch

SPEC = FeatureSpec(
    columns=(
        Column(name="user", kind="id", side="query", size=12),
        Column(name="film", kind="id", side="item", size=10),
        Column(name="genre", kind="category", side="item", size=5),
    )
)
N, USERS, FILMS = 600, 10, 8
QUERIES = Batch(user=torch.arange(USERS) + 2)
ITEMS = Batch(film=torch.arange(FILMS) + 2, genre=torch.arange(FILMS) % 3 + 2)


def stream(batch_size=20):
    """Users like a genre of their own: a world that user x genre crosses can learn."""
    draw = torch.Generator().manual_seed(0)
    users = torch.randint(USERS, (N,), generator=draw)
    films = torch.randint(FILMS, (N,), generator=draw)
    events = Interactions(
        users, films, torch.arange(N), torch.arange(N), labels=(users % 3 == films % 3).float()
    )
    return EventBatches(events, QUERIES, batch_size=batch_size, shuffle=False)


def new_learner(**settings):
    settings = {"optimizer": "ftrl", "table_optimizer": "ftrl", "learning_rate": 0.5, **settings}
    model = make_model("logistic-regression", SPEC, {"buckets": 1 << 12})
    optimizer = Optimizer(model, TrainSettings(**settings, ftrl={"beta": 0.1}))
    return OnlineLearner(model, Pointwise(ITEMS), optimizer)


def test_every_example_is_scored_before_it_teaches():
    learner = new_learner()
    for examples in stream().epoch(0):
        expected = learner.predict(examples)
        assert torch.equal(learner.learn(examples), expected)
        assert not torch.equal(learner.predict(examples), expected)
    assert (learner.steps, learner.progress.examples) == (30, N)


def test_it_learns_and_says_so_along_the_way():
    learner, told = new_learner(), []
    total = learn_online(learner, stream().epoch(0), every=10, tell=told.append)
    assert [window.examples for window in told] == [200, 200, 200]
    assert total.examples == N
    assert told[0].log_loss > told[1].log_loss > told[2].log_loss
    assert told[2].auc > 0.95
    assert total.log_loss == pytest.approx(sum(w.log_loss for w in told) / 3)


def test_progress_is_the_measures_of_the_scores_it_saw():
    draw = torch.Generator().manual_seed(1)
    logits, progress = 3 * torch.randn(5000, generator=draw), Progress()
    labels = (torch.rand(5000, generator=draw) < logits.sigmoid()).float()
    for at in range(0, 5000, 700):
        progress.count(logits[at : at + 700], labels[at : at + 700])
    assert progress.log_loss == pytest.approx(log_loss(logits, labels), rel=1e-9)
    assert progress.auc == pytest.approx(auc(logits, labels), abs=1e-3)
    assert math.isnan(Progress().auc)
    assert math.isnan(Progress().log_loss)
    extreme = Progress()
    extreme.count(torch.tensor([-1e6, 1e6]), torch.tensor([0.0, 1.0]))
    assert extreme.auc == 1.0


@pytest.mark.parametrize("settings", [{}, {"optimizer": "adam", "table_optimizer": "rowwise_adagrad"}])
def test_a_stopped_learner_goes_on_exactly(settings, tmp_path):
    whole = new_learner(**settings)
    learn_online(whole, stream().epoch(0))
    first = new_learner(**settings)
    for examples in list(stream().epoch(0))[:13]:
        first.learn(examples)
    save_tree(tmp_path / "learner.safetensors", first.state_dict())
    second = new_learner(**settings)
    second.load_state_dict(load_tree(tmp_path / "learner.safetensors"))
    learn_online(second, stream().epoch(0, start_step=second.steps))
    assert second.model.digest() == whole.model.digest()
    assert second.steps == whole.steps
    assert (second.progress.log_loss, second.progress.auc) == (whole.progress.log_loss, whole.progress.auc)


def test_a_table_built_before_learning_ranks_as_fresh_scores_do_after_it():
    learner = new_learner()
    model = learner.model.eval()
    digest = model.item_digest()
    table = ItemTable.build(
        lambda keys: model.encode_item(ITEMS.take(keys)), FILMS, model.item_specs(), digest
    )
    learn_online(learner, stream().epoch(0))
    assert model.item_digest() == digest, "a stage still takes the table for the model's own"
    with torch.inference_mode():
        query = model.encode_query(QUERIES)
        kept = model.score(query, table.take(torch.arange(FILMS).expand(USERS, FILMS)))
        fresh = model.score(query, model.encode_item(ITEMS))
    torch.testing.assert_close(kept, fresh)
    assert (kept.argmax(1) % 3 == torch.arange(USERS) % 3).all(), "and it has learned"


def test_examples_without_labels_and_broken_ones_are_refused_and_change_nothing():
    learner = new_learner()
    examples = next(stream().epoch(0))
    blind = Examples(examples.query, examples.items, examples.query_keys)
    with pytest.raises(DataError, match="labelled"):
        learner.learn(blind)
    before = learner.model.digest()
    broken = torch.where(torch.arange(20) == 3, math.nan, examples.labels)
    with pytest.raises(TrainingError, match="online step 1"):
        learner.learn(Examples(examples.query, examples.items, examples.query_keys, broken))
    assert learner.model.digest() == before
    assert (learner.steps, learner.progress.examples) == (0, 0)
