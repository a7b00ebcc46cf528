"""Spatial blocks, and tiles that cover common ground."""

import functools
from collections.abc import Iterable

import numpy as np
import shapely
from rasterio.crs import CRS
from rasterio.errors import CRSError
from rasterio.warp import transform, transform_bounds

from common.errors import UserError
from common.rasters import METRES_PER_DEGREE

EDGE = 1e-6  # of a block side: rounding of coordinates moves no centre over a block's edge
WORLD = CRS.from_epsg(4326)
TOUCH = 0.01  # pixels: tiles that share less than this share an edge, not ground
SLIVER = 2.0  # pixels: tiles that share a strip no wider are meant to touch; rounded coordinates made them overlap
ALIKE = 0.5  # metres by which two systems may put one point apart to be called one system


def block_side(locations: list[dict], metres: float | None) -> tuple[float, float]:
    """Width and height of a block in the units of the tiles' one CRS.

    Args:
        locations: crs, bounds, gsd, height and width of each tile.
        metres: side of a block; None takes two tile sides.
    """
    sides = np.array([[p["bounds"][2] - p["bounds"][0], p["bounds"][3] - p["bounds"][1]] for p in locations])
    if metres is None:
        return tuple(2 * np.median(np.abs(sides), axis=0))
    units_per_metre = [
        abs(side) / (p["width"] * p["gsd"]) for side, p in zip(sides[:, 0], locations, strict=True) if p["gsd"]
    ]
    if not units_per_metre:
        raise UserError(
            "--block-size is in metres, but the tiles' coordinate system does not say what its unit is. "
            "Leave --block-size out to use two tile sides."
        )
    pixel = float(np.median([p["gsd"] for p in locations if p["gsd"]]))
    if metres < pixel:
        raise UserError(
            f"--block-size {metres:g} is smaller than a pixel of {pixel:g} metres. Give at least a tile's side, or "
            "leave it out to use two."
        )
    x = metres * float(np.median(units_per_metre))
    crs = locations[0]["crs"]
    y = metres / METRES_PER_DEGREE if CRS.from_wkt(crs).is_geographic else x
    return x, y


@functools.cache
def _to_world(crs: str) -> CRS | None:
    """A system from its WKT, None if it has no known relation to longitude and latitude."""
    try:
        system = CRS.from_wkt(crs)
    except CRSError:
        return None
    return system if system.is_geographic or system.is_projected else None


@functools.cache
def world_bounds(crs: str | None, bounds: tuple[float, ...]) -> tuple[float, ...] | None:
    """Bounds in longitude and latitude; None if the system is unknown, or a local one."""
    system = _to_world(crs) if crs else None
    if system is None:
        return None
    try:
        on_the_world = transform_bounds(system, WORLD, *bounds)
    except CRSError:
        return None
    return on_the_world if np.isfinite(on_the_world).all() else None


def _on_the_world(location: dict) -> dict:
    """A tile's place with its bounds in longitude and latitude, None if they cannot be known."""
    bounds = world_bounds(location["crs"], tuple(location["bounds"]))
    return {**location, "crs": WORLD.to_wkt(), "bounds": bounds, "corners": None}


def _interleaved(by_crs: dict[str, list[int]], locations: list[dict]) -> set[str]:
    """The systems whose tiles cover the same part of the world as those of another system."""
    extents = {}
    for crs, members in by_crs.items():
        boxes = [box for i in members if (box := world_bounds(crs, tuple(locations[i]["bounds"]))) is not None]
        if len(boxes) == len(members):
            low, high = np.min(boxes, axis=0), np.max(boxes, axis=0)
            extents[crs] = (low[0], low[1], high[2], high[3])
    return {
        a
        for a, (left, bottom, right, top) in extents.items()
        for b, other in extents.items()
        if a != b and left < other[2] and other[0] < right and bottom < other[3] and other[1] < top
    }


def spatial_blocks(locations: list[dict], metres: float | None = None, prefix: str = "") -> list[str | None]:
    """The block of each tile: its centre's cell in a grid laid over all tiles of its CRS; None without a place.

    Tiles of several systems that cover the same region share one grid, in longitude and latitude.

    Args:
        locations: crs, bounds, gsd, height and width of each tile.
        metres: side of a block; None takes two tile sides.
        prefix: put before each name, so that blocks of different regions stay apart.
    """
    by_crs: dict[str, list[int]] = {}
    locations = one_name(locations)
    for i, location in enumerate(locations):
        if location["bounds"] is not None:
            by_crs.setdefault(location["crs"] or "", []).append(i)
    mixed = _interleaved(by_crs, locations) if len(by_crs) > 1 else set()
    if mixed:
        members = sorted(i for crs in mixed for i in by_crs.pop(crs))
        locations = list(locations)
        for i in members:
            locations[i] = _on_the_world(locations[i])
        by_crs[WORLD.to_wkt()] = sorted([*by_crs.get(WORLD.to_wkt(), []), *members])
    blocks: list[str | None] = [None] * len(locations)
    for number, crs in enumerate(sorted(by_crs)):
        members = by_crs[crs]
        side_x, side_y = block_side([locations[i] for i in members], metres)
        left, bottom, right, top = np.array([locations[i]["bounds"] for i in members]).T
        columns = np.floor(((left + right) / 2 - left.min()) / side_x + EDGE).astype(int)
        rows = np.floor((top.max() - (bottom + top) / 2) / side_y + EDGE).astype(int)
        system = f"crs{number}_" if len(by_crs) > 1 else ""
        for i, row, column in zip(members, rows, columns, strict=True):
            blocks[i] = f"{prefix}{system}r{row}_c{column}"
    return blocks


@functools.cache
def _is_alike(crs: str, other: str, x: float, y: float) -> bool:
    """Whether two systems agree but for their name, such as ETRS89 and WGS 84 in one zone, at a point of the first."""
    one, two = _to_world(crs), _to_world(other)
    if one is None or two is None or one.is_geographic != two.is_geographic:
        return False
    if one.is_projected and one.linear_units_factor[1] != two.linear_units_factor[1]:
        return False
    try:
        (there_x,), (there_y,) = transform(one, two, [x], [y])[:2]
    except CRSError:
        return False
    unit = METRES_PER_DEGREE if one.is_geographic else one.linear_units_factor[1]
    return max(abs(there_x - x), abs(there_y - y)) * unit < ALIKE


def one_name(locations: list[dict], names: Iterable[str] = ()) -> list[dict]:
    """The locations, with one name for systems that agree but for it: the first of ``names`` or of the locations."""
    known = list(dict.fromkeys(names))
    of = {name: name for name in known}
    renamed = []
    for location in locations:
        crs = location["crs"]
        if crs and location["bounds"] is not None:
            if crs not in of:
                left, bottom, right, top = location["bounds"]
                centre = (left + right) / 2, (bottom + top) / 2
                of[crs] = next((name for name in known if _is_alike(crs, name, *centre)), crs)
                known += [crs] if of[crs] == crs else []
            location = {**location, "crs": of[crs]} if of[crs] != crs else location
        renamed.append(location)
    return renamed


def _by_system(locations: list[dict]) -> dict[str, list[int]]:
    """Positions of the tiles that have a place by system; without a CRS the source stands for it."""
    members: dict[str, list[int]] = {}
    for i, p in enumerate(locations):
        if p["bounds"] is not None:
            members.setdefault(p["crs"] or f"unknown, {p.get('source')}", []).append(i)
    return members


def _outline(location: dict) -> shapely.Polygon:
    left, bottom, right, top = location["bounds"]
    return shapely.Polygon(location["corners"]) if location.get("corners") else shapely.box(left, bottom, right, top)


def _meeting(
    locations: list[dict], first: list[int], others: list[dict], second: list[int], touch: float
) -> list[tuple[int, int]]:
    """(i, j) of the tiles of ``first`` and ``second``, all in one system, that cover common ground."""
    boxes = np.array([others[j]["bounds"] for j in second])
    pixel = (boxes[:, 2:] - boxes[:, :2]) / [(others[j]["width"], others[j]["height"]) for j in second]
    order = np.argsort(boxes[:, 0], kind="stable")  # so that only those about as far to the east are compared
    lefts, widest = boxes[order, 0], (boxes[:, 2] - boxes[:, 0]).max()
    pairs = []
    for i in first:
        box = np.array(locations[i]["bounds"])
        start, end = np.searchsorted(lefts, (box[0] - widest, box[2]))
        near = np.sort(order[start:end])
        shared = np.minimum(box[2:], boxes[near, 2:]) - np.maximum(box[:2], boxes[near, :2])
        for j in near[(shared > touch * pixel[near]).all(axis=1)]:
            one, other = locations[i], others[second[j]]
            if one.get("corners") or other.get("corners"):  # the box of a rotated tile is larger than the tile
                margin = touch * float(pixel[j].max()) / 2
                if not _outline(one).buffer(-margin).intersects(_outline(other).buffer(-margin)):
                    continue
            pairs.append((i, second[j]))
    return pairs


def overlapping(locations: list[dict], others: list[dict], touch: float = TOUCH) -> list[tuple[int, int]]:
    """(i, j) of each pair of tiles locations[i], others[j] that cover common ground; edges may touch.

    Rotated tiles are compared by their corners, others by their bounds. Tiles of two systems are compared by their
    bounding boxes in longitude and latitude, which are a little larger than the tiles; systems that agree but for their
    name count as one. Tiles with a place but without a CRS are compared if their source is the same; see
    ``not_comparable`` for the rest.

    Args:
        locations, others: crs, bounds, height and width of each tile, source and corners if known; bounds None
            if unknown.
        touch: pixels that tiles may share in one direction and still be said to touch.
    """
    pairs = []
    locations = one_name(locations)
    others = one_name(others, (p["crs"] for p in locations if p["crs"]))
    first, second = _by_system(locations), _by_system(others)
    for system in sorted(first.keys() & second.keys()):
        pairs += _meeting(locations, first[system], others, second[system], touch)
    worlds = {}
    for a in sorted(first) if len(first.keys() | second.keys()) > 1 else ():
        for b in sorted(second.keys() - {a}):
            if _to_world(a) is None or _to_world(b) is None:
                continue
            for side, tiles, members in (("first", locations, first[a]), ("second", others, second[b])):
                for i in members:
                    if (side, i) not in worlds:
                        worlds[side, i] = _on_the_world(tiles[i])
            first_near = [i for i in first[a] if worlds["first", i]["bounds"]]
            second_near = [j for j in second[b] if worlds["second", j]["bounds"]]
            if first_near and second_near:
                near = [worlds["first", i] for i in first_near], [worlds["second", j] for j in second_near]
                numbers = list(range(len(first_near))), list(range(len(second_near)))
                met = _meeting(near[0], numbers[0], near[1], numbers[1], touch)
                pairs += [(first_near[i], second_near[j]) for i, j in met]
    return pairs


def not_comparable(locations: list[dict], others: list[dict]) -> int:
    """Number of pairs of tiles, both with a location, of which nobody can say whether they cover common ground."""
    first, second = _by_system(locations), _by_system(others)
    return sum(
        len(first[a]) * len(second[b])
        for a in first
        for b in second
        if a != b and (_to_world(a) is None or _to_world(b) is None)
    )
