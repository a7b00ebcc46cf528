"""Item 3: confusion matrices against scikit-learn, and scoring a checkpoint against its bare forward pass."""

import os
import tempfile
from pathlib import Path

import numpy as np
import torch
from sklearn.metrics import confusion_matrix

from common.datasets import network_input
from common.inference import confusion_by_tile, tile_counts
from common.models import build_model
from common.presets import PRESETS
from common.tiles import TileSet
from tests.benchmarks.generated import SIDE, write_tile_set
from tests.benchmarks.measuring import Figure, alternate, at_least

TILES, SCORED = 16, 8


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


def scoring() -> Figure:
    preset = PRESETS["laptop"]
    workers = max(1, min(8, (os.cpu_count() or 1) - 1))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "val"
        write_tile_set(path, 8 * SCORED, split="val", distinct=8 * SCORED)
        tiles = TileSet.open(path, "")
        model = build_model(preset["arch"], preset["encoder"], tiles.taxonomy.num_classes).eval()
        images = network_input(torch.stack([torch.from_numpy(tile.read_image()) for tile in tiles.tiles[:SCORED]]))

        @torch.no_grad()
        def bare():
            for _ in range(8):
                model(images)

        def score():
            tile_counts(
                model, tiles.tiles, tiles.taxonomy.num_classes, device=torch.device("cpu"), workers=workers
            )

        bare_s, score_s = alternate(3, bare, score)
    detail = f"{24 * SCORED / score_s:.2f} tiles/s of {SIDE} px with all counts"
    return at_least("3", "scoring a checkpoint : bare forward pass", bare_s / score_s, 0.95, detail=detail)


def measure() -> list[Figure]:
    return [confusions(), scoring()]
