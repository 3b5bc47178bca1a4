"""What must be true of the whole project: badges, links, numbering, requirements, sizes."""
import ast
import importlib.util
import json
import re
import statistics
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "nbs").glob("*.ipynb"))
MODULES = sorted(p for p in (ROOT / "kpnb").glob("*.py") if not p.name.startswith("_"))
CELLS = {p.name: json.loads(p.read_text(encoding="utf-8"))["cells"] for p in NOTEBOOKS}


def text(cell): return "".join(cell["source"])


def config():
    cfg = ConfigParser(delimiters=["="])
    cfg.read(ROOT / "settings.ini", encoding="utf-8")
    return cfg["DEFAULT"]


def owners():
    "module -> number of the notebook that owns it"
    found = {}
    for name, cells in CELLS.items():
        for m in re.findall(r"^#\| default_exp (\w+)$", "\n".join(text(c) for c in cells if c["cell_type"] == "code"), re.M):
            assert m not in found, f"{name} and notebook {found[m]} both export {m}"
            found[m] = name[:2]
    return found


def test_there_are_notebooks_and_modules(): assert len(NOTEBOOKS) >= 11 and len(MODULES) >= 10


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.name)
def test_badge_leads_to_its_own_notebook(path):
    cfg = config()
    link = f"https://colab.research.google.com/github/{cfg['user']}/{cfg['repo']}/blob/{cfg['branch']}/nbs/{path.name}"
    links = re.findall(r"\]\((https://colab\.research\.google\.com/github/[^)]*)\)", text(CELLS[path.name][0]))
    assert links == [link]
    setup = text(CELLS[path.name][1])
    assert "google.colab" in setup and f"git+https://github.com/{cfg['user']}/{cfg['repo']}@{cfg['branch']}" in setup


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.name)
def test_notebook_form(path):
    assert re.fullmatch(r"\d\d_[a-z0-9_]+\.ipynb", path.name)
    assert path.stat().st_size <= 1_500_000
    cells = CELLS[path.name]
    assert re.search(r"^# \S.*\n+> \S", text(cells[0])), "the first cell is a title and a one-sentence promise"
    code = [c for c in cells if c["cell_type"] == "code"]
    lines = [n for c in code if (n := sum(bool(s.strip()) and not s.strip().startswith("#") for s in text(c).splitlines()))]
    usual = 6 if int(path.name[:2]) >= 10 else 9  # a workshop page holds more signatures, with a line for each parameter
    assert max(lines) <= 25 and statistics.median(lines) <= usual, (max(lines), statistics.median(lines))
    assert not [c for c in code if re.match(r"#export\b", text(c))], "#export without a bar is ignored by nbdev"
    assert not [o for c in code for o in c["outputs"] if o["output_type"] == "error"]


def test_no_path_of_one_machine_and_no_private_folder():
    files = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    for f in filter(None, files):
        if Path(f).suffix in (".png",) or not (ROOT / f).is_file(): continue
        for i, line in enumerate((ROOT / f).read_text(encoding="utf-8").splitlines(), 1):
            found = re.search(r"(?<![\w.:/\]\\)\"'])/(?:work|root|home|farm|tmp)/\w", line)
            assert not found, f"{f}, line {i}: {line[max(0, found.start() - 40):found.end() + 40]}"


def test_modules_import_only_lower_numbers():
    numbers = owners()
    assert {p.stem for p in MODULES} == set(numbers)
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.level or (node.module or "").startswith("kpnb")):
                other = (node.module or "").removeprefix("kpnb.").split(".")[0]
                assert numbers[other] < numbers[path.stem], f"{path.stem} imports {other}, whose notebook comes later"


def test_requirements_are_what_is_imported():
    names = {"PIL": "pillow", "IPython": "ipython"}
    imported = set()
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import): imported |= {a.name.split(".")[0] for a in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level: imported.add(node.module.split(".")[0])
    imported = {names.get(m, m) for m in imported if m not in sys.stdlib_module_names} - {"kpnb"}
    required = {re.split(r"[<>=!~\[]", r)[0] for r in config()["requirements"].split()}
    fixed = {"torchvision", "seaborn", "pandas"}  # part of the course, whether or not a module needs them yet
    assert imported <= required and required <= imported | fixed, (imported ^ required)


def test_versions_agree():
    version = config()["version"]
    assert f'__version__ = "{version}"' in (ROOT / "kpnb" / "__init__.py").read_text(encoding="utf-8")
    assert re.search(rf"^version: {re.escape(version)}$", (ROOT / "CITATION.cff").read_text(encoding="utf-8"), re.M)
    assert f"## {version}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_links_of_the_readme_exist():
    for link in re.findall(r"\]\((?!https?:)([^)#]+)\)", (ROOT / "README.md").read_text(encoding="utf-8")): assert (ROOT / link).is_file(), link


def test_every_public_name_has_a_docstring():
    for path in MODULES:
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
                patched = any(getattr(d, "id", "") == "patch" for d in node.decorator_list) and node.name.startswith("__")
                assert ast.get_docstring(node) or patched, f"{path.stem}.{node.name}"


def test_constraints_lie_in_the_ranges():
    packaging = pytest.importorskip("packaging.requirements")
    pins = {}
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            r = packaging.Requirement(line)
            if r.marker is None or r.marker.evaluate(): pins[r.name.lower().replace("_", "-")] = str(r.specifier).removeprefix("==")
    cfg = config()
    for key in ("requirements", "lab_requirements", "dev_requirements", "bench_requirements"):
        for r in map(packaging.Requirement, cfg[key].split()):
            name = r.name.lower().replace("_", "-")
            assert name in pins, f"{r.name} of {key} is not pinned in constraints.txt"
            assert r.specifier.contains(pins[name]), f"{r.name}: {pins[name]} is outside {r.specifier}"


def test_badges_script_is_idempotent(tmp_path):
    spec = importlib.util.spec_from_file_location("badges", ROOT / ".ci" / "badges.py")
    badges = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(badges)
    copy = tmp_path / "07_training.ipynb"
    copy.write_text((ROOT / "nbs" / copy.name).read_text(encoding="utf-8").replace("/kpnb/blob/", "/other/blob/"), encoding="utf-8")
    assert badges.put(copy) and not badges.put(copy)
    assert copy.read_text(encoding="utf-8") == (ROOT / "nbs" / copy.name).read_text(encoding="utf-8")
