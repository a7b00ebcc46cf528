"""The split of the raw tiles: of blocks or of single tiles, what its manifests record, and what is refused."""

import numpy as np
import pytest

from common import raw_images
from common.errors import UserError
from data_prep import split_biodiversity
from data_prep.tile_sets import stratify as stratification
from tests.helpers import audited_split, quiet, write_png
from tests.small_sets import LEFT, TOP, noise_of, split_sets, with_pixels, write_grid, write_raw


@pytest.fixture
def few_draws(monkeypatch):
    """Splits are drawn in less time; that many draws are made by default is tested in test_stratify.py."""
    monkeypatch.setattr(stratification, "MOST_DRAWS", 12)
    monkeypatch.setattr(stratification, "FEWEST_DRAWS", 12)


def split(root, *flags):
    printed = quiet(audited_split, "--root", root, "--overwrite", *flags)
    return split_sets(root), printed


def side_of(sets):
    return {tile.id: s for s, tiles in enumerate(sets) for tile in tiles}


def test_tenths_are_held_out_from_100_blocks_on_however_many_tiles_there_are(few_draws, tmp_path):
    write_grid(tmp_path, 10, 10)
    (tmp_path / "exclude.txt").write_text("r04_c04\n")
    fifths, tenths = [0.6, 0.2, 0.2], [0.8, 0.1, 0.1]
    for flags, fractions, held_out in (
        (("--block-size", 4), tenths, 10),  # the side of a tile
        (("--block-size", 4, "--exclude", tmp_path / "exclude.txt"), fifths, 20),
        (("--block-size", 8), fifths, 20),
        (("--block-size", 8, "--strategy", "random"), fifths, 20),  # of 25 blocks, though 100 tiles are drawn
    ):
        sets, _ = split(tmp_path, *flags)
        assert sets[0].manifest["fractions"] == fractions
        assert all(abs(len(tiles) - held_out) <= 1 for tiles in sets[1:])


def test_val_needs_tiles_of_ten_blocks_for_an_interval(few_draws, tmp_path, capsys):
    write_grid(tmp_path, 5, 10)
    for fractions, count, warned in ((("0.6", "0.2", "0.2"), 10, False), (("0.62", "0.18", "0.2"), 9, True)):
        flags = ("--root", tmp_path, "--overwrite", "--block-size", 4, "--fractions", *fractions)
        audited_split([str(flag) for flag in flags])
        said = capsys.readouterr()
        assert len(split_sets(tmp_path)[1]) == count
        assert ("no interval can be given" in said.err) == warned


def test_blocks_are_drawn_by_default_where_more_than_half_of_the_tiles_have_a_place(few_draws, tmp_path):
    for row, column in np.ndindex(4, 4):
        write_raw(tmp_path, f"t{row}{column}", np.full((8, 8), 1), origin=(LEFT + 4 * column, TOP - 4 * row))
    names = [f"t{row}{column}" for row, column in np.ndindex(4, 4)]
    for without, strategy in ((names[:7], "blocks"), (names[7:8], "random")):
        for name in without:
            (tmp_path / f"data/biodiversity_raw/images/{name}.tif").unlink()
            write_raw(tmp_path, name, np.full((8, 8), 1))
        assert split(tmp_path)[0][0].manifest["split_strategy"] == strategy


@pytest.mark.parametrize("strategy", ["blocks", "random"])
def test_tiles_that_overlap_are_never_divided(few_draws, tmp_path, strategy):
    """Rows of four tiles, each shifted by half a tile, over the edges of their blocks."""
    for row, n in np.ndindex(8, 4):
        origin = (LEFT + 2 * n, TOP - 8 * row)
        write_raw(tmp_path, f"row{row:02}_{n}", np.full((8, 8), 1 + row % 5), origin=origin)
    for seed in range(2):
        sets, _ = split(tmp_path, "--strategy", strategy, "--seed", seed)
        sides = side_of(sets)
        assert all(len({sides[f"row{row:02}_{n}"] for n in range(4)}) == 1 for row in range(8))
        assert all(len(tiles) > 0 for tiles in sets)


def test_each_split_has_a_class_of_three_blocks_and_one_of_fewer_is_named(few_draws, tmp_path, capsys):
    seminatural = {(0, 0), (3, 4), (5, 5)}  # three blocks
    cropland = {(1, 2), (4, 0)}  # two

    def mask_of(row, column):
        rare = 5 if (row, column) in seminatural else 3 if (row, column) in cropland else 1
        return with_pixels(8, {1: 30, 2: 20, 4: 10} | ({rare: 1} if rare > 1 else {}))

    write_grid(tmp_path, 6, 6, mask_of=mask_of)
    for seed in range(2):
        audited_split(["--root", str(tmp_path), "--overwrite", "--seed", str(seed)])
        said = capsys.readouterr().err
        sets = split_sets(tmp_path)
        assert all((tiles.pixels[[1, 2, 4, 5]] > 0).all() for tiles in sets)
        lacking = [name for name, tiles in zip(("train", "val", "test"), sets, strict=True) if not tiles.pixels[3]]
        assert f"Cropland does not occur in {' and '.join(lacking)}: it is in 2 blocks only." in said
        assert said.count("does not occur in") == 1


def test_the_manifests_of_a_split_record_what_was_asked_for_and_what_was_left_out(few_draws, tmp_path):
    write_grid(tmp_path, 6, 6)
    again = noise_of("r00_c00", 8, 8)
    write_raw(tmp_path, "z_again", np.ones((8, 8)), image=again, origin=(LEFT + 1000, TOP))
    exclude = tmp_path / "exclude.txt"
    exclude.write_text("r05_c05\nr01_c01\n\n")
    flags = ("--seed", 5, "--exclude", exclude, "--fractions", "0.5", "0.25", "0.25", "--block-size", 4)
    sets, printed = split(tmp_path, *flags)
    for name, tiles in zip(("train", "val", "test"), sets, strict=True):
        manifest = tiles.manifest
        assert tiles.split == name and manifest["seed"] == 5 and manifest["split_strategy"] == "blocks"
        assert manifest["block_size"] == 4 and manifest["fractions"] == [0.5, 0.25, 0.25]
        assert manifest["excluded"] == ["r01_c01", "r05_c05"]
        assert manifest["repeated_images"] == {"z_again": "r00_c00"}
        assert manifest["bands"] == [1, 2, 3] and manifest["stretch"] is None
        assert manifest["inputs"] == [str(tmp_path / "data/biodiversity_raw")]
        assert "--seed 5" in manifest["command"]
        assert all(tile.entry["source"] == "biodiversity" for tile in tiles)
    assert "blocks_shared_with_train" not in sets[0].manifest
    sides = side_of(sets)
    assert len(sides) == 34 and not {"z_again", "r05_c05", "r01_c01"} & sides.keys()
    assert "left out: 2 excluded, 1 that repeat another image (z_again)" in printed
    for tiles in sets:
        for tile in tiles:
            row, column = int(tile.id[1:3]), int(tile.id[5:7])
            assert tile.block == f"r{row}_c{column}"


def test_the_table_of_a_split_gives_tiles_blocks_and_shares_of_labelled_pixels(few_draws, tmp_path):
    write_grid(tmp_path, 6, 6, mask_of=lambda *_: with_pixels(8, {1: 24, 2: 12, 4: 9, 5: 3}))
    sets, printed = split(tmp_path)
    rows = {line[:5].strip(): line[5:].split() for line in printed.splitlines()}
    for name, tiles in zip(("train", "val", "test"), sets, strict=True):
        blocks = len({tile.block for tile in tiles})
        # 48 of 64 pixels are labelled
        assert rows[name] == [f"{len(tiles)}", f"{blocks}", "50.0%", "25.0%", "0.0%", "18.8%", "6.2%", "25.0%"]


def test_neighbours_on_both_sides_are_counted_for_val_and_test_apart(few_draws, tmp_path, capsys):
    write_grid(tmp_path, 6, 6)
    audited_split(["--root", str(tmp_path), "--strategy", "random", "--fractions", "0.7", "0.1", "0.2"])
    sets = split_sets(tmp_path)
    blocks = [{tile.block for tile in tiles} for tiles in sets]
    crossing = [len(blocks[s] & blocks[0]) for s in (1, 2)]
    assert [tiles.manifest["blocks_shared_with_train"] for tiles in sets[1:]] == crossing
    assert crossing[0] != crossing[1]
    assert f"tiles of val in {crossing[0]} places, and of test in {crossing[1]}, have" in capsys.readouterr().err


def test_the_presets_of_a_split_are_those_of_the_method():
    args = split_biodiversity.parse_args([])
    assert (args.seed, args.bands, args.stretch, args.mode) == (42, [1, 2, 3], "train", "link")
    assert args.strategy is args.block_size is args.fractions is args.exclude is None
    assert split_biodiversity.SPLITS == ("train", "val", "test")


def as_floats(tile_id, low, high):
    """(3, 8, 8) float32 noise; band n runs from n × low to n × high."""
    noise = noise_of(tile_id, 8, 8, np.float32)
    noise = (noise - noise.min(axis=(1, 2), keepdims=True)) / np.ptp(noise, axis=(1, 2), keepdims=True)
    return ((low + (high - low) * noise) * np.array([1, 2, 3], np.float32)[:, None, None]).astype(np.float32)


def test_the_scaling_of_train_is_that_of_all_its_labelled_and_unlabelled_pixels_by_band(few_draws, tmp_path):
    for row, column in np.ndindex(4, 4):
        name = f"t{row}{column}"
        write_raw(
            tmp_path, name, np.ones((8, 8)), image=as_floats(name, 0, 1000), origin=(LEFT + 4 * column, TOP - 4 * row)
        )
    sets, _ = split(tmp_path)
    wanted = []
    for band in range(3):  # every pixel of a tile of 64 is in its sample
        values = np.sort(np.concatenate([as_floats(tile.id, 0, 1000)[band].ravel() for tile in sets[0]]))
        at = [share * (len(values) - 1) for share in (0.02, 0.98)]
        wanted.append([values[int(a)] + (a % 1) * (values[int(a) + 1] - values[int(a)]) for a in at])
    assert np.array(sets[0].stretch["ranges"]) == pytest.approx(np.array(wanted), rel=1e-5)
    for tiles in sets:
        assert tiles.stretch == {"kind": "train", "percentiles": [2, 98], "ranges": sets[0].stretch["ranges"]}
        for tile in tiles:
            for band, (low, high) in enumerate(wanted):
                scaled = np.clip((as_floats(tile.id, 0, 1000)[band] - low) / (high - low), 0, 1) * 255
                assert np.abs(tile.read_image()[band] - scaled).max() <= 0.51


def test_tiles_that_need_scaling_while_train_has_none_are_refused(few_draws, tmp_path):
    write_grid(tmp_path, 4, 4)
    sets, _ = split(tmp_path)
    val = sets[1].tiles[0]
    image = tmp_path / f"data/biodiversity_raw/images/{val.id}.tif"
    left, _, _, top = val.entry["bounds"]
    image.unlink()
    write_raw(tmp_path, val.id, val.read_mask(), image=as_floats(val.id, 0, 9), origin=(left, top))
    with pytest.raises(UserError, match="none of them is in train.*Use --stretch tile"):
        split(tmp_path, "--strategy", "blocks")
    sets, printed = split(tmp_path, "--stretch", "tile")
    assert sets[0].stretch == {"kind": "tile", "percentiles": [2, 98], "ranges": None}
    assert "1 tiles scaled to 8 bit, each by its own range" in printed


def test_an_excluded_bad_tile_stands_in_nobodys_way_and_others_are_all_told(few_draws, tmp_path):
    write_grid(tmp_path, 4, 4)
    for name in ("r00_c00", "r01_c01"):
        write_png(tmp_path / f"data/biodiversity_raw/masks/{name}.png", np.full((8, 8), 9, np.uint8))
    with pytest.raises(UserError, match=r"2 tiles cannot be used:\n  unknown ids \(2\)\n.*r00_c00.*\n.*r01_c01"):
        split(tmp_path)
    (tmp_path / "exclude.txt").write_text("r00_c00\n")
    with pytest.raises(UserError, match=r"1 tiles cannot be used:\n  unknown ids \(1\)\n.*r01_c01"):
        split(tmp_path, "--exclude", tmp_path / "exclude.txt")
    (tmp_path / "exclude.txt").write_text("r00_c00\nr01_c01")
    assert sum(map(len, split(tmp_path, "--exclude", tmp_path / "exclude.txt")[0])) == 14


def test_pairs_of_tiles_that_cannot_be_compared_are_counted_once(few_draws, tmp_path, capsys):
    write_grid(tmp_path, 2, 3)
    for n in range(4):
        mask = np.tile(np.arange(8) % 5 + 1, (8, 1))
        write_raw(tmp_path, f"local{n}", mask, origin=(4 * n, 0), crs='LOCAL_CS["grid",UNIT["metre",1]]')
    audited_split(["--root", str(tmp_path), "--block-size", "4"])
    said = capsys.readouterr().err
    assert (
        "24 pairs of tiles are not comparable" in said and "tiles are in 2 coordinate systems, 6 in EPSG:32633" in said
    )


def test_one_seed_makes_one_split_of_the_tiles_and_others_make_others(few_draws, tmp_path):
    write_grid(tmp_path, 4, 4)
    drawn_tiles = [[tiles.ids for tiles in split(tmp_path, "--seed", seed)[0]] for seed in (1, 2, 3, 1)]
    assert drawn_tiles[0] == drawn_tiles[3] and drawn_tiles[1] != drawn_tiles[0] != drawn_tiles[2]


def test_images_and_masks_are_linked_or_copied_as_is_asked_for(few_draws, tmp_path):
    write_grid(tmp_path, 4, 4)
    raw = tmp_path / "data/biodiversity_raw"
    for mode in ("link", "copy"):
        tile = split(tmp_path, "--mode", mode)[0][0].tiles[0]
        for path, folder in ((tile.image_path, "images"), (tile.mask_path, "masks")):
            assert path.samefile(raw / folder / path.name) == (mode == "link")
            assert path.read_bytes() == (raw / folder / path.name).read_bytes()


def test_a_tile_of_void_alone_is_drawn_and_counts_for_no_class(few_draws, tmp_path):
    write_grid(tmp_path, 6, 6, mask_of=lambda row, column: np.full((8, 8), 0 if column < 4 else 1))
    sets, _ = split(tmp_path)
    assert sum(map(len, sets)) == 36 and all(tiles.pixels[1] > 0 for tiles in sets)


def test_one_sample_of_pixels_serves_however_many_tiles_there_are(few_draws, tmp_path, monkeypatch):
    asked = []
    look = split_biodiversity.inspect

    def note(tile, *, keep, **settings):
        asked.append(keep)
        return look(tile, keep=keep, **settings)

    monkeypatch.setattr(split_biodiversity, "inspect", note)
    assert (raw_images.SAMPLE_PER_TILE, raw_images.SAMPLE_IN_ALL) == (4096, 4_000_000)
    write_grid(tmp_path, 4, 4)
    split(tmp_path)
    monkeypatch.setattr(raw_images, "SAMPLE_IN_ALL", 160)
    split(tmp_path)
    split(tmp_path, "--stretch", "tile")
    assert asked == [4096] * 16 + [10] * 16 + [0] * 16
