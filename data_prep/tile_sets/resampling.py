"""Ground sampling distance: comparing that of two tile sets, and bringing tiles to another."""

import contextlib
import json
from pathlib import Path

import numpy as np
from PIL import Image
from rasterio.errors import RasterioError
from rasterio.transform import Affine

from common.cli import Parser, positive_float
from common.errors import UserError
from common.files import MANIFEST
from common.folds import FOLDS, study_root
from common.rasters import DAMAGED, georeference, open_raster, pixel_size, write_image, write_mask
from common.raw_images import LARGEST_TILE
from common.taxonomy import Taxonomy
from common.text import some, warn
from common.tiles import Tile, TileSet
from data_prep.raw.pairs import Patterns, raw_images, recorded_patterns
from data_prep.tile_sets.writer import describe_tile

FAR_APART = 1.5
SMALLEST_SIDE = 32  # pixels, the smallest crop


def add_gsd(parser: Parser) -> None:
    """Add --gsd, which is None if tiles stay as they are, and --raw-dir, with which ``compare_gsd`` compares."""
    help = "raw Biodiversity tiles to compare resolutions with, if they are there"
    parser.add_path("--raw-dir", "data/biodiversity_raw", help, shared=True)
    parser.add_argument(
        "--gsd",
        type=positive_float,
        metavar="METRES",
        help="resample to this ground sampling distance; masks by nearest neighbour (default: as they are)",
    )


def resample(image: np.ndarray, mask: np.ndarray, factors: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    """A (3, H, W) uint8 image and (H, W) uint8 mask with ``factors`` times as many rows and columns.

    Images are averaged over each new pixel's footprint when they shrink and interpolated when they grow; masks take
    the nearest pixel, so that no id is made up.
    """
    height, width = (max(1, round(side * factor)) for side, factor in zip(mask.shape, factors, strict=True))
    colors = Image.fromarray(np.ascontiguousarray(np.moveaxis(image, 0, -1)))
    colors = colors.resize((width, height), Image.Resampling.BILINEAR)
    ids = Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST)
    return np.moveaxis(np.asarray(colors), -1, 0), np.asarray(ids)


def write_resampled(
    tile: Tile, mask: np.ndarray, gsd: float, image_path: Path, mask_path: Path, taxonomy: Taxonomy
) -> dict:
    """Write a tile at another ground sampling distance, its location kept; returns its manifest entry.

    Args:
        tile: where the image comes from.
        mask: (H, W) uint8 in ``taxonomy``, in the size of the tile's image.
        gsd: metres.
    """
    with open_raster(tile.image_path) as src:
        crs, grid, size = src.crs, src.transform, pixel_size(src)
    if size is None:
        raise UserError(f"{tile.image_path}: does not say the size of its pixels, though its manifest does. {DAMAGED}")
    height, width = mask.shape
    image, mask = resample(tile.read_image(), mask, (size[1] / gsd, size[0] / gsd))
    wider, higher = width / mask.shape[1], height / mask.shape[0]
    scaled = Affine(grid.a * wider, grid.b * higher, grid.c, grid.d * wider, grid.e * higher, grid.f)
    write_image(image_path, image, crs=crs, transform=scaled)
    write_mask(mask_path, mask)
    location = {"crs": tile.entry["crs"], "bounds": tile.entry["bounds"], "gsd": gsd}
    kept = {key: tile.entry[key] for key in ("block", "unit", "region", "source") if key in tile.entry}
    return {**describe_tile(image, mask, image_path, mask_path, location, taxonomy.num_classes), **kept}


def require_gsd(tiles: TileSet, gsd: float | None) -> None:
    """Refuse to resample tiles whose ground sampling distance is not known, or to sizes that are of no use.

    ``gsd``: metres; None if nothing is resampled.
    """
    unknown = [tile.id for tile in tiles if not tile.entry["gsd"]] if gsd else []
    if unknown:
        raise UserError(
            f"--gsd {gsd:g}: {tiles.path} has {len(unknown)} tiles of unknown ground sampling distance "
            f"({some(unknown)}). Georeference them, or leave --gsd out."
        )
    for tile in tiles if gsd else ():
        height, width = (side * tile.entry["gsd"] / gsd for side in (tile.entry["height"], tile.entry["width"]))
        if min(height, width) < SMALLEST_SIDE or height * width > LARGEST_TILE:
            raise UserError(
                f"--gsd {gsd:g} would make {tile.id} of {tiles.path}, at {tile.entry['gsd']:g} m, a tile of "
                f"{width:.4g} x {height:.4g} pixels, expected sides of {SMALLEST_SIDE} or more and at most "
                f"{LARGEST_TILE:,} pixels. Give a --gsd nearer to that of the tiles."
            )


def raw_gsd(raw_dir: Path, root: Path | None = None) -> float | None:
    """Median ground sampling distance in metres of the raw images that tell theirs; None if none does.

    ``root``: the root of the run, whose split says which files the images are; None for images and masks.
    """
    distances = []
    for path in raw_images(raw_dir, split_patterns(root) if root else None).values():
        with contextlib.suppress(RasterioError), open_raster(path) as src:
            distances.append(georeference(src)["gsd"])
    known = [distance for distance in distances if distance]
    return float(np.median(known)) if known else None


def split_patterns(root: Path) -> Patterns | None:
    """By what patterns the split of a run, or of one of its folds, found the raw tiles; None if by none, or unknown."""
    study = study_root(root)
    for home in (root, study, *sorted((study / FOLDS).glob("*"))):
        try:
            text = (home / "data/biodiversity_split/train" / MANIFEST).read_text(encoding="utf-8")
            return recorded_patterns(json.loads(text))
        except (OSError, ValueError, AttributeError):
            continue
    return None


def compare_gsd(oem: TileSet, biodiversity: float | None, gsd: float | None) -> None:
    """Print the ground sampling distance of OpenEarthMap tiles beside Biodiversity's; warn if they are far apart.

    ``biodiversity``: in metres, None if it is not known. ``gsd``: metres to which the tiles of OpenEarthMap are
    resampled, None if they are not.
    """
    result = gsd or oem.gsd

    def in_metres(value: float | None) -> str:
        return f"{value:g} m" if value else "not known"

    print(
        f"ground sampling distance: OpenEarthMap {in_metres(oem.gsd)}{f', resampled to {gsd:g} m' if gsd else ''}; "
        f"Biodiversity {in_metres(biodiversity)}"
    )
    if result and biodiversity and max(result, biodiversity) / min(result, biodiversity) > FAR_APART:
        warn(
            f"the ground sampling distances of OpenEarthMap ({in_metres(result)}) and of Biodiversity "
            f"({in_metres(biodiversity)}) differ by more than {FAR_APART} times, so that objects have other sizes. "
            f"Resample with --gsd {biodiversity:g}."
        )
