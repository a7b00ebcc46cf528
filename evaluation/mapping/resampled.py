"""A raster at another ground sampling distance, computed as its rows are read."""

import math
from collections.abc import Sequence

import numpy as np
from rasterio.transform import Affine

from evaluation.mapping.raster import Place, Raster, Scaling


def taps(first: int, last: int, factor: float, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Which pixels make new pixels along one side, and with what weights.

    A triangle two new pixels wide if pixels get larger, two old ones if they get smaller, as Pillow's BILINEAR,
    with which tiles are resampled. What a new pixel is made of depends on its own number alone.

    Args:
        first, last: the first new pixel and the first beyond.
        factor: old pixels to a new one.
        length: of the old side, where the triangle is cut off.

    Returns:
        (N, T) int64 old pixels and (N, T) float64 weights, of which each row sums to 1.
    """
    reach = max(factor, 1.0)
    centre = (np.arange(first, last) + 0.5) * factor
    start = np.floor(centre - reach).astype(np.int64)
    pixels = start[:, None] + np.arange(math.ceil(2 * reach) + 1)
    weights = np.clip(1 - np.abs(pixels + 0.5 - centre[:, None]) / reach, 0, None)
    weights[(pixels < 0) | (pixels >= length)] = 0
    return pixels.clip(0, length - 1), weights / weights.sum(axis=1, keepdims=True)


class Resampled:
    """A raster whose pixels are ``gsd`` metres wide, and as much higher as those of the raster; its place is the same.

    A new pixel has data if the larger part of it has, and is the mean of that part.
    """

    def __init__(self, raster: Raster, gsd: float) -> None:
        self.raster = raster
        size = raster.pixel_size
        assert size is not None
        self.height, self.width = (max(1, round(side * size[0] / gsd)) for side in (raster.height, raster.width))
        self.factors = raster.height / self.height, raster.width / self.width
        down, right = self.factors
        grid = raster.place.transform
        scaled = Affine(grid.a * right, grid.b * down, grid.c, grid.d * right, grid.e * down, grid.f)
        self.place = Place(raster.place.crs, scaled)
        self.pixel_size = size[0] * right, size[1] * down

    @property
    def raw_pixels(self) -> int:
        """Pixels that are read to see all of it."""
        return self.raster.raw_pixels

    def read(self, top: int, bottom: int, scalings: Sequence[Scaling]) -> tuple[list[np.ndarray], np.ndarray]:
        """As ``Raster.read``."""
        rows, of_rows = taps(top, bottom, self.factors[0], self.raster.height)
        columns, of_columns = taps(0, self.width, self.factors[1], self.raster.width)
        first = int(rows.min())
        images, valid = self.raster.read(first, int(rows.max()) + 1, scalings)

        def shrink(plane: np.ndarray) -> np.ndarray:
            wide = np.zeros((len(plane), self.width))
            for tap in range(columns.shape[1]):
                wide += plane[:, columns[:, tap]] * of_columns[:, tap]
            high = np.zeros((bottom - top, self.width))
            for tap in range(rows.shape[1]):
                high += wide[rows[:, tap] - first] * of_rows[:, tap, None]
            return high

        shown = shrink(valid)
        data = shown > 0.5
        part = np.where(data, shown, 1.0)
        found = [
            np.stack([np.where(data, np.rint(shrink(band) / part), 0).astype(np.uint8) for band in image])
            for image in images
        ]
        return found, data
