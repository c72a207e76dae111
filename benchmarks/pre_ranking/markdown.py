"""Tables in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> str:
    """A table; the first columns are aligned left, the others right.

    >>> print(markdown(["a", "b"], [["x", "1"]]))
    | a | b |
    | --- | --: |
    | x | 1 |
    """
    line = ["---" if place < left else "--:" for place in range(len(head))]
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, line, *rows])
