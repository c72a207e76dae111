"""Whatever is changed in a bundle, it is refused."""

import hashlib
import json
import random
import shutil

import pytest
import torch

from twotower.data.golden import GoldenRows
from twotower.errors import MismatchError, StorageError
from twotower.pipeline.bundles.bundle import Bundle, rollback
from twotower.pipeline.bundles.manifest import MANIFEST, digest_path

from .tampering import copied, files_of, refused, sealed_again


@pytest.fixture
def version(packed, tmp_path):
    return copied(packed, tmp_path)


def test_any_byte_of_any_file_that_is_flipped(version):
    draw = random.Random(0)
    for path in [*files_of(version), digest_path(version)]:
        path.chmod(0o644)
        content = path.read_bytes()
        places = {
            0,
            1,
            len(content) // 2,
            len(content) - 1,
            *(draw.randrange(len(content)) for _ in range(3)),
        }
        for place in places:
            flipped = content[place] ^ draw.randint(1, 255)
            path.write_bytes(content[:place] + bytes([flipped]) + content[place + 1 :])
            message = refused(version, StorageError)
            assert path.name in message or "digest" in message, (path, place, message)
        path.write_bytes(content)
    assert Bundle.load(version).version == version.name


def test_any_file_cut_grown_missing_or_added(version):
    for path in [*files_of(version), digest_path(version)]:
        path.chmod(0o644)
        content = path.read_bytes()
        for changed in (b"", content[:-1], content + b"\n"):
            path.write_bytes(changed)
            refused(version, StorageError)
            refused(version, StorageError, fast=True)
        path.unlink()
        refused(version, StorageError)
        path.write_bytes(content)
    (version / "models" / "notes.txt").touch()
    assert "is not in the manifest" in refused(version)


def test_any_file_of_another_bundle(version, other):
    """Names and sizes may be the same: the checksums are not."""
    there, swapped = other.bundle.directory, 0
    for path in files_of(version):
        stranger = there / path.relative_to(version)
        content = path.read_bytes()
        if stranger.exists() and stranger.read_bytes() != content:
            path.chmod(0o644)
            path.write_bytes(stranger.read_bytes())
            refused(version, StorageError)
            path.write_bytes(content)
            swapped += 1
    assert swapped > 20


def test_a_manifest_of_another_bundle_with_its_digest(version, other):
    """Only the directory's name still tells them apart, and the files."""
    there = other.bundle.directory
    for source, target in (
        (there / MANIFEST, version / MANIFEST),
        (digest_path(there), digest_path(version)),
    ):
        target.chmod(0o644)
        target.write_bytes(source.read_bytes())
    assert f"is not the digest of the bundle {version.name}" in refused(version, StorageError)


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ("models/ranker", "produced by|the model 'ranker'"),
        ("models/retriever", "produced by"),
        ("tables/ranker", "produced by"),
        ("index/retriever", "produced by"),
        ("data/features", "golden rows"),
        ("data/items.parquet", "not what the bundle was built with: the item table"),
        ("data/golden", "golden rows"),
        ("golden", "golden answers"),
    ],
)
def test_a_part_of_another_bundle_under_a_manifest_that_fits_its_files(version, other, part, message):
    """Checksums are right, as if a build had mixed two runs: the parts know that they are strangers."""
    source, target = other.bundle.directory / part, version / part
    if source.is_dir():
        shutil.rmtree(target)
        shutil.copytree(source, target)
    else:
        target.unlink()
        shutil.copyfile(source, target)
    place = sealed_again(version)
    with pytest.raises(MismatchError, match=message):
        Bundle.load(place)
    with pytest.raises(MismatchError, match=message):
        Bundle.load(place, fast=True)


def test_features_that_encode_otherwise_though_their_golden_rows_agree(version, other):
    """Vocabularies and golden rows swapped together still are not those the tables were made of."""
    for part in ("data/features", "data/golden"):
        shutil.rmtree(version / part)
        shutil.copytree(other.bundle.directory / part, version / part)
    with pytest.raises(MismatchError, match="not what the bundle was built with: the features"):
        Bundle.load(sealed_again(version))


def test_a_format_that_is_not_known(version):
    manifest = version / MANIFEST
    plain = json.loads(manifest.read_bytes()) | {"format": 2, "compressed": True}
    manifest.chmod(0o644)
    manifest.write_text(json.dumps(plain))
    digest = hashlib.sha256(manifest.read_bytes()).hexdigest()
    place = version.rename(version.with_name(f"0001-{digest[:12]}"))
    digest_path(place).write_text(f"{digest}\n")
    assert "has format 2, this version of twotower reads 1" in refused(place, StorageError)


def test_the_fast_way_compares_sizes_only_but_still_asks_the_golden_requests(version):
    index = next((version / "index/retriever").glob("vectors-*"))
    index.chmod(0o644)
    vectors = torch.frombuffer(bytearray(index.read_bytes()), dtype=torch.float32)
    index.write_bytes((-vectors).numpy().tobytes())
    assert "checksum" in refused(version, StorageError)
    assert "golden answers: " in refused(version, MismatchError, fast=True)


def test_a_directory_that_holds_none(tmp_path):
    assert "build one with: twotower bundle build" in refused(tmp_path, StorageError)
    assert "none" in refused(tmp_path / "nowhere", StorageError)
    with pytest.raises(StorageError, match="twotower bundle build"):
        rollback(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()


def test_golden_rows_of_the_features_are_those_of_the_run(packed):
    rows = GoldenRows.load(packed.bundle.directory / "data/golden")
    rows.replay(packed.bundle.encoded.features)
