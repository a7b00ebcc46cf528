"""The files of an evaluation: scores, report, figures, counts."""

import shutil
from pathlib import Path

from common.figures import save_figure
from common.files import FolderKind, read_json, write_json, write_text
from evaluation.scoring.figures import boundary_figure, class_scores_figure, confusion_figure, reliability_figure
from evaluation.scoring.report_text import describe_confidence, report
from evaluation.scoring.results import CONFUSIONS, METRICS, RUN_RECORD, WHICH, TileConfusions, results_folder
from evaluation.scoring.score import Setting

REPORT = "evaluation_report.txt"
FIGURES = (
    "confusion_matrix.png",
    "class_iou_scores.png",
    "class_f1_scores.png",
    "class_boundary_iou.png",
    "reliability_diagram.png",
)
RESULT_FILES = (METRICS, REPORT, CONFUSIONS, RUN_RECORD, *FIGURES)
RESULTS = FolderKind(RUN_RECORD, lambda _: {*RESULT_FILES, *(f"best/{name}" for name in RESULT_FILES)})


def draw_figures(folder: Path, metrics: dict, title: str, confusions: TileConfusions, setting: Setting) -> None:
    """FIGURES, of one checkpoint."""
    taxonomy = setting.tiles.taxonomy
    about = f"{title}\nmIoU {metrics['mIoU']:.1%}, mF1 {metrics['mF1']:.1%}, OA {metrics['OA']:.1%}"
    confidence = f"{title}\nECE {metrics['calibration']['ECE']:.1%}\n{describe_confidence(metrics)}"
    figures = (
        confusion_figure(confusions.confusions.sum(axis=0), taxonomy, about),
        class_scores_figure(metrics, "IoU", taxonomy, setting.minority, title),
        class_scores_figure(metrics, "F1", taxonomy, setting.minority, title),
        boundary_figure(metrics, taxonomy, setting.minority, title),
        reliability_figure(metrics["calibration"], confidence),
    )
    for name, figure in zip(FIGURES, figures, strict=True):
        save_figure(figure, folder / name)


def write_results(folder: Path, metrics: dict, confusions: TileConfusions) -> None:
    """The files of one checkpoint, figures and run.json apart."""
    folder.mkdir(exist_ok=True)
    write_json(folder / METRICS, metrics)
    write_text(folder / REPORT, report(metrics))
    confusions.save(folder / CONFUSIONS)


def copy_run_record(source: Path, target: Path, metadata: dict) -> None:
    """The run's record, or what the checkpoint says of its run where the file is missing."""
    if (source / RUN_RECORD).is_file():
        shutil.copyfile(source / RUN_RECORD, target / RUN_RECORD)
    else:
        write_json(target / RUN_RECORD, metadata)


def recorded(folder: Path) -> dict[str, dict]:
    """metrics.json of last.pt and best.pt where a results folder has them."""
    found = {}
    for which in WHICH:
        path = results_folder(folder, which) / METRICS
        if path.is_file():
            found[which] = read_json(path, "python -m evaluation.compute_metrics --overwrite")
    return found


def identity(metrics: dict) -> tuple:
    """Two results with the same value are the same."""
    return metrics["checkpoint_digest"], metrics["split_digest"], metrics["minority_classes"]


def is_whole(folder: Path, metrics: dict) -> bool:
    """Whether a checkpoint's results have every score and every file that this script writes."""
    return {"boundary", "calibration"} <= metrics.keys() and all((folder / name).is_file() for name in RESULT_FILES)
