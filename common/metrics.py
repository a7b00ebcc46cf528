"""Segmentation metrics from pixel counts that add up over tiles: of labelled pixels alone, void counts nowhere."""

import math
from collections.abc import Collection

import numpy as np

from common.taxonomy import IGNORE_INDEX, Taxonomy

BOUNDARY_SHARE = 0.02  # of a tile's diagonal, as in Cheng et al. 2021
CALIBRATION_BINS = 15  # of equal width over confidences 0-1, as in Guo et al. 2017


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.zeros_like(part, dtype=float), where=whole > 0)


def class_ratios(confusions: np.ndarray) -> dict[str, np.ndarray]:
    """Ratios of (..., C, C) confusion matrices with rows truth, over the labelled pixels; 0 where nothing is counted.

    Returns:
        ``IoU``, ``F1``, ``precision``, ``recall``: (..., C) of each class; ``OA``: (...) share that is right.
    """
    counted = np.array(confusions, dtype=float)  # exact up to 2^53 pixels
    counted[..., IGNORE_INDEX, :] = 0
    hits = np.diagonal(counted, axis1=-2, axis2=-1)
    truth, predicted = counted.sum(axis=-1), counted.sum(axis=-2)
    return {
        "IoU": _ratio(hits, truth + predicted - hits),
        "F1": _ratio(2 * hits, truth + predicted),
        "precision": _ratio(hits, predicted),
        "recall": _ratio(hits, truth),
        "OA": _ratio(hits.sum(axis=-1), truth.sum(axis=-1)),
    }


def score(confusion: np.ndarray, taxonomy: Taxonomy) -> dict:
    """Metrics of a (C, C) int64 confusion matrix with rows truth, over the labelled pixels.

    Returns:
        ``mIoU``, ``mF1``: means over the foreground classes that occur in the truth; ``OA``: share of labelled
        pixels that are right; ``classes``: for each of those classes ``IoU``, ``F1``, ``precision``, ``recall``
        and ``pixels``; ``absent``: the foreground classes that do not occur, which are scored nowhere.
        The three means are None if no pixel is labelled.
    """
    ratios, truth = class_ratios(confusion), np.asarray(confusion).sum(axis=1)
    present = [i for i in range(1, taxonomy.num_classes) if truth[i] > 0]
    return {
        "mIoU": float(ratios["IoU"][present].mean()) if present else None,
        "mF1": float(ratios["F1"][present].mean()) if present else None,
        "OA": float(ratios["OA"]) if present else None,
        "classes": {
            taxonomy.classes[i]: {
                **{key: float(ratios[key][i]) for key in ("IoU", "F1", "precision", "recall")},
                "pixels": int(truth[i]),
            }
            for i in present
        },
        "absent": [name for i, name in enumerate(taxonomy.foreground, 1) if truth[i] == 0],
    }


def mean_iou_of(metrics: dict, names: list[str]) -> float | None:
    """Mean IoU, in what ``score`` returned, of those of the classes ``names`` that occur; None if none does."""
    values = [metrics["classes"][name]["IoU"] for name in names if name in metrics["classes"]]
    return float(np.mean(values)) if values else None


def boundary_reach(height: int, width: int) -> int:
    """Pixels from a class's contour that count to its boundary: BOUNDARY_SHARE of the diagonal, at least 1."""
    return max(1, round(BOUNDARY_SHARE * math.hypot(height, width)))


def boundary_score(counts: np.ndarray, taxonomy: Taxonomy, names: Collection[str]) -> dict:
    """Boundary IoU of each class: IoU of the pixels of truth and of prediction close to their own class's contour.

    A pixel of class c is a boundary pixel if some pixel within ``boundary_reach``, by Chebyshev distance, is of a
    class that is neither c nor void. Land cover fills the tile where objects stand alone, so two things differ from
    the source: the edge of the tile is no contour, and neither is the border to void; pixels that are void in the
    truth are void in the prediction too.

    Args:
        counts: (C, 2) int64 boundary pixels of each class, intersection and union of truth and prediction.
        names: the classes that occur in the truth, which are the keys of ``classes`` in what ``score`` returned.

    Returns:
        ``distance_share``; ``mIoU``: mean over ``classes``, None if there is none; ``classes``: the boundary IoU
        of each of ``names``, None and left out of the mean if neither truth nor prediction has boundary pixels.

    Source: Cheng et al. 2021, "Boundary IoU", arXiv:2103.16562.
    """
    by_class = {}
    for name in names:
        intersection, union = counts[taxonomy.index(name)].tolist()
        by_class[name] = intersection / union if union else None
    values = [value for value in by_class.values() if value is not None]
    return {
        "distance_share": BOUNDARY_SHARE,
        "mIoU": float(np.mean(values)) if values else None,
        "classes": by_class,
    }


def calibration_score(counts: np.ndarray) -> dict:
    """Expected calibration error: how far the confidence of predictions is from the share of them that is right.

    Confidence is the largest probability of a pixel. Labelled pixels are put in bins of equal width by it, and the
    error is the sum over bins of ``pixels of the bin / pixels * |accuracy - mean confidence|``: 0 where of the
    predictions of each confidence exactly that share is right.

    Args:
        counts: (B, 3) float64, for each bin its pixels, the sum of their confidence, and how many of them are right;
            bin b holds confidences above b / B up to (b + 1) / B.

    Returns:
        ``bins``; ``ECE`` and ``mean_confidence``, None if there is no pixel; ``reliability``: of each bin ``low``,
        ``high``, ``pixels``, mean ``confidence`` and ``accuracy``, the last two None if it is empty.

    Source: Naeini et al. 2015 (AAAI), "Obtaining well calibrated probabilities using Bayesian binning"; Guo et al.
    2017, arXiv:1706.04599, section 2.
    """
    pixels, confidence, correct = np.asarray(counts, dtype=float).T
    total, bins = pixels.sum(), len(pixels)
    return {
        "bins": bins,
        "ECE": float(np.abs(correct - confidence).sum() / total) if total else None,
        "mean_confidence": float(confidence.sum() / total) if total else None,
        "reliability": [
            {
                "low": b / bins,
                "high": (b + 1) / bins,
                "pixels": int(pixels[b]),
                "confidence": float(confidence[b] / pixels[b]) if pixels[b] else None,
                "accuracy": float(correct[b] / pixels[b]) if pixels[b] else None,
            }
            for b in range(bins)
        ],
    }
