"""Images that show the same ground without being the same file, found from their pixels alone.

Two searches over tiles of any location or none. ``anchors`` are hashes of small neighbourhoods, the same wherever a
neighbourhood lies and however its image is flipped or turned: tiles that share some hold a window of one image.
``thumbnail`` is compared where pixels differ but the picture is one: brightened, stretched, resized copies.
What either search proposes is confirmed on the whole images.
"""

from collections import Counter
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.ndimage import uniform_filter

from common.rasters import read_image

RADIUS = 2  # of a neighbourhood, 5 x 5 pixels
ONE_IN = 64  # neighbourhoods that are anchors; about 4000 of a tile of 512 px, 50 of the half of one of 64 px
MOST_ANCHORS = 2048  # of a tile, those with the smallest hashes: 16 KB, whatever its size
CONTRAST = 8  # grey levels within a neighbourhood; flatter ones are alike all over the world
COMMON = 32  # held-out tiles that share an anchor; it is then a pattern of the sensor or the file, not of the ground
AGREEING = 4  # anchors that say the same flip, turn and shift. Tiles of independent ground were seen to share two.
STRIP = 64  # rows hashed at a time, so that they stay in the processor's cache
MIXERS = tuple(
    np.uint64(value)
    for value in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB, 0xD6E8FEB86659FD93)
    + (0xA0761D6478BD642F, 0xE7037ED1A0B428DB)
)

SIDE = 32  # of a thumbnail
FLAT = 0.1  # grey levels of standard deviation in a thumbnail; less is the rounding of one colour
LIKELY = 0.3  # correlation of thumbnails. Independent ground: 1 pair in 10 000 reaches it; altered copies: 0.8
ALIKE = 0.6  # median correlation of blocks. Independent ground: up to 0.18 at 64 px, 0.06 at 204, and 0.51 where a
# generator painted one scene twice; copies up to 1.3 times as bright or with noise of 3 grey levels: 0.7 and more
BLOCKS = 8  # to a side
FEWEST_BLOCKS = 20  # with texture; more than the line does that two images with an empty part may share
COARSE = 9  # pixels; detail finer than this is a scene's own, broader shapes are like those of its neighbours
HELD_AT_ONCE = 32  # thumbnails, in eight orientations each, that are compared with all others


def mixed(values: np.ndarray) -> np.ndarray:
    """uint64 → uint64 with all bits changed, in place. Source: splitmix64 (Steele, Lea and Flood 2014, OOPSLA)."""
    values ^= values >> np.uint64(30)
    values *= MIXERS[1]
    values ^= values >> np.uint64(27)
    values *= MIXERS[2]
    values ^= values >> np.uint64(31)
    return values


def _neighbourhood_hashes(image: np.ndarray) -> np.ndarray:
    """(H - 4, W - 4) uint64: a hash of the 5 x 5 pixels around each, that flips and quarter turns do not change.

    Each pixel's colour is mixed; those that flips and turns exchange have one weight, and are added.
    """
    red, green, blue = (band.astype(np.uint64) for band in image)
    value = mixed((red | green << np.uint64(8) | blue << np.uint64(16)) + MIXERS[0])
    middle = value[:, 2:-2]
    near = value[:, 1:-3] + value[:, 3:-1]
    far = value[:, :-4] + value[:, 4:]
    w = MIXERS
    row0 = w[0] * middle + w[1] * near + w[3] * far
    row1 = w[1] * middle + w[2] * near + w[4] * far
    row2 = w[3] * middle + w[4] * near + w[5] * far
    return mixed(row0[2:-2] + row1[1:-3] + row1[3:-1] + row2[:-4] + row2[4:])


def _contrast(image: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """(N,) largest range of a band in the neighbourhoods at these centres."""
    around = range(-RADIUS, RADIUS + 1)
    values = np.stack([image[:, rows + y, columns + x] for y in around for x in around]).astype(np.int16)
    return (values.max(axis=0) - values.min(axis=0)).max(axis=0)


def located_anchors(image: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(N,) uint64 hashes in order, each once, and the row and column of a (3, H, W) uint8 image where each is."""
    _, height, width = image.shape
    hashes, rows, columns = [np.zeros(0, np.uint64)], [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for top in range(0, height - 2 * RADIUS, STRIP) if width > 2 * RADIUS else ():
        strip = _neighbourhood_hashes(image[:, top : top + STRIP + 2 * RADIUS])
        at = np.nonzero(strip < np.uint64(2**64 // ONE_IN))
        hashes.append(strip[at])
        rows.append(at[0] + top + RADIUS)
        columns.append(at[1] + RADIUS)
    hashes, rows, columns = (np.concatenate(parts) for parts in (hashes, rows, columns))
    keep = _contrast(image, rows, columns) >= CONTRAST if hashes.size else slice(None)
    hashes, first = np.unique(hashes[keep], return_index=True)
    hashes, first = hashes[:MOST_ANCHORS], first[:MOST_ANCHORS]
    return hashes, rows[keep][first], columns[keep][first]


def anchors(image: np.ndarray) -> np.ndarray:
    """(N,) uint64 hashes of a (3, H, W) uint8 image, N at most MOST_ANCHORS; see ``located_anchors``."""
    return located_anchors(image)[0]


def sharing(held: list[np.ndarray], others: list[np.ndarray]) -> Iterator[list[int]]:
    """For each of ``others``, the positions of those of ``held`` with which it shares AGREEING anchors or more."""
    if not held:
        yield from ([] for _ in others)
        return
    owners = np.repeat(np.arange(len(held)), [len(hashes) for hashes in held])
    hashes = np.concatenate(held)
    order = np.argsort(hashes, kind="stable")
    owners = owners[order]
    distinct, starts, counts = np.unique(hashes[order], return_index=True, return_counts=True)
    rare = counts <= COMMON
    distinct, starts, counts = distinct[rare], starts[rare], counts[rare]
    for other in others:
        if not distinct.size:
            yield []
            continue
        at = np.minimum(np.searchsorted(distinct, other), len(distinct) - 1)
        at = at[distinct[at] == other]
        meets = [owners[starts[k] : starts[k] + counts[k]] for k in at]
        shared = np.bincount(np.concatenate(meets), minlength=len(held)) if meets else np.zeros(0, int)
        yield np.flatnonzero(shared >= AGREEING).tolist()


def same_window(image: np.ndarray, other: np.ndarray) -> bool:
    """Whether two (3, H, W) uint8 images have a window in common, shifted, flipped or turned as it may be."""
    hashes, rows, columns = located_anchors(image)
    others, other_rows, other_columns = located_anchors(other)
    _, first, second = np.intersect1d(hashes, others, assume_unique=True, return_indices=True)
    rows, columns, y, x = rows[first], columns[first], other_rows[second], other_columns[second]
    turned = [(a * p, b * q) for p, q in ((y, x), (x, y)) for a in (1, -1) for b in (1, -1)]
    votes = [Counter(zip((rows - p).tolist(), (columns - q).tolist(), strict=True)) for p, q in turned]
    return max(max(vote.values(), default=0) for vote in votes) >= AGREEING


def _grey(image: np.ndarray) -> np.ndarray:
    """(H, W) float32 mean of the bands."""
    return image.mean(axis=0, dtype=np.float32)


def _resized(grey: np.ndarray, height: int, width: int) -> np.ndarray:
    return np.asarray(Image.fromarray(grey).resize((width, height), Image.Resampling.BOX))


def thumbnail(image: np.ndarray) -> np.ndarray | None:
    """(SIDE, SIDE) float32 detail of a (3, H, W) uint8 image, of unit length; None where it is too small or flat.

    Brightness of broad areas is taken out, without which the thumbnails of most fields are alike.
    """
    if min(image.shape[1:]) < SIDE:
        return None
    small = _resized(_grey(image), SIDE, SIDE)
    detail = small - uniform_filter(small, 5, mode="nearest")
    spread = detail.std()
    if spread < FLAT:
        return None
    detail = np.clip(detail / spread, -3, 3)  # so that no single edge decides
    detail -= detail.mean()
    return detail / np.linalg.norm(detail)


def orientations(image: np.ndarray) -> Iterator[np.ndarray]:
    """The eight flips and quarter turns of a (H, W) image, itself first."""
    for turns in range(4):
        turned = np.rot90(image, turns)
        yield turned
        yield turned[:, ::-1]


def resembling(held: list[np.ndarray], others: list[np.ndarray]) -> Iterator[tuple[int, int, int]]:
    """(i, j, orientation) of each thumbnail of ``held`` that, turned so, resembles one of ``others``."""
    if not held or not others:
        return
    columns = np.stack([other.ravel() for other in others]).T
    for first in range(0, len(held), HELD_AT_ONCE):
        batch = held[first : first + HELD_AT_ONCE]
        turned = np.stack([view.ravel() for one in batch for view in orientations(one)])
        correlations = (turned @ columns).reshape(len(batch), 8, -1)
        for i, j in np.argwhere(correlations.max(axis=1) >= LIKELY).tolist():
            yield first + i, j, int(correlations[i, :, j].argmax())


def _detail(grey: np.ndarray) -> np.ndarray:
    return grey - uniform_filter(grey, COARSE)


def block_correlation(image: np.ndarray, other: np.ndarray) -> float:
    """Median correlation of the detail in 8 x 8 blocks of two (H, W) float32 images; 0 where few blocks have any.

    A median, so that an edge that both have, of a field or of the part that was recorded, does not decide.
    """
    correlations = []
    for rows, other_rows in zip(*(np.array_split(_detail(g), BLOCKS) for g in (image, other)), strict=True):
        for a, b in zip(*(np.array_split(r, BLOCKS, axis=1) for r in (rows, other_rows)), strict=True):
            a, b = a - a.mean(), b - b.mean()
            size = float(np.sqrt((a * a).mean() * (b * b).mean()))
            if min(a.std(), b.std()) > FLAT / 2:
                correlations.append(float((a * b).mean()) / size)
    return float(np.median(correlations)) if len(correlations) >= FEWEST_BLOCKS else 0.0


def same_picture(image: np.ndarray, other: np.ndarray, orientation: int) -> bool:
    """Whether of two (3, H, W) uint8 images one is the other brightened or resized, once the first is turned.

    ``orientation``: position in ``orientations``.
    """
    turned, grey = list(orientations(_grey(image)))[orientation], _grey(other)
    height, width = np.minimum(grey.shape, turned.shape)
    pair = (_resized(np.ascontiguousarray(view), height, width) for view in (turned, grey))
    return block_correlation(*pair) >= ALIKE


_read = lru_cache(maxsize=32)(read_image)


def confirm(item: tuple[Path, Path, bool, int | None]) -> str | None:
    """What the images of two files have in common: "overlapping window", "altered copy", or None.

    ``item``: the two files, whether to look for windows, and in which orientation they may be one picture, if in any.
    """
    path, other, window, orientation = item
    image, twin = _read(path), _read(other)
    if window and same_window(image, twin):
        return "overlapping window"
    return "altered copy" if orientation is not None and same_picture(image, twin, orientation) else None
