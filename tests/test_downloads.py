"""Downloads against a server on this machine that misbehaves in every way we know of."""

import bz2
import gzip
import hashlib
import http.client
import inspect
import io
import json
import lzma
import os
import random
import socket
import stat
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from kpnb import datasets
from kpnb.core import DataError
from kpnb.datasets import imm_manifest, load
from kpnb.downloads import DownloadError, fetch, fetch_all, unpack

DATA = bytes((i * 31 + i // 7) % 256 for i in range(300_000))
SHA = hashlib.sha256(DATA).hexdigest()
QUICK = dict(progress=False, timeout=0.6, pause=0.01)


class Handler(BaseHTTPRequestHandler):
    """The first part of the path says how to misbehave; `server.asked` records (path, Range)."""

    protocol_version = "HTTP/1.0"

    def log_message(self, *args):
        pass

    def do_GET(self):
        kind = self.path.split("/")[1]
        self.server.asked.append((kind, self.headers.get("Range")))
        self.times = sum(k == kind for k, _ in self.server.asked)
        try:
            getattr(self, "serve_" + kind)()
        except (BrokenPipeError, ConnectionResetError):
            pass

    def start(self, code=200, length=None, **headers):
        self.send_response(code)
        if length is not None:
            self.send_header("Content-Length", str(length))
        for k, v in headers.items():
            self.send_header(k.replace("_", "-"), v)
        self.end_headers()

    def wanted(self):
        asked = self.headers.get("Range")
        return int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0

    def send(self, data=DATA, upto=None):
        begin = self.wanted()
        if begin >= len(data):
            return self.start(416, 0, Content_Range=f"bytes */{len(data)}")
        if begin:
            self.start(206, len(data) - begin, Content_Range=f"bytes {begin}-{len(data) - 1}/{len(data)}")
        else:
            self.start(200, len(data))
        self.wfile.write(data[begin:upto])

    def serve_good(self):
        self.send()

    def serve_truncates(self):
        self.send(upto=self.wanted() + 120_000)

    def serve_hopeless(self):
        self.send(upto=1000 if not self.wanted() else self.wanted())

    def serve_corrupts(self):
        self.send(DATA[:5000] + b"?" + DATA[5001:])

    def serve_once(self):
        self.send(DATA[:5000] + b"?" + DATA[5001:] if self.times == 1 else DATA)

    def serve_missing(self):
        self.send_error(404)

    def serve_busy(self):
        self.send_error(503) if self.times == 1 else self.send()

    def serve_short(self):
        self.send(DATA[:-1])

    def serve_long(self):
        self.start(200)
        self.wfile.write(DATA + b"more")

    def serve_html(self):
        self.send(b"<html>Please log in</html>")

    def serve_unknown(self):
        self.start(200)
        self.wfile.write(DATA)

    def serve_redirect(self):
        self.start(302, 0, Location="/good")

    def serve_circle(self):
        self.start(302, 0, Location="/circle")

    def serve_tofile(self):
        self.start(302, 0, Location="file:///etc/hostname")

    def serve_toftp(self):
        self.start(302, 0, Location="ftp://127.0.0.1/x")

    def serve_ignores(
        self,
    ):  # knows no Range: always the whole file from its beginning, cut off the first time
        self.start(200, len(DATA))
        self.wfile.write(DATA if self.times > 1 else DATA[:100_000])

    def serve_lies(self):  # answers a Range with another part of the file
        if not self.wanted():
            return self.send(upto=100_000) if self.times == 1 else self.send()
        self.start(206, len(DATA) - 10, Content_Range=f"bytes 10-{len(DATA) - 1}/{len(DATA)}")
        self.wfile.write(DATA[10:])

    def serve_stalls(self):
        self.start(200, len(DATA))
        self.wfile.write(DATA[:40_000])
        self.server.released.wait(20)

    def serve_silent(self):
        self.server.released.wait(20)

    def serve_trickles(self):
        self.start(200, len(DATA))
        for i in range(200):
            self.wfile.write(DATA[i : i + 1])
            self.wfile.flush()
            if self.server.released.wait(0.1):
                return

    def serve_chunks(self):
        self.protocol_version = "HTTP/1.1"
        self.start(200, Transfer_Encoding="chunked", Connection="close")
        for i in range(0, len(DATA), 50_000):
            self.wfile.write(b"%x\r\n" % len(DATA[i : i + 50_000]) + DATA[i : i + 50_000] + b"\r\n")
        self.wfile.write(b"0\r\n\r\n")

    def serve_brokenchunks(self):
        self.protocol_version = "HTTP/1.1"
        self.start(200, Transfer_Encoding="chunked", Connection="close")
        self.wfile.write(b"%x\r\n" % 50_000 + DATA[:20_000])

    def serve_gate(self):  # the first part, and the rest when the test says so
        self.start(200, len(DATA))
        self.wfile.write(DATA[:100_000])
        self.server.arrived.set()
        self.server.released.wait(60)
        self.wfile.write(DATA[100_000:])

    def serve_headers(self):  # a beginning without a single byte of the file
        self.start(200, len(DATA))
        self.server.released.wait(60)

    def pour(self, piece, most=40_000_000):  # "endless", but not where a test fails
        for _ in range(most // 50_000):
            self.wfile.write(piece)
            self.server.poured += 50_000

    def serve_endless(self):
        self.start(200)
        self.pour(bytes(50_000))

    def serve_endlesschunks(self):
        self.protocol_version = "HTTP/1.1"
        self.start(200, Transfer_Encoding="chunked", Connection="close")
        self.pour(b"%x\r\n" % 50_000 + bytes(50_000) + b"\r\n")

    def serve_endlessredirect(self):
        self.start(302, Location="/good")
        self.pour(bytes(50_000))

    def serve_tricklesheaders(self):
        for byte in b"HTTP/1.0 200 OK\r\n" + b"X: y\r\n" * 50:
            self.wfile.write(bytes([byte]))
            if self.server.released.wait(0.05):
                return

    def serve_continues(self):  # HTTP/1.1 allows any number of these before the answer
        while not self.server.released.wait(0.02):
            self.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def serve_promises(self):
        self.start(200, 10**15)

    def serve_packed(self):
        self.start(200, 5, Content_Encoding="gzip")
        self.wfile.write(b"12345")

    def serve_raw(self):
        self.wfile.write(self.server.raw)

    def serve_tohttp(self):
        self.start(302, 0, Location=self.server.at("good"))

    def serve_tohttps(self):
        self.start(302, 0, Location=self.server.at("good").replace("http:", "https:"))

    def serve_imm(self):  # a folder of small files
        self.send(self.path.encode() * 50)


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    s = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    s.daemon_threads, s.asked, s.released, s.arrived = True, [], threading.Event(), threading.Event()
    s.poured, s.raw = 0, b""
    s.at = lambda kind: f"http://127.0.0.1:{s.server_port}/{kind}"
    threading.Thread(target=s.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    yield s
    s.released.set()
    s.shutdown()
    s.server_close()


def refused(*args, **kw):
    """Fetch what cannot be fetched: the message, and the time that it took."""
    begin = time.monotonic()
    with pytest.raises(DownloadError) as e:
        fetch(*args, **{**QUICK, **kw})
    assert time.monotonic() - begin < 15
    return str(e.value)


def test_a_good_download(server, tmp_path):
    path = fetch(server.at("good"), tmp_path / "deep/folder/x.bin", len(DATA), SHA, **QUICK)
    assert path.read_bytes() == DATA and sorted(p.name for p in path.parent.iterdir()) == ["x.bin"]


def test_a_right_file_is_not_asked_for_again(server, tmp_path):
    for _ in range(2):
        fetch(server.at("good"), tmp_path / "x", len(DATA), SHA.upper(), **QUICK)
    assert server.asked == [("good", None)]


def test_a_wrong_file_is_replaced(server, tmp_path):
    (tmp_path / "x").write_bytes(DATA[:-1] + b"!")
    assert fetch(server.at("good"), tmp_path / "x", len(DATA), SHA, **QUICK).read_bytes() == DATA


def test_a_wrong_file_stays_when_the_download_fails(server, tmp_path):
    (tmp_path / "x").write_bytes(b"mine")
    refused(server.at("missing"), tmp_path / "x", sha256=SHA)
    assert (tmp_path / "x").read_bytes() == b"mine"


def test_truncated_transfers_are_resumed(server, tmp_path):
    assert fetch(server.at("truncates"), tmp_path / "x", len(DATA), SHA, **QUICK).read_bytes() == DATA
    assert [r for _, r in server.asked] == [None, "bytes=120000-", "bytes=240000-"]


def test_truncated_without_a_hash_starts_again_and_fails(server, tmp_path):
    said = refused(server.at("truncates"), tmp_path / "x")
    assert "broke off after 120000 of 300000 bytes" in said and not (tmp_path / "x").exists()
    assert [r for _, r in server.asked] == [None, None, None]
    assert [p.name for p in tmp_path.iterdir() if not p.name.endswith(".lock")] == []


def broken_off(server, path, size=len(DATA)):
    """A download that broke off: the file in which its beginning waits."""
    refused(server.at("truncates"), path, size, SHA, attempts=1)
    server.asked.clear()
    assert not path.exists()
    [part] = path.parent.glob(".*.part")
    assert part.read_bytes() == DATA[:120_000]
    return part


def test_a_later_call_goes_on(server, tmp_path):
    part = broken_off(server, tmp_path / "x")
    assert fetch(server.at("good"), tmp_path / "x", len(DATA), SHA, **QUICK).read_bytes() == DATA
    assert server.asked == [("good", "bytes=120000-")] and not part.exists()


@pytest.mark.parametrize("junk", [b"?" * 1000, b"?" * len(DATA), b"?" * (len(DATA) + 5)])
@pytest.mark.parametrize("size", [len(DATA), None])
def test_a_corrupt_part_does_not_poison_the_next_try(server, tmp_path, junk, size):
    broken_off(server, tmp_path / "x", size).write_bytes(junk)
    assert fetch(server.at("good"), tmp_path / "x", size, SHA, **QUICK).read_bytes() == DATA


def test_a_complete_part_only_needs_its_name(server, tmp_path):
    broken_off(server, tmp_path / "x").write_bytes(DATA)
    assert fetch(server.at("missing"), tmp_path / "x", len(DATA), SHA, **QUICK).read_bytes() == DATA
    assert server.asked == []


def test_a_beginning_is_used_for_the_same_sha_alone(server, tmp_path):
    broken_off(server, tmp_path / "x")
    other = b"/imm/other" * 50
    assert (
        fetch(
            server.at("imm/other"), tmp_path / "x", sha256=hashlib.sha256(other).hexdigest(), **QUICK
        ).read_bytes()
        == other
    )
    assert server.asked == [("imm", None)]
    fetch(server.at("good"), tmp_path / "y", len(DATA), SHA, **QUICK)
    assert server.asked[-1] == ("good", None)


@pytest.mark.parametrize("kind", ["ignores", "lies", "busy", "redirect", "chunks", "unknown"])
def test_servers_that_can_be_lived_with(server, tmp_path, kind):
    assert fetch(server.at(kind), tmp_path / "x", len(DATA), SHA, **QUICK).read_bytes() == DATA


@pytest.mark.parametrize(
    "kind, reason",
    [
        ("missing", "HTTP 404"),
        ("corrupts", "found SHA-256"),
        ("short", "has a file of 299999 bytes; expected 300000"),
        ("long", "sends more than the expected 300000 bytes"),
        ("html", "has a file of 26 bytes; expected 300000"),
        ("stalls", "stalled: no answer for 0.6 s"),
        ("silent", "stalled: no answer for 0.6 s"),
        ("trickles", "stalled: "),
        ("tricklesheaders", "stalled: no answer for 0.6 s"),
        ("continues", "stalled: no answer for 0.6 s"),
        ("circle", "HTTP 302"),
        ("tofile", "HTTP 302"),
        ("toftp", "unknown url type"),
        ("hopeless", "broke off after 1000 of 300000"),
        ("brokenchunks", "IncompleteRead"),
    ],
)
def test_servers_that_fail(server, tmp_path, kind, reason):
    said = refused(server.at(kind), tmp_path / "x.bin", len(DATA), SHA)
    assert "x.bin could not be downloaded" in said and server.at(kind) in said and reason in said, said
    assert not (tmp_path / "x.bin").exists()


def test_an_unknown_length_needs_a_size_or_a_hash(server, tmp_path):
    assert "does not say how long the file is" in refused(server.at("unknown"), tmp_path / "x")
    assert fetch(server.at("unknown"), tmp_path / "x", len(DATA), **QUICK).read_bytes() == DATA


def test_chunks_end_by_themselves(server, tmp_path):
    assert fetch(server.at("chunks"), tmp_path / "x", **QUICK).read_bytes() == DATA
    refused(server.at("brokenchunks"), tmp_path / "y")
    assert not (tmp_path / "y").exists()


def test_mirrors_are_tried_in_turn_and_each_failure_is_told(server, tmp_path):
    bad = [server.at(k) for k in ("missing", "corrupts", "html")]
    assert fetch([*bad, server.at("good")], tmp_path / "x", len(DATA), SHA, **QUICK).read_bytes() == DATA
    assert [k for k, _ in server.asked] == ["missing", "corrupts", "html", "good"]
    said = refused(bad, tmp_path / "y", len(DATA), SHA)
    assert all(u in said for u in bad) and said.count("\n- ") == 3


def test_a_second_mirror_goes_on_where_the_first_stopped(server, tmp_path):
    assert (
        fetch(
            [server.at("stalls"), server.at("good")], tmp_path / "x", len(DATA), SHA, attempts=1, **QUICK
        ).read_bytes()
        == DATA
    )
    assert server.asked[-1] == ("good", "bytes=40000-")


def test_an_address_without_a_server(tmp_path):
    assert "http://127.0.0.1:1/x" in refused("http://127.0.0.1:1/x", tmp_path / "x", attempts=2)


def test_arguments(tmp_path):
    for url in ("file:///etc/hosts", "ftp://127.0.0.1/x", "/etc/hosts"):
        with pytest.raises(ValueError, match="expected http:// or https://"):
            fetch(url, tmp_path / "x")
    with pytest.raises(ValueError, match="64 hexadecimal digits"):
        fetch("http://127.0.0.1/x", tmp_path / "x", sha256="abc")
    with pytest.raises(DownloadError, match="no address"):
        fetch([], tmp_path / "x")


FEW = dict(QUICK, timeout=30)
PROCESS = """
import json, sys
from kpnb.downloads import fetch
arguments, options = json.loads(sys.argv[1])
fetch(*arguments, **options)
"""


@pytest.fixture
def fetching():
    "Fetch in a process of its own: a fresh one, since a fork of this one, with its threads, can hang."
    begun = []

    def begin(*args, **kw):
        args = json.dumps([[str(a) if isinstance(a, Path) else a for a in args], kw])
        process = subprocess.Popen(
            [sys.executable, "-c", PROCESS, args], stderr=subprocess.PIPE, text=True, bufsize=1
        )
        begun.append(process)
        return process

    yield begin
    for process in begun:
        process.kill()
        process.communicate(timeout=30)


def it_waits(process):
    "Read what a process says until it tells that another one is downloading."
    for line in process.stderr:
        if "waiting for another download" in line:
            return True
    return False


@pytest.mark.parametrize("known", [(None, None), (len(DATA), None), (None, SHA), (len(DATA), SHA)])
def test_of_two_processes_that_fetch_one_file_the_second_waits_and_finds_it(
    server, tmp_path, fetching, known
):
    first = fetching(server.at("gate"), tmp_path / "x", *known, **FEW)
    assert server.arrived.wait(60)
    second = fetching(server.at("gate"), tmp_path / "x", *known, **{**FEW, "progress": True})
    assert it_waits(second)
    server.released.set()
    assert (first.wait(60), second.wait(60)) == (0, 0)
    assert (tmp_path / "x").read_bytes() == DATA and server.asked == [("gate", None)]
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


def test_a_second_writer_that_is_killed_does_not_spoil_the_file(server, tmp_path, fetching):
    first = fetching(server.at("gate"), tmp_path / "x", len(DATA), **FEW)
    assert server.arrived.wait(60)
    second = fetching(server.at("headers"), tmp_path / "x", len(DATA), **{**FEW, "progress": True})
    assert it_waits(second)
    second.kill()
    second.wait(60)
    server.released.set()
    assert first.wait(60) == 0
    assert fetch(server.at("good"), tmp_path / "x", len(DATA), **FEW).read_bytes() == DATA


@pytest.mark.parametrize("known", [(None, None), (len(DATA), None), (len(DATA), SHA)])
def test_killed_in_the_middle_leaves_no_file_and_no_lock(server, tmp_path, fetching, known):
    first = fetching(server.at("gate"), tmp_path / "x", *known, **FEW)
    assert server.arrived.wait(60)
    first.kill()
    first.wait(60)
    assert not (tmp_path / "x").exists()
    assert fetch(server.at("good"), tmp_path / "x", *known, wait=0.5, **FEW).read_bytes() == DATA
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


def test_who_waits_for_another_download_gives_up_at_last(server, tmp_path, capsys):
    first = threading.Thread(target=fetch, args=(server.at("gate"), tmp_path / "x", len(DATA)), kwargs=FEW)
    first.start()
    assert server.arrived.wait(5)
    said = refused(server.at("good"), tmp_path / "x", len(DATA), wait=0.2, progress=True)
    assert (
        str(tmp_path / "x") in said
        and "another process is downloading it." in said
        and f"process {os.getpid()} on" in said
    )
    assert "x: waiting for another download of it" in capsys.readouterr().err
    server.released.set()
    first.join()
    assert (tmp_path / "x").read_bytes() == DATA


def test_different_files_of_one_folder_do_not_wait_for_each_other(server, tmp_path):
    first = threading.Thread(target=fetch, args=(server.at("gate"), tmp_path / "x", len(DATA)), kwargs=FEW)
    first.start()
    assert server.arrived.wait(5)
    assert fetch(server.at("good"), tmp_path / "x.y", len(DATA), wait=0, **QUICK).read_bytes() == DATA
    server.released.set()
    first.join()
    assert (tmp_path / "x").read_bytes() == DATA


# Bounds


@pytest.mark.parametrize("kind", ["endless", "endlesschunks"])
@pytest.mark.parametrize(
    "size, sha, reason",
    [
        (None, SHA, "sends more than 1000000 bytes; a file of that size needs a larger limit"),
        (len(DATA), None, "sends more than the expected 300000 bytes"),
        (len(DATA), SHA, "sends more than the expected 300000 bytes"),
    ],
)
def test_an_endless_download_ends_and_is_removed(server, tmp_path, kind, size, sha, reason):
    assert reason in refused(server.at(kind), tmp_path / "x", size, sha, limit=1_000_000)
    assert [p.name for p in tmp_path.iterdir() if not p.name.endswith(".lock")] == []
    assert server.poured < 20_000_000


def test_endless_chunks_without_any_promise_end_too(server, tmp_path):
    assert "a larger limit" in refused(server.at("endlesschunks"), tmp_path / "x", limit=1_000_000)
    assert [p.name for p in tmp_path.iterdir() if not p.name.endswith(".lock")] == []


def test_the_page_of_a_redirect_is_not_read(server, tmp_path):
    assert fetch(server.at("endlessredirect"), tmp_path / "x", **QUICK).read_bytes() == DATA
    assert server.poured < 20_000_000


def test_a_download_has_a_bound_that_nobody_has_to_give(server, tmp_path):
    assert 2**30 <= inspect.signature(fetch).parameters["limit"].default <= 2**40
    for sha in (None, SHA):
        assert "has a file of 1000000000000000 bytes" in refused(
            server.at("promises"), tmp_path / "x", sha256=sha
        )
    with pytest.raises(DownloadError, match="larger limit"):
        fetch_all(
            [(server.at("good"), tmp_path / "y", None, SHA)],
            limit=1000,
            **{k: v for k, v in QUICK.items() if k != "progress"},
        )


def test_a_file_as_large_as_the_limit_is_no_error(server, tmp_path):
    for kind in ("good", "unknown", "chunks"):
        assert (
            fetch(server.at(kind), tmp_path / kind, sha256=SHA, limit=len(DATA), **QUICK).read_bytes() == DATA
        )
    assert (
        fetch(server.at("good"), tmp_path / "x", len(DATA), limit=10, **QUICK).read_bytes() == DATA
    )  # a size is a bound of its own


# Redirects, links, modes, and what a server may say


class Unlocked(http.client.HTTPConnection):
    """HTTPS without its encryption, so that this test needs no certificate."""

    def __init__(self, host, **kw):
        super().__init__(host, timeout=kw.get("timeout"))


def test_https_that_redirects_to_http_needs_a_hash(server, tmp_path, monkeypatch):
    monkeypatch.setattr(http.client, "HTTPSConnection", Unlocked)
    secure = server.at("tohttp").replace("http:", "https:")
    for size in (None, len(DATA)):
        said = refused(secure, tmp_path / "x", size)
        assert (
            "redirects from https to http://127.0.0.1" in said
            and server.at("tohttp").replace("http:", "https:") in said
        )
    assert {kind for kind, _ in server.asked} == {"tohttp"} and not (tmp_path / "x").exists()
    assert fetch(secure, tmp_path / "x", sha256=SHA, **QUICK).read_bytes() == DATA
    assert fetch(server.at("tohttps"), tmp_path / "y", **QUICK).read_bytes() == DATA
    assert (
        fetch(server.at("tohttps").replace("http:", "https:"), tmp_path / "z", **QUICK).read_bytes() == DATA
    )


def test_a_packed_answer_is_not_taken_for_the_file(server, tmp_path):
    assert "sends the file packed (gzip)" in refused(server.at("packed"), tmp_path / "x")
    assert not (tmp_path / "x").exists()


@pytest.mark.skipif(os.name == "nt", reason="links need rights on Windows")
def test_a_download_goes_through_a_link_and_keeps_the_mode(server, tmp_path):
    (tmp_path / "store").mkdir()
    real, link = tmp_path / "store/real", tmp_path / "x"
    real.write_bytes(b"old")
    real.chmod(0o600)
    link.symlink_to(real)
    assert fetch(server.at("good"), link, len(DATA), SHA, **QUICK) == link
    assert link.is_symlink() and real.read_bytes() == DATA and stat.S_IMODE(real.stat().st_mode) == 0o600
    (tmp_path / "new").symlink_to(tmp_path / "store/new")
    fetch(server.at("good"), tmp_path / "new", **QUICK)
    assert (tmp_path / "new").is_symlink() and (tmp_path / "store/new").read_bytes() == DATA
    assert sorted(p.name for p in tmp_path.iterdir()) == ["new", "store", "x"]


@pytest.mark.skipif(os.name == "nt", reason="links need rights on Windows")
def test_a_link_in_the_place_of_the_part_leads_nowhere(server, tmp_path):
    part = broken_off(server, tmp_path / "x")
    part.unlink()
    (tmp_path / "mine").write_bytes(b"mine")
    part.symlink_to(tmp_path / "mine")
    assert fetch(server.at("good"), tmp_path / "x", len(DATA), SHA, **QUICK).read_bytes() == DATA
    assert (tmp_path / "mine").read_bytes() == b"mine" and not (tmp_path / "x").is_symlink()


def synced(monkeypatch):
    """The (device, inode) of whatever is told to last through a power cut."""
    seen, sync = set(), os.fsync

    def spy(handle):
        seen.add((os.fstat(handle).st_dev, os.fstat(handle).st_ino))
        sync(handle)

    monkeypatch.setattr(os, "fsync", spy)
    return seen


def inode(path):
    return path.stat().st_dev, path.stat().st_ino


@pytest.mark.skipif(os.name == "nt", reason="Windows cannot open a folder")
def test_a_new_name_lasts_through_a_power_cut(server, tmp_path, monkeypatch):
    seen = synced(monkeypatch)
    path = fetch(server.at("good"), tmp_path / "deep/x", **QUICK)
    assert {inode(path), inode(path.parent)} <= seen


def test_a_folder_in_the_place_of_the_file(server, tmp_path):
    (tmp_path / "x").mkdir()
    assert f"{tmp_path / 'x'}: found a folder" in refused(server.at("good"), tmp_path / "x")
    assert server.asked == []


def test_a_part_that_cannot_be_written_is_an_error_with_a_name(server, tmp_path):
    part = broken_off(server, tmp_path / "x")
    part.unlink()
    part.mkdir()
    said = refused(server.at("good"), tmp_path / "x", len(DATA), SHA)
    assert f"{tmp_path / 'x'} could not be written" in said


@pytest.mark.parametrize(
    "where",
    [
        "http://127.0.0.1:99999/x",
        "http://127.0.0.1:x/",
        "http://[::1/x",
        "http:///x",
        "http://",
        "",
        "//",
        "http://" + "a" * 70 + ".b/",
        "http://..../",
        "\xff\xfe",
        "http://127.0.0.1:1/\x01",
        "data:,x",
    ],
)
def test_a_redirect_to_nowhere(server, tmp_path, where):
    server.raw = (
        b"HTTP/1.1 302 Found\r\nLocation: " + where.encode("latin-1") + b"\r\nContent-Length: 0\r\n\r\n"
    )
    assert server.at("raw") in refused(server.at("raw"), tmp_path / "x", len(DATA), attempts=1)


GOOD_ANSWER = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"5\r\nhello\r\n0\r\n\r\n"
)
STRANGE = [
    b"\0",
    b"\r\n",
    b"\xff" * 5,
    b"9" * 5000,
    b"-1",
    b":",
    b"HTTP/9.9 206 \x1b[31m\r\n",
    b"Content-Length: 1e9\r\n",
    b"\r\n\r\n",
    b"Content-Range: bytes 0-4/" + b"9" * 5000 + b"\r\n",
    b"Content-Encoding: x\r\n",
    b"Location: \xe9\r\n",
    b" 301 ",
    b"\xb2",
]


@pytest.mark.parametrize("seed", range(4))
def test_whatever_a_server_says_ends_in_the_file_or_in_one_kind_of_error(server, tmp_path, seed):
    chance = random.Random(seed)
    for trial in range(25):
        answer = bytearray(GOOD_ANSWER)
        for _ in range(chance.randint(1, 3)):
            at = chance.randrange(len(answer))
            answer[at : at + chance.choice([0, 1, 1, 6])] = chance.choice(
                [*STRANGE, bytes([chance.randrange(256)])]
            )
        server.raw = bytes(answer)
        path = tmp_path / f"{trial}"
        try:
            fetch(
                server.at("raw"),
                path,
                5,
                hashlib.sha256(b"hello").hexdigest(),
                **{**QUICK, "attempts": 1, "timeout": 2},
            )
        except DownloadError as e:
            assert server.at("raw") in str(e) and "\x1b" not in str(e) and len(str(e)) < 1000
            assert not path.exists()
        else:
            assert path.read_bytes() == b"hello"


def test_progress_is_shown(server, tmp_path, capsys):
    fetch(server.at("good"), tmp_path / "x.bin", len(DATA), SHA, **{**QUICK, "progress": True})
    assert "x.bin" in capsys.readouterr().err


def test_many_files(server, tmp_path):
    files = [
        (
            server.at(f"imm/{i}"),
            tmp_path / f"{i}",
            None,
            hashlib.sha256(f"/imm/{i}".encode() * 50).hexdigest(),
        )
        for i in range(20)
    ]
    assert [p.name for p in fetch_all(files, progress=False, timeout=5)] == [str(i) for i in range(20)]
    asked = len(server.asked)
    fetch_all(files, progress=False, timeout=5)
    assert len(server.asked) == asked


def test_many_files_give_up_early(server, tmp_path):
    files = [(server.at("missing"), tmp_path / f"{i}", None, SHA) for i in range(200)]
    with pytest.raises(DownloadError, match="200 of 200 files are missing. Call again to go on."):
        fetch_all(files, progress=False, timeout=5, pause=0)
    assert len(server.asked) <= 20


def test_load_downloads_only_what_is_missing(server, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(datasets, "fetch_all", lambda files: asked.extend(files))
    (tmp_path / "imm_face_db").mkdir()
    (tmp_path / "imm_face_db/01-1m.jpg").write_bytes(b"my own version")
    with pytest.raises(DataError, match="01-1m"):
        load("imm", tmp_path, download=True)  # nothing came, and my file is no picture
    assert len(asked) == 479 and (tmp_path / "imm_face_db/01-1m.jpg").read_bytes() == b"my own version"
    url, path, size, sha = asked[0]
    assert (
        url.startswith("https://raw.githubusercontent.com/")
        and path.parent == tmp_path / "imm_face_db"
        and path.name == url.rsplit("/", 1)[1]
    )
    assert (path.name, size, sha) in imm_manifest()


def test_nothing_is_downloaded_unasked(tmp_path, monkeypatch):
    def never(*args, **kw):
        raise AssertionError("a download")

    monkeypatch.setattr(socket, "create_connection", never)
    for source in datasets.SOURCES.values():
        monkeypatch.setattr(source, "fetch", never)
    for name in datasets.SOURCES:
        with pytest.raises(FileNotFoundError):
            load(name, tmp_path / "none")
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("name", [n for n, s in datasets.SOURCES.items() if s.fetch is None])
def test_what_may_not_be_downloaded(tmp_path, name):
    with pytest.raises(PermissionError, match="is not downloaded by kpnb") as e:
        load(name, tmp_path, download=True)
    assert "http" in str(e.value) and str(tmp_path) in str(e.value)


def fake_pets(to, download, half=False):
    """What torchvision does: folder by folder, so that a killed process leaves a half."""
    home = Path(to) / "oxford-iiit-pet"
    if (home / "images").is_dir() and (home / "annotations").is_dir():
        return  # all that torchvision looks at
    for part in ("images", "annotations"):
        (home / part).mkdir(parents=True, exist_ok=True)
    for part in ("images", "annotations"):
        (home / f"{part}.tar.gz").write_bytes(b"archive")
        (home / part / "1").write_bytes(b"1")
        if half:
            raise KeyboardInterrupt
        (home / part / "2").write_bytes(b"2")


def test_pets_that_were_half_unpacked_are_not_taken_for_whole(tmp_path, monkeypatch):
    get, home = datasets.SOURCES["pets-trimap"].fetch, tmp_path / "oxford-iiit-pet"
    monkeypatch.setattr(
        "torchvision.datasets.OxfordIIITPet", lambda to, download: fake_pets(to, download, half=True)
    )
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            get(tmp_path)
        assert not home.exists()
    (home / "annotations").mkdir(parents=True)
    (home / "annotations/mine").write_bytes(b"mine")
    monkeypatch.setattr("torchvision.datasets.OxfordIIITPet", fake_pets)
    get(tmp_path)
    assert both(home) == {
        "images": None,
        "images/1": b"1",
        "images/2": b"2",
        "annotations": None,
        "annotations/mine": b"mine",
    }
    assert [p.name for p in tmp_path.iterdir()] == ["oxford-iiit-pet"]


@pytest.mark.parametrize("name, theirs", [("pets-trimap", "OxfordIIITPet"), ("voc", "VOCSegmentation")])
def test_an_error_of_torchvision_gets_a_name(tmp_path, monkeypatch, name, theirs):
    def broken(*args, **kw):
        raise RuntimeError("File not found or corrupted.")

    monkeypatch.setattr(f"torchvision.datasets.{theirs}", broken)
    with pytest.raises(
        DownloadError, match="could not be downloaded by torchvision: File not found or corrupted"
    ):
        datasets.SOURCES[name].fetch(tmp_path)


def test_an_archive_of_voc_that_is_there_is_used(tmp_path, monkeypatch):
    def theirs(to, year, image_set, download):
        assert (to / "VOCtrainval_11-May-2012.tar").read_bytes() == b"two gigabytes"
        (to / "VOCdevkit/VOC2012").mkdir(parents=True)

    (tmp_path / "VOCtrainval_11-May-2012.tar").write_bytes(b"two gigabytes")
    monkeypatch.setattr("torchvision.datasets.VOCSegmentation", theirs)
    datasets.SOURCES["voc"].fetch(tmp_path)
    assert (tmp_path / "VOCdevkit/VOC2012").is_dir()
    assert (tmp_path / "VOCtrainval_11-May-2012.tar").read_bytes() == b"two gigabytes"


# Archives


def zipped(path, members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as z:
        for name, content in members:
            z.writestr(name, content)
    return path


def tarred(path, members):
    with tarfile.open(path, "w:gz") as t:
        for m in members:
            if isinstance(m, tarfile.TarInfo):
                t.addfile(m)
                continue
            info = tarfile.TarInfo(m[0])
            info.size = len(m[1])
            t.addfile(info, io.BytesIO(m[1]))
    return path


GOOD = [("a/b.txt", b"hello"), ("c.txt", b""), ("./d/e/f.bin", DATA)]


@pytest.mark.parametrize("pack, name", [(zipped, "x.zip"), (tarred, "x.tar.gz")])
def test_good_archives(tmp_path, pack, name):
    out = unpack(pack(tmp_path / name, GOOD), tmp_path / "out")
    assert [p.read_bytes() for p in out] == [c for _, c in GOOD]
    assert sorted(
        p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*") if p.is_file()
    ) == ["a/b.txt", "c.txt", "d/e/f.bin"]
    unpack(tmp_path / name, tmp_path / "out")


@pytest.mark.parametrize(
    "evil",
    [
        "../evil.txt",
        "a/../../evil.txt",
        "/tmp/kpnb-evil.txt",
        "..\\evil.txt",
        "C:\\evil.txt",
        "C:evil.txt",
        "\\evil.txt",
    ],
)
@pytest.mark.parametrize("pack, name", [(zipped, "x.zip"), (tarred, "x.tar.gz")])
def test_names_that_leave_the_folder(tmp_path, evil, pack, name):
    before = set(tmp_path.rglob("*")) | {tmp_path / name}
    with pytest.raises(DataError, match="leads out of the folder; nothing was unpacked"):
        unpack(pack(tmp_path / name, [("fine.txt", b"x"), (evil, b"x")]), tmp_path / "out")
    assert set(tmp_path.rglob("*")) == before and not Path("/tmp/kpnb-evil.txt").exists()


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_links_and_devices_in_tar(tmp_path, kind):
    info = tarfile.TarInfo("way-out")
    info.type, info.linkname = kind, "/etc"
    with pytest.raises(DataError, match="link or device 'way-out'"):
        unpack(tarred(tmp_path / "x.tar.gz", [info, ("way-out/passwd", b"x")]), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_links_in_zip(tmp_path):
    info = zipfile.ZipInfo("way-out")
    info.create_system, info.external_attr = 3, 0o120777 << 16
    with pytest.raises(DataError, match="the link 'way-out'"):
        unpack(zipped(tmp_path / "x.zip", [(info, "/etc")]), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(os.name == "nt", reason="links need rights on Windows")
def test_a_link_that_is_there_already(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out/a").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DataError, match="by a link"):
        unpack(zipped(tmp_path / "x.zip", [("a/b.txt", "x")]), tmp_path / "out")
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_broken_archives(tmp_path):
    (tmp_path / "x.zip").write_bytes(b"no archive")
    with pytest.raises(DataError, match="cannot be unpacked"):
        unpack(tmp_path / "x.zip", tmp_path / "out")
    good = zipped(tmp_path / "y.zip", GOOD).read_bytes()
    (tmp_path / "y.zip").write_bytes(good[: len(good) // 2])
    with pytest.raises(DataError, match="cannot be unpacked"):
        unpack(tmp_path / "y.zip", tmp_path / "out")
    good = tarred(tmp_path / "z.tar.gz", GOOD).read_bytes()
    (tmp_path / "z.tar.gz").write_bytes(good[: len(good) // 2])
    with pytest.raises(DataError, match="cannot be unpacked"):
        unpack(tmp_path / "z.tar.gz", tmp_path / "out")
    with zipfile.ZipFile(tmp_path / "w.zip", "w") as z:
        z.writestr("a.bin", DATA)
    (tmp_path / "w.zip").write_bytes(
        (tmp_path / "w.zip").read_bytes().replace(DATA[1000:1100], b"?" * 100, 1)
    )
    with pytest.raises(DataError, match="cannot be unpacked"):
        unpack(tmp_path / "w.zip", tmp_path / "out")
    assert not (tmp_path / "out/a.bin").exists()


def test_bombs_and_twins(tmp_path):
    with pytest.raises(DataError, match="more than 1000 bytes; nothing was unpacked"):
        unpack(zipped(tmp_path / "x.zip", [("a", b"0" * 5000)]), tmp_path / "out", limit=1000)
    with pytest.warns(UserWarning):
        zipped(tmp_path / "y.zip", [("a", b"1"), ("a", b"2")])
    with pytest.raises(DataError, match="the same name twice"):
        unpack(tmp_path / "y.zip", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def both(folder):
    """All that is in a folder: names, and the contents of files."""
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() if p.is_file() else None for p in folder.rglob("*")
    }


SMALL = {"a/b.txt": b"hello", "c.txt": b"", "d.bin": bytes(range(256)) * 3}
PACKED = {
    "x.tar": bytes,
    "x.tar.gz": lambda b: gzip.compress(b, mtime=0),
    "x.tar.bz2": bz2.compress,
    "x.tar.xz": lzma.compress,
}


def tar_bytes(members=None):
    """A small tar, with a folder of its own; its blocks of headers are at the offsets that come with it."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as t:
        folder = tarfile.TarInfo("a")
        folder.type = tarfile.DIRTYPE
        t.addfile(folder)
        for name, content in (members or SMALL).items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            t.addfile(info, io.BytesIO(content))
    raw.seek(0)
    with tarfile.open(fileobj=raw) as t:
        headers = [m.offset for m in t]
    return raw.getvalue(), headers


def archive_bytes(name):
    if name != "x.zip":
        return PACKED[name](tar_bytes()[0])
    raw = io.BytesIO()
    with zipfile.ZipFile(raw, "w", zipfile.ZIP_DEFLATED) as z:
        z.writestr("a/", b"")
        for member, content in SMALL.items():
            z.writestr(member, content)
    return raw.getvalue()


def all_or_nothing(tmp_path, name, content):
    """Unpack into a folder that has files already: all of it comes, or an error and nothing. Tells which."""
    out = tmp_path / "out"
    if not out.exists():
        (out / "a").mkdir(parents=True)
        (out / "a/b.txt").write_bytes(b"old")
        (out / "mine.txt").write_bytes(b"mine")
    before = both(out)
    (tmp_path / name).write_bytes(content)
    try:
        unpack(tmp_path / name, out)
    except DataError as e:
        assert str(tmp_path / name) in str(e)
        assert both(out) == before
        good = False
    else:
        assert both(out) == before | SMALL
        (out / "a/b.txt").write_bytes(b"old")
        for member in ("c.txt", "d.bin"):
            (out / member).unlink()
        good = True
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", name]
    return good


ARCHIVES = ["x.tar", "x.tar.gz", "x.tar.bz2", "x.tar.xz", "x.zip"]


def places(name, whole):
    """Places in an archive to cut or to spoil: many of them, and all borders of a tar's blocks."""
    step = max(1, len(whole) // (20 if name == "x.tar" else 50))
    borders = [i for b in range(0, len(whole) + 1, 512) for i in (b - 1, b, b + 1)] if name == "x.tar" else []
    return sorted({i for i in [*range(0, len(whole), step), *borders, len(whole) - 1] if 0 <= i < len(whole)})


@pytest.mark.parametrize("name", ARCHIVES)
def test_an_archive_that_is_cut_anywhere_unpacks_whole_or_not_at_all(tmp_path, name):
    whole = archive_bytes(name)
    assert all_or_nothing(tmp_path, name, whole)
    cut = [all_or_nothing(tmp_path, name, whole[:i]) for i in places(name, whole)]
    assert cut.count(False) > 15 and not any(cut[: len(cut) // 4])


@pytest.mark.parametrize("name", ARCHIVES)
def test_an_archive_with_a_flipped_bit_unpacks_right_or_not_at_all(tmp_path, name):
    whole, chance = archive_bytes(name), random.Random(name)
    spots = places(name, whole)
    if (
        name == "x.tar"
    ):  # a tar has no checksum of its contents, only of its headers: that is what `fetch(sha256=)` is for
        headers = tar_bytes()[1]
        spots = [h + chance.randrange(512) for h in headers for _ in range(12)] + [
            i for i in spots if i > headers[-1] + 2000
        ]
    failed = 0
    for i in spots:
        spoiled = bytearray(whole)
        spoiled[i] ^= 1 << chance.randrange(8)
        failed += not all_or_nothing(tmp_path, name, bytes(spoiled))
    assert failed > 15


@pytest.mark.parametrize("name", ARCHIVES[1:])
def test_one_flipped_bit_in_a_large_file_is_seen(tmp_path, name):
    noise = random.Random(0).randbytes(200_000)
    if name == "x.zip":
        zipped(tmp_path / name, [("noise", noise)])
    else:
        (tmp_path / name).write_bytes(PACKED[name](tar_bytes({"noise": noise})[0]))
    spoiled = bytearray((tmp_path / name).read_bytes())
    for i in range(1000, len(spoiled), 25_000):
        spoiled[i] ^= 4
        (tmp_path / name).write_bytes(spoiled)
        spoiled[i] ^= 4
        with pytest.raises(DataError, match="nothing was unpacked"):
            unpack(tmp_path / name, tmp_path / "out")
        assert not (tmp_path / "out").exists()


def test_a_tar_that_ends_between_two_members_is_refused(tmp_path):
    whole, headers = tar_bytes()
    for i in headers[1:]:
        (tmp_path / "x.tar").write_bytes(whole[:i])
        with pytest.raises(DataError, match="ends without the end marker"):
            unpack(tmp_path / "x.tar", tmp_path / "out")
        assert not (tmp_path / "out").exists()


def test_a_second_tar_behind_the_first_is_not_lost_in_silence(tmp_path):
    (tmp_path / "x.tar").write_bytes(tar_bytes()[0] + tar_bytes({"e.txt": b"more"})[0])
    with pytest.raises(DataError, match="more data behind its end marker"):
        unpack(tmp_path / "x.tar", tmp_path / "out")


def test_a_tar_that_ends_in_a_zip_is_a_tar(tmp_path):
    inner = zipped(tmp_path / "inner.zip", [("z.txt", b"z")]).read_bytes()
    (tmp_path / "x.tar").write_bytes(tar_bytes({"inner.zip": inner})[0])
    assert [p.name for p in unpack(tmp_path / "x.tar", tmp_path / "out")] == ["inner.zip"]


@pytest.mark.parametrize("pack, name", [(zipped, "x.zip"), (tarred, "x.tar.gz")])
def test_temporary_names_meet_neither_links_nor_members(tmp_path, pack, name):
    (tmp_path / "outside.txt").write_bytes(b"mine")
    (tmp_path / "out").mkdir()
    if os.name != "nt":
        (tmp_path / "out/a.txt.part").symlink_to(tmp_path / "outside.txt")
    unpack(pack(tmp_path / name, [("a.txt", b"new")]), tmp_path / "out")
    assert (tmp_path / "outside.txt").read_bytes() == b"mine" and (
        tmp_path / "out/a.txt"
    ).read_bytes() == b"new"
    assert not (tmp_path / "out/a.txt").is_symlink()
    unpack(pack(tmp_path / name, [("b.txt.part", b"part"), ("b.txt", b"whole")]), tmp_path / "two")
    assert both(tmp_path / "two") == {"b.txt.part": b"part", "b.txt": b"whole"}


@pytest.mark.parametrize("members", [["a", "a/b"], ["a/b", "a"], ["a/b/c", "a/b"], ["a", "a/b/c"]])
@pytest.mark.parametrize("pack, name", [(zipped, "x.zip"), (tarred, "x.tar.gz")])
def test_a_name_that_is_a_file_and_a_folder(tmp_path, members, pack, name):
    pack(tmp_path / name, [(m, b"x") for m in members])
    with pytest.raises(DataError, match=f"found {members[1]!r}, a name that is a file and a folder"):
        unpack(tmp_path / name, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_is_in_the_folder_already_is_not_in_the_way_or_stays_as_it_is(tmp_path):
    (tmp_path / "out/a").mkdir(parents=True)
    (tmp_path / "out/c").write_bytes(b"mine")
    before = both(tmp_path / "out")
    for member in ("a", "c/d", "c/d/e"):
        with pytest.raises(DataError, match=f"'{member}'.*nothing was unpacked"):
            unpack(zipped(tmp_path / "x.zip", [("new", b"new"), (member, b"x")]), tmp_path / "out")
        assert both(tmp_path / "out") == before
    with pytest.raises(NotADirectoryError, match="c is a file"):
        unpack(tmp_path / "x.zip", tmp_path / "out/c")


@pytest.mark.skipif(os.name == "nt", reason="links need rights on Windows")
def test_links_in_the_folder_are_kept_or_refused(tmp_path):
    out = tmp_path / "out"
    (out / "store").mkdir(parents=True)
    (out / "store/real").write_bytes(b"old")
    (out / "store/real").chmod(0o600)
    (out / "in").symlink_to(out / "store/real")
    (tmp_path / "outside.txt").write_bytes(b"mine")
    (out / "way-out").symlink_to(tmp_path / "outside.txt")
    unpack(zipped(tmp_path / "x.zip", [("in", b"new")]), out)
    assert (out / "in").is_symlink() and (out / "store/real").read_bytes() == b"new"
    assert stat.S_IMODE((out / "store/real").stat().st_mode) == 0o600
    before = both(out)
    with pytest.raises(DataError, match="'way-out' leads out of .* by a link"):
        unpack(zipped(tmp_path / "x.zip", [("new", b"x"), ("way-out", b"x")]), out)
    with pytest.raises(DataError, match="two entries lead to one file"):
        unpack(zipped(tmp_path / "x.zip", [("in", b"1"), ("store/real", b"2")]), out)
    assert both(out) == before and (tmp_path / "outside.txt").read_bytes() == b"mine"


@pytest.mark.skipif(os.name == "nt", reason="no modes on Windows")
def test_modes_come_from_the_reader_not_from_the_archive(tmp_path):
    info = tarfile.TarInfo("run")
    info.mode, info.size = 0o6777, 1
    with tarfile.open(tmp_path / "x.tar", "w") as t:
        t.addfile(info, io.BytesIO(b"x"))
    (tmp_path / "usual").mkdir()
    (tmp_path / "usual/file").write_bytes(b"")
    [path] = unpack(tmp_path / "x.tar", tmp_path / "out")
    assert path.stat().st_mode == (tmp_path / "usual/file").stat().st_mode
    assert path.parent.stat().st_mode == (tmp_path / "usual").stat().st_mode


@pytest.mark.skipif(os.name == "nt", reason="Windows cannot open a folder")
def test_unpacked_names_last_through_a_power_cut(tmp_path, monkeypatch):
    seen = synced(monkeypatch)
    zipped(tmp_path / "x.zip", SMALL.items())
    for _ in range(2):  # a new folder, and one that is there
        seen.clear()
        unpack(tmp_path / "x.zip", tmp_path / "out")
        assert {inode(p) for p in (tmp_path / "out").rglob("*")} | {inode(tmp_path / "out")} <= seen


def test_interrupted_while_unpacking(tmp_path, monkeypatch):
    def stop(handle):
        raise KeyboardInterrupt

    zipped(tmp_path / "x.zip", GOOD)
    monkeypatch.setattr(os, "fsync", stop)
    with pytest.raises(KeyboardInterrupt):
        unpack(tmp_path / "x.zip", tmp_path / "deep/out")
    assert [p.name for p in tmp_path.iterdir()] == ["x.zip"]


def test_a_zip_that_says_less_than_it_holds(tmp_path):
    whole = zipped(tmp_path / "x.zip", [("a", b"0" * 5000)]).read_bytes()
    (tmp_path / "x.zip").write_bytes(whole.replace((5000).to_bytes(4, "little"), (500).to_bytes(4, "little")))
    with pytest.raises(DataError, match="'a' cannot be unpacked"):
        unpack(tmp_path / "x.zip", tmp_path / "out", limit=1000)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", PACKED)
def test_the_limit_holds_for_every_kind_and_can_be_raised(tmp_path, name):
    (tmp_path / name).write_bytes(PACKED[name](tar_bytes({"a/1": bytes(60_000), "a/2": bytes(60_000)})[0]))
    with pytest.raises(DataError, match="unpacks to more than 100000 bytes"):
        unpack(tmp_path / name, tmp_path / "out", limit=100_000)
    assert not (tmp_path / "out").exists()
    assert len(unpack(tmp_path / name, tmp_path / "out", limit=120_000)) == 2


def test_a_header_that_never_ends(tmp_path):
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 70 << 20
    packer = gzip.open(tmp_path / "x.tar.gz", "wb", compresslevel=1)
    packer.write(info.tobuf(tarfile.GNU_FORMAT))
    for _ in range(70):
        packer.write(bytes(1 << 20))
    packer.close()
    with pytest.raises(DataError, match="found more than 64 MiB that belong to no file"):
        unpack(tmp_path / "x.tar.gz", tmp_path / "out")


def test_a_large_file_is_no_header_that_never_ends(tmp_path):
    info = tarfile.TarInfo("large")
    info.size = 70 << 20
    packer = gzip.open(tmp_path / "x.tar.gz", "wb", compresslevel=1)
    packer.write(info.tobuf())
    for _ in range(70):
        packer.write(bytes(1 << 20))
    packer.write(bytes(10_240))
    packer.close()
    [path] = unpack(tmp_path / "x.tar.gz", tmp_path / "out")
    assert path.stat().st_size == 70 << 20


def test_a_zip_that_says_more_than_it_holds(tmp_path):
    whole = zipped(tmp_path / "x.zip", [("a", b"0" * 5000)]).read_bytes()
    (tmp_path / "x.zip").write_bytes(
        whole.replace((5000).to_bytes(4, "little"), (6000).to_bytes(4, "little"))
    )
    with pytest.raises(DataError, match="'a' has 5000 bytes; expected 6000"):
        unpack(tmp_path / "x.zip", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_zip_that_promises_more_entries_than_it_has(tmp_path):
    whole = bytearray(zipped(tmp_path / "x.zip", [("a", b"1"), ("b", b"2")]).read_bytes())
    whole[-12] = 3
    (tmp_path / "x.zip").write_bytes(whole)
    with pytest.raises(DataError, match="found 2 entries; expected 3"):
        unpack(tmp_path / "x.zip", tmp_path / "out")
    whole[-12] = 2
    (tmp_path / "x.zip").write_bytes(whole + b"\n")  # as some mail programs do
    assert len(unpack(tmp_path / "x.zip", tmp_path / "out")) == 2


@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME])
def test_a_size_below_zero(tmp_path, kind):
    info = tarfile.TarInfo("a")
    info.type, info.size = kind, -1024
    (tmp_path / "x.tar").write_bytes(info.tobuf(tarfile.GNU_FORMAT) + bytes(10_240))
    with pytest.raises(DataError, match="x.tar: .*nothing was unpacked"):
        unpack(tmp_path / "x.tar", tmp_path / "out")


@pytest.mark.parametrize("evil", ["", ".", "a\0b", "n" * 300, "\udcff" * 100])
def test_names_that_no_file_can_have(tmp_path, evil):
    info = tarfile.TarInfo(evil)
    info.size = 1
    with tarfile.open(tmp_path / "x.tar", "w", format=tarfile.GNU_FORMAT, errors="surrogateescape") as t:
        t.addfile(info, io.BytesIO(b"x"))
    try:
        unpack(tmp_path / "x.tar", tmp_path / "out")
    except DataError as e:
        assert str(tmp_path / "x.tar") in str(e) and str(e).isprintable()
    else:
        assert [p.read_bytes() for p in (tmp_path / "out").iterdir()] == [b"x"]
