"""The tables of a study: ranking, classes, comparisons, controls, rivals, and those of each arm."""

from collections.abc import Callable

import numpy as np

from common.metrics import boundary_score, mean_iou_of
from common.stages import STAGE_NAMES, Arm
from common.text import hundredths, signed, starred
from evaluation.study.comparability import Result
from evaluation.study.comparisons import MINORITY
from evaluation.study.evidence import BEYOND, KEYS, ArmScores, Evidence, Finding, controls_run, rivals_run
from evaluation.study.records import mean_of, minutes
from evaluation.study.wording import difference_text, p_text, score_text, tested_metrics, verdict


def ranking(evidence: Evidence) -> tuple[list[str], list[list]]:
    """Header and one row per stage, by rank; stages that were not run come last."""
    metrics = [*KEYS, *([MINORITY] if evidence.minority else [])]
    header = ["stage", "rank", f"{evidence.unit}s", *metrics, "best - last", "steps"]
    rows = []
    for rank, scores in enumerate(evidence.stages, 1):
        gap = scores.best_minus_last()
        means = [score_text(scores.estimate(metric)) for metric in metrics]
        gap = "-" if gap is None else signed(gap)
        rows.append([scores.arm.name, rank, len(scores.seeds), *means, gap, f"{scores.steps:,}"])
    run_stages = {scores.arm.name for scores in evidence.stages}
    absent = [name for name in STAGE_NAMES if name not in run_stages]
    rows += [[name, evidence.status(name), *["-"] * (len(header) - 2)] for name in absent]
    return header, rows


def class_scores(evidence: Evidence) -> tuple[list[str], list[list]]:
    """Header and one row per class with its IoU in each stage, then other metrics; stages by their numbers."""
    arms = [evidence.arms[stage] for stage in STAGE_NAMES if stage in evidence.arms]
    rows = [
        [starred(name, evidence.minority), *(score_text(scores.estimate(f"IoU {name}")) for scores in arms)]
        for name in evidence.classes
    ]
    for key in BEYOND:
        rows.append([key, *(hundredths(scores.mean_over_seeds(key)) for scores in arms)])
    return ["IoU", *(scores.arm.short for scores in arms)], rows


def _own_name(arm: Arm) -> str:
    return arm.name


def tested(
    evidence: Evidence, findings: list[Finding], name: Callable[[Arm], str] = _own_name
) -> tuple[list[str], list[list]]:
    """Header and a row for each comparison of a family, and metric it is tested in, whose arms were run."""
    checked = ["N-B"] if evidence.folds else []
    header = ["difference", "to", "metric", f"{evidence.unit}s", "points", *checked, "p", "p corrected", "finding"]
    header += ["could show", "needed", "P(better)"]
    rows = []
    for finding in findings:
        metrics = tested_metrics(finding)
        pair = [name(finding.comparison.arm), name(finding.comparison.other)]
        for metric in metrics:
            found = finding.estimates[metric]
            check = [hundredths(found.cross_check)] if checked else []
            p_values = [p_text(found.p), p_text(finding.corrected.get(metric))]
            needed = "-" if found.needed is None else f"{found.needed:,}"
            better = "-" if found.better is None else f"{found.better:.2f}"
            row = [*pair, metric, len(finding.seeds), difference_text(found), *check, *p_values]
            rows.append([*row, verdict(finding, metric), hundredths(found.smallest), needed, better])
        if finding.refused and not metrics:
            dashes = ["-"] * (3 + len(checked))
            rows.append([*pair, "-", len(finding.seeds), *dashes, "not comparable, see the warnings", *"---"])
    return header, rows


def described(evidence: Evidence, name: Callable[[Arm], str] = _own_name) -> tuple[list[str], list[list]]:
    """Header and a row for each comparison that is not tested and whose arms were run: differences in points."""
    header = ["difference", "to", f"{evidence.unit}s", "mIoU", *([MINORITY] if evidence.minority else []), "remark"]
    rows = []
    for finding in evidence.descriptive:
        if finding.missing:
            continue
        comparison = finding.comparison
        row = [name(comparison.arm), name(comparison.other), len(finding.seeds), difference_text(finding.mIoU)]
        row += [difference_text(finding.estimates.get(MINORITY))] if evidence.minority else []
        rows.append([*row, (comparison.unequal or "") if finding.mIoU else "not comparable, see the warnings"])
    return header, rows


def control_scores(evidence: Evidence) -> tuple[list[str], list[list]]:
    """Header and one row per control."""
    arms = [evidence.arms[control.name] for control in controls_run(evidence)]
    metrics = [*KEYS, *([MINORITY] if evidence.minority else [])]
    rows = [[a.arm.name, len(a.seeds), *(score_text(a.estimate(key)) for key in metrics), f"{a.steps:,}"] for a in arms]
    return ["control", f"{evidence.unit}s", *metrics, "steps"], rows


def rival_scores(evidence: Evidence, name: Callable[[Arm], str] = _own_name) -> tuple[list[str], list[list]]:
    """Header and one row per rival: its scores, what stage 4 has over it in points, and who proposed it."""
    metrics = ["mIoU", *([MINORITY] if evidence.minority else [])]
    rows = []
    for rival in rivals_run(evidence):
        scores, finding = evidence.arms[rival.name], evidence.finding("stage4_minority_crop", rival.name)
        row = [name(rival), len(scores.seeds), *(score_text(scores.estimate(metric)) for metric in metrics)]
        row += [difference_text(finding.estimates.get(metric) if finding else None) for metric in metrics]
        rows.append([*row, f"{scores.steps:,}", rival.source])
    header = ["rival", f"{evidence.unit}s", *metrics, *(f"stage 4 over it, {metric}" for metric in metrics)]
    return [*header, "steps", "source"], rows


def trainings(scores: ArmScores) -> tuple[list[str], list[list]]:
    """Header and a row for each training of an arm: its scores, and what best.pt has over last.pt."""
    header = ["run", *KEYS, *BEYOND, "best.pt at step", "mIoU of best.pt", "best − last", "training"]
    rows = []
    for seed, result in scores.last.items():
        best = scores.best.get(seed)
        row = [result.run_name, *(hundredths(result.scores[key]) for key in (*KEYS, *BEYOND))]
        gap = "-" if best is None else signed(best.scores["mIoU"] - result.scores["mIoU"])
        step = "-" if best is None else f"{best.metrics.get('step', 0):,}"
        row += [step, hundredths(best.scores["mIoU"] if best else None), gap]
        rows.append([*row, minutes(mean_of([result], "seconds", "training")) or "-"])
    return header, rows


def classes_of(scores: ArmScores, evidence: Evidence, distribution: dict | None) -> tuple[list[str], list[list]]:
    """Header and a row a class: its scores and what was drawn of it, means over the trainings whose val holds it.

    ``distribution`` is that of the classes in train, if it is known.
    """
    runs, known = list(scores.last.values()), distribution["classes"] if distribution else {}
    keys = ("IoU", "F1", "precision", "recall")
    drawn = any("drawn" in result.run for result in runs)
    header = ["class", *keys, *(["share of train", "share of pixels drawn", "crops that hold it"] if drawn else [])]
    rows = []
    for name in evidence.classes:
        of_seeds = [of_class for result in runs if (of_class := result.scores["classes"].get(name))]
        means = [float(np.mean([s[k] for s in of_seeds])) if of_seeds else None for k in keys]
        row = [starred(name, evidence.minority), *map(hundredths, means)]
        if drawn:
            row += [hundredths(known[name]["share"] if name in known else None)]
            row += [hundredths(mean_of(runs, "drawn", key, name)) for key in ("pixel_share", "crops_with_class")]
        rows.append(row)
    return header, rows


def confusions(result: Result) -> tuple[list[str], list[list]]:
    """Header and a row a true class: shares taken for each class, as floats, then its IoU, boundary IoU and pixels."""
    taxonomy, of_class = result.taxonomy, result.scores["classes"]
    boundary = boundary_score(result.tiles.boundary.sum(axis=0), taxonomy, of_class)["classes"]
    rows = []
    for name, counts in zip(taxonomy.foreground, result.tiles.confusions.sum(axis=0)[1:, 1:], strict=True):
        total = int(counts.sum())
        shares = (counts / total).tolist() if total else ["-"] * len(counts)
        iou = of_class[name]["IoU"] if total else None
        rows.append([name, *shares, hundredths(iou), hundredths(boundary.get(name)), f"{total:,}"])
    return ["true class", *(f"as {name}" for name in taxonomy.foreground), "IoU", "boundary IoU", "pixels"], rows


def tidy_rows(evidence: Evidence) -> list[list]:
    """stage, fold, seed, checkpoint, metric, value of every score; no fold if there is one split."""
    rows = []
    for result in evidence.results:
        scores = result.scores
        values = {key: scores[key] for key in (*KEYS, *BEYOND)}
        values |= {MINORITY: mean_iou_of(scores, evidence.minority)} if evidence.minority else {}
        for name, of_class in scores["classes"].items():
            values |= {f"{key} {name}": value for key, value in of_class.items()}
        values["cumulative_steps"] = result.metrics["cumulative_steps"]
        run = [result.arm, result.fold["fold"] if result.fold else "", result.seed, result.which]
        rows += [[*run, key, value] for key, value in values.items()]
    return rows
