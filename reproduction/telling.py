"""Messages about the steps while they run, and at their end."""

import argparse
import os
import re
import shlex
import shutil
import signal
import sys
import time

from reproduction.documents import REPOSITORY
from reproduction.jobs import Job
from reproduction.plan import Run
from reproduction.record import Record

PROGRESS = re.compile(r"%\||\[\d\d:\d\d")  # a tqdm bar, with and without a total
CLEAR_LINE = "\r\x1b[K"


def say(text: str) -> None:
    print((CLEAR_LINE if sys.stdout.isatty() else "") + text, flush=True)


def show(jobs: list[Job], side_by_side: bool) -> None:
    """Refresh the one line of a terminal that tells how far the jobs are; clear it if there are none."""
    if not sys.stdout.isatty():
        return
    shares = (" ".join([job.run.label, *re.findall(r"\d+%(?=\|)", job.output())[-1:]]) for job in jobs)
    latest = ", ".join(shares) if side_by_side else "".join(job.last_line() for job in jobs)
    print(CLEAR_LINE + f"        {latest}"[: shutil.get_terminal_size().columns - 1], end="", flush=True)


def clock(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    return f"{minutes}:{seconds:02d}" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"


def how_to_go_on(given: list[str]) -> str:
    same = os.path.abspath(shutil.which("python") or "") == os.path.abspath(sys.executable)
    python = "python" if same else os.path.relpath(sys.executable)
    words = [python, os.path.relpath(REPOSITORY / "reproduce.py"), *given]
    return shlex.join(words + ["--resume"] * ("--resume" not in given))


def how_ended(job: Job) -> str:
    if job.status > 0:
        return f"exit status {job.status}"
    no_memory = " (the system kills a process so when memory runs out)" if job.status == -signal.SIGKILL else ""
    return f"signal {signal.Signals(-job.status).name}{no_memory}"


def tell_end(job: Job, running: list[Job], side_by_side: bool) -> None:
    """Print of a step that ended its warnings, its last lines, time and memory."""
    took = f"{clock(job.seconds)}, {job.memory} MB"
    if side_by_side:
        say(f"        {job.run.label}: {f'ended with {how_ended(job)}' if job.status else f'done in {took}'}")
    if job.status and running:
        say(f"        Waiting for the steps that still run: {', '.join(other.run.label for other in running)}")
    if job.status == 0:
        lines = [line.rstrip() for line in job.lines if line.strip() and not PROGRESS.search(line)]
        warnings = [line for line in lines[:-3] if line.lower().startswith("warning")]
        for line in [*warnings, *lines[-3:], *([] if side_by_side else [took])]:
            say(f"        {line}")


def tell_failures(failed: list[Job], total: int, args: argparse.Namespace) -> int:
    for job in failed:
        head = f"step {job.run.number} of {total}, {job.run.label}, ended with {how_ended(job)}"
        if job.status != 130:
            tail = "".join(f"    {line}\n" for line in job.lines[-15:])
            command = shlex.join(job.run.argv)
            head = f"error: {head}\n{job.run.step}: {command}\nThe last lines of {job.log_path}:\n{tail}"
        print(head.rstrip(), file=sys.stderr)
    print(f"To go on from here: {how_to_go_on(args.given)}", file=sys.stderr)
    status = failed[0].status if failed else 130
    return status if status in (2, 130) else 1


def tell_results(chosen: list[Run], begin: float, args: argparse.Namespace, record: Record) -> None:
    results = args.root / "evaluation" / "evaluation_results" / "val"
    summary, report = results / "metrics_summary.txt", results / "report.html"
    fresh = [path for path in (summary, report) if path.is_file() and path.stat().st_mtime >= begin]
    if summary in fresh:
        ranking = summary.read_text("utf-8").split("\n== ")[0]  # comparisons and warnings are in the file
        say(f"\n{ranking.strip()}\n")
    seconds = {run.label: float(row.seconds) for run in chosen if (row := record.of(run))}
    longest = max(seconds, key=seconds.__getitem__, default="")
    slowest = f"; the longest, {longest}, took {clock(seconds[longest])}" if longest else ""
    say(f"{len(chosen)} steps in {clock(time.time() - begin)}{slowest}. Time and memory of each: {record.path}")
    if summary in fresh:
        print(f"Tables: {summary}")
    if report in fresh:
        print(f"Report: {report}")
