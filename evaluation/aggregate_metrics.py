r"""Compare the stages on val, with intervals: tables (metrics_summary.txt, .csv, .md) and figures.

Reads only what evaluation.compute_metrics wrote; every score is computed again from the confusion matrices of the
tiles. Stages are ranked by last.pt: mean IoU, then mean F1, then overall accuracy, means over the seeds. Each stage is
compared with the arm that lacks its one component, on the same seeds and blocks; runs that are not comparable are named
and left out. Intervals need three seeds and ten spatial blocks.

    python -m evaluation.aggregate_metrics
"""

import csv
import io
from pathlib import Path

from common.cli import Parser, command_for, run
from common.figures import save_figure
from common.files import write_text
from common.metrics import mean_iou_of
from common.stages import FINAL_STAGE, STAGE_NAMES
from common.text import table, warn
from evaluation.ablation_figures import ablation_figure, class_gains_figure, comparisons_figure, draws_figure
from evaluation.evidence import (
    BEYOND,
    KEYS,
    MINORITY,
    ArmScores,
    Evidence,
    about_the_split,
    controls_run,
    gather_from,
    how_to_read,
    p_text,
    percent,
    points,
    sentence,
    signed,
    starred,
)

TABLES = ("metrics_summary.txt", "metrics_summary.csv", "metrics_summary.md")


def parse_args(argv=None):
    parser = Parser(__doc__)
    parser.add_path("--in-dir", "evaluation/evaluation_results/val", "results of evaluation.compute_metrics")
    parser.add_path("--out-dir", "evaluation/evaluation_results/val", "folder for the summary")
    return parser.parse_args(argv)


def ranking(evidence: Evidence) -> tuple[list[str], list[list]]:
    """Header and a row a stage, by rank; stages that were not run last."""
    metrics = [*KEYS, *([MINORITY] if evidence.minority else [])]
    header = ["stage", "rank", "seeds", *metrics, "best - last", "steps"]
    rows = []
    for rank, scores in enumerate(evidence.stages, 1):
        gap = scores.best_minus_last()
        figures = [percent(scores.estimate(metric)) for metric in metrics]
        gap = "-" if gap is None else signed(gap)
        rows.append([scores.arm.name, rank, len(scores.seeds), *figures, gap, f"{scores.steps:,}"])
    run_stages = {scores.arm.name for scores in evidence.stages}
    rows += [[name, "not run", *["-"] * (len(header) - 2)] for name in STAGE_NAMES if name not in run_stages]
    return header, rows


def class_scores(evidence: Evidence, arms: list[ArmScores]) -> tuple[list[str], list[list]]:
    """Header and a row an arm: the IoU of each class, and what is beyond IoU."""
    rows = []
    for scores in arms:
        beyond = [scores.mean_over_seeds(key) for key in BEYOND]
        rows.append([scores.arm.name, *(percent(scores.estimate(f"IoU {name}")) for name in evidence.classes)])
        rows[-1] += ["-" if value is None else f"{100 * value:.1f}" for value in beyond]
    return ["IoU", *(starred(name, evidence.minority) for name in evidence.classes), *BEYOND], rows


def comparisons(evidence: Evidence, planned: bool) -> tuple[list[str], list[list]]:
    """Header and a row a comparison whose arms were run: differences in points, and for planned ones the p-value."""
    header = ["difference", "to", "seeds", "mIoU", *([MINORITY] if evidence.minority else [])]
    header += ["p", "p corrected"] if planned else ["remark"]
    rows = []
    for finding in evidence.planned if planned else evidence.descriptive:
        if finding.missing:
            continue
        found, comparison = finding.mIoU, finding.comparison
        row = [comparison.arm.name, comparison.other.name, len(finding.seeds), points(found)]
        row += [points(finding.estimates.get(MINORITY))] if evidence.minority else []
        if planned:
            p = found.p if found else None
            row += ["-", "-"] if p is None else [p_text(p), p_text(finding.p_holm)]
        else:
            row += [comparison.unequal or ""]
        if found is None:
            row[-1] = "not comparable, see the warnings"
        rows.append(row)
    return header, rows


def not_run(evidence: Evidence) -> list[str]:
    """A line on the planned comparisons that lack an arm; none where all were made."""
    lacking = [f"{f.comparison.arm.name} to {f.comparison.other.name}" for f in evidence.planned if f.missing]
    return [f"Planned and not run: {', '.join(lacking)}."] if lacking else []


def summary(evidence: Evidence, in_dir: Path, command: str) -> str:
    """metrics_summary.txt, for a terminal."""
    blocks = [
        about_the_split(evidence),
        [table(*ranking(evidence))],
        [table(*class_scores(evidence, evidence.stages))],
        ["Planned comparisons", table(*comparisons(evidence, True)), *not_run(evidence)],
        ["Described", table(*comparisons(evidence, False))] if comparisons(evidence, False)[1] else [],
        [f"- {sentence(finding.verdict())}" for finding in evidence.planned if finding.estimates],
    ]
    if controls_run(evidence):
        arms = [evidence.arms[control.name] for control in controls_run(evidence)]
        rows = [[a.arm.name, len(a.seeds), *(percent(a.estimate(k)) for k in KEYS), f"{a.steps:,}"] for a in arms]
        answers = [f"- {evidence.answer(control)}" for control in controls_run(evidence)]
        blocks.append(["Controls", table(["control", "seeds", *KEYS, "steps"], rows), *answers])
    blocks.append(how_to_read(evidence))
    blocks.append([f"warning: {caution}" for caution in evidence.cautions])
    test = in_dir.parent / "test" / FINAL_STAGE
    blocks.append([f"The final stage on test, which is no part of this ranking: {test}"] if test.is_dir() else [])
    blocks.append([command])
    return "\n\n".join("\n".join(lines) for lines in blocks if lines) + "\n"


def markdown_table(header: list[str], rows: list[list]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(str(cell).replace('|', '/') for cell in line)} |" for line in lines)


def markdown(evidence: Evidence, command: str) -> str:
    """metrics_summary.md, for a paper or a README."""
    header, rows = ranking(evidence)
    class_header, class_rows = class_scores(evidence, evidence.stages)
    by_stage = {row[0]: row[1:] for row in class_rows}
    rows = [[*row, *by_stage.get(row[0], ["-"] * (len(class_header) - 1))] for row in rows]
    parts = [
        *about_the_split(evidence),
        markdown_table([*header, *(name if name in BEYOND else f"IoU {name}" for name in class_header[1:])], rows),
        markdown_table(*comparisons(evidence, True)),
        *not_run(evidence),
        markdown_table(*comparisons(evidence, False)),
        "\n".join(f"- {evidence.answer(control)}" for control in controls_run(evidence)),
        " ".join(how_to_read(evidence)),
        "\n".join(f"- Warning: {caution}" for caution in evidence.cautions),
        f"`{command}`",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def tidy_rows(evidence: Evidence) -> list[list]:
    """stage, seed, checkpoint, metric, value of every score."""
    rows = []
    for result in evidence.results:
        scores = result.scores
        values = {key: scores[key] for key in (*KEYS, *BEYOND)}
        values |= {MINORITY: mean_iou_of(scores, evidence.minority)} if evidence.minority else {}
        for name, of_class in scores["classes"].items():
            values |= {f"{key} {name}": value for key, value in of_class.items()}
        values["cumulative_steps"] = result.facts["cumulative_steps"]
        rows += [[result.arm, result.seed, result.which, key, value] for key, value in values.items()]
    return rows


def as_csv(header: list[str], rows: list[list]) -> str:
    lines = io.StringIO()
    writer = csv.writer(lines, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return lines.getvalue()


def main(argv=None):
    args = parse_args(argv)
    evidence = gather_from(args.in_dir, command_for("evaluation.compute_metrics", args) + " --split val --overwrite")
    text = summary(evidence, args.in_dir, args.command)
    contents = (
        text,
        as_csv(["stage", "seed", "checkpoint", "metric", "value"], tidy_rows(evidence)),
        markdown(evidence, args.command),
    )
    for name, content in zip(TABLES, contents, strict=True):
        write_text(args.out_dir / name, content)
    figures = {
        "ablation.png": ablation_figure(evidence),
        "comparisons.png": comparisons_figure(evidence),
        "class_gains.png": class_gains_figure(evidence),
        "draws.png": draws_figure(evidence),
    }
    for name, figure in figures.items():
        path = args.out_dir / name
        if figure is None:
            path.unlink(missing_ok=True)  # of an earlier call, with other runs
        else:
            save_figure(figure, path, dpi=160)
    for caution in evidence.cautions:
        warn(caution)
    print(text)
    for name in (*TABLES, *(name for name, figure in figures.items() if figure is not None)):
        print(args.out_dir / name)


if __name__ == "__main__":
    run(main)
