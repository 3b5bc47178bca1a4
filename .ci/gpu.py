"""What only a graphics card can show: agreement with the CPU, every notebook on CUDA, and the speed there.

python .ci/gpu.py              all parts: agree notebooks tests bench
python .ci/gpu.py agree bench  only some

Without CUDA it says so and ends with 2. Logs go to the folder of the environment variable KPNB_LOGS, if set.
"""

import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
ENV = os.environ | {"KPNB_DEVICE": "cuda", "MPLBACKEND": "agg", "OMP_NUM_THREADS": "1"}


def run(name: str, command: list, **env) -> tuple[bool, str]:
    "One command with CUDA as the device: whether it went well, and the end of what it said."
    begin = time.perf_counter()
    done = subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=ROOT,
        env=ENV | env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if logs := os.environ.get("KPNB_LOGS"):
        (Path(logs) / f"{name.replace('/', '-')}.log").write_text(done.stdout)
    ok = done.returncode == 0
    print(f"{'ok  ' if ok else 'FAIL'}  {name:<44}  {time.perf_counter() - begin:6.1f} s", flush=True)
    return ok, done.stdout


def agree() -> bool:
    "The functions, networks and trainings of the package, on the CPU and on CUDA."
    ok, said = run("agree", ["-m", "pytest", "-q", "--tb=short", *workers(), "tests/test_device.py"])
    print(said[-6000:] if not ok else said.splitlines()[-1])
    return ok


def workers() -> list[str]:
    "Options of pytest that spread the tests, where pytest-xdist is installed."
    try:
        import xdist  # noqa: F401
    except ImportError:
        return []
    return ["-n", str(min(12, os.cpu_count() or 1))]


def notebooks() -> bool:
    "Every notebook under nbdev_test."
    found = sorted((ROOT / "nbs").rglob("*.ipynb"))
    script = shutil.which("nbdev_test", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    command = lambda p: [script, "--path", p, "--n_workers", 0, "--do_print"]
    one = lambda p: run(str(p.relative_to(ROOT / "nbs")), command(p), IN_TEST="1")
    with ThreadPoolExecutor(min(12, os.cpu_count() or 1)) as pool:
        results = list(pool.map(one, found))
    for path, (ok, said) in zip(found, results):
        if not ok:
            print(f"--- {path.name}\n{said[-1500:]}")
    return all(ok for ok, _ in results)


def tests() -> bool:
    "The other tests, with CUDA as the device that is taken when none is named."
    own = [
        "house",
        "browser",
        "live_page",
        "annotate_page",
        "downloads",
        "cuda",
    ]  # no device in them, or above
    ignored = [f"--ignore=tests/test_{name}.py" for name in own]
    ok, said = run("tests", ["-m", "pytest", "-q", "--tb=line", *workers(), *ignored, "tests"])
    print(said[-6000:] if not ok else said.splitlines()[-1])
    return ok


def bench() -> bool:
    "Speed beside the peers, on CUDA."
    ok, said = run("bench", ["bench/gpu.py"])
    print(said)
    return ok


PARTS = {f.__name__: f for f in (agree, notebooks, tests, bench)}


def main() -> int:
    if not torch.cuda.is_available():
        print("No CUDA device here: nothing was run")
        return 2
    print(
        f"{torch.cuda.get_device_name()}, torch {torch.__version__}, {os.cpu_count()} CPU cores", flush=True
    )
    results = {name: PARTS[name]() for name in sys.argv[1:] or PARTS}
    print(", ".join(f"{name} {'ok' if ok else 'FAILED'}" for name, ok in results.items()))
    return 0 if all(results.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
