"""The sentences that users trust, followed through the real commands.

The class of each pixel can be read off its image here: in Biodiversity tiles the first band is 51 × id, in
OpenEarthMap tiles 28 × id. So wherever an image and a mask meet, one says what the other must be.
"""

import csv
import json

import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex
from PIL import Image
from torch import nn

from common.checkpoints import Checkpoint
from common.croppers import MinorityCrop, RandomCrop
from common.models import SilenceVoid
from common.samplers import UniformTiles, WeightedTiles
from common.taxonomy import BIODIVERSITY
from common.tiles import TileSet
from data_prep import prepare_oem_teacher, relabel_oem
from evaluation import aggregate_metrics, compute_metrics
from evaluation.scoring import write
from tests.conftest import train
from tests.helpers import GSD, OEM_RAW, made, quiet, run_data_steps, write_png, write_tif
from training import train_stage1_baseline
from training.engine import crops
from training.engine.crops import CropDataset, TileDraws

# Written out once more: the position of a name is its pixel value.
CLASSES = ["Background", "Forest", "Grassland", "Cropland", "Settlement", "Seminatural"]
OEM_BECOMES = [0, 0, 2, 4, 4, 1, 0, 3, 4]  # of ids 0 to 8: Unknown, Bareland, Rangeland, …, Building
STEP, OEM_STEP = 51, 28  # grey values between two ids
SIDE, OEM_SIDE, PATCH = 48, 64, 16
VAL = "evaluation/evaluation_results/val"


def speaking_image(mask: np.ndarray, step: int, rng) -> np.ndarray:
    """(H, W) ids → (3, H, W) uint8: the first band says the id, the others nothing."""
    return np.stack([step * mask, *rng.integers(0, 256, (2, *mask.shape), np.uint8)]).astype(np.uint8)


def in_patches(side: int, labels, rng) -> np.ndarray:
    """(side, side) uint8 ids, the same in squares of PATCH pixels."""
    drawn = rng.choice(np.asarray(labels, np.uint8), (side // PATCH, side // PATCH))
    return np.kron(drawn, np.ones((PATCH, PATCH), np.uint8))


@pytest.fixture(scope="module")
def speaking(tmp_path_factory):
    """A root with every data step done on tiles whose images say their masks, a third of them not 8-bit."""
    root, rng = tmp_path_factory.mktemp("speaking"), np.random.default_rng(0)
    raw = root / "data/biodiversity_raw"
    for row, column in np.ndindex(8, 8):
        shares = rng.dirichlet([1.5, 4, 3, 2, 0.7, 0.5])
        mask = rng.choice(np.arange(6, dtype=np.uint8), (SIDE, SIDE), p=0.05 / 6 + 0.95 * shares)
        image = speaking_image(mask, STEP, rng)
        if (row + column) % 3 == 0:  # band 1 runs from 0 to 5000 in steps of 1000, which are 51 grey values when scaled
            image = np.stack([1000.0 * mask, *image[1:], image[0]]).astype(np.float32)
        origin = (500_000 + column * SIDE * GSD, 5_000_000 - row * SIDE * GSD)
        write_tif(raw / f"images/t_{row}_{column}.tif", image, origin=origin)
        write_png(raw / f"masks/t_{row}_{column}.png", mask)
    for number, region in enumerate(("north", "south")):
        for i in range(6):
            label = in_patches(OEM_SIDE, [0, 1, 2, 2, 2, 5, 5, 5, 6, 7, 7, 7, 3, 4, 8], rng)
            origin = (700_000 + number * 20_000 + i * OEM_SIDE * GSD, 5_000_000)
            folder = root / OEM_RAW / region
            write_tif(folder / f"images/{region}_{i}.tif", speaking_image(label, OEM_STEP, rng), origin=origin)
            write_tif(folder / f"labels/{region}_{i}.tif", label[None], origin=origin)
    run_data_steps(root)
    return root


def tiles_of(root, *folders) -> TileSet:
    return TileSet.open(made(root.joinpath("data", *folders)))


def said_by(image: np.ndarray, step: int) -> np.ndarray:
    """(3, H, W) uint8 image → (H, W) ids that its first band says."""
    return np.rint(np.asarray(image)[0] / step).astype(int)


def inside_patches(image: np.ndarray, margin: int) -> np.ndarray:
    """(3, H, W) → (H, W) bool: pixels whose neighbours within ``margin`` have their first band's very value."""
    padded = np.pad(np.asarray(image)[0].astype(int), margin, constant_values=-1)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (2 * margin + 1,) * 2)
    return (windows == np.asarray(image)[0][..., None, None]).all(axis=(2, 3))


# Masks and images stay together


@pytest.mark.parametrize("folder", ["train", "train_rep", "val", "test"])
def test_split_and_replication_keep_each_mask_with_its_image(speaking, folder):
    tiles = tiles_of(speaking, "biodiversity_split", folder)
    for tile in tiles:
        np.testing.assert_array_equal(said_by(tile.read_image(), STEP), tile.read_mask(), err_msg=tile.id)
        raw = speaking / f"data/biodiversity_raw/masks/{tile.base}.png"
        np.testing.assert_array_equal(np.asarray(Image.open(raw)), tile.read_mask())
    assert (len(tiles) > len({tile.base for tile in tiles})) == (folder == "train_rep")


def test_relabelling_and_the_teacher_keep_each_mask_with_its_image(speaking):
    for tile in tiles_of(speaking, "openearthmap_relabelled"):
        wanted = np.array(OEM_BECOMES)[said_by(tile.read_image(), OEM_STEP)]
        np.testing.assert_array_equal(wanted, tile.read_mask())
    for folder in ("train", "val"):
        for tile in tiles_of(speaking, "openearthmap_teacher", folder):
            np.testing.assert_array_equal(said_by(tile.read_image(), OEM_STEP), tile.read_mask())


def test_combining_keeps_each_mask_with_its_image(speaking):
    tiles = tiles_of(speaking, "biodiversity_oem_combined", "train")
    of_oem = [tile.id.startswith("oem_") for tile in tiles]
    assert 0 < sum(of_oem) < len(tiles)
    for tile, is_oem in zip(tiles, of_oem, strict=True):
        image = tile.read_image()
        wanted = np.array(OEM_BECOMES)[said_by(image, OEM_STEP)] if is_oem else said_by(image, STEP)
        np.testing.assert_array_equal(wanted, tile.read_mask())


@pytest.mark.parametrize("gsd", [0.4, 1.0])
def test_resampling_keeps_each_mask_with_its_image(speaking, tmp_path, gsd):
    for step, out, becomes in (
        (relabel_oem, tmp_path / "relabelled", OEM_BECOMES),
        (prepare_oem_teacher, tmp_path / "teacher", range(9)),
    ):
        quiet(step.main, "--root", speaking, "--out-dir", out, "--gsd", gsd)
        folder = out if step is relabel_oem else out / "train"
        for tile in TileSet.open(made(folder)):
            image, mask = tile.read_image(), tile.read_mask()
            assert mask.shape == (round(OEM_SIDE * GSD / gsd),) * 2
            inside = inside_patches(image, margin=1)
            assert inside.mean() > 0.05
            np.testing.assert_array_equal(np.array(becomes)[said_by(image, OEM_STEP)][inside], mask[inside])


@pytest.mark.parametrize("cropper", [RandomCrop(32), MinorityCrop(32, [4, 5], [0.05, 0.02], p=1.0)])
def test_cropping_and_turning_keep_each_mask_with_its_image(speaking, cropper, monkeypatch):
    monkeypatch.setattr(crops, "SCALE_RANGE", (1.0, 1.0))
    tiles = tiles_of(speaking, "biodiversity_split", "train_rep")
    weights = WeightedTiles({tile_id: 1.0 + n for n, tile_id in enumerate(tiles.ids)})
    batch = CropDataset(tiles, TileDraws(tiles, weights, 1), cropper, 1)[list(range(64))]
    for image, mask, pixels in zip(batch["image"], batch["mask"], batch["pixels"], strict=True):
        np.testing.assert_array_equal(said_by(image, STEP), mask)
        assert pixels.tolist() == [(mask == label).sum() for label in range(6)]


def test_scaling_a_crop_keeps_the_mask_with_the_image(tmp_path):
    rng = np.random.default_rng(1)
    mask = in_patches(96, range(6), rng)
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    write_tif(tmp_path / "images/a.tif", speaking_image(mask, STEP, rng))
    write_png(tmp_path / "masks/a.png", mask)
    entry = {"height": 96, "width": 96, "pixels": [int((mask == label).sum()) for label in range(6)]}
    tiles = TileSet(made(tmp_path), {"tiles": {"a": entry}}, BIODIVERSITY)
    batch = CropDataset(tiles, TileDraws(tiles, UniformTiles(), 0), RandomCrop(64), 0)[list(range(40))]
    for image, mask in zip(batch["image"], batch["mask"].numpy(), strict=True):
        inside = inside_patches(image, margin=1)
        assert inside.mean() > 0.05
        np.testing.assert_array_equal(said_by(image, STEP)[inside], mask[inside])


def test_the_loss_sees_each_mask_with_its_image_in_rgb(speaking, tmp_path, monkeypatch):
    monkeypatch.setattr(crops, "SCALE_RANGE", (1.0, 1.0))
    monkeypatch.setattr(crops, "BRIGHTNESS", 0.0)
    monkeypatch.setattr(crops, "CONTRAST", 0.0)
    seen = []

    def look(self, logits, batch, original=train_stage1_baseline.HardLoss.terms):
        seen.append((torch.round(255 * batch["image"][:, 0] / STEP).long(), batch["mask"]))
        return original(self, logits, batch)

    monkeypatch.setattr(train_stage1_baseline.HardLoss, "terms", look)
    train(train_stage1_baseline, speaking, "--out-dir", tmp_path / "out")
    assert len(seen) == 3  # the first is that of the trial
    assert all(torch.equal(said, mask) for said, mask in seen)


# Index = pixel value = name of the class, from the raw PNG to the last table and figure


class Reader(nn.Module):
    """Reads the class off the image, but takes Cropland for Forest and Seminatural for Grassland."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.silence = SilenceVoid()

    def forward(self, images):
        ids = torch.round(255 * images[:, 0] / STEP).long()
        preds = torch.tensor([1, 1, 2, 1, 4, 2])[ids]
        return self.silence(10.0 * nn.functional.one_hot(preds, 6).movedim(-1, 1).float())


@pytest.fixture(scope="module")
def read(speaking, tmp_path_factory):
    """The figures of an evaluation by ``Reader``, by file name, and the folder of its results; all tables written."""
    weights, out = speaking / "model_weights/biodiversity", speaking / VAL
    figures = {}

    def keep(figure, path):
        figures[path.name] = figure
        path.touch()

    with pytest.MonkeyPatch.context() as patch:
        train(train_stage1_baseline, speaking)
        patch.setattr(Checkpoint, "build", lambda self: Reader())
        patch.setattr(write, "save_figure", keep)
        quiet(compute_metrics.main, "--root", speaking, "--weights-dir", weights, "--device", "cpu")
    quiet(aggregate_metrics.main, "--root", speaking)
    return figures, out


def raw_pixels(speaking) -> np.ndarray:
    """(6,) pixels of each value in the raw masks of the val tiles, by the names of the files alone."""
    names = [path.stem for path in (speaking / "data/biodiversity_split/val/masks").glob("*.png")]
    masks = [np.asarray(Image.open(speaking / f"data/biodiversity_raw/masks/{name}.png")) for name in names]
    return np.bincount(np.stack(masks).ravel(), minlength=6)


def expected(speaking) -> dict[str, float]:
    """IoU of each class that follows from the mistakes of ``Reader``, worked out by pixel value."""
    _, one, two, three, _, five = raw_pixels(speaking)
    by_value = {1: one / (one + three), 2: two / (two + five), 3: 0.0, 4: 1.0, 5: 0.0}
    return {CLASSES[value]: iou for value, iou in by_value.items()}


def test_the_class_distribution_names_the_values_of_the_raw_masks(speaking):
    found = json.loads((speaking / "artifacts/class_distribution.json").read_text())
    names = [path.stem for path in (speaking / "data/biodiversity_split/train/masks").glob("*.png")]
    masks = [np.asarray(Image.open(speaking / f"data/biodiversity_raw/masks/{name}.png")) for name in names]
    pixels = np.bincount(np.stack(masks).ravel(), minlength=6)
    assert {name: of_class["pixels"] for name, of_class in found["classes"].items()} == dict(
        zip(CLASSES[1:], pixels[1:].tolist(), strict=True)
    )
    assert found["minority_classes"] == [
        CLASSES[value] for value in range(1, 6) if pixels[value] < 0.1 * pixels[1:].sum()
    ]


def test_metrics_and_tables_name_the_values_of_the_raw_masks(speaking, read):
    _, out = read
    ious = expected(speaking)
    metrics = json.loads((out / "stage1_baseline/seed42/metrics.json").read_text())
    assert {name: scores["IoU"] for name, scores in metrics["classes"].items()} == pytest.approx(ious)
    assert metrics["mIoU"] == pytest.approx(sum(ious.values()) / 5)
    with open(out / "metrics_summary.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    in_table = {
        row["metric"]: float(row["value"])
        for row in rows
        if (row["stage"], row["checkpoint"]) == ("stage1_baseline", "last")
    }
    assert {name: in_table[f"IoU {name}"] for name in ious} == pytest.approx(ious, abs=1e-4)
    report = (out / "stage1_baseline/seed42/evaluation_report.txt").read_text()
    for name, iou in ious.items():
        assert any(line.split()[:1] == [name] and f"{100 * iou:.1f}" in line for line in report.splitlines()), name


def test_figures_name_the_values_of_the_raw_masks_in_their_colours(speaking, read):
    figures, _ = read
    ious, pixels = expected(speaking), raw_pixels(speaking)
    axes = figures["class_iou_scores.png"].axes[0]
    assert [label.get_text().rstrip(" *") for label in axes.get_xticklabels()] == CLASSES[1:]
    assert [bar.get_height() for bar in axes.patches] == pytest.approx(list(ious.values()))
    colors = [to_hex(bar.get_facecolor()) for bar in axes.patches]
    assert colors == ["#1b7837", "#a6d96a", "#f2b134", "#d7301f", "#7b5aa6"]
    axes = figures["confusion_matrix.png"].axes[0]
    rows = [label.get_text().split("\n") for label in axes.get_yticklabels()]
    assert rows == [[name, f"{count:,} px"] for name, count in zip(CLASSES[1:], pixels[1:], strict=True)]
    assert [label.get_text() for label in axes.get_xticklabels()] == CLASSES[1:]
    predicted = np.array([[1, 0, 0, 0, 0], [0, 1, 0, 0, 0], [1, 0, 0, 0, 0], [0, 0, 0, 1, 0], [0, 1, 0, 0, 0]])
    np.testing.assert_array_equal(axes.images[0].get_array(), predicted)
