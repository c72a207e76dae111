"""The tokenizer of a pretrained model: one JSON file, kept with the features so that no path is needed."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from twotower.data.spec import Special
from twotower.data.text.folder import model_folder
from twotower.data.vocabulary import FIRST
from twotower.errors import ConfigError, StorageError
from twotower.optional import require

FILE = "tokenizer.json"
CHUNK = 4096
"""Texts that are tokenized at once: bounds what the tokens hold before they are an array."""


@dataclass(frozen=True)
class Tokenizer:
    """A tokenizer of the library ``tokenizers``, by its JSON."""

    json: str

    @classmethod
    def find(cls, name: str) -> Tokenizer:
        """That of a folder, an installed package or a name on the hub (see `model_folder`).

        Raises
        ------
        ConfigError
            There is none, or only one that the library cannot read.
        """
        folder = model_folder(name)
        try:
            if (folder / FILE).is_file():
                found = cls((folder / FILE).read_text(encoding="utf-8"))
            else:  # older models have only the parts it is made of
                slow = require("transformers", "text").AutoTokenizer.from_pretrained(folder)
                found = cls(slow.backend_tokenizer.to_str())
            if found.size <= FIRST:
                raise ValueError("it has no token")
        except (OSError, ValueError, AttributeError) as error:
            raise ConfigError(f"{name}: no tokenizer that can be read in {folder}: {error}") from error
        return found

    @property
    def size(self) -> int:
        """Rows of an embedding table for it: PAD, UNKNOWN, and its tokens."""
        return self._about[0]

    @property
    def special(self) -> Special:
        """What it sets around a text, 0 where it sets nothing, and its mask."""
        return self._about[1]

    def encode(self, texts: list[str], longest: int) -> tuple[np.ndarray, np.ndarray]:
        """Indices of all texts' tokens one after the other, special ones included, and how many each has.

        A text of more than ``longest`` tokens is cut before its closing one.
        """
        if longest not in self._cutting:
            tokenizer = self._parsed()
            tokenizer.enable_truncation(longest)
            self._cutting[longest] = tokenizer
        tokenizer = self._cutting[longest]
        parts, counts = [np.empty(0, dtype=np.int64)], []
        for start in range(0, len(texts), CHUNK):
            ids = [each.ids for each in tokenizer.encode_batch_fast(texts[start : start + CHUNK])]
            counts += [len(each) for each in ids]
            parts.append(np.fromiter(chain.from_iterable(ids), np.int64, sum(counts[start:])))
        return np.concatenate(parts) + FIRST, np.asarray(counts, dtype=np.int64)

    @cached_property
    def _cutting(self) -> dict[int, Any]:
        """A parsed tokenizer for each length: one that changed its length would do so under other threads."""
        return {}

    @cached_property
    def _about(self) -> tuple[int, Special]:
        tokenizer = self._parsed()
        last: int = max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1)
        masks = (tokenizer.token_to_id(word) for word in ("[MASK]", "<mask>"))
        mask = next((FIRST + token for token in masks if token is not None), 0)
        before, behind = _around(tokenizer)
        return FIRST + last + 1, Special(
            first=FIRST + before[0] if before else 0, last=FIRST + behind[-1] if behind else 0, mask=mask
        )

    def _parsed(self) -> Any:
        """The library's tokenizer, which neither cuts nor pads."""
        library = require("tokenizers", "text")
        try:
            tokenizer = library.Tokenizer.from_str(self.json)
        except Exception as error:  # the library raises nothing narrower
            raise ValueError(f"not a tokenizer: {error}") from error
        tokenizer.no_padding()
        tokenizer.no_truncation()
        return tokenizer

    def digest(self) -> str:
        """Hex hash of the file."""
        return hashlib.sha256(self.json.encode()).hexdigest()

    def save(self, directory: str | Path) -> None:
        """Write ``tokenizer.json``."""
        directory = Path(directory)
        try:
            directory.mkdir(parents=True, exist_ok=True)
            (directory / FILE).write_text(self.json, encoding="utf-8")
        except OSError as error:
            raise StorageError(f"{directory}: tokenizer not written: {error}") from error

    @classmethod
    def load(cls, directory: str | Path, digest: str) -> Tokenizer:
        """Read what `save` wrote; a missing or altered file is a `StorageError`."""
        try:
            tokenizer = cls((Path(directory) / FILE).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise StorageError(f"{directory}: no readable tokenizer: {error}") from error
        if tokenizer.digest() != digest:
            raise StorageError(f"{directory}: {FILE} is not the one that was written (digest differs)")
        return tokenizer


def _around(tokenizer: Any) -> tuple[list[int], list[int]]:
    """The tokens that it sets before and behind every text, seen at a word that it reads."""
    vocabulary = tokenizer.get_vocab(with_added_tokens=False)
    for probe in chain("a", (word for word in sorted(vocabulary, key=vocabulary.__getitem__))):
        try:
            found = tokenizer.encode(probe)
        except Exception:  # no such word, and no token for unknown ones; the library raises nothing narrower
            continue
        own = found.special_tokens_mask
        if 0 in own:
            return found.ids[: own.index(0)], found.ids[len(own) - own[::-1].index(0) :]
    return [], []
