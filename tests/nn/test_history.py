import pytest
import torch

from twotower.data.elapsed import ELAPSED
from twotower.data.spec import Column, FeatureSpec
from twotower.errors import ConfigError
from twotower.models.two_tower import TwoTower, TwoTowerConfig
from twotower.types import Batch

SPEC = FeatureSpec(
    columns=(
        Column(name="movie", kind="id", side="item", size=9),
        Column(name="past", kind="sequence", side="query", size=9, width=5, of="movie"),
    )
)
PAST = torch.tensor([[3, 4, 5, 0, 0], [2, 0, 0, 0, 0], [0, 0, 0, 0, 0]])
TIMES = torch.tensor([[2, 9, 14, 0, 0], [7, 0, 0, 0, 0], [0, 0, 0, 0, 0]])


def model(kind: str) -> TwoTower:
    torch.manual_seed(0)
    history = {"kind": kind, "elapsed": True}
    made = TwoTower(SPEC, TwoTowerConfig(embedding=8, layers=(), history=history))
    torch.nn.init.normal_(made.inputs.past.elapsed.weight)
    return made.eval()


@pytest.mark.parametrize("kind", ["mean", "pooling", "attention"])
def test_a_place_answers_as_if_the_request_came_when_the_next_event_did(kind):
    made = model(kind)
    batch = Batch(past=PAST, past_elapsed=TIMES)
    at = PAST != 0
    places = made.encode_places(batch, at)["vector"]
    for n, (row, place) in enumerate(at.nonzero().tolist()):
        cut = torch.arange(5) <= place
        alone = Batch(past=(PAST[row] * cut)[None], past_elapsed=(TIMES[row] * cut)[None])
        torch.testing.assert_close(places[n], made.encode_query(alone)["vector"][0])


@pytest.mark.parametrize("kind", ["mean", "pooling", "attention"])
def test_time_changes_the_answer_and_padding_does_not(kind):
    made = model(kind)
    before = made.encode_query(Batch(past=PAST, past_elapsed=TIMES))["vector"]
    later = TIMES.clone()
    later[0, 2] = ELAPSED - 1
    after = made.encode_query(Batch(past=PAST, past_elapsed=later))["vector"]
    assert (before[0] - after[0]).abs().max() > 1e-3
    torch.testing.assert_close(before[1:], after[1:])
    wide = Batch(past=PAST[:, :3], past_elapsed=TIMES[:, :3])
    torch.testing.assert_close(made.encode_query(wide)["vector"], before)


def test_training_hides_a_few_times_so_that_serving_can_do_without():
    made = model("attention").train()
    hidden = torch.stack([made.inputs.past._times(Batch(past_elapsed=TIMES)) for _ in range(400)])
    real = hidden[:, TIMES > 0]
    assert 0.02 < (real == 1).float().mean() < 0.09
    assert ((real == 1) | (real == TIMES[TIMES > 0])).all()
    assert (hidden[:, TIMES == 0] == 0).all()


def test_a_model_that_reads_times_says_where_they_come_from():
    with pytest.raises(ConfigError, match="elapsed: true"):
        model("mean").encode_query(Batch(past=PAST))


def test_a_model_without_times_is_written_down_as_before_there_were_any():
    assert "elapsed" not in TwoTowerConfig(history={"kind": "mean"}).plain()["history"]
    assert TwoTowerConfig(history={"kind": "mean", "elapsed": True}).plain()["history"]["elapsed"] is True
