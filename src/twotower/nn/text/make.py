"""The text encoder of a column, as a model's config asks for it."""

from __future__ import annotations

from twotower.data.spec import Column
from twotower.nn.text.config import PretrainedConfig, TableConfig, TextConfig, TransformerConfig
from twotower.nn.text.encoder import TextEncoder
from twotower.nn.text.pretrained import Pretrained
from twotower.nn.text.table import Table
from twotower.nn.text.transformer import Transformer


def make_text_encoder(column: Column, config: TextConfig, segments: int = 1) -> TextEncoder:
    """A fresh encoder, or a pretrained one with its weights.

    ``column.width`` is the longest text it must read, ``segments`` the number of texts joined in one. A model
    must keep the encoder's ``config``, which may know more than the one that was given::

        self.encoder = make_text_encoder(column, config.text)
        self.config = config.model_copy(update={"text": self.encoder.config})

    Raises
    ------
    ConfigError
        The column cannot be read by this encoder, or the pretrained model is not there.
    MissingExtra
        A pretrained encoder without the package ``transformers``.
    """
    match config:
        case TableConfig():
            return Table(column, config)
        case TransformerConfig():
            return Transformer(column, config, segments)
        case PretrainedConfig():
            return Pretrained(column, config)
