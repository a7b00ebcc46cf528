"""How often each class occurs in a set of tiles; its weight in a loss, its chance to be drawn."""

from typing import NamedTuple

import numpy as np

from common.taxonomy import IGNORE_INDEX
from common.tiles import TileSet

LARGEST_CLASS_WEIGHT = 20.0
RARE_CLASS_TEMPERATURE = 0.01


class ClassFrequencies(NamedTuple):
    """By class id, 0 for void and for a class that the set does not hold.

    ``shares`` (C,) float64 of the labelled pixels; ``shares_where_present`` (C,) float64 of the labelled pixels of the
    tiles that hold the class; ``tiles`` (C,) int64 how many hold it.
    """

    shares: np.ndarray
    shares_where_present: np.ndarray
    tiles: np.ndarray

    @classmethod
    def of(cls, tiles: TileSet) -> "ClassFrequencies":
        pixels = labelled_pixels(tiles)
        total, holds = pixels.sum(axis=0), pixels > 0
        where_present = (holds * pixels.sum(axis=1, keepdims=True)).sum(axis=0)
        return cls(total / max(total.sum(), 1), total / np.maximum(where_present, 1), holds.sum(axis=0))


def labelled_pixels(tiles: TileSet) -> np.ndarray:
    """(T, C) int64 pixels of each class in each tile, 0 for void."""
    pixels = np.stack([tile.pixels for tile in tiles])
    pixels[:, IGNORE_INDEX] = 0
    return pixels


def median_frequency_weights(frequencies: ClassFrequencies, largest: float = LARGEST_CLASS_WEIGHT) -> np.ndarray:
    """(C,) float64 weight of each class: the median of the frequencies over its own, but at most ``largest``.

    The frequency of a class is its share of the labelled pixels of the tiles that hold it. Void and classes that the
    set does not hold weigh 0: no pixel of a crop has them.

    Source: Eigen and Fergus 2015, arXiv:1411.4734. The largest weight is ours.
    """
    frequency = frequencies.shares_where_present
    present = frequency > 0
    weights = np.zeros(len(frequency))
    if present.any():
        weights[present] = np.minimum(np.median(frequency[present]) / frequency[present], largest)
    return weights


def rare_class_chances(shares: np.ndarray, temperature: float) -> np.ndarray:
    """(K,) shares of classes that occur, at least one → (K,) float64 chances P ∝ exp((1 − share) / temperature).

    Source: Hoyer et al. 2022, arXiv:2111.14887.
    """
    with np.errstate(over="ignore"):  # what is too frequent for a tiny temperature has no chance; the rarest has 1
        chances = np.exp((shares.min() - shares) / temperature)
    return chances / chances.sum()
