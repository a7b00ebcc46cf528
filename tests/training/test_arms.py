import csv
import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch

from common import losses
from common.artifacts import read_minority_classes
from common.checkpoints import Checkpoint, digest_tensors
from common.class_frequencies import ClassFrequencies, rare_class_chances
from common.croppers import ForegroundCrop, MinorityCrop, RandomCrop, RareClassCrop
from common.device import Processes
from common.errors import UserError
from common.initial_weights import EncoderWeights
from common.samplers import RareClassTiles, UniformTiles
from common.stages import ARM_OF
from common.taxonomy import BIODIVERSITY, OPENEARTHMAP
from common.tiles import Tile, TileSet
from tests.conftest import TRAIN_FLAGS, train
from tests.helpers import ONE_THREAD, made, quiet
from training import (
    score_difficulty,
    train_control_kd_cycled,
    train_control_kd_uniform,
    train_stage1_baseline,
    train_stage2_replication,
    train_stage3_difficulty,
    train_stage5a_pretrain,
    train_stage5b_finetune,
    train_stage6_distill,
)
from training.engine import loop as engine
from training.engine.crops import CropDataset, TileDraws
from training.engine.flags import PRESETS
from training.engine.meters import DrawnCrops
from training.engine.run_folder import RUN_FILES

WEIGHTS = "model_weights/biodiversity"
# The one entry in which an arm may differ from the arm it is compared with, as the method says.
COMPONENT = {
    "stage2_replication": ("stage1_baseline", "tiles"),
    "stage3_difficulty": ("stage2_replication", "sampler"),
    "stage4_minority_crop": ("stage3_difficulty", "cropper"),
    "stage5a_pretrain": ("stage1_baseline", "tiles"),
    "stage5b_finetune": ("stage4_minority_crop", "init"),
    "stage6_distill": ("stage5b_finetune", "loss"),
    "control_5b_from_stage1": ("stage5b_finetune", "init"),
    "control_kd_cycled": ("stage6_distill", "loss"),
    "control_kd_uniform": ("stage6_distill", "loss"),
    "rival_class_weights": ("stage1_baseline", "loss"),
    "rival_focal": ("stage1_baseline", "loss"),
    "rival_rare_class_sampling": ("stage1_baseline", None),
    "rival_foreground_crop": ("stage1_baseline", "cropper"),
    "rival_logit_adjustment": ("stage1_baseline", "init"),
}
OF_SEVERAL = {"rival_rare_class_sampling": ["sampler", "cropper"]}  # which only together draw as their source does
UNTRAINED = {"rival_logit_adjustment"}  # tests/training/test_logit_adjustment.py looks at what it leaves
TRAINED = [arm for arm in ("stage1_baseline", *COMPONENT) if arm not in UNTRAINED]


def run_of(root, stage):
    return json.loads((root / WEIGHTS / stage / "seed42/run.json").read_text())


def checkpoint(root, stage, name="last.pt"):
    return Checkpoint.load(made(root / WEIGHTS / stage / "seed42" / name))


def test_every_arm_is_looked_at_here():
    assert {"stage1_baseline", *COMPONENT} == set(ARM_OF), "write down in COMPONENT what the new arm is compared with"


@pytest.mark.parametrize("stage", COMPONENT)
def test_an_arm_differs_from_the_one_it_is_compared_with_in_one_component(trained, stage):
    compared_with, component = COMPONENT[stage]
    run, base = run_of(trained, stage), run_of(trained, compared_with)
    assert run["compared_with"] == compared_with and ARM_OF[stage].component == component
    changed = [name for name in run["recipe"] if run["recipe"][name] != base["recipe"][name]]
    assert changed == OF_SEVERAL.get(stage, [component])


def test_all_arms_have_the_same_budget_settings_validation_and_classes(trained):
    runs = [run_of(trained, stage) for stage in TRAINED]
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
    assert all(run_of(trained, arm)["cumulative_steps"] == 2 * ARM_OF[arm].trainings for arm in ARM_OF)


def test_the_controls_of_distillation_teach_something_else_on_the_same_pixels():
    matrix = torch.from_numpy(BIODIVERSITY.class_matrix())
    logits = 3 * torch.randn(2, OPENEARTHMAP.num_classes, 8, 8, generator=torch.manual_seed(0))
    taught, certain = losses.kd_targets(logits, matrix, temperature=2.0)
    cycled, same = losses.kd_targets(logits, train_control_kd_cycled.cycled(matrix), temperature=2.0)
    uniform, also = losses.kd_targets(logits, train_control_kd_uniform.uniform(matrix), temperature=2.0)
    assert 0 < certain.sum() < certain.numel() and torch.equal(same, certain) and torch.equal(also, certain)
    torch.testing.assert_close(cycled, taught.roll(1, dims=1))  # as smooth, and wrong
    assert (cycled.argmax(1) != taught.argmax(1)).all()
    torch.testing.assert_close(uniform, torch.full_like(uniform, 1 / (BIODIVERSITY.num_classes - 1)))


def test_every_stage_leaves_its_files_and_its_facts(trained):
    for stage in TRAINED:
        assert {path.name for path in (trained / WEIGHTS / stage / "seed42").iterdir()} == set(RUN_FILES)
        run = run_of(trained, stage)
        assert run["finished"] and run["step"] == 2 and run["crops"] == 8
        assert {"command", "seconds", "peak_memory_mb", "versions", "git_commit", "device"} <= run.keys()
        assert sum(run["drawn"]["pixel_share"].values()) == pytest.approx(1)
        assert run["train"]["digest"] and run["val"]["digest"] and run["train"]["tiles_without_label"] == 0


def test_stages_that_start_from_scratch_start_from_the_same_network(trained, tmp_path, monkeypatch):
    started = []

    def build(self, architecture, taxonomy, bands, original=EncoderWeights.build):
        started.append(original(self, architecture, taxonomy, bands))
        started[-1] = (started[-1], digest_tensors(started[-1].state_dict()))
        return started[-1][0]

    monkeypatch.setattr(EncoderWeights, "build", build)
    for step in (train_stage1_baseline, train_stage3_difficulty, train_stage5a_pretrain):
        train(step, trained, "--iterations", 1, "--out-dir", tmp_path / step.STAGE)
    assert len({digest for _, digest in started}) == 1 and len(started) == 3


def test_arms_of_a_seed_record_that_they_start_alike(trained):
    """Those of an encoder from one random network, the others from the very tensors of their ancestor."""
    recorded = {arm: run_of(trained, arm)["initial_digest"] for arm in ARM_OF}
    of_encoder = {digest for arm, digest in recorded.items() if ARM_OF[arm].starts_from is None}
    assert len(of_encoder) == 1 and len(set(recorded.values())) == 3
    for arm, digest in recorded.items():
        start = ARM_OF[arm].starts_from
        assert start is None or digest == checkpoint(trained, start).digest
        assert digest != checkpoint(trained, arm).digest and "initial_digest" not in checkpoint(trained, arm).metadata


def drawn_by(tiles, sampler, cropper, count=600):
    """What a run of ``count`` crops would hold, counted as the training loop counts it."""
    crops = CropDataset(tiles, TileDraws(tiles, sampler, 0), cropper, 0)
    drawn = DrawnCrops(len(tiles), tiles.taxonomy.num_classes, Processes(torch.device("cpu")), torch.device("cpu"))
    for first in range(0, count, 8):
        drawn.add(crops[range(first, min(first + 8, count))])
    return drawn.summary(tiles), drawn.counts["tiles"].numpy()


def minority(root):
    return json.loads((root / "artifacts/class_distribution.json").read_text())["minority_classes"]


def test_replication_raises_the_share_of_minority_pixels_that_are_drawn(trained):
    shares = []
    for folder in ("train", "train_rep"):
        tiles = TileSet.open(made(trained / "data/biodiversity_split" / folder))
        summary, _ = drawn_by(tiles, UniformTiles(), RandomCrop(32))
        shares.append(sum(summary["pixel_share"][name] for name in minority(trained)))
    assert shares[1] > 1.1 * shares[0]


def test_the_minority_crop_raises_the_share_of_crops_with_each_minority_class(trained):
    tiles = TileSet.open(made(trained / "data/biodiversity_split/train_rep"))
    cropper = MinorityCrop(32, *read_minority_classes(made(trained / "artifacts/class_distribution.json"), tiles))
    without, _ = drawn_by(tiles, UniformTiles(), RandomCrop(32))
    seeking, _ = drawn_by(tiles, UniformTiles(), cropper)
    for name in minority(trained):
        assert seeking["crops_with_class"][name] > without["crops_with_class"][name]


def test_rare_class_sampling_and_foreground_crops_raise_the_share_of_crops_with_rare_classes(trained):
    tiles = TileSet.open(made(trained / "data/biodiversity_split/train"))
    frequencies, rare = ClassFrequencies.of(tiles), minority(trained)
    without, by_class, around = (
        drawn_by(tiles, sampler, cropper, 400)[0]["crops_with_class"]
        for sampler, cropper in (
            (UniformTiles(), RandomCrop(16)),
            (RareClassTiles(), RareClassCrop(16, frequencies)),
            (UniformTiles(), ForegroundCrop(16, 6, p=1.0)),
        )
    )
    sought = rare_class_chances(frequencies.shares[1:], 0.01)  # the least that each class has of the crops
    for name, least in zip(tiles.taxonomy.foreground, sought, strict=True):
        assert by_class[name] > least - 0.06
    assert all(by_class[name] > 4 * without[name] for name in rare)
    assert sum(around[name] for name in rare) > 1.5 * sum(without[name] for name in rare)


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
    other = Checkpoint.load(made(root / WEIGHTS / "stage1_baseline/seed43/last.pt"))
    assert other.digest != checkpoint(root, "stage1_baseline").digest
    run = json.loads((root / WEIGHTS / "stage1_baseline/seed43/run.json").read_text())
    assert run["initial_digest"] != run_of(root, "stage1_baseline")["initial_digest"]


def test_a_run_that_was_stopped_and_resumed_is_the_run_that_was_not(root, monkeypatch):
    flags = ("--overwrite", "--iterations", 5, "--val-every", 2)
    train(train_stage6_distill, root, *flags)

    def outcome():
        digests = [checkpoint(root, "stage6_distill", name).digest for name in ("last.pt", "best.pt")]
        run = run_of(root, "stage6_distill")
        kept = ("drawn", "last", "best", "finished", "initial_digest")
        return digests, history(root, "stage6_distill"), [run[key] for key in kept]

    whole = outcome()
    seen = []

    def stop_after_three_steps(self, batch, add=DrawnCrops.add):
        add(self, batch)
        seen.append(batch)
        if len(seen) == 3:
            signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(DrawnCrops, "add", stop_after_three_steps)
        with pytest.raises(SystemExit) as stopped:
            train(train_stage6_distill, root, *flags)
    assert stopped.value.code == 143 and checkpoint(root, "stage6_distill").metadata["step"] == 3
    train(train_stage6_distill, root, "--resume", *flags[1:])
    assert outcome() == whole and checkpoint(root, "stage6_distill").training is None


def test_a_signal_to_all_processes_of_a_run_leaves_a_checkpoint_to_resume_from(prepared, tmp_path):
    command = [sys.executable, "-m", "training.train_stage1_baseline", "--root", prepared, *TRAIN_FLAGS]
    command += ["--out-dir", tmp_path / "out", "--iterations", "500", "--val-every", "2", "--workers", "2"]
    with open(tmp_path / "said", "w+") as said:
        run = subprocess.Popen(command, start_new_session=True, stdout=said, stderr=said, env=ONE_THREAD)
        deadline = time.monotonic() + 120
        while not (tmp_path / "out/last.pt").exists() and run.poll() is None and time.monotonic() < deadline:
            time.sleep(0.2)
        os.killpg(run.pid, signal.SIGINT)
        assert run.wait(60) == 130, (tmp_path / "said").read_text()
    text = (tmp_path / "said").read_text()
    assert "--resume" in text and "Traceback" not in text
    assert Checkpoint.load(made(tmp_path / "out/last.pt")).training is not None


def test_an_existing_run_is_neither_replaced_nor_continued_unasked(root):
    with pytest.raises(UserError, match="--overwrite"):
        train(train_stage1_baseline, root)
    with pytest.raises(UserError, match="finished"):
        train(train_stage1_baseline, root, "--resume")


def test_training_reads_val_only_to_validate_and_nothing_of_test(root, monkeypatch):
    opened, read = set(), set()
    validating = []

    def open_set(source, original=TileSet.open):
        opened.add(source.path.name)
        return original(source)

    def read_tile(self, *window, original=Tile.read_image):
        read.add((self.folder.name, bool(validating)))
        return original(self, *window)

    def validate(*args, original=engine.validate):
        validating.append(True)
        metrics = original(*args)
        validating.clear()
        return metrics

    monkeypatch.setattr(TileSet, "open", open_set)
    monkeypatch.setattr(Tile, "read_image", read_tile)
    monkeypatch.setattr(engine, "validate", validate)
    for step in (train_stage1_baseline, train_stage6_distill):
        train(step, root, "--overwrite")
    assert opened == {"train", "train_rep", "val"}
    assert read == {("train", False), ("train_rep", False), ("val", True)}


@pytest.mark.parametrize("preset", PRESETS)
def test_every_arm_has_the_same_settings_in_each_preset(preset):
    arms = [importlib.import_module(f"training.train_{stage}") for stage in ("teacher", *TRAINED)]
    settings = [arm.parse_args(["--preset", preset]).settings for arm in arms]
    assert all(found == settings[0] for found in settings) and len(settings) == 1 + len(ARM_OF) - len(UNTRAINED)


def test_a_run_that_cannot_start_leaves_the_one_it_would_replace(root):
    before = checkpoint(root, "stage1_baseline").digest
    with pytest.raises(UserError, match="unett"):
        train(train_stage1_baseline, root, "--overwrite", "--arch", "unett")
    assert checkpoint(root, "stage1_baseline").digest == before


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


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_checkpoint(root, monkeypatch):
    def explode(logits, mask, *, label_smoothing, entropy=losses.hard_loss_by_crop):
        values, counted = entropy(logits, mask, label_smoothing=label_smoothing)
        return values * float("nan"), counted

    before = checkpoint(root, "stage1_baseline").digest
    monkeypatch.setattr(losses, "hard_loss_by_crop", explode)
    with pytest.raises(UserError, match="loss became"):
        train(train_stage1_baseline, root, "--out-dir", root / "exploded")
    assert not (root / "exploded/last.pt").exists() and checkpoint(root, "stage1_baseline").digest == before
