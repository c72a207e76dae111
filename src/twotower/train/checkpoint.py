"""A tree of tensors and plain values in one file that is there whole, or not at all.

The file is safetensors; what is not a tensor travels as JSON in its header, with a checksum over everything.
No pickle: reading one runs no code.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import xxhash
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from twotower.errors import StorageError

_TENSOR = "$tensor"


def save_tree(path: Path, tree: Mapping[str, Any]) -> None:
    """Write ``tree`` (nested dicts and lists of tensors and JSON values) to ``path``, atomically.

    The bytes go to a file beside it, are forced to disk, and only then take the name: whatever happens
    meanwhile, ``path`` holds its old content or all of the new one.

    Raises
    ------
    StorageError
        The disk is full, the folder cannot be written to, ...; the earlier file is untouched.
    """
    found: dict[str, Tensor] = {}
    plain = json.dumps(_take_tensors(tree, "", found))
    tensors = _owned(found)
    partial = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, partial, {"tree": plain, "checksum": _checksum(plain, tensors)})
        with open(partial, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
        _sync_folder(path.parent)
    except (OSError, SafetensorError) as error:
        _discard(partial)
        raise StorageError(
            f"{path}: could not be written ({error}); what was saved before is intact. "
            "Make room or name another folder, then run again"
        ) from error


def load_tree(path: Path) -> dict[str, Any]:
    """Read what `save_tree` wrote; tensors arrive on the CPU.

    Raises
    ------
    StorageError
        No such file, not one of ours, truncated, or its checksum does not fit its content.
    """
    if not path.is_file():
        raise StorageError(f"{path}: no such file")
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            # cloned: the reader maps the file, and a map must not outlive a file that may be replaced
            names = file.keys()
            tensors = {name: file.get_tensor(name).clone() for name in names}
    except (OSError, SafetensorError, ValueError) as error:
        raise StorageError(f"{path}: truncated or damaged ({error}); delete it or restore a copy") from error
    if not {"tree", "checksum"} <= header.keys():
        raise StorageError(f"{path}: a safetensors file, but not one that twotower wrote")
    if _checksum(header["tree"], tensors) != header["checksum"]:
        raise StorageError(f"{path}: damaged, its checksum does not fit; delete it or restore a copy")
    tree: dict[str, Any] = _put_tensors(json.loads(header["tree"]), tensors)
    return tree


def _take_tensors(node: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """``node`` as JSON values with a reference in place of each tensor, which goes to ``tensors``."""
    if isinstance(node, Tensor):
        if name in tensors:
            raise ValueError(f"two tensors of the tree would share the name {name!r}")
        tensors[name] = node
        return {_TENSOR: name}
    if isinstance(node, Mapping):
        return {k: _take_tensors(child, f"{name}/{k}" if name else k, tensors) for k, child in node.items()}
    if isinstance(node, list | tuple):
        return [_take_tensors(child, f"{name}/{number}", tensors) for number, child in enumerate(node)]
    if node is None or isinstance(node, str | int | float | bool):
        return node
    raise TypeError(f"{name}: a checkpoint holds tensors and plain values, found {type(node).__name__}")


def _owned(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """On the CPU, contiguous, and no two in the same memory: tied weights are written twice."""
    owned, storages = {}, set()
    for name, tensor in tensors.items():
        copy = tensor.detach().to("cpu").contiguous()
        storage = copy.untyped_storage()
        if storage.data_ptr() in storages or storage.nbytes() != copy.nbytes:
            copy = copy.clone()
        storages.add(copy.untyped_storage().data_ptr())
        owned[name] = copy
    return owned


def _put_tensors(node: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(node, dict):
        if node.keys() == {_TENSOR}:
            return tensors[node[_TENSOR]]
        return {key: _put_tensors(child, tensors) for key, child in node.items()}
    if isinstance(node, list):
        return [_put_tensors(child, tensors) for child in node]
    return node


def _checksum(plain: str, tensors: Mapping[str, Tensor]) -> str:
    digest = xxhash.xxh3_128(plain.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return str(digest.hexdigest())


def _sync_folder(folder: Path) -> None:
    """Make the new name itself durable, where the system can."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _discard(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError:
        return  # the error that brought us here is the one to tell
