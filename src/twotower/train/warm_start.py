"""Starting from an earlier model whose vocabularies have grown since."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from twotower.errors import MismatchError
from twotower.types import UNKNOWN


@dataclass(frozen=True)
class WarmStart:
    """What a warm start took over; ``str()`` says it in a few lines."""

    copied: tuple[str, ...]
    grown: Mapping[str, tuple[int, int]]  # name of the table -> rows taken over, rows that are new
    fresh: tuple[str, ...]  # only in the new model: kept as initialised
    left: tuple[str, ...]  # only in the old model: not used

    def __str__(self) -> str:
        lines = [f"{len(self.copied)} tensors copied whole"]
        lines += [f"{name}: {old:,} rows taken over, {new:,} new" for name, (old, new) in self.grown.items()]
        lines += [f"{name}: not in the earlier model, starts afresh" for name in self.fresh]
        lines += [f"{name}: only in the earlier model, left behind" for name in self.left]
        return "\n".join(lines)


@torch.no_grad()
def warm_start(
    model: nn.Module,
    old_state: Mapping[str, Tensor],
    vocab_maps: Mapping[str, Tensor],
    new_rows: Literal["initial", "unknown"] = "initial",
) -> WarmStart:
    """Copy ``old_state`` into ``model``: tables row by row where a map is given, the rest by name.

    ``vocab_maps[name]`` is (rows of the new table,) int64: the old row of each new row, -1 for a new value.
    New values keep their initial row, or with ``new_rows="unknown"`` take the old row of UNKNOWN, which was
    trained to stand for values never seen. Nothing is copied unless everything fits.

    >>> model = nn.Embedding(4, 2)
    >>> print(warm_start(model, {"weight": torch.ones(3, 2)}, {"weight": torch.tensor([0, 1, -1, 2])}))
    0 tensors copied whole
    weight: 3 rows taken over, 1 new

    Raises
    ------
    MismatchError
        A shape does not fit, a map names no tensor of both models, or points outside the old table.
    """
    state = model.state_dict()
    for name, rows in vocab_maps.items():
        _check_map(name, rows, state, old_state)
    for name in state.keys() & old_state.keys() - vocab_maps.keys():
        if state[name].shape != old_state[name].shape:
            found, expected = tuple(old_state[name].shape), tuple(state[name].shape)
            raise MismatchError(
                f"{name}: {found} in the earlier model, {expected} in this one; "
                "a table that grew needs a vocabulary map"
            )
    grown = {}
    for name, rows in vocab_maps.items():
        known = rows >= 0
        old, new = old_state[name].to(state[name]), state[name]
        rows, known = rows.to(new.device), known.to(new.device)
        new[known] = old[rows[known]]
        if new_rows == "unknown":
            new[~known] = old[UNKNOWN]
        grown[name] = (int(known.sum()), int((~known).sum()))
    copied = [name for name in state if name in old_state and name not in vocab_maps]
    for name in copied:
        state[name].copy_(old_state[name])
    return WarmStart(
        copied=tuple(copied),
        grown=grown,
        fresh=tuple(name for name in state if name not in old_state),
        left=tuple(name for name in old_state if name not in state),
    )


def _check_map(name: str, rows: Tensor, state: Mapping[str, Tensor], old_state: Mapping[str, Tensor]) -> None:
    for which, tensors in (("this model", state), ("the earlier model", old_state)):
        if name not in tensors:
            raise MismatchError(f"vocabulary map of {name!r}: {which} has no such tensor")
    old, new = old_state[name], state[name]
    if old.shape[1:] != new.shape[1:]:
        raise MismatchError(
            f"{name}: rows of {tuple(old.shape[1:])} in the earlier model, "
            f"of {tuple(new.shape[1:])} in this one"
        )
    if rows.shape != new.shape[:1]:
        raise MismatchError(f"{name}: its map has shape {tuple(rows.shape)}, expected ({len(new)},)")
    if len(rows) and (int(rows.min()) < -1 or int(rows.max()) >= len(old)):
        found = f"{int(rows.min())} to {int(rows.max())}"
        raise MismatchError(f"{name}: its map points to rows {found}, expected -1 to {len(old) - 1}")
