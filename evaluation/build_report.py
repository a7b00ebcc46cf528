r"""Write the report of a study: one HTML file with its tables, figures, predictions and provenance.

Reads what the other steps of the evaluation wrote, and the manifests and counts of the data steps; no model, no tile.
Everything is inside the file, so that it can be sent on and opens without a network. What was not made yet is named
with the command that makes it.

    python -m evaluation.build_report
"""

from pathlib import Path
from string import Template

from common.artifacts import read_distribution
from common.cli import Parser, command_for, run
from common.files import MANIFEST, write_text
from common.text import warn
from evaluation.report.data import OF_LEAKAGE, SPLITS, data, data_cautions, optional_json, read_manifest
from evaluation.report.overview import TITLE, ablation, figures, page_header, verdict
from evaluation.report.page import el, joined
from evaluation.report.predictions import predictions, read_predictions
from evaluation.report.stages import controls, stages
from evaluation.report.test_and_provenance import on_test, provenance
from evaluation.study.evidence import Evidence, gather_from
from evaluation.study.wording import count

TEMPLATE = Path(__file__).with_name("report_template.html")


def parse_args(argv=None):
    parser = Parser(__doc__)
    parser.add_path("--in-dir", "evaluation/evaluation_results/val", "results and figures on val")
    parser.add_path("--predictions-dir", "evaluation/evaluation_results/val/predictions", "pictures of predictions")
    parser.add_path("--test-dir", "evaluation/evaluation_results/test", "results and log of the test split")
    parser.add_path("--split-dir", "data/biodiversity_split", "folder with train, val and test")
    parser.add_path(
        "--distribution", "artifacts/class_distribution.json", "class counts of train, its figure beside it"
    )
    parser.add_path("--leakage", "artifacts/leakage.json", "what data_prep.check_leakage found")
    parser.add_path("--out", "evaluation/evaluation_results/val/report.html", "file to write")
    return parser.parse_args(argv)


def build(evidence: Evidence, args) -> tuple[str, list[str]]:
    """The whole report as HTML, and the cautions that it begins with."""
    split, analyze, check = (
        command_for(f"data_prep.{module}", args)
        for module in ("split_biodiversity", "analyze_class_distribution", "check_leakage")
    )
    manifests = {name: read_manifest(args.split_dir / name / MANIFEST, evidence.taxonomy, split) for name in SPLITS}
    manifests = {name: manifest for name, manifest in manifests.items() if manifest is not None}
    distribution = None
    if args.distribution.is_file():
        distribution = read_distribution(args.distribution, evidence.taxonomy, analyze)
    leakage = optional_json(args.leakage, check, OF_LEAKAGE)
    index, stale = read_predictions(args, evidence)
    cautions = [*evidence.cautions, *stale, *data_cautions(evidence, manifests, leakage, args)]
    sections = {
        "short": ("In short", verdict(evidence, cautions)),
        "ablation": ("The ablation", ablation(evidence)),
        "figures": ("Figures", figures(evidence, args)),
        "predictions": ("Predictions", predictions(evidence, index, args)),
        "stages": ("Each stage", stages(evidence, distribution, args)),
        "data": ("Split and classes", data(evidence, distribution, manifests, leakage, args)),
        "controls": ("Controls", controls(evidence, args)),
        "test": ("The test split", on_test(evidence, args)),
        "provenance": ("Provenance", provenance(evidence, args)),
    }
    made = [el("section", el("h2", title), *parts, id=name) for name, (title, parts) in sections.items()]
    top = page_header(evidence, args, {name: title for name, (title, _) in sections.items()})
    body = joined([top, el("main", *made)], "\n")
    return Template(TEMPLATE.read_text("utf-8")).substitute(title=TITLE, body=body), cautions


def main(argv=None):
    args = parse_args(argv)
    evidence = gather_from(args.in_dir, command_for("evaluation.compute_metrics", args) + " --split val --overwrite")
    text, cautions = build(evidence, args)
    write_text(args.out, text)
    for caution in cautions:
        warn(caution)
    print(f"{args.out}: {len(text.encode()) / 2**20:.1f} MB, {count(evidence.stages, 'stage')}; open it in a browser")


if __name__ == "__main__":
    run(main)
