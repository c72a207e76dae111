"""The same small search for every model, on one data set, by validation log loss; test is never read.

Every trial runs to its end: cut short where another is ahead, what is regularised more, and so starts slower,
would never win.
Every trial is one file, and the next trial depends on the files alone, so a search resumes where it stopped.
"""

from __future__ import annotations

import time
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution

from benchmarks.machine import machine
from benchmarks.pre_ranking.data import DATA, prepared_for
from benchmarks.pre_ranking.files import RESULTS, read_all, write_json
from benchmarks.pre_ranking.models import MODELS
from twotower.pipeline.learning import train_model
from twotower.train.events import Event, Validated

SEARCH_DATA = "ml-1m-hash"
SEARCH_SEED = 0  # the seed that chose takes no part in the results
TRIALS = 3  # what one afternoon of two cores allows; --trials adds more, chosen by TPE
SPACE: dict[str, BaseDistribution] = {
    "embedding_weight_decay": FloatDistribution(1e-6, 1e-3, log=True),
    "dropout": CategoricalDistribution([0.0, 0.2, 0.4]),
    "learning_rate": CategoricalDistribution([3e-3, 6e-3]),
}
FIRST = {"embedding_weight_decay": 1e-4, "dropout": 0.2, "learning_rate": 6e-3}
OPENING = (  # apart from each other on purpose: three random draws often are not
    FIRST,
    {"embedding_weight_decay": 1e-4, "dropout": 0.4, "learning_rate": 6e-3},
    {"embedding_weight_decay": 3e-4, "dropout": 0.2, "learning_rate": 6e-3},
    {
        "embedding_weight_decay": 1e-6,
        "dropout": 0.2,
        "learning_rate": 6e-3,
    },  # where four are asked
)


def trials_of(model: str, data: str = SEARCH_DATA) -> list[dict[str, Any]]:
    """What was tried for a model so far, in order."""
    return sorted(
        (t for t in read_all(_folder(data), f"{model}-*.json") if t["model"] == model),
        key=lambda t: int(t["number"]),
    )


def best(model: str, at_least: int = TRIALS) -> dict[str, Any]:
    """The trial with the least validation log loss.

    A model without anything to search for has the first settings, of which it reads none.

    Raises
    ------
    LookupError
        Fewer than ``at_least`` trials are there.
    """
    if not MODELS[model].searched:
        return {"params": FIRST}
    name = MODELS[model].tuned_as or model
    found = trials_of(name)
    if len(found) < at_least:
        raise LookupError(f"{len(found)} of {at_least} trials of {name} are there; run its search first")
    return min(found, key=lambda t: float(t["log loss"]))


def search(model: str, trials: int = TRIALS, data: str = SEARCH_DATA) -> dict[str, Any]:
    """Run what is missing of the search of one model; returns its best trial."""
    if MODELS[model].tuned_as:
        raise ValueError(f"{model} takes the settings of {MODELS[model].tuned_as}")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    while len(done := trials_of(model, data)) < trials:
        number = min(set(range(trials)) - {int(t["number"]) for t in done})
        study = replayed(done)
        if number < len(OPENING):
            study.enqueue_trial(OPENING[number])
        _run(study, model, number, data)
    return min(trials_of(model, data), key=lambda t: float(t["log loss"]))


def replayed(done: list[dict[str, Any]]) -> optuna.Study:
    """The study as it stood after these trials; its sampler is seeded by their number."""
    study = optuna.create_study(
        sampler=optuna.samplers.TPESampler(seed=len(done), n_startup_trials=len(OPENING)),
        pruner=optuna.pruners.NopPruner(),
    )
    for trial in done:
        study.add_trial(
            optuna.trial.create_trial(
                value=trial["log loss"],
                params=trial["params"],
                distributions=SPACE,
                intermediate_values={e["epoch"]: e["log loss"] for e in trial["epochs"]},
            )
        )
    return study


def _run(study: optuna.Study, model: str, number: int, data: str) -> None:
    """One trial, from asking for its settings to writing its file."""
    trial = study.ask(SPACE)
    recipe = MODELS[model].recipe(trial.params, DATA[data])
    prepared = prepared_for(data, recipe, SEARCH_SEED)
    epochs: list[dict[str, float]] = []

    def listen(event: Event) -> None:
        if isinstance(event, Validated):
            epochs.append({"epoch": event.epoch, **event.metrics})

    about, started, cpu_started = machine(), time.perf_counter(), time.process_time()
    train_model(prepared, "model", events=listen)
    chosen = min(epochs, key=lambda e: e["log loss"])
    content = {
        "model": model,
        "data": data,
        "number": number,
        "params": trial.params,
        "log loss": chosen["log loss"],
        "AUC": chosen["AUC"],
        "epochs": epochs,
        "seconds": round(time.perf_counter() - started, 1),
        "cpu_seconds": round(time.process_time() - cpu_started, 1),
        "recipe": recipe,
        "machine": about,
    }
    write_json(_folder(data) / f"{model}-{number}.json", content)
    what = ", ".join(f"{name} {value:g}" for name, value in trial.params.items())
    print(
        f"search {model} {number} ({what}): log loss {chosen['log loss']:.4f}, "
        f"AUC {chosen['AUC']:.4f}, {len(epochs)} epochs, {content['seconds']:.0f} s",
        flush=True,
    )


def _folder(data: str) -> Any:
    return RESULTS / "search" if data == SEARCH_DATA else RESULTS / f"search-{data}"
