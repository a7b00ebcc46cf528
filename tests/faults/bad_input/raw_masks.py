"""Raw masks of another kind than PNG of 8-bit grey, that hold ids of no class, or that label too little."""

from pathlib import Path

import numpy as np
from PIL import Image

from tests.faults.bad_input import files
from tests.faults.bad_input.shared import MASK, MASKS, SPLITTING, Case, at, each, handled, raw_refusals, split_tiles
from tests.faults.harness import Ended


def in_mode(mode: str) -> files.Spoil:
    return lambda path: Image.open(path).convert(mode).save(path)


REFUSED = [
    ("truncated mask", files.cut, "masks/tile_1_1.png: cannot be read as PNG"),
    ("mask of zero bytes", files.rewrite(b""), "masks/tile_1_1.png: cannot be read as PNG"),
    ("label 6", files.relabel(lambda ids: ids + np.uint8(6)), "tile_1_1.png: ids 7", "expected 0-5"),
    ("label 255 alone", files.relabel(lambda ids: np.full_like(ids, 255)), "255 stands for a class"),
    ("label 255 for void", files.relabel(lambda ids: np.where(ids == 1, np.uint8(255), ids)), "--void 255"),
    (
        "mask of another size",
        files.relabel(lambda ids: ids[:-1]),
        "masks/tile_1_1.png: is 32 x 31 pixels, its image 32 x 32",
    ),
    ("image without mask", Path.unlink, "tile_1_1.tif: has no mask", "masks/tile_1_1.png"),
    ("two masks of one stem", files.copy_as(".PNG"), "tile_1_1.PNG", "several files have this name"),
    ("mask that is a link in a circle", files.link("tile_1_1.png"), "tile_1_1.png: is a link"),
]
TAKEN = [
    ("mask with a palette", in_mode("P")),
    ("mask in RGB", in_mode("RGB")),
    ("mask with alpha", in_mode("LA")),
    ("mask in RGBA", in_mode("RGBA")),
    ("mask of 16 bits", files.relabel(lambda ids: ids.astype(np.uint16))),
    ("mask of 1 bit", files.relabel(lambda ids: ids > 0)),
]


def ids_as_stored(root: Path, ended: Ended) -> str | None:
    stored = np.asarray(Image.open(root / MASK))
    stored = stored if stored.ndim == 2 else stored[..., 0]
    return None if (split_tiles(root)["tile_1_1"].read_mask() == stored).all() else "its ids are not those of the file"


ALL_BACKGROUND = files.relabel(np.zeros_like)


def one_class_in_one_tile(root: Path) -> None:
    def add_square(ids: np.ndarray) -> np.ndarray:
        ids[8:16, 8:16] = 5
        return ids

    each(files.relabel(lambda ids: np.where(ids == 5, np.uint8(1), ids)))(root / MASKS)
    files.relabel(add_square)(root / MASK)


CASES = [
    *raw_refusals(MASK, REFUSED),
    *(handled(name, at(MASK, spoil), holds=ids_as_stored) for name, spoil in TAKEN),
    handled("a tile that is all background", at(MASK, ALL_BACKGROUND), "16 tiles"),
    Case(
        "every tile is all background",
        "raw",
        at(MASKS, each(ALL_BACKGROUND)),
        SPLITTING,
        ("biodiversity_raw: no tile of train would have a labelled pixel", "Label more tiles"),
    ),
    handled(
        "a class in one tile alone", one_class_in_one_tile, "warning: Seminatural does not occur in", "1 blocks only"
    ),
]
