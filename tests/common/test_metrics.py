"""Scores agree with scikit-learn, with loops over pixels, and with numbers worked by hand."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import accuracy_score, f1_score, jaccard_score, precision_score, recall_score

from common.inference import confusion_by_tile
from common.metrics import CALIBRATION_BINS, boundary_reach, boundary_score, calibration_score, mean_iou_of, score
from common.taxonomy import BIODIVERSITY, IGNORE_INDEX, Taxonomy
from evaluation.scoring import counts
from evaluation.scoring.counts import boundary_counts, calibration_counts

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


MATRICES = hnp.arrays(np.int64, (6, 6), elements=st.integers(0, 9) | st.just(0))


@settings(max_examples=20)
@given(counts=MATRICES, absent=st.sets(st.integers(1, 5)), never_predicted=st.sets(st.integers(1, 5), max_size=4))
def test_every_score_of_any_matrix_is_that_of_scikit_learn_on_its_labelled_pixels(counts, absent, never_predicted):
    counts[list(absent)] = 0
    counts[:, [0, *never_predicted]] = 0
    scores = score(counts, BIODIVERSITY)
    cells = [cell for cell in np.ndindex(6, 6) if cell[0] != IGNORE_INDEX]
    t, p = np.repeat(cells, [counts[cell] for cell in cells], axis=0).T
    present = sorted(set(t.tolist()))
    names = [BIODIVERSITY.classes[i] for i in present]
    assert list(scores["classes"]) == names
    assert scores["absent"] == [name for name in BIODIVERSITY.foreground if name not in names]
    if not present:
        assert scores["mIoU"] is scores["mF1"] is scores["OA"] is None
        return
    of = {"labels": present, "zero_division": 0}
    each = {"IoU": jaccard_score, "F1": f1_score, "precision": precision_score, "recall": recall_score}
    for key, by_scikit_learn in each.items():
        wanted = by_scikit_learn(t, p, average=None, **of).tolist()
        assert [scores["classes"][name][key] for name in names] == pytest.approx(wanted)
    assert [scores["classes"][name]["pixels"] for name in names] == [(t == i).sum() for i in present]
    assert scores["mIoU"] == pytest.approx(jaccard_score(t, p, average="macro", **of))
    assert scores["mF1"] == pytest.approx(f1_score(t, p, average="macro", **of))
    assert scores["OA"] == pytest.approx(accuracy_score(t, p))
    rare = [i for i in present if i in (2, 5)]
    wanted = jaccard_score(t, p, average="macro", labels=rare, zero_division=0) if rare else None
    found = mean_iou_of(scores, [BIODIVERSITY.classes[5], BIODIVERSITY.classes[2]])
    assert found == (None if wanted is None else pytest.approx(wanted))


def test_the_mean_of_some_classes_is_of_those_that_are_named():
    scores = {"classes": {"a": {"IoU": 0.9}, "b": {"IoU": 0.5}, "c": {"IoU": 0.1}}}
    assert mean_iou_of(scores, ["b", "c"]) == pytest.approx(0.3)
    assert mean_iou_of(scores, ["a", "b"]) == pytest.approx(0.7)
    assert mean_iou_of(scores, ["c", "not there"]) == pytest.approx(0.1)
    assert mean_iou_of(scores, []) is None


def test_counts_beyond_32_bits_are_scored_exactly():
    many = 10**12
    scores = score(np.array([[0, 7, 7, 0], [0, 3 * many, many, 0], [0, 0, 6 * many, 0], [0, 0, 0, 0]]), THREE)
    assert scores["OA"] == 0.9
    assert scores["mIoU"] == pytest.approx((3 / 4 + 6 / 7) / 2, abs=1e-12)
    assert scores["classes"]["b"]["pixels"] == 6 * many


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
    monkeypatch.setattr(counts, "boundary_reach", lambda height, width: reach)
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


def test_a_boundary_reaches_to_its_last_pixel_and_no_further_in_rows_and_columns(monkeypatch):
    monkeypatch.setattr(counts, "boundary_reach", lambda height, width: 3)
    for turn in (np.array, np.transpose):
        labels = np.ones((20, 40), int)
        labels[:, 25:] = 2
        assert boundary_of(turn(labels).copy(), turn(labels).copy(), 3) == [[0, 0], [60, 60], [60, 60]]


def test_the_reach_is_taken_of_the_size_of_the_tile(monkeypatch):
    asked = []
    monkeypatch.setattr(counts, "boundary_reach", lambda height, width: asked.append((height, width)) or 1)
    boundary_of(np.ones((20, 40), int), np.ones((20, 40), int))
    assert set(asked) == {(20, 40)}


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
    monkeypatch.setattr(counts, "boundary_reach", lambda height, width: 3)
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


def test_a_confidence_on_the_edge_of_a_bin_falls_in_the_bin_below():
    for classes, edge in ((3, 5), (5, 3), (15, 1)):  # of so many equal probabilities each is edge / 15
        logits = torch.zeros(classes, 1, 1)
        counts = calibration_counts(torch.ones(1, 1, dtype=torch.int64), torch.ones(1, 1, dtype=torch.int64), logits)
        assert counts[:, 0].nonzero().tolist() == [[edge - 1]]
        assert counts[edge - 1].tolist() == pytest.approx([1, edge / 15, 1])


def test_each_pixel_counts_in_the_bin_of_its_confidence_and_right_ones_as_right():
    probs = torch.tensor([[0.5, 0.97, 0.62, 0.97], [0.5, 0.03, 0.38, 0.03]])[:, None]  # of two foreground classes
    logits = torch.cat([torch.full((1, 1, 4), -1e4), probs.log()])
    counts = calibration_counts(torch.tensor([[1, 1, 2, 0]]), torch.tensor([[1, 1, 1, 1]]), logits)
    assert counts.shape == (15, 3) and counts.dtype == torch.float64
    found = {place: counts[place].tolist() for place in counts[:, 0].nonzero().flatten().tolist()}
    assert found.keys() == {7, 9, 14}
    assert found[7] == pytest.approx([1, 0.5, 1])
    assert found[9] == pytest.approx([1, 0.62, 0])  # wrong
    assert found[14] == pytest.approx([1, 0.97, 1])  # and not the void pixel
