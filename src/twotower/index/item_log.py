"""The durable log of items that came, changed and went after a bundle was built.

An SQLite file of the standard library, in write-ahead mode with ``synchronous=FULL``: every entry is on the
disk before it is acknowledged; a torn tail is recognised by SQLite's checksums and cut off; readers and the
writer do not wait for each other, also from other processes. A format of our own would have to prove all of
this again.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from threading import RLock
from typing import Any, NamedTuple

from twotower.errors import DataError, MismatchError, StorageError

FORMAT = 1
WAIT_SECONDS = 10.0
"""How long one process waits for another to finish writing."""


class Entry(NamedTuple):
    """One acknowledged change of one item; ``features`` of None mean that it was deleted."""

    id: int | str
    key: int
    features: dict[str, Any] | None  # as the item was given, without its id


class ItemLog:
    """Numbered entries, only ever appended; what holds for an item is its last entry.

    A log belongs to what produced the tables and indexes it goes on from, and is refused by any other.

    >>> import tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> log = ItemLog(f"{folder.name}/items.log", produced_by="digest of the bundle")
    >>> log.append([Entry("a", 7, {"year": 1990}), Entry("b", 8, {})], after=0)
    2
    >>> log.append([Entry("a", 7, None)], after=0) is None  # the log has gone on: look again
    True
    >>> log.append([Entry("a", 7, None)], after=2), log.changes(after=0)
    (3, [(2, Entry(id='b', key=8, features={})), (3, Entry(id='a', key=7, features=None))])
    >>> log.close(); folder.cleanup()
    """

    def __init__(self, path: str | Path, produced_by: str) -> None:
        """Open a log, or begin one.

        Raises
        ------
        MismatchError
            The log goes on from something else.
        StorageError
            It is damaged, of another format, or cannot be written.
        """
        self.path, self.produced_by = Path(path), produced_by
        self._lock = RLock()
        with self._errors():
            self._db = sqlite3.connect(
                self.path, timeout=WAIT_SECONDS, isolation_level=None, check_same_thread=False
            )
            try:
                self._open()
            except BaseException:
                self._db.close()
                raise

    def _open(self) -> None:
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=FULL")
        self._db.execute("PRAGMA fullfsync=ON")  # macOS: fsync alone does not reach the disk
        with self._transaction():
            self._db.execute("CREATE TABLE IF NOT EXISTS about (name TEXT PRIMARY KEY, value)")
            self._db.execute(
                "CREATE TABLE IF NOT EXISTS entry "  # an id without a type stays the number or string it is
                "(number INTEGER PRIMARY KEY, id NOT NULL, key INTEGER NOT NULL, features TEXT)"
            )
            self._db.execute("CREATE INDEX IF NOT EXISTS entry_of_id ON entry (id, number)")
            about = [("format", FORMAT), ("produced_by", self.produced_by)]
            self._db.executemany("INSERT OR IGNORE INTO about VALUES (?, ?)", about)
        found = dict(self._db.execute("SELECT name, value FROM about"))
        if found["format"] != FORMAT:
            raise StorageError(f"{self.path}: format {found['format']}, expected {FORMAT}; use that version")
        if found["produced_by"] != self.produced_by:
            raise MismatchError(
                f"{self.path}: this log goes on from {found['produced_by'][:12]}, expected "
                f"{self.produced_by[:12]}; begin another beside it for the present bundle"
            )
        damage = [line for (line,) in self._db.execute("PRAGMA quick_check(1)") if line != "ok"]
        if damage:
            raise StorageError(f"{self.path}: is damaged ({damage[0]}); restore it from a copy")

    def append(self, entries: Sequence[Entry], after: int) -> int | None:
        """Write all entries or none, on the disk when this returns; the number of the last one.

        None, and nothing written, if entry ``after`` is no longer the last: somebody else wrote meanwhile.

        Raises
        ------
        DataError
            Features that JSON cannot hold.
        StorageError
            The disk is full or refuses; the log is as it was.
        """
        rows = [(entry.id, entry.key, _text(entry)) for entry in entries]
        with self._errors(), self._transaction():
            if self.last != after:
                return None
            numbered = ((after + place, *row) for place, row in enumerate(rows, 1))
            self._db.executemany("INSERT INTO entry VALUES (?, ?, ?, ?)", numbered)
        return after + len(rows)

    @property
    def last(self) -> int:
        """Number of the last entry, 0 of an empty log."""
        with self._errors():
            (last,) = self._db.execute("SELECT coalesce(max(number), 0) FROM entry").fetchone()
        return int(last)

    def changes(self, after: int) -> list[tuple[int, Entry]]:
        """What holds for each item with an entry later than number ``after``, and the number of its last one.

        In the order of numbers, the last of which is the log's.
        """
        with self._errors():
            rows = _last_entries(self._db, after)
        try:
            return _entries(rows)
        except ValueError as error:
            raise StorageError(
                f"{self.path}: an entry is no JSON ({error}); restore it from a copy"
            ) from None

    def trim(self) -> int:
        """Remove the entries that a later one of the same item replaced; returns how many."""
        with self._errors(), self._transaction():
            cursor = self._db.execute(
                "DELETE FROM entry WHERE number NOT IN (SELECT max(number) FROM entry GROUP BY id)"
            )
        return cursor.rowcount

    def close(self) -> None:
        with self._errors():
            self._db.close()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._lock:  # threads share the connection, so its transactions as well
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            finally:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")

    @contextmanager
    def _errors(self) -> Iterator[None]:
        with self._lock:
            try:
                yield
            except sqlite3.Error as error:
                raise StorageError(
                    f"{self.path}: {error}; what was acknowledged before is kept: look at the disk, the "
                    "file's rights, and whether it is a log of items"
                ) from error

    def __repr__(self) -> str:
        return f"ItemLog({self.path}, {self.last:,} entries)"


def entries_of(path: str | Path, after: int = 0) -> list[tuple[int, Entry]]:
    """What holds for each item of a log, whoever it belongs to, with the number of its last entry.

    Only entries later than number ``after``; in their order. Nothing is written.

    Raises
    ------
    StorageError
        There is no such log, it is damaged, or of another format.
    """
    check_begun(path)
    try:
        with closing(sqlite3.connect(f"{Path(path).resolve().as_uri()}?mode=ro", uri=True)) as db:
            found = dict(db.execute("SELECT name, value FROM about"))
            if found.get("format") != FORMAT:
                raise StorageError(
                    f"{path}: format {found.get('format')}, expected {FORMAT}; use that version"
                )
            rows = _last_entries(db, after)
        return _entries(rows)
    except (sqlite3.Error, ValueError) as error:
        raise StorageError(f"{path}: cannot be read as a log of items ({error}); look at its name") from None


def _last_entries(db: sqlite3.Connection, after: int) -> list[tuple[int, int | str, int, str | None]]:
    """One statement, so that what it finds is of one moment whoever writes, or trims, meanwhile."""
    return db.execute(  # beside max(), SQLite's other columns are those of that row
        "SELECT max(number), id, key, features FROM entry WHERE number > ? GROUP BY id ORDER BY 1", (after,)
    ).fetchall()


def _entries(rows: Iterable[tuple[int, int | str, int, str | None]]) -> list[tuple[int, Entry]]:
    return [(n, Entry(id, key, None if text is None else json.loads(text))) for n, id, key, text in rows]


def check_begun(path: str | Path) -> None:
    """Refuse a log that nobody has begun: who only reads would begin an empty one where its name is mistyped.

    Raises
    ------
    StorageError
        There is no such file, or it is empty.
    """
    path = Path(path)
    if not path.is_file() or not path.stat().st_size:
        what = "is empty" if path.is_file() else "there is no such log of items"
        raise StorageError(f"{path}: {what}; begin one with: twotower items upsert, or look at its name")


def _text(entry: Entry) -> str | None:
    if entry.features is None:
        return None
    try:
        return json.dumps(entry.features, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise DataError(
            f"item {entry.id!r}: {error}", remedy="features are strings, numbers, lists of them, or null"
        ) from None
