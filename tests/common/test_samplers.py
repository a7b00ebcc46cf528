from collections import Counter

import numpy as np
import pytest

from common.class_frequencies import ClassFrequencies
from common.croppers import RareClassCrop
from common.samplers import RareClassTiles, difficulty_weights
from tests.small_sets import set_of_pixels
from training.engine.crops import WINDOW_STREAM, TileDraws, stream


def test_weights_run_from_one_to_one_plus_alpha_and_one_outlier_does_not_flatten_them():
    losses = np.concatenate([np.linspace(1, 2, 99), [1000.0]])
    difficulty, weights = difficulty_weights(losses, alpha=2.0)
    assert weights.min() == 1 and weights.max() == 3
    assert np.all(np.diff(weights) >= 0)
    assert difficulty[50] == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("alpha", [0.5, 2.0])
def test_difficulty_is_scaled_between_the_5th_and_the_95th_percentile_and_keeps_the_order_of_tiles(alpha):
    losses = np.random.default_rng(0).permutation(np.arange(101.0))  # whose percentiles are 0, 1, 2, ... 100
    difficulty, weights = difficulty_weights(losses, alpha)
    by_loss = {0: 0, 4: 0, 5: 0, 6: 1 / 90, 14: 0.1, 50: 0.5, 94: 89 / 90, 95: 1, 96: 1, 100: 1}
    for loss, wanted in by_loss.items():
        (place,) = np.flatnonzero(losses == loss)
        assert (difficulty[place], weights[place]) == pytest.approx((wanted, 1 + alpha * wanted))


def test_equal_losses_give_equal_weights():
    assert difficulty_weights(np.full(10, 0.7), alpha=2.0)[1].tolist() == [1.0] * 10


# Forest in all tiles but one, Grassland in two, Settlement in one of them, Cropland alone; one has no label.
PIXELS = [[0, 60, 30, 0, 10, 0], [0, 80, 20, 0, 0, 0], [50, 50, 0, 0, 0, 0], [90, 0, 0, 10, 0, 0], [100, 0, 0, 0, 0, 0]]
SHARES = np.array([190, 50, 10, 10]) / 260  # Forest, Grassland, Cropland, Settlement


def draws_of_the_source(temperature: float) -> np.ndarray:
    """(T, C) chances to draw a class by P ∝ exp((1 − share) / T), then one of the tiles that hold it."""
    holds = np.array(PIXELS)[:, 1:5] > 0
    chances = np.exp((1 - SHARES) / temperature)
    return holds * (chances / chances.sum() / holds.sum(axis=0))


@pytest.mark.parametrize("temperature", [0.05, 0.3, 10.0])
def test_sampler_and_cropper_together_draw_class_and_tile_as_the_source_does(tmp_path, temperature):
    tiles = set_of_pixels(tmp_path, PIXELS)
    weights = RareClassTiles(temperature).weights(tiles)
    cropper = RareClassCrop(32, ClassFrequencies.of(tiles), temperature)
    found = np.zeros((5, 5))
    for n, tile in enumerate(tiles):
        present = tile.pixels[1:] > 0
        if present.any():
            chances = cropper.chances(present)
            found[n] = weights[n] / weights.sum() * chances / chances.sum()
    assert found[:, :4] == pytest.approx(draws_of_the_source(temperature)) and not found[:, 4].any()
    assert weights[4] == 0 and weights.sum() == pytest.approx(1)


def test_tiles_and_windows_that_are_drawn_are_those_of_the_source(tmp_path):
    """Each class in a corner of its own, so that a window of 3 px tells which one was sought."""
    tiles = set_of_pixels(tmp_path, PIXELS)
    draws = TileDraws(tiles, RareClassTiles(0.3), 0)
    cropper = RareClassCrop(3, ClassFrequencies.of(tiles), 0.3)
    found, count = np.zeros((5, 4)), 4000
    for position in range(count):
        mask, index = np.zeros((20, 20), np.uint8), draws(position)
        for label in np.flatnonzero(tiles.tiles[index].pixels[1:]) + 1:
            mask[18 * (label // 2) // 2, 18 * (label % 2)] = label
        row, column, side = cropper.window(mask, stream(0, position, WINDOW_STREAM))
        (label,) = set(mask[row : row + side, column : column + side].flat) - {0}
        found[index, label - 1] += 1 / count
    assert found == pytest.approx(draws_of_the_source(0.3), abs=0.03)


@pytest.mark.parametrize("temperature", [1e-4, 1e-300])
def test_with_a_tiny_temperature_only_tiles_of_the_rarest_classes_are_drawn(tmp_path, temperature):
    tiles = set_of_pixels(tmp_path, PIXELS)
    assert RareClassTiles(temperature).weights(tiles).tolist() == [0.5, 0, 0, 0.5, 0]
    cropper = RareClassCrop(32, ClassFrequencies.of(tiles), temperature)
    of_common = cropper.chances(np.array([True, True, False, False, False]))  # in a tile that is never drawn
    assert of_common.argmax() == 1 and np.isfinite(of_common).all()


def test_the_temperature_is_that_of_the_source_unless_said_otherwise(tmp_path):
    tiles = set_of_pixels(tmp_path, PIXELS)
    assert RareClassTiles().describe() == {"kind": "rare_class", "temperature": 0.01}
    assert np.array_equal(RareClassTiles().weights(tiles), RareClassTiles(0.01).weights(tiles))
    draws = TileDraws(tiles, RareClassTiles(), 0)
    drawn = Counter(tiles.ids[draws(n)] for n in range(2000))
    assert drawn.keys() == {"t0", "t3"} and drawn["t0"] == pytest.approx(1000, abs=100)  # each rare class in one tile
