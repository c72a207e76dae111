"""Telling and keeping the batch on which training failed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path

import torch
from torch import Tensor

from twotower.train.checkpoint import save_tree


def tensors_of(value: object, name: str = "") -> dict[str, Tensor]:
    """All tensors inside mappings and dataclasses, by dotted name.

    >>> list(tensors_of({"query": {"age": torch.zeros(2)}, "labels": torch.ones(2)}))
    ['query.age', 'labels']
    """
    if isinstance(value, Tensor):
        return {name or "batch": value}
    if isinstance(value, Mapping):
        children = list(value.items())
    elif is_dataclass(value):
        children = [(field.name, getattr(value, field.name)) for field in fields(value)]
    else:
        return {}
    found: dict[str, Tensor] = {}
    for key, child in children:
        found |= tensors_of(child, f"{name}.{key}" if name else str(key))
    return found


def describe(examples: object) -> str:
    """The batch in words: its own ``describe()`` or its shapes, and which of its tensors are not finite."""
    tensors = tensors_of(examples)
    own = getattr(examples, "describe", None)
    words = own() if callable(own) else ", ".join(f"{n} {tuple(t.shape)}" for n, t in tensors.items())
    broken = [n for n, t in tensors.items() if t.is_floating_point() and not torch.isfinite(t).all()]
    return f"{words}; not finite in the batch itself: {', '.join(broken)}" if broken else str(words)


def save_batch(path: Path, examples: object) -> None:
    """Write the batch's tensors to one safetensors file."""
    save_tree(path, tensors_of(examples))
