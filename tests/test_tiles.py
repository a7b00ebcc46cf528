from argparse import Namespace

import numpy as np
import pytest

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
    return TileSet.open(path, made_by="some.step")


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
    assert TileSet.open(tmp_path / "set", made_by="some.step").digest == digest


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
        TileSet.open(tmp_path / "set", made_by="some.step")
    (tmp_path / "set" / "masks" / "stray.png").unlink()
    (tmp_path / "set" / "images" / "a.tif").unlink()
    with pytest.raises(UserError, match=r"lacks 1 of 2 files \(first: a\.tif\)"):
        TileSet.open(tmp_path / "set", made_by="some.step")


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
