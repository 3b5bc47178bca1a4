"""Archives that are cut, spoiled or malicious: all of one comes, or nothing and an error."""

import bz2
import gzip
import io
import lzma
import os
import random
import stat
import tarfile
import zipfile
from pathlib import Path

import pytest
from on_disk import DATA, both, inode, synced

from kpnb.archives import unpack
from kpnb.core import DataError


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
