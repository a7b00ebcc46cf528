"""Maps of classes as ``predict_map`` writes them, for tests of what reads them."""

import numpy as np
import rasterio.shutil
from rasterio import Affine

from common.rasters import open_raster
from common.taxonomy import BIODIVERSITY
from evaluation.mapping.cog import cog_options
from evaluation.mapping.legend import colormap, legend_files, map_tags

UTM = "EPSG:32633"
NORTH_UP = Affine(0.5, 0, 500_000, 0, -0.5, 5_000_000)


def write_map(path, ids, *, crs=UTM, transform=NORTH_UP, taxonomy=BIODIVERSITY):
    """Write (H, W) class ids as a tiled GeoTIFF without overviews; returns its path."""
    height, width = ids.shape
    profile = {"driver": "GTiff", "count": 1, "dtype": "uint8", "nodata": 0, "width": width, "height": height}
    with open_raster(path, "w", **profile, crs=crs, transform=transform, tiled=True) as dst:
        dst.write(np.asarray(ids, np.uint8), 1)
        dst.write_colormap(1, colormap(taxonomy))
        dst.update_tags(**map_tags(taxonomy))
    return path


def write_cog(path, ids, taxonomy=BIODIVERSITY):
    """Write (H, W) class ids as a COG with its legend beside it, and ``plain.tif``; returns its path."""
    plain = write_map(path.with_name("plain.tif"), ids, taxonomy=taxonomy)
    rasterio.shutil.copy(plain, path, **cog_options(ids.shape[1], ids.shape[0]))
    for name, content in legend_files(taxonomy, path.name).items():
        path.with_name(name).write_text(content, encoding="utf-8")
    return path
