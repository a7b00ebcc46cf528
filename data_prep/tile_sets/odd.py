"""Tiles that look unlike the others once they are 8 bit, as where gaps or other units spoiled the scaling."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from common.bands import BandStatistics, to_picture
from common.figures import new_figure, save_figure
from common.rasters import read_image
from common.text import first_lines, warn

EVERY = 4  # rows and columns of which one is looked at
CUT_OFF = 0.5  # share of a tile's values that are 0 or 255, from which it is told
FAR = 6.0  # times the spread of the tiles' means, from which a tile is told
LEAST_SPREAD = 10.0  # grey values
FEWEST = 10  # tiles, under which none is called far from the others
SHOWN = 12


class Look(NamedTuple):
    """What an 8-bit image looks like, in some of its pixels.

    means, squares: (B,) mean and mean square of each band, of so many ``pixels``. cut_off: share of the values that are
    0 or 255.
    """

    means: np.ndarray
    squares: np.ndarray
    pixels: int
    cut_off: float
    constant: bool


class Odd(NamedTuple):
    """A tile that looks unlike the others, and why, in words."""

    tile_id: str
    image: Path
    reason: str


def look_at(image: np.ndarray, valid: np.ndarray) -> Look | None:
    """The look of a (B, H, W) uint8 image where it is (H, W) valid; None if it is nowhere."""
    thin = (slice(EVERY // 2, None, EVERY), slice(EVERY // 2, None, EVERY))
    if min(valid.shape) > EVERY:
        image, valid = image[:, *thin], valid[thin]
    values = image.reshape(len(image), -1) if valid.all() else image[:, valid]
    if not values.size:
        return None
    cut_off = float(((values == 0) | (values == 255)).mean())
    squares = (values.astype(np.float64) ** 2).mean(axis=1)
    return Look(values.mean(axis=1), squares, values.shape[1], cut_off, bool((values == values[:, :1]).all()))


def band_statistics(looks: Iterable[Look | None]) -> BandStatistics:
    """Mean and deviation of each band over the pixels that ``look_at`` sees of images, of which one has some."""
    seen = [look for look in looks if look is not None]
    means, squares, pixels = (np.array([look[n] for look in seen]) for n in range(3))
    return BandStatistics.over(means, squares, pixels)


def odd_tiles(tiles: Sequence[tuple[str, Path, Look | None]]) -> list[Odd]:
    """The tiles that are constant, cut off at 0 or 255, or far from the others in the mean of a band, the oddest first.

    Far is FAR times the spread of the means from their median; the spread is the median distance from it, scaled to a
    standard deviation, and LEAST_SPREAD at least.

    Args:
        tiles: id, image in 8 bit, and look of each.
    """
    looks = [look for _, _, look in tiles if look is not None]
    if not looks:
        return []
    means = np.stack([look.means for look in looks])
    middle = np.median(means, axis=0)
    spread = np.maximum(1.4826 * np.median(np.abs(means - middle), axis=0), LEAST_SPREAD)
    found = []
    for tile_id, path, look in tiles:
        if look is None:
            continue
        distance = np.abs(look.means - middle) / spread
        band = int(distance.argmax())
        reasons = []
        if look.constant:
            reasons.append("has one value throughout")
        elif look.cut_off > CUT_OFF:
            reasons.append(f"{look.cut_off:.0%} of its values are 0 or 255")
        if len(looks) >= FEWEST and distance[band] > FAR:
            reasons.append(f"mean of band {band + 1} is {look.means[band]:.0f}, of most tiles about {middle[band]:.0f}")
        if reasons:
            found.append((float(distance[band]), Odd(tile_id, path, "; ".join(reasons))))
    return [odd for _, odd in sorted(found, key=lambda one: -one[0])]


def contact_sheet(odd: Sequence[Odd]) -> Figure:
    """The first tiles of ``odd_tiles`` as they are in 8 bit, each with its name and why it is there."""
    shown = odd[:SHOWN]
    columns = min(6, len(shown))
    rows = -(-len(shown) // columns)
    figure = new_figure(2.4 * columns, 2.9 * rows)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for axes, one in zip(grid.flat[: len(shown)], shown, strict=True):
        axes.imshow(to_picture(read_image(one.image)))
        axes.set_title(f"{one.tile_id}\n{one.reason.replace('; ', chr(10))}", fontsize=6.5)
    return figure


def tell_odd(odd: list[Odd], sheet: Path) -> None:
    """Warn of tiles that look unlike the others, and draw them."""
    if not odd:
        sheet.unlink(missing_ok=True)
        return
    save_figure(contact_sheet(odd), sheet, dpi=80)
    names = first_lines([f"{one.tile_id}: {one.reason}" for one in odd])
    warn(f"{len(odd)} tiles look unlike the others in 8 bit (drawn in {sheet}):\n{names}")
