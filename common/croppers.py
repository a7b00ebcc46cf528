"""Which window of a tile becomes a crop."""

import numpy as np

MINORITY_PROBABILITY = 0.5


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
            mask: (H, W) uint8 class ids of the whole tile.
            rng: the window stream of this crop.
            scale: how much the window is enlarged afterwards to become ``size``; its side is ``size / scale``,
                or the shorter side of the tile where that is less.
        """
        side = min(round(self.size / scale), *mask.shape)
        position = rng.random(2)
        return (*_corner(position, np.zeros(2, int), np.array(mask.shape) - side), side)

    def describe(self) -> dict:
        return {"kind": "random"}


class MinorityCrop(RandomCrop):
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
        super().__init__(size)
        self.classes = np.array(classes, np.uint8)  # of the masks' type, so that comparing does not widen them
        self.shares = np.ones(len(classes)) if shares is None else np.array(shares, float)
        self.p = p

    def window(self, mask: np.ndarray, rng: np.random.Generator, scale: float = 1.0) -> tuple[int, int, int]:
        row, column, side = super().window(mask, rng, scale)
        if rng.random() >= self.p:
            return row, column, side
        present = np.array([np.any(mask == label) for label in self.classes])
        if not present.any():
            return row, column, side
        chances = present / np.sqrt(self.shares)
        wanted = rng.choice(self.classes, p=chances / chances.sum())
        pixels = np.flatnonzero(mask == wanted)
        pixel = np.array(np.unravel_index(pixels[rng.integers(len(pixels))], mask.shape))
        lowest = np.maximum(pixel - side + 1, 0)
        highest = np.minimum(pixel, np.array(mask.shape) - side)
        return (*_corner(rng.random(2), lowest, highest), side)

    def describe(self) -> dict:
        return {"kind": "minority", "classes": self.classes.tolist(), "shares": self.shares.tolist(), "p": self.p}


def _corner(u: np.ndarray, lowest: np.ndarray, highest: np.ndarray) -> tuple[int, int]:
    """Two uniform numbers → a row and a column between lowest and highest, both included."""
    row, column = lowest + (u * (highest - lowest + 1)).astype(int)
    return int(row), int(column)
