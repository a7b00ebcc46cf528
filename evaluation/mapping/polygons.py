"""A map of classes as polygons: a GeoPackage with one valid polygon for each patch of a class."""

import os
import shutil
import warnings
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyogrio.raw
import rasterio
import rasterio.warp
import shapely
from pyogrio.errors import DataLayerError, DataSourceError
from rasterio.errors import RasterioError
from rasterio.features import shapes
from rasterio.io import DatasetReader
from rasterio.transform import Affine
from tqdm import tqdm

from common.errors import UserError
from common.rasters import EQUAL_AREA, open_raster, pixel_size, scale_varies
from common.taxonomy import IGNORE_INDEX, Taxonomy
from common.text import some
from evaluation.mapping.legend import polygon_style

LAYER = "classes"
VERSION = "1.3"  # of the GeoPackage standard; GDAL before 3.7 warns of later ones
CORNERS = 250_000  # of the polygons that are written together, about 150 MB
SQUARE_METRES = 10_000  # of a hectare
ROUNDING = 1e-9  # of areas, relative
SQLITE_SIDECARS = ("-wal", "-shm", "-journal")


class Written(NamedTuple):
    """The polygons in a file, the patches that are too small to be in it, and the hectares of these."""

    polygons: int
    left_out: int
    hectares_left_out: float


@dataclass(frozen=True)
class Patches:
    """Some patches of a map, P of them, with their outlines as N corners.

    labels: (P,) uint8 class ids.
    corners: (N, 2) float64 x and y in the coordinate system of the map. The last corner of a ring is its first.
    grid: (N, 2) int64 column and row of the corners, in pixels from the corner of the map.
    rings: (R + 1,) where each ring begins among the corners, and the end of the last.
    members: (P + 1,) where each patch begins among the rings, its outer ring first, and the end of the last.
    """

    labels: np.ndarray
    corners: np.ndarray
    grid: np.ndarray
    rings: np.ndarray
    members: np.ndarray

    def pixels(self) -> np.ndarray:
        """(P,) int64 pixels of each patch."""
        return np.rint(self.areas(self.grid)).astype(np.int64)

    def areas(self, places: np.ndarray) -> np.ndarray:
        """(P,) float64 areas that the patches have if their corners lie at (N, 2) places in another system."""
        return shapely.area(self._polygons(places))

    def polygons(self) -> np.ndarray:
        """(P,) valid polygons; where a ring meets itself in a corner, it is divided there.

        GDAL 3.6 and 3.10 lead no ring twice through a corner; another version may. Nothing else can make the outline
        of a patch invalid, and ``shapely.is_valid`` takes minutes for one with thousands of holes.
        """
        polygons, touching = self._polygons(self.corners), self._touching()
        if touching.any():
            polygons[touching] = shapely.make_valid(polygons[touching], method="structure", keep_collapsed=False)
        return polygons

    def _polygons(self, places: np.ndarray) -> np.ndarray:
        places = np.ascontiguousarray(places, np.float64)
        return shapely.from_ragged_array(shapely.GeometryType.POLYGON, places, (self.rings, self.members))

    def _touching(self) -> np.ndarray:
        """(P,) bool, whether a patch has a ring that goes through a corner more than once."""
        ring = np.repeat(np.arange(len(self.rings) - 1), np.diff(self.rings))
        stops = np.delete(np.column_stack([ring, self.grid]), self.rings[1:] - 1, axis=0)
        stops = stops[np.lexsort(stops.T)]
        again = stops[1:][(stops[1:] == stops[:-1]).all(axis=1), 0]
        touching = np.zeros(len(self.labels), bool)
        touching[np.searchsorted(self.members, again, side="right") - 1] = True
        return touching


def write_polygons(map_path: Path, out: Path, taxonomy: Taxonomy, min_area: float | None = None) -> Written:
    """Write a GeoPackage with a polygon for each patch of a class, with its class, hectares and number of pixels.

    A patch is what hangs together by the sides of pixels; void has none. Polygons cover exactly the pixels of their
    patches. hectares is null if the map does not say how large its pixels are; if their size depends on the latitude
    (geographic systems, Mercator), it is the area on the WGS 84 ellipsoid at the patch's own latitude. The file also
    holds the colours, as QGIS reads them.

    The map is read by rows, and the polygons are written by parts, but GDAL holds the outlines of all patches in
    memory: some 300 bytes for each patch and 24 for each corner, so that a map of speckles needs much.

    Args:
        min_area: in square metres; a smaller patch is left out, and nothing takes its place.

    Raises:
        UserError: the map cannot be read or has ids that are no class, ``min_area`` is given for a map without a
            scale, or the file cannot be written.
    """
    try:
        with open_raster(map_path) as src:
            return _write_polygons(src, map_path, out, taxonomy, min_area)
    except RasterioError as error:
        raise UserError(f"{map_path}: cannot be read as TIFF ({error}). Make the map again.") from None


def _write_polygons(
    src: DatasetReader, map_path: Path, out: Path, taxonomy: Taxonomy, min_area: float | None
) -> Written:
    if min_area is not None and pixel_size(src) is None:
        raise UserError(
            f"{map_path} does not say how large its pixels are, so that no area in square metres can be compared with "
            "--min-area. Leave --min-area out, or make the map of an image with a coordinate system."
        )
    expected = _count(src, map_path, taxonomy)
    progress = tqdm(total=int(expected.sum()), desc="polygons", unit="px", unit_scale=True)
    with _new_geopackage(out) as path, progress as bar:
        layer = _Layer(path, src, taxonomy)
        for patches in _patches(src):
            layer.add(patches, min_area or 0.0)
            bar.update(int(layer.pixels.sum()) - bar.n)
        if not np.array_equal(layer.pixels, expected):  # GDAL's errors do not reach us while it follows the outlines
            raise UserError(
                f"{map_path}: its polygons hold {layer.pixels.sum():,} pixels, but it has {expected.sum():,} of a "
                "class: memory ran out, or the file changed meanwhile. Close other programs, then run this again."
            )
        layer.add_style()
    return Written(layer.polygons, layer.left_out, layer.hectares_left_out)


class _Layer:
    """The layer of polygons in a GeoPackage that grows, and what went into it.

    pixels: (C,) int64 pixels of each class in all patches that were added, those left out too.
    """

    def __init__(self, path: Path, src: DatasetReader, taxonomy: Taxonomy) -> None:
        self._path, self._src, self._taxonomy = path, src, taxonomy
        self.pixels = np.zeros(taxonomy.num_classes, np.int64)
        self.polygons, self.left_out, self.hectares_left_out = 0, 0, 0.0
        self._append(np.array([], object), np.array([], np.uint8), np.array([]), np.array([], np.int64))

    def add(self, patches: Patches, min_area: float) -> None:
        """Write the patches that have so many square metres, or whose size is not known."""
        pixels, hectares = patches.pixels(), _hectares(patches, self._src)
        keep = ~(hectares * SQUARE_METRES < min_area * (1 - ROUNDING))
        self._append(patches.polygons()[keep], patches.labels[keep], hectares[keep], pixels[keep])
        np.add.at(self.pixels, patches.labels, pixels)
        self.polygons += int(np.count_nonzero(keep))
        self.left_out += int(np.count_nonzero(~keep))
        self.hectares_left_out += float(hectares[~keep].sum())

    def _append(self, polygons: np.ndarray, labels: np.ndarray, hectares: np.ndarray, pixels: np.ndarray) -> None:
        names = np.array(self._taxonomy.classes, object)[labels]
        columns = {"class_id": labels.astype(np.int32), "class": names, "hectares": hectares, "pixels": pixels}
        crs = self._src.crs
        _write(
            self._path,
            columns,
            layer=LAYER,
            geometry=shapely.to_wkb(polygons),
            geometry_type="Polygon",
            crs=crs.to_wkt() if crs is not None else None,
            layer_options={"SRID": -1} if crs is None else None,
        )

    def add_style(self) -> None:
        """Write the colours of the classes into the table in which QGIS looks for them."""
        row = {
            "f_table_catalog": "",
            "f_table_schema": "",
            "f_table_name": LAYER,
            "f_geometry_column": "geom",
            "styleName": LAYER,
            "styleQML": polygon_style(self._taxonomy, "class_id"),
            "styleSLD": "",
            "useAsDefault": True,
            "description": "Colours of the classes",
            "owner": "",
        }
        columns = {name: np.array([value], bool if value is True else object) for name, value in row.items()}
        columns["update_time"] = np.array(["NaT"], "datetime64[ms]")  # QGIS finds no style without this column
        _write(self._path, columns, layer="layer_styles", geometry=None)


def _write(path: Path, columns: dict[str, np.ndarray], **settings: Any) -> None:
    """Append rows to a layer of a GeoPackage, which is made if it is not there."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "'crs' was not provided", UserWarning)
        pyogrio.raw.write(
            path,
            field_data=[*columns.values()],
            fields=[*columns],
            driver="GPKG",
            append=path.exists(),
            dataset_options={"VERSION": VERSION},
            **settings,
        )


def _count(src: DatasetReader, map_path: Path, taxonomy: Taxonomy) -> np.ndarray:
    """(C,) int64 pixels of each class of a map, 0 for void.

    Raises:
        UserError: the map has other ids.
        RasterioError: it is damaged.
    """
    pixels = np.zeros(256, np.int64)
    for _, window in src.block_windows(1):
        pixels += np.bincount(src.read(1, window=window).ravel(), minlength=256)
    strangers = np.flatnonzero(pixels[taxonomy.num_classes :]) + taxonomy.num_classes
    if len(strangers):
        raise UserError(
            f"{map_path}: found ids {some([str(label) for label in strangers])}, expected 0 to "
            f"{taxonomy.num_classes - 1}. Make the map again, with the classes of this root."
        )
    pixels[IGNORE_INDEX] = 0
    return pixels[: taxonomy.num_classes]


def _patches(src: DatasetReader) -> Iterator[Patches]:
    """All patches of a map, some at a time. Void, which is 0, masks itself."""
    band = rasterio.band(src, 1)
    outlines: list[tuple[int, list[list[tuple[float, float]]]]] = []
    corners = 0
    for geometry, label in shapes(band, mask=band, connectivity=4):
        outlines.append((int(label), geometry["coordinates"]))
        corners += sum(map(len, geometry["coordinates"]))
        if corners >= CORNERS:
            yield _joined(outlines, src.transform)
            outlines, corners = [], 0
    if outlines:
        yield _joined(outlines, src.transform)


def _joined(outlines: list[tuple[int, list[list[tuple[float, float]]]]], grid: Affine) -> Patches:
    rings = [ring for _, patch in outlines for ring in patch]
    corners = np.array([corner for ring in rings for corner in ring], np.float64)
    (x, y), determinant = (corners - (grid.c, grid.f)).T, grid.a * grid.e - grid.b * grid.d
    columns, rows = (grid.e * x - grid.b * y) / determinant, (grid.a * y - grid.d * x) / determinant
    return Patches(
        labels=np.array([label for label, _ in outlines], np.uint8),
        corners=corners,
        grid=np.rint(np.column_stack([columns, rows])).astype(np.int64),
        rings=np.cumsum([0, *map(len, rings)]),
        members=np.cumsum([0, *(len(patch) for _, patch in outlines)]),
    )


def _hectares(patches: Patches, src: DatasetReader) -> np.ndarray:
    """(P,) float64 area of each patch, NaN if the size of a pixel is not known."""
    size = pixel_size(src)
    if size is None:
        return np.full(len(patches.labels), np.nan)
    if scale_varies(src.crs):
        metres = rasterio.warp.transform(src.crs, EQUAL_AREA, *patches.corners.T.tolist())
        return patches.areas(np.column_stack(metres)) / SQUARE_METRES
    return patches.pixels() * (size[0] * size[1] / SQUARE_METRES)


@contextmanager
def _new_geopackage(out: Path) -> Generator[Path]:
    """Give a path to write a GeoPackage at, which takes the place of ``out`` when the block ends well.

    It lies in a folder of its own, with what SQLite and a killed run put beside it.
    """
    folder = out.with_name(f".{out.name}.partial")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    path = folder / "polygons.gpkg"
    try:
        yield path
        with open(path, "rb") as file:
            os.fsync(file.fileno())
        for suffix in SQLITE_SIDECARS:  # of an earlier file: SQLite would take them for those of this one
            out.with_name(out.name + suffix).unlink(missing_ok=True)
        os.replace(path, out)
    except (DataSourceError, DataLayerError) as error:
        raise UserError(f"{out} cannot be written ({error}). Make room, or choose another place.") from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)
