"""The texts and tables of the page below its head (`opening`)."""

from __future__ import annotations

from typing import Any

from benchmarks.pre_ranking.claims import Verdict
from benchmarks.pre_ranking.data import DATA
from benchmarks.pre_ranking.markdown import markdown
from benchmarks.pre_ranking.models import MODELS, TRAIN
from benchmarks.pre_ranking.results import Results, bytes_of, fastest, mean, spread, values
from benchmarks.pre_ranking.search import SEARCH_DATA

CLEAR = ("confirmed", "refuted")
DRAWN = ("int-tower-dot",)
"""Ablations whose cost is shown: they dominate a complete model at its size."""
SERVED = (
    "## What each model keeps of the candidates it is served\n\n"
    "A retriever serves 500 candidates of the catalogue, a ranker chooses 20 of what is left; a model "
    "between them keeps 100. The models are those of the tables above, trained on exposures alone: none has "
    "seen what a retriever serves. `kept@100`: of the held-out positives among the 500, the share it keeps; "
    "`GAUC`: held-out positives against the other candidates; `Overlap@20` and `RCS@20@100`: the ranker's 20 "
    "among its own 20, and among its 100. The first rows are the orders of the stages around it. What "
    "training on such candidates brings is the part on learning to pre-rank."
)
REPLICATION = (
    "## Replication: the published IntTower protocol, with and without its leaks\n\n"
    "The script published with IntTower shows rows statistics that hold their own label, and stops training "
    "on movies never seen. `published` keeps all of that, `clean` none; other rows have one leak each, and "
    "`out-of-fold` the same statistics without a leak "
    "(`python -m benchmarks.pre_ranking.replication --help` says what each stands for, and what is smaller "
    "than published). The first row of a block is what the leaked means reach without any model."
)


# models ----------------------------------------------------------------------------------------------------


def table(results: Results, data: str) -> str:
    """Every model on one data set, the best log loss first; ablations have a table of their own."""
    about, truth = DATA[data], results.truth(data)
    cells = {n: c for n, c in results.cells[data].items() if MODELS[n].ablates is None}
    head = ["model", "AUC", "log loss", "GAUC", "ECE", "parameters", "epochs", "CPU min", "seeds"]
    if truth:
        head[4:4] = ["share of the possible", "of GAUC"]
    outdated = [name for name in cells if results.outdated(data, name)]
    unsearched = [n for n, own in cells.items() if not own[0]["tuned"] and not results.searched(n)]
    rows = []
    for name in sorted(cells, key=lambda n: mean(cells[n], "test", "log loss")):
        own = cells[name]
        figures = [spread(values(own, "test", f)) for f in ("AUC", "log loss", "GAUC", "ECE")]
        if truth:
            figures[3:3] = [
                f"{(mean(own, 'test', f) - 0.5) / (float(truth['test'][f]) - 0.5):.1%}"
                for f in ("AUC", "GAUC")
            ]
        rows.append(
            [
                _named(name) + " *" * (name in unsearched) + " †" * (name in outdated),
                *figures,
                f"{own[0]['parameters']:,}",
                f"{mean(own, 'best_epoch'):.0f}",
                f"{mean(own, 'cpu_seconds') / 60:.1f}",
                str(len(own)),
            ]
        )
    if truth:
        figures = [f"{truth['test'][f]:.4f}" for f in ("AUC", "log loss", "GAUC", "ECE")]
        figures[3:3] = ["100 %", "100 %"]
        rows.insert(0, ["*the truth*", *figures, "-", "-", "-", "-"])
    parts = [f"### {about.title} (`{data}`)", about.note, markdown(head, rows)]
    if unsearched:
        parts.append("\\* no search of its own: the settings every search began with.")
    if outdated:
        parts.append(
            "† measured with settings that the search has changed since; not compared with models of the "
            "present ones."
        )
    draws = results.draws(data)
    if draws is not None and cells:
        name = min(cells, key=lambda n: mean(cells[n], "valid", "log loss"))
        value = draws.value(name, results.seeds(data, name), "AUC")
        parts.append(
            f"The AUC of `{name}`, best in validation, is {value.mean:.4f}, with other users and seeds "
            f"{value.low:.4f} to {value.high:.4f}; differences between models are narrower (below)."
        )
    return "\n\n".join(part for part in parts if part)


def served(results: Results) -> str:
    """The set metrics of every model, where candidates are served; the most positives kept first."""
    parts = []
    for data, models in results.cells.items():
        own = {n: [c for c in cells if "served" in c] for n, cells in models.items()}
        own = {n: cells for n, cells in own.items() if cells and MODELS[n].ablates is None}
        if not own:
            continue
        names = list(next(iter(own.values()))[0]["served"])
        rows = [
            [f"*{order}*", *(f"{values[name]:.4f}" for name in names), "-"]
            for order, values in results.served_orders(data).items()
        ]
        for model in sorted(own, key=lambda n: -mean(own[n], "served", names[0])):
            figures = [spread(values(own[model], "served", name)) for name in names]
            rows.append([_named(model), *figures, str(len(own[model]))])
        parts += [f"### {DATA[data].title}", markdown(["order of", *names, "seeds"], rows)]
    return "\n\n".join([SERVED, *parts]) if parts else ""


def costs(results: Results) -> str:
    """Time, bytes and FLOPs at every storage depth."""
    if not results.costs:
        return ""
    rows = []
    for name in (n for n in results.costs if MODELS[n].ablates is None or n in DRAWN):
        quickest = fastest(results.costs[name])[0]
        for store, cost in results.costs[name]["stores"].items():
            us = cost["us_per_candidate"]
            rows.append(
                [
                    _named(name),
                    f"**{store}**" if store == quickest else store,
                    f"{cost['bytes_per_item']:,}",
                    f"{cost['flops_per_pair']:,}",
                    f"{us['1000']:.3g}",
                    f"{us['10000']:.3g}",
                    f"{us['1000'] + cost['us_per_query'] / 1000:.3g}",
                    f"{us['10000'] + cost['us_per_query'] / 10000:.3g}",
                    f"{cost['us_per_query']:,.0f}",
                ]
            )
    head = ["model", "stored", "bytes per item", "FLOPs per pair", "µs at 1k", "µs at 10k"]
    head += ["with query, 1k", "with query, 10k", "µs per query"]
    about = next(iter(results.costs.values()))
    text = (
        "Microseconds per candidate on one thread: one query, its own 1,000 or 10,000 candidates taken from "
        f"a table of {about['catalogue']:,} items and scored; the query tower once per request, apart and "
        f"included. Medians of {about['rounds']} rounds in which all take turns{_runs(results)}; features of "
        "MovieLens 1M, fresh weights. The fastest depth is bold; scores are the same at all of them."
    )
    return f"{text}\n\n" + markdown(head, rows, left=2)


def _runs(results: Results) -> str:
    """Times of different runs are not quite comparable: says how many there are, if not one."""
    runs = {cost["machine"]["date"] for cost in results.costs.values()}
    return f" (measured in {len(runs)} runs, between which times may differ)" if len(runs) > 1 else ""


# claims ----------------------------------------------------------------------------------------------------


def claims(verdicts: dict[str, list[Verdict]]) -> str:
    """The verdicts on the data of the search, then the differences elsewhere."""
    here = verdicts.get(SEARCH_DATA, [])
    if not here:
        return "No pair of models has its cells yet."
    head = ["claim", "by", "AUC", "log loss", "seeds that agree", "at the bound", "verdict"]
    rows = [
        [
            v.claim.text,
            v.claim.by,
            str(v.auc),
            str(v.log_loss),
            f"{v.agreeing} of {v.seeds}",
            f"{v.at_bound[0]}, {v.at_bound[1]}",
            f"**{v.word}**" if v.word in CLEAR else v.word,
        ]
        for v in here
    ]
    parts = [
        "`ml-1m-hash`: the first model of a claim minus the second, with 95 % intervals of the choice of "
        "users and of seeds. Confirmed or refuted when the interval of the AUC leaves zero out; of so many "
        "claims one or two would be by chance. A difference between models is also one of where they "
        f"stopped: patience {TRAIN['patience']} ends some trainings early (a model's spread shows it), and "
        f"the bound of {TRAIN['epochs']} epochs ends others that still got better. *At the bound* counts "
        "these, of the first and of the second model.",
        markdown(head, rows, left=2),
        *_of_cir(here),
    ]
    others = [data for data in verdicts if data != SEARCH_DATA and verdicts[data]]
    if others:
        known = {(data, v.claim): v for data in others for v in verdicts[data]}
        listed = dict.fromkeys(v.claim for data in others for v in verdicts[data])
        rows = [[claim.text, *(_short(known.get((data, claim))) for data in others)] for claim in listed]
        parts += [
            "The same differences in AUC elsewhere; bold where the verdict is clear.",
            markdown(["claim", *(f"`{data}`" for data in others)], rows),
        ]
    return "\n\n".join(parts)


def _of_cir(verdicts: list[Verdict]) -> list[str]:
    """What of IntTower's advantage over the two-tower is left without CIR, which others could train with."""
    by_pair = {(v.claim.better, v.claim.worse): v.auc.mean for v in verdicts}
    whole = by_pair.get(("int-tower", "two-tower"))
    bare = by_pair.get(("int-tower-no-cir", "two-tower"))
    alone = by_pair.get(("int-tower-dot", "two-tower"))
    if whole is None or bare is None or alone is None or bare > whole / 2:
        return []
    return [
        "IntTower's advantage over models without CIR is largely CIR's: complete it gains "
        f"{whole:+.4f} AUC over the two-tower, without CIR {bare:+.4f}, and an inner product trained with "
        f"CIR and Light-SE {alone:+.4f}. CIR is a loss that any two towers can be trained with; the "
        "two-tower, DAT, MoL and the rankers of these tables were not, so that the rows that set IntTower "
        "against them compare trainings as well as architectures."
    ]


def _short(verdict: Verdict | None) -> str:
    if verdict is None:
        return "-"
    text = str(verdict.auc)
    return text if verdict.word not in CLEAR else f"**{text}**"


def ablations(results: Results) -> str:
    """Each model's parts taken out one by one."""
    cells = results.cells.get(SEARCH_DATA, {})
    rows = []
    for name in dict.fromkeys(m.ablates for m in MODELS.values() if m.ablates):
        parts = [name, *(n for n, m in MODELS.items() if m.ablates == name)]
        for part in parts:
            old = [results.outdated(SEARCH_DATA, one) for one in (name, part)]
            if name in cells and part in cells and old[0] == old[1]:
                own = cells[part]
                rows.append(
                    [
                        f"`{part}`",
                        MODELS[part].note or "complete",
                        *(spread(values(own, "test", f)) for f in ("AUC", "log loss", "GAUC")),
                        f"{bytes_of(own):,}",
                    ]
                )
    if not rows:
        return ""
    head = ["model", "", "AUC", "log loss", "GAUC", "bytes per item"]
    text = "All with the settings found for the complete model. Intervals of the differences are above."
    return f"## Ablations\n\n{text}\n\n" + markdown(head, rows, left=2)


def search(results: Results) -> str:
    """Every trial's worth: what was chosen, and how far the trials lie apart."""
    rows = []
    for name, trials in results.trials.items():
        best = min(trials, key=lambda t: float(t["log loss"]))
        losses = values(trials, "log loss")
        p = best["params"]
        rows.append(
            [
                f"`{name}`",
                str(len(trials)),
                f"{best['log loss']:.4f}",
                f"{max(losses):.4f}",
                f"{best['AUC']:.4f}",
                f"{p['embedding_weight_decay']:.1e}",
                f"{p['dropout']:g}" if MODELS[name].reads_dropout else "-",
                f"{p['learning_rate']:g}",
                f"{sum(float(t.get('cpu_seconds', t['seconds'])) for t in trials) / 60:.0f}",
            ]
        )
    if not rows:
        return ""
    head = ["model", "trials", "best log loss", "worst", "its AUC"]
    head += ["embedding decay", "dropout", "learning rate", "CPU min"]
    text = (
        "On the validation part of `ml-1m-hash`; each trial is a file in `results/pre_ranking/search`, with "
        "the figures of every epoch."
    )
    return f"## The search\n\n{text}\n\n" + markdown(head, rows)


# systems, vectors, machines ------------------------------------------------------------------------------


def tsne(content: dict[str, Any]) -> str:
    """What was drawn, and the probes."""
    head = ["model", "item vector alone", "user x item, entry by entry", "pairs"]
    rows = [
        [f"`{name}`", f"{probe['item']:.1%}", f"{probe['product']:.1%}", f"{probe['pairs']:,}"]
        for name, probe in content["models"].items()
    ]
    return (
        "## What the vectors look like\n\n"
        f"{content['about']} The probe is a logistic regression, five folds over users; half of the pairs "
        "are liked, so that 50 % is chance.\n\n" + markdown(head, rows)
    )


def machines(results: Results) -> str:
    """On what and from which commits the cells were made."""
    cells = [cell for models in results.cells.values() for group in models.values() for cell in group]
    cells += [t for trials in results.trials.values() for t in trials]
    cells += list(results.costs.values())
    if not cells:
        return ""
    about = [cell["machine"] for cell in cells]
    commits = sorted({m["commit"] for m in about})
    seeds = sorted({int(cell["seed"]) for cell in cells if "seed" in cell})
    rows = [
        ["CPU", "; ".join(sorted({f"{m['cpu']}, {m['cores']} cores, {m['ram_gib']} GiB" for m in about}))],
        ["torch", ", ".join(sorted({m["torch"] for m in about}))],
        ["seeds", ", ".join(map(str, seeds)) + " (search: 0)"],
        ["commits", ", ".join(f"`{commit}`" for commit in commits)],
        ["dates", f"{min(m['date'] for m in about)[:10]} to {max(m['date'] for m in about)[:10]}"],
        ["files", f"{len(cells):,}"],
        ["command", "`make bench-models` (with `TWOTOWER_DATA` naming the folder of the data)"],
    ]
    return "## Where the numbers come from\n\n" + markdown(["", ""], rows, left=2)


def _named(name: str) -> str:
    reads = "history" in MODELS[name].config or MODELS[name].model == "din"
    return f"`{name}`" + (" (history)" if reads else "")
