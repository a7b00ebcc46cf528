"""The layout of a generated landscape: parcels, roads, rivers, houses, trees."""

import functools
import math
from typing import NamedTuple

import numpy as np
from numpy.random import Generator
from PIL import Image, ImageDraw
from scipy import ndimage

from common.taxonomy import BIODIVERSITY, OPENEARTHMAP

Shape = tuple[int, int]  # height and width in pixels
# Each surface that is painted, with its class in either taxonomy.
SURFACES = {
    "meadow": ("Grassland", "Rangeland"),
    "rough": ("Seminatural", "Rangeland"),
    "wood": ("Forest", "Tree"),
    "hedge": ("Forest", "Tree"),
    "crop": ("Cropland", "Agriculture land"),
    "water": ("Background", "Water"),
    "bare": ("Background", "Bareland"),
    "garden": ("Settlement", "Rangeland"),
    "garden tree": ("Settlement", "Tree"),
    "yard": ("Settlement", "Developed space"),
    "road": ("Settlement", "Road"),
    "building": ("Settlement", "Building"),
}
SURFACE = {name: index for index, name in enumerate(SURFACES)}
TO_BIODIVERSITY = np.array([BIODIVERSITY.index(ours) for ours, _ in SURFACES.values()], np.uint8)
TO_OEM = np.array([OPENEARTHMAP.index(theirs) for _, theirs in SURFACES.values()], np.uint8)


class Plan(NamedTuple):
    """What a landscape holds: shares of all its pixels by surface group, and how it is settled."""

    settlement: float
    water: float
    bare: float
    crop: float
    forest: float
    rough: float
    villages: int = 3
    urban: bool = False


class Layout(NamedTuple):
    """A landscape before it is painted. All arrays are (H, W)."""

    surface: np.ndarray  # uint8 index in SURFACES
    u: np.ndarray  # float32 pixels along the fields, gently bent
    v: np.ndarray  # float32 pixels across them
    parcel: np.ndarray  # int32 parcel number
    dome: np.ndarray  # float32 0-1 crown shape of single trees
    roof: np.ndarray  # int32; 0 or 1 + 2 * house + which half of its roof
    house_angles: np.ndarray  # (N,) float32 direction of each ridge, radians


def spline_noise(rng: Generator, shape: Shape, scale: float) -> np.ndarray:
    """(H, W) float32 smooth noise, mean 0 and standard deviation near 1, with features ``scale`` pixels wide."""
    field = rng.standard_normal([math.ceil(side / scale) + 4 for side in shape], dtype=np.float32)
    for axis, side in enumerate(shape):
        position = np.arange(side, dtype=np.float32) / np.float32(scale) + np.float32(rng.random())
        whole = position.astype(np.intp)
        t = position - whole.astype(np.float32)
        # uniform cubic B-spline: smooth across the knots
        weights = ((1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3)
        along = (-1, 1) if axis == 0 else (1, -1)
        first, *others = (np.take(field, whole + k, axis) * (w / 6).reshape(along) for k, w in enumerate(weights))
        field = functools.reduce(np.add, others, first)
    return field * np.float32(2.1)  # 1 / mean spread of the basis over a cell


def curved_frame(rng: Generator, shape: Shape) -> tuple[np.ndarray, np.ndarray]:
    """Two (H, W) float32 coordinates in pixels, at right angles but turned and bent, along which fields lie."""
    angle = rng.uniform(0, math.pi)
    y, x = (axis.astype(np.float32) for axis in np.ogrid[: shape[0], : shape[1]])
    u = np.float32(math.cos(angle)) * x + np.float32(math.sin(angle)) * y
    v = np.float32(-math.sin(angle)) * x + np.float32(math.cos(angle)) * y
    u += np.float32(9) * spline_noise(rng, shape, 160)
    v += np.float32(9) * spline_noise(rng, shape, 160)
    return u, v


def split_parcels(
    rng: Generator, u: np.ndarray, v: np.ndarray, smallest: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cut the plane of u and v into rectangles until no side is above 2.3 times ``smallest``.

    Returns:
        (H, W) int32 parcel numbers; (H, W) float32 distance in pixels from the parcel's edge;
        (P,) bool, True where a parcel is longer along u.
    """
    low = math.floor(u.min()), math.floor(v.min())
    size = math.ceil(u.max()) - low[0] + 1, math.ceil(v.max()) - low[1] + 1
    done, open_ = [], [(0, 0, *size)]
    while open_:
        u0, v0, u1, v1 = open_.pop()
        sides = u1 - u0, v1 - v0
        axis = int(sides[1] > sides[0])
        if max(sides) <= 2.3 * smallest or (max(sides) <= 3.2 * smallest and rng.random() < 0.25):
            done.append((u0, v0, u1, v1))
            continue
        cut = (u0, v0)[axis] + round(sides[axis] * rng.uniform(0.36, 0.64))
        if axis == 0:
            open_ += [(u0, v0, cut, v1), (cut, v0, u1, v1)]
        else:
            open_ += [(u0, v0, u1, cut), (u0, cut, u1, v1)]
    chart = np.empty(size, np.int32)
    for number, (u0, v0, u1, v1) in enumerate(done):
        chart[u0:u1, v0:v1] = number
    fu, fv = u - np.float32(low[0]), v - np.float32(low[1])
    parcel = chart[fu.astype(np.intp), fv.astype(np.intp)]
    bounds = np.array(done, np.float32)
    edge = np.minimum(fu - bounds[parcel, 0], bounds[parcel, 2] - fu)
    edge = np.minimum(edge, np.minimum(fv - bounds[parcel, 1], bounds[parcel, 3] - fv))
    return parcel, edge, bounds[:, 2] - bounds[:, 0] > bounds[:, 3] - bounds[:, 1]


def take_highest(score: np.ndarray, available: np.ndarray, count: float) -> np.ndarray:
    """(H, W) bool: the ``count`` available pixels of highest score (all of them if there are fewer)."""
    chosen = np.zeros(score.shape, bool)
    positions = np.flatnonzero(available)
    count = min(int(count), positions.size)
    if count > 0:
        best = np.argpartition(-score.ravel()[positions], count - 1)[:count]
        chosen.ravel()[positions[best]] = True
    return chosen


def spread_points(rng: Generator, shape: Shape, block: int, count: int) -> np.ndarray:
    """(count, 2) float x, y, each in another block of ``block`` pixels as long as there are enough blocks."""
    rows, columns = (max(1, math.ceil(side / block)) for side in shape)
    order = np.concatenate([rng.permutation(rows * columns) for _ in range(math.ceil(count / (rows * columns)))])
    cells = np.stack([order[:count] % columns, order[:count] // columns], axis=1)
    points = (cells + rng.uniform(0.25, 0.75, cells.shape)) * block
    return np.minimum(points, np.array(shape[::-1]) - 1.0)


def smooth_path(points: np.ndarray) -> np.ndarray:
    """(N, 2) corner points x, y → (M, 2) points 4 pixels apart on a curve that rounds the corners (Chaikin)."""
    path = np.asarray(points, float)
    for _ in range(3):
        path = np.concatenate(
            [path[:1], np.stack([0.75 * path[:-1] + 0.25 * path[1:], 0.25 * path[:-1] + 0.75 * path[1:]], 1)
             .reshape(-1, 2), path[-1:]]
        )  # fmt: skip
    length = np.concatenate([[0], np.cumsum(np.hypot(*np.diff(path, axis=0).T))])
    at = np.arange(0, length[-1], 4.0)
    return np.stack([np.interp(at, length, path[:, axis]) for axis in (0, 1)], axis=1)


def rasterize_paths(shape: Shape, paths: list[np.ndarray], width: int) -> np.ndarray:
    """(H, W) bool: the pixels under the paths, each ``width`` pixels wide."""
    fine = 2  # drawn larger, as ImageDraw rounds to whole pixels
    canvas = Image.new("L", (shape[1] * fine, shape[0] * fine))
    pencil = ImageDraw.Draw(canvas)
    for path in paths:
        points = np.concatenate([path[:-1:3], path[-1:]]) * fine
        pencil.line([tuple(point) for point in points], fill=1, width=width * fine, joint="curve")
    return np.asarray(canvas)[::fine, ::fine].astype(bool)


def country_roads(rng: Generator, shape: Shape, villages: np.ndarray) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Roads from side to side through the villages, and in each village the stretches along which houses stand."""
    roads, streets = [], []
    groups = np.array_split(villages[np.argsort(villages[:, 1], kind="stable")], max(1, round(len(villages) / 4)))
    for group in groups:
        group = group[np.argsort(group[:, 0], kind="stable")]
        ends = [[-20.0, group[0, 1] + rng.normal(0, 40)], [shape[1] + 20.0, group[-1, 1] + rng.normal(0, 40)]]
        corners = np.concatenate([ends[:1], group, ends[1:]])
        between = (corners[:-1] + corners[1:]) / 2 + rng.normal(0, 14, (len(corners) - 1, 2))
        corners = np.insert(corners, np.arange(1, len(corners)), between, axis=0)
        road = smooth_path(corners)
        roads.append(road)
        for village in group:
            middle = int(np.argmin(np.hypot(*(road - village).T)))
            streets.append(road[max(0, middle - rng.integers(11, 20)) : middle + rng.integers(11, 20)])
            ahead = road[min(middle + 2, len(road) - 1)] - road[max(middle - 2, 0)]
            across = np.array([-ahead[1], ahead[0]]) / np.hypot(*ahead)
            turn = np.array([across[1], -across[0]]) * rng.uniform(-12, 12)
            start, stop = rng.uniform(-64, -10), rng.uniform(40, 70)
            ends_of_lane = road[middle] + across * start, road[middle] + across * stop + turn
            lane = smooth_path(np.array([ends_of_lane[0], road[middle], ends_of_lane[1]]))
            streets.append(lane)
    return roads, streets


def town_streets(rng: Generator, shape: Shape) -> list[np.ndarray]:
    """Two families of gently bent streets that cross, over the whole canvas."""
    angle = rng.uniform(0.1, 0.6)
    reach = 0.75 * math.hypot(*shape)
    centre = np.array(shape[::-1]) / 2
    streets = []
    for turn, spacing in ((0.0, 82), (math.pi / 2, 132)):
        along = np.array([math.cos(angle + turn), math.sin(angle + turn)])
        across = np.array([-along[1], along[0]])
        offset = -reach
        while offset < reach:
            bend = rng.normal(0, 5, 9)
            at = np.linspace(-reach, reach, 9)
            streets.append(smooth_path(centre + at[:, None] * along + (offset + bend)[:, None] * across))
            offset += spacing * rng.uniform(0.85, 1.2)
    return streets


def rectangle(centre: np.ndarray, along: np.ndarray, length: float, depth: float) -> np.ndarray:
    """(4, 2) corners x, y of a rectangle whose long side points along the unit vector ``along``."""
    across = np.array([-along[1], along[0]])
    return np.array(
        [centre + i * along * length / 2 + j * across * depth / 2 for i, j in ((-1, -1), (1, -1), (1, 1), (-1, 1))]
    )


def build_houses(
    rng: Generator, settled: np.ndarray, road: np.ndarray, streets: list[np.ndarray], *, urban: bool
) -> list[tuple[np.ndarray, np.ndarray, float, float]]:
    """Houses in rows along the streets, inside ``settled`` and off the ``road``, none touching another.

    Args:
        settled, road: (H, W) bool.
        streets: (N, 2) float paths x, y.

    Returns:
        centre x, y; unit vector along the ridge; length and depth in pixels, for each house.
    """
    height, width = settled.shape
    free = settled & ~road
    houses, centres, radii = [], np.empty((0, 2)), np.empty(0)
    inside = np.array([(i, j) for i in (-0.5, 0, 0.5) for j in (-0.5, 0, 0.5)])
    for street, row, side in [(street, row, side) for street in streets for row in range(2) for side in (-1, 1)]:
        at = rng.uniform(1, 5)
        while at < len(street) - 2:
            point, ahead = street[int(at)], street[int(at) + 1] - street[int(at)]
            ahead = ahead / np.hypot(*ahead)
            length, depth = (
                (rng.uniform(18, 40), rng.uniform(14, 20)) if urban else (rng.uniform(15, 24), rng.uniform(11, 15))
            )
            setback = 9 + depth / 2 + rng.uniform(0, 4) + row * rng.uniform(25, 30)
            centre = point + side * setback * np.array([-ahead[1], ahead[0]])
            turn = rng.normal(0, 0.05) + (math.pi / 2 if rng.random() < 0.2 and not urban else 0)
            direction = math.atan2(ahead[1], ahead[0]) + turn
            along = np.array([math.cos(direction), math.sin(direction)])
            across = np.array([-along[1], along[0]])
            x, y = (centre + np.outer(inside[:, 0] * length, along) + np.outer(inside[:, 1] * depth, across)).T
            radius = 0.5 * math.hypot(length, depth)
            at += 1
            if x.min() < 0 or y.min() < 0 or x.max() >= width or y.max() >= height:
                continue
            if not free[y.astype(int), x.astype(int)].all():
                continue
            if (np.hypot(*(centres - centre).T) < 0.88 * (radii + radius)).any():
                continue
            houses.append((centre, along, length, depth))
            centres, radii = np.vstack([centres, centre]), np.append(radii, radius)
            at += (length + rng.uniform(2, 10)) / 4 - 1
    return houses


def stamp_trees(
    dome: np.ndarray, surface: np.ndarray, centres: np.ndarray, radii: np.ndarray, onto: list[str], name: str
) -> None:
    """Write round crowns into ``dome`` and ``surface`` where the surface is one of ``onto``, in place."""
    height, width = dome.shape
    allowed = [SURFACE[other] for other in onto] + [SURFACE[name]]
    for (x, y), radius in zip(centres, radii, strict=True):
        top, left = max(0, int(y - radius)), max(0, int(x - radius))
        bottom, right = min(height, int(y + radius) + 2), min(width, int(x + radius) + 2)
        yy, xx = np.ogrid[top:bottom, left:right]
        crown = 1 - ((xx - x) ** 2 + (yy - y) ** 2) / radius**2
        window = slice(top, bottom), slice(left, right)
        stamp = (crown > 0) & np.isin(surface[window], allowed)
        surface[window][stamp] = SURFACE[name]
        dome[window][stamp] = np.maximum(dome[window], np.maximum(crown, 0.05))[stamp]


def lay_out(rng: Generator, shape: Shape, plan: Plan, block: int) -> Layout:
    """Decide what lies where. Shares of the plan are met to the pixel, except that houses replace gardens.

    Args:
        shape: H, W of the landscape in pixels.
        block: side in pixels of the blocks over which villages and arable land are spread.
    """
    area = shape[0] * shape[1]
    u, v = curved_frame(rng, shape)
    parcel, edge, long_u = split_parcels(rng, u, v, min(70, min(shape) / 6))
    surface = np.full(shape, SURFACE["meadow"], np.uint8)
    meadow = SURFACE["meadow"]

    roof = np.zeros(shape, np.int32)
    house_angles = np.zeros(0, np.float32)
    if plan.settlement > 0:
        house_angles = settle(rng, surface, roof, plan, block)

    broad = spline_noise(rng, shape, 130)
    detail = spline_noise(rng, shape, 22) + np.float32(0.6) * spline_noise(rng, shape, 8)
    built = (surface != meadow).astype(np.float32)
    near_houses = np.float32(20) * ndimage.uniform_filter(ndimage.uniform_filter(built, 31), 31)
    for name, share, sign in (("water", plan.water, 1), ("bare", plan.bare, -1)):
        score = sign * (broad + np.float32(0.10) * detail) - near_houses
        surface[take_highest(score, surface == meadow, share * area)] = SURFACE[name]

    hedged = rng.random(len(long_u)) < 0.5
    gaps = spline_noise(rng, shape, 30) + np.float32(0.5) * detail
    hedge = hedged[parcel] & (edge < 4.6 + 0.8 * detail) & (gaps > -0.5) & (surface == meadow)
    surface[take_highest(gaps, hedge, 0.35 * plan.forest * area)] = SURFACE["hedge"]

    surface[choose_fields(rng, surface == meadow, parcel, u, v, plan.crop * area, block)] = SURFACE["crop"]

    woods = spline_noise(rng, shape, 110) + np.float32(0.16) * detail
    missing = plan.forest * area - np.count_nonzero(surface == SURFACE["hedge"])
    surface[take_highest(woods, surface == meadow, missing)] = SURFACE["wood"]

    # half bound to parcels that were given up, half to wet or stony ground that knows no parcels
    given_up = rng.normal(0, 1, len(long_u)).astype(np.float32)[parcel]
    rough = spline_noise(rng, shape, 90) + np.float32(0.7) * given_up + np.float32(0.16) * detail
    surface[take_highest(rough, surface == meadow, plan.rough * area)] = SURFACE["rough"]

    dome = np.zeros(shape, np.float32)
    gardens = np.flatnonzero(surface == SURFACE["garden"])
    if gardens.size:
        at = rng.choice(gardens, max(1, gardens.size // 420))
        centres = np.stack([at % shape[1], at // shape[1]], 1).astype(float)
        stamp_trees(dome, surface, centres, rng.uniform(3.5, 7, len(at)), ["garden"], "garden tree")
    centres = rng.uniform(0, 1, (max(1, area // 60_000), 2)) * shape[::-1]
    stamp_trees(dome, surface, centres, rng.uniform(6, 9, len(centres)), ["meadow"], "wood")
    return Layout(surface, u, v, parcel, dome, roof, house_angles)


def settle(rng: Generator, surface: np.ndarray, roof: np.ndarray, plan: Plan, block: int) -> np.ndarray:
    """Write villages or a town with roads and houses into ``surface`` and ``roof``, in place.

    Returns:
        (N,) float32 direction of each house's ridge, radians.
    """
    shape, target = surface.shape, plan.settlement * surface.size
    if plan.urban:
        roads = streets = town_streets(rng, shape)
        town = take_highest(spline_noise(rng, shape, 150), np.ones(shape, bool), target)
        road = rasterize_paths(shape, roads, 12) & town
        settled = town & ~road
    else:
        count = max(plan.villages, round(target / 11_000))
        villages = spread_points(rng, shape, block, count)
        roads, streets = country_roads(rng, shape, villages)
        road = rasterize_paths(shape, roads, 9) | rasterize_paths(shape, streets, 7)
        centres = np.zeros(shape, bool)
        centres[villages[:, 1].astype(int), villages[:, 0].astype(int)] = True
        # along the streets, but close to the middle, so that houses find room
        score = np.float32(6) * spline_noise(rng, shape, 34)
        score -= ndimage.distance_transform_edt(~rasterize_paths(shape, streets, 1)).astype(np.float32)
        score -= np.float32(0.4) * ndimage.distance_transform_edt(~centres).astype(np.float32)
        settled = take_highest(score, ~road, target - np.count_nonzero(road))
    surface[settled] = SURFACE["garden"]
    houses = build_houses(rng, settled, road, streets, urban=plan.urban)

    yards = Image.new("L", shape[::-1])
    roofs = Image.new("I", shape[::-1])
    yard_pencil, roof_pencil = ImageDraw.Draw(yards), ImageDraw.Draw(roofs)
    for number, (centre, along, length, depth) in enumerate(houses):
        across = np.array([-along[1], along[0]])
        wide = (20, 26) if plan.urban else (rng.uniform(6, 12), rng.uniform(8, 18))
        shift = across * rng.uniform(-5, 5) + along * rng.uniform(-4, 4)
        corners = rectangle(centre + shift, along, length + wide[0], depth + wide[1])
        yard_pencil.polygon([tuple(corner) for corner in corners], fill=1)
        for half in (0, 1):
            corners = rectangle(centre + (half - 0.5) * across * depth / 2, along, length, depth / 2)
            roof_pencil.polygon([tuple(corner) for corner in corners], fill=1 + 2 * number + half)
    surface[settled & np.asarray(yards).astype(bool)] = SURFACE["yard"]
    surface[road] = SURFACE["road"]
    roof[:] = np.where(settled, np.asarray(roofs), 0)
    surface[roof > 0] = SURFACE["building"]
    return np.array([math.atan2(along[1], along[0]) for _, along, _, _ in houses], np.float32)


def choose_fields(
    rng: Generator, available: np.ndarray, parcel: np.ndarray, u: np.ndarray, v: np.ndarray, count: float, block: int
) -> np.ndarray:
    """(H, W) bool: whole parcels around three points in different blocks; the last one is cut to meet ``count``."""
    chosen = np.zeros(available.shape, bool)
    if count < 1:
        return chosen
    points = spread_points(rng, available.shape, block, 3)
    pixels = np.bincount(parcel.ravel())
    middles = np.stack(
        [np.bincount(parcel.ravel(), np.broadcast_to(axis, parcel.shape).ravel()) / np.maximum(pixels, 1)
         for axis in (np.arange(parcel.shape[1])[None, :], np.arange(parcel.shape[0])[:, None])], axis=1
    )  # fmt: skip
    distance = np.hypot(*(middles[None] - points[:, None]).transpose(2, 0, 1))
    distance[:, pixels == 0] = np.inf
    order = distance.argsort(axis=1, kind="stable").T.ravel()
    free = np.bincount(parcel.ravel(), available.ravel().astype(float), minlength=len(pixels))
    missing = int(count)
    for number in dict.fromkeys(order.tolist()):
        if missing <= 0:
            break
        field = available & (parcel == number)
        if free[number] > missing:
            field = take_highest(u if rng.random() < 0.5 else v, field, missing)
        chosen |= field
        missing -= int(np.count_nonzero(field))
    return chosen
