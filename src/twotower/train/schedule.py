"""Learning rate over time, as a pure function of the step: nothing to save, nothing to restore."""

from __future__ import annotations

import math

from twotower.errors import ConfigError


def rate_factor(step: int, kind: str, warmup_steps: int = 0, total_steps: int | None = None) -> float:
    """What the learning rate of ``step`` (from 0) is multiplied by.

    Rises linearly to 1 at the end of the warm-up, then stays ("constant") or falls to 0 at ``total_steps``
    along a line ("linear") or half a cosine ("cosine", Loshchilov & Hutter 2017, eq. 5 without restarts).

    >>> [rate_factor(step, "linear", warmup_steps=2, total_steps=6) for step in range(6)]
    [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    if kind == "constant":
        return 1.0
    if total_steps is None:
        raise ConfigError(
            f"schedule {kind!r} must know where training ends, but the batches do not know their number: "
            "set max_steps, or schedule 'constant'"
        )
    done = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
    return 1.0 - done if kind == "linear" else 0.5 * (1.0 + math.cos(math.pi * done))
