"""Folds of the raw tiles: one test split, every other tile in val once, and what is recorded, said and refused."""

import json

import numpy as np
import pytest

from common.errors import UserError
from common.tiles import TileSet
from data_prep import check_leakage, split_biodiversity
from data_prep.tile_sets import stratify as stratification
from data_prep.tile_sets.folds import Dealing
from tests.data_prep.test_splitting import as_floats
from tests.helpers import audited_split, made, quiet
from tests.small_sets import LEFT, SPLITS, TOP, with_pixels, write_grid, write_raw

FOLDS = "folds/folds.json"


@pytest.fixture(autouse=True)
def few_draws(monkeypatch):
    monkeypatch.setattr(stratification, "MOST_DRAWS", 12)
    monkeypatch.setattr(stratification, "FEWEST_DRAWS", 12)


def split(root, *flags):
    return quiet(audited_split, "--root", root, *flags)


def fold_sets(root, fold):
    """train, val and test of a fold."""
    return [TileSet.open(made(root / f"folds/{fold}/data/biodiversity_split" / name)) for name in SPLITS]


def said_of(capsys, root, *flags):
    audited_split([str(word) for word in ("--root", root, *flags)])
    return capsys.readouterr()


@pytest.mark.parametrize("strategy", ["blocks", "random"])
@pytest.mark.parametrize("seed", [42, 3])
def test_test_is_that_of_a_split_without_folds_and_every_other_tile_is_in_val_once(tmp_path, strategy, seed):
    write_grid(tmp_path, 6, 6)
    flags = ("--strategy", strategy, "--seed", seed, "--block-size", 4)
    split(tmp_path, *flags)
    without = [TileSet.open(made(tmp_path / "data/biodiversity_split" / name)) for name in SPLITS]
    held = []
    for fold in (1, 2, 3):
        split(tmp_path, *flags, "--folds", 3, "--fold", fold)
        train, val, test = fold_sets(tmp_path, fold)
        assert test.ids == without[2].ids
        assert sorted(train.ids + val.ids) == sorted(without[0].ids + without[1].ids)
        held += val.ids
    assert sorted(held) == sorted(without[0].ids + without[1].ids)


def test_blocks_and_tiles_that_overlap_stay_on_one_side_in_every_fold(tmp_path):
    for row, n in np.ndindex(9, 3):
        write_raw(tmp_path, f"row{row}_{n}", np.full((8, 8), 1 + row % 3), origin=(LEFT + 2 * n, TOP - 8 * row))
    for fold in range(1, 7):  # two dealings
        split(tmp_path, "--folds", 3, "--fold", fold)
        for tiles in fold_sets(tmp_path, fold):
            assert {tile_id[:4] for tile_id in tiles.ids} == {i[:4] for i in tiles.ids if i.endswith("_0")}
            assert len(tiles) == 3 * len({tile_id[:4] for tile_id in tiles.ids})


def test_a_fold_above_k_is_of_another_dealing_and_the_manifests_say_so(tmp_path):
    write_grid(tmp_path, 6, 6)
    for fold in range(1, 7):
        split(tmp_path, "--folds", 3, "--fold", fold, "--seed", 7)
    vals = [set(fold_sets(tmp_path, fold)[1].ids) for fold in range(1, 7)]
    assert set.union(*vals[:3]) == set.union(*vals[3:]) and not any(val in vals[3:] for val in vals[:3])
    for fold in range(1, 7):
        for tiles in fold_sets(tmp_path, fold):
            assert tiles.manifest["fold"] == {"fold": fold, "folds": 3, "repeat": 1 + fold // 4, "seed": 7}
            assert tiles.manifest["seed"] == 7 and tiles.manifest["folds_lacking_classes"] == {}
    assert json.loads((tmp_path / FOLDS).read_text())["folds"] == 3
    split(tmp_path)
    assert "fold" not in TileSet.open(made(tmp_path / "data/biodiversity_split/train")).manifest


def test_classes_that_folds_lack_are_named_before_anything_is_written_and_in_the_manifest(tmp_path, capsys):
    def mask_of(row, column):
        rare = (row, column) in {(0, 0), (3, 4), (5, 5), (2, 2)}  # at most four of the blocks
        return with_pixels(8, {1: 28, 2: 20, 3: 5, 4: 10} | ({5: 1} if rare else {}))

    write_grid(tmp_path, 6, 6, mask_of=mask_of)
    flags = ("--block-size", 4, "--folds", 5, "--fold", 2)
    said = said_of(capsys, tmp_path, *flags)
    _, val, test = fold_sets(tmp_path, 2)
    outside = 4 - sum(tile.pixels[5] > 0 for tile in test)
    lacking = val.manifest["folds_lacking_classes"]
    assert set(sum(lacking.values(), [])) == {"Seminatural"} and len(lacking) == 5 - outside
    numbers = sorted(lacking)
    several = f"folds {', '.join(numbers[:-1])} and {numbers[-1]} lack"
    named = several if len(numbers) > 1 else f"fold {numbers[0]} lacks"
    assert f"warning: {named} Seminatural: outside test it is in {outside} blocks, for 5 folds." in said.err
    lines = said.out.splitlines()
    row = lines.index(next(line for line in lines if line.startswith("fold 2 *")))
    assert lines[row].split()[3:5] == [f"{len(val)}", f"{len({tile.block for tile in val})}"]
    assert lines[row + 4].startswith("test") and lines[row + 4].split()[1] == f"{len(test)}"


def test_of_the_fractions_the_share_of_test_counts(tmp_path, capsys):
    write_grid(tmp_path, 6, 6)
    flags = ("--block-size", 4, "--fractions", "0.1", "0.4", "0.5", "--folds", 2, "--fold", 1)
    assert "--fractions: with --folds only the share of test counts, 0.5" in said_of(capsys, tmp_path, *flags).out
    assert [len(tiles) for tiles in fold_sets(tmp_path, 1)] == [9, 9, 18]


def test_ten_blocks_outside_test_serve_for_intervals_however_many_are_in_a_fold(tmp_path, capsys):
    write_grid(tmp_path, 3, 5)
    for test_share, few in (("0.3", False), ("0.5", True)):
        flags = ("--overwrite", "--block-size", 4, "--fractions", "0.4", f"{0.6 - float(test_share):g}", test_share)
        said = said_of(capsys, tmp_path, *flags, "--folds", 2, "--fold", 1)
        outside = sum(len(tiles) for tiles in fold_sets(tmp_path, 1)[:2])
        assert (outside < 10) == few
        assert (f"all folds together have tiles of {outside} spatial blocks; under 10" in said.err) == few


def test_tiles_without_a_place_are_dealt_one_by_one_with_a_warning(tmp_path, capsys):
    for n in range(12):
        write_raw(tmp_path, f"t{n:02}", np.full((8, 8), 1 + n % 2))
    said = said_of(capsys, tmp_path, "--folds", 3, "--fold", 1)
    assert "12 of 12 tiles have no place: neighbours among them may sit in val and in train" in said.err
    assert len(set(sum((fold_sets(tmp_path, 1)[s].ids for s in range(3)), []))) == 12


def test_the_scaling_is_that_of_the_train_of_the_fold_and_masks_are_links(tmp_path):
    for row, column in np.ndindex(4, 4):
        name = f"t{row}{column}"
        high = 1000 * (1 + row)
        origin = (LEFT + 4 * column, TOP - 4 * row)
        write_raw(tmp_path, name, np.ones((8, 8)), image=as_floats(name, 0, high), origin=origin)
    ranges = []
    for fold in (1, 2):
        split(tmp_path, "--block-size", 4, "--folds", 2, "--fold", fold)
        sets = fold_sets(tmp_path, fold)
        values = np.concatenate([as_floats(t.id, 0, 1000 * (1 + int(t.id[1])))[0].ravel() for t in sets[0]])
        ranges.append(sets[0].stretch["ranges"])
        assert ranges[-1][0] == pytest.approx(np.quantile(values, [0.02, 0.98]), rel=1e-4)
        assert all(tiles.stretch == sets[0].stretch for tiles in sets)
        assert all(t.mask_path.samefile(tmp_path / f"data/biodiversity_raw/masks/{t.id}.png") for t in sets[1])
    assert ranges[0] != ranges[1]


def test_check_leakage_looks_at_the_fold_whose_root_it_has(tmp_path):
    write_grid(tmp_path, 6, 6)
    split(tmp_path, "--folds", 3, "--fold", 1)
    said = quiet(check_leakage.main, "--root", tmp_path / "folds/1")
    assert "no leakage found: 36 tiles in 3 sets" in said
    assert json.loads((tmp_path / "folds/1/artifacts/leakage.json").read_text())["passed"]
    assert not (tmp_path / "artifacts/leakage.json").exists()
    with pytest.raises(UserError, match="split_biodiversity --root .* --folds 3 --fold 2"):
        quiet(check_leakage.main, "--root", tmp_path / "folds/2")


def test_a_fold_that_would_not_fit_the_others_is_refused(tmp_path):
    write_grid(tmp_path, 6, 6)
    split(tmp_path, "--folds", 3, "--fold", 1)
    record = (tmp_path / FOLDS).read_text()
    (tmp_path / "exclude.txt").write_text("r00_c00\n")
    for flags in (("--folds", 4), ("--folds", 3, "--seed", 1), ("--folds", 3, "--exclude", tmp_path / "exclude.txt")):
        with pytest.raises(UserError, match="folds.json: the folds beside it were dealt .* by other flags"):
            split(tmp_path, *flags, "--fold", 2)
    assert (tmp_path / FOLDS).read_text() == record and not (tmp_path / "folds/2/data/biodiversity_split/val").exists()
    split(tmp_path, "--folds", 3, "--fold", 2)
    split(tmp_path, "--folds", 4, "--fold", 2, "--overwrite")
    assert json.loads((tmp_path / FOLDS).read_text())["folds"] == 4
    with pytest.raises(UserError, match="was dealt otherwise than the other folds"):
        quiet(check_leakage.main, "--root", tmp_path / "folds/1")


@pytest.mark.parametrize(
    ("root", "flags", "message"),
    [
        ("", ("--folds", "5"), "--folds K and --fold k belong together"),
        ("", ("--fold", "2"), "--folds K and --fold k belong together"),
        ("", ("--folds", "1", "--fold", "1"), "--folds 1: expected at least 2"),
        ("", ("--folds", "5", "--fold", "0"), "'0' is not a whole number above 0"),
        ("folds/2", (), "is a fold of"),
        ("folds/2", ("--folds", "5", "--fold", "2"), "--folds 5 --fold 2"),
    ],
)
def test_flags_that_make_no_fold_are_refused(tmp_path, capsys, root, flags, message):
    with pytest.raises(SystemExit) as stopped:
        split_biodiversity.parse_args(["--root", str(tmp_path / root), *flags])
    assert stopped.value.code == 2 and message in capsys.readouterr().err


def test_fewer_units_than_folds_are_refused(tmp_path):
    write_grid(tmp_path, 4, 4)
    with pytest.raises(UserError, match="--folds 4: 3 blocks are left beside test, which make 3 folds at most"):
        split(tmp_path, "--folds", 4, "--fold", 1)
    assert not (tmp_path / "folds").exists()


def test_fold_k_of_a_dealing_is_val_in_fold_k_and_test_stays_test():
    fold_of = np.array([-1, 0, 1, 2, 2])
    for number, sides in ((1, [2, 1, 0, 0, 0]), (3, [2, 0, 0, 1, 1]), (4, [2, 1, 0, 0, 0]), (8, [2, 0, 1, 0, 0])):
        assert Dealing(number, 3, 42, fold_of, [[], [], []], "digest").sides.tolist() == sides
