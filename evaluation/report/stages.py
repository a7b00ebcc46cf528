"""The part of the report on each stage, control and rival: runs, classes, confusions, figures."""

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from common.inputs import Command
from common.stages import ARM_OF, CONTROLS, RIVALS, STAGES, training_command
from common.taxonomy import Taxonomy
from common.text import count, hundredths, percent, signed, starred
from evaluation.report.format import arm_name, duration, mark, part_text
from evaluation.report.page import Html, described, el, figure, fold, html_table, joined, listed, missing
from evaluation.study import tables
from evaluation.study.comparability import Result
from evaluation.study.evidence import BEYOND, KEYS, ArmScores, Evidence
from evaluation.study.where import SCORE_VAL
from evaluation.study.wording import answer_of_control, score_text


def mean_of(results: list[Result], *keys: str) -> float | None:
    """Mean over runs of a number in run.json; None where one lacks it."""
    values = []
    for result in results:
        value: Any = result.run
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        if value is None:
            return None
        values.append(value)
    return float(np.mean(values)) if values else None


def run_description(scores: ArmScores, taxonomy: Taxonomy) -> Html:
    """What is the same for all runs of an arm, or their mean."""
    arm, runs = scores.arm, list(scores.last.values())
    changed = arm.component
    recipe = [
        el("strong", f"{part} (its one change): {part_text(value, taxonomy)}")
        if part == changed
        else f"{part}: {part_text(value, taxonomy)}"
        for part, value in runs[0].run["recipe"].items()
    ]

    def average(form: str, *keys: str, scale: float = 1) -> str | None:
        value = mean_of(runs, *keys)
        return None if value is None else form.format(value * scale)

    own = runs[0].run.get("iterations", runs[0].run["settings"].get("iterations"))
    steps = f"{scores.steps:,}"
    if own is not None and own != scores.steps:
        start = f" ({arm_name(ARM_OF[arm.starts_from])})" if arm.starts_from else ""
        steps = f"{own:,} of its own, {steps} with those of the weights it starts from{start}"
    mean = "" if len(runs) == 1 else " (mean)"
    return described(
        {
            "compared with": arm_name(ARM_OF[arm.compared_with]) if arm.compared_with else None,
            "recipe": joined(recipe, between="<br>"),
            "steps": steps,
            "crops drawn": average("{:,.0f}", "crops"),
            "training tiles": average("{:,.0f}", "train", "tiles"),
            f"distinct tiles drawn{mean}": average("{:,.0f}", "drawn", "distinct_tiles"),
            f"crops from replicas{mean}": average("{:.1f} %", "drawn", "replica_share", scale=100),
            f"unlabelled pixels drawn{mean}": average("{:.1f} %", "drawn", "void_share", scale=100),
            f"training{mean}": duration(mean_of(runs, "seconds", "training")),
            f"peak memory{mean}": average("{:,.0f} MB", "peak_memory_mb"),
            f"peak GPU memory{mean}": average("{:,.0f} MB", "peak_gpu_memory_mb"),
        }
    )


def seeds_table(scores: ArmScores) -> Html:
    """The scores of each training, and what best.pt has over last.pt."""
    header = ["run", *KEYS, *BEYOND, "best.pt at step", "mIoU of best.pt", "best − last", "training"]
    rows = []
    for seed, result in scores.last.items():
        best = scores.best.get(seed)
        row = [result.run_name, *(hundredths(result.scores[key]) for key in (*KEYS, *BEYOND))]
        gap = "-" if best is None else signed(best.scores["mIoU"] - result.scores["mIoU"])
        step = "-" if best is None else f"{best.metrics.get('step', 0):,}"
        row += [step, hundredths(best.scores["mIoU"] if best else None), gap]
        rows.append([*row, duration(mean_of([result], "seconds", "training")) or "-"])
    return html_table("Scores of each training on its val, last.pt, %", header, rows)


def classes_table(scores: ArmScores, evidence: Evidence, shares: dict[str, float]) -> Html:
    """By class its scores, and what was drawn of it; means over the trainings whose val holds it."""
    runs = list(scores.last.values())
    keys = ("IoU", "F1", "precision", "recall")
    drawn = any("drawn" in result.run for result in runs)
    header = ["class", *keys, *(["share of train", "share of pixels drawn", "crops that hold it"] if drawn else [])]
    rows = []
    for name in evidence.classes:
        of_seeds = [of_class for result in runs if (of_class := result.scores["classes"].get(name))]
        means = [float(np.mean([s[k] for s in of_seeds])) if of_seeds else None for k in keys]
        row = [starred(name, evidence.minority), *map(hundredths, means)]
        if drawn:
            row += [hundredths(shares.get(name))]
            row += [hundredths(mean_of(runs, "drawn", key, name)) for key in ("pixel_share", "crops_with_class")]
        rows.append(row)
    mean = "" if len(runs) == 1 else f", means over the {evidence.unit}s"
    return html_table(f"Scores by class{', and what training drew' if drawn else ''}, %{mean}", header, rows)


def confusion_in_words(confusion: np.ndarray, taxonomy: Taxonomy) -> str:
    """Of each true class how much is right, and what most of the rest is taken for.

    Args:
        confusion: (C, C) int64 pixel counts, rows truth, void first.
    """
    counts, sentences = confusion[1:, 1:], []
    for row, name in enumerate(taxonomy.foreground):
        total = counts[row].sum()
        if not total:
            continue
        missed = np.where(np.arange(len(counts)) == row, 0, counts[row])
        words = f"{name} {percent(counts[row, row] / total, 0)} right"
        if missed.any():
            words += f", taken for {taxonomy.foreground[missed.argmax()]} in {percent(missed.max() / total, 0)}"
        sentences.append(words)
    return "; ".join(sentences)


def result_figures(folder: Path, about: str, confusion: np.ndarray, taxonomy: Taxonomy) -> Html | None:
    """The figures of one checkpoint that are there; boundary bars hold those of IoU too."""
    bars = "class_boundary_iou.png"
    bars = bars if (folder / bars).is_file() else "class_iou_scores.png"
    alt = f"Confusion matrix of {about}: {confusion_in_words(confusion, taxonomy)}."
    figures = [
        figure(folder / "confusion_matrix.png", alt),
        figure(folder / bars, f"Bars of the IoU of each class, {about}; the table of its classes has the numbers."),
        figure(folder / "reliability_diagram.png", f"Reliability diagram of {about}: accuracy against confidence."),
    ]
    figures = [picture for picture in figures if picture]
    return el("div", *figures, class_="pictures") if figures else None


def stage_fold(
    scores: ArmScores, evidence: Evidence, rank: int | None, shares: dict[str, float], score: Command
) -> Html:
    """All of one arm, folded away; ``score`` is the command that draws its figures."""
    arm, pictures = scores.arm, []
    for seed, result in scores.last.items():
        about, confusion = f"{arm_name(arm)}, seed {seed}, last.pt on val", result.tiles.confusions.sum(axis=0)
        of_seed = result_figures(result.folder, about, confusion, evidence.taxonomy)
        if of_seed and len(scores.last) > 1:
            of_seed = fold(el("h4", f"Figures of {result.run_name}"), of_seed)
        pictures.append(of_seed)
    if not any(pictures):
        pictures = [missing("The figures of this stage are not there", score.again())]
    summary = f"mIoU {score_text(scores.estimate('mIoU'))}, {count(scores.seeds, evidence.unit)}"
    summary += f", rank {rank}" if rank else ""
    title = el("h3", arm_name(arm)) + el("span", summary, class_="note")
    tables = seeds_table(scores), classes_table(scores, evidence, shares)
    return fold(title, run_description(scores, evidence.taxonomy), *tables, *pictures, identity=arm.name)


def stages(evidence: Evidence, distribution: dict | None, args: argparse.Namespace) -> list[Html | None]:
    """A fold for each arm that was run, and the commands of the stages that were not."""
    ranks = {scores.arm.name: rank for rank, scores in enumerate(evidence.stages, 1)}
    shares = {name: of["share"] for name, of in distribution["classes"].items()} if distribution else {}
    arms = evidence.arms.items()
    score = Command.of(SCORE_VAL, args.home)
    folds = [stage_fold(scores, evidence, ranks.get(name), shares, score) for name, scores in arms]
    commands = []
    for stage in STAGES:
        if stage.name not in evidence.arms:
            command = el("code", training_command(args.home, stage.name, evidence.seeds[0]))
            commands.append(joined([f"{arm_name(stage)} was {evidence.status(stage.name)}: ", command]))
    return [*folds, listed(commands)]


def controls(evidence: Evidence, args: argparse.Namespace) -> list[Html]:
    """The question of each control, and its answer or the command that trains it."""
    parts = []
    for control in CONTROLS:
        parts += [el("h3", f"Control: {control.title}"), el("p", el("em", control.question))]
        scores = evidence.arms.get(control.name)
        if scores is None:
            command = training_command(args.home, control.name, evidence.seeds[0])
            parts.append(missing(evidence.status(control.name).capitalize(), command))
            continue
        means = ", ".join(f"{key} {score_text(scores.estimate(key))}" for key in KEYS)
        parts.append(
            described(
                {
                    "result": f"{means} over {count(scores.seeds, evidence.unit)}, {scores.steps:,} steps",
                    "finding": mark(evidence.of_control(control)),
                    "answer": answer_of_control(evidence, control),
                    "more": el("a", "its scores, figures and runs", href=f"#{control.name}"),
                }
            )
        )
    return parts


def rivals(evidence: Evidence, args: argparse.Namespace) -> list[Html | None]:
    """The scores of the rivals that were run, and the commands that train the others."""
    header, rows = tables.rival_scores(evidence, name=arm_name)
    absent = [rival for rival in RIVALS if rival.name not in evidence.arms]
    commands = [
        missing(
            f"{arm_name(rival)} ({rival.source}) was {evidence.status(rival.name)}",
            training_command(args.home, rival.name, evidence.seeds[0]),
        )
        for rival in absent
    ]
    about = "What one would reach for instead of the stages, each one change away from stage 1 and at the same budget."
    caption = "Rivals, last.pt on val, %; and what stage 4 has over each, points"
    return [el("p", about), html_table(caption, header, rows, text=("source",)) if rows else None, *commands]
