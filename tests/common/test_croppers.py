from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.class_frequencies import ClassFrequencies
from common.croppers import ForegroundCrop, MinorityCrop, RandomCrop, RareClassCrop
from common.taxonomy import BIODIVERSITY
from training.engine.crops import WINDOW_STREAM, stream

FOREST, CROPLAND, SETTLEMENT = (BIODIVERSITY.index(name) for name in ("Forest", "Cropland", "Settlement"))


def windows(cropper, mask, count=400, scale=1.0):
    return [cropper.window(mask, stream(0, n, WINDOW_STREAM), scale) for n in range(count)]


def cut(mask, window):
    row, column, side = window
    return mask[row : row + side, column : column + side]


def hit_rate(cropper, mask, wanted=SETTLEMENT):
    return np.mean([(cut(mask, window) == wanted).any() for window in windows(cropper, mask)])


def assert_alike(counts: Counter, kinds: int, each: float):
    """Whether ``kinds`` different things occurred about equally often, to 30 %."""
    assert len(counts) == kinds, counts
    assert 0.7 * each < min(counts.values()) and max(counts.values()) < 1.3 * each, counts


def rare_class_crop(size, temperature=0.01):
    shares = np.array([0, 0.6, 0.2, 0.15, 0.05, 0])
    return RareClassCrop(size, ClassFrequencies(shares, shares, np.array([0, 9, 5, 4, 2, 0])), temperature)


@pytest.fixture
def corner_mask():
    mask = np.full((256, 256), FOREST, np.uint8)
    mask[:8, :8] = SETTLEMENT  # 0.1 % of the tile, in a corner
    return mask


def test_minority_crop_finds_a_class_that_random_crops_miss(corner_mask):
    assert hit_rate(RandomCrop(64), corner_mask) < 0.1
    assert hit_rate(MinorityCrop(64, [SETTLEMENT], p=1.0), corner_mask) == 1.0


def test_minority_crop_seeks_in_a_share_p_of_the_crops(corner_mask):
    assert hit_rate(MinorityCrop(64, [SETTLEMENT], p=0.5), corner_mask) == pytest.approx(0.5, abs=0.08)
    assert hit_rate(MinorityCrop(64, [SETTLEMENT], p=0.2), corner_mask) == pytest.approx(0.22, abs=0.08)


def test_a_minority_class_is_sought_in_half_of_the_crops_unless_said_otherwise(corner_mask):
    assert hit_rate(MinorityCrop(64, [SETTLEMENT]), corner_mask) == pytest.approx(0.5, abs=0.08)


def test_without_a_minority_class_in_the_tile_the_windows_are_those_of_the_random_crop():
    mask = np.full((256, 256), FOREST, np.uint8)
    assert windows(MinorityCrop(64, [SETTLEMENT], p=1.0), mask) == windows(RandomCrop(64), mask)


@pytest.mark.parametrize("scale", [0.8, 1.0, 1.25])
def test_windows_of_crops_that_do_not_seek_are_those_of_the_random_crop(corner_mask, scale):
    random = windows(RandomCrop(64), corner_mask, scale=scale)
    assert windows(MinorityCrop(64, [SETTLEMENT], p=0.0), corner_mask, scale=scale) == random
    seeking = windows(MinorityCrop(64, [SETTLEMENT], p=0.5), corner_mask, scale=scale)
    same = [a == b for a, b in zip(seeking, random, strict=True)]
    assert 0.4 < np.mean(same) < 0.6  # those that seek have another place and no other size
    assert {side for _, _, side in seeking} == {round(64 / scale)}


def test_rarer_classes_are_sought_more_often_by_one_over_the_root_of_their_share():
    mask = np.full((256, 256), FOREST, np.uint8)
    mask[0, 0], mask[255, 255] = SETTLEMENT, CROPLAND
    cropper = MinorityCrop(32, [CROPLAND, SETTLEMENT], shares=[0.09, 0.01], p=1.0)
    assert hit_rate(cropper, mask, SETTLEMENT) == pytest.approx(3 / 4, abs=0.07)
    assert hit_rate(cropper, mask, CROPLAND) == pytest.approx(1 / 4, abs=0.07)


def test_classes_without_given_shares_are_sought_equally_often_and_those_not_in_the_tile_never():
    mask = np.full((256, 256), FOREST, np.uint8)
    mask[0, 0], mask[255, 255] = SETTLEMENT, CROPLAND
    for cropper in (MinorityCrop(32, [2, CROPLAND, SETTLEMENT], p=1.0), MinorityCrop(32, [4, 5, 3], [0.1] * 3, p=1.0)):
        assert hit_rate(cropper, mask, SETTLEMENT) == pytest.approx(1 / 2, abs=0.08)
        assert hit_rate(cropper, mask, CROPLAND) == pytest.approx(1 / 2, abs=0.08)
    absent = MinorityCrop(32, [2, SETTLEMENT], shares=[1e-9, 0.5], p=1.0)
    assert hit_rate(absent, mask, SETTLEMENT) == 1.0


def test_every_pixel_of_the_sought_class_is_sought_equally_often():
    mask = np.full((40, 90), FOREST, np.uint8)
    pixels = [(0, 0), (3, 80), (20, 40), (39, 2), (39, 89)]  # no two in one window
    for pixel in pixels:
        mask[pixel] = SETTLEMENT
    found = Counter()
    for window in windows(MinorityCrop(8, [SETTLEMENT], p=1.0), mask, 1500):
        ((row, column),) = np.argwhere(cut(mask, window) == SETTLEMENT)
        found[window[0] + int(row), window[1] + int(column)] += 1
    assert set(found) == set(pixels)
    assert_alike(found, 5, 300)


def test_every_window_that_holds_the_sought_pixel_is_equally_likely():
    mask = np.full((20, 30), FOREST, np.uint8)
    mask[7, 11] = SETTLEMENT
    assert_alike(Counter(windows(MinorityCrop(3, [SETTLEMENT], p=1.0), mask, 1800)), 9, 200)


@pytest.mark.parametrize(
    ("pixel", "rows", "columns"), [((0, 0), {0}, {0}), ((19, 29), {17}, {27}), ((1, 28), {0, 1}, {26, 27})]
)
def test_at_the_edge_of_the_tile_the_window_ends_there(pixel, rows, columns):
    mask = np.full((20, 30), FOREST, np.uint8)
    mask[pixel] = SETTLEMENT
    found = windows(MinorityCrop(3, [SETTLEMENT], p=1.0), mask, 60)
    assert {row for row, _, _ in found} == rows and {column for _, column, _ in found} == columns


def test_the_sought_pixel_lies_anywhere_in_the_window_not_just_in_its_centre():
    mask = np.full((256, 256), FOREST, np.uint8)
    mask[128, 128] = SETTLEMENT
    found = np.array(windows(MinorityCrop(64, [SETTLEMENT], p=1.0), mask))
    for offsets in (128 - found[:, 0], 128 - found[:, 1]):
        assert 0 <= min(offsets) <= 4 and 59 <= max(offsets) <= 63


@pytest.mark.parametrize("scale", [0.8, 1.0, 1.25])
@pytest.mark.parametrize(
    "cropper", [RandomCrop(64), MinorityCrop(64, [SETTLEMENT], p=1.0), ForegroundCrop(64, 6, p=1.0)]
)
def test_windows_stay_inside_the_tile_at_every_scale(cropper, scale):
    mask = np.full((70, 90), SETTLEMENT, np.uint8)
    for row, column, side in windows(cropper, mask, 100, scale):
        assert 0 <= row <= 70 - side and 0 <= column <= 90 - side
        assert side == min(round(64 / scale), 70)


def test_random_windows_reach_every_corner_of_the_tile():
    found = windows(RandomCrop(60), np.zeros((64, 64), np.uint8))
    assert {row for row, _, _ in found} == {column for _, column, _ in found} == {0, 1, 2, 3, 4}


def test_every_random_window_is_equally_likely():
    """Row and column are drawn one by one, in tiles that are not square too."""
    assert_alike(Counter(windows(RandomCrop(30), np.zeros((32, 34), np.uint8), 3000)), 3 * 5, 200)


def test_a_random_window_follows_from_two_draws_for_row_and_column():
    class Fixed:
        def __init__(self, *values):
            self.values = values

        def random(self, count):
            return np.array(self.values[:count])

    mask = np.zeros((40, 72), np.uint8)
    assert RandomCrop(32).window(mask, Fixed(0.0, 1 - 2**-53)) == (0, 40, 32)
    assert RandomCrop(32).window(mask, Fixed(1 - 2**-53, 0.0)) == (8, 0, 32)
    assert RandomCrop(32).window(mask, Fixed(0.5, 0.25)) == (4, 10, 32)  # of 9 rows the 5th, of 41 columns the 11th


def test_what_is_enlarged_by_a_scale_is_cut_smaller_by_it():
    mask, rng = np.zeros((100, 90), np.uint8), stream(0, 0, WINDOW_STREAM)
    sides = {scale: RandomCrop(64).window(mask, rng, scale)[2] for scale in (0.5, 0.8, 1.0, 1.25, 2.0)}
    assert sides == {0.5: 90, 0.8: 80, 1.0: 64, 1.25: 51, 2.0: 32}  # 128 would not fit


@given(data=st.data())
def test_windows_stay_inside_tiles_of_any_shape_at_any_scale_and_hold_what_is_sought(data):
    height, width = data.draw(st.integers(1, 80), "height"), data.draw(st.integers(1, 80), "width")
    size, scale = data.draw(st.integers(1, 64), "size"), data.draw(st.floats(0.8, 1.25), "scale")
    mask = np.full((height, width), FOREST, np.uint8)
    pixel = data.draw(st.integers(0, height - 1), "row"), data.draw(st.integers(0, width - 1), "column")
    mask[pixel] = SETTLEMENT
    seeking = (MinorityCrop(size, [CROPLAND, SETTLEMENT], p=1.0), rare_class_crop(size), ForegroundCrop(size, 6, p=1.0))
    for cropper in (RandomCrop(size), *seeking):
        rng = stream(data.draw(st.integers(0, 9), "seed"), 0, WINDOW_STREAM)
        row, column, side = window = cropper.window(mask, rng, scale)
        assert all(type(value) is int for value in window)
        assert 0 <= row and row + side <= height and 0 <= column and column + side <= width
        assert abs(side - size / scale) <= 0.5 or side == min(height, width) < size / scale
        assert SETTLEMENT in cut(mask, window) or not isinstance(cropper, MinorityCrop | RareClassCrop)


def test_croppers_record_what_they_were_set_to():
    assert RandomCrop(64).describe() == {"kind": "random"}
    assert ForegroundCrop(64, 6).describe() == {"kind": "foreground", "classes": [1, 2, 3, 4, 5], "p": 1 / 3}
    rare = {"kind": "rare_class", "temperature": 0.25, "shares": [0.6, 0.2, 0.15, 0.05, 0.0], "tiles": [9, 5, 4, 2, 0]}
    assert rare_class_crop(64, 0.25).describe() == rare
    minority = {"kind": "minority", "classes": [3, 4], "shares": [0.09, 0.01], "p": 0.25}
    assert MinorityCrop(64, [3, 4], [0.09, 0.01], 0.25).describe() == minority


def test_rare_class_crops_always_hold_the_class_they_seek_mostly_the_rarest(corner_mask):
    assert hit_rate(rare_class_crop(64), corner_mask) == 1.0
    corner_mask[:8, :8] = FOREST
    corner_mask[248:, 248:] = CROPLAND  # rarer than forest
    assert hit_rate(rare_class_crop(64), corner_mask, CROPLAND) == 1.0


def test_a_rare_class_is_sought_by_its_chance_over_the_number_of_tiles_that_hold_it():
    """exp(−0.05 / 0.1) / 2 for Settlement to exp(−0.15 / 0.1) / 4 for Cropland."""
    mask = np.zeros((256, 256), np.uint8)
    mask[0, 0], mask[255, 255] = SETTLEMENT, CROPLAND
    wanted = (np.exp(-0.5) / 2) / (np.exp(-0.5) / 2 + np.exp(-1.5) / 4)
    assert hit_rate(rare_class_crop(32, 0.1), mask) == pytest.approx(wanted, abs=0.05)


def test_a_window_of_a_tile_without_a_label_is_random():
    mask = np.zeros((256, 256), np.uint8)
    for cropper in (rare_class_crop(64), ForegroundCrop(64, 6, p=1.0)):
        assert windows(cropper, mask) == windows(RandomCrop(64), mask)


@pytest.mark.parametrize("p", [1 / 3, 0.8])
def test_a_share_p_of_the_foreground_crops_lies_around_a_pixel_the_others_are_random(p):
    mask = np.zeros((256, 256), np.uint8)
    mask[100, 150] = SETTLEMENT
    cropper = ForegroundCrop(64, 6) if p == 1 / 3 else ForegroundCrop(64, 6, p)
    found, random = windows(cropper, mask), windows(RandomCrop(64), mask)
    centred = [window == (100 - 32, 150 - 32, 64) for window in found]
    assert np.mean(centred) == pytest.approx(p, abs=0.06)
    assert all(a == b for a, b, is_centred in zip(found, random, centred, strict=True) if not is_centred)


@pytest.mark.parametrize(
    ("pixel", "corner"), [((0, 0), (0, 0)), ((99, 119), (68, 88)), ((50, 2), (34, 0)), ((50, 60), (34, 44))]
)
def test_the_window_around_a_pixel_is_moved_into_the_tile(pixel, corner):
    mask = np.zeros((100, 120), np.uint8)
    mask[pixel] = CROPLAND
    assert set(windows(ForegroundCrop(32, 6, p=1.0), mask, 20)) == {(*corner, 32)}


def test_foreground_crops_seek_each_class_of_the_tile_equally_often_however_common(corner_mask):
    """The windows around the two rare ones lie in a corner each, as do those around the forest beside them."""
    corner_mask[250, 250] = CROPLAND
    found = Counter(window[:2] for window in windows(ForegroundCrop(64, 6, p=1.0), corner_mask, 900))
    assert found[0, 0] == pytest.approx(300 + 300 * (33 / 256) ** 2, abs=45)
    assert found[192, 192] == pytest.approx(300 + 300 * (32 / 256) ** 2, abs=45)
