"""Figures of one checkpoint's scores."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from common.figures import new_figure
from common.taxonomy import Taxonomy


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
    drawn = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for row, column in np.ndindex(counts.shape):
        share = shares[row, column]
        if np.isnan(share):
            if column == 0:
                axes.text((side - 1) / 2, row, "does not occur in the truth", ha="center", va="center", color="#555555")
            continue
        color = "white" if share > 0.6 else "#222222"
        weight = "bold" if row == column else "normal"
        percent = {"ha": "center", "va": "bottom", "fontsize": 13, "color": color, "weight": weight}
        axes.text(column, row + 0.04, f"{share:.1%}", **percent)
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
    bar = figure.colorbar(drawn, ax=axes, format=PercentFormatter(1), fraction=0.04, pad=0.02)
    bar.set_label("share of the true class")
    bar.outline.set_visible(False)
    return figure


def class_scores_figure(metrics: dict, key: str, taxonomy: Taxonomy, minority: list[str] | None, title: str) -> Figure:
    """Bars of IoU or F1 (``key``) of each foreground class in its colour, and a line at their mean.

    ``metrics`` is what ``common.metrics.score`` returned; names in ``minority`` get a star.
    """
    names = taxonomy.foreground
    figure = new_figure(1.1 * len(names) + 1.9, 4.2)
    axes = figure.subplots()
    for place, (name, color) in enumerate(zip(names, taxonomy.colors[1:], strict=True)):
        if name in metrics["absent"]:
            axes.text(place, 0.02, "not in\nthe truth", ha="center", va="bottom", fontsize=9, color="#555555")
            continue
        value = metrics["classes"][name][key]
        axes.bar(place, value, width=0.72, color=color, edgecolor="#333333", linewidth=0.6, zorder=2)
        box = {"facecolor": "white", "edgecolor": "none", "pad": 0.8, "alpha": 0.85}
        axes.text(
            place,
            value + 0.018,
            f"{value:.1%}",
            ha="center",
            va="bottom",
            fontsize=10,
            weight="bold",
            bbox=box,
            zorder=4,
        )
    mean = metrics[f"m{key}"]
    axes.axhline(mean, color="#333333", linestyle="--", linewidth=1.2, zorder=3)
    axes.text(len(names) - 0.45, mean, f" m{key}\n {mean:.1%}", ha="left", va="center", fontsize=10, clip_on=False)
    axes.set_xlim(-0.6, len(names) - 0.45)
    axes.set_xticks(range(len(names)), [f"{name} *" if name in (minority or []) else name for name in names])
    axes.set_ylim(0, 1.08)
    axes.set_yticks(np.linspace(0, 1, 6))
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.grid(axis="y", color="#dddddd", linewidth=0.8, zorder=0)
    axes.tick_params(axis="x", length=0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_ylabel(key)
    if minority:
        axes.set_xlabel("* minority class", fontsize=9, loc="right")
    axes.set_title(title, fontsize=11, loc="left")
    return figure
