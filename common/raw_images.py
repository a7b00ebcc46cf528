"""Images as users have them: reading the chosen bands, what in them is no data, and scaling them to 8 bit."""

import contextlib
import math
import shlex
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rasterio import Affine
from rasterio.crs import CRS
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.errors import RasterioError
from rasterio.io import DatasetReader
from rasterio.windows import Window

from common.bands import Bands, named
from common.cli import Parser, positive_int
from common.errors import UserError
from common.files import link_or_copy
from common.rasters import georeference, open_raster, write_image

Ranges = list[list[float]]  # [[low, high], ...] of the bands
PERCENTILES = (2, 98)
LARGEST_TILE = 2**26  # pixels, 8192 x 8192: tiles are read whole, in training once a crop
LARGEST_STACK = 16  # pages that are named in a command
LOOKED_AT = 64  # images that are looked at to see what kind of band an alpha band is
LARGEST_LOOK = 2**20  # pixels of each
SAMPLE_PER_TILE = 4096
SAMPLE_IN_ALL = 4_000_000  # pixels; 16 MB of float32 a band, whatever the number of tiles
OPAQUE_OR_CLEAR = 0.9  # share of an alpha band that is fully one or the other; GDAL calls any fourth 8-bit band alpha
NO_MEASUREMENT = 1e30  # no sensor's unit; programs fill gaps with the largest numbers of a type, often undeclared
FLOAT_STEPS = 255 * float(np.finfo(np.float32).eps)  # relative range in which 8 bit are as fine as float32


class Reading(NamedTuple):
    """How raw images are read: the bands that become those of tiles, and whether bands called alpha hide pixels.

    ``alpha`` is None if no image has such a band, as it is not known then.
    """

    bands: Bands
    alpha: bool | None = None


@dataclass(frozen=True)
class RawImage:
    """The chosen bands of a raw tile.

    pixels: (B, H, W), in the file's own type if it has no scale of its own. valid: (H, W) bool, see ``read_bands``.
    location: what ``georeference`` returns. as_it_is: the file is an 8-bit GeoTIFF of these bands that needs no
    rewriting.
    """

    pixels: np.ndarray
    valid: np.ndarray
    location: dict
    crs: CRS | None
    transform: Affine | None
    as_it_is: bool

    @property
    def needs_stretch(self) -> bool:
        return self.pixels.dtype != np.uint8

    def to_8bit(self, ranges: Ranges | None) -> np.ndarray:
        """(B, H, W) uint8, as ``to_8bit`` scales it."""
        return to_8bit(self.pixels, self.valid, ranges)


def add_bands(parser: Parser) -> None:
    """Add --bands and --alpha, which ``chosen_reading`` takes."""
    parser.add_argument(
        "--bands",
        type=positive_int,
        nargs="+",
        default=[1, 2, 3],
        metavar="BAND",
        help="bands of the raw image that tiles have, any number of them in any order; the first three are shown",
    )
    add_alpha(parser)


def add_alpha(parser: Parser) -> None:
    parser.add_argument(
        "--alpha",
        choices=["auto", "yes", "no"],
        default="auto",
        help="whether bands that files call alpha hide the pixels where they are 0; auto looks whether they are 0 or "
        "full nearly everywhere, in all images together",
    )


def chosen_reading(numbers: list[int], alpha: str, images: Sequence[Path]) -> Reading:
    """What --bands and --alpha ask for; with --alpha auto the images are looked at.

    Says so if bands that are called alpha are taken for images.
    """
    bands = tuple(numbers)
    if alpha != "auto":
        return Reading(bands, alpha == "yes")
    hides = alpha_hides(images, bands)
    if hides is False:
        print("alpha: bands that files call alpha have many values, so that they hide nothing (--alpha yes: they do)")
    return Reading(bands, hides)


def alpha_band(src: DatasetReader, bands: Bands) -> int | None:
    """The number of an open raster's alpha band, unless it is asked for as an image; None if it has none."""
    if ColorInterp.alpha not in src.colorinterp:
        return None
    band = src.colorinterp.index(ColorInterp.alpha) + 1
    return None if band in bands else band


def alpha_hides(images: Sequence[Path], bands: Bands) -> bool | None:
    """Whether the bands that images call alpha say what is opaque and what is clear; None if there is none.

    GDAL calls any fourth band of an 8-bit RGB file alpha, also near infrared. They are taken for alpha if nearly all
    of their pixels, over some LOOKED_AT images, are 0 or the largest value in images of their type. Files that cannot
    be read are passed over.
    """
    step = max(1, math.ceil(len(images) / LOOKED_AT))
    by_type: dict[str, Counter[float]] = defaultdict(Counter)
    for path in images[::step]:
        with contextlib.suppress(RasterioError, OSError), open_raster(path) as src:
            band = alpha_band(src, bands)
            if band is not None:
                thinner = max(1, math.ceil(math.sqrt(src.height * src.width / LARGEST_LOOK)))
                shape = math.ceil(src.height / thinner), math.ceil(src.width / thinner)
                values, pixels = np.unique(src.read(band, out_shape=shape), return_counts=True)
                by_type[src.dtypes[band - 1]].update(dict(zip(values.tolist(), pixels.tolist(), strict=True)))
    if not by_type:
        return None
    extreme = sum(of[0] + of[max(of)] * (max(of) > 0) for of in by_type.values())
    return extreme >= OPAQUE_OR_CLEAR * sum(of.total() for of in by_type.values())


def bands_problem(count: int, bands: Bands, pages: Sequence[str] = ()) -> str | None:
    """Why an image of ``count`` bands, or of several pages, cannot give ``bands``, with the remedy; None if it can."""
    if max(bands) <= count and len(pages) < 2:
        return None
    if len(pages) > 1:
        return (
            f"has {len(pages)} pages, of which the first alone would be read. Make one raster of those that are bands: "
            f"rio stack {' '.join(map(shlex.quote, pages[:LARGEST_STACK]))} -o stacked.tif"
        )
    remedy = "--bands 1 takes the one that it has" if count == 1 else f"choose --bands among 1 to {count}"
    return (
        f"has {count} band{'s' if count > 1 else ''}, but --bands {named(bands)} asks for band {max(bands)}; {remedy}"
    )


def size_problem(path: Path, height: int, width: int) -> str | None:
    """Why a raster is too large for a tile, with the remedy; None if it is not."""
    if height * width <= LARGEST_TILE:
        return None
    return (
        f"{path}: is {width} x {height} pixels, a tile may have {LARGEST_TILE:,}. Cut image and mask into smaller "
        "tiles, of 512 x 512 pixels, say (rio clip --bounds)"
    )


def read_raw(path: Path, reading: Reading) -> RawImage:
    """The chosen bands of a raw image. Raises UserError if it is damaged, too large or complex, or lacks them."""
    try:
        with open_raster(path) as src:
            few = bands_problem(band_count(src), reading.bands, src.subdatasets)
            problem = f"{path}: {few}" if few else size_problem(path, src.height, src.width)
            if problem:
                raise UserError(f"{problem}.")
            return read_whole(src, reading)
    except RasterioError as error:
        raise UserError(f"{path}: cannot be read ({error}).") from None


def require_real(src: DatasetReader) -> None:
    """Refuse an open raster of complex numbers."""
    if src.dtypes[0].startswith("complex"):
        raise UserError(f"{src.name}: holds complex numbers ({src.dtypes[0]}), expected real ones.")


def read_bands(src: DatasetReader, reading: Reading, window: Window | None = None) -> tuple[np.ndarray, np.ndarray]:
    """The bands of an open raster, or of a window of it, and where they are data.

    A pixel is no data where any of these bands is nodata, NaN, infinite or beyond NO_MEASUREMENT; where an alpha band
    is 0; or where an internal or external mask says so. (rasterio's ``dataset_mask`` is no help: it takes one of these
    alone, and where nodata is declared beside alpha it compares the alpha band with it.)

    Returns:
        (B, H, W), in the raster's own type, or float32 if its bands have a scale or an offset, which are applied; grey
        values of a raster in which 0 is white are turned round;
        (H, W) bool.
    """
    bands = reading.bands
    table = color_table(src)
    if table is not None:
        index = src.read(1, window=window)
        valid = (src.read_masks(1, window=window) > 0) & (table[index, 3] > 0)
        if src.nodata is not None:  # beside an internal mask, too
            valid &= index != src.nodata
        return np.moveaxis(table[index, :3], -1, 0)[[band - 1 for band in bands]], valid
    stored = src.read(list(bands), window=window)
    valid = np.ones(stored.shape[1:], bool)
    declared, masks = src.nodatavals, src.mask_flag_enums
    for band, pixels in zip(bands, stored, strict=True):
        nodata, flags = declared[band - 1], masks[band - 1]
        if nodata is not None:  # NaN is no data anyway
            valid &= pixels != nodata
        if MaskFlags.per_dataset in flags and MaskFlags.alpha not in flags:
            valid &= src.read_masks(band, window=window) > 0
    alpha = None if reading.alpha is False else alpha_band(src, bands)
    if alpha is not None:
        valid &= src.read(alpha, window=window) > 0
    pixels = _measured(src, bands, stored)
    if np.issubdtype(pixels.dtype, np.floating):
        for band in pixels:
            valid &= np.abs(band) < NO_MEASUREMENT  # nor is NaN
    return pixels, valid


def color_table(src: DatasetReader) -> np.ndarray | None:
    """(N, 4) uint8 red, green, blue and alpha by value of an open raster with a colour table; None for any other."""
    if src.count != 1 or src.colorinterp[0] != ColorInterp.palette:
        return None
    table = np.zeros((np.iinfo(src.dtypes[0]).max + 1, 4), np.uint8)
    for value, color in src.colormap(1).items():
        table[value] = color
    return table


def white_is_zero(src: DatasetReader) -> bool:
    """Whether an open raster of whole numbers declares its lowest value white, which GDAL does not turn round."""
    if src.count > 1 or not np.issubdtype(src.dtypes[0], np.integer):
        return False
    return src.tags(ns="IMAGE_STRUCTURE").get("MINISWHITE") == "YES"


def stored_value(src: DatasetReader, band: int, value: float) -> float | None:
    """What an open raster stores where ``read_bands`` gives a value of a band; None for one with a colour table."""
    if color_table(src) is not None:
        return None
    if white_is_zero(src):
        value = float(~np.array(value).astype(src.dtypes[0]))
    stored = (value - src.offsets[band - 1]) / src.scales[band - 1]
    return float(round(stored)) if np.issubdtype(src.dtypes[band - 1], np.integer) else stored


def band_count(src: DatasetReader) -> int:
    """How many bands can be asked for of an open raster: three of one with a colour table."""
    return src.count if color_table(src) is None else 3


def colors_of(src: DatasetReader, bands: Iterable[int]) -> tuple[str, ...]:
    """What an open raster calls its bands, in their descriptions if these are colours: red, green, gray and so on."""
    names = ["red", "green", "blue"] if color_table(src) is not None else [color.name for color in src.colorinterp]
    described = [(text or "").strip().lower() for text in src.descriptions]
    if {"red", "green", "blue"} <= set(described):
        names = described
    return tuple(names[band - 1] for band in bands)


def _measured(src: DatasetReader, bands: Bands, stored: np.ndarray) -> np.ndarray:
    """(B, H, W) values as a raster's tags make them of what is stored."""
    if white_is_zero(src):
        stored = ~stored  # largest value less this one; -1 less this one for signed types
    if measured_type(src, bands) == stored.dtype.name:
        return stored
    pixels = stored.astype(np.float64)
    for band, values in zip(bands, pixels, strict=True):
        values *= src.scales[band - 1]
        values += src.offsets[band - 1]
    return pixels.astype(np.float32)


def measured_type(src: DatasetReader, bands: Bands) -> str:
    """The type of what ``read_bands`` returns of an open raster."""
    if color_table(src) is not None:
        return "uint8"
    scales, offsets = src.scales, src.offsets
    tagged = any(scales[band - 1] != 1 or offsets[band - 1] != 0 for band in bands)
    return "float32" if tagged else src.dtypes[bands[0] - 1]


def read_whole(src: DatasetReader, reading: Reading) -> RawImage:
    """The bands of an open raster that has them; raises UserError if it holds complex numbers."""
    require_real(src)
    pixels, valid = read_bands(src, reading)
    location, crs, transform = georeference(src), src.crs, src.transform
    every = reading.bands == tuple(range(1, src.count + 1)) and color_table(src) is None and not white_is_zero(src)
    plain = src.driver == "GTiff" and every and len(src.files) == 1
    as_it_is = plain and pixels.dtype == np.uint8 and bool(valid.all() or not pixels[:, ~valid].any())
    if location["bounds"] is None:
        crs = transform = None
    return RawImage(pixels, valid, location, crs, transform, as_it_is)


def pixels_per_tile(tiles: int) -> int:
    """How many pixels each of so many tiles gives to the sample from which their common range comes."""
    return min(SAMPLE_PER_TILE, max(1, SAMPLE_IN_ALL // max(tiles, 1)))


def sample(image: RawImage, limit: int) -> np.ndarray:
    """(B, P) float32 valid pixels on a regular grid of about ``limit`` points, the same ones each time."""
    height, width = image.valid.shape
    step = max(1, int(np.ceil(np.sqrt(height * width / limit))))
    grid = (slice(step // 2, None, step), slice(step // 2, None, step))
    return image.pixels[:, *grid][:, image.valid[grid]].astype(np.float32)


def percentile_ranges(samples: np.ndarray) -> Ranges:
    """The range of each band: the 2nd and 98th percentile of (bands, P) pixels."""
    return np.percentile(samples.astype(np.float64), PERCENTILES, axis=1).T.tolist()


def to_8bit(pixels: np.ndarray, valid: np.ndarray, ranges: Ranges | None) -> np.ndarray:
    """(B, H, W) uint8: each band scaled from its range to 0-255, cut off beyond it; pixels without data 0.

    A range that is narrower than 255 steps of float32 is widened to that, so that a constant band stays constant
    whatever its rounding. An 8-bit image is not scaled; ``ranges`` is None for a tile without a valid pixel.

    Args:
        pixels: (B, H, W).
        valid: (H, W) bool.
        ranges: of the bands.
    """
    whole = valid.all()
    if pixels.dtype == np.uint8:
        return pixels if whole else np.where(valid, pixels, np.uint8(0))
    scaled = np.zeros(pixels.shape, np.uint8)
    for band, (low, high), out in zip(pixels, ranges or [], scaled, strict=bool(ranges)):
        band = band if whole else np.where(valid, band, low)
        values = np.subtract(band, low, dtype=np.float64)
        narrowest = max(FLOAT_STEPS * max(abs(low), abs(high)), float(np.finfo(np.float32).tiny))
        values *= 255 / max(high - low, narrowest)
        np.rint(values, out=values)
        np.clip(values, 0, 255, out=out, casting="unsafe")
    if not whole:
        scaled[:, ~valid] = 0
    return scaled


def write_8bit(image: RawImage, ranges: Ranges | None, source: Path, target: Path, mode: str) -> np.ndarray:
    """Write the file that a tile set holds of a raw image, or take ``source``, its own file, over as it is.

    Returns:
        (B, H, W) uint8, as ``to_8bit`` scales it.
    """
    scaled = image.to_8bit(ranges)
    if image.as_it_is:
        link_or_copy(source, target, mode)
    else:
        write_image(target, scaled, crs=image.crs, transform=image.transform)
    return scaled
