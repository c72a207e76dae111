"""Mined negatives in the in-batch softmax."""

import pytest
import torch

from twotower.data.batches import Examples
from twotower.data.hard_negatives import HardNegatives, Judged
from twotower.errors import ConfigError
from twotower.models.catalogue import make_model
from twotower.train.objectives import InBatchConfig, make_objective
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
