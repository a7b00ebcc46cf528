"""The tables of a study: ranking, classes, comparisons, controls."""

from common.metrics import mean_iou_of
from common.stages import STAGE_NAMES
from common.text import hundredths, signed, starred
from evaluation.study.evidence import BEYOND, KEYS, MINORITY, Evidence, controls_run
from evaluation.study.wording import difference_text, p_text, score_text


def ranking(evidence: Evidence) -> tuple[list[str], list[list]]:
    """Header and a row a stage, by rank; stages that were not run last."""
    metrics = [*KEYS, *([MINORITY] if evidence.minority else [])]
    header = ["stage", "rank", "seeds", *metrics, "best - last", "steps"]
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
    """Header and a row a class with its IoU in each stage, then what is beyond IoU; stages by their numbers."""
    arms = [evidence.arms[stage] for stage in STAGE_NAMES if stage in evidence.arms]
    rows = [
        [starred(name, evidence.minority), *(score_text(scores.estimate(f"IoU {name}")) for scores in arms)]
        for name in evidence.classes
    ]
    for key in BEYOND:
        rows.append([key, *(hundredths(scores.mean_over_seeds(key)) for scores in arms)])
    return ["IoU", *(scores.arm.short for scores in arms)], rows


def comparisons(evidence: Evidence, planned: bool) -> tuple[list[str], list[list]]:
    """Header and a row a comparison whose arms were run: differences in points, and for planned ones the p-value."""
    header = ["difference", "to", "seeds", "mIoU", *([MINORITY] if evidence.minority else [])]
    header += ["p", "p corrected"] if planned else ["remark"]
    rows = []
    for finding in evidence.planned if planned else evidence.descriptive:
        if finding.missing:
            continue
        difference, comparison = finding.mIoU, finding.comparison
        row = [comparison.arm.name, comparison.other.name, len(finding.seeds), difference_text(difference)]
        row += [difference_text(finding.estimates.get(MINORITY))] if evidence.minority else []
        if planned:
            row += [p_text(difference.p if difference else None), p_text(finding.p_holm)]
        else:
            row += [comparison.unequal or ""]
        if difference is None:
            row[-1] = "not comparable, see the warnings"
        rows.append(row)
    return header, rows


def control_scores(evidence: Evidence) -> tuple[list[str], list[list]]:
    """Header and a row a control."""
    arms = [evidence.arms[control.name] for control in controls_run(evidence)]
    metrics = [*KEYS, *([MINORITY] if evidence.minority else [])]
    rows = [[a.arm.name, len(a.seeds), *(score_text(a.estimate(key)) for key in metrics), f"{a.steps:,}"] for a in arms]
    return ["control", "seeds", *metrics, "steps"], rows


def tidy_rows(evidence: Evidence) -> list[list]:
    """stage, seed, checkpoint, metric, value of every score."""
    rows = []
    for result in evidence.results:
        scores = result.scores
        values = {key: scores[key] for key in (*KEYS, *BEYOND)}
        values |= {MINORITY: mean_iou_of(scores, evidence.minority)} if evidence.minority else {}
        for name, of_class in scores["classes"].items():
            values |= {f"{key} {name}": value for key, value in of_class.items()}
        values["cumulative_steps"] = result.metrics["cumulative_steps"]
        rows += [[result.arm, result.seed, result.which, key, value] for key, value in values.items()]
    return rows
