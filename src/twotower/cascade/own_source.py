"""A source of candidates that a user wrote: what it promises, how it is found, and the stage around it."""

from __future__ import annotations

import importlib
import inspect
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import safetensors
import torch
from safetensors.torch import save
from torch import Tensor

from twotower.cascade.sources import presented
from twotower.cascade.stage import Request, Stage, no_candidates, rank_pair
from twotower.config import nearest
from twotower.data.atomic import replacing
from twotower.data.dataset import Dataset
from twotower.errors import ConfigError, DataError, StorageError
from twotower.index.filtered import search_wider
from twotower.types import NO_ITEM, Candidates, Ragged

PARTS = ("fit", "search", "state", "restore")


class OwnSource(Protocol):
    """What a recipe's own source promises; it need not inherit from anything.

    ``sources: [{name: trending, source: "our_shop.sources:Trending", options: {days: 3}, k: 100}]`` makes
    ``Trending(days=3)`` and fits it once; later it is made again with the same options, and given its state.
    Options are plain data. That the code changed is not noticed, that an option changed is.
    """

    def fit(self, dataset: Dataset, positives: Ragged) -> object:
        """Learn from the training part.

        Parameters
        ----------
        dataset
            ``events`` are the training ones and no others; the row number in ``items`` is an item's key.
        positives
            Item keys of each query's positive events, oldest first; row = query key.
        """
        ...

    def search(self, request: Request, k: int) -> Candidates:
        """Up to k items for each query: keys (Q, any), higher scores first wanted; `NO_ITEM` where none.

        In any order, and whatever may be shown: the stage around it sorts, drops what an item says twice,
        what the request excludes and what it does not allow, and asks for more where too few are left.
        Fewer than k say that there are no more.
        """
        ...

    def state(self) -> Mapping[str, Any]:
        """What was learnt: tensors, and what JSON can hold."""
        ...

    def restore(self, state: Mapping[str, Any]) -> object:
        """Take up what `state` gave, on another machine, where no events are."""
        ...


def source_class(path: str) -> type[OwnSource]:
    """The class behind ``package.module:Class``; the module is imported.

    Raises
    ------
    ConfigError
        There is no such module or class, or the class lacks a method of `OwnSource`.
    """
    module, colon, name = path.partition(":")
    if not (module and colon and name):
        raise ConfigError(f"no source {path!r}; expected package.module:Class")
    try:
        place = importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(
            f"cannot import the source {path!r}: {error}; is the folder of {module.partition('.')[0]!r} "
            "on the PYTHONPATH?"
        ) from error
    found = getattr(place, name, None)
    if not inspect.isclass(found):
        classes = [n for n, value in vars(place).items() if inspect.isclass(value)]
        raise ConfigError(f"{module} has no class {name!r}{nearest(name, classes)}")
    missing = [part for part in PARTS if not callable(getattr(found, part, None))]
    if missing:
        raise ConfigError(
            f"the source {path!r} has no {', '.join(missing)}; what a source promises is said by "
            "twotower.cascade.own_source.OwnSource"
        )
    source: type[OwnSource] = getattr(place, name)
    return source


def make_source(path: str, options: Mapping[str, Any]) -> OwnSource:
    """A source that has learnt nothing yet."""
    check_source(path, options)
    return source_class(path)(**options)


def check_source(path: str, options: Mapping[str, Any]) -> None:
    """A `ConfigError` for a class that is not there or no source, or options that it does not take."""
    try:
        signature = inspect.signature(source_class(path))
    except ValueError:  # no signature to be had: it will say itself what is wrong
        return
    known = signature.parameters
    if not any(each.kind is inspect.Parameter.VAR_KEYWORD for each in known.values()):
        for option in options:
            if option not in known:
                raise ConfigError(f"source {path}: unknown option {option!r}{nearest(option, known)}")
    try:
        signature.bind(**options)
    except TypeError as error:
        raise ConfigError(f"source {path}: {error}; options: {dict(options)}") from None


def save_source(source: OwnSource, path: Path) -> None:
    """One safetensors file; what is no tensor stands as JSON in its header.

    Raises
    ------
    ConfigError
        The state holds something that is neither.
    StorageError
        The file cannot be written.
    """
    state = dict(source.state())
    tensors = {n: v.detach().cpu().contiguous() for n, v in state.items() if isinstance(v, Tensor)}
    try:
        plain = json.dumps({name: value for name, value in state.items() if name not in tensors})
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"{type(source).__name__}.state(): {error}; give tensors, or what JSON can hold"
        ) from None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"{path.parent}: could not be made: {error}") from error
    with replacing(path) as draft:
        draft.write_bytes(save(tensors, {"plain": plain}))


def load_source(source: OwnSource, path: Path) -> float:
    """Give a fresh source the state that `save_source` wrote; returns its bytes of tensors."""
    try:
        with safetensors.safe_open(path, "pt") as file:
            names = file.keys()
            tensors = {name: file.get_tensor(name) for name in names}
            plain = json.loads((file.metadata() or {})["plain"])
    except (OSError, ValueError, KeyError, safetensors.SafetensorError) as error:
        raise StorageError(f"{path}: no readable source ({error}); train the run again") from error
    source.restore(plain | tensors)
    return float(sum(tensor.nbytes for tensor in tensors.values()))


class RetrieveOwn(Stage):
    """The stage around a user's own source; makes its answers as clean as every other's.

    Parameters
    ----------
    n_items
        Size of the catalogue the source was fitted on; it answers with no other keys.

    Raises
    ------
    ConfigError
        What `search` returned are no candidates of these queries.
    DataError
        A key outside the catalogue, or a score that is NaN or infinite.
    """

    def __init__(
        self,
        source: OwnSource,
        n_items: int,
        k: int = 500,
        name: str = "own",
        *,
        bytes_per_item: float = 0.0,
    ) -> None:
        super().__init__(name, k)
        self.source, self.n_items, self._bytes = source, n_items, bytes_per_item

    def run(self, request: Request, candidates: Candidates | None, k: int) -> Candidates:
        if not k or not len(request):
            return rank_pair(self.name, no_candidates(len(request)))
        if request.allow is None:
            return rank_pair(self.name, self._search(request, k))

        def search(rows: Tensor, n: int) -> Candidates:
            return self._search(_taken(request, rows), n)

        return rank_pair(self.name, search_wider(search, len(request), k, request.allow))

    def _search(self, request: Request, k: int) -> Candidates:
        """The k best, each once, but those the request excludes.

        A source may say items twice: while a query is short of k, and was given as many as were asked for,
        it is asked for twice as many.
        """
        spare = 0 if request.exclude is None else int(request.exclude.lengths.max())
        asked, before = min(k + spare, self.n_items), -1
        while True:
            found = self._checked(self.source.search(request, asked), len(request)).sorted()
            best = presented(replace(request, allow=None), found.keys, found.scores, k)
            short = (best.counts < min(k, self.n_items)) & (found.counts >= asked)
            left = int(best.counts.sum())
            # one that repeats itself for ever has nothing new for the whole catalogue and as much again
            if not short.any() or (asked >= self.n_items and left == before):
                return best
            asked, before = 2 * asked, left

    def _checked(self, found: object, queries: int) -> Candidates:
        who = f"stage {self.name!r}: {type(self.source).__name__}.search"
        if not isinstance(found, Candidates):
            raise ConfigError(f"{who} returned {type(found).__name__}, expected twotower.types.Candidates")
        if len(found.keys) != queries or found.keys.dtype != torch.int64:
            raise ConfigError(
                f"{who} returned keys {tuple(found.keys.shape)} {found.keys.dtype} for {queries} queries; "
                f"expected ({queries}, K) int64"
            )
        if bool(((found.keys < NO_ITEM) | (found.keys >= self.n_items)).any()):
            low, high = int(found.keys.min()), int(found.keys.max())
            raise DataError(
                f"{who} returned keys from {low} to {high}, the catalogue has {self.n_items} items",
                remedy="answer with row numbers of the item table, not with ids",
            )
        if not bool(found.scores[found.mask].isfinite().all()):
            raise DataError(f"{who}: a score is NaN or infinite", remedy="leave the item out")
        return found

    @property
    def bytes_per_item(self) -> float:
        return self._bytes


def _taken(request: Request, rows: Tensor) -> Request:
    """Chosen queries of a request."""
    return replace(
        request,
        query=request.query.take(rows),
        history=None if request.history is None else request.history.take(rows),
        exclude=None if request.exclude is None else request.exclude.take(rows),
        allow=None,
        time=None if request.time is None else request.time[rows],
    )
