"An exception inside `draw` of `live` is seen in a test run and on the page."

import base64
import io
import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from PIL import Image

DRAW = """
from kpnb.live import live
from kpnb.style import figure

def draw(x):
    "one bar"
    if x >= {bad}: raise ValueError(f"no answer for <x> = {{x}}")
    ax = figure(width=4, height=2)[1]
    ax.bar(["x"], [x])
    return ax
"""
WIDGET = "application/vnd.jupyter.widget-view+json"
STATE = "application/vnd.jupyter.widget-state+json"


def notebook(*cells):
    cells = [nbformat.v4.new_code_cell(c.strip()) for c in cells]
    return nbformat.v4.new_notebook(
        cells=cells,
        metadata={"kernelspec": {"name": "python3", "display_name": "python3", "language": "python"}},
    )


def executed(nb, folder):
    "The notebook after a run as a reader's, without IN_TEST."
    env = {k: v for k, v in os.environ.items() if k != "IN_TEST"}
    client = NotebookClient(
        nb, timeout=120, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    )
    return client.execute(env=env)


def bundles(nb):
    return [
        o.data
        for c in nb.cells
        for o in c.get("outputs", [])
        if o.output_type in ("display_data", "execute_result")
    ]


def states(nb):
    return [w["state"] for w in nb.metadata.widgets[STATE]["state"].values()]


def nbdev_test(nb, folder):
    "Run nbdev_test on one notebook in a small project of its own."
    (folder / "settings.ini").write_text(
        "[DEFAULT]\nlib_name = tiny\nnbs_path = .\nlib_path = tiny\nuser = nobody\n", encoding="utf-8"
    )
    nbformat.write(nb, folder / "page.ipynb")
    env = {k: v for k, v in os.environ.items() if k != "IN_TEST"} | {"MPLBACKEND": "agg"}
    program = Path(sys.executable).with_name("nbdev_test")
    return subprocess.run(
        [str(program), "--path", "page.ipynb", "--n_workers", "0"],
        cwd=folder,
        env=env,
        capture_output=True,
        text=True,
        timeout=200,
    )


@pytest.mark.parametrize(
    "call, text",
    [
        # at the end of the slider only
        ("live(draw, x=(0, 5))", "draw(x=5) failed: ValueError: no answer for <x> = 5"),
        ("live(draw, x=[5, 1])", "draw(x=5) failed"),  # at once
        ("live(lambda x: 'no picture', x=True)", "draw returned a value of type str"),
    ],
)
def test_a_test_run_fails(tmp_path, call, text):
    run = nbdev_test(notebook(DRAW.format(bad=5), call), tmp_path)
    assert run.returncode != 0, run.stdout + run.stderr
    assert text in run.stderr


def test_a_test_run_passes_without_an_error(tmp_path):
    run = nbdev_test(
        notebook(DRAW.format(bad=9), "v = live(draw, x=(0, 5))\nassert v.error is None"), tmp_path
    )
    assert run.returncode == 0, run.stdout + run.stderr


def test_the_page_shows_the_error(tmp_path):
    nb = executed(notebook(DRAW.format(bad=1), "live(draw, x=(0, 5))", "'the notebook goes on'"), tmp_path)
    (data, last) = bundles(nb)
    assert last["text/plain"] == "'the notebook goes on'"
    assert "image/png" not in data and "ValueError" in data["text/html"] and "#b00020" in data["text/html"]
    shown = [s for s in states(nb) if "no answer for &lt;x&gt; = 2" in str(s.get("value"))]
    assert (
        len(shown) == 1
        and "ValueError" in shown[0]["value"]
        and "#b00020" in shown[0]["value"]
        and "draw(x=2)" in shown[0]["value"]
    )


def test_the_page_keeps_a_picture(tmp_path):
    """One output, with the widget for those who can show it and a PNG for those who cannot.

    The state holds the same PNG.
    """
    nb = executed(notebook(DRAW.format(bad=9), "live(draw, x=(0, 5))"), tmp_path)
    (data,) = bundles(nb)
    png = base64.b64decode(data["image/png"])
    assert WIDGET in data and Image.open(io.BytesIO(png)).size == (400, 200)
    assert data[WIDGET]["model_id"] in nb.metadata.widgets[STATE]["state"]
    kept = [b["data"] for w in nb.metadata.widgets[STATE]["state"].values() for b in w.get("buffers", [])]
    assert png in [base64.b64decode(k) for k in kept]
    # JupyterLab cannot make the view of an Image that has a tooltip (ipywidgets 8.1): nothing would be shown
    assert [s.get("tooltip") for s in states(nb) if s["_model_name"] == "ImageModel"] == [None]


def test_the_page_follows_a_control_and_shows_its_error(tmp_path):
    nb = executed(
        notebook(
            DRAW.format(bad=4), "v = live(draw, x=(0, 5))", "v.controls['x'].value = 4", "print(v.error)"
        ),
        tmp_path,
    )
    assert nb.cells[-1].outputs[0].text.strip() == "no answer for <x> = 4"
    assert any("no answer for &lt;x&gt; = 4" in str(s.get("value")) for s in states(nb))
    assert len(bundles(nb)) == 1  # no figure slipped out as a second output


def test_shown_once_in_its_own_cell_and_again_in_another(tmp_path):
    nb = executed(notebook(DRAW.format(bad=9), "v = live(draw, x=(0, 5))\nv", "v", "1;"), tmp_path)
    assert [len(c.outputs) for c in nb.cells] == [0, 1, 1, 0]
