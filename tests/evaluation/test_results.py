"""What an evaluation leaves is read back as it was written, and what is something else is refused."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from common.artifacts import read_distribution
from common.errors import UserError
from common.files import write_json
from common.taxonomy import BIODIVERSITY
from evaluation.scoring.results import TileCounts, describe_split, results_folder, seed_folders, shared_blocks_note
from evaluation.scoring.usage_log import read_test_log
from tests.helpers import made
from tests.synthetic_results import distribution_of


def test_the_seeds_of_a_stage_are_its_folders_seed_and_number_by_number(tmp_path):
    for name in ("seed100", "seed7", "seed42", "seed42_old", "old_seed1", "seed", "seed-1", "Seed5", "best"):
        (tmp_path / name).mkdir()
    (tmp_path / "seed8").write_text("a file")
    assert seed_folders(tmp_path) == [(n, tmp_path / f"seed{n}") for n in (7, 42, 100)]
    assert seed_folders(tmp_path / "not there") == []


def test_results_of_best_lie_below_those_of_last(tmp_path):
    assert results_folder(tmp_path, "last") == tmp_path
    assert results_folder(tmp_path, "best") == tmp_path / "best"


@pytest.mark.parametrize(
    "content",
    [distribution_of(["Meadow"]), distribution_of(["Background"]), {"minority": []}, ["Forest"]],
)
def test_minority_classes_that_are_none_of_the_taxonomy_are_refused(tmp_path, content):
    path = tmp_path / "class_distribution.json"
    write_json(path, distribution_of(["Settlement", "Cropland"]))
    assert read_distribution(made(path), BIODIVERSITY)["minority_classes"] == ["Settlement", "Cropland"]
    write_json(path, content)
    with pytest.raises(UserError, match="is not a class distribution of this taxonomy: .*again: python -m some.step"):
        read_distribution(made(path), BIODIVERSITY)


USE = {
    "time": "2030-01-02T03:04:05+00:00",
    "seed": 42,
    "checkpoint_digest": "a",
    "split_digest": "b",
    "command": "python",
    "metrics": {"mIoU": 0.5},
    "reason": None,
}


def test_the_test_log_is_read_oldest_first(tmp_path):
    path = tmp_path / "test_log.jsonl"
    assert read_test_log(path) == []
    path.write_text(f"{json.dumps(USE)}\n\n{json.dumps(USE | {'seed': 43})}\n")
    assert [entry["seed"] for entry in read_test_log(path)] == [42, 43]


@pytest.mark.parametrize("lacking", [*USE, "the end of the line", "mIoU"])
def test_a_damaged_test_log_is_not_a_split_that_was_never_used(tmp_path, lacking):
    entry = {key: value for key, value in USE.items() if key != lacking}
    if lacking == "mIoU":
        entry["metrics"] = {}
    line = json.dumps(entry)
    path = tmp_path / "test_log.jsonl"
    path.write_text(f"{json.dumps(USE)}\n{line[:-9] if lacking == 'the end of the line' else line}\n")
    with pytest.raises(UserError, match=f"{path} is damaged"):
        read_test_log(path)


class Tiles(list):
    """Tiles in blocks, and the manifest of their split."""

    def __init__(self, blocks, **manifest):
        super().__init__(SimpleNamespace(unit=block) for block in blocks)
        self.manifest = manifest


def test_a_split_is_described_by_its_tiles_its_blocks_and_how_it_was_made():
    tiles = Tiles("aabca", split_strategy="blocks", block_size=512.0, blocks_shared_with_train=2, seed=1)
    assert describe_split(tiles) == {
        "tiles": 5,
        "blocks": 3,
        "strategy": "blocks",
        "block_size": 512.0,
        "blocks_shared_with_train": 2,
    }
    unknown = ("strategy", "block_size", "blocks_shared_with_train")
    assert describe_split(Tiles("a")) == {"tiles": 1, "blocks": 1, **dict.fromkeys(unknown)}
    fold = {"fold": 7, "folds": 5, "repeat": 2, "seed": 42}
    assert describe_split(Tiles("a", fold=fold))["fold"] == fold


@pytest.mark.parametrize("strategy", ["random", "blocks"])
def test_blocks_on_both_sides_are_told_whatever_the_split(strategy):
    facts = {"tiles": 9, "blocks": 5, "strategy": strategy, "blocks_shared_with_train": 3}
    note = shared_blocks_note("val", facts)
    assert note.startswith(f"3 of 5 spatial blocks of val also have tiles in train ({strategy} split)")
    assert shared_blocks_note("val", facts | {"blocks_shared_with_train": 1}).startswith("1 of 5 ")
    assert shared_blocks_note("val", facts | {"blocks_shared_with_train": 0}) is None
    assert shared_blocks_note("val", facts | {"blocks_shared_with_train": None}) is None


SCORE = "python -m evaluation.compute_metrics --root there --split val"


def some_counts():
    """Counts of two tiles, all different, some of them beyond what 16 and 32 bits hold."""
    rng = np.random.default_rng(8)
    confusions = rng.integers(0, 2**40, (2, 6, 6))
    boundary = rng.integers(0, 2**40, (2, 6, 2))
    names = list(BIODIVERSITY.classes)
    return TileCounts(
        ["a", "b"], ["x", "y"], confusions, names, "tiles", "weights", boundary, 1e6 * rng.random((2, 15, 3))
    )


def test_counts_of_tiles_are_read_as_they_were_written(tmp_path):
    written = some_counts()
    written.save(tmp_path / "tile_confusions.npz")
    read = TileCounts.load(made(tmp_path / "tile_confusions.npz"))
    for name, value in vars(written).items():
        np.testing.assert_array_equal(getattr(read, name), value)
        assert type(getattr(read, name)) is type(value)
    assert (read.confusions.dtype, read.confusions.shape) == (np.int64, (2, 6, 6))
    assert (read.boundary.dtype, read.boundary.shape) == (np.int64, (2, 6, 2))
    assert (read.calibration.dtype, read.calibration.shape) == (np.float64, (2, 15, 3))


@pytest.mark.parametrize("lacking", ["confusions", "blocks", "boundary", "calibration"])
def test_counts_of_tiles_without_all_parts_are_refused(tmp_path, lacking):
    path = tmp_path / "tile_confusions.npz"
    some_counts().save(path)
    with np.load(path) as arrays:
        parts = dict(arrays)
    np.savez(path, **{name: value for name, value in parts.items() if name != lacking})
    with pytest.raises(UserError, match=f"holds no {lacking}. Write it again: {SCORE} --overwrite"):
        TileCounts.load(made(path, SCORE))
    np.savez(path, **{**parts, lacking: parts[lacking][:1]})
    with pytest.raises(UserError, match=f"has {lacking} .*{SCORE} --overwrite"):
        TileCounts.load(made(path, SCORE))


@pytest.mark.parametrize(("name", "axis"), [("confusions", 1), ("confusions", 2), ("boundary", 1), ("calibration", 1)])
def test_counts_of_other_classes_or_bins_are_refused(tmp_path, name, axis):
    counts = some_counts()
    lacking_one = {name: np.delete(getattr(counts, name), 0, axis=axis)}
    TileCounts(**{**vars(counts), **lacking_one}).save(tmp_path / "counts.npz")
    with pytest.raises(UserError, match=f"has {name} "):
        TileCounts.load(made(tmp_path / "counts.npz", SCORE))


@pytest.mark.parametrize("content", [None, b"", b"no archive"])
def test_a_missing_or_broken_file_of_counts_says_what_to_run(tmp_path, content):
    if content is not None:
        (tmp_path / "counts.npz").write_bytes(content)
    with pytest.raises(
        UserError, match=f"counts.npz (does not exist. .* first: {SCORE}$|cannot be read.*{SCORE} --overwrite)"
    ):
        TileCounts.load(made(tmp_path / "counts.npz", SCORE))
