"""How much of a set of tiles each class covers, and in how many tiles it is; as numbers and as bars."""

import numpy as np
from matplotlib.axes import Axes

from common.taxonomy import IGNORE_INDEX, Taxonomy
from common.text import percent

EDGE = {"edgecolor": "#444444", "linewidth": 0.5}
HALO = {"facecolor": "white", "edgecolor": "none", "pad": 1}


def class_shares(pixels: np.ndarray, taxonomy: Taxonomy) -> dict[str, dict[str, int | float]]:
    """Pixels, share of labelled pixels, tiles and tile presence of each class but void.

    ``pixels``: (N, C) int64 pixels of each class in each tile, void first.
    """
    total = pixels.sum(axis=0)
    labelled = max(int(total[1:].sum()), 1)
    tiles = (pixels > 0).sum(axis=0)
    return {
        name: {
            "pixels": int(total[k]),
            "share": float(total[k] / labelled),
            "tiles": int(tiles[k]),
            "tile_presence": float(tiles[k] / max(len(pixels), 1)),
        }
        for k, name in enumerate(taxonomy.classes)
        if k != IGNORE_INDEX
    }


def share_rows(shares: dict[str, dict[str, int | float]], tile_count: int) -> list[list[str]]:
    """Of each class of ``class_shares`` its name, pixels, share and number of tiles, for a table."""
    return [[n, f"{c['pixels']:,}", f"{c['share']:.2%}", f"{c['tiles']} of {tile_count}"] for n, c in shares.items()]


def percentages(pixels: np.ndarray, digits: int = 1) -> list[str]:
    """The share of each class but void among the labelled of (C,) pixels, for a table."""
    return [percent(share, digits) for share in pixels[1:] / max(pixels[1:].sum(), 1)]


def plot_class_bars(
    axes: Axes, names: list[str], values: list[float], taxonomy: Taxonomy, label: str, *, start: float = 0.0
) -> None:
    """Draw a bar in the colour of each class but void, with its value at its end.

    Args:
        names: beside the bars, in the order of the taxonomy.
        values: one a class, in percent.
        label: of the axis, on which the bars begin at ``start``.
    """
    lengths = [max(value - start, 0) for value in values]
    bars = axes.barh(names, lengths, left=start, color=taxonomy.colors[1:], **EDGE)
    texts = [f"{value:.2g}" if value < 1 else f"{value:.1f}" for value in values]
    axes.bar_label(bars, texts, padding=3, fontsize=9, bbox=HALO)
    axes.set_xlabel(label)
    axes.spines[["top", "right"]].set_visible(False)
