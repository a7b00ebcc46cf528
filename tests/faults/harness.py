"""What the fault tests share: scripts as a user starts them, and counts of the faults that were survived."""

import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from tests.helpers import ONE_THREAD

REPOSITORY = Path(__file__).resolve().parents[2]
REAL_DATA = REPOSITORY.parent / "shared" / "real_data"


@dataclass(frozen=True)
class Ended:
    """How a command ended: its exit status (negative: the signal that killed it) and what it said."""

    status: int
    out: str
    err: str


def start(module: str, *flags, **options) -> subprocess.Popen:
    """Start ``python -m module flags`` from the repository root, with one thread; options as for Popen."""
    command = [sys.executable, "-m", module, *map(str, flags)]
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "env": ONE_THREAD, **options}
    return subprocess.Popen(command, cwd=REPOSITORY, text=True, errors="replace", **options)


def command(module: str, *flags, timeout: float = 300, **options) -> Ended:
    """Run ``python -m module flags`` to its end."""
    with start(module, *flags, **options) as process:
        try:
            out, err = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
    return Ended(process.returncode, out or "", err or "")


def refusal_problem(ended: Ended, *said: str) -> str | None:
    """Why a command was not refused as promised, None where it was: status 2, one message with all of ``said``."""
    if ended.status != 2:
        return f"exit status {ended.status}, expected 2: {ended.err[-500:]}"
    if "Traceback" in ended.err:
        return f"a traceback: {ended.err[-500:]}"
    lacking = [words for words in said if words not in ended.err]
    return f"the message lacks {lacking}: {ended.err[-500:]}" if lacking else None


@dataclass
class Family:
    """Faults of one kind that were injected; ``problems`` says of each that was not survived what went wrong."""

    name: str
    promise: str
    injected: int = 0
    problems: dict[str, str] = field(default_factory=dict)
    remark: str = ""

    def record(self, fault: str, problem: str | None) -> None:
        self.injected += 1
        if problem is not None:
            self.problems[fault] = problem

    @property
    def survived(self) -> int:
        return self.injected - len(self.problems)

    def __str__(self):
        lines = [f"{self.name:<28}{self.survived:>4} of {self.injected:<5}{self.promise}"]
        lines += [f"{'':<28}{self.remark}"] if self.remark else []
        lines += [f"    FAILED {fault}: {problem}" for fault, problem in self.problems.items()]
        return "\n".join(lines)
