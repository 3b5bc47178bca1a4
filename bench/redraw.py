"""How long a visualiser of each lesson takes from a moved control to the new picture.

It is the median of the drawings at its first values and at their neighbours.

Run from the repository: `python bench/redraw.py [00 21 ...] [--runs 7] [--full]`. Each notebook runs in a
process of its own, with the small budgets of a test run; `--full` takes a reader's, which matters where a
drawing counts over all test pictures (lessons 30 and 41). Then every `Live` that a cell has shown is timed,
so a new visualiser needs no line here. A drawing is what the reader waits for in Python: `draw`, the layout
and the PNG. The way to the browser is not in it, nor the collection of cyclic garbage that `live` puts off
until the picture is out.

Machines are noisy, so after each drawing a yardstick is drawn, two labelled panels with a curve, in the
same process: its median stands in each line, and the ratio of the two can be compared between machines and
hours. The first and last line say what the yardstick takes matplotlib alone. Where a drawing calls a
network (a `forward` of torch.nn is seen during it), the target is 150 ms, else 60 ms. Whether it is met is
printed, and no test asserts it.
"""

import argparse
import gc
import json
import os
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

NBS = Path(__file__).resolve().parent.parent / "nbs"
DRAWS, RUNS_A_NETWORK = 60, 150  # ms


def neighbours(control):
    "The values of a control one step from its present one."
    v = control.value
    if hasattr(control, "xy"):  # a canvas: each point that may move, one pixel to the right
        return [{n: (x + 1, y) if n not in control.fixed else (x, y) for n, (x, y) in v.items()}]
    if hasattr(control, "options"):
        return [o for _, o in control._options_full if o != v][:2]
    if isinstance(v, bool):
        return [not v]
    if isinstance(v, (int, float)) and getattr(control, "min", None) is not None:
        if hasattr(control, "base"):
            return [v * control.base**control.step]
        step = getattr(control, "step", None) or 1
        return [n for n in (v - step, v + step) if control.min <= n <= control.max]
    return []


def timed(draw):
    "Milliseconds of one drawing."
    start = time.perf_counter()
    draw()
    ms = 1000 * (time.perf_counter() - start)
    gc.collect(0)  # what a kernel does once the picture is out
    return ms


def measure_viewer(viewer, runs):
    "Milliseconds of each drawing and of the yardstick after it, and whether a drawing runs a network."
    import torch

    first, calls = viewer.values, []
    points = [first] + [
        first | {name: n}
        for name, c in viewer.controls.items()
        if hasattr(c, "observe")
        for n in neighbours(c)
    ]
    hook = torch.nn.modules.module.register_module_forward_hook(lambda *a: calls.append(1))
    for values in points:
        viewer._draw_once(values)  # what is slow only once: fonts, the layout of each kind of picture
    hook.remove()
    ms, beside, yardstick = [], [], yardsticks()[1]
    for power in (1, 2, 3):
        yardstick(power)
    while len(ms) < max(runs, len(points)):
        for values in points:
            ms.append(timed(lambda: viewer._draw_once(values)))
            if viewer.error:
                raise viewer.error
            beside.append(timed(lambda: yardstick(1 + len(ms) % 3)))
    return {"ms": ms, "beside": beside, "network": bool(calls)}


def run_notebook(path, runs):
    "Run all cells of one notebook, then time what `live` has shown: a line of JSON for each."
    from IPython.core.interactiveshell import InteractiveShell

    os.chdir(path.parent)
    shell = InteractiveShell.instance()
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == "code" and "google.colab" not in "".join(cell["source"]):
            shell.run_cell("".join(cell["source"]), store_history=True).raise_error()
    # whatever its class is called from (workshop notebook 15 defines its own),
    # and whether or not a variable holds it
    shown = [
        o
        for o in gc.get_objects()
        if type(o).__name__ == "Live"
        and o._shown_in is not None
        and o.error is None
        and o.picture.comm is not None
    ]
    for viewer in sorted(shown, key=lambda o: o._shown_in):
        name = getattr(viewer.draw, "__name__", "draw").strip("<>")
        print(
            "REDRAW "
            + json.dumps({"name": name, "controls": list(viewer.controls)} | measure_viewer(viewer, runs)),
            flush=True,
        )


def row(path, v):
    "A line of the table."
    low, mid, high = statistics.quantiles(v["ms"], n=4)
    target, beside = RUNS_A_NETWORK if v["network"] else DRAWS, statistics.median(v["beside"])
    return (
        f"| {path.stem} | {v['name']}({', '.join(v['controls'])}) | {'yes' if v['network'] else 'no'} "
        f"| {len(v['ms'])} | {mid:.0f} | {low:.0f}–{high:.0f} | {beside:.0f} | {mid / beside:.2f} "
        f"| {target} | {'yes' if mid <= target else '**no**'} |"
    )


def yardsticks():
    """Two ways to draw two labelled panels.

    They are matplotlib's `savefig`, as a notebook shows a figure, and a `Live`."""
    import io

    import ipywidgets as W
    import matplotlib.pyplot as plt

    from kpnb.live import Live
    from kpnb.style import figure

    def panels(power):
        fig, axes = figure(2, width=6, height=2.6)
        for ax in axes:
            ax.plot([i / 50 for i in range(51)], [(i / 50) ** power for i in range(51)], label="a curve")
            ax.set(xlabel="x", ylabel="y", title=f"power {power}")
            ax.legend()
        return fig

    def saved(power):
        fig = panels(power)
        fig.savefig(io.BytesIO(), format="png", bbox_inches="tight")
        plt.close(fig)

    viewer = Live(panels, {"power": W.IntSlider(1, 1, 3)})
    return saved, lambda power: viewer._draw_once({"power": power})


def scale(runs=21):
    "Medians in ms of the two yardsticks, in turn."
    ways = yardsticks()
    ms = [[timed(lambda: way(1 + i % 3)) for way in ways] for i in range(runs + 3)]
    return [statistics.median(way) for way in zip(*ms[3:])]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "lessons", nargs="*", help="numbers of notebooks; default: all that have a visualiser"
    )
    parser.add_argument("--runs", type=int, default=21, help="drawings of each visualiser, at least")
    parser.add_argument(
        "--full", action="store_true", help="with the budgets of a reader, some minutes for each notebook"
    )
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.inside:
        return run_notebook(args.inside, args.runs)
    import ipywidgets
    import matplotlib
    from common import machine

    print(
        "For scale, two labelled panels: {:.0f} ms by matplotlib's savefig, "
        "{:.0f} ms in a visualiser.".format(*scale())
    )
    print(
        f"At least {args.runs} drawings each; "
        f"{machine(matplotlib=matplotlib.__version__, ipywidgets=ipywidgets.__version__)}\n"
    )
    print(
        "| lesson | visualiser | runs a network | drawings | median ms "
        "| quartiles ms | yardstick ms | ratio | target ms | met |\n"
        "|---|---|---|---|---|---|---|---|---|---|",
        flush=True,
    )
    env = (
        {k: v for k, v in os.environ.items() if k not in ("IN_TEST", "KPNB_BUDGET")}
        | {"MPLBACKEND": "agg"}
        | ({} if args.full else {"KPNB_BUDGET": "test"})
    )
    for path in sorted(NBS.rglob("[0-9]*.ipynb")):
        if (args.lessons and not path.name.startswith(tuple(args.lessons))) or not re.search(
            r'^ *"(\w+ = )?live\(', path.read_text(encoding="utf-8"), re.M
        ):
            continue
        command = [sys.executable, __file__, "--inside", str(path), "--runs", str(args.runs)]
        out = subprocess.run(
            command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8"
        )
        found = [
            json.loads(line[len("REDRAW ") :])
            for line in out.stdout.splitlines()
            if line.startswith("REDRAW ")
        ]
        for v in found:
            print(row(path, v), flush=True)
        if out.returncode or not found:
            sys.exit(f"{path.name}: {out.stderr[-2000:] or 'no visualiser was shown'}")
    print("\nThe two panels once more: {:.0f} and {:.0f} ms.".format(*scale()))


if __name__ == "__main__":
    main()
