"""What the benchmarks share: figures beside their goals, and timings that a busy machine disturbs alike."""

import contextlib
import json
import math
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]


@dataclass
class Figure:
    """One measured value. ``holds`` is None where there is no goal; ``detail`` says what it is made of.

    ``value`` is None where it was not measured; ``detail`` says why.
    """

    item: str
    what: str
    value: float | None
    unit: str
    goal: str = ""
    holds: bool | None = None
    detail: str = ""

    def __str__(self):
        verdict = {None: "", True: "holds", False: "MISSED"}[self.holds]
        goal = f"{self.goal:<22}{verdict:<8}" if self.goal else " " * 30
        if self.value is None:
            return f"{self.item:<4}{self.what:<62} not measured: {self.detail}"
        return f"{self.item:<4}{self.what:<62}{self.value:>9.3g} {self.unit:<12}{goal}{self.detail}"


def at_least(item: str, what: str, value: float, goal: float, unit: str = "", detail: str = "") -> Figure:
    return Figure(item, what, value, unit, f"at least {goal:g}", value >= goal, detail)


def at_most(item: str, what: str, value: float, goal: float, unit: str = "", detail: str = "") -> Figure:
    return Figure(item, what, value, unit, f"at most {goal:g}", value <= goal, detail)


def not_measured(item: str, what: str, why: str) -> Figure:
    return Figure(item, what, None, "", detail=why)


def alternate(rounds: int, *functions: Callable[[], None]) -> list[float]:
    """Seconds of each function over ``rounds`` turns, one after the other, so that all see the same machine.

    One turn before the first is not counted.
    """
    seconds = [0.0] * len(functions)
    for turn in range(rounds + 1):
        for i, function in enumerate(functions):
            begin = time.perf_counter()
            function()
            if turn:
                seconds[i] += time.perf_counter() - begin
    return seconds


@dataclass
class Ended:
    """A command that ended: wall-clock seconds, and the largest resident memory of its main process."""

    seconds: float
    peak_mib: float


def run_module(module: str, *flags) -> Ended:
    """Run ``python -m module`` from the repository; its output is shown only where it fails."""
    command = [sys.executable, "-m", module, *map(str, flags)]
    peak, begin = 0, time.perf_counter()
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(command, cwd=REPOSITORY, stdout=said, stderr=subprocess.STDOUT)
        while process.poll() is None:
            # Not wait4's: it counts the memory of the process that started this one as well.
            with contextlib.suppress(OSError):
                found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{process.pid}/status").read_text())
                peak = int(found[1]) if found else peak
            time.sleep(0.02)
        seconds = time.perf_counter() - begin
        if process.returncode:
            said.seek(0)
            raise SystemExit(f"{' '.join(command)} ended with {process.returncode}:\n{said.read()[-3000:]}")
    return Ended(seconds, peak / 1024)


def write_figures(path: Path, figures: list[Figure], machine: dict, **more: object) -> None:
    """Write figures as JSON, with ``more`` that they are made of; an infinite value becomes the word."""
    plain = [asdict(figure) for figure in figures]
    for figure in plain:
        if figure["value"] is not None and math.isinf(figure["value"]):
            figure["value"] = "infinite"
    path.write_text(json.dumps({"machine": machine, "figures": plain, **more}, indent=1) + "\n")
