"""The raster that is mapped: one file, or a folder of tiles that fit into one grid; read by rows, scaled to 8 bit."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS
from rasterio.errors import RasterioError
from rasterio.io import DatasetReader
from rasterio.transform import Affine
from rasterio.windows import Window

from common.errors import UserError
from common.rasters import is_placed, open_quietly, pixel_size
from common.raw_images import (
    SAMPLE_PER_TILE,
    Ranges,
    Reading,
    band_count,
    bands_problem,
    chosen_reading,
    colors_of,
    measured_type,
    percentile_ranges,
    read_bands,
    require_real,
    to_8bit,
)

SUFFIXES = (".tif", ".tiff", ".vrt", ".jp2", ".img")
MOST_OPEN = 100  # files at once
OFF_GRID = 0.05  # pixels by which a tile may lie beside the grid of the others, as rounded coordinates do
PIXELS_AT_ONCE = 2**22  # of a band that are read in one go, or a row of the file's own blocks if that is more


class Scaling(NamedTuple):
    """What a network sees of a raster: how it is read, and the range of each band that becomes 0-255, None in 8 bit."""

    reading: Reading
    ranges: Ranges | None


class Piece(NamedTuple):
    """A file of the raster: where its upper left pixel lies, and its size."""

    path: Path
    top: int
    left: int
    height: int
    width: int


@dataclass(frozen=True)
class Place:
    """Where a raster lies on earth; ``points`` are its ground control points, in ``crs``, if it has no transform."""

    crs: CRS | None
    transform: Affine
    points: Sequence[GroundControlPoint] = ()

    @property
    def profile(self) -> dict:
        """What rasterio takes to write a raster of the same place."""
        if self.points:
            return {"gcps": list(self.points), "crs": self.crs}
        return {} if not is_placed(self.transform) else {"crs": self.crs, "transform": self.transform}


def _files(path: Path) -> list[Path]:
    """The files of a raster. Raises UserError if there is none."""
    if path.is_dir():
        found = sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))
        if not found:
            raise UserError(f"--image {path}: the folder holds no raster ({', '.join(SUFFIXES)}).")
        return found
    if not path.exists():
        raise UserError(f"--image {path} does not exist. Give a raster (GeoTIFF, VRT, ...), or a folder of tiles.")
    return [path]


class Raster:
    """A raster of any size. Use it as a context manager, and read it from one thread at a time."""

    def __init__(self, path: Path, bands: list[int], alpha: str = "auto", trained: Path | None = None) -> None:
        """Open a raster.

        Args:
            path: a file that GDAL reads, or a folder of them that are tiles of one grid.
            bands, alpha: what --bands and --alpha say.
            trained: the checkpoint that says the bands, where --bands does not.

        Raises:
            UserError: it is missing or damaged, lacks a band, holds complex numbers, or its tiles do not make one
                raster.
        """
        self.path = path
        self._whose = f" {trained} was trained on these." if trained else ""
        self._open: dict[Path, DatasetReader] = {}
        files = _files(path)
        self.reading = chosen_reading(bands, alpha, files)
        self.bands = self.reading.bands
        first = self._dataset(files[0])
        few = bands_problem(band_count(first), self.bands, first.subdatasets)
        if few:
            raise UserError(f"{files[0]}: {few}.{self._whose}")
        self.dtype = measured_type(first, self.bands)
        self.band_count = band_count(first)
        self.colors = colors_of(first, self.bands)
        points, their_crs = first.gcps
        self.place = Place(their_crs or first.crs, first.transform, points if first.transform.is_identity else ())
        self.pieces = self._fit(files)
        self.height = max(piece.top + piece.height for piece in self.pieces)
        self.width = max(piece.left + piece.width for piece in self.pieces)
        self.pixel_size = pixel_size(first)

    def __enter__(self) -> "Raster":
        return self

    def __exit__(self, *_: object) -> None:
        for src in self._open.values():
            src.close()
        self._open.clear()

    def _dataset(self, path: Path) -> DatasetReader:
        if path not in self._open:
            if len(self._open) >= MOST_OPEN:
                self._open.pop(next(iter(self._open))).close()
            try:
                self._open[path] = open_quietly(path)
            except RasterioError as error:
                raise UserError(f"{path}: cannot be read as a raster ({error}).") from None
        return self._open[path]

    def _close_above(self, row: int) -> None:
        """Close the files that end above a row."""
        for piece in self.pieces:
            if piece.top + piece.height <= row and piece.path in self._open:
                self._open.pop(piece.path).close()

    def _fit(self, files: Sequence[Path]) -> list[Piece]:
        """The files as pieces of one grid, and the raster's transform that of its upper left corner."""
        found = []
        grid, crs = self.place.transform, self.place.crs
        for path in files:
            src = self._dataset(path)
            require_real(src)
            few = bands_problem(band_count(src), self.bands, src.subdatasets)
            if few:
                raise UserError(f"{path}: {few}.{self._whose}")
            row = column = 0
            if len(files) > 1:
                if not is_placed(src.transform):
                    raise UserError(f"{path}: has no place on earth, so that it cannot be put beside other tiles.")
                own = src.transform
                apart = np.abs(np.subtract((own.a, own.b, own.d, own.e), (grid.a, grid.b, grid.d, grid.e))).max()
                drift = apart * max(src.width, src.height) / max(abs(grid.a), abs(grid.b))
                if src.crs != crs or drift > OFF_GRID:
                    raise UserError(
                        f"{path}: has another coordinate system or pixel size than {files[0].name}, so that they make "
                        "no one raster. Bring them to one grid (rio warp), or map them one by one."
                    )
                dtype = measured_type(src, self.bands)
                if dtype != self.dtype:
                    raise UserError(f"{path}: is {dtype}, but {files[0].name} is {self.dtype}.")
                column, row = _times(~grid, own.c, own.f)
                if max(abs(column - round(column)), abs(row - round(row))) > OFF_GRID:
                    raise UserError(
                        f"{path}: lies {column - round(column):+.2f}, {row - round(row):+.2f} pixels beside the grid "
                        f"of {files[0].name}. Bring them to one grid (rio warp), or map them one by one."
                    )
            found.append(Piece(path, round(row), round(column), src.height, src.width))
            if path != files[0]:
                self._open.pop(path).close()
        top, left = min(piece.top for piece in found), min(piece.left for piece in found)
        if top or left:
            c, f = _times(grid, left, top)
            self.place = Place(crs, Affine(grid.a, grid.b, c, grid.d, grid.e, f))
        return [piece._replace(top=piece.top - top, left=piece.left - left) for piece in found]

    def read(self, top: int, bottom: int, scalings: Sequence[Scaling]) -> tuple[list[np.ndarray], np.ndarray]:
        """Rows of the raster as networks see them; of overlapping tiles the first by name counts.

        Args:
            top, bottom: the first row, and the first one below.
            scalings: of the networks.

        Returns:
            For each scaling (B, rows, width) uint8, 0 where there is no data; (rows, width) bool, where there is.

        Raises:
            UserError: the file is damaged, or gone.
        """
        images = [np.zeros((len(s.reading.bands), bottom - top, self.width), np.uint8) for s in scalings]
        valid = np.zeros((bottom - top, self.width), bool)
        self._close_above(top)
        for piece in reversed(self.pieces):
            start, stop = max(top, piece.top), min(bottom, piece.top + piece.height)
            if start >= stop:
                continue
            src = self._dataset(piece.path)
            for window in _chunks(src, start - piece.top, stop - piece.top):
                rows = slice(window.row_off + piece.top - top, window.row_off + window.height + piece.top - top)
                columns = slice(window.col_off + piece.left, window.col_off + window.width + piece.left)
                parts = [image[:, rows, columns] for image in images]
                self._read_window(piece, src, window, scalings, parts, valid[rows, columns])
        return images, valid

    def _read_window(
        self,
        piece: Piece,
        src: DatasetReader,
        window: Window,
        scalings: Sequence[Scaling],
        images: list[np.ndarray],
        valid: np.ndarray,
    ) -> None:
        reading, pixels, shown = None, np.zeros(0), np.zeros(0, bool)
        everywhere = np.ones((window.height, window.width), bool)
        scaled = []
        for scaling in scalings:
            if scaling.reading != reading:
                try:
                    reading = scaling.reading
                    pixels, shown = read_bands(src, reading, window)
                except RasterioError as error:
                    problem = f"{piece.path}: cannot be read ({error}). Restore it, and go on with --resume."
                    raise UserError(problem) from None
            scaled.append(to_8bit(pixels, shown, scaling.ranges))
            everywhere &= shown
        alone = everywhere.all()
        for image, of_scaling in zip(images, scaled, strict=True):
            if alone:
                image[:] = of_scaling
            else:
                np.copyto(image, of_scaling, where=everywhere)
        valid |= everywhere

    def own_ranges(self) -> Ranges:
        """The range of each of its bands, computed as for a tile: from valid pixels on a regular grid.

        Raises UserError if it has no valid pixel.
        """
        step = max(1, math.ceil(math.sqrt(self.height * self.width / SAMPLE_PER_TILE)))
        samples = []
        for row in range(step // 2, self.height, step):
            for piece in self.pieces:
                if piece.top <= row < piece.top + piece.height:
                    src = self._dataset(piece.path)
                    window = Window(0, row - piece.top, piece.width, 1)
                    pixels, valid = read_bands(src, self.reading, window)
                    on_grid = (np.arange(piece.width) + piece.left) % step == step // 2
                    samples.append(pixels[:, valid & on_grid[None]].astype(np.float32))
            self._close_above(row)
        found = np.concatenate(samples, axis=1) if samples else np.zeros((len(self.bands), 0))
        if not found.size:
            raise UserError(f"--image {self.path}: has no pixel with data on a grid of {step} pixels.")
        return percentile_ranges(found)

    def describe(self) -> str:
        """Its size and type in a few words."""
        files = f"{len(self.pieces)} tiles, " if len(self.pieces) > 1 else ""
        return f"{files}{self.width:,} x {self.height:,} pixels, {self.band_count} bands of {self.dtype}"

    def identity(self) -> list:
        """What tells it from another raster without reading it: all files it is made of, sizes and times of change."""
        files = {Path(name) for piece in self.pieces for name in (piece.path, *self._dataset(piece.path).files)}
        stats = [(path, path.stat()) for path in sorted(files) if path.exists()]
        return [[str(path.resolve()), stat.st_size, stat.st_mtime_ns] for path, stat in stats]

    @property
    def raw_pixels(self) -> int:
        """Pixels that are read to see all of it."""
        return self.height * self.width


def _times(grid: Affine, x: float, y: float) -> tuple[float, float]:
    return grid.a * x + grid.b * y + grid.c, grid.d * x + grid.e * y + grid.f


def _chunks(src: DatasetReader, top: int, bottom: int) -> list[Window]:
    """Windows that cover the rows of a file along its own blocks, so that each block is decoded once."""
    block_height, block_width = src.block_shapes[0]
    if block_width >= src.width:
        step = max(block_height, PIXELS_AT_ONCE // src.width // block_height * block_height)
        cuts = [top, *range((top // step + 1) * step, bottom, step), bottom]
        return [Window(0, a, src.width, b - a) for a, b in itertools.pairwise(cuts)]
    step = max(block_width, PIXELS_AT_ONCE // (bottom - top) // block_width * block_width)
    return [Window(left, top, min(step, src.width - left), bottom - top) for left in range(0, src.width, step)]
