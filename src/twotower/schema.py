"""What the columns of a data set mean: declared once, used by readers, features and models."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field as Option
from pydantic import SerializerFunctionWrapHandler, model_serializer, model_validator

from twotower.config import Config

Kind = Literal["id", "category", "bag", "number", "sequence", "text", "vector"]
Role = Literal["query", "item", "context", "label", "time", "weight"]

ROW = "row"
"""Column of every event table: the row's place in the original data, the last word on order."""
TIME_EXACT = "time_exact"
"""Bool column that an event table may have: false where the time is an estimate."""
PART = "part"
"""Column that an event table may have: train, valid or test, as the data's authors split it."""
SIDES = ("query", "item", "context")
"""Roles of the fields that models read."""
TEXT_LENGTH = 256
"""Tokens of a text that are kept, where the field does not say."""
LETTER_BUCKETS = 32768
"""Rows that letter trigrams are hashed into, where the field does not say."""
BOOKKEEPING = (ROW, TIME_EXACT, PART)
"""Columns about an event's record, not about the event: kept beside the declared fields, never features."""


class Field(Config):
    """One column: what kind of value it holds and whose property it is.

    Kinds: ``id`` and ``category`` (one of many), ``bag`` (several of many), ``number``, ``sequence`` (a
    query's earlier items; ``of`` names the id field they are values of), ``text`` (kept raw, for display;
    with a ``tokenizer`` also encoded, for text models), ``vector`` (``dim`` floats computed elsewhere).

    Tokenizers: ``words``; ``stems`` (words without stop words, cut to their English stem); ``letters``
    (hashed trigrams of each word); else a Hugging Face tokenizer: a folder, an installed package that holds
    a model, or a name on the hub. Of two texts that read one column in two ways, the second names it, ``of``.
    """

    name: str = Option(min_length=1)
    kind: Kind
    role: Role
    min_count: int = Option(
        1, ge=1, description="id, category, bag, words, stems: rarer values share the unknown row"
    )
    hash_buckets: int = Option(
        0,
        ge=0,
        description="id, category, bag, words, stems: unseen values hash into so many rows; letters: all",
    )
    dropout: float = Option(
        0.0,
        ge=0,
        lt=1,
        description="id, category: share of training rows made unknown, by each table of a model for itself",
    )
    buckets: int = Option(0, ge=0, description="number: quantile buckets instead of standardising (0)")
    max_length: int = Option(50, ge=1, description="bag, sequence: longest list kept; text: tokens (256)")
    of: str | None = Option(
        None, description="sequence: the item field its values come from; text: the text field it reads"
    )
    dim: int = Option(0, ge=0, description="vector: number of floats")
    tokenizer: str | None = Option(None, min_length=1, description="text: how it becomes tokens; null: not")
    prefix: str = Option(
        "",
        description="text of a pretrained tokenizer: set before every text, as its model was taught it (E5: "
        "'query: ')",
    )

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_tokens(cls, values: Any) -> Any:
        if not isinstance(values, dict) or values.get("tokenizer") is None:
            return values
        buckets = {"hash_buckets": LETTER_BUCKETS} if values["tokenizer"] == "letters" else {}
        return {"max_length": TEXT_LENGTH, **buckets, **values}

    @model_serializer(mode="wrap")
    def _without_later_keys(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """What is saved of a field has the digest it had before there were tokenizers and prefixes."""
        values: dict[str, Any] = plain(self)
        unset = {("tokenizer", None), ("prefix", "")}
        return {name: value for name, value in values.items() if (name, value) not in unset}

    @property
    def source(self) -> str:
        """The column of the table that the field is read from."""
        return self.of if self.kind == "text" and self.of is not None else self.name

    @model_validator(mode="after")
    def _check(self) -> Field:
        if self.kind == "vector" and self.dim == 0:
            raise ValueError(f"vector field {self.name!r} needs dim")
        if self.kind == "sequence" and self.of is None:
            raise ValueError(f"sequence field {self.name!r} needs 'of', the id field its values come from")
        if self.kind == "sequence" and self.role != "query":
            raise ValueError(f"sequence field {self.name!r} must have the role query")
        if self.tokenizer is not None and (self.kind != "text" or self.role not in SIDES):
            raise ValueError(
                f"field {self.name!r} has a tokenizer, but is no text of the query, item or context"
            )
        if self.kind == "text" and self.of is not None and self.tokenizer is None:
            raise ValueError(
                f"text field {self.name!r} reads {self.of!r} and needs a tokenizer to make of it"
            )
        if self.prefix and self.tokenizer in (None, "words", "stems", "letters"):
            raise ValueError(
                f"text field {self.name!r} has a prefix, and the tokenizer {self.tokenizer!r}: only a model "
                "that comes with its own tokenizer was taught one"
            )
        if self.tokenizer == "letters" and self.hash_buckets == 0:
            raise ValueError(f"text field {self.name!r}: letters are hashed and need hash_buckets")
        if self.role in ("label", "time", "weight") and self.kind != "number":
            raise ValueError(f"{self.role} field {self.name!r} must be a number")
        if self.name in BOOKKEEPING:
            raise ValueError(
                f"the names {', '.join(BOOKKEEPING)} are kept for bookkeeping, found {self.name!r}"
            )
        return self


class Schema(Config):
    """All columns, and which two of them name the query (user) and the item.

    >>> schema = Schema(query="user", item="movie", fields=(
    ...     Field(name="user", kind="id", role="query"), Field(name="movie", kind="id", role="item"),
    ...     Field(name="rating", kind="number", role="label")))
    >>> schema.time is None, [f.name for f in schema.labels]
    (True, ['rating'])
    """

    query: str
    item: str
    fields: tuple[Field, ...]

    @model_validator(mode="after")
    def _check(self) -> Schema:
        names = [field.name for field in self.fields]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"fields declared twice: {twice}")
        for side, name in (("query", self.query), ("item", self.item)):
            if name not in names or (self[name].kind, self[name].role) != ("id", side):
                raise ValueError(f"{side}={name!r} must name a field of kind id and role {side}")
        for role in ("time", "weight"):
            if len(self.having(role=role)) > 1:
                raise ValueError(f"more than one field has the role {role}")
        for field in self.having(kind="sequence"):
            if field.of not in names or self[str(field.of)].role != "item":
                raise ValueError(f"sequence {field.name!r}: of={field.of!r} must name an item field")
        self._check_texts()
        return self

    def _check_texts(self) -> None:
        texts = self.having(kind="text")
        read = {(field.name, field.role) for field in texts if field.of is None}
        vocabularies: dict[str, Field] = {}
        for field in texts:
            if field.of is not None and (field.of, field.role) not in read:
                raise ValueError(
                    f"text {field.name!r}: of={field.of!r} must name a text field of the same role that is "
                    "read from its own column"
                )
            if field.tokenizer is None:
                continue
            first = vocabularies.setdefault(field.tokenizer, field)
            if (field.min_count, field.hash_buckets) != (first.min_count, first.hash_buckets):
                raise ValueError(
                    f"texts {first.name!r} and {field.name!r} share the vocabulary of {field.tokenizer!r}: "
                    "give both the same min_count and hash_buckets"
                )

    def __getitem__(self, name: str) -> Field:
        for field in self.fields:
            if field.name == name:
                return field
        raise KeyError(name)

    def having(self, *, kind: Kind | None = None, role: Role | None = None) -> tuple[Field, ...]:
        """Fields of a kind, a role, or both, in declared order."""
        return tuple(f for f in self.fields if kind in (None, f.kind) and role in (None, f.role))

    @property
    def labels(self) -> tuple[Field, ...]:
        return self.having(role="label")

    @property
    def time(self) -> str | None:
        return next((f.name for f in self.having(role="time")), None)

    @property
    def weight(self) -> str | None:
        return next((f.name for f in self.having(role="weight")), None)

    @property
    def event_columns(self) -> tuple[str, ...]:
        """Columns of the event table: the two keys, then all that belongs to the event itself."""
        own = (
            f.name
            for f in self.fields
            if f.role in ("context", "label", "time", "weight") and f.source == f.name
        )
        return (self.query, self.item, *own)

    def side_columns(self, side: Literal["query", "item"]) -> tuple[str, ...]:
        """Columns of the query or item table; histories and texts of texts are derived, not stored there."""
        return tuple(f.name for f in self.having(role=side) if f.kind != "sequence" and f.source == f.name)
