"""Scores agree with scikit-learn and with a matrix worked by hand."""

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, f1_score, jaccard_score

from common.inference import confusion_by_tile
from common.metrics import mean_iou_of, score
from common.taxonomy import BIODIVERSITY, IGNORE_INDEX, Taxonomy

THREE = Taxonomy(classes=("void", "a", "b", "c"), colors=("#000000", "#ff0000", "#00ff00", "#0000ff"))


def test_matrix_worked_by_hand():
    confusion = np.array(
        [
            [4, 5, 5, 5],  # void: counts nowhere, whatever is predicted there
            [0, 6, 2, 0],
            [0, 1, 3, 1],  # one pixel is taken for c, which does not occur
            [0, 0, 0, 0],
        ]
    )
    scores = score(confusion, THREE)
    assert scores["mIoU"] == pytest.approx((6 / 9 + 3 / 7) / 2)
    assert scores["mF1"] == pytest.approx((12 / 15 + 6 / 10) / 2)
    assert scores["OA"] == pytest.approx(9 / 13)
    assert scores["classes"]["a"] == pytest.approx(
        {"IoU": 6 / 9, "F1": 0.8, "precision": 6 / 7, "recall": 6 / 8, "pixels": 8}
    )
    assert scores["absent"] == ["c"]
    assert "c" not in scores["classes"]
    assert mean_iou_of(scores, ["b", "c"]) == pytest.approx(3 / 7)
    assert mean_iou_of(scores, ["c"]) is None


def test_a_class_that_is_never_predicted_scores_zero_and_lowers_the_mean():
    scores = score(np.array([[0, 0, 0, 0], [0, 5, 0, 0], [0, 5, 0, 0], [0, 0, 0, 0]]), THREE)
    assert scores["classes"]["b"] == {"IoU": 0, "F1": 0, "precision": 0, "recall": 0, "pixels": 5}
    assert scores["mIoU"] == pytest.approx(0.25)


def test_nothing_labelled_has_no_score():
    scores = score(np.full((4, 4), 3) * (np.arange(4) == 0)[:, None], THREE)
    assert [scores[key] for key in ("mIoU", "mF1", "OA")] == [None, None, None]
    assert scores["absent"] == ["a", "b", "c"]


@pytest.mark.parametrize("absent", [None, 3])
def test_scores_agree_with_scikit_learn_on_the_same_pixels(absent):
    rng = np.random.default_rng(5)
    truth = rng.choice(6, size=(7, 40, 33), p=[0.2, 0.4, 0.2, 0.1, 0.06, 0.04])
    preds = np.where(rng.random(truth.shape) < 0.6, truth.clip(1), rng.integers(1, 6, truth.shape))
    if absent is not None:
        truth[truth == absent] = 1  # it is still predicted
    confusion = confusion_by_tile(torch.from_numpy(truth), torch.from_numpy(preds), 6).sum(dim=0).numpy()
    scores = score(confusion, BIODIVERSITY)

    labelled = truth != IGNORE_INDEX
    t, p = truth[labelled], preds[labelled]
    present = sorted(set(t.tolist()))
    assert (absent in present) is False
    assert (absent in p) is (absent is not None)
    assert scores["mIoU"] == pytest.approx(jaccard_score(t, p, labels=present, average="macro"), abs=1e-6)
    assert scores["mF1"] == pytest.approx(f1_score(t, p, labels=present, average="macro"), abs=1e-6)
    assert scores["OA"] == pytest.approx(accuracy_score(t, p), abs=1e-6)
    each = jaccard_score(t, p, labels=present, average=None)
    assert [values["IoU"] for values in scores["classes"].values()] == pytest.approx(each.tolist(), abs=1e-6)
    assert scores["absent"] == ([] if absent is None else [BIODIVERSITY.classes[absent]])


def test_each_tile_has_its_own_matrix_with_rows_truth():
    truth = torch.tensor([[[1, 1, 2]], [[0, 3, 3]]])
    preds = torch.tensor([[[1, 2, 2]], [[1, 3, 1]]])
    matrices = confusion_by_tile(truth, preds, 4)
    assert matrices.dtype == torch.int64
    assert {tuple(cell) for cell in matrices[0].nonzero().tolist()} == {(1, 1), (1, 2), (2, 2)}
    assert {tuple(cell) for cell in matrices[1].nonzero().tolist()} == {(0, 1), (3, 3), (3, 1)}
