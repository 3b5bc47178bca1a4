"""Every check of `make test`, one after another.

It goes on after a failure and ends with `N passed, N failed`.

python .ci/check.py            all of them
python .ci/check.py notebooks  only some: source ruff notebooks imports wheel pytest
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import venv
import zipfile
from concurrent.futures import ThreadPoolExecutor
from configparser import ConfigParser
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LIMIT = 600  # seconds for one notebook
BIN = Path(sys.executable).parent
results: list[tuple[bool, str]] = []


def record(ok: bool, what: str, why: str = "", seconds: float | None = None) -> bool:
    "Note and print one result; the end of `why` is shown if it failed."
    results.append((ok, what))
    took = f"  {seconds:6.1f} s" if seconds is not None else ""
    print(f"{'ok  ' if ok else 'FAIL'}  {what:<44}{took}", flush=True)
    if not ok and why:
        print("      " + "\n      ".join(why.strip().splitlines()[-40:]), flush=True)
    return ok


def call(command: list, cwd=ROOT, limit: float = 900, **env) -> tuple[int, str]:
    "Run a command in a process group of its own; past the limit the whole group is killed."
    process = subprocess.Popen(
        [str(c) for c in command],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        errors="replace",
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        env=os.environ | env,
    )
    try:
        out = process.communicate(timeout=limit)[0]
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        return -1, process.communicate()[0] + f"\nstopped after {limit} s"
    return process.returncode, out


def tracked() -> list[Path]:
    "The files of the project: what git tracks, and new files that it does not ignore."
    out = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return [Path(f) for f in sorted(set(out.split("\0"))) if f and (ROOT / f).is_file()]


def copy_to(folder: Path) -> None:
    "A copy of the project's files."
    for f in tracked():
        (folder / f).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / f, folder / f)


def check_source() -> None:
    "Cleaning and exporting the notebooks changes nothing: done in a copy, and compared file by file."
    with tempfile.TemporaryDirectory() as d:
        copy = Path(d).resolve() / ROOT.name
        copy_to(copy)
        for step in ("nbdev_clean", "nbdev_export"):
            before = {
                p: p.read_bytes() for p in copy.rglob("*") if p.is_file() and "__pycache__" not in p.parts
            }
            code, out = call([BIN / step], cwd=copy, PYTHONPATH=str(copy))
            after = {
                p: p.read_bytes() for p in copy.rglob("*") if p.is_file() and "__pycache__" not in p.parts
            }
            changed = sorted(
                str(p.relative_to(copy))
                for p in before.keys() | after.keys()
                if before.get(p) != after.get(p)
            )
            record(
                code == 0 and not changed,
                f"{step} changes nothing",
                out if code else f"changed: {', '.join(changed)}; run nbdev_clean, then nbdev_export",
            )


def check_ruff() -> None:
    "Ruff passes on the package, the notebooks and everything else."
    for part in ("kpnb", "nbs", "tests", "bench", ".ci", "setup.py"):
        code, out = call([BIN / "ruff", "check", "--no-cache", part])
        record(code == 0, f"ruff check {part}", out)
    code, out = call(
        [BIN / "ruff", "format", "--no-cache", "--check", "nbs", "tests", "bench", ".ci", "setup.py"]
    )
    record(code == 0, "ruff format changes nothing", out)


def run_notebook(path: Path) -> tuple[bool, str, str, float]:
    "One notebook under nbdev_test: whether it passed, its name, what it said, and the seconds that it took."
    name, start = str(path.relative_to(ROOT)), time.perf_counter()
    if path.name.startswith(("_", ".")):
        return False, name, "nbdev_test skips names that begin with _ or a dot; rename it", 0.0
    command = [BIN / "nbdev_test", "--path", path, "--n_workers", "0", "--do_print"]
    code, out = call(command, limit=LIMIT, MPLBACKEND="agg", IN_TEST="1", OMP_NUM_THREADS="1")
    ran = "Starting" in out and "Success" in out
    return code == 0 and ran, name, out or "nbdev_test ran nothing", time.perf_counter() - start


def check_notebooks() -> None:
    "Every notebook runs under nbdev_test, each within the limit; a few at a time, with one thread each."
    start = time.perf_counter()
    notebooks = [p for p in sorted((ROOT / "nbs").rglob("*.ipynb")) if ".ipynb_checkpoints" not in p.parts]
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        for row in pool.map(run_notebook, notebooks):
            record(*row)
    print(f"      all notebooks: {time.perf_counter() - start:.0f} s", flush=True)


def modules() -> list[str]:
    "Every module and package of kpnb, as it is imported."
    found = []
    for p in (ROOT / "kpnb").rglob("*.py"):
        parts = p.relative_to(ROOT).with_suffix("").parts
        found.append(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    return sorted(found)


def check_imports() -> None:
    "Every module imports from another folder."
    with tempfile.TemporaryDirectory() as d:
        for name in modules():
            code, out = call(
                [
                    sys.executable,
                    "-c",
                    f"import {name}; "
                    f"{'from ' + name + ' import *' if name != 'kpnb' else 'kpnb.__version__'}",
                ],
                cwd=d,
                PYTHONPATH="",
            )
            record(code == 0, f"import {name}", out)


def check_wheel() -> None:
    """The source distribution builds, and from it alone the wheel.

    The wheel works in a fresh environment without the checkout, and gives out the lessons."""
    with tempfile.TemporaryDirectory() as d:
        folder = Path(d).resolve()
        copy_to(folder / "src")
        code, out = call(
            [
                sys.executable,
                "-m",
                "build",
                "--no-isolation",
                "--outdir",
                folder / "dist",
                folder / "src",
            ]
        )
        wheels = list((folder / "dist").glob("*.whl"))
        if not record(code == 0 and len(wheels) == 1, "the wheel builds from the source distribution", out):
            return
        record(*_wheel_content(wheels[0]))
        env = folder / "env"
        venv.create(env, with_pip=True)
        python = env / ("Scripts" if os.name == "nt" else "bin") / "python"
        code, out = call(
            [python, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", wheels[0]], cwd=folder
        )
        if not record(code == 0, "the wheel installs into a fresh environment", out):
            return
        shutil.rmtree(folder / "src")
        code, out = call([python, "-I", "-c", _PROBE, str(ROOT), *_libraries(), *modules()], cwd=folder)
        record(code == 0, "the installed package works without the checkout", out)


def _libraries() -> list[str]:
    """Folders of the heavy dependencies: the site-packages of this environment.

    They also know the checkout, so the probe must check."""
    return [p for p in sys.path if p.endswith(("site-packages", "dist-packages"))][:1]


# Runs in the fresh environment. The dependencies' folder goes behind its own, and as a plain path entry:
# .pth files in it, such as that of the editable checkout, are not read.
_PROBE = """
import importlib, sys
root, libraries, *names = sys.argv[1:]
sys.path.append(libraries)
sys.meta_path[:] = [f for f in sys.meta_path if 'editable' not in type(f).__module__ + str(f)]
for name in names:
    module = importlib.import_module(name)
    assert not module.__file__.startswith(root), f'{name} comes from the checkout: {module.__file__}'
    assert module.__file__.startswith(sys.prefix), \
f'{name} comes from {module.__file__}, not from {sys.prefix}'
from kpnb.models import NoseNet
from kpnb.course import main
assert main(['lab', 'mine', '--no-launch']) == 0
from pathlib import Path
assert len(list(Path('mine').glob('*.ipynb'))) > 10 and Path('mine/images/noses.png').exists()
import torch
assert NoseNet()(torch.zeros(1, 1, 60, 80)).shape == (1, 1, 2)
assert not any(p.startswith(root) and p != libraries for p in sys.path), sys.path
"""


def _wheel_content(wheel: Path) -> tuple[bool, str, str]:
    "The wheel holds every module and data file, the right version, and no tools among its requirements."
    with zipfile.ZipFile(wheel) as z:
        names = set(z.namelist())
        metadata = z.read(next(n for n in names if n.endswith(".dist-info/METADATA"))).decode()
    needed = {str(f) for f in map(lambda p: p.as_posix(), tracked()) if str(f).startswith("kpnb/")}
    needed |= {f"kpnb/lessons/{n}" for n in _lessons()}
    cfg = ConfigParser(delimiters=["="])
    cfg.read(ROOT / "settings.ini", encoding="utf-8")
    plain = [
        line for line in metadata.splitlines() if line.startswith("Requires-Dist:") and "extra ==" not in line
    ]
    faults = [f"missing: {m}" for m in sorted(needed - names)] + [
        f"a tool is required: {line}"
        for line in plain
        if re.search(r"jupyterlab|nbdev|pytest|ruff|fastcore", line)
    ]
    if f"\nVersion: {cfg['DEFAULT']['version']}\n" not in metadata:
        faults.append("its version is not that of settings.ini")
    if len(plain) != len(cfg["DEFAULT"]["requirements"].split()):
        faults.append(
            f"{len(plain)} requirements, settings.ini has {len(cfg['DEFAULT']['requirements'].split())}"
        )
    return not faults, "the wheel holds what it should", "\n".join(faults)


def _lessons() -> list[str]:
    "The notebooks and their pictures, by name inside nbs/."
    inside = [p.as_posix()[4:] for p in tracked() if p.as_posix().startswith("nbs/")]
    return [n for n in inside if n.endswith(".ipynb") or n.startswith("images/")]


def check_pytest() -> None:
    "The tests of tests/, each counted."
    code, out = call(
        [sys.executable, "-m", "pytest", "tests", "-q", "--durations=5"], limit=3000, MPLBACKEND="agg"
    )
    counts = {
        kind: int(n)
        for n, kind in re.findall(
            r"(\d+) (passed|failed|errors?|skipped)", out.strip().splitlines()[-1] if out.strip() else ""
        )
    }
    bad = counts.get("failed", 0) + counts.get("error", 0) + counts.get("errors", 0)
    if code == 0 and not bad and counts.get("passed"):
        results.extend([(True, "pytest")] * counts["passed"])
        print(
            f"ok    pytest tests: {counts['passed']} passed, {counts.get('skipped', 0)} skipped", flush=True
        )
        for line in re.findall(r"^SKIPPED.*$", out, re.M):
            print("      " + line, flush=True)
    else:
        results.extend([(True, "pytest")] * counts.get("passed", 0) + [(False, "pytest")] * max(bad - 1, 0))
        record(False, "pytest tests", "\n".join(out.splitlines()[-120:]))


CHECKS = {
    "source": check_source,
    "ruff": check_ruff,
    "notebooks": check_notebooks,
    "imports": check_imports,
    "wheel": check_wheel,
    "pytest": check_pytest,
}


def main() -> int:
    chosen = sys.argv[1:] or list(CHECKS)
    if unknown := [c for c in chosen if c not in CHECKS]:
        sys.exit(f"no check {unknown[0]!r}; there are {', '.join(CHECKS)}")
    for name in chosen:
        print(f"== {name}: {CHECKS[name].__doc__.splitlines()[0]}", flush=True)
        try:
            CHECKS[name]()
        except Exception as e:
            record(False, name, f"{type(e).__name__}: {e}")
    failed = sum(not ok for ok, _ in results)
    print(f"{len(results) - failed} passed, {failed} failed", flush=True)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
