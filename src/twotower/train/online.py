"""Learning from a stream, each example scored before it teaches.

Progressive validation (Blum, Kalai, Langford, COLT 1999): every example is a test example first and a
training example right after, so one pass gives an honest error of all the models along the way, on all of the
data, the newest included. The stream must come in the order of time: shuffled, it would predict the past from
the future.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from twotower.data.batches import Examples
from twotower.errors import DataError, TrainingError
from twotower.models.base import Model
from twotower.train.objective import Objective
from twotower.train.optimizers import Optimizer

BINS, REACH = 1 << 14, 16.0
"""Logits are told apart in so many bins over [-16, 16]."""


class Progress:
    """What progressive validation has found, in memory that does not grow with the stream.

    >>> progress = Progress()
    >>> progress.count(torch.tensor([2.0, -1.0, 0.5]), torch.tensor([1.0, 0.0, 1.0]))
    >>> progress.examples, round(progress.log_loss, 4), progress.auc
    (3, 0.3048, 1.0)
    """

    def __init__(self) -> None:
        self.seen = torch.zeros(2, BINS, dtype=torch.int64)  # negatives and positives by logit
        self.loss = torch.zeros((), dtype=torch.float64)  # sum of log losses

    def count(self, logits: Tensor, labels: Tensor) -> None:
        """(B,) scores that were made before their labels, 0 or 1, were known."""
        place = ((logits.double() + REACH) * (BINS / (2 * REACH))).long().clamp(0, BINS - 1)
        self.seen.view(-1).index_add_(0, (labels > 0).long() * BINS + place, torch.ones_like(place))
        self.loss += functional.binary_cross_entropy_with_logits(
            logits.double(), labels.double(), reduction="sum"
        )

    @property
    def examples(self) -> int:
        return int(self.seen.sum())

    @property
    def log_loss(self) -> float:
        """Mean in nats, exact; NaN when nothing was seen."""
        return float(self.loss) / self.examples if self.examples else math.nan

    @property
    def auc(self) -> float:
        """Chance that a positive stands above a negative; logits less than 1/512 apart may count as ties.

        Scores of different moments are compared, so that a model which drifts is the worse for it. NaN when
        one class is missing.
        """
        negatives, positives = self.seen.double()
        below = negatives.cumsum(0) - negatives / 2
        return float((positives * below).sum() / (positives.sum() * negatives.sum()))

    def since(self, earlier: Progress) -> Progress:
        """What was found after ``earlier``, a copy taken along the way."""
        window = Progress()
        window.seen, window.loss = self.seen - earlier.seen, self.loss - earlier.loss
        return window

    def copy(self) -> Progress:
        return self.since(Progress())


class OnlineLearner:
    """A model in a stream: predict, score, learn, batch after batch, in the order of time.

    Where an item table holds ids only, it stays valid all the while. ``state_dict`` is all that is needed to
    go on: ``steps`` says how many batches of the stream are done.
    """

    def __init__(self, model: Model, objective: Objective, optimizer: Optimizer) -> None:
        self.model, self.objective, self.optimizer = model, objective, optimizer
        self.progress = Progress()
        self.steps = 0

    @torch.inference_mode()
    def predict(self, examples: Examples) -> Tensor:
        """(B,) logits of the model as it is now, in eval mode."""
        self.model.eval()
        query = self.model.encode_query(examples.query)
        item = self.objective.encode(self.model, examples.items[:, None])
        return self.model.score(query, item, examples.pair)[:, 0].float()

    def learn(self, examples: Examples) -> Tensor:
        """Score the batch, then learn from it; (B,) logits from before learning.

        Raises
        ------
        DataError
            The batch has no labels.
        TrainingError
            A loss or a gradient is not finite; no parameter has changed.
        """
        if examples.labels is None:
            raise DataError("online learning needs labelled examples", remedy="declare a positive rule")
        labels, examples = examples.labels, examples.to(self.model.device)
        logits = self.predict(examples)
        self.model.train()
        self.optimizer.zero_grad()
        loss = torch.stack(list(self.objective(self.model, examples).values())).sum()
        torch.autograd.backward(loss)
        total, norm = torch.stack([loss.detach().float(), self.optimizer.gradient_norm()]).tolist()
        if not math.isfinite(total + norm):
            raise TrainingError(
                f"online step {self.steps + 1}: the loss is {total}, or its gradient is not finite\n"
                f"  batch: {examples.describe()}\n  remedy: look for NaN in the features, or lower the rate"
            )
        self.optimizer.step()
        self.model.eval()
        self.progress.count(logits.cpu(), labels.cpu())
        self.steps += 1
        return logits

    def state_dict(self) -> dict[str, Any]:
        """Model, optimizer, objective and progress; the tensors are the learner's own: copy or save them."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "objective": self.objective.state_dict(),
            "progress": {"seen": self.progress.seen, "loss": self.progress.loss},
            "steps": self.steps,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.objective.load_state_dict(state["objective"])
        self.progress.seen, self.progress.loss = (
            state["progress"][name].clone() for name in ("seen", "loss")
        )
        self.steps = state["steps"]


def learn_online(
    learner: OnlineLearner,
    stream: Iterable[Examples],
    *,
    every: int | None = None,
    tell: Callable[[Progress], None] = lambda window: None,
) -> Progress:
    """Learn from all batches of a stream, oldest first; what progressive validation found on them.

    ``tell`` hears of every ``every`` batches by themselves. An unshuffled `EventBatches` over events in order
    of time is such a stream, and ``epoch(0, start_step=learner.steps)`` goes on with one.
    """
    start = last = learner.progress.copy()
    for number, examples in enumerate(stream, 1):
        learner.learn(examples)
        if every and number % every == 0:
            tell(learner.progress.since(last))
            last = learner.progress.copy()
    return learner.progress.since(start)
