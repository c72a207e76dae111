"""A pretrained encoder of the library ``transformers``, fine-tuned or frozen.

Letters: N texts, L tokens, E length of a token's embedding, D vector length.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self

import torch
from torch import Tensor, nn

from twotower.data.spec import Column
from twotower.data.text.folder import model_folder
from twotower.data.vocabulary import FIRST
from twotower.errors import ConfigError
from twotower.nn.text.config import PretrainedConfig
from twotower.nn.text.encoder import TextEncoder
from twotower.optional import require


class Pretrained(TextEncoder):
    """An encoder-only model of ``transformers`` (BERT, MPNet, RoBERTa, ...), without its pooler.

    Its token embedder stands beside it, as ``embedding``, so that two encoders may share one. Built from
    ``config.path`` with its weights, or, once ``config.architecture`` is known, without them: they come with
    the state of the model that holds it.
    """

    config: PretrainedConfig

    def __init__(self, column: Column, config: PretrainedConfig) -> None:
        super().__init__()
        if column.special is None:
            raise ConfigError(
                f"text {column.name!r} has the tokenizer {column.tokenizer!r}, which no pretrained encoder "
                f"knows; give the field the tokenizer {config.path!r}"
            )
        self.body = _load(config.path) if config.architecture is None else _build(config.architecture)
        if config.architecture is None:
            config = config.model_copy(update={"architecture": _architecture(self.body)})
        self.config, self.dim = config, int(self.body.config.hidden_size)
        self.embedding = self.body.get_input_embeddings()
        self.body.set_input_embeddings(nn.Identity())
        rows, places = self.embedding.num_embeddings, _places(self.body.config)
        if column.size - FIRST > rows:
            raise ConfigError(
                f"text {column.name!r}: its tokenizer {column.tokenizer!r} has {column.size - FIRST:,} "
                f"tokens, the model {config.path!r} {rows:,}; they must come from the same place"
            )
        if column.width > places:
            raise ConfigError(
                f"text {column.name!r} keeps {column.width} tokens, the model {config.path!r} reads "
                f"{places}; set the field's max_length to {places} or less"
            )
        self._half: tuple[Any, ...] = ()  # in a tuple: nn.Module would take it for a part of this one
        self.two_segments = int(getattr(self.body.config, "type_vocab_size", 0) or 0) > 1
        if config.freeze:
            self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> Self:
        """A frozen encoder stays in eval mode: nothing is dropped."""
        return super().train(mode and not self.config.freeze)

    def encode(self, tokens: Tensor, mask: Tensor, segments: Tensor | None) -> Tensor:
        seen = mask.clone()
        seen[:, 0] = True  # a text without tokens sees its first place: attention to nothing is not a number
        extra = {"token_type_ids": segments} if segments is not None and self.two_segments else {}
        learns = torch.is_grad_enabled() and not self.config.freeze
        half = self.config.precision == "bfloat16" and not learns  # a frozen one trains on what it serves
        embedded = self.embedder((tokens - FIRST).clamp(min=0))
        states: Tensor = (self._half_body() if half else self.body)(
            inputs_embeds=embedded.bfloat16() if half else embedded,
            attention_mask=None if bool(seen.all()) else seen.long(),
            **extra,
        ).last_hidden_state
        return states

    def _half_body(self) -> Any:
        """The body in bfloat16, made again when a parameter has changed: faster than a cast at every use."""
        state = tuple((p.data_ptr(), p._version) for p in self.body.parameters()), self.body.training
        if not self._half or self._half[0] != state:
            self._half = state, copy.deepcopy(self.body).bfloat16()
        return self._half[1]


def _load(path: str) -> Any:
    """The model of a folder, a package or the hub, float32, on the CPU; of its weights only safetensors."""
    transformers, damaged = require("transformers", "text"), require("safetensors", "text").SafetensorError
    folder = model_folder(path)
    pickles = sorted(file.name for file in folder.glob("pytorch_model*.bin"))
    if pickles and not any(folder.glob("*.safetensors*")):
        raise ConfigError(
            f"{path}: {folder} holds the weights only as {pickles[0]}, a pickle, which may run any code when "
            "it is read, so it is not; take a version with model.safetensors or, if you trust the file, "
            "convert it: AutoModel.from_pretrained(folder, use_safetensors=False).save_pretrained(folder)"
        )
    try:
        with _quiet(transformers):
            model = transformers.AutoModel.from_pretrained(
                folder, local_files_only=True, attn_implementation="sdpa", use_safetensors=True
            )
    except damaged as error:
        raise ConfigError(
            f"{path}: the weights in {folder} are damaged or cut short ({error}); fetch the model again"
        ) from error
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ConfigError(
            f"{path}: no model that transformers can read in {folder}: {error}; "
            "fetch it again, or name another"
        ) from error
    if model.config.is_encoder_decoder:
        raise ConfigError(f"{path}: {type(model).__name__} has a decoder; an encoder-only model is needed")
    return _without_pooler(model)


def _build(architecture: dict[str, Any]) -> Any:
    """The same model without its weights."""
    transformers = require("transformers", "text")
    about = dict(architecture)
    config = transformers.AutoConfig.for_model(about.pop("model_type"), **about)
    return _without_pooler(transformers.AutoModel.from_config(config, attn_implementation="sdpa"))


def _architecture(model: Any) -> dict[str, Any]:
    """Its config as JSON, without the place it came from and the version that wrote it."""
    plain: dict[str, Any] = json.loads(model.config.to_json_string(use_diff=False))
    for name in ("_name_or_path", "transformers_version"):
        plain.pop(name, None)
    return plain


def _without_pooler(model: Any) -> Any:
    if getattr(model, "pooler", None) is not None:
        model.pooler = None  # made for a task of pre-training; here it would be a part that never learns
    return model.float()


def _places(config: Any) -> int:
    """The longest text a model reads. RoBERTa's places begin behind that of padding."""
    places = int(getattr(config, "max_position_embeddings", 0) or 2**31 - 1)
    offset = {"roberta", "xlm-roberta", "camembert", "mpnet"}
    return places - int(config.pad_token_id) - 1 if config.model_type in offset else places


@contextmanager
def _quiet(transformers: Any) -> Iterator[None]:
    """Without the bars and reports of a load, which would stand between a program's own lines."""
    logging = transformers.utils.logging
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
