"""How often each tile is drawn."""

import numpy as np

from common.class_frequencies import (
    RARE_CLASS_TEMPERATURE,
    ClassFrequencies,
    labelled_pixels,
    rare_class_chances,
)
from common.tiles import TileSet


class UniformTiles:
    """Every tile weighs the same."""

    def weights(self, tiles: TileSet) -> np.ndarray:
        """(T,) float64 tile weights, in the order of the set."""
        return np.ones(len(tiles))

    def describe(self) -> dict:
        return {"kind": "uniform"}


class WeightedTiles:
    """Tiles are drawn in proportion to weights given by tile id; ``origin`` says where these come from."""

    def __init__(self, weight_of: dict[str, float], origin: dict[str, str] | None = None) -> None:
        self.weight_of = weight_of
        self.origin = origin or {}

    def weights(self, tiles: TileSet) -> np.ndarray:
        """(T,) float64 tile weights, in the order of the set; KeyError for a tile without a weight."""
        return np.array([self.weight_of[tile_id] for tile_id in tiles.ids])

    def describe(self) -> dict:
        return {"kind": "weighted", **self.origin}


class RareClassTiles:
    """The tiles of rare class sampling; ``croppers.RareClassCrop`` places the windows, and says how they go together.

    A tile weighs the sum, over its classes c, of P(c) / N(c): P(c) is ``rare_class_chances``, N(c) how many tiles hold
    the class.

    Source: Hoyer et al. 2022, arXiv:2111.14887 (DAFormer).
    """

    def __init__(self, temperature: float = RARE_CLASS_TEMPERATURE) -> None:
        self.temperature = temperature

    def weights(self, tiles: TileSet) -> np.ndarray:
        """(T,) float64 tile weights, in the order of the set."""
        frequencies = ClassFrequencies.of(tiles)
        present = frequencies.tiles > 0
        chances = rare_class_chances(frequencies.shares[present], self.temperature) / frequencies.tiles[present]
        return (labelled_pixels(tiles)[:, present] > 0) @ chances

    def describe(self) -> dict:
        return {"kind": "rare_class", "temperature": self.temperature}


def difficulty_weights(losses: np.ndarray, alpha: float) -> tuple[np.ndarray, np.ndarray]:
    """(T,) losses of tiles → (T,) difficulty between 0 and 1, and (T,) weight 1 + alpha · difficulty.

    Difficulty is the loss scaled between its 5th and 95th percentile, so that one mislabelled tile cannot
    flatten all others. Losses that are all the same have difficulty 0.
    """
    low, high = np.percentile(losses, [5, 95])
    difficulty = np.clip((losses - low) / (high - low), 0, 1) if high > low else np.zeros(len(losses))
    return difficulty, 1 + alpha * difficulty
