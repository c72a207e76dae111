"""A copy of a bundle to tamper with, and how it is refused."""

import json
import shutil

import pytest

from twotower.errors import MismatchError, StorageError, TwotowerError
from twotower.pipeline.bundles.bundle import Bundle
from twotower.pipeline.bundles.manifest import MANIFEST, digest_path, seal


def files_of(directory):
    return sorted(path for path in directory.rglob("*") if path.is_file())


def copied(packed, tmp_path):
    """A copy of the bundle's directory, with its digest beside it."""
    source = packed.bundle.directory
    shutil.copyfile(digest_path(source), tmp_path / digest_path(source).name)
    return shutil.copytree(source, tmp_path / source.name)


def sealed_again(version):
    """The directory under a manifest that fits its files, as a tool gone wrong would write it."""
    manifest = version / MANIFEST
    plain = json.loads(manifest.read_bytes())
    manifest.unlink()
    digest = seal(version, {name: value for name, value in plain.items() if name not in ("files", "format")})
    place = version.rename(version.with_name(f"0001-{digest[:12]}"))
    digest_path(place).write_text(f"{digest}\n")
    return place


def refused(path, error=TwotowerError, **options):
    with pytest.raises(error) as found:
        Bundle.load(path, **options)
    assert type(found.value) in (StorageError, MismatchError)
    return str(found.value)
