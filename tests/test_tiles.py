from argparse import Namespace

import numpy as np
import pytest
from rasterio.transform import Affine

from common.cli import UserError
from common.figures import color_mask
from common.taxonomy import BIODIVERSITY
from common.tiles import TileSet, describe_tile, georeference, new_tile_set, open_raster, write_image, write_mask
from tests.helpers import THREE_CLASSES, write_tif

NOWHERE = {"crs": None, "bounds": None, "gsd": None}


def flags(**changes):
    return Namespace(**{"command": "python -m some.step", "overwrite": False, "mode": "link", **changes})


def add_tile(out, tile_id, seed=0, label=1):
    image = np.random.default_rng(seed).integers(0, 256, (3, 8, 8), np.uint8)
    mask = np.full((8, 8), label, np.uint8)
    write_image(out.image_path(tile_id), image)
    write_mask(out.mask_path(tile_id), mask)
    paths = (out.image_path(tile_id), out.mask_path(tile_id))
    out.record(tile_id, describe_tile(image, mask, *paths, NOWHERE, out.taxonomy.num_classes))


def make_set(path, ids=("a", "b"), split="train", taxonomy=BIODIVERSITY, **changes):
    with new_tile_set(path, flags(**changes), taxonomy=taxonomy, split=split) as out:
        for seed, tile_id in enumerate(ids):
            add_tile(out, tile_id, seed)
    return TileSet.open(path, command="python -m some.step")


def test_a_tile_set_reads_back_what_was_written(tmp_path):
    tiles = make_set(tmp_path / "set", ids=("b", "a"))
    assert tiles.ids == ["a", "b"]
    assert tiles.split == "train"
    assert tiles.pixels.tolist() == [0, 128, 0, 0, 0, 0]
    assert tiles["a"].read_image().shape == (3, 8, 8)
    assert tiles["a"].read_mask().tolist() == np.full((8, 8), 1).tolist()


def test_a_step_that_fails_half_way_publishes_nothing(tmp_path):
    with (
        pytest.raises(RuntimeError),
        new_tile_set(tmp_path / "set", flags(), taxonomy=BIODIVERSITY, split="train") as out,
    ):
        add_tile(out, "a")
        raise RuntimeError("power cut")
    assert list(tmp_path.iterdir()) == []


def test_a_step_that_fails_half_way_leaves_the_earlier_output_whole(tmp_path):
    digest = make_set(tmp_path / "set").digest
    with (
        pytest.raises(RuntimeError),
        new_tile_set(tmp_path / "set", flags(overwrite=True), taxonomy=BIODIVERSITY, split="val") as out,
    ):
        add_tile(out, "other")
        raise RuntimeError("power cut")
    assert TileSet.open(tmp_path / "set", command="python -m some.step").digest == digest


def test_an_interrupted_run_does_not_stand_in_the_way_of_the_next(tmp_path):
    (tmp_path / ".set.partial" / "images").mkdir(parents=True)
    (tmp_path / ".set.partial" / "images" / "old.tif").write_text("half")
    assert make_set(tmp_path / "set").ids == ["a", "b"]


def test_an_existing_folder_is_replaced_only_when_asked_and_only_when_ours(tmp_path):
    make_set(tmp_path / "set")
    with pytest.raises(UserError, match="--overwrite"):
        make_set(tmp_path / "set")
    assert make_set(tmp_path / "set", ids=("c",), overwrite=True).ids == ["c"]
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "holiday.jpg").write_text("")
    with pytest.raises(UserError, match="not written by this project"):
        make_set(tmp_path / "photos", overwrite=True)
    assert (tmp_path / "photos" / "holiday.jpg").exists()


def test_an_output_inside_its_input_is_refused(tmp_path):
    source = make_set(tmp_path / "set")
    with (
        pytest.raises(UserError, match="in one another"),
        new_tile_set(tmp_path / "set" / "more", flags(), taxonomy=BIODIVERSITY, split="train", made_from=[source]),
    ):
        pass


def test_a_missing_and_a_stray_file_are_named(tmp_path):
    make_set(tmp_path / "set")
    (tmp_path / "set" / "masks" / "stray.png").write_text("")
    with pytest.raises(UserError, match=r"stray\.png"):
        TileSet.open(tmp_path / "set", command="python -m some.step")
    (tmp_path / "set" / "masks" / "stray.png").unlink()
    (tmp_path / "set" / "images" / "a.tif").unlink()
    with pytest.raises(UserError, match=r"lacks 1 of 2 files \(first: a\.tif\)"):
        TileSet.open(tmp_path / "set", command="python -m some.step")


def test_files_that_gis_programs_and_file_browsers_leave_are_passed_over(tmp_path):
    make_set(tmp_path / "set")
    for name in ("images/a.tif.aux.xml", "images/.DS_Store", "masks/._a.png"):
        (tmp_path / "set" / name).write_text("")
    assert TileSet.open(tmp_path / "set", command="python -m some.step").ids == ["a", "b"]
    (tmp_path / "set" / "images" / "b (copy).TIF").write_text("")
    with pytest.raises(UserError, match=r"copy\).*again: python -m some\.step --overwrite"):
        TileSet.open(tmp_path / "set", command="python -m some.step")


def test_a_damaged_image_or_mask_is_named_with_a_remedy(tmp_path):
    tile = make_set(tmp_path / "set")["a"]
    for path, read in ((tile.image_path, tile.read_image), (tile.mask_path, tile.read_mask)):
        whole = path.read_bytes()
        for end in (len(whole) // 2, 40):
            path.write_bytes(whole[:end])
            with pytest.raises(UserError, match=rf"{path.name}: cannot be read.*--overwrite"):
                read()


def test_two_tiles_of_one_id_are_refused_before_a_file_is_written(tmp_path):
    source = make_set(tmp_path / "set")
    before = source["a"].image_path.read_bytes()
    with (
        pytest.raises(UserError, match="two tiles are called a"),
        new_tile_set(tmp_path / "out", flags(), taxonomy=BIODIVERSITY, split="train", made_from=[source]) as out,
    ):
        out.add(source["a"])
        out.claim("a")
    assert source["a"].image_path.read_bytes() == before


def test_the_manifest_names_the_command_and_the_pixels_of_each_class(tmp_path):
    manifest = make_set(tmp_path / "set").manifest
    assert manifest["command"] == "python -m some.step" and manifest["tile_count"] == 2
    assert manifest["pixels_per_class"] == {n: 128 * (n == "Forest") for n in BIODIVERSITY.classes}


def test_a_raster_stored_from_south_to_north_lies_where_its_twin_lies(tmp_path):
    pixels = np.zeros((3, 8, 8), np.uint8)
    write_tif(tmp_path / "north.tif", pixels, origin=(500_000, 5_000_000))
    south_up = Affine(0.5, 0, 500_000, 0, 0.5, 5_000_000 - 4)
    write_image(tmp_path / "south.tif", pixels, crs="EPSG:32633", transform=south_up)
    with open_raster(tmp_path / "north.tif") as north, open_raster(tmp_path / "south.tif") as south:
        assert georeference(south) == georeference(north)


def test_a_set_of_another_split_or_other_classes_is_refused(tmp_path):
    tiles = make_set(tmp_path / "set", split="val")
    with pytest.raises(UserError, match="'val', expected 'train'"):
        tiles.require_split("train", "--train-dir")
    with pytest.raises(UserError, match="Two taxonomies"):
        tiles.require_taxonomy(THREE_CLASSES)


def test_tiles_taken_over_share_their_disk_space_unless_copied(tmp_path):
    source = make_set(tmp_path / "set")
    for mode in ("link", "copy"):
        out = tmp_path / mode
        with new_tile_set(out, flags(mode=mode), taxonomy=BIODIVERSITY, split="train", made_from=[source]) as writer:
            writer.add(source["a"])
        same = (out / "images" / "a.tif").samefile(source["a"].image_path)
        assert same == (mode == "link")


def test_the_digest_follows_the_pixels_not_the_place(tmp_path):
    first, again = make_set(tmp_path / "one"), make_set(tmp_path / "two")
    other = make_set(tmp_path / "three", ids=("a", "c"))
    assert first.digest == again.digest != other.digest


@pytest.mark.parametrize(
    ("crs", "gsd", "origin", "expected"),
    [
        ("EPSG:32633", 0.5, (500_000, 5_000_000), 0.5),
        ("EPSG:2263", 1.0, (980_000, 200_000), 0.3048),  # US survey feet
        ("EPSG:4326", 1e-5, (15.0, 60.0), 0.5566),  # a degree of longitude is half as long at 60 degrees north
        ("EPSG:3857", 1.0, (1_670_000, 8_400_000), 0.4997),  # Mercator shows 60 degrees north twice as large as it is
        ("EPSG:25833+7837", 0.5, (500_000, 5_000_000), 0.5),  # a height system beside the plane one
        ('LOCAL_CS["grid",UNIT["metre",1]]', 2.0, (0, 1000), 2.0),
    ],
)
def test_ground_sampling_distance_is_in_metres_in_every_system(tmp_path, crs, gsd, origin, expected):
    write_tif(tmp_path / "a.tif", np.zeros((3, 8, 8), np.uint8), origin=origin, gsd=gsd, crs=crs)
    with open_raster(tmp_path / "a.tif") as src:
        assert georeference(src)["gsd"] == pytest.approx(expected, rel=1e-3)


def test_masks_are_drawn_in_the_colours_of_the_taxonomy():
    drawn = color_mask(np.array([[0, 3]], np.uint8), THREE_CLASSES)
    assert drawn.tolist() == [[[0, 0, 0], [255, 255, 255]]]
