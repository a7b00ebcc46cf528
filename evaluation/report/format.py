"""Numbers and times as the report shows them."""

import re

from common.taxonomy import Taxonomy
from evaluation.report.page import Html, el, joined
from evaluation.study.evidence import Finding
from evaluation.study.intervals import Estimate
from evaluation.study.wording import signed


def short(digest: str) -> str:
    """The first digits of a digest or commit, with the word that the commit had changes beside it."""
    return digest[:12] + ("-dirty" if digest.endswith("-dirty") else "")


def duration(seconds) -> str | None:
    if seconds is None:
        return None
    minutes = seconds / 60
    return f"{minutes:.1f} min" if minutes < 100 else f"{minutes / 60:.1f} h"


def hundredths(value: float | None) -> str:
    """A share as a percentage without its sign."""
    return "-" if value is None else f"{100 * value:.1f}"


def estimated(found: Estimate, best: bool = False) -> Html:
    """A score, bold where it is the best of its column, and its interval below it."""
    value = el("b", hundredths(found.value)) if best else Html(hundredths(found.value))
    interval = None if found.half_width is None else el("span", f"± {100 * found.half_width:.1f}", class_="pm")
    return joined([value, interval])


def difference(found: Estimate | None) -> Html | str:
    """A difference in points and its interval below it."""
    if found is None:
        return "-"
    interval = None if found.half_width is None else f"[{signed(found.low)}, {signed(found.high)}]"
    return joined([signed(found.value), el("span", interval, class_="pm") if interval else None])


def mark(finding: Finding) -> Html:
    """What came of a comparison in a word and a sign that need no colour."""
    if not finding.estimates:
        return el("span", "– not compared", class_="mark open")
    if finding.mIoU.half_width is None:
        return el("span", "? no interval", class_="mark open")
    if not finding.comparison.planned:
        return el("span", "described", class_="mark open")
    if not finding.told_apart:
        return el("span", "≈ not told apart", class_="mark open")
    return el("span", "▲ gain" if finding.mIoU.value > 0 else "▼ loss", class_="mark")


def told(value) -> str:
    """A value of a record in words; digests cut."""
    if isinstance(value, dict):
        return ", ".join(f"{name.replace('_', ' ')} {told(of)}".removeprefix("kind ") for name, of in value.items())
    if isinstance(value, list):
        return " ".join(map(told, value))
    if isinstance(value, float):
        return f"{value:.3g}"
    return short(value) if re.fullmatch("[0-9a-f]{40,64}(-dirty)?", str(value)) else str(value)


def told_part(how, taxonomy: Taxonomy) -> str:
    """A part of a recipe in words, with the names of classes for their ids."""
    if isinstance(how, dict) and isinstance(how.get("classes"), list):
        how = how | {"classes": [taxonomy.classes[i] for i in how["classes"]]}
    return told(how)
