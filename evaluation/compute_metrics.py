r"""Score checkpoints: metrics, a report and figures for each, and the pixel counts of every tile.

Beside IoU, F1 and overall accuracy there are the boundary IoU of each class and the calibration of the
probabilities; common.metrics defines them.

--split val scores last.pt and best.pt of every stage and seed that was trained. Results that are there already and
are of the same checkpoints and tiles, with every file and score, are kept, so that a new seed costs no more than
itself. At the end it counts, for each pair that is compared, how far their predictions agree.

--split test scores best.pt of the final stage, of one seed, once: that it was done is recorded in
evaluation/evaluation_results/test/test_log.jsonl. The same checkpoint again prints what is recorded; another one
needs --reason.

    python -m evaluation.compute_metrics --split val
"""

import argparse
from pathlib import Path

from common.cli import Parser, non_negative_int, run
from common.folds import study_root
from common.stages import ARM_OF, FINAL_STAGE
from evaluation.scoring.all_runs import score_all_runs
from evaluation.scoring.final_stage import score_final_stage
from evaluation.study.comparisons import DESCRIPTIVE, PLANNED

RESULTS = "evaluation/evaluation_results"


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(__doc__)
    parser.add_argument(
        "--split", choices=["val", "test"], default="val", help="val for all stages, test for the final one"
    )
    parser.add_argument(
        "--stages",
        nargs="+",
        choices=tuple(ARM_OF),
        metavar="STAGE",
        help=f"stages, controls and rivals to score on val (default: all that were trained of {', '.join(ARM_OF)})",
    )
    split, train = "data_prep.split_biodiversity", "data_prep.analyze_class_distribution"
    parser.add_input("--data-dir", "data/biodiversity_split/{split}", "tile set to score on", made_by=split)
    parser.add_path("--weights-dir", "model_weights/biodiversity", "folder of the stages' checkpoints")
    parser.add_input(
        "--distribution", "artifacts/class_distribution.json", "minority classes, if the file exists", made_by=train
    )
    parser.add_argument(
        "--out-dir",
        type=Path,
        metavar="PATH",
        help=f"folder for the results (default: ROOT/{RESULTS}/SPLIT; those of test belong to all folds of a study)",
    )
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
    home = study_root(args.root) if args.split == "test" else args.root
    args.out_dir = args.out_dir or home / RESULTS / args.split
    return args


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    if args.split == "val":
        score_all_runs(args, [(compared.arm.name, compared.other.name) for compared in PLANNED + DESCRIPTIVE])
    else:
        score_final_stage(args)


if __name__ == "__main__":
    run(main)
