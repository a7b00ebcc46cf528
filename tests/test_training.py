import csv
import json
import shutil
import signal

import numpy as np
import pytest
import torch

from common import losses
from common.cli import UserError
from common.croppers import RandomCrop, minority_crop
from common.datasets import CropDataset
from common.device import Processes
from common.engine import RUN_FILES, Drawn
from common.models import Checkpoint, EncoderWeights, digest_tensors
from common.samplers import TileDraws, UniformTiles, read_difficulty
from common.taxonomy import OPENEARTHMAP
from common.tiles import TileSet
from tests.conftest import train
from tests.helpers import quiet
from training import (
    score_difficulty,
    train_stage1_baseline,
    train_stage2_replication,
    train_stage3_difficulty,
    train_stage5a_pretrain,
    train_stage5b_finetune,
    train_stage6_distill,
)

WEIGHTS = "model_weights/biodiversity"
# DESIGN section 6: the one entry in which an arm differs from the arm it is compared with.
COMPONENT = {
    "stage2_replication": ("stage1_baseline", "tiles"),
    "stage3_difficulty": ("stage2_replication", "sampler"),
    "stage4_minority_crop": ("stage3_difficulty", "cropper"),
    "stage5a_pretrain": ("stage1_baseline", "tiles"),
    "stage5b_finetune": ("stage4_minority_crop", "init"),
    "stage6_distill": ("stage5b_finetune", "loss"),
}


def run_of(root, stage):
    return json.loads((root / WEIGHTS / stage / "seed42/run.json").read_text())


def checkpoint(root, stage, name="last.pt"):
    return Checkpoint.load(root / WEIGHTS / stage / "seed42" / name, "")


@pytest.mark.parametrize("stage", COMPONENT)
def test_an_arm_differs_from_the_one_it_is_compared_with_in_one_component(trained, stage):
    compared_with, component = COMPONENT[stage]
    run, base = run_of(trained, stage), run_of(trained, compared_with)
    assert run["compared_with"] == compared_with
    assert [name for name in run["recipe"] if run["recipe"][name] != base["recipe"][name]] == [component]


def test_all_arms_have_the_same_budget_settings_validation_and_classes(trained):
    runs = [run_of(trained, stage) for stage in ("stage1_baseline", *COMPONENT)]
    for key in ("settings", "iterations", "step", "crops", "seed", "val", "taxonomy", "stretch", "arch", "encoder"):
        assert all(run[key] == runs[0][key] for run in runs), key
    steps = {run["stage"]: [row["step"] for row in history(trained, run["stage"])] for run in runs}
    assert set(map(tuple, steps.values())) == {("1", "2")}


def history(root, stage):
    with open(root / WEIGHTS / stage / "seed42/history.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_the_steps_of_ancestors_are_told(trained):
    alone, finetuned = run_of(trained, "stage4_minority_crop"), run_of(trained, "stage5b_finetune")
    assert alone["cumulative_steps"] == 2 and finetuned["cumulative_steps"] == 4
    assert [ancestor["stage"] for ancestor in finetuned["ancestors"]] == ["stage5a_pretrain"]
    assert finetuned["ancestors"][0]["digest"] == checkpoint(trained, "stage5a_pretrain").digest


def test_every_stage_leaves_its_files_and_its_facts(trained):
    for stage in ("stage1_baseline", *COMPONENT):
        assert {path.name for path in (trained / WEIGHTS / stage / "seed42").iterdir()} == set(RUN_FILES)
        run = run_of(trained, stage)
        assert run["finished"] and run["step"] == 2 and run["crops"] == 8
        assert {"command", "seconds", "peak_memory_mb", "versions", "git_commit", "device"} <= run.keys()
        assert sum(run["drawn"]["pixel_share"].values()) == pytest.approx(1)
        assert run["train"]["digest"] and run["val"]["digest"] and run["train"]["tiles_without_label"] == 0


def test_stages_that_start_from_scratch_start_from_the_same_network(trained, tmp_path, monkeypatch):
    started = []

    def build(self, arch, encoder, taxonomy, original=EncoderWeights.build):
        started.append(original(self, arch, encoder, taxonomy))
        started[-1] = (started[-1], digest_tensors(started[-1].state_dict()))
        return started[-1][0]

    monkeypatch.setattr(EncoderWeights, "build", build)
    for step in (train_stage1_baseline, train_stage3_difficulty, train_stage5a_pretrain):
        train(step, trained, "--iterations", 1, "--out-dir", tmp_path / step.STAGE)
    assert len({digest for _, digest in started}) == 1 and len(started) == 3


def test_stage_5b_and_6_start_from_every_tensor_of_stage_5a(trained, monkeypatch):
    started = {}
    for step in (train_stage5b_finetune, train_stage6_distill):
        monkeypatch.setattr(step, "fit", lambda recipe, val, args: started.update({recipe.stage: recipe.init}))
        quiet(step.main, "--root", trained, "--preset", "demo", "--encoder", "efficientnet-b0", "--crop-size", 32)
    wanted = checkpoint(trained, "stage5a_pretrain").state
    for init in started.values():
        state = init.build("unet", "efficientnet-b0", checkpoint(trained, "stage5a_pretrain").taxonomy).state_dict()
        assert state.keys() == wanted.keys() and all(torch.equal(state[name], wanted[name]) for name in wanted)
    assert len(started) == 2


def test_the_teacher_of_stage_6_is_the_openearthmap_network(trained):
    teacher = Checkpoint.load(trained / "model_weights/openearthmap/teacher/seed42/last.pt", "")
    assert teacher.taxonomy == OPENEARTHMAP
    assert run_of(trained, "stage6_distill")["recipe"]["loss"]["kd"]["teacher_digest"] == teacher.digest


def drawn_by(tiles, sampler, cropper, count=600):
    """What a run of ``count`` crops would hold, counted as the training loop counts it."""
    crops = CropDataset(tiles, TileDraws(tiles, sampler, 0), cropper, 0)
    drawn = Drawn(len(tiles), tiles.taxonomy.num_classes, torch.device("cpu"))
    for n in range(count):
        drawn.add({name: tensor[None] for name, tensor in crops[n].items()})
    return drawn.summary(Processes(torch.device("cpu")), tiles), drawn.counts["tiles"].numpy()


def minority(root):
    return json.loads((root / "artifacts/class_distribution.json").read_text())["minority_classes"]


def test_replication_raises_the_share_of_minority_pixels_that_are_drawn(trained):
    shares = []
    for folder in ("train", "train_rep"):
        tiles = TileSet.open(trained / "data/biodiversity_split" / folder, "")
        summary, _ = drawn_by(tiles, UniformTiles(), RandomCrop(32))
        shares.append(sum(summary["pixel_share"][name] for name in minority(trained)))
    assert shares[1] > 1.1 * shares[0]


def test_difficulty_raises_the_draw_rate_of_hard_tiles_in_proportion_to_the_weights(trained, difficulty_rows):
    tiles = TileSet.open(trained / "data/biodiversity_split/train_rep", "")
    weights = np.array([float(row["weight"]) for row in difficulty_rows])
    assert [row["tile_id"] for row in difficulty_rows] == tiles.ids and np.ptp(weights) == 2.0
    sampler = read_difficulty(trained / "artifacts/seed42/tile_difficulty.tsv", tiles, "")
    draws = TileDraws(tiles, sampler, 0)
    counts = np.bincount([draws(n) for n in range(8000)], minlength=len(tiles))
    hard = weights > np.median(weights)
    assert counts[hard].sum() / 8000 == pytest.approx(weights[hard].sum() / weights.sum(), abs=0.02)


def test_the_minority_crop_raises_the_share_of_crops_with_each_minority_class(trained):
    tiles = TileSet.open(trained / "data/biodiversity_split/train_rep", "")
    cropper = minority_crop(32, trained / "artifacts/class_distribution.json", tiles, "")
    without, _ = drawn_by(tiles, UniformTiles(), RandomCrop(32))
    seeking, _ = drawn_by(tiles, UniformTiles(), cropper)
    for name in minority(trained):
        assert seeking["crops_with_class"][name] > without["crops_with_class"][name]


def test_a_replica_has_the_weight_of_its_base_and_losses_are_those_of_stage_2(trained, difficulty_rows):
    tiles = TileSet.open(trained / "data/biodiversity_split/train_rep", "")
    weight = {row["tile_id"]: row["weight"] for row in difficulty_rows}
    replicas = [tile for tile in tiles if tile.base != tile.id]
    assert replicas and all(weight[tile.id] == weight[tile.base] for tile in replicas)


@pytest.fixture
def root(trained, tmp_path):
    """A copy of the trained root that a test may change."""
    return shutil.copytree(trained, tmp_path / "root")


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # on a machine with one core
def test_one_seed_gives_one_result_whatever_the_number_of_workers(root):
    for workers in (0, 2):
        train(train_stage3_difficulty, root, "--overwrite", "--workers", workers, "--iterations", 3)
        digests = {name: checkpoint(root, "stage3_difficulty", name).digest for name in ("best.pt", "last.pt")}
        if workers == 0:
            first = digests
    assert digests == first


def test_another_seed_gives_another_result(root):
    train(train_stage1_baseline, root, "--seed", 43)
    other = Checkpoint.load(root / WEIGHTS / "stage1_baseline/seed43/last.pt", "")
    assert other.digest != checkpoint(root, "stage1_baseline").digest


def test_a_run_that_was_stopped_and_resumed_is_the_run_that_was_not(root, monkeypatch):
    flags = ("--overwrite", "--iterations", 4, "--val-every", 3)
    train(train_stage6_distill, root, *flags)
    whole, told = checkpoint(root, "stage6_distill"), run_of(root, "stage6_distill")

    def stop_after_two_steps(self, batch, add=Drawn.add, seen=[]):  # noqa: B006 - counts over calls
        add(self, batch)
        seen.append(1)
        if len(seen) == 2:
            signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(Drawn, "add", stop_after_two_steps)
        with pytest.raises(SystemExit) as stopped:
            train(train_stage6_distill, root, *flags)
    assert stopped.value.code == 143 and checkpoint(root, "stage6_distill").metadata["step"] == 2
    train(train_stage6_distill, root, "--resume", *flags[1:])
    resumed = checkpoint(root, "stage6_distill")
    assert resumed.digest == whole.digest and resumed.training is None
    again = run_of(root, "stage6_distill")
    assert again["drawn"] == told["drawn"] and again["last"] == told["last"] and again["best"] == told["best"]


def test_resuming_with_other_settings_is_refused_naming_the_difference(root):
    path = root / WEIGHTS / "stage1_baseline/seed42/last.pt"
    found = Checkpoint.load(path, "")
    Checkpoint(path, found.state, found.metadata, {"history": []}).save()
    with pytest.raises(UserError, match=r"settings.lr: 0.0015 there, 0.1 asked for"):
        train(train_stage1_baseline, root, "--resume", "--lr", "0.1")


def test_an_existing_run_is_neither_replaced_nor_continued_unasked(root):
    with pytest.raises(UserError, match="--overwrite"):
        train(train_stage1_baseline, root)
    with pytest.raises(UserError, match="finished"):
        train(train_stage1_baseline, root, "--resume")


@pytest.mark.parametrize("split", ["val", "test"])
def test_training_on_validation_or_test_tiles_is_refused(trained, tmp_path, split):
    with pytest.raises(UserError, match=f"says it is '{split}', expected 'train'"):
        train(
            train_stage1_baseline,
            trained,
            *("--train-dir", trained / "data/biodiversity_split" / split, "--out-dir", tmp_path / "out"),
        )
    assert not (tmp_path / "out").exists()


def test_validating_on_the_test_split_is_refused(trained, tmp_path):
    with pytest.raises(UserError, match="expected 'val'"):
        train(
            train_stage1_baseline,
            trained,
            *("--val-dir", trained / "data/biodiversity_split/test", "--out-dir", tmp_path / "out"),
        )


def test_training_opens_no_file_of_the_test_split(root):
    shutil.rmtree(root / "data/biodiversity_split/test")
    train(train_stage1_baseline, root, "--overwrite")
    assert run_of(root, "stage1_baseline")["finished"]


def test_a_missing_artefact_is_named_with_the_command_that_makes_it(root):
    for path, step, said in (
        ("artifacts/seed42/tile_difficulty.tsv", train_stage3_difficulty, "training.score_difficulty"),
        (f"{WEIGHTS}/stage5a_pretrain/seed42/last.pt", train_stage5b_finetune, "training.train_stage5a_pretrain"),
        ("model_weights/openearthmap/teacher/seed42/last.pt", train_stage6_distill, "training.train_teacher"),
        (f"{WEIGHTS}/stage2_replication/seed42/last.pt", score_difficulty, "training.train_stage2_replication"),
        ("data/biodiversity_oem_combined/train/manifest.json", train_stage5a_pretrain, "combine_biodiversity_oem"),
        ("data/biodiversity_split/train_rep/manifest.json", train_stage2_replication, "replicate_minority"),
    ):
        hidden = (root / path).rename(root / "hidden")
        with pytest.raises(UserError, match=said):
            if step is score_difficulty:
                quiet(step.main, "--root", root, "--overwrite")
            else:
                train(step, root, "--overwrite")
        hidden.rename(root / path)


def test_the_paper_preset_without_a_gpu_stops_and_names_the_way_out(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    flags = ("--root", trained, "--crop-size", 32, "--out-dir", tmp_path / "out")
    with pytest.raises(UserError, match="--device cpu"):
        quiet(train_stage1_baseline.main, *flags)
    with pytest.raises(UserError, match="--device cuda.*--device cpu"):
        quiet(train_stage1_baseline.main, *flags, "--device", "cuda")


def test_a_crop_as_large_as_the_tile_is_refused(trained, tmp_path):
    with pytest.raises(UserError, match="--crop-size 64.*not larger"):
        train(train_stage1_baseline, trained, "--crop-size", 64, "--out-dir", tmp_path / "out")


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_checkpoint(root, monkeypatch):
    def explode(logits, mask, entropy=losses.hard_loss_by_crop):
        values, counted = entropy(logits, mask)
        return values * float("nan"), counted

    before = checkpoint(root, "stage1_baseline").digest
    monkeypatch.setattr(losses, "hard_loss_by_crop", explode)
    with pytest.raises(UserError, match="loss became"):
        train(train_stage1_baseline, root, "--out-dir", root / "exploded")
    assert not (root / "exploded/last.pt").exists() and checkpoint(root, "stage1_baseline").digest == before
