"""Bands: what they are called, which are shown, and which OpenEarthMap has."""

import numpy as np
import pytest
from rasterio.enums import ColorInterp

from common.bands import (
    BandStatistics,
    Filling,
    bands_form_problem,
    chosen_oem_bands,
    filling_of,
    positions,
    same_bands,
    shown_positions,
    three_bands,
    to_picture,
)
from common.errors import UserError
from common.rasters import open_raster, read_image, write_image

FOUR = BandStatistics((0.1, 0.2, 0.3, 0.4), (0.1, 0.1, 0.1, 0.2))


def flat(*values: int) -> np.ndarray:
    """(B, 2, 3) uint8 of one value a band."""
    return np.broadcast_to(np.array(values, np.uint8)[:, None, None], (len(values), 2, 3))


def test_bands_are_named_by_their_number_in_the_raw_image():
    assert positions((4, 1, 2), [1, 2, 4], "--show") == (1, 2, 0)
    assert positions((5,), [5, 5, 5], "--show") == (0, 0, 0)
    assert positions((1, 1, 1, 4), [1, 1, 1], "--show") == (0, 1, 2)  # a repeated band at its repetitions
    with pytest.raises(UserError, match=r"--show 1 2 3 names band 3, but the tiles have 4 1 2\."):
        positions((4, 1, 2), [1, 2, 3], "--show")


def test_the_first_three_bands_are_shown_or_those_asked_for_or_a_single_one_three_times():
    image = flat(10, 20, 30, 40)
    assert three_bands(image)[:, 0, 0].tolist() == [10, 20, 30]
    shown = to_picture(image, shown_positions((1, 2, 3, 4), [4, 1, 2]))
    assert shown.shape == (2, 3, 3) and shown[0, 0].tolist() == [40, 10, 20]
    assert three_bands(image, shown_positions((1, 2, 3, 4), None))[:, 0, 0].tolist() == [10, 20, 30]
    for few in (flat(7), flat(7, 9)):
        assert three_bands(few)[:, 0, 0].tolist() == [7, 7, 7]
        assert three_bands(few, shown_positions(tuple(range(1, len(few) + 1)), None))[:, 0, 0].tolist() == [7, 7, 7]


def test_statistics_weigh_images_by_their_pixels():
    # one image of 3 pixels of 0, one of a pixel of 255 in the first band and 51 in the second
    means, squares = np.array([[0.0, 0.0], [255.0, 51.0]]), np.array([[0.0, 0.0], [255.0**2, 51.0**2]])
    found = BandStatistics.over(means, squares, np.array([3, 1]))
    np.testing.assert_allclose(found.mean, [0.25, 0.05])
    np.testing.assert_allclose(found.std, [np.sqrt(0.25 * 0.75), 0.2 * np.sqrt(0.25 * 0.75)])
    assert BandStatistics.read(found.to_json()) == found


def test_openearthmap_has_the_first_three_bands_unless_others_are_named():
    assert chosen_oem_bands((4, 3, 2, 8), None) == (4, 3, 2)
    assert chosen_oem_bands((4, 3, 2, 8), [8, 3, 2]) == (8, 3, 2)
    assert chosen_oem_bands((6,), None) == (6, 6, 6)
    with pytest.raises(UserError, match="--oem-bands 1 1 4"):
        chosen_oem_bands((1, 4), None)
    with pytest.raises(UserError, match="--oem-bands 1 2 9 names band 9"):
        chosen_oem_bands((1, 2, 3), [1, 2, 9])


def test_an_image_of_openearthmap_gets_the_mean_of_train_in_the_bands_that_it_lacks():
    filling = filling_of((1, 2, 3, 4), FOUR, (1, 2, 3))
    assert filling(flat(10, 20, 30))[:, 1, 2].tolist() == [10, 20, 30, 102]  # 0.4 of 255
    assert filling.lacking((1, 2, 3, 4)) == {4: 102}
    turned = filling_of((4, 3, 2, 1), FOUR, (3, 2, 1))
    assert turned(flat(10, 20, 30))[:, 0, 0].tolist() == [26, 10, 20, 30]
    grey = filling_of((1,), BandStatistics((0.5,), (0.1,)), (1, 1, 1))
    assert grey(flat(10, 20, 36))[:, 0, 0].tolist() == [22] and not grey.lacking((1,))
    assert filling_of((1, 2, 3), None, (1, 2, 3)) is None
    assert filling_of((1, 1, 1), None, (1, 1, 1)) is None
    with pytest.raises(UserError, match="does not record the mean of its bands"):
        filling_of((1, 2, 3), None, (1, 2, 2))


def test_a_filling_comes_back_from_a_manifest():
    manifest = {"bands": [4, 1, 2, 3], "oem_bands": [1, 2, 3], "oem_fill": [9, 1, 1, 1]}
    assert Filling.read(manifest) == Filling((1, 2, 3), (9, 1, 1, 1))
    assert Filling.read({"bands": [1, 2, 3]}) is None


def test_sets_that_name_no_bands_have_three():
    assert same_bands(None, None) and same_bands(None, [4, 3, 2]) and same_bands([1, 2], (1, 2))
    assert not same_bands(None, [1, 2, 3, 4]) and not same_bands([1, 2, 3], [3, 2, 1])


@pytest.mark.parametrize(
    ("manifest", "problem"),
    [
        ({}, None),
        ({"bands": None, "band_statistics": None}, None),
        ({"bands": [1, 2, 3]}, None),
        ({"bands": [1, 2, 3, 4], "band_statistics": FOUR.to_json()}, None),
        ({"bands": [1, 2, 3, 4]}, "4 bands and no statistics"),
        ({"bands": [1, 2, 3], "band_statistics": FOUR.to_json()}, "3 bands, and statistics of 4"),
        ({"bands": [1, 2, 3], "oem_fill": [1, 2, 3], "oem_bands": [1, 2, 3]}, None),
        ({"bands": [1, 2, 3], "oem_fill": [1, 2, 3]}, "how images of OpenEarthMap"),
        ({"bands": [1, 2, 3], "oem_fill": [1, 2], "oem_bands": [1, 2, 3]}, "how images of OpenEarthMap"),
        ({"bands": [1, 2, 3], "oem_fill": [1, 2, 3], "oem_bands": [1, 2, 9]}, "how images of OpenEarthMap"),
    ],
)
def test_a_manifest_that_contradicts_itself_about_bands_is_told(manifest, problem):
    found = bands_form_problem(manifest)
    assert found is None if problem is None else problem in found


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7])
def test_a_tile_of_any_number_of_bands_comes_back_as_it_was_and_none_of_them_is_alpha(tmp_path, count):
    image = np.random.default_rng(count).integers(0, 256, (count, 20, 30)).astype(np.uint8)
    write_image(tmp_path / "t.tif", image)
    np.testing.assert_array_equal(read_image(tmp_path / "t.tif"), image)
    np.testing.assert_array_equal(read_image(tmp_path / "t.tif", (3, 5, 12)), image[:, 3:15, 5:17])
    with open_raster(tmp_path / "t.tif") as src:
        assert ColorInterp.alpha not in src.colorinterp
        assert (ColorInterp.red in src.colorinterp) == (count >= 3)
