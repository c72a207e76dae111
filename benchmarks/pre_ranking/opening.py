"""The head of the page: the protocol, and what was aimed at."""

from __future__ import annotations

import statistics

from benchmarks.pre_ranking.data import DATA
from benchmarks.pre_ranking.intervals import SAMPLES
from benchmarks.pre_ranking.markdown import markdown
from benchmarks.pre_ranking.models import BOTH, MODELS, SMALL, TRAIN
from benchmarks.pre_ranking.results import Cell, Results, at_bound, bytes_of, mean, spread, values
from benchmarks.pre_ranking.search import SEARCH_DATA, TRIALS

TOLD_THE_TIME = ("two-tower-elapsed",)
"""Systems of the section on sequences that know how long ago the user's last event was."""


def opening(results: Results) -> str:
    lines = [
        "# Which model before ranking?",
        "Two towers, what goes beyond them, and the rankers behind them: one contract, one protocol, one "
        "search. The page is made by `make bench-models` from the JSON files below "
        "`benchmarks/results/pre_ranking`, and every number on it comes from them.",
        "## Protocol",
        "- **Labels**: MovieLens ratings 4 and 5 are positive, 1 and 2 negative, 3 is left out; clicks "
        "elsewhere. No statistic of a label is a feature.\n"
        "- **Parts**: 80 % train, 10 % validation, 10 % test; by a hash of the pair, or by time. Features "
        "and vocabularies are fitted on training rows.\n"
        "- **History**: a user's positive training rows strictly before the event's own second, at most "
        "50; only models whose row says so read it. The estimated times in our copy of MovieLens 1M (all of "
        "ratings 1 to 3, one moment per user) would tell the label to such a model: the users that have some "
        "(half of them) get all their times of that period drawn and shuffled, so that their histories have "
        "no order. To draw the estimates alone was not enough (measured so until commit 10836e7): a rating "
        "unlike its neighbours in time was one of the drawn, and so a negative.\n"
        "- **Variants**: models with another history, and with a part taken out, are measured on "
        f"{' and '.join(f'`{name}`' for name in BOTH)} ({_alone(SMALL[0])}; "
        f"{_alone(BOTH[0])}); all other models on all data.\n"
        f"- **Settings**: the same {TRIALS} trials for every model on the validation part of "
        f"`{SEARCH_DATA}`, seed 0, chosen by log loss, and reused on all other data: a weight decay of the "
        "embedding table of 1e-4 with dropout .2 or .4, or of 3e-4 with .2, at a learning rate of .006. "
        "Logistic regression, which reads no dropout, was also tried at 1e-6, and won there; of FSCD the "
        "ranker with gates is tried, not the pre-ranker that inherits. Variants with a history and ablations "
        "take the settings of the model they vary; a row with * had no search and takes those every search "
        "begins with. Test parts were read once per cell.\n"
        f"- **Training**: Adam on binary cross entropy, at most {TRAIN['epochs']} epochs, stopped by "
        f"validation log loss (patience {TRAIN['patience']}), batches of {TRAIN['batch_size']:,} "
        "(small data: 1,024)"
        + (f", weights averaged with decay {TRAIN['average']}" if "average" in TRAIN else "")
        + f"; alike for every model. {_at_the_bound(results)} (cells made before commit eebdee9 had one of "
        "15 epochs, and stay where they stopped before it). What more patience would bring has a section "
        "below.\n"
        "- **Capacity**: embeddings of 16, towers of 256-64, networks of 256-256; IntTower, MoL and FIT "
        "keep at most 512 bytes per item. `cold` reads all its groups, `cold-chosen` those that the paper's "
        "procedure chooses.\n"
        "- **Spread**: mean ± standard deviation over seeds, which change initialisation and batch order. "
        "**Intervals**: 95 % of the mean over seeds, by a paired bootstrap over users "
        f"({SAMPLES:,} samples), widened by what other seeds might have changed (Student's interval of the "
        "seeds' mean; half-widths add as squares).\n"
        "- **GAUC**: AUC within users, weighted by their events. **ECE**: calibration error in 15 bins of "
        "equal mass. FLOPs count matrix products alone. **CPU min** of cells made before commit 408744b hold "
        "what denormal numbers cost then (`results/denormals.json`): up to four times too many.",
    ]
    rows = []
    for data, about in DATA.items():
        cells = [cell for group in results.cells.get(data, {}).values() for cell in group]
        events = next((cell["events"] for cell in cells if "train" in cell["events"]), None)
        known = results.events(data)
        if events is None or known is None:
            continue
        rows.append(
            [
                f"`{data}`",
                about.title,
                *(f"{events[part]:,}" for part in ("train", "valid", "test")),
                f"{int(known[0].sum()):,}",
            ]
        )
    head = ["data", "", "train", "valid", "test", "positives in test"]
    return "\n\n".join([*lines, markdown(head, rows, left=2)])


# targets ---------------------------------------------------------------------------------------------------


def targets(results: Results) -> str:
    """What was aimed at on the hash split, and what came of it; models are chosen by validation."""
    cells = {n: c for n, c in results.cells.get(SEARCH_DATA, {}).items() if MODELS[n].ablates is None}
    groups: list[tuple[str, float, float | None, list[str]]] = [
        ("best ranker", 0.9025, 0.3095, [n for n in cells if not MODELS[n].decoupled]),
        (
            "best pre-ranker of two towers, at most 512 bytes per item",
            0.9010,
            None,
            [n for n in cells if MODELS[n].decoupled and bytes_of(cells[n]) <= 512],
        ),
        (
            "IntTower, at most 128 floats per item",
            0.8995,
            None,
            [n for n in cells if MODELS[n].model == "int-tower" and bytes_of(cells[n]) <= 512],
        ),
        ("IntTower without a history", 0.8995, None, [n for n in cells if n == "int-tower"]),
        ("logistic regression", 0.8735, None, [n for n in cells if n == "logistic-regression"]),
    ]
    rows = []
    for what, auc, loss, names in groups:
        aim = f"AUC ≥ {auc:.4f}" + (f", log loss ≤ {loss:.4f}" if loss else "")
        if not names:
            rows.append([what, aim, "-", "-", "no cells yet"])
            continue
        name = min(names, key=lambda n: mean(cells[n], "valid", "log loss"))
        got = [values(cells[name], "test", figure) for figure in ("AUC", "log loss")]
        found = [sum(numbers) / len(numbers) for numbers in got]
        reached = found[0] >= auc and (loss is None or found[1] <= loss)
        rows.append(
            [what, aim, f"`{name}`", ", ".join(map(spread, got)), "**reached**" if reached else "missed"]
        )
    cells_of = results.systems("sequences")
    for what, told in (("not told", False), ("told", True)):
        best = chosen_system([c for c in cells_of if (c["system"] in TOLD_THE_TIME) == told], "nDCG@10")
        if best is not None:
            name, own = best
            means = [mean(own, "metrics", figure) for figure in ("R@10", "nDCG@10")]
            rows.append(
                [
                    f"sequence tower {what} the time of the request, leave-last-out",
                    "R@10 ≥ 0.31, nDCG@10 ≥ 0.18",
                    f"`{name}`",
                    ", ".join(spread(values(own, "metrics", figure)) for figure in ("R@10", "nDCG@10")),
                    _word(means[0] >= 0.31 and means[1] >= 0.18),
                ]
            )
    text = (
        "Aims were set before the runs. The model of a row is chosen by validation log loss, that of a "
        "leave-last-out row by validation nDCG@10 among the systems whose cells hold it (`two-tower` was "
        "trained earlier, and its cells do not); its figures are of the test part."
    )
    return f"## What was aimed at\n\n{text}\n\n" + markdown(
        ["", "aim", "model", "AUC, log loss (or as aimed)", ""], rows, left=5
    )


def _word(reached: bool) -> str:
    return "**reached**" if reached else "missed"


def chosen_system(cells: list[Cell], figure: str) -> tuple[str, list[Cell]] | None:
    """The system of the highest figure in validation, mean of its seeds, and its cells.

    A cell holds its validations as ``valid``, a row per epoch, and counts with the best of them; a system
    with a cell that holds none cannot be chosen.
    """
    by_system: dict[str, list[Cell]] = {}
    for cell in cells:
        by_system.setdefault(cell["system"], []).append(cell)
    able = {name: own for name, own in by_system.items() if all(cell.get("valid") for cell in own)}
    if not able:
        return None

    def worth(name: str) -> float:
        return statistics.mean(max(float(epoch[figure]) for epoch in c["valid"]) for c in able[name])

    best = max(able, key=worth)
    return best, able[best]


def _at_the_bound(results: Results) -> str:
    """How many trainings the bound on epochs ended, not patience: those might have got better still."""
    trained = [cell for models in results.cells.values() for group in models.values() for cell in group]
    trained = [*(t for trials in results.trials.values() for t in trials), *trained]
    trained = [one for one in trained if one.get("epochs")]
    return f"{sum(map(at_bound, trained))} of {len(trained)} trials and cells ended at the bound"


def _alone(data: str) -> str:
    """The variants that are measured on one data set."""
    names = (f"`{name}`" for name, model in MODELS.items() if model.varied_on == (data,))
    return f"{', '.join(names)} on `{data}` alone"
