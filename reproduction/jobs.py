"""Runs as processes with logs, and interrupts that give them time to end their work."""

import contextlib
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Generator
from pathlib import Path

from reproduction.documents import REPOSITORY
from reproduction.plan import Run


def heed_interrupts() -> None:
    """Undo what a shell does to jobs in the background, which would ignore the interrupt that is to end them."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Job:
    """A run as a process with its output in a log.

    The process has a group of its own: an interrupt gives it time to end its work, and leaves no worker behind.
    """

    def __init__(self, run: Run, logs: Path, threads: int | None):
        self.run, self.begin, self.memory = run, time.monotonic(), 0
        folder = logs / str(run.place)
        folder.mkdir(exist_ok=True)
        self.log_path = folder / f"{run.step.position:02d}_{run.step.name}.log"
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
        environment = {**os.environ, "PATH": path, "PYTHONUNBUFFERED": "1"}
        if threads:
            environment.setdefault("OMP_NUM_THREADS", str(threads))
        self.log = self.log_path.open("w+b", buffering=0)
        self.log.write(f"# {shlex.join(run.argv)}\n# begun {time.strftime('%Y-%m-%d %H:%M:%S %z')}\n".encode())
        self.process = subprocess.Popen(
            [sys.executable, *run.argv[1:]], cwd=REPOSITORY, env=environment, stdin=subprocess.DEVNULL,
            stdout=self.log, stderr=subprocess.STDOUT, start_new_session=True, preexec_fn=heed_interrupts,
        )  # fmt: skip

    def has_ended(self) -> bool:
        if self.process.returncode is None:
            pid, status, usage = os.wait4(self.process.pid, os.WNOHANG)
            if pid:
                self.process.returncode = os.waitstatus_to_exitcode(status)
                self.memory = usage.ru_maxrss // (1024**2 if sys.platform == "darwin" else 1024)  # MB, largest process
                self.kill()  # also workers that outlived the command
        return self.process.returncode is not None

    def interrupt(self) -> None:
        os.kill(self.process.pid, signal.SIGINT)

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)

    def output(self) -> str:
        """The end of what it printed so far."""
        size = os.fstat(self.log.fileno()).st_size
        return os.pread(self.log.fileno(), 2000, max(0, size - 2000)).decode(errors="replace")

    def last_line(self) -> str:
        lines = [line for line in self.output().splitlines() if line.strip() and line[0] != "#"]
        return "".join(filter(str.isprintable, lines[-1])) if lines else ""

    def close(self, interrupted: bool) -> None:
        """Settle status, seconds and lines of output; the log keeps the last state of each progress bar."""
        self.log.close()
        self.status = 130 if interrupted and self.process.returncode else self.process.returncode
        self.seconds = time.monotonic() - self.begin
        text = self.log_path.read_bytes().decode(errors="replace").rstrip()
        lines = [line.rstrip("\r").rpartition("\r")[2] for line in text.split("\n")]
        self.lines = lines[2:]
        end = f"# exit status {self.status} after {self.seconds:.1f} s, {self.memory} MB\n"
        self.log_path.write_text("\n".join([*lines, end]), "utf-8")


@contextlib.contextmanager
def caught_interrupts() -> Generator[list[int]]:
    """A list that takes the signals that would raise KeyboardInterrupt, so that none comes between two lines."""
    caught = []
    raising = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    endings = [ending for ending in raising if signal.getsignal(ending) is signal.default_int_handler]
    for ending in endings:
        signal.signal(ending, lambda number, _: caught.append(number))
    try:
        yield caught
    finally:
        for ending in endings:
            signal.signal(ending, signal.default_int_handler)


def cpu_count() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
