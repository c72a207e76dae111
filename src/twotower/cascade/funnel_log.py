"""The whole funnel of served requests, written down beside the serving, for training to read.

A process that is killed loses what stands in its buffer, and nothing else: files are complete, or not there.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from pathlib import Path
from threading import Condition, Lock, Thread
from types import TracebackType
from typing import Self

import polars as pl

from twotower.cascade.funnel_rows import Ids, Served, funnel_rows, scalars
from twotower.cascade.trace import Trace
from twotower.data.funnel_part import FunnelAbout, write_part
from twotower.errors import ConfigError, StorageError

RETRY_SECONDS = 5.0
"""Between two attempts at a disk that refuses."""


class FunnelLog:
    """Takes the traces of answered requests; a thread of its own turns them into files.

    `record` costs the request a hash and an append. The thread writes when ``buffer`` candidates have come
    together or ``seconds`` have passed, one file each time. A disk that refuses is tried again, while the
    buffer grows to twice its size; requests that then find no place are counted in ``dropped``, for serving
    must not wait for its log. Several processes may log into one directory; each opens its log after it has
    been forked, for threads do not survive that.

    Parameters
    ----------
    directory
        Made if it is not there. Read it with `twotower.data.funnel.Funnel`.
    about
        The stages, names and rates; it is written into every file.
    items
        Item ids by key, of the bundle that serves.
    buffer
        Candidates kept in memory, those of all stages counted; some 10 bytes for each pair field of each.
    seconds
        How old what is in memory may become: what a killed process loses at most.
    """

    def __init__(
        self,
        directory: str | Path,
        about: FunnelAbout,
        items: Ids,
        *,
        buffer: int = 500_000,
        seconds: float = 60.0,
    ) -> None:
        if buffer < 1 or not seconds > 0:
            raise ConfigError(f"buffer must be at least 1 and seconds above 0, found {buffer}, {seconds}")
        self.directory, self.about, self.items = Path(directory), about, items
        self.buffer, self.seconds = buffer, seconds
        self.dropped = 0
        """Sampled requests that were not written."""
        self.error: Exception | None = None
        """Why the last write failed that did."""
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"{directory}: could not be made ({error.strerror or error})") from error
        self._writer, self._files = secrets.token_hex(4), 0  # no other process writes the same names
        self._served: list[Served] = []
        self._slots, self._closed = 0, False
        self._changed, self._writing = Condition(), Lock()
        self._thread = Thread(target=self._write_in_time, name="funnel log", daemon=True)
        self._thread.start()

    def record(
        self,
        trace: Trace,
        *,
        requests: Sequence[str],
        queries: Sequence[int | str | None],
        times: Sequence[int],
        shown: int | None = None,
    ) -> int:
        """Log the sampled ones among the Q requests of a trace; returns how many.

        Parameters
        ----------
        requests
            An id for each, such as ``uuid.uuid4().hex``, that the events of what was shown can name.
        queries
            Ids, None for somebody unknown.
        times
            Seconds since 1970.
        shown
            How many of the last stage's list were shown; None for all of it.

        Raises
        ------
        ConfigError
            The trace is of other stages, or there is not one id, query and time per request.
        """
        stages, Q = tuple(step.stage for step in trace.steps), len(trace.steps[-1].output.keys)
        if stages != self.about.stages:
            raise ConfigError(f"a log of the stages {self.about.stages} got a trace of {stages}")
        if {len(requests), len(queries), len(times)} != {Q}:
            raise ConfigError(
                f"{Q} requests were answered, but there are {len(requests)} ids of them, {len(queries)} of "
                f"queries and {len(times)} times"
            )
        taken = self.about.sampling.takes(pl.Series(requests, dtype=pl.String)).nonzero()[0].tolist()
        if not taken:
            return 0
        served = Served(
            [requests[row] for row in taken],
            [queries[row] for row in taken],
            [int(times[row]) for row in taken],
            trace.degraded,
            shown,
            tuple(scalars(step.output, taken) for step in trace.steps),
        )
        with self._changed:
            if self._closed or (self._slots and self._slots + served.slots > 2 * self.buffer):
                self.dropped += len(taken)
                return 0
            self._served.append(served)
            self._slots += served.slots
            if self._slots >= self.buffer:
                self._changed.notify_all()
        return len(taken)

    def flush(self) -> None:
        """Write what is in memory now.

        Raises
        ------
        StorageError
            The disk refuses; the requests stay in memory.
        """
        with self._writing:
            with self._changed:
                taken, self._served = self._served, []
            try:
                self._write(taken)
            except StorageError:
                with self._changed:
                    self._served = taken + self._served
                raise
            except BaseException:
                self._forget(taken)
                with self._changed:
                    self.dropped += sum(len(each.requests) for each in taken)
                raise
            self._forget(taken)

    def _write(self, served: Sequence[Served]) -> None:
        rows = funnel_rows(served, self.about, self.items) if served else None
        if rows is not None and len(rows):
            self._files += 1
            stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
            name = f"{stamp}-{self._writer}-{self._files:06d}.parquet"
            write_part(self.directory / name, rows, self.about)

    def _forget(self, served: Sequence[Served]) -> None:
        """Their place is free again: not before they are written, so that memory stays bounded."""
        with self._changed:
            self._slots -= sum(each.slots for each in served)

    def close(self) -> None:
        """Write the rest and stop. Requests recorded later are dropped, and counted.

        Raises
        ------
        StorageError
            The disk refuses; another call tries again.
        """
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()
        self.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.close()

    def _write_in_time(self) -> None:
        failed = False
        while True:
            with self._changed:
                if failed:
                    self._changed.wait_for(lambda: self._closed, RETRY_SECONDS)
                else:
                    self._changed.wait_for(lambda: self._closed or self._slots >= self.buffer, self.seconds)
                if self._closed:
                    return
            try:
                self.flush()
                failed = False
            except Exception as error:  # serving goes on: it is shown as `error`, and what is lost is counted
                self.error, failed = error, True

    def __repr__(self) -> str:
        return f"FunnelLog({self.directory}, {' >> '.join(self.about.stages)})"
