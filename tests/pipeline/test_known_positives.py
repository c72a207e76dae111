"""Which objectives of a recipe mask the training positives of a query, and that it reaches the model."""

import shutil

import pytest
import torch

from twotower.pipeline.learning import known_positives, train_model
from twotower.pipeline.prepared import Prepared
from twotower.pipeline.recipe import Recipe

WORDS = {"tokenizer": "stems"}


@pytest.fixture(scope="module")
def two_answers(collection, tmp_path_factory):
    """Every training query finds the document after its answer, too."""
    folder = tmp_path_factory.mktemp("two") / "collection"
    shutil.copytree(collection, folder)
    with open(folder / "qrels" / "train.tsv", "r+", encoding="utf-8") as file:
        lines = [line.split() for line in file.read().splitlines()[1:]]
        file.writelines(f"{query}\td{(int(doc[1:]) + 1) % 60}\t1\n" for query, doc, _ in lines)
    return folder


def search(objective, history=None):
    """A recipe of one model; without a history, as collections have none."""
    return Recipe.parse(
        {
            "name": "known",
            "data": {"reader": "beir"},
            "split": {"kind": "predefined"},
            "history": history,
            "fields": {"query_text": WORDS, "text": WORDS},
            "models": {
                "tower": {
                    "model": "dual-encoder",
                    "config": {"text": {"kind": "table", "dim": 8}},
                    "features": ["query_text", "text"],
                    "train": {"epochs": 1, "batch_size": 96},
                    "objective": objective,
                }
            },
        }
    )


def test_a_collection_masks_what_was_judged_relevant_for_training(two_answers):
    prepared = Prepared.make(search({"kind": "in-batch"}), two_answers, "raise")
    judged = known_positives(prepared, "tower")
    train = prepared.positives(prepared.split.train)
    assert len(judged) == 96  # 48 queries, two answers each
    assert judged.contains(train.query_keys, train.item_keys).diagonal().all()
    queries, answers = judged.lists()
    assert not torch.isin(queries, prepared.task("valid").query_keys).any()
    assert (answers.lengths == 2).all()


@pytest.mark.parametrize("kind", ["in-batch", "sampled"])
def test_the_model_learns_from_what_is_allowed(two_answers, kind):
    def trained(**said):
        prepared = Prepared.make(search({"kind": kind, **said}), two_answers, "raise")
        return train_model(prepared, "tower")[0].state_dict()

    auto, on, off = trained(), trained(mask_known=True), trained(mask_known=False)
    assert all(torch.equal(auto[name], on[name]) for name in auto)
    assert any(not torch.equal(auto[name], off[name]) for name in auto)


@pytest.mark.parametrize(
    ("objective", "change", "masked"),
    [
        ("{kind: in-batch}", [], False),
        ("{kind: in-batch}", ["history=null", "models.retriever.config.history=null"], True),
        ("{kind: sampled}", [], False),
        ("{kind: sampled}", ["history=null", "models.retriever.config.history=null"], True),
        ("{kind: sampled, mask_known: true}", [], True),
        ("{kind: in-batch, mask_known: true}", [], True),
        (
            "{kind: in-batch, mask_known: false}",
            ["history=null", "models.retriever.config.history=null"],
            False,
        ),
        ("{kind: full-softmax}", ["history=null", "models.retriever.config.history=null"], False),
    ],
)
def test_where_it_is_not_said_a_history_leaves_it_off(tiny, objective, change, masked):
    recipe = Recipe.parse(tiny(f"models.retriever.objective={objective}", *change))
    prepared = Prepared.make(recipe, None, "raise")
    assert (known_positives(prepared, "retriever") is not None) == masked


def test_a_collection_with_a_history_masks_too(two_answers):
    prepared = Prepared.make(search({"kind": "in-batch"}, history={}), two_answers, "raise")
    assert known_positives(prepared, "tower") is not None
