"""Tiles brought to another ground sampling distance, and the warning where one is needed."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rasterio.transform import Affine
from torch.nn.functional import interpolate

from common.errors import UserError
from common.files import MANIFEST
from common.rasters import METRES_PER_DEGREE, georeference, open_raster, write_image
from common.taxonomy import BIODIVERSITY
from common.tiles import Tile
from data_prep.tile_sets import resampling
from data_prep.tile_sets.resampling import compare_gsd, raw_gsd, require_gsd, resample, write_resampled
from tests.small_sets import LEFT, TOP, noise_of, with_pixels, write_raw, write_set

factors = st.floats(0.2, 4)
sides = st.integers(8, 40)


def test_resampling_makes_square_metres_of_degrees_and_turns_no_image_round(tmp_path):
    image = np.zeros((3, 32, 32), np.uint8)
    image[:, 16:] = 200
    mask = np.ones((32, 32), np.uint8)
    step = 1 / METRES_PER_DEGREE  # a metre north, half a metre east at 60 degrees north
    south_up = Affine(step, 0, 15, 0, step, 60)
    (tmp_path / "images").mkdir()
    write_image(tmp_path / "images" / "a.tif", image, crs="EPSG:4326", transform=south_up)
    with open_raster(tmp_path / "images" / "a.tif") as src:
        tile = Tile("a", tmp_path, {**georeference(src), "height": 32, "width": 32})
    out = tmp_path / "out.tif"
    write_resampled(tile, mask, 1.0, out, tmp_path / "out.png", BIODIVERSITY)
    with open_raster(out) as src:
        assert src.shape == (32, 16)
        assert georeference(src)["bounds"] == pytest.approx(tile.entry["bounds"]) and src.transform.e > 0
        assert src.read(1)[:12].max() == 0 and src.read(1)[20:].min() == 200


# Pixels


@given(sides, sides, factors, factors, st.integers(0, 255), st.integers(0, 5))
def test_a_constant_image_and_mask_stay_constant_in_any_size(height, width, down, right, value, label):
    image = np.full((3, height, width), value, np.uint8)
    image[1] = 255 - value
    image, mask = resample(image, np.full((height, width), label, np.uint8), (down, right))
    assert mask.shape == image.shape[1:] == (max(1, round(height * down)), max(1, round(width * right)))
    assert image.dtype == mask.dtype == np.uint8
    assert (image[[0, 2]] == value).all() and (image[1] == 255 - value).all() and (mask == label).all()


@given(sides, sides, factors, factors, st.integers(0, 99))
def test_images_are_resampled_as_torch_does_with_antialiasing(height, width, down, right, seed):
    image = np.random.default_rng(seed).integers(0, 256, (3, height, width), np.uint8)
    resampled, _ = resample(image, np.zeros((height, width), np.uint8), (down, right))
    size = resampled.shape[1:]
    batch = torch.from_numpy(image)[None].float()
    wanted = interpolate(batch, size, mode="bilinear", antialias=True, align_corners=False)[0].numpy()
    assert np.abs(resampled - wanted).max() <= 1.01  # two roundings


@given(st.integers(4, 12), st.integers(4, 12), st.sampled_from([1, 2, 3]), st.sampled_from([1, 2, 3]))
def test_masks_that_grow_by_whole_numbers_repeat_their_pixels_and_shrink_back_to_themselves(height, width, down, right):
    mask = np.random.default_rng(height * width).integers(0, 6, (height, width), np.uint8)
    image = np.stack([mask] * 3)
    _, larger = resample(image, mask, (down, right))
    np.testing.assert_array_equal(larger, mask.repeat(down, axis=0).repeat(right, axis=1))
    _, again = resample(np.stack([larger] * 3), larger, (1 / down, 1 / right))
    np.testing.assert_array_equal(again, mask)


def test_a_ramp_keeps_its_direction_in_each_band():
    down, right = np.mgrid[0:64, 0:64].astype(np.uint8) * 4
    ramps = np.stack([down, right, 255 - right])
    for by in ((0.5, 0.5), (1.5, 1.5), (0.5, 2)):
        image, mask = resample(ramps, down, by)
        steps = np.diff(image.astype(int), axis=1), np.diff(image.astype(int), axis=2)
        assert (steps[0][0] > 0).all() and not steps[1][0].any()
        assert (steps[1][1] > 0).all() and (steps[1][2] < 0).all() and not steps[0][1:].any()
        assert (np.diff(mask.astype(int), axis=0) >= 0).all() and not np.diff(mask, axis=1).any()


def test_a_checkerboard_is_averaged_in_the_image_and_picked_from_in_the_mask():
    board = (np.indices((32, 32)).sum(axis=0) % 2).astype(np.uint8)
    image, mask = resample(np.stack([200 * board] * 3), 3 * board + 1, (0.5, 0.5))
    assert np.abs(image[:, 1:-1, 1:-1].astype(int) - 100).max() <= 1
    assert set(np.unique(mask)) <= {1, 4}


# Tiles


def a_tile(folder, *, height, width, pixel, shift=0.0) -> Tile:
    """A tile of noise with pixels of ``pixel`` (width, height) metres."""
    (folder / "images").mkdir(parents=True)
    grid = Affine(pixel[0], 0, LEFT + shift, 0, -pixel[1], TOP)
    write_image(folder / "images/a.tif", noise_of("a", height, width), crs="EPSG:32633", transform=grid)
    with open_raster(folder / "images/a.tif") as src:
        place = georeference(src)
    more = {"block": "r/r0_c3", "region": "r", "source": "openearthmap", "base": "z", "height": height, "width": width}
    return Tile("a", folder, {**place, **more})


def test_a_resampled_tile_keeps_its_ground_and_gets_square_pixels_of_the_size_asked_for(tmp_path):
    tile = a_tile(tmp_path, height=30, width=80, pixel=(0.25, 1.0))  # 20 m x 30 m
    mask = np.repeat(np.array([1, 5], np.uint8), [20, 60])[None].repeat(30, axis=0)
    paths = tmp_path / "out.tif", tmp_path / "out.png"
    entry = write_resampled(tile, mask, 0.5, *paths, BIODIVERSITY)
    assert (entry["height"], entry["width"], entry["gsd"]) == (60, 40, 0.5)
    assert entry["pixels"] == [0, 600, 0, 0, 0, 1800]  # a quarter of 2400
    assert entry["bounds"] == tile.entry["bounds"] == [LEFT, TOP - 30, LEFT + 20, TOP]
    assert {key: entry[key] for key in ("block", "region", "source", "crs")} == {
        key: tile.entry[key] for key in ("block", "region", "source", "crs")
    }
    with open_raster(paths[0]) as src:
        assert georeference(src) == {"crs": entry["crs"], "bounds": entry["bounds"], "gsd": 0.5}
        wanted, _ = resample(tile.read_image(), mask, (2, 0.5))
        np.testing.assert_array_equal(src.read(), wanted)


def a_set(folder, gsds, *, side=64, height=None):
    """Tiles t0, t1, … of these ground sampling distances; None is a tile without a place."""
    masks = {f"t{n}": with_pixels(side, {1: 9})[: height or side] for n in range(len(gsds))}
    entries = {f"t{n}": {"gsd": gsd} for n, gsd in enumerate(gsds)}
    return write_set(folder, masks, split="train", entries=entries)


def test_the_resolution_of_raw_tiles_is_the_median_of_those_that_tell_it(tmp_path):
    raw = tmp_path / "data/biodiversity_raw"
    assert raw_gsd(raw) is None
    write_raw(tmp_path, "nowhere", np.ones((8, 8)))
    assert raw_gsd(raw) is None
    for n, gsd in enumerate([0.5, 2, 9]):
        write_raw(tmp_path, f"t{n}", np.ones((8, 8)), origin=(100 * n, 0), gsd=gsd)
    (raw / "images/broken.tif").write_text("no image")
    assert raw_gsd(raw) == 2


def test_the_resolution_of_raw_tiles_in_another_layout_is_found_by_the_patterns_of_the_split(tmp_path):
    raw = tmp_path / "data/biodiversity_raw"
    write_raw(tmp_path, "a", np.ones((8, 8)), origin=(0, 0), gsd=2)
    (raw / "images").rename(raw / "rgb")
    assert raw_gsd(raw, tmp_path) is None
    for home in ("folds/1", "."):
        manifest = tmp_path / home / "data/biodiversity_split/train" / MANIFEST
        manifest.parent.mkdir(parents=True)
        manifest.write_text("no JSON")
        assert raw_gsd(raw, tmp_path) == (None if home == "folds/1" else 2)
        manifest.write_text(json.dumps({"image_pattern": "rgb/*.tif", "mask_pattern": "masks/*.png"}))
        assert raw_gsd(raw, tmp_path) == raw_gsd(raw, tmp_path / "folds/1") == 2
    assert raw_gsd(raw) is None


def test_tiles_of_unknown_resolution_are_not_resampled(tmp_path):
    tiles = a_set(tmp_path / "set", [0.5, None, None])
    require_gsd(tiles, None)
    with pytest.raises(UserError, match=r"--gsd 0\.5: .*set has 2 tiles of unknown .*\(t1, t2\)"):
        require_gsd(tiles, 0.5)


def test_resampled_tiles_have_sides_of_32_pixels_or_more(tmp_path):
    tiles = a_set(tmp_path / "set", [0.5], height=48)  # 48 x 64
    require_gsd(tiles, 0.75)  # 32 x 42.7
    with pytest.raises(
        UserError, match=r"make t0 of .*, at 0\.5 m, a tile of 42\.\d+ x 31\.\d+ pixels, expected sides of 32"
    ):
        require_gsd(tiles, 0.76)
    assert (resampling.SMALLEST_SIDE, resampling.LARGEST_TILE) == (32, 8192 * 8192)


def test_resampled_tiles_are_no_larger_than_a_tile_may_be(tmp_path, monkeypatch):
    monkeypatch.setattr(resampling, "LARGEST_TILE", 128 * 128)
    tiles = a_set(tmp_path / "set", [0.5, 0.5])
    require_gsd(tiles, 0.25)
    with pytest.raises(UserError, match="expected sides of 32 or more and at most 16,384 pixels"):
        require_gsd(tiles, 0.249)
    require_gsd(tiles, None)


@pytest.mark.parametrize(
    ("oem", "train", "gsd", "warned"),
    [
        ([0.5, 0.5], [0.75], None, False),
        ([0.5, 0.5], [0.76], None, True),
        ([0.75], [0.5], None, False),
        ([0.76], [0.5], None, True),
        ([0.5], [2.0], None, True),
        ([0.5], [2.0], 1.5, False),
        ([0.5], [0.5], 0.3, True),
        ([0.5], [None], None, False),
        ([None], [0.5], None, False),
        ([0.25, 0.5, 9.0], [0.5], None, False),  # a median
    ],
)
def test_resolutions_are_warned_of_that_differ_by_more_than_one_and_a_half_times(
    tmp_path, capsys, oem, train, gsd, warned
):
    tiles = a_set(tmp_path / "oem", oem, side=8)
    compare_gsd(tiles, train[0], gsd)
    said = capsys.readouterr()
    assert ("differ by more than 1.5 times" in said.err) == warned
    if warned:
        assert f"Resample with --gsd {train[0]:g}" in said.err
    known = f"{sorted(oem)[len(oem) // 2]:g} m" if oem[0] else "not known"
    assert f"OpenEarthMap {known}" in said.out
    assert f"Biodiversity {f'{train[0]:g} m' if train[0] else 'not known'}" in said.out
    assert (f"resampled to {gsd} m" in said.out) == bool(gsd)
