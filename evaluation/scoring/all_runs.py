"""Scoring every run on val: which results are kept, made anew or refused."""

import argparse
import shutil
from collections.abc import Iterable
from typing import NamedTuple

from tqdm import tqdm

from common.checkpoints import UnfinishedRun, open_to_score
from common.errors import UserError
from common.files import new_folder
from common.inputs import Command, Input
from common.stages import ARM_OF, STAGE_NAMES, training_command
from common.text import count, percent, table
from evaluation.scoring import write
from evaluation.scoring.agreement import Pair, count_agreement
from evaluation.scoring.predicted_classes import PREDICTED
from evaluation.scoring.report_text import heading
from evaluation.scoring.results import METRICS, WHICH, TileCounts, results_folder, seed_folders
from evaluation.scoring.score import Setting, evaluate, metrics_of, open_setting, run_folder

NOT_SCORED = "not scored"


class Outcome(NamedTuple):
    """What became of a run: metrics.json by checkpoint, a word for the table, and messages of what failed."""

    metrics: dict[str, dict]
    state: str
    failures: list[str]


def score_run(stage: str, seed: int, args: argparse.Namespace, setting: Setting, bar: tqdm) -> Outcome:
    """Score last.pt and best.pt of a run, unless results of both are there.

    Raises:
        UserError: the results that are there are damaged, or their folder cannot be written.
    """
    run = run_folder(args, stage, seed)
    target = args.out_dir / stage / f"seed{seed}"
    usable, failures = {}, []
    for which in WHICH:
        try:
            usable[which] = open_to_score(run / f"{which}.pt", stage, seed, setting.tiles)
        except UnfinishedRun as problem:  # its best.pt may yet be replaced
            return Outcome({}, NOT_SCORED, [str(problem)])
        except UserError as problem:
            failures.append(str(problem))
    if not usable:
        return Outcome({}, NOT_SCORED, failures)
    digests = {which: checkpoint.digest for which, (checkpoint, _) in usable.items()}
    replaces = any((results_folder(target, which) / METRICS).is_file() for which in WHICH)
    if not args.overwrite:
        earlier = write.recorded(Input(target, Command.of("evaluation.compute_metrics --split val", args.root)))
        current = {which: (digest, setting.tiles.digest, setting.minority) for which, digest in digests.items()}
        previous = {which: write.identity(metrics) for which, metrics in earlier.items()}
        same = current.items() <= previous.items()
        if same and all(write.is_whole(results_folder(target, which), earlier[which], run.path) for which in current):
            return Outcome({which: earlier[which] for which in usable}, "unchanged", failures)
        if not previous.items() <= current.items():
            failures.append(
                f"{target} holds results of other checkpoints, tiles or minority classes. Replace them with "
                "--overwrite."
            )
            return Outcome({}, NOT_SCORED, failures)

    scored: dict[str, dict] = {}
    counted: dict[str, TileCounts] = {}
    alike = len(set(digests.values())) < len(digests)  # best.pt is often last.pt
    with new_folder(target, args.overwrite or target.exists(), kind=write.RESULTS) as folder:
        for which, (checkpoint, model) in usable.items():
            results, digest = results_folder(folder, which), digests[which]
            is_copy = digest in counted
            if not is_copy:
                predicted = folder / PREDICTED if which == "last" else None
                counted[digest] = evaluate(checkpoint, model, setting, predicted)
            counts = counted[digest]
            scored[which] = metrics_of(checkpoint, which, counts, setting)
            write.write_results(results, scored[which], counts)
            if is_copy:
                for name in write.FIGURES:
                    shutil.copyfile(folder / name, results / name)
            else:
                title = heading(scored[which], "last.pt and best.pt" if alike else None)
                write.write_figures(results, scored[which], title, counts, setting)
            write.copy_run_record(run.path, results, checkpoint.metadata)
            if which == "last":
                write.copy_history(run.path, results)
            bar.update()
        if "last" not in usable:
            write.copy_run_record(run.path, folder, usable["best"][0].metadata)
    return Outcome(scored, "replaced" if replaces else "new", failures)


def score_all_runs(args: argparse.Namespace, compared: Iterable[Pair]) -> None:
    """Score every run that is there, and count how far the predictions of each of the pairs ``compared`` agree.

    Raises UserError, after all others are scored, for those that could not be.
    """
    setting = open_setting(args)
    stages = [name for name in ARM_OF if name in (args.stages or ARM_OF)]
    runs = [(stage, seed) for stage in stages for seed, _ in seed_folders(args.weights_dir / stage)]
    if not runs:
        first = Input(args.weights_dir, training_command(args.root, stages[0], args.seed))
        raise first.missing(f"holds no run of {', '.join(stages)}")
    rows, failures = [], []
    with tqdm(total=len(runs) * len(WHICH), desc="Checkpoints", unit="checkpoint") as bar:
        for number, (stage, seed) in enumerate(runs, 1):
            try:
                outcome = score_run(stage, seed, args, setting, bar)
            except UserError as problem:
                outcome = Outcome({}, NOT_SCORED, [str(problem)])
            failures += outcome.failures
            last, best = outcome.metrics.get("last", {}), outcome.metrics.get("best", {})
            scores = [*(percent(last.get(key)) for key in ("mIoU", "mF1", "OA")), percent(best.get("mIoU"))]
            rows.append([stage, seed, *scores, outcome.state])
            bar.update(number * len(WHICH) - bar.n)
    count_agreement(args.out_dir, args.root, setting.tiles, sorted({seed for _, seed in runs}), compared)
    print(table(["stage", "seed", "mIoU", "mF1", "OA", "mIoU best.pt", "results"], rows))
    not_run = [stage for stage in args.stages or STAGE_NAMES if stage not in {stage for stage, _ in runs}]
    if not_run:
        print(f"not run: {', '.join(not_run)}")
    print(f"{args.out_dir}: results of {sum(row[-1] != NOT_SCORED for row in rows)} of {len(rows)} runs")
    if failures:
        lines = "\n".join(f"  {failure}" for failure in failures)
        raise UserError(f"{count(failures, 'checkpoint')} could not be scored, the others were:\n{lines}")
