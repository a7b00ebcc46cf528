"""The tile sets that a check for leakage compares, and what is read of their files."""

import argparse
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
from rasterio.errors import RasterioError

from common.bands import three_bands
from common.cli import map_progress
from common.errors import UserError
from common.files import sha256_file
from common.ground import world_bounds
from common.inputs import Command, Input
from common.rasters import georeference, open_raster, read_mask
from common.taxonomy import OPENEARTHMAP, load_taxonomy
from common.tiles import Tile, TileSet
from data_prep.resemblance.pictures import thumbnail
from data_prep.resemblance.windows import anchors

PARENTS = {
    "train_rep": ["train"],
    "OEM relabelled": ["OEM filtered"],
    "OEM teacher train": ["OEM filtered"],
    "OEM teacher val": ["OEM filtered"],
    "combined": ["train", "OEM relabelled"],
}
SAME_LOCATION = 0.01  # pixels: the rounding of a location that was written to a file and read back
SAME_LOCATION_ON_EARTH = 1.0  # pixels, where the file writes the system in other words


class ImageLook(NamedTuple):
    """What a file of images/ holds. ``location``: what ``georeference`` returns, with height and width."""

    path: Path
    sha256: str
    content: str = ""
    location: dict = {}
    bands: int = 0
    is_blank: bool = False
    anchors: np.ndarray | None = None
    thumbnail: np.ndarray | None = None


class MaskLook(NamedTuple):
    """What a file of masks/ holds. ``counts``: pixels of each id, up to the highest a file can hold."""

    sha256: str
    size: tuple[int, ...] = ()
    counts: tuple[int, ...] = ()


@dataclass(frozen=True)
class Part:
    """A tile set and its name in this report.

    role: train, val or test of Biodiversity, or openearthmap. looks: of each tile, once read.
    """

    name: str
    role: str
    tiles: TileSet
    looks: dict[str, tuple[ImageLook, MaskLook]] = field(default_factory=dict)

    def image(self, tile: Tile) -> ImageLook:
        return self.looks[tile.id][0]

    def mask(self, tile: Tile) -> MaskLook:
        return self.looks[tile.id][1]

    def locations(self) -> list[dict]:
        """Where each tile lies, by its file; one that cannot be read has no location."""
        nowhere = {"crs": None, "bounds": None}
        return [{**nowhere, **self.image(tile).location, "source": tile.entry.get("source")} for tile in self.tiles]


def open_parts(args: argparse.Namespace) -> dict[str, Part]:
    """The tile sets by name: train, val and test, and those of the others that exist.

    ``args``: of check_leakage.

    Raises:
        UserError: one of the first three is missing, or a set differs from its manifest or has other classes.
    """
    taxonomy = load_taxonomy(args.root)
    replicate = Command.of("data_prep.replicate_minority", args.root)
    sources = [
        ("train", "train", args.split_dir / "train", taxonomy),
        ("val", "val", args.split_dir / "val", taxonomy),
        ("test", "test", args.split_dir / "test", taxonomy),
        ("train_rep", "train", Input(args.split_dir.path / "train_rep", replicate, args.split_dir.flag), taxonomy),
        ("combined", "train", args.combined_dir, taxonomy),
        ("OEM filtered", "openearthmap", args.filtered_dir, OPENEARTHMAP),
        ("OEM relabelled", "openearthmap", args.relabelled_dir, taxonomy),
        ("OEM teacher train", "openearthmap", args.teacher_dir / "train", OPENEARTHMAP),
        ("OEM teacher val", "openearthmap", args.teacher_dir / "val", OPENEARTHMAP),
    ]
    return {
        name: Part(name, role, TileSet.open(source).require_taxonomy(classes))
        for name, role, source, classes in sources
        if name in ("train", "val", "test") or source.path.exists()
    }


def look_at_image(path: Path) -> ImageLook:
    """Read an image once for all that is asked of it; only its hash is known of one that cannot be read."""
    digest = sha256_file(path)
    try:
        with open_raster(path, sidecars=False) as src:
            image, location = src.read(), georeference(src)
    except RasterioError:
        return ImageLook(path, digest)
    content = hashlib.sha256(np.ascontiguousarray(image).data).hexdigest()
    location |= {"height": image.shape[1], "width": image.shape[2]}
    if image.dtype != np.uint8:
        return ImageLook(path, digest, content, location, len(image))
    blank = bool((image == image[:, :1, :1]).all())
    seen = three_bands(image)  # that images of other bands have, too
    return ImageLook(path, digest, content, location, len(image), blank, anchors(seen), thumbnail(seen))


def look_at_mask(path: Path) -> MaskLook:
    """Read a mask; only its hash is known of one that cannot be read."""
    digest = sha256_file(path)
    try:
        mask = read_mask(path)
    except UserError:
        return MaskLook(digest)
    if mask.dtype != np.uint8:
        return MaskLook(digest)
    return MaskLook(digest, mask.shape, tuple(np.bincount(mask.ravel(), minlength=256).tolist()))


def look(path: Path) -> ImageLook | MaskLook:
    """What an image or a mask file holds."""
    return look_at_image(path) if path.suffix == ".tif" else look_at_mask(path)


def look_at_files(parts: dict[str, Part], workers: int) -> None:
    """Fill ``looks`` of all parts; hard links are one file, and read once."""
    files, of_tile = {}, {}
    for name, part in parts.items():
        for tile in part.tiles:
            for path in (tile.image_path, tile.mask_path):
                status = path.stat()
                key = status.st_dev, status.st_ino, path.suffix
                files.setdefault(key, path)
                of_tile.setdefault((name, tile.id), []).append(key)
    results = map_progress(look, files.values(), workers=workers, desc="Reading", unit="file")
    looks = dict(zip(files, results, strict=True))
    for (name, tile_id), keys in of_tile.items():
        parts[name].looks[tile_id] = cast(tuple[ImageLook, MaskLook], tuple(looks[key] for key in keys))


def finding(kind: str, sets: list[str], count: int, text: str) -> dict:
    """An entry of the report."""
    return {"kind": kind, "sets": sets, "count": count, "text": text}


def read_location(path: Path) -> dict | None:
    """Where a raw image lies, with its size in pixels; None if it cannot be read."""
    try:
        with open_raster(path) as src:
            return {**georeference(src), "height": src.height, "width": src.width}
    except RasterioError:
        return None


def is_elsewhere(location: dict, other: dict) -> bool:
    """Whether two records of where one tile lies, with its size, contradict one another by more than rounding."""
    if (location.get("height"), location.get("width")) != (other.get("height"), other.get("width")):
        return True
    bounds, other_bounds = location.get("bounds"), other.get("bounds")
    if bounds is None or other_bounds is None:
        return bounds is not other_bounds
    if location["crs"] != other["crs"]:
        on_earth = world_bounds(location["crs"], tuple(bounds))
        other_on_earth = world_bounds(other["crs"], tuple(other_bounds))
        if on_earth and other_on_earth:  # systems that lie nowhere on earth are told apart by their numbers alone
            return _differ(on_earth, other_on_earth, location, SAME_LOCATION_ON_EARTH)
    return _differ(bounds, other_bounds, location, SAME_LOCATION)


def _differ(bounds: Sequence[float], other: Sequence[float], size: dict, pixels: float) -> bool:
    """Whether two bounds differ by more than so many pixels of a tile with this height and width."""
    left, bottom, right, top = bounds
    slack = pixels * max((right - left) / size["width"], (top - bottom) / size["height"])
    return max(abs(a - b) for a, b in zip(bounds, other, strict=True)) > slack
