"""The part of the report on the map of a raster, and on the area of each class."""

import argparse

from common.files import read_json
from common.inputs import Command, Input
from common.schema import is_number, is_text, list_of, misfit, optional, values_of
from common.text import count
from evaluation.mapping.record import MapRecord
from evaluation.report.page import Html, el, figure, html_table, listed, missing

AREAS_FORM = {
    **dict.fromkeys(("command", "map", "map_command", "unit"), is_text),
    "classes": values_of(dict.fromkeys(("counted", "estimated", "low", "high", "counting_off"), optional(is_number))),
    "warnings": list_of(is_text),
}


def _amount(value: float | None) -> str:
    return "-" if value is None else f"{value:,.1f}"


def areas(source: Input, record: MapRecord) -> list[Html | None]:
    """What evaluation.estimate_areas found of a map; UserError if the file is something else."""
    if not source.path.is_file():
        return [missing("The areas of its classes were not estimated yet", source.made_by)]
    content = read_json(source)
    problem = misfit(content, AREAS_FORM)
    if problem:
        raise source.unusable(f"{source} is not of evaluation.estimate_areas: {problem}")
    if content["map_command"] != record.command:
        return [missing("The areas are of an earlier map", source.made_by)]
    unit, rows = content["unit"], []
    for name, of_class in content["classes"].items():
        low, high, off = (of_class[key] for key in ("low", "high", "counting_off"))
        interval = "-" if low is None else f"{_amount(low)} to {_amount(high)}"
        rows.append(
            [
                name,
                _amount(of_class["counted"]),
                _amount(of_class["estimated"]),
                interval,
                "-" if off is None else f"{off:+.0%}".replace("-", "\u2212"),
            ]
        )
    header = ["class", f"counted, {unit}", f"estimated, {unit}", "95 % interval", "counting is off by"]
    about = (
        "Counted: the pixels of the map. Estimated: corrected by how the same networks mistake the classes on "
        "held-out tiles (Olofsson et al. 2014)."
    )
    path = source.path.with_suffix(".png")
    return [
        html_table("Areas of the classes", header, rows),
        listed([f"Warning: {warning}." for warning in content["warnings"]], class_="notes"),
        figure(path, "Counted and estimated area of each class."),
        el("p", about, class_="note"),
    ]


def on_map(args: argparse.Namespace) -> list[Html | None]:
    """The map, what made it, and its areas; a report without a map says how to make one."""
    if not args.map.path.is_file():
        return [missing("No raster was mapped yet", args.map.made_by)]
    record = MapRecord.beside(args.map)
    lead = f"{record.map}: {record.width:,} x {record.height:,} pixels"
    lead += f" of {record.gsd:g} m" if record.gsd else ""
    by = ", ".join(checkpoint.name for checkpoint in record.checkpoints)
    estimate = Command.of("evaluation.estimate_areas", args.root)
    return [
        el("p", lead, class_="lead"),
        el("p", f"Made from {record.image} by {count(record.checkpoints, 'network')}: {by}."),
        figure(args.map.path.with_suffix(".png"), "The raster, and the class of each of its pixels."),
        *areas(
            Input(args.map.path.with_name(f"{args.map.path.stem}_areas.json"), estimate),
            record,
        ),
        el("p", "The command was ", el("code", record.command), class_="note"),
    ]
