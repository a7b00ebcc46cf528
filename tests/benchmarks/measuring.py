"""What the benchmarks share: figures beside their goals, and timings that a busy machine disturbs alike."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]


@dataclass
class Figure:
    """One measured value. ``holds`` is None where there is no goal; ``detail`` says what it is made of."""

    item: str
    what: str
    value: float
    unit: str
    goal: str = ""
    holds: bool | None = None
    detail: str = ""

    def __str__(self):
        verdict = {None: "", True: "holds", False: "MISSED"}[self.holds]
        goal = f"{self.goal:<22}{verdict:<8}" if self.goal else " " * 30
        return f"{self.item:<4}{self.what:<62}{self.value:>9.3g} {self.unit:<12}{goal}{self.detail}"


def at_least(item: str, what: str, value: float, goal: float, unit: str = "", detail: str = "") -> Figure:
    return Figure(item, what, value, unit, f"at least {goal:g}", value >= goal, detail)


def at_most(item: str, what: str, value: float, goal: float, unit: str = "", detail: str = "") -> Figure:
    return Figure(item, what, value, unit, f"at most {goal:g}", value <= goal, detail)


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
    """A command that ended: wall-clock seconds, and the largest resident memory of one of its processes."""

    seconds: float
    peak_mib: float


def run_module(module: str, *flags, threads: int | None = None) -> Ended:
    """Run ``python -m module`` from the repository; its output is shown only where it fails."""
    environment = {**os.environ, **({"OMP_NUM_THREADS": str(threads)} if threads else {})}
    command = [sys.executable, "-m", module, *map(str, flags)]
    begin = time.perf_counter()
    process = subprocess.Popen(
        command, cwd=REPOSITORY, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    said = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.perf_counter() - begin
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}:\n{said[-3000:]}")
    return Ended(seconds, usage.ru_maxrss / 1024)


def write_figures(path: Path, figures: list[Figure], machine: dict) -> None:
    path.write_text(json.dumps({"machine": machine, "figures": [asdict(f) for f in figures]}, indent=1) + "\n")
