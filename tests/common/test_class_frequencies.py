import numpy as np
import pytest

from common.class_frequencies import (
    LARGEST_CLASS_WEIGHT,
    RARE_CLASS_TEMPERATURE,
    ClassFrequencies,
    median_frequency_weights,
    rare_class_chances,
)
from tests.small_sets import set_of_pixels

# Background, Forest, Grassland, Cropland, Settlement, Seminatural; the last is nowhere, and one tile has no label.
PIXELS = [[10, 80, 10, 0, 0, 0], [0, 60, 0, 40, 0, 0], [98, 1, 0, 0, 1, 0], [100, 0, 0, 0, 0, 0]]


@pytest.fixture
def frequencies(tmp_path):
    return ClassFrequencies.of(set_of_pixels(tmp_path, PIXELS))


def test_frequencies_are_shares_of_the_labelled_pixels_of_all_tiles_and_of_those_that_hold_the_class(frequencies):
    assert frequencies.shares == pytest.approx(np.array([0, 141, 10, 40, 1, 0]) / 192)
    assert frequencies.shares_where_present == pytest.approx([0, 141 / 192, 10 / 90, 40 / 100, 1 / 2, 0])
    assert frequencies.tiles.tolist() == [0, 3, 1, 1, 1, 0]


def test_a_set_without_labels_has_no_frequencies(tmp_path):
    frequencies = ClassFrequencies.of(set_of_pixels(tmp_path, [[100, 0, 0, 0, 0, 0]]))
    assert not any(values.any() for values in frequencies) and not median_frequency_weights(frequencies).any()


def test_a_weight_is_the_median_frequency_over_that_of_the_class(frequencies):
    """Of 0.111, 0.4, 0.5 and 0.734 the median is 0.45; a class that is nowhere is none of them, and weighs nothing."""
    wanted = [0, 0.45 / (141 / 192), 0.45 / (10 / 90), 0.45 / 0.4, 0.45 / 0.5, 0]
    assert median_frequency_weights(frequencies) == pytest.approx(wanted)


def test_no_weight_is_above_the_largest(frequencies, tmp_path):
    weights = median_frequency_weights(frequencies, largest=2.0)
    assert weights == pytest.approx([0, 0.45 / (141 / 192), 2.0, 0.45 / 0.4, 0.45 / 0.5, 0])
    rare = ClassFrequencies.of(set_of_pixels(tmp_path, [[0, 9_900, 9_900, 1, 0, 0]]))
    assert LARGEST_CLASS_WEIGHT == 20.0 and median_frequency_weights(rare)[3] == 20.0


def test_the_chance_of_a_class_falls_by_e_for_each_temperature_of_share():
    chances = rare_class_chances(np.array([0.1, 0.3, 0.6]), 0.2)
    assert chances.sum() == pytest.approx(1)
    assert chances[0] / chances[1] == pytest.approx(np.e) and chances[0] / chances[2] == pytest.approx(np.exp(2.5))
    assert RARE_CLASS_TEMPERATURE == 0.01
    assert rare_class_chances(np.array([0.02, 0.01, 0.97]), 0.01)[:2] == pytest.approx(np.array([1, np.e]) / (1 + np.e))


@pytest.mark.parametrize("temperature", [1e-5, 1e-300, 5e-324])
def test_a_tiny_temperature_leaves_the_rarest_class_and_those_as_rare(temperature):
    assert rare_class_chances(np.array([0.2, 0.6, 0.2]), temperature).tolist() == [0.5, 0, 0.5]


def test_a_large_temperature_makes_all_classes_equally_likely():
    assert rare_class_chances(np.array([0.1, 0.3, 0.6]), 1e9) == pytest.approx(1 / 3)
