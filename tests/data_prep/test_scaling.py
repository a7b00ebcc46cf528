"""What of a raw image is data, and the 8 bits that become of it."""

import json

import numpy as np
import pytest
import rasterio
from hypothesis import given
from hypothesis import strategies as st

from common import raw_images
from common.rasters import open_raster
from common.raw_images import (
    RawImage,
    Reading,
    bands_problem,
    chosen_reading,
    percentile_ranges,
    read_raw,
    sample,
    size_problem,
)
from common.taxonomy import BIODIVERSITY
from data_prep import check_biodiversity, split_biodiversity
from data_prep.raw import inspect as raw_module
from data_prep.raw.collection import mixed_systems, mixed_units, repeated_images
from data_prep.raw.files import RawTile, name_problem, printable
from data_prep.raw.inspect import (
    Inspection,
    gap_value,
    inspect,
    location_problem,
)
from data_prep.raw.pairs import find_raw
from data_prep.tile_sets.class_shares import class_shares, percentages, share_rows
from tests.helpers import quiet, write_png, write_tif
from tests.small_sets import noise_of, with_pixels, write_grid, write_raw

RGB = Reading((1, 2, 3))
NOWHERE = {"crs": None, "bounds": None, "gsd": None}


def image_of(pixels, valid=None) -> RawImage:
    pixels = np.asarray(pixels)
    valid = np.ones(pixels.shape[1:], bool) if valid is None else np.asarray(valid)
    return RawImage(pixels, valid, NOWHERE, None, None, False)


def flat(values, dtype=np.float32):
    """(3, 1, N): the same values in each band."""
    return np.array([values] * 3, dtype)[:, None]


# Scaling


@given(st.sampled_from([np.float32, np.float64, np.uint16, np.int16]), st.integers(-3000, 3000))
def test_a_constant_image_stays_constant_whatever_its_unit(dtype, value):
    value = abs(value) if dtype == np.uint16 else value
    pixels = np.full((3, 8, 9), value, dtype)
    ranges = percentile_ranges(sample(image_of(pixels), 4096))
    assert ranges == [[value, value]] * 3
    assert len(np.unique(image_of(pixels).to_8bit(ranges))) == 1
    rounding = pixels.astype(np.float32)
    rounding[:, ::2] = np.nextafter(rounding[:, ::2], np.float32(np.inf))
    assert np.ptp(image_of(rounding).to_8bit(percentile_ranges(sample(image_of(rounding), 4096)))) <= 1


@given(st.floats(-1000, 1000), st.floats(1, 5000), st.sampled_from([np.float32, np.float64]))
def test_a_ramp_becomes_a_ramp_from_0_to_255(low, length, dtype):
    ramp = np.linspace(low, low + length, 511)
    image = image_of(flat(ramp, dtype)).to_8bit([[low, low + length]] * 3)
    assert image[0, 0, ::2].tolist() == list(range(256))
    assert np.abs(image[:, 0] - np.arange(511) / 2).max() <= 0.53
    assert (np.diff(image.astype(int), axis=2) >= 0).all() and (image[1:] == image[0]).all()


@given(st.floats(-100, 100), st.floats(0.1, 100))
def test_a_checkerboard_becomes_black_and_white(low, difference):
    board = (np.indices((8, 8)).sum(axis=0) % 2).astype(bool)
    pixels = np.where(board, low + difference, low).astype(np.float32)[None].repeat(3, axis=0)
    image = image_of(pixels).to_8bit(percentile_ranges(sample(image_of(pixels), 4096)))
    assert (image == np.where(board, 255, 0)).all()


def test_each_band_is_scaled_by_its_own_range_and_rounded_to_the_nearest_step():
    pixels = np.array([[[0, 10, 5.5]], [[100, 300, 210]], [[-1, 1, 0.1]]], np.float64)
    image = image_of(pixels).to_8bit([[0, 10], [100, 300], [-1, 1]])
    assert image[:, 0].tolist() == [[0, 255, 140]] * 3  # 0.55 of 255 is 140.25
    steps = image_of(flat([0.9, 1.1, 1.49, 1.51, 254.4, 254.6])).to_8bit([[0, 255]] * 3)
    assert steps[0, 0].tolist() == [1, 1, 1, 2, 254, 255]


def test_large_16_bit_values_do_not_wrap_round_when_the_range_is_taken_off():
    image = image_of(flat([0, 100, 60_000, 65_535], np.uint16)).to_8bit([[100, 60_000]] * 3)
    assert image[0, 0].tolist() == [0, 0, 255, 255]
    image = image_of(flat([-32_768, 0, 32_767], np.int16)).to_8bit([[-32_768, 32_767]] * 3)
    assert image[0, 0].tolist() == [0, 128, 255]


def test_a_range_is_not_widened_beyond_the_steps_of_float32():
    low = 1000.0
    for length, widened in ((0.5, False), (0.01, True)):  # 255 steps at 1000 are 0.03
        image = image_of(flat([low, low + length], np.float64)).to_8bit([[low, low + length]] * 3)
        assert (image[0, 0, 1] < 255) == widened and image[0, 0, 0] == 0


def test_pixels_without_data_are_0_and_move_no_range():
    values = flat([*range(100), np.nan, 5, 1e6])
    valid = np.array([[*[True] * 100, False, False, False]])
    image = image_of(values, valid)
    assert sample(image, 4096).shape == (3, 100)
    ranges = percentile_ranges(sample(image, 4096))
    assert ranges == [pytest.approx([0.02 * 99, 0.98 * 99])] * 3
    scaled = image.to_8bit([[-50, 200]] * 3)
    assert not scaled[:, ~valid].any() and scaled[0, 0, 0] == 51
    assert image_of(flat([1, 2]), [[False, False]]).to_8bit(None).tolist() == [[[0, 0]]] * 3
    grey = np.array([[[7, 8]]] * 3, np.uint8)
    assert image_of(grey, [[True, False]]).to_8bit(None).tolist() == [[[7, 0]]] * 3
    assert image_of(grey).to_8bit(None).tolist() == grey.tolist()


def test_the_range_of_a_band_runs_from_its_2nd_to_its_98th_percentile():
    samples = np.stack([np.arange(101), 10 * np.arange(101)[::-1], np.full(101, 3)])
    assert percentile_ranges(samples) == [[2, 98], [20, 980], [3, 3]]
    assert (raw_images.PERCENTILES, raw_images.SAMPLE_PER_TILE, raw_images.SAMPLE_IN_ALL) == ((2, 98), 4096, 4_000_000)


def test_a_sample_is_a_regular_grid_of_no_more_pixels_than_asked_for():
    pixels = np.arange(3 * 60 * 80, dtype=np.float32).reshape(3, 60, 80)
    np.testing.assert_array_equal(sample(image_of(pixels), 4800), pixels.reshape(3, -1))
    fewer = sample(image_of(pixels), 4799)  # every second row and column, from the second on
    np.testing.assert_array_equal(fewer, pixels[:, 1::2, 1::2].reshape(3, -1))
    assert sample(image_of(pixels), 300).shape == (3, 15 * 20) and sample(image_of(pixels), 300)[0, 0] == 2 * 80 + 2
    assert sample(image_of(pixels.astype(np.uint16)), 300).dtype == np.float32


# What is no data


def write_flat(path, bands, **profile):
    """A row of pixels, from a list a band."""
    write_tif(path, np.array(bands)[:, None], **profile)


def test_nan_infinite_and_absurd_values_of_any_band_are_no_data(tmp_path):
    columns = np.ones((4, 7), np.float64)
    columns[0, 1], columns[1, 2], columns[2, 3] = np.nan, -np.inf, 1e30
    columns[0, 4], columns[2, 5] = 9.9e29, -1e30
    columns[3, 6] = np.nan  # of a band that is not asked for
    write_flat(tmp_path / "a.tif", columns)
    image = read_raw(tmp_path / "a.tif", RGB)
    assert image.valid[0].tolist() == [True, False, False, False, True, False, True]
    assert read_raw(tmp_path / "a.tif", Reading((4, 4, 4))).valid[0].tolist() == [True] * 6 + [False]


def test_a_declared_nodata_value_is_heard_in_every_type_and_a_few_pixels_of_it_void_no_others(tmp_path):
    for dtype, nodata in ((np.uint8, 0), (np.uint16, 0), (np.int16, -1), (np.float32, -9999)):
        columns = np.array([[nodata, 5, 7], [nodata, 5, 8], [nodata, 5, 9]], dtype)
        write_flat(tmp_path / f"{nodata}{np.dtype(dtype).name}.tif", columns, nodata=nodata)
        image = read_raw(tmp_path / f"{nodata}{np.dtype(dtype).name}.tif", RGB)
        assert image.valid[0].tolist() == [False, True, True]
    write_flat(tmp_path / "none.tif", np.zeros((3, 4), np.uint8))
    assert read_raw(tmp_path / "none.tif", RGB).valid.all()


@pytest.mark.parametrize(("between", "hides"), [(19, True), (21, False)])
def test_a_fourth_band_is_alpha_where_nine_tenths_of_it_in_all_images_are_opaque_or_clear(
    tmp_path, capsys, between, hides
):
    pixels = np.concatenate([noise_of("a", 10, 10), np.full((1, 10, 10), 255, np.uint8)])
    write_tif(tmp_path / "b.tif", pixels, photometric="RGB", alpha="YES")
    write_tif(tmp_path / "c.tif", pixels[:3], photometric="RGB")
    (tmp_path / "d.tif").write_bytes(b"no image")
    pixels[3].ravel()[:20] = 0
    pixels[3].ravel()[50 : 50 + between] = 128
    write_tif(tmp_path / "a.tif", pixels, photometric="RGB", alpha="YES")
    reading = chosen_reading([1, 2, 3], "auto", sorted(tmp_path.iterdir()))
    assert reading == Reading((1, 2, 3), hides)
    assert ("hide nothing (--alpha yes: they do)" in capsys.readouterr().out) == (not hides)
    valid = read_raw(tmp_path / "a.tif", reading).valid
    np.testing.assert_array_equal(valid, pixels[3] > 0 if hides else np.ones((10, 10), bool))
    assert chosen_reading([1], "no", [tmp_path / "b.tif"]) == Reading((1,), False)
    assert chosen_reading([1, 2, 3], "auto", [tmp_path / "c.tif"]).alpha is None


def test_nodata_alpha_and_masks_are_joined(tmp_path):
    pixels = np.concatenate([noise_of("a", 10, 10) // 2 + 1, np.full((1, 10, 10), 255, np.uint8)])
    pixels[1, 0] = 77  # nodata in one band
    pixels[3, 1] = 0
    write_tif(tmp_path / "a.tif", pixels, photometric="RGB", alpha="YES", nodata=77)
    wanted = np.ones((10, 10), bool)
    wanted[:2] = False
    wanted &= (pixels[:3] != 77).all(axis=0)
    np.testing.assert_array_equal(read_raw(tmp_path / "a.tif", RGB).valid, wanted)
    mask = np.ones((10, 10), bool)
    mask[2] = False
    for name, internal in (("inside", True), ("beside", False)):
        write_tif(tmp_path / f"{name}.tif", pixels, photometric="RGB", alpha="YES", nodata=77)
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=internal), open_raster(tmp_path / f"{name}.tif", "r+") as dst:
            dst.write_mask(mask)
        np.testing.assert_array_equal(read_raw(tmp_path / f"{name}.tif", RGB).valid, wanted & mask, name)


def test_scale_and_offset_tags_are_applied(tmp_path):
    stored = np.random.default_rng(0).integers(2000, 4000, (3, 10, 10)).astype(np.uint16)
    stored[0, 0, 0] = 0
    write_tif(tmp_path / "old.tif", stored, nodata=0)
    moved = np.where(stored > 0, stored + 1000, 0).astype(np.uint16)
    write_tif(tmp_path / "new.tif", moved, nodata=0)
    for name, offset in (("old", 0.0), ("new", -0.1)):
        with open_raster(tmp_path / f"{name}.tif", "r+") as dst:
            dst.scales, dst.offsets = [1e-4] * 3, [offset] * 3
    old, new = (read_raw(tmp_path / f"{name}.tif", RGB) for name in ("old", "new"))
    assert old.pixels.dtype == np.float32 and old.needs_stretch
    np.testing.assert_array_equal(old.valid, stored[0] > 0)
    np.testing.assert_array_equal(new.valid, old.valid)
    np.testing.assert_allclose(new.pixels[:, old.valid], old.pixels[:, old.valid], atol=1e-6)
    np.testing.assert_allclose(old.pixels[:, 1], stored[:, 1] * 1e-4, rtol=1e-6)


def test_only_an_8_bit_rgb_geotiff_that_shows_nothing_where_it_has_no_data_is_taken_as_it_is(tmp_path):
    def written(name, pixels, bands=RGB, **profile):
        write_tif(tmp_path / f"{name}.tif", pixels, **profile)
        return read_raw(tmp_path / f"{name}.tif", bands).as_it_is

    rgb = noise_of("a", 8, 8)
    assert written("plain", rgb)
    assert not written("turned", rgb, Reading((3, 2, 1)))
    assert not written("four", np.concatenate([rgb, rgb[:1]]))
    assert not written("wide", rgb.astype(np.uint16))
    rgb[:, 0] = 0
    assert written("black edge", rgb, nodata=0)
    rgb[:, 0] = 9
    assert not written("grey edge", rgb, nodata=9)


def test_gaps_at_one_low_value_are_told_from_measurements():
    values = np.random.default_rng(0).uniform(0, 100, (3, 40, 50)).astype(np.float32)

    def gap(value, count, bands=slice(None)):
        pixels = values.copy().reshape(3, -1)
        pixels[bands, :count] = value
        return gap_value(image_of(pixels.reshape(values.shape)))

    assert gap(-9999, 2) == (0, -9999)  # a thousandth of 2000 pixels
    assert gap(-9999, 1) is None
    assert gap(-9999, 100, slice(1, 2)) == (1, -9999)  # in one band alone
    assert gap(-90, 100) == (0, -90)  # nothing else is negative
    values -= 50
    assert gap(-90, 100) is None and gap(-160, 100) == (0, -160)  # further below the others than these are apart
    assert gap(-9999, 2) == (0, -9999)
    values += 50
    assert gap(65_535, 100) == (0, 65_535) and gap(190, 100) is None and gap(0, 100) is None
    assert gap_value(image_of(np.full((3, 8, 8), -9999, np.float32))) == (0, -9999)
    assert gap_value(image_of(np.full((3, 8, 8), -7, np.float32))) is None
    assert gap_value(image_of(values.astype(np.uint8))) is None
    hidden = values.copy()
    hidden[:, :10] = -9999
    assert gap_value(image_of(hidden, np.arange(40)[:, None].repeat(50, axis=1) >= 10)) is None  # declared


# What is said of tiles


def look(root, name="a", **settings):
    folder = root / "data/biodiversity_raw"
    tile = RawTile(name, folder / f"images/{name}.tif", folder / f"masks/{name}.png")
    return inspect(tile, reading=RGB, taxonomy=BIODIVERSITY, **settings)


def kinds(found):
    return {problem.kind: problem.fatal for problem in found.problems}


def test_an_inspection_tells_type_size_place_ranges_and_labelled_pixels(tmp_path):
    mask = np.full((20, 30), 2, np.uint8)
    mask[:5] = 4
    pixels = np.stack([np.arange(600).reshape(20, 30) + 1000 * band for band in range(4)]).astype(np.float32)
    pixels[:, 0] = np.nan
    write_raw(tmp_path, "a", mask, image=pixels, origin=(500_000, 5_000_000))
    found = look(tmp_path, keep=4096)
    assert (found.dtype, found.band_count, found.height, found.width) == ("float32", 4, 20, 30)
    assert found.location["bounds"] == [500_000, 4_999_990, 500_015, 5_000_000]
    assert found.pixels == [30, 0, 450, 0, 120, 0] and found.invalid_share == pytest.approx(0.05)
    # 570 pixels from 30 to 599
    wanted = [[30 + 0.02 * 569 + 1000 * band, 30 + 0.98 * 569 + 1000 * band] for band in range(3)]
    assert found.ranges == [pytest.approx(of_band) for of_band in wanted]
    assert found.kept.shape == (3, 570) and found.needs_stretch and found.usable
    assert kinds(found) == {"nodata": False}
    assert "5.0% of its pixels are nodata" in found.problems[0].text
    assert look(tmp_path).kept is None and look(tmp_path, keep=100).kept.shape[1] < 100
    write_raw(tmp_path, "b", mask, image=noise_of("b", 20, 30))
    assert look(tmp_path, "b", keep=4096).kept is None


def test_every_class_may_occur_and_the_next_id_may_not(tmp_path):
    for name, highest in (("a", 5), ("b", 6)):
        write_raw(tmp_path, name, np.arange(64).reshape(8, 8) % (highest + 1))
    assert kinds(look(tmp_path, "a")) == {}
    assert kinds(look(tmp_path, "b")) == {"unknown ids": True} and not look(tmp_path, "b").usable


def test_what_is_odd_in_a_tile_is_no_reason_to_leave_it_out(tmp_path):
    image = noise_of("a", 8, 8)
    image[1] = 9
    write_raw(tmp_path, "a", np.zeros((8, 8)), image=image)
    found = look(tmp_path)
    assert kinds(found) == {"no labelled pixel": False, "constant band": False} and found.usable
    assert "band 2 has one value throughout" in "".join(problem.text for problem in found.problems)


def test_labels_under_nodata_alone_are_no_labels(tmp_path):
    image = noise_of("a", 8, 8)
    image[:, :4] = 0
    write_raw(tmp_path, "a", np.repeat([3, 0], 4)[:, None].repeat(8, axis=1), image=image, nodata=0)
    assert kinds(look(tmp_path)) == {"no labelled pixel": False, "nodata": False}


@pytest.mark.parametrize("value", [0, 255])
def test_an_area_of_one_value_at_the_edge_that_is_labelled_is_warned_of(tmp_path, value):
    image = noise_of("a", 40, 40) // 2 + 60
    image[:, :, :5] = value
    write_raw(tmp_path, "a", np.ones((40, 40)), image=image)
    found = look(tmp_path)
    assert kinds(found) == {"constant edge": False}
    text = "12.5% of its pixels are labelled, lie at its edge and have one value throughout "
    assert f"{text}({value} {value} {value})" in found.problems[0].text
    assert f"rio edit-info --nodata {value} " in found.problems[0].text
    write_raw(tmp_path, "b", np.ones((40, 40)) * (image[0] != value), image=image)
    assert kinds(look(tmp_path, "b")) == {}  # not labelled
    inner = noise_of("c", 40, 40) // 2 + 60
    inner[:, 5:35, 20:30] = value
    write_raw(tmp_path, "c", np.ones((40, 40)), image=inner)
    assert kinds(look(tmp_path, "c")) == {}  # inside: a roof, a lake
    write_raw(tmp_path, "d", np.ones((40, 40)), image=np.full((3, 40, 40), value, np.uint8))
    assert "constant edge" in kinds(look(tmp_path, "d"))


def test_a_mask_of_another_size_beside_an_image_with_a_collar_is_told(tmp_path):
    image = noise_of("a", 40, 40) // 2 + 60
    image[:, :, :5] = 0
    write_raw(tmp_path, "a", np.ones((40, 30)), image=image)
    assert kinds(look(tmp_path)) == {"size mismatch": True}


def test_undeclared_gaps_are_refused_with_the_value_to_declare(tmp_path):
    image = noise_of("a", 8, 8, np.float32)
    image[:, :2] = -9999
    write_raw(tmp_path, "a", np.ones((8, 8)), image=image)
    found = look(tmp_path)
    assert kinds(found) == {"undeclared nodata": True} and "rio edit-info --nodata -9999 " in found.problems[0].text


def test_images_are_told_apart_by_their_chosen_pixels_alone(tmp_path):
    image = noise_of("a", 8, 8)
    mask = np.ones((8, 8))
    write_raw(tmp_path, "a", mask, image=image)
    write_raw(tmp_path, "b", 2 * mask, image=image, origin=(9, 9), compress="deflate")
    other = image.copy()
    other[2, 7, 7] ^= 1
    write_raw(tmp_path, "c", mask, image=other)
    write_raw(tmp_path, "d", mask, image=np.concatenate([image, other[:1]]))
    write_raw(tmp_path, "e", mask, image=image.astype(np.uint16))
    found = [look(tmp_path, name) for name in "abcde"]
    assert repeated_images(found) == {"b": "a", "d": "a"}
    again = Inspection(RawTile("f", None, None), content=found[0].content)
    assert repeated_images([*found, again])["f"] == "a"
    unread = Inspection(RawTile("g", None, None))
    assert repeated_images([unread, unread]) == {}


def ranged(tops, dtype="float32"):
    return [
        Inspection(RawTile(f"t{n}", None, None), dtype=dtype, ranges=[[0, top / 2], [0, top], [-1, 0]])
        for n, top in enumerate(tops)
    ]


def test_tiles_whose_brightness_differs_by_more_than_eight_times_are_in_other_units():
    assert mixed_units(ranged([1.0] * 5 + [8.0] * 5)) is None
    said = mixed_units(ranged([8.1] * 4 + [1.0] * 6))
    assert "6 tiles have values up to about 1, 4 up to about 8.1" in said and "--stretch tile" in said
    assert mixed_units(ranged([1.0] * 9 + [100.0])) is None  # one bright tile is no other unit
    assert mixed_units(ranged([1.0] * 8 + [100.0] * 2)) is not None
    assert mixed_units(ranged([1.0] * 2 + [100.0] * 8)) is not None
    assert mixed_units(ranged([1.0] * 198 + [100.0] * 2)) is None  # fewer than one in fifty
    assert mixed_units(ranged([1.0] * 196 + [100.0] * 4)) is not None
    assert mixed_units(ranged([1.0, 100.0])) is mixed_units([]) is mixed_units(ranged([0.0] * 9)) is None
    assert mixed_units(ranged([1.0] * 5 + [100.0] * 5, dtype="uint8")) is None
    assert mixed_units(ranged([2.0**n for n in range(20)])) is None  # no gap, but a slope


def test_tiles_of_several_systems_are_counted_and_the_rarest_named():
    def placed(tile_id, epsg):
        place = {"crs": raw_module.CRS.from_epsg(epsg).to_wkt() if epsg else None, "bounds": [0, 0, 1, 1]}
        return Inspection(RawTile(tile_id, None, None), location=place)

    found = [placed("a", 32633), placed("b", 32634), placed("c", 32633), placed("d", None)]
    nowhere = Inspection(RawTile("e", None, None), location=NOWHERE)
    assert mixed_systems([*found[::2], nowhere]) is None
    assert mixed_systems([found[0], found[2], found[1]]).startswith(
        "tiles are in 2 coordinate systems, 2 in EPSG:32633, 1 in EPSG:32634 (b): "
    )
    assert "1 in no known system" in mixed_systems(found)


def test_a_place_must_enclose_ground_and_degrees_must_lie_on_earth(tmp_path):
    world = raw_module.CRS.from_epsg(4326).to_wkt()
    utm = raw_module.CRS.from_epsg(32633).to_wkt()

    def said(bounds, crs):
        return location_problem({"crs": crs, "bounds": bounds}, tmp_path / "a.tif")

    assert said(None, None) is None and said([500_000, 5_000_000, 500_100, 5_000_100], utm) is None
    assert said([0, 0, 1, 1], None) is None
    for bounds in ([-540, -91, 540, 91], [-10, 50, -9, 51]):
        assert said(bounds, world) is None
    for bounds in ([0, 0, 541, 1], [-541, 0, 0, 1], [0, -92, 1, 0], [0, 0, 1, 92]):
        assert "lies nowhere on earth" in said(bounds, world)
    for bounds in ([1, 0, 1, 1], [0, 1, 1, 1], [np.nan, 0, 1, 1], [0, 0, np.inf, 1]):
        assert "enclose no area" in said(bounds, utm)


def test_a_tile_has_at_most_8192_times_8192_pixels_and_200_bytes_of_name(tmp_path):
    assert size_problem(tmp_path / "a.tif", 8192, 8192) is None
    assert size_problem(tmp_path / "a.tif", 1, 8192 * 8192) is None
    assert "is 8193 x 8192 pixels, a tile may have 67,108,864" in size_problem(tmp_path / "a.tif", 8192, 8193)
    assert name_problem(tmp_path / f"{'a' * 200}.tif") is None
    assert "its name has 201 bytes, expected at most 200" in name_problem(tmp_path / f"{'a' * 201}.tif")
    assert "has 202 bytes" in name_problem(tmp_path / f"{'ä' * 101}.tif")
    assert "Rename it" in name_problem(tmp_path / "a\tb.tif")
    assert printable("a\tb\u2028c é") == "a\\tb\\u2028c é"


def test_any_number_of_bands_is_chosen_in_any_order_and_must_be_there():
    def bands(*flags):
        return chosen_reading(split_biodiversity.parse_args(flags).bands, "yes", []).bands

    assert bands() == (1, 2, 3) and bands("--bands", "4", "1", "2", "2", "7") == (4, 1, 2, 2, 7)
    assert bands("--bands", "2") == (2,)
    assert bands_problem(4, (4, 1, 2)) is bands_problem(1, (1, 1, 1)) is None
    assert bands_problem(3, (4, 1, 2)).endswith("--bands 4 1 2 asks for band 4; choose --bands among 1 to 3")
    assert "--bands 1 takes the one that it has" in bands_problem(1, RGB.bands)


def test_pairs_are_made_by_name_and_what_does_not_pair_is_told(tmp_path):
    for name in ("b", "a"):
        write_raw(tmp_path, name, np.ones((8, 8)))
    folder = tmp_path / "data/biodiversity_raw"
    write_png(folder / "masks/c.png", np.ones((8, 8), np.uint8))
    write_tif(folder / "images/d.tif", noise_of("d", 8, 8))
    for name in ("images/a.tif.aux.xml", "images/a.tfw", "images/.hidden.tif", "images/a.png", "masks/readme.txt"):
        (folder / name).write_text("")
    tiles, problems = find_raw(folder)
    assert [(tile.id, tile.image.name, tile.mask.name) for tile in tiles] == [
        ("a", "a.tif", "a.png"), ("b", "b.tif", "b.png"),
    ]  # fmt: skip
    assert {(p.tile_id, p.kind, p.fatal) for p in problems} == {
        ("a", "other file", False), ("readme", "other file", False), ("c", "no image", True), ("d", "no mask", True),
    }  # fmt: skip


def test_the_audits_shares_are_of_labelled_pixels_and_its_presence_of_all_tiles():
    pixels = np.array([[90, 10, 0, 0, 0, 0], [70, 20, 10, 0, 0, 0], [0, 60, 0, 0, 0, 0], [100, 0, 0, 0, 0, 0]])
    shares = class_shares(pixels, BIODIVERSITY)
    assert list(shares) == ["Forest", "Grassland", "Cropland", "Settlement", "Seminatural"]
    assert shares["Forest"] == {"pixels": 90, "share": 0.9, "tiles": 3, "tile_presence": 0.75}
    assert shares["Grassland"] == {"pixels": 10, "share": 0.1, "tiles": 1, "tile_presence": 0.25}
    assert shares["Seminatural"] == {"pixels": 0, "share": 0.0, "tiles": 0, "tile_presence": 0.0}
    assert share_rows(shares, 4)[1] == ["Grassland", "10", "10.00%", "1 of 4"]
    assert percentages(np.array([900, 30, 960, 9, 1, 0])) == ["3.0%", "96.0%", "0.9%", "0.1%", "0.0%"]
    assert percentages(np.zeros(3, int), 2) == ["0.00%", "0.00%"]


def test_the_audit_counts_void_tiles_sizes_types_and_places(tmp_path, monkeypatch):
    monkeypatch.setattr(check_biodiversity, "plot_audit", lambda *_: None)
    monkeypatch.setattr(check_biodiversity, "png_bytes", lambda *_, **__: b"figure")
    write_grid(tmp_path, 1, 3, mask_of=lambda _, column: with_pixels(8, {1: 16, 4: 16} if column else {}))
    write_raw(tmp_path, "z", with_pixels(10, {1: 36}), image=noise_of("z", 10, 10, np.float32))
    quiet(check_biodiversity.main, "--root", tmp_path, "--skip-suspicious")
    audit = json.loads((tmp_path / "artifacts/audit/audit.json").read_text())
    assert audit["void_share"] == pytest.approx((64 + 32 + 32 + 64) / 292)
    assert (audit["tiles"], audit["usable"], audit["tiles_without_label"], audit["georeferenced"]) == (4, 4, 1, 3)
    assert audit["sizes"] == {"8 x 8": 3, "10 x 10": 1} and audit["types"] == {"uint8 x 3": 3, "float32 x 3": 1}
    assert audit["classes"]["Forest"] == {"pixels": 68, "share": 0.68, "tiles": 3, "tile_presence": 0.75}
    assert audit["gsd"] == 0.5 and audit["bands"] == [1, 2, 3] and not audit["stretch_tile_needed"]
