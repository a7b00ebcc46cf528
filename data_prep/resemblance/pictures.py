"""Images that are one picture, though their pixels differ: brightened, stretched, resized, flipped or turned copies.

``thumbnail`` holds the detail of an image at one small size; ``codes`` turns it into a few hundred numbers of which
copies share several, so that they are found without comparing each image with each. ``same_picture`` looks at the whole
images.
"""

import functools
import itertools
from collections.abc import Iterator

import numpy as np
import scipy.fft
from PIL import Image
from scipy.ndimage import uniform_filter

from data_prep.resemblance.windows import mixed

SIDE = 32  # of a thumbnail
FLAT = 0.1  # grey levels of standard deviation in a thumbnail; less is the rounding of one colour
LIKELY = 0.5  # correlation of thumbnails. Independent areas: up to 0.41 in 145 000 pairs; altered copies: from 0.61 on
ALIKE = 0.6  # median correlation of blocks. Independent areas: up to 0.18 at 64 px, 0.06 at 204, and 0.51 where a
# generator painted one scene twice; copies up to 1.3 times as bright or with noise of 3 grey levels: 0.7 and more
MORE_ALIKE = 0.35  # than when one is moved aside, of what it could be more. Altered copies of real tiles: from 0.38 on;
# fields drawn as even rows: up to 0.32 at 256 px, some more at 64 px; images with the same stripes: up to 0.28
BLOCKS = 8  # to a side
ROUNDED = 0.3  # grey levels of standard deviation in a block; less is how one smooth shape was rounded
FEWEST_BLOCKS = 20  # with texture; more than the line does that two images with an empty part may share
COARSE = 9  # pixels; detail finer than this is a scene's own, broader shapes are like those of its neighbours
AT_ONCE = 1024  # thumbnails that are multiplied at a time
# Of 2638 altered copies of 540 tiles, all that the full table of correlations confirms share a code; with eight
# directions that look twice instead of ten that look three times, 5 do not.
DIRECTIONS, PROBES, PATTERNS = 10, 3, 64


def _grey(image: np.ndarray) -> np.ndarray:
    """(H, W) float32 mean of the bands."""
    return image.mean(axis=0, dtype=np.float32)


def _resized(grey: np.ndarray, height: int, width: int) -> np.ndarray:
    return np.asarray(Image.fromarray(grey).resize((width, height), Image.Resampling.BOX))


def thumbnail(image: np.ndarray) -> np.ndarray | None:
    """(SIDE, SIDE) float32 detail of a (3, H, W) uint8 image, of unit length; None if it is too small or flat.

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


def _relative_orientations() -> np.ndarray:
    """(8, 8) int64: which view, turned as view a afterwards, is view b; views are numbered as by ``orientations``."""
    square = np.arange(4).reshape(2, 2)
    views = [list(orientations(view)) for view in orientations(square)]
    number = {view.tobytes(): n for n, view in enumerate(orientations(square))}
    relative = np.zeros((8, 8), np.int64)
    for first, of_first in enumerate(views):
        for a, view in enumerate(of_first):
            relative[a, number[view.tobytes()]] = first
    return relative


@functools.cache
def _patterns() -> np.ndarray:
    """(DIRECTIONS, SIDE * SIDE, PATTERNS * 8) float32 random patterns, each in the eight orientations."""
    rng = np.random.default_rng(0)
    patterns = rng.standard_normal((DIRECTIONS, PATTERNS, SIDE, SIDE)).astype(np.float32)
    views = [[view.ravel() for one in of_direction for view in orientations(one)] for of_direction in patterns]
    return np.array(views).transpose(0, 2, 1)


def codes(thumbnails: np.ndarray) -> list[np.ndarray]:
    """Of each of (N, SIDE, SIDE) float32 thumbnails, uint64 codes in order, each once; orientations have the same ones.

    Each direction names the patterns that a thumbnail resembles most, and in which orientation of theirs. To turn the
    thumbnail turns these alike, so that the patterns of two directions and the turn between them are a code that stays.

    Source of the idea: cross-polytope hashing, Andoni et al. 2015, arXiv:1509.02897; the orientations are ours.
    """
    relative, found = _relative_orientations(), []
    for start in range(0, len(thumbnails), AT_ONCE):
        flat = thumbnails[start : start + AT_ONCE].reshape(-1, SIDE * SIDE)
        pattern = np.zeros((DIRECTIONS, len(flat), PROBES), np.int64)
        turn = np.zeros_like(pattern)
        for direction, columns in enumerate(_patterns()):
            products = flat @ columns
            best = np.argpartition(-np.abs(products), PROBES - 1, axis=1)[:, :PROBES]
            positive = np.take_along_axis(products, best, axis=1) > 0
            pattern[direction], turn[direction] = 2 * (best // 8) + positive, best % 8
        values = []
        for number, (a, b) in enumerate(itertools.combinations(range(DIRECTIONS), 2)):
            pair = 2 * PATTERNS * pattern[a][:, :, None] + pattern[b][:, None, :]
            value = 8 * pair + relative[turn[a][:, :, None], turn[b][:, None, :]]
            values.append(value.reshape(len(flat), -1) + (number << 32))
        found += [np.unique(of_one) for of_one in mixed(np.concatenate(values, axis=1).astype(np.uint64))]
    return found


def best_orientation(thumbnails: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(P,) correlations of pairs of (P, SIDE, SIDE) thumbnails, and (P,) in which orientation of the first."""
    turned = [np.rot90(thumbnails, quarter, axes=(1, 2)) for quarter in range(4)]
    views = [view for one in turned for view in (one, one[:, :, ::-1])]
    correlations = np.stack([np.einsum("nij,nij->n", view, others) for view in views])
    return correlations.max(axis=0), correlations.argmax(axis=0)


def _detail(grey: np.ndarray) -> np.ndarray:
    return grey - uniform_filter(grey, COARSE)


def block_correlation(detail: np.ndarray, other: np.ndarray) -> float:
    """Median correlation in 8 x 8 blocks of two (H, W) float32 images of detail; 0 if few blocks have any.

    A median, so that an edge that both have, of a field or of the part that was recorded, does not decide.
    """
    correlations = []
    for rows, other_rows in zip(*(np.array_split(d, BLOCKS) for d in (detail, other)), strict=True):
        for a, b in zip(*(np.array_split(r, BLOCKS, axis=1) for r in (rows, other_rows)), strict=True):
            a, b = a - a.mean(), b - b.mean()
            size = float(np.sqrt((a * a).mean() * (b * b).mean()))
            if min(a.std(), b.std()) > ROUNDED:
                correlations.append(float((a * b).mean()) / size)
    return float(np.median(correlations)) if len(correlations) >= FEWEST_BLOCKS else 0.0


def _likest_aside(detail: np.ndarray, other: np.ndarray) -> np.ndarray:
    """(H, W) float32: the second of two images of detail moved to where it is most like the first, COARSE away or more.

    By signs, so that no single edge decides.
    """
    first, second = (scipy.fft.rfft2(np.sign(one)) for one in (detail, other))
    likeness = scipy.fft.irfft2(first * second.conj(), s=detail.shape)
    rows, columns = (np.minimum(np.arange(n), n - np.arange(n)) <= COARSE for n in detail.shape)
    likeness[np.ix_(rows, columns)] = -np.inf
    return np.roll(other, np.unravel_index(likeness.argmax(), likeness.shape), axis=(0, 1))


def same_picture(image: np.ndarray, other: np.ndarray, orientation: int) -> bool:
    """Whether of two (3, H, W) uint8 images one is the other brightened or resized, once the first is turned.

    Rows of crops and stripes of the sensor are as alike when one image is moved along them: that does not count.

    ``orientation``: position in ``orientations``.
    """
    turned, grey = list(orientations(_grey(image)))[orientation], _grey(other)
    height, width = np.minimum(grey.shape, turned.shape)
    detail, twin = (_detail(_resized(np.ascontiguousarray(view), height, width)) for view in (turned, grey))
    likeness = block_correlation(detail, twin)
    if likeness < ALIKE:
        return False
    aside = block_correlation(detail, _likest_aside(detail, twin))
    return likeness > aside + MORE_ALIKE * (1 - aside)
