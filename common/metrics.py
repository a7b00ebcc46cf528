"""Segmentation metrics, all from one confusion matrix with rows truth and columns prediction."""

import numpy as np

from common.taxonomy import IGNORE_INDEX, Taxonomy


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


def mean_iou_of(metrics: dict, names: list[str]) -> float | None:
    """Mean IoU, in what ``score`` returned, of those of the classes ``names`` that occur; None where none does."""
    values = [metrics["classes"][name]["IoU"] for name in names if name in metrics["classes"]]
    return float(np.mean(values)) if values else None
