"""Put the Colab badge and the set-up cell into every notebook.

They come from `user`, `repo` and `branch` of settings.ini. Safe to run again.
"""

import json
import sys
from configparser import ConfigParser
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
IMAGE = "images/open-in-colab.svg"  # our own, so that a notebook opens without a network; a place in nbs


def settings() -> dict:
    cfg = ConfigParser(delimiters=["="])
    cfg.read(ROOT / "settings.ini", encoding="utf-8")
    return dict(cfg["DEFAULT"])


def badge(place: Path) -> str:
    "The badge of a notebook, by its place in nbs."
    s = settings()
    page = (
        f"https://colab.research.google.com/github/{s['user']}/{s['repo']}"
        f"/blob/{s['branch']}/nbs/{place.as_posix()}"
    )
    return f"[![Open in Colab]({'../' * (len(place.parts) - 1)}{IMAGE})]({page})"


def notebooks() -> list[Path]:
    "All notebooks of all shelves."
    return sorted(p for p in (ROOT / "nbs").rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts)


def setup() -> str:
    "The cell that installs the package on Colab, and does nothing elsewhere."
    s = settings()
    return (
        '#| hide\nimport sys\n\nif "google.colab" in sys.modules:\n'
        f'    %pip install -q "kpnb[lab] @ git+https://github.com/{s["user"]}/{s["repo"]}@{s["branch"]}"'
    )


def lines(text: str) -> list[str]:
    return text.splitlines(keepends=True)


def put(path: Path, place: Path | None = None) -> bool:
    "Insert or update both in one notebook, whose place in nbs is `place`; says whether anything changed."
    place = place or path.relative_to(ROOT / "nbs")
    old = path.read_text(encoding="utf-8")
    nb = json.loads(old)
    title = nb["cells"][0]
    text = "\n".join(
        line for line in "".join(title["source"]).splitlines() if not line.startswith("[![Open in Colab](")
    ).rstrip()
    if title["cell_type"] != "markdown" or not text.startswith("# "):
        raise ValueError(f"{path.name}: the first cell is not a title")
    title["source"] = lines(f"{text}\n\n{badge(place)}")
    rest = [c for c in nb["cells"][1:] if "google.colab" not in "".join(c["source"])]
    cell = {
        "cell_type": "code",
        "execution_count": None,
        "id": "colab-setup",
        "metadata": {},
        "outputs": [],
        "source": lines(setup()),
    }
    nb["cells"] = [title, cell, *rest]
    new = json.dumps(nb, indent=1, ensure_ascii=False, sort_keys=True) + "\n"
    if new != old:
        path.write_text(new, encoding="utf-8", newline="\n")
    return new != old


if __name__ == "__main__":
    for path in notebooks():
        print(f"{'changed' if put(path) else 'same   '}  {path.relative_to(ROOT)}")
    sys.exit(0)
