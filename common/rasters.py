"""Rasters and their pixels: opening, reading and writing them, and where they lie on earth."""

import io
import math
import re
import struct
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import rasterio.transform
import rasterio.warp
from PIL import Image
from rasterio.crs import CRS
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.io import DatasetReader, MemoryFile
from rasterio.transform import Affine

from common.errors import UserError

METRES_PER_DEGREE = 111_320.0  # of latitude, on the WGS 84 sphere
EQUAL_AREA = "+proj=cea +ellps=WGS84 +over +units=m"  # parallels and meridians stay straight
DAMAGED = "Restore it from its source, or run the step that wrote its folder again with --overwrite."
STRIP_ROWS = 128  # of a written image: few strips are read faster than many, and a window needs only those it meets


@contextmanager
def open_raster(path: Path | str, mode: str = "r", *, sidecars: bool = True, **profile: Any) -> Generator[Any]:
    """rasterio.open without its warning about rasters that have no place on earth: a tile need not have one.

    GDAL asks for ``sidecars`` (world files, .aux.xml and so on) by name, instead of listing the folder each time.
    """
    with rasterio.Env(GDAL_DISABLE_READDIR_ON_OPEN=True if sidecars else "EMPTY_DIR"):
        with open_quietly(path, mode, **profile) as dataset:
            yield dataset


def open_quietly(path: Path | str, mode: str = "r", **profile: Any) -> Any:
    """What ``open_raster`` opens, for the caller to close: several can be open at once, and closed in any order."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        return rasterio.open(path, mode, **profile)


def read_image(path: Path, window: tuple[int, int, int] | None = None) -> np.ndarray:
    """(B, H, W) uint8 image, or a window (row, column, side) of it in pixels: only the strips that it meets are read.

    Raises:
        UserError: the file is missing or damaged.
    """
    try:
        with open_raster(path, sidecars=False) as src:
            if window is None:
                return src.read()
            row, column, side = window
            return src.read(window=((row, row + side), (column, column + side)))
    except RasterioError as error:
        raise UserError(f"{path}: cannot be read as TIFF ({error}). {DAMAGED}") from None


def read_mask(path: Path) -> np.ndarray:
    """(H, W) uint8 class ids; raises UserError if the file is missing or damaged.

    GDAL would be a third quicker, but reads what is missing of a truncated PNG as 0.
    """
    try:
        with Image.open(path) as image:
            return np.array(image)
    except (OSError, SyntaxError, ValueError, struct.error, Image.DecompressionBombError) as error:
        raise UserError(f"{path}: cannot be read as PNG ({error}). {DAMAGED}") from None


def class_pixels(mask: np.ndarray, num_classes: int) -> np.ndarray:
    """(C,) int64 pixels of each class of a uint8 mask of any shape; larger ids are counted nowhere.

    One comparison a class takes a quarter of the time of numpy.bincount, which widens the ids first.
    """
    return np.array([np.count_nonzero(mask == label) for label in range(num_classes)])


def unknown_ids(mask: np.ndarray, num_classes: int) -> list[int]:
    """The ids in a uint8 mask that are no class, in order."""
    if mask.max() < num_classes:
        return []
    return [label for label in np.unique(mask).tolist() if label >= num_classes]


def write_image(path: Path, image: np.ndarray, *, crs: CRS | None = None, transform: Affine | None = None) -> None:
    """Write a (B, H, W) uint8 image as a GeoTIFF without compression, so that windows of it are quick to read.

    Three bands and more are declared as red, green, blue and others; GDAL would call the fourth of them alpha.
    """
    count, height, width = image.shape
    profile: dict[str, Any] = {"driver": "GTiff", "count": count, "dtype": "uint8", "height": height, "width": width}
    profile |= {"photometric": "RGB" if count >= 3 else "MINISBLACK"} | ({} if count == 3 else {"alpha": "no"})
    layout = {"interleave": "band", "blockysize": min(STRIP_ROWS, height)}
    with MemoryFile() as memory:  # GDAL does not always say so when a disk is full
        with open_raster(memory.name, "w", **profile, **layout, crs=crs, transform=transform) as dst:
            dst.write(image)
        with open(path, "xb") as file:
            file.write(memory.getbuffer())


def write_mask(path: Path, mask: np.ndarray) -> None:
    """Write (H, W) uint8 class ids as a single-channel PNG."""
    content = io.BytesIO()
    Image.fromarray(mask).save(content, "PNG", compress_level=1)
    with open(path, "xb") as file:
        file.write(content.getbuffer())


def is_placed(grid: Affine, height: int = 0) -> bool:
    """Whether a geotransform says where a raster lies: one that counts pixels from a corner, or its centre, does not.

    ``height``: rows of the raster, from which those are known that count from the lower corner.
    """
    counts_pixels = (grid.a, grid.b, grid.d, abs(grid.e)) == (1, 0, 0, 1)
    return not counts_pixels or abs(grid.c) > 0.5 or min(abs(grid.f), abs(grid.f - height)) > 0.5


def pixel_size(src: DatasetReader) -> tuple[float, float] | None:
    """Width and height in metres of an open raster's pixels; None if its unit is not known.

    Where the scale depends on the latitude (geographic systems, Mercator) it is taken at the raster's centre.
    """
    return pixel_size_at(src.crs, src.transform, src.width / 2, src.height / 2)


def pixel_size_at(crs: CRS | None, grid: Affine, column: float, row: float) -> tuple[float, float] | None:
    """``pixel_size`` of a raster with this system and transform, at a place in it, counted in pixels."""
    if crs is None or not is_placed(grid):
        return None
    width, height = math.hypot(grid.a, grid.d), math.hypot(grid.b, grid.e)
    wkt = crs.to_wkt()
    x, y = rasterio.transform.xy(grid, row, column, offset="ul")
    if crs.is_geographic:
        return width * METRES_PER_DEGREE * math.cos(math.radians(y)), height * METRES_PER_DEGREE
    if crs.is_projected:
        unit = crs.linear_units_factor[1]
    else:
        units = re.findall(r'UNIT\["[^"]*",\s*([0-9.eE+-]+)', wkt)  # of a local system the last one is linear
        unit = float(units[-1]) if units else 0.0
    if 'PROJECTION["Mercator_1SP"]' in wkt:  # EPSG:3857 and its like: true to scale at the equator alone
        _, (latitude,) = rasterio.warp.transform(crs, "EPSG:4326", [x], [y])
        unit *= math.cos(math.radians(latitude))
    return (width * unit, height * unit) if unit else None


def scale_varies(crs: CRS) -> bool:
    """Whether the size of a pixel depends on the latitude: in degrees, and in Mercator."""
    return crs.is_geographic or 'PROJECTION["Mercator_1SP"]' in crs.to_wkt()


def georeference(src: DatasetReader) -> dict:
    """Where an open raster lies: crs (WKT or None), bounds (left, bottom, right, top), gsd in metres or None.

    bounds is None for a raster without a geotransform, and is the same for rasters stored from north to south and from
    south to north. gsd is the ground sampling distance along x, as ``pixel_size`` gives it. A rotated raster also has
    corners, [[x, y], ...] around it.
    """
    if not is_placed(src.transform, src.height):
        return {"crs": None, "bounds": None, "gsd": None}
    a, b, c, d, e, f = src.transform[:6]  # src.bounds uses an operator that affine is about to drop
    corners = [(x * a + y * b + c, x * d + y * e + f) for x in (0, src.width) for y in (0, src.height)]
    size = pixel_size(src)
    around = {"corners": [list(corners[n]) for n in (0, 2, 3, 1)]} if b or d else {}
    return {
        "crs": src.crs.to_wkt() if src.crs is not None else None,
        "bounds": [*map(min, *corners), *map(max, *corners)],
        "gsd": round(size[0], 4) if size else None,
        **around,
    }
