"""Execute notebooks in place, clean them, and store their outputs.

A reader on a web page then sees every plot.

python .ci/run_notebooks.py          all
python .ci/run_notebooks.py 00 21    those whose names begin so, on all shelves;
                                     workshop/02 and lesson/10 name a shelf
"""

import asyncio
import base64
import io
import os
import subprocess
import sys
import time
from pathlib import Path

import nbformat
from badges import notebooks
from nbclient import NotebookClient
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
LIMIT = 1_500_000  # bytes of one notebook


def run(path: Path) -> str:
    "Execute one notebook and replace its file; the file stays as it was if a cell fails."
    nb = nbformat.read(path, as_version=4)
    NotebookClient(
        nb, timeout=900, kernel_name="python3", resources={"metadata": {"path": str(path.parent)}}
    ).execute()
    for cell in nb.cells:
        _tidy(cell)
    nb.metadata.pop("widgets", None)
    nb.metadata = nbformat.from_dict(
        {"kernelspec": {"display_name": "python3", "language": "python", "name": "python3"}}
    )
    temporary = path.with_suffix(".part")
    nbformat.write(nb, temporary)
    os.replace(temporary, path)
    return f"{path.stat().st_size / 1000:.0f} kB"


def _tidy(cell) -> None:
    """Leave out what means nothing on the next machine.

    That is a widget's number where there is a picture, and progress on stderr."""
    if cell.cell_type != "code":
        return
    cell.outputs = [o for o in cell.outputs if not (o.output_type == "stream" and o.name == "stderr")]
    for o in cell.outputs:
        data = o.get("data", {})
        if "application/vnd.jupyter.widget-view+json" in data and len(data) > 1:
            del data["application/vnd.jupyter.widget-view+json"]
        if "image/png" in data:
            data["image/png"] = _lighter(data["image/png"])
    cell.outputs = [
        o for o in cell.outputs if "application/vnd.jupyter.widget-view+json" not in o.get("data", {})
    ]


def _lighter(png: str) -> str:
    "The same pixels in fewer bytes: without an alpha channel that is opaque everywhere, and packed harder."
    raw, file = base64.b64decode(png), io.BytesIO()
    image = Image.open(io.BytesIO(raw))
    if image.mode == "RGBA" and image.getextrema()[3] == (255, 255):
        image = image.convert("RGB")
    image.save(file, "png", optimize=True)
    return base64.b64encode(file.getvalue()).decode() if len(file.getvalue()) < len(raw) else png


def wanted(path: Path, word: str) -> bool:
    "Whether a notebook is meant by a word such as 21, exercises/21 or lesson/21."
    shelf, _, start = word.rpartition("/")
    own = "lesson" if path.parent.name == "nbs" else path.parent.name
    return path.name.startswith(start) and shelf in ("", own)


def main() -> int:
    if os.environ.pop("IN_TEST", None):
        print("IN_TEST is ignored: stored outputs come from full runs")
    if sys.platform == "win32":
        asyncio.set_event_loop_policy(asyncio.WindowsSelectorEventLoopPolicy())
    paths = [p for p in notebooks() if not sys.argv[1:] or any(wanted(p, word) for word in sys.argv[1:])]
    failed = 0
    for path in paths:
        start, problem = time.perf_counter(), ""
        try:
            size = run(path)
        except Exception as e:
            size, problem = "", f"{type(e).__name__}: {e}"
        failed += bool(problem)
        print(
            f"{'FAIL' if problem else 'ok  '}  {str(path.relative_to(ROOT / 'nbs')):<44} "
            f"{time.perf_counter() - start:6.1f} s  {size}",
            flush=True,
        )
        if problem:
            print("      " + "\n      ".join(problem.strip().splitlines()[-25:]), flush=True)
    subprocess.run([Path(sys.executable).parent / "nbdev_clean"], check=True, cwd=ROOT)
    for path in [
        p for p in paths if p.stat().st_size > LIMIT
    ]:  # only now is what nbdev_clean takes away gone
        failed += 1
        print(f"FAIL  {path.name}: {path.stat().st_size / 1e6:.2f} MB is larger than {LIMIT / 1e6} MB")
    print(f"{len(paths) - failed} passed, {failed} failed")
    return int(failed > 0 or not paths)


if __name__ == "__main__":
    sys.exit(main())
