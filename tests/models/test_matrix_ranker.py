"""What the four models of the interaction matrix share, over texts and over fields."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from twotower.data.batches import Examples
from twotower.data.spec import Column, FeatureSpec
from twotower.errors import ConfigError
from twotower.index.item_table import ItemTable
from twotower.models.base import Model
from twotower.models.catalogue import load_model, make_model, save_model
from twotower.scores import matrix
from twotower.train.lists import Lists, ListsConfig
from twotower.train.objectives import Pointwise
from twotower.types import UNKNOWN, Batch

SPEC = FeatureSpec(
    columns=(
        Column(name="words", kind="text", side="query", size=30, width=4, tokenizer="words"),
        Column(name="age", kind="number", side="query", width=2),
        Column(name="past", kind="sequence", side="query", size=20, width=5, of="movie"),
        Column(name="movie", kind="id", side="item", size=20, dropout=0.2),
        Column(name="genres", kind="bag", side="item", size=7, width=3),
        Column(name="plot", kind="text", side="item", size=30, width=9, tokenizer="words"),
    )
)
NAMES = ("knrm", "conv-knrm", "drmm", "match-pyramid")
TEXT = {"text": {"kind": "table", "dim": 8}}
FIELDS = {"tokens": "fields", "embedding": 8}
SMALL = {
    "knrm": {},
    "conv-knrm": {"filters": 6, "ngrams": 2},
    "drmm": {"bins": 7},
    "match-pyramid": {"channels": [3], "grid": [2, 3], "layers": [5]},
}
Q, C = 5, 8


def lists_of(rows: int, width: int, size: int, draw: torch.Generator) -> torch.Tensor:
    """Lists of every length, none and the longest among them."""
    length = torch.arange(rows) * (width // 2 + 1) % (width + 1)
    return torch.randint(1, size, (rows, width), generator=draw) * (torch.arange(width) < length[:, None])


def queries() -> Batch:
    draw = torch.Generator().manual_seed(0)
    return Batch(
        words=lists_of(Q, 4, 30, draw),
        age=torch.randn(Q, 2, generator=draw),
        past=lists_of(Q, 5, 20, draw),
    )


def items() -> Batch:
    draw = torch.Generator().manual_seed(1)
    return Batch(
        movie=torch.randint(1, 20, (C,), generator=draw),
        genres=torch.randint(0, 7, (C, 3), generator=draw),
        plot=lists_of(C, 9, 30, draw),
    )


def pairs() -> Batch:
    return Batch(lexical_score=torch.randn(Q, C, generator=torch.Generator().manual_seed(2)))


def make(name: str, **options) -> Model:
    torch.manual_seed(0)
    model = make_model(name, SPEC, {**SMALL[name], **options})
    if name == "drmm":
        model.see_items(items())
    return model.eval()


@pytest.fixture(params=[(name, tokens) for name in NAMES for tokens in ("text", "fields")], ids="-".join)
def about(request):
    name, tokens = request.param
    return name, TEXT if tokens == "text" else FIELDS


@torch.no_grad()
def score(model, query, item, *more):
    return model.score(model.encode_query(query), model.encode_item(item), *more)


def own(item: Batch) -> Batch:
    return item.take(torch.arange(C).expand(Q, C))


def test_shared_and_own_candidates_and_chunks_score_the_same(about, monkeypatch):
    model = make(about[0], **about[1])
    expected = score(model, queries(), items())
    assert expected.shape == (Q, C)
    assert expected.isfinite().all()
    torch.testing.assert_close(score(model, queries(), own(items())), expected, atol=1e-6, rtol=1e-5)
    monkeypatch.setattr(matrix, "FLOATS_AT_ONCE", 500)
    torch.testing.assert_close(score(model, queries(), items()), expected, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(score(model, queries(), own(items())), expected, atol=1e-6, rtol=1e-5)


def test_padding_and_company_never_change_a_score(about):
    model = make(about[0], **about[1])
    expected = score(model, queries(), items())
    for q in range(Q):
        one = {n: t[q : q + 1] for n, t in queries().items()}
        for c in range(C):
            alone = {n: t[c : c + 1] for n, t in items().items()}
            found = score(model, Batch(one), Batch(alone))
            torch.testing.assert_close(found[0, 0], expected[q, c], atol=1e-6, rtol=1e-5)
    rep = model.encode_item(items())
    rep["tokens"] = torch.nn.functional.pad(rep["tokens"], (0, 0, 0, 6), value=0.3)  # garbage, as in a buffer
    with torch.no_grad():
        found = model.score(model.encode_query(queries()), rep)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)


def test_masked_candidates_score_minus_infinity(about):
    model = make(about[0], **about[1])
    mask = torch.rand(Q, C, generator=torch.Generator().manual_seed(3)) < 0.5
    found = score(model, queries(), own(items()), None, mask)
    assert (found[~mask] == -torch.inf).all()
    torch.testing.assert_close(found[mask], score(model, queries(), items())[mask], atol=1e-6, rtol=1e-5)


def test_no_candidates_and_no_tokens_are_defined(about):
    model = make(about[0], **about[1])
    none = items().take(torch.empty(Q, 0, dtype=torch.int64))
    assert score(model, queries(), none).shape == (Q, 0)
    query = Batch({n: torch.zeros_like(t) for n, t in queries().items()})
    item = Batch({n: torch.zeros_like(t) for n, t in items().items()})
    found = score(model, query, item)
    assert found.isfinite().all()
    assert found.unique().numel() == 1


def test_what_is_unknown_matches_nothing(about):
    """Neither a word that the vocabulary lacks nor an id: two of them are not one."""
    model = make(about[0], **about[1])
    item = items()
    item["plot"][1:4, :2] = item["genres"][1:4, :2] = item["movie"][1:4] = UNKNOWN
    age = torch.zeros(3, 2)
    words = torch.tensor([[1, 5, 1, 7], [1, 1, 1, 1], [1, 0, 0, 0]])
    past = torch.tensor([[1, 5, 1, 7, 0], [1, 1, 1, 1, 1], [1, 0, 0, 0, 0]])
    known = torch.tensor([[5, 7, 0, 0, 0], [0] * 5, [0] * 5])
    found = score(model, Batch(words=words, past=past, age=age), item)
    expected = score(model, Batch(words=known[:, :4], past=known, age=age), item)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)


def test_an_item_table_serves_the_same_scores(about):
    model = make(about[0], **about[1])
    catalogue = items()
    with torch.no_grad():
        table = ItemTable.build(
            lambda keys: model.encode_item(catalogue.take(keys)), C, model.item_specs(), "x", chunk=3
        )
        keys = torch.arange(C).roll(2).expand(Q, C)
        found = model.score(model.encode_query(queries()), table.take(keys))
    torch.testing.assert_close(found, score(model, queries(), items()).roll(2, dims=1), atol=1e-6, rtol=1e-5)
    assert table.bytes_per_item <= model.bytes_per_item


def test_half_precision_tells_an_exact_match_from_a_near_one(about):
    """Unit vectors rounded to bfloat16 have lengths of .996 to 1.004: the kernel at 1 is .001 wide."""
    model = make(about[0], **about[1])
    query, item = queries(), items()
    item["plot"][:, :4] = query["words"][:1].clamp(min=2)
    item["movie"][:] = query["past"][1, 0]
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        reps = model.encode_query(query), model.encode_item(item)
        found = model.score(*reps).float()
        self_similarity = (reps[1]["tokens"].square()).sum(-1)
    assert reps[1]["tokens"].dtype == torch.float32
    assert ((self_similarity - 1).abs() < 1e-5).logical_or(self_similarity == 0).all()
    torch.testing.assert_close(found, score(model, query, item), atol=0.05, rtol=0.05)


def test_costs_are_what_torch_counts(about):
    name, tokens = about
    model = make(name, **tokens, pair=("lexical_score",))
    full = Batch({n: t.abs().clamp(min=2) if t.dtype == torch.int64 else t for n, t in items().items()})
    query = Batch({n: t.clamp(min=2) if t.dtype == torch.int64 else t for n, t in queries().items()})

    @torch.no_grad()
    def count(k):
        reps = model.encode_query(query), model.encode_item(own(full).take(torch.arange(Q)))
        few = Batch((n, t[:, :k]) for n, t in reps[1].items())
        pair = Batch((n, t[:, :k]) for n, t in pairs().items())
        with FlopCounterMode(display=False) as counter:
            model.score(reps[0], few, pair)
        return counter.get_total_flops()

    assert model.flops_per_pair == (count(7) - count(3)) / (4 * Q)
    rep = model.encode_item(full)
    (spec,) = model.item_specs()
    assert spec.ragged
    assert rep.keys() == {spec.name, spec.length}
    assert rep[spec.name].shape[2:] == spec.shape
    assert model.bytes_per_item == sum(t[0].numel() * t.element_size() for t in rep.values())


def test_pair_fields_come_first_and_must_be_there(about):
    name, tokens = about
    model = make(name, **tokens, pair=("lexical_score",))
    found = score(model, queries(), items(), pairs())
    assert torch.equal(found.argsort(1), pairs()["lexical_score"].argsort(1))
    with pytest.raises(ConfigError, match="lexical_score"):
        score(model, queries(), items())


def test_saved_and_loaded_it_scores_the_same(about, tmp_path):
    name, tokens = about
    model = make(name, **tokens)
    save_model(model, name, tmp_path)
    loaded = load_model(tmp_path)
    assert torch.equal(score(loaded, queries(), items()), score(model, queries(), items()))
    assert loaded.item_digest() == model.item_digest()


def test_what_items_are_made_of_is_in_their_digest(about):
    name, tokens = about
    model = make(name, **tokens)
    before, digest = model.encode_item(items())["tokens"], model.item_digest()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.5)
    assert not torch.equal(model.encode_item(items())["tokens"], before)
    assert model.item_digest() != digest


def test_every_parameter_that_may_learn_does(about):
    name, tokens = about
    model = make(name, **tokens).train()
    if name == "match-pyramid":
        model.convolutions[0].bias.data.fill_(1.0)  # no silent ReLU
    model.score(model.encode_query(queries()), model.encode_item(own(items()))).square().sum().backward()
    for parameter_name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad.any(), f"{parameter_name} is dead"
            assert parameter.grad.isfinite().all()


LEARNT = [(name, "text", how) for name in NAMES for how in ("lists", "pairwise", "pointwise")]
LEARNT += [(name, "fields", "lists") for name in NAMES]


@pytest.mark.parametrize(("name", "kind", "objective"), LEARNT)
def test_it_learns_what_makes_an_item_right(name, kind, objective):
    """Texts: the query's word is in it. Fields: an id as odd or as even as the history's, which only learnt
    vectors can tell; DRMM's do not learn, and it must find the same id.
    """
    tokens = TEXT if kind == "text" else FIELDS
    torch.manual_seed(0)
    draw = torch.Generator().manual_seed(0)
    size, n = 30, 200
    plots = torch.stack([2 + torch.randperm(size - 2, generator=draw)[:9] for _ in range(n)])
    movies = torch.randint(2, 20, (n,), generator=draw)
    catalogue = Batch(movie=movies, genres=2 + movies[:, None] % 5 * torch.ones(1, 3).long(), plot=plots)
    model = make_model(name, SPEC, {**SMALL[name], **tokens})
    if name == "drmm":
        model.see_items(catalogue)
    rows, k = 24, 10
    lists = Lists(catalogue, ListsConfig(loss="pairwise" if objective == "pairwise" else "softmax"))
    pointwise = Pointwise(catalogue)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.02)

    def draw_examples():
        words = torch.randint(2, size, (rows, 1), generator=draw)
        seen = torch.randint(2, 20, (rows, 1), generator=draw)
        query = Batch(
            words=torch.nn.functional.pad(words, (0, 3)),
            age=torch.zeros(rows, 2),
            past=torch.nn.functional.pad(seen, (0, 4)),
        )
        keys = torch.randint(0, n, (rows, k), generator=draw)
        if kind == "text":
            labels = (plots[keys] == words[:, :, None]).any(-1)
        else:
            labels = movies[keys] % 2 == seen % 2 if name != "drmm" else movies[keys] == seen
        return query, keys, labels.float()

    def auc():
        model.eval()
        query, keys, labels = draw_examples()
        found = score(model, query, catalogue.take(keys))
        above = (found[:, :, None] > found[:, None]) + 0.5 * (found[:, :, None] == found[:, None])
        known = (labels[:, :, None] > labels[:, None]).float()
        model.train()
        return float((above * known).sum() / known.sum())

    model.train()
    for _ in range(60 if kind == "text" else 120):
        query, keys, labels = draw_examples()
        if objective == "pointwise":
            at = torch.arange(rows).repeat_interleave(k)
            losses = pointwise(model, Examples(query.take(at), keys.flatten(), at, labels.flatten()))
        else:
            losses = lists(model, Examples(query, keys, torch.arange(rows), labels))
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
    assert sum(auc() for _ in range(5)) / 5 > 0.9
