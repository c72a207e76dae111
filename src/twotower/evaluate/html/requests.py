"""Single requests with their trace, folded until someone opens them."""

from __future__ import annotations

from collections.abc import Sequence

from twotower.evaluate.html.frame import colour
from twotower.evaluate.html.markup import Html, joined, tag
from twotower.evaluate.html.words import NOTHING, count, ms, plural
from twotower.evaluate.shown import Place, ShownItem, ShownRequest, ShownStep


def folded(request: ShownRequest, stages: Sequence[str], cuts: Sequence[int], opened: bool = False) -> Html:
    """One request: a line that says how it went, and behind it who it was and the way of every item."""
    blamed = {item.dropped_by for item in request.missed}
    lost = [stage for stage in stages if stage in blamed]
    outcome = f"{request.found} of {plural(request.relevant, 'relevant item')} delivered"
    blame = f"; lost by {', '.join(lost)}" if lost else ""
    facts = [joined([tag("dt", name), tag("dd", value)]) for name, value in request.about]
    if request.past:
        facts.append(joined([tag("dt", "latest history"), tag("dd", "; ".join(request.past))]))
    inside = [
        tag("summary", tag("b", request.who), " ", tag("span", outcome + blame, class_="quiet")),
        tag("dl", *facts),
        tag("p", *_steps(request.steps), class_="trace"),
        _items("Delivered, best first", request.delivered, stages, cuts),
    ]
    if request.missed:
        inside.append(_items("Relevant, and not delivered", request.missed, stages, cuts))
    return tag("details", *inside, open="" if opened else None)


def _steps(steps: Sequence[ShownStep]) -> list[Html]:
    words = []
    for number, step in enumerate(steps):
        given = "catalogue" if step.n_in is None else count(step.n_in)
        told = f" {given} → {count(step.n_out)} in {ms(step.took_ms)}"
        told += f", degraded: {step.degraded}" if step.degraded else ", late" if step.late else ""
        words.append(tag("span", tag("b", step.stage, class_=f"ink {colour(number)}"), told))
    return words


def _items(title: str, items: Sequence[ShownItem], stages: Sequence[str], cuts: Sequence[int]) -> Html:
    head = [
        tag("th", "item"),
        *(tag("th", f"{s}: rank", tag("br"), tag("small", "score"), class_="n") for s in stages),
        tag("th", "fate"),
    ]
    rows = [
        tag(
            "tr",
            tag("td", item.text, " ", tag("small", item.id)),
            *(_cell(place, cut) for place, cut in zip(item.places, cuts, strict=True)),
            tag("td", *_fate(item)),
            class_="relevant" if item.relevant else None,
        )
        for item in items
    ]
    body = rows or [tag("tr", tag("td", "nothing", colspan=str(len(stages) + 2)))]
    table = tag("table", tag("thead", tag("tr", *head)), tag("tbody", *body))
    return joined([tag("h4", title), tag("div", table, class_="wide")])


def _cell(place: Place | None, cut: int) -> Html:
    if place is None:
        return tag("td", NOTHING, class_="n")
    second = f"{place.score:.3f}" if place.score is not None else f"cut at {cut:,}"
    kind = "n" if place.score is not None else "n below"
    return tag("td", f"{place.rank:,}", tag("br"), tag("small", second), class_=kind)


def _fate(item: ShownItem) -> list[str]:
    if item.dropped_by is not None:
        return [f"dropped by {item.dropped_by}"]
    return [tag("b", "relevant")] if item.relevant else ["delivered"]
