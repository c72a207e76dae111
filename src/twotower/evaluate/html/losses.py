"""The sections about items: how many go through, which relevant ones do not, and who let them go."""

from __future__ import annotations

import math
from itertools import pairwise

from twotower.evaluate.agreement import overlap_by_depth
from twotower.evaluate.funnel_facts import FunnelFacts
from twotower.evaluate.html.curves import Curve, curves
from twotower.evaluate.html.frame import colour
from twotower.evaluate.html.funnel import Level, Part, funnel, has_room, histogram, outcome
from twotower.evaluate.html.markup import Html, joined, tag
from twotower.evaluate.html.page import Section, table
from twotower.evaluate.html.words import TIMES, count, measured, ms, plural, share, signed
from twotower.metrics.ranking import average
from twotower.metrics.significance import bootstrap_mean, paired_bootstrap

_BANDS = (1.1, 1.25, 1.5, 2.0, 3.0, 5.0)
"""Edges of the histogram of losses, in cuts; the last edge is as far as ranks are known."""
_AGREE_AT = 10
"""The depth at which the overlap of two stages is told in words."""
_NAMED = 4
"""A finding names so many stages at most; of more, the first and last, or the least and most."""


def funnel_section(facts: FunnelFacts) -> Section:
    """The funnel to scale."""
    levels = [Level("catalogue", facts.n_items, "all items", None)]
    alive = [average(values).value for values in facts.experiment.fate.share_alive]
    for number, (stage, left) in enumerate(zip(facts.experiment.stages, alive, strict=True)):
        time = ms(facts.timing.latency[stage.name].p50_ms)
        beside = f"{share(left)} of what is relevant; {time}"
        levels.append(Level(stage.name, float(stage.output.counts.double().mean()), beside, number))
    finding = (
        f"{count(facts.n_items)} items become {count(levels[-1].items)}, "
        f"and {share(alive[-1])} of what is relevant is still among them"
    )
    note = tag(
        "p",
        "Widths are to scale, on a logarithmic axis. Beside each stage stand the mean number of items it "
        "hands on, the share of a request's relevant items that are among them, and its median time.",
        class_="quiet",
    )
    return Section("funnel", finding, joined([funnel(levels, finding), note]))


def worth_section(facts: FunnelFacts) -> Section:
    """Every stage's own order as if it were the answer."""
    stages, main = facts.experiment.stages, facts.measures[0]
    rows = []
    for stage in stages:
        of = {
            name: bootstrap_mean(stage.values[name], samples=facts.samples)
            for name in (*facts.measures, f"R@{stage.k}")
        }
        own = of.pop(f"R@{stage.k}") if f"R@{stage.k}" not in facts.measures else of[f"R@{stage.k}"]
        worth = [measured(of[name]) for name in facts.measures]
        rows.append([stage.name, count(stage.k), *worth, measured(own), count(stage.bytes_per_item)])
    head = ["stage", "cut (k)", *facts.measures, "recall at its cut", "bytes per item"]
    note = tag(
        "p", "Each stage's order, cut where it cuts, taken as the answer; 95% intervals over requests.",
        class_="quiet",
    )  # fmt: skip
    return Section("order", _worth(facts, main), joined([table(head, rows), note]))


def _worth(facts: FunnelFacts, main: str) -> str:
    first, last = facts.experiment.stages[0], facts.experiment.stages[-1]
    if first is last:
        return f"{last.name} alone reaches {main} {average(last.values[main]).value:.3f}"
    gain = paired_bootstrap(last.values[main], first.values[main], relative=True, samples=facts.samples)
    if not all(map(math.isfinite, (gain.mean, gain.low, gain.high))):
        return f"{main} of {last.name} is {average(last.values[main]).value:.3f}"
    told = f"{main} {signed(gain.mean)} (95% {signed(gain.low)} to {signed(gain.high)})"
    if gain.low > 0:
        return f"{last.name} orders better than {first.name}: {told}"
    if gain.high < 0:
        return f"{last.name} orders worse than {first.name}: {told}"
    return f"Whether {last.name} orders better than {first.name} cannot be told: {told}"


def survival_section(facts: FunnelFacts) -> Section:
    """Recall by depth of every stage, also below its cut."""
    places = facts.places
    drawn = [
        Curve(name, places.recall(i).tolist(), places.cuts[i], i, dashed=True)
        for i, name in enumerate(places.stages)
    ]
    told = [f"{share(curve.at_mark)} through {curve.name}" for curve in drawn]
    told[0] = told[0].replace(" through", " of what is relevant comes through", 1)
    finding = _listed(told if len(told) <= _NAMED else [told[0], told[-1]])
    words = ["Recall at every depth of each stage's own order, mean over requests. "]
    words.append("The dot is the cut; the dashed line behind it is what a deeper cut would let through. ")
    gains = [
        (curve.values[min(2 * curve.mark, len(curve.values)) - 1] - curve.at_mark, curve) for curve in drawn
    ]
    gain, best = max(gains, key=lambda pair: pair[0])
    if gain > 0:
        words.append(
            f"Twice the depth would help most at {best.name}: {share(best.at_mark + gain)} "
            f"instead of {share(best.at_mark)}."
        )
    chart = tag("div", curves(drawn, "depth of the list (items)", finding), class_="wide")
    return Section("survival", finding, joined([chart, tag("p", *words, class_="quiet")]))


def deaths_section(facts: FunnelFacts) -> Section:
    """Which stage lost the relevant items, and how close they were."""
    places = facts.places
    fate = places.fate.losses()
    total = sum(fate.values())
    parts = [
        Part("delivered" if name == "kept" else name, n, None if name == "kept" else number)
        for number, (name, n) in enumerate(fate.items())
    ]
    lost = [(part.n, places.stages[part.colour]) for part in parts if part.colour is not None]
    most, who = max(lost, key=lambda pair: pair[0])
    finding = (
        f"{who} loses most: {most:,} of {plural(total, 'relevant item')} ({share(most / max(1, total))})"
    )
    if most == 0:
        finding = f"Not one of {plural(total, 'relevant item')} is lost"
    legend = [
        tag(
            "span",
            tag("i", class_=f"key {_ground(part)}"),
            f"{part.name}: {part.n:,} ({share(part.n / max(1, total))})",
        )
        for part in parts
        if not has_room(part, total)
    ]
    content = [
        tag("div", outcome(parts, finding), class_="wide"),
        tag("div", *legend, class_="keys"),
        tag(
            "p",
            "Counted in relevant items over all requests; shares elsewhere on this page are means over "
            "requests. Below: how far down, in cuts, the lost ones stood in the order of the stage that "
            "lost them.",
            class_="quiet",
        ),
    ]
    content += [_near(facts, number, n) for number, (n, _) in enumerate(lost) if n]
    return Section("where they die", finding, joined(content))


def _ground(part: Part) -> str:
    return "ckept" if part.colour is None else colour(part.colour)


def _near(facts: FunnelFacts, stage: int, n: int) -> Html:
    places = facts.places
    limit, name, cut = places.reached[stage] / places.cuts[stage], places.stages[stage], places.cuts[stage]
    edges = [*(edge for edge in _BANDS if edge < limit), limit]
    deaths = places.deaths(stage, edges)
    bands = [f"to {edge:.3g}{TIMES}" for edge in edges] + [
        f"beyond {limit:.3g}{TIMES}" if stage == 0 else "no rank"
    ]
    if deaths[-1] == 0:
        deaths, bands = deaths[:-1], bands[:-1]
    near = sum(places.deaths(stage, [2.0])[:1])
    title = f"{share(near / n)} of what {name} lost stood within twice its cut of {cut:,}"
    return joined(
        [tag("h3", title), tag("div", histogram(bands, deaths, stage, title, len(_BANDS) + 2), class_="wide")]
    )


def overlap_section(facts: FunnelFacts) -> Section:
    """Overlap@K between every stage and the one before it."""
    stages = facts.experiment.stages
    drawn = []
    for number, (before, after) in enumerate(pairwise(stages), start=1):
        values = overlap_by_depth(before.output.keys, after.output.keys)
        if len(values) and not bool(values.isnan().any()):
            mark = min(_AGREE_AT, len(values))
            drawn.append(Curve(f"{before.name} / {after.name}", values.tolist(), mark, number))
    if not drawn:
        return Section("overlap", "There are no two stages to compare", Html(""))
    named = drawn
    if len(drawn) >= _NAMED:
        named = [min(drawn, key=lambda c: c.at_mark), max(drawn, key=lambda c: c.at_mark)]
    told = [
        f"{c.name.replace(' / ', ' and ')} share {share(c.at_mark)} of their {c.mark} best" for c in named
    ]
    note = tag(
        "p",
        "Overlap@K: of the later stage's K best, the share that the stage before it had among its own K "
        "best. A pre-ranker that stands in for a ranker should be high here; a stage that always agrees with "
        "the one before it earns nothing.",
        class_="quiet",
    )
    finding = "; ".join(told)
    chart = tag("div", curves(drawn, "K (items)", finding), class_="wide")
    return Section("overlap", finding, joined([chart, note]))


def _listed(parts: list[str]) -> str:
    """
    >>> _listed(["a", "b", "c"])
    'a, b and c'
    """
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
