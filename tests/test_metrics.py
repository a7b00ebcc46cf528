"""Scores agree with scikit-learn, with loops over pixels, and with numbers worked by hand."""

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, f1_score, jaccard_score

from common import inference
from common.cli import UserError
from common.inference import boundary_counts, calibration_counts, confusion_by_tile
from common.metrics import (
    CALIBRATION_BINS,
    boundary_reach,
    boundary_score,
    calibration_score,
    mean_iou_of,
    score,
)
from common.results import TileConfusions
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


def blocky(rng, height, width, classes, side=5):
    """Class ids in squares of ``side`` pixels with single pixels of others strewn in."""
    coarse = rng.integers(0, classes, (-(-height // side), -(-width // side)))
    labels = coarse.repeat(side, axis=0).repeat(side, axis=1)[:height, :width]
    return np.where(rng.random(labels.shape) < 0.03, rng.integers(0, classes, labels.shape), labels)


def boundary_by_loops(truth, preds, num_classes, reach):
    """Intersection and union of boundary pixels, pixel by pixel as the definition has it."""
    preds = np.where(truth == 0, 0, preds)

    def near_another(labels, y, x):
        around = labels[max(0, y - reach) : y + reach + 1, max(0, x - reach) : x + reach + 1]
        return any(other not in (0, labels[y, x]) for other in around.flatten())

    counts = np.zeros((num_classes, 2), int)
    for y, x in np.ndindex(truth.shape):
        kept = {(m, labels[y, x]) for m, labels in enumerate((truth, preds)) if near_another(labels, y, x)}
        for c in range(1, num_classes):
            both = [(m, c) in kept for m in (0, 1)]
            counts[c] += all(both), any(both)
    return counts.tolist()


def boundary_of(truth, preds, num_classes=6):
    return boundary_counts(torch.from_numpy(truth), torch.from_numpy(preds), num_classes).tolist()


@pytest.mark.parametrize("reach", [1, 3, 40])
def test_boundary_pixels_are_those_that_loops_over_pixels_find(monkeypatch, reach):
    monkeypatch.setattr(inference, "boundary_reach", lambda height, width: reach)
    rng = np.random.default_rng(reach)
    for height, width in ((31, 22), (1, 17), (24, 24)):
        truth = blocky(rng, height, width, 6)
        preds = np.where(rng.random(truth.shape) < 0.1, rng.integers(1, 6, truth.shape), np.roll(truth, 1, 1).clip(1))
        wanted = boundary_by_loops(truth, preds, 6, reach)
        assert sum(either for _, either in wanted) > 0
        assert boundary_of(truth, preds) == wanted


def test_boundary_is_two_percent_of_the_diagonal_and_at_least_a_pixel():
    assert [boundary_reach(512, 512), boundary_reach(106, 106), boundary_reach(300, 400)] == [14, 3, 10]
    assert [boundary_reach(10, 10), boundary_reach(1, 1)] == [1, 1]


def square(left):
    """A square of 20 pixels of class b on class a, in a tile whose boundaries are 2 pixels wide."""
    labels = np.ones((60, 60), int)
    labels[20:40, left : left + 20] = 2
    return labels


def test_boundary_iou_of_a_shifted_square_worked_by_hand():
    assert boundary_reach(60, 60) == 2
    counts = boundary_counts(torch.from_numpy(square(20)), torch.from_numpy(square(21)), 4)
    # rings of 144 pixels each, which share 4 rows of 19 pixels and in 16 rows 2 pixels
    assert counts[2].tolist() == [108, 144 + 144 - 108]
    scores = boundary_score(counts.numpy(), THREE, ["a", "b"])
    assert scores["classes"]["b"] == pytest.approx(0.6)
    assert scores["mIoU"] == pytest.approx((scores["classes"]["a"] + 0.6) / 2)
    assert scores["distance_share"] == 0.02


def test_equal_maps_have_boundary_iou_1():
    labels = blocky(np.random.default_rng(3), 40, 50, 6)
    scores = boundary_score(np.array(boundary_of(labels, labels)), BIODIVERSITY, BIODIVERSITY.foreground)
    assert scores["classes"] == dict.fromkeys(BIODIVERSITY.foreground, 1.0)
    assert scores["mIoU"] == 1


def test_neither_the_edge_of_the_tile_nor_void_is_a_contour():
    halves = np.ones((60, 60), int)
    halves[:, 30:] = 2
    assert boundary_of(halves, halves, 4) == [[0, 0], [120, 120], [120, 120], [0, 0]]
    halves[:, 28:32] = 0  # as far as boundaries reach from either side
    assert boundary_of(halves, halves.clip(1), 4) == [[0, 0]] * 4


def test_what_is_predicted_on_void_counts_nowhere():
    truth, rng = blocky(np.random.default_rng(4), 40, 40, 4), np.random.default_rng(5)
    preds = np.where(truth == 0, 1, np.roll(truth, 1, 0).clip(1))
    other = np.where(truth == 0, rng.integers(1, 4, truth.shape), preds)
    assert (preds != other).any()
    assert boundary_of(truth, preds, 4) == boundary_of(truth, other, 4)


def test_boundary_mean_is_over_classes_of_the_truth_with_boundary_pixels():
    counts = np.array([[0, 0], [30, 40], [0, 50], [0, 0]])
    assert boundary_score(counts, THREE, ["a", "b", "c"])["classes"] == {"a": 0.75, "b": 0, "c": None}
    assert boundary_score(counts, THREE, ["a", "b", "c"])["mIoU"] == 0.375
    assert boundary_score(counts, THREE, ["a"])["mIoU"] == 0.75
    assert boundary_score(counts, THREE, ["c"])["mIoU"] is None


def test_boundary_counts_of_tiles_add_up_to_those_of_all_tiles_on_one_map(monkeypatch):
    monkeypatch.setattr(inference, "boundary_reach", lambda height, width: 3)
    rng = np.random.default_rng(6)
    truth = [blocky(rng, 30, 25, 6) for _ in range(3)]
    preds = [np.roll(labels, 2, 0).clip(1) for labels in truth]
    gap = np.zeros((30, 3), int)  # void, which is no contour, as the edge of a tile is none
    whole = boundary_of(*(np.hstack([a, gap, b, gap, c]) for a, b, c in (truth, preds)))
    assert np.sum([boundary_of(*pair) for pair in zip(truth, preds, strict=True)], axis=0).tolist() == whole


def some_logits(rng, n):
    """Truth with void, and logits that are often right and too sure of it."""
    truth = rng.integers(0, 6, (n, 24, 31))
    logits = rng.normal(0, 2, (n, 6, 24, 31)) + 3 * (np.arange(6)[:, None, None] == truth[:, None])
    logits[:, 0] = -1e4
    return torch.from_numpy(truth), torch.from_numpy(logits.astype(np.float32))


def calibration_of(truth, logits):
    preds = logits.argmax(dim=1)
    return np.stack([calibration_counts(*tile).numpy() for tile in zip(truth, preds, logits, strict=True)])


def test_calibration_error_is_that_of_a_direct_computation_over_all_tiles():
    truth, logits = some_logits(np.random.default_rng(7), 3)
    counts = calibration_of(truth, logits)
    found = calibration_score(counts.sum(axis=0))

    labelled = truth.numpy() != 0
    exponents = np.exp(logits.numpy().astype(float))
    probs = np.moveaxis(exponents / exponents.sum(axis=1, keepdims=True), 1, -1)[labelled]
    confidence, right = probs.max(axis=1), probs.argmax(axis=1) == truth.numpy()[labelled]
    error = 0
    for b in range(15):
        inside = (confidence > b / 15) & (confidence <= (b + 1) / 15)
        values = found["reliability"][b]
        assert values["pixels"] == inside.sum()
        if inside.any():
            error += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
            assert values["accuracy"] == pytest.approx(right[inside].mean())
            assert values["confidence"] == pytest.approx(confidence[inside].mean())
    assert sum(values["pixels"] > 100 for values in found["reliability"]) > 5
    assert found["ECE"] == pytest.approx(error)
    assert found["ECE"] > 0.01
    assert found["mean_confidence"] == pytest.approx(confidence.mean())

    side_by_side = calibration_of(*(torch.cat(list(each), dim=-1)[None] for each in (truth, logits)))
    assert (counts.sum(axis=0) == side_by_side[0]).all()


def test_calibration_worked_by_hand():
    counts = np.zeros((CALIBRATION_BINS, 3))
    counts[7] = 6, 6 * 0.5, 3  # as often right as said
    counts[13] = 4, 4 * 0.9, 2  # 40 points too sure
    found = calibration_score(counts)
    assert found["bins"] == 15
    assert found["ECE"] == pytest.approx(0.4 * 0.4)
    assert found["mean_confidence"] == pytest.approx(0.66)
    assert found["reliability"][13] == pytest.approx(
        {"low": 13 / 15, "high": 14 / 15, "pixels": 4, "confidence": 0.9, "accuracy": 0.5}
    )
    assert found["reliability"][0] == {"low": 0, "high": 1 / 15, "pixels": 0, "confidence": None, "accuracy": None}
    nothing = calibration_score(np.zeros((CALIBRATION_BINS, 3)))
    assert (nothing["ECE"], nothing["mean_confidence"]) == (None, None)


def test_probabilities_that_are_right_as_often_as_they_say_have_no_calibration_error():
    probs = torch.tensor([0.0, 0.75, 0.25])
    logits = probs.log().clamp(min=-1e4)[:, None, None].expand(3, 2, 4)
    truth = torch.tensor([[1, 1, 1, 2], [1, 2, 1, 1]])
    preds = torch.ones_like(truth)
    assert calibration_score(calibration_counts(truth, preds, logits).numpy())["ECE"] == pytest.approx(0, abs=1e-7)
    wrong = calibration_score(calibration_counts(3 - truth, preds, logits).numpy())
    assert wrong["ECE"] == pytest.approx(0.5)


def test_a_network_that_is_always_certain_falls_in_the_last_bin():
    truth, logits = torch.tensor([[0, 1, 2]]), torch.tensor([-1e4, 50.0, -50.0])[:, None, None].expand(3, 1, 3)
    counts = calibration_counts(truth, torch.ones_like(truth), logits)
    assert counts[-1].tolist() == [2, 2, 1]
    assert counts[:-1].sum() == 0


def counts_of_two_tiles():
    truth, logits = some_logits(np.random.default_rng(8), 2)
    preds = logits.argmax(dim=1)
    boundary = torch.stack([boundary_counts(*pair, 6) for pair in zip(truth, preds, strict=True)])
    confusions = confusion_by_tile(truth, preds, 6).numpy()
    names = list(BIODIVERSITY.classes)
    return TileConfusions(
        ["a", "b"], ["x", "y"], confusions, names, "tiles", "weights", boundary.numpy(), calibration_of(truth, logits)
    )


def test_counts_of_tiles_are_read_as_they_were_written(tmp_path):
    written = counts_of_two_tiles()
    written.save(tmp_path / "tile_confusions.npz")
    read = TileConfusions.load(tmp_path / "tile_confusions.npz")
    for name, value in vars(written).items():
        np.testing.assert_array_equal(getattr(read, name), value)
        assert type(getattr(read, name)) is type(value)
    assert (read.boundary.dtype, read.boundary.shape) == (np.int64, (2, 6, 2))
    assert (read.calibration.dtype, read.calibration.shape) == (np.float64, (2, 15, 3))


@pytest.mark.parametrize("lacking", ["boundary", "calibration"])
def test_counts_of_tiles_without_all_parts_are_refused(tmp_path, lacking):
    path = tmp_path / "tile_confusions.npz"
    counts_of_two_tiles().save(path)
    with np.load(path) as arrays:
        parts = dict(arrays)
    np.savez(path, **{name: value for name, value in parts.items() if name != lacking})
    with pytest.raises(UserError, match=f"holds no {lacking}. Evaluate again: .*compute_metrics --overwrite"):
        TileConfusions.load(path)
    np.savez(path, **{**parts, lacking: parts[lacking][:1]})
    with pytest.raises(UserError, match=f"has {lacking} .*--overwrite"):
        TileConfusions.load(path)
