"""Which files of a folder hold a logged funnel, while others write, merge and remove them."""

from __future__ import annotations

from pathlib import Path

from twotower.data.funnel_part import FunnelAbout, about_part
from twotower.errors import StorageError


def parts_of(directory: Path) -> tuple[dict[Path, FunnelAbout], list[Path]]:
    """The files that hold every row once, by name; and those that are there, but replaced by another.

    A merged file is published before the files that it replaces go, and a listing of a folder is not of one
    moment. So the folder is looked at until nothing has gone since the last look and no merged file has come.

    Raises
    ------
    StorageError
        A file that is damaged, of another format, or not of this kind.
    """
    known: dict[Path, FunnelAbout] | None = None
    while True:
        paths = sorted(directory.glob("*.parquet"))
        looked = {path: (known or {}).get(path) or _about(path) for path in paths}
        found = {path: about for path, about in looked.items() if about is not None}
        still = known is not None and len(found) == len(paths) and known.keys() <= found.keys()
        if still and not any(found[path].replaces for path in found.keys() - (known or {}).keys()):
            break
        known = found
    replaced = {name for about in found.values() for name in about.replaces}
    parts = {path: about for path, about in found.items() if path.name not in replaced}
    return parts, [path for path in found if path.name in replaced]


def _about(path: Path) -> FunnelAbout | None:
    """None for a file that is there no longer."""
    try:
        return about_part(path)
    except StorageError:
        if path.exists():
            raise
        return None
