"""Numbers and times as the report shows them."""

import re

from common.stages import Arm
from common.taxonomy import Taxonomy
from common.text import hundredths, signed
from evaluation.report.page import Html, el, joined
from evaluation.study.evidence import Finding
from evaluation.study.intervals import Estimate
from evaluation.study.wording import verdict


def short(digest: str) -> str:
    """The first digits of a digest or commit, with the word that the commit had changes beside it."""
    return digest[:12] + ("-dirty" if digest.endswith("-dirty") else "")


def arm_name(arm: Arm) -> str:
    """``5B Finetuned from 5A`` or ``control: 6, uniform target``."""
    return arm.title if arm.number else f"{arm.kind}: {arm.title}"


def duration(seconds: float | None) -> str | None:
    """``12.5 min`` or ``1.7 h``; None for none."""
    if seconds is None:
        return None
    minutes = seconds / 60
    return f"{minutes:.1f} min" if minutes < 100 else f"{minutes / 60:.1f} h"


def score_cell(score: Estimate, best: bool = False) -> Html:
    """A score, bold where it is the best of its column, and its interval below it."""
    value = el("b", hundredths(score.value)) if best else hundredths(score.value)
    interval = None if score.half_width is None else el("span", f"± {hundredths(score.half_width)}", class_="pm")
    return joined([value, interval])


def difference_cell(difference: Estimate | None) -> Html | str:
    """A difference in points and its interval below it."""
    if difference is None:
        return "-"
    has_interval = difference.half_width is not None
    interval = f"[{signed(difference.low)}, {signed(difference.high)}]" if has_interval else None
    return joined([signed(difference.value), el("span", interval, class_="pm") if interval else None])


def mark(finding: Finding, metric: str = "mIoU") -> Html:
    """What came of a comparison in a metric, in a word and a sign that need no colour."""
    difference = finding.estimates.get(metric)
    if difference is None:
        return el("span", "– not compared", class_="mark open")
    if difference.half_width is None:
        return el("span", "? no interval", class_="mark open")
    said = verdict(finding, metric)
    if said != "shown":
        sign = "≈" if finding.is_equivalent(metric) else "?"
        return el("span", f"{sign} {said}" if finding.corrected else said, class_="mark open")
    return el("span", "▲ gain shown" if difference.value > 0 else "▼ loss shown", class_="mark")


def value_text(value: object) -> str:
    """A value of a record in words; digests cut."""
    if isinstance(value, dict):
        pairs = (f"{name.replace('_', ' ')} {value_text(of)}".removeprefix("kind ") for name, of in value.items())
        return ", ".join(pairs)
    if isinstance(value, list):
        return " ".join(map(value_text, value))
    if isinstance(value, float):
        return f"{value:.3g}"
    text = str(value)
    return short(text) if re.fullmatch("[0-9a-f]{40,64}(-dirty)?", text) else text


def part_text(part: object, taxonomy: Taxonomy) -> str:
    """A part of a recipe in words, with the names of classes for their ids."""
    if isinstance(part, dict) and isinstance(part.get("classes"), list):
        part = part | {"classes": [taxonomy.classes[i] for i in part["classes"]]}
    return value_text(part)
