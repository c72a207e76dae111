"""Ranking measures: hand-computed numbers, a naive oracle, and agreement with ir_measures / pytrec_eval."""

import math

import ir_measures
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from twotower.errors import ConfigError, DataError
from twotower.metrics import ranking
from twotower.metrics.ranking import Measure, average, evaluate, relevant_ranks
from twotower.types import Ragged

ALL = ["nDCG", "nDCG@3", "nDCG@10", "R@5", "P@5", "RR", "RR@3", "AP", "AP@5", "Success@3", "Rprec", "Bpref"]


def ragged(rows):
    return Ragged.of(rows)


@pytest.mark.parametrize("text", [*ALL, "nDCG(dcg='exp-log2')@10", "nDCG(dcg='exp-log2')"])
def test_what_is_printed_parses_back_here_and_in_ir_measures(text):
    assert str(Measure.parse(text)) == text
    assert str(ir_measures.parse_measure(text)) == text


@pytest.mark.parametrize(
    ("alias", "name"),
    [
        ("recall@7", "R@7"),
        ("hit@10", "Success@10"),
        ("hr@10", "Success@10"),
        ("mrr@10", "RR@10"),
        ("NDCG@5", "nDCG@5"),
        ("map", "AP"),
        ("precision@3", "P@3"),
        ("nDCG(dcg='log2')@5", "nDCG@5"),
    ],
)
def test_aliases(alias, name):
    assert str(Measure.parse(alias)) == name


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ndgc@10", "did you mean 'n"),
        ("R", "needs a cutoff"),
        ("Rprec@5", "no cutoff"),
        ("P@0", "a cutoff from 1"),
        ("AP(dcg='log2')", "only nDCG"),
        ("nDCG(dcg='cubic')", "only nDCG"),
        ("nDCG@ten", "expected the form"),
    ],
)
def test_a_wrong_measure_is_explained(text, message):
    with pytest.raises(ConfigError, match=message):
        Measure.parse(text)


def test_graded_gain_linear_and_exponential():
    """Case 6 of the conformance list: relevance {3, 1, 0} in the order 1, 3, 0."""
    lists, relevant = torch.tensor([[1, 0, 2]]), ragged([[0, 1, 2]])
    values = evaluate(
        lists, relevant, ["nDCG@3", "nDCG(dcg='exp-log2')@3"], gains=torch.tensor([3.0, 1.0, 0.0])
    )
    assert values["nDCG@3"].item() == pytest.approx(0.79671, abs=5e-6)
    assert values["nDCG(dcg='exp-log2')@3"].item() == pytest.approx(0.70981, abs=5e-6)


def test_closed_forms_of_recbole():
    """Hits 000 / 111 / 101 / 001 with 1, 3, 4, 2 relevant items.

    The values are those of RecBole's test_topk_metrics (MIT), at cutoffs 1 to 3. Its MAP and NDCG divide by
    min(k, relevant); ours, like trec_eval, divide AP by all relevant items, which the third row shows.
    """
    lists = torch.tensor([[10, 11, 12], [0, 1, 2], [0, 10, 1], [10, 11, 0]])
    relevant = ragged([[0], [0, 1, 2], [0, 1, 2, 3], [0, 1]])
    at = {
        k: evaluate(lists, relevant, [f"{m}@{k}" for m in ("hit", "R", "P", "RR", "nDCG", "AP")])
        for k in (1, 2, 3)
    }

    def rows(name):
        return torch.stack([at[k][f"{name}@{k}"] for k in (1, 2, 3)], dim=1).tolist()

    d2, d3 = 1 / math.log2(3), 1 / math.log2(4)
    assert rows("Success") == [[0, 0, 0], [1, 1, 1], [1, 1, 1], [0, 0, 1]]
    assert rows("R") == [[0, 0, 0], pytest.approx([1 / 3, 2 / 3, 1]), [1 / 4, 1 / 4, 2 / 4], [0, 0, 1 / 2]]
    assert rows("P") == [[0, 0, 0], [1, 1, 1], pytest.approx([1, 1 / 2, 2 / 3]), pytest.approx([0, 0, 1 / 3])]
    assert rows("RR") == [[0, 0, 0], [1, 1, 1], [1, 1, 1], pytest.approx([0, 0, 1 / 3])]
    assert rows("nDCG")[2] == pytest.approx([1, 1 / (1 + d2), (1 + d3) / (1 + d2 + d3)])
    assert rows("nDCG")[3] == pytest.approx([0, 0, d3 / (1 + d2)])
    assert rows("AP")[2] == pytest.approx([1 / 4, 1 / 4, (1 + 2 / 3) / 4])
    assert rows("AP")[3] == pytest.approx([0, 0, (1 / 3) / 2])


def test_an_empty_list_counts_as_zero_and_a_query_without_relevant_items_not_at_all():
    lists = torch.tensor([[-1, -1], [5, 6], [7, 8]])
    values = evaluate(lists, ragged([[1, 2], [], [7]]), ALL)
    for name, value in values.items():
        assert value[0] == 0, name
        assert value[1].isnan(), name
    mean = average(values["R@5"])
    assert (mean.value, mean.counted, mean.left_out) == (0.5, 2, 1)


def test_gains_of_zero_are_not_relevant_and_below_zero_are_unjudged():
    lists = torch.tensor([[1, 2, 3]])
    some = evaluate(lists, ragged([[1, 2, 3]]), ["P@3", "Bpref"], gains=torch.tensor([0.0, -1.0, 1.0]))
    assert some["P@3"].item() == pytest.approx(1 / 3)
    assert some["Bpref"].item() == 0  # one judged non-relevant item above the only relevant one
    none = evaluate(lists, ragged([[1, 2]]), ["P@3"], gains=torch.tensor([0.0, -1.0]))
    assert none["P@3"].isnan().all()


def test_relevant_items_outside_the_catalogue_stay_in_the_denominator():
    values = evaluate(torch.tensor([[3, -1]]), ragged([[3, -1, -1, -1]]), ["R@10", "AP"])
    assert (values["R@10"].item(), values["AP"].item()) == (0.25, 0.25)


@pytest.mark.parametrize("shape", [(0, 0), (0, 5), (3, 0)])
def test_empty_shapes(shape):
    lists = torch.zeros(shape, dtype=torch.int64)
    relevant = ragged([[1]] * shape[0])
    for value in evaluate(lists, relevant, ALL).values():
        assert value.tolist() == [0.0] * shape[0]


def test_a_cutoff_above_the_list_is_no_error():
    assert evaluate(torch.tensor([[4]]), ragged([[4, 5]]), ["R@100", "P@100"])["P@100"].item() == 0.01


def test_duplicates_and_misfits_are_refused():
    with pytest.raises(DataError, match="holds a relevant item twice"):
        evaluate(torch.tensor([[4, 4]]), ragged([[4]]), ["R@2"])
    for above in ([7, 7, 7, 4], [4, 7, -1, 7]):  # nor may one that is not relevant
        with pytest.raises(DataError, match="holds an item twice"):
            evaluate(torch.tensor([[4, 5, 6, 7], above]), ragged([[4], [4]]), ["RR"])
    assert evaluate(torch.tensor([[7, 4, 7]]), ragged([[4]]), ["RR@2"])["RR@2"].item() == 0.5  # unseen
    with pytest.raises(DataError, match="relevant twice"):
        evaluate(torch.tensor([[4, 5]]), ragged([[4, 4]]), ["R@2"])
    with pytest.raises(DataError, match="one row for each of 2 queries"):
        evaluate(torch.tensor([[4, 5]]), ragged([[4], [5]]), ["R@2"])
    with pytest.raises(DataError, match="one finite gain"):
        evaluate(torch.tensor([[4, 5]]), ragged([[4]]), ["R@2"], gains=torch.tensor([math.nan]))
    with pytest.raises(DataError, match="keys below -1"):
        evaluate(torch.tensor([[4, -2]]), ragged([[4]]), ["R@2"])


def random_world(seed, n_queries=40, n_items=60, width=30, grades=4):
    """Lists of different length, judgements of different grade; some queries have neither."""
    g = torch.Generator().manual_seed(seed)
    lists = torch.rand(n_queries, n_items, generator=g).argsort(1)[:, :width]
    length = torch.randint(0, width + 1, (n_queries, 1), generator=g)
    lists = lists.masked_fill(torch.arange(width) >= length, -1)
    judged = torch.rand(n_queries, n_items, generator=g) < torch.rand(n_queries, 1, generator=g)
    rows = [torch.nonzero(row).squeeze(1).tolist() for row in judged]
    relevant = ragged(rows)
    gains = torch.randint(0, grades, relevant.values.shape, generator=g).double()
    return lists, relevant, gains


@pytest.mark.parametrize("seed", range(8))
def test_agrees_with_pytrec_eval_on_random_runs(seed):
    lists, relevant, gains = random_world(seed, grades=2 + seed % 4)
    ours = evaluate(lists, relevant, ALL, gains)
    run = [
        ir_measures.ScoredDoc(str(q), str(key), float(-place))
        for q, row in enumerate(lists.tolist())
        for place, key in enumerate(row)
        if key >= 0
    ]
    row_of = relevant.row_of_value().tolist()
    qrels = [
        ir_measures.Qrel(str(q), str(key), int(gain))
        for q, key, gain in zip(row_of, relevant.values.tolist(), gains.tolist(), strict=True)
    ]
    theirs = ir_measures.iter_calc([ir_measures.parse_measure(n) for n in ALL], qrels, run)
    compared = 0
    for metric in theirs:
        value = ours[str(metric.measure)][int(metric.query_id)].item()
        if not math.isnan(value):  # trec_eval says 0 where there is nothing to find
            assert value == pytest.approx(metric.value, abs=1e-9), metric
            compared += 1
    assert compared > 200


def test_exponential_gain_is_linear_gain_of_two_to_the_g_less_one():
    # an exact statement, where the script behind ir_measures' exp-log2 rounds to five places
    lists, relevant, gains = random_world(1)
    one = evaluate(lists, relevant, ["nDCG(dcg='exp-log2')@5"], gains)["nDCG(dcg='exp-log2')@5"]
    two = evaluate(lists, relevant, ["nDCG@5"], 2**gains - 1)["nDCG@5"]
    torch.testing.assert_close(one, two, rtol=1e-12, atol=0, equal_nan=True)


@pytest.mark.parametrize("cells", [1, 7, 64, 1 << 20])
def test_the_size_of_a_block_changes_nothing(cells, monkeypatch):
    lists, relevant, gains = random_world(3)
    whole = evaluate(lists, relevant, ALL, gains)
    monkeypatch.setattr(ranking, "_CELLS", cells)
    for name, value in evaluate(lists, relevant, ALL, gains).items():
        assert torch.equal(value.nan_to_num(-1), whole[name].nan_to_num(-1)), name


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_ranks_equal_the_naive_loop(data):
    n_queries, n_items = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 12))
    items = list(range(n_items))
    draw = st.lists(st.sampled_from(items), unique=True)
    lists = [data.draw(draw) for _ in range(n_queries)]
    wanted = [data.draw(draw) for _ in range(n_queries)]
    width = max(1, *map(len, lists)) if lists else 1
    table = torch.tensor([row + [-1] * (width - len(row)) for row in lists])
    naive = [
        row.index(key) + 1 if key in row else 0
        for row, keys in zip(lists, wanted, strict=True)
        for key in keys
    ]
    assert relevant_ranks(table, ragged(wanted)).tolist() == naive


def test_large_keys_do_not_overflow():
    big = 10**12
    lists = torch.tensor([[big, 5], [big - 1, big]])
    assert relevant_ranks(lists, ragged([[big], [big, 7]])).tolist() == [1, 2, 0]
