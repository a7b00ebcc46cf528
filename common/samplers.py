"""Which tile each crop comes from, and the random streams behind every draw.

A draw is a pure function of the seed and the position n of the crop in the run. Tile, window and augmentation
come from three separate streams, so that changing one of them between stages leaves the other two as they were.
"""

import numpy as np

from common.errors import UserError
from common.tiles import TileSet

TILE_STREAM, WINDOW_STREAM, AUGMENTATION_STREAM = range(3)


def stream(seed: int, position: int, which: int) -> np.random.Generator:
    """The random generator of one stream at one position; counter-based, so that no draw depends on another."""
    return np.random.Generator(np.random.Philox(key=[seed, which], counter=[0, position, 0, 0]))


class UniformTiles:
    """Every tile weighs the same."""

    def weights(self, tiles: TileSet) -> np.ndarray:
        """(T,) float64 tile weights, in the order of the set."""
        return np.ones(len(tiles))

    def describe(self) -> dict:
        return {"kind": "uniform"}


class WeightedTiles:
    """Tiles are drawn in proportion to weights given by tile id; ``origin`` says where these come from."""

    def __init__(self, weight_of: dict[str, float], origin: dict[str, str]):
        self.weight_of = weight_of
        self.origin = origin

    def weights(self, tiles: TileSet) -> np.ndarray:
        """(T,) float64 tile weights, in the order of the set; KeyError for a tile without a weight."""
        return np.array([self.weight_of[tile_id] for tile_id in tiles.ids])

    def describe(self) -> dict:
        return {"kind": "weighted", **self.origin}


class TileDraws:
    """Draws tiles with replacement by inverse CDF; a tile without a labelled pixel is never drawn."""

    def __init__(self, tiles: TileSet, sampler, seed: int):
        labelled = np.array([tile.labelled > 0 for tile in tiles])
        if not labelled.any():
            raise UserError(f"{tiles.path}: none of its {len(tiles)} tiles has a labelled pixel; nothing to train on.")
        self.seed = seed
        self.without_label = int((~labelled).sum())
        self.cdf = np.cumsum(np.where(labelled, sampler.weights(tiles), 0.0))

    def __call__(self, position: int) -> int:
        """The index, in the set, of the tile of the crop at ``position``."""
        u = stream(self.seed, position, TILE_STREAM).random()
        return int(np.searchsorted(self.cdf, u * self.cdf[-1], side="right"))


def difficulty_weights(losses: np.ndarray, alpha: float) -> tuple[np.ndarray, np.ndarray]:
    """(T,) losses of tiles → (T,) difficulty between 0 and 1, and (T,) weight 1 + alpha · difficulty.

    Difficulty is the loss scaled between its 5th and 95th percentile, so that one mislabelled tile cannot
    flatten all others. Losses that are all the same have difficulty 0.
    """
    low, high = np.percentile(losses, [5, 95])
    difficulty = np.clip((losses - low) / (high - low), 0, 1) if high > low else np.zeros(len(losses))
    return difficulty, 1 + alpha * difficulty
