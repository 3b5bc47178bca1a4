"""Every visualiser in a real browser: JupyterLab runs the notebook, and keyboard and mouse move the controls.

Needs Playwright (`pip install playwright`) and a Chromium that is already on the machine (Debian: `apt-get install chromium`; no browser is downloaded). Without
them the tests are skipped, unless the environment variable KPNB_BROWSER is set: then they must run. Pictures of each visualiser go to the folder that
KPNB_SCREENSHOTS names.
"""
import hashlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

NBS = Path(__file__).resolve().parent.parent / "nbs"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"]

try:
    from playwright.sync_api import sync_playwright
except ImportError: sync_playwright = None

missing = [text for gone, text in ((sync_playwright is None, "Playwright (pip install playwright)"), (CHROMIUM is None, "Chromium (apt-get install chromium)")) if gone]
pytestmark = pytest.mark.skipif(bool(missing) and not os.environ.get("KPNB_BROWSER"), reason="not installed: " + ", ".join(missing))


def visualisers(path: Path) -> int:
    "How many visualisers a notebook shows: cells with a call of `live` at the start of a line."
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return sum(bool(re.search(r"^(\w+ = )?live\(", "".join(c["source"]), re.M)) for c in cells if c["cell_type"] == "code")


LESSONS = [p.name for p in sorted(NBS.glob("*.ipynb")) if visualisers(p)]


def test_lessons_are_found(): assert "00_start_here.ipynb" in LESSONS and visualisers(NBS / "00_start_here.ipynb") == 1


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    "A JupyterLab of its own, on this machine only, with a copy of the notebooks and the small budgets of a test run."
    home = tmp_path_factory.mktemp("lab")
    shutil.copytree(NBS, home / "nbs")
    write = lambda path, text: (path.parent.mkdir(parents=True, exist_ok=True), path.write_text(text, encoding="utf-8"))
    write(home / "config/labconfig/page_config.json", json.dumps({"disabledExtensions": {"@jupyterlab/apputils-extension:announcements": True}}))
    write(home / "config/lab/user-settings/@jupyterlab/notebook-extension/tracker.jupyterlab-settings", json.dumps({"windowingMode": "none"}))
    write(home / "ipython/profile_default/startup/budgets.py", "import kpnb.core\nkpnb.core.budget = lambda full, test: test\n")
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    env = {k: v for k, v in os.environ.items() if not k.startswith("JUPYTER") and k not in ("IN_TEST", "KPNB_DATA")}
    env |= {"JUPYTER_CONFIG_DIR": str(home / "config"), "JUPYTER_DATA_DIR": str(home / "data"), "JUPYTER_RUNTIME_DIR": str(home / "runtime"), "IPYTHONDIR": str(home / "ipython")}
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={port}", "--IdentityProvider.token=", "--ServerApp.password=",
               f"--ServerApp.root_dir={home / 'nbs'}", "--LabApp.expose_app_in_browser=True", f"--LabApp.workspaces_dir={home / 'workspaces'}"]
    with open(home / "log", "w", encoding="utf-8") as log, subprocess.Popen(command, env=env, cwd=home, stdout=log, stderr=subprocess.STDOUT) as server:
        try:
            wait_for(lambda: answers(f"http://127.0.0.1:{port}/api"), 60, lambda: "JupyterLab does not start: " + (home / "log").read_text(encoding="utf-8")[-2000:])
            yield f"http://127.0.0.1:{port}"
        finally: server.terminate()


def answers(url):
    try: return urllib.request.urlopen(url, timeout=2).status == 200
    except OSError: return False


def wait_for(condition, seconds, message):
    "The first true value of a condition; an error when the time is over."
    end = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > end: raise AssertionError(message())
        time.sleep(0.1)
    return value


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    "Chromium without a profile."
    with sync_playwright() as p:
        context = p.chromium.launch_persistent_context(str(tmp_path_factory.mktemp("profile")), executable_path=CHROMIUM, args=FLAGS, headless=True, viewport={"width": 1400, "height": 1000})
        yield context
        context.close()


class Visualiser:
    "One visualiser on the page."
    def __init__(self, page, root): self.page, self.root, self.image = page, root, root.locator("img").first

    def bytes(self):
        "A fingerprint of the picture."
        data = self.image.evaluate("async i => Array.from(new Uint8Array(await (await fetch(i.src)).arrayBuffer()))")
        return hashlib.sha256(bytes(data)).hexdigest()

    def settled(self, idle=0.4, seconds=30):
        "The fingerprint, once it has stayed the same for a while and the kernel is idle."
        last, since, end = self.bytes(), time.monotonic(), time.monotonic() + seconds
        while time.monotonic() < end:
            time.sleep(0.08)
            now = self.bytes()
            if now != last or kernel_status(self.page) != "idle": last, since = now, time.monotonic()
            elif time.monotonic() - since > idle: return now
        raise AssertionError(f"the picture does not come to rest within {seconds} s")

    def controls(self):
        "Moves there and back for each control, with its label."
        for box in self.root.locator(".widget-hbox").first.locator(".widget-inline-hbox, .widget-checkbox").all():
            label = (box.locator(".widget-label, .widget-label-basic").first.inner_text() if box.locator(".widget-label, .widget-label-basic").count() else "").strip()
            if (handle := box.locator(".noUi-handle")).count(): yield label, *slide(handle.first)
            elif (menu := box.locator("select")).count(): yield label, *choose(menu.first)
            elif (tick := box.locator("input[type=checkbox]")).count(): yield label, tick.first.click, tick.first.click
            else: yield label, None, None


def slide(handle):
    "Three arrow keys towards the end that is farther away, and three back."
    low, value, high = (float(handle.get_attribute(f"aria-value{k}")) for k in ("min", "now", "max"))
    there, back = ("ArrowRight", "ArrowLeft") if high - value >= value - low else ("ArrowLeft", "ArrowRight")

    def press(key):
        handle.focus()
        for _ in range(3): handle.press(key); time.sleep(0.03)
    return lambda: press(there), lambda: press(back)


def choose(menu):
    "Another option, and the old one."
    old, n = menu.evaluate("m => m.selectedIndex"), menu.locator("option").count()
    return lambda: menu.select_option(index=(old + 1) % n), lambda: menu.select_option(index=old)


def kernel_status(page):
    return page.evaluate("() => window.jupyterapp.shell.currentWidget.context.sessionContext.session?.kernel?.status")


SHOWN_ON_PURPOSE = "there is <no> answer at 5" # notebook 06 demonstrates what an error looks like


def errors_on(page):
    "The text of every red output and error message on the page."
    found = page.locator(".jp-RenderedText[data-mime-type='application/vnd.jupyter.error'], .jp-OutputArea-output [role=alert]").all_inner_texts()
    return [text for text in found if SHOWN_ON_PURPOSE not in text]


def run(page, url, name):
    "Open a notebook and run all its cells."
    page.goto(f"{url}/lab/workspaces/auto-{name[:2]}/tree/{name}?reset")
    page.wait_for_selector(".jp-Notebook .jp-Cell", timeout=60_000)
    wait_for(lambda: kernel_status(page) == "idle", 60, lambda: f"{name}: no kernel")
    done = page.evaluate("() => window.jupyterapp.commands.execute('notebook:run-all-cells')", None)
    assert done is not False, f"{name}: a cell failed: {errors_on(page)}"
    wait_for(lambda: kernel_status(page) == "idle", 120, lambda: f"{name}: the kernel does not come to rest")


def screenshot(v, name, number):
    "Keep a picture of the visualiser, if somebody wants it."
    if folder := os.environ.get("KPNB_SCREENSHOTS"):
        Path(folder).mkdir(parents=True, exist_ok=True)
        v.root.screenshot(path=str(Path(folder) / f"{name[:2]}_{number}.png"))


@pytest.mark.parametrize("name", LESSONS)
def test_visualisers(lab, browser, name):
    "Each control changes the picture, and back gives the identical picture; no error, no request to another machine."
    page, console, requests = browser.new_page(), [], []
    page.set_default_timeout(240_000)
    page.on("console", lambda m: console.append(m.text) if m.type == "error" else None)
    page.on("pageerror", lambda e: console.append(str(e)))
    page.on("request", lambda r: requests.append(r.url))
    run(page, lab, name)
    roots = page.locator(".jp-OutputArea-output .widget-vbox:has(img)")
    assert roots.count() >= visualisers(NBS / name), f"{name}: {roots.count()} visualisers on the page"
    for number in range(roots.count()):
        v = Visualiser(page, roots.nth(number))
        v.root.scroll_into_view_if_needed()
        drive(v, f"{name}, visualiser {number}")
        screenshot(v, name, number)
    assert not errors_on(page), f"{name}: {errors_on(page)}"
    away = [u for u in requests if not re.match(r"(https?|wss?)://(127\.0\.0\.1|localhost)[:/]|data:|blob:", u)]
    assert not away, f"{name} asks other machines: {away[:3]}"
    assert not console, f"{name}: errors in the browser's console: {console[:3]}"
    page.close()


def drive(v, where):
    "Move each control there and back."
    n = 0
    for label, there, back in v.controls():
        n += 1
        assert label, f"{where}: control {n} has no label"
        if there is None: continue # a text field
        before = v.settled()
        there(); after = v.settled()
        assert after != before, f"{where}: the control {label!r} changes nothing"
        assert not errors_on(v.page), f"{where}, {label!r}: {errors_on(v.page)}"
        back()
        assert v.settled() == before, f"{where}: going back with {label!r} does not give the same picture"
    assert n, f"{where} has no controls"


def test_mouse_drag(lab, browser):
    "A slider that is dragged with the mouse moves the picture too."
    page = browser.new_page()
    page.set_default_timeout(240_000)
    run(page, lab, "06_widgets.ipynb")
    v = Visualiser(page, page.locator(".jp-OutputArea-output .widget-vbox:has(img)").first)
    handle = v.root.locator(".noUi-handle").first
    handle.scroll_into_view_if_needed()
    before, box = v.settled(), handle.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.down(); page.mouse.move(box["x"] + 60, box["y"] + 5, steps=8); page.mouse.up()
    assert v.settled() != before
    page.close()
