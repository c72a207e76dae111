"""Versions below a root: what is served, what a crash leaves, and who may write."""

import fcntl

import pytest

from twotower.errors import ConfigError, StorageError
from twotower.pipeline.bundles.manifest import MANIFEST
from twotower.pipeline.bundles.root import BundleRoot, find_version


def publish(place, digit):
    """A version that holds nothing, whose digest is one digit repeated."""
    with place.locked(), place.draft() as draft:
        (draft / MANIFEST).touch()
        version = place.publish(draft, digit * 64).name
        place.switch(version)
    return version


def test_versions_are_numbered_and_named_by_their_digest(tmp_path):
    place = BundleRoot(tmp_path / "deep" / "root")
    assert place.versions() == []
    made = [publish(place, digit) for digit in "fa0"]
    assert made == ["0001-ffffffffffff", "0002-aaaaaaaaaaaa", "0003-000000000000"]
    assert place.versions() == made
    assert place.served() == (made[2], made[1])
    assert (place.directory / f"{made[1]}.digest").read_text() == "a" * 64 + "\n"
    assert find_version(place.directory) == place.path(made[2])
    assert find_version(place.path(made[0])) == place.path(made[0])


def test_a_version_is_found_from_within_and_through_links(tmp_path, monkeypatch):
    place = BundleRoot(tmp_path / "root")
    first = place.path(publish(place, "a"))
    second = place.path(publish(place, "b"))
    (tmp_path / "production").symlink_to(first)
    assert find_version(tmp_path / "production") == first
    monkeypatch.chdir(first)
    assert find_version(".") == first
    assert find_version("..").resolve() == second
    monkeypatch.chdir(place.directory)
    assert find_version(".").resolve() == second
    (first / MANIFEST).unlink()  # its digest still says that it is a version, and no root
    assert find_version(tmp_path / "production") == first


def test_after_9999_versions_follow_by_number_not_by_letter(tmp_path):
    place = BundleRoot(tmp_path)
    (tmp_path / "9999-ffffffffffff").mkdir()
    assert publish(place, "0") == "10000-000000000000"
    assert place.versions() == ["9999-ffffffffffff", "10000-000000000000"]


def test_the_first_version_has_none_before_it(tmp_path):
    place = BundleRoot(tmp_path)
    first = publish(place, "a")
    assert place.served() == (first, None)
    with pytest.raises(ConfigError, match="is the first, there is none to go back to"):
        place.previous()


def test_any_flipped_bit_of_current_names_no_other_version(tmp_path):
    place = BundleRoot(tmp_path)
    for digit in "abc":
        publish(place, digit)
    path = tmp_path / "current"
    content = path.read_bytes()
    served, before = place.served()
    for at in range(len(content)):
        for bit in range(8):
            path.write_bytes(content[:at] + bytes([content[at] ^ 1 << bit]) + content[at + 1 :])
            if at <= len(served):  # in the version that is served, or the space behind it
                with pytest.raises(StorageError):
                    find_version(tmp_path)
            else:
                with pytest.raises(StorageError):
                    place.path(place.previous())
    path.write_bytes(content)
    assert place.served() == (served, before)


def test_a_build_repairs_a_current_that_nobody_can_read(tmp_path):
    place = BundleRoot(tmp_path)
    publish(place, "a")
    (tmp_path / "current").write_bytes(b"\xff")
    second = publish(place, "b")
    assert place.served() == (second, None)


def test_what_killed_builds_left_is_cleaned_and_nothing_else(tmp_path):
    place = BundleRoot(tmp_path)
    version = publish(place, "a")
    (tmp_path / ".draft-x1" / "models").mkdir(parents=True)
    (tmp_path / ".draft-x1" / "models" / "half").touch()
    (tmp_path / ".current.partial").touch()
    (tmp_path / f"0002-{'b' * 12}.digest").touch()
    (tmp_path / "notes.digest").touch()
    place.clean()
    assert {path.name for path in tmp_path.iterdir()} == {
        version,
        f"{version}.digest",
        "current",
        ".lock",
        "notes.digest",
    }


def test_one_writer_at_a_time(tmp_path):
    place = BundleRoot(tmp_path)
    under_way = pytest.raises(StorageError, match="another build or rollback is under way")
    with place.locked(), under_way, place.locked():
        pass
    with place.locked():  # and it is let go of
        pass
    with open(tmp_path / ".lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_version_that_was_removed_is_not_switched_to(tmp_path):
    place = BundleRoot(tmp_path)
    first = publish(place, "a")
    publish(place, "b")
    (tmp_path / first / MANIFEST).unlink()
    (tmp_path / first).rmdir()
    with pytest.raises(StorageError, match=f"there is no version {first}; published: 0002-"):
        place.switch(first)
