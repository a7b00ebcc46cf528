"""Figures of one checkpoint show the numbers of their classes, in their colours, where they belong."""

from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib.colors import to_hex

from common.figures import class_legend, color_mask, new_figure
from common.metrics import calibration_score
from common.taxonomy import Taxonomy
from evaluation.scoring import write
from evaluation.scoring.report_text import describe_confidence, heading, report
from evaluation.scoring.score_figures import boundary_figure, class_scores_figure, confusion_figure, reliability_figure

COLORS = ("#000000", "#ff0000", "#00ff00", "#0000ff", "#ffff00")
FOUR = Taxonomy(("void", "a", "b", "c", "d"), COLORS, {})
METRICS = {
    "stage": "stage3_difficulty",
    "seed": 42,
    "which": "last",
    "split": "val",
    "step": 1500,
    "iterations": 2000,
    "cumulative_steps": 4000,
    "arch": "unet",
    "encoder": "resnet18",
    "split_digest": "of val",
    "checkpoint_digest": "of weights",
    "command": "python -m it",
    "mIoU": 0.4,
    "mF1": 0.55,
    "OA": 0.7,
    "minority_mIoU": 0.2,
    "minority_classes": ["b", "d"],
    "classes_averaged": ["a", "b", "d"],
    "classes": {
        "a": {"IoU": 0.7, "F1": 0.8, "precision": 0.85, "recall": 0.75, "pixels": 600},
        "b": {"IoU": 0.3, "F1": 0.5, "precision": 0.45, "recall": 0.55, "pixels": 300},
        "d": {"IoU": 0.2, "F1": 0.35, "precision": 0.25, "recall": 0.65, "pixels": 100},
    },
    "absent": ["c"],
    "boundary": {"distance_share": 0.02, "mIoU": 0.25, "classes": {"a": 0.35, "b": 0.15, "d": None}},
    "calibration": {"bins": 15, "ECE": 0.123, "mean_confidence": 0.75, "reliability": []},
    "labelled_pixels": 1000,
    "void_pixels": 24,
    "split_facts": {"tiles": 4, "blocks": 3, "strategy": "random", "block_size": None, "blocks_shared_with_train": 2},
    "taxonomy": {"classes": list(FOUR.classes)},
}


def texts(axes) -> list[tuple[float, float, str]]:
    return [(*text.get_position(), text.get_text().strip()) for text in axes.texts]


def test_confusions_are_shares_of_the_true_class_with_truth_in_rows():
    counts = np.array([[9, 9, 9, 9, 9], [0, 30, 10, 0, 0], [0, 5, 1000, 0, 995], [0] * 5, [0, 0, 0, 1, 0]])
    axes = confusion_figure(counts, FOUR, "whose").axes[0]
    shares = [[0.75, 0.25, 0, 0], [0.0025, 0.5, 0, 0.4975], [np.nan] * 4, [0, 0, 1, 0]]
    np.testing.assert_array_equal(axes.images[0].get_array().filled(np.nan), shares)
    assert axes.images[0].get_clim() == (0, 1)
    said = {(round(x, 1), round(y, 2)): text for x, y, text in texts(axes)}
    assert said[0, 0.04] == "75.0%" and said[0, 0.14] == "30"
    assert said[1, 0.04] == "25.0%" and said[1, 0.14] == "10"
    assert said[3, 1.04] == "49.8%" and said[3, 1.14] == "995"
    assert said[1, 1.14] == "1,000" and said[1.5, 2.0] == "does not occur in the truth"
    assert len(said) == 2 * 12 + 1
    names = ["a\n40 px", "b\n2,000 px", "c\n0 px", "d\n1 px"]
    assert [label.get_text() for label in axes.get_yticklabels()] == names
    assert [label.get_text() for label in axes.get_xticklabels()] == ["a", "b", "c", "d"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted class", "true class")
    bold = {text.get_position() for text in axes.texts if text.get_weight() == "bold"}
    assert bold == {(0, 0.04), (1, 1.04), (3, 3.04)}
    assert axes.get_title(loc="left") == "whose"


def bars(axes) -> list[tuple]:
    """(middle, height, colour, hatch) of each bar."""
    return [
        (round(p.get_x() + p.get_width() / 2, 6), p.get_height(), to_hex(p.get_facecolor()), p.get_hatch())
        for p in axes.patches
    ]


@pytest.mark.parametrize(("key", "heights", "mean"), [("IoU", [0.7, 0.3, 0.2], 0.4), ("F1", [0.8, 0.5, 0.35], 0.55)])
def test_bars_of_classes_have_their_scores_their_colours_and_a_line_at_their_mean(key, heights, mean):
    axes = class_scores_figure(METRICS, key, FOUR, ["b", "d"], "whose").axes[0]
    assert bars(axes) == [
        (place, height, COLORS[place + 1], None) for place, height in zip((0, 1, 3), heights, strict=True)
    ]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["a", "b *", "c", "d *"]
    assert [line.get_ydata()[0] for line in axes.lines] == [mean] and axes.get_ylabel() == key
    said = {text: round(x, 1) for x, _, text in texts(axes)}
    assert [said[f"{height:.1%}"] for height in heights] == [0, 1, 3] and said["not in\nthe truth"] == 2
    assert f"m{key}\n {mean:.1%}" in said
    assert axes.get_xlabel() == "* minority class" and axes.get_title(loc="left") == "whose"
    plain = class_scores_figure(METRICS, key, FOUR, None, "").axes[0]
    assert [label.get_text() for label in plain.get_xticklabels()] == ["a", "b", "c", "d"] and not plain.get_xlabel()


def test_boundary_bars_stand_hatched_beside_those_of_iou():
    figure = boundary_figure(METRICS, FOUR, ["b"], "whose")
    axes = figure.axes[0]
    assert sorted(bars(axes)) == [
        (-0.2, 0.7, "#ff0000", None),
        (0.2, 0.35, "#ff0000", "////"),
        (0.8, 0.3, "#00ff00", None),
        (1.2, 0.15, "#00ff00", "////"),
        (2.8, 0.2, "#ffff00", None),  # has no boundary pixels
    ]
    lines = {line.get_ydata()[0]: line.get_linestyle() for line in axes.lines}
    assert lines == {0.4: "--", 0.25: ":"}
    heights = {text: y for _, y, text in texts(axes)}
    assert heights["boundary mIoU\n 25.0%"] == 0.25 and heights["mIoU\n 40.0%"] == 0.4
    legend = [(text.get_text(), patch.get_hatch()) for text, patch in zip(*legend_of(figure), strict=True)]
    assert legend == [("IoU", None), ("boundary IoU: within 2% of the tile's diagonal of the contour", "////")]


def legend_of(figure):
    return figure.legends[0].get_texts(), figure.legends[0].get_patches()


def test_labels_of_means_that_are_close_do_not_overlap_but_their_lines_stay():
    near = METRICS | {"boundary": METRICS["boundary"] | {"mIoU": 0.39}}
    axes = boundary_figure(near, FOUR, None, "").axes[0]
    heights = {text: y for _, y, text in texts(axes)}
    assert heights["boundary mIoU\n 39.0%"] == 0.39 and heights["mIoU\n 40.0%"] == pytest.approx(0.51)
    assert sorted(line.get_ydata()[0] for line in axes.lines) == [0.39, 0.4]
    alone = boundary_figure(METRICS | {"boundary": METRICS["boundary"] | {"mIoU": None}}, FOUR, None, "").axes[0]
    assert [line.get_ydata()[0] for line in alone.lines] == [0.4]


def test_the_reliability_diagram_shows_accuracy_over_confidence_and_the_shares_of_pixels():
    counts = np.zeros((15, 3))
    counts[7] = 20, 20 * 0.49, 10
    counts[13] = 478, 478 * 0.9, 239
    counts[14] = 2, 2 * 0.96, 2
    upper, lower = reliability_figure(calibration_score(counts), "whose").axes
    middle, accuracy, confidence = [7.5 / 15, 13.5 / 15, 14.5 / 15], [0.5, 0.5, 1.0], [0.49, 0.9, 0.96]
    found = np.array([bar[:2] for bar in bars(upper)])
    np.testing.assert_allclose(found, np.transpose([middle, accuracy]), atol=1e-6)
    diagonal, points = upper.lines
    np.testing.assert_array_equal(diagonal.get_xydata(), [[0, 0], [1, 1]])
    np.testing.assert_allclose(points.get_xydata(), np.transpose([confidence, accuracy]))
    gaps = np.array(upper.collections[0].get_segments())
    wanted = [[[c, a], [c, c]] for c, a in zip(confidence, accuracy, strict=True)]
    np.testing.assert_allclose(gaps, wanted)
    shares = np.array([bar[:2] for bar in bars(lower)])
    np.testing.assert_allclose(shares, np.transpose([middle, [0.04, 0.956, 0.004]]), atol=1e-6)
    assert [text for *_, text in texts(lower)] == ["4%", "96%", "<1%"]
    assert upper.get_ylabel().startswith("accuracy") and lower.get_xlabel().startswith("confidence")
    words = {text: (x, y) for x, y, text in texts(upper)}
    assert words["under-confident"][1] > words["under-confident"][0]
    assert words["over-confident"][1] < words["over-confident"][0]


def test_masks_and_legends_have_the_colours_of_the_classes():
    mask = np.array([[0, 1], [3, 4]], np.uint8)
    rgb = [[[0, 0, 0], [255, 0, 0]], [[0, 0, 255], [255, 255, 0]]]
    assert color_mask(mask, FOUR).tolist() == rgb
    for void in (True, False):
        figure = new_figure(3, 3)
        class_legend(figure, FOUR, void=void)
        names = [text.get_text() for text in legend_of(figure)[0]]
        colors = [to_hex(patch.get_facecolor()) for patch in legend_of(figure)[1]]
        assert (names, colors) == (list(FOUR.classes[not void :]), list(COLORS[not void :]))


def test_each_figure_of_a_checkpoint_lies_under_its_name(tmp_path, monkeypatch):
    saved = {}
    monkeypatch.setattr(write, "save_figure", lambda figure, path: saved.setdefault(path.name, figure))
    by_tile = np.zeros((2, 5, 5), int)
    by_tile[0, 1, 1], by_tile[1, 1, 2] = 3, 1
    setting = SimpleNamespace(tiles=SimpleNamespace(taxonomy=FOUR), minority=["b"])
    calibration = calibration_score(np.eye(15, 3) + [0, 0, 0.2]) | {"ECE": 0.123, "mean_confidence": 0.75}
    counts = SimpleNamespace(confusions=by_tile)
    write.write_figures(tmp_path, METRICS | {"calibration": calibration}, "whose", counts, setting)
    assert list(saved) == [
        "confusion_matrix.png",
        "class_iou_scores.png",
        "class_f1_scores.png",
        "class_boundary_iou.png",
        "reliability_diagram.png",
    ]
    axes = {name: figure.axes[0] for name, figure in saved.items()}
    assert axes["confusion_matrix.png"].images[0].get_array()[0].tolist() == [0.75, 0.25, 0, 0]
    assert axes["confusion_matrix.png"].get_title(loc="left") == "whose\nmIoU 40.0%, mF1 55.0%, OA 70.0%"
    assert axes["class_iou_scores.png"].patches[0].get_height() == 0.7
    assert axes["class_f1_scores.png"].patches[0].get_height() == 0.8
    assert len(axes["class_boundary_iou.png"].patches) == 5
    assert "ECE 12.3%\nmean confidence 75.0%" in axes["reliability_diagram.png"].get_title(loc="left")
    for name in ("class_iou_scores.png", "class_f1_scores.png", "class_boundary_iou.png"):
        assert [label.get_text() for label in axes[name].get_xticklabels()] == ["a", "b *", "c", "d"]


# The words beside them


@pytest.mark.parametrize(
    ("confidence", "accuracy", "verdict"),
    [
        (0.75, 0.70, "over-confident by 5.0 points"),
        (0.70, 0.75, "under-confident by 5.0 points"),
        (0.7004, 0.7, "no difference"),
    ],
)
def test_confidence_is_set_beside_accuracy(confidence, accuracy, verdict):
    said = describe_confidence({"calibration": {"mean_confidence": confidence}, "OA": accuracy})
    assert said == f"mean confidence {confidence:.1%}, OA {accuracy:.1%}: {verdict}"


def test_a_heading_names_stage_seed_checkpoint_and_split():
    assert heading(METRICS) == "Stage 3 + Difficulty sampling, seed 42, last.pt on val"
    control = {"stage": "control_kd_uniform", "seed": 7, "which": "best", "split": "test"}
    assert heading(control) == "Control: 6, uniform target, seed 7, best.pt on test"
    rival = {"stage": "rival_focal", "seed": 7, "which": "last", "split": "val"}
    assert heading(rival) == "Rival: Focal loss, seed 7, last.pt on val"
    assert heading(METRICS, "last.pt and best.pt").endswith("seed 42, last.pt and best.pt on val")


def test_a_report_holds_every_score_in_its_row_and_column():
    said = report(METRICS)
    rows = {tuple(line.split()) for line in said.splitlines()}
    assert ("class", "IoU", "F1", "precision", "recall", "boundary", "IoU", "pixels", "share") in rows
    assert ("a", "70.0%", "80.0%", "85.0%", "75.0%", "35.0%", "600", "60.00%") in rows
    assert ("b", "*", "30.0%", "50.0%", "45.0%", "55.0%", "15.0%", "300", "30.00%") in rows
    assert ("d", "*", "20.0%", "35.0%", "25.0%", "65.0%", "-", "100", "10.00%") in rows
    assert {("mIoU", "40.00%"), ("mF1", "55.00%"), ("OA", "70.00%"), ("ECE", "12.30%")} <= rows
    assert ("boundary", "mIoU", "25.00%") in rows
    assert tuple("mIoU of the minority classes 20.00%".split()) in rows
    assert "step 1,500 of 2,000; 4,000 steps with those of its ancestors" in said
    assert "4 tiles in 3 spatial blocks, split by random; 1,000 labelled pixels" in said
    assert "void is unlabelled: its 24 pixels count nowhere" in said and "means over a, b, d;" in said
    assert "neither scored nor averaged: c." in said and "2 of 3 spatial blocks of val" in said
    assert "within 2% of the tile's diagonal" in said and "in 15 bins; mean confidence 75.0%" in said
    assert "best.pt was chosen on val" not in said
    assert "not trained itself; 4,000 steps with those of its ancestors" in report(
        METRICS | {"iterations": 0, "step": 0}
    )
    assert "best.pt was chosen on val" in report(METRICS | {"which": "best"})
    assert "best.pt was chosen on val" not in report(METRICS | {"which": "best", "split": "test"})
    lines = said.splitlines()
    assert "checkpoint of weights" in lines and "val        of val" in lines and "command    python -m it" in lines
