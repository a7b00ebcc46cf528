"""Scores, differences and intervals in words."""

from common.stages import Arm
from common.text import count, hundredths, signed
from evaluation.study.comparisons import PLANNED
from evaluation.study.evidence import MINORITY, Evidence, Finding
from evaluation.study.intervals import FEWEST_BLOCKS, FEWEST_SEEDS, FEWEST_TESTED, Estimate


def short_name(arm: Arm) -> str:
    """``stage 5B`` or ``the control "6, uniform target"``, for sentences."""
    return f'the control "{arm.title}"' if arm.is_control else f"stage {arm.number}"


def score_text(score: Estimate) -> str:
    """``43.1`` or ``43.1 ± 2.0``."""
    return hundredths(score.value) + ("" if score.half_width is None else f" ± {hundredths(score.half_width)}")


def difference_text(difference: Estimate | None) -> str:
    """``+3.1`` or ``+3.1 [+1.2, +5.0]``; a dash where there is none."""
    if difference is None:
        return "-"
    has_interval = difference.half_width is not None
    interval = f" [{signed(difference.low)}, {signed(difference.high)}]" if has_interval else ""
    return signed(difference.value) + interval


def p_text(p: float | None) -> str:
    """``0.031`` or ``<0.001``; a dash where there is none."""
    if p is None:
        return "-"
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def _equals(number: str) -> str:
    return number.replace("<", "< ") if number.startswith("<") else f"= {number}"


def sentence(text: str) -> str:
    """The text with a capital and a full stop."""
    return text[0].upper() + text[1:] + ("" if text.endswith(".") else ".")


def finding_in_words(finding: Finding) -> str:
    """The finding in words."""
    mine, theirs = short_name(finding.comparison.arm), short_name(finding.comparison.other)
    difference = finding.mIoU
    if difference is None:
        return f"{mine} and {theirs} are not compared: {finding.missing or '; '.join(finding.refused)}"
    points = f"{hundredths(abs(difference.value))} points of mIoU"
    above = f"{mine} is {points} {'above' if difference.value >= 0 else 'below'} {theirs}"
    if difference.half_width is None:
        return f"{above} in {count(finding.seeds, 'seed')}, without an interval"
    interval = f"95 % interval {signed(difference.low)} to {signed(difference.high)}"
    if not finding.comparison.planned:
        return f"{above} ({interval}; described, not tested)"
    if finding.p_holm is None:
        return f"{above} ({interval}; a screening of {count(finding.seeds, 'seed')}, tested from {FEWEST_TESTED} on)"
    p = f"p {_equals(p_text(finding.p_holm))} after correction"
    if not finding.told_apart:
        return f"{mine} cannot be told from {theirs} ({signed(difference.value)} points of mIoU, {interval}, {p})"
    verb, against = ("gains", "over") if difference.value > 0 else ("loses", "against")
    return f"{mine} {verb} {points} {against} {theirs} ({interval}, {p})"


def answer_of_control(evidence: Evidence, control: Arm) -> str:
    """The finding of a control that was run, and what it says to the control's question."""
    finding = evidence.of_control(control)
    if finding.mIoU is None or finding.mIoU.half_width is None or control.answers is None:
        answer = "That is no answer yet."
    elif not (finding.told_apart if finding.comparison.planned else finding.mIoU.excludes_zero):
        answer = control.answers.alike
    else:
        answer = control.answers.better if finding.mIoU.value > 0 else control.answers.worse
    return f"{sentence(finding_in_words(finding))} {answer}"


def why_no_intervals(evidence: Evidence) -> str | None:
    """Why no interval is given, or not everywhere; None where all have one."""
    by_arm = min((len(arm.seeds) for arm in evidence.arms.values()), default=0)
    by_pair = min((len(finding.seeds) for finding in evidence.findings if finding.estimates), default=by_arm)
    lacking = []
    if min(by_arm, by_pair) < FEWEST_SEEDS:
        in_common = "" if by_arm < FEWEST_SEEDS else " in common"
        more = "(reproduce.py --seeds adds some)"
        lacking.append(f"{min(by_arm, by_pair)} of {FEWEST_SEEDS} seeds{in_common} {more}")
    if evidence.blocks < FEWEST_BLOCKS:
        lacking.append(f"{evidence.blocks} of {FEWEST_BLOCKS} spatial blocks in val (more tiles, or smaller blocks)")
    if not lacking:
        return None
    where = " for some arms or pairs" if evidence.has_intervals else ""
    return f"No interval and no p-value{where}: there are {' and '.join(lacking)}."


def about_the_split(evidence: Evidence) -> list[str]:
    """Sentences on the tiles, the seeds and the classes."""
    split = evidence.split_facts
    split_by = f", split by {split['strategy']}" if split["strategy"] else ""
    lines = [
        f"Val: {split['tiles']} tiles in {split['blocks']} spatial blocks{split_by}. Seeds: "
        + ", ".join(map(str, evidence.seeds)),
        f"mIoU and mF1 over {', '.join(evidence.classes)}; {evidence.taxonomy.void} counts nowhere.",
    ]
    if evidence.absent:
        lines.append(f"Not in val, so neither scored nor averaged: {', '.join(evidence.absent)}.")
    return lines


def how_to_read(evidence: Evidence) -> list[str]:
    """Sentences on what the numbers are, and what they do not say."""
    lines = [
        "Percentages and points, from confusion matrices pooled over val for each seed, means over the seeds. Ranked "
        "by mIoU, then mF1, then OA of last.pt.",
    ]
    lacking = why_no_intervals(evidence)
    if lacking:
        lines.append(lacking)
    if evidence.has_intervals:
        lines.append(
            "± and [ ]: 95 % intervals over seeds and spatial blocks together, each for itself. p: how often a "
            "difference in mIoU as large as this would come about if there were none in truth; corrected by Holm for "
            f"the {len(PLANNED)} planned comparisons, run or not. The rest is described, not tested."
        )
    if len({tuple(scores.seeds) for scores in evidence.arms.values()}) > 1:
        lines.append("The arms have different seeds, so that the rank also compares seeds; differences are paired.")
    if evidence.seeds and len(evidence.seeds) == 1:
        lines.append("One seed: differences of a point or two are noise, on small sets more.")
    lines += [
        "best - last: points that best.pt has over last.pt; best.pt is chosen on val itself, so that it flatters.",
        "steps: optimizer steps with those of the ancestors. boundary mIoU: IoU near the contours of the classes. ECE: "
        "expected calibration error, how far confidence is from being right; lower is better.",
    ]
    if evidence.minority:
        lines.append(f"* minority class of train; {MINORITY} is the mean of these.")
    return lines
