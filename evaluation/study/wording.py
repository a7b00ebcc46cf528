"""Scores, differences and intervals in words."""

import numpy as np

from common.folds import repeat_of
from common.stages import Arm
from common.taxonomy import Taxonomy
from common.text import count, hundredths, percent, signed
from evaluation.study.comparisons import MINORITY
from evaluation.study.evidence import Evidence, Finding
from evaluation.study.intervals import EQUIVALENT, FEWEST_BLOCKS, FEWEST_SEEDS, FEWEST_TESTED, POWER, Estimate

SAME = f"equivalent within ±{100 * EQUIVALENT:g} point"


def short_name(arm: Arm) -> str:
    """``stage 5B`` or ``the control "6, uniform target"``, for sentences."""
    return f"stage {arm.number}" if arm.number else f'the {arm.kind} "{arm.title}"'


def arm_name(arm: Arm) -> str:
    """``5B Finetuned from 5A`` or ``control: 6, uniform target``, for tables and headings."""
    return arm.title if arm.number else f"{arm.kind}: {arm.title}"


def pair_name(finding: Finding) -> str:
    """``4 + Minority crop against 1 Baseline``, with a remark if the two have not seen the same number of steps."""
    arm, other, _ = finding.comparison
    remark = f" ({finding.comparison.unequal})" if finding.comparison.unequal else ""
    return f"{arm_name(arm)} against {arm_name(other)}{remark}"


def score_text(score: Estimate) -> str:
    """``43.1`` or ``43.1 ± 2.0``; a score that never varies has no interval that means anything."""
    half_width = "0.0" if score.half_width is None else hundredths(score.half_width)
    return hundredths(score.value) + ("" if half_width == "0.0" else f" ± {half_width}")


def difference_text(difference: Estimate | None) -> str:
    """``+3.1`` or ``+3.1 [+1.2, +5.0]``; a dash if there is none."""
    if difference is None:
        return "-"
    has_interval = difference.half_width is not None
    interval = f" [{signed(difference.low)}, {signed(difference.high)}]" if has_interval else ""
    return signed(difference.value) + interval


def p_text(p: float | None) -> str:
    """``0.031`` or ``<0.001``; a dash if there is none."""
    if p is None:
        return "-"
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def _equals(number: str) -> str:
    return number.replace("<", "< ") if number.startswith("<") else f"= {number}"


def sentence(text: str) -> str:
    """The text with a capital and a full stop."""
    return text[0].upper() + text[1:] + ("" if text.endswith(".") else ".")


def verdict(finding: Finding, metric: str = "mIoU") -> str:
    """What a comparison says of a metric, in a word or two."""
    found = finding.estimates.get(metric)
    if found is None:
        return "not compared"
    if found.half_width is None:
        return "no interval"
    if found.is_void:
        return "void"
    if finding.family is None or metric not in finding.family.metrics:
        return "described"
    if finding.is_shown(metric):
        return "shown"
    if finding.is_screening or metric not in finding.corrected or finding.corrected[metric] is None:
        return "screening"
    return SAME if finding.is_equivalent(metric) else "not shown"


def mark(finding: Finding, metric: str = "mIoU") -> str:
    """What came of a comparison in a metric, in a word and a sign that need no colour."""
    found = finding.estimates.get(metric)
    if found is None:
        return "– not compared"
    if found.half_width is None:
        return "? no interval"
    said = verdict(finding, metric)
    if said != "shown":
        sign = "≈" if finding.is_equivalent(metric) else "?"
        return f"{sign} {said}" if finding.corrected else said
    return "▲ gain shown" if found.value > 0 else "▼ loss shown"


def verdict_in_short(finding: Finding, unit: str = "seed") -> str:
    """What a comparison shows in the metrics in which it is tested, in one sentence without its statistics."""
    if not finding.estimates:
        return sentence(finding_in_words(finding, unit=unit))
    clauses = []
    for metric in tested_metrics(finding) or ["mIoU"]:
        found, said = finding.estimates[metric], verdict(finding, metric)
        points = hundredths(abs(found.value))
        interval = f"95 % interval {signed(found.low)} to {signed(found.high)}"
        moves = f"{metric} {'rises' if found.value > 0 else 'falls'} by {points} points"
        shown = f"{metric} is shown to {'rise' if found.value > 0 else 'fall'} by {points} points"
        clauses.append(
            {
                "shown": f"{shown} ({interval})",
                "not shown": f"no change of {metric} is shown ({signed(found.value)} points, {interval})",
                SAME: f"{metric} is shown to change by less than {100 * EQUIVALENT:g} point ({interval})",
                "void": f"{metric} is the same in every block, so that nothing was compared",
                "no interval": f"{moves}, without an interval",
                "screening": f"{moves} ({interval}), but {count(finding.seeds, unit)} are too few for a test",
                "described": f"{moves} ({interval}), which is not tested",
            }[said]
        )
    arm, other, _ = finding.comparison
    return sentence(f"with {short_name(arm)} in place of {short_name(other)}, {'; '.join(clauses)}")


def finding_in_words(finding: Finding, metric: str = "mIoU", unit: str = "seed") -> str:
    """What came of a comparison in a metric. ``unit``: what one training of an arm is, a seed or a fold."""
    mine, theirs = short_name(finding.comparison.arm), short_name(finding.comparison.other)
    found = finding.estimates.get(metric)
    if found is None:
        return f"{mine} and {theirs} are not compared: {finding.missing or '; '.join(finding.refused)}"
    points = f"{hundredths(abs(found.value))} points of {metric}"
    above = f"{mine} is {points} {'above' if found.value >= 0 else 'below'} {theirs}"
    if found.half_width is None:
        return f"{above} in {count(finding.seeds, unit)}, without an interval"
    if found.is_void:
        return f"{mine} scores exactly as {theirs} in every block: their comparison is void"
    interval = f"95 % interval {signed(found.low)} to {signed(found.high)}"
    said = verdict(finding, metric)
    if said == "described":
        return f"{above} ({interval}; described, not tested)"
    if said == "screening":
        trainings = f"{count(finding.seeds, unit)}, tested from {FEWEST_TESTED} on"
        return f"{above} ({interval}; a screening of {trainings})"
    numbers = f"{interval}, p {_equals(p_text(finding.corrected[metric]))} after correction"
    if said == "shown":
        verb, against = ("gains", "over") if found.value > 0 else ("loses", "against")
        return f"{mine} {verb} {points} {against} {theirs}: shown ({numbers})"
    difference = f"{mine} against {theirs}, {signed(found.value)} points of {metric}"
    if said == SAME:
        return f"{difference}: {SAME} ({numbers})"
    power = f"this study would have shown {hundredths(found.smallest)} points"
    return f"{difference}: not shown ({numbers}; {power}; {_needed(found, unit)})"


def _needed(found: Estimate, unit: str) -> str:
    if found.needed is None:
        return f"no number of {unit}s that one could train would show the difference seen"
    return f"{found.needed:,} {unit}s, on as much more area, would show the difference seen"


def tested_metrics(finding: Finding) -> list[str]:
    """The metrics in which a finding is tested and has estimates."""
    return [metric for metric in (finding.family.metrics if finding.family else ()) if metric in finding.estimates]


def findings_in_words(finding: Finding, unit: str) -> list[str]:
    """A sentence for each metric in which a finding is tested, or for mIoU."""
    return [sentence(finding_in_words(finding, metric, unit)) for metric in tested_metrics(finding) or ["mIoU"]]


def answer_of_control(evidence: Evidence, control: Arm) -> str:
    """The finding of a control that was run, and what it says to the control's question."""
    finding = evidence.of_control(control)
    found, said = finding.mIoU, verdict(finding)
    if found is None or found.half_width is None or control.answers is None or said == "screening":
        answer = "That is no answer yet."
    elif not (finding.is_shown() if finding.family else found.excludes_zero):
        answer = control.answers.alike
    else:
        answer = control.answers.better if found.value > 0 else control.answers.worse
    return f"{sentence(finding_in_words(finding, unit=evidence.unit))} {answer}"


def why_no_intervals(evidence: Evidence) -> str | None:
    """Why no interval or no test is given, or not everywhere; None if all have both."""
    by_arm = min((len(arm.seeds) for arm in evidence.arms.values()), default=0)
    by_pair = min((len(finding.seeds) for finding in evidence.findings if finding.estimates), default=by_arm)
    fewest, unit = min(by_arm, by_pair), evidence.unit
    more = "reproduce.py --folds 5 makes enough" if unit == "seed" else "run those that lack, or --repeats 2"
    in_common = "" if by_arm < FEWEST_SEEDS else " in common"
    lacking = [f"{fewest} of {FEWEST_SEEDS} {unit}s{in_common} ({more})"] if fewest < FEWEST_SEEDS else []
    if evidence.blocks < FEWEST_BLOCKS:
        lacking.append(f"{evidence.blocks} of {FEWEST_BLOCKS} spatial blocks in val (more tiles, or smaller blocks)")
    where = " for some stages or pairs" if evidence.has_intervals else ""
    if lacking:
        return f"No interval and no p-value{where}: there are {' and '.join(lacking)}."
    if fewest < FEWEST_TESTED:
        return f"A screening, without p-values: {fewest} {unit}s; a test needs {FEWEST_TESTED} ({more})."
    return None


def about_the_split(evidence: Evidence) -> list[str]:
    """Sentences on the tiles, the trainings and the classes."""
    split = evidence.split_facts
    split_by = f", split by {split['strategy']}" if split["strategy"] else ""
    seeds = f"Seeds: {', '.join(map(str, evidence.seeds))}"
    if evidence.folds:
        lines = [f"{_about_folds(evidence)}{split_by}. {seeds}, one per fold"]
    else:
        lines = [
            f"Val: {split['tiles']} tiles in {split['blocks']} spatial blocks{split_by}. {seeds}",
            "One split: all seeds are scored on the same area, so the findings hold less for other areas than those of "
            "a study by folds would (reproduce.py --folds 5).",
        ]
    lines.append(f"mIoU and mF1 over {', '.join(evidence.classes)}; {evidence.taxonomy.void} counts nowhere.")
    if split["strategy"] == "random":
        lines.append("Tiles were drawn one by one, so that neighbours may sit on both sides of the split.")
    if evidence.absent:
        lines.append(f"Not in val, so neither scored nor averaged: {', '.join(evidence.absent)}.")
    return lines


def _about_folds(evidence: Evidence) -> str:
    folds = {r.fold["fold"]: r for r in evidence.results if r.fold}
    repeats, number = {repeat_of(fold, evidence.folds or 1) for fold in folds}, evidence.folds or 1
    tiles = {tile for result in folds.values() for tile in result.tiles.tile_ids}
    ground = f"{count(tiles, 'tile')} in {evidence.blocks} spatial blocks"
    dealt = f"dealt {len(repeats)} times into" if len(repeats) > 1 else "in"
    if len(folds) < len(repeats) * number:
        found = ", ".join(map(str, sorted(folds)))
        return f"Fold {found}: {ground}, {dealt} {number} folds of which others are missing"
    return f"All but test: {ground}, {dealt} {number} folds"


def how_to_read(evidence: Evidence) -> list[str]:
    """Sentences on what the numbers are, and what they do not say."""
    pooled = (
        "pooled over all folds, each scored by the training that left it out"
        if evidence.folds
        else "pooled over val for each seed, means over the seeds"
    )
    lines = [
        f"Percentages and points, from confusion matrices {pooled}. Ranked by mIoU, then mF1, then OA of last.pt.",
    ]
    lacking = why_no_intervals(evidence)
    if lacking:
        lines.append(lacking)
    if evidence.has_intervals:
        *others, last = [f"{family.hypotheses} of {family.title.lower()}" for family in evidence.run_families]
        families = f"{', '.join(others)} and {last}"
        lines += [
            "± and [ ]: 95 % intervals over trainings and spatial blocks together, each for itself. p: how often a "
            "difference as large as this would come about if there were none in truth, corrected by Holm for the tests "
            f"of its family, run or not ({families}). The rest is described, not tested.",
            "An interval may leave out 0 while its test shows nothing: the test also asks how much the other pairs of "
            "the family vary, since few trainings can agree by luck.",
            f"Shown: p under 0.05. {SAME[0].upper()}{SAME[1:]}: shown, each comparison by itself, to be no larger than "
            "that. Not shown says that this study cannot tell, never that there is no effect.",
            f"could show: the smallest difference that a study like this one shows in {percent(POWER, 0)} of cases. "
            f"needed: {evidence.unit}s that would show the difference seen as often, with as much more area; the "
            "same blocks dealt again bring less. P(better): probability that one more training of the stage, in "
            "another area, scores higher than one of its opponent.",
        ]
    if evidence.folds and evidence.has_intervals:
        lines.append(
            "N-B: half-width of the interval of Nadeau and Bengio, a cross-check that allows for the training area "
            "which the folds share."
        )
    if len({tuple(scores.seeds) for scores in evidence.arms.values()}) > 1:
        lines.append(
            f"The stages have different {evidence.unit}s, so that the rank also compares these; differences are paired."
        )
    if evidence.seeds and len(evidence.seeds) == 1:
        lines.append("One seed: differences of a point or two are noise, on small sets more.")
    lines += [
        "best - last: points that best.pt has over last.pt; best.pt is selected on val, so that its val score is "
        "optimistic.",
        "steps: optimizer steps, including the training of the checkpoint it started from. boundary mIoU: IoU near the "
        "contours of the classes. ECE: expected calibration error, how far confidence is from being right; lower is "
        "better.",
    ]
    if evidence.minority:
        lines.append(f"* minority class of train; {MINORITY} is the mean of these.")
    return lines


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
