"""Term gates: idf by hand, and shares over real tokens alone."""

import math

import pytest
import torch

from twotower.errors import ConfigError
from twotower.nn.term_weight import InverseFrequency, TermVector
from twotower.nn.token_lists import NO_TERM, Tokens

TOKENS = Tokens(
    torch.tensor([[[1.0, 0.0], [0.0, 2.0], [9.0, 9.0]], [[0.0, 0.0]] * 3]),
    torch.tensor([2, 0]),
    torch.tensor([[1, 2, NO_TERM], [NO_TERM] * 3]),
)


def softmax(*numbers):
    whole = sum(math.exp(n) for n in numbers)
    return [math.exp(n) / whole for n in numbers]


@torch.no_grad()
def test_idf_counts_documents_and_not_occurrences():
    gate = InverseFrequency(4)
    gate.see(torch.tensor([[1, 1, 2], [1, NO_TERM, NO_TERM], [NO_TERM, 3, 3]]))
    expected = [math.log(4 / (n + 1)) for n in (0, 2, 1, 1)]
    assert gate.idf.tolist() == pytest.approx(expected)
    gate.weight.fill_(2.0)
    shares = gate(TOKENS)
    assert shares[0].tolist() == pytest.approx([*softmax(2 * expected[1], 2 * expected[2]), 0.0])
    assert shares[1].tolist() == [0.0] * 3


def test_idf_of_an_unseen_catalogue_is_an_error():
    with pytest.raises(ConfigError, match="see_items"):
        InverseFrequency(4)(TOKENS)


@torch.no_grad()
def test_a_direction_weighs_vectors():
    gate = TermVector(2)
    gate.direction.weight.copy_(torch.tensor([[0.5, 1.0]]))
    assert gate(TOKENS)[0].tolist() == pytest.approx([*softmax(0.5, 2.0), 0.0])
    assert gate(TOKENS)[1].tolist() == [0.0] * 3
