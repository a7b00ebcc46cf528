"""Narrow strips that neighbouring tiles share, as rounded coordinates make them."""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import rasterio.warp
from rasterio.transform import Affine

from common.cli import Parser
from common.ground import SLIVER, TOUCH, one_name, overlapping
from common.taxonomy import IGNORE_INDEX

Outline = list[tuple[float, float]]  # corners in order, in map units


def add_overlaps(parser: Parser) -> None:
    """Add --overlaps, together or ignore."""
    parser.add_argument(
        "--overlaps",
        choices=["together", "ignore"],
        default="together",
        help="tiles whose places overlap stay together; ignore, for the audit and the split, takes them as if they did "
        "not, and all reports say so",
    )


def shared_strips(footprints: Sequence[dict]) -> list[tuple[int, int]]:
    """(i, j) of the pairs i < j of tiles that share a strip no wider than SLIVER pixels.

    ``footprints``: as ``overlapping`` takes them.
    """
    tiles = list(footprints)
    wide = set(overlapping(tiles, tiles, SLIVER))
    return [(i, j) for i, j in overlapping(tiles, tiles) if i < j and (i, j) not in wide]


def strips_to_cut(strips: Sequence[tuple[int, int]], chosen: np.ndarray) -> dict[int, list[int]]:
    """The tiles whose outlines are void in each tile: of a pair in two splits, in the earlier one, train before val.

    ``chosen``: (N,) number of the split of each tile.
    """
    cut: dict[int, list[int]] = defaultdict(list)
    for i, j in strips:
        if chosen[i] != chosen[j]:
            first, other = (i, j) if chosen[i] < chosen[j] else (j, i)
            cut[first].append(other)
    return dict(cut)


def outline_for(tile: dict, other: dict) -> Outline:
    """The corners of a tile, in the coordinate system of another one; both as ``overlapping`` takes them."""
    left, bottom, right, top = tile["bounds"]
    corners = tile.get("corners") or [(left, bottom), (right, bottom), (right, top), (left, top)]
    tile, other = one_name([tile, other])
    if tile["crs"] == other["crs"] or tile["crs"] is None or other["crs"] is None:
        return [(x, y) for x, y in corners]
    xs, ys = rasterio.warp.transform(tile["crs"], other["crs"], *zip(*corners, strict=True))[:2]
    return list(zip(xs, ys, strict=True))


def without_strips(mask: np.ndarray, grid: Affine, outlines: Sequence[Outline]) -> np.ndarray:
    """A (H, W) mask that is void where it lies in one of the outlines, also in part of a pixel."""
    void, back = np.zeros(mask.shape, bool), ~grid
    rows, columns = (np.arange(side) + 0.5 for side in mask.shape)
    for outline in outlines:
        corners = [(back.a * x + back.b * y + back.c, back.d * x + back.e * y + back.f) for x, y in outline]
        edges = list(zip(corners, [*corners[1:], corners[0]], strict=True))
        turn = np.sign(sum(x * next_y - next_x * y for (x, y), (next_x, next_y) in edges))
        inside = np.ones(mask.shape, bool)
        for (x, y), (next_x, next_y) in edges:
            across, down = turn * (y - next_y), turn * (next_x - x)  # the way into the outline
            reach = (0.5 - TOUCH) * (abs(across) + abs(down))  # from the centre of a pixel to its farthest corner
            inside &= across * (columns - x) + (down * (rows - y) + reach)[:, None] > 0
        void |= inside
    return np.where(void, mask.dtype.type(IGNORE_INDEX), mask)
