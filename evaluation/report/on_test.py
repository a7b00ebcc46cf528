"""The part of the report on the test split."""

import argparse

from common.inputs import Input
from common.stages import ARM_OF, FINAL_STAGE
from common.text import hundredths, starred
from evaluation.report.format import arm_name, short
from evaluation.report.page import Html, el, figure, html_table, joined, missing
from evaluation.scoring.results import METRICS, read_metrics, seed_folders, shared_blocks_note
from evaluation.scoring.usage_log import TEST_LOG, read_test_log
from evaluation.study.evidence import KEYS, Evidence


def scores_on_test(seed: int, source: Input, evidence: Evidence) -> Html:
    """The scores in a results folder, and what the same checkpoint has on val; UserError where they are damaged."""
    metrics = read_metrics(source / METRICS)
    means = ", ".join(f"{key} {hundredths(metrics[key])}" for key in KEYS)
    rows = [
        [
            starred(name, metrics["minority_classes"]),
            *(hundredths(of_class[key]) for key in ("IoU", "F1", "precision", "recall")),
            f"{of_class['pixels']:,}",
        ]
        for name, of_class in metrics["classes"].items()
    ]
    split, absent = metrics["split_facts"], metrics["absent"]
    note = shared_blocks_note("test", split)
    final = evidence.arms.get(FINAL_STAGE)
    on_val = final.best.get(seed) if final else None
    remark = ""
    if on_val:
        val_score = hundredths(on_val.scores["mIoU"])
        remark = f"; on val it has mIoU {val_score}, where it was chosen"
        if on_val.tiles.checkpoint_digest != metrics["checkpoint_digest"]:
            remark = f"; best.pt on val is another checkpoint by now, with mIoU {val_score}"
    stage = arm_name(ARM_OF[FINAL_STAGE])
    about = f"{stage}, seed {seed}, best.pt on test"
    pictures = [
        figure(source.path / "confusion_matrix.png", f"Confusion matrix of {about}."),
        figure(
            source.path / "reliability_diagram.png", f"Reliability diagram of {about}: accuracy against confidence."
        ),
    ]
    by_class = html_table("Test, by class, %", ["class", "IoU", "F1", "precision", "recall", "pixels"], rows)
    ground = f"on {split['tiles']} tiles in {split['blocks']} blocks"
    return joined(
        [
            el(
                "p",
                el("strong", f"{means} %"),
                f" for best.pt of stage {stage}, seed {seed}, {ground}{remark}.",
                class_="lead",
            ),
            el("p", note) if note else None,
            el("p", f"Not in test, so not scored: {', '.join(absent)}.") if absent else None,
            el("div", by_class, *pictures, class_="pictures"),
        ]
    )


def on_test(evidence: Evidence, args: argparse.Namespace) -> list[Html]:
    """The final stage on test, apart from the ranking, and how often test was used."""
    folders = [(s, f) for s, f in seed_folders(args.test_dir.path / FINAL_STAGE) if (f / METRICS).is_file()]
    entries = read_test_log(args.test_dir.path / TEST_LOG.name)
    command = args.test_dir.made_by
    if not folders and not entries:
        return [missing("The test split was not used yet", command)]
    header = ["when", "checkpoint", "seed", "mIoU", "mF1", "OA", "reason", "command"]
    rows = [
        [
            el("span", entry["time"].replace("T", " ").replace("+00:00", " UTC"), class_="nowrap"),
            el("code", short(entry["checkpoint_digest"]), class_="nowrap"),
            entry["seed"],
            *(hundredths(entry["metrics"].get(key)) for key in KEYS),
            entry.get("reason") or "-",
            el("code", entry["command"]),
        ]
        for entry in entries
    ]
    checkpoints = len({entry["checkpoint_digest"] for entry in entries})
    used = f"The test split was used {'once' if len(entries) == 1 else f'{len(entries)} times'}"
    used += (
        f", with {checkpoints} checkpoints: its scores are no longer those of a first look." if checkpoints > 1 else "."
    )
    return [
        el("p", "No part of the ranking: no stage was chosen by it."),
        el(
            "div",
            *(scores_on_test(seed, args.test_dir / FINAL_STAGE / folder.name, evidence) for seed, folder in folders),
            None if folders else missing("The files of the result are not there", command),
            el("p", used) if entries else missing("The log of its use is not there", command),
            html_table("Uses of the test split", header, rows, text=header) if rows else None,
            class_="test",
        ),
    ]
