"""Figures without pyplot: class colours, class legends, and files that appear complete or not at all."""

import io
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.patches import Patch

from common.files import write_files
from common.taxonomy import Taxonomy


def new_figure(width: float, height: float) -> Figure:
    """A figure of so many inches whose parts do not overlap."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def color_mask(mask: np.ndarray, taxonomy: Taxonomy) -> np.ndarray:
    """(H, W) uint8 class ids → (H, W, 3) uint8 in the colours of the taxonomy."""
    return taxonomy.rgb()[mask]


def class_legend(figure_or_axes: Figure | Axes, taxonomy: Taxonomy, *, void: bool = True, **kwargs: Any) -> Legend:
    """Add a legend of the class colours to a figure or to axes, with or without void; returns it."""
    names, colors = (taxonomy.classes, taxonomy.colors) if void else (taxonomy.foreground, taxonomy.colors[1:])
    patches = [
        Patch(facecolor=color, edgecolor="#444444", linewidth=0.5, label=name)
        for name, color in zip(names, colors, strict=True)
    ]
    if isinstance(figure_or_axes, Figure):
        kwargs = {"loc": "outside lower center", "ncols": min(len(patches), 9), "frameon": False, **kwargs}
    return figure_or_axes.legend(handles=patches, **kwargs)


def png_bytes(figure: Figure, dpi: int = 150) -> bytes:
    """A figure as a PNG file's content."""
    content = io.BytesIO()
    figure.savefig(content, dpi=dpi, format="png", facecolor="white")
    return content.getvalue()


def save_figure(figure: Figure, path: Path, dpi: int = 150) -> None:
    """Write a figure as PNG, so that a reader never sees half of it."""
    write_files({path: png_bytes(figure, dpi)})
