"""The colours of a generated landscape, as a camera would see it."""

import math
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from data_prep.demo.landscape import SURFACE, Layout, spline_noise

# Reflectance in red, green, blue and near infrared. In the latter leaves are bright and water is black; what is mineral
# is a little brighter than in red. (near infrared - red) / (near infrared + red) is about 0.75 of lush leaves, 0.4 of
# dry ones, 0.25 of straw, 0.2 of soil, 0.15 of sand, under 0.1 of asphalt and roofs, and below 0 of water.
LUSH = np.array([0.060, 0.100, 0.038, 0.42], np.float32)
DRY = np.array([0.119, 0.127, 0.056, 0.29], np.float32)
SOIL = np.array([0.106, 0.103, 0.044, 0.16], np.float32)
STRAW = np.array([0.140, 0.140, 0.061, 0.235], np.float32)
LEAF = np.array([0.060, 0.098, 0.036, 0.40], np.float32)
CANOPY = np.array([0.057, 0.089, 0.035, 0.40], np.float32)
SHRUB = np.array([0.056, 0.084, 0.034, 0.33], np.float32)
WATER = np.array([0.036, 0.055, 0.036, 0.02], np.float32)
SAND = np.array([0.142, 0.140, 0.064, 0.19], np.float32)
PAVED = np.array([0.114, 0.118, 0.055, 0.135], np.float32)
ASPHALT = np.array([0.097, 0.105, 0.049, 0.11], np.float32)
ROOFS = np.array(
    [
        [0.142, 0.094, 0.042, 0.17],
        [0.120, 0.092, 0.041, 0.14],
        [0.080, 0.090, 0.046, 0.09],
        [0.138, 0.141, 0.065, 0.155],
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


def crowns(
    rng: np.random.Generator, mask: np.ndarray, spacing: float, keep: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """Round crowns on a jittered grid, evaluated at the pixels of ``mask`` only, in the order of np.flatnonzero.

    Args:
        mask: (H, W) bool.
        spacing: pixels between crowns.
        keep: share of the grid points that have a crown.

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


def cast_shadow(height: np.ndarray, sun: float, slope: float) -> np.ndarray:
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


def mix(first: np.ndarray, second: np.ndarray, share: np.ndarray) -> np.ndarray:
    """(4,) and (4,) reflectances, (N,) shares of the second → (4, N) float32."""
    return first[:, None] + (second - first)[:, None] * share[None, :].astype(np.float32)


def paint(rng: np.random.Generator, layout: Layout, look: Look) -> np.ndarray:
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

    def pixels(*names: str) -> np.ndarray:
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
