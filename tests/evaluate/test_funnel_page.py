"""The page from facts: whole, still, safe, and nothing beside the paper."""

import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest
import torch

from twotower.baselines.popularity import Popularity
from twotower.cascade.retrieve import RetrieveFrom
from twotower.cascade.stage import Stage, rank_pair
from twotower.evaluate.experiment import run_cascade
from twotower.evaluate.funnel_facts import Calibration, FunnelFacts, Timing
from twotower.evaluate.funnel_page import funnel_page
from twotower.evaluate.latency import Latency
from twotower.evaluate.places import find_places
from twotower.evaluate.reliability import reliability
from twotower.evaluate.shown import Place, ShownItem, ShownRequest, ShownStep
from twotower.evaluate.slices import groups_of_items, groups_of_queries, slice_items, slice_queries
from twotower.evaluate.task import make_task
from twotower.types import Batch, Candidates, Ragged

Q, N = 40, 90
IDS = [
    "funnel", "order", "survival", "where-they-die", "overlap",
    "latency", "slices", "calibration", "requests", "notes",
]  # fmt: skip
EVIL = "</td></svg><script>alert(1)</script><img src=http://example.org/x>"


class Shuffle(Stage):
    bytes_per_item = 4.0

    def run(self, request, candidates, k):
        scores = ((candidates.keys * 7 + request.query["user"][:, None] * 3) % 11).float()
        scores = scores.masked_fill(~candidates.mask, -torch.inf)
        return rank_pair(self.name, Candidates(candidates.keys, scores, candidates.pair).sorted().best(k))


def lists(seed, low, high):
    draw = torch.Generator().manual_seed(seed)
    lengths = torch.randint(low, high, (Q,), generator=draw).tolist()
    return Ragged.of([torch.randperm(N, generator=draw)[:n].tolist() for n in lengths])


def facts(*stages, held_out=None, first=30, **changes):
    """Facts of a made-up funnel; ``stages`` are (name, k) behind the retriever."""
    cascade = RetrieveFrom(Popularity().fit(lists(4, 1, 9), N), k=first) >> Shuffle("rank", 8)
    cascade = type(cascade)(cascade.stages[0], *(Shuffle(name, k) for name, k in stages))
    keys, past = torch.arange(Q), lists(1, 0, 9)
    task = make_task(keys, Batch(user=keys), past, past, held_out or lists(3, 1, 6), N)
    experiment = run_cascade(cascade, task, ["nDCG@10", "R@10"])
    names = [stage.name for stage in cascade.stages]
    draw = torch.Generator().manual_seed(0)
    probs = torch.rand(500, generator=draw)
    bins = reliability(probs, (torch.rand(500, generator=draw) < probs).long())
    item = ShownItem("17", EVIL, True, tuple(Place(3, 0.5) for _ in names), None)
    lost = replace(item, places=(Place(99, None), *[None] * (len(names) - 1)), dropped_by=names[0])
    steps = tuple(ShownStep(name, 10, 5, 0.4, "0.1 ms were not enough", False) for name in names)
    made = FunnelFacts(
        name=EVIL,
        part="test",
        n_items=N,
        measures=("nDCG@10", "R@10"),
        experiment=experiment,
        places=find_places(cascade, experiment, reach=2),
        timing=Timing(
            {name: Latency(1.5 + i, 3.0 + i, 20) for i, name in enumerate([*names, "total"])},
            25, {names[-1]: 4}, {names[0]: 2}, "",
        ),
        slices=(
            *slice_queries(experiment, groups_of_queries(task.history.lengths), "nDCG@10", 50),
            *slice_items(experiment, groups_of_items(torch.arange(N) % 9), N, 50),
        ),
        calibrations=[Calibration(EVIL, bins, 0.03, 0.8, 500)],
        uncalibrated="",
        requests=[ShownRequest(EVIL, ((EVIL, EVIL),), (EVIL,), 2, 1, (item,), (lost,), steps)],
        notes=[EVIL],
        samples=100,
    )  # fmt: skip
    return replace(made, **changes)


FACTS = {
    "four stages": lambda: facts(("prerank", 16), ("rank", 8), ("rerank", 4)),
    "one stage": lambda: facts(),
    "eight stages": lambda: facts(*((f"a-stage-with-a-long-name-{k}", k) for k in range(14, 0, -2))),
    "nothing found": lambda: facts(
        ("rank", 1), first=1, held_out=Ragged.of([[89 - i % 3] for i in range(Q)])
    ),
    "all found": lambda: facts(("rank", N), first=N),
    "nothing to show": lambda: facts(
        ("rank", 8), calibrations=[], uncalibrated="no labels", requests=[], notes=[]
    ),
}


@pytest.fixture(scope="module", params=FACTS)
def page(request):
    return funnel_page(FACTS[request.param]())


class Balance(HTMLParser):
    """Every element that opens also closes, in order."""

    def __init__(self):
        super().__init__()
        self.open, self.ids, self.words = [], [], []

    def handle_starttag(self, tag, attrs):
        self.ids += [value for name, value in attrs if name == "id"]
        if tag not in ("meta", "br", "link"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def test_every_section_is_there_and_every_element_closed(page):
    reader = Balance()
    reader.feed(page)
    assert reader.open == []
    assert reader.ids == IDS
    assert re.findall(r'href="#([\w-]+)"', page) == IDS


def test_the_page_asks_the_network_for_nothing(page):
    assert re.findall(r"(?i)<(script|img|iframe|object|embed|base|form)\b", page) == []
    assert "url(" not in page
    assert "@import" not in page
    assert set(re.findall(r'(?:src|href)="([^"#]*)', page)) <= {"data:,", ""}
    assert "Content-Security-Policy" in page


def test_data_never_becomes_markup(page):
    assert "<script" not in page
    assert "<img" not in page
    assert "&lt;script&gt;" in page


def test_no_value_is_left_unsaid(page):
    reader = Balance()
    reader.feed(page)
    words = " ".join(reader.words)
    assert not re.search(r"\b(nan|inf|None|True|False)\b", words.replace("inf.", ""))


def marks(svg):
    for mark in svg.iter():
        place = {
            name: mark.get(name) for name in ("x", "y", "x1", "x2", "y1", "y2", "cx", "cy") if mark.get(name)
        }
        yield mark, {name: float(value) for name, value in place.items()}


def test_every_mark_lies_on_its_paper(page):
    pictures = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    assert len(pictures) >= 5
    for picture in pictures:
        svg = ElementTree.fromstring(picture)
        assert svg.get("role") == "img"
        assert svg.get("aria-label")
        _, _, width, height = map(float, svg.get("viewBox").split())
        for mark, place in marks(svg):
            for name, value in place.items():
                assert math.isfinite(value)
                assert -0.5 <= value <= (width if "x" in name else height) + 0.5, (mark.attrib, mark.text)
            if mark.tag == "rect":
                assert place["x"] + float(mark.get("width")) <= width + 0.5
                assert place["y"] + float(mark.get("height")) <= height + 0.5
            for number in re.findall(r"-?[\d.]+", mark.get("d", "") + mark.get("points", "")):
                assert -0.5 <= float(number) <= max(width, height) + 0.5


def boxes(svg):
    """About where each text lies: letters of the usual faces are at most so wide."""
    for mark, place in marks(svg):
        if mark.tag == "text":
            wide = 6.7 * len(mark.text or "") * (1.1 if "name" in mark.get("class", "") else 1)
            left = place["x"] - {"middle": wide / 2, "end": wide}.get(mark.get("text-anchor"), 0)
            yield left, left + wide, place["y"] - 11, place["y"] + 3, mark.text


def test_no_text_runs_off_its_paper_or_into_another(page):
    for picture in re.findall(r"<svg.*?</svg>", page, re.DOTALL):
        svg = ElementTree.fromstring(picture)
        width = float(svg.get("viewBox").split()[2])
        found = list(boxes(svg))
        for i, (left, right, top, bottom, words) in enumerate(found):
            assert left >= -2, words
            assert right <= width + 2, words
            for other in found[:i]:
                apart = right <= other[0] or other[1] <= left or bottom <= other[2] or other[3] <= top
                assert apart, (words, other[4])


def test_what_it_says_is_what_was_measured():
    made = facts(("rank", 8))
    page = funnel_page(made)
    fate = made.places.fate.losses()
    total = sum(fate.values())
    assert f"{fate['lost by rank']:,} ({fate['lost by rank'] / total:.0%})" in page
    assert f"{N} items become 8" in page
    alive = float(made.experiment.fate.share_alive[-1].nanmean())
    assert f"and {alive:.0%} of what is relevant is still among them" in page
    assert "0.4 ms, degraded: 0.1 ms were not enough" in page.replace("0.40 ms", "0.4 ms")
    assert "99% less than 5.00 ms" in page
    assert "no stage can be degraded" in page


def test_both_themes_and_paper_are_thought_of():
    page = funnel_page(facts(("rank", 8)))
    assert "prefers-color-scheme:dark" in page
    assert "@media print" in page
    used = set(re.findall(r"var\(--([\w]+)\)", page))
    for theme in re.findall(r":root\{([^}]*)\}", page):
        assert used - {"c"} <= set(re.findall(r"--(\w+):", theme))


def contrast(one, other):
    def light(colour):
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        lines = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * lines[0] + 0.7152 * lines[1] + 0.0722 * lines[2]

    high, low = sorted((light(one), light(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_words_can_be_read_in_every_theme():
    for theme in re.findall(r":root\{([^}]*)\}", funnel_page(facts())):
        colours = dict(re.findall(r"--(\w+):(#\w+)", theme))
        paper = colours["paper"] if len(colours["paper"]) == 7 else "#ffffff"
        for name in ("ink", "quiet", *(f"c{i}" for i in range(6))):
            assert contrast(colours[name], paper) >= 4.5, name
