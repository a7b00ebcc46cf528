"""Raw images that are no TIFF, are links, stand twice or lack their mask; their bands, and tiles of odd sizes."""

import struct
import zlib
from pathlib import Path

import numpy as np

from common.rasters import open_raster
from tests.faults.bad_input import files
from tests.faults.bad_input.shared import IMAGE, IMAGES, MASK, SIDE, at, each, handled, image, kept, mask, raw_refusals
from tests.helpers import GSD, write_png, write_tif

REFUSED = [
    ("truncated TIFF", files.cut, "images/tile_1_1.tif: cannot be read ("),
    ("TIFF of zero bytes", files.rewrite(b""), "images/tile_1_1.tif: cannot be read ("),
    ("TIFF that is a text file", files.rewrite(b"no image"), "tile_1_1.tif: cannot be read"),
    ("TIFF that is a folder", files.empty_folder, "images/tile_1_1.tif"),
    ("mask without image", Path.unlink, "tile_1_1.png: has no image", "images/tile_1_1.tif"),
    ("two images of one stem", files.copy_as(".TIFF"), "tile_1_1.TIFF", "several files have this name"),
    ("two bands", files.repaint(lambda pixels: pixels[:2]), "tile_1_1.tif: has 2 bands", "--bands"),
    ("one band", files.repaint(lambda pixels: pixels[:1]), "tile_1_1.tif: has 1 band", "--bands 1"),
    ("complex pixels", files.repaint(lambda pixels: pixels.astype(np.complex64)), "tile_1_1.tif: holds complex"),
    ("link that leads nowhere", files.link("gone.tif"), "tile_1_1.tif: is a link", "gone.tif"),
    ("link in a circle", files.link("tile_1_1.tif"), "tile_1_1.tif: is a link"),
]
TWO_BANDS_MORE = files.repaint(lambda pixels: np.concatenate([pixels, pixels[:2]]))


def link_to_good_image(root: Path) -> None:
    (root / IMAGE).rename(root / "kept.tif")
    (root / IMAGE).symlink_to(root / "kept.tif")


def big_mask(side: int) -> files.Spoil:
    """Writes a PNG that says it has side x side pixels; nobody need read them to know."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0))
    return files.rewrite(
        b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 99)) + chunk(b"IEND", b"")
    )


def big_tile(root: Path) -> None:
    size = {"count": 3, "height": 20_000, "width": 20_000, "dtype": "uint8"}
    with open_raster(image(root, "big"), "w", driver="GTiff", tiled=True, compress="deflate", sparse_ok=True, **size):
        pass
    big_mask(20_000)(mask(root, "big"))


def add_tile(name: str, pixels: np.ndarray, **profile) -> files.Spoil:
    """Adds a raw tile, labelled Forest, in a column of its own."""

    def spoil(root: Path) -> None:
        write_tif(image(root, name), pixels, origin=(500_000 + 20 * SIDE * GSD, 5_000_000), **profile)
        write_png(mask(root, name), np.full(pixels.shape[1:], 1, np.uint8))

    return spoil


BIG_MASKS = [
    ("mask of 20 000 x 20 000 pixels", big_mask(20_000), "masks/tile_1_1.png: is 20000"),
    ("mask of 10 000 x 10 000 pixels", big_mask(10_000), "masks/tile_1_1.png: is 10000"),
]
BIG_TILES = [("tile of 20 000 x 20 000 pixels", big_tile, "images/big.tif", "20000 x 20000", "smaller tiles")]
LONG = add_tile("long", np.zeros((3, 64, 20_000), np.uint8), compress="deflate")
CASES = [
    *raw_refusals(IMAGE, REFUSED),
    *raw_refusals(MASK, BIG_MASKS),
    *raw_refusals("", BIG_TILES),
    handled("tile of 64 x 20 000 pixels", LONG, holds=kept("long")),
    handled("tile of one pixel", add_tile("dot", np.full((3, 1, 1), 9, np.uint8)), holds=kept("dot")),
    handled("five bands, of which three are taken", at(IMAGES, each(TWO_BANDS_MORE)), "16 tiles"),
    handled("links that work", link_to_good_image, "16 tiles", holds=kept("tile_1_1")),
]
