"""Areas of classes in a map, corrected by the confusion on held-out tiles, and their 95 % intervals.

Counting the pixels of a map is biased: of the pixels mapped as a class some are of others, and some of its own are
missed. With S_i the area mapped as class i, and n_ij the held-out pixels that were predicted as i and are j,

    A_j = sum over i of S_i n_ij / n_i.

is an estimate without that bias (Olofsson et al. 2014, Remote Sensing of Environment 148, section 4.3), as long as
the map's landscape is like that of the held-out tiles, which ``evaluation.mapping.likeness`` looks at. A class
without a held-out prediction (n_i. = 0) has no known confusion: all of S_i counts as class i.

The error. The pixels of a block are not independent, so the paper's variance for single pixels does not hold; the
blocks are left out one at a time instead (the jackknife of evaluation.study.intervals). The error has two parts:

- ``over_blocks``: the shares n_ij / n_i. are those of some blocks alone. The sum of squared deviations of the estimates
  with a block left out, which is the jackknife's variance times B / (B - 1) for B blocks.
- ``of_map``: on the map itself the shares differ from those expected of such a landscape, more so if it is small.
  How far a block is off when its predictions are corrected by the other blocks is known, and the map is as many blocks
  as it has their pixels: class by class N_i / n_i., with N_i pixels of the map. For a map much larger than the held-out
  tiles it vanishes; for one of the same size it is as large as the first part.

An interval is for the true area on the map itself. The map is assumed to show another place than the held-out blocks,
and pixels of both to have one size. The interval is drawn on the scale of the square root, on which the error of a
rare class is nearly symmetrical and no end is negative; it ends at the total mapped area at most. The quantile is
that of t, with as many degrees of freedom as the kurtosis of the blocks' influences allows, fewer than the blocks
that hold the class, and at least three. Which networks were trained is no part of the error: the map is made by
these. ``evaluation.simulate_area_coverage`` measures what all this covers, beside other rules.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.special import stdtrit

from common.metrics import class_ratios
from common.taxonomy import IGNORE_INDEX
from evaluation.study.intervals import FEWEST_BLOCKS, LEVEL, jackknife
from evaluation.study.pooling import FEW_BLOCKS

TAIL = (1 - LEVEL) / 2
FEWEST = 3  # degrees of freedom: the kurtosis is uncertain itself, and with fewer intervals grow beyond all use
NO_PIXEL = 1e-6  # less than this is what rounding leaves of counts that are means over networks


def corrected(areas: np.ndarray, confusions: np.ndarray) -> np.ndarray:
    """(..., C) mapped areas and (..., C, C) held-out confusions, rows truth → (..., C) areas of the true classes."""
    return (_shares(confusions) * areas[..., None, :]).sum(axis=-1)


def _shares(confusions: np.ndarray) -> np.ndarray:
    """(..., C, C) confusions, rows truth → the share of each true class in what is predicted as a class."""
    predicted = confusions.sum(axis=-2, keepdims=True)
    met = predicted > NO_PIXEL
    return np.where(met, confusions / np.where(met, predicted, 1), np.eye(confusions.shape[-1]))


class AreaSpread(NamedTuple):
    """Areas (..., C) and the two parts of their variance, with the degrees of freedom of the first.

    ``holders`` (..., C): blocks that hold each class.
    """

    value: np.ndarray
    over_blocks: np.ndarray
    of_blocks: np.ndarray
    of_map: np.ndarray
    holders: np.ndarray

    @property
    def variance(self) -> np.ndarray:
        return self.over_blocks + self.of_map

    @property
    def freedom(self) -> np.ndarray:
        return usable_freedom(self.of_blocks, self.holders)

    def ends(self) -> tuple[np.ndarray, np.ndarray]:
        """(..., C) lower and upper ends of the 95 % intervals."""
        return ends(self.value, self.variance, self.freedom, TAIL)


def usable_freedom(of_blocks: np.ndarray, holders: np.ndarray) -> np.ndarray:
    """Degrees of freedom that the kurtosis allows, fewer than the blocks that hold a class, and at least FEWEST."""
    return np.maximum(np.minimum(of_blocks, holders - 1), FEWEST)


def ends(value: np.ndarray, variance: np.ndarray, freedom: np.ndarray, tail: float) -> tuple[np.ndarray, np.ndarray]:
    """Ends of intervals for values of 0 or more, symmetrical on the scale of the square root."""
    half = -stdtrit(freedom, tail) * np.sqrt(variance)
    root = np.sqrt(np.maximum(value, 0))
    shift = half / (2 * np.where(root > 0, root, 1))
    high = np.where(root > 0, (root + shift) ** 2, half)
    return np.maximum(root - shift, 0) ** 2, high


def area_spread(areas: np.ndarray, pixels: np.ndarray, counts: np.ndarray) -> AreaSpread:
    """What is known of corrected areas.

    Args:
        areas: (..., C) mapped as each class, in any unit.
        pixels: (..., C) the same in pixels of the size of the tiles' pixels.
        counts: (..., B, C, C) confusions of at least 2 held-out blocks, rows truth, nothing in the row of void.
    """
    totals = counts.sum(axis=-3)
    others = _shares(totals[..., None, :, :] - counts)
    variance, of_blocks = jackknife(np.moveaxis((others * areas[..., None, None, :]).sum(axis=-1), -2, -1))
    blocks = counts.shape[-3]

    product = pixels * totals.sum(axis=-2)
    scale = np.where(product > 0, areas / np.sqrt(np.where(product > 0, product, 1)), 0)
    off = counts - counts.sum(axis=-2, keepdims=True) * others  # what a block holds beyond what the others say
    of_map = ((off * scale[..., None, None, :]).sum(axis=-1) ** 2).sum(axis=-2)
    return AreaSpread(corrected(areas, totals), variance * blocks / (blocks - 1), of_blocks, of_map, holders(counts))


def holders(counts: np.ndarray) -> np.ndarray:
    """(..., B, C, C) confusions, rows truth → (..., C) blocks that hold each class."""
    return (counts.sum(axis=-1) > 0).sum(axis=-2)


@dataclass(frozen=True)
class Areas:
    """Estimated areas of the C classes of a map, void first with 0, in the unit of ``counted``.

    Attributes:
        counted: (C,) as mapped.
        estimated: (C,) corrected by the held-out confusion.
        low, high: (C,) ends of the 95 % intervals; NaN if there is none.
        error: (C,) standard errors; NaN under FEWEST_BLOCKS blocks.
        freedom: (C,) their degrees of freedom; NaN likewise.
        users, producers: (C,) accuracies on the held-out tiles: the share of the pixels predicted as a class that are
            right, and of its true pixels that are found; NaN if there are none.
        holders: (C,) held-out blocks that hold each class.
        met: (C,) bool, whether a held-out pixel was predicted as the class.
        blocks: held-out blocks.
    """

    counted: np.ndarray
    estimated: np.ndarray
    low: np.ndarray
    high: np.ndarray
    error: np.ndarray
    freedom: np.ndarray
    users: np.ndarray
    producers: np.ndarray
    holders: np.ndarray
    met: np.ndarray
    blocks: int

    @property
    def off(self) -> np.ndarray:
        """(C,) by which share of the estimate counting differs from it; NaN for an estimate of 0."""
        estimated = np.where(self.estimated > 0, self.estimated, np.nan)
        return (self.counted - estimated) / estimated


def estimate_areas(areas: np.ndarray, pixels: np.ndarray, counts: np.ndarray) -> Areas:
    """Corrected areas with intervals.

    There is no interval under FEWEST_BLOCKS held-out blocks, for a class that fewer than FEW_BLOCKS blocks hold, nor
    for one that is mapped and was never predicted on held-out tiles.

    Args:
        areas: (C,) mapped as each class, void first, in any unit.
        pixels: (C,) the same in pixels.
        counts: (B, C, C) confusions of the held-out blocks, rows truth, nothing in the row of void.
    """
    areas, pixels = np.array(areas, float), np.array(pixels, float)
    areas[IGNORE_INDEX] = pixels[IGNORE_INDEX] = 0
    total = counts.sum(axis=0)
    truth, predicted = total.sum(axis=1), total.sum(axis=0)
    met, held = predicted > 0, holders(counts)
    ratios, nothing = class_ratios(total), np.full(len(areas), np.nan)
    low, high, error, freedom = (nothing.copy() for _ in range(4))
    if len(counts) >= FEWEST_BLOCKS:
        parts = area_spread(areas, pixels, counts)
        error, freedom = np.sqrt(parts.variance), parts.freedom
        known = (held >= FEW_BLOCKS) & (met | (areas == 0))
        low, high = (np.where(known, np.minimum(end, areas.sum()), np.nan) for end in parts.ends())
    return Areas(
        areas,
        corrected(areas, total),
        low,
        high,
        error,
        freedom,
        np.where(met, ratios["precision"], np.nan),
        np.where(truth > 0, ratios["recall"], np.nan),
        held,
        met,
        len(counts),
    )
