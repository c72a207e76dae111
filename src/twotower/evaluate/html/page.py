"""The page as a whole: a head that forbids every network access, the sections, and a way between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from twotower.evaluate.html.markup import Html, joined, tag
from twotower.evaluate.html.style import STYLE

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


@dataclass(frozen=True)
class Section:
    """A finding: what it is about in a word, the finding as a sentence, and what shows it."""

    name: str  # also its id, so a word or two in small letters
    finding: str
    content: Html

    @property
    def id(self) -> str:
        return self.name.replace(" ", "-")


@dataclass(frozen=True)
class Tile:
    """A number to remember, large, with what it is below."""

    value: str
    about: str


def page(title: str, subtitle: str, tiles: Sequence[Tile], sections: Sequence[Section]) -> str:
    """One HTML document without a script, and without anything from elsewhere."""
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        tag("meta", name_="viewport", content="width=device-width, initial-scale=1"),
        tag("link", rel="icon", href="data:,"),  # or a browser would ask a server for one
        tag("title", title),
        tag("style", Html(STYLE)),
    )
    numbers = [tag("div", tag("b", tile.value), tag("span", tile.about)) for tile in tiles]
    body = tag(
        "body",
        tag("h1", title),
        tag("p", subtitle, class_="quiet"),
        tag("div", *numbers, class_="tiles"),
        tag("nav", *(tag("a", s.name, href=f"#{s.id}") for s in sections)),
        *(_section(s) for s in sections),
    )
    return joined([Html("<!doctype html>\n"), tag("html", head, body, lang="en")]) + "\n"


def _section(section: Section) -> Html:
    return tag(
        "section",
        tag("p", section.name, class_="eyebrow"),
        tag("h2", section.finding),
        section.content,
        id=section.id,
    )


def table(head: Sequence[str], rows: Sequence[Sequence[str]], words: int = 1) -> Html:
    """A table whose first ``words`` columns are words and whose others are numbers."""
    kinds = [None if i < words else "n" for i in range(len(head))]
    cells = [tag("th", cell, class_=kind) for cell, kind in zip(head, kinds, strict=True)]
    lines = [
        tag("tr", *(tag("td", cell, class_=kind) for cell, kind in zip(row, kinds, strict=True)))
        for row in rows
    ]
    return tag("div", tag("table", tag("thead", tag("tr", *cells)), tag("tbody", *lines)), class_="wide")
