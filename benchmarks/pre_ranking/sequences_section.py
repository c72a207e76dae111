"""The section on leave-last-out: the next item over the catalogue."""

from __future__ import annotations

from typing import Any

from benchmarks.pre_ranking.differences import difference_of
from benchmarks.pre_ranking.learning_section import in_order
from benchmarks.pre_ranking.markdown import markdown
from benchmarks.pre_ranking.results import Results, spread, values

ROWS = (
    *("popularity", "item-knn", "ease"),
    *("two-tower", "two-tower-further", "mol-further", "two-tower-elapsed"),
)
"""The order of the tables: baselines, then what is not told the time of the request, then what is."""
SEQUENCES = (
    "## Leave-last-out: sequences, the whole catalogue\n\n"
    "MovieLens 1M, the last item of a user tested, the one before it validation, the whole catalogue "
    "ranked without what the user had seen. The first rows are baselines that know no order. "
    "`two-tower` is the retriever of the committed recipe (full softmax, 30 epochs); `two-tower-elapsed` "
    "is also told how long each event was the last one, up to the moment of the request (`history: "
    "{elapsed: true}`): the models of the literature's figures are not. `mol-further` is a mixture of "
    "logits on the same tower, its heads at random first, trained on by sampled softmax; "
    "`two-tower-further` is the inner product trained on in the same way."
)
EXACT = (
    "In our copy, {estimated:,} of the {users:,} users have ratings whose times are estimated, a quarter of "
    "theirs, all at one moment and so without order. The columns called exact are of the other users. That "
    "these are answered better is not the order alone: baselines that know no order show the same gap."
)
PAIRED = (("mol-further", "two-tower-further"), ("two-tower-elapsed", "two-tower"))
DIFFERENCES = (
    "Differences, with 95 % intervals (paired bootstrap over queries of the mean over seeds, widened by the "
    "choice of seeds):"
)
WAITS = (
    ("same second", 0, 1),
    ("to a minute", 1, 60),
    ("to an hour", 60, 3600),
    ("to a day", 3600, 86_400),
    ("longer", 86_400, 1 << 62),
)
WAITED = (
    "By how long ago the user's last rating was when the tested one came. MovieLens wrote whole pages of "
    "ratings down in one second; a tower that knows times can tell such a page from a user who comes back."
)


def sequences(results: Results) -> str:
    """Next item over the catalogue, for all users and for those whose events have an order."""
    cells = results.systems("sequences")
    if not cells:
        return ""
    names = list(cells[0]["metrics"])
    exact = results.exact_sequences()
    head = ["system", *names, *(f"{name}, exact" for name in names if exact is not None), "seeds"]
    rows = []
    for system in in_order((cell["system"] for cell in cells), ROWS):
        own = [cell for cell in cells if cell["system"] == system]
        figures = [spread(values(own, "metrics", name)) for name in names]
        if exact is not None:
            per_query = [results.per_query("sequences", cell) for cell in own]
            figures += [spread([float(found[name][exact].mean()) for found in per_query]) for name in names]
        rows.append([f"`{system}`", *figures, str(len(own))])
    parts = [SEQUENCES, markdown(head, rows)]
    if exact is not None:
        parts.append(EXACT.format(estimated=int((~exact).sum()), users=len(exact)))
    return "\n\n".join([*parts, *_differences(results, cells, names), *_by_wait(results, cells)])


def _differences(results: Results, cells: list[dict[str, Any]], names: list[str]) -> list[str]:
    """Paired intervals over queries, of the mean of the seeds that both systems have."""
    rows = []
    for ours, theirs in PAIRED:
        by_seed = [{cell["seed"]: cell for cell in cells if cell["system"] == s} for s in (ours, theirs)]
        seeds = sorted(by_seed[0].keys() & by_seed[1].keys())
        if not seeds:
            continue
        found = [[results.per_query("sequences", own[seed]) for seed in seeds] for own in by_seed]
        gains = [
            difference_of(*([query[name] for query in of_seeds] for of_seeds in found)) for name in names
        ]
        values = (f"{gain.mean:+.4f} [{gain.low:+.4f}, {gain.high:+.4f}]" for gain in gains)
        rows.append([f"`{ours}` - `{theirs}`", *values, str(len(seeds))])
    return [DIFFERENCES, markdown(["difference", *names, "seeds"], rows)] if rows else []


def _by_wait(results: Results, cells: list[dict[str, Any]]) -> list[str]:
    """nDCG@10 by how long ago the user's last event was: where a tower that knows times gains."""
    waited = results.waited()
    if waited is None:
        return []
    inside = [(waited >= low) & (waited < high) for _, low, high in WAITS]
    rows = [["queries", *(f"{int(chosen.sum()):,}" for chosen in inside)]]
    for system in in_order((cell["system"] for cell in cells), ROWS):
        own = [results.per_query("sequences", cell) for cell in cells if cell["system"] == system]
        rows.append([f"`{system}`", *(spread([float(q["nDCG@10"][c].mean()) for q in own]) for c in inside)])
    return [WAITED, markdown(["nDCG@10", *(name for name, _, _ in WAITS)], rows)]
