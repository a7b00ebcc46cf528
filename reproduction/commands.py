"""The command of each run: the documented one with the flags that were given and that it takes."""

import contextlib
import importlib
import io
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

from common.errors import UserError
from common.folds import fold_root
from reproduction.documents import REPOSITORY
from reproduction.plan import Run

Flags = list[list[str]]  # of each flag its words
READ_RAW_TILES = ("data_prep.check_biodiversity", "data_prep.split_biodiversity")


def complete_commands(
    runs: list[Run], root: str, given: Flags, seeds: list[str], folds: int | None = None, raw: Flags | None = None
) -> None:
    """Add --root, and of the given flags those that a command takes.

    The step of a fold has the root of the fold and its seed. One that takes --fold makes the fold: it has the root and
    the seed of the study. The scripts are imported in another process, so that torch is never loaded here.

    Args:
        runs: whose commands are completed.
        root, given: of the study.
        seeds: empty if none was given; with ``folds`` the study's alone.
        folds: the K of a study by folds.
        raw: flags for the steps that read raw tiles alone: another script has one of these names for something else.

    Raises:
        UserError: a command does not parse.
    """
    questions: list[tuple] = []
    for run in runs:
        here = [*given, *(raw or [])] if run.step.module in READ_RAW_TILES else given
        flags = [*here, ["--seed", run.seed or seeds[0]]] if seeds else here
        if run.fold:
            of_fold = ["--root", str(fold_root(Path(root), int(run.fold)))]
            making = [*here, ["--folds", str(folds)], ["--fold", run.fold], ["--seed", seeds[0]]]
            questions.append((run.step.argv, of_fold, flags, (["--root", root], making)))
        else:
            questions.append((run.step.argv, ["--root", root], flags, None))
    probe = subprocess.run(
        [sys.executable, "-c", "from reproduction.commands import answer; answer()"],
        cwd=REPOSITORY,
        text=True,
        capture_output=True,
        input=json.dumps(questions),
    )
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


def complete(
    argv: list[str], root: list[str], given: Flags, of_study: tuple[list[str], Flags] | None = None
) -> tuple[list[str], list[str], str | None]:
    """A command with its root and the flags that it takes, all flags that it takes, and why it does not parse.

    ``of_study``: root and flags of a command that takes --fold, in place of the others.
    """
    printed, taken = io.StringIO(), []
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        try:
            parse_args = importlib.import_module(argv[2]).parse_args
            with contextlib.suppress(SystemExit):
                parse_args(["--help"])
            usage = printed.getvalue().split("\n\n")[0]  # the description below it may name flags of other scripts
            taken = re.findall(r"--\w[\w-]*", usage)
            if of_study and "--fold" in taken:
                root, given = of_study
            argv = sum([flag for flag in given if flag[0] in taken], argv + root)
            printed.truncate(0)
            parse_args(argv[3:])
        except SystemExit:
            return argv, taken, printed.getvalue().rpartition("error: ")[2].strip() or "its flags are refused"
        except (ImportError, SyntaxError) as error:
            return argv, taken, f"{argv[2]} cannot be imported: {error}. Is pip install -r requirements.txt done here?"
    return argv, taken, None
