"""DAT against the paper's forward pass and losses, one pair at a time."""

import pytest
import torch

from twotower.data.batches import Examples
from twotower.data.features import Column, FeatureSpec
from twotower.errors import ConfigError
from twotower.models.dat import DAT, DATConfig, alignment
from twotower.nn.history import HistoryConfig
from twotower.train.objectives import PointwiseConfig, make_objective
from twotower.train.softmax import InBatchConfig
from twotower.types import Batch

SPEC = FeatureSpec(
    columns=(
        Column(name="age", kind="number", side="query", size=0, width=2),
        Column(name="user", kind="id", side="query", size=5, width=1),
        Column(name="past", kind="sequence", side="query", size=6, width=3, of="movie"),
        Column(name="movie", kind="id", side="item", size=6, width=1),
        Column(name="genres", kind="bag", side="item", size=4, width=2),
    )
)
QUERY = Batch(
    user=torch.tensor([2, 1]),
    age=torch.tensor([[0.5, 0.0], [0.0, 1.0]]),
    past=torch.tensor([[3, 2, 0], [4, 0, 0]]),
)
ITEM = Batch(movie=torch.tensor([4, 1, 5]), genres=torch.tensor([[2, 3], [1, 0], [0, 0]]))
LABELS = torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]])


def make(**more):
    torch.manual_seed(0)
    return DAT(SPEC, DATConfig(**{"embedding": 4, "layers": (6, 3), **more}))


def augmented(model, name, index):
    return model.augmented.table.weight[model.augmented.starts[name] + index]


def towers(model, q, i):
    """u and v of the paper."""
    inputs = model.inputs.embeddings

    def row(name, index):
        return inputs.table.weight[inputs.starts[name] + index]

    bag = [row("genres", g) for g in ITEM["genres"][i] if g != 0]
    query = [inputs.linear["age"].weight @ QUERY["age"][q], row("user", QUERY["user"][q])]
    item = [row("movie", ITEM["movie"][i]), torch.stack(bag).mean(0) if bag else torch.zeros(4)]
    query.append(augmented(model, "user", QUERY["user"][q]))
    item.append(augmented(model, "movie", ITEM["movie"][i]))
    return torch.cat(query), torch.cat(item)


@pytest.mark.parametrize("similarity", ["dot", "cosine"])
@pytest.mark.parametrize("bias", [False, True])
def test_score_is_the_papers_forward_pass(similarity, bias):
    model = make(similarity=similarity, bias=bias).eval()
    scores = model.score(model.encode_query(QUERY), model.encode_item(ITEM))
    for q in range(2):
        for i in range(3):
            query, item = towers(model, q, i)
            u, v = model.query_tower(query), model.item_tower(item)
            if similarity == "cosine":
                u, v = u / u.norm() / model.config.temperature, v / v.norm()
            expected = u @ v
            if bias:
                expected = expected + model.query_bias(query)[0] + model.item_bias(item)[0]
            torch.testing.assert_close(scores[q, i], expected, atol=1e-5, rtol=1e-5)


def losses(model, own):
    item = ITEM.take(torch.arange(3).expand(2, 3)) if own else ITEM
    return model.penalties(model.encode_query(QUERY), model.encode_item(item), LABELS)


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("unit", [False, True])
def test_mimic_is_the_mean_squared_distance_over_positive_pairs(own, unit):
    model = make(mimic_unit=unit, mimic=0.25)
    found = losses(model, own)
    each = {"query mimic": [], "item mimic": []}
    for q, i in LABELS.nonzero().tolist():
        query, item = towers(model, q, i)
        u, v = model.query_tower(query), model.item_tower(item)
        a_u, a_v = (
            augmented(model, "user", QUERY["user"][q]),
            augmented(model, "movie", ITEM["movie"][i]),
        )
        if unit:
            u, v, a_u, a_v = (x / x.norm() for x in (u, v, a_u, a_v))
        each["query mimic"].append(((a_u - v) ** 2).sum())
        each["item mimic"].append(((a_v - u) ** 2).sum())
    assert found.keys() == each.keys()
    for name, distances in each.items():
        torch.testing.assert_close(found[name], 0.25 * torch.stack(distances).mean())


def test_only_the_augmented_vectors_learn_from_mimicking():
    model = make()
    sum(losses(model, own=False).values()).backward()
    learned = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert learned == {"augmented.table.weight"}


def test_without_positives_nothing_is_mimicked():
    model = make()
    found = model.penalties(model.encode_query(QUERY), model.encode_item(ITEM), torch.zeros(2, 3))
    assert [loss.item() for loss in found.values()] == [0, 0]


CATEGORY = [5, 2, 2, 0, 5, 3, 5, 1, 5, 2, 1, 7, 7, 0, 0, 0, 0, 0]  # four of 5, three of 2, two of 7, one of 3


def directions(count, dim=3, seed=0):
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed))


def naive_alignment(vectors, category, at_least):
    """One entry of one category's covariance at a time, in plain Python."""
    groups = {}
    for vector, c in zip(vectors.tolist(), category, strict=True):
        length = sum(x * x for x in vector) ** 0.5
        groups.setdefault(c, []).append([x / length for x in vector])
    groups = {c: rows for c, rows in sorted(groups.items()) if c > 1 and len(rows) >= at_least}
    places = range(vectors.shape[1])

    def covariance(rows):
        mean = [sum(row[d] for row in rows) / len(rows) for d in places]
        return [
            sum((row[d] - mean[d]) * (row[e] - mean[e]) for row in rows) / (len(rows) - 1)
            for d in places
            for e in places
        ]

    major = max(groups, key=lambda c: len(groups[c]))
    apart = [
        sum((a - b) ** 2 for a, b in zip(covariance(rows), covariance(groups[major]), strict=True))
        for c, rows in groups.items()
        if c != major
    ]
    return sum(apart) / len(apart)


@pytest.mark.parametrize("at_least", [2, 3])
def test_alignment_is_the_mean_distance_of_covariances_from_the_largest_category(at_least):
    vectors = directions(len(CATEGORY)) * torch.arange(1.0, 1 + len(CATEGORY))[:, None]
    loss = alignment(vectors, torch.tensor(CATEGORY), at_least)
    assert loss.item() == pytest.approx(naive_alignment(vectors, CATEGORY, at_least), rel=1e-5)


def test_two_opposite_categories_worked_by_hand():
    """The larger lies on the first axis (covariance diag(4/3, 0)), the other on the second (diag(0, 2))."""
    vectors = torch.tensor([[5.0, 0.0], [-1.0, 0.0], [2.0, 0.0], [-3.0, 0.0], [0.0, 7.0], [0.0, -0.5]])
    loss = alignment(vectors, torch.tensor([2, 2, 2, 2, 3, 3]), 2)
    assert loss.item() == pytest.approx(16 / 9 + 4)


def test_alignment_does_not_feel_the_length_of_vectors():
    vectors, category = directions(len(CATEGORY)), torch.tensor(CATEGORY)
    loss = alignment(vectors, category, 2)
    torch.testing.assert_close(alignment(3 * vectors, category, 2), loss)
    torch.testing.assert_close(alignment(vectors.bfloat16(), category, 2), loss, rtol=0.02, atol=0)


@pytest.mark.parametrize("spread", [0.1, 1.0])
def test_categories_that_are_distributed_alike_cost_at_most_what_chance_does(spread):
    """Of 32 and 64 items: 1/31 + 1/63 in expectation at most, in any dimension; apart they cost more."""
    category = torch.arange(2, 6).repeat_interleave(torch.tensor([64, 32, 32, 32]))
    middle = torch.eye(16)[0]
    costs = [alignment(middle + spread * directions(160, 16, seed), category, 32) for seed in range(20)]
    assert 0 < torch.stack(costs).mean() < 1 / 31 + 1 / 63
    other = directions(160, 16)
    other[64:, 1:] = 0
    assert alignment(other, category, 32) > 10 * (1 / 31 + 1 / 63)


def test_small_categories_do_not_count():
    vectors, category = directions(len(CATEGORY)).requires_grad_(), torch.tensor(CATEGORY)
    loss = alignment(vectors, category, 3)
    loss.backward()
    counted = (category == 5) | (category == 2)
    assert vectors.grad.isfinite().all()
    assert vectors.grad[counted].any(1).all()
    assert not vectors.grad[~counted].any()
    torch.testing.assert_close(alignment(vectors[counted], category[counted], 3), loss)


@pytest.mark.parametrize(
    ("category", "at_least"),
    [([], 2), ([2, 2, 2], 2), ([2, 2, 3, 1, 1], 2), ([0, 0, 1, 1], 2), ([2, 2, 2, 3, 3], 3)],
)
def test_alignment_needs_two_categories_with_enough_items(category, at_least):
    vectors = directions(len(category)).requires_grad_()
    loss = alignment(vectors, torch.tensor(category, dtype=torch.int64), at_least)
    loss.backward()
    assert loss.item() == 0
    assert not vectors.grad.any()


def test_alignment_is_computed_in_float32_under_autocast():
    vectors, category = directions(len(CATEGORY)), torch.tensor(CATEGORY)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = alignment(vectors, category, 2)
    assert torch.equal(found, alignment(vectors, category, 2))


def test_an_item_without_a_vector_has_a_finite_gradient():
    vectors = torch.cat([torch.zeros(1, 3), directions(7)]).requires_grad_()
    alignment(vectors, torch.tensor([2] * 4 + [3] * 4), 2).backward()
    assert vectors.grad.isfinite().all()


@pytest.mark.parametrize("own", [False, True])
def test_a_bags_first_value_is_the_category_to_align(own):
    model = make(category="genres", alignment=2.0, alignment_items=2, bias=True)
    item = Batch(movie=torch.tensor([2, 3, 4, 5]), genres=torch.tensor([[2, 3], [3, 0], [2, 0], [3, 2]]))
    rep = model.encode_item(item.take(torch.arange(4).view(2, 2)) if own else item)
    labels = torch.zeros(2, 2 if own else 4)
    found = model.penalties(model.encode_query(QUERY), rep, labels)["alignment"]
    vectors = rep["vector"][..., :3].reshape(4, 3)
    assert found > 0
    torch.testing.assert_close(found, 2 * alignment(vectors, torch.tensor([2, 3, 2, 3]), 2))


def test_gaps_of_lists_belong_to_no_category():
    model = make(category="genres", alignment_items=2)
    item = Batch(movie=torch.tensor([2, 3, 4, 5]), genres=torch.tensor([[2, 3], [3, 0], [2, 0], [3, 2]]))
    mask = torch.tensor([[True, True, True, True, False], [False] * 5])

    def apart(*gaps):
        rep = model.encode_item(item.take(torch.tensor([[0, 1, 2, 3, gaps[0]], gaps])))
        return model.penalties(model.encode_query(QUERY), rep, torch.zeros(2, 5), mask)["alignment"]

    assert apart(0, 0, 0, 0, 0) == apart(3, 2, 3, 1, 3) > 0


def test_what_trains_is_not_stored():
    model = make(category="genres")
    assert model.encode_item(ITEM).keys() == {"vector", "augmented", "category"}
    assert model.eval().encode_item(ITEM).keys() == model.encode_query(QUERY).keys() == {"vector"}


def test_without_augmenting_it_is_the_two_tower_model():
    model = make(augment=False, category="genres")
    assert not any("augmented" in name for name, _ in model.named_parameters())
    assert model.query_tower[0].in_features == 8
    assert losses(model, own=False) == {}


@pytest.mark.parametrize("config", [PointwiseConfig(), InBatchConfig()])
def test_it_learns_from_events_and_from_sequences(config):
    model = make(category="genres", history=HistoryConfig(kind="mean"))
    items = torch.tensor([1, 2])
    if config.kind == "in-batch":
        items = torch.tensor([[1, 2, -1], [0, -1, -1]])
    examples = Examples(QUERY, items, torch.arange(2), labels=torch.tensor([1.0, 0.0]))
    found = make_objective(config, ITEM, torch.ones(3), 0)(model, examples)
    assert {"query mimic", "item mimic", "alignment"} < found.keys()
    sum(found.values()).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    assert model.augmented.table.weight.grad.any()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"query_id": "age"}, r"needs an id column there; asked for 'age', found \['user'\]"),
        ({"item_id": "genres"}, r"found \['movie'\]"),
        ({"category": "movie"}, r"no category or bag of the item; known: \['genres'\]"),
        ({"layers": ()}, "its towers need layers"),
    ],
)
def test_a_model_that_cannot_be_built_says_why(more, message):
    with pytest.raises(ConfigError, match=message):
        make(**more)


def test_a_query_without_an_id_cannot_be_augmented():
    spec = FeatureSpec(columns=tuple(c for c in SPEC.columns if c.name != "user"))
    with pytest.raises(
        ConfigError, match="a vector for each query and needs an id column there; asked for 'any'"
    ):
        DAT(spec, DATConfig())
