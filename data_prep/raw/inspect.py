"""Saying what is wrong with raw tiles, each by itself and all together."""

import hashlib
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rasterio.crs import CRS
from rasterio.errors import RasterioError
from rasterio.io import DatasetReader
from scipy import ndimage

from common.errors import UserError
from common.rasters import class_pixels, georeference, is_placed, open_raster
from common.raw_images import (
    NO_MEASUREMENT,
    SAMPLE_PER_TILE,
    Ranges,
    RawImage,
    Reading,
    band_count,
    bands_problem,
    colors_of,
    measured_type,
    percentile_ranges,
    read_whole,
    sample,
    size_problem,
    stored_value,
)
from common.taxonomy import IGNORE_INDEX, Taxonomy
from common.text import some
from data_prep.raw.files import Problem, RawTile, link_problem
from data_prep.raw.masks import MaskProblem, ReadMask, read_raw_mask
from data_prep.raw.places import place_of, place_problem

GAPS_SHARE = 0.001  # of the pixels at one value far from all others, from which they are taken for gaps
FILLS = (-9999, -99999, -32768, -32767)  # which programs write where they have no data
EDGE_REPEATS = 0.05  # share of the edge's pixels that are as the one before, from which a constant area is looked for
BORDERS_EVERY = 4
EDGE_SHARE = 0.01  # share of a tile, from which a constant area at its edge is told


@dataclass(frozen=True)
class Inspection:
    """What was found in one raw tile. ``pixels`` counts classes with nodata and NaN already Background.

    ``location``: what ``georeference`` returns. ``ranges``: of each band, as ``percentile_ranges`` gives them.
    ``bands``: those that were chosen; ``colors``: what the file calls them, red, gray, undefined and so on;
    ``all_colors``: what it calls each of its bands.
    ``lost``: labelled pixels where the image has no data.
    ``borders``: what ``count_borders`` returns of the mask.
    ``kept``: (B, P) float32 pixels for the scaling, of a tile that needs it; None if they were not asked for.
    """

    tile: RawTile
    problems: list[Problem] = field(default_factory=list)
    dtype: str = ""
    bands: tuple[int, ...] = ()
    colors: tuple[str, ...] = ()
    all_colors: tuple[str, ...] = ()
    band_count: int = 0
    height: int = 0
    width: int = 0
    location: dict = field(default_factory=dict)
    invalid_share: float = 0.0
    content: str = ""
    ranges: Ranges | None = None
    pixels: list[int] = field(default_factory=list)
    lost: int = 0
    borders: tuple[int, int] = (0, 0)
    kept: np.ndarray | None = None

    @property
    def usable(self) -> bool:
        return not any(problem.fatal for problem in self.problems)

    @property
    def needs_stretch(self) -> bool:
        return self.dtype != "uint8"

    @property
    def footprint(self) -> dict:
        """Its location with its height and width in pixels, as ``spatial_blocks`` and ``overlapping`` take it."""
        return {**self.location, "height": self.height, "width": self.width}

    @property
    def is_located(self) -> bool:
        return self.location["bounds"] is not None


def gap_value(image: RawImage) -> tuple[int, float] | None:
    """A value that fills gaps of a band though it is not declared as nodata, and the index of the band; None if none.

    It is the lowest or the highest of the band, in GAPS_SHARE of its pixels or more. It is one of FILLS, or the only
    negative value, or lies further from all other values than these are apart. A lowest value of 0 or more may be a
    measurement. Images of 8 bit are not looked at.
    """
    if not image.needs_stretch or not image.valid.any():
        return None
    whole = image.valid.all()
    for index, band in enumerate(image.pixels):
        pixels = band.ravel() if whole else band[image.valid]
        lowest, highest = pixels.min(), pixels.max()
        for value in (highest, *([lowest] if lowest < 0 else [])):
            gaps = pixels == value
            if gaps.mean() < GAPS_SHARE:
                continue
            if value in FILLS:
                return index, float(value)
            if gaps.all():
                continue
            rest = pixels[~gaps]
            low, high = float(rest.min()), float(rest.max())
            if min(abs(value - low), abs(value - high)) > high - low or value < 0 <= low:
                return index, float(value)
    return None


def constant_edge(image: RawImage, mask: np.ndarray) -> tuple[list[float], float] | None:
    """The value of each band in an area that has one value throughout, touches the edge and is labelled; None if none.

    Such an area is a collar or a gap rather than ground. It is the one of the value that most of the edge has.

    Args:
        image: with (B, H, W) pixels.
        mask: (H, W) uint8 class ids.

    Returns:
        The values, and the share of the tile's pixels that have them there and are labelled: EDGE_SHARE or more.
    """
    pixels = image.pixels
    edge = np.concatenate([pixels[:, 0], pixels[:, -1], pixels[:, 1:-1, 0], pixels[:, 1:-1, -1]], axis=1)
    shown = np.concatenate([image.valid[0], image.valid[-1], image.valid[1:-1, 0], image.valid[1:-1, -1]])
    repeats = (edge[:, 1:] == edge[:, :-1]).all(axis=0) & shown[1:]
    if repeats.sum() < EDGE_REPEATS * edge.shape[1]:
        return None
    values, counts = np.unique(edge[:, 1:][:, repeats], axis=1, return_counts=True)
    value = values[:, counts.argmax()]
    alike = (pixels == value[:, None, None]).all(axis=0) & image.valid
    areas, _ = ndimage.label(alike)
    at_edge = np.unique(np.concatenate([areas[0], areas[-1], areas[:, 0], areas[:, -1]]))
    share = float((np.isin(areas, at_edge[at_edge > 0]) & (mask != IGNORE_INDEX)).mean())
    return (value.tolist(), share) if share >= EDGE_SHARE else None


def count_borders(mask: np.ndarray) -> tuple[int, int]:
    """How often ids that differ by 2 or more lie side by side in a mask, and how often with one id between them.

    One row and one column in BORDERS_EVERY is looked at. A mask that was resized with interpolation has no borders of
    the first kind.

    Args:
        mask: (H, W) uint8.
    """
    sharp = between = 0
    for lines in (mask[::BORDERS_EVERY], mask[:, ::BORDERS_EVERY].T):
        steps = np.diff(lines.astype(np.int16), axis=1)
        sharp += int(np.count_nonzero(np.abs(steps) >= 2))
        between += int(np.count_nonzero(steps[:, :-1] * steps[:, 1:] > 0))
    return sharp, between


def ids_problem(ids: np.ndarray, path: Path, taxonomy: Taxonomy) -> str | None:
    """What is wrong with the (H, W) ids of a mask; None if all are classes."""
    if ids.min() >= 0 and ids.max() < taxonomy.num_classes:
        return None
    seen = np.unique(ids).tolist()
    unknown = [label for label in seen if not 0 <= label < taxonomy.num_classes]
    remedy = ""
    if seen in ([0, 255], [255]):
        remedy = (
            "; if 255 stands for a class, as in masks of two values, write its id there. If other masks hold ids, and "
            "255 is where nothing is labelled, give --void 255"
        )
    elif unknown in ([255], [-1]):
        remedy = f"; --void {unknown[0]} takes it for {taxonomy.void}, as where nothing is labelled"
    expected = f"expected 0-{taxonomy.num_classes - 1}"
    return f"{path}: ids {some(list(map(str, unknown)))} are not classes, {expected}{remedy}"


def _read_mask(tile: RawTile) -> tuple[ReadMask | None, Problem | None]:
    problem = link_problem(tile.mask)
    if problem:
        return None, Problem(tile.id, "link", problem)
    try:
        return read_raw_mask(tile.mask, tile.masks), None
    except MaskProblem as error:
        return None, Problem(tile.id, error.kind, str(error))


def inspect(tile: RawTile, *, reading: Reading, taxonomy: Taxonomy, keep: int = 0) -> Inspection:
    """Read a raw tile whole and say everything that is wrong with it; raises nothing for a bad tile.

    About ``keep`` pixels are kept of a tile that needs scaling.
    """
    found, mask_problem = _read_mask(tile)
    problems = [mask_problem] if mask_problem else []

    def add(kind: str, text: str | None, fatal: bool = True) -> None:
        if text:
            problems.append(Problem(tile.id, kind, text, fatal))

    mask = None
    if found is not None:
        add("mask format", found.done and f"{tile.mask}: {found.done}", fatal=False)
        add("unknown ids", ids_problem(found.ids, tile.mask, taxonomy))
        mask = found.ids.astype(np.uint8, copy=False)
    link = link_problem(tile.image)
    add("link", link)
    if link:
        return Inspection(tile, problems)
    try:
        with open_raster(tile.image) as src:
            count, dtype = band_count(src), src.dtypes[0]
            place = None if not is_placed(src.transform, src.height) else (src.crs, src.transform)
            few = bands_problem(count, reading.bands, src.subdatasets)
            dtype = dtype if few else measured_type(src, reading.bands)
            size = src.height, src.width
            large = size_problem(tile.image, *size)
            add("too large", large)
            if large:
                return Inspection(tile, problems)
            if mask is not None and mask.shape != size:
                text = f"{tile.mask}: is {mask.shape[1]} x {mask.shape[0]} pixels, its image {size[1]} x {size[0]}"
                add("size mismatch", text)
            add("bands", few and f"{tile.image}: {few}")
            add("orientation", orientation_problem(src))
            image = None if few else read_whole(src, reading)
            all_colors = () if few else colors_of(src, range(1, count + 1))
            colors = tuple(all_colors[band - 1] for band in reading.bands) if all_colors else ()
            location = georeference(src) if image is None else image.location
            gap = None if image is None else gap_value(image)
            if gap is not None:
                band = reading.bands[gap[0]]
                text = f"{tile.image}: {gap[1]:g} fills gaps in band {band}, is not declared as nodata and would spoil "
                add("undeclared nodata", f"{text}the scaling. {declare(stored_value(src, band, gap[1]), tile.image)}")
            edge = None
            if image is not None and gap is None and mask is not None and mask.shape == size:
                edge = constant_edge(image, mask)
            if edge is not None:
                values, share = edge
                text = f"{tile.image}: {share:.1%} of its pixels are labelled, lie at its edge and have one value "
                text += f"throughout ({' '.join(f'{value:g}' for value in values)}), as where there is no data. "
                stored = {stored_value(src, band, value) for band, value in zip(reading.bands, values, strict=True)}
                remedy = declare(stored.pop() if len(stored) == 1 else None, tile.image)
                add("constant edge", text + remedy, fatal=False)
    except (RasterioError, OSError) as error:
        add("unreadable", f"{tile.image}: cannot be read ({error})")
        return Inspection(tile, problems)
    except UserError as error:
        add("pixel type", str(error))
        return Inspection(tile, problems)
    add("place", location_problem(location, tile.image))
    of_mask = place_of(tile.mask) if place is not None and mask is not None else None
    if place is not None and of_mask is not None:
        beside = place_problem(place, of_mask, size)
        remedy = "Put both where they belong, or save the mask without a place"
        add("labels elsewhere", beside and f"{tile.mask}: {beside}. {remedy}")
    header: dict[str, Any] = {"dtype": dtype, "bands": reading.bands, "colors": colors, "band_count": count}
    header["all_colors"] = all_colors
    header |= {"location": location, "height": size[0], "width": size[1]}
    if image is None or mask is None or mask.shape != size:
        return Inspection(tile, problems, **header)
    valid = image.valid
    if not valid.all():
        text = f"{tile.image}: {1 - valid.mean():.1%} of its pixels are nodata, transparent, NaN, infinite or beyond "
        text += f"{NO_MEASUREMENT:g}, and become {taxonomy.void}"
        add("nodata", text, fatal=False)
    lost = 0 if valid.all() else int(np.count_nonzero(mask[~valid] != IGNORE_INDEX))
    pixels = class_pixels(mask if valid.all() else np.where(valid, mask, np.uint8(IGNORE_INDEX)), taxonomy.num_classes)
    if not pixels[1:].any():
        add("no labelled pixel", f"{tile.mask}: has no labelled pixel", fatal=False)
    sampled = sample(image, SAMPLE_PER_TILE)
    by_band = zip(reading.bands, sampled, strict=True)
    constant = [band for band, values in by_band if values.size > 1 and not np.ptp(values)]
    if constant and pixels.size:
        text = f"{tile.image}: band {' and '.join(map(str, sorted(set(constant))))} has one value throughout"
        add("constant band", text, fatal=False)
    content = hashlib.sha256(f"{image.pixels.dtype}{image.pixels.shape}".encode())
    content.update(np.ascontiguousarray(image.pixels if valid.all() else np.where(valid, image.pixels, 0)).data)
    return Inspection(
        tile,
        problems,
        **header,
        invalid_share=float(1 - valid.mean()),
        content=content.hexdigest(),
        ranges=percentile_ranges(sampled) if sampled.size else None,
        pixels=pixels.tolist(),
        lost=lost,
        borders=count_borders(mask),
        kept=(sampled if keep == SAMPLE_PER_TILE else sample(image, keep)) if keep and image.needs_stretch else None,
    )


def orientation_problem(src: DatasetReader) -> str | None:
    """Why it is not known on which pixels of a JPEG image its labels lie, with the remedy; None if it is."""
    turned = src.tags().get("EXIF_Orientation", "1") if src.driver == "JPEG" else "1"
    if turned in ("0", "1"):
        return None
    return (
        f"{src.name}: is to be turned when it is shown (EXIF orientation {turned}). Programs that draw labels do so, "
        "others do not. Save it as PNG, turned as its mask is"
    )


def declare(value: float | None, path: Path) -> str:
    """The remedy for a stored value that means no data and is not declared; None if no one value does."""
    if value is None:
        return "Write a mask or an alpha band that hides these pixels"
    return f"Declare it where it is: rio edit-info --nodata {value:.17g} {shlex.quote(str(path))}"


def location_problem(location: dict, path: Path) -> str | None:
    """Why a tile cannot lie where its file says, with the remedy; None if it can, or has no location.

    ``location``: what ``georeference`` returns.
    """
    if location["bounds"] is None:
        return None
    remedy = f"Give it its own system: rio edit-info --crs EPSG:CODE {shlex.quote(str(path))}"
    left, bottom, right, top = bounds = location["bounds"]
    if not np.isfinite(bounds).all() or left == right or bottom == top:
        return f"{path}: its bounds {bounds} enclose no area. Correct its geotransform: rio edit-info --transform"
    crs = CRS.from_wkt(location["crs"]) if location["crs"] else None
    if crs is not None and crs.is_geographic and (max(abs(left), abs(right)) > 540 or max(abs(bottom), abs(top)) > 91):
        return (
            f"{path}: lies at {left:g}, {bottom:g} in {system_name(location['crs'])}, which counts in degrees, so that "
            f"it lies nowhere on earth. {remedy}"
        )
    return None


def system_name(crs: str | None) -> str:
    """A short name of a coordinate system given as WKT."""
    if crs is None:
        return "no known system"
    system = CRS.from_wkt(crs)
    code = system.to_epsg()
    return f"EPSG:{code}" if code else crs.split('"')[1]
