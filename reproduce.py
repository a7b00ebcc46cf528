r"""Run the numbered steps of the REPRODUCE files in order: data, training, evaluation.

The ``bash`` block under a heading ``## N. Title`` is one step. ``console`` blocks (alternatives, launchers) are not
run; steps whose heading ends in ``(control)`` run with --controls, in ``(rival)`` with --rivals, in ``(map)`` with
--map; --no-openearthmap leaves out the steps whose text says that they need OpenEarthMap. --root goes to every command;
--preset, --device, --workers, --overwrite, --bands, --oem-bands, --show and --gsd, if given, to the commands that take
them, and win over the document. The flags that say how the raw tiles look and are split go to the first two steps.

With --folds 5 each step runs once in each of five folds, whose roots are <root>/folds/1 to 5, unless its text says that
it runs once for all of them; --repeats 2 deals the tiles into five further folds, --fold 3 runs what belongs to that
fold alone. Without --folds the steps of REPRODUCE_TRAINING.md run once for each of --seeds, all others once, with the
first of the seeds. With --jobs 2 two steps run side by side, each after the steps that its text says it builds on.
<root>/logs/ keeps what each step printed; summary.tsv there records how each ended, and from that --resume goes on: it
skips what was finished with the same command, continues a training that was interrupted, and runs the rest.

    python reproduce.py --list
    python reproduce.py --root demo --preset demo
    python reproduce.py --folds 5 --controls --rivals --map --jobs 2 --resume
    python reproduce.py --folds 5 --no-openearthmap --void 255 --block-size 500 --jobs 2 --resume
    python reproduce.py --seeds 42 43 44 --controls --jobs 2 --resume
    python reproduce.py --from train_stage3_difficulty
"""

import argparse
import contextlib
import os
import shlex
import signal
import sys
import time
from collections.abc import Iterable
from pathlib import Path

try:
    from common.cli import Parser, non_negative_int, positive_int, run
    from common.errors import UserError
    from common.files import locked
    from reproduction.commands import complete_commands
    from reproduction.documents import MARKS, REPOSITORY, asked_for, find_step, read_steps
    from reproduction.jobs import Job, caught_interrupts, cpu_count
    from reproduction.plan import DOCUMENTED_SEED, Run, next_run, of_folds_alone, plan, plan_folds
    from reproduction.record import Record, choose, continue_trainings, keep_trainings
    from reproduction.telling import clock, say, show, tell_end, tell_failures, tell_results
except ModuleNotFoundError as missing:
    raise SystemExit(
        f"error: {missing}. Run this with the Python that has requirements.txt installed: source .venv/bin/activate "
        "after make install, or conda activate ClassImbalance."
    ) from None

PASSED_ON = ("--preset", "--device", "--workers", "--overwrite", "--bands", "--oem-bands", "--show", "--gsd")
# Flags of the two steps that read raw tiles, by name: how many words each takes, and what they are.
RAW_FLAGS: dict[str, tuple[int | str | None, str, str]] = {
    "--in-dir": (None, "FOLDER", "the raw tiles"),
    "--void": ("+", "ID", "ids of masks that are not labelled, as 0 is"),
    "--mask-colors": (None, "FILE", "JSON of the colours of masks"),
    "--images": (None, "PATTERN", "where images lie in that folder"),
    "--masks": (None, "PATTERN", "where masks lie in that folder"),
    "--alpha": (None, "CHOICE", "auto, yes or no: whether bands that files call alpha hide pixels"),
    "--overlaps": (None, "CHOICE", "together or ignore: tiles whose places overlap"),
    "--exclude": (None, "FILE", "tile ids to leave out of the split"),
    "--groups": (None, "FILE", "tiles that the split keeps together"),
    "--stretch": (None, "CHOICE", "train or tile: the range that becomes 0-255"),
    "--block-size": (None, "METRES", "side of a block of the split"),
    "--fractions": (3, "SHARE", "shares of train, val and test"),
}
FILES = ("--in-dir", "--mask-colors", "--exclude", "--groups")  # of these the value is a path
SECONDS_TO_STOP = 60  # for an interrupted step to write its checkpoint, before it is killed


def run_all(chosen: list[Run], skipped: int, args: argparse.Namespace, record: Record) -> int:
    """Run what was chosen, --jobs side by side, until a step fails; the exit status of the whole."""
    begin, total = time.time(), skipped + len(chosen)
    threads = max(1, cpu_count() // args.jobs) if args.jobs > 1 else None
    waiting, running, failed, stop_by = list(chosen), [], [], None
    with caught_interrupts() as caught:
        try:
            while running or (waiting and not failed and not caught):
                while not failed and not caught and (run := next_run(waiting, [job.run for job in running], args.jobs)):
                    waiting.remove(run)
                    run.number = total - len(waiting)
                    record.begin(run)
                    number, elapsed = f"[{run.number:{len(str(total))}}/{total}]", clock(time.time() - begin)
                    say(f"{number} {run.label}: {run.step.title}  (elapsed {elapsed})")
                    running.append(Job(run, record.path.parent, threads))
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


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(__doc__)
    parser.add_argument("--preset", help="paper, laptop or demo, for the steps that train")
    seeds = parser.add_mutually_exclusive_group()
    seeds.add_argument("--seeds", nargs="+", type=non_negative_int, metavar="N", help="train with each of these seeds")
    seeds.add_argument("--seed", dest="seeds", nargs=1, type=non_negative_int, metavar="N", help="train with this seed")
    parser.add_argument("--folds", type=positive_int, metavar="K", help="run everything in each of K folds")
    parser.add_argument("--repeats", type=positive_int, metavar="N", help="deal the tiles into --folds N times")
    parser.add_argument("--fold", type=positive_int, nargs="+", metavar="k", help="run only these folds")
    parser.add_argument("--jobs", type=positive_int, default=1, metavar="N", help="steps that run side by side")
    parser.add_argument("--device", help="auto, cpu or cuda, for the steps that run a model")
    parser.add_argument("--workers", help="worker processes of a step")
    parser.add_argument("--overwrite", action="store_true", help="replace the outputs of an earlier run")
    parser.add_argument("--bands", nargs="+", metavar="BAND", help="bands of the raw images that tiles have")
    for flag, text in (("--oem-bands", "of these that OpenEarthMap has"), ("--show", "of these that pictures show")):
        parser.add_argument(flag, nargs=3, metavar="BAND", help=f"the three bands {text}")
    parser.add_argument("--gsd", metavar="METRES", help="pixel size to which OpenEarthMap is resampled")
    raw = parser.add_argument_group("flags of check_biodiversity and split_biodiversity, whose --help says more")
    for flag, (words, metavar, text) in RAW_FLAGS.items():
        raw.add_argument(flag, nargs=words, metavar=metavar, help=text)
    parser.add_argument("--resume", action="store_true", help="continue an earlier run that stopped")
    for mark, flag in MARKS.items():
        parser.add_argument(flag, action="store_true", help=f"run the steps marked ({mark}) as well")
    parser.add_argument("--no-openearthmap", action="store_true", help="leave out the steps that need OpenEarthMap")
    parser.add_argument("--from", dest="first", metavar="STEP", help="begin with this step, a name or a number")
    parser.add_argument("--to", dest="last", metavar="STEP", help="end with this step, a name or a number")
    parser.add_argument("--list", action="store_true", help="print the steps and their commands as documented")
    parser.add_argument("--dry-run", action="store_true", help="print the commands exactly as they would be run")
    args = parser.parse_args(argv)
    args.given = sys.argv[1:] if argv is None else list(argv)
    if args.seeds and len(set(args.seeds)) < len(args.seeds):
        parser.error(f"argument --seeds: {' '.join(map(str, args.seeds))} holds a seed twice")
    check_folds(parser, args)
    return args


def from_repository(path: str | Path) -> str:
    """A path as the steps see it, which run in the repository: relative if it lies there."""
    absolute = os.path.abspath(path)
    return os.path.relpath(absolute, REPOSITORY) if Path(absolute).is_relative_to(REPOSITORY) else absolute


def given_flags(args: argparse.Namespace, flags: Iterable[str]) -> list[list[str]]:
    """Those of the flags that were given, each with its words."""
    values = {flag: getattr(args, flag[2:].replace("-", "_")) for flag in flags}
    values |= {flag: from_repository(values[flag]) for flag in FILES if values.get(flag)}
    return [[flag] if value is True else [flag, *words_of(value)] for flag, value in values.items() if value]


def words_of(value: str | list[str]) -> list[str]:
    """The value of a flag as its words."""
    return value if isinstance(value, list) else [value]


def check_folds(parser: Parser, args: argparse.Namespace) -> None:
    """Settle ``args.fold``, the folds to run, empty without --folds; refuse flags that mean none."""
    if args.folds is None:
        for flag in ("--repeats", "--fold"):
            if getattr(args, flag[2:]) is not None:
                parser.error(f"{flag} is for a study by folds: give --folds K as well")
    elif args.folds == 1:
        parser.error("argument --folds: found 1, expected 2 or more (5 for intervals)")
    elif args.seeds and len(args.seeds) > 1:
        parser.error("--folds and several --seeds exclude one another: fold k is trained with a seed of its own")
    number = (args.folds or 0) * (args.repeats or 1)
    given = args.fold or []
    if len(set(given)) < len(given):
        parser.error(f"argument --fold: {' '.join(map(str, given))} holds a fold twice")
    if max(given, default=0) > number:
        parser.error(
            f"argument --fold: found {max(given)}, expected 1 to {number}, or more --repeats than {args.repeats or 1}"
        )
    args.some_folds = bool(given)
    args.fold = sorted(given) or list(range(1, number + 1))


def main(argv: list[str] | None = None) -> int | None:
    args = parse_args(argv)
    steps = read_steps(REPOSITORY)
    marks = {mark for mark, flag in MARKS.items() if getattr(args, flag[2:])}
    first = find_step(steps, "--from", args.first, marks) if args.first else 1
    last = find_step(steps, "--to", args.last, marks) if args.last else len(steps)
    if first > last:
        raise UserError(f"--from {args.first} comes after --to {args.last}: there is nothing to run")
    chosen_steps = asked_for(steps[first - 1 : last], marks)
    if args.no_openearthmap and args.map:
        raise UserError(
            "--map makes a map with stage 6, which --no-openearthmap leaves out. Leave out --map, and then map with "
            "another stage: python -m evaluation.predict_map --image FILE --out FILE --checkpoint FILE"
        )
    if args.no_openearthmap:
        chosen_steps = [step for step in chosen_steps if not step.needs_openearthmap]
    if args.list:
        for step in chosen_steps:
            where = f" ({step.where})" if args.folds else ""
            print(f"[{step.position}/{len(steps)}] {step.name}: {step.title}{where}\n        {shlex.join(step.argv)}")
        return 0

    root, given = from_repository(args.root), given_flags(args, PASSED_ON)
    seeds = [str(seed) for seed in args.seeds or []]
    if args.folds:
        seeds = seeds or [DOCUMENTED_SEED]
        runs = plan_folds(chosen_steps, args.fold, int(seeds[0]))
        runs = of_folds_alone(runs) if args.some_folds else runs
    else:
        runs = plan(chosen_steps, seeds or [DOCUMENTED_SEED])
    if not args.dry_run:
        print(f"Checking the commands of {len(runs)} steps", flush=True)  # imports all scripts: some seconds
    complete_commands(runs, root, given, seeds, args.folds, raw=given_flags(args, RAW_FLAGS))
    record = Record(args.root / "logs" / "summary.tsv", steps, shared=bool(args.folds))
    chosen = choose(runs, record, args.resume, keep_once=args.some_folds)
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
    with contextlib.ExitStack() as held:  # a run of other folds may go on beside this one
        for folder in sorted({record.path.parent / (f"fold{run.fold}" if run.fold else "") for run in chosen}):
            held.enter_context(locked(folder))
        return run_all(chosen, skipped, args, record)


if __name__ == "__main__":
    for ending in (signal.SIGTERM, signal.SIGHUP):  # these stop the running step as Ctrl-C does
        if signal.getsignal(ending) == signal.SIG_DFL:  # under nohup SIGHUP is ignored
            signal.signal(ending, signal.default_int_handler)
    run(main)
