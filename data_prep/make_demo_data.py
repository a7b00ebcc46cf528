r"""Write a small generated data set in the layout of the real one, so that the whole pipeline can be tried.

Landscapes seen from the air at 0.5 m: fields, woods, hedges, rough grassland, hamlets with roads, lakes. Half of
it plays the Biodiversity tiles, half OpenEarthMap, with another season and contrast. Classes overlap in colour on
purpose; they differ in texture and context. The pixel shares follow those of the real data. One seed gives one
data set, whatever --workers is.

    python -m data_prep.make_demo_data --root demo
"""

import json
import math
import os
import shutil
from pathlib import Path
from typing import NamedTuple

import numpy as np
import rasterio
from PIL import Image, ImageDraw
from rasterio import Affine
from rasterio.crs import CRS
from scipy import ndimage

from common.cli import Parser, UserError, map_progress, positive_int, run
from common.taxonomy import BIODIVERSITY, OEM_BUILT_UP, OPENEARTHMAP

BIODIVERSITY_RAW = "biodiversity_raw"
OEM_RAW = "openearthmap_raw"
OEM_TREE = f"{OEM_RAW}/OpenEarthMap/OpenEarthMap_wo_xBD"
MARKER = "demo_data.json"
STAGING = ".demo_data.partial"

EPSG = 32633
PIXEL_M = 0.5
SCENE_DISTANCE_M = 10_000
SCENE_ORIGIN = (400_000.0, 5_600_000.0)
OEM_ORIGIN = (400_000.0, 5_100_000.0)
SMALLEST_TILE = 32
SMALLEST_SCENE = 128
LARGEST_SCENE = 8192  # pixels; a scene is made in memory
MOST = 1000  # scenes, and OpenEarthMap tiles of a region
STRETCH_PERCENTILES = (2, 98)

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
SURFACE = {name: position for position, name in enumerate(SURFACES)}
TO_BIODIVERSITY = np.array([BIODIVERSITY.index(ours) for ours, _ in SURFACES.values()], np.uint8)
TO_OEM = np.array([OPENEARTHMAP.index(theirs) for _, theirs in SURFACES.values()], np.uint8)

# Shares of the labelled pixels of the real data; Grassland is the rest, 68 %.
TARGET_SHARES = {"Forest": 0.14, "Seminatural": 0.08, "Cropland": 0.06, "Settlement": 0.04}

# Reflectance in red, green, blue and near infrared.
LUSH = np.array([0.060, 0.100, 0.038, 0.42], np.float32)
DRY = np.array([0.119, 0.127, 0.056, 0.29], np.float32)
SOIL = np.array([0.106, 0.103, 0.044, 0.23], np.float32)
STRAW = np.array([0.140, 0.140, 0.061, 0.30], np.float32)
LEAF = np.array([0.060, 0.098, 0.036, 0.40], np.float32)
CANOPY = np.array([0.057, 0.089, 0.035, 0.40], np.float32)
SHRUB = np.array([0.056, 0.084, 0.034, 0.33], np.float32)
WATER = np.array([0.036, 0.055, 0.036, 0.02], np.float32)
SAND = np.array([0.142, 0.140, 0.064, 0.28], np.float32)
PAVED = np.array([0.114, 0.118, 0.055, 0.19], np.float32)
ASPHALT = np.array([0.097, 0.105, 0.049, 0.15], np.float32)
ROOFS = np.array(
    [
        [0.142, 0.094, 0.042, 0.24],
        [0.120, 0.092, 0.041, 0.20],
        [0.080, 0.090, 0.046, 0.14],
        [0.138, 0.141, 0.065, 0.25],
    ],
    np.float32,
)


class Look(NamedTuple):
    """How a scene appears: season, light and sensor."""

    dryness: float = 0.0  # added to the 0-1 dryness of all vegetation
    gain: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0)  # of red, green, blue, near infrared
    haze: float = 0.0  # reflectance added by the air
    sun: float = 2.3  # direction the light goes to, radians from east towards south
    sun_slope: float = 1.0  # tangent of the sun's elevation


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

    surface: np.ndarray  # uint8 position in SURFACES
    u: np.ndarray  # float32 pixels along the fields, gently bent
    v: np.ndarray  # float32 pixels across them
    parcel: np.ndarray  # int32 parcel number
    dome: np.ndarray  # float32 0-1 crown shape of single trees
    roof: np.ndarray  # int32; 0 or 1 + 2 * house + which half of its roof
    house_angles: np.ndarray  # (N,) float32 direction of each ridge, radians


class SceneTask(NamedTuple):
    """One Biodiversity scene; ``number`` counts from 0."""

    number: int
    seed: int
    plan: Plan
    tiles_per_side: int
    tile_size: int
    folder: Path


class RegionTask(NamedTuple):
    """One OpenEarthMap region; ``number`` counts from 0."""

    number: int
    seed: int
    tiles: int
    tile_size: int
    folder: Path


class Region(NamedTuple):
    plan: Plan
    look: Look
    contrast: float  # exponent on the stretched 0-1 values; below 1 brightens


OEM_REGIONS = {
    "aldermoor": Region(
        Plan(settlement=0.09, water=0.05, bare=0.03, crop=0.30, forest=0.20, rough=0.12),
        Look(dryness=0.30, gain=(1.12, 1.0, 0.92, 1.0), sun=0.7, sun_slope=0.75),
        0.95,
    ),
    "brackenfeld": Region(
        Plan(settlement=0.12, water=0.03, bare=0.04, crop=0.22, forest=0.30, rough=0.06),
        Look(dryness=0.05, gain=(0.92, 1.04, 1.10, 1.0), haze=0.015, sun=3.6),
        0.80,
    ),
    "cornholt": Region(
        Plan(settlement=0.08, water=0.02, bare=0.03, crop=0.50, forest=0.10, rough=0.05),
        Look(dryness=0.45, gain=(1.08, 1.02, 0.95, 0.9), sun=1.6, sun_slope=1.3),
        0.85,
    ),
    "dunmere": Region(
        Plan(settlement=0.10, water=0.12, bare=0.06, crop=0.12, forest=0.16, rough=0.20),
        Look(dryness=0.18, gain=(1.0, 0.97, 1.08, 1.1), sun=5.4, sun_slope=0.8),
        1.10,
    ),
    "eastport": Region(
        Plan(settlement=0.88, water=0.03, bare=0.03, crop=0.0, forest=0.03, rough=0.0, urban=True),
        Look(dryness=0.22, gain=(1.03, 1.0, 1.02, 1.0), haze=0.01, sun=2.0, sun_slope=0.9),
        0.90,
    ),
}


def spline_noise(rng, shape, scale) -> np.ndarray:
    """(H, W) float32 smooth noise, mean 0 and standard deviation near 1, with features ``scale`` pixels wide."""
    field = rng.standard_normal([math.ceil(side / scale) + 4 for side in shape], dtype=np.float32)
    for axis, side in enumerate(shape):
        position = np.arange(side, dtype=np.float32) / np.float32(scale) + np.float32(rng.random())
        whole = position.astype(np.intp)
        t = position - whole.astype(np.float32)
        # uniform cubic B-spline: smooth across the knots
        weights = ((1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3)
        along = (-1, 1) if axis == 0 else (1, -1)
        field = sum(np.take(field, whole + k, axis) * (w / 6).reshape(along) for k, w in enumerate(weights))
    return field * np.float32(2.1)  # 1 / mean spread of the basis over a cell


def curved_frame(rng, shape) -> tuple[np.ndarray, np.ndarray]:
    """Two (H, W) float32 coordinates in pixels, at right angles but turned and bent, along which fields lie."""
    angle = rng.uniform(0, math.pi)
    y, x = (axis.astype(np.float32) for axis in np.ogrid[: shape[0], : shape[1]])
    u = np.float32(math.cos(angle)) * x + np.float32(math.sin(angle)) * y
    v = np.float32(-math.sin(angle)) * x + np.float32(math.cos(angle)) * y
    u += np.float32(9) * spline_noise(rng, shape, 160)
    v += np.float32(9) * spline_noise(rng, shape, 160)
    return u, v


def split_parcels(rng, u, v, smallest) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
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


def take_highest(score, available, count) -> np.ndarray:
    """(H, W) bool: the ``count`` available pixels of highest score (all of them where there are fewer)."""
    chosen = np.zeros(score.shape, bool)
    positions = np.flatnonzero(available)
    count = min(int(count), positions.size)
    if count > 0:
        best = np.argpartition(-score.ravel()[positions], count - 1)[:count]
        chosen.ravel()[positions[best]] = True
    return chosen


def spread_points(rng, shape, block, count) -> np.ndarray:
    """(count, 2) float x, y, each in another block of ``block`` pixels as long as there are enough blocks."""
    rows, columns = (max(1, math.ceil(side / block)) for side in shape)
    order = np.concatenate([rng.permutation(rows * columns) for _ in range(math.ceil(count / (rows * columns)))])
    cells = np.stack([order[:count] % columns, order[:count] // columns], axis=1)
    points = (cells + rng.uniform(0.25, 0.75, cells.shape)) * block
    return np.minimum(points, np.array(shape[::-1]) - 1.0)


def smooth_path(points) -> np.ndarray:
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


def draw_paths(shape, paths, width) -> np.ndarray:
    """(H, W) bool: the pixels under the paths, each ``width`` pixels wide."""
    fine = 2  # drawn larger, as ImageDraw rounds to whole pixels
    canvas = Image.new("L", (shape[1] * fine, shape[0] * fine))
    draw = ImageDraw.Draw(canvas)
    for path in paths:
        points = np.concatenate([path[:-1:3], path[-1:]]) * fine
        draw.line([tuple(point) for point in points], fill=1, width=width * fine, joint="curve")
    return np.asarray(canvas)[::fine, ::fine].astype(bool)


def country_roads(rng, shape, villages) -> tuple[list[np.ndarray], list[np.ndarray]]:
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
            lane = smooth_path([road[middle] + across * start, road[middle], road[middle] + across * stop + turn])
            streets.append(lane)
    return roads, streets


def town_streets(rng, shape) -> list[np.ndarray]:
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


def rectangle(centre, along, length, depth) -> np.ndarray:
    """(4, 2) corners x, y of a rectangle whose long side points along the unit vector ``along``."""
    across = np.array([-along[1], along[0]])
    return np.array(
        [centre + i * along * length / 2 + j * across * depth / 2 for i, j in ((-1, -1), (1, -1), (1, 1), (-1, 1))]
    )


def place_houses(rng, settled, road, streets, *, urban) -> list[tuple[np.ndarray, np.ndarray, float, float]]:
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


def stamp_trees(dome, surface, centres, radii, onto, name) -> None:
    """Write round crowns into ``dome`` and ``surface`` where the surface is one of ``onto``, in place."""
    height, width = dome.shape
    allowed = [SURFACE[other] for other in onto] + [SURFACE[name]]
    for (x, y), radius in zip(centres, radii, strict=True):
        top, left = max(0, int(y - radius)), max(0, int(x - radius))
        bottom, right = min(height, int(y + radius) + 2), min(width, int(x + radius) + 2)
        yy, xx = np.ogrid[top:bottom, left:right]
        crown = 1 - ((xx - x) ** 2 + (yy - y) ** 2) / radius**2
        window = slice(top, bottom), slice(left, right)
        here = (crown > 0) & np.isin(surface[window], allowed)
        surface[window][here] = SURFACE[name]
        dome[window][here] = np.maximum(dome[window], np.maximum(crown, 0.05))[here]


def lay_out(rng, shape, plan: Plan, block: int) -> Layout:
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


def settle(rng, surface, roof, plan: Plan, block) -> np.ndarray:
    """Write villages or a town with roads and houses into ``surface`` and ``roof``, in place.

    Returns:
        (N,) float32 direction of each house's ridge, radians.
    """
    shape, target = surface.shape, plan.settlement * surface.size
    if plan.urban:
        roads = streets = town_streets(rng, shape)
        town = take_highest(spline_noise(rng, shape, 150), np.ones(shape, bool), target)
        road = draw_paths(shape, roads, 12) & town
        settled = town & ~road
    else:
        count = max(plan.villages, round(target / 11_000))
        villages = spread_points(rng, shape, block, count)
        roads, streets = country_roads(rng, shape, villages)
        road = draw_paths(shape, roads, 9) | draw_paths(shape, streets, 7)
        centres = np.zeros(shape, bool)
        centres[villages[:, 1].astype(int), villages[:, 0].astype(int)] = True
        # along the streets, but close to the middle, so that houses find room
        score = np.float32(6) * spline_noise(rng, shape, 34)
        score -= ndimage.distance_transform_edt(~draw_paths(shape, streets, 1)).astype(np.float32)
        score -= np.float32(0.4) * ndimage.distance_transform_edt(~centres).astype(np.float32)
        settled = take_highest(score, ~road, target - np.count_nonzero(road))
    surface[settled] = SURFACE["garden"]
    houses = place_houses(rng, settled, road, streets, urban=plan.urban)

    yards = Image.new("L", shape[::-1])
    roofs = Image.new("I", shape[::-1])
    draw_yard, draw_roof = ImageDraw.Draw(yards), ImageDraw.Draw(roofs)
    for number, (centre, along, length, depth) in enumerate(houses):
        across = np.array([-along[1], along[0]])
        wide = (20, 26) if plan.urban else (rng.uniform(6, 12), rng.uniform(8, 18))
        shift = across * rng.uniform(-5, 5) + along * rng.uniform(-4, 4)
        corners = rectangle(centre + shift, along, length + wide[0], depth + wide[1])
        draw_yard.polygon([tuple(corner) for corner in corners], fill=1)
        for half in (0, 1):
            corners = rectangle(centre + (half - 0.5) * across * depth / 2, along, length, depth / 2)
            draw_roof.polygon([tuple(corner) for corner in corners], fill=1 + 2 * number + half)
    surface[settled & np.asarray(yards).astype(bool)] = SURFACE["yard"]
    surface[road] = SURFACE["road"]
    roof[:] = np.where(settled, np.asarray(roofs), 0)
    surface[roof > 0] = SURFACE["building"]
    return np.array([math.atan2(along[1], along[0]) for _, along, _, _ in houses], np.float32)


def choose_fields(rng, available, parcel, u, v, count, block) -> np.ndarray:
    """(H, W) bool: whole parcels around three places in different blocks; the last one is cut to meet ``count``."""
    chosen = np.zeros(available.shape, bool)
    if count < 1:
        return chosen
    places = spread_points(rng, available.shape, block, 3)
    pixels = np.bincount(parcel.ravel())
    middles = np.stack(
        [np.bincount(parcel.ravel(), np.broadcast_to(axis, parcel.shape).ravel()) / np.maximum(pixels, 1)
         for axis in (np.arange(parcel.shape[1])[None, :], np.arange(parcel.shape[0])[:, None])], axis=1
    )  # fmt: skip
    distance = np.hypot(*(middles[None] - places[:, None]).transpose(2, 0, 1))
    distance[:, pixels == 0] = np.inf
    order = distance.argsort(axis=1, kind="stable").T.ravel()
    free = np.bincount(parcel.ravel(), available.ravel().astype(float), minlength=len(pixels))
    missing = int(count)
    for number in dict.fromkeys(order.tolist()):
        if missing <= 0:
            break
        here = available & (parcel == number)
        if free[number] > missing:
            here = take_highest(u if rng.random() < 0.5 else v, here, missing)
        chosen |= here
        missing -= int(np.count_nonzero(here))
    return chosen


def crowns(rng, mask, spacing, keep=1.0) -> tuple[np.ndarray, np.ndarray]:
    """Round crowns on a jittered grid, evaluated at the pixels of ``mask`` only, in the order of np.flatnonzero.

    Args:
        mask: (H, W) bool.
        spacing: pixels between crowns.
        keep: share of the grid places that have a crown.

    Returns:
        (N,) float32 dome, 1 at the top of a crown and 0 at its edge and outside; (N,) float32 tone -1 to 1 of the
        crown a pixel belongs to.
    """
    rows, columns = (math.ceil(side / spacing) + 2 for side in mask.shape)
    jitter = rng.uniform(0.05, 0.95, (2, rows, columns)).astype(np.float32)
    radius = rng.uniform(0.55, 0.95, (rows, columns)).astype(np.float32) * np.float32(spacing)
    radius[rng.random((rows, columns)) > keep] = 1e-3
    tones = rng.uniform(-1, 1, (rows, columns)).astype(np.float32)
    centre_y = (np.arange(rows, dtype=np.float32)[:, None] - 1 + jitter[0]) * np.float32(spacing)
    centre_x = (np.arange(columns, dtype=np.float32)[None, :] - 1 + jitter[1]) * np.float32(spacing)
    y, x = (axis.astype(np.float32) for axis in np.nonzero(mask))
    cell = (y // spacing + 1).astype(np.intp) * columns + (x // spacing + 1).astype(np.intp)
    dome, owner = np.zeros(len(y), np.float32), cell.copy()
    for down in (-1, 0, 1):
        for right in (-1, 0, 1):
            other = cell + down * columns + right
            np.minimum(other, rows * columns - 1, out=other)
            far = (y - centre_y.ravel()[other]) ** 2 + (x - centre_x.ravel()[other]) ** 2
            crown = 1 - far / radius.ravel()[other] ** 2
            higher = crown > dome
            dome[higher], owner[higher] = crown[higher], other[higher]
    return dome, tones.ravel()[owner]


def cast_shadow(height, sun, slope) -> np.ndarray:
    """(H, W) bool: pixels to which something nearer the sun takes the light.

    Args:
        height: (H, W) float32 in pixels.
        sun: direction the light goes to, radians from east towards south.
        slope: tangent of the sun's elevation.
    """
    shadow = np.zeros(height.shape, bool)
    rows, columns = height.shape
    for step in range(1, math.ceil(float(height.max()) / slope) + 1):
        down, right = round(step * math.sin(sun)), round(step * math.cos(sun))
        to = (slice(max(0, down), rows + min(0, down)), slice(max(0, right), columns + min(0, right)))
        source = (slice(max(0, -down), rows + min(0, -down)), slice(max(0, -right), columns + min(0, -right)))
        shadow[to] |= height[source] - np.float32(step * slope) > height[to]
    return shadow


def mix(first, second, share) -> np.ndarray:
    """(4,) and (4,) reflectances, (N,) shares of the second → (4, N) float32."""
    return first[:, None] + (second - first)[:, None] * share[None, :].astype(np.float32)


def paint(rng, layout: Layout, look: Look) -> np.ndarray:
    """(4, H, W) float32 reflectance of red, green, blue and near infrared of a landscape."""
    surface, shape = layout.surface, layout.surface.shape
    parcels = int(layout.parcel.max()) + 1
    flat, parcel = surface.ravel(), layout.parcel.ravel()
    bands = np.empty((4, surface.size), np.float32)
    height = np.zeros(surface.size, np.float32)
    grain = rng.standard_normal(shape, dtype=np.float32)
    tufts = ndimage.gaussian_filter(grain, 1.3, truncate=2.5)
    tufts /= tufts.std()
    fine = ndimage.gaussian_filter(grain, 0.6, truncate=2)
    fine = (fine / fine.std()).ravel()
    tufts = tufts.ravel()
    patches = spline_noise(rng, shape, 26).ravel()
    broad = spline_noise(rng, shape, 90).ravel()
    dryness = np.clip(rng.beta(1.6, 2.0, parcels), 0, 1).astype(np.float32)
    by_long_side = rng.random(parcels) < 0.5
    across = np.where(by_long_side[layout.parcel], layout.u, layout.v).ravel()

    def pixels(*names):
        return np.flatnonzero(np.isin(flat, [SURFACE[name] for name in names]))

    at = pixels("meadow")
    mown = (rng.random(parcels) < 0.3).astype(np.float32) * np.float32(0.06)
    stripes = np.sign(np.sin(across[at] * np.float32(2 * math.pi / 20))) * mown[parcel[at]]
    dry = dryness[parcel[at]] + look.dryness + 0.10 * broad[at] + 0.05 * patches[at] + stripes
    bands[:, at] = mix(LUSH, DRY, np.clip(dry, 0, 1.3)) * (1 + 0.035 * fine[at] + 0.02 * tufts[at])

    at = pixels("rough")
    dome, tone = crowns(rng, surface == SURFACE["rough"], 11, keep=0.2)
    dry = 0.46 + look.dryness + 0.12 * broad[at] + 0.17 * patches[at] + 0.14 * tufts[at]
    bands[:, at] = mix(LUSH, DRY, np.clip(dry, -0.1, 1.5)) * (1.04 + 0.13 * tufts[at] + 0.05 * fine[at])
    bush = dome > 0.2
    bands[:, at[bush]] = SHRUB[:, None] * (0.9 + 0.4 * dome[bush] + 0.15 * tone[bush] + 0.12 * tufts[at[bush]])
    height[at] = np.maximum(0.7 * np.maximum(tufts[at], 0), 4 * bush * dome)

    at = pixels("crop")
    kinds = rng.permutation(parcels) % 4  # ploughed, young, full, ripe
    ground = np.stack([SOIL, SOIL, LUSH * 0.9, 0.5 * (SOIL + STRAW)])
    plant = np.stack([SOIL * 0.72, LEAF, LEAF * 1.15, STRAW])
    period = rng.uniform(5.0, 7.5, parcels).astype(np.float32)
    kind = kinds[parcel[at]]
    phase = across[at] / period[parcel[at]]
    rows = 0.5 + 0.5 * np.sin(np.float32(2 * math.pi) * phase) + 0.16 * fine[at]
    stand = np.clip(rows * (1 + 0.15 * broad[at]) + 0.1 * patches[at], 0, 1.2)
    field = ground[kind].T + (plant - ground)[kind].T * stand
    season = np.clip(look.dryness, 0, 1) * (kind == 2)
    field += (STRAW[:, None] - field) * season
    wheels = (np.abs(np.abs((across[at] % 46) - 23) - 4) < 1.2) & (kind > 0)
    field[:, wheels] = 0.45 * field[:, wheels] + 0.55 * SOIL[:, None]
    bands[:, at] = field * (1 + 0.06 * fine[at] + 0.10 * (rows - 0.5))

    trees = np.isin(surface, [SURFACE["wood"], SURFACE["hedge"]])
    at = np.flatnonzero(trees)
    dome, tone = crowns(rng, trees, 12)
    single = layout.dome.ravel()[at]
    dome = np.where(single > 0, single, dome)
    stand = np.clip(0.25 * tone + 0.22 * broad[at] + look.dryness * 0.6, -0.5, 0.9)
    canopy = mix(CANOPY, 0.75 * (CANOPY + DRY * 0.6), np.maximum(stand, 0)) * (1 + 0.3 * np.minimum(stand, 0))
    bands[:, at] = canopy * (0.70 + 0.50 * dome + 0.10 * tone + 0.08 * tufts[at] + 0.05 * fine[at])
    height[at] = np.where(flat[at] == SURFACE["hedge"], 2.5 + 3 * dome, 5 + 8 * dome) + 0.3 * tufts[at]

    at = pixels("garden", "garden tree")
    lawn = 0.42 + look.dryness + 0.3 * patches[at] + 0.10 * tufts[at]
    bands[:, at] = mix(LUSH, DRY, np.clip(lawn, 0, 1.4)) * (1 + 0.05 * fine[at])
    dome = layout.dome.ravel()[at]
    crown = dome > 0
    bands[:, at[crown]] = CANOPY[:, None] * (0.62 + 0.62 * dome[crown] + 0.08 * tufts[at[crown]])
    height[at] = np.where(crown, 3 + 5 * dome, 0)

    for name, colour, uneven in (("water", WATER, 0.03), ("bare", SAND, 0.14), ("yard", PAVED, 0.10)):
        at = pixels(name)
        bands[:, at] = colour[:, None] * (1 + uneven * (patches[at] + 0.5 * tufts[at]) + 0.06 * broad[at])
    at = pixels("road")
    bands[:, at] = ASPHALT[:, None] * (1 + 0.05 * fine[at] + 0.08 * broad[at])

    at = pixels("building")
    half = (layout.roof.ravel()[at] - 1) % 2
    house = (layout.roof.ravel()[at] - 1) // 2
    colour = ROOFS[rng.integers(0, len(ROOFS), len(layout.house_angles))]
    colour = colour * rng.uniform(0.85, 1.15, (len(colour), 1)).astype(np.float32)
    facing = np.sin(look.sun - layout.house_angles)[house] * np.where(half == 0, 1, -1)
    bands[:, at] = colour[house].T * (1 + 0.28 * facing + 0.03 * fine[at])
    height[at] = rng.uniform(7, 11, len(colour)).astype(np.float32)[house]

    height = height.reshape(shape)
    bands = bands.reshape(4, *shape)
    lean = np.float32(math.sin(look.sun)) * np.gradient(height, axis=0)
    lean += np.float32(math.cos(look.sun)) * np.gradient(height, axis=1)
    # roofs are lit by the side they face; their walls would only add a seam
    lean[(surface == SURFACE["building"]) | (height == 0)] = 0
    light = 1 + np.float32(0.18) * np.clip(lean, -1.5, 1.5)
    light *= np.where(cast_shadow(height, look.sun, look.sun_slope), np.float32(0.55), np.float32(1))
    light *= 1 + np.float32(0.06) * spline_noise(rng, shape, 260)
    for band in range(4):
        bands[band] *= light * np.float32(look.gain[band])
        bands[band] = ndimage.gaussian_filter(bands[band], 0.6, truncate=2)
        bands[band] += np.float32(look.haze) + np.float32(0.0025) * rng.standard_normal(shape, dtype=np.float32)
    return np.clip(bands, 0, 1, out=bands)


def stretch(image, low, high, exponent=1.0) -> np.ndarray:
    """(B, H, W) float32 reflectance → (B, H, W) uint8: ``low`` to 0 and ``high`` to 255, one value a band."""
    low, high = (np.asarray(limit, np.float32)[:, None, None] for limit in (low, high))
    scaled = np.clip((image - low) / (high - low), 0, 1)
    if exponent != 1:
        scaled **= np.float32(exponent)
    return np.round(scaled * 255).astype(np.uint8)


def scene_plans(seed: int, scenes: int) -> list[Plan]:
    """A plan for each scene: uneven between scenes, TARGET_SHARES of the labelled pixels over all of them."""
    rng = np.random.default_rng([seed, 0])

    def uneven(lowest, highest):
        weights = rng.permutation(np.linspace(lowest, highest, scenes)) if scenes > 1 else np.ones(1)
        return weights / weights.mean()

    def in_some():
        some = math.ceil(scenes * 2 / 3)
        weights = np.concatenate([rng.uniform(0.75, 1.25, some), np.zeros(scenes - some)])
        return rng.permutation(weights / weights.mean())

    water, bare = 0.05 * uneven(0.0, 2.0), 0.006 * uneven(0.0, 2.0)
    labelled = 1 - water - bare
    shares = {
        "forest": uneven(0.55, 1.45) * TARGET_SHARES["Forest"],
        "rough": uneven(0.4, 1.6) * TARGET_SHARES["Seminatural"],
        "crop": in_some() * TARGET_SHARES["Cropland"],
        "settlement": in_some() * TARGET_SHARES["Settlement"],
    }
    return [
        Plan(
            water=float(water[i]),
            bare=float(bare[i]),
            **{name: float(share[i] * labelled.mean()) for name, share in shares.items()},
        )
        for i in range(scenes)
    ]


def unlabelled(rng, shape, share) -> np.ndarray:
    """(H, W) bool: ``share`` of the pixels, in patches and along the margin, as if nobody had mapped them."""
    y, x = np.ogrid[: shape[0], : shape[1]]
    margin = np.minimum(np.minimum(y, shape[0] - 1 - y), np.minimum(x, shape[1] - 1 - x)).astype(np.float32)
    score = spline_noise(rng, shape, 48) + np.float32(1.6) * np.exp(-margin / 8)
    return take_highest(score, np.ones(shape, bool), share * shape[0] * shape[1])


def write_geotiff(path: Path, array, left, top) -> None:
    """Write (B, H, W) as a compressed GeoTIFF whose upper left corner is at ``left``, ``top`` metres."""
    path.parent.mkdir(parents=True, exist_ok=True)
    bands, height, width = array.shape
    with rasterio.open(
        path, "w", driver="GTiff", dtype=array.dtype.name, count=bands, height=height, width=width,
        crs=CRS.from_epsg(EPSG), transform=Affine(PIXEL_M, 0, left, 0, -PIXEL_M, top),
        compress="deflate", predictor=3 if array.dtype.kind == "f" else 2, num_threads=1,
    ) as file:  # fmt: skip
        file.write(array)


def tile_windows(task: SceneTask):
    """Tile id, row and column slices, left and top in metres, is it kept as float32: for each tile of a scene."""
    rng = np.random.default_rng([task.seed, 2, task.number])
    count = task.tiles_per_side**2
    # a quarter over all scenes, also where a scene has few tiles
    floats = count * (task.number + 1) // 4 - count * task.number // 4
    as_float = np.isin(np.arange(count), rng.permutation(count)[:floats])
    for place in range(count):
        row, column = divmod(place, task.tiles_per_side)
        window = tuple(slice(at * task.tile_size, (at + 1) * task.tile_size) for at in (row, column))
        left = SCENE_ORIGIN[0] + task.number * SCENE_DISTANCE_M + window[1].start * PIXEL_M
        top = SCENE_ORIGIN[1] - window[0].start * PIXEL_M
        yield f"scene{task.number + 1:02d}_r{row}_c{column}", window, left, top, bool(as_float[place])


def make_scene(task: SceneTask) -> tuple[np.ndarray, np.ndarray]:
    """Generate a scene; write its masks and float32 tiles, and keep its reflectance for write_rgb_tiles.

    Returns:
        (3, N) float32 sample of its red, green and blue; (C,) int64 pixels of each Biodiversity class.
    """
    rng = np.random.default_rng([task.seed, 1, task.number])
    shape = (task.tile_size * task.tiles_per_side,) * 2
    look = Look(
        dryness=rng.uniform(-0.06, 0.10),
        gain=tuple(rng.uniform(0.95, 1.05, 4)),
        haze=rng.uniform(0, 0.004),
        sun=rng.uniform(0, 2 * math.pi),
        sun_slope=rng.uniform(0.85, 1.2),
    )
    layout = lay_out(rng, shape, task.plan, 2 * task.tile_size)
    mask = TO_BIODIVERSITY[layout.surface]
    mask[unlabelled(rng, shape, 0.025)] = BIODIVERSITY.index(BIODIVERSITY.void)
    image = paint(rng, layout, look)
    (task.folder / "masks").mkdir(parents=True, exist_ok=True)
    for tile_id, (rows, columns), left, top, as_float in tile_windows(task):
        Image.fromarray(mask[rows, columns]).save(task.folder / "masks" / f"{tile_id}.png")
        if as_float:
            write_geotiff(task.folder / "images" / f"{tile_id}.tif", image[:, rows, columns], left, top)
    np.save(_scene_file(task), image[:3])
    return image[:3, ::3, ::3].reshape(3, -1).copy(), np.bincount(mask.ravel(), minlength=BIODIVERSITY.num_classes)


def _scene_file(task: SceneTask) -> Path:
    return task.folder.parent / f"scene{task.number + 1:02d}.npy"


def write_rgb_tiles(job: tuple[SceneTask, np.ndarray, np.ndarray]) -> int:
    """Write the 8-bit tiles of a scene, given the range of each band over all scenes; return how many."""
    task, low, high = job
    image = np.load(_scene_file(task), mmap_mode="r")
    written = 0
    for tile_id, (rows, columns), left, top, as_float in tile_windows(task):
        if not as_float:
            tile = stretch(image[:, rows, columns], low, high)
            write_geotiff(task.folder / "images" / f"{tile_id}.tif", tile, left, top)
            written += 1
    _scene_file(task).unlink()
    return written


def make_region(task: RegionTask) -> dict[str, list[int] | list[float]]:
    """Generate and write an OpenEarthMap region, in which one tile lacks its image or its label.

    Returns:
        "pixels", of each OpenEarthMap class, and "built_up", the share of each label that is built up.
    """
    name, region = list(OEM_REGIONS.items())[task.number]
    rng = np.random.default_rng([task.seed, 3, task.number])
    columns = math.ceil(math.sqrt(task.tiles))
    shape = math.ceil(task.tiles / columns) * task.tile_size, columns * task.tile_size
    layout = lay_out(rng, shape, region.plan, task.tile_size)
    label = TO_OEM[layout.surface]
    label[unlabelled(rng, shape, 0.004)] = OPENEARTHMAP.index(OPENEARTHMAP.void)
    image = paint(rng, layout, region.look)[:3]
    low, high = np.percentile(image[:, ::3, ::3].reshape(3, -1), (0.5, 99.5), axis=1)
    image = stretch(image, low, high, region.contrast)
    lone = int(rng.integers(task.tiles)) if task.tiles > 1 else None
    pixels = np.zeros(OPENEARTHMAP.num_classes, np.int64)
    built = [OPENEARTHMAP.index(each) for each in OEM_BUILT_UP]
    shares = []
    for number in range(task.tiles):
        row, column = divmod(number, columns)
        window = tuple(slice(at * task.tile_size, (at + 1) * task.tile_size) for at in (row, column))
        left = OEM_ORIGIN[0] + task.number * SCENE_DISTANCE_M + window[1].start * PIXEL_M
        top = OEM_ORIGIN[1] - window[0].start * PIXEL_M
        file_name = f"{name}_{number + 1}.tif"
        if number != lone or task.number % 2 == 1:
            write_geotiff(task.folder / name / "images" / file_name, image[(slice(None), *window)], left, top)
        if number != lone or task.number % 2 == 0:
            write_geotiff(task.folder / name / "labels" / file_name, label[window][None], left, top)
            pixels += np.bincount(label[window].ravel(), minlength=len(pixels))
            shares.append(float(np.isin(label[window], built).mean()))
    return {"pixels": pixels.tolist(), "built_up": shares}


def list_files(folder: Path) -> dict[str, int]:
    """Path relative to the folder → size in bytes, of every file below it; side files of GIS viewers are left out."""
    return {
        path.relative_to(folder).as_posix(): path.stat().st_size
        for path in sorted(folder.rglob("*"))
        if not path.is_dir() and not path.name.endswith(".aux.xml")
    }


def check_replaceable(data: Path, overwrite: bool) -> None:
    """UserError unless the raw folders are absent, or hold only what an earlier run wrote and may be replaced."""
    present = [name for name in (BIODIVERSITY_RAW, OEM_RAW) if os.path.lexists(data / name)]
    if not present:
        return
    try:
        written = json.loads((data / MARKER).read_text(encoding="utf-8"))["files"]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        written = {}
    for name in present:
        folder = data / name
        elsewhere = "Choose another --root; --overwrite replaces generated folders only."
        if folder.is_symlink() or not folder.is_dir() or name not in written:
            raise UserError(f"{folder} exists and was not written by make_demo_data. {elsewhere}")
        foreign = [path for path, size in list_files(folder).items() if written[name].get(path) != size]
        if foreign:
            raise UserError(
                f"{folder} holds {len(foreign)} files that make_demo_data did not write "
                f"(first: {foreign[0]}). {elsewhere}"
            )
    if not overwrite:
        raise UserError(f"{data / present[0]} exists, from an earlier run. Replace it with --overwrite.")


def publish(staging: Path, data: Path) -> None:
    """Move the finished folders and their marker into place.

    At every moment the folders in place are those that the marker in place lists, so that an interrupted run can be
    repeated with --overwrite.
    """
    for name in (BIODIVERSITY_RAW, OEM_RAW):
        if (data / name).exists():
            (data / name).rename(staging / f"old_{name}")
    os.replace(staging / MARKER, data / MARKER)
    for name in (BIODIVERSITY_RAW, OEM_RAW):
        (staging / name).rename(data / name)


def labelled_shares(pixels, taxonomy) -> dict[str, float]:
    """Class name → share of the labelled pixels; the void class → share of all pixels."""
    pixels = np.asarray(pixels, float)
    shares = {taxonomy.void: pixels[0] / pixels.sum()}
    return shares | dict(zip(taxonomy.foreground, (pixels[1:] / max(pixels[1:].sum(), 1)).tolist(), strict=True))


def parse_args(argv=None):
    parser = Parser(__doc__)
    parser.add_seed()
    parser.add_argument("--scenes", type=positive_int, default=6, help="Biodiversity scenes, 10 km apart")
    parser.add_argument(
        "--tiles-per-side", type=positive_int, default=6, help="each scene is cut into this many tiles squared"
    )
    parser.add_argument("--tile-size", type=positive_int, default=128, help="side of a Biodiversity tile in pixels")
    parser.add_argument("--oem-tiles", type=positive_int, default=20, help="OpenEarthMap tiles in each of 5 regions")
    parser.add_argument(
        "--oem-tile-size", type=positive_int, default=192, help="side of an OpenEarthMap tile in pixels"
    )
    parser.add_workers()
    parser.add_overwrite()
    return parser.parse_args(argv)


def check_sizes(args) -> None:
    for flag, size in (("--tile-size", args.tile_size), ("--oem-tile-size", args.oem_tile_size)):
        if not SMALLEST_TILE <= size <= LARGEST_SCENE:
            raise UserError(f"{flag} {size}: expected {SMALLEST_TILE} to {LARGEST_SCENE} pixels")
    for flag, number in (("--scenes", args.scenes), ("--oem-tiles", args.oem_tiles)):
        if number > MOST:
            raise UserError(f"{flag} {number}: expected at most {MOST}")
    if args.tile_size * args.tiles_per_side > LARGEST_SCENE:
        raise UserError(
            f"--tiles-per-side {args.tiles_per_side} with --tile-size {args.tile_size} makes scenes of "
            f"{args.tile_size * args.tiles_per_side} pixels; expected at most {LARGEST_SCENE}"
        )
    if args.tile_size * args.tiles_per_side < SMALLEST_SCENE:
        raise UserError(
            f"--tiles-per-side {args.tiles_per_side} with --tile-size {args.tile_size} makes scenes of "
            f"{args.tile_size * args.tiles_per_side} pixels; expected at least {SMALLEST_SCENE}"
        )


def generate(args, staging: Path) -> dict:
    """Write both raw folders into ``staging`` and return what MARKER says about them."""
    scenes = [
        SceneTask(number, args.seed, plan, args.tiles_per_side, args.tile_size, staging / BIODIVERSITY_RAW)
        for number, plan in enumerate(scene_plans(args.seed, args.scenes))
    ]
    made = list(map_progress(make_scene, scenes, workers=args.workers, desc="Biodiversity scenes", unit="scene"))
    low, high = np.percentile(np.concatenate([sample for sample, _ in made], axis=1), STRETCH_PERCENTILES, axis=1)
    jobs = [(scene, low, high) for scene in scenes]
    rgb = sum(map_progress(write_rgb_tiles, jobs, workers=args.workers, desc="8-bit tiles", unit="scene"))
    regions = [
        RegionTask(number, args.seed, args.oem_tiles, args.oem_tile_size, staging / OEM_TREE)
        for number in range(len(OEM_REGIONS))
    ]
    oem = list(map_progress(make_region, regions, workers=args.workers, desc="OpenEarthMap regions", unit="region"))

    tiles = args.scenes * args.tiles_per_side**2
    files = {name: list_files(staging / name) for name in (BIODIVERSITY_RAW, OEM_RAW)}
    stems = {kind: {Path(path).stem for path in files[OEM_RAW] if f"/{kind}/" in path} for kind in ("images", "labels")}
    flags = ("seed", "scenes", "tiles_per_side", "tile_size", "oem_tiles", "oem_tile_size")
    return {
        "command": args.command,
        "flags": {flag: getattr(args, flag) for flag in flags},
        "biodiversity": {
            "tiles": tiles,
            "float32_four_band_tiles": tiles - rgb,
            "rgb_tiles": rgb,
            "stretch": {"low": low.tolist(), "high": high.tolist()},
            "shares": labelled_shares(sum(pixels for _, pixels in made), BIODIVERSITY),
        },
        "openearthmap": {
            "images": len(stems["images"]),
            "labels": len(stems["labels"]),
            "pairs": len(stems["images"] & stems["labels"]),
            "shares": labelled_shares(sum(np.array(region["pixels"]) for region in oem), OPENEARTHMAP),
            "regions": {
                name: {
                    "shares": labelled_shares(region["pixels"], OPENEARTHMAP),
                    "mostly_built_up_labels": sum(share > 0.5 for share in region["built_up"]),
                }
                for name, region in zip(OEM_REGIONS, oem, strict=True)
            },
        },
        "files": files,
    }


def _in_words(shares) -> str:
    return ", ".join(f"{name} {share:.1%}" for name, share in shares.items())


def summary(data: Path, content: dict) -> list[str]:
    """The lines that say in numbers what was written."""
    ours, theirs = content["biodiversity"], content["openearthmap"]
    lines = [
        f"{data / BIODIVERSITY_RAW}: {ours['tiles']} tiles of {content['flags']['tile_size']} px in "
        f"{content['flags']['scenes']} scenes, {ours['float32_four_band_tiles']} of them float32 with four bands",
        f"  {_in_words(ours['shares'])}",
        f"{data / OEM_TREE}: {theirs['images']} images and {theirs['labels']} labels of "
        f"{content['flags']['oem_tile_size']} px, {theirs['pairs']} pairs, in {len(theirs['regions'])} regions",
        f"  {_in_words(theirs['shares'])}",
    ]
    urban = [f"{n} {r['mostly_built_up_labels']}" for n, r in theirs["regions"].items() if r["mostly_built_up_labels"]]
    lines.append(f"  labels over 50 % built up: {', '.join(urban) or 'none'}")
    void = f"{BIODIVERSITY.void} and {OPENEARTHMAP.void}"
    lines.append(f"Shares are of the labelled pixels; {void} of all pixels. Details: {data / MARKER}")
    return lines


def main(argv=None):
    args = parse_args(argv)
    check_sizes(args)
    data = args.root / "data"
    check_replaceable(data, args.overwrite)
    staging = data / STAGING
    if staging.exists():
        shutil.rmtree(staging)
    staging.mkdir(parents=True)
    try:
        content = generate(args, staging)
        (staging / MARKER).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        publish(staging, data)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    print("\n".join(summary(data, content)))


if __name__ == "__main__":
    run(main)
