"""Spatial blocks, and tiles that cover common ground."""

import functools

import numpy as np
from rasterio.crs import CRS
from rasterio.errors import CRSError
from rasterio.warp import transform_bounds

from common.errors import UserError
from common.rasters import METRES_PER_DEGREE

EDGE = 1e-6  # of a block side: rounding of coordinates moves no centre over a block's edge
WORLD = CRS.from_epsg(4326)
TOUCH = 0.01  # pixels: tiles that share less than this share an edge, not ground


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
    """A system from its WKT, None where it has no known relation to longitude and latitude."""
    try:
        system = CRS.from_wkt(crs)
    except CRSError:
        return None
    return system if system.is_geographic or system.is_projected else None


@functools.cache
def world_bounds(crs: str | None, bounds: tuple[float, ...]) -> tuple[float, ...] | None:
    """Bounds in longitude and latitude; None where the system is unknown, or a local one."""
    system = _to_world(crs) if crs else None
    if system is None:
        return None
    try:
        on_the_world = transform_bounds(system, WORLD, *bounds)
    except CRSError:
        return None
    return on_the_world if np.isfinite(on_the_world).all() else None


def _on_the_world(location: dict) -> dict:
    """A tile's place with its bounds in longitude and latitude, None where they cannot be known."""
    return {**location, "crs": WORLD.to_wkt(), "bounds": world_bounds(location["crs"], tuple(location["bounds"]))}


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


def _by_system(locations: list[dict]) -> dict[str, list[int]]:
    """Positions of the tiles that have a place by system; without a CRS the source stands for it."""
    members: dict[str, list[int]] = {}
    for i, p in enumerate(locations):
        if p["bounds"] is not None:
            members.setdefault(p["crs"] or f"unknown, {p.get('source')}", []).append(i)
    return members


def _meeting(locations: list[dict], first: list[int], others: list[dict], second: list[int]) -> list[tuple[int, int]]:
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
        pairs.extend((i, second[j]) for j in near[(shared > TOUCH * pixel[near]).all(axis=1)])
    return pairs


def overlapping(locations: list[dict], others: list[dict]) -> list[tuple[int, int]]:
    """(i, j) of each pair of tiles locations[i], others[j] that cover common ground; edges may touch.

    Tiles of two systems are compared by their bounding boxes in longitude and latitude, which are a little larger
    than the tiles. Tiles with a place but without a CRS are compared where their source is the same; see
    ``not_comparable`` for the rest.

    Args:
        locations, others: crs, bounds, height and width of each tile, source where known; bounds None where unknown.
    """
    pairs = []
    first, second = _by_system(locations), _by_system(others)
    for system in sorted(first.keys() & second.keys()):
        pairs += _meeting(locations, first[system], others, second[system])
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
                met = _meeting(near[0], list(range(len(first_near))), near[1], list(range(len(second_near))))
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
