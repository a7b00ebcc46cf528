"""The top of the report: verdict, ablation, figures."""

import argparse
import math
from pathlib import Path

from common.inputs import Command
from common.stages import STAGES
from common.text import count, hundredths, signed, starred
from evaluation.report.format import arm_name, mark, score_cell
from evaluation.report.page import Html, el, figure, html_table, joined, listed, missing, nowrap
from evaluation.scoring.results import METRICS
from evaluation.study import tables, wording
from evaluation.study.comparisons import MINORITY, Family
from evaluation.study.evidence import BEYOND, Evidence, Finding

TITLE = "Land cover under class imbalance: what each stage gains"


def verdict(evidence: Evidence, cautions: list[str]) -> list[Html | None]:
    """What the study shows, in words; cautions before any number."""
    warned = el("h3", "Before you read a number") + listed(map(wording.sentence, cautions)) if cautions else None
    ranked = evidence.stages
    first = None
    if ranked:
        score = wording.score_text(ranked[0].estimate("mIoU"))
        seeds = count(ranked[0].seeds, evidence.unit)
        first = el(
            "p",
            el("strong", f"Stage {arm_name(ranked[0].arm)} ranks first"),
            f" of {count(ranked, 'stage')}: mean IoU {score} % over {seeds}. "
            "The comparisons below say which differences are more than noise.",
            class_="lead",
        )
    lacking = wording.why_no_intervals(evidence)
    return [
        el("div", warned, class_="caution", role="note") if warned else None,
        first,
        el("p", lacking) if lacking else None,
        *(
            part
            for family, findings in evidence.run_families.items()
            for part in _said(family, findings, evidence.unit)
        ),
    ]


def _said(family: Family, findings: list[Finding], unit: str) -> list[Html | None]:
    """What the comparisons of a family show, a line a comparison and metric."""
    lines = []
    for finding in findings:
        for metric in wording.tested_metrics(finding) or ["mIoU"]:
            text = wording.sentence(wording.finding_in_words(finding, metric, unit))
            lines.append(joined([mark(finding, metric), el("span", text)]))
    return [el("h3", f"{family.title}: {family.about}"), listed(lines, class_="verdicts")]


def ablation_table(evidence: Evidence) -> Html:
    """The stages by rank with the IoU of each class, then those that were not run."""
    means = ["mIoU", *([MINORITY] if evidence.minority else []), "mF1", "OA"]
    metrics = [*means, *(f"IoU {name}" for name in evidence.classes)]
    by_arm = {scores.arm.name: {metric: scores.estimate(metric) for metric in metrics} for scores in evidence.stages}
    known = {m: [of[m].value for of in by_arm.values() if not math.isnan(of[m].value)] for m in metrics}
    best = {metric: hundredths(max(values, default=None)) for metric, values in known.items()}
    header = ["stage", "rank", f"{evidence.unit}s", *means, "best − last", "steps"]
    header += [nowrap(starred(name, evidence.minority)) for name in evidence.classes] + list(BEYOND)
    groups = [("", 3), ("means, %", len(means)), ("", 2), ("IoU of each class, %", len(evidence.classes))]
    groups += [("also, %", len(BEYOND))]
    rows = []
    for rank, scores in enumerate(evidence.stages, 1):
        gap = scores.best_minus_last()
        of_arm = by_arm[scores.arm.name]
        cells = {m: score_cell(of_arm[m], hundredths(of_arm[m].value) == best[m] and len(by_arm) > 1) for m in metrics}
        row = [el("a", nowrap(arm_name(scores.arm)), href=f"#{scores.arm.name}"), rank, len(scores.seeds)]
        row += [cells[metric] for metric in means] + ["-" if gap is None else signed(gap), f"{scores.steps:,}"]
        row += [cells[f"IoU {name}"] for name in evidence.classes]
        rows.append(row + [hundredths(scores.mean_over_seeds(key)) for key in BEYOND])
    absent = [stage for stage in STAGES if stage.name not in by_arm]
    rows += [[arm_name(stage), evidence.status(stage.name), *["-"] * (len(header) - 2)] for stage in absent]
    note = el("span", "Bold: highest of its column, which need not mean that it differs.", class_="note")
    caption = joined(["Stages by rank, last.pt on val. ", note])
    return html_table(caption, header, rows, groups=groups, first=0, dense=True)


def ablation(evidence: Evidence) -> list[Html | None]:
    """The tables of stages and comparisons, and how to read them."""
    parts: list[Html | None] = [ablation_table(evidence)]
    for family, findings in evidence.run_families.items():
        header, rows = tables.tested(evidence, findings, name=arm_name)
        caption = f"{family.title}: {family.about}; corrected over {family.hypotheses} tests"
        parts.append(html_table(caption, header, rows, text=("to", "metric", "finding")) if rows else None)
    header, rows = tables.described(evidence, name=arm_name)
    caption = "Described, not tested; several may change at once"
    return [
        *parts,
        html_table(caption, header, rows, text=("to", "remark")) if rows else None,
        el("h3", "How to read the numbers"),
        listed(map(wording.sentence, wording.how_to_read(evidence)), class_="notes"),
    ]


def figures(evidence: Evidence, args: argparse.Namespace) -> list[Html | None]:
    """The figures that evaluation.aggregate_metrics draws, with what they show in words."""
    folder, command = args.in_dir.path, Command.of("evaluation.aggregate_metrics", args.root)
    means = [f"{arm_name(s.arm)} {wording.score_text(s.estimate('mIoU'))} %" for s in evidence.arms.values()]
    differences = [
        f"{arm_name(f.comparison.arm)} against {arm_name(f.comparison.other)} {wording.difference_text(f.mIoU)}"
        for f in evidence.findings
        if f.estimates
    ]
    texts = [
        (
            "ablation.png",
            f"Mean IoU of each stage on val: {', '.join(means)}.",
            "Scores of each stage in the order of the stages. Left: each dot is a training, the line the score, the "
            "bar the 95 % interval where there is one. Right: the darker a cell, the higher the IoU of the class; * "
            "marks minority classes.",
        ),
        (
            "comparisons.png",
            f"Differences in mean IoU, points: {'; '.join(differences) or 'none'}.",
            "Each row is a stage against another, the bar its 95 % interval by itself. Above the dashed line stand the "
            "planned comparisons, which are tested together; bold are those that their test shows.",
        ),
        (
            "class_gains.png",
            "Points of IoU of each class that each stage has over stage 1; the numbers are those of the table above.",
            "What each class gains over stage 1: right of the line it gains, left of it it loses. A stage that helps "
            "the minority classes (*) at the cost of others shows it here.",
        ),
        (
            "draws.png",
            "Class shares of the pixels that training drew, and share of crops that hold each class, by stage; the "
            "folds of the stages give the numbers.",
            "What the networks were shown. Replication, difficulty sampling and minority crops act by changing these "
            "shares; where they did not change, the component cannot have helped.",
        ),
    ]
    made = [figure(folder / name, alt, caption) for name, alt, caption in texts]
    lacking = [name for (name, _, _), picture in zip(texts, made, strict=True) if picture is None]
    note = missing(f"Not drawn: {', '.join(lacking)}", command) if lacking else None
    newest = max((result.folder / METRICS).stat().st_mtime for result in evidence.results)
    older = [n for n, _, _ in texts if (folder / n).is_file() and (folder / n).stat().st_mtime < newest]
    if older:
        again = ["Drawn before the newest of the results was written: ", ", ".join(older), ". Draw again: "]
        note = joined([note, el("p", *again, el("code", command), class_="missing")])
    return [note, *made]


def page_header(evidence: Evidence, args: argparse.Namespace, contents: dict[str, str]) -> Html:
    """The title, what the study is of, and links to the sections ``contents``."""
    name = args.root.resolve().name if args.root != Path(".") else None
    about = [
        wording.about_the_split(evidence)[0],
        f"{len(evidence.classes)} classes: {', '.join(starred(n, evidence.minority) for n in evidence.classes)}"
        + (" (* minority)" if evidence.minority else ""),
    ]
    links = [el("li", el("a", title, href=f"#{identity}")) for identity, title in contents.items()]
    return el(
        "header",
        el("h1", TITLE),
        el("p", (f"{name} · " if name else "") + " · ".join(about), class_="about"),
        el("nav", el("ol", *links), class_="contents", aria_label="Contents"),
        class_="top",
    )
