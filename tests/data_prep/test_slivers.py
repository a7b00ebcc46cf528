"""Tiles that share a narrow strip are split, and the strip is labelled on one side alone."""

import numpy as np
import pytest
import rasterio.warp
from rasterio.crs import CRS
from rasterio.transform import Affine

from common.ground import one_name, overlapping, spatial_blocks
from common.rasters import georeference, is_placed, open_raster
from common.tiles import TileSet
from data_prep import check_leakage, split_biodiversity
from data_prep.tile_sets.slivers import outline_for, shared_strips, strips_to_cut, without_strips
from tests.helpers import made, quiet, write_groups, write_png, write_tif

UTM, ETRS, ED50 = (CRS.from_epsg(code).to_wkt() for code in (32633, 25833, 23033))


def tile(left, top, side=100.0, crs=UTM, **more):
    bounds = [left, top - side, left + side, top]
    return {"crs": crs, "bounds": bounds, "gsd": side / 50, "height": 50, "width": 50, **more}


def test_a_strip_of_two_pixels_is_told_and_wider_ones_are_common_ground():
    places = [tile(0, 0), tile(97, 0), tile(194, -2), tile(280, 0)]  # pixels of 2 metres
    assert shared_strips(places) == [(0, 1), (1, 2)]
    assert [(i, j) for i, j in overlapping(places, places, 2.0) if i < j] == [(2, 3)]


def test_a_strip_is_void_in_the_tile_of_the_earlier_split():
    assert strips_to_cut([(0, 1), (1, 2), (2, 3)], np.array([1, 0, 0, 2])) == {1: [0], 2: [3]}
    mask = np.ones((50, 50), np.uint8)
    cut = without_strips(mask, Affine(2, 0, 0, 0, -2, 0), [outline_for(tile(97, 0), tile(0, 0))])
    assert (cut[:, 48:] == 0).all() and (cut[:, :48] == 1).all() and mask.all()
    south_up = without_strips(mask, Affine(2, 0, 0, 0, 2, -100), [outline_for(tile(0, 97), tile(0, 0))])
    assert (south_up[:48] == 1).all() and (south_up[48:] == 0).all()
    touching = without_strips(mask, Affine(2, 0, 0, 0, -2, 0), [outline_for(tile(100, 0), tile(0, 0))])
    assert touching.all()


def test_the_strip_of_a_rotated_tile_is_as_narrow_as_of_any_other():
    turned = Affine.rotation(30)
    grid = turned @ Affine(2, 0, 0, 0, -2, 0)

    def corners(left):
        around = [(left, 0), (left + 50, 0), (left + 50, 50), (left, 50)]
        return {"crs": UTM, "corners": [list(grid @ point) for point in around], "bounds": [0, 0, 1, 1]}

    cut = without_strips(np.ones((50, 50), np.uint8), grid, [outline_for(corners(49), corners(0))])
    assert (cut[:, 49] == 0).all() and (cut[:, :49] == 1).all()


def test_the_outline_of_a_tile_in_another_system_is_put_into_that_of_the_tile():
    west, south, east, north = rasterio.warp.transform_bounds(UTM, "EPSG:4326", 500_000, 4_999_900, 500_100, 5_000_000)
    degrees = {"crs": CRS.from_epsg(4326).to_wkt(), "bounds": [west, south, east, north]}
    found = np.array(outline_for(degrees, tile(500_100, 5_000_000)))
    np.testing.assert_allclose(found[:, 0].max(), 500_100, atol=2)
    np.testing.assert_allclose(found[:, 1].min(), 4_999_900, atol=2)


def test_tiles_of_rounded_degrees_are_split_and_trained_on(tmp_path):
    rng = np.random.default_rng(0)
    raw, step = tmp_path / "data/biodiversity_raw", 32 - 1.3  # pixels, so that neighbours share a good one
    for row in range(6):
        for column in range(6):
            name = f"t{row}_{column}"
            image = rng.integers(1, 255, (3, 32, 32)).astype(np.uint8)
            left, top = 14 + column * step * 1e-5, 5 - row * step * 1e-5
            place = {"crs": "EPSG:4326", "transform": Affine(1e-5, 0, left, 0, -1e-5, top)}
            path = raw / "images" / f"{name}.tif"
            path.parent.mkdir(parents=True, exist_ok=True)
            with open_raster(path, "w", driver="GTiff", count=3, height=32, width=32, dtype="uint8", **place) as dst:
                dst.write(image)
            write_png(raw / "masks" / f"{name}.png", rng.integers(1, 6, (32, 32)).astype(np.uint8))
    write_groups(tmp_path)
    said = quiet(split_biodiversity.main, "--root", tmp_path)
    assert "pairs of tiles share a strip of up to 2 pixels and are taken to touch" in said
    sets = [TileSet.open(made(tmp_path / f"data/biodiversity_split/{name}")) for name in ("train", "val", "test")]
    assert all(len(tiles) > 3 for tiles in sets) and sets[0].manifest["slivers"]["tiles_cut"] > 0
    assert any((tile.read_mask()[:, [0, 1, -1, -2]] == 0).all(axis=0).any() for tile in sets[0])
    assert not any((tile.read_mask() == 0).any() for tile in sets[2])  # test loses nothing
    quiet(check_leakage.main, "--root", tmp_path)


def test_overlaps_are_ignored_where_it_is_asked_for_and_the_manifest_says_so(tmp_path):
    rng = np.random.default_rng(0)
    for n in range(12):
        image = rng.integers(1, 255, (3, 32, 32)).astype(np.uint8)
        write_tif(tmp_path / f"data/biodiversity_raw/images/t{n}.tif", image, origin=(500_000 + 8 * n, 5_000_000))
        write_png(tmp_path / f"data/biodiversity_raw/masks/t{n}.png", rng.integers(1, 6, (32, 32)).astype(np.uint8))
    write_groups(tmp_path, by_place=False)
    flags = ("--root", tmp_path, "--strategy", "random", "--overlaps", "ignore")
    quiet(split_biodiversity.main, *flags)
    val = TileSet.open(made(tmp_path / "data/biodiversity_split/val"))
    assert val.manifest["overlaps"] == "ignore"


def test_systems_that_differ_in_name_alone_share_a_grid_and_ground():
    places = [tile(500_000, 5_000_000), tile(500_100, 5_000_000, crs=ETRS), tile(500_000, 5_000_000, crs=ETRS)]
    assert [p["crs"] for p in one_name(places)] == [UTM] * 3
    assert spatial_blocks(places)[0] == spatial_blocks(places)[2]
    assert overlapping(places[:1], places[1:]) == [(0, 1)]
    other = one_name([places[0], tile(500_000, 5_000_000, crs=ED50)])  # whose datum lies a hundred metres off
    assert other[1]["crs"] == ED50


def test_rotated_tiles_are_compared_by_their_corners(tmp_path):
    turned = Affine(1.2, 1.6, 500_000, 1.6, -1.2, 5_000_000)
    places = []
    for n, (right, down) in enumerate([(0, 0), (50, 0), (0, 50), (25, 25)]):
        grid = turned * Affine.translation(right, down)
        profile = {"driver": "GTiff", "count": 1, "height": 50, "width": 50, "dtype": "uint8", "crs": "EPSG:32633"}
        with open_raster(tmp_path / f"{n}.tif", "w", **profile, transform=grid) as dst:
            dst.write(np.zeros((1, 50, 50), np.uint8))
        with open_raster(tmp_path / f"{n}.tif") as src:
            places.append({**georeference(src), "height": 50, "width": 50})
    assert overlapping(places[:1], places[1:3]) == []  # their boxes meet, they do not
    assert overlapping(places[:1], places[3:]) == [(0, 0)]


@pytest.mark.parametrize("sign", [1, -1])
def test_pixel_coordinates_are_no_place(tmp_path, sign):
    assert not is_placed(Affine(1, 0, 0, 0, sign, 0)) and is_placed(Affine(1, 0, 0, 0, sign, 5))
    assert not is_placed(Affine(1, 0, 0, 0, -1, 96), 96) and not is_placed(Affine(1, 0, -0.5, 0, -1, 0.5), 96)
    profile = {"driver": "GTiff", "count": 1, "height": 5, "width": 5, "dtype": "uint8", "crs": "EPSG:32633"}
    with open_raster(tmp_path / "a.tif", "w", **profile, transform=Affine(1, 0, 0, 0, sign, 0)) as dst:
        dst.write(np.zeros((1, 5, 5), np.uint8))
    with open_raster(tmp_path / "a.tif") as src:
        assert georeference(src) == {"crs": None, "bounds": None, "gsd": None}
