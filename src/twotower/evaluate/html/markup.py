"""Markup that is safe by construction: whatever is not `Html` already is escaped when it goes in."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

Value = str | float | None
_VOID = frozenset({"br", "link", "meta"})
"""Elements of HTML that hold nothing and have no end."""


class Html(str):
    """Text that is markup; made by `tag` and `joined` only."""

    __slots__ = ()


def tag(name: str, *inside: str, **attributes: Value) -> Html:
    """An element. Plain strings inside are escaped; an attribute that is None is left out.

    ``class_`` and ``for_`` lose their underscore, other underscores become hyphens, fractions two digits.

    >>> tag("p", "1 < 2 & ", tag("b", "so"), class_="note", data_n=0.3333)
    '<p class="note" data-n="0.33">1 &lt; 2 &amp; <b>so</b></p>'
    """
    named = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(number(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    end = "" if name in _VOID else f"{joined(inside)}</{name}>"
    return Html(f"<{name}{named}>{end}")


def joined(parts: Iterable[str]) -> Html:
    """Parts one after the other, each escaped unless it is markup.

    >>> joined(["a<b", tag("i", "c")])
    'a&lt;b<i>c</i>'
    """
    return Html("".join(part if isinstance(part, Html) else escape(part) for part in parts))


def number(value: Value) -> str:
    """Coordinates with two digits at most, so that a page stays small; words as they are."""
    if not isinstance(value, float):
        return str(value)
    return f"{value:.2f}".rstrip("0").rstrip(".")
