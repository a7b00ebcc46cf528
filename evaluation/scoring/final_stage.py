"""Scoring the final stage on the test split, once."""

import argparse
from datetime import UTC, datetime

import torch

from common.checkpoints import Checkpoint, open_to_score
from common.errors import UserError
from common.files import check_out_dir, locked, new_folder
from common.folds import study_root
from common.inputs import Command, Input
from common.stages import FINAL_STAGE
from common.tiles import TileSet
from evaluation.scoring import write
from evaluation.scoring.report_text import heading
from evaluation.scoring.results import METRICS, read_metrics
from evaluation.scoring.score import Setting, evaluate, metrics_of, open_setting, run_folder
from evaluation.scoring.usage_log import TEST_LOG, append_log, describe_use, read_test_log


def score_final_stage(args: argparse.Namespace) -> None:
    """Score the final stage's best.pt, once. Raises UserError if the test split was used for something else before."""
    setting = open_setting(args)
    run = run_folder(args, FINAL_STAGE, args.seed)
    sibling = Input(args.data_dir.path.parent / "val", args.data_dir.made_by, "the folder beside --data-dir")
    val = TileSet.open(sibling).require_split("val")
    open_to_score(run / "last.pt", FINAL_STAGE, args.seed, val)  # of a finished run, under this split
    checkpoint, model = open_to_score(run / "best.pt", FINAL_STAGE, args.seed, setting.tiles)
    with locked(study_root(args.root) / TEST_LOG):
        _score_once(checkpoint, model, setting, args)


def _is_readable(source: Input) -> bool:
    try:
        read_metrics(source)
    except UserError:
        return False
    return True


def _score_once(checkpoint: Checkpoint, model: torch.nn.Module, setting: Setting, args: argparse.Namespace) -> None:
    log, target = study_root(args.root) / TEST_LOG, args.out_dir / FINAL_STAGE / f"seed{args.seed}"
    digest = checkpoint.digest
    entries = read_test_log(log)
    same = [e for e in entries if (e["checkpoint_digest"], e["split_digest"]) == (digest, setting.tiles.digest)]
    if same and _is_readable(Input(target / METRICS, Command.read(args.command))):
        print(f"Evaluated before; nothing was computed.\n{describe_use(same[-1])}\n  {log}")
        return
    if entries and not same and args.reason is None:
        last = entries[-1]
        changed = "another checkpoint" if last["checkpoint_digest"] != digest else "another test split"
        raise UserError(
            f"the test split has been used ({len(entries)} in {log}), the last time with {changed}:\n"
            f"{describe_use(last)}\nA choice between models is made on val. To use it again anyway, give "
            '--reason "...", which is recorded.'
        )
    check_out_dir(target, args.overwrite, kind=write.RESULTS)

    counts = evaluate(checkpoint, model, setting)
    metrics = metrics_of(checkpoint, "best", counts, setting)
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
    with new_folder(target, args.overwrite, kind=write.RESULTS) as folder:
        write.write_results(folder, metrics, counts)
        write.write_figures(folder, metrics, heading(metrics), counts, setting)
        write.copy_run_record(checkpoint.path.parent, folder, checkpoint.metadata)
        if not same:
            append_log(log, entry)  # before anyone can read a score
    if same:
        print(f"Evaluated before; its files were missing and are restored.\n{describe_use(same[-1])}")
    else:
        print(describe_use(entry))
    print(f"  {target}, recorded in {log}")
