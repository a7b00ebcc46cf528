"""What the report reads of the test split and of a map."""

from pathlib import Path

from common.files import read_json
from common.inputs import Command, Input
from common.schema import is_number, is_text, list_of, misfit, optional, values_of
from common.text import hundredths, starred
from evaluation.mapping.record import MapRecord
from evaluation.scoring.results import METRICS, read_metrics, seed_folders
from evaluation.study.evidence import KEYS
from evaluation.study.records import short

AMOUNTS = ("counted", "estimated", "low", "high")
AREAS_FORM = {
    **dict.fromkeys(("command", "map", "map_command", "unit"), is_text),
    "classes": values_of(dict.fromkeys((*AMOUNTS, "counting_off"), optional(is_number))),
    "warnings": list_of(is_text),
}


def tested(stage_dir: Input) -> list[tuple[Path, dict]]:
    """Folder and metrics of each result of a stage on test; UserError if they are damaged."""
    folders = [(name, stage_dir / name.name) for _, name in seed_folders(stage_dir.path) if (name / METRICS).is_file()]
    return [(folder, read_metrics(source / METRICS)) for folder, source in folders]


def by_class(metrics: dict) -> tuple[list[str], list[list]]:
    """Header and a row a class of a result: its scores in percent, and its pixels."""
    keys = ("IoU", "F1", "precision", "recall")
    rows = [
        [starred(name, metrics["minority_classes"]), *(hundredths(of[key]) for key in keys), f"{of['pixels']:,}"]
        for name, of in metrics["classes"].items()
    ]
    return ["class", *keys, "pixels"], rows


def uses(log: list[dict]) -> tuple[list[str], list[list]]:
    """Header and a row for each time the test split was used."""
    rows = [
        [
            entry["time"].replace("T", " ").replace("+00:00", " UTC"),
            *(short(entry["checkpoint_digest"]), entry["seed"]),
            *(hundredths(entry["metrics"].get(key)) for key in KEYS),
            *(entry.get("reason") or "-", entry["command"]),
        ]
        for entry in log
    ]
    return ["when", "checkpoint", "seed", *KEYS, "reason", "command"], rows


def read_map(source: Input, estimate: Command) -> tuple[MapRecord, dict | None] | None:
    """The record of a map and the areas of its classes, None if they are missing or of an earlier map; None for no map.

    Args:
        estimate: the command that estimates areas.

    Raises:
        UserError: a file is something else.
    """
    if not source.path.is_file():
        return None
    record = MapRecord.beside(source)
    areas = Input(source.path.with_name(f"{source.path.stem}_areas.json"), estimate)
    if not areas.path.is_file():
        return record, None
    content = read_json(areas)
    problem = misfit(content, AREAS_FORM)
    if problem:
        raise areas.unusable(f"{areas} is not of evaluation.estimate_areas: {problem}")
    return record, content


def areas_table(areas: dict) -> tuple[list[str], list[list]]:
    """Header and a row a class: its counted and its estimated area, and by how much counting is off."""
    rows = []
    for name, of_class in areas["classes"].items():
        amounts = {key: "-" if of_class[key] is None else f"{of_class[key]:,.1f}" for key in AMOUNTS}
        interval = "-" if of_class["low"] is None else f"{amounts['low']} to {amounts['high']}"
        off = "-" if of_class["counting_off"] is None else f"{of_class['counting_off']:+.0%}".replace("-", "\u2212")
        rows.append([name, amounts["counted"], amounts["estimated"], interval, off])
    unit = areas["unit"]
    return ["class", f"counted, {unit}", f"estimated, {unit}", "95 % interval", "counting is off by"], rows
