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

import json
import os
import shutil
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from tqdm import tqdm

from common.cli import Parser, UserError, command_for, non_negative_int, run
from common.device import resolve_device
from common.figures import save_figure
from common.files import FolderKind, check_out_dir, locked, new_folder, read_json, write_json, write_text
from common.inference import UnfinishedRun, open_to_score, tile_counts
from common.metrics import boundary_score, calibration_score, mean_iou_of, score
from common.models import Checkpoint
from common.results import (
    CONFUSIONS,
    METRICS,
    RUN_RECORD,
    WHICH,
    TileConfusions,
    describe_split,
    read_minority,
    read_test_log,
    results_folder,
    seed_folders,
    shared_blocks_note,
)
from common.stages import ARM_OF, FINAL_STAGE, STAGE_NAMES, training_command
from common.taxonomy import load_taxonomy
from common.text import table, warn
from common.tiles import TileSet
from evaluation.figures import boundary_figure, class_scores_figure, confusion_figure, reliability_figure

TEST_LOG = Path("evaluation/evaluation_results/test/test_log.jsonl")  # under the root, whatever --out-dir is
REPORT = "evaluation_report.txt"
FIGURES = (
    "confusion_matrix.png",
    "class_iou_scores.png",
    "class_f1_scores.png",
    "class_boundary_iou.png",
    "reliability_diagram.png",
)
RESULT_FILES = (METRICS, REPORT, CONFUSIONS, RUN_RECORD, *FIGURES)
RESULTS = FolderKind(RUN_RECORD, lambda _: {*RESULT_FILES, *(f"best/{name}" for name in RESULT_FILES)})


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


@dataclass(frozen=True)
class Setting:
    """What all checkpoints of one call are scored on."""

    tiles: TileSet
    minority: list[str] | None
    device: object
    workers: int
    command: str


def open_setting(args) -> Setting:
    """The split, the minority classes where they are known, and the device."""
    taxonomy = load_taxonomy(args.root)
    tiles = TileSet.open(args.data_dir, command_for("data_prep.split_biodiversity", args))
    tiles.require_split(args.split, "--data-dir").require_taxonomy(taxonomy)
    if not any(tile.labelled for tile in tiles):
        raise UserError(f"{args.data_dir}: none of its {len(tiles)} tiles has a labelled pixel; nothing to score.")
    minority = None
    if args.distribution.exists():
        command = command_for("data_prep.analyze_class_distribution", args)
        minority = read_minority(args.distribution, taxonomy, command)
    else:
        warn(f"{args.distribution} does not exist: the minority classes are not known, their mean is left out.")
    note = shared_blocks_note(args.split, describe_split(tiles))
    if note:
        warn(note)
    return Setting(tiles, minority, resolve_device(args.device), args.workers, args.command)


def metrics_of(checkpoint: Checkpoint, which: str, digest: str, confusions: TileConfusions, setting: Setting) -> dict:
    """What metrics.json holds of a checkpoint: its scores, and what they are scores of."""
    tiles, known = setting.tiles, checkpoint.metadata
    scores = score(confusions.confusions.sum(axis=0), tiles.taxonomy)
    names = setting.minority
    return {
        "stage": known["stage"],
        "seed": known["seed"],
        "which": which,
        "step": known["step"],
        "iterations": known["iterations"],
        "cumulative_steps": known["cumulative_steps"],
        "arch": known["arch"],
        "encoder": known["encoder"],
        "split": tiles.split,
        "split_digest": tiles.digest,
        "checkpoint_digest": digest,
        **{key: scores[key] for key in ("mIoU", "mF1", "OA")},
        "minority_mIoU": mean_iou_of(scores, names) if names is not None else None,
        "minority_classes": names,
        "classes_averaged": list(scores["classes"]),
        "classes": scores["classes"],
        "absent": scores["absent"],
        "boundary": boundary_score(confusions.boundary.sum(axis=0), tiles.taxonomy, scores["classes"]),
        "calibration": calibration_score(confusions.calibration.sum(axis=0)),
        "labelled_pixels": sum(tile.labelled for tile in tiles),
        "void_pixels": int(tiles.pixels[0]),
        "split_facts": describe_split(tiles),
        "taxonomy": tiles.taxonomy.to_json(),
        "command": setting.command,
    }


def heading(metrics: dict, checkpoints: str | None = None) -> str:
    """One line that says whose scores these are; ``checkpoints`` where they are not of ``which`` alone."""
    arm = ARM_OF[metrics["stage"]]
    title = " ".join([*(["Control:"] if arm.question else ["Stage"]), *arm.title.split()])
    return f"{title}, seed {metrics['seed']}, {checkpoints or metrics['which'] + '.pt'} on {metrics['split']}"


def describe_confidence(metrics: dict) -> str:
    """Whether the network is too sure of itself, or not sure enough, over all labelled pixels."""
    confidence, accuracy = metrics["calibration"]["mean_confidence"], metrics["OA"]
    excess = round(100 * (confidence - accuracy), 1)
    verdict = f"{'over' if excess > 0 else 'under'}-confident by {abs(excess)} points" if excess else "no difference"
    return f"mean confidence {confidence:.1%}, OA {accuracy:.1%}: {verdict}"


def percent(value: float | None) -> str:
    """A share to a tenth of a percent, - for none."""
    return "-" if value is None else f"{value:.1%}"


def report(metrics: dict) -> str:
    """evaluation_report.txt: the scores, by class, and what a reader must know of them."""
    facts, total = metrics["split_facts"], metrics["labelled_pixels"]
    boundary, calibration = metrics["boundary"], metrics["calibration"]
    minority = metrics["minority_classes"] or []
    rows = [
        [
            f"{name} *" if name in minority else name,
            *(f"{values[key]:.1%}" for key in ("IoU", "F1", "precision", "recall")),
            percent(boundary["classes"][name]),
            f"{values['pixels']:,}",
            f"{values['pixels'] / total:.2%}",
        ]
        for name, values in metrics["classes"].items()
    ]
    overall = [[key, f"{metrics[key]:.2%}"] for key in ("mIoU", "mF1", "OA")]
    if metrics["minority_mIoU"] is not None:
        overall.append(["mIoU of the minority classes", f"{metrics['minority_mIoU']:.2%}"])
    if boundary["mIoU"] is not None:
        overall.append(["boundary mIoU", f"{boundary['mIoU']:.2%}"])
    overall.append(["ECE", f"{calibration['ECE']:.2%}"])
    void = metrics["taxonomy"]["classes"][0]
    notes = [
        f"mIoU and mF1 are means over {', '.join(metrics['classes_averaged'])}; OA is the share of labelled pixels "
        "that are right.",
        f"boundary IoU counts only pixels within {boundary['distance_share']:.0%} of the tile's diagonal of the "
        "contours of their class, so that it says how well outlines are met.",
        "ECE, the expected calibration error, is how far on average the confidence of a prediction is from the share "
        f"of such predictions that is right, in {calibration['bins']} bins; {describe_confidence(metrics)}.",
        f"{void} is unlabelled: its {metrics['void_pixels']:,} pixels count nowhere, and it is never predicted.",
    ]
    if minority:
        notes.append("* minority class of train")
    if metrics["absent"]:
        notes.append(f"Not in the truth of this split, so neither scored nor averaged: {', '.join(metrics['absent'])}.")
    if metrics["which"] == "best" and metrics["split"] == "val":
        notes.append(
            "best.pt was chosen on val, so that its scores on val are too high; stages are compared by last.pt."
        )
    shared = shared_blocks_note(metrics["split"], facts)
    if shared:
        notes.append(shared)
    split_by = f", split by {facts['strategy']}" if facts["strategy"] else ""
    lines = [
        heading(metrics),
        "",
        f"step {metrics['step']:,} of {metrics['iterations']:,}; {metrics['cumulative_steps']:,} steps with those of "
        "its ancestors",
        f"{metrics['arch']}, {metrics['encoder']}",
        f"{facts['tiles']} tiles in {facts['blocks']} spatial blocks{split_by}; {total:,} labelled pixels",
        "",
        table(["", metrics["split"]], overall),
        "",
        table(["class", "IoU", "F1", "precision", "recall", "boundary IoU", "pixels", "share"], rows),
        "",
        *notes,
        "",
        f"checkpoint {metrics['checkpoint_digest']}",
        f"{metrics['split']:<10} {metrics['split_digest']}",
        f"command    {metrics['command']}",
    ]
    return "\n".join(lines) + "\n"


def draw_figures(folder: Path, metrics: dict, title: str, confusions: TileConfusions, setting: Setting) -> None:
    """FIGURES, of one checkpoint."""
    taxonomy = setting.tiles.taxonomy
    about = f"{title}\nmIoU {metrics['mIoU']:.1%}, mF1 {metrics['mF1']:.1%}, OA {metrics['OA']:.1%}"
    confidence = f"{title}\nECE {metrics['calibration']['ECE']:.1%}\n{describe_confidence(metrics)}"
    figures = (
        confusion_figure(confusions.confusions.sum(axis=0), taxonomy, about),
        class_scores_figure(metrics, "IoU", taxonomy, setting.minority, title),
        class_scores_figure(metrics, "F1", taxonomy, setting.minority, title),
        boundary_figure(metrics, taxonomy, setting.minority, title),
        reliability_figure(metrics["calibration"], confidence),
    )
    for name, figure in zip(FIGURES, figures, strict=True):
        save_figure(figure, folder / name)


def write_results(folder: Path, metrics: dict, confusions: TileConfusions) -> None:
    """The files of one checkpoint, figures and run.json apart."""
    folder.mkdir(exist_ok=True)
    write_json(folder / METRICS, metrics)
    write_text(folder / REPORT, report(metrics))
    confusions.save(folder / CONFUSIONS)


def copy_run_record(source: Path, target: Path, metadata: dict) -> None:
    """The run's record, or what the checkpoint says of its run where the file is missing."""
    if (source / RUN_RECORD).is_file():
        shutil.copyfile(source / RUN_RECORD, target / RUN_RECORD)
    else:
        write_json(target / RUN_RECORD, metadata)


def evaluate(checkpoint: Checkpoint, model, digest: str, setting: Setting) -> TileConfusions:
    """Predict every tile of the split."""
    tiles = setting.tiles
    counts = tile_counts(
        model.to(setting.device),
        tiles.tiles,
        tiles.taxonomy.num_classes,
        device=setting.device,
        workers=setting.workers,
        desc=f"{checkpoint.metadata['stage']} seed {checkpoint.metadata['seed']} {checkpoint.path.name}",
    )
    blocks = [tile.block for tile in tiles]
    names = list(tiles.taxonomy.classes)
    return TileConfusions(
        tiles.ids, blocks, counts.confusions, names, tiles.digest, digest, counts.boundary, counts.calibration
    )


def recorded(folder: Path) -> dict[str, dict]:
    """metrics.json of last.pt and best.pt where a results folder has them."""
    found = {}
    for which in WHICH:
        path = results_folder(folder, which) / METRICS
        if path.is_file():
            found[which] = read_json(path, "python -m evaluation.compute_metrics --overwrite")
    return found


def identity(metrics: dict) -> tuple:
    """Two results with the same value are the same."""
    return metrics["checkpoint_digest"], metrics["split_digest"], metrics["minority_classes"]


def is_whole(folder: Path, metrics: dict) -> bool:
    """Whether a checkpoint's results have every score and every file that this script writes."""
    return {"boundary", "calibration"} <= metrics.keys() and all((folder / name).is_file() for name in RESULT_FILES)


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


def append_log(path: Path, entry: dict) -> None:
    """Add a line to the test log and see it on disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(entry) + "\n")
        file.flush()
        os.fsync(file.fileno())


def describe_use(entry: dict) -> str:
    """A log entry in words."""
    scores = ", ".join(f"{key} {entry['metrics'][key]:.2%}" for key in ("mIoU", "mF1", "OA"))
    reason = f"\n  reason: {entry['reason']}" if entry["reason"] else ""
    return (
        f"{entry['stage']} seed {entry['seed']} best.pt on test: {scores}\n"
        f"  recorded {entry['time']}; checkpoint {entry['checkpoint_digest'][:12]}, "
        f"tiles {entry['split_digest'][:12]}\n"
        f"  {entry['command']}{reason}"
    )


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
