"""What the fault tests share: scripts as a user starts them, roots before and after, and counts of survived faults."""

import contextlib
import importlib
import io
import json
import os
import re
import shlex
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
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


class Running:
    """A script that ``Scripts.start`` started; ``pid`` is also the number of its group of processes."""

    def __init__(self, scripts: "Scripts", pid: int, out: Path, err: Path):
        self.pid = pid
        self.out, self.err = out, err
        self._scripts = scripts

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send the script a signal, and no other process of its group."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def wait(self) -> Ended:
        """Wait for its end; kills what is left of its group."""
        status = self._scripts.ask({"wait": self.pid})
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        return Ended(status, self.out.read_text(errors="replace"), self.err.read_text(errors="replace"))


class Scripts:
    """Runs scripts as ``python -m module flags`` does, without importing torch anew for each; see tests.faults.forking.

    Use it through ``scripts()``.
    """

    def __init__(self, folder: Path, *flags: str):
        self.folder = folder
        self.count = 0
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.forking", *flags],
            cwd=REPOSITORY,
            env=ONE_THREAD,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def ask(self, request: dict) -> int:
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def start(self, module: str, *flags, **environment: str) -> Running:
        """Start a script; ``environment`` is added to that of this process."""
        self.count += 1
        out, err = (self.folder / f"{self.count}.{name}" for name in ("out", "err"))
        request = {"module": module, "flags": list(map(str, flags)), "out": str(out), "err": str(err)}
        return Running(self, self.ask({**request, "environment": environment}), out, err)

    def __call__(self, module: str, *flags, **environment: str) -> Ended:
        """Run a script to its end."""
        return self.start(module, *flags, **environment).wait()


@contextlib.contextmanager
def scripts(*flags: str) -> Iterator[Scripts]:
    """Give a ``Scripts``, whose forking process gets ``flags``, and end it."""
    with tempfile.TemporaryDirectory() as folder:
        script = Scripts(Path(folder), *flags)
        try:
            yield script
        finally:
            script.process.stdin.close()
            script.process.wait()
            script.process.stdout.close()


def wait_for(condition: Callable[[], bool], seconds: float = 120) -> None:
    """Wait until something is so; TimeoutError where it does not become so."""
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            raise TimeoutError(f"it is not so after {seconds} seconds")
        time.sleep(0.02)


def count_changes(script: Scripts, below: Path, module: str, *flags) -> tuple[int, int]:
    """Run a script to its good end: how often it changed a file below a folder, and how many it created."""
    with tempfile.TemporaryDirectory() as folder:
        count = Path(folder) / "count"
        ended = script("tests.faults.fault", f"count={count}", module, *flags, FAULT_BELOW=str(below))
        assert ended.status == 0, (module, ended.err)
        changes, creations = map(int, count.read_text().split())
    return changes, creations


def copy_root(source: Path, target: Path, linked: tuple[str, ...] = (".tif", ".png")) -> Path:
    """A copy of a root; its files of these suffixes are links, which may be replaced and removed, not written to."""

    def copy(path: str, copied: str) -> None:
        (os.link if path.endswith(linked) else shutil.copy2)(path, copied)

    shutil.copytree(source, target, copy_function=copy)
    return target


def snapshot(root: Path) -> dict[str, tuple]:
    """Every file below a folder, with what changes when it is written to or replaced; a link counts as a file."""
    files = {}
    for path in root.rglob("*"):
        status = path.lstat()
        if not stat.S_ISDIR(status.st_mode):
            state = (status.st_mode, status.st_ino, status.st_size, status.st_mtime_ns)
            files[path.relative_to(root).as_posix()] = state
    return files


def refusal_problem(ended: Ended, *words: str) -> str | None:
    """Why a command was not refused as promised, None where it was: status 2, one message with all of ``words``."""
    if ended.status != 2:
        return f"exit status {ended.status}, expected 2: {ended.err[-500:]}"
    if "Traceback" in ended.err:
        return f"a traceback: {ended.err[-500:]}"
    lacking = [text for text in words if text not in ended.err]
    return f"the message lacks {lacking}: {ended.err[-500:]}" if lacking else None


def remedy_problem(message: str, root: Path) -> str | None:
    """Why a command that a message names, to the end of its line, would not run for this root; None where all would."""
    said_by_argparse = re.compile(r"usage: |python -m \S+: error: ")
    lines = [line for line in message.splitlines() if not said_by_argparse.match(line)]
    for command in re.findall(r"python -m ([^\n]*)", "\n".join(lines)):
        module, *flags = shlex.split(command)
        with contextlib.redirect_stderr(io.StringIO()) as refusal:
            try:
                args = importlib.import_module(module).parse_args(flags)
            except (SystemExit, ImportError) as error:
                return f"its remedy {command} is refused ({error}): {refusal.getvalue()[-300:]}"
        if args.root.resolve() != root.resolve():
            return f"its remedy {command} is for another root than {root}"
    return None


def changed_problem(ended: Ended, root: Path, before: dict, *words: str, writes: tuple[str, ...] = ()) -> str | None:
    """Why a refusal was not as promised: its status, its message, a remedy, or files that changed; None where it was.

    ``before`` is the snapshot of the root, and what lies below ``writes`` may change.
    """
    problem = refusal_problem(ended, *words) or remedy_problem(ended.err, root)
    after = snapshot(root)
    changed = sorted(
        name
        for name in before.keys() | after.keys()
        if before.get(name) != after.get(name) and not name.startswith(writes)
    )
    return problem or (f"changed {changed[:5]}" if changed else None)


class Bomb:
    """Makes a file where it is loaded as plain pickle."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return open, (str(self.mark), "w")


@dataclass
class Family:
    """Faults of one kind that were injected; ``problems`` says of each that was not survived what went wrong."""

    name: str
    promise: str
    faults: list[str] = field(default_factory=list)
    problems: dict[str, str] = field(default_factory=dict)
    remark: str = ""

    def record(self, fault: str, problem: str | None) -> None:
        self.faults.append(fault)
        if problem is not None:
            self.problems[fault] = problem

    @property
    def injected(self) -> int:
        return len(self.faults)

    @property
    def survived(self) -> int:
        return self.injected - len(self.problems)

    def __str__(self):
        lines = [f"{self.name:<28}{self.survived:>4} of {self.injected:<5}{self.promise}"]
        lines += [f"{'':<28}{self.remark}"] if self.remark else []
        lines += [f"    FAILED {fault}: {problem}" for fault, problem in self.problems.items()]
        return "\n".join(lines)


def print_families(inject: Callable[[Path], list[Family]]) -> None:
    """Inject the faults of one module, and print how many were survived."""
    with tempfile.TemporaryDirectory() as folder:
        print(*inject(Path(folder)), sep="\n")
