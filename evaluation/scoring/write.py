"""The files of an evaluation: scores, report, figures, counts."""

import shutil
from pathlib import Path

from common.figures import save_figure
from common.files import FolderKind, write_json, write_text
from common.inputs import Input
from common.text import percent
from evaluation.scoring.predicted_classes import PREDICTED
from evaluation.scoring.report_text import describe_confidence, report
from evaluation.scoring.results import (
    AGREEMENT,
    CONFUSIONS,
    HISTORY,
    METRICS,
    RUN_RECORD,
    WHICH,
    TileCounts,
    read_metrics,
    results_folder,
)
from evaluation.scoring.score import Setting
from evaluation.scoring.score_figures import boundary_figure, class_scores_figure, confusion_figure, reliability_figure

REPORT = "evaluation_report.txt"
FIGURES = (
    "confusion_matrix.png",
    "class_iou_scores.png",
    "class_f1_scores.png",
    "class_boundary_iou.png",
    "reliability_diagram.png",
)
RESULT_FILES = (METRICS, REPORT, CONFUSIONS, RUN_RECORD, *FIGURES)
OF_LAST = (PREDICTED, HISTORY, AGREEMENT)
RESULTS = FolderKind(RUN_RECORD, lambda _: {*RESULT_FILES, *OF_LAST, *(f"best/{name}" for name in RESULT_FILES)})


def write_figures(folder: Path, metrics: dict, title: str, counts: TileCounts, setting: Setting) -> None:
    """FIGURES, of one checkpoint."""
    taxonomy, minority = setting.tiles.taxonomy, setting.minority
    scores = ", ".join(f"{key} {percent(metrics[key])}" for key in ("mIoU", "mF1", "OA"))
    confidence = f"ECE {percent(metrics['calibration']['ECE'])}\n{describe_confidence(metrics)}"
    figures = (
        confusion_figure(counts.confusions.sum(axis=0), taxonomy, f"{title}\n{scores}"),
        class_scores_figure(metrics, "IoU", taxonomy, minority, title),
        class_scores_figure(metrics, "F1", taxonomy, minority, title),
        boundary_figure(metrics, taxonomy, minority, title),
        reliability_figure(metrics["calibration"], f"{title}\n{confidence}"),
    )
    for name, figure in zip(FIGURES, figures, strict=True):
        save_figure(figure, folder / name)


def write_results(folder: Path, metrics: dict, counts: TileCounts) -> None:
    """The files of one checkpoint, figures and run.json apart."""
    folder.mkdir(exist_ok=True)
    write_json(folder / METRICS, metrics)
    write_text(folder / REPORT, report(metrics))
    counts.save(folder / CONFUSIONS)


def copy_run_record(source: Path, target: Path, metadata: dict) -> None:
    """The run's record, or what the checkpoint says of its run if the file is missing."""
    if (source / RUN_RECORD).is_file():
        shutil.copyfile(source / RUN_RECORD, target / RUN_RECORD)
    else:
        write_json(target / RUN_RECORD, metadata)


def copy_history(run: Path, target: Path) -> None:
    """The validations of the run, if they are there."""
    if (run / HISTORY).is_file():
        shutil.copyfile(run / HISTORY, target / HISTORY)


def recorded(results: Input) -> dict[str, dict]:
    """metrics.json of last.pt and best.pt if a results folder has them. Raises UserError if one is damaged."""
    sources = {which: results_folder(results, which) / METRICS for which in WHICH}
    return {which: read_metrics(source) for which, source in sources.items() if source.path.is_file()}


def identity(metrics: dict) -> tuple:
    """Two results with the same value are the same."""
    return metrics["checkpoint_digest"], metrics["split_digest"], metrics["minority_classes"]


def is_whole(folder: Path, metrics: dict, run: Path) -> bool:
    """Whether a checkpoint's results have every score and every file that this script writes for it.

    What agreement.json lacks is counted at the end of each call.
    """
    names = [*RESULT_FILES]
    if metrics["which"] == "last":
        names += [PREDICTED, *([HISTORY] if (run / HISTORY).is_file() else [])]
    return {"boundary", "calibration"} <= metrics.keys() and all((folder / name).is_file() for name in names)
