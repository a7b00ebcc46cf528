"""Which window of a tile becomes a crop."""

from collections.abc import Sequence

import numpy as np

from common.class_frequencies import RARE_CLASS_TEMPERATURE, ClassFrequencies, rare_class_chances

MINORITY_PROBABILITY = 0.5
FOREGROUND_PROBABILITY = 1 / 3


class RandomCrop:
    """A window anywhere in the tile, every position equally likely.

    Args:
        size: side in pixels of the crop that training sees.
    """

    def __init__(self, size: int) -> None:
        self.size = size

    def window(self, mask: np.ndarray, rng: np.random.Generator, scale: float = 1.0) -> tuple[int, int, int]:
        """Row, column and side in pixels of a square window inside the tile.

        Args:
            mask: (H, W) uint8 class ids of the complete tile.
            rng: the window stream of this crop.
            scale: how much the window is enlarged afterwards to become ``size``; its side is ``size / scale``,
                or the shorter side of the tile if that is less.
        """
        side = min(round(self.size / scale), *mask.shape)
        position = rng.random(2)
        return (*_corner(position, np.zeros(2, int), np.array(mask.shape) - side), side)

    def describe(self) -> dict:
        return {"kind": "random"}


class SeekingCrop(RandomCrop):
    """With probability p a window placed by a pixel of a class that the tile holds, else a random window.

    The class is drawn by ``chances``, the pixel evenly among its pixels, and ``place`` says where the window lies then.

    Args:
        size: side in pixels of the crop that training sees.
        classes: ids of the classes that are sought; a tile without them gets a random window.
        p: probability of seeking one.
    """

    def __init__(self, size: int, classes: Sequence[int], p: float) -> None:
        super().__init__(size)
        self.classes = np.array(classes, np.uint8)  # of the masks' type, so that comparing does not widen them
        self.p = p

    def chances(self, present: np.ndarray) -> np.ndarray:
        """(K,) bool, whether the tile holds each class, at least one → (K,) float64 in proportion to their chances."""
        return present.astype(float)

    def place(self, pixel: np.ndarray, side: int, last: np.ndarray, rng: np.random.Generator) -> tuple[int, int]:
        """Row and column of a window of ``side`` that holds a pixel, each such window equally likely.

        ``pixel`` and ``last``, the last place of a window in the tile, are (2,) int64 rows and columns.
        """
        lowest = np.maximum(pixel - side + 1, 0)
        highest = np.minimum(pixel, last)
        return _corner(rng.random(2), lowest, highest)

    def window(self, mask: np.ndarray, rng: np.random.Generator, scale: float = 1.0) -> tuple[int, int, int]:
        row, column, side = super().window(mask, rng, scale)
        if rng.random() >= self.p:
            return row, column, side
        present = np.array([np.any(mask == label) for label in self.classes])
        if not present.any():
            return row, column, side
        chances = self.chances(present)
        wanted = rng.choice(self.classes, p=chances / chances.sum())
        pixels = np.flatnonzero(mask == wanted)
        pixel = np.array(np.unravel_index(pixels[rng.integers(len(pixels))], mask.shape))
        return (*self.place(pixel, side, np.array(mask.shape) - side, rng), side)


class MinorityCrop(SeekingCrop):
    """With probability p a window that holds a pixel of a minority class of the tile, else a random window.

    Args:
        size: side in pixels of the crop that training sees.
        classes: ids of the minority classes.
        shares: share of each among the labelled pixels of train; a class that the tile contains is chosen in
            proportion to 1/√share. Without shares all are equal.
        p: probability of seeking a minority class.
    """

    def __init__(
        self, size: int, classes: list[int], shares: list[float] | None = None, p: float = MINORITY_PROBABILITY
    ) -> None:
        super().__init__(size, classes, p)
        self.shares = np.ones(len(classes)) if shares is None else np.array(shares, float)

    def chances(self, present: np.ndarray) -> np.ndarray:
        return present / np.sqrt(self.shares)

    def describe(self) -> dict:
        return {"kind": "minority", "classes": self.classes.tolist(), "shares": self.shares.tolist(), "p": self.p}


class RareClassCrop(SeekingCrop):
    """The window of rare class sampling, given the tile that ``samplers.RareClassTiles`` drew.

    Always a window that holds a pixel of class c, where c is drawn in proportion to P(c) / N(c) among the classes of
    the tile: P(c) is ``rare_class_chances``, N(c) how many tiles hold the class. Together, the two draw as the source
    does it: class c by P(c), then one of its N(c) tiles, then a window. For the tile t is drawn by the sum over its
    classes of P(c) / N(c), and then c by its part of that sum, which makes P(c) / N(c) for both.

    Args:
        size: side in pixels of the crop that training sees.
        frequencies: of the set that tiles are drawn from.
        temperature: > 0; see ``rare_class_chances``.

    Source: Hoyer et al. 2022, arXiv:2111.14887 (DAFormer).
    """

    def __init__(self, size: int, frequencies: ClassFrequencies, temperature: float = RARE_CLASS_TEMPERATURE) -> None:
        super().__init__(size, range(1, len(frequencies.shares)), p=1.0)
        self.shares = frequencies.shares[1:]
        self.tiles = frequencies.tiles[1:]
        self.temperature = temperature

    def chances(self, present: np.ndarray) -> np.ndarray:
        chances = np.zeros(len(present))
        chances[present] = rare_class_chances(self.shares[present], self.temperature)
        return chances / np.maximum(self.tiles, 1)

    def describe(self) -> dict:
        known = {"shares": self.shares.tolist(), "tiles": self.tiles.tolist()}
        return {"kind": "rare_class", "temperature": self.temperature, **known}


class ForegroundCrop(SeekingCrop):
    """With probability p a window around a pixel of a class of the tile, each class equally likely; else a random one.

    The pixel is in the centre, but for windows that would leave the tile. The source takes a third of every batch;
    here each crop is one of them with that probability, so that a crop depends on its position alone.

    Args:
        size: side in pixels of the crop that training sees.
        num_classes: number of class ids, void included, which is not sought.
        p: probability of such a window.

    Source: Isensee et al. 2021, doi:10.1038/s41592-020-01008-z (nnU-Net).
    """

    def __init__(self, size: int, num_classes: int, p: float = FOREGROUND_PROBABILITY) -> None:
        super().__init__(size, range(1, num_classes), p)

    def place(self, pixel: np.ndarray, side: int, last: np.ndarray, rng: np.random.Generator) -> tuple[int, int]:
        row, column = np.clip(pixel - side // 2, 0, last)
        return int(row), int(column)

    def describe(self) -> dict:
        return {"kind": "foreground", "classes": self.classes.tolist(), "p": self.p}


def _corner(u: np.ndarray, lowest: np.ndarray, highest: np.ndarray) -> tuple[int, int]:
    """Two uniform numbers → a row and a column between lowest and highest, both included."""
    row, column = lowest + (u * (highest - lowest + 1)).astype(int)
    return int(row), int(column)
