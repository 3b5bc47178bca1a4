"""Downloads against a server on this machine that misbehaves in every way we know of."""
import hashlib
import io
import os
import tarfile
import threading
import time
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from kpnb import datasets
from kpnb.datasets import DataError, DownloadError, fetch, fetch_all, imm_manifest, load, unpack

DATA = bytes((i * 31 + i // 7) % 256 for i in range(300_000))
SHA = hashlib.sha256(DATA).hexdigest()
QUICK = dict(progress=False, timeout=0.6, pause=0.01)


class Handler(BaseHTTPRequestHandler):
    """The first part of the path says how to misbehave; `server.asked` records (path, Range)."""

    protocol_version = "HTTP/1.0"

    def log_message(self, *args): pass

    def do_GET(self):
        kind = self.path.split("/")[1]
        self.server.asked.append((kind, self.headers.get("Range")))
        self.times = sum(k == kind for k, _ in self.server.asked)
        try: getattr(self, "serve_" + kind)()
        except (BrokenPipeError, ConnectionResetError): pass

    def start(self, code=200, length=None, **headers):
        self.send_response(code)
        if length is not None: self.send_header("Content-Length", str(length))
        for k, v in headers.items(): self.send_header(k.replace("_", "-"), v)
        self.end_headers()

    def wanted(self):
        asked = self.headers.get("Range")
        return int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0

    def send(self, data=DATA, upto=None):
        begin = self.wanted()
        if begin >= len(data): return self.start(416, 0, Content_Range=f"bytes */{len(data)}")
        if begin: self.start(206, len(data) - begin, Content_Range=f"bytes {begin}-{len(data) - 1}/{len(data)}")
        else: self.start(200, len(data))
        self.wfile.write(data[begin:upto])

    def serve_good(self): self.send()
    def serve_truncates(self): self.send(upto=self.wanted() + 120_000)
    def serve_hopeless(self): self.send(upto=1000 if not self.wanted() else self.wanted())
    def serve_corrupts(self): self.send(DATA[:5000] + b"?" + DATA[5001:])
    def serve_once(self): self.send(DATA[:5000] + b"?" + DATA[5001:] if self.times == 1 else DATA)
    def serve_missing(self): self.send_error(404)
    def serve_busy(self): self.send_error(503) if self.times == 1 else self.send()
    def serve_short(self): self.send(DATA[:-1])
    def serve_long(self): self.start(200); self.wfile.write(DATA + b"more")
    def serve_html(self): self.send(b"<html>Please log in</html>")
    def serve_unknown(self): self.start(200); self.wfile.write(DATA)
    def serve_redirect(self): self.start(302, 0, Location="/good")
    def serve_circle(self): self.start(302, 0, Location="/circle")
    def serve_tofile(self): self.start(302, 0, Location="file:///etc/hostname")
    def serve_toftp(self): self.start(302, 0, Location="ftp://127.0.0.1/x")

    def serve_ignores(self):  # knows no Range: always the whole file from its beginning, cut off the first time
        self.start(200, len(DATA)); self.wfile.write(DATA if self.times > 1 else DATA[:100_000])

    def serve_lies(self):  # answers a Range with another part of the file
        if not self.wanted(): return self.send(upto=100_000) if self.times == 1 else self.send()
        self.start(206, len(DATA) - 10, Content_Range=f"bytes 10-{len(DATA) - 1}/{len(DATA)}"); self.wfile.write(DATA[10:])

    def serve_stalls(self):
        self.start(200, len(DATA)); self.wfile.write(DATA[:40_000]); self.server.released.wait(20)

    def serve_silent(self): self.server.released.wait(20)

    def serve_trickles(self):
        self.start(200, len(DATA))
        for i in range(200):
            self.wfile.write(DATA[i:i + 1]); self.wfile.flush()
            if self.server.released.wait(0.1): return

    def serve_chunks(self):
        self.protocol_version = "HTTP/1.1"
        self.start(200, Transfer_Encoding="chunked", Connection="close")
        for i in range(0, len(DATA), 50_000): self.wfile.write(b"%x\r\n" % len(DATA[i:i + 50_000]) + DATA[i:i + 50_000] + b"\r\n")
        self.wfile.write(b"0\r\n\r\n")

    def serve_brokenchunks(self):
        self.protocol_version = "HTTP/1.1"
        self.start(200, Transfer_Encoding="chunked", Connection="close")
        self.wfile.write(b"%x\r\n" % 50_000 + DATA[:20_000])

    def serve_imm(self):  # a folder of small files
        self.send(self.path.encode() * 50)


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1"); monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    s = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    s.daemon_threads, s.asked, s.released = True, [], threading.Event()
    s.at = lambda kind: f"http://127.0.0.1:{s.server_port}/{kind}"
    threading.Thread(target=s.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    yield s
    s.released.set(); s.shutdown(); s.server_close()


def refused(*args, **kw):
    """Fetch what cannot be fetched: the message, and the time that it took."""
    begin = time.monotonic()
    with pytest.raises(DownloadError) as e: fetch(*args, **{**QUICK, **kw})
    assert time.monotonic() - begin < 15
    return str(e.value)


def test_a_good_download(server, tmp_path):
    path = fetch(server.at("good"), tmp_path / "deep/folder/x.bin", len(DATA), SHA, **QUICK)
    assert path.read_bytes() == DATA and sorted(p.name for p in path.parent.iterdir()) == ["x.bin"]


def test_a_right_file_is_not_asked_for_again(server, tmp_path):
    for _ in range(2): fetch(server.at("good"), tmp_path / "x", len(DATA), SHA.upper(), **QUICK)
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


def test_a_later_call_goes_on(server, tmp_path):
    refused(server.at("truncates"), tmp_path / "x", len(DATA), SHA, attempts=1)
    assert not (tmp_path / "x").exists() and (tmp_path / "x.part").stat().st_size == 120_000
    assert fetch(server.at("good"), tmp_path / "x", len(DATA), SHA, **QUICK).read_bytes() == DATA
    assert server.asked[-1] == ("good", "bytes=120000-") and not (tmp_path / "x.part").exists()


@pytest.mark.parametrize("junk", [b"?" * 1000, b"?" * len(DATA), b"?" * (len(DATA) + 5)])
@pytest.mark.parametrize("size", [len(DATA), None])
def test_a_corrupt_part_does_not_poison_the_next_try(server, tmp_path, junk, size):
    (tmp_path / "x.part").write_bytes(junk)
    assert fetch(server.at("good"), tmp_path / "x", size, SHA, **QUICK).read_bytes() == DATA


def test_a_complete_part_only_needs_its_name(server, tmp_path):
    (tmp_path / "x.part").write_bytes(DATA)
    assert fetch(server.at("missing"), tmp_path / "x", len(DATA), SHA, **QUICK).read_bytes() == DATA
    assert server.asked == []


@pytest.mark.parametrize("kind", ["ignores", "lies", "busy", "redirect", "chunks", "unknown"])
def test_servers_that_can_be_lived_with(server, tmp_path, kind):
    assert fetch(server.at(kind), tmp_path / "x", len(DATA), SHA, **QUICK).read_bytes() == DATA


@pytest.mark.parametrize("kind, reason", [
    ("missing", "HTTP 404"), ("corrupts", "found SHA-256"), ("short", "has a file of 299999 bytes; expected 300000"), ("long", "sends more than the expected 300000 bytes"),
    ("html", "has a file of 26 bytes; expected 300000"), ("stalls", "stalled: no answer for 0.6 s"), ("silent", "stalled: no answer for 0.6 s"),
    ("trickles", "stalled: "), ("circle", "HTTP 302"), ("tofile", "HTTP 302"), ("toftp", "unknown url type"), ("hopeless", "broke off after 1000 of 300000"),
    ("brokenchunks", "IncompleteRead")])
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
    assert fetch([server.at("stalls"), server.at("good")], tmp_path / "x", len(DATA), SHA, attempts=1, **QUICK).read_bytes() == DATA
    assert server.asked[-1] == ("good", "bytes=40000-")


def test_an_address_without_a_server(tmp_path):
    assert "http://127.0.0.1:1/x" in refused("http://127.0.0.1:1/x", tmp_path / "x", attempts=2)


def test_arguments(tmp_path):
    for url in ("file:///etc/hosts", "ftp://127.0.0.1/x", "/etc/hosts"):
        with pytest.raises(ValueError, match="expected http:// or https://"): fetch(url, tmp_path / "x")
    with pytest.raises(ValueError, match="64 hexadecimal digits"): fetch("http://127.0.0.1/x", tmp_path / "x", sha256="abc")
    with pytest.raises(DownloadError, match="no address"): fetch([], tmp_path / "x")


def test_killed_in_the_middle_leaves_no_file(server, tmp_path, monkeypatch):
    def interrupted(response, f, *rest): f.write(response.read1(50_000)); raise KeyboardInterrupt
    with monkeypatch.context() as m:
        m.setattr(datasets, "_copy", interrupted)
        with pytest.raises(KeyboardInterrupt): fetch(server.at("good"), tmp_path / "x", len(DATA), SHA, **QUICK)
    assert not (tmp_path / "x").exists()
    assert fetch(server.at("good"), tmp_path / "x", len(DATA), SHA, **QUICK).read_bytes() == DATA


def test_progress_is_shown(server, tmp_path, capsys):
    fetch(server.at("good"), tmp_path / "x.bin", len(DATA), SHA, **{**QUICK, "progress": True})
    assert "x.bin" in capsys.readouterr().err


def test_many_files(server, tmp_path):
    files = [(server.at(f"imm/{i}"), tmp_path / f"{i}", None, hashlib.sha256(f"/imm/{i}".encode() * 50).hexdigest()) for i in range(20)]
    assert [p.name for p in fetch_all(files, progress=False, timeout=5)] == [str(i) for i in range(20)]
    asked = len(server.asked)
    fetch_all(files, progress=False, timeout=5)
    assert len(server.asked) == asked


def test_many_files_give_up_early(server, tmp_path):
    files = [(server.at("missing"), tmp_path / f"{i}", None, SHA) for i in range(200)]
    with pytest.raises(DownloadError, match="200 of 200 files are missing. Call again to go on."): fetch_all(files, progress=False, timeout=5, pause=0)
    assert len(server.asked) <= 20


def test_load_downloads_only_what_is_missing(server, tmp_path, monkeypatch):
    base = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(datasets, "_RAW", base)
    asked = []
    monkeypatch.setattr(datasets, "fetch_all", lambda files: asked.extend(files))
    (tmp_path / "imm_face_db").mkdir()
    (tmp_path / "imm_face_db/01-1m.jpg").write_bytes(b"my own version")
    with pytest.raises(DataError, match="01-1m"): load("imm", tmp_path, download=True)  # nothing came, and my file is no picture
    assert len(asked) == 479 and (tmp_path / "imm_face_db/01-1m.jpg").read_bytes() == b"my own version"
    url, path, size, sha = asked[0]
    assert url.startswith(base) and path.parent == tmp_path / "imm_face_db" and path.name == url.rsplit("/", 1)[1]
    assert (path.name, size, sha) in imm_manifest()


def test_nothing_is_downloaded_unasked(tmp_path, monkeypatch):
    def never(*args, **kw): raise AssertionError("a download")
    for name in ("fetch", "fetch_all", "_opener"): monkeypatch.setattr(datasets, name, never)
    for source in datasets.SOURCES.values(): monkeypatch.setattr(source, "fetch", never)
    for name in datasets.SOURCES:
        with pytest.raises(FileNotFoundError): load(name, tmp_path / "none")
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("name", [n for n, s in datasets.SOURCES.items() if s.fetch is None])
def test_what_may_not_be_downloaded(tmp_path, name):
    with pytest.raises(PermissionError, match="is not downloaded by kpnb") as e: load(name, tmp_path, download=True)
    assert "http" in str(e.value) and str(tmp_path) in str(e.value)


# Archives

def zipped(path, members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as z:
        for name, content in members: z.writestr(name, content)
    return path


def tarred(path, members):
    with tarfile.open(path, "w:gz") as t:
        for m in members:
            if isinstance(m, tarfile.TarInfo): t.addfile(m); continue
            info = tarfile.TarInfo(m[0]); info.size = len(m[1]); t.addfile(info, io.BytesIO(m[1]))
    return path


GOOD = [("a/b.txt", b"hello"), ("c.txt", b""), ("./d/e/f.bin", DATA)]


@pytest.mark.parametrize("pack, name", [(zipped, "x.zip"), (tarred, "x.tar.gz")])
def test_good_archives(tmp_path, pack, name):
    out = unpack(pack(tmp_path / name, GOOD), tmp_path / "out")
    assert [p.read_bytes() for p in out] == [c for _, c in GOOD]
    assert sorted(p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*") if p.is_file()) == ["a/b.txt", "c.txt", "d/e/f.bin"]
    unpack(tmp_path / name, tmp_path / "out")


@pytest.mark.parametrize("evil", ["../evil.txt", "a/../../evil.txt", "/tmp/kpnb-evil.txt", "..\\evil.txt", "C:\\evil.txt", "C:evil.txt", "\\evil.txt"])
@pytest.mark.parametrize("pack, name", [(zipped, "x.zip"), (tarred, "x.tar.gz")])
def test_names_that_leave_the_folder(tmp_path, evil, pack, name):
    before = set(tmp_path.rglob("*")) | {tmp_path / name}
    with pytest.raises(DataError, match="leads out of the folder; nothing was unpacked"): unpack(pack(tmp_path / name, [("fine.txt", b"x"), (evil, b"x")]), tmp_path / "out")
    assert set(tmp_path.rglob("*")) == before and not Path("/tmp/kpnb-evil.txt").exists()


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_links_and_devices_in_tar(tmp_path, kind):
    info = tarfile.TarInfo("way-out"); info.type, info.linkname = kind, "/etc"
    with pytest.raises(DataError, match="link or device 'way-out'"): unpack(tarred(tmp_path / "x.tar.gz", [info, ("way-out/passwd", b"x")]), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_links_in_zip(tmp_path):
    info = zipfile.ZipInfo("way-out"); info.create_system, info.external_attr = 3, 0o120777 << 16
    with pytest.raises(DataError, match="the link 'way-out'"): unpack(zipped(tmp_path / "x.zip", [(info, "/etc")]), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(os.name == "nt", reason="links need rights on Windows")
def test_a_link_that_is_there_already(tmp_path):
    (tmp_path / "out").mkdir(); (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out/a").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DataError, match="by a link"): unpack(zipped(tmp_path / "x.zip", [("a/b.txt", "x")]), tmp_path / "out")
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_broken_archives(tmp_path):
    (tmp_path / "x.zip").write_bytes(b"no archive")
    with pytest.raises(DataError, match="cannot be unpacked"): unpack(tmp_path / "x.zip", tmp_path / "out")
    good = zipped(tmp_path / "y.zip", GOOD).read_bytes()
    (tmp_path / "y.zip").write_bytes(good[:len(good) // 2])
    with pytest.raises(DataError, match="cannot be unpacked"): unpack(tmp_path / "y.zip", tmp_path / "out")
    good = tarred(tmp_path / "z.tar.gz", GOOD).read_bytes()
    (tmp_path / "z.tar.gz").write_bytes(good[:len(good) // 2])
    with pytest.raises(DataError, match="cannot be unpacked"): unpack(tmp_path / "z.tar.gz", tmp_path / "out")
    with zipfile.ZipFile(tmp_path / "w.zip", "w") as z: z.writestr("a.bin", DATA)
    (tmp_path / "w.zip").write_bytes((tmp_path / "w.zip").read_bytes().replace(DATA[1000:1100], b"?" * 100, 1))
    with pytest.raises(DataError, match="cannot be unpacked"): unpack(tmp_path / "w.zip", tmp_path / "out")
    assert not (tmp_path / "out/a.bin").exists()


def test_bombs_and_twins(tmp_path):
    with pytest.raises(DataError, match="more than 1000 bytes; nothing was unpacked"): unpack(zipped(tmp_path / "x.zip", [("a", b"0" * 5000)]), tmp_path / "out", limit=1000)
    with pytest.warns(UserWarning): zipped(tmp_path / "y.zip", [("a", b"1"), ("a", b"2")])
    with pytest.raises(DataError, match="the same name twice"): unpack(tmp_path / "y.zip", tmp_path / "out")
    assert not (tmp_path / "out").exists()
