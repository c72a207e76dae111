"""Golden answers: requests as they come, and what the whole cascade answered when it was packed.

Where `twotower.data.golden` holds the encoding of single columns, this holds a service: from raw features and
item ids through the request's tensors to the keys and scores of every stage. N requests, K candidates.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from twotower.errors import ConfigError, DataError, MismatchError, StorageError
from twotower.evaluate.experiment import joined
from twotower.pipeline.answerer import Answerer
from twotower.pipeline.encoded import Encoded
from twotower.types import NO_ITEM, Batch, Candidates

RELATIVE, ABSOLUTE = 1e-4, 1e-5
"""By how much scores may differ: another processor adds in another order."""


@dataclass(frozen=True)
class GoldenAnswers:
    """Requests of strangers, described by features and histories, so that no table of queries is needed."""

    requests: (
        pl.DataFrame
    )  # (N) query: struct of raw columns, history: item ids, oldest first, time: asked at
    tensors: Batch  # "request/<column>" (N, ...), "keys/<stage>" and "scores/<stage>" (N, K)

    @classmethod
    def take(cls, answerer: Answerer, n: int = 8, seed: int = 0) -> GoldenAnswers:
        """Ask for ``n`` queries of the data (fewer when there are fewer), and for one that is all missing."""
        requests = _requests(answerer.prepared, n, np.random.default_rng(seed))
        return cls(requests, _answers(answerer, requests))

    def replay(self, answerer: Answerer) -> None:
        """Ask again.

        Raises
        ------
        MismatchError
            A request is encoded otherwise, or a stage answers otherwise: the first one is named. Items whose
            scores are equal within the tolerance may have changed places.
        """
        try:
            again = _answers(answerer, self.requests)
        except (ConfigError, DataError) as error:
            raise MismatchError(f"golden answers: the requests cannot be answered: {error}") from error
        if again.keys() != self.tensors.keys():
            raise MismatchError(
                f"golden answers hold {sorted(self.tensors)}, asked again there are {sorted(again)}"
            )
        for name, stored in self.tensors.items():
            side, _, what = name.partition("/")
            if side == "request":
                _same(f"the request's {what}", stored, again[name])
            elif side == "scores":
                _same(f"the scores of {what}", stored, again[name])
                keys = f"keys/{what}"
                _same_order(what, self.tensors[keys], again[keys], stored)

    def save(self, directory: Path) -> None:
        """Write the requests as Parquet and the tensors as safetensors."""
        try:
            directory.mkdir(parents=True, exist_ok=True)
            self.requests.write_parquet(directory / "requests.parquet")
            tensors = {name: tensor.contiguous() for name, tensor in self.tensors.items()}
            save_file(tensors, directory / "answers.safetensors")
        except (OSError, SafetensorError, pl.exceptions.PolarsError) as error:
            raise StorageError(f"{directory}: golden answers not written: {error}") from error

    @classmethod
    def load(cls, directory: Path) -> GoldenAnswers:
        """Read what `save` wrote; a missing or cut file is a `StorageError`."""
        try:
            requests = pl.read_parquet(directory / "requests.parquet", glob=False)
            return cls(requests, Batch(load_file(directory / "answers.safetensors")))
        except (OSError, SafetensorError, pl.exceptions.PolarsError) as error:
            raise StorageError(f"{directory}: no readable golden answers: {error}") from error


def _requests(known: Encoded, n: int, generator: np.random.Generator) -> pl.DataFrame:
    dataset, schema = known.dataset, known.dataset.schema
    chosen = generator.choice(len(dataset.queries), size=min(n, len(dataset.queries)), replace=False)
    queries = dataset.queries[np.sort(chosen)]
    own = dataset.events.filter(pl.col(schema.query).is_in(queries[schema.query].implode()))
    lists = known.history(own, "positive").lists().take(torch.from_numpy(np.sort(chosen)))
    length = known.recipe.history.max_length if known.recipe.history is not None else 10
    ids = [dataset.item_catalogue.ids(row[-length:].numpy()).to_list() for row in lists]
    histories = pl.Series("history", [[], *ids], dtype=pl.List(dataset.items[schema.item].dtype))
    # asked at the end of the data and never now: what rules say of an item's age must not change by itself
    end = None if schema.time is None else dataset.events[schema.time].cast(pl.Int64).max()
    times = pl.Series("time", [end] * len(histories), dtype=pl.Int64)
    return pl.DataFrame([pl.concat([queries.clear(1), queries]).to_struct("query"), histories, times])


def _answers(answerer: Answerer, requests: pl.DataFrame) -> Batch:
    """One request at a time, as a server is asked."""
    timeless = answerer.cascade.within(None)  # an answer cut short by a slow machine is no golden one
    encoded: list[Batch] = []
    found: dict[str, list[Candidates]] = {}
    for query, history, time in requests.iter_rows():
        request, _ = answerer.request(features=query, history=history)
        encoded.append(request.query)
        asked = replace(request, time=None if time is None else torch.tensor([time]))
        for step in timeless(asked)[1].steps:
            found.setdefault(step.stage, []).append(Candidates(step.output.keys, step.output.scores))
    tensors = Batch((f"request/{name}", torch.cat([one[name] for one in encoded])) for name in encoded[0])
    for stage, parts in found.items():
        answer = joined(parts)
        tensors |= {f"keys/{stage}": answer.keys, f"scores/{stage}": answer.scores}
    return Batch(tensors)


def _same(what: str, stored: Tensor, again: Tensor) -> None:
    if stored.shape != again.shape or stored.dtype != again.dtype:
        raise MismatchError(
            f"golden answers: {what} were {tuple(stored.shape)} {stored.dtype}, "
            f"are {tuple(again.shape)} {again.dtype}"
        )
    wrong = (~_close(stored, again).reshape(len(stored), -1).all(1)).nonzero()
    if len(wrong):
        row = int(wrong[0])
        raise MismatchError(
            f"golden answers: {what} of request {row} were {_few(stored[row])}, are {_few(again[row])}; "
            "a part of the bundle is not the one it was built with, or a library computes otherwise"
        )


def _same_order(stage: str, stored: Tensor, again: Tensor, scores: Tensor) -> None:
    """Equal keys, but for places whose score is also the next one's or the one's before, or is the last."""
    tied = torch.zeros_like(stored, dtype=torch.bool)
    if stored.shape[1] > 1:
        beside = _close(scores[:, 1:], scores[:, :-1])
        tied[:, 1:] |= beside
        tied[:, :-1] |= beside
    tied[:, -1:] = stored[:, -1:] != NO_ITEM
    wrong = ((stored != again) & ~tied).any(1).nonzero()
    if len(wrong):
        row = int(wrong[0])
        raise MismatchError(
            f"golden answers: {stage} answered request {row} with the items {_few(stored[row])} (keys), "
            f"answers with {_few(again[row])}; a part of the bundle is not the one it was built with"
        )


def _close(a: Tensor, b: Tensor) -> Tensor:
    if not a.is_floating_point():
        return a == b
    return torch.isclose(a, b, rtol=RELATIVE, atol=ABSOLUTE, equal_nan=True)


def _few(values: Tensor) -> str:
    shown = [round(value, 6) for value in values.flatten()[:8].tolist()]
    return f"{shown}{' ...' if values.numel() > 8 else ''}"
