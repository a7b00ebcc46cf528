r"""Write the report of a study: one HTML file with its tables, figures, predictions and provenance.

Reads what the other steps of the evaluation wrote, and the manifests and counts of the data steps; no model, no tile.
Everything is inside the file, so that it can be sent on and opens without a network. What was not made yet is named
with the command that makes it. If the study has folds below ROOT/folds, the split, classes and predictions are
those of the first fold that is compared.

    python -m evaluation.build_report
"""

import argparse
import sys
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from common.artifacts import read_distribution, read_leakage
from common.cli import Parser, run
from common.files import write_text
from common.folds import fold_root
from common.inputs import Command
from common.stages import FINAL_STAGE
from common.text import count, warn
from evaluation.mapping.areas_read import read_map
from evaluation.report.predictions import read_predictions
from evaluation.report.render import render
from evaluation.scoring.usage_log import TEST_LOG, read_test_log
from evaluation.study.data_checks import CHECK_LEAKAGE, LEAKAGE, data_cautions, leakage_of_folds, read_manifests
from evaluation.study.evidence import Evidence, gather_from
from evaluation.study.on_test import tested
from evaluation.study.where import results_of

TITLE = "Land cover under class imbalance: what each stage gains"
SECTIONS = {  # heading by the name of its template
    "short": "In short",
    "components": "Components",
    "classes": "Classes",
    "rivals": "Rivals",
    "controls": "Controls",
    "predictions": "Predictions",
    "stages": "Each stage, control and rival",
    "data": "Split and classes",
    "checks": "Checks",
    "test": "The test split",
    "map": "Map and areas",
    "provenance": "Provenance",
}


def make_parser() -> Parser:
    parser = Parser(__doc__)
    results, score = "evaluation/evaluation_results", "evaluation.compute_metrics --split"
    for flag, default, help, made_by in (
        ("--in-dir", f"{results}/val", "results and figures on val", f"{score} val"),
        ("--predictions-dir", f"{results}/val/predictions", "pictures of predictions", "evaluation.plot_predictions"),
        ("--test-dir", f"{results}/test", "results and log of the test split", f"{score} test"),
        ("--split-dir", "data/biodiversity_split", "folder with train, val and test", "data_prep.split_biodiversity"),
        ("--leakage", LEAKAGE, f"what {CHECK_LEAKAGE} found", CHECK_LEAKAGE),
    ):
        parser.add_input(flag, default, help, made_by=made_by)
    parser.add_input(
        "--distribution",
        "artifacts/class_distribution.json",
        "class counts of train, its figure beside it",
        made_by="data_prep.analyze_class_distribution",
    )
    made_by = "evaluation.predict_map"
    parser.add_input("--map", "evaluation/map/map.tif", "a map, its areas beside it", made_by=made_by, shared=True)
    parser.add_path("--out", f"{results}/val/report.html", "file to write")
    return parser


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    args = make_parser().parse_args(argv)
    args.home = args.root
    return args


def of_first_fold(args: argparse.Namespace, evidence: Evidence, argv: list[str] | None) -> argparse.Namespace:
    """The arguments of a study by folds, with ``home``, the root of its first fold, and what is read from there."""
    fold = evidence.results[0].fold
    if fold is None or results_of(args.in_dir, args.root) == [args.in_dir]:
        return args
    home = fold_root(args.root, fold["fold"])
    given = sys.argv[1:] if argv is None else argv
    there = vars(make_parser().parse_args([*given, "--root", str(home)]))
    kept: dict[str, Any] = {name: vars(args)[name] for name in ("root", "in_dir", "out", "command")}
    on_test = Command.of("evaluation.compute_metrics --split test", fold_root(args.root, 1))  # in that fold alone
    kept["test_dir"] = replace(args.test_dir, made_by=on_test)
    return argparse.Namespace(**there | kept, home=home)


def build(evidence: Evidence, args: argparse.Namespace) -> tuple[str, list[str]]:
    """The whole report as HTML, and the cautions that it begins with."""
    manifests = read_manifests(args.split_dir, evidence.taxonomy)
    there = args.distribution.path.is_file()
    leakage = read_leakage(args.leakage)
    predictions, stale = read_predictions(args.predictions_dir, evidence)
    cautions = [*evidence.cautions, *stale, *data_cautions(evidence, manifests, leakage, args)]
    cautions += leakage_of_folds(evidence, args)
    text = render(
        "report.html.j2",
        title=TITLE,
        sections=SECTIONS,
        now=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        args=args,
        evidence=evidence,
        cautions=cautions,
        predictions=predictions,
        manifests=manifests,
        distribution=read_distribution(args.distribution, evidence.taxonomy) if there else None,
        leakage=leakage,
        tested=tested(args.test_dir / FINAL_STAGE),
        test_log=read_test_log(args.test_dir.path / TEST_LOG.name),
        mapped=read_map(args.map, Command.of("evaluation.estimate_areas", args.root)),
    )
    return text, cautions


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    evidence = gather_from(args.in_dir, args.root)
    args = of_first_fold(args, evidence, argv)
    text, cautions = build(evidence, args)
    write_text(args.out, text)
    for caution in cautions:
        warn(caution)
    print(f"{args.out}: {len(text.encode()) / 2**20:.1f} MB, {count(evidence.stages, 'stage')}; open it in a browser")


if __name__ == "__main__":
    run(main)
