"""`KeypointCanvas` in a real browser.

Tested are where a click goes at any zoom and resolution, dragging, adding, removing, keys, names, overlays.
The page is a small notebook in a JupyterLab of its own, as in test_browser.py, whose tools and switches this
file shares.
"""

import io
import json
import re

import nbformat
import numpy as np
import pytest
from PIL import Image
from test_browser import Desk, Notebook, browser, lab, shots, tools, wait_for  # noqa: F401

W, H, SPOTS = 60, 40, [(7, 4), (31, 22), (59, 39), (0, 0)]  # (column, row) of the green pixels
SETUP = f"""
import json, math
import numpy as np
from kpnb.canvas import KeypointCanvas
from kpnb.live import live
from kpnb.style import figure

image = np.full(({H}, {W}, 3), 70, np.uint8)
for j, i in {SPOTS}: image[i, j] = (0, 255, 0)
canvas = KeypointCanvas(image, names=["nose"], label="four green pixels")
"""
LIVE = """
def where_it_is(points):
    "the place of a point"
    ax = figure(width=3, height=2)[1]
    ax.plot(*points["nose"], "o");\
 ax.set(xlim=(0, 60), ylim=(40, 0), title="{:.1f}, {:.1f}".format(*points["nose"]))
    return ax

live(where_it_is, points=KeypointCanvas(image, {"nose": (10, 10)}, grid=True));
"""
TELL = """
plain = lambda at: ["nan" if math.isnan(v) else v for v in at]
print("STATE" + json.dumps({"points": [[n, plain(at)] for n, at in canvas.points.items()],\
 "chosen": canvas.chosen, "zoom": canvas.zoom, "heard": heard}) + "END")
"""


class Page(Notebook):
    "A notebook with one canvas in its second cell."

    def cell(self, i, code):
        "Run code in cell i, without moving the focus for good."
        self.page.evaluate(
            """([i, code]) => {
            const n = window.jupyterapp.shell.currentWidget.content;
            n.activeCellIndex = i; n.activeCell.model.sharedModel.setSource(code) }""",
            [i, code],
        )
        self.execute("notebook:run-cell")
        wait_for(self.ran, 60, lambda: f"cell {i} does not end")
        assert not self.errors(), self.errors()

    def shown(self):
        "The points as the list below the picture says: name -> place, rounded."
        texts = self.page.locator(".kpnb-canvas").first.locator(".kpnb-list b").all_inner_texts()
        rows = [re.match(r"(.*): (?:x (.*), y ([-\d.]*)|not placed)", t).groups() for t in texts]
        return {n: ("nan", "nan") if x is None else (float(x), float(y)) for n, x, y in rows}

    def python(self):
        """What Python knows of the canvas once it is what the page shows.

        With it comes `heard`: each move of a point as (name, place).
        """
        same = lambda a, b: (
            a == b or ("nan" not in (a[0], b[0]) and max(abs(u - v) for u, v in zip(a, b)) < 0.06)
        )
        agree = lambda now, shown: (
            now["points"].keys() == shown.keys()
            and all(same(at, shown[n]) for n, at in now["points"].items())
        )
        chosen = lambda: (
            self.page.locator(".kpnb-canvas")
            .first.locator(".kpnb-list [aria-pressed=true] b")
            .all_inner_texts()
            or [": "]
        )[0].rpartition(": ")[0]
        return wait_for(
            lambda: now if agree(now := self.ask(), self.shown()) and now["chosen"] == chosen() else None,
            10,
            lambda: f"the page shows {self.shown()}, Python has {self.ask()}",
        )

    def ask(self):
        wait_for(lambda: self.status() == "idle", 20, lambda: "the kernel does not come to rest")
        self.cell(2, TELL.strip())
        text = self.page.locator(".jp-OutputArea-output").filter(has_text="STATE").last.inner_text()
        state = json.loads(re.search("STATE(.*)END", text, re.S)[1])
        return state | {"points": {n: tuple(at) for n, at in state["points"]}}

    @property
    def svg(self):
        return self.page.locator(".kpnb-canvas svg").first

    def says(self):
        return self.page.locator(".kpnb-canvas [role=status]").first.inner_text()

    def click(self, x, y, **kw):
        "A click at picture coordinates, by the box on the screen alone; only if the whole picture is shown."
        box = self.svg.bounding_box()
        self.svg.click(position={"x": x * box["width"] / W, "y": y * box["height"] / H}, **kw)


@pytest.fixture(scope="module")
def page(browser, lab, tmp_path_factory):  # noqa: F811
    cells = [
        nbformat.v4.new_code_cell(SETUP.strip()),
        nbformat.v4.new_code_cell("canvas"),
        nbformat.v4.new_code_cell("1"),
        nbformat.v4.new_code_cell("2"),
    ]
    nb = nbformat.v4.new_notebook(
        cells=cells,
        metadata={"kernelspec": {"name": "python3", "display_name": "python3", "language": "python"}},
    )
    nbformat.write(nb, lab.folder / "canvas_page.ipynb")
    page = Page(Desk(browser, lab), "canvas_page.ipynb")
    page.run()
    yield page
    page.close()


@pytest.fixture
def fresh(page):
    "The page with a new canvas: `fresh('arguments')`."

    def make(arguments="names=['nose'], label='four green pixels'"):
        page.cell(
            1,
            f"canvas, heard = KeypointCanvas(image, {arguments}), []\n"
            "canvas.observe(lambda c: heard.extend((n, at) for n, at in c['new'].items() "
            "if at != c['old'].get(n)), 'points')\n"
            "canvas",
        )
        page.svg.wait_for()
        page.svg.scroll_into_view_if_needed()
        return page

    return make


def green(page):
    "Centres of the green squares in a screenshot of the picture, in pixels of the page, with their widths."
    box = page.svg.bounding_box()
    a = np.asarray(
        Image.open(io.BytesIO(page.page.screenshot(clip=box, animations="disabled"))).convert("RGB")
    ).astype(int)
    on, scale = (a[..., 1] > 200) & (a[..., 0] < 60) & (a[..., 2] < 60), a.shape[1] / box["width"]
    found, seen = [], np.zeros_like(on)
    for y, x in zip(*on.nonzero()):
        if seen[y, x]:
            continue
        right, below = (
            x + int(np.argmin(np.append(on[y, x:], False))),
            y + int(np.argmin(np.append(on[y:, x], False))),
        )
        seen[y:below, x:right] = True
        found.append(
            (
                float((x + right) / 2 / scale + box["x"]),
                float((y + below) / 2 / scale + box["y"]),
                float((right - x) / scale),
            )
        )
    return found


@pytest.mark.parametrize("dpr", [1, 1.5, 2])
@pytest.mark.parametrize("zoom", [1, 2.7, 5])
def test_a_click_gives_the_centre_of_the_pixel(page, fresh, dpr, zoom):
    "Green pixels are found in a screenshot, clicked in their middle; Python must hear (j+0.5, i+0.5)."
    page = fresh(f"names=['nose'], zoom={zoom}")
    session = page.page.context.new_cdp_session(page.page)
    session.send(
        "Emulation.setDeviceMetricsOverride",
        {"width": 1400, "height": 1000, "deviceScaleFactor": dpr, "mobile": False},
    )
    try:
        assert page.page.evaluate("() => window.devicePixelRatio") == dpr
        targets = green(page)
        scale = page.svg.bounding_box()["width"] / W * zoom
        assert len(targets) == (4 if zoom == 1 else 1) and all(
            abs(size - scale) < 1.1 for _, _, size in targets
        ), targets
        found = []
        for x, y, _ in targets:
            page.page.mouse.click(x, y)
            found.append(page.python()["points"]["nose"])
    finally:
        session.send("Emulation.clearDeviceMetricsOverride")
    for x, y in found:
        error = min(max(abs(x - j - 0.5), abs(y - i - 0.5)) for j, i in SPOTS)
        assert error < 0.5 / scale + 0.01 <= 0.5, (x, y, error)
    assert len({(int(x), int(y)) for x, y in found} & set(SPOTS)) == len(targets)


def test_drag(page, fresh):
    """A drag takes the point along, keeps the grip, follows while moving, and stops at the edge.

    A fixed point stays.
    """
    page = fresh("{'a': (10, 10), 'b': (30, 20), 'stone': (45, 30)}, fixed=['stone']")
    box = page.svg.bounding_box()
    spot = lambda x, y: (box["x"] + x * 8, box["y"] + y * 8)
    mouse = page.page.mouse
    for start, end in [((30.5, 20.25), (40.5, 10.25)), ((10, 10), (-20, 55)), ((45, 30), (50, 35))]:
        mouse.move(*spot(*start))
        mouse.down()
        mouse.move(*spot((start[0] + end[0]) / 2, (start[1] + end[1]) / 2), steps=3)
        page.page.wait_for_timeout(300)
        mouse.move(*spot(*end), steps=3)
        mouse.up()
    state = page.python()
    assert state["points"] == {"a": (0, 40), "b": (40, 10), "stone": (45, 30)} and state["chosen"] == "a"
    assert len([n for n, _ in state["heard"] if n == "b"]) >= 2


def test_a_press_chooses_and_a_click_puts(page, fresh):
    """A click on another point chooses it; elsewhere it puts the chosen one.

    Points that wait are placed one after another.
    """
    page = fresh("{'a': (10, 10), 'b': (math.nan, math.nan), 'c': (math.nan, math.nan)}")
    assert page.python()["chosen"] == "b"
    page.click(10.5, 10.5)  # near a: what waits is placed all the same
    page.click(50, 30)
    state = page.python()
    assert state["points"] == {"a": (10, 10), "b": (10.5, 10.5), "c": (50, 30)} and state["chosen"] == "c"
    page.click(10, 10)
    assert page.python()["chosen"] == "a"
    page.click(20, 20)
    assert page.python()["points"]["a"] == (20, 20)


def test_keys(page, fresh):
    "Everything by keyboard, each step announced, and nothing of it reaches the notebook."
    page = fresh("{'a': (10, 10), 'b': (30, 20), 'c': (math.nan, math.nan)}, allow='clear'")
    cells = page.page.locator(".jp-Cell").count()
    page.svg.focus()
    for keys, name, at in [
        ("n", "a", (10, 10)),
        ("ArrowRight", "a", (11, 10)),
        ("Shift+ArrowDown", "a", (11, 20)),
        ("Alt+ArrowLeft", "a", (10.9, 20)),
        ("p p", "b", (30, 20)),
        ("Shift+ArrowRight Shift+ArrowRight Shift+ArrowRight Shift+ArrowRight", "b", (60, 20)),
        ("n Enter", "c", (30, 20)),
        ("ArrowUp", "c", (30, 19)),
    ]:
        for k in keys.split():
            page.page.keyboard.press(k)
        assert page.says() == f"{name}: x {at[0]:.1f}, y {at[1]:.1f}"
        state = page.python()
        assert (state["chosen"], state["points"][name]) == (name, at), keys
        page.svg.focus()
    for k in ("Delete", "ArrowLeft", "Delete", "n", "x", "d", "d", "b", "a", "z"):
        page.page.keyboard.press(k)
    state = page.python()
    assert (
        state["points"]["c"] == ("nan", "nan")
        and list(state["points"]) == ["a", "b", "c"]
        and page.page.locator(".jp-Cell").count() == cells
    )


def test_tab_walks_through_the_points(page, fresh):
    """Tab and Shift+Tab go from button to button, which choose and can be moved by arrows.

    Names are there for a screen reader.
    """
    page = fresh("{'a': (10, 10), 'b': (30, 20)}, label='two points'")
    page.svg.focus()
    for key, name in [("Tab", "a"), ("Tab", "b"), ("Shift+Tab", "a")]:
        page.page.keyboard.press(key)
        assert page.says().startswith(name + ":")
    page.page.keyboard.press("ArrowRight")
    assert page.python()["points"]["a"] == (11, 10)
    assert page.page.get_by_role("application", name="two points").count() == 1
    for label in ("zoom in", "zoom out", "show the whole picture", "a: x 11.0, y 10.0"):
        assert page.page.get_by_role("button", name=label).count() == 1, label
    assert page.page.locator(".kpnb-canvas [aria-live=polite]").count() == 1


def test_add_and_remove(page, fresh):
    "By button, by key, by Shift+click; names stay unique."
    page = fresh("{'point 1': (10, 10)}, allow='add'")
    page.page.get_by_role("button", name="add a point").click()
    page.click(20, 15)
    page.click(40, 30, modifiers=["Shift"])
    page.page.keyboard.press("a")
    state = page.python()
    assert (
        state["points"]
        == {"point 1": (10, 10), "point 2": (20, 15), "point 3": (40, 30), "point 4": ("nan", "nan")}
        and state["chosen"] == "point 4"
    )
    page.page.get_by_role("button", name="remove the chosen point").click()
    page.svg.focus()
    page.page.keyboard.press("p")
    page.page.keyboard.press("Backspace")
    state = page.python()
    assert list(state["points"]) == ["point 1", "point 3"] and page.page.locator(".kpnb-mark").count() == 2
    page.cell(3, "canvas.add('from Python', 5, 5)")
    assert page.page.locator(".kpnb-mark").count() == 3


def test_what_may_not_be_removed(page, fresh):
    page = fresh("{'a': (10, 10)}")
    page.svg.focus()
    page.page.keyboard.press("n")
    page.page.keyboard.press("Delete")
    page.page.keyboard.press("a")
    assert page.python()["points"] == {"a": (10, 10)} and "cannot be removed" in page.says()
    assert page.page.get_by_role("button", name="add a point").count() == 0


def test_zoom(page, fresh):
    """Buttons, keys and the wheel; the place under the pointer stays.

    Dragging the ground moves the view and no point; the view follows a point.
    """
    page = fresh("{'a': (50, 5)}")
    view = lambda: [float(v) for v in page.svg.get_attribute("viewBox").split()]
    assert view() == [0, 0, W, H]
    page.svg.focus()
    page.page.keyboard.press("+")
    assert page.python()["zoom"] == 1.5 and view()[2] == W / 1.5
    page.page.get_by_role("button", name="show the whole picture").click()
    box = page.svg.bounding_box()
    # a wheel's event knows whole pixels of the screen only, and the picture may begin between two
    x, y = round(box["x"] + box["width"] * 0.25), round(box["y"] + box["height"] * 0.5)
    across, along = (x - box["x"]) / box["width"], (y - box["y"]) / box["height"]
    page.page.mouse.move(x, y)
    page.page.keyboard.down("Control")
    page.page.mouse.wheel(0, -300)
    page.page.keyboard.up("Control")
    left, top, w, h = view()
    assert 20 < w < 24
    assert abs(left + across * (w - W)) < 0.05 and abs(top + along * (h - H)) < 0.05
    page.page.mouse.down()
    page.page.mouse.move(box["x"] + box["width"] * 0.5, box["y"] + box["height"] * 0.5, steps=4)
    page.page.mouse.up()
    assert abs(view()[0] - (left - 0.25 * w)) < 0.05 and page.python()["points"]["a"] == (50, 5)
    page.page.get_by_role("button", name=re.compile("^a:")).click()
    page.svg.focus()
    page.page.keyboard.press("ArrowLeft")
    x, y, w, h = view()
    assert x <= 49 <= x + w and y <= 5 <= y + h


def test_overlay_ellipse_and_picture(page, fresh, shots):  # noqa: F811
    """The overlay colours the picture where it is not 0, as strongly as its opacity says.

    The ellipse has its half-axes; another picture of another size fits.
    """
    page = fresh(
        "{'a': (30, 20)}, overlay=np.pad(np.ones((10, 15)), ((0, 0), (15, 0))), opacity=0.5, "
        "covariances={'a': [[9, 0], [0, 4]]}, sigmas=2, grid=True"
    )

    def grey(x, y):
        box = page.svg.bounding_box()
        return (
            Image.open(io.BytesIO(page.page.screenshot(clip=box)))
            .convert("RGB")
            .getpixel((int(x * box["width"] / W), int(y * box["height"] / H)))
        )

    left, right = grey(12.5, 30.5), grey(45.5, 30.5)
    page.page.locator(".kpnb-canvas").first.screenshot(path=str(shots / "canvas_overlay.png"))
    assert left == (70, 70, 70) and max(abs(a - b) for a, b in zip(left, right)) > 40, (left, right)
    page.cell(3, "canvas.opacity = 0")
    assert grey(45.5, 30.5) == (70, 70, 70)
    page.cell(3, "canvas.set_overlay(None); canvas.opacity = 1")
    assert grey(45.5, 30.5) == (70, 70, 70)
    size = page.page.locator(".kpnb-canvas ellipse").last.evaluate(
        "e => { const b = e.getBBox(); return [b.x, b.y, b.width, b.height] }"
    )
    assert np.allclose(size, [24, 16, 12, 8], atol=0.01)
    page.cell(3, "canvas.set_image(np.full((30, 90), 200, np.uint8), {'b': (80, 25)})")
    box = page.svg.bounding_box()
    assert abs(box["width"] / box["height"] - 3) < 0.02 and page.svg.get_attribute("viewBox") == "0 0 90 30"
    page.svg.click(position={"x": box["width"] / 2, "y": box["height"] / 2})
    assert np.allclose(page.python()["points"]["b"], (45, 15), atol=0.01)


def test_names_that_mean_something_to_a_browser_are_names(page, fresh):
    """Points called like what every object of JavaScript has, or like markup, are points as all others.

    They are shown, placed and drawn with their own ellipse.
    """
    page = fresh(
        "{'constructor': (10, 10), '__proto__': (20, 20), 'toString': (30, 30), "
        "'<img src=x>': (40, 10), 'a b': (50, 20)}, covariances={'__proto__': np.diag([9.0, 4.0])}"
    )
    drawn = page.page.locator(".kpnb-canvas").first.locator("ellipse")
    assert drawn.count() == 2 and {drawn.nth(i).get_attribute("rx") for i in range(2)} == {
        "6"
    }  # one ellipse of 2 sigma, with its white edge
    assert (
        list(page.shown()) == ["constructor", "__proto__", "toString", "<img src=x>", "a b"]
        and page.page.locator(".kpnb-canvas img").count() == 0
    )
    page.click(10, 10)
    page.click(12, 14)
    assert page.python()["points"]["constructor"] == (12, 14)
    page.click(40, 10)
    assert page.says().startswith("<img src=x>: x 40")


def test_live(page, fresh, shots):  # noqa: F811
    """A canvas as a control of `live`: the picture follows a key and a drag.

    The same place gives the same picture.
    """
    page = fresh()
    page.cell(3, LIVE.strip())
    root = page.page.locator(".widget-vbox:has(img)").last
    root.scroll_into_view_if_needed()
    picture = root.locator("img")
    source = lambda: picture.evaluate(
        "async i => Array.from(new Uint8Array(await (await fetch(i.src)).arrayBuffer())).join()"
    )
    wait_for(lambda: picture.get_attribute("alt"), 10, lambda: "the picture has no description")
    assert picture.get_attribute("alt") == "the place of a point"
    first = source()
    root.locator("svg").focus()
    page.page.keyboard.press("ArrowRight")
    wait_for(lambda: source() != first, 10, lambda: "the picture does not follow")
    root.screenshot(path=str(shots / "canvas_live.png"))
    page.page.keyboard.press("ArrowLeft")
    wait_for(lambda: source() == first, 10, lambda: "the picture does not come back")
    assert not page.errors()
