"""The journal: one line for each change, of a form that later versions of kpnb must read."""

import json
import os

import pytest
from label_folders import write

from kpnb.coco import to_coco
from kpnb.journal import Journal, read_labels
from kpnb.labels import SEEN, Label, to_csv


def test_the_lines_on_the_disk(tmp_path):
    "A size is (H, W) here, and [W, H] in the file."
    journal = Journal(tmp_path / "keypoints.csv")
    journal.start([None, None], tmp_path / "keypoints.csv")
    journal.append(journal.change_line("a", Label((120, 160), {"tip": (1, 2, SEEN)})))
    journal.append(journal.change_line("b.jpg", None) + journal.digest_line(["x", "y"]))
    lines = journal.path.read_text().splitlines()
    assert json.loads(lines[0])["written"] is True
    assert lines[1:] == [
        '{"file": "a", "label": {"size": [160, 120], "points": {"tip": [1.0, 2.0, 2]}, "skipped": false}}',
        '{"file": "b.jpg", "label": null}',
        '{"files": ["x", "y"]}',
    ]
    changes, known, wrong, end = journal.read()
    assert changes["a"].size == (120, 160) and changes["b.jpg"] is None
    assert {"x", "y"} <= known and wrong == [] and end == journal.path.stat().st_size


def test_a_write_that_fails_leaves_the_journal_as_it_was(tmp_path, monkeypatch):
    journal = Journal(tmp_path / "keypoints.csv")
    journal.start([None, None], tmp_path / "keypoints.csv")
    before = journal.path.read_bytes()

    def fail(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError):
        journal.append(journal.change_line("a.jpg", None))
    assert journal.path.read_bytes() == before and journal.end == len(before)


def test_labels_that_wait_in_the_journal_are_read_with_either_file(tmp_path):
    for kind, make in (("csv", to_csv), ("json", to_coco)):
        path = write(
            tmp_path / f"keypoints.{kind}", make(["tip"], {"a.jpg": Label((9, 9), {"tip": (1, 2, SEEN)})})
        )
    journal = Journal(path)
    journal.start([None, None], path)
    journal.append(journal.change_line("a.jpg", None) + journal.change_line("b.jpg", Label((9, 9))))
    for kind in ("csv", "json"):
        names, rows, notes = read_labels(tmp_path / f"keypoints.{kind}")
        assert (names, list(rows), notes) == (["tip"], ["b.jpg"], [])
