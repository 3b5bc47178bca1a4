"""The annotator in a real browser.

Clicks and buttons reach the files on the disk, and a killed kernel takes nothing with it.
The page is a small notebook in a JupyterLab of its own, as in test_browser.py and test_canvas.py, whose tools
and switches this file shares.
"""

import os
import signal

import nbformat
import pytest
from label_folders import label, picture, whole
from test_browser import Desk, browser, lab, shots, tools, wait_for  # noqa: F401
from test_canvas import Page

from kpnb.annotate import Annotator
from kpnb.labels import HIDDEN, SEEN, read_csv

NAMES = ["nose", "left_eye"]
SETUP = """
import os
from pathlib import Path
from kpnb.annotate import Annotator
annotator = Annotator({folder!r}, ["nose", "left_eye"], side=60)
print("PID", os.getpid(), "END")
"""


@pytest.fixture
def page(browser, lab, tmp_path):  # noqa: F811
    "A notebook with an annotator, on three pictures of 120×80 pixels that are shown at half their size."
    for i in range(3):
        picture(tmp_path / f"{i}.png", (80, 120), i)
    cells = [
        nbformat.v4.new_code_cell(c.strip())
        for c in (SETUP.format(folder=str(tmp_path)), "annotator", "1", "2")
    ]
    nbformat.write(
        nbformat.v4.new_notebook(
            cells=cells,
            metadata={"kernelspec": {"name": "python3", "display_name": "python3", "language": "python"}},
        ),
        lab.folder / "annotator_page.ipynb",
    )
    page = Page(Desk(browser, lab), "annotator_page.ipynb")
    page.run()
    page.svg.wait_for()
    yield page
    page.close()


def press(page, name):
    page.page.locator(".kpnb-annotator").get_by_role("button", name=name, exact=True).click()


def disk(folder, enough):
    "The labels on the disk, once they are as expected."
    rows = lambda: read_csv(folder / "keypoints.csv")[1] if (folder / "keypoints.csv").exists() else {}
    wait_for(lambda: enough(rows()), 20, lambda: f"on the disk: {rows()}")
    return rows()


def test_clicks_reach_the_disk(page, tmp_path, shots):  # noqa: F811
    """Two clicks, next, one click and `not visible`, skip: all on the disk at once.

    Then the kernel is killed, and nothing is missing.
    """
    page.click(20.5, 10.5)
    page.click(40.5, 30.5)  # in pixels of the small picture of 60×40
    rows = disk(tmp_path, lambda r: len(r) == 1 and len(r["0.png"].points) == 2)
    for n, (x, y) in {"nose": (41, 21), "left_eye": (81, 61)}.items():
        assert (
            max(abs(rows["0.png"].points[n][0] - x), abs(rows["0.png"].points[n][1] - y)) < 0.3
            and rows["0.png"].points[n][2] == SEEN
        )
    page.page.locator(".kpnb-annotator").screenshot(path=shots / "50_annotator.png")
    press(page, "next")
    head = page.page.locator(".kpnb-annotator").get_by_text("this is number 2")
    head.wait_for()
    page.svg.wait_for()
    wait_for(lambda: page.shown() == {"nose": ("nan", "nan"), "left_eye": ("nan", "nan")}, 20, page.shown)
    page.click(30, 20)
    disk(tmp_path, lambda r: "1.png" in r)
    wait_for(
        lambda: (
            page.page.locator(".kpnb-list [aria-pressed=true]").inner_text().strip().startswith("left_eye")
        ),
        10,
        lambda: "the next point is not chosen",
    )
    press(page, "not visible")
    rows = disk(tmp_path, lambda r: len(r["1.png"].points) == 2)
    assert rows["1.png"].points["left_eye"][2] == HIDDEN and abs(rows["1.png"].points["nose"][0] - 60) < 0.3
    press(page, "next")
    page.page.locator(".kpnb-annotator").get_by_text("this is number 3").wait_for()
    press(page, "skip")
    disk(tmp_path, lambda r: r.get("2.png", label(0)).skipped)
    press(page, "previous")
    page.page.locator(".kpnb-annotator").get_by_text("this is number 2").wait_for()
    wait_for(lambda: page.shown()["nose"] != ("nan", "nan"), 20, page.shown)
    assert max(abs(page.shown()["nose"][0] - 30), abs(page.shown()["nose"][1] - 20)) < 0.2
    out = page.page.locator(".jp-OutputArea-output").filter(has_text="PID").first.inner_text()
    if hasattr(signal, "SIGKILL"):
        os.kill(int(out.split()[1]), signal.SIGKILL)
    assert len(whole(tmp_path)[0]) == 3
    again = Annotator(tmp_path, NAMES)
    assert again.todo == [] and "2 of 2 pictures labelled, 1 skipped" in again.progress()
    # the server starts a new one
    wait_for(lambda: page.status() == "idle", 60, lambda: "the kernel does not come back")


def test_a_failed_save_is_shown_in_red(page, tmp_path):
    "The reader is told, keeps the labels, and the next button saves them."
    (tmp_path / "keypoints.journal").mkdir()  # nothing can be written under this name
    page.click(20, 10)
    alert = page.page.locator(".kpnb-annotator [role=alert]")
    alert.wait_for()
    assert "NOT SAVED" in alert.inner_text() and not (tmp_path / "keypoints.csv").exists()
    (tmp_path / "keypoints.journal").rmdir()
    press(page, "next")
    assert disk(tmp_path, lambda r: "0.png" in r)["0.png"].points["nose"][2] == SEEN
