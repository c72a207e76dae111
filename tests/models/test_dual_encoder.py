"""The dual encoders against their formula, what they share and freeze, and that they learn to search."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from twotower.data.batches import Examples
from twotower.data.spec import Column, FeatureSpec
from twotower.errors import ConfigError
from twotower.models.catalogue import load_model, make_model, save_model
from twotower.train.objectives import make_objective
from twotower.train.softmax import FullSoftmaxConfig, InBatchConfig, SampledConfig
from twotower.types import Batch


def text(name, side, width=6, size=40, tokenizer="words"):
    return Column(name=name, kind="text", side=side, size=size, width=width, tokenizer=tokenizer)


SPEC = FeatureSpec(
    columns=(
        text("asked", "query", width=3),
        Column(name="device", kind="category", side="context", size=4),
        text("body", "item"),
        Column(name="year", kind="number", side="item", width=2),
        Column(name="tags", kind="bag", side="item", size=7, width=2),
    )
)
TABLE = {"kind": "table", "dim": 8}
TRANSFORMER = {"kind": "transformer", "dim": 8, "blocks": 1, "heads": 2, "dropout": 0.0}
SHARES = ["sde", "ade", "ade-ste", "ade-fte", "ade-spl"]


def make(share="sde", spec=SPEC, **more):
    torch.manual_seed(0)
    config = {"share": share, "text": TRANSFORMER, "projection": 5, **more}
    return make_model("dual-encoder", spec, config).eval()


def queries(rows=4):
    draw = torch.Generator().manual_seed(0)
    asked = torch.randint(1, 40, (rows, 3), generator=draw) * (torch.arange(3) < torch.arange(rows)[:, None])
    return Batch(asked=asked, device=torch.arange(rows) % 4)


def items(rows=5):
    draw = torch.Generator().manual_seed(1)
    length = torch.arange(rows) * 3 % 7
    return Batch(
        body=torch.randint(1, 40, (rows, 6), generator=draw) * (torch.arange(6) < length[:, None]),
        year=torch.randn(rows, 2, generator=draw),
        tags=torch.randint(0, 7, (rows, 2), generator=draw),
    )


@torch.no_grad()
def scores(model, query=None, item=None):
    return model.score(model.encode_query(query or queries()), model.encode_item(item or items()))


def textbook_vector(model, tokens: Tensor, side: str) -> Tensor:
    """One text, its real tokens alone, mean pooling, the projection."""
    shared = model.config.share == "sde"
    encoder = model.item_encoder if shared or side == "item" else model.query_encoder
    one_projection = model.config.share in ("sde", "ade-spl")
    projection = model.item_projection if one_projection or side == "item" else model.query_projection
    real = tokens[tokens != 0]
    if not len(real):
        return torch.zeros(projection.out_features)
    return projection.weight @ encoder(real[None]).vectors[0].mean(0)


@pytest.mark.parametrize("similarity", ["cosine", "dot"])
@pytest.mark.parametrize("share", SHARES)
def test_score_is_the_textbooks(share, similarity):
    model = make(share, similarity=similarity, temperature=0.1)
    found = scores(model)
    for q in range(4):
        for i in range(5):
            u = textbook_vector(model, queries()["asked"][q], "query")
            v = textbook_vector(model, items()["body"][i], "item")
            cosine = functional.cosine_similarity(u, v, dim=0) / 0.1
            torch.testing.assert_close(
                found[q, i], cosine if similarity == "cosine" else u @ v, atol=1e-5, rtol=1e-5
            )


def test_fields_of_both_sides_are_added():
    model = make(fields=True, embedding=3, similarity="dot")
    u = textbook_vector(model, queries()["asked"][2], "query")
    u = u + model.query_beside.weight @ model.embeddings(queries(), model.query_fields)[2].flatten()
    v = textbook_vector(model, items()["body"][1], "item")
    beside = model.embeddings(items(), model.item_fields)[1]
    assert beside.shape == (2, 3)
    v = v + model.item_beside.weight @ beside.flatten()
    torch.testing.assert_close(scores(model)[2, 1], u @ v, atol=1e-5, rtol=1e-5)


def parts(model):
    """What stands on both sides at the same place of memory: token embedder, encoder body, projection."""
    query, item = model.query_encoder or model.item_encoder, model.item_encoder
    return (
        query.embedder is item.embedder,
        query.places is item.places,
        (model.query_projection or model.item_projection) is model.item_projection,
    )


@pytest.mark.parametrize(
    ("share", "expected"),
    [
        ("sde", (True, True, True)),
        ("ade", (False, False, False)),
        ("ade-ste", (True, False, False)),
        ("ade-fte", (True, False, False)),
        ("ade-spl", (False, False, True)),
    ],
)
def test_what_is_shared(share, expected, tmp_path):
    model = make(share)
    assert parts(model) == expected
    save_model(model, "dual-encoder", tmp_path)  # safetensors refuses a tensor under two names
    loaded = load_model(tmp_path)
    assert parts(loaded) == expected
    assert torch.equal(scores(loaded), scores(model))


@pytest.mark.parametrize("share", SHARES)
def test_only_the_frozen_embedder_does_not_learn(share):
    model = make(share).train()
    model.score(model.encode_query(queries()), model.encode_item(items())).square().sum().backward()
    dead = [name for name, p in model.named_parameters() if p.grad is None]
    assert dead == (["item_encoder.embedding.weight"] if share == "ade-fte" else [])
    assert model.item_encoder.embedder.weight.requires_grad == (share != "ade-fte")


@pytest.mark.parametrize("share", SHARES)
def test_the_item_digest_knows_what_items_depend_on(share):
    model = make(share)
    before = model.encode_item(items())["vector"], model.item_digest()
    with torch.no_grad():
        for part in (model.query_encoder, model.query_projection):
            for parameter in part.parameters() if part is not None else ():
                parameter.add_(1)
    assert torch.equal(model.encode_item(items())["vector"], before[0])
    assert model.item_digest() == before[1]


def test_one_encoder_reads_the_longer_of_both_texts():
    spec = FeatureSpec(columns=(text("asked", "query", width=9), text("body", "item", width=4)))
    model = make(spec=spec)
    long = Batch(asked=torch.arange(2, 11)[None])
    assert model.encode_query(long)["vector"].isfinite().all()


def test_an_empty_query_scores_every_item_alike():
    empty = Batch(queries(), asked=torch.zeros(4, 3, dtype=torch.int64))
    assert (scores(make(), empty) == 0).all()


def test_shapes_costs_and_own_candidates():
    model = make(projection=None, fields=True)
    assert model.item_specs()[0].shape == (8,)
    assert (model.bytes_per_item, model.flops_per_pair) == (32, 16)
    own = items().take(torch.arange(5).expand(4, 5))
    assert model.encode_item(own)["vector"].shape == (4, 5, 8)
    torch.testing.assert_close(scores(model, item=own), scores(model), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("spec", "config", "message"),
    [
        (SPEC, {"share": "ade-spl", "projection": None}, "ade-spl shares the projection and needs one"),
        (SPEC, {"item_text": "text"}, "item_text: 'text' is no encoded text of the item"),
        (SPEC, {"text": {"kind": "tabel"}}, "tabel"),
        (
            FeatureSpec(columns=(text("asked", "query"), text("body", "item", size=9, tokenizer="stems"))),
            {},
            r"one token embedder: give 'asked' \(words\) and 'body' \(stems\) the same tokenizer",
        ),
        (
            FeatureSpec(columns=(SPEC["asked"], SPEC["body"])),
            {"fields": True},
            "fields: true, but there is no column",
        ),
    ],
)
def test_what_cannot_be_built_says_why(spec, config, message):
    with pytest.raises(ConfigError, match=message):
        make_model("dual-encoder", spec, config)


def test_towers_that_share_nothing_may_read_other_tokens():
    columns = (text("asked", "query"), text("body", "item", size=9, tokenizer="stems"))
    model = make("ade", spec=FeatureSpec(columns=columns))
    assert model.query_encoder.embedder.num_embeddings == 40
    assert model.item_encoder.embedder.num_embeddings == 9


DOCUMENTS, VOCABULARY = 120, 300


def collection():
    """Documents of random words, and queries of three words of theirs."""
    draw = torch.Generator().manual_seed(3)
    body = torch.randint(2, VOCABULARY, (DOCUMENTS, 12), generator=draw)
    some = torch.stack([torch.randperm(12, generator=draw)[:3] for _ in range(4 * DOCUMENTS)])
    item = torch.arange(DOCUMENTS).repeat(4)
    spec = FeatureSpec(
        columns=(
            text("asked", "query", width=3, size=VOCABULARY),
            text("body", "item", width=12, size=VOCABULARY),
        )
    )
    return spec, Batch(asked=body[item].gather(1, some)), item, Batch(body=body)


@torch.no_grad()
def mean_rank(model, query, target, item):
    found = scores(model.eval(), query, item)
    return float((found > found.gather(1, target[:, None])).sum(1).float().mean()) + 1


@pytest.mark.parametrize(
    ("config", "objective", "steps"),
    [
        ({"text": {"kind": "table", "dim": 32}}, InBatchConfig(), 100),
        ({"text": {"kind": "table", "dim": 32}}, SampledConfig(negatives=64), 100),
        ({"text": {"kind": "table", "dim": 32}, "similarity": "dot"}, FullSoftmaxConfig(), 100),
        (
            {"text": {"kind": "transformer", "dim": 32, "blocks": 1, "heads": 2}, "projection": 32},
            InBatchConfig(),
            200,
        ),
    ],
    ids=["table-in-batch", "table-sampled", "table-full", "transformer"],
)
def test_it_learns_to_find_the_document_of_a_query(config, objective, steps):
    """Unseen queries: a quarter of them is held out. Chance is a mean rank of 60."""
    spec, query, target, item = collection()
    torch.manual_seed(0)
    # towers that share nothing know nothing of each other's words before they learn
    model = make_model("dual-encoder", spec, {"share": "ade", **config})
    train, test = torch.arange(3 * DOCUMENTS), torch.arange(3 * DOCUMENTS, 4 * DOCUMENTS)
    before = mean_rank(model, query.take(test), target[test], item)
    loss_of = make_objective(objective, item, torch.full((DOCUMENTS,), 3), seed=0)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    draw = torch.Generator().manual_seed(0)
    model.train()
    for _ in range(steps):
        rows = train[torch.randint(len(train), (64,), generator=draw)]
        losses = loss_of(model, Examples(query.take(rows), target[rows], rows))
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
    after = mean_rank(model, query.take(test), target[test], item)
    assert before > 40
    assert after < 20, f"mean rank {before:.1f} -> {after:.1f}"
