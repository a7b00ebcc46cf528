"""Item 1: augmented crops against plain reading of the same files, in one process.

The folder has as many tiles as the real one: GDAL lists it each time that it opens a file, unless told not to.
"""

import tempfile
from pathlib import Path

import numpy as np
import rasterio
import torch
from PIL import Image

from common.croppers import MinorityCrop, RandomCrop
from common.datasets import network_input
from common.device import resolve_device
from common.samplers import UniformTiles
from common.tiles import TileSet
from tests.benchmarks.generated import SIDE, write_tile_set
from tests.benchmarks.measuring import Figure, alternate, at_least
from tests.helpers import made
from training.engine.crops import CropDataset, StepSampler, TileDraws, crop_loader

TILES, DISTINCT, BATCH, BATCHES, ROUNDS = 2_300, 300, 8, 25, 6


def measure() -> list[Figure]:
    torch.set_num_threads(1)
    device = resolve_device("cpu")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "train"
        write_tile_set(path, TILES, split="train", distinct=DISTINCT)
        tiles = TileSet.open(made(path))
        draws = TileDraws(tiles, UniformTiles(), seed=0)

        def plain(**options):
            for position in range(BATCH * BATCHES):
                tile = tiles.tiles[draws(position)]
                with rasterio.Env(**options), rasterio.open(tile.image_path) as src:
                    src.read()
                with Image.open(tile.mask_path) as image:
                    np.array(image)

        def crops(cropper, prepare: bool):
            data = CropDataset(tiles, draws, cropper, seed=0)
            for batch in crop_loader(data, StepSampler(0, BATCHES, BATCH), 0, device):
                if prepare:
                    network_input(batch["image"], batch["photometric"])

        minority = tiles.taxonomy.num_classes - 1
        plain_s, unlisted_s, whole_s, whole_ready_s, random_s, minority_s = alternate(
            ROUNDS,
            plain,
            lambda: plain(GDAL_DISABLE_READDIR_ON_OPEN="EMPTY_DIR"),
            lambda: crops(RandomCrop(SIDE), prepare=False),
            lambda: crops(RandomCrop(SIDE), prepare=True),
            lambda: crops(RandomCrop(SIDE // 2), prepare=False),
            lambda: crops(MinorityCrop(SIDE // 2, [minority - 1, minority]), prepare=False),
        )
    done = BATCH * BATCHES * ROUNDS
    rates = f"{done / whole_s:.0f} crops/s, plain reading {done / plain_s:.0f} tiles/s"
    return [
        at_least("1", "crops of 512 px : plain reading", plain_s / whole_s, 0.5, detail=rates),
        Figure("1", "the same, plain reading told not to list the folder", unlisted_s / whole_s, ""),
        Figure("1", "crops standardised on the CPU as well : plain reading", plain_s / whole_ready_s, ""),
        Figure("1", "the same, plain reading told not to list the folder", unlisted_s / whole_ready_s, ""),
        at_least("1", "minority crop : random crop, 256 px", random_s / minority_s, 0.8),
        Figure("1", "crops of 256 px : plain reading of 512 px", plain_s / random_s, ""),
    ]
