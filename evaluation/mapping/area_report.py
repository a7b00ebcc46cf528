"""Estimated areas as a table, as JSON and as a figure."""

import math
import textwrap
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MaxNLocator

from common.figures import new_figure
from common.text import hundredths, percent, table
from evaluation.mapping.areas import Areas, estimate_areas
from evaluation.mapping.held_out import HeldOut
from evaluation.mapping.likeness import unlike_confidence, unlike_shares
from evaluation.mapping.record import MapRecord
from evaluation.study.intervals import FEWEST_BLOCKS, LEVEL
from evaluation.study.pooling import FEW_BLOCKS

SQUARE_METRES = 10_000  # of a hectare
TERMINAL = 120  # columns
FARTHEST = 3.0  # times the counted area, to which the right panel of the figure reaches at most


@dataclass(frozen=True)
class Report:
    """The areas of a map: what was estimated from what, what a reader is warned of, and what is to be known."""

    record: MapRecord
    held: HeldOut
    areas: Areas
    warnings: list[str]
    notes: list[str]

    @property
    def unit(self) -> str:
        """``ha``, or ``% of map``, in which the areas are."""
        return "% of map" if self.record.square_metres is None else "ha"

    @property
    def ids(self) -> list[int]:
        """The classes that the map or its corrected areas hold, by id."""
        held = (self.areas.counted > 0) | (self.areas.estimated > 0) | (self.areas.holders > 0)
        return [i for i in range(1, len(held)) if held[i]]

    def amount(self, value: float) -> str:
        """An area with as many digits as tell the classes apart; - for none."""
        digits = max(0, min(4, 4 - math.ceil(math.log10(max(self.areas.counted.sum(), 1e-9)))))
        return "-" if math.isnan(value) else f"{value:,.{digits}f}"

    def interval(self, i: int) -> str:
        low, high = self.areas.low[i], self.areas.high[i]
        return "-" if math.isnan(low) else f"{self.amount(low)} to {self.amount(high)}"


def report_of(record: MapRecord, held: HeldOut) -> Report:
    """Estimate the areas of a map, in hectares, or in % of its pixels if their size is not known."""
    pixels = record.pixels.astype(float)
    pixels[0] = 0
    metres = record.square_metres
    areas = 100 * pixels / pixels.sum() if metres is None else metres / SQUARE_METRES
    found = estimate_areas(areas, pixels, held.counts)
    warnings = [*_without_interval(record, held, found), *_unlike(record, held, pixels)]
    notes = [*held.notes]
    if metres is None:
        notes.append("The pixel size of the map is not known (it has no place on earth): areas are in % of it.")
    return Report(record, held, found, warnings, notes)


def _without_interval(record: MapRecord, held: HeldOut, found: Areas) -> list[str]:
    classes, lines = record.taxonomy.classes, []
    unmet = [classes[i] for i in range(1, len(classes)) if not found.met[i] and found.counted[i] > 0]
    if unmet:
        lines.append(
            f"{' and '.join(unmet)}: never predicted on the held-out tiles, so nothing is known of the pixels mapped "
            "as such. They are counted as what they are mapped as; no interval allows for errors in it"
        )
    if found.blocks < FEWEST_BLOCKS:
        lines.append(
            f"no intervals: {found.blocks} held-out blocks, and fewer than {FEWEST_BLOCKS} do not show how much areas "
            "vary"
        )
        return lines
    few = [i for i in range(1, len(classes)) if found.holders[i] < FEW_BLOCKS and found.met[i]]
    few = [f"{classes[i]} ({found.holders[i]})" for i in few]
    if few:
        lines.append(
            f"{' and '.join(few)}: in fewer than {FEW_BLOCKS} held-out blocks, so the estimate says little and has no "
            "interval"
        )
    return lines


def _unlike(record: MapRecord, held: HeldOut, pixels: np.ndarray) -> list[str]:
    """Warnings of a map whose landscape is unlike that of the held-out tiles."""
    if len(held.blocks) < FEWEST_BLOCKS:
        return []
    lines = unlike_shares(pixels, held.counts, record.taxonomy)
    if record.mean_confidence is not None and len(held.found) == 1:
        lines += filter(None, [unlike_confidence(record.mean_confidence, pixels.sum(), held.confidence)])
    if lines:
        lines.append(
            "the correction and its intervals hold for a landscape like the held-out tiles; this map shows another, so "
            "its areas may be wrong by more than the intervals say"
        )
    return lines


def area_table(report: Report) -> tuple[list[str], list[list]]:
    """Header and rows, a row for each class."""
    areas, unit = report.areas, report.unit
    header = ["class", f"counted {unit}", f"estimated {unit}", f"{percent(LEVEL, 0)} interval", "counting off, %"]
    header += ["user's accuracy, %", "producer's, %", "blocks"]
    rows = [
        [
            report.record.taxonomy.classes[i],
            *(report.amount(float(of[i])) for of in (areas.counted, areas.estimated)),
            report.interval(i),
            _signed_percent(float(areas.off[i])),
            *(hundredths(float(of[i])) for of in (areas.users, areas.producers)),
            int(areas.holders[i]),
        ]
        for i in report.ids
    ]
    return header, rows


def _signed_percent(share: float) -> str:
    """``+43``, or ``−3.1`` below ten; - for none."""
    if math.isnan(share):
        return "-"
    return f"{100 * share:+,.{0 if abs(share) >= 0.1 else 1}f}".replace("-", "−")


def about(report: Report) -> list[str]:
    """Sentences on what was estimated from what."""
    record, held = report.record, report.held
    whole = f"{report.amount(report.areas.counted.sum())} ha" if report.unit == "ha" else "of unknown pixel size"
    split, folds = held.found[0].metrics["split"], held.grounds
    ground = f"{split} of {folds} folds" if folds > 1 else split
    return [
        f"{record.map}: {record.mapped:,} pixels with a class ({whole}), {record.pixels[0]:,} without.",
        f"Made by {', '.join(of.checkpoint.name for of in held.found)}.",
        f"Corrected by the confusion on {ground}: {len(held.blocks)} spatial blocks, {held.pixels:,.0f} labelled "
        "pixels.",
    ]


def text_of(report: Report, command: str) -> str:
    """The areas for a terminal or a text file."""
    reading = (
        "Counting off: by how much the counted area is larger (+) or smaller (−) than the estimate. User's accuracy: "
        "of the held-out pixels predicted as the class, the share that is right; producer's: of its true pixels, the "
        "share that is found. Blocks: held-out blocks that hold the class."
    )
    warnings = [f"Warning: {line}." for line in report.warnings]
    lines = [*about(report), "", table(*area_table(report)), "", *warnings, *report.notes, reading]
    return "\n".join([*map(_wrapped, lines), "", command]) + "\n"


def _wrapped(line: str) -> str:
    if "\n" in line:  # a table
        return line
    return textwrap.fill(line, TERMINAL, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


def json_of(report: Report, command: str) -> dict:
    """All of it, with the digests by which each number can be traced."""
    record, held, areas = report.record, report.held, report.areas

    def number(value: float) -> float | None:
        return None if math.isnan(value) else float(value)

    columns = {
        **{"counted": areas.counted, "estimated": areas.estimated, "low": areas.low, "high": areas.high},
        **{"standard_error": areas.error, "degrees_of_freedom": areas.freedom, "counting_off": areas.off},
        **{"users_accuracy": areas.users, "producers_accuracy": areas.producers},
    }
    return {
        "command": command,
        "map": record.map,
        "map_command": record.command,
        "image": record.image,
        "unit": report.unit,
        "level": LEVEL,
        "classes": {
            name: {
                **{key: number(of[i]) for key, of in columns.items()},
                "mapped_pixels": int(record.pixels[i]),
                "blocks": int(areas.holders[i]),
                "predicted_on_held_out_ground": bool(areas.met[i]),
            }
            for i, name in enumerate(record.taxonomy.classes)
            if i
        },
        "void_pixels": int(record.pixels[0]),
        "held_out": {
            "split": held.found[0].metrics["split"],
            "blocks": len(held.blocks),
            "labelled_pixels": held.pixels,
            "unlabelled_share": held.unlabelled,
            "confusion": held.counts.sum(axis=0).tolist(),
            "results": [
                {
                    "folder": str(of.source),
                    "checkpoint": of.checkpoint.name,
                    "checkpoint_digest": of.tiles.checkpoint_digest,
                    "split_digest": of.tiles.split_digest,
                    "blocks": len(set(of.tiles.blocks)),
                }
                for of in held.found
            ],
        },
        "warnings": report.warnings,
        "notes": report.notes,
    }


def areas_figure(report: Report) -> Figure:
    """Counted and estimated area of each class, and the estimate as a multiple of the counted area."""
    ids, taxonomy = report.ids, report.record.taxonomy
    figure = new_figure(11.5, 0.62 * len(ids) + 2.1)
    left, right = figure.subplots(1, 2, width_ratios=[1.45, 1], sharey=True)
    _area_bars(left, report)
    _against_counted(right, report)
    left.set_yticks(range(len(ids)), [taxonomy.classes[i] for i in ids], fontsize=10.5)
    left.set_ylim(len(ids) - 0.45, -0.55)
    for axes in (left, right):
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="x", color="#dddddd", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right", "left"]].set_visible(False)
    ground = f"{len(report.held.blocks)} held-out blocks ({report.held.found[0].metrics['split']})"
    title = f"{report.record.map}: areas corrected by the confusion on {ground}"
    if report.warnings:
        title += "\nRead with care: see the warnings in the table"
    figure.suptitle(title, fontsize=11.5, ha="left", x=0.01)
    grey = {"facecolor": "#999999", "edgecolor": "#333333", "linewidth": 0.6}
    handles = [
        Patch(facecolor="white", edgecolor="#555555", linewidth=0.8, hatch="////", label="counted pixels"),
        Patch(**grey, label=f"estimated; line: {percent(LEVEL, 0)} interval"),
    ]
    figure.legend(handles=handles, loc="outside lower left", ncols=2, frameon=False, fontsize=9.5)
    return figure


def _area_bars(axes: Axes, report: Report) -> None:
    areas, colors = report.areas, report.record.taxonomy.colors
    for row, i in enumerate(report.ids):
        counted = {"facecolor": "white", "edgecolor": "#555555", "linewidth": 0.8, "hatch": "////"}
        axes.barh(row - 0.2, areas.counted[i], height=0.36, zorder=2, **counted)
        style = {"color": colors[i], "edgecolor": "#333333", "linewidth": 0.6}
        axes.barh(row + 0.2, areas.estimated[i], height=0.36, zorder=2, **style)
        end = areas.estimated[i]
        if not math.isnan(areas.low[i]):
            end = areas.high[i]
            axes.plot([areas.low[i], end], [row + 0.2] * 2, color="#111111", linewidth=1.8, zorder=4)
            axes.plot([areas.low[i], end], [row + 0.2] * 2, "|", color="#111111", markersize=8, zorder=4)
        remark = "" if not math.isnan(areas.low[i]) else "  (no interval)"
        for height, x, value in ((-0.2, areas.counted[i], areas.counted[i]), (0.2, end, areas.estimated[i])):
            text = report.amount(value) + (remark if height > 0 else "")
            weight = "bold" if height > 0 else "normal"
            offset = {"xytext": (6, 0), "textcoords": "offset points", "va": "center", "fontsize": 9}
            axes.annotate(text, (x, row + height), weight=weight, **offset)
    axes.set_xlim(0, 1.14 * np.nanmax([*areas.counted, *areas.estimated, *areas.high]))
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    axes.set_xlabel("hectares" if report.unit == "ha" else "% of the mapped pixels (their size is not known)")


def _against_counted(axes: Axes, report: Report) -> None:
    """The estimate and its interval as multiples of the counted area, where 1 means that counting is right."""
    areas, reach = report.areas, FARTHEST
    counted = np.where(areas.counted > 0, areas.counted, np.nan)
    value, low, high = areas.estimated / counted, areas.low / counted, areas.high / counted
    shown = np.array([*value[report.ids], *high[report.ids]])
    reach = min(FARTHEST, max(1.5, 1.08 * np.nanmax(np.append(shown, 1.0))))
    axes.axvline(1, color="#333333", linewidth=1.2, linestyle="--", zorder=2)
    for row, i in enumerate(report.ids):
        color = report.record.taxonomy.colors[i]
        if math.isnan(value[i]):
            axes.text(0.03 * reach, row, "not in the map", color="#777777", style="italic", va="center")
            continue
        if not math.isnan(low[i]):
            axes.plot([low[i], min(high[i], reach)], [row] * 2, color="#444444", linewidth=2.2, zorder=3)
            if high[i] > reach:
                axes.plot(reach, row, ">", color="#444444", markersize=7, clip_on=False, zorder=3)
        if value[i] <= reach:
            face = {"markerfacecolor": color, "markeredgecolor": "#222222", "markersize": 9}
            axes.plot(value[i], row, "o", zorder=4, **face)
        at = {"transform": axes.get_yaxis_transform(), "va": "center", "fontsize": 9, "weight": "bold"}
        axes.text(1.03, row, f"×{value[i]:.2f}", **at)
    axes.set_xlim(0, reach)
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
    axes.set_xlabel("estimated / counted area; dashed: counting is right")
