"""Part ``finetune``: MiniLM taught on SciFact's train queries, against itself untouched.

In-batch softmax, each positive with mined negatives; texts of 128 tokens while learning, of 256 when they
are encoded. Both are compared as they are computed here, in bfloat16.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from benchmarks.text.cells import cell, difference, judged, kept_in, plain
from benchmarks.text.collection import Form, collection, minilm
from benchmarks.text.learning import Pool, mined, train
from benchmarks.text.untouched import untouched
from benchmarks.text.vectors import kept_vectors, measured, search
from twotower.data.hard_negatives import Mining
from twotower.models.base import Model
from twotower.models.dual_encoder import DualEncoder
from twotower.nn.text.pretrained import Pretrained
from twotower.train.settings import TrainSettings

PRECISION = "bfloat16"


@dataclass(frozen=True)
class Lesson:
    """What one run is told; the defaults are those of the published cells."""

    epochs: int = 4
    batch: int = 16
    rate: float = 2e-5
    negatives: int = 1
    tokens: int = 128
    frozen: int = 0  # lower layers that learn nothing, the token embedder with them
    max_steps: int | None = None

    def settings(self, seed: int) -> TrainSettings:
        return TrainSettings(
            epochs=self.epochs,
            max_steps=self.max_steps,
            batch_size=self.batch,
            optimizer="adamw",
            learning_rate=self.rate,
            weight_decay=0.01,
            schedule="linear",
            warmup_steps=20,
            clip_norm=1.0,
            precision="bf16",
            device="cpu",
            seed=seed,
            metric="nDCG@10",
        )


def finetune(seeds: Sequence[int], lesson: Lesson) -> dict[str, Any]:
    """A cell for each seed, and the difference of their mean to the untouched encoder."""
    where = kept_in(lesson.max_steps)
    cells = [cell(f"finetune/{seed}", partial(_run, seed, lesson), where) for seed in seeds]
    before = untouched("scifact", PRECISION)
    gains = {m: difference(cells, [before], m) for m in ("nDCG@10", "R@100")}
    for measure, gain in gains.items():
        print(f"fine-tuned over untouched, {measure}: {gain.mean:+.4f} [{gain.low:+.4f}, {gain.high:+.4f}]")
    return {name: plain(gain) for name, gain in gains.items()}


def _run(seed: int, lesson: Lesson) -> dict[str, Any]:
    whole, short = collection("scifact"), collection("scifact", Form(length=lesson.tokens))
    model = minilm(whole, PRECISION)
    vectors = kept_vectors(model, whole)  # of the untouched one: it mines, and says what the pool is
    hard = mined(whole, model, vectors, Mining(window=30, guard=0.95))
    pool = Pool(whole, model, vectors)
    before = pool(model)
    freeze(model, lesson.frozen)
    result = train(
        model,
        short,
        pool,
        lesson.settings(seed),
        f"finetune-{seed}-{lesson.max_steps or 'all'}",
        hard=hard,
        n_hard=lesson.negatives,
    )
    task = whole.task("test")
    found = search(model, kept_vectors(model, whole), task)
    return {
        "seed": seed,
        "lesson": asdict(lesson),
        "negatives": str(hard),
        "pool": {"documents": len(pool.keys), "before": before, "after": result.best_value},
        "best_epoch": result.best_epoch,
        "train_seconds": round(result.seconds),
        **judged(measured(found, task)),
    }


def freeze(model: Model, layers: int) -> None:
    """The token embedder and the lowest layers of the towers learn nothing."""
    assert isinstance(model, DualEncoder)
    for encoder in (model.item_encoder, model.query_encoder):
        if layers and isinstance(encoder, Pretrained):
            encoder.embedder.requires_grad_(False)
            encoder.body.embeddings.requires_grad_(False)
            for layer in encoder.body.encoder.layer[:layers]:
                layer.requires_grad_(False)
