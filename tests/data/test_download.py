import hashlib
import io
import re
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from twotower.data.download import MOVIELENS, Source, download, fetch, unpack
from twotower.errors import DataError, StorageError

BODY = bytes(range(256)) * 2_000


class Server(ThreadingHTTPServer):
    """Serves BODY; the attributes say how badly."""

    body = BODY
    ranges = True  # honour Range
    cut_at: int | None = None  # close the connection after so many bytes, once
    failures = 0  # answer 503 so many times
    status: int | None = None  # always answer this

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[str | None] = []


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server, wanted = self.server, self.headers.get("Range")
        server.asked.append(wanted)
        if server.status or server.failures:
            server.failures -= 1
            self.send_error(server.status or 503)
            return
        start = int(re.findall(r"\d+", wanted)[0]) if wanted and server.ranges else 0
        if start >= len(server.body):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(server.body) - 1}/{len(server.body)}")
        self.send_header("Content-Length", str(len(server.body) - start))
        self.end_headers()
        stop, server.cut_at = server.cut_at, None
        self.wfile.write(server.body[start:stop])

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def source(server: Server, body: bytes = BODY, name: str = "file.bin") -> Source:
    url = f"http://127.0.0.1:{server.server_port}/{name}"
    return Source(name=name, url=url, sha256=hashlib.sha256(body).hexdigest())


def test_a_file_is_fetched_once_with_progress(server, tmp_path):
    seen: list[tuple[int, int | None]] = []
    path = download(source(server), tmp_path / "cache", progress=lambda *now: seen.append(now))
    assert path.read_bytes() == BODY
    assert seen[-1] == (len(BODY), len(BODY))
    assert download(source(server), tmp_path / "cache") == path
    assert server.asked == [None]
    assert [entry.name for entry in path.parent.iterdir()] == ["file.bin"]


def test_a_broken_transfer_goes_on_where_it_stopped(server, tmp_path):
    server.cut_at = 100_000
    assert download(source(server), tmp_path, pause_s=0).read_bytes() == BODY
    assert server.asked == [None, "bytes=100000-"]


def test_an_interrupted_download_is_resumed_by_the_next_call(server, tmp_path):
    (tmp_path / "file.bin.part").write_bytes(BODY[:5])
    assert download(source(server), tmp_path).read_bytes() == BODY
    assert server.asked == ["bytes=5-"]


def test_a_server_that_ignores_ranges_sends_all_again(server, tmp_path):
    server.ranges = False
    (tmp_path / "file.bin.part").write_bytes(b"x" * 7)
    assert download(source(server), tmp_path).read_bytes() == BODY


@pytest.mark.parametrize("part", [BODY, b"x" * (len(BODY) + 9), b"x" * 1000])
def test_a_complete_or_a_foreign_part_ends_well(server, tmp_path, part):
    (tmp_path / "file.bin.part").write_bytes(part)
    assert download(source(server), tmp_path, pause_s=0).read_bytes() == BODY


def test_passing_failures_are_tried_again(server, tmp_path):
    server.failures = 2
    assert download(source(server), tmp_path, retries=2, pause_s=0).read_bytes() == BODY


def test_a_wrong_checksum_leaves_nothing_and_says_what_was_found(server, tmp_path):
    wrong = source(server, b"something else")
    with pytest.raises(
        StorageError, match=rf"SHA-256 is {hashlib.sha256(BODY).hexdigest()}, expected {wrong.sha256}"
    ):
        download(wrong, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_refusal_is_not_tried_again(server, tmp_path):
    server.status = 404
    with pytest.raises(
        StorageError, match=f"Not Found(.|\n)*put it at {re.escape(str(tmp_path / 'file.bin'))}"
    ):
        download(source(server), tmp_path, pause_s=0)
    assert len(server.asked) == 1


def test_offline_says_which_file_to_put_where(server, tmp_path):
    missing = source(server)
    server.server_close()
    with pytest.raises(StorageError) as caught:
        download(missing, tmp_path, retries=1, pause_s=0, timeout_s=1)
    assert str(tmp_path / "file.bin") in str(caught.value)
    assert missing.sha256 in str(caught.value)
    (tmp_path / "file.bin").write_bytes(BODY)  # by hand
    assert download(missing, tmp_path).read_bytes() == BODY


def test_a_wrong_file_in_the_cache_is_refused(server, tmp_path):
    (tmp_path / "file.bin").write_bytes(b"other")
    with pytest.raises(StorageError, match="is not what was published"):
        download(source(server), tmp_path)


def test_a_cache_that_cannot_be_written_is_an_error(server, tmp_path):
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.raises(StorageError, match="cannot be written"):
        download(source(server), tmp_path / "cache")


def zipped(**members: str) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, text in members.items():
            archive.writestr(name, text)
    return out.getvalue()


def test_fetch_unpacks_once_and_finds_the_inner_folder(server, tmp_path):
    server.body = zipped(**{"ml/ratings.dat": "1::1::1::1\n", "ml/README": "x"})
    data = source(server, server.body, "ml.zip")
    assert fetch(data, tmp_path) == tmp_path / "ml" / "ml"
    assert (fetch(data, tmp_path) / "ratings.dat").read_text() == "1::1::1::1\n"
    assert len(server.asked) == 1


@pytest.mark.parametrize("member", ["../evil", "/etc/evil", "a/../../evil", "..\\evil", "C:\\evil"])
def test_an_archive_may_not_write_outside_its_folder(tmp_path, member):
    (tmp_path / "a.zip").write_bytes(zipped(**{"good": "x", member: "x"}))
    with pytest.raises(DataError, match="outside its folder"):
        unpack(tmp_path / "a.zip", tmp_path / "deep" / "a")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [tmp_path / "a.zip"]


def test_a_damaged_archive_leaves_no_folder(tmp_path):
    (tmp_path / "a.zip").write_bytes(zipped(good="x" * 1000)[:-30])
    with pytest.raises(DataError, match="not a sound zip file"):
        unpack(tmp_path / "a.zip", tmp_path / "a")
    assert [path.name for path in tmp_path.iterdir()] == ["a.zip"]


def test_the_known_sources_are_complete():
    assert set(MOVIELENS) == {"ml-100k", "ml-1m", "ml-latest-small"}
    assert all(Path(source.name).suffix == ".zip" for source in MOVIELENS.values())
