"""Predictions on complete tiles of any size."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from tqdm import tqdm

from common.datasets import STRIDE, network_input, tile_loader
from common.tiles import Tile

WINDOW = 1024  # pixels; larger images are predicted in windows of this side
OVERLAP = 256  # pixels that neighbouring windows share at least; their probabilities are blended there


def forward(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Logits of (N, B, H, W) uint8 images of any size: padded by reflection to a multiple of STRIDE, and cut back."""
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


@dataclass(frozen=True)
class WindowAxis:
    """The windows along one side of an image of ``length`` pixels: as few as share ``overlap``, evenly spaced."""

    length: int
    window: int = WINDOW
    overlap: int = OVERLAP

    @property
    def side(self) -> int:
        """Pixels of a window: all of a side that is shorter than ``window``."""
        return min(self.window, self.length)

    @property
    def starts(self) -> list[int]:
        """The first pixel of each window."""
        free = self.length - self.side
        steps = math.ceil(free / (self.window - self.overlap))
        return [free * n // steps for n in range(steps + 1)] if steps else [0]

    def shares(self) -> list[np.ndarray]:
        """Of each window (side,) float32 shares in the blend, above 0 everywhere; they sum to 1 at each pixel.

        A window weighs the less the nearer its edge is: the square of the distance in pixels, from 1 in the last one to
        ``overlap`` further in. These weights are whole numbers, and so is the sum that they are divided by.
        """
        at = np.arange(self.side)
        weights = np.minimum(np.minimum(at, at[::-1]) + 1, max(self.overlap, 1)) ** 2
        total = np.zeros(self.length, np.int64)
        for start in self.starts:
            total[start : start + self.side] += weights
        return [(weights / total[start : start + self.side]).astype(np.float32) for start in self.starts]


@torch.no_grad()
def predict_logits(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """(N, B, H, W) uint8 images of any size → (N, C, H, W) float32 logits.

    Larger ones than WINDOW are seen in overlapping windows, and their logits are the logarithms of the blended
    probabilities.
    """
    height, width = images.shape[-2:]
    if max(height, width) <= WINDOW:
        return forward(model, images)
    rows, columns = (WindowAxis(length, WINDOW, OVERLAP) for length in (height, width))
    total = torch.zeros(0)
    for top, of_rows in zip(rows.starts, rows.shares(), strict=True):
        for left, of_columns in zip(columns.starts, columns.shares(), strict=True):
            window = (..., slice(top, top + rows.side), slice(left, left + columns.side))
            probabilities = forward(model, images[window]).softmax(dim=1)
            if not total.numel():
                total = probabilities.new_zeros(len(images), probabilities.shape[1], height, width)
            share = torch.from_numpy(of_rows[:, None] * of_columns).to(total.device)
            total[window] += probabilities * share
    return total.clamp_(min=torch.finfo(total.dtype).tiny).log_()


def predict_tiles(
    model: nn.Module, tiles: Sequence[Tile], *, device: torch.device, workers: int, desc: str | None = None
) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Yield ``tile`` (N,) indices, ``mask`` (N, H, W) int64 and ``logits`` (N, C, H, W) of batches of complete tiles.

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
