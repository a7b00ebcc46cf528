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
from pathlib import Path
from string import Template
from typing import Any

from common.artifacts import read_distribution, read_leakage
from common.cli import Parser, run
from common.files import write_text
from common.folds import fold_root
from common.inputs import Command
from common.text import count, warn
from evaluation.report.checks import checks
from evaluation.report.data import CHECK_LEAKAGE, LEAKAGE, data, data_cautions, leakage_of_folds, read_manifests
from evaluation.report.on_map import on_map
from evaluation.report.on_test import on_test
from evaluation.report.overview import TITLE, ablation, figures, page_header, verdict
from evaluation.report.page import el, joined
from evaluation.report.predictions import predictions, read_predictions
from evaluation.report.provenance import provenance
from evaluation.report.stages import controls, rivals, stages
from evaluation.study.evidence import Evidence, gather_from
from evaluation.study.where import results_of

TEMPLATE = Path(__file__).parent / "report" / "template.html"


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
    distribution = read_distribution(args.distribution, evidence.taxonomy) if there else None
    leakage = read_leakage(args.leakage)
    index, stale = read_predictions(args.predictions_dir, evidence)
    cautions = [*evidence.cautions, *stale, *data_cautions(evidence, manifests, leakage, args)]
    cautions += leakage_of_folds(evidence, args)
    sections = {
        "short": ("In short", verdict(evidence, cautions)),
        "ablation": ("The ablation", ablation(evidence)),
        "figures": ("Figures", figures(evidence, args)),
        "predictions": ("Predictions", predictions(evidence, index, args.predictions_dir)),
        "stages": ("Each stage", stages(evidence, distribution, args)),
        "data": ("Split and classes", data(evidence, distribution, manifests, leakage, args)),
        "controls": ("Controls", controls(evidence, args)),
        "rivals": ("Rivals", rivals(evidence, args)),
        "checks": ("Checks", checks(evidence)),
        "test": ("The test split", on_test(evidence, args)),
        "map": ("Map and areas", on_map(args)),
        "provenance": ("Provenance", provenance(evidence, args)),
    }
    content = [el("section", el("h2", title), *parts, id=name) for name, (title, parts) in sections.items()]
    top = page_header(evidence, args, {name: title for name, (title, _) in sections.items()})
    body = joined([top, el("main", *content)], "\n")
    return Template(TEMPLATE.read_text("utf-8")).substitute(title=TITLE, body=body), cautions


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
