"""OpenEarthMap: what counts as rural, what its classes become, and what the teacher is trained and validated on."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from common.errors import UserError
from common.raw_images import Reading
from common.taxonomy import BIODIVERSITY, OPENEARTHMAP
from common.tiles import TileSet
from data_prep import combine_biodiversity_oem, filter_oem_rural, prepare_oem_teacher, relabel_oem
from data_prep.filter_oem_rural import built_share, find_pairs, find_regions, read_label, read_pair
from data_prep.relabel_oem import relabel
from data_prep.tile_sets import stratify
from tests.helpers import OEM_RAW, THREE_CLASSES, made, quiet, write_taxonomy, write_tif
from tests.small_sets import LEFT, TOP, noise_of, with_pixels, write_grid, write_set

RGB = Reading((1, 2, 3))

UNKNOWN, BARELAND, RANGELAND, DEVELOPED, ROAD, TREE, WATER, AGRICULTURE, BUILDING = range(9)
STRETCH = {"kind": "train", "percentiles": [2, 98], "ranges": [[0.0, 1.0]] * 3}


def test_built_share_counts_developed_space_road_and_building_among_labelled_pixels():
    names = ["Developed space", "Road", "Building", "Tree", "Unknown", "Unknown"]
    assert built_share(np.array([[OPENEARTHMAP.index(name) for name in names]], np.uint8)) == pytest.approx(0.75)
    assert built_share(np.zeros((2, 2), np.uint8)) == 0


def test_relabelling_refuses_an_id_that_is_no_openearthmap_class():
    with pytest.raises(UserError, match=r"a\.tif: ids \[9\]"):
        relabel(np.full((2, 2), 9, np.uint8), BIODIVERSITY.hard_lookup(), Path("a.tif"))


# Which tiles are rural


def write_oem(root, region, name, label, *, image=None, at=(0, 0), **profile):
    """A raw tile of 8 x 8 pixels of half a metre; ``at`` (row, column) of a grid."""
    folder = root / OEM_RAW / region
    origin = (LEFT + 4 * at[1], TOP - 4 * at[0])
    image = noise_of(f"{region}{name}", *label.shape) if image is None else image
    write_tif(folder / f"images/{name}.tif", image, origin=origin, **profile)
    write_tif(folder / f"labels/{name}.tif", np.asarray(label, np.uint8)[None], origin=origin)


def rural(root, *flags):
    printed = quiet(filter_oem_rural.main, "--root", root, *flags)
    return TileSet.open(made(root / "data/openearthmap_filtered")), printed


@pytest.mark.parametrize("label", [DEVELOPED, ROAD, BUILDING])
def test_half_a_tile_may_be_built_up_whatever_of_it_and_not_a_pixel_more(tmp_path, label):
    write_oem(tmp_path, "r", "half", with_pixels(8, {label: 20, TREE: 20}))  # of 40 labelled pixels
    write_oem(tmp_path, "r", "more", with_pixels(8, {label: 21, TREE: 20}), at=(0, 1))
    write_oem(tmp_path, "r", "void", np.zeros((8, 8)), at=(0, 2))
    tiles, _ = rural(tmp_path)
    assert tiles.ids == ["r_half", "r_void"]
    assert tiles["r_half"].pixels.tolist() == [24 if k == 0 else 20 if k in (label, TREE) else 0 for k in range(9)]


def test_roads_buildings_and_developed_space_are_added_up(tmp_path):
    write_oem(tmp_path, "r", "a", with_pixels(8, {DEVELOPED: 5, ROAD: 6, BUILDING: 9, TREE: 20}))
    write_oem(tmp_path, "r", "b", with_pixels(8, {DEVELOPED: 6, ROAD: 6, BUILDING: 9, TREE: 20}), at=(0, 1))
    others = dict.fromkeys((BARELAND, RANGELAND, TREE, WATER, AGRICULTURE), 12)
    write_oem(tmp_path, "r", "c", with_pixels(8, {**others, ROAD: 4}), at=(0, 2))
    tiles, printed = rural(tmp_path)
    assert tiles.ids == ["r_a", "r_c"]
    # the mean of 20 / 40, 21 / 41 and 4 / 64
    assert [line.split() for line in printed.splitlines() if line.startswith("r ")] == [
        ["r", "2", "1", "0", "0", "35.8%"]
    ]
    assert filter_oem_rural.parse_args([]).max_built == 0.5


def test_another_limit_is_used_and_recorded(tmp_path):
    write_oem(tmp_path, "r", "a", with_pixels(8, {ROAD: 8, TREE: 24}))
    write_oem(tmp_path, "r", "b", with_pixels(8, {ROAD: 9, TREE: 24}), at=(0, 1))
    tiles, _ = rural(tmp_path, "--max-built", "0.25", "--block-size", "8")
    assert tiles.ids == ["r_a"]
    assert (tiles.manifest["max_built"], tiles.manifest["block_size"]) == (0.25, 8)
    assert tiles.manifest["inputs"] == [str(tmp_path / OEM_RAW)] and tiles.split == "pool"
    with pytest.raises(UserError, match="none of 2 tiles with image and label has at most 10% built-up pixels"):
        rural(tmp_path, "--max-built", "0.1", "--overwrite")


def test_what_an_image_does_not_show_is_taken_out_before_the_built_up_share_is_counted(tmp_path):
    label = np.full((8, 8), TREE)
    label[:, 4:] = ROAD
    image = np.maximum(noise_of("x", 8, 8), 1)
    image[:, :2, :4] = 0  # so that 24 pixels of trees are left beside 32 of roads
    write_oem(tmp_path, "r", "a", label, image=image, nodata=0)
    write_oem(tmp_path, "r", "b", label, at=(0, 1))
    tiles, _ = rural(tmp_path)
    assert tiles.ids == ["r_b"]


def test_blocks_are_laid_over_all_tiles_of_a_region_and_never_over_two(tmp_path):
    town = np.full((8, 8), BUILDING)
    for row, column in np.ndindex(4, 4):
        is_town = row == 0 or column == 0  # the tiles by which the grid begins are dropped
        for region in ("hills", "lake"):
            label = town if is_town else np.full((8, 8), TREE)
            write_oem(tmp_path, region, f"{row}{column}", label, at=(row, column))
    tiles, _ = rural(tmp_path)
    assert len(tiles) == 18
    for tile in tiles:
        row, column = map(int, tile.id[-2:])
        region = tile.id.partition("_")[0]
        assert tile.block == f"{region}/r{row // 2}_c{column // 2}"
        assert tile.entry["region"] == region and tile.entry["source"] == "openearthmap"
    tiles, _ = rural(tmp_path, "--block-size", "4", "--overwrite")
    assert tiles["hills_13"].block == "hills/r1_c3"


def test_rural_tiles_are_their_raw_files_and_written_anew_only_where_these_are_not_8_bit_rgb(tmp_path):
    label = with_pixels(8, {TREE: 40, AGRICULTURE: 20})
    write_oem(tmp_path, "r", "a", label)
    four = np.concatenate([noise_of("b", 8, 8), np.full((1, 8, 8), 255, np.uint8)])
    write_oem(tmp_path, "r", "b", label, image=four, at=(0, 1))
    tiles, _ = rural(tmp_path)
    assert tiles["r_a"].image_path.samefile(tmp_path / OEM_RAW / "r/images/a.tif")
    np.testing.assert_array_equal(tiles["r_b"].read_image(), four[:3])
    assert tiles["r_b"].entry["bounds"] == [LEFT + 4, TOP - 4, LEFT + 8, TOP]
    assert tiles["r_b"].entry["gsd"] == 0.5
    for tile in tiles:
        np.testing.assert_array_equal(tile.read_mask(), label)
    tiles, _ = rural(tmp_path, "--mode", "copy", "--overwrite")
    assert not tiles["r_a"].image_path.samefile(tmp_path / OEM_RAW / "r/images/a.tif")


def test_labels_without_image_and_images_without_label_are_counted_apart(tmp_path):
    label = np.full((8, 8), TREE)
    for n in range(6):
        write_oem(tmp_path, "r", f"{n}", label, at=(0, n))
    folder = tmp_path / OEM_RAW / "r"
    (folder / "labels/0.tif").unlink()
    for n in (1, 2):
        (folder / f"images/{n}.tif").unlink()
    (tmp_path / OEM_RAW / "_notes").mkdir()
    (tmp_path / OEM_RAW / ".git").mkdir()
    assert find_regions(tmp_path / OEM_RAW) == [folder]
    pairs, labels_only, images_only = find_pairs(folder)
    assert [pair.id for pair in pairs] == ["r_3", "r_4", "r_5"] and (labels_only, images_only) == (2, 1)
    assert pairs[0].image == folder / "images/3.tif" and pairs[0].label == folder / "labels/3.tif"
    _, printed = rural(tmp_path)
    totals = {line.split()[0]: line.split()[1:5] for line in printed.splitlines() if line.startswith(("r ", "all "))}
    assert totals == {"r": ["3", "0", "2", "1"], "all": ["3", "0", "2", "1"]}


def test_a_name_that_bears_its_region_already_does_not_get_it_twice(tmp_path):
    for name in ("r_1", "r1", "2"):
        write_oem(tmp_path, "r", name, np.full((8, 8), TREE), at=(0, int(name[-1])))
    assert [pair.id for pair in find_pairs(tmp_path / OEM_RAW / "r")[0]] == ["r_2", "r_r1", "r_1"]


def test_a_label_is_one_band_of_ids_in_the_size_of_its_image(tmp_path):
    write_oem(tmp_path, "r", "a", np.full((8, 8), BUILDING))
    (pair,), *_ = find_pairs(tmp_path / OEM_RAW / "r")
    assert (read_pair(pair, RGB, ())[1] == BUILDING).all()
    pair.label.unlink()
    write_tif(pair.label, np.ones((2, 8, 8), np.uint8))
    with pytest.raises(UserError, match="a.tif: has 2 bands of uint8, expected one, the class ids"):
        read_label(pair.label, ())
    for label, said in (
        (np.ones((1, 8, 9), np.uint8), "is 9 x 8 pixels, its image 8 x 8"),
        (np.full((1, 8, 8), 9, np.uint8), "ids 9 are not classes, expected 0-8"),
    ):
        pair.label.unlink()
        write_tif(pair.label, label)
        with pytest.raises(UserError, match=said):
            read_pair(pair, RGB, ())
    pair.label.unlink()
    write_tif(pair.label, np.ones((1, 8, 8), np.uint8))
    pair.image.unlink()
    write_tif(pair.image, np.ones((3, 8, 8), np.uint16))
    with pytest.raises(UserError, match="holds uint16, expected uint8"):
        read_pair(pair, RGB, ())


# What its classes become


@pytest.fixture
def pool_root(tmp_path, monkeypatch):
    """A root with train, and with rural tiles in five rows of four, two to a block, of which one is void throughout."""
    monkeypatch.setattr(stratify, "MOST_DRAWS", 12)
    monkeypatch.setattr(stratify, "FEWEST_DRAWS", 12)
    masks, origins, entries = {}, {}, {}
    for row, column in np.ndindex(5, 4):
        name = f"r_{row}{column}"
        masks[name] = with_pixels(32, {UNKNOWN: 100, BARELAND: 4, RANGELAND: 300, TREE: 400, WATER: 20, BUILDING: 200})
        origins[name] = (LEFT + 16 * column, TOP - 16 * row)
        entries[name] = {"block": f"r/r{row}_c{column // 2}", "region": "r", "source": "openearthmap"}
    masks["r_43"] = with_pixels(32, {WATER: 1024})
    write_set(
        tmp_path / "data/openearthmap_filtered", masks,
        split="pool", taxonomy=OPENEARTHMAP, origins=origins, entries=entries,
    )  # fmt: skip
    train = {"t0": with_pixels(32, {1: 500, 5: 500}), "t1": with_pixels(32, {2: 1024})}
    write_set(
        tmp_path / "data/biodiversity_split/train", train,
        split="train", origins={"t0": (LEFT, TOP + 900), "t1": (LEFT + 16, TOP + 900)}, stretch=STRETCH,
    )  # fmt: skip
    return tmp_path


def opened(root, *parts):
    return TileSet.open(made(root.joinpath("data", *parts)))


def test_relabelled_tiles_say_whose_they_are_where_they_lie_and_what_they_hold(pool_root):
    printed = quiet(relabel_oem.main, "--root", pool_root)
    native, tiles = opened(pool_root, "openearthmap_filtered"), opened(pool_root, "openearthmap_relabelled")
    assert (tiles.split, tiles.taxonomy, tiles.manifest["gsd"]) == ("pool", BIODIVERSITY, None)
    assert [source["digest"] for source in tiles.manifest["made_from"]] == [native.digest]
    for tile in tiles:
        before = native[tile.id].entry
        # Unknown, bare land and water are Background; rangeland Grassland, tree Forest, building Settlement
        wanted = [1024, 0, 0, 0, 0, 0] if tile.id == "r_43" else [124, 400, 300, 0, 200, 0]
        assert tile.pixels.tolist() == wanted
        assert np.bincount(tile.read_mask().ravel(), minlength=6).tolist() == wanted
        changed = {key for key in before if tile.entry[key] != before[key]}
        assert changed <= {"pixels", "mask_sha256"} and "mask_sha256" in changed
        assert tile.image_path.samefile(native[tile.id].image_path)
    assert "1 of 20 tiles are Background throughout" in printed
    rows = {line[:15].strip(): line[15:].split() for line in printed.splitlines()}
    # 19 tiles of 1024 pixels as above and one of water
    assert rows["Tree"] == ["Forest", f"{19 * 400 / 20480:.1%}"]
    assert rows["Water"] == ["Background", f"{(19 * 20 + 1024) / 20480:.1%}"]
    assert rows["Building"] == ["Settlement", f"{19 * 200 / 20480:.1%}"]


def test_relabelling_follows_the_taxonomy_of_the_root(pool_root):
    rows = {**THREE_CLASSES.from_openearthmap, "Rangeland": {"Wet": 0.3, "Dry": 0.3, "Bright": 0.4}}
    taxonomy = dataclasses.replace(THREE_CLASSES, from_openearthmap=rows)
    write_taxonomy(pool_root, taxonomy)
    with pytest.raises(UserError, match="cannot be mixed|other colours"):
        quiet(combine_biodiversity_oem.main, "--root", pool_root)
    quiet(relabel_oem.main, "--root", pool_root)
    tiles = opened(pool_root, "openearthmap_relabelled")
    assert tiles["r_43"].pixels.tolist() == [0, 1024, 0, 0]
    assert tiles["r_00"].pixels.tolist() == [104, 20, 600, 300]  # rangeland is the last class


def test_only_tiles_in_openearthmaps_own_classes_are_relabelled_and_taught(pool_root):
    quiet(relabel_oem.main, "--root", pool_root)
    relabelled = pool_root / "data/openearthmap_relabelled"
    for step in (relabel_oem, prepare_oem_teacher):
        with pytest.raises(UserError, match="Two taxonomies in one root cannot be mixed"):
            quiet(step.main, "--root", pool_root, "--in-dir", relabelled, "--out-dir", pool_root / "out")


@pytest.mark.parametrize("step", [relabel_oem, prepare_oem_teacher])
def test_resampled_tiles_are_recorded_as_such_and_keep_block_region_and_source(pool_root, step):
    write_grid(pool_root, 1, 1, gsd=0.4)
    printed = quiet(step.main, "--root", pool_root, "--gsd", "0.25", "--out-dir", pool_root / "data/out")
    assert "OpenEarthMap 0.5 m, resampled to 0.25 m; Biodiversity 0.4 m" in printed
    native = opened(pool_root, "openearthmap_filtered")
    parts = [("out",)] if step is relabel_oem else [("out", "train"), ("out", "val")]
    sets = [opened(pool_root, *part) for part in parts]
    assert sum(map(len, sets)) == 20
    for tile in (tile for tiles in sets for tile in tiles):
        before = native[tile.id]
        assert tile.read_mask().shape == (64, 64) == (tile.entry["height"], tile.entry["width"])
        assert tile.pixels.sum() == 64 * 64 and tile.entry["gsd"] == 0.25
        for key in ("block", "region", "source", "crs", "bounds"):
            assert tile.entry[key] == before.entry[key]
        if tile.id != "r_43":  # twice as many rows and columns: four times as many pixels
            wanted = [124, 400, 300, 0, 200, 0] if step is relabel_oem else before.pixels
            assert (tile.pixels == 4 * np.array(wanted)).all()
    assert all(tiles.manifest["gsd"] == 0.25 for tiles in sets)


# The teacher's tiles


def teacher(root, *flags):
    printed = quiet(prepare_oem_teacher.main, "--root", root, "--overwrite", *flags)
    return (*(opened(root, "openearthmap_teacher", name) for name in ("train", "val")), printed)


def test_a_tenth_of_the_tiles_by_whole_blocks_goes_to_the_teachers_val(pool_root):
    train, val, printed = teacher(pool_root)
    assert (len(train), len(val)) == (18, 2)
    assert not {tile.block for tile in train} & {tile.block for tile in val}
    native = opened(pool_root, "openearthmap_filtered")
    for tiles, name in ((train, "train"), (val, "val")):
        assert tiles.split == name and tiles.taxonomy == OPENEARTHMAP
        assert tiles.manifest["seed"] == 42 and tiles.manifest["val_fraction"] == 0.1 and tiles.manifest["gsd"] is None
        assert [source["digest"] for source in tiles.manifest["made_from"]] == [native.digest]
        for tile in tiles:
            assert tile.entry == native[tile.id].entry
            assert tile.image_path.samefile(native[tile.id].image_path)
    rows = {line.split()[0]: line.split()[1:3] for line in printed.splitlines() if line.startswith(("train", "val"))}
    assert rows == {"train": ["18", "9"], "val": ["2", "1"]}


def test_the_teachers_split_follows_the_seed_and_the_fraction_asked_for(pool_root):
    held = []
    for seed in (1, 2, 3, 1):
        train, val, _ = teacher(pool_root, "--val-fraction", "0.4", "--seed", seed, "--mode", "copy")
        assert (len(train), len(val)) == (12, 8)
        assert (val.manifest["seed"], val.manifest["val_fraction"]) == (seed, 0.4)
        held.append(tuple(val.ids))
    assert held[0] == held[3] and len(set(held)) > 1
    for fraction in ("0", "1"):
        with pytest.raises(SystemExit):
            prepare_oem_teacher.parse_args(["--val-fraction", fraction])
    native = opened(pool_root, "openearthmap_filtered")
    assert not val.tiles[0].image_path.samefile(native[val.ids[0]].image_path)


def test_every_class_in_two_blocks_is_taught_and_validated(tmp_path):
    """Which is stratified over the classes of OpenEarthMap, void left out and the last one not."""
    masks, entries = {}, {}
    for n in range(12):
        rare = {0: BUILDING, 1: BUILDING, 2: BARELAND, 3: BARELAND}.get(n, TREE)
        masks[f"r_{n:02}"] = with_pixels(8, {TREE: 50, rare: 14} if rare != TREE else {TREE: 64})
        entries[f"r_{n:02}"] = {"block": f"r/{n}", "region": "r"}
    write_set(tmp_path / "data/openearthmap_filtered", masks, split="pool", taxonomy=OPENEARTHMAP, entries=entries)
    for seed in range(3):
        for tiles in teacher(tmp_path, "--seed", seed, "--val-fraction", "0.25")[:2]:
            assert (tiles.pixels[[BARELAND, TREE, BUILDING]] > 0).all()


def test_tiles_of_two_blocks_that_overlap_are_not_divided_between_the_teachers_sets(tmp_path):
    """Rows of three tiles, each in a block of its own, that share half of their ground."""
    masks, origins, entries = {}, {}, {}
    for row, n in np.ndindex(6, 3):
        name = f"r_{row}{n}"
        masks[name] = with_pixels(8, {TREE: 64})
        origins[name] = (LEFT + 2 * n, TOP - 8 * row)
        entries[name] = {"block": f"r/r{row}_c{n}", "region": "r"}
    filtered = tmp_path / "data/openearthmap_filtered"
    write_set(filtered, masks, split="pool", taxonomy=OPENEARTHMAP, origins=origins, entries=entries)
    for seed in range(2):
        train, val, _ = teacher(tmp_path, "--val-fraction", "0.5", "--seed", seed)
        assert {tile.id[2] for tile in train}.isdisjoint({tile.id[2] for tile in val})
        assert len(train) == len(val) == 9


@pytest.mark.parametrize(
    ("located", "remedy"),
    [(True, "or use a smaller --block-size. .*--block-size 4 --overwrite"), (False, "Unpack more regions.$")],
)
def test_tiles_of_one_block_cannot_be_split_for_the_teacher(tmp_path, located, remedy):
    masks = {f"r_{n}": with_pixels(8, {TREE: 64}) for n in range(3)}
    entries = {name: {"block": "r/r0_c0"} for name in masks}
    origins = {name: (LEFT + 4 * n, TOP) for n, name in enumerate(masks)} if located else None
    filtered = tmp_path / "data/openearthmap_filtered"
    write_set(filtered, masks, split="pool", taxonomy=OPENEARTHMAP, entries=entries, origins=origins)
    with pytest.raises(UserError, match=f"its 3 tiles form one spatial block .*{remedy}"):
        teacher(tmp_path)


# The set for pretraining


def test_the_combined_set_keeps_what_is_known_of_each_tile(pool_root):
    quiet(relabel_oem.main, "--root", pool_root)
    printed = quiet(combine_biodiversity_oem.main, "--root", pool_root)
    train, oem = opened(pool_root, "biodiversity_split", "train"), opened(pool_root, "openearthmap_relabelled")
    combined = opened(pool_root, "biodiversity_oem_combined", "train")
    assert combined.ids == sorted([*train.ids, *(f"oem_{name}" for name in oem.ids)])
    for tile in combined:
        source = oem[tile.id[4:]] if tile.id.startswith("oem_") else train[tile.id]
        assert tile.entry == source.entry
        assert tile.image_path.samefile(source.image_path) and tile.mask_path.samefile(source.mask_path)
    assert combined.stretch == STRETCH and combined.split == "train"
    assert [source["digest"] for source in combined.manifest["made_from"]] == [train.digest, oem.digest]
    rows = {line.split()[0]: line.split()[1:] for line in printed.splitlines()[1:4]}
    assert rows["Biodiversity"] == ["2", "24.7%", "50.6%", "0.0%", "0.0%", "24.7%"]  # 500, 1024 and 500 of 2024
    assert rows["OpenEarthMap"] == ["20", "44.4%", "33.3%", "0.0%", "22.2%", "0.0%"]  # 400, 300 and 200 of 900
    # (500 + 7600, 1024 + 5700, 0, 3800, 500) of 2024 + 17100
    assert rows["combined"] == ["22", "42.4%", "35.2%", "0.0%", "19.9%", "2.6%"]


def test_only_relabelled_tiles_are_combined(pool_root):
    """Neither those in OpenEarthMap's classes nor another training set."""
    flags = ("--root", pool_root, "--oem-dir")
    quiet(relabel_oem.main, "--root", pool_root)
    relabelled = pool_root / "data/openearthmap_relabelled"
    with pytest.raises(UserError, match="Two taxonomies"):
        quiet(combine_biodiversity_oem.main, *flags, pool_root / "data/openearthmap_filtered")
    val = pool_root / "data/biodiversity_split/val"
    write_set(val, {"v": with_pixels(8, {1: 64})}, split="val")
    with pytest.raises(UserError, match="--oem-dir .*its manifest says it is 'val', expected 'pool'"):
        quiet(combine_biodiversity_oem.main, *flags, val)
    with pytest.raises(UserError, match="--train-dir .*its manifest says it is 'val', expected 'train'"):
        quiet(combine_biodiversity_oem.main, *flags, relabelled, "--train-dir", val)
