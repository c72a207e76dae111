"""The sections about time, slices, probabilities and single requests, and what all of it rests on."""

from __future__ import annotations

from twotower.evaluate.funnel_facts import FunnelFacts
from twotower.evaluate.html.frame import colour
from twotower.evaluate.html.markup import joined, tag
from twotower.evaluate.html.page import Section, table
from twotower.evaluate.html.requests import folded
from twotower.evaluate.html.rows import diagram, intervals, times
from twotower.evaluate.html.words import between, measured, ms, plural, share
from twotower.evaluate.latency import Latency
from twotower.evaluate.slices import Slice


def latency_section(facts: FunnelFacts) -> Section:
    """Time per stage, and how often it was not enough."""
    timing, stages = facts.timing, facts.places.stages
    total = timing.latency["total"]
    rows: list[tuple[str, Latency, int | None]] = [(s, timing.latency[s], i) for i, s in enumerate(stages)]
    slowest = max(stages, key=lambda stage: timing.latency[stage].p50_ms)
    finding = f"In half of the requests the stages take less than {ms(total.p50_ms)}, "
    finding += f"in 99% less than {ms(total.p99_ms)}"
    if len(stages) > 1:
        finding += f"; {slowest} is the slowest stage"
    chart = tag("div", times([*rows, ("all stages", total, None)], finding), class_="wide")
    body = [
        [s, ms(t.p50_ms), ms(t.p99_ms), f"{timing.degraded.get(s, 0):,}", f"{timing.late.get(s, 0):,}"]
        for s, t, _ in rows
    ]
    counted = table(["stage", "median", "p99", "degraded", "late"], body)
    words = f"{plural(total.requests, 'single request')}, one at a time on one thread. Degraded and late are "
    words += f"counted over {timing.asked:,}. "
    words += timing.budget or "The recipe sets no budget, so no stage can be degraded or late."
    return Section("latency", finding, joined([chart, counted, tag("p", words, class_="quiet")]))


def slices_section(facts: FunnelFacts) -> Section:
    """The funnel for cold and warm, active and quiet, head and tail."""
    stages = facts.places.stages
    known = [(s.survived[-1].mean, s) for s in facts.slices if s.survived[-1] is not None]
    finding = "No slice holds anything relevant"
    if known:
        worst, best = min(known, key=_mean), max(known, key=_mean)
        finding = f"Survival runs from {_told(*worst)} to {_told(*best)}"
    legend = [tag("span", tag("i", class_=f"key {colour(i)}"), f"after {s}") for i, s in enumerate(stages)]
    head = ["slice", "who belongs to it", "requests", "relevant", *(f"after {s}" for s in stages)]
    body = [
        [
            f"{s.group.family.split()[0]}: {s.group.name}",
            s.group.rule,
            f"{s.queries:,}",
            f"{s.relevant:,}",
            *(between(interval) for interval in s.survived),
            measured(s.order),
        ]
        for s in facts.slices
    ]
    numbers = table([*head, facts.measures[0]], body, words=2)
    note = tag(
        "p",
        "Dots are means over the requests with something relevant in the slice, lines their 95% intervals. ",
        "Slices of items look at the relevant items of the slice alone.",
        class_="quiet",
    )
    content = [
        tag("div", *legend, class_="keys"),
        tag("div", intervals(facts.slices, stages, finding), class_="wide"),
        note,
        tag("details", tag("summary", "The numbers, and who belongs to which slice"), numbers),
    ]
    return Section("slices", finding, joined(content))


def _mean(pair: tuple[float, Slice]) -> float:
    return pair[0]


def _told(mean: float, found: Slice) -> str:
    return f"{share(mean)} ({found.group.name} {found.group.family.split()[0]})"


def calibration_section(facts: FunnelFacts) -> Section:
    """A reliability diagram for each model that states probabilities."""
    if not facts.calibrations:
        return Section(
            "calibration", "Nothing here states a probability", tag("p", facts.uncalibrated, class_="quiet")
        )
    told = [f"{c.error:.3f} ({c.model})" for c in facts.calibrations]
    diagrams = [
        tag(
            "div",
            tag("h3", f"{c.model}: calibration error {c.error:.3f}, AUC {c.auc:.3f}"),
            diagram(c.bins, f"Reliability diagram of {c.model}"),
            tag(
                "p", f"{plural(c.rows, 'labelled event')} in {len(c.bins)} bins of equal mass", class_="quiet"
            ),
        )
        for c in facts.calibrations
    ]
    note = tag(
        "p",
        "On the dashed line a stated probability is the rate that was seen; below it the model promises too "
        "much. Lines at the dots are 95% intervals.",
        class_="quiet",
    )
    return Section(
        "calibration",
        f"Stated probabilities are off by {', '.join(told)} on average",
        joined([tag("div", *diagrams, class_="pair"), note]),
    )


def requests_section(facts: FunnelFacts) -> Section:
    """A handful of requests, to be opened."""
    places = facts.places
    content = [folded(r, places.stages, places.cuts, opened=i == 0) for i, r in enumerate(facts.requests)]
    found = sum(request.found for request in facts.requests)
    wanted = sum(request.relevant for request in facts.requests)
    finding = (
        f"{plural(len(facts.requests), 'request')}, one by one: {found} of {wanted} relevant items delivered"
    )
    note = tag(
        "p",
        "Drawn so that every fate is there: a request of which something was kept, one that lost something "
        "to the last stage, to the one before it, and so on. This is no random sample. Ranks that a stage "
        "would have given below its cut are marked.",
        class_="quiet",
    )
    return Section("requests", finding, joined([note, *content]))


def notes_section(facts: FunnelFacts) -> Section:
    """The protocol behind every number."""
    items = tag("ul", *(tag("li", note) for note in facts.notes))
    return Section("notes", "What the numbers rest on", items)
