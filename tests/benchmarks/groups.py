"""How the search for tiles that show one ground grows, from 2 300 to 23 000 small tiles without a place.

One tile in ten is a copy of another: turned, brightened, or shifted. In one process, by the time that the processor
gave it, so that others on the machine disturb little.
"""

import contextlib
import io
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from common.raw_images import Reading
from common.taxonomy import BIODIVERSITY
from data_prep.audit.groups import find_groups
from data_prep.raw.inspect import inspect
from data_prep.raw.pairs import find_raw
from tests.benchmarks.measuring import Figure, at_least, at_most
from tests.helpers import write_png, write_tif

SIDE, WIDER = 64, 88  # pixels of a tile, and of the ground that it is cut from
FEW, MANY = 2_300, 23_000
COPIED = 10  # one tile in so many


def ground(number: int) -> np.ndarray:
    """(3, WIDER, WIDER) uint8 with shapes of several sizes, the same for a number."""
    rng = np.random.default_rng(number)
    image = rng.normal(0, 5, (WIDER, WIDER, 3)) + 120
    for cells, contrast in ((4, 20), (12, 15), (40, 12)):
        for band in range(3):
            shapes = Image.fromarray(rng.normal(0, contrast, (cells, cells)).astype(np.float32))
            image[:, :, band] += np.asarray(shapes.resize((WIDER, WIDER), Image.Resampling.BICUBIC))
    return np.moveaxis(np.clip(image, 0, 255).astype(np.uint8), -1, 0)


def tile(number: int) -> np.ndarray:
    """(3, SIDE, SIDE) uint8: each tile shows ground of its own, but one in COPIED that of the tile before it."""
    if number % COPIED != COPIED - 1:
        return ground(number)[:, :SIDE, :SIDE]
    source, kind = ground(number - 1), number // COPIED % 3
    if kind == 2:
        return source[:, WIDER - SIDE :, 9 : 9 + SIDE]
    turned = np.rot90(source[:, :SIDE, :SIDE], 1 + number % 3, axes=(1, 2))
    return turned if kind else np.clip(1.2 * turned + 5, 0, 255).astype(np.uint8)


def write_raw(root: Path, count: int) -> None:
    mask = np.ones((SIDE, SIDE), np.uint8)
    for number in range(count):
        write_tif(root / f"images/t{number:05d}.tif", tile(number))
        write_png(root / f"masks/t{number:05d}.png", mask)


def timed(root: Path, count: int) -> tuple[float, float]:
    """Seconds of the search among the first tiles, and the share of the copies that it ties and ties rightly."""
    tiles = find_raw(root)[0][:count]
    inspections = [inspect(one, reading=Reading((1, 2, 3)), taxonomy=BIODIVERSITY) for one in tiles]
    begin = time.process_time()
    with contextlib.redirect_stderr(io.StringIO()):
        groups = find_groups(inspections, (1, 2, 3), workers=0)
    seconds = time.process_time() - begin
    found = {group.tiles for group in groups if len(group.tiles) > 1}
    wanted = {(f"t{n - 1:05d}", f"t{n:05d}") for n in range(COPIED - 1, count, COPIED)}
    return seconds, len(found & wanted) / len(found | wanted)


def measure(few: int = FEW, many: int = MANY) -> list[Figure]:
    with tempfile.TemporaryDirectory() as folder:
        write_raw(Path(folder), many)
        timed(Path(folder), min(few, 200))  # so that what is made once counts for neither
        of_few, right_of_few = timed(Path(folder), few)
        of_many, right_of_many = timed(Path(folder), many)
    detail = f"{of_few:.1f} and {of_many:.1f} s, tiles of {SIDE} px"
    what = f"search for tiles of one ground, {many} tiles : {few}"
    return [
        at_most("9", what, of_many / of_few, 1.2 * many / few, "", detail),
        at_least(
            "", "groups that are true, of those found or true", right_of_many, 0.99, "", f"{right_of_few:.4f} of few"
        ),
    ]
