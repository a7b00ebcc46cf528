"""What evaluation.predict_map and evaluation.estimate_areas left of a map, read back."""

from common.files import read_json
from common.inputs import Command, Input
from common.schema import is_number, is_text, list_of, misfit, optional, values_of
from evaluation.mapping.record import MapRecord

AMOUNTS = ("counted", "estimated", "low", "high")
AREAS_FORM = {
    **dict.fromkeys(("command", "map", "map_command", "unit"), is_text),
    "classes": values_of(dict.fromkeys((*AMOUNTS, "counting_off"), optional(is_number))),
    "warnings": list_of(is_text),
}


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
