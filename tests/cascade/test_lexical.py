"""BM25 as a source: alone, beside a dense one, and as a pair field of everybody's candidates."""

from __future__ import annotations

import pytest
import torch

from twotower.baselines.bm25 import BM25
from twotower.cascade.cascade import Cascade
from twotower.cascade.fuse import Fuse, Scorer
from twotower.cascade.fusion import NormalisedScore
from twotower.cascade.lexical import RetrieveLexical
from twotower.cascade.sources import RetrieveGiven
from twotower.cascade.stage import Request
from twotower.errors import ConfigError
from twotower.types import Batch, Ragged

# 2 tower, 3 model, 4 query, 5 item, 6 tree
DOCUMENTS = torch.tensor([[2, 3, 2, 0], [3, 4, 5, 1], [6, 6, 0, 0], [0, 0, 0, 0], [2, 5, 0, 0]])
BM = BM25().fit(DOCUMENTS, 7)
WORDS = torch.tensor([[2, 3], [6, 0], [1, 0], [0, 0]])


def asked(**options: object) -> Request:
    return Request(Batch(words=WORDS), **options)


def lexical(k: int = 5) -> RetrieveLexical:
    return RetrieveLexical(BM, "words", k)


def test_it_finds_what_shares_a_word_and_nothing_else() -> None:
    out, trace = Cascade(lexical())(asked())
    assert [[key for key in row if key >= 0] for row in out.keys.tolist()] == [[0, 4, 1], [2], [], []]
    assert torch.equal(out.pair["lexical_score"][out.mask], out.scores[out.mask])
    assert (out.pair["lexical_score"][~out.mask] == 0).all()
    assert out.pair["lexical_rank"][0].tolist() == [0, 1, 2, 3, 4]
    assert trace.degraded == ()


@pytest.mark.parametrize("k", [0, 1, 3, 99])
def test_no_more_than_asked_and_nothing_forbidden(k: int) -> None:
    allow = torch.tensor([True, True, True, True, False])
    out = lexical().run(asked(exclude=Ragged.of([[0], [], [], []]), allow=allow), None, k)
    assert out.keys.shape[1] == k
    assert [[key for key in row if key >= 0] for row in out.keys.tolist()] == [[1][:k], [2][:k], [], []]


def test_nobody_asks() -> None:
    assert len(lexical().run(asked().rows(0, 0), None, 5).keys) == 0


def test_every_candidate_is_scored_whoever_found_it() -> None:
    given = Ragged.of([[3, 1], [0, 2], [4], []]).padded(-1)
    request = Request(Batch(words=WORDS, dense=given))
    fuse = Fuse([lexical(1), RetrieveGiven("dense", 2, "dense")], k=5)
    assert [isinstance(source, Scorer) for source in fuse.sources] == [True, False]
    out = fuse.run(request, None, 5)
    assert torch.equal(out.pair["lexical_score"], BM.scores_of(WORDS, out.keys))
    row = {key: place for place, key in enumerate(out.keys[0].tolist()) if key >= 0}
    assert set(row) == {0, 1, 3}  # lexical brought 0 alone
    assert out.pair["lexical_score"][0, row[1]] > 0
    assert out.pair["lexical_score"][0, row[3]] == 0  # an empty document
    assert out.pair["from_lexical"][0, row[1]] == 0
    assert [out.pair["lexical_rank"][0, row[key]].item() for key in (0, 1, 3)] == [0, 1, 1]  # 1: its k
    assert out.pair["dense_score"][0, row[0]] == 0  # known of its own candidates only
    assert (out.pair["lexical_score"][~out.mask] == 0).all()


def test_fused_by_scores_it_is_the_weighted_sum() -> None:
    given = torch.tensor([[4, 0]])
    request = Request(Batch(words=WORDS[:1], dense=given, dense_score=torch.tensor([[3.0, 1.0]])))
    by = NormalisedScore(weights={"dense": 2.0})
    out = Fuse([lexical(3), RetrieveGiven("dense", 2, "dense")], by, k=5).run(request, None, 5)
    top, middle, low = BM.search(WORDS[:1], 3).scores[0].tolist()
    expected = {0: 1.0, 4: 2.0 + (middle - low) / (top - low), 1: 0.0}
    assert out.keys[0, :3].tolist() == [4, 0, 1]
    assert out.scores[0, :3].tolist() == pytest.approx([expected[key] for key in (4, 0, 1)])


def test_a_missing_or_wrong_column_is_named() -> None:
    with pytest.raises(ConfigError, match="words of the query column 'word'; did you mean 'words'"):
        RetrieveLexical(BM, "word").run(asked(), None, 3)
    with pytest.raises(ConfigError, match=r"'words' is torch.float32 \(4, 2\), expected token indices"):
        lexical().run(Request(Batch(words=WORDS.float())), None, 3)
