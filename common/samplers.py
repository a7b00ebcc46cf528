"""Which tile each crop comes from, and the random streams behind every draw.

A draw is a pure function of the seed and the position n of the crop in the run. Tile, window and augmentation
come from three separate streams, so that changing one of them between stages leaves the other two as they were.
"""

import csv
import io
from pathlib import Path

import numpy as np

from common.cli import UserError
from common.files import sha256_file
from common.tiles import TileSet

TILE_STREAM, WINDOW_STREAM, AUGMENTATION_STREAM = range(3)
LARGEST_ALPHA = 1e6  # far beyond it one tile is all that is drawn
DIFFICULTY_COLUMNS = ("tile_id", "labelled_pixels", "loss", "difficulty", "weight")


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
    """Tiles are drawn in proportion to weights given by tile id."""

    def __init__(self, weight_of: dict[str, float], **facts):
        self.weight_of = weight_of
        self.facts = facts

    def weights(self, tiles: TileSet) -> np.ndarray:
        """(T,) float64 tile weights, in the order of the set; KeyError for a tile without a weight."""
        return np.array([self.weight_of[tile_id] for tile_id in tiles.ids])

    def describe(self) -> dict:
        return {"kind": "weighted", **self.facts}


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


def difficulty_text(rows: list[tuple]) -> str:
    """Rows of DIFFICULTY_COLUMNS as tab-separated text under a header."""
    text = io.StringIO()
    writer = csv.writer(text, delimiter="\t", lineterminator="\n")
    writer.writerow(DIFFICULTY_COLUMNS)
    writer.writerows(rows)
    return text.getvalue()


def read_difficulty(path: Path, tiles: TileSet, command: str) -> WeightedTiles:
    """The sampler that ``difficulty_text`` described for exactly these tiles; ``command`` writes the file.

    Raises:
        UserError: the file is missing or malformed, a tile has no weight, or a weight has no tile.
    """
    again = f"Write it again: {command} --overwrite"
    if not path.is_file():
        raise UserError(f"{path} does not exist. Write it first: {command}")
    try:
        text = path.read_text(encoding="utf-8")
        lines = list(csv.reader(io.StringIO(text, newline=""), delimiter="\t"))
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} is no table in UTF-8 ({error}). {again}") from None
    if not lines or tuple(lines[0]) != DIFFICULTY_COLUMNS:
        raise UserError(f"{path}: the first line must name {', '.join(DIFFICULTY_COLUMNS)}. {again}")
    if not text.endswith("\n"):
        raise UserError(f"{path} is cut off: its last line has no end. {again}")
    weight_of = {}
    for number, line in enumerate(lines[1:], 2):
        try:
            tile_id, *_, weight = line if len(line) == len(DIFFICULTY_COLUMNS) else ()
            weight = float(weight)
        except ValueError:
            raise UserError(
                f"{path}, line {number}: expected {len(DIFFICULTY_COLUMNS)} values, the last a number. {again}"
            ) from None
        if not 0 < weight <= 1 + LARGEST_ALPHA:
            raise UserError(
                f"{path}, line {number}: weight {weight} of {tile_id} is not above 0, or above {1 + LARGEST_ALPHA:g}. "
                f"{again}"
            )
        if tile_id in weight_of:
            raise UserError(f"{path}, line {number}: {tile_id} has a weight already. {again}")
        weight_of[tile_id] = weight
    missing = [tile_id for tile_id in tiles.ids if tile_id not in weight_of]
    if missing:
        raise UserError(
            f"{path} has no weight for {len(missing)} of {len(tiles)} training tiles (first: {missing[0]}). "
            f"It was written for another split. {again}"
        )
    stray = sorted(tile_id for tile_id in weight_of if tile_id not in tiles)
    if stray:
        raise UserError(
            f"{path} has weights for {len(stray)} tiles that {tiles.path} does not hold (first: {stray[0]}). {again}"
        )
    return WeightedTiles(weight_of, weights_from="difficulty", sha256=sha256_file(path))
