"""What the tests of downloads and archives ask of a disk."""

import os

DATA = bytes((i * 31 + i // 7) % 256 for i in range(300_000))


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


def both(folder):
    """All that is in a folder: names, and the contents of files."""
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() if p.is_file() else None for p in folder.rglob("*")
    }
