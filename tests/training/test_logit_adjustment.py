"""The rival without training: the checkpoints of stage 1 with the logarithm of class shares taken off their logits."""

import json
import shutil

import numpy as np
import pytest
import torch
from torch import nn

from common.checkpoints import Checkpoint, lineage
from common.errors import UserError
from common.inference import predict_logits, tile_confusions
from common.initial_weights import LogitAdjustment
from common.metrics import score
from common.models import Architecture, build_model, output_bias
from common.taxonomy import BIODIVERSITY
from common.tiles import TileSet
from evaluation import compute_metrics
from evaluation.scoring import write
from tests.conftest import ARCH, ENCODER, train
from tests.helpers import made, quiet, save_checkpoint
from training import train_rival_logit_adjustment, train_stage1_baseline

WEIGHTS = "model_weights/biodiversity"
STAGE1, RIVAL = f"{WEIGHTS}/stage1_baseline/seed42", f"{WEIGHTS}/rival_logit_adjustment/seed42"
RESULTS = "evaluation/evaluation_results/val/rival_logit_adjustment/seed42"
NETWORK = Architecture(ARCH, ENCODER)
LEFT_OUT = "left out"


def checkpoint(folder, name="last.pt"):
    return Checkpoint.load(made(folder / name))


def adjust(root, *flags):
    return quiet(train_rival_logit_adjustment.main, "--root", root, "--device", "cpu", *flags)


def images_of(root):
    tiles = TileSet.open(made(root / "data/biodiversity_split/val")).tiles
    return torch.stack([torch.from_numpy(tile.read_image()) for tile in tiles])


def shares_of(root):
    """(C,) by the masks of train themselves."""
    tiles = TileSet.open(made(root / "data/biodiversity_split/train"))
    pixels = sum(np.bincount(tile.read_mask().ravel(), minlength=6) for tile in tiles)
    return np.array([0, *(pixels[1:] / pixels[1:].sum())])


def root_in(folder, prepared):
    """A root with every data step done, and nothing trained."""
    folder.mkdir()
    for name in ("data", "artifacts"):
        (folder / name).symlink_to(prepared / name)
    return folder


@pytest.fixture(scope="module")
def adjusted(prepared, tmp_path_factory):
    """A root in which stage 1 was trained for two steps, and its logits were adjusted; tests only read it."""
    root = root_in(tmp_path_factory.mktemp("adjusted") / "root", prepared)
    train(train_stage1_baseline, root)
    adjust(root)
    return root


@pytest.fixture
def root(adjusted, prepared, tmp_path):
    """A root with the same stage 1 alone, which a test may change."""
    root = root_in(tmp_path / "root", prepared)
    shutil.copytree(adjusted / STAGE1, root / STAGE1)
    return root


@pytest.mark.parametrize("name", ["last.pt", "best.pt"])
def test_its_logits_are_those_of_stage_1_minus_the_logarithm_of_the_shares(adjusted, name):
    images = images_of(adjusted)
    before, after = (predict_logits(checkpoint(adjusted / of, name).build().eval(), images) for of in (STAGE1, RIVAL))
    wanted = before[:, 1:] - torch.from_numpy(np.log(shares_of(adjusted)[1:])).float()[:, None, None]
    torch.testing.assert_close(after[:, 1:], wanted, rtol=0, atol=1e-5)
    assert torch.equal(after[:, 0], before[:, 0])  # void stays silent


def test_it_predicts_rare_classes_more_often_the_more_the_larger_tau(adjusted, root):
    images, shares = images_of(adjusted), shares_of(adjusted)
    rare = torch.from_numpy(np.flatnonzero((shares > 0) & (shares < 0.1)))
    found = []
    for tau in (0, 0.25, 0.5, 1):
        adjust(root, "--tau", tau, "--overwrite")
        predicted = predict_logits(checkpoint(root / RIVAL).build().eval(), images).argmax(dim=1)
        found.append(torch.isin(predicted, rare).sum().item())
        assert checkpoint(root / RIVAL).metadata["recipe"]["init"]["tau"] == tau
    assert found == sorted(found) and found[0] < found[-1]


def test_a_tau_of_0_changes_nothing(root):
    adjust(root, "--tau", 0)
    for name in ("last.pt", "best.pt"):
        assert checkpoint(root / RIVAL, name).digest == checkpoint(root / STAGE1, name).digest


def test_a_class_that_train_does_not_hold_keeps_its_logit(adjusted):
    val = TileSet.open(made(adjusted / "data/biodiversity_split/val"))
    shares = np.array([0, 0.5, 0.25, 0.25, 0, 0])
    init = LogitAdjustment(made(adjusted / STAGE1 / "last.pt"), "stage1_baseline", 42, val, shares, 2.0)
    wanted = [0, 2 * np.log(0.5), 2 * np.log(0.25), 2 * np.log(0.25), 0, 0]
    assert init.offsets.tolist() == pytest.approx(wanted)
    before = output_bias(checkpoint(adjusted / STAGE1).build(), NETWORK, 6)
    after = output_bias(init.build(NETWORK, BIODIVERSITY), NETWORK, 6)
    assert (before - after).tolist() == pytest.approx(wanted, abs=1e-6)


def test_it_leaves_checkpoints_and_a_record_of_which_all_is_true(adjusted):
    assert {path.name for path in (adjusted / RIVAL).iterdir()} == {"last.pt", "best.pt", "run.json"}
    run, of_start = (json.loads((adjusted / folder / "run.json").read_text()) for folder in (RIVAL, STAGE1))
    start, last, best = (
        checkpoint(adjusted / STAGE1),
        *(checkpoint(adjusted / RIVAL, n) for n in ("last.pt", "best.pt")),
    )
    init = {"kind": "logit_adjustment", "stage": "stage1_baseline", "digest": start.digest, "tau": 1.0}
    assert run["recipe"] == {**of_start["recipe"], "init": {**init, "shares": run["recipe"]["init"]["shares"]}}
    assert run["recipe"]["init"]["shares"] == pytest.approx(shares_of(adjusted)[1:].tolist())
    same = ("settings", "preset", "seed", "taxonomy", "stretch", "train", "val", "arch", "encoder", "encoder_constants")
    assert all(run[key] == of_start[key] for key in same) and run["compared_with"] == "stage1_baseline"
    assert all(run[f"cumulative_{key}"] == of_start[f"cumulative_{key}"] for key in ("steps", "crops"))
    assert [run[key] for key in ("step", "iterations", "crops", "finished", "checkpoints")] == [0, 0, 0, True, 1]
    assert run["ancestors"] == lineage(start) and run["initial_digest"] == start.digest
    assert "train_rival_logit_adjustment" not in of_start["command"] and f"--root {adjusted}" in run["command"]
    assert not {"drawn", "peak_gpu_memory_mb"} & run.keys() and run["seconds"]["training"] == 0

    val = TileSet.open(made(adjusted / "data/biodiversity_split/val"))
    for of, which in ((last, "last"), (best, "best")):
        metadata, start = of.metadata, checkpoint(adjusted / STAGE1, f"{which}.pt")
        counts = tile_confusions(of.build(), val.tiles, 6, device=torch.device("cpu"), workers=0)
        scores = {"step": start.metadata["step"], **score(counts.sum(axis=0), BIODIVERSITY)}
        assert run[which] == metadata[which] == json.loads(json.dumps(scores))
        assert metadata["recipe"] == run["recipe"] and metadata["ancestors"] == lineage(start)
        assert metadata["cumulative_steps"] == start.metadata["step"] and "initial_digest" not in metadata
        assert (metadata["stage"], metadata["seed"], of.training) == ("rival_logit_adjustment", 42, None)
    assert last.metadata["best"] == run["best"] and start.metadata["step"] != 2  # best.pt is of another step here


def test_it_is_scored_as_every_other_arm(adjusted, root, monkeypatch):
    monkeypatch.setattr(write, "write_figures", lambda *_: None)
    shutil.copytree(adjusted / RIVAL, root / RIVAL)
    said = quiet(compute_metrics.main, "--root", root, "--device", "cpu", "--stages", "rival_logit_adjustment")
    assert "results of 1 of 1 runs" in said
    run = json.loads((root / RIVAL / "run.json").read_text())
    for folder, which in ((root / RESULTS, "last"), (root / RESULTS / "best", "best")):
        metrics = json.loads((folder / "metrics.json").read_text())
        assert metrics["mIoU"] == run[which]["mIoU"] and json.loads((folder / "run.json").read_text()) == run
        assert metrics["cumulative_steps"] == checkpoint(root / RIVAL, f"{which}.pt").metadata["cumulative_steps"]
        assert metrics["checkpoint_digest"] == checkpoint(root / RIVAL, f"{which}.pt").digest


def test_its_default_paths_are_those_of_the_seed():
    args = train_rival_logit_adjustment.parse_args(["--seed", "7"])
    paths = [args.train_dir, args.val_dir, args.init, args.out_dir]
    seed7 = [folder.replace("42", "7") for folder in (STAGE1, RIVAL)]
    assert [str(path) for path in paths] == ["data/biodiversity_split/train", "data/biodiversity_split/val", *seed7]
    assert str(args.init.made_by) == "python -m training.train_stage1_baseline --seed 7" and args.tau == 1.0


def test_an_earlier_run_is_replaced_with_overwrite_alone_and_never_with_files_of_others(root):
    adjust(root)
    before = (root / RIVAL / "run.json").read_text()
    with pytest.raises(UserError, match="exists. Replace it with --overwrite"):
        adjust(root, "--tau", 2)
    (root / RIVAL / "notes.txt").touch()
    with pytest.raises(UserError, match="holds other files"):
        adjust(root, "--overwrite")
    assert (root / RIVAL / "run.json").read_text() == before
    (root / RIVAL / "notes.txt").unlink()
    adjust(root, "--overwrite", "--tau", 2)
    assert json.loads((root / RIVAL / "run.json").read_text())["recipe"]["init"]["tau"] == 2
    assert [path.name for path in (root / RIVAL).parent.iterdir()] == ["seed42"]


def change(root, name, **metadata):
    """Write a checkpoint of stage 1 once more, with other metadata, or as of an unfinished run."""
    saved = checkpoint(root / STAGE1, name)
    kept = {key: value for key, value in {**saved.metadata, **metadata}.items() if value is not LEFT_OUT}
    save_checkpoint(root / STAGE1 / name, saved.state, kept, kept.pop("training", None))


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        ("last.pt", {"seed": 7}, "expected stage1_baseline with seed 42"),
        ("best.pt", {"stage": "stage2_replication"}, "expected stage1_baseline with seed 42"),
        ("last.pt", {"training": {"history": []}}, "unfinished run"),
        ("best.pt", {"val": {"digest": "other"}}, "trained under another split"),
        ("best.pt", {"train": {"digest": "other"}}, "trained on other tiles than"),
        ("last.pt", {"train": {"digest": "other"}}, "trained on other tiles than"),
        ("best.pt", {"settings": {"lr": 1}}, "last.pt and best.pt are of two runs"),
        ("best.pt", {"recipe": {}}, "last.pt and best.pt are of two runs"),
        ("last.pt", {"recipe": LEFT_OUT}, "last.pt does not say its recipe"),
        ("last.pt", {"encoder": "resnet18"}, "does not fit this network"),
    ],
)
def test_checkpoints_that_do_not_belong_here_are_refused_and_nothing_is_written(root, name, changes, said):
    change(root, name, **changes)
    with pytest.raises(UserError, match=said):
        adjust(root)
    assert not (root / RIVAL).exists()


@pytest.mark.parametrize("name", ["last.pt", "best.pt"])
def test_a_missing_checkpoint_is_named_with_the_command_that_makes_it(root, name):
    (root / STAGE1 / name).unlink()
    with pytest.raises(UserError, match=f"{name} does not exist. Train it first: .*training.train_stage1_baseline"):
        adjust(root)


def test_a_tau_beyond_all_sense_is_wrong_use(capsys):
    with pytest.raises(SystemExit):
        train_rival_logit_adjustment.parse_args(["--tau", "1e9"])
    assert "expected at most 100" in capsys.readouterr().err


@pytest.mark.parametrize("arch", ["unet", "fpn", "pspnet", "deeplabv3plus", "segformer", "upernet"])
def test_what_is_added_to_the_bias_is_added_to_every_logit(arch):
    architecture = Architecture(arch, "resnet18")
    model = build_model(architecture, 6).eval()
    images, shift = torch.rand(1, 3, 64, 64, generator=torch.manual_seed(0)), torch.tensor([9.0, 1, -2, 3, 0, 4])
    with torch.no_grad():
        before = model(images)
        output_bias(model, architecture, 6).add_(shift)
        after = model(images)
    torch.testing.assert_close(after[:, 1:], before[:, 1:] + shift[1:, None, None], rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    "end",
    [
        [nn.Conv2d(4, 6, 1, bias=False)],
        [nn.Conv2d(4, 6, 1), nn.ReLU()],
        [nn.Conv2d(4, 12, 1), nn.PixelShuffle(2)],
        [nn.Conv2d(4, 5, 1)],
        [nn.Identity()],
    ],
)
def test_a_network_that_ends_in_something_else_is_refused_by_name(end):
    model = nn.Module()
    model.segmentation_head = nn.Sequential(*end)
    with pytest.raises(UserError, match="--arch unet --encoder resnet18 ends in .* cannot be adjusted"):
        output_bias(model, Architecture("unet", "resnet18"), 6)
