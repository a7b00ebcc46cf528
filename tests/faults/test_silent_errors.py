"""What would be wrong without a sound: evaluation that reads otherwise than training, results that never repeat."""

import numpy as np
import pytest
import torch

from common.checkpoints import Checkpoint
from common.croppers import RandomCrop
from common.datasets import WholeTiles, network_input, tile_loader
from common.samplers import UniformTiles
from common.tiles import Tile, TileSet
from tests.conftest import train
from tests.helpers import made, prepare_root, quiet
from training import (
    score_difficulty,
    train_stage2_replication,
    train_stage5a_pretrain,
    train_stage6_distill,
    train_teacher,
)
from training.engine.crops import (
    AUGMENTATION_STREAM,
    Augmentation,
    CropDataset,
    StepSampler,
    TileDraws,
    crop_loader,
    stream,
)

CPU = torch.device("cpu")


class WholeWindow(RandomCrop):
    """The whole of a tile."""

    def window(self, mask, rng, scale=1.0):
        return 0, 0, self.size


def as_read(prepared) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Input and mask of one tile by the reader of training, without its augmentation, and by that of evaluation."""
    tiles = TileSet.open(made(prepared / "data/biodiversity_split/train"))
    position = next(n for n in range(1000) if Augmentation.draw(stream(0, n, AUGMENTATION_STREAM)).orientation == 0)
    crops = CropDataset(tiles, TileDraws(tiles, UniformTiles(), 0), WholeWindow(64), 0)
    training = next(iter(crop_loader(crops, StepSampler(position, position + 1, 1), 0, CPU)))
    tile = tiles.tiles[int(training["tile"])]
    evaluation = next(iter(tile_loader([tile], 0, CPU)))
    return [(network_input(batch["image"]), batch["mask"]) for batch in (training, evaluation)]


def test_training_and_evaluation_read_a_tile_as_the_same_tensors(prepared):
    (image, mask), (other, truth) = as_read(prepared)
    assert torch.equal(image, other) and torch.equal(mask, truth) and image.shape == (1, 3, 64, 64)


@pytest.mark.parametrize(
    ("owner", "name", "drift"),
    [
        (Tile, "read_image", lambda image: image[::-1].copy()),  # bands in another order
        (Tile, "read_image", lambda image: np.minimum(image, 254) + np.uint8(1)),  # another scaling
        (Tile, "read_mask", lambda mask: np.roll(mask, 1, axis=1)),  # a pixel off
    ],
)
def test_a_drift_between_training_and_evaluation_would_be_seen(prepared, monkeypatch, owner, name, drift):
    original, reading = getattr(owner, name), []

    def evaluation_reads(self, index, get=WholeTiles.__getitem__):
        reading.append(index)
        return get(self, index)

    monkeypatch.setattr(WholeTiles, "__getitem__", evaluation_reads)
    monkeypatch.setattr(
        owner, name, lambda tile, *window: drift(original(tile, *window)) if reading else original(tile, *window)
    )
    (image, mask), (other, truth) = as_read(prepared)
    assert not (torch.equal(image, other) and torch.equal(mask, truth))


def test_the_last_stage_and_all_it_builds_on_give_the_same_weights_when_run_twice(trained, tmp_path):
    """Data steps, teacher, replication, difficulty, minority crop, pretraining, distillation; all arms are compared by
    tests.faults.demo_twice.
    """
    second = prepare_root(tmp_path / "second")
    for step in (train_teacher, train_stage2_replication, train_stage5a_pretrain):
        train(step, second)
    quiet(score_difficulty.main, "--root", second, "--device", "cpu")
    train(train_stage6_distill, second)
    checkpoints = [path.relative_to(second) for path in (second / "model_weights").rglob("*.pt")]
    assert len(checkpoints) == 4 * 2
    for path in checkpoints:
        assert Checkpoint.load(made(second / path)).digest == Checkpoint.load(made(trained / path)).digest, path
    table = "artifacts/seed42/tile_difficulty.tsv"
    assert (second / table).read_bytes() == (trained / table).read_bytes()
