"""What a table keeps of a representation: as declared, and finite in the type it is stored as."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from twotower.errors import DataError, MismatchError
from twotower.index.ragged_rows import inside
from twotower.types import Rep, RepSpec


def as_stored(rep: Rep, keys: Tensor, specs: Sequence[RepSpec], kept: Sequence[RepSpec]) -> Rep:
    """What a table keeps of the representation of ``keys``, ragged tensors with zeros behind their ends.

    Raises
    ------
    MismatchError
        It is not as declared.
    DataError
        A number is NaN or infinite, or becomes so as it is stored.
    """
    found = {name: (tuple(t.shape), name_of(t.dtype)) for name, t in rep.items()}
    wanted = {}
    for spec in specs:
        width = rep[spec.name].shape[1:2] if spec.ragged and spec.name in rep else ()
        wanted[spec.name] = ((len(keys), *width, *spec.shape), spec.dtype)
        if spec.ragged:
            wanted[spec.length] = ((len(keys),), "int64")
    if found != wanted:
        raise MismatchError(
            f"encode returned {found} for items {keys[:1].tolist()}.., the specs declare {wanted}"
        )
    out = Rep()
    for spec in kept:
        tensor = rep[spec.name].detach().to("cpu", dtype_of(spec.dtype))
        if spec.ragged:
            length = rep[spec.length].to("cpu")
            if ((length < 0) | (length > tensor.shape[1])).any():
                raise MismatchError(
                    f"{spec.length} is {int(length.min())} to {int(length.max())} "
                    f"for rows {tensor.shape[1]} wide"
                )
            real = inside(length, tensor.shape[1])
            tensor = tensor.masked_fill(~real.reshape(*real.shape, *[1] * len(spec.shape)), 0)
            out[spec.length] = length
        if tensor.is_floating_point() and not (finite := tensor.isfinite()).all():
            broken = keys[~finite.reshape(len(keys), -1).all(1).to(keys.device)]
            raise DataError(
                f"{spec.name} of item {int(broken[0])} is NaN or infinite as {spec.dtype}",
                remedy="store bfloat16 or float32 where float16 is too narrow; else look for a diverged "
                "training run",
            )
        out[spec.name] = tensor
    return out


def dtype_of(name: str) -> torch.dtype:
    """The type that a spec names."""
    dtype: torch.dtype = getattr(torch, name)
    return dtype


def name_of(dtype: torch.dtype) -> str:
    """What a spec calls it."""
    return str(dtype).removeprefix("torch.")
