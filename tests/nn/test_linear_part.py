"""First-order weights: a sum over fields that splits into sides."""

import torch

from twotower.data.spec import Column
from twotower.nn.linear_part import LinearPart
from twotower.types import Batch

USER = Column(name="user", kind="id", side="query", size=4)
AGE = Column(name="age", kind="number", side="query", width=2)
TAGS = Column(name="tags", kind="bag", side="item", size=5, width=2)


def test_sides_add_up_to_one_weight_per_value_and_linear_numbers():
    part = LinearPart([USER, AGE], [TAGS])
    torch.nn.init.normal_(part.weights.table.weight)
    torch.nn.init.normal_(part.weights.linear["age"].weight)
    torch.nn.init.constant_(part.bias, 0.5)
    query = Batch(user=torch.tensor([3, 1]), age=torch.tensor([[0.2, 0.0], [0.0, 1.0]]))
    item = Batch(tags=torch.tensor([[2, 4], [3, 0], [0, 0]]))
    table, a = part.weights.table.weight[:, 0], part.weights.linear["age"].weight[0]
    torch.testing.assert_close(part.query(query)[0], 0.5 + table[3] + 0.2 * a[0])
    torch.testing.assert_close(part.query(query)[1], 0.5 + table[1] + a[1])
    tag = table[4:]
    expected = torch.stack([(tag[2] + tag[4]) / 2, tag[3], torch.zeros(())])
    torch.testing.assert_close(part.item(item), expected)
    own = item.take(torch.tensor([[0, 1], [2, 1]]))
    torch.testing.assert_close(part.item(own), expected[torch.tensor([[0, 1], [2, 1]])])


def test_all_weights_start_at_zero():
    assert not any(parameter.any() for parameter in LinearPart([USER, AGE], [TAGS]).parameters())


def test_a_query_without_fields_brings_the_bias():
    part = LinearPart([], [TAGS])
    torch.nn.init.constant_(part.bias, 2.0)
    assert part.query(Batch(history=torch.zeros(3, 4).long())).tolist() == [2.0, 2.0, 2.0]


def test_only_numbers_and_vectors_of_items_cost_products():
    look = Column(name="look", kind="vector", side="item", width=3)
    assert LinearPart([USER, AGE], [TAGS]).item_flops == 0
    assert LinearPart([USER], [TAGS, look]).item_flops == 6
