"""The installed course: what the reader wrote is never lost, and what is missing is said."""

import json
import random
import re
import shutil
from importlib import metadata

import pandas as pd
import pytest

import kpnb.course as course
from kpnb.core import DataError
from kpnb.course import Copied, check, copy_lessons, lab, lessons_folder, main


def lesson(*texts):
    cells = [{"cell_type": "code", "id": f"c{i}", "source": t} for i, t in enumerate(texts)]
    return json.dumps({"cells": cells})


def write(folder, **files):
    folder.mkdir(parents=True, exist_ok=True)
    for stem, text in files.items():
        (folder / f"{stem}.ipynb").write_text(text)
    return folder


@pytest.fixture
def one(tmp_path):
    return write(tmp_path / "one", a=lesson("1", "x"), b=lesson("1"))


@pytest.fixture
def two(tmp_path):
    return write(tmp_path / "two", a=lesson("2", "x"), b=lesson("2"), c=lesson("2"))


def texts(folder):
    return {p.name: p.read_text() for p in folder.glob("*.ipynb")}


def test_the_lessons_of_this_installation_are_whole():
    names = course._files(lessons_folder())
    assert "00_start_here.ipynb" in names and "images/noses.png" in names
    assert any(n.startswith("exercises/") for n in names) and any(n.startswith("workshop/") for n in names)
    assert not any(".ipynb_checkpoints" in n for n in names)


def test_a_second_copy_changes_nothing(tmp_path, one):
    assert copy_lessons(tmp_path / "mine", one, "1").new == ["a.ipynb", "b.ipynb"]
    before = texts(tmp_path / "mine")
    again = copy_lessons(tmp_path / "mine", one, "1")
    assert again.same == ["a.ipynb", "b.ipynb"] and not again.new + again.updated + list(again.beside)
    assert texts(tmp_path / "mine") == before == texts(one)


def test_the_readers_file_stays_and_the_new_version_comes_beside(tmp_path, one, two):
    mine = tmp_path / "mine"
    copy_lessons(mine, one, "1")
    write(mine, a=lesson("my answer", "x"))
    done = copy_lessons(mine, two, "2")
    assert (done.new, done.updated, done.beside) == (["c.ipynb"], ["b.ipynb"], {"a.ipynb": "a_2.ipynb"})
    assert done.cells == {"a.ipynb": 1}
    assert texts(mine)["a.ipynb"] == lesson("my answer", "x")
    assert texts(mine)["a_2.ipynb"] == texts(two)["a.ipynb"] and texts(mine)["b.ipynb"] == lesson("2")
    assert "a.ipynb is yours and stays" in str(done) and "a_2.ipynb (1 of its cells differ)" in str(done)
    assert set(texts(mine)) == {"a.ipynb", "a_2.ipynb", "b.ipynb", "c.ipynb"}


def test_work_on_the_present_version_is_no_reason_for_a_copy_beside(tmp_path, one):
    copy_lessons(tmp_path / "mine", one, "1")
    write(tmp_path / "mine", a=lesson("my answer"))
    assert not copy_lessons(tmp_path / "mine", one, "1").beside


def test_work_on_the_copy_beside_is_kept_too(tmp_path, one, two):
    mine = tmp_path / "mine"
    copy_lessons(mine, one, "1")
    write(mine, a=lesson("my answer"))
    copy_lessons(mine, two, "2")
    write(mine, a_2=lesson("another answer"))
    write(two, a=lesson("2 mended"))
    assert copy_lessons(mine, two, "2").beside == {"a.ipynb": "a_2_2.ipynb"}
    found = texts(mine)
    assert found["a.ipynb"] == lesson("my answer") and found["a_2.ipynb"] == lesson("another answer")
    assert found["a_2_2.ipynb"] == lesson("2 mended")


def test_a_file_that_was_there_before_is_the_readers(tmp_path, one):
    write(tmp_path / "mine", a="no notebook at all")
    done = copy_lessons(tmp_path / "mine", one, "1")
    assert texts(tmp_path / "mine")["a.ipynb"] == "no notebook at all" and done.beside == {
        "a.ipynb": "a_1.ipynb"
    }


def test_a_copy_that_was_cut_off_goes_on(tmp_path, one, two, monkeypatch):
    mine, real, left = tmp_path / "mine", course.write_safely, [2]
    copy_lessons(mine, one, "1")

    def full(path, data):
        if path.suffix == ".ipynb":
            left[0] -= 1
            if not left[0]:
                raise OSError("no space left on device")
        real(path, data)

    monkeypatch.setattr(course, "write_safely", full)
    with pytest.raises(OSError, match="no space"):
        copy_lessons(mine, two, "2")
    monkeypatch.undo()
    done = copy_lessons(mine, two, "2")
    assert not done.beside and texts(mine) == texts(two)


def test_nothing_that_a_reader_wrote_is_ever_lost(tmp_path):
    draw = random.Random(0)
    for trial in range(10):
        mine, written = tmp_path / f"mine{trial}", set()
        for step in range(12):
            source = write(tmp_path / "source", **{k: lesson(f"{k}{draw.randrange(3)}") for k in "abc"})
            copy_lessons(mine, source, str(draw.randrange(3)))
            if draw.random() < 0.6:
                path = draw.choice(sorted(mine.glob("*.ipynb")))
                written.discard(path.read_text())  # the reader's own change of the reader's own file
                path.write_text(lesson(f"mine {trial} {step}"))
                written.add(path.read_text())
            now = set(texts(mine).values())
            assert written <= now


@pytest.mark.parametrize("text", ["", "[]", '{"files": 3}', "\x00"])
def test_a_spoiled_record_is_named(tmp_path, one, text):
    copy_lessons(tmp_path / "mine", one, "1")
    (tmp_path / "mine" / ".kpnb.json").write_text(text)
    with pytest.raises(DataError, match="kpnb.json: not a record"):
        copy_lessons(tmp_path / "mine", one, "1")


def test_places_that_are_refused(tmp_path, one):
    (tmp_path / "file").write_text("x")
    with pytest.raises(NotADirectoryError, match="is a file"):
        copy_lessons(tmp_path / "file", one, "1")
    for place in (one, one / "inside"):
        with pytest.raises(ValueError, match="choose another folder"):
            copy_lessons(place, one, "1")


def test_lab_opens_jupyterlab_in_the_folder(tmp_path, one, monkeypatch):
    calls = []
    monkeypatch.setattr(course, "lessons_folder", lambda: one)
    monkeypatch.setattr(course.subprocess, "run", lambda *a, **kw: calls.append((a, kw)))
    assert isinstance(lab(tmp_path / "mine"), Copied)
    (words,), options = calls[0]
    assert words[1:3] == ["-m", "jupyterlab"] and options["cwd"] == (tmp_path / "mine").resolve()
    monkeypatch.setattr(course.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'kpnb\[lab\]'"):
        lab(tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_check_names_what_is_missing_or_too_old(monkeypatch, capsys):
    real = metadata.version
    versions = {"torch": "1.0", "jupyterlab": None}

    def version(name):
        if versions.get(name, "") is None:
            raise metadata.PackageNotFoundError(name)
        return versions.get(name) or real(name)

    assert check().fine.all() and main(["check"]) == 0
    monkeypatch.setattr(course.metadata, "version", version)
    table = check().set_index("part")
    assert isinstance(table, pd.DataFrame) and not table.fine["torch"] and not table.fine["jupyterlab"]
    assert table.found["jupyterlab"] == "missing" and table.fine["ipywidgets"]
    assert main(["check"]) == 1 and "NO" in capsys.readouterr().out


def test_check_says_when_the_disk_is_full(monkeypatch):
    monkeypatch.setattr(
        course.shutil, "disk_usage", lambda p: shutil._ntuple_diskusage(10**12, 10**12, 10**6)
    )
    table = check().set_index("part")
    assert not table.fine["free disk here"] and table.fine["torch"]


def test_the_command(tmp_path, one, monkeypatch, capsys):
    monkeypatch.setattr(course, "lessons_folder", lambda: one)
    assert (
        main(["lab", str(tmp_path / "mine"), "--no-launch"]) == 0 and (tmp_path / "mine" / "a.ipynb").exists()
    )
    (tmp_path / "file").write_text("")
    assert main(["lab", str(tmp_path / "file"), "--no-launch"]) == 2
    assert "is a file" in capsys.readouterr().err
    with pytest.raises(SystemExit) as e:
        main(["fly"])
    assert e.value.code == 2


def test_the_edition_for_students_has_solutions_that_run_and_cannot_be_read(tmp_path):
    "In every lesson: whatever defines a solution is sealed, nothing else is, and what is sealed is the same."
    copied = copy_lessons(tmp_path / "class", students=True)
    assert not any(n.startswith("exercises/") for n in copied.new)
    sealed = 0
    for path in lessons_folder().glob("*.ipynb"):
        ours = json.loads(path.read_text(encoding="utf-8"))["cells"]
        text = (tmp_path / "class" / path.name).read_text(encoding="utf-8")
        assert not re.search(r"def \w+_solution\b|# Solution", text), path.name
        for a, b in zip(ours, json.loads(text)["cells"], strict=True):
            before, after = "".join(a["source"]), "".join(b["source"])
            if "exec(unsealed(" in after:
                packed = re.search(r'unsealed\("(.*)"\)', after)[1]
                assert course.unsealed(packed) == before and b["outputs"] == []
                sealed += 1
            else:
                assert before.replace(course.SOLUTION, course.SEALED) == after
    assert sealed > 40


def test_a_sealed_solution_runs_where_it_stands(tmp_path):
    write(tmp_path / "one", a=lesson("# Solution\nanswer = 42", "answer + 1"))
    copy_lessons(tmp_path / "class", tmp_path / "one", "1", students=True)
    first, second = json.loads((tmp_path / "class" / "a.ipynb").read_text())["cells"]
    space = {}
    exec("".join(first["source"]), space)
    assert eval("".join(second["source"]), space) == 43 and "42" not in first["source"]


def test_students_keep_their_answers_when_the_solutions_come(tmp_path):
    write(tmp_path / "course", a=lesson("...", "# Solution\n1"))
    mine = tmp_path / "mine"
    copy_lessons(mine, tmp_path / "course", "1", students=True)
    again = copy_lessons(mine, tmp_path / "course", "1")
    assert again.updated == ["a.ipynb"] and not again.beside
    copy_lessons(mine, tmp_path / "course", "1", students=True)
    answer = json.loads((mine / "a.ipynb").read_text())
    answer["cells"][0]["source"] = "my answer"
    write(mine, a=json.dumps(answer))
    again = copy_lessons(mine, tmp_path / "course", "1")
    assert again.beside == {"a.ipynb": "a_1.ipynb"} and "my answer" in (mine / "a.ipynb").read_text()
