"""Predictions on whole tiles of any size."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from tqdm import tqdm

from common.datasets import STRIDE, network_input, tile_loader
from common.tiles import Tile

WINDOW = 1024  # pixels; larger tiles are predicted in windows of this side
OVERLAP = 256  # pixels that neighbouring windows share; their logits are averaged there


def _forward(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Logits of images of any size: padded by reflection to a multiple of STRIDE, and cut back."""
    height, width = images.shape[-2:]
    bottom, right = -height % STRIDE, -width % STRIDE
    images = network_input(images)
    while bottom or right:  # reflection reaches at most one pixel less than the image itself
        step = min(bottom, images.shape[-2] - 1), min(right, images.shape[-1] - 1)
        mode = "reflect" if max(step) > 0 else "replicate"  # a side of one pixel has nothing to reflect
        step = step if mode == "reflect" else (bottom, right)
        images = F.pad(images, (0, step[1], 0, step[0]), mode=mode)
        bottom, right = bottom - step[0], right - step[1]
    return model(images)[..., :height, :width]


def _starts(length: int) -> list[int]:
    if length <= WINDOW:
        return [0]
    return [*range(0, length - WINDOW, WINDOW - OVERLAP), length - WINDOW]


@torch.no_grad()
def predict_logits(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """(N, 3, H, W) uint8 images of any size → (N, C, H, W) float32 logits; large ones in overlapping windows."""
    height, width = images.shape[-2:]
    if max(height, width) <= WINDOW:
        return _forward(model, images)
    total, count = torch.zeros(0), torch.zeros(0)
    for top in _starts(height):
        for left in _starts(width):
            window = (..., slice(top, top + WINDOW), slice(left, left + WINDOW))
            logits = _forward(model, images[window])
            if not total.numel():
                total = logits.new_zeros(len(images), logits.shape[1], height, width)
                count = logits.new_zeros(height, width)
            total[window] += logits
            count[window] += 1
    return total / count


def predict_tiles(
    model: nn.Module, tiles: Sequence[Tile], *, device: torch.device, workers: int, desc: str | None = None
) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Yield ``tile`` (N,) indices, ``mask`` (N, H, W) int64 and ``logits`` (N, C, H, W) of batches of whole tiles.

    ``model`` is put in eval mode. With ``desc`` a progress bar is shown.
    """
    model.eval()
    with tqdm(total=len(tiles), desc=desc, unit="tile", disable=desc is None, leave=False) as bar:
        for batch in tile_loader(tiles, workers, device):
            images = batch["image"].to(device, non_blocking=True)
            mask = batch["mask"].to(device, non_blocking=True).long()
            yield batch["tile"], mask, predict_logits(model, images)
            bar.update(len(images))


def confusion_by_tile(truth: torch.Tensor, preds: torch.Tensor, num_classes: int) -> torch.Tensor:
    """(N, H, W) int64 truth and preds → (N, C, C) int64 pixel counts, rows truth; void rows are counted too."""
    n = len(truth)
    offset = torch.arange(n, device=truth.device)[:, None, None] * num_classes**2
    cells = offset + truth * num_classes + preds
    return torch.bincount(cells.flatten(), minlength=n * num_classes**2).view(n, num_classes, num_classes)


# The class of a pixel is taken as max(...).indices: argmax takes ten times as long on the CPU.


def tile_confusions(
    model: nn.Module,
    tiles: Sequence[Tile],
    num_classes: int,
    *,
    device: torch.device,
    workers: int,
    desc: str | None = None,
) -> np.ndarray:
    """(T, C, C) int64 confusion matrix of each tile, rows truth, in the order of ``tiles``."""
    confusions = torch.zeros(len(tiles), num_classes, num_classes, dtype=torch.int64)
    for index, mask, logits in predict_tiles(model, tiles, device=device, workers=workers, desc=desc):
        confusions[index] = confusion_by_tile(mask, logits.max(dim=1).indices, num_classes).cpu()
    return confusions.numpy()
