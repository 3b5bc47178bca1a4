"""What must be true of the whole project: badges, links, numbering, requirements, sizes."""

import ast
import importlib
import importlib.util
import json
import re
import subprocess
import symtable
import sys
from configparser import ConfigParser
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
NBS = ROOT / "nbs"
NOTEBOOKS = sorted(p for p in NBS.rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts)
MODULES = sorted(p for p in (ROOT / "kpnb").rglob("*.py") if not p.name.startswith("_"))
CELLS = {p: json.loads(p.read_text(encoding="utf-8"))["cells"] for p in NOTEBOOKS}
SHELVES = ("workshop", "lesson", "exercises", "recipes")  # imports go from later ones to earlier ones
REALLY_MADE = {
    "convolution",
    "batch_norm",
    "dropout",
    "models",
    "heatmaps",
    "likelihood",
    "calibration",
    "segmentation",
}  # the workshop may import these lessons


def place(path):
    return path.relative_to(NBS).as_posix()


def shelf(path):
    return "lesson" if path.parent == NBS else path.parent.name


def module_name(path):
    return ".".join(path.relative_to(ROOT / "kpnb").with_suffix("").parts)


def text(cell):
    return "".join(cell["source"])


def config():
    cfg = ConfigParser(delimiters=["="])
    cfg.read(ROOT / "settings.ini", encoding="utf-8")
    return cfg["DEFAULT"]


def owners():
    "module -> the notebook that owns it"
    found = {}
    for path, cells in CELLS.items():
        for m in re.findall(
            r"^#\| default_exp ([\w.]+)$", "\n".join(text(c) for c in cells if c["cell_type"] == "code"), re.M
        ):
            assert m not in found, f"{place(path)} and {place(found[m])} both export {m}"
            found[m] = path
    return found


def test_there_are_notebooks_and_modules():
    assert len(NOTEBOOKS) >= 11 and len(MODULES) >= 10


@pytest.mark.parametrize("path", NOTEBOOKS, ids=place)
def test_badge_leads_to_its_own_notebook(path):
    cfg = config()
    link = (
        f"https://colab.research.google.com/github/{cfg['user']}/{cfg['repo']}"
        f"/blob/{cfg['branch']}/nbs/{place(path)}"
    )
    links = re.findall(r"\]\((https://colab\.research\.google\.com/github/[^)]*)\)", text(CELLS[path][0]))
    assert links == [link]
    setup = text(CELLS[path][1])
    assert (
        "google.colab" in setup
        and f"git+https://github.com/{cfg['user']}/{cfg['repo']}@{cfg['branch']}" in setup
    )


@pytest.mark.parametrize("path", NOTEBOOKS, ids=place)
def test_notebook_form(path):
    assert re.fullmatch(r"\d\d_[a-z0-9_]+\.ipynb", path.name)
    assert path.stat().st_size <= 1_500_000
    cells = CELLS[path]
    assert re.search(r"^# \S.*\n+> \S", text(cells[0])), (
        "the first cell is a title and a one-sentence promise"
    )
    code = [c for c in cells if c["cell_type"] == "code"]
    assert not [c for c in code if re.match(r"#export\b", text(c))], (
        "#export without a bar is ignored by nbdev"
    )
    assert not [o for c in code for o in c["outputs"] if o["output_type"] == "error"]


@pytest.mark.parametrize("path", MODULES, ids=lambda p: p.stem)
def test_functions_are_short(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for f in [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]:
        count = sum(isinstance(n, ast.stmt) for n in ast.walk(f)) - 1
        assert count <= 30, f"{path.stem}.{f.name} has {count} statements"


def test_no_path_of_one_machine_and_no_private_folder():
    files = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split("\0")
    for f in filter(None, files):
        if Path(f).suffix in (".png", ".jpg") or not (ROOT / f).is_file():
            continue
        for i, line in enumerate((ROOT / f).read_text(encoding="utf-8").splitlines(), 1):
            found = re.search(r"(?<![\w.:/\]\\)\"'])/(?:work|root|home|farm|tmp)/\w", line)
            assert not found, f"{f}, line {i}: {line[max(0, found.start() - 40) : found.end() + 40]}"


def imported_modules(path):
    "The modules of kpnb that a module imports, at its top or inside functions."
    package = ["kpnb", *module_name(path).split(".")[:-1]]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else []
            full = ".".join([*start, *filter(None, [node.module])])
            if full.startswith("kpnb."):
                yield full.removeprefix("kpnb."), [a.name for a in node.names]


def test_imports_go_one_way():
    notebooks = owners()
    assert {module_name(p) for p in MODULES} == set(notebooks)
    order = {m: (SHELVES.index(shelf(p)), p.name[:2]) for m, p in notebooks.items()}
    arrows = {
        module_name(p): [other for other, _ in imported_modules(p) if other != module_name(p)]
        for p in MODULES
    }
    for name, others in arrows.items():
        for other in others:
            allowed = order[other] < order[name] or (
                shelf(notebooks[name]) == "workshop" and other in REALLY_MADE
            )
            assert allowed, f"{name} imports {other}, which comes later"
    done, path = set(), []

    def visit(name):
        assert name not in path, f"a circle of imports: {' → '.join([*path[path.index(name) :], name])}"
        if name not in done:
            path.append(name)
            for other in arrows[name]:
                visit(other)
            done.add(path.pop())

    for name in arrows:
        visit(name)


def test_requirements_are_what_is_imported():
    names = {"PIL": "pillow", "IPython": "ipython"}
    imported = set()
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {a.name.split(".")[0] for a in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                imported.add(node.module.split(".")[0])
    imported = {names.get(m, m) for m in imported if m not in sys.stdlib_module_names} - {"kpnb"}
    required = {re.split(r"[<>=!~\[]", r)[0] for r in config()["requirements"].split()}
    fixed = {"torchvision", "seaborn", "pandas"}  # part of the course, whether or not a module needs them yet
    assert imported <= required and required <= imported | fixed, imported ^ required


def test_versions_agree():
    version = config()["version"]
    assert f'__version__ = "{version}"' in (ROOT / "kpnb" / "__init__.py").read_text(encoding="utf-8")
    assert re.search(
        rf"^version: {re.escape(version)}$", (ROOT / "CITATION.cff").read_text(encoding="utf-8"), re.M
    )
    assert f"## {version}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_links_of_the_readme_exist():
    for link in re.findall(r"\]\((?!https?:)([^)#]+)\)", (ROOT / "README.md").read_text(encoding="utf-8")):
        assert (ROOT / link).exists(), link


def test_every_public_name_has_a_docstring():
    for path in MODULES:
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
                patched = any(
                    getattr(d, "id", "") == "patch" for d in node.decorator_list
                ) and node.name.startswith("__")
                assert ast.get_docstring(node) or patched, f"{path.stem}.{node.name}"


def test_constraints_lie_in_the_ranges():
    packaging = pytest.importorskip("packaging.requirements")
    pins = {}
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            r = packaging.Requirement(line)
            if r.marker is None or r.marker.evaluate():
                pins[r.name.lower().replace("_", "-")] = str(r.specifier).removeprefix("==")
    cfg = config()
    for key in ("requirements", "lab_requirements", "dev_requirements", "bench_requirements"):
        for r in map(packaging.Requirement, cfg[key].split()):
            name = r.name.lower().replace("_", "-")
            assert name in pins, f"{r.name} of {key} is not pinned in constraints.txt"
            assert r.specifier.contains(pins[name]), f"{r.name}: {pins[name]} is outside {r.specifier}"


@pytest.mark.parametrize("name", ["00_start_here.ipynb", "workshop/22_training.ipynb"])
def test_badges_script_is_idempotent(tmp_path, name):
    spec = importlib.util.spec_from_file_location("badges", ROOT / ".ci" / "badges.py")
    badges = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(badges)
    copy, original = tmp_path / "copy.ipynb", (NBS / name).read_text(encoding="utf-8")
    copy.write_text(original.replace("/kpnb/blob/", "/other/blob/"), encoding="utf-8")
    assert badges.put(copy, Path(name)) and not badges.put(copy, Path(name))
    assert copy.read_text(encoding="utf-8") == original


@pytest.mark.parametrize("path", NOTEBOOKS, ids=place)
def test_links_between_notebooks_lead_somewhere(path):
    for cell in CELLS[path]:
        if cell["cell_type"] == "markdown":
            for link in re.findall(r"\]\((?!https?:|mailto:|#|attachment:)([^)#\s]+)", text(cell)):
                assert (path.parent / link).exists(), f"cell {cell['id']}: {link}"
            # "[07 scenes](workshop/07_scenes.ipynb)": a number that is said is that of the page
            said = re.findall(r"\[(\d\d) [^\]]*\]\((?:[\w.]+/)*(\d\d)_\w+\.ipynb", text(cell))
            assert all(a == b for a, b in said), f"cell {cell['id']}: {said}"


def bound_and_used(source):
    """What a cell binds on its top level, what it asks of the notebook, and what it gives to `live`.

    What it asks is listed for each of its functions and classes."""
    top = symtable.symtable(source, "cell", "exec")
    asks = lambda t: {s.get_name() for s in t.get_symbols() if s.is_global() and s.is_referenced()}.union(
        *(asks(c) for c in t.get_children())
    )
    defined = {}
    for child in top.get_children():
        if child.get_name() not in ("lambda", "genexpr", "listcomp", "setcomp", "dictcomp"):
            defined.setdefault(child.get_name(), set()).update(asks(child))
    drawn = [
        n.args[0]
        for n in ast.walk(ast.parse(source))
        if isinstance(n, ast.Call) and getattr(n.func, "id", "") in ("live", "sample_slider") and n.args
    ]
    inside = [n for f in drawn for n in ast.walk(f)]
    given = {n.id for n in inside if isinstance(n, ast.Name)} - {
        n.arg for n in inside if isinstance(n, ast.arg)
    }
    return {s.get_name() for s in top.get_symbols() if s.is_assigned() or s.is_imported()}, defined, given


def rebound(cells):
    """Names that a visualiser uses and that a later cell binds again.

    Such a visualiser, moved after Run All, would draw something else, or fail."""
    parts, found, needs = [bound_and_used(s) for s in cells], [], {}
    for i, (_, defined, given) in enumerate(parts):
        needs |= defined
        wanted, queue = set(), [n for n in given if n in needs]
        while queue:
            for n in needs[queue.pop()] - wanted:
                wanted.add(n)
                queue += [n] if n in needs else []
        found += [
            (i, n, j) for n in sorted(wanted | given) for j in range(i + 1, len(parts)) if n in parts[j][0]
        ]
    return found


def test_rebound_is_found():
    cells = [
        "t = 1",
        "def f(x): return t + x",
        "def draw(x): return f(x)\n\n\nlive(draw, x=1)",
        "def g():\n    t = 3\n    return [t for t in range(3)]",
        "u = t",
    ]
    cells += ["live(lambda x, y: x + y + f(1), x=t, y=u)", "x, y, u = 1, 2, 3"]
    assert rebound(cells) == [] and rebound([*cells, "for t in range(3): pass"]) == [(2, "t", 7), (5, "t", 7)]
    assert rebound([*cells, "def f(x): return x"]) == [(2, "f", 7), (5, "f", 7)]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=place)
def test_no_later_cell_changes_what_a_visualiser_uses(path):
    code = [
        (i, "\n".join(re.sub(r"^(\s*)[%!](?=\w).*", r"\1pass", line) for line in text(c).splitlines()))
        for i, c in enumerate(CELLS[path])
        if c["cell_type"] == "code"
    ]
    assert not [
        f"cell {code[j][0]} changes {n}, which the visualiser in cell {code[i][0]} uses"
        for i, n, j in rebound([s for _, s in code])
    ]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=place)
def test_every_picture_is_described(path):
    """The nearest text above a picture, or the one right below it, holds a line such as *The picture: ...*.

    It is for readers who hear the page or read it without its pictures."""
    above, bare, cells = "", [], CELLS[path]
    for i, c in enumerate(cells):
        if c["cell_type"] == "markdown":
            above = text(c)
        elif any("image/png" in o.get("data", {}) for o in c["outputs"]):
            below = (
                text(cells[i + 1]) if i + 1 < len(cells) and cells[i + 1]["cell_type"] == "markdown" else ""
            )
            if not re.search(
                r"\*(Above: |Below: )?the (expected )?(small )?pictures?\b", above + below, re.I
            ):
                bare.append(i)
    assert not bare, f"cells {bare} show a picture that no line above or below them describes"


LESSONS = [p for p in NOTEBOOKS if shelf(p) == "lesson"]


def visible(cells):
    "The code cells that a reader of JupyterLab sees open."
    code = [c for c in cells if c["cell_type"] == "code"]
    return [c for c in code if not c["metadata"].get("jupyter", {}).get("source_hidden")]


@pytest.mark.parametrize("path", LESSONS, ids=place)
def test_lessons_show_no_cell_that_is_meant_for_nobody(path):
    meant = [c for c in visible(CELLS[path]) if "google.colab" not in text(c)]
    assert not [c["id"] for c in meant if re.search(r"^#\| hide$", text(c), re.M)]


@pytest.mark.parametrize("path", LESSONS, ids=place)
def test_the_box_of_a_lesson_promises_honest_minutes(path):
    "180 words and six visible lines of code a minute; the exercises come on top."
    words = "\n".join(text(c) for c in CELLS[path] if c["cell_type"] == "markdown")
    promised = re.search(r"\*\*Time:?\*\*:? about (\d+) minutes", words)
    if promised is None:
        assert path.name == "00_start_here.ipynb", "the box has no minutes"
        return
    lines = [x.strip() for c in visible(CELLS[path]) for x in text(c).splitlines()]
    code = [x for x in lines if x and not x.startswith("#")]
    honest = len(words.split()) / 180 + len(code) / 6
    assert abs(int(promised[1]) / honest - 1) <= 0.1, f"{promised[1]} minutes promised, {honest:.0f} needed"


def test_no_two_modules_export_the_same_name():
    "A reader who finds a name in two modules cannot know which one is meant; an import of both loses one."
    owners_of = {}
    for m in map(module_name, MODULES):
        for name in importlib.import_module(f"kpnb.{m}").__all__:
            owners_of.setdefault(name, []).append(m)
    assert not {name: modules for name, modules in owners_of.items() if len(modules) > 1}


def test_public_names_do_not_grow():
    """Export only what another notebook, a test, a benchmark or an engineer imports: the count goes down.

    Exercises and recipes have a count of their own: a study must export what its table is made with."""
    names = {m: len(importlib.import_module(f"kpnb.{m}").__all__) for m in map(module_name, MODULES)}
    apart = {m for m in names if m.startswith(("exercises.", "recipes."))}
    assert sum(n for m, n in names.items() if m not in apart) <= 393, names
    assert sum(names[m] for m in apart) <= 132, names
    assert max(names.values()) <= 16, names
