from common.taxonomy import BIODIVERSITY
from training.engine.history import history_figure, history_row

# History


def test_a_row_of_the_history_holds_iou_by_class_and_none_for_an_absent_one():
    classes = {"Forest": {"IoU": 0.5, "F1": 0.6}, "Cropland": {"IoU": 0.1, "F1": 0.2}}
    metrics = {"mIoU": 0.3, "mF1": 0.4, "OA": 0.7, "classes": classes}
    row = history_row(30, {"loss": 1.5}, 0.01, metrics, BIODIVERSITY)
    assert row == {
        **{"step": 30, "loss": 1.5, "lr": 0.01, "mIoU": 0.3, "mF1": 0.4, "OA": 0.7},
        **{"IoU Forest": 0.5, "IoU Grassland": None, "IoU Cropland": 0.1},
        **{"IoU Settlement": None, "IoU Seminatural": None},
    }


def test_curves_show_each_class_in_its_colour_and_each_loss():
    ious = dict(zip(BIODIVERSITY.foreground, (0.1, 0.2, 0.3, 0.4, 0.5), strict=True))
    metrics = {"mIoU": 0.3, "mF1": 0.4, "OA": 0.7, "classes": {name: {"IoU": iou} for name, iou in ious.items()}}
    rows = [history_row(n, {"loss": 2.0, "hard": 1.0, "kd": 4.0}, 0.1, metrics, BIODIVERSITY) for n in (10, 20)]
    loss, overall, classes = history_figure(rows, BIODIVERSITY, "title").axes
    assert {line.get_label(): line.get_ydata()[-1] for line in loss.lines} == {"loss": 2.0, "hard": 1.0, "kd": 4.0}
    assert {line.get_label(): line.get_ydata()[-1] for line in overall.lines} == {"mIoU": 0.3, "mF1": 0.4, "OA": 0.7}
    drawn = {line.get_label(): (line.get_color(), line.get_ydata()[-1]) for line in classes.lines}
    assert drawn == {
        "Forest": ("#1b7837", 0.1),
        "Grassland": ("#a6d96a", 0.2),
        "Cropland": ("#f2b134", 0.3),
        "Settlement": ("#d7301f", 0.4),
        "Seminatural": ("#7b5aa6", 0.5),
    }
    assert all(list(line.get_xdata()) == [10, 20] for axes in (loss, overall, classes) for line in axes.lines)
