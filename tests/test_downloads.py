"""Downloads against a server on this machine that misbehaves in every way we know of."""

import hashlib
import http.client
import inspect
import json
import os
import random
import stat
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from on_disk import DATA, inode, synced

from kpnb.downloads import DownloadError, fetch, fetch_all

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
