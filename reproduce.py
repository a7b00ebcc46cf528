r"""Run the numbered steps of the REPRODUCE files in order: data, training, evaluation.

The ``bash`` block under a heading ``## N. Title`` is one step. ``console`` blocks (alternatives, launchers) are not
run; steps whose heading ends in ``(control)`` run with --controls. --root goes to every command; --preset, --seed,
--device, --workers and --overwrite, where given, to the commands that take them, and win over the document;
--resume to the first command that is run.

    python reproduce.py --list
    python reproduce.py --root demo --preset demo
    python reproduce.py --from train_stage3_difficulty
"""

import contextlib
import difflib
import importlib
import io
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
from dataclasses import dataclass, field
from pathlib import Path

try:
    from common.cli import Parser, UserError, run
except ModuleNotFoundError as missing:
    raise SystemExit(
        f"error: {missing}. Run this with the Python that has requirements.txt installed: source .venv/bin/activate "
        "after make install, or conda activate ClassImbalance."
    ) from None

REPOSITORY = Path(__file__).resolve().parent
DOCUMENTS = ("REPRODUCE_DATA.md", "REPRODUCE_TRAINING.md", "REPRODUCE_EVALUATION.md")
PASSED_ON = ("--preset", "--seed", "--device", "--workers", "--overwrite")
SHELL_SYNTAX = re.compile(r"[$`*?;|&<>~]")  # what bash would expand or chain
PROGRESS = re.compile(r"%\||\[\d\d:\d\d")  # a tqdm bar, with and without a total
SECONDS_TO_STOP = 60  # for an interrupted step to write its checkpoint, before it is killed


@dataclass
class Step:
    document: str
    number: int
    title: str
    argv: list[str] = field(default_factory=list)  # python -m package.module --flags
    name: str = ""
    can_resume: bool = False

    @property
    def module(self) -> str:
        return self.argv[2]

    @property
    def is_control(self) -> bool:
        return self.title.endswith("(control)")

    def __str__(self):
        return f"{self.document}, step {self.number} ({self.title})"


def read_blocks(text: str):
    """Yield (kind, line number, content) of each # or ## heading (``heading``) and fenced block (its language)."""
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


def read_steps(folder: Path, documents=DOCUMENTS) -> list[Step]:
    """The steps of all documents in order, controls included, each with a name of its own."""
    steps = [step for document in documents for step in read_document(folder, document)]
    modules = Counter(step.module.split(".")[-1] for step in steps)
    for step in steps:
        step.name = step.module.split(".")[-1]
        if modules[step.name] > 1:
            words = [part for word in step.argv[3:] for part in word.split("=", 1)]
            values = [word for word in words if not word.startswith("--")] or [word[2:] for word in words]
            step.name = re.sub(r"[^\w.-]+", "-", "-".join([step.name, *values]))
    for name, times in Counter(step.name for step in steps).items():
        if times > 1:
            same = "; ".join(str(step) for step in steps if step.name == name)
            raise UserError(f"{times} steps have the same command or name {name}: {same}")
    return steps


def find_step(steps: list[Step], flag: str, text: str) -> int:
    """The position of a step given by name or by number; UserError with the names where there is none."""
    names = [step.name for step in steps]
    if text.isdigit() and 1 <= int(text) <= len(steps):
        return int(text) - 1
    if text in names:
        return names.index(text)
    close = [name for name in names if text in name] or difflib.get_close_matches(text, names)
    hint = f" Did you mean {' or '.join(close)}?" if close else ""
    raise UserError(f"{flag} {text}: no such step.{hint} The steps are 1 to {len(steps)}: {', '.join(names)}")


def complete_commands(steps: list[Step], root: str, given: list[list[str]], resume: bool = False) -> None:
    """Add --root, and of the given flags those that a command takes; UserError where a command does not parse.

    The scripts are imported in another process, so that torch is never loaded here.
    """
    probe = subprocess.run(
        [sys.executable, "-c", "import reproduce; reproduce._answer()"], cwd=REPOSITORY, text=True, capture_output=True,
        input=json.dumps([[step.argv, ["--root", root], given, resume and step is steps[0]] for step in steps]),
    )  # fmt: skip
    if probe.returncode:
        raise RuntimeError(f"the scripts could not be asked for their flags:\n{probe.stderr}")
    for step, (argv, taken, problem) in zip(steps, json.loads(probe.stdout), strict=True):
        if problem:
            raise UserError(f"{step}: {problem}\nThe command was: {shlex.join(argv)}")
        step.argv, step.can_resume = argv, "--resume" in taken


def _answer() -> None:
    print(json.dumps([_complete(*question) for question in json.load(sys.stdin)]))


def _complete(argv, root, given, resume):
    said, taken = io.StringIO(), []
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            parse_args = importlib.import_module(argv[2]).parse_args
            with contextlib.suppress(SystemExit):
                parse_args(["--help"])
            usage = said.getvalue().split("\n\n")[0]  # the description below it may name flags of other scripts
            taken = re.findall(r"--\w[\w-]*", usage)
            if resume and "--resume" in taken:  # what is continued is not replaced
                given = [flag for flag in given if flag != ["--overwrite"]] + [["--resume"]]
            argv = sum([flag for flag in given if flag[0] in taken], argv + root)
            said.truncate(0)
            parse_args(argv[3:])
        except SystemExit:
            return argv, taken, said.getvalue().rpartition("error: ")[2].strip() or "its flags are refused"
        except (ImportError, SyntaxError) as error:
            return argv, taken, f"{argv[2]} cannot be imported: {error}. Is pip install -r requirements.txt done here?"
    return argv, taken, None


def heed_interrupts() -> None:
    """Undo what a shell does to jobs in the background, which would ignore the interrupt that is to end them."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def run_step(argv: list[str], log_path: Path, show) -> tuple[int, float, int, list[str]]:
    """Run one command with its output in the log: exit status, seconds, peak MB of its largest process, log lines.

    The command runs in a process group of its own: an interrupt gives it time to end its work, and leaves no worker
    behind. ``show`` receives its latest output. In the end the log keeps the last state of each progress bar.
    """
    begin, memory = time.monotonic(), 0
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    with log_path.open("w+b", buffering=0) as log:
        log.write(f"# {shlex.join(argv)}\n# begun {time.strftime('%Y-%m-%d %H:%M:%S %z')}\n".encode())
        process = subprocess.Popen(
            [sys.executable, *argv[1:]], cwd=REPOSITORY, env={**os.environ, "PATH": path, "PYTHONUNBUFFERED": "1"},
            stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
            preexec_fn=heed_interrupts,
        )  # fmt: skip
        try:
            while process.returncode is None:
                pid, status, usage = os.wait4(process.pid, os.WNOHANG)
                if pid:
                    process.returncode = os.waitstatus_to_exitcode(status)
                    memory = usage.ru_maxrss // (1024**2 if sys.platform == "darwin" else 1024)
                else:
                    show(os.pread(log.fileno(), 2000, max(0, os.fstat(log.fileno()).st_size - 2000)))
                    time.sleep(0.1)
            status = process.returncode
        except KeyboardInterrupt:
            process.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(SECONDS_TO_STOP)
            status = 130
        finally:
            with contextlib.suppress(ProcessLookupError):  # also workers that outlived the command
                os.killpg(process.pid, signal.SIGKILL)
            show(b"")
    seconds = time.monotonic() - begin
    text = log_path.read_bytes().decode(errors="replace").rstrip()
    lines = [line.rstrip("\r").rpartition("\r")[2] for line in text.split("\n")]
    log_path.write_text("\n".join([*lines, f"# exit status {status} after {seconds:.1f} s, {memory} MB\n"]), "utf-8")
    return status, seconds, memory, lines[2:]


def show_latest(output: bytes) -> None:
    """Refresh one terminal line with the last line of ``output``; clear it where that is empty."""
    lines = [line for line in output.decode(errors="replace").splitlines() if line.strip() and line[0] != "#"]
    latest = "".join(filter(str.isprintable, "        " + lines[-1])) if lines else ""
    print("\r\x1b[K" + latest[: shutil.get_terminal_size().columns - 1], end="", flush=True)


def clock(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    return f"{minutes}:{seconds:02d}" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"


def how_to_go_on(step: Step, args, given: list[list[str]]) -> str:
    on_path = shutil.which("python")
    same = on_path and os.path.abspath(on_path) == os.path.abspath(sys.executable)
    words = ["python" if same else os.path.relpath(sys.executable), os.path.relpath(__file__)]
    words += [] if args.root == Path(".") else ["--root", str(args.root)]
    words += sum(given, []) + (["--controls"] if args.controls else []) + (["--to", args.last] if args.last else [])
    return shlex.join([*words, "--from", step.name, *(["--resume"] if step.can_resume else [])])


def run_steps(steps: list[Step], chosen: range, args, given: list[list[str]]) -> int:
    """Run the chosen steps, a log each, up to the first that fails; the exit status of the whole."""
    logs, rows, begin = args.root / "logs", {}, time.time()
    logs.mkdir(exist_ok=True)
    table = logs / "summary.tsv"
    show = show_latest if sys.stdout.isatty() else lambda _: None
    if args.first and table.is_file():  # go on with the table of the run that is continued
        rows = {line.split("\t")[0]: line for line in table.read_text("utf-8").splitlines()[1:]}
    width = len(str(len(steps)))
    for k in chosen:
        step, log_path = steps[k], logs / f"{k + 1:02d}_{steps[k].name}.log"
        print(f"[{k + 1:{width}}/{len(steps)}] {step.name}  (elapsed {clock(time.time() - begin)})", flush=True)
        status, seconds, memory, lines = run_step(step.argv, log_path, show)
        rows[step.name] = f"{step.name}\t{seconds:.1f}\t{status}\t{memory}"
        table.write_text("\n".join(["step\tseconds\texit_status\tpeak_memory_mb", *rows.values(), ""]), "utf-8")
        if status:
            how = f"exit status {status}" if status > 0 else f"signal {signal.Signals(-status).name}"
            how += " (the system kills a process so when memory runs out)" if status == -signal.SIGKILL else ""
            head = f"step {k + 1} of {len(steps)}, {step.name}, ended with {how}"
            if status != 130:
                tail = "".join(f"    {line}\n" for line in lines[-15:])
                head = f"error: {head}\n{step}: {shlex.join(step.argv)}\nThe last lines of {log_path}:\n{tail}"
            print(f"{head.rstrip()}\nTo go on from here: {how_to_go_on(step, args, given)}", file=sys.stderr)
            return status if status in (2, 130) else 1
        said = [line.rstrip() for line in lines if line.strip() and not PROGRESS.search(line)]
        warnings = [line for line in said[:-3] if line.lower().startswith("warning")]
        for line in [*warnings, *said[-3:], f"{clock(seconds)}, {memory} MB"]:
            print(f"        {line}")
    ran = [rows[steps[k].name].split("\t") for k in chosen]
    slowest = sorted(ran, key=lambda row: -float(row[1]))[:5]
    print(f"{len(chosen)} steps in {clock(time.time() - begin)}. The slowest:")
    for row in slowest:
        print(f"  {clock(float(row[1])):>8}  {row[0]}")
    print(f"Time and memory of each step: {table}")
    results = args.root / "evaluation" / "evaluation_results" / "val" / "metrics_summary.txt"
    if results.is_file() and results.stat().st_mtime >= begin:
        print(f"Results: {results}\n\n{results.read_text('utf-8')}")
    return 0


def parse_args(argv=None):
    parser = Parser(__doc__)
    parser.add_argument("--preset", help="paper, laptop or demo, for the steps that train")
    parser.add_argument("--seed", help="for the steps that draw")
    parser.add_argument("--device", help="auto, cpu or cuda, for the steps that run a model")
    parser.add_argument("--workers", help="worker processes of a step")
    parser.add_argument("--overwrite", action="store_true", help="replace the outputs of an earlier run")
    parser.add_argument("--resume", action="store_true", help="with --from: continue that stage where it stopped")
    parser.add_argument("--controls", action="store_true", help="run the steps marked (control) as well")
    parser.add_argument("--from", dest="first", metavar="STEP", help="begin with this step, a name or a number")
    parser.add_argument("--to", dest="last", metavar="STEP", help="end with this step, a name or a number")
    parser.add_argument("--list", action="store_true", help="print the steps and their commands as documented")
    parser.add_argument("--dry-run", action="store_true", help="print the commands exactly as they would be run")
    return parser.parse_args(argv)


def main(argv=None):
    args = parse_args(argv)
    steps = [step for step in read_steps(REPOSITORY) if args.controls or not step.is_control]
    first = find_step(steps, "--from", args.first) if args.first else 0
    last = find_step(steps, "--to", args.last) if args.last else len(steps) - 1
    if first > last:
        raise UserError(f"--from {args.first} comes after --to {args.last}: there is nothing to run")
    chosen = range(first, last + 1)
    if args.list:
        for k in chosen:
            print(f"[{k + 1}/{len(steps)}] {steps[k].name}: {steps[k].title}\n        {shlex.join(steps[k].argv)}")
        return 0

    root = os.path.abspath(args.root)
    root = os.path.relpath(root, REPOSITORY) if Path(root).is_relative_to(REPOSITORY) else root
    given = [(flag, getattr(args, flag[2:])) for flag in PASSED_ON]
    given = [[flag] if value is True else [flag, value] for flag, value in given if value]
    if not args.dry_run:
        print(f"Checking the commands of {len(chosen)} steps", flush=True)  # imports all scripts: some seconds
    complete_commands([steps[k] for k in chosen], root, given, args.resume)
    if args.dry_run:
        print("\n".join(shlex.join(steps[k].argv) for k in chosen))
        return 0
    if not args.root.is_dir():
        raise UserError(f"--root {args.root}: no such folder. Make it, with your tiles under data/ (REPRODUCE_DATA.md)")
    return run_steps(steps, chosen, args, given)


if __name__ == "__main__":
    for ending in (signal.SIGTERM, signal.SIGHUP):  # these stop the running step as Ctrl-C does
        if signal.getsignal(ending) == signal.SIG_DFL:  # under nohup SIGHUP is ignored
            signal.signal(ending, signal.default_int_handler)
    run(main)
