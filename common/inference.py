"""Predictions on whole tiles of any size."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from tqdm import tqdm

from common.cli import UserError
from common.datasets import STRIDE, network_input, tile_loader
from common.metrics import CALIBRATION_BINS, boundary_reach
from common.models import Checkpoint, rerun_command
from common.taxonomy import IGNORE_INDEX
from common.tiles import TileSet

WINDOW = 1024  # pixels; larger tiles are predicted in windows of this side
OVERLAP = 256  # pixels that neighbouring windows share; their logits are averaged there
METADATA_TO_SCORE = (
    "stage",
    "seed",
    "step",
    "iterations",
    "cumulative_steps",
    "arch",
    "encoder",
    "taxonomy",
    "stretch",
    "val",
    "command",
)


def _forward(model, images: torch.Tensor) -> torch.Tensor:
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
def predict_logits(model: torch.nn.Module, images: torch.Tensor) -> torch.Tensor:
    """(N, 3, H, W) uint8 images of any size → (N, C, H, W) float32 logits; large ones in overlapping windows."""
    height, width = images.shape[-2:]
    if max(height, width) <= WINDOW:
        return _forward(model, images)
    total = count = None
    for top in _starts(height):
        for left in _starts(width):
            window = (..., slice(top, top + WINDOW), slice(left, left + WINDOW))
            logits = _forward(model, images[window])
            if total is None:
                total = logits.new_zeros(len(images), logits.shape[1], height, width)
                count = logits.new_zeros(height, width)
            total[window] += logits
            count[window] += 1
    return total / count


def predict_tiles(model, tiles: list, *, device, workers: int, desc: str | None = None) -> Iterator:
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


def tile_confusions(model, tiles: list, num_classes: int, *, device, workers: int, desc: str | None = None):
    """(T, C, C) int64 confusion matrix of each tile, rows truth, in the order of ``tiles``."""
    confusions = torch.zeros(len(tiles), num_classes, num_classes, dtype=torch.int64)
    for index, mask, logits in predict_tiles(model, tiles, device=device, workers=workers, desc=desc):
        confusions[index] = confusion_by_tile(mask, logits.max(dim=1).indices, num_classes).cpu()
    return confusions.numpy()


def _largest_within(labels: torch.Tensor, reach: int) -> torch.Tensor:
    """Largest value within ``reach`` pixels by Chebyshev distance, of (..., H, W) values >= 0; outside they are 0.

    Of windows of 2, 4, 8 … pixels, each the larger of two shifted copies of the one before, so that the cost grows
    with the logarithm of ``reach``.
    """
    side = 2 * reach + 1
    for dim, pad in ((-1, (reach, reach)), (-2, (0, 0, reach, reach))):
        labels = F.pad(labels, pad)
        window = 1
        while window < side:
            step = min(window, side - window)
            length = labels.shape[dim] - step
            labels = torch.maximum(labels.narrow(dim, 0, length), labels.narrow(dim, step, length))
            window += step
    return labels


def _keep_boundary(labels: torch.Tensor, num_classes: int) -> torch.Tensor:
    """(H, W) uint8 class ids → the same, void but for the boundary pixels; see common.metrics.boundary_score."""
    reach = boundary_reach(*labels.shape)
    mirrored = (num_classes - labels) * (labels != IGNORE_INDEX)  # its largest is that of the smallest class
    near_other = _largest_within(labels, reach) != labels
    near_other |= _largest_within(mirrored, reach) != mirrored
    return labels * near_other


def boundary_counts(truth: torch.Tensor, preds: torch.Tensor, num_classes: int) -> torch.Tensor:
    """(H, W) int64 truth and preds of a tile → (C, 2) int64 intersection and union of their boundary pixels by class.

    What a boundary pixel is, common.metrics.boundary_score says; void has none.
    """
    labelled = truth != IGNORE_INDEX
    truth = _keep_boundary(truth.to(torch.uint8), num_classes)
    preds = _keep_boundary(preds.to(torch.uint8) * labelled, num_classes)
    both = truth * (truth == preds)
    both, truth, preds = (torch.bincount(kept.flatten(), minlength=num_classes) for kept in (both, truth, preds))
    counts = torch.stack([both, truth + preds - both], dim=1)
    counts[IGNORE_INDEX] = 0
    return counts


def calibration_counts(truth: torch.Tensor, preds: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """(H, W) int64 truth and preds, (C, H, W) logits of a tile → (B, 3) float64 counts by bin of confidence.

    They are labelled pixels, the sum of their confidence, and how many are right, as common.metrics.calibration_score
    takes them. Sums of float32 confidences are exact in float64, so that no order of adding changes them.
    """
    confidence = logits.softmax(dim=0).amax(dim=0)
    place = (confidence * CALIBRATION_BINS).ceil_().sub_(1).clamp_(0, CALIBRATION_BINS - 1).to(torch.uint8)
    place.masked_fill_(truth == IGNORE_INDEX, CALIBRATION_BINS)  # a bin of their own, cut off below
    total = torch.bincount(place.flatten(), weights=confidence.flatten().double(), minlength=CALIBRATION_BINS + 1)
    by_hit = torch.bincount((2 * place + (truth == preds)).flatten(), minlength=2 * (CALIBRATION_BINS + 1)).view(-1, 2)
    return torch.stack([by_hit.sum(dim=1), total, by_hit[:, 1]], dim=1)[:CALIBRATION_BINS]


class TileCounts(NamedTuple):
    """Counts of each of T tiles, from which every score of a split is computed.

    ``confusions`` (T, C, C) int64, rows truth; ``boundary`` (T, C, 2) int64, see ``boundary_counts``;
    ``calibration`` (T, B, 3) float64, see ``calibration_counts``.
    """

    confusions: np.ndarray
    boundary: np.ndarray
    calibration: np.ndarray


def tile_counts(model, tiles: list, num_classes: int, *, device, workers: int, desc: str | None = None) -> TileCounts:
    """All counts of each tile from one forward pass, in the order of ``tiles``."""
    confusions = torch.zeros(len(tiles), num_classes, num_classes, dtype=torch.int64)
    boundary = torch.zeros(len(tiles), num_classes, 2, dtype=torch.int64)
    calibration = torch.zeros(len(tiles), CALIBRATION_BINS, 3, dtype=torch.float64)
    for index, mask, logits in predict_tiles(model, tiles, device=device, workers=workers, desc=desc):
        for i, truth, of_tile in zip(index.tolist(), mask, logits, strict=True):  # one by one, which stays in caches
            preds = of_tile.max(dim=0).indices
            confusions[i] = confusion_by_tile(truth[None], preds[None], num_classes)[0]
            boundary[i] = boundary_counts(truth, preds, num_classes)
            calibration[i] = calibration_counts(truth, preds, of_tile)
    return TileCounts(confusions.numpy(), boundary.numpy(), calibration.numpy())


class UnfinishedRun(UserError):
    """The run of a checkpoint has not come to its end."""


def open_to_score(
    path: Path, stage: str, seed: int, tiles: TileSet, command: str
) -> tuple[Checkpoint, torch.nn.Module]:
    """A checkpoint that may be scored on ``tiles``, and its network.

    Args:
        path: the checkpoint.
        stage, seed: the run it must be of.
        tiles: the split it is scored on.
        command: trains this stage and seed, for the messages.

    Raises:
        UnfinishedRun: the run has not reached its last step.
        UserError: the file is missing or broken, is of another run or network, or was trained under another
            taxonomy, scaling or split, so that its scores would not be comparable or its training tiles may be here.
    """
    remedy = f"{command} --overwrite"
    found = Checkpoint.load(path, remedy).require(METADATA_TO_SCORE)
    known = found.metadata
    remedy = rerun_command(known["command"], "--overwrite")
    if (known["stage"], known["seed"]) != (stage, seed):
        raise UserError(
            f"{path} is of {known['stage']} seed {known['seed']}, expected {stage} seed {seed}. "
            f"Train it again: {remedy}"
        )
    if found.training is not None:
        raise UnfinishedRun(
            f"{path} is of an unfinished run, at step {known['step']} of {known['iterations']}. "
            f"Finish it: {rerun_command(known['command'], '--resume')}"
        )
    if found.taxonomy != tiles.taxonomy:
        raise UserError(
            f"{path} was trained for the classes {', '.join(found.taxonomy.classes)}, but {tiles.path} has "
            f"{', '.join(tiles.taxonomy.classes)} (or other colours or OpenEarthMap rows). Train it again: {remedy}"
        )
    if known["stretch"] != tiles.stretch:
        raise UserError(
            f"{path} was trained on images scaled to 8 bit otherwise than those of {tiles.path}. "
            f"Train it again: {remedy}"
        )
    if tiles.split == "val" and known["val"]["digest"] != tiles.digest:
        raise UserError(
            f"{path} was trained beside another val split than {tiles.path}, whose tiles may be among those it was "
            f"trained on. Train it again: {remedy}"
        )
    return found, found.build()
