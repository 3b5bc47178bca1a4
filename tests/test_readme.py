"""README and the map: every lesson and workshop notebook is listed, and none that is gone."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
LESSONS = sorted((ROOT / "nbs").glob("[0-9][0-9]_*.ipynb"))
WORKSHOP = sorted((ROOT / "nbs" / "workshop").glob("[0-9][0-9]_*.ipynb"))


def section(title):
    "The text of README under a heading."
    return re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", README, re.M | re.S)[1]


def listed(title, folder):
    "Paths of the notebooks in a section's table, in their order, and what stands in the brackets."
    rows = "\n".join(line for line in section(title).splitlines() if line.startswith("|"))
    return re.findall(rf"\[`?([^\]`]+)`?\]\(({folder}/[^/)]+\.ipynb)\)", rows)


def test_the_workshop_is_listed_whole_each_notebook_once_and_none_that_is_gone():
    found = [path for _, path in listed("The workshop", "nbs/workshop")]
    there = [p.relative_to(ROOT).as_posix() for p in WORKSHOP]
    missing = [f"[{Path(p).stem[3:]}]({p})" for p in there if p not in found]
    assert not missing, f"README lists the workshop without {', '.join(missing)}"
    assert sorted(found) == there, f"gone, or listed twice: {sorted(set(found) - set(there)) or found}"


def test_workshop_notebooks_are_called_by_their_modules():
    for name, path in listed("The workshop", "nbs/workshop"):
        cells = json.loads((ROOT / path).read_text(encoding="utf-8"))["cells"]
        code = "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "code")
        assert name == re.search(r"^#\| default_exp (\S+)$", code, re.M)[1], path


def test_the_lessons_are_listed_in_their_order_and_by_their_numbers():
    rows = listed("The lessons", "nbs")
    assert [path for _, path in rows] == [p.relative_to(ROOT).as_posix() for p in LESSONS]
    for name, path in rows:
        assert name[:3] == Path(path).name[:2] + " ", f"{name!r} leads to {path}"


@pytest.mark.parametrize("path", LESSONS[1:], ids=lambda p: p.stem)
def test_the_map_finds_what_it_needs_in_the_first_cells_of_a_lesson(path):
    "`00_start_here` reads title, minutes and needed lessons from the notebooks themselves."
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    text = "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
    assert re.search(r"\*\*Time:?\*\*:? about \d+ minutes", text), "the box has no minutes"
    assert re.match(r"# \S", text), "no title"


def test_the_hours_of_readme_are_those_of_the_lessons():
    minutes = 0
    for path in LESSONS:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        text = "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
        times = re.findall(r"\*\*Time:?\*\*:? about (\d+) minutes", text)
        minutes += sum(map(int, times + re.findall(r"\*\*Exercise[^*]*?(\d+) minutes\)", text)))
    said = int(re.search(r"about (\d+) hours", README)[1])
    assert abs(said / (minutes / 60) - 1) < 0.2, f"README says {said} hours, the lessons {minutes / 60:.0f}"
