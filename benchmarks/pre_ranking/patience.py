"""Does stopping at the first epoch without a gain, or after so many epochs, cut any model off?

    python -m benchmarks.pre_ranking patience [--models two-tower int-tower]

A model is trained on the data of the search with seed 0, which takes no part in the results, until `PATIENT`
epochs in a row have brought nothing, at most `BOUND`. Nothing in a run depends on when it will stop, so where
the cells' patience and bound would have stopped it is read off the same epochs. Validation only.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.machine import machine
from benchmarks.pre_ranking.data import prepared_for
from benchmarks.pre_ranking.files import RESULTS, read_all, write_json
from benchmarks.pre_ranking.groups import recipe_on
from benchmarks.pre_ranking.markdown import markdown
from benchmarks.pre_ranking.models import TRAIN
from benchmarks.pre_ranking.search import SEARCH_DATA, SEARCH_SEED, best
from twotower.pipeline.learning import train_model
from twotower.train.events import Event, Validated

PATIENT, BOUND = 5, 100
FOLDER = RESULTS / "patience"


def run(model: str) -> dict[str, Any]:
    """One model, until it has long stopped to gain."""
    recipe = recipe_on(SEARCH_DATA, model, best(model)["params"])
    recipe = recipe | {"train": recipe["train"] | {"patience": PATIENT, "epochs": BOUND}}
    losses: list[float] = []

    def listen(event: Event) -> None:
        if isinstance(event, Validated):
            losses.append(event.metrics["log loss"])

    about = machine()
    train_model(prepared_for(SEARCH_DATA, recipe, SEARCH_SEED), "model", events=listen)
    content = {"model": model, "log loss": losses, "machine": about}
    write_json(FOLDER / f"{model}.json", content)
    print(model, " ".join(f"{loss:.4f}" for loss in losses), flush=True)
    return content


def stopped(losses: list[float], patience: int) -> int:
    """Epoch (from 1) whose weights a run of this patience keeps.

    >>> stopped([0.5, 0.4, 0.41, 0.3], 1), stopped([0.5, 0.4, 0.41, 0.3], 2)
    (2, 4)
    """
    kept = 0
    for epoch, loss in enumerate(losses):
        if loss < losses[kept]:
            kept = epoch
        elif epoch - kept >= patience:
            break
    return kept + 1


def table(folder: Path) -> str:
    """The page's section."""
    rows = []
    for found in read_all(folder):
        losses = found["log loss"]
        soon, late = stopped(losses[: TRAIN["epochs"]], TRAIN["patience"]), stopped(losses, PATIENT)
        gain = losses[soon - 1] - losses[late - 1]
        rows.append(
            [
                f"`{found['model']}`",
                f"{soon}",
                f"{losses[soon - 1]:.4f}",
                f"{late}",
                f"{losses[late - 1]:.4f}",
                f"{gain:.4f}",
            ]
        )
    if not rows:
        return ""
    head = ["model", "epoch kept", "log loss", f"epoch kept with patience {PATIENT}", "log loss", "gained"]
    text = (
        f"On the validation part of `{SEARCH_DATA}`, one seed that takes no part in the results: what a "
        f"patience above {TRAIN['patience']} and more than {TRAIN['epochs']} epochs ({BOUND} at most) would "
        "bring."
    )
    return f"## Does stopping early cut anyone off?\n\n{text}\n\n" + markdown(head, rows)
