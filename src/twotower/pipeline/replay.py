"""Samples of a whole funnel: our own stages asked again about the past, or a log of somebody's.

Letters: R requests, K candidates of each.
"""

from __future__ import annotations

from dataclasses import replace

import polars as pl
import torch
from torch import Tensor

from twotower.cascade.cascade import Cascade
from twotower.cascade.stage import Request, Stage
from twotower.data.full_stage import FullStage, Role
from twotower.data.funnel import Funnel, FunnelSamples
from twotower.data.history import History
from twotower.data.interactions import Interactions
from twotower.errors import ConfigError, DataError
from twotower.evaluate.experiment import joined
from twotower.pipeline.prepared import Prepared
from twotower.pipeline.served import scores_by
from twotower.train.lists import LoggedFunnel
from twotower.types import NO_ITEM, Candidates, Ragged


def replay(
    prepared: Prepared,
    before: Cascade,
    teacher: Stage | None = None,
    *,
    requests: int = 1,
    positives: int = 5,
    ranked: int = 20,
    preranked: int = 100,
    requests_at_once: int = 256,
) -> FullStage:
    """Ask the stages what they would have served at past moments of the training queries.

    A moment lies just before ``positives`` of a query's training positives: the last ones, then those before
    them, ``requests`` times as far as they reach. What the query did from then to the next moment is exposed.
    The history ends at the moment, what was seen before is not served, and nothing of the held-out parts is
    touched. The others are what ``before`` serves, in the teacher's order: its first ``ranked`` candidates
    are RANKED, up to ``preranked`` PRERANKED, the rest RETRIEVED; without a teacher all are RETRIEVED.

    What the query took after the next moment, up to the end of training, is no negative: it is taken out of
    the served (their places stay) and is not drawn at random either, unless it was exposed here too.

    The stages have learnt from these very events, so they serve them more readily than they will new ones.

    Raises
    ------
    DataError
        No query has two positive training events.
    """
    moments, until = _moments(prepared, requests, positives)
    request, positions = _request(prepared, moments)
    parts = []
    for start in range(0, len(moments), requests_at_once):
        rows = request.rows(start, start + requests_at_once)
        served, _ = before(rows)
        if teacher is not None:
            served = teacher.run(rows, served, served.keys.shape[1])
        parts.append(Candidates(served.keys, served.scores))  # without pairs: hundreds of bytes a candidate
    served = joined(parts)
    shown, later = _Shown.between(prepared, moments, until), _Shown.after(prepared, moments, until)
    place = torch.arange(served.keys.shape[1])
    by_place = torch.where(place < ranked, Role.RANKED, Role.RETRIEVED)
    by_place = torch.where((place >= ranked) & (place < preranked), Role.PRERANKED, by_place)
    if teacher is None:
        by_place = torch.full_like(by_place, Role.RETRIEVED)
    gain, hit = shown.gains_of(served.keys)
    exposed = torch.where(gain > 0, int(Role.EXPOSED_POSITIVE), int(Role.EXPOSED_NEGATIVE))
    roles = torch.where(hit, exposed, by_place).masked_fill(~served.mask, -1)
    scores = served.scores if teacher is not None else torch.full_like(served.scores, torch.nan)
    more, more_gain = shown.without(served.keys)
    more_roles = torch.where(more_gain > 0, int(Role.EXPOSED_POSITIVE), int(Role.EXPOSED_NEGATIVE))
    samples = FullStage(
        moments.query_keys,
        torch.cat([served.keys, more], 1),
        torch.cat([roles, more_roles.masked_fill(more == NO_ITEM, -1)], 1).to(torch.int8),
        torch.cat([gain, more_gain], 1),
        torch.cat([scores.masked_fill(~served.mask, torch.nan), torch.full_like(more_gain, torch.nan)], 1),
        positions,
        moments.times,
    )
    return _sparing(samples, later)


def _sparing(samples: FullStage, later: _Shown) -> FullStage:
    """Without what the queries take ``later``, for that is no negative; what was exposed stays."""
    kept = (samples.roles == Role.EXPOSED_POSITIVE) | (samples.roles == Role.EXPOSED_NEGATIVE)
    gone = ~kept & (later.gains_of(samples.items)[0] > 0)
    return replace(
        samples,
        items=samples.items.masked_fill(gone, NO_ITEM),
        roles=samples.roles.masked_fill(gone, -1),
        teacher=samples.teacher.masked_fill(gone, torch.nan),
        barred=later.liked(),
    )


def logged(prepared: Prepared, log: pl.DataFrame, teacher: Stage | None = None) -> FullStage:
    """The training part of a logged funnel, such as `twotower.data.synthetic.Synthetic.stage_log`.

    Columns: request, the ids and the time of the events, ``stage`` and ``score``; or those of
    `twotower.data.funnel.Funnel.full_stage`, which has joined the labels. Otherwise an exposed row gets the
    label of its event. The log's own ranker is the teacher of what reached it, unless another is given: that
    one scores everything, and can read no pair fields. What the query takes after a request, up to the end of
    training, is no negative of it, unless it was exposed there.

    Raises
    ------
    ConfigError
        The data is not split by time: a log of later requests would tell of the held-out parts.
    """
    schema, train = prepared.dataset.schema, prepared.split.train
    if prepared.split.config.kind != "time" or schema.time is None:
        raise ConfigError("full-stage samples from a log need split: {kind: time}, to be cut where it is")
    log = log.filter(pl.col(schema.time) <= train[schema.time].max())
    if "gain" not in log.columns:
        on = [schema.query, schema.item, schema.time]
        log = log.join(_gains(prepared, on), on=on, how="left", maintain_order="left")
        log = log.filter((pl.col("stage") != "exposed") | pl.col("gain").is_not_null())
    reached = pl.when(pl.col("stage") != "retrieved").then(pl.col("score"))
    scored = pl.col("teacher") if "teacher" in log.columns else reached
    first = log.group_by("request", maintain_order=True).first()
    keys = torch.from_numpy(prepared.dataset.query_catalogue.keys(first[schema.query]).copy())
    times = torch.from_numpy(first[schema.time].to_numpy().copy())
    rows = torch.full_like(keys, -1)  # before all events of its own time
    moments = Interactions(keys, rows, times, rows)
    request, positions = _request(prepared, moments)
    later = _Shown.after(prepared, moments, prepared.history(train, "all").position_of(moments))
    samples = FullStage.of_log(
        log.with_columns(teacher=scored),
        prepared.dataset.query_catalogue,
        prepared.dataset.item_catalogue,
        positions,
        times,
    )
    samples = _sparing(samples, later)
    return samples if teacher is None else samples.taught_by(scores_by(teacher, request, samples.items))


def funnel_log(prepared: Prepared, about: LoggedFunnel) -> FunnelSamples:
    """What was served and logged up to the end of training, with the gains of training events."""
    schema, dataset = prepared.dataset.schema, prepared.dataset
    assert schema.time is not None
    events = _gains(prepared, [schema.query, schema.item, schema.time])
    found = Funnel(about.directory).full_stage(
        events,
        about.ranker,
        queries=dataset.query_catalogue,
        items=dataset.item_catalogue,
        within_s=about.within_s,
    )
    if found.rows.is_empty():
        raise DataError(
            f"the log holds no request to learn from; left out: {'; '.join(found.notes) or 'nothing'}",
            file=about.directory,
            remedy="log requests before the end of the training part, or make within_s shorter",
        )
    return found


def _gains(prepared: Prepared, on: list[str]) -> pl.DataFrame:
    """Query, item and time of each training event, and what it brought."""
    train = prepared.split.train
    events = train.select(on).with_columns(gain=pl.Series(prepared.values(train).numpy()))
    return events.group_by(on, maintain_order=True).agg(pl.col("gain").max())


def _moments(prepared: Prepared, requests: int, positives: int) -> tuple[Interactions, Tensor]:
    """The first event after each moment, and how many events of its query come before the next moment.

    A recipe without a history knows no past: all events of a query answer one request, made before them.
    """
    history = prepared.history(prepared.split.train, "positive")
    least = 1  # a moment without any past teaches nothing
    if prepared.recipe.history is None:
        requests, positives, least = 1, max(1, int(history.lengths.max())), 0
    keys, starts, stops = [], [], []
    for number in range(requests):
        stop = history.lengths - number * positives
        start = (stop - positives).clamp(min=least)
        keep = (start < stop).nonzero()[:, 0]
        keys.append(keep)
        starts.append(start[keep])
        stops.append(stop[keep])
    key, start, stop = torch.cat(keys), torch.cat(starts), torch.cat(stops)
    if not len(key):
        raise DataError(
            f"no query has {1 + least} positive training events to learn from",
            remedy="choose another split or rule",
        )

    def events_at(place: Tensor) -> Interactions:
        at = (history.offsets[key] + place).clamp(max=len(history) - 1)
        return Interactions(key, history.items[at], history.times[at], history.rows[at])

    everything = prepared.history(prepared.split.train, "all")
    until = everything.position_of(events_at(stop))
    last = stop == history.lengths[key]
    return events_at(start), torch.where(last, everything.lengths[key], until)


def _request(prepared: Prepared, moments: Interactions) -> tuple[Request, Tensor | None]:
    """What would have been asked at these moments, and the positions that cut the history column."""
    train, keys = prepared.split.train, moments.query_keys
    query, positions = prepared.known_columns(keys), None
    past = prepared.past(train)
    if past is not None:
        positions = past.history.position_of(moments, strict_time=prepared.strict_time)
        query = past.join(query, keys, positions, moments.times)
    history = prepared.history(train, "positive")
    seen = prepared.history(train, prepared.recipe.evaluate.seen)
    return Request(query, _before(history, moments), _before(seen, moments)), positions


def _before(history: History, moments: Interactions) -> Ragged:
    """Item keys of each query's events before its moment, oldest first."""
    start = history.offsets[moments.query_keys]
    index, offsets = _stretches(start, history.position_of(moments))
    return Ragged(history.items[index], offsets)


def _stretches(start: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Places start, start + 1, ... of each row, one row after the other, and the rows' offsets."""
    offsets = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
    within = torch.arange(int(offsets[-1])) - torch.repeat_interleave(offsets[:-1], lengths)
    return torch.repeat_interleave(start, lengths) + within, offsets


class _Shown:
    """Each request's items of a stretch of events, each once, with the best gain it brought."""

    def __init__(self, n_requests: int, n_items: int, row: Tensor, items: Tensor, gains: Tensor) -> None:
        self.n_requests, self.stride = n_requests, n_items
        self.code, inverse = torch.unique(row * n_items + items, return_inverse=True)
        self.gain = torch.zeros(len(self.code)).scatter_reduce_(0, inverse, gains, "amax")

    @classmethod
    def between(cls, prepared: Prepared, moments: Interactions, until: Tensor) -> _Shown:
        """All training events from each moment on, up to ``until`` (R,) events of the query."""
        train = prepared.split.train
        begin = prepared.history(train, "all").position_of(moments)
        return cls._of(prepared, moments.query_keys, begin, until, prepared.values(train))

    @classmethod
    def after(cls, prepared: Prepared, moments: Interactions, until: Tensor) -> _Shown:
        """All training events behind the first ``until`` (R,) of the query."""
        train, keys = prepared.split.train, moments.query_keys
        end = prepared.history(train, "all").lengths[keys]
        positive = prepared.interactions(train).labels  # a value may be 0 for what moments count as positive
        assert positive is not None
        return cls._of(prepared, keys, until, end, torch.maximum(prepared.values(train), positive))

    @classmethod
    def _of(cls, prepared: Prepared, keys: Tensor, begin: Tensor, end: Tensor, gains: Tensor) -> _Shown:
        """Events ``begin`` to ``end`` (R,) of the queries ``keys`` (R,); ``gains`` of all training events."""
        train = prepared.split.train
        history, events = prepared.history(train, "all"), prepared.interactions(train)
        index, offsets = _stretches(history.offsets[keys] + begin, end - begin)
        rows, order = events.rows.sort()
        place = order[torch.searchsorted(rows, history.rows[index])]
        row = torch.repeat_interleave(torch.arange(len(keys)), offsets.diff())
        return cls(len(keys), prepared.n_items, row, history.items[index], gains[place])

    def gains_of(self, keys: Tensor) -> tuple[Tensor, Tensor]:
        """(R, K) gains of candidates, 0 for those not among these, and which of them are."""
        if not len(self.code):
            return torch.zeros(keys.shape), torch.zeros(keys.shape, dtype=torch.bool)
        code = self._code(keys)
        at = torch.searchsorted(self.code, code).clamp(max=len(self.code) - 1)
        hit = (self.code[at] == code) & (keys != NO_ITEM)
        return self.gain[at].masked_fill(~hit, 0.0), hit

    def without(self, keys: Tensor) -> tuple[Tensor, Tensor]:
        """(R, more) exposed items that are not among the candidates, -1 padded, and their gains."""
        return self._rows(~torch.isin(self.code, self._code(keys)[keys != NO_ITEM]))

    def liked(self) -> Tensor:
        """(R, E) items that brought a gain, -1 padded."""
        return self._rows(self.gain > 0)[0]

    def _rows(self, which: Tensor) -> tuple[Tensor, Tensor]:
        counts = torch.bincount(self.code[which] // self.stride, minlength=self.n_requests)
        offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        items = Ragged(self.code[which] % self.stride, offsets).padded(NO_ITEM)
        return items, Ragged(self.gain[which], offsets).padded()

    def _code(self, keys: Tensor) -> Tensor:
        return torch.arange(self.n_requests)[:, None] * self.stride + keys
