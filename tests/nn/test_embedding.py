"""Columns become vectors; all categorical ones share one table."""

import pytest
import torch

from twotower.data.spec import Column
from twotower.nn.embedding import Embeddings
from twotower.types import PAD, UNKNOWN, Batch

USER = Column(name="user", kind="id", side="query", size=5)
TAGS = Column(name="tags", kind="bag", side="item", size=4, width=3)
AGE = Column(name="age", kind="number", side="query", width=2)
LOOK = Column(name="look", kind="vector", side="item", width=3)
MOVIE = Column(name="movie", kind="id", side="item", size=6)
PAST = Column(name="past", kind="sequence", side="query", size=6, width=4, of="movie")
COLUMNS = [USER, TAGS, AGE, LOOK, MOVIE, PAST]
ROWS = Batch(
    user=torch.tensor([2, 4]),
    tags=torch.tensor([[2, 3, 0], [0, 0, 0]]),
    age=torch.randn(2, 2),
    look=torch.randn(2, 3),
    movie=torch.tensor([5, 1]),
    past=torch.tensor([[5, 2, 0, 0], [0, 0, 0, 0]]),
)


@pytest.fixture
def embeddings():
    torch.manual_seed(0)
    return Embeddings(COLUMNS, 3)


def row(embeddings, name, index):
    return embeddings.table.weight[embeddings.starts[name] + index]


def test_one_table_holds_every_column_once(embeddings):
    assert embeddings.table.num_embeddings == 5 + 4 + 6
    assert sorted(embeddings.starts.values()) == [0, 5, 9, 9]
    assert embeddings.starts["past"] == embeddings.starts["movie"]


def test_fields_come_in_the_order_asked(embeddings):
    out = embeddings(ROWS, [AGE, MOVIE, TAGS, USER])
    assert out.shape == (2, 4, 3)
    torch.testing.assert_close(out[0, 0], embeddings.linear["age"](ROWS["age"][0]))
    torch.testing.assert_close(out[0, 1], row(embeddings, "movie", 5))
    torch.testing.assert_close(out[0, 3], row(embeddings, "user", 2))


def test_a_bag_is_the_mean_of_its_values_and_zero_when_empty(embeddings):
    out = embeddings(ROWS, [TAGS])
    torch.testing.assert_close(out[0, 0], (row(embeddings, "tags", 2) + row(embeddings, "tags", 3)) / 2)
    assert (out[1, 0] == 0).all()


def test_a_sequence_shares_the_rows_of_its_items_and_pads_with_zero(embeddings):
    out = embeddings.sequence("past", ROWS["past"])
    torch.testing.assert_close(out[0, 0], row(embeddings, "movie", 5))
    assert (out[0, 2:] == 0).all()
    assert (out[1] == 0).all()


def test_padding_takes_no_part_even_after_training(embeddings):
    out = embeddings(ROWS, [TAGS]).sum() + embeddings.sequence("past", ROWS["past"]).sum()
    out.backward()
    for name in ("tags", "past"):
        assert (embeddings.table.weight.grad[embeddings.starts[name] + PAD] == 0).all()


def test_own_candidates_are_looked_up_like_rows(embeddings):
    at = torch.tensor([[0, 1, 1], [1, 0, 0]])
    own = embeddings(ROWS.take(at), [MOVIE, TAGS, LOOK])
    assert own.shape == (2, 3, 3, 3)
    torch.testing.assert_close(own, embeddings(ROWS, [MOVIE, TAGS, LOOK])[at])


def test_id_dropout_makes_values_unknown_in_training_only():
    torch.manual_seed(0)
    column = USER.model_copy(update={"dropout": 0.25})
    embeddings = Embeddings([column], 2)
    values = torch.full((20_000,), 3)
    indices = embeddings.indices("user", values)
    assert set(indices.tolist()) == {3, UNKNOWN}
    assert (indices == UNKNOWN).float().mean().item() == pytest.approx(0.25, abs=0.02)
    assert torch.equal(embeddings.eval().indices("user", values), values)


def test_sparse_tables_give_sparse_gradients():
    embeddings = Embeddings([USER, MOVIE], 2, sparse=True)
    embeddings(ROWS, [USER, MOVIE]).sum().backward()
    assert embeddings.table.weight.grad.is_sparse
    assert embeddings.table.weight.grad.coalesce().indices().tolist() == [[2, 4, 5 + 1, 5 + 5]]


def test_a_column_may_be_called_like_a_method_of_a_module_or_have_a_dot():
    names = ["children", "items", "user.age", "training", "a%2E"]
    columns = [Column(name=name, kind="number", side="query", width=1) for name in names]
    layer = Embeddings(columns, 3)
    out = layer(Batch((name, torch.full((1, 1), 2.0)) for name in names), columns)
    for place, name in enumerate(names):
        torch.testing.assert_close(out[0, place], 2 * layer.linear_of(name).weight[:, 0])
    again = Embeddings(columns, 3)
    again.load_state_dict(layer.state_dict())


def test_events_of_a_history_are_never_dropped():
    item = MOVIE.model_copy(update={"dropout": 0.9})
    layer = Embeddings([item, PAST], 3).train()
    events = torch.full((200, 4), 3)
    for name in ("past", "movie"):  # as target attention asks
        rows = layer.sequence(name, events)
        assert (rows == rows[0, 0]).all()
    assert len(layer(Batch(movie=torch.full((200,), 3)), [item]).unique(dim=0)) == 2
