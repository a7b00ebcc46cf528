"""Item 3: confusion matrices against scikit-learn, and scoring a checkpoint against its bare forward pass."""

import os
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from sklearn.metrics import confusion_matrix

from common.datasets import network_input
from common.device import resolve_device
from common.inference import confusion_by_tile
from common.models import Architecture, build_model
from common.tiles import TileSet
from evaluation.scoring.counts import tile_counts
from tests.benchmarks.generated import SIDE, write_tile_set
from tests.benchmarks.measuring import Figure, alternate, at_least
from tests.helpers import made
from training.engine.flags import PRESETS

TILES, SCORED = 16, 48


def confusions() -> Figure:
    rng = np.random.default_rng(0)
    classes = 6
    truth = rng.integers(0, classes, (TILES, SIDE, SIDE))
    preds = np.where(rng.random(truth.shape) < 0.8, truth, rng.integers(0, classes, truth.shape))
    tensors = torch.from_numpy(truth), torch.from_numpy(preds)

    def ours():
        for t, p in zip(*tensors, strict=True):
            confusion_by_tile(t[None], p[None], classes)

    def sklearns():
        for t, p in zip(truth, preds, strict=True):
            confusion_matrix(t.ravel(), p.ravel(), labels=range(classes))

    ours_s, sklearns_s = alternate(3, ours, sklearns)
    detail = f"{3 * TILES / ours_s:.0f} and {3 * TILES / sklearns_s:.0f} tiles/s"
    return at_least("3", "confusion matrices : scikit-learn", sklearns_s / ours_s, 20, detail=detail)


class TakingTurns(torch.nn.Module):
    """A network that before each call runs once on an image that stays in memory, and times that."""

    def __init__(self, model: torch.nn.Module, image: torch.Tensor):
        super().__init__()
        self.model, self.image, self.seconds = model, image, 0.0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        begin = time.perf_counter()
        self.model(self.image)
        self.seconds += time.perf_counter() - begin
        return self.model(images)


def scoring() -> Figure:
    preset, device = PRESETS["laptop"], resolve_device("cpu")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "val"
        write_tile_set(path, SCORED, split="val", distinct=SCORED)
        tiles = TileSet.open(made(path))
        image = network_input(torch.from_numpy(tiles.tiles[0].read_image())[None])
        model = build_model(
            Architecture(preset["arch"], preset["encoder"], preset["decoder_channels"]), tiles.taxonomy.num_classes
        )
        model = TakingTurns(model, image)
        for count in (4, SCORED):  # the first few are not counted
            model.seconds = 0.0
            begin = time.perf_counter()
            tile_counts(model, tiles.tiles[:count], tiles.taxonomy.num_classes, device=device, workers=1)
            scored = time.perf_counter() - begin - model.seconds
    detail = f"{SCORED / scored:.2f} and {SCORED / model.seconds:.2f} tiles/s of {SIDE} px"
    return at_least("3", "scoring a checkpoint : bare forward pass", model.seconds / scored, 0.95, detail=detail)


def measure() -> list[Figure]:
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    return [confusions(), scoring()]
