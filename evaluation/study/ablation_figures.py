"""Figures over all stages of a study: scores, comparisons, gains of each class, and what was drawn."""

import textwrap

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from common.figures import class_legend, new_figure
from common.stages import STAGES, Arm
from common.text import hundredths, starred
from evaluation.study.comparisons import MINORITY
from evaluation.study.evidence import Evidence, controls_run, rivals_run
from evaluation.study.intervals import Estimate
from evaluation.study.wording import difference_text

DARK, GRID = "#1f4e79", "#dddddd"


def _rows(axes: Axes, count: int, labels: list[str] | None, width: float) -> None:
    """Rows from the top, labelled at the left with room of ``width`` points, a band behind each."""
    for row in range(count):
        axes.axhline(row, color="#f0f0f0", linewidth=9, zorder=0)
    axes.set_ylim(count - 0.5, -0.5)
    axes.set_yticks(range(count), labels if labels else [""] * count, ha="left")
    axes.tick_params(axis="y", length=0, pad=width if labels else 0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.grid(axis="x", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))


def _mark(axes: Axes, row: int, mean: Estimate, by_training: np.ndarray, color: str = DARK) -> None:
    """Trainings as dots, the pooled score as a line, and its interval as a bar behind them; points."""
    if mean.half_width is not None:
        ends = [100 * mean.low, 100 * mean.high]
        axes.plot(ends, [row] * 2, color=color, linewidth=5, alpha=0.35, solid_capstyle="butt", zorder=2)
    axes.plot([100 * mean.value] * 2, [row - 0.28, row + 0.28], color=color, linewidth=2, zorder=3)
    if len(by_training) > 1 or mean.half_width is None:
        face = {"markerfacecolor": "white", "markeredgecolor": color, "markersize": 5}
        axes.plot(100 * by_training, [row] * len(by_training), "o", zorder=4, **face)


def _how_marked(evidence: Evidence) -> str:
    line = "all folds pooled" if evidence.folds else "mean"
    several = f"dot: a {evidence.unit}; line: {line}" if len(evidence.seeds) > 1 else f"dot: the one {evidence.unit}"
    return several + ("; bar: 95 % interval" if evidence.has_intervals else "")


def ablation_figure(evidence: Evidence) -> Figure:
    """mIoU and minority mIoU of each stage in stage order, beside the IoU of each class."""
    names = [starred(name, evidence.minority) for name in evidence.classes]
    metrics = ["mIoU", *([MINORITY] if evidence.minority else [])]
    turned = max(map(len, names)) > 14
    cell = 0.7 if turned else max(0.8, 0.085 * max(map(len, names)))
    widths = [3.4] * len(metrics) + [cell * len(names)]
    figure = new_figure(2.6 + sum(widths), 0.46 * len(STAGES) + 1.6)
    *panels, right = figure.subplots(1, len(metrics) + 1, width_ratios=widths)
    for axes, metric in zip(panels, metrics, strict=True):
        _rows(axes, len(STAGES), [_aligned(stage) for stage in STAGES] if axes is panels[0] else None, 148)
        for row, stage in enumerate(STAGES):
            scores, in_row = evidence.arms.get(stage.name), {"transform": axes.get_yaxis_transform(), "va": "center"}
            if scores is None:
                axes.text(0.02, row, evidence.status(stage.name), color="#777777", style="italic", **in_row)
                continue
            _mark(axes, row, scores.estimate(metric), scores.by_training(metric))
            axes.text(1.02, row, hundredths(scores.value(metric)), weight="bold", **in_row)
        axes.set_title(f"{metric} on val, %", fontsize=11, loc="left")
    panels[0].set_xlabel(_how_marked(evidence), fontsize=9, loc="left")
    if evidence.minority:
        panels[1].set_xlabel("mean IoU of the classes marked *", fontsize=9, loc="left")
    grid = np.full((len(STAGES), len(names)), np.nan)
    for row, stage in enumerate(STAGES):
        if stage.name in evidence.arms:
            grid[row] = [evidence.arms[stage.name].value(f"IoU {name}") for name in evidence.classes]
    _heatmap(right, grid, names, turned)
    star = " (* minority class)" if evidence.minority else ""
    right.set_title(f"IoU of each class, %{star}", fontsize=11, loc="left")
    return figure


def _heatmap(axes: Axes, grid: np.ndarray, names: list[str], turned: bool) -> None:
    """(rows, classes) shares as shaded cells with their percentages; NaN as a dash."""
    axes.set_facecolor("#f2f2f2")
    axes.imshow(grid, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for (row, column), value in np.ndenumerate(grid):
        text = hundredths(value)
        axes.text(column, row, text, ha="center", va="center", color="white" if value > 0.6 else "#222222")
    axes.set_xticks(range(len(names)), names, rotation=30 if turned else 0, ha="right" if turned else "center")
    axes.set_yticks([])
    axes.set_xticks(np.arange(len(names) - 1) + 0.5, minor=True)
    axes.set_yticks(np.arange(len(grid) - 1) + 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=2)
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(False)


def comparisons_figure(evidence: Evidence) -> Figure | None:
    """The difference in mIoU of each comparison that was made, planned ones first; None if there is none."""
    made = [finding for finding in evidence.findings if finding.estimates]
    if not made:
        return None
    figure = new_figure(10.5, 0.42 * len(made) + 1.3)
    axes = figure.subplots()
    labels = []
    for finding in made:
        comparison = finding.comparison
        remark = f" ({comparison.unequal})" if comparison.unequal else ""
        labels.append(f"{_in_a_row(comparison.arm)}  to  {_in_a_row(comparison.other)}{remark}")
    _rows(axes, len(made), labels, 330)
    for row, finding in enumerate(made):
        mine, theirs = (evidence.arms[arm.name] for arm in finding.comparison[:2])
        color = DARK if finding.family else "#777777"
        _mark(axes, row, finding.estimates["mIoU"], mine.paired(theirs, "mIoU", finding.seeds), color)
        weight = "bold" if finding.is_shown() else "normal"
        in_row = {"transform": axes.get_yaxis_transform(), "va": "center", "fontsize": 9}
        axes.text(1.02, row, difference_text(finding.mIoU), weight=weight, **in_row)
    axes.axvline(0, color="#333333", linewidth=1)
    planned, position = sum(finding.family is not None for finding in made), ""
    if 0 < planned < len(made):
        axes.axhline(planned - 0.5, color="#555555", linewidth=0.8, linestyle="--")
        position = "; above the dashed line the planned comparisons"
    axes.set_title(f"Difference in mIoU, points{position}", fontsize=11, loc="left")
    axes.set_xlabel(_how_marked(evidence), fontsize=9, loc="left")
    return figure


def _in_a_row(arm: Arm) -> str:
    return arm.title if arm.number else f"{arm.title} ({arm.kind})"


def _aligned(stage: Arm) -> str:
    """The title of a stage in a column of titles."""
    return f"{stage.number}  {stage.label}"


def class_gains_figure(evidence: Evidence) -> Figure | None:
    """The IoU of each class against the first stage, one panel per class; None if nothing can be compared with it."""
    first = STAGES[0]
    rows = [(stage, evidence.finding(stage.name, first.name)) for stage in STAGES[1:]]
    rows = [(stage, finding) for stage, finding in rows if finding and finding.estimates]
    if not rows:
        return None
    taxonomy = evidence.taxonomy
    figure = new_figure(3.0 + 2.1 * len(evidence.classes), 0.46 * len(rows) + 1.5)
    panels = figure.subplots(1, len(evidence.classes), sharex=True, squeeze=False)[0]
    base = evidence.arms[first.name]
    remarks = [f" ({finding.comparison.unequal})" if finding.comparison.unequal else "" for _, finding in rows]
    labels = [_aligned(stage) + remark for (stage, _), remark in zip(rows, remarks, strict=True)]
    for axes, name in zip(panels, evidence.classes, strict=True):
        metric, color = f"IoU {name}", taxonomy.colors[taxonomy.index(name)]
        _rows(axes, len(rows), labels if axes is panels[0] else None, 212)
        axes.axvline(0, color="#333333", linewidth=1)
        for row, (stage, finding) in enumerate(rows):
            if metric in finding.estimates:
                mine = evidence.arms[stage.name]
                _mark(axes, row, finding.estimates[metric], mine.paired(base, metric, finding.seeds))
        title = textwrap.fill(starred(name, evidence.minority), 20)
        axes.set_title(title, fontsize=11, loc="left")
        axes.plot([0, 1], [1.0, 1.0], color=color, linewidth=5, transform=axes.transAxes, clip_on=False)
    panels[0].set_xlabel(f"points of IoU over stage 1; {_how_marked(evidence)}", fontsize=9, loc="left")
    return figure


def draws_figure(evidence: Evidence) -> Figure | None:
    """What the crops of each stage held, mean over seeds: class shares of labelled pixels, crops with each class."""
    arms = [evidence.arms[stage.name] for stage in STAGES if stage.name in evidence.arms]
    arms += [evidence.arms[arm.name] for arm in [*controls_run(evidence), *rivals_run(evidence)]]
    arms = [scores for scores in arms if all("drawn" in result.run for result in scores.last.values())]
    if not arms:
        return None
    taxonomy = evidence.taxonomy
    names = list(taxonomy.foreground)

    def shares(key: str) -> np.ndarray:
        of_runs = ([[r.run["drawn"][key][n] for n in names] for r in scores.last.values()] for scores in arms)
        return np.array([np.mean(of_arm, axis=0) for of_arm in of_runs])

    pixels, crops = shares("pixel_share"), shares("crops_with_class")
    turned = max(map(len, names)) > 14
    cell = 0.7 if turned else max(0.85, 0.1 * max(map(len, names)))
    figure = new_figure(9.2 + cell * len(names), 0.42 * len(arms) + 1.9)
    left, right = figure.subplots(1, 2, width_ratios=[6.6, cell * len(names)])
    _rows(left, len(arms), [_in_a_row(scores.arm) for scores in arms], 160)
    start = np.zeros(len(arms))
    for column, color in enumerate(taxonomy.colors[1:]):
        style = {"color": color, "edgecolor": "#333333", "linewidth": 0.5, "height": 0.66, "zorder": 2}
        left.barh(range(len(arms)), 100 * pixels[:, column], left=100 * start, **style)
        for row, share in enumerate(pixels[:, column]):
            if share >= 0.035:
                box = {"facecolor": "white", "edgecolor": "none", "pad": 0.6, "alpha": 0.8}
                middle = 100 * (start[row] + share / 2)
                left.text(middle, row, hundredths(share, 0), ha="center", va="center", fontsize=8.5, bbox=box, zorder=3)
        start = start + pixels[:, column]
    left.set_xlim(0, 100)
    left.grid(False)
    means = f", means over {evidence.unit}s" if len(evidence.seeds) > 1 else ""
    left.set_title(f"Class shares of the labelled pixels drawn, %{means}", fontsize=11, loc="left")
    _heatmap(right, crops, [starred(name, evidence.minority) for name in names], turned)
    right.set_title("Crops that hold the class, %", fontsize=11, loc="left")
    right.set_ylim(len(arms) - 0.5, -0.5)
    class_legend(figure, taxonomy, void=False)
    return figure


FIGURES = {  # by file name; None if there is nothing to draw
    "ablation.png": ablation_figure,
    "comparisons.png": comparisons_figure,
    "class_gains.png": class_gains_figure,
    "draws.png": draws_figure,
}
