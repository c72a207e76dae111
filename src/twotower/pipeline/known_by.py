"""By what people know an item."""

from __future__ import annotations

from twotower.data.dataset import Dataset


def known_by(dataset: Dataset) -> list[str]:
    """Columns of the items with texts for people: those no model reads; if no item has one, the first other.

    A further reading of a text has no column of its own.
    """
    texts = dataset.schema.having(kind="text", role="item")
    read = {field.source for field in texts if field.tokenizer is not None}
    own = [field.name for field in texts if field.source == field.name]
    plain = [name for name in own if name not in read]
    if all(dataset.items[name].null_count() == len(dataset.items) for name in plain):
        return [name for name in own if name in read][:1] or plain
    return plain
