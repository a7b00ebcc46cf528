import json
import re

import numpy as np
import pytest
import rasterio
from PIL import Image

from common.errors import UserError
from common.rasters import open_raster
from common.raw_images import Reading, read_raw
from common.taxonomy import BIODIVERSITY
from common.tiles import TileSet
from data_prep import check_biodiversity
from data_prep.raw.files import RawTile
from data_prep.raw.inspect import inspect
from data_prep.raw.pairs import find_raw
from tests.helpers import GSD, audited_split, made, make_biodiversity, quiet, write_png, write_tif

SIZE = 32
ORIGIN = (500_000, 5_000_000)
RGB = Reading((1, 2, 3))


@pytest.fixture
def root(tmp_path):
    """A root with 16 good 8-bit tiles of 32 px."""
    make_biodiversity(tmp_path, rows=4, columns=4, size=SIZE)
    return tmp_path


def raw(root):
    return root / "data" / "biodiversity_raw"


def add(root, name, pixels, column=10, mask=None, image_suffix=".tif", mask_suffix=".png", **profile):
    """Another raw tile, in a column of its own."""
    origin = (ORIGIN[0] + column * 200 * GSD, ORIGIN[1])
    write_tif(raw(root) / "images" / f"{name}{image_suffix}", pixels, origin=origin, **profile)
    mask = np.full(pixels.shape[1:], 1, np.uint8) if mask is None else mask
    write_png(raw(root) / "masks" / f"{name}{mask_suffix}", mask)


def noise(bands, dtype, high, seed=0, side=SIZE):
    return np.random.default_rng(seed).uniform(0, high, (bands, side, side)).astype(dtype)


def split(root, *flags):
    quiet(audited_split, "--root", root, "--overwrite", *flags)
    parts = root / "data" / "biodiversity_split"
    sets = [TileSet.open(made(parts / name)) for name in ("train", "val", "test")]
    return {tile.id: tile for tiles in sets for tile in tiles}, sets


FORMATS = {
    "float32 four bands": noise(4, np.float32, 0.4),
    "float64": noise(3, np.float64, 0.4, seed=1),
    "uint16": noise(3, np.uint16, 3000, seed=2),
    "int16": noise(3, np.int16, 3000, seed=3),
    "8-bit four bands": noise(4, np.uint8, 255, seed=4),
    "another size": noise(3, np.uint8, 255, seed=5, side=48),
}


@pytest.mark.parametrize("name", FORMATS)
def test_a_tile_of_another_pixel_type_becomes_an_8_bit_tile_in_its_place(root, name):
    pixels = FORMATS[name]
    add(root, "odd", pixels)
    tiles, _ = split(root, "--stretch", "tile")
    image = tiles["odd"].read_image()
    assert image.shape == (3, *pixels.shape[1:]) and image.dtype == np.uint8
    for band in range(3):
        order = np.corrcoef(image[band].ravel(), pixels[band].ravel())[0, 1]
        assert order > 0.99  # the same bands in the same order, scaled and not otherwise changed
    if pixels.dtype == np.uint8:
        np.testing.assert_array_equal(image, pixels[:3])
    with open_raster(raw(root) / "images" / "odd.tif") as before, open_raster(tiles["odd"].image_path) as after:
        assert before.transform == after.transform and before.crs == after.crs


@pytest.mark.parametrize(("image_suffix", "mask_suffix"), [(".TIF", ".PNG"), (".tiff", ".png"), (".TIFF", ".Png")])
def test_any_spelling_of_the_suffix_is_found_and_made_uniform(root, image_suffix, mask_suffix):
    add(root, "odd", noise(3, np.uint8, 255), image_suffix=image_suffix, mask_suffix=mask_suffix)
    tiles, _ = split(root)
    assert tiles["odd"].image_path.name == "odd.tif" and tiles["odd"].image_path.is_file()


def test_bands_are_taken_in_the_order_asked_for(root):
    for seed, path in enumerate(sorted((raw(root) / "images").iterdir())):
        path.unlink()
        write_tif(path, noise(4, np.uint8, 255, seed=seed))
    tiles, sets = split(root, "--bands", 4, 3, 2)
    with open_raster(raw(root) / "images" / "tile_0_0.tif") as src:
        np.testing.assert_array_equal(tiles["tile_0_0"].read_image(), src.read([4, 3, 2]))
    assert sets[0].manifest["bands"] == [4, 3, 2]


def test_a_single_band_tile_is_refused_by_name_with_the_flag_that_takes_it(root):
    add(root, "grey", noise(1, np.uint8, 255))
    with pytest.raises(UserError, match=r"grey\.tif: has 1 band.*--bands 1"):
        split(root)
    tiles, _ = split(root, "--bands", 1)
    assert {len(tile.read_image()) for tile in tiles.values()} == {1}


def test_nodata_and_nan_pixels_are_void_in_the_mask_and_zero_in_the_image(root):
    holes = noise(3, np.float32, 0.4) + 0.1
    holes[:, :4] = -9999
    holes[1, 8:12] = np.nan  # a single band suffices
    holes[0, 20] = -9999
    add(root, "holes", holes, nodata=-9999)
    tiles, sets = split(root, "--stretch", "tile")
    void = np.zeros((SIZE, SIZE), bool)
    void[:4] = void[8:12] = void[20] = True
    np.testing.assert_array_equal(tiles["holes"].read_mask() == 0, void)
    assert not tiles["holes"].read_image()[:, void].any()
    assert tiles["holes"].pixels[0] == void.sum()


def test_an_8_bit_tile_with_nodata_keeps_its_pixels_and_loses_labels_only_there(root):
    pixels = noise(3, np.uint8, 200) + np.uint8(1)
    pixels[:, :, :5] = 0
    add(root, "edge", pixels, nodata=0)
    tiles, _ = split(root)
    assert (tiles["edge"].read_mask()[:, :5] == 0).all() and (tiles["edge"].read_mask()[:, 5:] == 1).all()
    np.testing.assert_array_equal(tiles["edge"].read_image(), pixels)


def test_transparent_pixels_are_void_unless_their_band_is_asked_for(root):
    pixels = noise(4, np.uint8, 200) + np.uint8(1)
    pixels[3] = 255
    pixels[3, :6] = 0
    add(root, "clear", pixels, photometric="RGB", alpha="YES")
    tiles, _ = split(root)
    assert (tiles["clear"].read_mask()[:6] == 0).all() and (tiles["clear"].read_mask()[6:] == 1).all()
    assert not tiles["clear"].read_image()[:, :6].any()
    path = raw(root) / "images" / "clear.tif"
    assert read_raw(path, Reading((4, 3, 2))).valid.all()
    path.unlink()
    write_tif(path, pixels[:3])
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), open_raster(path, "r+") as dst:
        dst.write_mask(pixels[3])
    np.testing.assert_array_equal(read_raw(path, RGB).valid, pixels[3] > 0)


def test_a_fourth_band_of_measurements_that_is_flagged_as_alpha_hides_nothing(root):
    pixels = noise(4, np.uint8, 255, seed=4)
    add(root, "infrared", pixels, photometric="RGB", alpha="YES")
    pixels = noise(4, np.uint8, 255, seed=5)
    pixels[3] = 0  # all of it water
    add(root, "lake", pixels, photometric="RGB", alpha="YES")
    tiles, _ = split(root)
    assert not (tiles["infrared"].read_mask() == 0).any() and not (tiles["lake"].read_mask() == 0).any()
    tiles, _ = split(root, "--alpha", "yes", "--overwrite")
    assert (tiles["lake"].read_mask() == 0).all()


def test_255_is_refused_with_the_flag_that_takes_it_for_void_unless_it_is_a_class(root):
    mask = np.full((SIZE, SIZE), 3, np.uint8)
    mask[:9] = 255
    add(root, "void", noise(3, np.uint8, 255), mask=mask)
    with pytest.raises(UserError, match=r"ids 255 are not classes, expected 0-5; --void 255 takes it for Background"):
        split(root)
    tiles, _ = split(root, "--void", "255")
    np.testing.assert_array_equal(tiles["void"].read_mask(), np.where(mask == 255, 0, mask))
    add(root, "two", noise(3, np.uint8, 255, seed=1), column=20, mask=np.where(mask == 255, mask, 0).astype(np.uint8))
    with pytest.raises(UserError, match=r"if 255 stands for a class, as in masks of two values, write its id there"):
        split(root, "--overwrite")


def test_the_scaling_takes_the_2nd_to_the_98th_percentile(root):
    float_tiles(root)
    for path in (raw(root) / "images").iterdir():
        with open_raster(path) as src:
            origin = (src.bounds.left, src.bounds.top)
        path.unlink()
        number = 10 * int(path.stem[-3]) + int(path.stem[-1])  # so that no tile shows the ground of another
        ramp = np.random.default_rng(number).permutation(SIZE * SIZE).reshape(SIZE, SIZE).astype(np.float32)
        write_tif(path, np.stack([ramp, ramp * 2, ramp * 3]), origin=origin)
    _, (train, _, _) = split(root)
    expected = [[0.02 * 1023 * k, 0.98 * 1023 * k] for k in (1, 2, 3)]
    np.testing.assert_allclose(train.stretch["ranges"], expected, rtol=0.03)
    assert train.stretch["percentiles"] == [2, 98]


def test_the_range_of_each_band_is_printed_rounded(root):
    float_tiles(root)
    printed = quiet(audited_split, "--root", root)
    assert re.search(
        r"16 tiles scaled to 8 bit, range of train: band 1 0\.\d{2,4}\N{EN DASH}0\.\d{2,4}, band 2 ", printed
    )


def float_tiles(root, high=0.4):
    for n, path in enumerate(sorted((raw(root) / "images").iterdir())):
        with open_raster(path) as src:
            pixels, origin = src.read().astype(np.float32) / 255 * high, (src.bounds.left, src.bounds.top)
        path.unlink()
        write_tif(path, pixels + np.float32(n * 1e-4), origin=origin)


def test_the_scaling_is_learnt_from_train_alone(root):
    float_tiles(root)
    _, (train, val, test) = split(root)
    ranges = train.stretch["ranges"]
    assert train.stretch == val.stretch == test.stretch and train.stretch["kind"] == "train"

    def brighten(tile_id):
        path = raw(root) / "images" / f"{tile_id}.tif"
        with open_raster(path) as src:
            pixels, origin = src.read() * np.float32(3), (src.bounds.left, src.bounds.top)
        path.unlink()
        write_tif(path, pixels, origin=origin)

    brighten(val.ids[0])
    brighten(test.ids[0])
    assert split(root)[1][0].stretch["ranges"] == ranges
    brighten(train.ids[0])
    assert split(root)[1][0].stretch["ranges"] != ranges


def test_with_stretch_tile_each_tile_uses_its_whole_range(root):
    add(root, "dark", noise(3, np.float32, 0.001))
    add(root, "bright", noise(3, np.float32, 9000, seed=1), column=20)
    tiles, sets = split(root, "--stretch", "tile")
    assert sets[0].stretch["kind"] == "tile"
    for name in ("dark", "bright"):
        assert tiles[name].read_image().min() == 0 and tiles[name].read_image().max() == 255


def test_values_beyond_the_range_are_cut_off(tmp_path):
    write_tif(tmp_path / "a.tif", np.array([-1, 0, 1, 2, 9], np.float32).reshape(1, 1, 5).repeat(3, axis=0))
    image = read_raw(tmp_path / "a.tif", RGB).to_8bit([[0, 2]] * 3)
    assert image[0, 0].tolist() == [0, 0, 128, 255, 255]


def test_8_bit_rgb_files_are_linked_not_written_again(root):
    tiles, sets = split(root)
    source = raw(root) / "images" / "tile_0_0.tif"
    assert tiles["tile_0_0"].image_path.samefile(source)
    assert sets[0].stretch is None


def kinds(root, name):
    tile = RawTile(name, raw(root) / "images" / f"{name}.tif", raw(root) / "masks" / f"{name}.png")
    return {problem.kind for problem in inspect(tile, reading=RGB, taxonomy=BIODIVERSITY).problems if problem.fatal}


def test_every_problem_of_a_tile_is_said_at_once(root):
    add(root, "bad", noise(1, np.uint8, 255), mask=np.full((SIZE, SIZE + 1), 77, np.uint8))
    assert kinds(root, "bad") == {"unknown ids", "size mismatch", "bands"}


def broken_tiles(root):
    """Breaks one tile in each way; {tile id: what the message says of it}."""
    images, masks = raw(root) / "images", raw(root) / "masks"
    (images / "tile_0_0.tif").write_bytes(b"no tiff")
    (masks / "tile_0_1.png").write_bytes(b"no png")
    (masks / "tile_0_2.png").unlink()
    (images / "tile_0_3.tif").unlink()
    Image.fromarray(np.full((SIZE, SIZE, 3), (1, 2, 3), np.uint8)).save(masks / "tile_1_0.png")
    Image.fromarray(np.full((SIZE, SIZE), 300, np.uint16)).save(masks / "tile_1_1.png")
    Image.fromarray(np.full((SIZE, SIZE), 9, np.uint8)).save(masks / "tile_1_2.png")
    Image.fromarray(np.ones((SIZE, 20), np.uint8)).save(masks / "tile_1_3.png")
    (images / "tile_2_0.TIFF").write_bytes((images / "tile_2_0.tif").read_bytes())
    whole = (images / "tile_2_1.tif").read_bytes()
    (images / "tile_2_1.tif").write_bytes(whole[: len(whole) // 2])
    return {
        "tile_0_0": "cannot be read",
        "tile_0_1": "cannot be read",
        "tile_0_2": "has no mask",
        "tile_0_3": "has no image",
        "tile_1_0": "colours that stand for no class",
        "tile_1_1": "ids 300 are not classes",
        "tile_1_2": "ids 9 are not classes",
        "tile_1_3": "is 20 x 32 pixels, its image 32 x 32",
        "tile_2_0": "several files",
        "tile_2_1": "cannot be read",
    }


def test_the_audit_lists_every_bad_tile_and_the_split_runs_without_them(root):
    broken = broken_tiles(root)
    with pytest.raises(UserError, match=r"10 tiles cannot be used.*split_biodiversity.*--exclude .*exclude\.txt"):
        quiet(check_biodiversity.main, "--root", root)
    audit = json.loads((root / "artifacts" / "audit" / "audit.json").read_text())
    said = {problem["tile_id"]: problem["text"] for problem in audit["problems"] if problem["fatal"]}
    assert said.keys() == broken.keys()
    for tile_id, expected in broken.items():
        assert expected.replace("\\", "") in said[tile_id] and tile_id in said[tile_id]
    exclude = root / "artifacts" / "audit" / "exclude.txt"
    assert exclude.read_text().split() == sorted(broken)
    assert (root / "artifacts" / "audit" / "audit.png").stat().st_size > 0

    with pytest.raises(UserError, match="10 tiles cannot be used"):
        split(root)
    assert not (root / "data" / "biodiversity_split" / "train").exists()
    tiles, sets = split(root, "--exclude", exclude, "--strategy", "random")
    assert len(tiles) == 6 and not tiles.keys() & broken.keys()
    assert sets[0].manifest["excluded"] == sorted(broken)


def test_the_audit_warns_of_what_is_odd_and_does_not_fail(root):
    add(root, "small", noise(3, np.float32, 0.3), column=10)
    add(root, "small2", noise(3, np.float32, 0.3, seed=1), column=11)
    add(root, "big", noise(3, np.uint16, 9000), column=12)
    add(root, "big2", noise(3, np.uint16, 9000, seed=1), column=13)
    add(root, "again", noise(3, np.uint16, 9000), column=14)
    add(root, "wide", noise(3, np.uint8, 250, side=40), column=15)
    add(root, "empty", noise(3, np.uint8, 250, seed=9), column=16, mask=np.zeros((SIZE, SIZE), np.uint8))
    write_tif(raw(root) / "images" / "lost.tif", noise(3, np.uint8, 250, seed=8))
    write_png(raw(root) / "masks" / "lost.png", np.ones((SIZE, SIZE), np.uint8))
    printed = quiet(check_biodiversity.main, "--root", root)
    audit = json.loads((root / "artifacts" / "audit" / "audit.json").read_text())
    found = {problem["kind"] for problem in audit["problems"]}
    assert found == {
        "repeated image", "mixed types", "mixed units", "sizes", "not georeferenced", "no labelled pixel",
    }  # fmt: skip
    assert audit["stretch_tile_needed"] and "--stretch tile" in printed
    assert audit["exclude"] == ["big"]  # "again" comes first


def test_one_of_two_equal_images_is_left_out_so_that_they_cannot_meet_across_splits(root):
    add(root, "twin", noise(3, np.uint8, 250), column=10)
    add(root, "twin_again", noise(3, np.uint8, 250), column=300)
    tiles, sets = split(root)
    assert "twin" in tiles and "twin_again" not in tiles
    assert sets[0].manifest["repeated_images"] == {"twin_again": "twin"}


def test_an_exclude_list_of_other_tiles_is_refused(root):
    (root / "exclude.txt").write_text("elsewhere\n")
    with pytest.raises(UserError, match="elsewhere"):
        split(root, "--exclude", root / "exclude.txt")


def test_a_missing_raw_folder_is_named(tmp_path):
    with pytest.raises(UserError, match=r"biodiversity_raw/images does not exist"):
        find_raw(tmp_path / "biodiversity_raw")


def test_sidecar_files_of_a_raw_image_are_heard(tmp_path):
    """A world file says where it lies, and an .aux.xml which value is no data."""
    write_tif(tmp_path / "a.tif", np.full((3, 8, 8), 7, np.uint8))
    (tmp_path / "a.tfw").write_text("2\n0\n0\n-2\n101\n199\n")
    bands = "".join(f'<PAMRasterBand band="{n}"><NoDataValue>7</NoDataValue></PAMRasterBand>' for n in (1, 2, 3))
    (tmp_path / "a.tif.aux.xml").write_text(f"<PAMDataset>{bands}</PAMDataset>")
    image = read_raw(tmp_path / "a.tif", RGB)
    assert image.location["bounds"] == [100, 184, 116, 200] and not image.valid.any() and not image.as_it_is
