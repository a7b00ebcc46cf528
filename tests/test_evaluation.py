"""Checkpoints to metrics, the rules of the test split, the ranking, and the figures."""

import csv
import importlib
import json
import shutil
import subprocess
import sys
from argparse import Namespace

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import accuracy_score, f1_score, jaccard_score

from common.cli import UserError, run
from common.datasets import network_input
from common.files import write_json
from common.metrics import score
from common.models import Checkpoint, build_model
from common.results import TileConfusions
from common.stages import ARM_OF, FINAL_STAGE, STAGE_NAMES, STAGES
from common.taxonomy import BIODIVERSITY, IGNORE_INDEX
from common.tiles import TileSet, describe_tile, new_tile_set, write_image, write_mask
from evaluation import aggregate_metrics, compute_metrics, plot_predictions

ARCH, ENCODER = "linknet", "timm-mobilenetv3_small_minimal_100"  # 3 MB a checkpoint
FIVE_FILES = (
    "metrics.json",
    "evaluation_report.txt",
    "confusion_matrix.png",
    "class_iou_scores.png",
    "class_f1_scores.png",
)
FIRST, SECOND = STAGES[0].name, STAGES[1].name
ABSENT = BIODIVERSITY.foreground[-1]
MINORITY = list(BIODIVERSITY.foreground[2:4])
VAL = "evaluation/evaluation_results/val"
TEST = f"evaluation/evaluation_results/test/{FINAL_STAGE}/seed42"
LOG = "evaluation/evaluation_results/test/test_log.jsonl"


def make_split(root, split, seed):
    """Six tiles in three blocks; every class but the last, and void pixels."""
    rng = np.random.default_rng(seed)
    args = Namespace(command="made by a test", overwrite=True, mode="copy")
    path = root / "data" / "biodiversity_split" / split
    facts = {"split_strategy": "random", "block_size": None, "blocks_shared_with_train": 2}
    with new_tile_set(path, args, taxonomy=BIODIVERSITY, split=split, **facts) as out:
        for number in range(6):
            tile_id = f"{split}_{number}"
            mask = np.repeat(np.repeat(rng.integers(0, 5, (8, 8), dtype=np.uint8), 8, axis=0), 8, axis=1)
            image = np.clip(mask * 40 + rng.integers(0, 60, (3, 64, 64)), 0, 255).astype(np.uint8)
            write_image(out.image_path(tile_id), image)
            write_mask(out.mask_path(tile_id), mask)
            place = {"crs": None, "bounds": None, "gsd": None}
            entry = describe_tile(image, mask, out.image_path(tile_id), out.mask_path(tile_id), place, 6)
            out.record(tile_id, {**entry, "block": f"block{number // 2}"})
    return TileSet.open(path, "nothing")


def recipe_of(stage: str) -> dict:
    """A recipe that differs from that of the arm it is compared with in its one component alone."""
    known = ARM_OF[stage]
    if known.compared_with is None:
        return dict.fromkeys(("tiles", "sampler", "cropper", "init", "loss"), "of the first stage")
    return {**recipe_of(known.compared_with), known.component: f"of {stage}"}


def save_run(root, stage, seed, weights_seed, **changes):
    """last.pt, best.pt and run.json of a finished run with random weights; best.pt has other weights than last.pt."""
    folder = root / "model_weights" / "biodiversity" / stage / f"seed{seed}"
    val = TileSet.open(root / "data" / "biodiversity_split" / "val", "nothing")
    for name, offset in (("last.pt", 0), ("best.pt", 1)):
        torch.manual_seed(10 * weights_seed + offset)
        model = build_model(ARCH, ENCODER, BIODIVERSITY.num_classes)
        metadata = {
            "stage": stage,
            "seed": seed,
            "step": 20,
            "iterations": 20,
            "cumulative_steps": 20,
            "arch": ARCH,
            "encoder": ENCODER,
            "taxonomy": BIODIVERSITY.to_json(),
            "stretch": None,
            "val": {"digest": val.digest},
            "command": f"python -m training.train_{stage} --seed {seed} --overwrite",
            "settings": {"lr": 1e-3, "iterations": 20},
            "recipe": recipe_of(stage),
            **changes,
        }
        Checkpoint(folder / name, model.state_dict(), metadata).save()
    write_json(folder / "run.json", metadata)
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A root with val, test and runs of the first, second and final stage."""
    root = tmp_path_factory.mktemp("trained")
    make_split(root, "val", 1)
    make_split(root, "test", 2)
    write_json(root / "artifacts" / "class_distribution.json", {"minority_classes": MINORITY})
    for number, stage in enumerate((FIRST, SECOND, FINAL_STAGE)):
        save_run(root, stage, 42, number)
    return root


@pytest.fixture
def without_figures(monkeypatch):
    """Leave the figures of checkpoints out, which take most of the time; ``scored`` has them."""
    monkeypatch.setattr(compute_metrics, "draw_figures", lambda *_: None)


@pytest.fixture
def root(trained, tmp_path, without_figures):
    """A copy of ``trained`` that a test may change."""
    return shutil.copytree(trained, tmp_path / "root")


@pytest.fixture(scope="module")
def scored(trained, tmp_path_factory):
    """A copy of ``trained`` with results of two stages on val."""
    root = shutil.copytree(trained, tmp_path_factory.mktemp("scored") / "root")
    compute_metrics.main(["--root", root, "--stages", FIRST, SECOND])
    return root


def is_picture(path):
    with Image.open(path) as picture:
        return min(picture.size) > 400


def metrics_of(root, stage, *parts):
    return json.loads((root.joinpath(VAL, stage, "seed42", *parts) / "metrics.json").read_text())


def test_arm_names_are_those_of_the_training_scripts():
    for arm in ARM_OF.values():
        assert importlib.import_module(f"training.train_{arm.name}").STAGE == arm.name
        assert arm.compared_with in (None, *STAGE_NAMES)


def test_every_checkpoint_gets_its_files(scored):
    for stage in (FIRST, SECOND):
        for folder in (scored / VAL / stage / "seed42", scored / VAL / stage / "seed42" / "best"):
            assert {path.name for path in folder.iterdir()} - {"best"} == {
                *FIVE_FILES,
                "run.json",
                "tile_confusions.npz",
            }
    for path in (scored / VAL).rglob("*.png"):
        assert is_picture(path)


def test_scores_of_a_checkpoint_agree_with_scikit_learn(scored):
    checkpoint = Checkpoint.load(scored / "model_weights/biodiversity" / SECOND / "seed42/last.pt", "nothing")
    model = checkpoint.build().eval()
    truth, preds = [], []
    for tile in TileSet.open(scored / "data/biodiversity_split/val", "nothing"):
        with torch.no_grad():
            logits = model(network_input(torch.from_numpy(tile.read_image())[None]))
        labelled = tile.read_mask() != IGNORE_INDEX
        truth.append(tile.read_mask()[labelled])
        preds.append(logits.argmax(dim=1)[0].numpy()[labelled])
    truth, preds = np.concatenate(truth), np.concatenate(preds)
    assert len(np.unique(preds)) > 1
    labels = np.unique(truth)
    found = metrics_of(scored, SECOND)
    assert found["mIoU"] == pytest.approx(jaccard_score(truth, preds, labels=labels, average="macro"), abs=1e-6)
    assert found["mF1"] == pytest.approx(f1_score(truth, preds, labels=labels, average="macro"), abs=1e-6)
    assert found["OA"] == pytest.approx(accuracy_score(truth, preds), abs=1e-6)


def test_absent_class_is_named_and_not_scored(scored):
    found = metrics_of(scored, FIRST)
    assert found["absent"] == [ABSENT]
    assert found["classes_averaged"] == list(BIODIVERSITY.foreground[:-1])
    report = (scored / VAL / FIRST / "seed42" / "evaluation_report.txt").read_text()
    assert f"neither scored nor averaged: {ABSENT}" in report
    assert "2 of 3 spatial blocks of val also have tiles in train" in report


def test_every_score_can_be_computed_again_from_the_confusions_of_tiles(scored):
    val = TileSet.open(scored / "data/biodiversity_split/val", "nothing")
    for parts in ((), ("best",)):
        found = metrics_of(scored, FIRST, *parts)
        with np.load(scored.joinpath(VAL, FIRST, "seed42", *parts) / "tile_confusions.npz", allow_pickle=False) as npz:
            assert npz["tile_ids"].tolist() == val.ids
            assert npz["blocks"].tolist() == [tile.block for tile in val]
            assert npz["confusions"].dtype == np.int64
            assert npz["confusions"].sum(axis=2).tolist() == [tile.pixels.tolist() for tile in val]
            assert npz["class_names"].tolist() == list(BIODIVERSITY.classes)
            assert str(npz["split_digest"]) == val.digest
            assert str(npz["checkpoint_digest"]) == found["checkpoint_digest"]
            again = score(npz["confusions"].sum(axis=0), BIODIVERSITY)
        assert {key: found[key] for key in again} == again
    assert metrics_of(scored, FIRST)["checkpoint_digest"] != metrics_of(scored, FIRST, "best")["checkpoint_digest"]


def test_same_results_are_kept_a_new_seed_is_added_and_others_need_overwrite(scored, tmp_path, without_figures, capsys):
    root = shutil.copytree(scored, tmp_path / "root")
    before = {path: path.read_bytes() for path in (root / VAL).rglob("*.npz")}
    save_run(root, FIRST, 7, 5)
    compute_metrics.main(["--root", root, "--stages", FIRST])
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [(line[1], line[-1]) for line in lines if line[0] == FIRST] == [("7", "new"), ("42", "unchanged")]

    save_run(root, FIRST, 7, 6)
    changed = (root / VAL / FIRST / "seed7" / "metrics.json").read_bytes()
    with pytest.raises(UserError, match="seed7 holds results of other checkpoints.*--overwrite"):
        compute_metrics.main(["--root", root, "--stages", FIRST])
    assert (root / VAL / FIRST / "seed7" / "metrics.json").read_bytes() == changed
    compute_metrics.main(["--root", root, "--stages", FIRST, "--overwrite"])
    assert (root / VAL / FIRST / "seed7" / "metrics.json").read_bytes() != changed
    assert {path: path.read_bytes() for path in before} == before


def test_unusable_checkpoints_are_named_and_the_others_scored(root, capsys):
    weights = root / "model_weights" / "biodiversity"
    broken = weights / SECOND / "seed42" / "last.pt"
    broken.write_bytes(broken.read_bytes()[:1000])
    (weights / SECOND / "seed42" / "best.pt").unlink()
    other_network = save_run(root, SECOND, 43, 3, encoder="mobilenet_v2") / "last.pt"
    other_classes = {**BIODIVERSITY.to_json(), "colors": ["#111111", *BIODIVERSITY.colors[1:]]}
    other_taxonomy = save_run(root, SECOND, 44, 3, taxonomy=other_classes) / "last.pt"
    other_split = save_run(root, SECOND, 45, 3, val={"digest": "0" * 64}) / "last.pt"
    unfinished = weights / FINAL_STAGE / "seed42" / "last.pt"
    found = Checkpoint.load(unfinished, "nothing")
    Checkpoint(unfinished, found.state, {**found.metadata, "step": 5}, {"optimizer": {}}).save()

    with pytest.raises(SystemExit) as stopped:
        run(lambda: compute_metrics.main(["--root", root]))
    assert stopped.value.code == 2
    printed = capsys.readouterr()
    assert f"{broken} cannot be read" in printed.err
    assert f"{broken.with_name('best.pt')} does not exist" in printed.err
    assert f"{other_network} does not fit this network" in printed.err
    assert f"{other_taxonomy} was trained for the classes" in printed.err
    assert f"{other_split} was trained beside another val split" in printed.err
    assert f"{unfinished} is of an unfinished run, at step 5 of 20" in printed.err
    assert f"python -m training.train_{SECOND} --root {root} --seed 42 --overwrite" in printed.err
    assert metrics_of(root, FIRST)["mIoU"] > 0
    assert sorted(path.name for path in (root / VAL).iterdir()) == [FIRST]
    assert "not run: stage3_difficulty" in printed.out


def test_best_is_scored_where_last_is_broken(root):
    last = root / "model_weights" / "biodiversity" / FIRST / "seed42" / "last.pt"
    whole = last.read_bytes()
    last.write_bytes(b"nothing")
    with pytest.raises(UserError, match="1 checkpoint could not be scored"):
        compute_metrics.main(["--root", root, "--stages", FIRST])
    assert metrics_of(root, FIRST, "best")["which"] == "best"
    assert not (root / VAL / FIRST / "seed42" / "metrics.json").exists()
    last.write_bytes(whole)
    compute_metrics.main(["--root", root, "--stages", FIRST])
    assert metrics_of(root, FIRST)["which"] == "last"


def test_without_any_run_the_message_names_the_training_command(root):
    shutil.rmtree(root / "model_weights")
    with pytest.raises(UserError, match=f"holds no run of {FIRST}.*python -m training.train_{FIRST}"):
        compute_metrics.main(["--root", root])


def log_of(root):
    return [json.loads(line) for line in (root / LOG).read_text().splitlines()]


def test_the_test_split_is_used_once(root, capsys):
    flags = ["--root", root, "--split", "test"]
    compute_metrics.main(flags)
    first = capsys.readouterr().out
    (entry,) = log_of(root)
    found = json.loads((root / TEST / "metrics.json").read_text())
    assert (found["which"], found["split"], found["stage"]) == ("best", "test", FINAL_STAGE)
    assert entry["metrics"] == {key: found[key] for key in ("mIoU", "mF1", "OA")}
    assert entry["checkpoint_digest"] == found["checkpoint_digest"]
    assert f"mIoU {found['mIoU']:.2%}" in first
    assert [path.name for path in (root / TEST).parent.parent.iterdir() if path.is_dir()] == [FINAL_STAGE]

    compute_metrics.main(flags)
    assert f"mIoU {found['mIoU']:.2%}" in capsys.readouterr().out
    assert len(log_of(root)) == 1

    save_run(root, FINAL_STAGE, 42, 8)
    with pytest.raises(UserError, match="another checkpoint") as refused:
        compute_metrics.main([*flags, "--overwrite"])
    assert "--reason" in str(refused.value)
    assert json.loads((root / TEST / "metrics.json").read_text()) == found
    compute_metrics.main([*flags, "--overwrite", "--reason", "a defect in stage 6"])
    assert [entry["reason"] for entry in log_of(root)] == [None, "a defect in stage 6"]

    make_split(root, "test", 9)
    with pytest.raises(UserError, match="another test split"):
        compute_metrics.main([*flags, "--overwrite"])
    assert len(log_of(root)) == 2


def test_a_use_of_the_test_split_is_recorded_whatever_the_out_dir(root):
    compute_metrics.main(["--root", root, "--split", "test", "--out-dir", root / "elsewhere"])
    assert len(log_of(root)) == 1
    save_run(root, FINAL_STAGE, 42, 8)
    with pytest.raises(UserError, match="has been used"):
        compute_metrics.main(["--root", root, "--split", "test", "--out-dir", root / "another"])


def test_nothing_but_a_finished_final_stage_sees_the_test_split(root, capsys):
    with pytest.raises(SystemExit):
        compute_metrics.parse_args(["--split", "test", "--stages", FIRST])
    with pytest.raises(SystemExit):
        plot_predictions.parse_args(["--split", "test"])
    val = root / "data" / "biodiversity_split" / "val"
    with pytest.raises(UserError, match="expected 'test'"):
        compute_metrics.main(["--root", root, "--split", "test", "--data-dir", val])
    with pytest.raises(UserError, match="expected 'val'"):
        compute_metrics.main(["--root", root, "--data-dir", val.with_name("test")])
    save_run(root, FINAL_STAGE, 42, 8, val={"digest": "0" * 64})
    with pytest.raises(UserError, match="another val split"):
        compute_metrics.main(["--root", root, "--split", "test"])
    assert not (root / "evaluation").exists()


def write_result(root, stage, seed, right, *, split_digest="tiles", which="last", lr=1e-3, steps=20, recipe=None):
    """A result as compute_metrics leaves it: ``right`` of 100 pixels of each of two classes are right, on two tiles."""
    confusion = np.zeros((6, 6), np.int64)
    confusion[1, 1] = confusion[2, 2] = right
    confusion[1, 2] = confusion[2, 1] = 100 - right
    folder = root / VAL / stage / f"seed{seed}"
    folder = folder if which == "last" else folder / which
    facts = {
        "stage": stage,
        "seed": seed,
        "which": which,
        "split": "val",
        "split_digest": split_digest,
        "checkpoint_digest": f"{stage}{seed}",
        "mIoU": 0.123,  # never read: scores come from the tiles
        "cumulative_steps": steps,
        "minority_classes": [BIODIVERSITY.classes[2]],
        "split_facts": {"tiles": 2, "blocks": 2, "strategy": "random", "block_size": None}
        | {"blocks_shared_with_train": 1},
        "taxonomy": BIODIVERSITY.to_json(),
    }
    write_json(folder / "metrics.json", facts)
    write_json(folder / "run.json", {"settings": {"lr": lr}, "recipe": recipe_of(stage) | (recipe or {})})
    halves = np.stack([confusion // 2, confusion - confusion // 2])
    TileConfusions(
        ["a", "b"], ["x", "y"], halves, list(BIODIVERSITY.classes), split_digest, facts["checkpoint_digest"]
    ).save(folder / "tile_confusions.npz")


def iou(right):
    return right / (200 - right)


def test_stages_are_ranked_by_their_means_over_seeds(tmp_path, capsys):
    for seed, right in ((1, 80), (2, 70)):
        write_result(tmp_path, FIRST, seed, right)
        write_result(tmp_path, SECOND, seed, right + 10)
    write_result(tmp_path, FIRST, 1, 99, which="best")
    write_result(tmp_path, FINAL_STAGE, 1, 60, steps=40)
    aggregate_metrics.main(["--root", tmp_path])
    text = (tmp_path / VAL / "metrics_summary.txt").read_text()
    rows = {line.split()[0]: line.split() for line in text.splitlines() if line.startswith("stage")}
    assert list(rows)[1:4] == [SECOND, FIRST, FINAL_STAGE]
    header = rows["stage"]
    first = (iou(80) + iou(70)) / 2
    assert rows[FIRST][header.index("seeds")] == "2"
    assert rows[FIRST][header.index("mIoU")] == f"{100 * first:.1f}"
    assert rows[FIRST][header.index("best.pt")] == f"{100 * iou(99):.1f}"
    assert rows[FINAL_STAGE][header.index("steps") - 1] == "40"  # a star in the header is a word of its own
    assert f"{100 * ((iou(90) + iou(80)) / 2 - first):+.1f}" in rows[SECOND]
    for stage in STAGES[2:-1]:
        assert rows[stage.name][1:3] == ["not", "run"]
    assert "no interval is given under 3 seeds" in text
    assert "1 of 2 spatial blocks of val also have tiles in train" in text

    with open(tmp_path / VAL / "metrics_summary.csv", newline="") as file:
        tidy = list(csv.DictReader(file))
    best = [row for row in tidy if row["checkpoint"] == "best" and row["metric"] == "mIoU"]
    assert [(row["stage"], row["seed"], float(row["value"])) for row in best] == [(FIRST, "1", pytest.approx(iou(99)))]
    assert is_picture(tmp_path / VAL / "ablation.png")


def test_results_of_other_tiles_are_left_out_by_name(tmp_path, capsys):
    write_result(tmp_path, FIRST, 1, 80)
    write_result(tmp_path, SECOND, 1, 90)
    write_result(tmp_path, FINAL_STAGE, 1, 99, split_digest="other tiles")
    damaged = tmp_path / VAL / SECOND / "seed2"
    shutil.copytree(damaged.with_name("seed1"), damaged)
    aggregate_metrics.main(["--root", tmp_path])
    text = (tmp_path / VAL / "metrics_summary.txt").read_text()
    printed = capsys.readouterr().err
    assert f"{FINAL_STAGE}/seed1 was scored on other val tiles than most" in printed
    assert f"{SECOND}/seed2/metrics.json is of {SECOND} seed 1" in printed
    assert printed.replace("warning: ", "").splitlines()[0] in text
    assert f"{100 * iou(99):.1f}" not in text
    assert [line.split()[1:3] for line in text.splitlines() if line.startswith(FINAL_STAGE)] == [["not", "run"]]


def test_a_stage_that_differs_in_more_than_its_component_is_named(tmp_path, capsys):
    for stage in STAGE_NAMES[:3]:
        write_result(tmp_path, stage, 42, 50)
    aggregate_metrics.main(["--root", tmp_path])
    assert "mixes changes" not in capsys.readouterr().out
    write_result(tmp_path, STAGE_NAMES[2], 42, 50, recipe={"cropper": "another"})
    aggregate_metrics.main(["--root", tmp_path])
    assert f"{STAGE_NAMES[2]} seed 42 differs from {STAGE_NAMES[1]} in sampler, cropper" in capsys.readouterr().out


def test_a_stage_trained_with_other_settings_is_named(tmp_path, capsys):
    write_result(tmp_path, FIRST, 1, 80)
    write_result(tmp_path, SECOND, 1, 90, lr=1e-2)
    aggregate_metrics.main(["--root", tmp_path])
    assert f"{SECOND} and {FIRST} were trained with different lr" in capsys.readouterr().err


def test_without_results_the_message_names_the_command(tmp_path):
    with pytest.raises(UserError, match="python -m evaluation.compute_metrics"):
        aggregate_metrics.main(["--root", tmp_path])


def test_ranking_needs_no_torch():
    check = "import sys, evaluation.aggregate_metrics; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0


def test_scored_checkpoints_can_be_ranked(scored, capsys):
    aggregate_metrics.main(["--root", scored])
    out = capsys.readouterr().out
    best = max((FIRST, SECOND), key=lambda stage: metrics_of(scored, stage)["mIoU"])
    assert next(line for line in out.splitlines() if line.startswith("stage") and " 1 " in line).split()[0] == best
    assert f"Not in val, so neither scored nor averaged: {ABSENT}" in out


def test_panel_of_predictions(root, capsys):
    broken = root / "model_weights" / "biodiversity" / SECOND / "seed42" / "last.pt"
    broken.write_bytes(b"nothing")
    with pytest.raises(UserError, match=f"1 stage could not be drawn.*\n.*{SECOND}"):
        plot_predictions.main(["--root", root, "--tiles", "2"])
    assert "2 stages" in capsys.readouterr().out
    assert is_picture(root / VAL / "predictions.png")


def test_drawn_tiles_have_most_minority_pixels_and_come_from_different_blocks(root):
    tiles = TileSet.open(root / "data" / "biodiversity_split" / "val", "nothing").tiles
    minority = [BIODIVERSITY.index(name) for name in MINORITY]
    chosen = plot_predictions.choose_tiles(tiles, minority, 3)
    assert len({tile.block for tile in chosen}) == 3
    assert chosen[0].pixels[minority].sum() == max(tile.pixels[minority].sum() for tile in tiles)
    assert len(plot_predictions.choose_tiles(tiles, minority, 5)) == 5
    assert len(plot_predictions.choose_tiles(tiles, minority, 99)) == len(tiles)
