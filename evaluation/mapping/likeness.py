"""Whether a map's ground is like the held-out ground, on which its correction rests.

The correction takes from held-out ground what share of the pixels predicted as a class is of each true class. On ground
with other shares of the classes, or on images that the network is less sure of, these shares are others, and the
corrected areas are wrong by more than their intervals say. The truth of the map is not known, but what is predicted
there is. So the rule compares predictions with predictions:

- the share of each class among the mapped pixels with its share among the predictions on held-out blocks;
- the mean confidence (the largest probability of a pixel) of the map with that of the held-out blocks. Not if several
  networks made the map: the mean of their probabilities is less sure than each of them, and each was scored alone.

Each is compared with the interval in which the value of other ground of the same kind and of the map's size lies in
99 %: that of evaluation.mapping.areas, from the jackknife over blocks, its variance times 1 + held-out pixels / map
pixels; for shares at 1 % over all C classes together, so 1 % / C for each (Bonferroni). A value outside is named. The
larger the map, the smaller the difference that is noticed, down to what the held-out blocks themselves can tell: that
is as it should be, since the intervals of areas shrink likewise. A map of one landscape, held against tiles from many,
will often be outside, and rightly so. That nothing is outside does not show that the ground is alike.
``evaluation.simulate_area_coverage`` measures how often ground is called unlike: like ground in 1 to 7 %, since rare
classes have longer tails than the rule allows for, and ground with three times the rarest class in 11 to 90 %.
"""

import numpy as np

from common.taxonomy import Taxonomy
from common.text import percent
from evaluation.mapping.areas import NO_PIXEL, ends, usable_freedom
from evaluation.study.intervals import jackknife

UNLIKE = 0.01  # of maps of like ground are called unlike in their shares, and as many in their confidence


def like_shares(pixels: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(..., C) bounds of the share of each class among the mapped pixels on like ground.

    Args:
        pixels: (..., C) of the map by class, 0 for void.
        counts: (..., B, C, C) confusions of the held-out blocks, rows truth, nothing in the row of void.
    """
    predicted = counts.sum(axis=-2)
    classes = (pixels.shape[-1] - 1) or 1  # without void
    low, high = _bounds(predicted, predicted.sum(axis=-1, keepdims=True), pixels.sum(axis=-1)[..., None], classes)
    return low, np.minimum(high, 1.0)


def _bounds(part: np.ndarray, whole: np.ndarray, pixels: np.ndarray, tested: int) -> tuple[np.ndarray, np.ndarray]:
    """Bounds for part / whole on other ground, from (..., B, K) sums over each block; UNLIKE over ``tested`` values."""
    parts, wholes = part.sum(axis=-2), whole.sum(axis=-2)
    without = (parts[..., None, :] - part) / (wholes[..., None, :] - whole)
    over_blocks, of_blocks = jackknife(np.moveaxis(without, -2, -1))
    freedom = usable_freedom(of_blocks, (part > 0).sum(axis=-2))
    return ends(parts / wholes, over_blocks * (1 + wholes / pixels), freedom, UNLIKE / 2 / tested)


def unlike_shares(pixels: np.ndarray, counts: np.ndarray, taxonomy: Taxonomy) -> list[str]:
    """A sentence for each class whose share of the map is not that of like ground.

    A class that was never predicted on held-out ground is not compared.

    Args:
        pixels, counts: (C,) and (B, C, C), as for ``like_shares``, of 2 blocks or more.
    """
    low, high = like_shares(pixels, counts)
    shares, predicted = pixels / pixels.sum(), counts.sum(axis=(0, 1))
    outside = ((shares < low) | (shares > high)) & (predicted > NO_PIXEL)
    return [
        f"{taxonomy.classes[i]} is {percent(shares[i])} of the map; {percent(low[i])} to {percent(high[i])} "
        "would be expected of a landscape like that of the held-out tiles"
        for i in np.flatnonzero(outside)
    ]


def unlike_confidence(mean: float, pixels: float, confidence: np.ndarray) -> str | None:
    """A sentence if the mean confidence of a map is not that of like ground; None if it is.

    Args:
        mean: of the map, 0 to 1.
        pixels: of the map.
        confidence: (B, 2) of each of 2 or more held-out blocks the pixels and the sum of their confidence.
    """
    low, high = (float(end[0]) for end in _bounds(confidence[:, 1:], confidence[:, :1], np.array([pixels]), 1))
    if low <= mean <= high:
        return None
    return (
        f"the network's mean confidence is {percent(mean)} on the map; {percent(low)} to {percent(high)} would "
        "be expected of a landscape like that of the held-out tiles"
    )
