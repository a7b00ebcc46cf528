"""Narrow strips that neighbouring tiles share, as rounded coordinates make them."""

import math
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from rasterio.transform import Affine

from common.cli import Parser
from common.ground import SLIVER, overlapping
from common.taxonomy import IGNORE_INDEX

Bounds = list[float]


def add_overlaps(parser: Parser) -> None:
    """Add --overlaps, together or ignore."""
    parser.add_argument(
        "--overlaps",
        choices=["together", "ignore"],
        default="together",
        help="tiles whose places overlap stay together; ignore, for the audit and the split, takes them as if they did "
        "not, and all reports say so",
    )


def shared_strips(footprints: Sequence[dict]) -> list[tuple[int, int, Bounds]]:
    """(i, j, bounds of what they share) of the pairs i < j of tiles that share a strip no wider than SLIVER pixels.

    ``footprints``: as ``overlapping`` takes them.
    """
    tiles = list(footprints)
    wide = set(overlapping(tiles, tiles, SLIVER))
    strips = []
    for i, j in overlapping(tiles, tiles):
        if i < j and (i, j) not in wide:
            one, other = tiles[i]["bounds"], tiles[j]["bounds"]
            strips.append((i, j, [*map(max, one[:2], other[:2]), *map(min, one[2:], other[2:])]))
    return strips


def strips_to_cut(strips: Sequence[tuple[int, int, Bounds]], chosen: np.ndarray) -> dict[int, list[Bounds]]:
    """Which strips are void in which tile: of a pair in two splits, in that of the earlier one, train before val.

    ``chosen``: (N,) number of the split of each tile.
    """
    cut: dict[int, list[Bounds]] = defaultdict(list)
    for i, j, bounds in strips:
        if chosen[i] != chosen[j]:
            cut[i if chosen[i] < chosen[j] else j].append(bounds)
    return dict(cut)


def without_strips(mask: np.ndarray, grid: Affine, strips: Sequence[Bounds]) -> np.ndarray:
    """A (H, W) mask that is void in strips given by their bounds; pixels that lie partly in them are void too."""
    mask, back = mask.copy(), ~grid
    for left, bottom, right, top in strips:
        corners = [(x, y) for x in (left, right) for y in (bottom, top)]
        columns = [back.a * x + back.b * y + back.c for x, y in corners]
        rows = [back.d * x + back.e * y + back.f for x, y in corners]
        inside = (
            slice(max(math.floor(min(rows)), 0), max(math.ceil(max(rows)), 0)),
            slice(max(math.floor(min(columns)), 0), max(math.ceil(max(columns)), 0)),
        )
        mask[inside] = IGNORE_INDEX
    return mask
