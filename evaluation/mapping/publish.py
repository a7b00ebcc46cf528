"""From strips to the files that one opens: a cloud-optimised GeoTIFF of classes, and one of each layer beside it."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import rasterio
import rasterio.shutil
from rasterio._err import CPLE_BaseError  # which copying raises as it is
from rasterio.enums import ColorInterp
from rasterio.errors import RasterioError
from rasterio.windows import Window
from tqdm import tqdm

from common.errors import UserError
from common.files import json_text, write_files
from common.rasters import class_pixels, open_raster
from common.taxonomy import IGNORE_INDEX, Taxonomy
from evaluation.mapping.cog import cog_options
from evaluation.mapping.legend import colormap, legend_files, map_tags
from evaluation.mapping.raster import Place
from evaluation.mapping.record import pixel_areas
from evaluation.mapping.store import CONFIDENCE, StripStore
from evaluation.mapping.strips import LAYERS, NO_DATA, STEPS, Plan

BLOCK = 512  # pixels, side of the blocks of the file that strips are gathered in
CACHE = 64 * 2**20  # bytes that GDAL keeps of blocks; rasterio takes bytes here, GDAL itself megabytes


class _Blocks:
    """Writes rows as they come, complete rows of blocks at a time, so that each block is compressed once."""

    def __init__(self, dst: rasterio.io.DatasetWriter) -> None:
        self._dst = dst
        self._waiting: list[np.ndarray] = []
        self._top = 0

    def add(self, rows: np.ndarray) -> None:
        """``rows``: (B, rows, width) uint8."""
        self._waiting.append(rows)
        height = sum(part.shape[1] for part in self._waiting)
        ends = self._top + height == self._dst.height
        ready = height if ends else height // BLOCK * BLOCK
        if not ready:
            return
        together = np.concatenate(self._waiting, axis=1)
        window = Window(0, self._top, self._dst.width, ready)
        self._dst.write(together[:, :ready], window=window)
        self._waiting = [together[:, ready:]]
        self._top += ready


def layer_path(out: Path, layer: str) -> Path:
    """Where a layer lies: the map itself, or ``map_confidence.tif`` beside it."""
    return out if layer == "classes" else out.with_name(f"{out.stem}_{layer}.tif")


def outputs(out: Path) -> list[Path]:
    """All files that belong to a map, whether they are there or not: itself, its layers, record, legend and areas."""
    layers = [layer_path(out, layer) for layer in ("classes", *LAYERS)]
    beside = [out.with_suffix(suffix) for suffix in (".json", ".qml", ".png")]
    areas = [out.with_name(f"{out.stem}_areas.{ending}") for ending in ("txt", "json", "png")]
    return [*layers, *beside, out.with_name(f"{out.name}.aux.xml"), *areas]


def _band_names(layer: str, taxonomy: Taxonomy) -> list[str]:
    return list(taxonomy.foreground) if layer == "probabilities" else [layer]


def _rows(store: StripStore, plan: Plan, layer: str, desc: str) -> Iterator[tuple[int, np.ndarray]]:
    """The first row of each strip, and its (B, rows, width)."""
    for number in tqdm(range(plan.strips), desc=desc, unit="strip", leave=False):
        (rows,) = store.read(number, layer)
        yield plan.bounds(number)[0], rows if rows.ndim == 3 else rows[None]


def write_layer(
    store: StripStore, plan: Plan, layer: str, place: Place, taxonomy: Taxonomy, target: Path, tags: dict[str, str]
) -> None:
    """Write a layer of all strips as a cloud-optimised GeoTIFF, and read it back.

    Args:
        store, plan: the strips.
        layer: ``classes``, with a colour table, void as nodata and overviews by mode; or one of LAYERS, bytes whose
            scale is 1 / STEPS, with overviews by mean.
        place: of the map.
        taxonomy: of its classes.
        target: the file, which must not be there.
        tags: what the file says of itself.

    Raises:
        UserError: what is read back differs from the strips, as on a disk that is full.
        OSError: it cannot be written.
    """
    names = _band_names(layer, taxonomy)
    is_map = layer == "classes"
    plain = target.with_name(f"{target.name}.plain")
    profile = {
        "driver": "GTiff", "dtype": "uint8", "count": len(names), "height": plan.rows.length,
        "width": plan.columns.length, "nodata": IGNORE_INDEX if is_map else NO_DATA, "tiled": True,
        "blockxsize": BLOCK, "blockysize": BLOCK, "compress": "deflate", "zlevel": 1, "bigtiff": "if_safer",
        "interleave": "band", "photometric": "palette" if is_map else "minisblack",
    }  # fmt: skip
    cloud = cog_options(plan.columns.length, plan.rows.length)
    cloud |= {} if is_map else {"overview_resampling": "average"}
    try:
        with rasterio.Env(GDAL_CACHEMAX=CACHE):
            with open_raster(plain, "w", **profile, **place.profile) as dst:
                dst.update_tags(**tags)
                for band, name in enumerate(names, 1):
                    dst.set_band_description(band, name)
                if is_map:
                    dst.write_colormap(1, colormap(taxonomy))
                    dst.update_tags(1, **map_tags(taxonomy))
                else:
                    dst.scales = [1 / STEPS] * len(names)
                    dst.colorinterp = [ColorInterp.gray, *[ColorInterp.undefined] * (len(names) - 1)]
                blocks = _Blocks(dst)
                for _, rows in _rows(store, plan, layer, f"Writing {layer}"):
                    blocks.add(rows)
            rasterio.shutil.copy(plain, target, **cloud)
            _require_same(store, plan, layer, target)
    except (RasterioError, CPLE_BaseError) as error:
        raise UserError(f"{target.parent} cannot be written ({error}). Make room, and go on with --resume.") from None
    finally:
        for left in (plain, plain.with_name(f"{plain.name}.aux.xml")):
            left.unlink(missing_ok=True)


def _require_same(store: StripStore, plan: Plan, layer: str, path: Path) -> None:
    with open_raster(path, sidecars=False) as src:
        for top, rows in _rows(store, plan, layer, f"Checking {layer}"):
            if not np.array_equal(src.read(window=Window(0, top, src.width, rows.shape[1])), rows):
                raise UserError(
                    f"{path.parent}: what was written there is not what is read back (a full disk, maybe). Make room, "
                    "and go on with --resume."
                )


class Tally(NamedTuple):
    """How much of a map each class covers.

    ``pixels``: (C,) int64 by class id, void first. ``square_metres``: (C,) float64, None if the pixel size is not
    known. ``confidence``: mean of the largest probabilities, None without a pixel that has data.
    """

    pixels: np.ndarray
    square_metres: np.ndarray | None
    confidence: float | None


def tally(store: StripStore, plan: Plan, place: Place, num_classes: int) -> Tally:
    """Count the pixels of each class over all strips."""
    areas = pixel_areas(place, plan.rows.length, plan.columns.length)
    pixels, metres, confidence = np.zeros(num_classes, np.int64), np.zeros(num_classes), 0.0
    for number in range(plan.strips):
        classes, sure = store.read(number, "classes", CONFIDENCE)
        by_row = np.stack([class_pixels(row, num_classes) for row in classes])
        pixels += by_row.sum(axis=0)
        confidence += float(sure)
        if areas is not None:
            metres += areas[slice(*plan.bounds(number))] @ by_row
    mapped = int(pixels.sum() - pixels[IGNORE_INDEX])
    return Tally(pixels, None if areas is None else metres, min(confidence / mapped, 1.0) if mapped else None)


def publish(store: StripStore, plan: Plan, place: Place, taxonomy: Taxonomy, record: dict, out: Path) -> Tally:
    """Write the map and its layers, then its legend and record.

    ``record``: what is known of the map but its classes.
    """
    counted = tally(store, plan, place, taxonomy.num_classes)
    metres = counted.square_metres
    record = {
        **record,
        "pixels": counted.pixels.tolist(),
        "square_metres": None if metres is None else metres.tolist(),
        "mean_confidence": counted.confidence,
    }
    tags = {"checkpoints": " ".join(of["digest"] for of in record["checkpoints"])}
    made = {layer_path(out, layer): layer for layer in (*plan.layers, "classes")}
    partials = {path: path.with_name(f".{path.name}.partial") for path in made}
    try:
        for path, layer in made.items():
            partials[path].unlink(missing_ok=True)
            write_layer(store, plan, layer, place, taxonomy, partials[path], tags)
        for path in outputs(out):  # of an earlier map, so that nothing beside this one is of that
            if path not in made:
                path.unlink(missing_ok=True)
        for path, partial in partials.items():
            os.replace(partial, path)
        beside = {out.with_name(name): text for name, text in legend_files(taxonomy, out.name).items()}
        write_files({**beside, out.with_suffix(".json"): json_text(record)})
    finally:
        for partial in partials.values():
            partial.unlink(missing_ok=True)
    return counted
