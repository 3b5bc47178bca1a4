"""What every row of bench/ shares: candidates that take turns in one process, and a table."""

import platform
import statistics
import time
from collections.abc import Callable

import torch


def measure(
    ways: dict[str, Callable], runs: int = 9, warmup: int = 2, wait: Callable = lambda: None
) -> dict[str, list[float]]:
    """Seconds of each run of each way; they take turns, so that a slow moment hits all of them.

    `wait` returns when the device has done all that it was given, such as `torch.cuda.synchronize`.
    """
    seconds = {name: [] for name in ways}
    for run in range(warmup + runs):
        for name, way in ways.items():
            wait()
            start = time.perf_counter()
            way()
            wait()
            if run >= warmup:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def digits(ms: float) -> str:
    "Milliseconds; small ones with another digit."
    return f"{ms:.1f}" if ms >= 5 else f"{ms:.2f}"


def table(seconds: dict[str, list[float]], ours: str, allocates: dict[str, str]) -> str:
    "A markdown table: median and quartiles in milliseconds, and how many times longer than ours."
    base = statistics.median(seconds[ours])
    rows = ["| way | allocates | median ms | quartiles ms | times ours |", "|---|---|---|---|---|"]
    for name, values in seconds.items():
        low, mid, high = statistics.quantiles([v * 1e3 for v in values], n=4)
        spread = f"{digits(low)}–{digits(high)}"
        rows.append(f"| {name} | {allocates[name]} | {digits(mid)} | {spread} | {mid / 1e3 / base:.1f} |")
    return "\n".join(rows)


def machine(**packages: str) -> str:
    "One line about what this was measured with; no names of machines."
    versions = ", ".join(f"{k} {v}" for k, v in {"torch": torch.__version__, **packages}.items())
    return (
        f"Python {platform.python_version()}, {versions}, "
        f"{torch.get_num_threads()} threads, {platform.machine()}"
    )
