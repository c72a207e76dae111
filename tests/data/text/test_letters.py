"""Trigrams are those of a naive loop, in order, and hash alike everywhere."""

import polars as pl

from twotower.data.text.letters import trigrams

WORDS = ["cat", "a", "", "cats", "東京", "don't", "😀", "concatenate"]


def naive(word):
    return [f"#{word}#"[i : i + 3] for i in range(len(word))]


def test_trigrams_of_each_word():
    buckets, counts = trigrams(pl.Series(WORDS), buckets=10**9)
    grams = [gram for word in WORDS for gram in naive(word)]
    assert counts.tolist() == [len(naive(word)) for word in WORDS]
    assert len(buckets) == len(grams)
    bucket_of = dict(zip(grams, buckets.tolist(), strict=True))
    assert [bucket_of[gram] for gram in grams] == buckets.tolist()  # one trigram, one bucket
    assert len(set(bucket_of.values())) == len(bucket_of)  # and here no two share one


def test_no_words():
    for words in ([], [""]):
        buckets, counts = trigrams(pl.Series(words, dtype=pl.String), 10)
        assert (buckets.tolist(), counts.tolist()) == ([], [0] * len(words))


def test_buckets_are_the_same_on_every_machine():
    buckets, _ = trigrams(pl.Series(["cat", "東"]), 32768)
    assert buckets.tolist() == [11781, 11833, 920, 18878]
