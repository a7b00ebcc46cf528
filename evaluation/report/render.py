"""The page of a report: its templates, and what they may call to put numbers into words and tables."""

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from common import stages, text
from common.inputs import Command
from common.metrics import calibration_score
from evaluation.mapping import areas_read
from evaluation.report import pictures
from evaluation.scoring import results
from evaluation.study import data_checks, on_test, overview, records, tables, void_checks, wording
from evaluation.study.evidence import KEYS

TEMPLATES = Path(__file__).parent / "templates"
MODULES = areas_read, data_checks, on_test, overview, pictures, records, results, tables, void_checks, wording


def render(template: str, **values: object) -> str:
    """A template filled with values, whose text is escaped; jinja2.UndefinedError if it needs one that is not given."""
    trim = {"trim_blocks": True, "lstrip_blocks": True}
    pages = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, **trim)
    pages.filters |= {name: getattr(text, name) for name in ("hundredths", "percent", "starred")}
    pages.filters |= {"arm_name": wording.arm_name, "sentence": wording.sentence}
    pages.filters |= {"quantity": text.count, "short": records.short}
    known: dict[str, Any] = vars(stages) | {module.__name__.rpartition(".")[2]: module for module in MODULES}
    known |= {"KEYS": KEYS, "calibration_score": calibration_score, "command": Command.of}
    pages.globals.update(known)
    return pages.get_template(template).render(values)
