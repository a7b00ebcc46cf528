"""Windows that two images have in common, found from their pixels alone.

``anchors`` are hashes of small neighbourhoods, the same wherever a neighbourhood lies and however its image is flipped
or turned: images that share some are likely to show a window of the same area. ``same_window`` lays one image on the
other and compares their pixels.
"""

from collections import Counter

import numpy as np

RADIUS = 2  # of a neighbourhood, 5 x 5 pixels
ONE_IN = 64  # neighbourhoods that are anchors; about 4000 of a tile of 512 px, 50 of the half of one of 64 px
MOST_ANCHORS = 2048  # of a tile, those with the smallest hashes: 16 KB, whatever its size
CONTRAST = 8  # grey levels within a neighbourhood; flatter ones are alike all over the world
AGREEING = 4  # anchors that say the same flip, turn and shift. Tiles of independent areas were seen to share two.
ASIDE = 2 * RADIUS + 1  # pixels; an image that is alike so far aside, as void and still water are, tells nothing there
SAME_PIXELS = 0.25  # of those that tell and lie on one another; a logo, a scale or a frame that images share is less
LEAST = 0.1  # of all that lie on one another; a logo on images of one colour is all that tells there, but less
STRIP = 64  # rows hashed at a time, so that they stay in the processor's cache
MIXERS = tuple(
    np.uint64(value)
    for value in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB, 0xD6E8FEB86659FD93)
    + (0xA0761D6478BD642F, 0xE7037ED1A0B428DB)
)


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


def _laid_on(image: np.ndarray, other: np.ndarray, top: int, left: int) -> tuple[np.ndarray, np.ndarray]:
    """The parts of two (3, H, W) images that meet where the second one's corner lies at a pixel of the first."""
    bottom, right = (min(a, b + c) for a, b, c in zip(image.shape[1:], (top, left), other.shape[1:], strict=True))
    first = image[:, max(0, top) : bottom, max(0, left) : right]
    return first, other[:, max(0, -top) : bottom - top, max(0, -left) : right - left]


def _equal(image: np.ndarray, other: np.ndarray) -> np.ndarray:
    """(H, W) bool: pixels of two (3, H, W) images that are equal in all bands."""
    return (image == other).all(axis=0)


def same_pixels(window: np.ndarray, twin: np.ndarray) -> bool:
    """Whether two (3, H, W) uint8 images that lie on one another are equal in more than what has no texture.

    The share of equal pixels is held against the share that is equal as well when one is moved by ASIDE: what is more
    is SAME_PIXELS of what it could be more, and LEAST of all pixels. (The first is the idea of Cohen's kappa.)
    """
    moved = (np.roll(twin, (step, step), axis=(1, 2)) for step in (ASIDE, -ASIDE))
    aside = np.logical_or.reduce([_equal(window, other) for other in moved]).mean()
    return bool(_equal(window, twin).mean() - aside >= max(LEAST, SAME_PIXELS * (1 - aside)))


def same_window(image: np.ndarray, other: np.ndarray) -> bool:
    """Whether two (3, H, W) uint8 images have a window in common, shifted, flipped or turned as it may be.

    What lies on one another then are ``same_pixels``, or one is the other flipped or turned, equal in all pixels.
    """
    hashes, rows, columns = located_anchors(image)
    others, other_rows, other_columns = located_anchors(other)
    _, first, second = np.intersect1d(hashes, others, assume_unique=True, return_indices=True)
    rows, columns, y, x = rows[first], columns[first], other_rows[second], other_columns[second]
    best, way = 0, (0, 0, 1, 1, False)
    for p, q, swapped in ((y, x, False), (x, y, True)):
        for a in (1, -1):
            for b in (1, -1):
                votes = Counter(zip((rows - a * p).tolist(), (columns - b * q).tolist(), strict=True))
                for place, count in votes.most_common(1):
                    if count > best:
                        best, way = count, (*place, a, b, swapped)
    if best < AGREEING:
        return False
    top, left, a, b, swapped = way
    turned = (other.transpose(0, 2, 1) if swapped else other)[:, ::a, ::b]
    _, height, width = turned.shape
    top, left = top - (height - 1 if a < 0 else 0), left - (width - 1 if b < 0 else 0)
    if (a, b, swapped) != (1, 1, False) and np.array_equal(image, turned):
        return True  # however little of it has texture: turned alike, a logo is no stranger's
    return same_pixels(*_laid_on(image, turned, top, left))
