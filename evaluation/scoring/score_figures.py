"""Figures of one checkpoint's scores."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import PercentFormatter

from common.figures import new_figure
from common.taxonomy import Taxonomy
from common.text import percent, starred


def confusion_figure(confusion: np.ndarray, taxonomy: Taxonomy, title: str) -> Figure:
    """Rows truth, columns prediction, foreground only: the share of each row, and the pixels below it.

    Args:
        confusion: (C, C) int64 pixel counts, void first.
    """
    counts = confusion[1:, 1:]
    totals = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, totals, out=np.full(counts.shape, np.nan), where=totals > 0)
    names, side = taxonomy.foreground, len(counts)
    figure = new_figure(1.35 * side + 3.1, 1.0 * side + 2.0)
    axes = figure.subplots()
    axes.set_facecolor("#eeeeee")
    cells = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for row, column in np.ndindex(counts.shape):
        share = shares[row, column]
        if np.isnan(share):
            if column == 0:
                axes.text((side - 1) / 2, row, "does not occur in the truth", ha="center", va="center", color="#555555")
            continue
        color = "white" if share > 0.6 else "#222222"
        weight = "bold" if row == column else "normal"
        style = {"ha": "center", "va": "bottom", "fontsize": 13, "color": color, "weight": weight}
        axes.text(column, row + 0.04, percent(share), **style)
        axes.text(column, row + 0.14, f"{counts[row, column]:,}", ha="center", va="top", fontsize=8.5, color=color)
    labels = [f"{name}\n{total:,} px" for name, total in zip(names, totals[:, 0], strict=True)]
    axes.set_xticks(range(side), names)
    axes.set_yticks(range(side), labels)
    axes.set_xticks(np.arange(side - 1) + 0.5, minor=True)
    axes.set_yticks(np.arange(side - 1) + 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=2)
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(False)
    axes.set_xlabel("predicted class", fontsize=11, labelpad=8)
    axes.set_ylabel("true class", fontsize=11, labelpad=8)
    axes.set_title(title, fontsize=11, loc="left", pad=10)
    bar = figure.colorbar(cells, ax=axes, format=PercentFormatter(1), fraction=0.04, pad=0.02)
    bar.set_label("share of the true class")
    bar.outline.set_visible(False)
    return figure


def _class_bars(
    axes: Axes, taxonomy: Taxonomy, shares: dict[str, float | None], *, width: float, shift: float = 0, hatch: str = ""
) -> None:
    """A bar for each class that has a share, in its colour, ``shift`` from its tick."""
    box = {"facecolor": "white", "edgecolor": "none", "pad": 0.8, "alpha": 0.85}
    text = {"ha": "center", "va": "bottom", "weight": "bold", "bbox": box, "zorder": 4}
    for x, (name, color) in enumerate(zip(taxonomy.foreground, taxonomy.colors[1:], strict=True)):
        share = shares.get(name)
        if share is not None:
            edge = {"edgecolor": "#333333", "linewidth": 0.6, "hatch": hatch or None}
            axes.bar(x + shift, share, width=width, color=color, zorder=2, **edge)
            axes.text(x + shift, share + 0.018, percent(share), fontsize=9 if width < 0.5 else 10, **text)


def _mean_line(axes: Axes, mean: float, label: str, *, style: str = "--", height: float | None = None) -> None:
    """A line at a mean over classes and, at the right, its label, at another ``height`` if one is given."""
    axes.axhline(mean, color="#333333", linestyle=style, linewidth=1.2, zorder=3)
    at = axes.get_xlim()[1], mean if height is None else height
    axes.text(*at, f" {label}\n {percent(mean)}", ha="left", va="center", fontsize=10, clip_on=False)


def _share_axis(axis: Axis) -> None:
    axis.set_ticks(np.linspace(0, 1, 6))
    axis.set_major_formatter(PercentFormatter(1))


def _class_axes(figure: Figure, metrics: dict, taxonomy: Taxonomy, minority: list[str] | None, label: str) -> Axes:
    """Axes for bars of shares by class; names in ``minority`` get a star."""
    axes, names = figure.subplots(), taxonomy.foreground
    axes.set_xlim(-0.6, len(names) - 0.45)
    axes.set_xticks(range(len(names)), [starred(name, minority) for name in names])
    axes.set_ylim(0, 1.08)
    _share_axis(axes.yaxis)
    axes.grid(axis="y", color="#dddddd", linewidth=0.8, zorder=0)
    axes.tick_params(axis="x", length=0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_ylabel(label)
    if minority:
        axes.set_xlabel("* minority class", fontsize=9, loc="right")
    for name in metrics["absent"]:
        x = names.index(name)
        axes.text(x, 0.02, "not in\nthe truth", ha="center", va="bottom", fontsize=9, color="#555555")
    return axes


def class_scores_figure(metrics: dict, key: str, taxonomy: Taxonomy, minority: list[str] | None, title: str) -> Figure:
    """Bars of IoU or F1 (``key``) of each foreground class in its colour, and a line at their mean.

    ``metrics`` is what ``common.metrics.score`` returned; names in ``minority`` get a star.
    """
    figure = new_figure(1.1 * len(taxonomy.foreground) + 1.9, 4.2)
    axes = _class_axes(figure, metrics, taxonomy, minority, key)
    axes.set_title(title, fontsize=11, loc="left")
    _class_bars(axes, taxonomy, {name: of[key] for name, of in metrics["classes"].items()}, width=0.72)
    _mean_line(axes, metrics[f"m{key}"], f"m{key}")
    return figure


def boundary_figure(metrics: dict, taxonomy: Taxonomy, minority: list[str] | None, title: str) -> Figure:
    """IoU and, hatched beside it, boundary IoU of each foreground class in its colour, and lines at their means.

    ``metrics`` is metrics.json; names in ``minority`` get a star. A class without boundary pixels has one bar.
    """
    boundary = metrics["boundary"]
    figure = new_figure(1.3 * len(taxonomy.foreground) + 2.1, 4.4)
    axes = _class_axes(figure, metrics, taxonomy, minority, "IoU")
    axes.set_title(title, fontsize=11, loc="left")
    ious = {name: of["IoU"] for name, of in metrics["classes"].items()}
    _class_bars(axes, taxonomy, ious, width=0.38, shift=-0.2)
    _class_bars(axes, taxonomy, boundary["classes"], width=0.38, shift=0.2, hatch="////")
    means = [(metrics["mIoU"], "mIoU", "--"), (boundary["mIoU"], "boundary mIoU", ":")]
    height = -1.0
    for mean, label, style in sorted(mean for mean in means if mean[0] is not None):
        height = max(mean, height + 0.12)  # which a label takes
        _mean_line(axes, mean, label, style=style, height=height)
    near = f"boundary IoU: within {percent(boundary['distance_share'], 0)} of the tile's diagonal of the contour"
    grey = {"facecolor": "#bbbbbb", "edgecolor": "#333333", "linewidth": 0.6}
    patches = [Patch(**grey, label="IoU"), Patch(**grey, hatch="////", label=near)]
    figure.legend(handles=patches, loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    return figure


def reliability_figure(calibration: dict, title: str) -> Figure:
    """Accuracy of the predictions of each bin of confidence beside the diagonal, and the share of pixels in each bin.

    Where the bar ends below its point on the diagonal the network is too sure of itself. Empty bins are not drawn.

    Args:
        calibration: what ``common.metrics.calibration_score`` returned.
    """
    bins = [b for b in calibration["reliability"] if b["pixels"]]
    middle = [(b["low"] + b["high"]) / 2 for b in bins]
    accuracy, confidence = [b["accuracy"] for b in bins], [b["confidence"] for b in bins]
    pixels, width = np.array([b["pixels"] for b in bins], dtype=float), 1 / calibration["bins"]
    figure = new_figure(6.8, 7.2)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3.2, 1])

    upper.bar(middle, accuracy, width=0.92 * width, color="#8fb8de", edgecolor="#1f4e79", linewidth=0.8, zorder=2)
    upper.plot([0, 1], [0, 1], color="#333333", linestyle="--", linewidth=1.2, zorder=3, label="confidence = accuracy")
    upper.vlines(confidence, accuracy, confidence, color="#d55e00", linewidth=2, zorder=4, label="gap")
    upper.plot(confidence, accuracy, "o", color="#1f4e79", markersize=5.5, zorder=5, label="bin at its mean confidence")
    for text, x, height in (("under-confident", 0.12, 0.55), ("over-confident", 0.85, 0.08)):
        box = {"facecolor": "white", "edgecolor": "none", "pad": 2, "alpha": 0.85}
        upper.text(x, height, text, color="#333333", style="italic", ha="center", bbox=box, zorder=6)
    upper.set_ylim(0, 1.02)
    _share_axis(upper.yaxis)
    upper.set_ylabel("accuracy: share of labelled pixels that are right")
    upper.legend(loc="upper left", fontsize=9, framealpha=0.9)
    upper.set_title(title, fontsize=11, loc="left")

    shares = pixels / pixels.sum()
    lower.bar(middle, shares, width=0.92 * width, color="#bbbbbb", edgecolor="#555555", linewidth=0.8, zorder=2)
    for x, share in zip(middle, shares, strict=True):
        lower.text(x, share, percent(share, 0) if share >= 0.005 else "<1%", ha="center", va="bottom", fontsize=8)
    lower.set_xlim(0, 1)
    lower.set_ylim(0, 1.2 * shares.max())
    _share_axis(lower.xaxis)
    lower.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    lower.set_xlabel("confidence: largest probability of a pixel")
    lower.set_ylabel("share of pixels")
    for axes in (upper, lower):
        axes.grid(color="#e4e4e4", linewidth=0.8, zorder=0)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    return figure
