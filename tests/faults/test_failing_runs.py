"""A training that cannot go on says what is known, and the last good checkpoint is neither lost nor replaced."""

import re
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from common import losses
from common.checkpoints import Checkpoint
from common.cli import map_progress
from common.errors import UserError
from common.samplers import UniformTiles
from common.tiles import TileSet
from data_prep import split_biodiversity
from tests.conftest import TRAIN_FLAGS, train
from tests.faults.harness import refusal_problem
from tests.faults.killed_runs import RUN
from tests.faults.processes import die_at_three
from tests.helpers import made, quiet
from training import train_stage1_baseline
from training.engine.crops import TileDraws
from training.engine.meters import DrawnCrops
from training.engine.run_folder import require_finite

STAGE1 = "training.train_stage1_baseline"
BATCH = int(TRAIN_FLAGS[TRAIN_FLAGS.index("--batch-size") + 1])


def drawn(root, step: int) -> set[str]:
    """The tiles of a step, the first being 1, drawn again."""
    tiles = TileSet.open(made(root / "data/biodiversity_split/train"))
    draws = TileDraws(tiles, UniformTiles(), 42)
    return {tiles.ids[draws(position)] for position in range((step - 1) * BATCH, step * BATCH)}


def named(text: str) -> set[str]:
    """The tiles that a message names."""
    return set(re.search(r"crops are of the tiles ([^.]+)\.", text)[1].split(", "))


@pytest.mark.parametrize("what", ["nan", "inf"])
def test_a_loss_that_is_not_finite_names_its_step_and_tiles_and_keeps_the_last_checkpoint(
    prepared, tmp_path, monkeypatch, what
):
    calls = []

    def explode(logits, mask, *, label_smoothing, original=losses.hard_loss_by_crop):
        values, counted = original(logits, mask, label_smoothing=label_smoothing)
        calls.append(None)
        return values * float(what) if len(calls) == 1 + 5 else values, counted  # the first call is the trial's

    monkeypatch.setattr(losses, "hard_loss_by_crop", explode)
    with pytest.raises(
        UserError, match=f"the loss became {what} at step 5, .*The last checkpoint is unchanged"
    ) as stop:
        train(train_stage1_baseline, prepared, *RUN[-4:], "--out-dir", tmp_path / "out")
    assert named(str(stop.value)) == drawn(prepared, 5)
    kept = Checkpoint.load(made(tmp_path / "out/last.pt"))
    assert kept.metadata["step"] == 4
    require_finite(kept.state, "stage1_baseline", 4)


def test_an_infinite_gradient_is_told_although_the_loss_is_finite(script, prepared, tmp_path):
    flags = ("--root", prepared, *RUN, "--out-dir", tmp_path / "out")
    ended = script("tests.faults.fault", "gradient@4", STAGE1, *flags)
    assert refusal_problem(ended, "the norm of the gradient became inf at step 4, ", "--lr") is None
    assert named(ended.err) == drawn(prepared, 4)
    assert Checkpoint.load(made(tmp_path / "out/last.pt")).metadata["step"] == 2
    assert script(STAGE1, *flags, "--resume").status == 0


def test_a_run_whose_tiles_are_replaced_meanwhile_stops_at_its_next_checkpoint(prepared, tmp_path, monkeypatch):
    root = shutil.copytree(prepared, tmp_path / "root")
    steps = []

    def replace(drawn, batch, add=DrawnCrops.add):
        add(drawn, batch)
        steps.append(batch)
        if len(steps) == 3:
            quiet(split_biodiversity.main, "--root", root, "--seed", "7", "--overwrite")

    monkeypatch.setattr(DrawnCrops, "add", replace)
    with pytest.raises(UserError, match="was replaced while it was in use|cannot be read"):
        train(train_stage1_baseline, root, *RUN[-4:], "--out-dir", tmp_path / "out")
    assert Checkpoint.load(made(tmp_path / "out/last.pt")).metadata["step"] == 2


def test_weights_that_are_not_finite_are_not_saved():
    state = {"a": torch.zeros(2), "b": torch.tensor([1.0, float("nan")]), "n": torch.tensor(3)}
    with pytest.raises(UserError, match=r"1 tensors .* not finite after step 7 \(first: b\)"):
        require_finite(state, "stage1_baseline", 7)
    require_finite({name: state[name] for name in "an"}, "stage1_baseline", 7)


def test_a_loader_process_that_dies_is_told_with_step_and_tiles(script, prepared, tmp_path):
    flags = ("--root", prepared, *RUN, "--iterations", "60", "--workers", "1", "--out-dir", tmp_path / "out")
    ended = script("tests.faults.fault", "reader@4", STAGE1, *flags)
    assert refusal_problem(ended, "a loader process died", "fewer --workers", "--resume") is None
    # It is told as soon as it dies, which is while the network trains or while it is validated.
    during, after = (re.search(rf"at {what} (\d+)", ended.err) for what in ("step", "the validation after step"))
    step = int((during or after)[1])
    assert 4 <= step <= 8 and (after or named(ended.err) == drawn(prepared, step))
    assert Checkpoint.load(made(tmp_path / "out/last.pt")).metadata["step"] in (2, 4, 6)


def test_memory_that_runs_short_is_told_with_step_and_tiles(script, prepared, tmp_path):
    flags = ("--root", prepared, *RUN, "--batch-size", "1024", "--out-dir", tmp_path / "out")
    ended = script("tests.faults.fault", f"memory={2**27}", STAGE1, *flags)
    assert refusal_problem(ended, "memory does not suffice for --batch-size 1024", "at step 1, ") is None


def test_a_tile_that_is_damaged_or_changed_while_a_run_reads_it_is_named(prepared, tmp_path, monkeypatch):
    tiles = TileSet.open(made(prepared / "data/biodiversity_split/train"))
    copy = tmp_path / "train"
    for name in ("images", "masks"):
        (copy / name).mkdir(parents=True)
    tile = type(tiles.tiles[0])("a", copy, tiles.tiles[0].entry)
    tile.image_path.write_bytes(tiles.tiles[0].image_path.read_bytes()[:3000])
    with pytest.raises(UserError, match=r"a\.tif: cannot be read as TIFF .*Restore it"):
        tile.read_image((20, 20, 32))
    for mask, said in (
        (np.zeros((32, 32), np.uint8), "another mask than its manifest says"),
        (np.zeros((64, 64, 3), np.uint8), "another mask than its manifest says"),
        (np.full((64, 64), 6, np.uint8), r"ids \[6\] are not classes"),
    ):
        Image.fromarray(mask).save(tile.mask_path)
        with pytest.raises(UserError, match=rf"a\.png: .*{said}.*Restore it"):
            tile.read_mask()


def test_a_worker_of_a_data_step_that_dies_ends_the_step_instead_of_hanging_it():
    with pytest.raises(UserError, match=r"Counting: a worker process died after \d+ of 20 tiles.*fewer --workers"):
        list(map_progress(die_at_three, range(20), workers=2, desc="Counting"))


def test_more_workers_than_a_machine_can_bear_are_wrong_use(script):
    ended = script("data_prep.split_biodiversity", "--workers", "100000")
    assert ended.status == 2 and "argument --workers: '100000' is not a whole number from 0 to" in ended.err
