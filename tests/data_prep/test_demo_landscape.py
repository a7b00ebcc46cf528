"""What landscapes are made of: noise, areas of a given size, crowns, colours, shadows."""

import numpy as np
import pytest

from data_prep.demo.landscape import spline_noise, take_highest
from data_prep.demo.painting import cast_shadow, crowns, mix


def test_take_highest_takes_exactly_the_best_available_pixels():
    score = np.arange(12, dtype=np.float32).reshape(3, 4)
    available = score != 11
    assert score[take_highest(score, available, 3)].tolist() == [8, 9, 10]
    assert take_highest(score, available, 99).sum() == 11
    assert not take_highest(score, available, 0).any()


def test_spline_noise_is_smooth_centred_and_of_unit_spread():
    noise = spline_noise(np.random.default_rng(0), (600, 500), 12)
    assert noise.dtype == np.float32 and noise.shape == (600, 500)
    assert abs(noise.mean()) < 0.1 and noise.std() == pytest.approx(1, abs=0.15)
    assert np.abs(np.diff(noise, axis=0)).max() < 1


def test_shadow_falls_away_from_the_sun_as_far_as_the_height_allows():
    height = np.zeros((9, 20), np.float32)
    height[4, 5] = 4
    shadow = cast_shadow(height, 0.0, 1.0)  # light goes east
    assert np.flatnonzero(shadow[4]).tolist() == [6, 7, 8]
    assert shadow.sum() == 3


def test_a_colour_is_mixed_by_the_share_of_the_second():
    first, second = np.array([0.0, 1, 2, 3], np.float32), np.array([1.0, 1, 4, 0], np.float32)
    mixed = mix(first, second, np.array([0, 0.25, 1]))
    assert mixed.T.tolist() == [[0, 1, 2, 3], [0.25, 1, 2.5, 2.25], [1, 1, 4, 0]]


def test_crowns_stand_on_the_asked_share_of_points_and_are_highest_in_their_middle():
    ground = np.ones((60, 60), bool)
    covered = []
    for keep in (0.0, 0.2, 1.0):
        dome, tone = crowns(np.random.default_rng(0), ground, 10, keep)
        assert dome.shape == tone.shape == (3600,) and 0 <= dome.min() and dome.max() <= 1 and np.abs(tone).max() <= 1
        covered.append(np.mean(dome > 0))
    assert covered[0] < 0.01 < 0.1 < covered[1] < 0.5 < 0.8 < covered[2]
