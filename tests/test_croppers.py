import numpy as np
import pytest

from common.croppers import MinorityCrop, RandomCrop
from common.samplers import WINDOW_STREAM, stream
from common.taxonomy import BIODIVERSITY

FOREST, CROPLAND, SETTLEMENT = (BIODIVERSITY.index(name) for name in ("Forest", "Cropland", "Settlement"))


def windows(cropper, mask, count=400, scale=1.0):
    return [cropper.window(mask, stream(0, n, WINDOW_STREAM), scale) for n in range(count)]


def cut(mask, window):
    row, column, side = window
    return mask[row : row + side, column : column + side]


def hit_rate(cropper, mask, wanted=SETTLEMENT):
    return np.mean([(cut(mask, window) == wanted).any() for window in windows(cropper, mask)])


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


def test_without_a_minority_class_in_the_tile_the_windows_are_those_of_the_random_crop():
    mask = np.full((256, 256), FOREST, np.uint8)
    assert windows(MinorityCrop(64, [SETTLEMENT], p=1.0), mask) == windows(RandomCrop(64), mask)


def test_windows_of_crops_that_do_not_seek_are_those_of_the_random_crop(corner_mask):
    assert windows(MinorityCrop(64, [SETTLEMENT], p=0.0), corner_mask) == windows(RandomCrop(64), corner_mask)


def test_rarer_classes_are_sought_more_often_by_one_over_the_root_of_their_share():
    mask = np.full((256, 256), FOREST, np.uint8)
    mask[0, 0], mask[255, 255] = SETTLEMENT, CROPLAND
    cropper = MinorityCrop(32, [CROPLAND, SETTLEMENT], shares=[0.09, 0.01], p=1.0)
    assert hit_rate(cropper, mask, SETTLEMENT) == pytest.approx(3 / 4, abs=0.07)
    assert hit_rate(cropper, mask, CROPLAND) == pytest.approx(1 / 4, abs=0.07)


def test_the_sought_pixel_lies_anywhere_in_the_window_not_just_in_its_centre():
    mask = np.full((256, 256), FOREST, np.uint8)
    mask[128, 128] = SETTLEMENT
    rows = [128 - row for row, _, _ in windows(MinorityCrop(64, [SETTLEMENT], p=1.0), mask)]
    assert min(rows) <= 4 and max(rows) >= 59


@pytest.mark.parametrize("scale", [0.8, 1.0, 1.25])
@pytest.mark.parametrize("cropper", [RandomCrop(64), MinorityCrop(64, [SETTLEMENT], p=1.0)])
def test_windows_stay_inside_the_tile_at_every_scale(cropper, scale):
    mask = np.full((70, 90), SETTLEMENT, np.uint8)
    for row, column, side in windows(cropper, mask, 100, scale):
        assert 0 <= row <= 70 - side and 0 <= column <= 90 - side
        assert side == min(round(64 / scale), 70)


def test_random_windows_reach_every_corner_of_the_tile():
    found = windows(RandomCrop(60), np.zeros((64, 64), np.uint8))
    assert {row for row, _, _ in found} == {column for _, column, _ in found} == {0, 1, 2, 3, 4}
