"""docs/benchmarks/pre-ranking.md: every number of it comes from a result file; what is missing is listed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.pre_ranking import groups, opening, patience, replication, sections, sequences_section
from benchmarks.pre_ranking.claims import judge, missing
from benchmarks.pre_ranking.data import DATA
from benchmarks.pre_ranking.differences import differences
from benchmarks.pre_ranking.files import read_json
from benchmarks.pre_ranking.learning_section import learning
from benchmarks.pre_ranking.models import MODELS
from benchmarks.pre_ranking.plots import Point, clouds, forest, pareto
from benchmarks.pre_ranking.results import Results, bytes_of, fastest, mean
from benchmarks.pre_ranking.search import SEARCH_DATA
from benchmarks.pre_ranking.sections import DRAWN

DOCS = Path(__file__).parents[2] / "docs" / "benchmarks"
NAME = "pre-ranking"


def write(results: Results | None = None, folder: Path = DOCS) -> None:
    """Write the page and its pictures."""
    results = results or Results()
    pictures = folder / NAME
    parts = [part for part in _parts(results, pictures) if part]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{NAME}.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def _parts(results: Results, pictures: Path) -> Iterator[str]:
    yield opening.opening(results)
    yield opening.targets(results)
    verdicts = {data: judge(results, data) for data in results.cells}
    yield "## The models, data set by data set"
    for data in results.cells:
        yield sections.table(results, data)
    yield sections.served(results)
    yield "## Quality against cost"
    panels = _panels(results)
    if panels:
        pareto(panels, pictures / "pareto.svg")
        yield _picture("pareto.svg", "Test AUC against cost, with the front of the models that none beats")
        yield (
            "Test AUC on MovieLens 1M (hash split) against what a candidate costs; each model stands at the "
            "storage depth at which it is fastest. The line is the front: no model on it is beaten in both. "
            f"Of the ablations only {', '.join(f'`{name}`' for name in DRAWN)} is drawn, a smaller model in "
            "its own right: towers with Light-SE, trained with CIR, whose vectors meet in an inner product. "
            "Models without times per candidate stand in the plot of bytes alone."
        )
    yield sections.costs(results)
    yield "## What papers claim"
    if verdicts.get(SEARCH_DATA):
        forest(verdicts[SEARCH_DATA], pictures / "claims.svg")
        yield _picture("claims.svg", "Difference in AUC of each claim, with its interval")
    yield sections.claims(verdicts)
    yield sections.ablations(results)
    yield groups.table(results.root / "groups")
    yield sections.search(results)
    yield patience.table(results.root / "patience")
    yield learning(results.systems("learning"))
    yield differences(results.root / "learning")
    yield sequences_section.sequences(results)
    if (results.root / "replication").is_dir():
        yield sections.REPLICATION + "\n\n" + replication.table(results.root / "replication")
    yield _tsne(results, pictures)
    yield sections.machines(results)
    yield "## What is missing\n\n" + "\n".join(f"- {line}" for line in _missing(results))


def _panels(results: Results) -> dict[str, list[Point]]:
    """The two kinds of cost, of the models that were measured."""
    cells = results.cells.get(SEARCH_DATA, {})
    times, sizes = {}, {name: float(bytes_of(cells[name])) for name in DRAWN if name in cells}
    for name, cost in results.costs.items():
        _, store = fastest(cost)
        times[name], sizes[name] = float(store["us_per_candidate"]["1000"]), float(store["bytes_per_item"])
    panels = {"microseconds per candidate (1,000 candidates, one thread)": times, "bytes per item": sizes}
    drawn = {
        label: [
            Point(name, MODELS[name].decoupled, costs[name], mean(own, "test", "AUC"))
            for name, own in cells.items()
            if name in costs and (MODELS[name].ablates is None or name in DRAWN)
        ]
        for label, costs in panels.items()
    }
    return {label: points for label, points in drawn.items() if points}


def _tsne(results: Results, pictures: Path) -> str:
    path = results.root / "tsne" / "probe.json"
    if not path.exists():
        return ""
    content = read_json(path)
    with np.load(path.with_name("places.npz")) as file:
        panels = {
            model: {part: file[f"{model}/{part}"] for part in content["parts"]} for model in content["models"]
        }
    clouds(panels, pictures / "tsne.png")
    return sections.tsne(content) + "\n\n" + _picture("tsne.png", "Users, liked items and disliked items")


def _picture(name: str, text: str) -> str:
    return f"![{text}]({NAME}/{name})"


def _missing(results: Results) -> list[str]:
    """What the benchmark is to hold and does not yet."""
    lines = []
    for data, about in DATA.items():
        fitting = [name for name, model in MODELS.items() if model.is_asked(data, about)]
        without = [name for name in fitting if not results.of(data, name)]
        few = [name for name in fitting if 0 < len(results.of(data, name)) < 3]
        if without:
            lines.append(f"{data}: no cell of {_listed(without, len(fitting))}")
        if few:
            lines.append(f"{data}: fewer than three seeds of {_listed(few, len(fitting))}")
        truth = about.folder is None and results.truth(data) is None
        lines += [f"{data}: the figures of the truth"] * truth
    lines += [f"a claim needs {name}" for name in missing(results, SEARCH_DATA) if name not in MODELS]
    whole = [name for name, model in MODELS.items() if not model.ablates]
    uncosted = [name for name in whole if name not in results.costs]
    if uncosted:
        lines.append(f"times per candidate of {_listed(uncosted, len(whole))}")
    for folder, what in (
        ("groups", "COLD's choice of groups"),
        ("patience", "what more patience would bring"),
        ("learning", "learning to pre-rank"),
        ("sequences", "leave-last-out"),
        ("replication", "the replication of the published protocol"),
        ("tsne", "the picture of the vectors"),
    ):
        if not any((results.root / folder).glob("*.json")):
            lines.append(what)
    for variant in replication.VARIANTS:
        few = replication.missing(results.root / "replication", variant)
        if few:
            lines.append(f"the replication, `{variant}`: {', '.join(few)}")
    return lines or ["nothing"]


def _listed(names: list[str], of: int) -> str:
    return "any model" if len(names) == of else ", ".join(names)
