"""Whether a mask lies on its image, if both say where they lie."""

import functools
import os
from pathlib import Path

import numpy as np
import rasterio.warp
from rasterio.crs import CRS
from rasterio.errors import RasterioError
from rasterio.transform import Affine

from common.rasters import is_placed, open_raster

FARTHEST = 0.5  # pixels that the corners of a mask may lie beside those of its image
WORLD_FILES = (".pgw", ".pngw", ".wld", ".tfw", ".tifw")
AUX = ".aux.xml"  # after the name of the picture

Place = tuple[CRS | None, Affine]


def has_world_file(path: Path) -> bool:
    """Whether a file beside a picture says where it lies. Suffixes may be in capitals, as GDAL takes them, too."""
    beside = _world_files(path.parent, path.parent.stat().st_mtime_ns)
    return any((path.stem + suffix).lower() in beside for suffix in WORLD_FILES) or (path.name + AUX).lower() in beside


@functools.lru_cache(maxsize=4)
def _world_files(folder: Path, changed: int) -> frozenset[str]:
    """The names of a folder's world files in lower case. ``changed``: when the folder was, so that none is missed."""
    names = (name.lower() for name in os.listdir(folder))
    return frozenset(name for name in names if name.endswith((*WORLD_FILES, AUX)))


def place_of(path: Path) -> Place | None:
    """Coordinate system and transform of a mask; None if it has no place, or cannot be read."""
    if path.suffix.lower() == ".png" and not has_world_file(path):
        return None
    try:
        with open_raster(path) as src:
            return None if not is_placed(src.transform, src.height) else (src.crs, src.transform)
    except RasterioError:
        return None


def place_problem(image: Place, mask: Place, size: tuple[int, int]) -> str | None:
    """How a mask of ``size`` (rows, columns) lies beside its image, in words; None if it lies on it.

    Masks without a system are taken to be in that of the image.
    """
    rows, columns = size
    corners = np.array([(0, 0), (columns, 0), (0, rows), (columns, rows)], float)
    (crs, grid), (mask_crs, mask_grid) = image, mask
    x = mask_grid.a * corners[:, 0] + mask_grid.b * corners[:, 1] + mask_grid.c
    y = mask_grid.d * corners[:, 0] + mask_grid.e * corners[:, 1] + mask_grid.f
    if crs is not None and mask_crs is not None and crs != mask_crs:
        try:
            x, y = (np.array(of) for of in rasterio.warp.transform(mask_crs, crs, x, y)[:2])
        except RasterioError:
            return "is in a coordinate system that cannot be compared with that of its image"
    back = ~grid
    seen = np.stack([back.a * x + back.b * y + back.c, back.d * x + back.e * y + back.f], axis=1)
    if np.abs(seen - corners).max() <= FARTHEST:
        return None
    if np.abs(seen - [(c, rows - r) for c, r in corners]).max() <= FARTHEST:
        return "is stored from south to north where its image is stored from north to south, or the other way round"
    if not np.isfinite(seen).all():
        return "lies where the coordinate system of its image does not reach"
    right, down = (seen - corners)[0]
    if np.abs((seen - corners) - (seen - corners)[0]).max() <= FARTHEST:
        return f"lies {right:.1f} pixels to the right of its image and {down:.1f} below it"
    return "covers another area than its image, or has pixels of another size"
