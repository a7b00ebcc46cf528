"""Segmentation metrics, all from one confusion matrix with rows truth and columns prediction."""

import numpy as np
import torch

from common.taxonomy import IGNORE_INDEX, Taxonomy


def confusion_by_tile(truth: torch.Tensor, preds: torch.Tensor, num_classes: int) -> torch.Tensor:
    """(N, H, W) int64 truth and preds → (N, C, C) int64 pixel counts, rows truth; void rows are counted too."""
    n = len(truth)
    offset = torch.arange(n, device=truth.device)[:, None, None] * num_classes**2
    cells = offset + truth * num_classes + preds
    return torch.bincount(cells.flatten(), minlength=n * num_classes**2).view(n, num_classes, num_classes)


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.zeros_like(part, dtype=float), where=whole > 0)


def score(confusion: np.ndarray, taxonomy: Taxonomy) -> dict:
    """Metrics of a (C, C) int64 confusion matrix with rows truth, over the labelled pixels.

    Returns:
        ``mIoU``, ``mF1``: means over the foreground classes that occur in the truth; ``OA``: share of labelled
        pixels that are right; ``classes``: for each of those classes ``IoU``, ``F1``, ``precision``, ``recall``
        and ``pixels``; ``absent``: the foreground classes that do not occur, which are scored nowhere.
        The three means are None where no pixel is labelled.
    """
    counted = np.array(confusion, dtype=np.int64)
    counted[IGNORE_INDEX] = 0
    hits = counted.diagonal().astype(float)
    truth, predicted = counted.sum(axis=1), counted.sum(axis=0)
    iou = _ratio(hits, truth + predicted - hits)
    f1 = _ratio(2 * hits, truth + predicted)
    precision, recall = _ratio(hits, predicted), _ratio(hits, truth)
    present = [i for i in range(1, taxonomy.num_classes) if truth[i] > 0]
    return {
        "mIoU": float(iou[present].mean()) if present else None,
        "mF1": float(f1[present].mean()) if present else None,
        "OA": float(hits.sum() / truth.sum()) if present else None,
        "classes": {
            taxonomy.classes[i]: {
                "IoU": float(iou[i]),
                "F1": float(f1[i]),
                "precision": float(precision[i]),
                "recall": float(recall[i]),
                "pixels": int(truth[i]),
            }
            for i in present
        },
        "absent": [name for i, name in enumerate(taxonomy.foreground, 1) if truth[i] == 0],
    }
