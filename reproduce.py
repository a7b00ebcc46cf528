r"""Run the numbered steps of the REPRODUCE files in order: data, training, evaluation.

The ``bash`` block under a heading ``## N. Title`` is one step. ``console`` blocks (alternatives, launchers) are not
run; steps whose heading ends in ``(control)`` run with --controls. --root goes to every command; --preset, --device,
--workers and --overwrite, where given, to the commands that take them, and win over the document.

The steps of REPRODUCE_TRAINING.md run once for each of --seeds, all others once, with the first of the seeds. With
--jobs 2 two trainings run side by side, each after the steps that its text says it builds on. <root>/logs/ keeps what
each step printed; summary.tsv there records how each ended, and from that --resume goes on: it skips what was finished
with the same command, continues a training that was interrupted, and runs the rest.

    python reproduce.py --list
    python reproduce.py --root demo --preset demo
    python reproduce.py --seeds 42 43 44 --controls --jobs 2 --resume
    python reproduce.py --from train_stage3_difficulty
"""

import argparse
import contextlib
import difflib
import importlib
import io
import itertools
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

try:
    from common.cli import Parser, non_negative_int, positive_int, run
    from common.errors import UserError
    from common.files import locked
except ModuleNotFoundError as missing:
    raise SystemExit(
        f"error: {missing}. Run this with the Python that has requirements.txt installed: source .venv/bin/activate "
        "after make install, or conda activate ClassImbalance."
    ) from None

REPOSITORY = Path(__file__).resolve().parent
DOCUMENTS = ("REPRODUCE_DATA.md", "REPRODUCE_TRAINING.md", "REPRODUCE_EVALUATION.md")
RUN_PER_SEED = "REPRODUCE_TRAINING.md"
DOCUMENTED_SEED = "42"  # the default of every script
PASSED_ON = ("--preset", "--device", "--workers", "--overwrite")
BUILDS_ON = re.compile(r"Builds on (?:no other step|steps? ([\d, and]+))\.")
SHELL_SYNTAX = re.compile(r"[$`*?;|&<>~]")  # what bash would expand or chain
PROGRESS = re.compile(r"%\||\[\d\d:\d\d")  # a tqdm bar, with and without a total
CLEAR_LINE = "\r\x1b[K"
SECONDS_TO_STOP = 60  # for an interrupted step to write its checkpoint, before it is killed


@dataclass
class Step:
    document: str
    number: int
    title: str
    argv: list[str] = field(default_factory=list)  # python -m package.module --flags
    name: str = ""
    position: int = 0  # among all steps, controls included: a step has one number whatever is run
    builds_on: set[int] | None = None  # numbers in its document, with those that they build on; None for all before it

    @property
    def module(self) -> str:
        return self.argv[2]

    @property
    def is_control(self) -> bool:
        return self.title.endswith("(control)")

    def __str__(self) -> str:
        return f"{self.document}, step {self.number} ({self.title})"


@dataclass
class Run:
    """A step for one seed; ``seed`` is empty where the step runs once."""

    step: Step
    seed: str
    label: str  # names it in messages
    argv: list[str] = field(default_factory=list)
    can_resume: bool = False
    number: int = 0  # counts what is begun


def read_blocks(text: str) -> Iterator[tuple[str, int, str]]:
    """Yield (kind, line number, content) of each # or ## heading (``heading``), fenced block (its language), and line
    that says what a step builds on (``builds on``)."""
    fence, language, start, block = "", "", 0, []
    for number, line in enumerate(text.splitlines(), 1):
        mark = re.match(r"\s*(`{3,}|~{3,})\s*(\w*)", line)
        if fence and mark and mark[1].startswith(fence) and not mark[2]:
            yield language, start, "\n".join(block)
            fence = ""
        elif fence:
            block.append(line)
        elif mark:
            fence, language, start, block = mark[1], mark[2], number, []
        elif re.match(r"##? ", line):
            yield "heading", number, line.lstrip("#").strip()
        elif line.startswith("Builds on "):
            yield "builds on", number, line
    if fence:
        raise UserError(f"line {start}: the {language} block that begins here is never closed")


def parse_command(block: str) -> list[str]:
    """The words of the one ``python -m package.module --flags`` of a bash block; UserError on anything else."""
    try:
        commands = [shlex.split(line, comments=True) for line in block.replace("\\\n", " ").splitlines()]
    except ValueError:  # a quotation that is not closed
        commands = []
    commands = [words for words in commands if words]
    words = commands[0] if len(commands) == 1 else []
    if words[:2] != ["python", "-m"] or len(words) < 3 or any(SHELL_SYNTAX.search(word) for word in words):
        raise UserError(
            f"found {block!r}; the bash block of a numbered step holds one command of the form python -m "
            "package.module --flags, without other shell syntax. Anything else belongs in a console block"
        )
    return words


def read_builds_on(text: str, line: int, steps: list[Step]) -> set[int]:
    """The numbers of the steps that the last of ``steps`` builds on, and of all that those build on."""
    match = BUILDS_ON.match(text)
    direct = {int(number) for number in re.findall(r"\d+", match[1] or "")} if match else {len(steps)}
    if not all(0 < number < len(steps) for number in direct):
        raise UserError(
            f"line {line}: found {text!r}; expected Builds on no other step. or Builds on steps 1 and 2. with the "
            "numbers of earlier steps of the document"
        )
    behind = [set(range(1, n)) if (known := steps[n - 1].builds_on) is None else known for n in direct]
    return direct.union(*behind)


def read_document(folder: Path, document: str) -> list[Step]:
    steps, step = [], None
    try:
        for kind, line, content in [*read_blocks((folder / document).read_text("utf-8")), ("heading", 0, "")]:
            if kind == "heading":
                if step and not step.argv:
                    raise UserError(f"step {step.number} ({step.title}) has no bash block; each has exactly one")
                step = None
                if numbered := re.fullmatch(r"(\d+)\. +(.+)", content):
                    step = Step(document, int(numbered[1]), numbered[2])
                    steps.append(step)
                    if step.number != len(steps):
                        raise UserError(f"line {line}: found step {step.number} where step {len(steps)} was expected")
            elif kind == "builds on" and step:
                step.builds_on = read_builds_on(content, line, steps)
            elif kind == "bash":
                if step is None or step.argv:
                    problem = "second bash block in one step" if step else "bash block outside the numbered steps"
                    raise UserError(f"line {line}: {problem}; what is not to be run is fenced as ```console")
                step.argv = parse_command(content)
                if not folder.joinpath(*step.module.split(".")).with_suffix(".py").is_file():
                    raise UserError(f"step {step.number} ({step.title}): there is no module {step.module} in {folder}")
        if not steps:
            raise UserError("there is no numbered step (## 1. Title) in it")
    except UserError as error:
        raise UserError(f"{document}: {error}") from None
    return steps


def read_steps(folder: Path, documents: Sequence[str] = DOCUMENTS) -> list[Step]:
    """The steps of all documents in order, controls included, each with a name of its own."""
    steps = [step for document in documents for step in read_document(folder, document)]
    modules = Counter(step.module.split(".")[-1] for step in steps)
    for position, step in enumerate(steps, 1):
        step.position, step.name = position, step.module.split(".")[-1]
        if modules[step.name] > 1:
            words = [part for word in step.argv[3:] for part in word.split("=", 1)]
            values = [word for word in words if not word.startswith("--")] or [word[2:] for word in words]
            step.name = re.sub(r"[^\w.-]+", "-", "-".join([step.name, *values]))
    for name, times in Counter(step.name for step in steps).items():
        if times > 1:
            same = "; ".join(str(step) for step in steps if step.name == name)
            raise UserError(f"{times} steps have the same command or name {name}: {same}")
    return steps


def find_step(steps: list[Step], flag: str, text: str, controls: bool) -> int:
    """The position of a step given by name or by number; UserError where there is none, or it is a control left out."""
    matches = [step for step in steps if text in (step.name, str(step.position))]
    if matches and matches[0].is_control and not controls:
        raise UserError(f"{flag} {text}: {matches[0].name} is a control. Give --controls as well")
    if matches:
        return matches[0].position
    names = [step.name for step in steps if controls or not step.is_control]
    close = [name for name in names if text in name] or difflib.get_close_matches(text, names)
    hint = f" Did you mean {' or '.join(close)}?" if close else ""
    raise UserError(f"{flag} {text}: no such step.{hint} --list numbers them; by name: {', '.join(names)}")


def plan(steps: list[Step], seeds: list[str]) -> list[Run]:
    """Every step with its seed, in the order of one job: what runs once, one seed after the other, what runs once."""
    runs = []
    for document, group in itertools.groupby(steps, key=lambda step: step.document):
        group = list(group)
        for seed in seeds if document == RUN_PER_SEED else [""]:
            several = f" seed {seed}" if seed and len(seeds) > 1 else ""
            runs += [Run(step, seed, step.name + several) for step in group]
    return runs


def needs(step: Step, seed: str, other: Run) -> bool:
    """Whether a step of a seed builds on another.

    A training builds on what runs once before it, and of its own seed on the steps that its text names; where it names
    none, on all before it but controls. What runs once builds on all before it.
    """
    if step.position <= other.step.position:
        return False
    if not seed or not other.seed:
        return True
    if step.builds_on is not None and step.document == other.step.document:
        return seed == other.seed and other.step.number in step.builds_on
    return seed == other.seed and not other.step.is_control


def complete_commands(runs: list[Run], root: str, given: list[list[str]], seeds: list[str]) -> None:
    """Add --root, and of the given flags those that a command takes; UserError where a command does not parse.

    ``seeds`` is empty where none was given. The scripts are imported in another process, so that torch is never
    loaded here.
    """
    questions = []
    for run in runs:
        flags = [*given, ["--seed", run.seed or seeds[0]]] if seeds else given
        questions.append([run.step.argv, ["--root", root], flags])
    probe = subprocess.run(
        [sys.executable, "-c", "import reproduce; reproduce.answer()"], cwd=REPOSITORY, text=True, capture_output=True,
        input=json.dumps(questions),
    )  # fmt: skip
    if probe.returncode:
        raise RuntimeError(f"the scripts could not be asked for their flags:\n{probe.stderr}")
    for run, (argv, taken, problem) in zip(runs, json.loads(probe.stdout), strict=True):
        if run.seed and len(seeds) > 1 and "--seed" not in taken:
            problem = problem or f"it takes no --seed, so that it cannot run once for each of {len(seeds)} seeds"
        if problem:
            raise UserError(f"{run.step}: {problem}\nThe command was: {shlex.join(argv)}")
        run.argv, run.can_resume = argv, "--resume" in taken


def answer() -> None:
    """Complete, in the process that imports the scripts, each command that is asked for on standard input."""
    print(json.dumps([complete(*question) for question in json.load(sys.stdin)]))


def complete(argv: list[str], root: list[str], given: list[list[str]]) -> tuple[list[str], list[str], str | None]:
    printed, taken = io.StringIO(), []
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        try:
            parse_args = importlib.import_module(argv[2]).parse_args
            with contextlib.suppress(SystemExit):
                parse_args(["--help"])
            usage = printed.getvalue().split("\n\n")[0]  # the description below it may name flags of other scripts
            taken = re.findall(r"--\w[\w-]*", usage)
            argv = sum([flag for flag in given if flag[0] in taken], argv + root)
            printed.truncate(0)
            parse_args(argv[3:])
        except SystemExit:
            return argv, taken, printed.getvalue().rpartition("error: ")[2].strip() or "its flags are refused"
        except (ImportError, SyntaxError) as error:
            return argv, taken, f"{argv[2]} cannot be imported: {error}. Is pip install -r requirements.txt done here?"
    return argv, taken, None


class Row(NamedTuple):
    step: str
    seed: str
    seconds: str
    exit_status: str  # or "running" (still there: nobody saw it end), or "outdated" (what it built on was made again)
    peak_memory_mb: str
    command: str


class Record:
    """The table logs/summary.tsv: how each step of each seed last ended."""

    def __init__(self, path: Path, steps: list[Step]):
        self.path = path
        self.steps = {step.name: step for step in steps}
        lines = path.read_text("utf-8").splitlines()[1:] if path.is_file() else []
        rows = [Row(*line.split("\t")) for line in lines if line.count("\t") == len(Row._fields) - 1]
        self.rows = {(row.step, row.seed): row for row in rows if row.step in self.steps}

    def of(self, run: Run) -> Row | None:
        return self.rows.get((run.step.name, run.seed))

    def has_finished(self, run: Run) -> bool:
        row = self.of(run)
        return row is not None and row.exit_status == "0" and _essence(shlex.split(row.command)) == _essence(run.argv)

    def built_on(self, run: Run) -> list[Row]:
        return [row for row in self.rows.values() if needs(self.steps[row.step], row.seed, run)]

    def begin(self, run: Run) -> None:
        for row in self.built_on(run):
            self.rows[row.step, row.seed] = row._replace(exit_status="outdated")
        self.write(run, "", "running", "")

    def write(self, run: Run, seconds: str, status: int | str, memory: int | str) -> None:
        row = Row(run.step.name, run.seed, seconds, str(status), str(memory), shlex.join(run.argv))
        self.rows[row.step, row.seed] = row
        rows = sorted(self.rows.values(), key=self._order)
        partial = self.path.with_suffix(".partial")
        partial.write_text("\n".join("\t".join(row) for row in [Row._fields, *rows]) + "\n", "utf-8")
        partial.replace(self.path)

    def _order(self, row: Row) -> tuple:
        step = self.steps[row.step]
        return DOCUMENTS.index(step.document), int(row.seed or 0), step.position


def _essence(words: list[str]) -> str:
    """A command without what does not change its results; --seed, where given, ends it."""
    kept, rest = [], iter(words)
    for word in rest:
        if word in ("--root", "--workers"):
            next(rest)
        elif word not in ("--resume", "--overwrite"):
            kept.append(word)
    return shlex.join(kept).removesuffix(f" --seed {DOCUMENTED_SEED}")


def choose(runs: list[Run], record: Record, resume: bool) -> list[Run]:
    """The runs to be made: all, or with --resume those that are not finished, and those that build on them."""
    chosen = []
    for run in runs:
        outdated = any(needs(run.step, run.seed, earlier) for earlier in chosen)
        if outdated or not resume or not record.has_finished(run):
            chosen.append(run)
    return chosen


def keep_trainings(chosen: list[Run], record: Record, resume: bool) -> None:
    """UserError where a training that is recorded as finished would be made again."""
    for run in chosen:
        for row in [record.of(run), *record.built_on(run)]:
            if row and row.seed and row.exit_status == "0":
                raise UserError(
                    f"{record.path}: {row.step} of seed {row.seed} was finished by\n    {row.command}\n"
                    f"and would be made again, since this is to run:\n    {shlex.join(run.argv)}\n"
                    f"Keep it {'by the flags that were given then' if resume else 'with --resume'}, "
                    "or replace it with --overwrite"
                )


def continue_trainings(chosen: list[Run], record: Record) -> None:
    """Give --resume to what takes it, but not where --overwrite is to replace what is outdated or was refused."""
    for run in chosen:
        row = record.of(run)
        replaced = row and row.exit_status in ("0", "2", "outdated") and "--overwrite" in run.argv
        if run.can_resume and not replaced:
            run.argv = [word for word in run.argv if word != "--overwrite"] + ["--resume"]


def heed_interrupts() -> None:
    """Undo what a shell does to jobs in the background, which would ignore the interrupt that is to end them."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Job:
    """A run as a process with its output in a log.

    The process has a group of its own: an interrupt gives it time to end its work, and leaves no worker behind.
    """

    def __init__(self, run: Run, logs: Path, threads: int | None):
        self.run, self.begin, self.memory = run, time.monotonic(), 0
        folder = logs / f"seed{run.seed}" if run.seed else logs
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


def say(text: str) -> None:
    print((CLEAR_LINE if sys.stdout.isatty() else "") + text, flush=True)


def show(jobs: list[Job], side_by_side: bool) -> None:
    """Refresh the one line of a terminal that tells how far the jobs are; clear it where there are none."""
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
    words = ["python" if same else os.path.relpath(sys.executable), os.path.relpath(__file__), *given]
    return shlex.join(words + ["--resume"] * ("--resume" not in given))


def next_run(waiting: list[Run], running: list[Job], jobs: int) -> Run | None:
    """What a free place takes. With one job the next step; with several the one that most waiting steps build on, and
    of equal ones that of the seed with most steps left.

    None where no place is free, or where all that waits needs what runs.
    """
    if len(running) == jobs:
        return None
    ahead = [*waiting, *(job.run for job in running)]
    ready = [run for run in waiting if not any(needs(run.step, run.seed, other) for other in ahead)]

    left = Counter(run.seed for run in waiting)

    def urgency(run: Run) -> tuple[int, int]:
        return sum(needs(other.step, other.seed, run) for other in waiting), left[run.seed]

    return max(ready, key=urgency, default=None) if jobs > 1 else next(iter(ready), None)


def run_all(chosen: list[Run], skipped: int, args: argparse.Namespace, record: Record) -> int:
    """Run what was chosen, --jobs side by side, until a step fails; the exit status of the whole."""
    begin, total = time.time(), skipped + len(chosen)
    threads = max(1, cpu_count() // args.jobs) if args.jobs > 1 else None
    waiting, running, failed, stop_by = list(chosen), [], [], None
    with caught_interrupts() as caught:
        try:
            while running or (waiting and not failed and not caught):
                while not failed and not caught and (run := next_run(waiting, running, args.jobs)):
                    waiting.remove(run)
                    run.number = total - len(waiting)
                    record.begin(run)
                    say(f"[{run.number:{len(str(total))}}/{total}] {run.label}  (elapsed {clock(time.time() - begin)})")
                    running.append(Job(run, record.path.parent, threads if run.seed else None))
                ended = [job for job in running if job.has_ended()]
                for job in ended:
                    job.close(interrupted=bool(caught))
                    record.write(job.run, f"{job.seconds:.1f}", job.status, job.memory)
                    running.remove(job)
                    failed += [job] if job.status else []
                    tell_end(job, running, args.jobs > 1)
                if caught and stop_by is None:
                    stop_by = time.monotonic() + SECONDS_TO_STOP
                    for job in running:
                        job.interrupt()
                if len(caught) > 1 or (stop_by and time.monotonic() > stop_by):
                    for job in running:
                        job.kill()
                show(running, args.jobs > 1)
                time.sleep(0 if ended else 0.1)
        finally:
            for job in running:
                job.kill()
    if failed or waiting:
        return tell_failures(failed, total, args)
    tell_results(chosen, begin, args, record)
    return 0


def cpu_count() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def how_ended(job: Job) -> str:
    if job.status > 0:
        return f"exit status {job.status}"
    no_memory = " (the system kills a process so when memory runs out)" if job.status == -signal.SIGKILL else ""
    return f"signal {signal.Signals(-job.status).name}{no_memory}"


def tell_end(job: Job, running: list[Job], side_by_side: bool) -> None:
    """What is worth knowing of a step that ended: its warnings, its last lines, time and memory."""
    took = f"{clock(job.seconds)}, {job.memory} MB"
    if side_by_side:
        say(f"        {job.run.label}: {f'ended with {how_ended(job)}' if job.status else f'done in {took}'}")
    if job.status and running:
        say(f"        The steps that still run are waited for: {', '.join(other.run.label for other in running)}")
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
    seconds = {run.label: float(row.seconds) for run in chosen if (row := record.of(run))}
    say(f"{len(chosen)} steps in {clock(time.time() - begin)}. The slowest:")
    for label in sorted(seconds, key=seconds.__getitem__, reverse=True)[:5]:
        print(f"  {clock(seconds[label]):>8}  {label}")
    print(f"Time and memory of each step: {record.path}")
    results = args.root / "evaluation" / "evaluation_results" / "val"
    summary, report = results / "metrics_summary.txt", results / "report.html"
    if summary.is_file() and summary.stat().st_mtime >= begin:
        print(f"Results: {summary}\n\n{summary.read_text('utf-8')}")
    if report.is_file() and report.stat().st_mtime >= begin:
        print(f"Report: {report}")


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(__doc__)
    parser.add_argument("--preset", help="paper, laptop or demo, for the steps that train")
    seeds = parser.add_mutually_exclusive_group()
    seeds.add_argument("--seeds", nargs="+", type=non_negative_int, metavar="N", help="train with each of these seeds")
    seeds.add_argument("--seed", dest="seeds", nargs=1, type=non_negative_int, metavar="N", help="the same, for one")
    parser.add_argument("--jobs", type=positive_int, default=1, metavar="N", help="trainings that run side by side")
    parser.add_argument("--device", help="auto, cpu or cuda, for the steps that run a model")
    parser.add_argument("--workers", help="worker processes of a step")
    parser.add_argument("--overwrite", action="store_true", help="replace the outputs of an earlier run")
    parser.add_argument("--resume", action="store_true", help="go on where an earlier run stopped")
    parser.add_argument("--controls", action="store_true", help="run the steps marked (control) as well")
    parser.add_argument("--from", dest="first", metavar="STEP", help="begin with this step, a name or a number")
    parser.add_argument("--to", dest="last", metavar="STEP", help="end with this step, a name or a number")
    parser.add_argument("--list", action="store_true", help="print the steps and their commands as documented")
    parser.add_argument("--dry-run", action="store_true", help="print the commands exactly as they would be run")
    args = parser.parse_args(argv)
    args.given = sys.argv[1:] if argv is None else list(argv)
    if args.seeds and len(set(args.seeds)) < len(args.seeds):
        parser.error(f"argument --seeds: {' '.join(map(str, args.seeds))} holds a seed twice")
    return args


def main(argv: list[str] | None = None) -> int | None:
    args = parse_args(argv)
    steps = read_steps(REPOSITORY)
    first = find_step(steps, "--from", args.first, args.controls) if args.first else 1
    last = find_step(steps, "--to", args.last, args.controls) if args.last else len(steps)
    if first > last:
        raise UserError(f"--from {args.first} comes after --to {args.last}: there is nothing to run")
    asked_for = [step for step in steps[first - 1 : last] if args.controls or not step.is_control]
    if args.list:
        for step in asked_for:
            print(f"[{step.position}/{len(steps)}] {step.name}: {step.title}\n        {shlex.join(step.argv)}")
        return 0

    folder = os.path.abspath(args.root)
    root = os.path.relpath(folder, REPOSITORY) if Path(folder).is_relative_to(REPOSITORY) else folder
    values = {flag: getattr(args, flag[2:]) for flag in PASSED_ON}
    given = [[flag] if value is True else [flag, value] for flag, value in values.items() if value]
    seeds = [str(seed) for seed in args.seeds or []]
    runs = plan(asked_for, seeds or [DOCUMENTED_SEED])
    if not args.dry_run:
        print(f"Checking the commands of {len(runs)} steps", flush=True)  # imports all scripts: some seconds
    complete_commands(runs, root, given, seeds)
    record = Record(args.root / "logs" / "summary.tsv", steps)
    chosen = choose(runs, record, args.resume)
    if not args.overwrite:
        keep_trainings(chosen, record, args.resume)
    if args.resume:
        continue_trainings(chosen, record)
    if args.dry_run:
        print("".join(f"{shlex.join(run.argv)}\n" for run in chosen), end="")
        return 0
    if not args.root.is_dir():
        raise UserError(f"--root {args.root}: no such folder. Make it, with your tiles under data/ (REPRODUCE_DATA.md)")
    if skipped := len(runs) - len(chosen):
        print(f"Skipped {skipped} steps that were finished before{'' if chosen else ': nothing is left to run'}")
    if not chosen:
        return 0
    record.path.parent.mkdir(exist_ok=True)
    with locked(record.path.parent):
        return run_all(chosen, skipped, args, record)


if __name__ == "__main__":
    for ending in (signal.SIGTERM, signal.SIGHUP):  # these stop the running step as Ctrl-C does
        if signal.getsignal(ending) == signal.SIG_DFL:  # under nohup SIGHUP is ignored
            signal.signal(ending, signal.default_int_handler)
    run(main)
