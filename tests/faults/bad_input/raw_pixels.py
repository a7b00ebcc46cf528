"""Raw pixels that are no numbers, mean nothing or are all alike, and tiles in other systems of coordinates."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from tests.faults.bad_input import files
from tests.faults.bad_input.shared import (
    AUDIT,
    IMAGE,
    IMAGES,
    MASK,
    SIDE,
    SPLITTING,
    Case,
    at,
    each,
    handled,
    kept,
    raw_refusals,
    split_tiles,
)

FIRST_ROWS, FIRST_COLUMNS = np.arange(SIDE)[:, None] < 5, np.arange(SIDE) < 3


def as_float(change: Callable[[np.ndarray], object] = lambda pixels: None) -> files.Spoil:
    """Makes all raw images float32 reflectances; ``change`` spoils the pixels of each in place."""

    def reflectance(pixels: np.ndarray) -> np.ndarray:
        pixels = pixels.astype(np.float32) / 500
        change(pixels)
        return pixels

    return at(IMAGES, each(files.repaint(reflectance)))


def with_value(value: float, where: np.ndarray) -> files.Spoil:
    """Makes all raw images float32 reflectances, but some pixels of one tile ``value``."""

    def spoil(root: Path) -> None:
        as_float()(root)
        files.repaint(lambda pixels: np.where(where, np.float32(value), pixels))(root / IMAGE)

    return spoil


def first_rows_are_void(root: Path, _) -> str | None:
    """Checks that only these pixels of the tile became Background, and that other tiles were scaled as always."""
    expected = np.where(FIRST_ROWS, 0, files.read_ids(root / MASK))
    tiles = split_tiles(root)
    if not np.array_equal(tiles["tile_1_1"].read_mask(), expected):
        return "the mask is not Background in those pixels alone"
    spread = np.mean([np.ptp(tile.read_image()) for tile in tiles.values()])
    return None if spread > 150 else f"images span {spread:.0f} levels on average"


def flat(root: Path, _) -> str | None:
    worst = max(int(np.ptp(tile.read_image()[1])) for tile in split_tiles(root).values())
    return None if worst <= 8 else f"a constant band spans {worst} levels in the split"


def constant_but_for_rounding(pixels: np.ndarray) -> None:
    pixels[1] = 0.3 + 1e-8 * np.random.default_rng(0).normal(size=(SIDE, SIDE))


CONSTANT = as_float(lambda pixels: pixels[1].fill(0.3))
NO_NUMBERS = (
    ("NaN pixels", np.nan),
    ("infinite pixels", -np.inf),
    ("huge values that nobody declared as nodata", -3.4028235e38),
)
REFUSED = [
    ("metres called degrees", at(IMAGE, files.repaint(crs="EPSG:4326")), "tile_1_1.tif", "EPSG:4326"),
    (
        "-9999 that nobody declared as nodata",
        with_value(-9999, FIRST_COLUMNS),
        "tile_1_1.tif",
        "-9999",
        "rio edit-info",
    ),
]
SAME = as_float(lambda pixels: pixels.fill(7))
CASES = [
    *raw_refusals("", REFUSED),
    Case(
        "every image is the same",
        "raw",
        SAME,
        SPLITTING,
        ("15 repeat another image", "make 1 blocks", "add tiles"),
        first=((AUDIT, "--skip-suspicious"),),
    ),
    *(handled(name, with_value(value, FIRST_ROWS), holds=first_rows_are_void) for name, value in NO_NUMBERS),
    handled("a constant band", CONSTANT, "scaled to 8 bit", holds=flat),
    handled("a constant band but for rounding", as_float(constant_but_for_rounding), "scaled to 8 bit", holds=flat),
    handled("a constant band, each tile scaled by itself", CONSTANT, flags=("--stretch", "tile"), holds=flat),
    handled(
        "a tile in another system",
        at(IMAGE, files.repaint(crs="EPSG:32601")),
        "warning: tiles are in 2 coordinate systems, 15 in EPSG:32633, 1 in EPSG:32601 (tile_1_1)",
        "rio edit-info --crs",
        holds=kept("tile_1_1"),
    ),
]
