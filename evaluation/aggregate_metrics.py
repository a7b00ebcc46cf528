r"""Compare the stages on val, with intervals: tables (metrics_summary.txt, .csv, .md) and figures.

Reads only what evaluation.compute_metrics wrote; every score is computed again from the confusion matrices of the
tiles. If there are folds with results below ROOT/folds, these are compared together, else the seeds of one split.
Stages are ranked by last.pt: mean IoU, then mean F1, then overall accuracy. Each stage is compared with the one that
lacks its one component, on the same folds or seeds and blocks; runs that are not comparable are named and left out.
Intervals need three trainings of a stage and ten spatial blocks, tests five trainings.

    python -m evaluation.aggregate_metrics
"""

import argparse
import csv
import io
import textwrap
from pathlib import Path
from typing import NamedTuple

from common.cli import Parser, run
from common.figures import png_bytes
from common.files import write_files
from common.stages import FINAL_STAGE
from common.text import table, warn
from evaluation.study import tables, void_checks, wording
from evaluation.study.ablation_figures import FIGURES
from evaluation.study.comparability import Result
from evaluation.study.comparisons import Comparison, Family
from evaluation.study.evidence import Evidence, Finding, controls_run, gather_from

TABLES = ("metrics_summary.txt", "metrics_summary.csv", "metrics_summary.md")
TERMINAL = 120  # columns


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(__doc__)
    parser.add_input(
        "--in-dir",
        "evaluation/evaluation_results/val",
        "results of evaluation.compute_metrics",
        made_by="evaluation.compute_metrics --split val",
    )
    parser.add_path("--out-dir", "evaluation/evaluation_results/val", "folder for the summary")
    return parser.parse_args(argv)


class Part(NamedTuple):
    """A section of the summary: lines before its table, the table, and lines that are an item each.

    The first ``names`` columns of the table name its rows.
    """

    title: str
    lines: list[str] = []
    table: tuple[list[str], list[list]] | None = None
    items: list[str] = []
    names: int = 1


def parts_of(evidence: Evidence, in_dir: Path, own_command: str) -> list[Part]:
    """What the summary says, for the terminal and for a document; ``in_dir`` is that of the study."""
    answers = [f"{arm.question} {wording.answer_of_control(evidence, arm)}" for arm in controls_run(evidence)]
    test = in_dir.parent / "test" / FINAL_STAGE
    apart = [f"The final stage on test, which is no part of this ranking: {test}"] if test.is_dir() else []
    return [
        Part("Stages by rank", wording.about_the_split(evidence), tables.ranking(evidence)),
        Part("Classes", [], tables.class_scores(evidence)),
        *(family_part(family, found, evidence) for family, found in evidence.run_families.items()),
        Part("Described, not tested", [], tables.described(evidence)),
        Part("Controls", [], tables.control_scores(evidence), answers),
        Part("Scores of the rivals", [], tables.rival_scores(evidence)),
        checks(evidence.results, [finding.comparison for finding in evidence.findings]),
        Part("Warnings", [], None, evidence.cautions),
        Part("How to read it", [*wording.how_to_read(evidence), *apart, own_command]),
    ]


def family_part(family: Family, findings: list[Finding], evidence: Evidence) -> Part:
    """What a family of comparisons shows."""
    lacking = [finding for finding in findings if finding.missing]
    named = [f"{f.comparison.arm.name} to {f.comparison.other.name} ({f.missing})" for f in lacking]
    not_made = [f"Planned and not made: {'; '.join(named)}."] if named else []
    made = [finding for finding in findings if finding.estimates]
    verdicts = [text for finding in made for text in wording.findings_in_words(finding, evidence.unit)]
    about = f"{wording.sentence(family.about)} Holm's correction over {family.hypotheses} tests."
    return Part(family.title, [about, *not_made], tables.tested(evidence, findings), verdicts, names=3)


def checks(results: list[Result], comparisons: list[Comparison]) -> Part:
    """What was looked for that would make a comparison void, and how far networks agree against the labels."""
    lines = void_checks.checks_in_words(results, comparisons)
    table = void_checks.agreement_table(results, comparisons)
    return Part("Checks", lines, table, void_checks.not_recorded(results, comparisons))


def summary(parts: list[Part]) -> str:
    """metrics_summary.txt, for a terminal."""
    sections = []
    for part in parts:
        lines = [wrapped(line) for line in part.lines]
        lines += ["", *narrow(*part.table, part.names), ""] if part.table and part.table[1] else []
        lines += [wrapped(f"- {item}") for item in part.items]
        if lines:
            sections.append("\n".join([f"== {part.title}", *lines]).strip())
    return "\n\n".join(sections) + "\n"


def narrow(header: list[str], rows: list[list], names: int) -> list[str]:
    """A table as text, in pieces below one another, each with the ``names``, if TERMINAL is too narrow for one."""
    pieces, first = [], names
    while first < len(header):
        taken = [
            (last, table([*header[:names], *header[first:last]], [[*row[:names], *row[first:last]] for row in rows]))
            for last in range(first + 1, len(header) + 1)
        ]
        fitting = [found for found in taken if max(map(len, found[1].splitlines())) <= TERMINAL]
        first, piece = max(fitting, default=taken[0])
        pieces += ["", piece] if pieces else [piece]
    return pieces


def wrapped(line: str) -> str:
    """A line in as many as TERMINAL asks for."""
    if line.startswith("python "):  # to be copied as it is
        return line
    return textwrap.fill(line, TERMINAL, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


def markdown(parts: list[Part]) -> str:
    """metrics_summary.md, for a paper or a README."""
    sections = []
    for part in parts:
        pieces = [*part.lines, markdown_table(*part.table) if part.table and part.table[1] else ""]
        pieces.append("\n".join(f"- {item}" for item in part.items))
        if any(pieces):
            sections += [f"### {part.title}", *filter(None, pieces)]
    return "\n\n".join(sections) + "\n"


def markdown_table(header: list[str], rows: list[list]) -> str:
    """A table in GitHub's Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(str(cell).replace('|', '/') for cell in line)} |" for line in lines)


def as_csv(header: list[str], rows: list[list]) -> str:
    """A table as comma-separated text under its header."""
    lines = io.StringIO()
    writer = csv.writer(lines, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return lines.getvalue()


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    evidence = gather_from(args.in_dir, args.root)
    parts = parts_of(evidence, args.in_dir.path, args.command)
    text = summary(parts)
    header = ["stage", "fold", "seed", "checkpoint", "metric", "value"]
    contents = (text, as_csv(header, tables.tidy_rows(evidence)), markdown(parts))
    figures = {name: plot(evidence) for name, plot in FIGURES.items()}
    drawn = {name: png_bytes(figure, dpi=160) for name, figure in figures.items() if figure is not None}
    written = {args.out_dir / name: content for name, content in [*zip(TABLES, contents, strict=True), *drawn.items()]}
    write_files(written, remove=[args.out_dir / name for name in figures if name not in drawn])  # of an earlier call
    for caution in evidence.cautions:
        warn(caution)
    print(text)
    print("\n".join(map(str, written)))


if __name__ == "__main__":
    run(main)
