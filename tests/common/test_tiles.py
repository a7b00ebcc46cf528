import dataclasses
import hashlib
import json
import math
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_hex
from rasterio.transform import Affine

from common.errors import UserError
from common.figures import class_legend, color_mask, new_figure
from common.rasters import (
    class_pixels,
    georeference,
    open_raster,
    pixel_size,
    read_image,
    read_mask,
    unknown_ids,
    write_image,
    write_mask,
)
from common.taxonomy import BIODIVERSITY
from common.tiles import Tile, TileSet, is_tile_id, manifest_digest, manifest_problem, shares_line
from data_prep.tile_sets.writer import describe_tile, new_tile_set
from tests.helpers import THREE_CLASSES, made, write_tif

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
    return TileSet.open(made(path, "python -m some.step"))


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
    assert TileSet.open(made(tmp_path / "set", "python -m some.step")).digest == digest


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
        TileSet.open(made(tmp_path / "set", "python -m some.step"))
    (tmp_path / "set" / "masks" / "stray.png").unlink()
    (tmp_path / "set" / "images" / "a.tif").unlink()
    with pytest.raises(UserError, match=r"lacks 1 of 2 files \(first: a\.tif\)"):
        TileSet.open(made(tmp_path / "set", "python -m some.step"))


def test_files_that_gis_programs_and_file_browsers_leave_are_passed_over(tmp_path):
    make_set(tmp_path / "set")
    for name in ("images/a.tif.aux.xml", "images/.DS_Store", "masks/._a.png"):
        (tmp_path / "set" / name).write_text("")
    assert TileSet.open(made(tmp_path / "set", "python -m some.step")).ids == ["a", "b"]
    (tmp_path / "set" / "images" / "b (copy).TIF").write_text("")
    with pytest.raises(UserError, match=r"copy\).*again: python -m some\.step --overwrite"):
        TileSet.open(made(tmp_path / "set", "python -m some.step"))


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
        tiles.require_split("train")
    colors = BIODIVERSITY.colors[::-1]
    shares = {**BIODIVERSITY.from_openearthmap, "Water": {"Forest": 1.0}}
    for other in (
        THREE_CLASSES,
        dataclasses.replace(BIODIVERSITY, classes=("Background", *BIODIVERSITY.classes[:0:-1])),
        dataclasses.replace(BIODIVERSITY, colors=colors),
        dataclasses.replace(BIODIVERSITY, from_openearthmap=shares),
    ):
        with pytest.raises(UserError, match="Two taxonomies"):
            tiles.require_taxonomy(other)
    assert tiles.require_taxonomy(BIODIVERSITY) is tiles is tiles.require_split("val")


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


def test_pixels_are_counted_by_id_and_ids_beyond_the_classes_are_told_in_order():
    mask = np.array([[0, 1, 1], [2, 5, 5], [5, 6, 255]], np.uint8)
    assert class_pixels(mask, 6).tolist() == [1, 2, 1, 0, 0, 3]
    assert unknown_ids(mask, 6) == [6, 255] and unknown_ids(mask, 7) == [255]
    assert unknown_ids(mask[:2], 6) == [] and unknown_ids(mask[:2], 5) == [5]


def test_a_window_is_read_where_it_lies(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (3, 300, 200), np.uint8)
    write_image(tmp_path / "a.tif", image)
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), image)
    for row, column, side in ((0, 0, 8), (130, 7, 64), (236, 136, 64), (120, 199, 1)):
        window = read_image(tmp_path / "a.tif", (row, column, side))
        np.testing.assert_array_equal(window, image[:, row : row + side, column : column + side])


def test_an_entry_tells_digests_size_and_pixels_of_its_two_files(tmp_path):
    rng = np.random.default_rng(0)
    image, mask = rng.integers(0, 256, (3, 6, 9), np.uint8), rng.integers(0, 6, (6, 9), np.uint8)
    paths = tmp_path / "a.tif", tmp_path / "a.png"
    write_image(paths[0], image)
    write_mask(paths[1], mask)
    place = {"crs": "x", "bounds": [0, 0, 9, 6], "gsd": 1.0}
    entry = describe_tile(image, mask, *paths, place, 6)
    assert entry == {
        "sha256": hashlib.sha256(paths[0].read_bytes()).hexdigest(),
        "mask_sha256": hashlib.sha256(paths[1].read_bytes()).hexdigest(),
        "content_sha256": hashlib.sha256(image.tobytes()).hexdigest(),
        "height": 6,
        "width": 9,
        "pixels": np.bincount(mask.ravel(), minlength=6).tolist(),
        "block": None,
        **place,
    }
    turned = describe_tile(image[:, :, ::-1], mask, *paths, place, 6)  # whose memory runs the other way
    assert turned["content_sha256"] == hashlib.sha256(image[:, :, ::-1].tobytes()).hexdigest()
    np.testing.assert_array_equal(read_mask(paths[1]), mask)


def test_the_digest_of_a_set_covers_split_classes_scaling_and_tiles_and_nothing_of_how_it_was_made(tmp_path):
    manifest = make_set(tmp_path / "set").manifest
    assert manifest_digest(manifest) == manifest["digest"]
    for key in ("command", "made_from", "inputs", "tile_count", "pixels_per_class", "digest"):
        assert manifest_digest({**manifest, key: "other"}) == manifest["digest"]
    tiles = json.loads(json.dumps(manifest["tiles"]))
    tiles["a"]["block"] = "r0_c0"
    for key, value in (("split", "val"), ("taxonomy", {}), ("stretch", {"kind": "tile"}), ("tiles", tiles)):
        assert manifest_digest({**manifest, key: value}) != manifest["digest"]
    assert manifest_digest(dict(reversed(manifest.items()))) == manifest["digest"]


def test_a_tile_knows_its_labelled_pixels_its_base_and_its_block():
    entry = {"pixels": [3, 1, 2], "block": None}
    tile = Tile("t", Path("x"), entry)
    assert tile.labelled == 3 and tile.pixels.tolist() == [3, 1, 2] and tile.base == tile.block == "t"
    replica = Tile("t__rep1", Path("x"), {**entry, "base": "t"})
    assert replica.base == replica.block == "t" and replica.id == "t__rep1"
    assert Tile("t", Path("x"), {**entry, "block": "r0_c0"}).block == "r0_c0"
    assert (tile.image_path, tile.mask_path) == (Path("x/images/t.tif"), Path("x/masks/t.png"))


def test_a_tile_of_another_size_or_type_than_its_manifest_says_is_not_read(tmp_path):
    tile = make_set(tmp_path / "set")["a"]
    assert tile.read_image((2, 3, 4)).shape == (3, 4, 4)
    for change in ({"height": 9}, {"width": 7}):
        other = Tile("a", tile.folder, {**tile.entry, **change})
        for read in (other.read_image, other.read_mask):
            with pytest.raises(UserError, match="is another (image|mask) than its manifest says"):
                read()
    with pytest.raises(UserError, match=r"a\.png: ids \[1\] are not classes"):
        Tile("a", tile.folder, {**tile.entry, "pixels": [64]}).read_mask()
    tile.image_path.unlink()
    write_tif(tile.image_path, np.zeros((4, 8, 8), np.uint8))
    with pytest.raises(UserError, match="is another image"):
        tile.read_image()
    tile.image_path.unlink()
    write_tif(tile.image_path, np.zeros((3, 8, 8), np.uint16))
    with pytest.raises(UserError, match="is another image"):
        tile.read_image((0, 0, 4))


def test_the_resolution_of_a_set_is_the_median_of_the_tiles_where_it_is_known():
    def gsd(*values):
        tiles = {f"t{n}": {"gsd": value} for n, value in enumerate(values)}
        return TileSet(made(Path("x")), {"tiles": tiles}, BIODIVERSITY).gsd

    assert gsd(0.5, None, 9.0, 0.4) == 0.5 and gsd(0.5, 0.3) == pytest.approx(0.4) and gsd(None, None) is None


def test_tiles_are_found_by_id_in_the_order_of_their_ids(tmp_path):
    tiles = make_set(tmp_path / "set", ids=("b", "a", "10", "9"))
    assert tiles.ids == ["10", "9", "a", "b"] and [tile.id for tile in tiles] == tiles.ids and len(tiles) == 4
    assert all(tiles[name].id == name for name in tiles.ids) and "a" in tiles and "c" not in tiles


def test_a_set_that_was_replaced_since_it_was_opened_is_noticed(tmp_path):
    tiles = make_set(tmp_path / "set")
    tiles.require_unchanged()
    make_set(tmp_path / "set", ids=("c",), overwrite=True)
    with pytest.raises(UserError, match="was replaced while it was in use."):
        tiles.require_unchanged()


def test_shares_are_those_of_labelled_pixels_and_void_is_that_of_all():
    line = shares_line(THREE_CLASSES, np.array([50, 10, 15, 25]))
    assert line == "Wet 20.0%, Dry 30.0%, Bright 50.0%; Nothing 50.0% of all pixels"
    assert shares_line(THREE_CLASSES, np.zeros(4, int)).endswith("; Nothing 0.0% of all pixels")


def test_pixels_that_are_not_square_or_turned_are_measured_along_their_sides(tmp_path):
    def size(grid, crs="EPSG:32633"):
        write_image(tmp_path / "a.tif", np.zeros((3, 20, 10), np.uint8), crs=crs, transform=grid)
        with open_raster(tmp_path / "a.tif") as src:
            found = pixel_size(src), georeference(src)["gsd"]
        (tmp_path / "a.tif").unlink()
        return found

    metres, gsd = size(Affine(0.25, 0, 500_000, 0, -2, 5_000_000))
    assert metres == (0.25, 2) and gsd == 0.25
    cos, sin = math.cos(math.radians(30)), math.sin(math.radians(30))
    turned = Affine(0.5 * cos, 1.5 * sin, 500_000, 0.5 * sin, -1.5 * cos, 5_000_000)
    assert size(turned)[0] == pytest.approx((0.5, 1.5))
    # 10 columns of 1e-5 degrees at 60 degrees north
    metres, gsd = size(Affine(1e-5, 0, 15, 0, -1e-5, 60), "EPSG:4326")
    assert metres == pytest.approx((0.5566, 1.1132), rel=1e-3) and gsd == pytest.approx(0.5566, abs=1e-4)
    assert size(Affine(0.123456, 0, 500_000, 0, -0.1, 0))[1] == 0.1235
    assert size(Affine(2, 0, 500, 0, -2, 500), None) == (None, None)


@pytest.mark.parametrize("name", ["", ".a", "a/b", "a\\b", "a\tb", "a\nb", "a\u2028b", "a\x00", 3, None])
def test_names_that_lead_elsewhere_or_break_a_table_are_no_ids(name):
    assert not is_tile_id(name)
    assert is_tile_id("tile 1_ä.b")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"pixels": [0, 63, 0, 0, 0, 0]}, "expected those of 6 classes that make up the tile"),
        ({"pixels": [0, 64, 0, 0, 0]}, "expected those of 6 classes that make up the tile"),
        ({"height": 0}, "its height"),
        ({"gsd": 0}, "its gsd"),
        ({"bounds": [0, 0, 1]}, "its bounds"),
        ({"sha256": None}, "its sha256"),
        ({"base": 3}, "its base"),
        ({"block": 3}, "its block"),
    ],
)
def test_an_entry_that_cannot_be_is_named(tmp_path, change, said):
    manifest = make_set(tmp_path / "set", ids=("a",)).manifest
    assert manifest_problem(manifest) is None
    manifest["tiles"]["a"].update(change)
    assert manifest_problem(manifest).startswith("tile 'a': ") and said in manifest_problem(manifest)


def test_a_manifest_without_a_known_split_a_digest_or_tiles_is_none(tmp_path):
    manifest = make_set(tmp_path / "set", ids=("a",)).manifest
    for change in ({"split": "training"}, {"digest": None}, {"tiles": {}}, {"stretch": 3}, {"made_from": [{}]}):
        assert manifest_problem({**manifest, **change})
    (entry,) = manifest["tiles"].values()
    assert "no name for a tile" in manifest_problem({**manifest, "tiles": {"../a": entry}})
    for split in ("train", "val", "test", "pool"):
        assert manifest_problem({**manifest, "split": split}) is None


def test_links_among_the_files_of_a_set_are_refused(tmp_path):
    make_set(tmp_path / "set")
    path = tmp_path / "set/masks/a.png"
    path.rename(tmp_path / "a.png")
    path.symlink_to(tmp_path / "a.png")
    with pytest.raises(UserError, match=r"masks holds 1 symbolic links \(first: a\.png"):
        TileSet.open(made(tmp_path / "set"))


def test_a_set_records_its_sources_and_counts_all_its_pixels(tmp_path):
    source = make_set(tmp_path / "source")
    facts = {"stretch": {"kind": "tile"}, "copies": 3}
    with new_tile_set(
        tmp_path / "out", flags(), taxonomy=BIODIVERSITY, split="train",
        made_from=[source], inputs=[tmp_path / "raw"], **facts,
    ) as out:  # fmt: skip
        out.add(source["a"])
        out.add(source["a"], tile_id="a2", base="a", block="r0_c0")
        add_tile(out, "b", label=3)
        assert out.pixels.tolist() == [0, 128, 0, 64, 0, 0] and "3 tiles; Forest 66.7%" in out.summary()
    tiles = TileSet.open(made(tmp_path / "out"))
    manifest = tiles.manifest
    assert manifest["made_from"] == [{"path": str(source.path), "digest": source.digest}]
    assert manifest["inputs"] == [str(tmp_path / "raw")] and manifest["copies"] == 3
    assert tiles.stretch == {"kind": "tile"} and manifest["tile_count"] == 3
    assert list(manifest["pixels_per_class"].values()) == [0, 128, 0, 64, 0, 0] == tiles.pixels.tolist()
    assert tiles["a2"].entry == {**source["a"].entry, "base": "a", "block": "r0_c0"} and "base" not in tiles["a"].entry


def test_an_empty_set_is_not_written(tmp_path):
    with (
        pytest.raises(UserError, match="out would be empty: no tile of .*raw is left for it"),
        new_tile_set(tmp_path / "out", flags(), taxonomy=BIODIVERSITY, split="val", inputs=[tmp_path / "raw"]),
    ):
        pass
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("void", [True, False])
def test_a_legend_gives_each_class_the_colour_it_is_drawn_in(void):
    legend = class_legend(new_figure(3, 2), BIODIVERSITY, void=void)
    shown = {
        text.get_text(): to_hex(patch.get_facecolor())
        for text, patch in zip(legend.texts, legend.get_patches(), strict=True)
    }
    wanted = {"Forest": "#1b7837", "Grassland": "#a6d96a", "Cropland": "#f2b134", "Settlement": "#d7301f"}
    wanted |= {"Seminatural": "#7b5aa6"}
    assert shown == ({"Background": "#000000"} if void else {}) | wanted
