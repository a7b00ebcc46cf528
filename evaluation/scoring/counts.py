"""Counts of pixels on complete tiles, from which every score is computed: confusions, boundaries, calibration."""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F

from common.inference import confusion_by_tile, predict_tiles
from common.metrics import CALIBRATION_BINS, boundary_reach
from common.taxonomy import IGNORE_INDEX
from common.tiles import Tile


def _largest_within(labels: torch.Tensor, reach: int) -> torch.Tensor:
    """Largest value within ``reach`` pixels by Chebyshev distance, of (..., H, W) values >= 0; outside they are 0.

    Of windows of 2, 4, 8 … pixels, each the larger of two shifted copies of the one before, so that the cost grows
    with the logarithm of ``reach``: max_pool2d takes over a hundred times as long on the CPU.
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
    bins = (confidence * CALIBRATION_BINS).ceil_().sub_(1).clamp_(0, CALIBRATION_BINS - 1).to(torch.uint8)
    bins.masked_fill_(truth == IGNORE_INDEX, CALIBRATION_BINS)  # a bin of their own, cut off below
    total = torch.bincount(bins.flatten(), weights=confidence.flatten().double(), minlength=CALIBRATION_BINS + 1)
    by_hit = torch.bincount((2 * bins + (truth == preds)).flatten(), minlength=2 * (CALIBRATION_BINS + 1)).view(-1, 2)
    return torch.stack([by_hit.sum(dim=1), total, by_hit[:, 1]], dim=1)[:CALIBRATION_BINS]


def tile_counts(
    model: torch.nn.Module,
    tiles: list[Tile],
    num_classes: int,
    *,
    device: torch.device,
    workers: int,
    desc: str | None = None,
    keep: Callable[[int, np.ndarray], None] | None = None,
) -> dict[str, np.ndarray]:
    """All counts of each tile from one forward pass, in the order of ``tiles``.

    Args:
        keep: takes the index of each tile and the (H, W) uint8 class ids predicted there.

    Returns:
        ``confusions``, ``boundary`` and ``calibration`` as evaluation.scoring.results.TileCounts holds them.
    """
    confusions = torch.zeros(len(tiles), num_classes, num_classes, dtype=torch.int64)
    boundary = torch.zeros(len(tiles), num_classes, 2, dtype=torch.int64)
    calibration = torch.zeros(len(tiles), CALIBRATION_BINS, 3, dtype=torch.float64)
    for index, mask, logits in predict_tiles(model, tiles, device=device, workers=workers, desc=desc):
        for i, truth, of_tile in zip(index.tolist(), mask, logits, strict=True):  # one by one, which stays in caches
            preds = of_tile.max(dim=0).indices
            confusions[i] = confusion_by_tile(truth[None], preds[None], num_classes)[0]
            boundary[i] = boundary_counts(truth, preds, num_classes)
            calibration[i] = calibration_counts(truth, preds, of_tile)
            if keep is not None:
                keep(i, preds.to(torch.uint8).cpu().numpy())
    return {"confusions": confusions.numpy(), "boundary": boundary.numpy(), "calibration": calibration.numpy()}
