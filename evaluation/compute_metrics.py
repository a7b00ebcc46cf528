r"""Score checkpoints: metrics, a report and figures for each, and the pixel counts of every tile.

Beside IoU, F1 and overall accuracy there are the boundary IoU of each class and the calibration of the
probabilities; common.metrics defines them.

--split val scores last.pt and best.pt of every stage and seed that was trained. Results that are there already and
are of the same checkpoints and tiles, with every file and score, are kept, so that a new seed costs no more than
itself.

--split test scores best.pt of the final stage, of one seed, once: that it was done is recorded in
evaluation/evaluation_results/test/test_log.jsonl. The same checkpoint again prints what is recorded; another one
needs --reason.

    python -m evaluation.compute_metrics --split val
"""

import shutil
from datetime import UTC, datetime

from tqdm import tqdm

from common.checkpoints import Checkpoint, UnfinishedRun, open_to_score
from common.cli import Parser, command_for, non_negative_int, run
from common.errors import UserError
from common.files import check_out_dir, locked, new_folder
from common.stages import ARM_OF, FINAL_STAGE, STAGE_NAMES, training_command
from common.text import table
from common.tiles import TileSet
from evaluation.scoring.report_text import heading
from evaluation.scoring.results import METRICS, WHICH, TileConfusions, results_folder, seed_folders
from evaluation.scoring.score import Setting, evaluate, metrics_of, open_setting
from evaluation.scoring.test_log import TEST_LOG, append_log, describe_use, read_test_log
from evaluation.scoring.write import (
    FIGURES,
    RESULTS,
    copy_run_record,
    draw_figures,
    identity,
    is_whole,
    recorded,
    write_results,
)


def parse_args(argv=None):
    parser = Parser(__doc__)
    parser.add_argument(
        "--split", choices=["val", "test"], default="val", help="val for all stages, test for the final one"
    )
    parser.add_argument(
        "--stages",
        nargs="+",
        choices=tuple(ARM_OF),
        metavar="STAGE",
        help=f"stages and controls to score on val (default: all that were trained of {', '.join(ARM_OF)})",
    )
    parser.add_path("--data-dir", "data/biodiversity_split/{split}", "tile set to score on")
    parser.add_path("--weights-dir", "model_weights/biodiversity", "folder of the stages' checkpoints")
    parser.add_path("--distribution", "artifacts/class_distribution.json", "minority classes, where it is there")
    parser.add_path("--out-dir", "evaluation/evaluation_results/{split}", "folder for the results")
    parser.add_argument(
        "--seed",
        type=non_negative_int,
        default=42,
        help="run that goes to the test split, fixed beforehand; on val every seed is scored",
    )
    parser.add_argument("--reason", help="why the test split is used again; recorded")
    parser.add_device()
    parser.add_workers()
    parser.add_overwrite()
    args = parser.parse_args(argv)
    if args.split == "test" and args.stages:
        parser.error(f"--stages is for --split val; the test split is for {FINAL_STAGE} alone")
    if args.split == "val" and args.reason is not None:
        parser.error("--reason is for --split test")
    if args.reason is not None and not args.reason.strip():
        parser.error("--reason is empty")
    return args


def score_run(stage: str, seed: int, args, setting: Setting, bar) -> tuple[dict[str, dict], str, list[str]]:
    """Score both checkpoints of a run; returns their metrics by name, what was done, and what failed."""
    source = args.weights_dir / stage / f"seed{seed}"
    target = args.out_dir / stage / f"seed{seed}"
    usable, failures = {}, []
    for which in WHICH:
        try:
            usable[which] = open_to_score(
                source / f"{which}.pt", stage, seed, setting.tiles, training_command(args.root, stage, seed)
            )
        except UnfinishedRun as problem:  # its best.pt may yet be replaced
            return {}, "not scored", [str(problem)]
        except UserError as problem:
            failures.append(str(problem))
    digests = {which: checkpoint.digest for which, (checkpoint, _) in usable.items()}
    there = recorded(target)
    now = {which: (digest, setting.tiles.digest, setting.minority) for which, digest in digests.items()}
    before = {which: identity(metrics) for which, metrics in there.items()}
    if not usable:
        return {}, "not scored", failures
    same = now.items() <= before.items()
    if same and all(is_whole(results_folder(target, which), there[which]) for which in now) and not args.overwrite:
        return {which: there[which] for which in usable}, "unchanged", failures
    if not before.items() <= now.items() and not args.overwrite:
        failures.append(
            f"{target} holds results of other checkpoints, tiles or minority classes. Replace them with --overwrite."
        )
        return {}, "not scored", failures

    done: dict[str, dict] = {}
    counted: dict[str, TileConfusions] = {}
    alike = len(set(digests.values())) < len(digests)  # best.pt is often last.pt
    with new_folder(target, args.overwrite or target.exists(), kind=RESULTS) as folder:
        for which, (checkpoint, model) in usable.items():
            digest = digests[which]
            known = digest in counted
            if not known:
                counted[digest] = evaluate(checkpoint, model, digest, setting)
            done[which] = metrics_of(checkpoint, which, digest, counted[digest], setting)
            write_results(results_folder(folder, which), done[which], counted[digest])
            if known:
                for name in FIGURES:
                    shutil.copyfile(folder / name, results_folder(folder, which) / name)
            else:
                title = heading(done[which], "last.pt and best.pt" if alike else None)
                draw_figures(results_folder(folder, which), done[which], title, counted[digest], setting)
            copy_run_record(source, results_folder(folder, which), checkpoint.metadata)
            bar.update()
        if "last" not in usable:
            copy_run_record(source, folder, usable["best"][0].metadata)
    return done, "replaced" if there else "new", failures


def evaluate_val(args) -> None:
    """Score every run that is there; UserError, after all others are scored, for those that could not be."""
    setting = open_setting(args)
    stages = [name for name in ARM_OF if name in (args.stages or ARM_OF)]
    runs = [(stage, seed) for stage in stages for seed, _ in seed_folders(args.weights_dir / stage)]
    if not runs:
        raise UserError(
            f"{args.weights_dir} holds no run of {', '.join(stages)}. Train one first: "
            + training_command(args.root, stages[0], args.seed)
        )
    rows, failures = [], []
    with tqdm(total=len(runs) * len(WHICH), desc="Checkpoints", unit="checkpoint") as bar:
        for number, (stage, seed) in enumerate(runs, 1):
            try:
                found, what, failed = score_run(stage, seed, args, setting, bar)
            except UserError as problem:  # its results folder cannot be written
                found, what, failed = {}, "not scored", [str(problem)]
            failures += failed
            last, best = found.get("last"), found.get("best")
            scores = [f"{last[key]:.1%}" if last else "-" for key in ("mIoU", "mF1", "OA")]
            rows.append([stage, seed, *scores, f"{best['mIoU']:.1%}" if best else "-", what])
            bar.update(number * len(WHICH) - bar.n)
    print(table(["stage", "seed", "mIoU", "mF1", "OA", "mIoU best.pt", "results"], rows))
    not_run = [stage for stage in args.stages or STAGE_NAMES if stage not in {stage for stage, _ in runs}]
    if not_run:
        print(f"not run: {', '.join(not_run)}")
    print(f"{args.out_dir}: results of {len(rows) - sum(row[-1] == 'not scored' for row in rows)} of {len(rows)} runs")
    if failures:
        count = f"{len(failures)} checkpoint{'s' if len(failures) > 1 else ''} could not be scored"
        raise UserError(f"{count}, the others were:\n" + "\n".join(f"  {failure}" for failure in failures))


def evaluate_test(args) -> None:
    """Score the final stage's best.pt, once; UserError where the test split was used for something else before."""
    setting = open_setting(args)
    source = args.weights_dir / FINAL_STAGE / f"seed{args.seed}"
    command = training_command(args.root, FINAL_STAGE, args.seed)
    sibling = args.data_dir.parent / "val"
    val = TileSet.open(sibling, command_for("data_prep.split_biodiversity", args))
    val.require_split("val", "the folder beside --data-dir")
    open_to_score(source / "last.pt", FINAL_STAGE, args.seed, val, command)  # of a finished run, under this split
    checkpoint, model = open_to_score(source / "best.pt", FINAL_STAGE, args.seed, setting.tiles, command)
    with locked(args.root / TEST_LOG):
        _evaluate_test(checkpoint, model, setting, args)


def _evaluate_test(checkpoint: Checkpoint, model, setting: Setting, args) -> None:
    source, log = checkpoint.path.parent, args.root / TEST_LOG
    target = args.out_dir / FINAL_STAGE / f"seed{args.seed}"
    digest = checkpoint.digest
    entries = read_test_log(log)
    same = [e for e in entries if (e["checkpoint_digest"], e["split_digest"]) == (digest, setting.tiles.digest)]
    if same and (target / METRICS).exists():
        print(f"Evaluated before; nothing was computed.\n{describe_use(same[-1])}\n  {log}")
        return
    if entries and not same and args.reason is None:
        last = entries[-1]
        what = "another checkpoint" if last["checkpoint_digest"] != digest else "another test split"
        raise UserError(
            f"the test split has been used ({len(entries)} in {log}), the last time with {what}:\n"
            f"{describe_use(last)}\nA choice between models is made on val. To use it again all the same, give "
            '--reason "...", which is recorded.'
        )
    check_out_dir(target, args.overwrite, kind=RESULTS)

    confusions = evaluate(checkpoint, model, digest, setting)
    metrics = metrics_of(checkpoint, "best", digest, confusions, setting)
    entry = {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "stage": FINAL_STAGE,
        "seed": args.seed,
        "checkpoint_digest": digest,
        "split_digest": setting.tiles.digest,
        "metrics": {key: metrics[key] for key in ("mIoU", "mF1", "OA")},
        "results": str(target),
        "command": args.command,
        "reason": args.reason,
    }
    with new_folder(target, args.overwrite, kind=RESULTS) as folder:
        write_results(folder, metrics, confusions)
        draw_figures(folder, metrics, heading(metrics), confusions, setting)
        copy_run_record(source, folder, checkpoint.metadata)
        if not same:
            append_log(log, entry)  # before anyone can read a score
    if same:
        print(f"Evaluated before; its files were missing and are there again.\n{describe_use(same[-1])}")
    else:
        print(describe_use(entry))
    print(f"  {target}, recorded in {log}")


def main(argv=None):
    args = parse_args(argv)
    if args.split == "val":
        evaluate_val(args)
    else:
        evaluate_test(args)


if __name__ == "__main__":
    run(main)
