"""Mined negatives in the in-batch softmax."""

import pytest
import torch

from twotower.data.batches import Examples
from twotower.data.hard_negatives import HardNegatives, Judged
from twotower.errors import ConfigError
from twotower.models.catalogue import make_model
from twotower.train.lists import Distil
from twotower.train.objectives import make_objective
from twotower.train.softmax import InBatchConfig
from twotower.types import NO_ITEM, Batch, Ragged

from .objective_world import COUNTS, ITEMS, SEED, SPEC, B, N, events, two_tower


def hard_negatives():
    """Of the positives of `events`: some have three, the last has none; 3 is no positive of anybody."""
    examples = events()
    judged = Judged.of(
        torch.cat([examples.query_keys, torch.tensor([1, 4])]),
        torch.cat([examples.items, torch.tensor([3, 11])]),
        N,
    )
    lists = [[7, 3, 8], [5], [10, 4], [1, 8, 5], [3, 10], [11], [], []]
    return HardNegatives(judged, Ragged.of(lists))


def late():
    torch.manual_seed(1)
    return make_model("int-tower", SPEC, {"embedding": 4, "layers": [6]}).eval()


@pytest.mark.parametrize("model", [two_tower, late])
def test_hard_negatives_are_candidates_of_every_row_but_never_its_positives(model):
    model, examples, hard = model(), events(weights=True), hard_negatives()
    config = InBatchConfig(log_q="none", hard={"by": ["bm25"], "n": 2})
    objective = make_objective(config, ITEMS, COUNTS, SEED, hard)
    loss = objective(model, examples)["softmax"]
    drawn = hard.draw(examples.query_keys, examples.items, 2, torch.Generator().manual_seed(SEED))
    more = set(drawn.flatten().tolist()) - {NO_ITEM} - set(examples.items.tolist())
    assert more
    candidates = torch.tensor([*examples.items.tolist(), *sorted(more)])
    scores = model.score(model.encode_query(examples.query), model.encode_item(ITEMS.take(candidates)))
    judged = set(zip(hard.judged.query_keys.tolist(), hard.judged.item_keys.tolist(), strict=True))
    total = 0.0
    for row in range(B):
        kept = [
            scores[row, c]
            for c, key in enumerate(candidates.tolist())
            if c == row or (examples.query_keys[row].item(), key) not in judged
        ]
        total += examples.weights[row] * (torch.stack(kept).logsumexp(0) - scores[row, row])
    torch.testing.assert_close(loss, total / examples.weights.sum())
    assert any((1, key) in judged for key in more) or 3 not in more


def test_hard_negatives_of_sequences_are_those_of_each_place():
    model = two_tower(history={"kind": "attention"}).eval()
    items = torch.tensor([[0, 6, NO_ITEM, NO_ITEM], [9, NO_ITEM, NO_ITEM, NO_ITEM]])
    past = torch.tensor([[4, 2, 0, 0], [5, 0, 0, 0]])
    examples = Examples(Batch(user=torch.tensor([2, 3]), past=past), items, torch.tensor([0, 3]))
    judged = Judged.of(torch.tensor([0, 0, 3]), torch.tensor([0, 6, 9]), N)
    hard = HardNegatives(judged, Ragged.of([[7], [5], [1]]))
    config = InBatchConfig(log_q="none", hard={"by": ["bm25"], "n": 1})
    loss = make_objective(config, ITEMS, COUNTS, SEED, hard)(model, examples)["softmax"]
    candidates = torch.tensor([0, 6, 9, 1, 5, 7])
    query = model.encode_places(examples.query, items != NO_ITEM)
    scores = model.score(query, model.encode_item(ITEMS.take(candidates)))
    scores[0, 1] = scores[1, 0] = -torch.inf  # the other place's item is a positive of the same query
    torch.testing.assert_close(loss, torch.nn.functional.cross_entropy(scores, torch.arange(3)))


def test_hard_negatives_are_drawn_by_the_seed_and_resumed():
    model, examples = two_tower(), events()
    config = InBatchConfig(log_q="none", hard={"by": ["bm25"], "n": 1})

    def losses(seed, times, state=None):
        objective = make_objective(config, ITEMS, COUNTS, seed, hard_negatives())
        if state is not None:
            objective.load_state_dict(state)
        return [objective(model, examples)["softmax"].item() for _ in range(times)], objective.state_dict()

    first, _ = losses(1, 6)
    start, state = losses(1, 3)
    assert first[:3] == start
    assert losses(9, 3, state)[0] == first[3:]
    assert len(set(first)) > 1


def test_hard_negatives_need_no_correction_and_to_be_mined():
    assert "hard" not in InBatchConfig().plain()
    asked = InBatchConfig(log_q="none", hard={"by": ["bm25"]})
    assert InBatchConfig.parse(asked.plain()) == asked
    with pytest.raises(ConfigError, match="log_q cannot be counts; set log_q: none"):
        InBatchConfig.parse({"hard": {"by": ["bm25"]}})
    with pytest.raises(ConfigError, match="mined before training"):
        make_objective(InBatchConfig(log_q="none", hard={"by": ["bm25"]}), ITEMS, COUNTS, SEED)
    with pytest.raises(ConfigError, match="mined before training"):
        make_objective(InBatchConfig(), ITEMS, COUNTS, SEED, hard_negatives())


def taught():
    """The same with a teacher's scores: hundreds for the pair, and the item."""
    hard = hard_negatives()
    pair = hard.lists.row_of_value()
    scores = 100.0 * pair + hard.lists.values
    return HardNegatives(hard.judged, hard.lists, scores, 100.0 * torch.arange(len(hard.judged)) + 50)


@pytest.mark.parametrize("how", [{"loss": "margin"}, {"loss": "kl", "weight": 0.5, "temperature": 2.0}])
@pytest.mark.parametrize("model", [two_tower, late])
def test_scores_of_a_positive_and_its_own_negatives_follow_the_teacher(model, how):
    model, examples, hard = model(), events(), taught()
    config = InBatchConfig(log_q="none", hard={"by": ["bm25"], "n": 2, "teacher": "cross"}, distil=how)
    losses = make_objective(config, ITEMS, COUNTS, SEED, hard)(model, examples)
    plain = InBatchConfig(log_q="none", hard={"by": ["bm25"], "n": 2})
    assert losses["softmax"] == make_objective(plain, ITEMS, COUNTS, SEED, hard)(model, examples)["softmax"]
    drawn = hard.draw(examples.query_keys, examples.items, 2, torch.Generator().manual_seed(SEED))
    pairs = list(zip(hard.judged.query_keys.tolist(), hard.judged.item_keys.tolist(), strict=True))
    query = model.encode_query(examples.query)
    each = []
    for row in range(B):
        pair = pairs.index((examples.query_keys[row].item(), examples.items[row].item()))
        own = [examples.items[row].item(), *(key for key in drawn[row].tolist() if key != NO_ITEM)]
        said = torch.tensor([100.0 * pair + 50, *(100.0 * pair + key for key in own[1:])])
        item = model.encode_item(ITEMS.take(torch.tensor(own)))
        scores = model.score(query, item)[row]
        there = torch.ones(1, len(own), dtype=torch.bool)
        each.append(Distil.parse(how).follow(scores[None], said[None], there))
    counted = each if how["loss"] == "kl" else [e for e, d in zip(each, drawn, strict=True) if (d >= 0).any()]
    torch.testing.assert_close(losses["distil"], torch.stack(counted).mean())


def test_the_teacher_says_nothing_of_what_it_was_not_asked():
    hard, examples = taught(), events()
    asked = torch.tensor([[7, 0, NO_ITEM]]).expand(B, -1)
    said = hard.said(examples.query_keys, examples.items, asked)
    assert said[:, 2].isnan().all()
    for row in range(B):
        pair = int(hard.judged.place(examples.query_keys[row : row + 1], examples.items[row : row + 1]))
        for column, key in enumerate((7, 0)):
            known = key in hard.lists[pair].tolist() or key == examples.items[row]
            assert said[row, column].isnan() != known
    assert hard_negatives().said(examples.query_keys, examples.items, asked).isnan().all()
    assert hard.said(torch.tensor([0]), torch.tensor([NO_ITEM]), torch.tensor([[7]])).isnan().all()


def test_distilling_needs_a_teacher_and_its_scores():
    for wrong in ({}, {"hard": {"by": ["bm25"]}}):
        with pytest.raises(ConfigError, match="distil follows a teacher's scores of hard negatives"):
            InBatchConfig.parse({"log_q": "none", "distil": {}, **wrong})
    config = InBatchConfig(log_q="none", hard={"by": ["bm25"], "teacher": "cross"}, distil={})
    with pytest.raises(ConfigError, match="has no teacher's scores"):
        make_objective(config, ITEMS, COUNTS, SEED, hard_negatives())
