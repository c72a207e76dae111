"""COLD's choice of feature groups, as its paper makes it: by mean gate, GAUC and measured time.

    python -m benchmarks.pre_ranking groups [--data ml-100k]

The gated model and those of the best K groups are trained with seed 0, which takes no part in the results,
and compared on the validation part. Chosen is the best GAUC among the subsets that take at most `SHARE` of
the time of all groups; `cold-chosen` is trained with it. What was found lies below
``results/pre_ranking/groups``; trained models stay in ``runs``, so an interrupted search goes on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.machine import machine
from benchmarks.pre_ranking.data import DATA, data_root, recipe_of
from benchmarks.pre_ranking.files import RESULTS, read_all, read_json, write_json
from benchmarks.pre_ranking.markdown import markdown
from benchmarks.pre_ranking.models import MODELS
from benchmarks.pre_ranking.search import SEARCH_SEED, best
from twotower.errors import ConfigError
from twotower.pipeline.selection import GroupSearch, search_groups

SHARE = 0.7
"""Of the time per candidate of all groups, what a choice may take."""
RUNS = Path("runs") / "cold_groups"


def groups_path(data: str) -> Path:
    return RESULTS / "groups" / f"{data}.json"


def choose_groups(data: str) -> dict[str, Any]:
    """Search and choose on one data set; what is there is not made again."""
    path, about = groups_path(data), DATA[data]
    if path.exists():
        return read_json(path)
    started_on = machine()
    recipe = recipe_of(data, MODELS["cold"].recipe(best("cold")["params"], about), SEARCH_SEED)
    root = data_root() / about.folder if about.folder else None
    search = search_groups(recipe, "model", RUNS / data, data=root, say=lambda line: print(line, flush=True))
    chosen, what = _affordable(search)
    content = {
        "data": data,
        **asdict(search),
        "max_share": SHARE,
        "chosen": list(chosen),
        "machine": started_on,
    }
    write_json(path, content)
    print(search, what, sep="\n", flush=True)
    return content


def _affordable(search: GroupSearch) -> tuple[Sequence[str], str]:
    """The chosen groups, none where no subset is within the share, and a line that says so."""
    try:
        chosen = search.choose(max_share=SHARE).groups
    except ConfigError as error:
        return (), f"chosen: none ({error})"
    return chosen, f"chosen: {', '.join(chosen)}"


def recipe_on(data: str, name: str, params: dict[str, float]) -> dict[str, Any]:
    """A competitor's part of a recipe on a data set, with the groups chosen there if it reads chosen ones.

    Raises
    ------
    LookupError
        None were chosen yet, or none can be.
    """
    recipe = MODELS[name].recipe(params, DATA[data])
    if not MODELS[name].chosen:
        return recipe
    if not groups_path(data).exists():
        raise LookupError(f"no groups of cold are chosen on {data}; run the step groups first")
    keep = read_json(groups_path(data))["chosen"]
    if not keep:
        raise LookupError(
            f"on {data} no subset of cold's groups takes at most {SHARE:.0%} of the time of all"
        )
    return recipe | {"config": recipe["config"] | {"gate": False, "keep": keep}}


def table(folder: Path) -> str:
    """The page's section: what was tried on each data set, and what was chosen."""
    rows = []
    for found in read_all(folder):
        before: set[str] = set()
        for subset in found["subsets"]:
            joins = [group for group in subset["groups"] if group not in before]
            before |= {*joins}
            rows.append(
                [
                    f"`{found['data']}`",
                    f"{len(subset['groups'])}" + " (chosen)" * (subset["groups"] == found["chosen"]),
                    f"{subset['gauc']:.4f}",
                    f"{subset['us_per_candidate']:.2f}",
                    f"{subset['bytes_per_item']:,}",
                    ", ".join(f"{group} ({found['gates'][group]:.2f})" for group in joins),
                ]
            )
    if not rows:
        return ""
    head = ["data", "groups", "GAUC in validation", "us per candidate", "bytes per item", "joins (mean gate)"]
    text = (
        "By the mean gate over validation events; models of the best groups are trained without one (seed 0) "
        f"and timed. Chosen is the best GAUC in at most {SHARE:.0%} of the time of all groups, the row "
        "`cold-chosen` of the tables; where no subset is that fast, nothing is."
    )
    return f"## COLD's choice of groups\n\n{text}\n\n" + markdown(head, rows)
