"""Scenes and regions of the demo data as GeoTIFF and PNG tiles."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import rasterio
from PIL import Image
from rasterio import Affine
from rasterio.crs import CRS

from common.taxonomy import BIODIVERSITY, OEM_BUILT_UP, OPENEARTHMAP
from data_prep.demo.landscape import TO_BIODIVERSITY, TO_OEM, Plan, lay_out, spline_noise, take_highest
from data_prep.demo.painting import Look, paint

EPSG = 32633
PIXEL_M = 0.5
SCENE_DISTANCE_M = 10_000
SCENE_ORIGIN = (400_000.0, 5_600_000.0)
OEM_ORIGIN = (400_000.0, 5_100_000.0)
STRETCH_PERCENTILES = (2, 98)

# Shares of the labelled pixels of the real data; Grassland is the rest, 68 %.
TARGET_SHARES = {"Forest": 0.14, "Seminatural": 0.08, "Cropland": 0.06, "Settlement": 0.04}


class SceneTask(NamedTuple):
    """One Biodiversity scene; ``number`` counts from 0. ``bands``: of its 8-bit tiles, 3 or 4 with near infrared."""

    number: int
    seed: int
    plan: Plan
    tiles_per_side: int
    tile_size: int
    folder: Path
    bands: int = 3


class RegionTask(NamedTuple):
    """One OpenEarthMap region; ``number`` counts from 0."""

    number: int
    seed: int
    tiles: int
    tile_size: int
    folder: Path


class Region(NamedTuple):
    """How an OpenEarthMap region is settled, and how it is seen."""

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


def stretch(image: np.ndarray, low: np.ndarray, high: np.ndarray, exponent: float = 1.0) -> np.ndarray:
    """(B, H, W) float32 reflectance → (B, H, W) uint8: ``low`` to 0 and ``high`` to 255, one value a band."""
    low, high = (np.asarray(limit, np.float32)[:, None, None] for limit in (low, high))
    scaled = np.clip((image - low) / (high - low), 0, 1)
    if exponent != 1:
        scaled **= np.float32(exponent)
    return np.round(scaled * 255).astype(np.uint8)


def scene_plans(seed: int, scenes: int) -> list[Plan]:
    """A plan for each scene: uneven between scenes, TARGET_SHARES of the labelled pixels over all of them."""
    rng = np.random.default_rng([seed, 0])

    def uneven(lowest: float, highest: float) -> np.ndarray:
        weights = rng.permutation(np.linspace(lowest, highest, scenes)) if scenes > 1 else np.ones(1)
        return weights / weights.mean()

    def in_some() -> np.ndarray:
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
            forest=float(shares["forest"][i] * labelled.mean()),
            rough=float(shares["rough"][i] * labelled.mean()),
            crop=float(shares["crop"][i] * labelled.mean()),
            settlement=float(shares["settlement"][i] * labelled.mean()),
        )
        for i in range(scenes)
    ]


def unlabelled(rng: np.random.Generator, shape: tuple[int, int], share: float) -> np.ndarray:
    """(H, W) bool: ``share`` of the pixels, in patches and along the margin, as if nobody had mapped them."""
    y, x = np.ogrid[: shape[0], : shape[1]]
    margin = np.minimum(np.minimum(y, shape[0] - 1 - y), np.minimum(x, shape[1] - 1 - x)).astype(np.float32)
    score = spline_noise(rng, shape, 48) + np.float32(1.6) * np.exp(-margin / 8)
    return take_highest(score, np.ones(shape, bool), share * shape[0] * shape[1])


def write_geotiff(path: Path, array: np.ndarray, left: float, top: float) -> None:
    """Write (B, H, W) as a compressed GeoTIFF whose upper left corner is at ``left``, ``top`` metres."""
    path.parent.mkdir(parents=True, exist_ok=True)
    bands, height, width = array.shape
    # without this GDAL calls the fourth band of 8 bit alpha
    declared = {"photometric": "RGB", "alpha": "no"} if array.dtype == np.uint8 and bands == 4 else {}
    with rasterio.open(
        path, "w", driver="GTiff", dtype=array.dtype.name, count=bands, height=height, width=width,
        crs=CRS.from_epsg(EPSG), transform=Affine(PIXEL_M, 0, left, 0, -PIXEL_M, top), **declared,
        compress="deflate", predictor=3 if array.dtype.kind == "f" else 2, num_threads=1,
    ) as file:  # fmt: skip
        file.write(array)


def ground_of(
    row: int, column: int, task: SceneTask | RegionTask, origin: tuple[float, float]
) -> tuple[tuple[slice, slice], float, float]:
    """Row and column slices of a tile in its scene or region, and its left and top in metres."""
    rows, columns = (slice(at * task.tile_size, (at + 1) * task.tile_size) for at in (row, column))
    left = origin[0] + task.number * SCENE_DISTANCE_M + columns.start * PIXEL_M
    return (rows, columns), left, origin[1] - rows.start * PIXEL_M


def tile_windows(task: SceneTask) -> Iterator[tuple[str, tuple[slice, slice], float, float, bool]]:
    """Tile id, row and column slices, left and top in metres, is it kept as float32: for each tile of a scene."""
    rng = np.random.default_rng([task.seed, 2, task.number])
    count = task.tiles_per_side**2
    # a quarter over all scenes, also where a scene has few tiles
    floats = count * (task.number + 1) // 4 - count * task.number // 4
    as_float = np.isin(np.arange(count), rng.permutation(count)[:floats])
    for number in range(count):
        row, column = divmod(number, task.tiles_per_side)
        window, left, top = ground_of(row, column, task, SCENE_ORIGIN)
        yield f"scene{task.number + 1:02d}_r{row}_c{column}", window, left, top, bool(as_float[number])


def picture(task: SceneTask) -> tuple[np.ndarray, np.ndarray]:
    """A scene: (4, H, W) float32 reflectance of red, green, blue and near infrared; (H, W) uint8 class ids."""
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
    return paint(rng, layout, look), mask


def make_scene(task: SceneTask) -> tuple[np.ndarray, np.ndarray]:
    """Generate a scene; write its masks and float32 tiles, and keep its reflectance for write_8bit_tiles.

    Returns:
        (B, N) float32 sample of the bands of its 8-bit tiles; (C,) int64 pixels of each Biodiversity class.
    """
    image, mask = picture(task)
    (task.folder / "masks").mkdir(parents=True, exist_ok=True)
    for tile_id, (rows, columns), left, top, as_float in tile_windows(task):
        Image.fromarray(mask[rows, columns]).save(task.folder / "masks" / f"{tile_id}.png")
        if as_float:
            write_geotiff(task.folder / "images" / f"{tile_id}.tif", image[:, rows, columns], left, top)
    image = image[: task.bands]
    np.save(_scene_file(task), image)
    sample = image[:, ::3, ::3].reshape(task.bands, -1).copy()
    return sample, np.bincount(mask.ravel(), minlength=BIODIVERSITY.num_classes)


def make_raster(task: SceneTask) -> np.ndarray:
    """Generate a scene that is not cut into tiles, to be mapped; write it as ``scene.tif``, and its classes beside it.

    Returns:
        (C,) int64 pixels of each Biodiversity class.
    """
    image, mask = picture(task)
    _, left, top = ground_of(0, 0, task, SCENE_ORIGIN)
    write_geotiff(task.folder / "scene.tif", image, left, top)
    write_geotiff(task.folder / "scene_classes.tif", mask[None], left, top)
    return np.bincount(mask.ravel(), minlength=BIODIVERSITY.num_classes)


def mean_plan(plans: Sequence[Plan]) -> Plan:
    """The mean of plans, for a scene with the shares of all."""

    def mean(share: str) -> float:
        return sum(getattr(plan, share) for plan in plans) / len(plans)

    return Plan(mean("settlement"), mean("water"), mean("bare"), mean("crop"), mean("forest"), mean("rough"))


def _scene_file(task: SceneTask) -> Path:
    return task.folder.parent / f"scene{task.number + 1:02d}.npy"


def write_8bit_tiles(job: tuple[SceneTask, np.ndarray, np.ndarray]) -> int:
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
        window, left, top = ground_of(*divmod(number, columns), task, OEM_ORIGIN)
        file_name = f"{name}_{number + 1}.tif"
        if number != lone or task.number % 2 == 1:
            write_geotiff(task.folder / name / "images" / file_name, image[(slice(None), *window)], left, top)
        if number != lone or task.number % 2 == 0:
            write_geotiff(task.folder / name / "labels" / file_name, label[window][None], left, top)
            pixels += np.bincount(label[window].ravel(), minlength=len(pixels))
            shares.append(float(np.isin(label[window], built).mean()))
    return {"pixels": pixels.tolist(), "built_up": shares}
