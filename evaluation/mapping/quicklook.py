"""A picture of a map beside its raster, to look at without a GIS."""

from pathlib import Path

import numpy as np

from common.bands import three_bands
from common.figures import class_legend, color_mask, new_figure, png_bytes
from common.rasters import open_raster
from common.taxonomy import Taxonomy
from evaluation.mapping.raster import Scaling
from evaluation.mapping.strips import Source

LARGEST_SIDE = 900  # pixels of a map that are drawn along its longer side
LARGEST_READ = 2**26  # pixels of a raster that is read once more to be drawn


def _thin(length: int, side: int) -> np.ndarray:
    """(side,) evenly spaced positions along a side of ``length`` pixels."""
    return ((np.arange(side) + 0.5) * length / side).astype(int)


def quicklook(out: Path, source: Source, scaling: Scaling, taxonomy: Taxonomy) -> bytes:
    """A PNG of a map, and of its raster if that is not too large to be read again.

    Args:
        out: the map.
        source: what it was made from.
        scaling: how that becomes 8-bit; of more than three bands the first three are drawn.
        taxonomy: of the map.
    """
    factor = max(1.0, max(source.height, source.width) / LARGEST_SIDE)
    height, width = (max(1, round(side / factor)) for side in (source.height, source.width))
    with open_raster(out) as src:
        classes = src.read(1, out_shape=(height, width))
    panels = [color_mask(classes, taxonomy)]
    if source.raw_pixels <= LARGEST_READ:
        rows, columns = _thin(source.height, height), _thin(source.width, width)
        image = np.zeros((height, width, 3), np.uint8)
        for number, row in enumerate(rows.tolist()):
            (line,), _ = source.read(row, row + 1, [scaling])
            image[number] = three_bands(line)[:, 0, columns].T
        panels.insert(0, image)
    figure = new_figure(5.5 * len(panels), min(5.5 * height / width, 12) + 0.6)
    grid = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, panel in zip(grid, panels, strict=True):
        axes.imshow(panel, interpolation="nearest")
        axes.set_axis_off()
    class_legend(figure, taxonomy)
    return png_bytes(figure)
