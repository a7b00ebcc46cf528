"""Raw tiles that show the same area: copies, flipped, turned or brightened ones, windows that overlap."""

import functools
from collections import Counter, defaultdict
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import minimum_spanning_tree

from common.bands import three_bands
from common.cli import map_progress
from common.ground import SLIVER, overlapping
from common.raw_images import Ranges, Reading, percentile_ranges, read_raw
from common.text import some
from data_prep.raw.collection import UNITS_GAP, mixed_units
from data_prep.raw.inspect import Inspection
from data_prep.resemblance.pairs import confirm, likely_pairs
from data_prep.resemblance.pictures import thumbnail
from data_prep.resemblance.windows import anchors
from data_prep.tile_sets.groups import TileGroup
from data_prep.tile_sets.stratify import joined


class Picture(NamedTuple):
    """What an image in 8 bit is read from: a raw file, its bands, and the range that scales each."""

    path: Path
    reading: Reading
    ranges: tuple[tuple[float, ...], ...] | None


class Look(NamedTuple):
    """What is kept of an image to find others like it."""

    is_blank: bool
    anchors: np.ndarray
    thumbnail: np.ndarray | None


def ranges_by_unit(inspections: list[Inspection]) -> dict[str, Ranges | None]:
    """The range that scales each tile to 8 bit, None for one that needs none: one for all tiles that share a unit.

    Equal ground must look equal in all tiles, so that no tile may have a range of its own. ``kept`` of the inspections
    is what they come from.
    """
    tops = {i.tile.id: max(abs(high) for _, high in i.ranges) for i in inspections if i.needs_stretch and i.ranges}
    order = sorted(tops, key=lambda tile_id: tops[tile_id])
    values = np.array([max(tops[tile_id], np.finfo(float).tiny) for tile_id in order])
    ends = np.flatnonzero(values[1:] / values[:-1] > UNITS_GAP) + 1 if mixed_units(inspections) else []
    kept = {i.tile.id: i.kept for i in inspections if i.kept is not None}
    ranges: dict[str, Ranges | None] = {i.tile.id: None for i in inspections}
    for unit in np.split(np.array(order, object), ends):
        if len(unit):
            common = percentile_ranges(np.concatenate([kept[tile_id] for tile_id in unit], axis=1))
            ranges |= dict.fromkeys(unit, common)
    return ranges


def read_picture(picture: Picture) -> np.ndarray:
    """(3, H, W) uint8."""
    ranges = [list(of_band) for of_band in picture.ranges] if picture.ranges else None
    return three_bands(read_raw(picture.path, picture.reading).to_8bit(ranges))


def look(picture: Picture) -> Look:
    """What finds other images that show the same ground."""
    image = read_picture(picture)
    blank = bool((image == image[:, :1, :1]).all())
    return Look(blank, anchors(image), None if blank else thumbnail(image))


def next_pairs(pairs: np.ndarray, units: np.ndarray) -> np.ndarray:
    """(M,) int64 positions of the pairs to compare next: the fewest that would tie all units that any pair would tie.

    Args:
        pairs: (P, 2) int64 tiles, the likeliest first.
        units: (N,) int64 unit of each tile; a pair within one needs no comparing.
    """
    ends = np.sort(units[pairs], axis=1)
    between = np.flatnonzero(ends[:, 0] != ends[:, 1])
    ends, first = np.unique(ends[between], axis=0, return_index=True)
    size = len(units)
    forest = minimum_spanning_tree(coo_array((between[first] + 1.0, tuple(ends.T)), shape=(size, size)))
    return np.sort(forest.data.astype(np.int64)) - 1


def _tied_by_pixels(
    pictures: dict[int, Picture], looks: dict[int, Look], ids: list[str], known: list[tuple[int, int]], workers: int
) -> list[tuple[str, int, int]]:
    """(kind, tile, tile) of pairs that show the same area by their pixels; those that others tie are not compared."""
    numbers = np.array(list(looks), np.int64)
    likely = likely_pairs(
        [of_tile.anchors for of_tile in looks.values()],
        [of_tile.thumbnail for of_tile in looks.values()],
        np.ones(len(looks), bool),
        chained=True,
    )
    proposals = [p._replace(first=pictures[numbers[i]], second=pictures[numbers[j]]) for (i, j), p in likely.items()]
    pairs = numbers[np.array(list(likely), np.int64).reshape(-1, 2)]
    compare = functools.partial(confirm, read=read_picture)
    tied = []
    while True:
        units = joined(ids, known + [(i, j) for _, i, j in tied])
        chosen = next_pairs(pairs, units)
        if not len(chosen):
            return tied
        these = [proposals[n] for n in chosen]
        kinds = map_progress(compare, these, workers=workers, desc="Comparing tiles", unit="pair")
        tied += [(kind, int(i), int(j)) for (i, j), kind in zip(pairs[chosen], kinds, strict=True) if kind]
        rest = np.setdiff1d(np.arange(len(pairs)), chosen)
        pairs, proposals = pairs[rest], [proposals[n] for n in rest]


def find_groups(
    inspections: list[Inspection], reading: Reading, workers: int, *, by_place: bool = True
) -> list[TileGroup]:
    """The groups of tiles that show the same area, in order of their first tiles, those of a single tile as well.

    Reads every tile once more, and those that it compares again. Holds about 20 KB of each tile.

    Args:
        inspections: of usable tiles, in order, with ``kept``.
        reading: as ``read_raw`` takes them.
        workers: processes.
        by_place: whether tiles whose places overlap show the same area.
    """
    scaling = ranges_by_unit(inspections)
    first: dict[str, int] = {}
    pictures = {}
    for n, inspection in enumerate(inspections):
        if first.setdefault(inspection.content, n) == n:
            ranges = scaling[inspection.tile.id]
            scale = tuple(map(tuple, ranges)) if ranges else None
            pictures[n] = Picture(inspection.tile.image, reading, scale)
    found = map_progress(look, pictures.values(), workers=workers, desc="Looking for tiles of the same area")
    looks = dict(zip(pictures, found, strict=True))
    tied = [
        ("image content", first[inspection.content], n)
        for n, inspection in enumerate(inspections)
        if n not in looks and not looks[first[inspection.content]].is_blank
    ]
    footprints = [i.footprint for i in inspections]
    tied += [("ground", i, j) for i, j in overlapping(footprints, footprints, SLIVER) if i < j and by_place]
    ids = [i.tile.id for i in inspections]
    known = [(i, j) for _, i, j in tied]
    tied += _tied_by_pixels(pictures, looks, ids, known, workers)
    units = joined(ids, [(i, j) for _, i, j in tied])
    kinds: dict[int, set[str]] = defaultdict(set)
    for kind, i, _ in tied:
        kinds[units[i]].add(kind)
    members = defaultdict(list)
    for tile_id, unit in zip(ids, units, strict=True):
        members[unit].append(tile_id)
    return [TileGroup(tuple(of_unit), tuple(sorted(kinds[unit]))) for unit, of_unit in members.items()]


def describe_groups(groups: list[TileGroup]) -> str:
    """How many groups of more than one tile there are, and what ties them, in a sentence without its full stop."""
    tied = [group for group in groups if len(group.tiles) > 1]
    total = sum(len(group.tiles) for group in groups)
    if not tied:
        return f"no two of {total} tiles were found to show the same area"
    kinds = Counter(kind for group in tied for kind in group.tied_by)
    words = ", ".join(f"{kind} in {number}" for kind, number in kinds.most_common())
    largest = max(tied, key=lambda group: len(group.tiles))
    return (
        f"{sum(len(group.tiles) for group in tied)} of {total} tiles show the area of others, in {len(tied)} groups "
        f"(tied by {words}; the largest has {len(largest.tiles)}: {some(list(largest.tiles), 3)})"
    )
