"""Raw tiles of other bands than three through the data steps, and what the audit says of bands."""

import json

import numpy as np
import pytest

from common.bands import RGB
from common.errors import UserError
from common.rasters import open_raster, read_image
from common.tiles import TileSet
from data_prep import (
    analyze_class_distribution,
    check_biodiversity,
    check_leakage,
    combine_biodiversity_oem,
    filter_oem_rural,
    prepare_oem_teacher,
    relabel_oem,
    replicate_minority,
)
from data_prep.audit.bands import BandsSeen, band_problems, describe_bands, look_at_bands
from tests.helpers import audited_split, made, make_oem, quiet, write_tif
from tests.small_sets import split_sets, write_grid
from training.engine.preflight import require_apart

SIDE = 64


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Every data step on tiles of four bands, of which the fourth is the first upside down."""
    root = tmp_path_factory.mktemp("four")
    write_grid(root, 8, 8, side=SIDE)
    for path in sorted((root / "data/biodiversity_raw/images").glob("*.tif")):
        with open_raster(path) as src:
            image, place = src.read(), {"origin": (src.transform.c, src.transform.f)}
        write_tif(path, np.concatenate([image, 255 - image[:1]]), photometric="RGB", alpha="no", **place)
    make_oem(root)
    quiet(audited_split, "--root", root, "--bands", 1, 2, 3, 4)
    for step in (analyze_class_distribution, replicate_minority, filter_oem_rural, prepare_oem_teacher, relabel_oem):
        flags = ("--minority-share", 0.3) if step is analyze_class_distribution else ()
        quiet(step.main, "--root", root, *flags)
    return root


def combined(root, *flags) -> tuple[TileSet, str]:
    said = quiet(combine_biodiversity_oem.main, "--root", root, "--overwrite", *flags)
    return TileSet.open(made(root / "data/biodiversity_oem_combined/train")), said


def test_tiles_have_the_bands_that_were_asked_for_and_8_bit_ones_are_taken_as_they_are(root):
    train, val, _ = split_sets(root)
    assert train.bands == val.bands == (1, 2, 3, 4)
    for tile in train.tiles[:3]:
        image = tile.read_image()
        np.testing.assert_array_equal(image[3], 255 - image[0])
        np.testing.assert_array_equal(tile.read_image((3, 5, 9)), image[:, 3:12, 5:14])
        raw = root / "data/biodiversity_raw/images" / f"{tile.id}.tif"
        assert tile.image_path.samefile(raw)


def test_the_statistics_of_train_are_recorded_and_handed_on(root):
    train, val, _ = split_sets(root)
    pixels = np.concatenate([tile.read_image().reshape(4, -1) for tile in train], axis=1) / 255
    found = train.band_statistics
    np.testing.assert_allclose(found.mean, pixels.mean(axis=1), atol=0.01)
    np.testing.assert_allclose(found.std, pixels.std(axis=1), atol=0.01)
    replicated = TileSet.open(made(root / "data/biodiversity_split/train_rep"))
    for tiles in (val, replicated, combined(root)[0]):
        assert tiles.band_statistics == found and tiles.bands == train.bands


def test_tiles_of_openearthmap_have_the_mean_of_train_in_the_fourth_band(root):
    tiles, said = combined(root)
    oem = [tile for tile in tiles if tile.id.startswith("oem_")]
    value = round(255 * tiles.band_statistics.mean[3])
    for tile in (oem[0], oem[-1]):
        image = tile.read_image()
        np.testing.assert_array_equal(image[:3], read_image(tile.image_path))
        assert (image[3] == value).all() and len(tile.read_image((2, 3, 8))) == 4
    assert f"bands 1 2 3 of 1 2 3 4; it lacks the others, so that in its tiles band 4 is {value} everywhere" in said
    assert tiles.manifest["oem_bands"] == [1, 2, 3] and tiles.manifest["oem_fill"][3] == value
    others, _ = combined(root, "--oem-bands", 4, 2, 1)
    image = others[oem[0].id].read_image()
    np.testing.assert_array_equal(image[[3, 1, 0]], read_image(oem[0].image_path))
    assert (image[2] == round(255 * tiles.band_statistics.mean[2])).all()
    with pytest.raises(UserError, match="--oem-bands 1 2 9 names band 9"):
        combined(root, "--oem-bands", 1, 2, 9)


def test_no_leakage_is_found_in_sets_of_four_bands_and_other_bands_are(root):
    combined(root)
    assert "no leakage found" in quiet(check_leakage.main, "--root", root)
    path = root / "data/biodiversity_split/val/manifest.json"
    text = path.read_text()
    try:
        path.write_text(json.dumps(json.loads(text) | {"bands": [4, 3, 2, 1]}))
        with pytest.raises(UserError, match="val has the bands 4 3 2 1, train has 1 2 3 4"):
            quiet(check_leakage.main, "--root", root)
        train, val, _ = split_sets(root)
        with pytest.raises(UserError, match="val has the bands 4 3 2 1, .*train has 1 2 3 4"):
            require_apart(train, val, made(root / "artifacts/leakage.json"))
    finally:
        path.write_text(text)


def test_tiles_with_fewer_bands_than_asked_are_refused_by_name(tmp_path):
    write_grid(tmp_path, 2, 2)
    with pytest.raises(UserError, match=r"r00_c00\.tif: has 3 bands, but --bands 1 2 3 4 asks for band 4"):
        quiet(audited_split, "--root", tmp_path, "--bands", 1, 2, 3, 4)


def test_a_manifest_without_statistics_of_its_four_bands_is_refused(root):
    path = root / "data/biodiversity_split/test/manifest.json"
    text = path.read_text()
    try:
        path.write_text(json.dumps(json.loads(text) | {"band_statistics": None}))
        with pytest.raises(UserError, match="4 bands and no statistics of them"):
            split_sets(root)
    finally:
        path.write_text(text)


# What the audit says


def seen(colors, *bands) -> BandsSeen:
    return BandsSeen("uint8", 2, colors, np.array(bands, np.float32))


def ground() -> tuple[np.ndarray, ...]:
    """Red, green, blue and near infrared of soil, leaves and water."""
    rng = np.random.default_rng(0)
    kinds = np.array([[90, 80, 70, 100], [40, 60, 35, 200], [25, 35, 40, 10]], float)
    return tuple((kinds[rng.integers(0, 3, 600)] * rng.normal(1, 0.1, (600, 1))).T)


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 2, 1, 0)])
def test_the_band_that_leaves_make_bright_is_likely_near_infrared(order):
    bands, names = ground(), ("red", "green", "blue", "undefined")
    colors = tuple(names[n] for n in order)
    found = seen(colors, *(bands[n] for n in order))
    assert found.near_infrared == order.index(3) + 1
    assert describe_bands([found], RGB)[0].endswith(
        "is likely near infrared; --bands 1 2 3 4 takes it, too" if order[3] == 3 else "is likely near infrared"
    )


def test_no_band_is_called_near_infrared_that_follows_red_or_tells_nothing():
    red, green, blue, _ = ground()
    colors = ("red", "green", "blue", "undefined")
    for other in (red * 1.2 + 3, np.full(600, 7.0), np.random.default_rng(1).normal(100, 9, 600), green):
        assert seen(colors, red, green, blue, other).near_infrared is None
    assert seen(("gray", "undefined", "undefined", "undefined"), *ground()).near_infrared is None
    assert seen(("red", "green", "nir"), red, green, blue).near_infrared == 3


def test_a_band_that_follows_red_as_much_as_leaves_is_not_called_near_infrared():
    rng = np.random.default_rng(2)
    red, greenness = rng.uniform(50, 150, 900), rng.uniform(-0.2, 0.2, 900)
    green = red * (1 + greenness) / (1 - greenness)
    colors = ("red", "green", "undefined")
    for share, found in ((1.0, None), (0.2, 3)):
        assert seen(colors, red, green, share * red + 250 * greenness).near_infrared == found


def test_constant_bands_and_copies_are_named():
    red, green, blue, infrared = ground()
    found = seen(("gray",) * 6, red, green, red, np.full(600, 3.0), np.full(600, 3.0), red)
    assert found.constant == [4, 5] and found.copies == {3: 1, 6: 1}
    texts = [problem.text for problem in band_problems([found])]
    assert texts[0].startswith("band 4 of the 2 tiles of uint8 with 6 bands") and texts[2].endswith("copy of band 1")
    assert not band_problems([seen(("red", "green", "blue", "undefined"), red, green, blue, infrared)])


def test_the_audit_looks_at_all_bands_of_each_type_whatever_is_chosen(tmp_path):
    write_grid(tmp_path, 1, 3, side=16)
    images = tmp_path / "data/biodiversity_raw/images"
    rng = np.random.default_rng(0)
    write_tif(images / "r00_c01.tif", rng.uniform(0, 1, (5, 16, 16)).astype(np.float32))
    (images / "broken.tif").write_bytes(b"no raster")
    found = look_at_bands(sorted(images.iterdir()), 0)
    assert [(bands.dtype, bands.tiles, len(bands.colors)) for bands in found] == [("uint8", 2, 3), ("float32", 1, 5)]
    (images / "broken.tif").unlink()
    said = quiet(check_biodiversity.main, "--root", tmp_path, "--skip-suspicious")
    audit = json.loads((tmp_path / "artifacts/audit/audit.json").read_text())
    assert [of["dtype"] for of in audit["bands_found"]] == ["uint8", "float32"]
    of_fifth = audit["bands_found"][1]["bands"][4]["percentiles"]
    with open_raster(images / "r00_c01.tif") as src:
        wanted = np.percentile(src.read(5), [2, 25, 50, 75, 98])
    np.testing.assert_allclose(list(of_fifth.values()), wanted, rtol=1e-5)
    assert "float32     5" in said and (tmp_path / "artifacts/audit/bands.png").stat().st_size > 1000
