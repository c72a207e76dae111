"""Token lists: what counts as a token, where it stands, and what it is called."""

import pytest
import torch

from twotower.data.spec import Column, FeatureSpec
from twotower.errors import ConfigError
from twotower.nn.text.config import TableConfig
from twotower.nn.token_lists import NO_TERM, FieldTokens, TextTokens
from twotower.types import Batch

SPEC = FeatureSpec(
    columns=(
        Column(name="age", kind="number", side="query", width=2),
        Column(name="past", kind="sequence", side="query", size=9, width=4, of="movie"),
        Column(name="movie", kind="id", side="item", size=9),
        Column(name="genres", kind="bag", side="item", size=5, width=3),
    )
)
QUERY = Batch(age=torch.tensor([[0.5, 0.0], [0.0, 1.0]]), past=torch.tensor([[3, 0, 0, 0], [8, 3, 0, 0]]))
ITEM = Batch(movie=torch.tensor([3, 1]), genres=torch.tensor([[0, 4, 2], [0, 0, 0]]))


def texts(**columns):
    named = {"text": ("query", "words", 20, 4), "document": ("item", "words", 20, 6)} | columns
    return FeatureSpec(
        columns=tuple(
            Column(name=name, kind="text", side=side, size=size, width=width, tokenizer=tokenizer)
            for name, (side, tokenizer, size, width) in named.items()
        )
    )


def test_every_value_of_a_field_is_a_token_and_gaps_close():
    torch.manual_seed(0)
    lists = FieldTokens(SPEC, 6)
    item, rows = lists.item(ITEM), lists.embeddings.table.weight
    movie, genres = lists.embeddings.starts["movie"], lists.embeddings.starts["genres"]
    assert item.length.tolist() == [3, 0], "an unknown movie is none"
    assert item.terms.tolist() == [[movie + 3, genres + 4, genres + 2, NO_TERM], [NO_TERM] * 4]
    assert not item.vectors[1].any()
    expected = torch.stack([rows[movie + 3], rows[genres + 4], rows[genres + 2], torch.zeros(6)])
    assert torch.equal(item.vectors[0], expected)
    assert (lists.query_width, lists.item_width) == (1 + 4, 1 + 3)


def test_a_history_shares_its_rows_with_the_items_and_is_cut_to_the_longest():
    lists = FieldTokens(SPEC, 6)
    query = lists.query(QUERY)
    assert query.vectors.shape == (2, 3, 6)
    assert query.length.tolist() == [2, 3]
    assert query.terms.tolist() == [[NO_TERM, 3, NO_TERM], [NO_TERM, 8, 3]]
    assert torch.equal(query.vectors[0, 1], lists.item(ITEM).vectors[0, 0])
    assert lists.history == "past"


def test_only_the_columns_that_are_kept_count():
    lists = FieldTokens(SPEC, 6, keep=("past", "genres"))
    assert lists.query(QUERY).length.tolist() == [1, 2]
    assert lists.item(ITEM).length.tolist() == [2, 0]
    assert FieldTokens(SPEC, 6, keep=("past", "movie")).item(ITEM).length.tolist() == [1, 0]
    with pytest.raises(ConfigError, match="colour"):
        FieldTokens(SPEC, 6, keep=("past", "genres", "colour"))
    with pytest.raises(ConfigError, match="no tokens"):
        FieldTokens(SPEC, 6, keep=("past",))


def test_unknown_values_of_fields_are_not_there():
    lists = FieldTokens(SPEC, 6)
    query = Batch(age=torch.zeros(1, 2), past=torch.tensor([[1, 8, 1, 3]]))
    without = Batch(age=torch.zeros(1, 2), past=torch.tensor([[8, 3, 0, 0]]))
    for found, expected in zip(lists.query(query), lists.query(without), strict=True):
        assert torch.equal(found, expected)
    movie, genres = lists.embeddings.starts["movie"], lists.embeddings.starts["genres"]
    item = Batch(movie=torch.tensor([1]), genres=torch.tensor([[1, 3, 0]]))
    assert lists.item(item).terms.tolist() == [[genres + 3, *[NO_TERM] * 3]]
    assert lists.item_terms(item).tolist() == [[NO_TERM, NO_TERM, genres + 3, NO_TERM]]
    assert lists.item_terms(ITEM)[0].tolist() == [movie + 3, NO_TERM, genres + 4, genres + 2]


def test_an_id_that_drops_out_in_training_is_not_there_as_an_unknown_one():
    dropping = Column(name="movie", kind="id", side="item", size=9, dropout=0.5)
    lists = FieldTokens(FeatureSpec(columns=(SPEC["age"], SPEC["past"], dropping, SPEC["genres"])), 6)
    item = Batch(movie=torch.full((400,), 3), genres=torch.zeros(400, 3).long())
    torch.manual_seed(0)
    found = lists.train().item(item)
    assert 150 < found.length.sum() < 250
    assert (found.terms[:, 0] == torch.where(found.length == 1, 3, NO_TERM)).all()
    assert torch.equal(found.vectors.any(-1), found.real)
    assert lists.eval().item(item).length.tolist() == [1] * 400


def test_own_candidates_are_the_shared_ones():
    at = torch.tensor([[1, 0, 1], [0, 0, 1]])
    words = Batch(document=torch.tensor([[3, 5, 0], [4, 0, 0]]))
    text = TextTokens(texts(), None, None, TableConfig(dim=5))
    for lists, item in ((FieldTokens(SPEC, 6), ITEM), (text, words)):
        shared, own = lists.item(item), lists.item(item.take(at))
        for a, b in zip(shared, own, strict=True):
            assert torch.equal(a[at], b)


def test_words_are_tokens_of_one_table_on_both_sides():
    lists = TextTokens(texts(), None, None, TableConfig(dim=5))
    query = lists.query(Batch(text=torch.tensor([[3, 7, 0, 0], [0, 0, 0, 0]])))
    item = lists.item(Batch(document=torch.tensor([[7, 1, 3, 0, 0, 0]])))
    assert query.length.tolist() == [2, 0]
    assert query.terms.tolist() == [[3, 7], [NO_TERM, NO_TERM]]
    assert torch.equal(query.vectors[0, 1], item.vectors[0, 0])
    assert not query.vectors[1].any()
    assert (lists.query_width, lists.item_width, lists.n_terms, lists.dim) == (4, 6, 20, 5)


def test_unknown_words_are_no_tokens_of_a_query_and_no_terms_of_a_document():
    lists = TextTokens(texts(), None, None, TableConfig(dim=5))
    query = lists.query(Batch(text=torch.tensor([[1, 3, 1, 7], [1, 1, 0, 0]])))
    assert query.length.tolist() == [2, 0]
    assert query.terms.tolist() == [[3, 7], [NO_TERM, NO_TERM]]
    assert torch.equal(query.vectors[0], lists.encoder.embedder.weight[[3, 7]])
    assert not query.vectors[1].any()
    words = Batch(document=torch.tensor([[7, 1, 3, 0, 0, 0]]))
    assert lists.item(words).length.tolist() == [3], "its place is a place"
    assert lists.item(words).terms.tolist() == [[7, NO_TERM, 3]]
    assert lists.item_terms(words)[0, :3].tolist() == [7, NO_TERM, 3]


def test_texts_of_two_tokenizers_do_not_meet():
    spec = texts(document=("item", "stems", 30, 6))
    with pytest.raises(ConfigError, match="same tokenizer"):
        TextTokens(spec, None, None, TableConfig(dim=5))


def test_no_text_at_all_is_an_empty_list():
    lists = TextTokens(texts(), None, None, TableConfig(dim=5))
    for width in (0, 3):
        tokens = lists.item(Batch(document=torch.zeros(2, width, dtype=torch.int64)))
        assert tokens.length.tolist() == [0, 0]
        assert tokens.vectors.shape[:2] == tokens.terms.shape
