"""What can go wrong, as a tree. A message says what was found, what was expected and what to do.

TwotowerError
├── ConfigError       the recipe or an argument is wrong             exit code 2
├── DataError         a file, row or column is wrong                 exit code 65
├── MissingExtra      an optional package is not installed           exit code 69
├── MismatchError     two artefacts do not belong together           exit code 70
├── TrainingError     training left the road (NaN, empty batch)      exit code 70
└── StorageError      reading or writing an artefact failed          exit code 74
"""

from __future__ import annotations

from pathlib import Path


class TwotowerError(Exception):
    """Base of every error this package raises on purpose."""

    exit_code = 1


class ConfigError(TwotowerError, ValueError):
    """The recipe, or an argument, asks for something that does not exist."""

    exit_code = 2


class DataError(TwotowerError, ValueError):
    """Input data is broken; names file, line and column as far as they are known, and the remedy."""

    exit_code = 65

    def __init__(
        self,
        message: str,
        *,
        file: str | Path | None = None,
        line: int | None = None,
        column: str | None = None,
        remedy: str | None = None,
    ) -> None:
        self.file, self.line, self.column, self.remedy = file, line, column, remedy
        place = ":".join(str(part) for part in (file, line) if part is not None)
        if column is not None:
            place = f"{place} [column {column}]" if place else f"column {column}"
        text = f"{place}: {message}" if place else message
        super().__init__(f"{text}\n  remedy: {remedy}" if remedy else text)


class MissingExtra(TwotowerError, ImportError):
    """A feature needs an optional package that is not installed."""

    exit_code = 69


class MismatchError(TwotowerError):
    """Two artefacts (model, table, index, vocabulary) were not made for each other."""

    exit_code = 70


class TrainingError(TwotowerError):
    """Training cannot go on: a loss is not finite, or a batch is empty."""

    exit_code = 70


class StorageError(TwotowerError):
    """An artefact could not be written or read (disk full, truncated file, wrong checksum)."""

    exit_code = 74
