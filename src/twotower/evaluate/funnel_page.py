"""The funnel report: facts in, one self-contained HTML page out."""

from __future__ import annotations

from twotower.evaluate.funnel_facts import FunnelFacts
from twotower.evaluate.html import conditions, losses
from twotower.evaluate.html.page import Tile, page
from twotower.evaluate.html.words import count, ms, plural, share
from twotower.metrics.ranking import average
from twotower.metrics.significance import bootstrap_mean

_SECTIONS = (
    losses.funnel_section,
    losses.worth_section,
    losses.survival_section,
    losses.deaths_section,
    losses.overlap_section,
    conditions.latency_section,
    conditions.slices_section,
    conditions.calibration_section,
    conditions.requests_section,
    conditions.notes_section,
)


def funnel_page(facts: FunnelFacts) -> str:
    """HTML without scripts and without a single address: what is in it is all it needs."""
    stages = facts.experiment.stages
    last, main, time = stages[-1], facts.measures[0], facts.timing.latency["total"]
    worth = bootstrap_mean(last.values[main], samples=facts.samples)
    tiles = (
        Tile(f"{worth.mean:.3f}", f"{main}, 95% {worth.low:.3f} to {worth.high:.3f}"),
        Tile(
            share(average(last.values[f"R@{last.k}"]).value),
            f"of what is relevant among the {count(last.k)} delivered",
        ),
        Tile(ms(time.p50_ms), f"median time of a request; p99 {ms(time.p99_ms)}"),
        Tile(count(facts.n_items), f"items in the catalogue, {plural(len(stages), 'stage')}"),
    )
    asked = plural(len(facts.experiment.task), "request")
    wanted = plural(len(facts.experiment.task.relevant.values), "relevant item")
    chain = " → ".join(f"{stage.name} ({stage.k:,})" for stage in stages)
    return page(
        f"Funnel of {facts.name}",
        f"{chain}. {asked} of the {facts.part} part, {wanted}.",
        tiles,
        [section(facts) for section in _SECTIONS],
    )
