"""What evaluation.predict_map writes beside a map: what made it, and how much of it each class covers."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rasterio.warp
import shapely

from common.files import read_json
from common.inputs import Input
from common.rasters import EQUAL_AREA, pixel_size_at, scale_varies
from common.schema import is_count, is_number, is_object, is_share, is_text, list_of, misfit, optional
from common.taxonomy import IGNORE_INDEX, Taxonomy, taxonomy_from_json
from evaluation.mapping.raster import Place

AREAS_BETWEEN = 256  # pieces in which the area of a pixel is taken to change evenly from row to row
MAP_FORM = {
    **dict.fromkeys(("map", "command", "image"), is_text),
    "checkpoints": list_of(
        {**dict.fromkeys(("path", "stage", "digest"), is_text), **dict.fromkeys(("seed", "step"), is_count)}
    ),
    "taxonomy": is_object,
    "gsd": optional(is_number),
    **dict.fromkeys(("height", "width"), is_count),
    "pixels": list_of(is_count),
    "square_metres": optional(list_of(lambda value: is_number(value) and value >= 0)),
    "mean_confidence": optional(is_share),
}


@dataclass(frozen=True)
class MapCheckpoint:
    """A network that made a map; ``digest`` is that of its tensors, ``path`` where it lay."""

    path: str
    stage: str
    seed: int
    digest: str
    step: int

    @property
    def name(self) -> str:
        return f"{self.stage} seed {self.seed} {Path(self.path).name}"


@dataclass(frozen=True)
class MapRecord:
    """A map's record.

    Attributes:
        source: the file that holds it.
        checkpoints: the networks, several for a map by the mean of their probabilities.
        gsd: pixel size in metres; None if it is not known.
        pixels: (C,) int64 by class id, void first.
        square_metres: (C,) float64 by class id; None if the pixel size is not known.
        mean_confidence: largest probability of a pixel, mean over those that are not void.
    """

    source: Input
    map: str
    command: str
    image: str
    checkpoints: list[MapCheckpoint]
    taxonomy: Taxonomy
    gsd: float | None
    height: int
    width: int
    pixels: np.ndarray
    square_metres: np.ndarray | None
    mean_confidence: float | None

    @property
    def mapped(self) -> int:
        """Pixels that are not void."""
        return int(self.pixels.sum() - self.pixels[IGNORE_INDEX])

    @classmethod
    def beside(cls, map_path: Input) -> "MapRecord":
        """The record of a map: ``map.json`` for ``map.tif``; UserError if it is missing, broken or something else."""
        return cls.load(Input(map_path.path.with_suffix(".json"), map_path.made_by, map_path.flag))

    @classmethod
    def load(cls, source: Input) -> "MapRecord":
        """Read a record; UserError if it is missing, broken or something else."""
        content = read_json(source)
        problem = misfit(content, MAP_FORM)
        if problem:
            raise source.unusable(f"{source} is not the record of a map: {problem}")
        taxonomy = taxonomy_from_json(content["taxonomy"], source.path)
        pixels, metres = content["pixels"], content["square_metres"]
        area, problems = content["height"] * content["width"], []
        for name, values in (("pixels", pixels), ("square_metres", metres)):
            if values is not None and len(values) != taxonomy.num_classes:
                problems.append(f"{name} of {len(values)} classes, expected {taxonomy.num_classes}")
        if sum(pixels) != area:
            problems.append(f"{sum(pixels):,} pixels, but its height and width say {area:,}")
        if not content["checkpoints"]:
            problems.append("no checkpoint")
        if problems:
            raise source.unusable(f"{source} has {problems[0]}")
        known = {key: content[key] for key in ("map", "command", "image", "gsd", "height", "width", "mean_confidence")}
        checkpoints = [{key: of[key] for key in MapCheckpoint.__annotations__} for of in content["checkpoints"]]
        return cls(
            source=source,
            checkpoints=[MapCheckpoint(**of) for of in checkpoints],
            taxonomy=taxonomy,
            pixels=np.array(pixels, np.int64),
            square_metres=None if metres is None else np.array(metres, np.float64),
            **known,
        )


def pixel_areas(place: Place, height: int, width: int) -> np.ndarray | None:
    """(height,) float64 square metres of a pixel in each row; None where its size is not known.

    Where it depends on the latitude it is that of the pixel in the middle, on the WGS 84 ellipsoid.
    """
    size = pixel_size_at(place.crs, place.transform, width / 2, height / 2)
    if size is None or place.crs is None:
        return None
    if not scale_varies(place.crs):
        return np.full(height, size[0] * size[1])
    rows = np.unique(np.linspace(0, height - 1, min(height, AREAS_BETWEEN + 1)).round())
    grid, (across, down) = place.transform, np.array([(-0.5, 0), (0.5, 0), (0.5, 1), (-0.5, 1)]).T
    columns, lines = width / 2 + across[None], rows[:, None] + down
    x, y = grid.a * columns + grid.b * lines + grid.c, grid.d * columns + grid.e * lines + grid.f
    metres = rasterio.warp.transform(place.crs, EQUAL_AREA, x.ravel().tolist(), y.ravel().tolist())
    corners = np.stack([np.reshape(of, x.shape) for of in metres[:2]], axis=-1)
    return np.interp(np.arange(height), rows, shapely.area(shapely.polygons(corners)))
