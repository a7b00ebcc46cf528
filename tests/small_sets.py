"""Raw tiles and tile sets of a few pixels, with the masks and places that a test asks for."""

import zlib
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from common.rasters import georeference, open_raster, write_mask
from common.taxonomy import BIODIVERSITY, Taxonomy
from common.tiles import TileSet
from data_prep.tile_sets.writer import describe_tile, new_tile_set
from tests.helpers import made, write_png, write_tif

LEFT, TOP = 500_000, 5_000_000
SPLITS = ("train", "val", "test")


def noise_of(tile_id: str, height: int, width: int, dtype=np.uint8) -> np.ndarray:
    """(3, H, W) noise of 1 to 255 that is a tile's own."""
    rng = np.random.default_rng(zlib.crc32(tile_id.encode()))
    return rng.integers(1, 256, (3, height, width)).astype(dtype)


def smooth_scene(seed: int, side: int = 96) -> np.ndarray:
    """(3, side, side) uint8 with detail at several scales."""
    rng = np.random.default_rng(seed)
    scene = sum(np.kron(rng.normal(0, 20, (3, side // n, side // n)), np.ones((n, n))) for n in (2, 4, 12))
    return np.clip(128 + scene, 0, 255).astype(np.uint8)


def turns(image: np.ndarray) -> Iterator[np.ndarray]:
    """The eight flips and quarter turns of (3, H, W), by hand."""
    for flipped in (image, image[:, :, ::-1]):
        for quarter in range(4):
            yield np.ascontiguousarray(np.rot90(flipped, quarter, axes=(1, 2)))


def write_raw(root: Path, tile_id: str, mask: np.ndarray, *, image=None, **place) -> None:
    """Write a raw tile; noise where no ``image`` is given, no place on earth where no ``origin``."""
    raw = root / "data/biodiversity_raw"
    image = noise_of(tile_id, *mask.shape) if image is None else image
    write_tif(raw / f"images/{tile_id}.tif", image, **place)
    write_png(raw / f"masks/{tile_id}.png", np.asarray(mask, np.uint8))


def write_grid(root: Path, rows: int, columns: int, *, side=8, mask_of=None, gsd=0.5) -> None:
    """Touching raw tiles r<row>_c<column>; ``mask_of(row, column)``, all classes in stripes where it is not given."""
    stripes = np.tile(np.arange(side, dtype=np.uint8) % 5 + 1, (side, 1))
    for row in range(rows):
        for column in range(columns):
            mask = stripes if mask_of is None else mask_of(row, column)
            origin = (LEFT + column * side * gsd, TOP - row * side * gsd)
            write_raw(root, f"r{row:02}_c{column:02}", mask, origin=origin, gsd=gsd)


def write_set(
    path: Path,
    masks: dict[str, np.ndarray],
    *,
    split: str,
    taxonomy: Taxonomy = BIODIVERSITY,
    origins: dict[str, tuple] | None = None,
    entries: dict[str, dict] | None = None,
    images: dict[str, np.ndarray] | None = None,
    gsd: float = 0.5,
    **facts,
) -> TileSet:
    """Write a tile set of these masks, with noise for ``images`` that are not given.

    origins: (left, top) of the tiles that have a place. entries: what the manifest says of a tile beside its files.
    facts: what it says of the set, ``stretch`` and so on.
    """
    args = Namespace(command="python -m some.step", overwrite=False, mode="link")
    with new_tile_set(path, args, taxonomy=taxonomy, split=split, **facts) as out:
        for tile_id, mask in masks.items():
            image = (images or {}).get(tile_id, noise_of(tile_id, *mask.shape))
            mask = np.asarray(mask, np.uint8)
            paths = out.claim(tile_id)
            write_tif(paths[0], image, origin=(origins or {}).get(tile_id), gsd=gsd)
            write_mask(paths[1], mask)
            with open_raster(paths[0]) as src:
                place = georeference(src)
            entry = describe_tile(image, mask, *paths, place, taxonomy.num_classes)
            out.record(tile_id, {**entry, **(entries or {}).get(tile_id, {})})
    return TileSet.open(made(path))


def with_pixels(side: int, counts: dict[int, int]) -> np.ndarray:
    """(side, side) uint8 ids: so many pixels of each, the rest void."""
    ids = np.repeat(np.fromiter(counts, np.uint8), list(counts.values()))
    return np.pad(ids, (0, side * side - len(ids))).reshape(side, side)


def split_sets(root: Path) -> list[TileSet]:
    """train, val and test of Biodiversity."""
    return [TileSet.open(made(root / "data/biodiversity_split" / name)) for name in SPLITS]


def set_of_pixels(tmp_path, pixels: list[list[int]]) -> TileSet:
    """A tile set without files, t0, t1 and so on, with these pixels of each class."""
    entries = {f"t{n}": {"pixels": of_tile} for n, of_tile in enumerate(pixels)}
    return TileSet(made(tmp_path), {"tiles": entries}, BIODIVERSITY)


def tile_set(tmp_path, labelled: dict[str, int]) -> TileSet:
    """A tile set without files: ids and their numbers of labelled pixels."""
    entries = {tile_id: {"pixels": [100 - n, n, 0, 0, 0, 0]} for tile_id, n in labelled.items()}
    return TileSet(made(tmp_path), {"tiles": entries}, BIODIVERSITY)
