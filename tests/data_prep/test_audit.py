"""What the audit learns classes from, and what its pictures show."""

import numpy as np
import pytest

from common.raw_images import Reading
from common.taxonomy import BIODIVERSITY
from data_prep.audit import sheets
from data_prep.audit.cells import cell_means, fit_networks
from data_prep.audit.faults import MOVED, REPEATED, SWAPPED, Suspect
from data_prep.raw.files import RawTile
from data_prep.raw.inspect import Inspection
from tests.helpers import write_png, write_tif
from tests.small_sets import noise_of

RGB = Reading((1, 2, 3))


def test_a_class_that_fewer_than_three_tiles_show_is_not_learned():
    labels = np.repeat([1, 2, 3, 4], 60)
    tiles = np.concatenate([np.arange(60) % count for count in (6, 3, 2, 1)])
    features = (labels[:, None] + np.random.default_rng(0).normal(size=(240, 57))).astype(np.float32)
    networks = fit_networks(features, labels, tiles, 6, seed=0)
    assert networks.learned.tolist() == [False, True, True, False, False, False]
    assert networks.wide.classes_.tolist() == networks.sharp.classes_.tolist() == [1, 2]
    assert fit_networks(features, labels, tiles // 2, 6, seed=0).wide is None  # one class alone tells nothing


def test_cells_are_the_means_of_whole_squares():
    planes = np.arange(2 * 5 * 7, dtype=np.float32).reshape(2, 5, 7)
    assert (
        cell_means(planes, 2).tolist() == (planes[:, 1:4:2, 1:6:2] - 4).tolist()
    )  # the last row and column are cut off


def counted(tile_id, *pixels):
    return Inspection(RawTile(tile_id, None, None), pixels=list(pixels))


def test_examples_are_tiles_that_show_a_class_beside_others_each_once():
    inspections = [
        counted("all forest", 0, 100, 0, 0, 0, 0),
        counted("half forest", 0, 50, 50, 0, 0, 0),
        counted("some forest", 0, 10, 90, 0, 0, 0),
        counted("settled", 0, 5, 0, 0, 95, 0),
    ]
    chosen = sheets.example_tiles(inspections, BIODIVERSITY, 3)
    # for Forest; for Grassland the next best, as the best is taken; no tile has Cropland; then Settlement
    assert [i.tile.id for i in chosen] == ["half forest", "settled", "some forest"]
    assert len(sheets.example_tiles(inspections, BIODIVERSITY, 9)) == 4


def test_a_mask_is_a_thin_wash_over_its_image_with_outlines_in_full_colour():
    image = np.full((9, 9, 3), 200, np.uint8)
    mask = np.ones((9, 9), np.uint8)
    mask[:, 5:] = 2
    picture = sheets.fill_and_outline(image, mask, BIODIVERSITY)
    forest, grassland = (BIODIVERSITY.rgb()[label].astype(float) for label in (1, 2))
    np.testing.assert_array_equal(picture[0, 0], (150 + 0.25 * forest).astype(np.uint8))
    np.testing.assert_array_equal(picture[0, 8], (150 + 0.25 * grassland).astype(np.uint8))
    np.testing.assert_array_equal(picture[4, 5], grassland)
    np.testing.assert_array_equal(picture[4, 4], forest)


def test_a_mask_is_moved_on_the_audits_sheet_the_way_that_is_said():
    mask = np.arange(1, 13, dtype=np.uint8).reshape(3, 4)
    assert sheets.shifted(mask, 1, 0).tolist() == [[0, 0, 0, 0], [1, 2, 3, 4], [5, 6, 7, 8]]
    assert sheets.shifted(mask, 0, -1).tolist() == [[2, 3, 4, 0], [6, 7, 8, 0], [10, 11, 12, 0]]


@pytest.fixture
def inspections(tmp_path):
    """Two tiles of 8 x 8 pixels by their ids."""
    for name in "ab":
        write_tif(tmp_path / f"{name}.tif", noise_of(name, 8, 8))
        write_png(tmp_path / f"{name}.png", np.full((8, 8), 1, np.uint8))
    tiles = [RawTile(name, tmp_path / f"{name}.tif", tmp_path / f"{name}.png") for name in "ab"]
    return {tile.id: Inspection(tile, dtype="uint8") for tile in tiles}


def test_beside_a_suspicious_mask_stands_what_would_fit_better(inspections):
    expected = np.full((2, 2), 2, np.uint8)
    for suspect, title in (
        (Suspect("a", None, SWAPPED, "", 1, expected=expected), "what the image looks like"),
        (Suspect("a", None, MOVED, "", 1, (2, 1), expected), "mask moved"),
        (Suspect("a", None, REPEATED, "", 1, twin="b"), "image of b"),
    ):
        (page,) = sheets.plot_suspects([suspect], inspections, BIODIVERSITY, RGB)
        panels = page.subfigs[0].axes
        assert [axes.get_title() for axes in panels] == ["image", "mask", "mask over image", title]
    np.testing.assert_array_equal(panels[3].images[0].get_array(), np.moveaxis(noise_of("b", 8, 8), 0, -1))


def test_ten_masks_stand_on_a_page_and_a_hundred_are_shown(inspections, monkeypatch):
    ranks = []
    monkeypatch.setattr(sheets, "plot_suspect", lambda figure, rank, *_: ranks.append(rank))
    suspects = [Suspect("a", None, SWAPPED, "", 1)] * 103
    pages = list(sheets.plot_suspects(suspects, inspections, BIODIVERSITY, RGB))
    assert len(pages) == 10 and sorted(ranks) == list(range(1, 101))
    assert "91 to 100 of 103" in pages[-1].get_suptitle()
