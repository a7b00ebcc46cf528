"""Checkpoints to metrics, the rules of the test split, the ranking, and the figures."""

import importlib
import json
import shutil
from argparse import Namespace

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import accuracy_score, f1_score, jaccard_score

from common.checkpoints import Checkpoint
from common.cli import run
from common.datasets import network_input
from common.errors import UserError
from common.files import write_json
from common.metrics import boundary_score, calibration_score, score
from common.models import Architecture, build_model
from common.rasters import write_image, write_mask
from common.stages import ARM_OF, FINAL_STAGE, STAGE_NAMES, STAGES
from common.taxonomy import BIODIVERSITY, IGNORE_INDEX
from common.tiles import Tile, TileSet
from data_prep.tile_sets.writer import describe_tile, new_tile_set
from evaluation import aggregate_metrics, compute_metrics, plot_predictions
from evaluation.scoring import write
from evaluation.scoring.predicted_classes import PredictedClasses
from tests.helpers import made, save_checkpoint
from tests.synthetic_results import distribution_of, recipe_of

ARCH, ENCODER = "linknet", "timm-mobilenetv3_small_minimal_100"  # 3 MB a checkpoint
FILES = (
    "metrics.json",
    "evaluation_report.txt",
    "confusion_matrix.png",
    "class_iou_scores.png",
    "class_f1_scores.png",
    "class_boundary_iou.png",
    "reliability_diagram.png",
    "run.json",
    "tile_confusions.npz",
)
OF_LAST = {"predicted_classes.npz", "history.csv"}
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
            tile = Tile(tile_id, out.folder, {})
            write_image(tile.image_path, image)
            write_mask(tile.mask_path, mask)
            place = {"crs": None, "bounds": None, "gsd": None}
            entry = describe_tile(image, mask, tile.image_path, tile.mask_path, place, 6)
            out.record(tile_id, {**entry, "block": f"block{number // 2}"})
    return TileSet.open(made(path))


def save_run(root, stage, seed, weights_seed, **changes):
    """last.pt, best.pt and run.json of a finished run with random weights; best.pt has other weights than last.pt."""
    folder = root / "model_weights" / "biodiversity" / stage / f"seed{seed}"
    val = TileSet.open(made(root / "data" / "biodiversity_split" / "val"))
    for name, offset in (("last.pt", 0), ("best.pt", 1)):
        torch.manual_seed(10 * weights_seed + offset)
        model = build_model(Architecture(ARCH, ENCODER), BIODIVERSITY.num_classes)
        metadata = {
            "stage": stage,
            "seed": seed,
            "step": 20,
            "iterations": 20,
            "cumulative_steps": 20 * ARM_OF[stage].trainings,
            "arch": ARCH,
            "encoder": ENCODER,
            "taxonomy": BIODIVERSITY.to_json(),
            "stretch": None,
            "val": {"digest": val.digest},
            "command": f"python -m training.train_{stage} --seed {seed} --overwrite",
            "settings": {"lr": 1e-3, "iterations": 20},
            "recipe": recipe_of(stage, seed),
            **changes,
        }
        save_checkpoint(folder / name, model.state_dict(), metadata)
    write_json(folder / "run.json", metadata)
    (folder / "history.csv").write_text("step,IoU Forest\n10,0.1\n20,0.2\n")
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A root with val, test and runs of the first, second and final stage."""
    root = tmp_path_factory.mktemp("trained")
    make_split(root, "val", 1)
    make_split(root, "test", 2)
    write_json(root / "artifacts" / "class_distribution.json", distribution_of(MINORITY))
    for number, stage in enumerate((FIRST, SECOND, FINAL_STAGE)):
        save_run(root, stage, 42, number)
    return root


@pytest.fixture
def without_figures(monkeypatch):
    """Leave the figures of checkpoints out, which take most of the time; ``scored`` has them."""
    monkeypatch.setattr(write, "write_figures", lambda *_: None)


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
    for stage, compared in ((FIRST, set()), (SECOND, {"agreement.json"})):
        folder = scored / VAL / stage / "seed42"
        assert {path.name for path in folder.iterdir()} == {*FILES, *OF_LAST, *compared, "best"}
        assert {path.name for path in (folder / "best").iterdir()} == set(FILES)
        trained = scored / "model_weights/biodiversity" / stage / "seed42"
        assert (folder / "history.csv").read_text() == (trained / "history.csv").read_text()
    for path in (scored / VAL).rglob("*.png"):
        assert is_picture(path)


def predicted_by(scored, stage):
    """Truth (P,) and probabilities (P, C) of the labelled pixels of val, by a stage's last.pt."""
    checkpoint = Checkpoint.load(made(scored / "model_weights/biodiversity" / stage / "seed42/last.pt"))
    model = checkpoint.build().eval()
    truth, probs = [], []
    for tile in TileSet.open(made(scored / "data/biodiversity_split/val")):
        with torch.no_grad():
            logits = model(network_input(torch.from_numpy(tile.read_image())[None]))
        labelled = tile.read_mask() != IGNORE_INDEX
        truth.append(tile.read_mask()[labelled])
        probs.append(logits.softmax(dim=1)[0].permute(1, 2, 0).numpy()[labelled])
    return np.concatenate(truth), np.concatenate(probs)


@pytest.fixture(scope="module")
def val_pixels(scored):
    """``predicted_by`` the second stage."""
    return predicted_by(scored, SECOND)


def test_the_agreement_of_two_stages_is_that_of_their_predictions(scored, val_pixels):
    truth, mine = val_pixels[0], val_pixels[1].argmax(axis=1)
    theirs = predicted_by(scored, FIRST)[1].argmax(axis=1)
    found = json.loads((scored / VAL / SECOND / "seed42/agreement.json").read_text())
    assert found["checkpoint_digest"] == metrics_of(scored, SECOND)["checkpoint_digest"]
    assert found["split_digest"] == metrics_of(scored, SECOND)["split_digest"] and list(found["with"]) == [FIRST]
    counts = found["with"][FIRST]
    assert counts["checkpoint_digest"] == metrics_of(scored, FIRST)["checkpoint_digest"]
    assert np.array(counts["alike"])[3, 1] == ((truth == 3) & (mine == 1) & (theirs == 1)).sum()
    assert np.trace(counts["alike"]) == ((mine == truth) & (theirs == truth)).sum()
    assert sum(counts["mine_right"]) == ((mine == truth) & (theirs != truth)).sum()
    assert sum(counts["theirs_right"]) == ((mine != truth) & (theirs == truth)).sum()
    assert counts["different"][2] == ((truth == 2) & (mine != 2) & (theirs != 2) & (mine != theirs)).sum()
    cases = [np.sum(counts[key]) for key in ("alike", "mine_right", "theirs_right", "different")]
    assert sum(cases) == len(truth) and min(cases) > 0


def test_the_predicted_classes_of_each_tile_are_kept(scored, val_pixels):
    val = TileSet.open(made(scored / "data/biodiversity_split/val"))
    kept = PredictedClasses.open(made(scored / VAL / SECOND / "seed42/predicted_classes.npz"))
    assert kept.tile_ids == val.ids and kept.split_digest == val.digest
    assert kept.checkpoint_digest == metrics_of(scored, SECOND)["checkpoint_digest"]
    of_tiles = list(kept.of_tiles())
    assert {(tile.shape, tile.dtype) for tile in of_tiles} == {((64, 64), np.dtype(np.uint8))}
    labelled = [tile.read_mask() != IGNORE_INDEX for tile in val]
    said = np.concatenate([preds[inside] for preds, inside in zip(of_tiles, labelled, strict=True)])
    assert (said == val_pixels[1].argmax(axis=1)).mean() > 0.999  # a batch rounds otherwise than a tile alone


def test_scores_of_a_checkpoint_agree_with_scikit_learn(scored, val_pixels):
    truth, preds = val_pixels[0], val_pixels[1].argmax(axis=1)
    assert len(np.unique(preds)) > 1
    labels = np.unique(truth)
    found = metrics_of(scored, SECOND)
    assert found["mIoU"] == pytest.approx(jaccard_score(truth, preds, labels=labels, average="macro"), abs=1e-6)
    assert found["mF1"] == pytest.approx(f1_score(truth, preds, labels=labels, average="macro"), abs=1e-6)
    assert found["OA"] == pytest.approx(accuracy_score(truth, preds), abs=1e-6)


def test_calibration_of_a_checkpoint_is_that_of_its_probabilities(scored, val_pixels):
    truth, probs = val_pixels
    found = metrics_of(scored, SECOND)
    confidence, right = probs.max(axis=1).astype(float), probs.argmax(axis=1) == truth
    gaps = [
        abs(right[inside].sum() - confidence[inside].sum())
        for low in range(15)
        if (inside := (confidence > low / 15) & (confidence <= (low + 1) / 15)).any()
    ]
    assert found["calibration"]["ECE"] == pytest.approx(sum(gaps) / len(truth), abs=1e-6)
    assert sum(values["pixels"] for values in found["calibration"]["reliability"]) == found["labelled_pixels"]
    excess = found["calibration"]["mean_confidence"] - found["OA"]
    report = (scored / VAL / SECOND / "seed42" / "evaluation_report.txt").read_text()
    assert f"{'over' if excess > 0 else 'under'}-confident by {abs(100 * excess):.1f} points" in report
    assert f"{found['calibration']['ECE']:.2%}" in next(row for row in report.splitlines() if row.startswith("ECE "))


def test_boundary_iou_is_told_by_class(scored):
    found = metrics_of(scored, SECOND)
    boundary = found["boundary"]
    assert list(boundary["classes"]) == found["classes_averaged"]
    assert boundary["mIoU"] == pytest.approx(np.mean(list(boundary["classes"].values())))
    lines = (scored / VAL / SECOND / "seed42" / "evaluation_report.txt").read_text().splitlines()
    assert f"{boundary['mIoU']:.2%}" in next(line for line in lines if line.startswith("boundary mIoU"))
    assert "boundary IoU" in next(line for line in lines if line.startswith("class "))
    for name, value in boundary["classes"].items():
        assert f"{value:.1%}" in next(line for line in lines if line.startswith((f"{name} ", f"{name} *")))


def test_absent_class_is_named_and_not_scored(scored):
    found = metrics_of(scored, FIRST)
    assert found["absent"] == [ABSENT]
    assert found["classes_averaged"] == list(BIODIVERSITY.foreground[:-1])
    report = (scored / VAL / FIRST / "seed42" / "evaluation_report.txt").read_text()
    assert f"neither scored nor averaged: {ABSENT}" in report
    assert "2 of 3 spatial blocks of val also have tiles in train" in report


def test_every_score_can_be_computed_again_from_the_confusions_of_tiles(scored):
    val = TileSet.open(made(scored / "data/biodiversity_split/val"))
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
            boundary = boundary_score(npz["boundary"].sum(axis=0), BIODIVERSITY, again["classes"])
            assert npz["calibration"][:, :, 0].sum(axis=1).tolist() == [tile.labelled for tile in val]
            calibration = calibration_score(npz["calibration"].sum(axis=0))
        assert {key: found[key] for key in again} == again
        assert (found["boundary"], found["calibration"]) == (boundary, calibration)
        assert boundary["mIoU"] > 0 and calibration["ECE"] > 0
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


def test_results_that_lack_a_file_or_a_score_are_made_again(scored, tmp_path, without_figures, capsys):
    root = shutil.copytree(scored, tmp_path / "root")
    compute_metrics.main(["--root", root])
    assert {line.split()[-1] for line in capsys.readouterr().out.splitlines() if line.startswith(FIRST)} == {
        "unchanged"
    }
    (root / VAL / FIRST / "seed42" / "best" / "reliability_diagram.png").unlink()
    path = root / VAL / SECOND / "seed42" / "metrics.json"
    whole = json.loads(path.read_text())
    write_json(path, {key: value for key, value in whole.items() if key != "boundary"})
    compute_metrics.main(["--root", root])
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [line[-1] for line in lines if line[0] in (FIRST, SECOND)] == ["replaced", "replaced"]
    again = json.loads(path.read_text())
    assert {key: again[key] for key in whole if key != "command"} == {k: v for k, v in whole.items() if k != "command"}


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
    found = Checkpoint.load(made(unfinished))
    save_checkpoint(unfinished, found.state, {**found.metadata, "step": 5}, {"optimizer": {}})

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
    tiles = TileSet.open(made(root / "data" / "biodiversity_split" / "val")).tiles
    minority = [BIODIVERSITY.index(name) for name in MINORITY]
    chosen = plot_predictions.choose_tiles(tiles, minority, 3)
    assert len({tile.block for tile in chosen}) == 3
    assert chosen[0].pixels[minority].sum() == max(tile.pixels[minority].sum() for tile in tiles)
    assert len(plot_predictions.choose_tiles(tiles, minority, 5)) == 5
    assert len(plot_predictions.choose_tiles(tiles, minority, 99)) == len(tiles)
