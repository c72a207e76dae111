"""A small table of results as a plain value: aligned text, Markdown or JSON."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass

Cell = str | int | float | None


@dataclass(frozen=True)
class Column:
    """A heading with its unit; ``digits`` is how many decimals its fractions show."""

    name: str
    unit: str = ""
    digits: int = 4

    @property
    def heading(self) -> str:
        return f"{self.name} ({self.unit})" if self.unit else self.name

    def show(self, value: Cell) -> str:
        if value is None or (isinstance(value, float) and math.isnan(value)):
            return "-"
        if isinstance(value, bool):
            return "yes" if value else "no"
        if isinstance(value, int):
            return f"{value:,}"
        return f"{value:,.{self.digits}f}" if isinstance(value, float) else value


@dataclass(frozen=True)
class Table:
    """Rows under columns; None and NaN stand for "no value". Columns may be given as plain names.

    >>> funnel = Table((Column("stage"), Column("R@10"), Column("p50", "ms", 1)),
    ...                (("retrieve", 0.25, 1.52), ("rank", None, 12.0)))
    >>> print(funnel.text())
    stage       R@10  p50 (ms)
    --------  ------  --------
    retrieve  0.2500       1.5
    rank           -      12.0
    """

    columns: tuple[Column | str, ...]
    rows: tuple[tuple[Cell, ...], ...]

    def __post_init__(self) -> None:
        names = [column.name for column in self._columns]
        if len(set(names)) < len(names):
            raise ValueError(f"two columns share a name: {names}")
        for row in self.rows:
            if len(row) != len(names):
                raise ValueError(f"a row has {len(row)} cells for {len(names)} columns: {row}")

    def text(self) -> str:
        """Aligned for a terminal: words to the left, numbers to the right."""
        body, widths = self._laid_out()
        rule = ["-" * width for width in widths]
        lines = [self._align(cells, widths) for cells in (body[0], rule, *body[1:])]
        return "\n".join("  ".join(line).rstrip() for line in lines)

    def markdown(self) -> str:
        """A GitHub table; readable as it stands.

        >>> print(Table(("stage", Column("out")), (("rank", 1500),)).markdown())
        | stage |   out |
        | :---- | ----: |
        | rank  | 1,500 |
        """
        body, widths = self._laid_out(escape=True)
        rule = [
            "-" * (width - 1) + ":" if right else ":" + "-" * (width - 1)
            for width, right in zip(widths, self._numeric, strict=True)
        ]
        lines = [self._align(cells, widths) for cells in (body[0], rule, *body[1:])]
        return "\n".join("| " + " | ".join(line) + " |" for line in lines)

    def json(self) -> str:
        """One object: the units, and the rows by column name with full precision; no value is null."""
        names = [column.name for column in self._columns]
        rows = [
            {
                n: c if not isinstance(c, float) or math.isfinite(c) else None
                for n, c in zip(names, row, strict=True)
            }
            for row in self.rows
        ]
        units = {column.name: column.unit for column in self._columns if column.unit}
        return json.dumps({"units": units, "rows": rows}, ensure_ascii=False, indent=2, allow_nan=False)

    def __str__(self) -> str:
        return self.text()

    @property
    def _columns(self) -> tuple[Column, ...]:
        return tuple(Column(column) if isinstance(column, str) else column for column in self.columns)

    @property
    def _numeric(self) -> list[bool]:
        """A column is numeric when no cell in it is a word."""
        return [
            bool(self.rows) and not any(isinstance(row[i], str) for row in self.rows)
            for i in range(len(self.columns))
        ]

    def _laid_out(self, escape: bool = False) -> tuple[list[list[str]], list[int]]:
        head = [column.heading for column in self._columns]
        body = [[c.show(cell) for c, cell in zip(self._columns, row, strict=True)] for row in self.rows]
        if escape:
            body = [[cell.replace("|", "\\|") for cell in row] for row in body]
        lines = [head, *body]
        return lines, [max(3, *map(len, cells)) for cells in zip(*lines, strict=True)]

    def _align(self, cells: list[str], widths: list[int]) -> list[str]:
        return [
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(cells, widths, self._numeric, strict=True)
        ]
