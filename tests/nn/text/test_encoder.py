"""What every text encoder promises; a pretrained one is here a tiny BERT without its weights."""

import copy

import pytest
import torch
from pydantic import TypeAdapter

from twotower.data.spec import Column, Special
from twotower.nn.text import encoder as module
from twotower.nn.text.config import TableConfig, TextConfig, TransformerConfig
from twotower.nn.text.make import make_text_encoder

COLUMN = Column(
    name="body",
    kind="text",
    side="item",
    size=32,
    width=12,
    tokenizer="tiny",
    special=Special(first=2, last=3),
)
BERT = {
    "model_type": "bert",
    "vocab_size": 30,
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "max_position_embeddings": 16,
}
CONFIGS = {
    "table": {"kind": "table", "dim": 8},
    "transformer": {"kind": "transformer", "dim": 8, "blocks": 2, "heads": 2, "dropout": 0.3},
    "pretrained": {"kind": "pretrained", "path": "nowhere", "architecture": BERT},
}


def make(name, segments=1, **more):
    if name == "pretrained":
        pytest.importorskip("transformers", reason="needs the extra text")
    torch.manual_seed(0)
    config = TypeAdapter(TextConfig).validate_python({**CONFIGS[name], **more})
    return make_text_encoder(COLUMN, config, segments).eval()


def some_tokens(rows=9, seed=0):
    draw = torch.Generator().manual_seed(seed)
    length = torch.arange(rows) * 4 % 11  # the second-last is empty, none is full
    return torch.randint(1, 32, (rows, 12), generator=draw) * (torch.arange(12) < length[:, None])


@pytest.fixture(params=CONFIGS)
def encoder(request):
    return make(request.param)


def test_a_vector_per_token_and_zero_where_there_is_none(encoder):
    tokens = some_tokens()
    states = encoder(tokens)
    assert states.vectors.shape == (9, 10, encoder.dim)  # trimmed to the longest
    assert torch.equal(states.mask, tokens[:, :10] != 0)
    assert (states.vectors[~states.mask] == 0).all()
    assert states.vectors.isfinite().all()


def test_neither_padding_nor_company_changes_a_vector(encoder):
    tokens = some_tokens()
    states = encoder(tokens)
    for row in range(9):
        length = int(states.mask[row].sum())
        alone = encoder(tokens[row : row + 1, : max(length, 1)]).vectors[0, :length]
        torch.testing.assert_close(states.vectors[row, :length], alone, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("how", ["mean", "first", "max"])
def test_micro_batches_change_nothing_but_memory(encoder, how, monkeypatch):
    tokens = some_tokens(40)
    whole, pooled = encoder(tokens), encoder.pooled(tokens, how)
    monkeypatch.setitem(module.BUDGET, "cpu", 30)
    told = []
    with torch.no_grad():
        parts = encoder(tokens)
        torch.testing.assert_close(parts.vectors, whole.vectors, atol=1e-6, rtol=1e-5)
        assert torch.equal(parts.mask, whole.mask)
        again = encoder.pooled(tokens, how, progress=lambda done, all_: told.append((done, all_)))
    torch.testing.assert_close(again, pooled, atol=1e-6, rtol=1e-5)
    assert len(told) > 3
    assert told[-1] == (40, 40)


@torch.no_grad()
def test_no_texts_and_texts_without_tokens(encoder):
    assert encoder.pooled(some_tokens()[:0]).shape == (0, encoder.dim)
    assert encoder(some_tokens()[:0]).vectors.shape == (0, 1, encoder.dim)
    assert (encoder.pooled(torch.zeros(2, 12, dtype=torch.int64)) == 0).all()


def test_training_learns_every_parameter_even_beside_empty_texts(encoder):
    encoder.train().pooled(some_tokens()).square().sum().backward()
    for name, parameter in encoder.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


@pytest.mark.parametrize("name", CONFIGS)
def test_a_borrowed_token_embedder_is_one_parameter(name):
    lender, borrower = make(name), make(name)
    borrower.borrow(lender)
    assert borrower.embedder is lender.embedder
    assert "embedding.weight" not in borrower.state_dict()
    both = torch.nn.ModuleList([lender, borrower])
    twin = copy.deepcopy(both)  # as averages and checks of a model make it
    assert twin[1].embedder is twin[0].embedder is not lender.embedder
    before = borrower.pooled(some_tokens())
    with torch.no_grad():
        lender.embedder.weight.mul_(2)
    assert not torch.equal(borrower.pooled(some_tokens()), before)
    torch.testing.assert_close(twin[1].pooled(some_tokens()), before)


@pytest.mark.parametrize("name", ["transformer", "pretrained"])
def test_segments_matter_where_the_encoder_was_made_for_them(name):
    encoder, tokens = make(name, segments=2), some_tokens()
    with torch.no_grad():
        for table in encoder.modules():  # BERT starts with segments that are all but alike
            if isinstance(table, torch.nn.Embedding):
                torch.nn.init.normal_(table.weight)
    segments = (torch.arange(12) > 3).long().expand(9, 12)
    plain, marked = encoder(tokens, torch.zeros_like(segments)).vectors, encoder(tokens, segments).vectors
    assert (plain - marked).abs().max() > 1e-3
    with torch.no_grad():
        torch.testing.assert_close(encoder(tokens, segments).vectors, marked, atol=1e-6, rtol=1e-5)
        assert (marked[tokens[:, :10] == 0] == 0).all()


def test_a_table_is_its_rows():
    encoder = make("table")
    tokens = some_tokens()
    torch.testing.assert_close(encoder(tokens).vectors, encoder.embedder.weight[tokens[:, :10]])
    assert make_text_encoder(COLUMN, TableConfig(sparse=True)).embedder.sparse


def test_places_make_order_matter_in_a_transformer():
    encoder = make("transformer")
    ahead = encoder.pooled(torch.tensor([[5, 6, 7]]))
    assert (ahead - encoder.pooled(torch.tensor([[7, 6, 5]]))).abs().max() > 1e-3


def test_the_transformer_is_the_textbooks():
    """Pre-norm blocks of full attention, written with loops over heads and places."""
    encoder, tokens = make("transformer"), torch.tensor([[4, 9, 2]])
    x = encoder.embedder.weight[tokens[0]] + encoder.places.weight[:3]
    for block in encoder.blocks:
        inside = torch.nn.functional.layer_norm(
            x, (8,), block.before_attention.weight, block.before_attention.bias
        )
        q, k, v = (inside @ block.query_key_value.weight.T + block.query_key_value.bias).split(8, dim=-1)
        heads = []
        for h in range(2):
            part = slice(4 * h, 4 * h + 4)
            weights = torch.softmax(q[:, part] @ k[:, part].T / 4**0.5, -1)
            heads.append(weights @ v[:, part])
        x = x + block.out(torch.cat(heads, -1))
        x = x + block.feed_forward(x)
    torch.testing.assert_close(encoder(tokens).vectors[0], encoder.norm(x), atol=1e-6, rtol=1e-5)


def test_a_width_that_heads_do_not_divide_is_refused():
    with pytest.raises(ValueError, match="dim 10 is not a multiple of heads 4"):
        TransformerConfig(dim=10, heads=4)
