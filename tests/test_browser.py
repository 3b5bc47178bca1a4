"""Every visualiser in a real browser: JupyterLab runs the notebook, and keyboard and mouse move the controls.

Needs Playwright (`pip install playwright`) and a Chromium that is already on the machine
(Debian: `apt-get install chromium`; no browser is downloaded). Without them the tests are skipped.
The environment variable KPNB_BROWSER changes that: with `required` they fail instead, with `off` they are
always skipped. Pictures of each visualiser, at first and after its first control has moved, go to the folder
that KPNB_SCREENSHOTS names, else to pytest's temporary folder. A lesson that calls `live` or `sample_slider`
is found by itself.
"""

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

try:
    from playwright.sync_api import Error as BrowserError
    from playwright.sync_api import sync_playwright
except ImportError:
    sync_playwright = None

NBS = Path(__file__).resolve().parent.parent / "nbs"
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None
)
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost",
]
HERE = re.compile(r"(https?|wss?)://(127\.0\.0\.1|localhost)[:/]|data:|blob:|about:blank")
LIMIT = 400  # seconds for all cells of one notebook, beside another that is driven
AHEAD = 3  # notebooks that are open beside the one that is driven, at most

# What may stand on the page or in the console although it looks like an error: pattern -> reason
ALLOWED_OUTPUTS = {
    r"there is <no> answer at 5": "workshop notebook 15 shows on purpose what an error looks like"
}
ALLOWED_CONSOLE: dict[str, str] = {}


def sources(path):
    return [
        "".join(c["source"])
        for c in json.loads(path.read_text(encoding="utf-8"))["cells"]
        if c["cell_type"] == "code"
    ]


def visualisers(path) -> int:
    """How many cells of a notebook show a visualiser, at the least.

    Those with a call of `live` at the start of a line are counted.
    """
    return sum(bool(re.search(r"^(\w+ = )?live\(", s, re.M)) for s in sources(path))


LESSONS = [
    p.relative_to(NBS).as_posix()
    for p in sorted(NBS.rglob("[0-9]*.ipynb"))
    if any(re.search(r"(?<!def )\b(live|sample_slider)\(", s) for s in sources(p))
]


@pytest.fixture(scope="module", autouse=True)
def tools():
    "Skip where something is not installed, or fail where it is required."
    wish = os.environ.get("KPNB_BROWSER", "")
    if wish not in ("", "off", "required"):
        pytest.fail(f"the environment variable KPNB_BROWSER is {wish!r}; expected off, required, or nothing")
    if wish == "off":
        pytest.skip("KPNB_BROWSER is off")
    gone = [
        text
        for missing, text in (
            (sync_playwright is None, "Playwright (pip install playwright)"),
            (CHROMIUM is None, "Chromium (apt-get install chromium)"),
        )
        if missing
    ]
    if gone:
        (pytest.fail if wish == "required" else pytest.skip)("not installed: " + ", ".join(gone))


def wait_for(condition, seconds, message, meanwhile=lambda: None):
    "The first true value of a condition; an error when the time is over."
    end = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > end:
            raise AssertionError(message())
        meanwhile()
        time.sleep(0.1)
    return value


def answers(url):
    try:
        return urllib.request.urlopen(url, timeout=2).status == 200
    except OSError:
        return False


class Lab(str):
    "An address, and the folder of the notebooks that are served there."

    folder: Path


@pytest.fixture(scope="module")
def lab(tools, tmp_path_factory):
    "The address of a JupyterLab of its own, on this machine only, with copied notebooks and small budgets."
    home = tmp_path_factory.mktemp("lab")
    shutil.copytree(NBS, home / "nbs", ignore=shutil.ignore_patterns(".ipynb_checkpoints"))
    write = lambda path, content: (
        path.parent.mkdir(parents=True, exist_ok=True),
        path.write_text(json.dumps(content), encoding="utf-8"),
    )
    write(
        home / "config/labconfig/page_config.json",
        {"disabledExtensions": {"@jupyterlab/apputils-extension:announcements": True}},
    )
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    # a reader's environment but for the budgets:
    # `live` shows widgets only without IN_TEST, and figures appear only without MPLBACKEND
    env = {
        k: v
        for k, v in os.environ.items()
        if not k.startswith("JUPYTER") and k not in ("IN_TEST", "MPLBACKEND")
    }
    env |= {f"JUPYTER_{kind.upper()}_DIR": str(home / kind) for kind in ("config", "data", "runtime")}
    env |= {
        "IPYTHONDIR": str(home / "ipython"),
        "KPNB_DATA": str(home / "no data"),
        "KPNB_BUDGET": "test",
        "OMP_NUM_THREADS": "1",
    }  # two kernels and a browser share the processor
    command = [
        sys.executable,
        "-m",
        "jupyterlab",
        "--no-browser",
        "--allow-root",
        "--ip=127.0.0.1",
        f"--port={port}",
        "--ServerApp.port_retries=0",
        "--IdentityProvider.token=",
        f"--ServerApp.root_dir={home / 'nbs'}",
        f"--LabApp.workspaces_dir={home / 'workspaces'}",
        "--LabApp.expose_app_in_browser=True",
        "--LabApp.extension_manager=readonly",
    ]
    log = lambda: (home / "log").read_text(encoding="utf-8")[-2000:]
    with (
        open(home / "log", "w", encoding="utf-8") as out,
        subprocess.Popen(command, env=env, cwd=home, stdout=out, stderr=subprocess.STDOUT) as server,
    ):
        try:
            wait_for(
                lambda: server.poll() is not None or answers(f"http://127.0.0.1:{port}/api"),
                90,
                lambda: "JupyterLab does not start: " + log(),
            )
            assert server.poll() is None, "JupyterLab stopped: " + log()
            address = Lab(f"http://127.0.0.1:{port}")
            address.folder = home / "nbs"
            yield address
        finally:
            server.terminate()  # it stops its kernels
            try:
                server.wait(30)
            except subprocess.TimeoutExpired:
                server.kill()


@pytest.fixture(scope="module")
def browser(tools, tmp_path_factory):
    "Chromium with an empty profile."
    with sync_playwright() as p:
        context = p.chromium.launch_persistent_context(
            str(tmp_path_factory.mktemp("profile")),
            executable_path=CHROMIUM,
            args=FLAGS,
            headless=True,
            viewport={"width": 1400, "height": 1000},
        )
        yield context
        context.close()


@pytest.fixture(scope="module")
def shots(tmp_path_factory):
    "The folder for the screenshots."
    folder = Path(os.environ.get("KPNB_SCREENSHOTS") or tmp_path_factory.mktemp("screenshots"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


class Desk:
    """JupyterLab in the browser, with what it asked for and complained about.

    It has all notebooks, each in a tab of its own: only the one in front is laid out.
    """

    def __init__(self, context, url):
        self.page, self.requests, self.console = context.new_page(), [], []
        self.page.set_default_timeout(30_000)
        self.page.on(
            "console",
            lambda m: (
                self.console.append(f"{m.text} ({m.location.get('url', '')})") if m.type == "error" else None
            ),
        )
        self.page.on("pageerror", lambda e: self.console.append(str(e)))
        self.page.on("request", lambda r: self.requests.append(r.url))
        self.page.on("websocket", lambda w: self.requests.append(w.url))
        self.page.goto(f"{url}/lab/workspaces/auto-k?reset", wait_until="commit")
        wait_for(self.ready, 90, lambda: f"JupyterLab does not appear: {self.console}")

    def ready(self):
        "Whether JupyterLab is there; not while the browser still leaves its empty page."
        try:
            return self.page.evaluate("() => window.jupyterapp?.restored.then(() => true)")
        except BrowserError:
            return False

    def check(self, name):
        """What stood in the console and what was asked for since the last check.

        A notebook that runs behind this one may be the cause.
        """
        asked, said, self.requests[:], self.console[:] = [*self.requests], [*self.console], [], []
        assert asked and not (away := [u for u in asked if not HERE.match(u)]), (
            f"while {name} was in front, the page asked other machines: {away[:3]}"
        )
        bad = [text for text in said if not any(re.search(p, text) for p in ALLOWED_CONSOLE)]
        assert not bad, f"while {name} was in front, errors in the browser's console: {bad[:3]}"


class Notebook:
    "A notebook open in JupyterLab."

    def __init__(self, desk, name, meanwhile=lambda: None):
        self.desk, self.page, self.name, self.meanwhile, self.started = (
            desk,
            desk.page,
            name,
            meanwhile,
            False,
        )
        self.page.evaluate(
            """name => { window.books ??= {}; window.ran ??= {};
            window.jupyterapp.commands.execute('docmanager:open',\
 {path: name, options: {activate: false}}).then(w => window.books[name] = w) }""",
            name,
        )

    def status(self):
        "What the kernel does; nothing while the notebook loads."
        return self.page.evaluate(
            "name => window.books[name]?.context.sessionContext.session?.kernel?.status", self.name
        )

    def start(self):
        "Run All Cells as soon as there is a kernel, without waiting: whether it has begun."
        if not self.started and self.status() == "idle":
            self.execute("notebook:run-all-cells")
            self.started = True
        return self.started

    def execute(self, command):
        "Begin a command of JupyterLab on this notebook, in front or not; `ran` tells of its end."
        self.page.evaluate(
            """([name, command]) => { const note = v => window.ran[name] = v === null ? v : String(v);
            note(null);
            window.jupyterapp.commands.execute(command,\
 {semanticWidget: window.books[name].id, activate: false}).then(note, note) }""",
            [self.name, command],
        )

    def ran(self):
        "What the last command, at first Run All Cells, gave, once it is over."
        return self.start() and self.page.evaluate("name => window.ran[name]", self.name)

    def run(self):
        "Run All Cells and wait for the end; errors that stand on the page are failures."
        wait_for(self.start, 180, lambda: f"{self.name}: no kernel")
        wait_for(
            self.ran,
            LIMIT,
            lambda: f"{self.name}: still running after {LIMIT} s; {self.errors()}",
            self.meanwhile,
        )
        assert not self.errors(), f"{self.name}: {self.errors()}"
        assert self.ran() == "true", f"{self.name}: Run All Cells gave {self.ran()}"
        wait_for(
            lambda: self.status() == "idle", 60, lambda: f"{self.name}: the kernel does not come to rest"
        )
        self.show()

    def errors(self):
        "The text of every traceback and error message in the outputs."
        found = self.panel().query_selector_all(
            "[data-mime-type='application/vnd.jupyter.error'], .jp-OutputArea-output [role=alert]"
        )
        return [
            text
            for text in (e.inner_text() for e in found)
            if text.strip() and not any(re.search(p, text) for p in ALLOWED_OUTPUTS)
        ]

    def visualisers(self):
        "Their elements, held: a locator would look for its element anew each time, and these pages are long."
        return self.panel().query_selector_all(".jp-OutputArea-output .widget-vbox:has(img)")

    def panel(self):
        return self.page.evaluate_handle("name => window.books[name].node", self.name)

    def show(self):
        "Bring its tab to the front."
        self.page.evaluate("name => window.jupyterapp.shell.activateById(window.books[name].id)", self.name)

    def close(self):
        "Close the tab and end the kernel, without waiting."
        self.page.evaluate(
            "name => { const book = window.books[name], id = book.context.sessionContext.session.id; "
            "book.dispose(); window.jupyterapp.serviceManager.sessions.shutdown(id) }",
            self.name,
        )
        self.desk.check(self.name)


# What is shown: a fingerprint of the picture's file, or the error message in its place.
# The page itself watches it, since each question from outside costs more than the watching.
SETTLED = """async (root, {name, image, other, same, idle, patience}) => {
    const pause = ms => new Promise(done => setTimeout(done, ms)),\
 kernel = window.books[name].context.sessionContext.session.kernel;
    const shown = async () => {
        if (!image.checkVisibility()) return root.querySelector('[role=alert]').innerText;
        const file = image.src;
        if (file !== root.file) {
            const hash = await crypto.subtle.digest('SHA-256', await (await fetch(file)).arrayBuffer());
            [root.file, root.print] = [file,\
 [...new Uint8Array(hash)].map(b => b.toString(16).padStart(2, '0')).join('')];
        }
        return root.print;
    };
    const start = performance.now();
    let last = null, since = start;
    while (performance.now() - start < patience) {
        const now = await shown().catch(() => null),\
 good = now && (!other || now !== other) && (!same || now === same);
        if (now !== last || !good || kernel.status !== 'idle') [last, since] = [now, performance.now()];
        else if (performance.now() - since > idle) return [last, true];
        await pause(25);
    }
    return [last, false];
}"""


class Visualiser:
    """One visualiser on the page.

    The other cells are hidden: most of the browser's work would be the layout of a whole lesson after each
    picture.
    """

    def __init__(self, notebook, root):
        self.notebook, self.page, self.root, self.image = (
            notebook,
            notebook.page,
            root,
            root.query_selector("img"),
        )
        root.evaluate(
            "r => { const cell = r.closest('.jp-Cell'); "
            "for (const c of cell.parentElement.children) c.style.display = c === cell ? '' : 'none' }"
        )
        root.scroll_into_view_if_needed()
        root.evaluate(
            "r => { r.heights = []; new ResizeObserver(() => r.heights.push(r.offsetHeight)).observe(r) }"
        )

    def settled(self, other=None, same=None, idle=0.15, seconds=60):
        """The fingerprint, once it has stayed for a while and the kernel is idle.

        It is then another one than `other` or the same as `same`; after so many seconds, it is as it then is.
        """
        end = time.monotonic() + seconds
        while True:
            self.notebook.meanwhile()
            last, rests = self.root.evaluate(
                SETTLED,
                {
                    "name": self.notebook.name,
                    "image": self.image,
                    "other": other,
                    "same": same,
                    "idle": 1000 * idle,
                    "patience": 1000,
                },
            )
            if rests or time.monotonic() > end:
                return last

    def heights(self):
        "All heights that it has had, in pixels."
        return set(self.root.evaluate("r => r.heights"))

    def cut_off(self):
        "What does not fit into its place: labels, readouts and the picture."
        return self.root.evaluate("""r => [...r.querySelectorAll('.widget-label, .widget-readout,\
 .widget-label-basic span, select, .widget-box')]
            .filter(e => e.scrollWidth > e.clientWidth + 1 && e.clientWidth > 0).map(e =>\
 e.className + ': ' + e.innerText.slice(0, 60))""")

    def controls(self):
        boxes = self.root.query_selector(".widget-hbox").query_selector_all(
            ":scope > *:visible:not(:has(.kpnb-canvas))"
        )
        return [Control(self.page, box) for box in boxes] + [
            Canvas(self.page, box) for box in self.root.query_selector_all(".kpnb-canvas")
        ]

    def unnamed(self):
        "What has no name for a reader who hears the page, or one that says nothing."
        return self.root.evaluate("""r => [
            ...[...r.querySelectorAll('img')].filter(e => !e.alt.trim()),\
 ...[...r.querySelectorAll('.noUi-handle, [role=application]')].filter(e => !e.ariaLabel?.trim()),
            ...[...r.querySelectorAll('[title=null], [title=undefined]')]].map(e =>\
 e.outerHTML.slice(0, 80))""")


class Canvas:
    "A `KeypointCanvas` among the controls: its first free point is moved and moved back."

    def __init__(self, page, box):
        self.page, self.box, self.svg, self.label = (
            page,
            box,
            box.query_selector("svg"),
            box.get_attribute("aria-label"),
        )

    def moves(self):
        "Name, there and back."
        self.svg.press("n")
        while "(fixed)" in self.chosen():
            self.svg.press("n")
        yield "keys", lambda: self.press("ArrowRight"), lambda: self.press("ArrowLeft")
        yield "mouse", self.drag, lambda: self.press("ArrowLeft")

    def chosen(self):
        return self.box.query_selector("[aria-pressed=true]").inner_text()

    def press(self, key):
        for _ in range(2):
            self.svg.press(key)

    def drag(self):
        "Two pixels of the picture to the right."
        name = self.chosen().rpartition(": x")[0].strip()
        self.svg.scroll_into_view_if_needed()
        x, y, step = self.svg.evaluate(
            """(svg, name) => { const g = svg.querySelector(`[data-name="${name}"]`), m = g.getScreenCTM();
            return [m.e, m.f, svg.getScreenCTM().a] }""",
            name,
        )
        self.page.mouse.move(x, y)
        self.page.mouse.down()
        self.page.mouse.move(x + 2 * step, y, steps=4)
        self.page.mouse.up()


class Control:
    "A control of a visualiser: `moves()` gives ways to change it and to go back."

    def __init__(self, page, box):
        self.page, self.box = page, box
        self.label = " ".join(
            e.inner_text() for e in box.query_selector_all(".widget-label, .widget-label-basic")
        ).strip(" \u200b")  # an empty label is a space of no width

    def moves(self):
        "Name, there and back."
        find, all_of = self.box.query_selector, self.box.query_selector_all
        if find(".noUi-handle"):
            for i, handle in enumerate(all_of(".noUi-handle")):
                start, right = self.value(handle), self.room(handle)
                there = "ArrowRight" if right else "ArrowLeft"
                yield f"keys {i}", lambda: self.press(handle, there), lambda: self.bring_back(handle, start)
                x, width = self.middle(handle)[0], find(".noUi-target").bounding_box()["width"]
                # more than half of the way, so that it moves even where there are two values
                far = x + (0.55 if right else -0.55) * width
                yield (
                    f"mouse {i}",
                    lambda: self.drag(handle, far),
                    lambda: (self.drag(handle, x), self.bring_back(handle, start)),
                )
        elif menu := find("select"):
            old, n = menu.evaluate("m => [m.selectedIndex, m.options.length]")
            pick = lambda i: lambda: menu.select_option(index=i)
            # JupyterLab takes the arrow keys of a closed menu for itself, but not Home and End
            yield (
                "keys",
                lambda: menu.press("Home" if old else "End"),
                (lambda: menu.press("End" if old else "Home")) if old in (0, n - 1) else pick(old),
            )
            yield "choice", pick((old + 1) % n), pick(old)
        elif tick := find("input[type=checkbox]"):
            yield "keys", lambda: tick.press("Space"), lambda: tick.press("Space")
            yield "mouse", tick.click, tick.click
        elif options := all_of("button, input[type=radio]"):
            i = [o.evaluate("o => o.matches('.mod-active, :checked')") for o in options].index(True)
            yield "mouse", options[0 if i else 1].click, options[i].click
        elif field := find("input, textarea"):
            old = field.input_value()
            # another last number, or one letter more
            new = (
                re.sub(r"\d+(?=\D*$)", lambda m: str(int(m[0]) + 1), old)
                if re.search(r"\d", old)
                else old + "a"
            )
            yield "keys", *[lambda t=t: (field.fill(t), field.press("Tab")) for t in (new, old)]

    def value(self, handle):
        "Where a slider's handle is, with all its digits: readers of the page are told it rounded to one."
        return handle.evaluate(
            "h => { const s = h.closest('.noUi-target'), v = s.noUiSlider.get(true); "
            "return Number(Array.isArray(v) ? v[[...s.querySelectorAll('.noUi-handle')].indexOf(h)] : v) }"
        )

    def room(self, handle):
        "Whether a slider's handle has more room to the right."
        low, high = (float(handle.get_attribute(f"aria-value{k}")) for k in ("min", "max"))
        return high + low >= 2 * self.value(handle)

    def press(self, handle, key):
        "Three steps, or as many as there is room for."
        for _ in range(3):
            handle.press(key)

    def middle(self, handle):
        "Where a slider's handle is on the page."
        box = handle.bounding_box()
        return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2

    def drag(self, handle, x):
        "Hold the handle and draw it to this place."
        handle.scroll_into_view_if_needed()
        start, y = self.middle(handle)
        self.page.mouse.move(start, y)
        self.page.mouse.down()
        self.page.mouse.move(x, y, steps=3)
        self.page.mouse.up()

    def bring_back(self, handle, start):
        "Keys until the handle is where it was; Page Up and Page Down are five steps at once."
        step = None
        for _ in range(200):
            now = self.value(handle)
            if abs(now - start) < (step or 1e-6) / 10:
                return
            far = step and abs(now - start) > 5.5 * step
            handle.press(
                ("PageDown" if far else "ArrowLeft") if now > start else ("PageUp" if far else "ArrowRight")
            )
            step = step or abs(self.value(handle) - now)
        raise AssertionError(f"the slider {self.label!r} does not come back to {start}")


def keys_stay(v, where):
    """Keys that are commands of the notebook do nothing while the focus is on a control.

    In the notebook, a and b add a cell, x cuts one, m and y change its kind.
    """
    handle = v.root.query_selector(".noUi-handle, input[type=checkbox], .kpnb-canvas svg")
    if not handle:
        return
    cells = lambda: v.page.evaluate(
        "() => window.jupyterapp.shell.currentWidget.content.widgets.map(c => c.model.type).join()"
    )
    before = cells()
    for key in "baxmdd":
        handle.press(key)
    assert cells() == before, f"{where}: keys on a control reach the notebook"


def drive(v, where, keep):
    "Move each control there and back, by keyboard and by mouse."
    keep(v, "")
    assert not v.cut_off(), f"{where}: cut off: {v.cut_off()}"
    wait_for(lambda: not v.unnamed(), 5, lambda: f"{where}: without a name: {v.unnamed()}")
    keys_stay(v, where)
    assert (controls := v.controls()), f"{where} has no controls"
    first = v.settled(idle=0.3)
    for i, control in enumerate(controls):
        assert control.label, f"{where}: control {i} has no label"
        name, moved = f"{where}, {control.label!r}", 0
        for way, there, back in control.moves():
            there()
            assert v.settled(other=first, idle=0.05 if moved else 0.15) != first, (
                f"{name} by {way}: the picture does not change"
            )
            if not i and not moved:
                keep(v, "_" + re.sub(r"\W+", "_", control.label))
            back()
            assert v.settled(same=first, idle=0.05) == first, (
                f"{name} by {way}: going back does not give the same picture"
            )
            moved += 1
        assert moved, f"{name}: a kind of control that this test cannot move"
        assert not v.notebook.errors(), f"{name}: {v.notebook.errors()}"
    assert len(v.heights()) == 1, f"{where}: its height changes, so the page jumps: {sorted(v.heights())}"


class Ahead:
    "Notebooks that run beside that of this test, one at a time, in the order of the tests."

    def __init__(self, desk):
        self.desk, self.waiting, self.open, self.driven, self.looked = desk, [], {}, None, 0.0

    def begin(self, name):
        self.open[name] = Notebook(self.desk, name, self.look)

    def look(self):
        "Begin the next one if there is a core for it; it looks once a second."
        if time.monotonic() - self.looked < 1:
            return
        self.looked = time.monotonic()
        # asks each, since that is what starts it; until it is driven, that of this test is among them
        busy = sum([not n.ran() for n in self.open.values()])
        if self.waiting and len(self.open) < AHEAD and busy < (1 if self.driven else 2):
            self.begin(self.waiting.pop(0))

    def run(self, name, later):
        "This notebook, when it has run; `later` are the names of those that follow."
        self.driven, self.waiting = None, [n for n in later if n not in self.open]
        if name not in self.open:
            self.begin(name)
        self.open[name].run()
        self.driven = self.open.pop(name)
        return self.driven


@pytest.fixture(scope="module")
def ahead(lab, browser):
    return Ahead(Desk(browser, lab))


def later_lessons(request):
    "The lessons of the tests that follow."
    items = request.session.items
    return [
        i.callspec.params["name"]
        for i in items[items.index(request.node) + 1 :]
        if getattr(i, "originalname", "") == request.node.originalname
    ]


def test_lessons_are_found():
    assert {
        "00_start_here.ipynb",
        "workshop/15_live.ipynb",
        "20_networks.ipynb",
        "21_nose_tip.ipynb",
    } <= set(LESSONS)
    assert visualisers(NBS / "00_start_here.ipynb") == 1


@pytest.mark.parametrize("name", LESSONS)
def test_visualisers(shots, ahead, request, name):
    """Each control changes the picture, and back gives the identical picture.

    There is no error and no request to another machine.
    """
    notebook = ahead.run(name, later_lessons(request))
    found = notebook.visualisers()
    assert len(found) >= max(1, visualisers(NBS / name)), f"{name}: {len(found)} visualisers on the page"
    for i, root in enumerate(found):
        drive(
            Visualiser(notebook, root),
            f"{name}, visualiser {i}",
            lambda v, what, i=i: v.root.screenshot(path=str(shots / f"{Path(name).stem[:2]}_{i}{what}.png")),
        )
    notebook.close()
