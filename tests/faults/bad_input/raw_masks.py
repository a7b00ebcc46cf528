"""Raw masks that are no PNG of 8-bit grey, hold ids of no class, or label too little."""

from pathlib import Path

import numpy as np
from PIL import Image

from tests.faults.bad_input import files
from tests.faults.bad_input.shared import MASK, MASKS, SPLITTING, Case, at, each, handled, raw_refusals


def in_mode(mode: str) -> files.Spoil:
    return lambda path: Image.open(path).convert(mode).save(path)


REFUSED = [
    ("truncated mask", files.cut, "masks/tile_1_1.png: cannot be read as PNG"),
    ("mask of zero bytes", files.rewrite(b""), "masks/tile_1_1.png: cannot be read as PNG"),
    ("mask with a palette", in_mode("P"), "masks/tile_1_1.png: is a PNG of mode P", "without the palette"),
    ("mask in RGB", in_mode("RGB"), "mode RGB", "8-bit grey"),
    ("mask with alpha", in_mode("LA"), "mode LA", "8-bit grey"),
    ("mask in RGBA", in_mode("RGBA"), "mode RGBA", "8-bit grey"),
    ("mask of 16 bits", files.relabel(lambda ids: ids.astype(np.uint16)), "mode I;16"),
    ("mask of 1 bit", files.relabel(lambda ids: ids > 0), "mode 1", "8-bit grey"),
    ("label 6", files.relabel(lambda ids: ids + np.uint8(6)), "tile_1_1.png: ids [", "expected 0-5"),
    ("label 255 for void", files.relabel(lambda ids: np.full_like(ids, 255)), "write 0"),
    (
        "mask of another size",
        files.relabel(lambda ids: ids[:-1]),
        "masks/tile_1_1.png: is 32 x 31 pixels, its image 32 x 32",
    ),
    ("image without mask", Path.unlink, "tile_1_1.tif: has no mask", "masks/tile_1_1.png"),
    ("two masks of one stem", files.copy_as(".PNG"), "tile_1_1.PNG", "several files have this name"),
    ("mask that is a link in a circle", files.link("tile_1_1.png"), "tile_1_1.png: is a link"),
]
ALL_BACKGROUND = files.relabel(np.zeros_like)


def one_class_in_one_tile(root: Path) -> None:
    def add_square(ids: np.ndarray) -> np.ndarray:
        ids[8:16, 8:16] = 5
        return ids

    each(files.relabel(lambda ids: np.where(ids == 5, np.uint8(1), ids)))(root / MASKS)
    files.relabel(add_square)(root / MASK)


CASES = [
    *raw_refusals(MASK, REFUSED),
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
