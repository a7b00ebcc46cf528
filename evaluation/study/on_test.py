"""What evaluation.compute_metrics left of the test split, as tables."""

from pathlib import Path

from common.inputs import Input
from common.text import hundredths, starred
from evaluation.scoring.results import METRICS, read_metrics, seed_folders
from evaluation.study.evidence import KEYS
from evaluation.study.records import short


def tested(stage_dir: Input) -> list[tuple[Path, dict]]:
    """Folder and metrics of each result of a stage on test; UserError if they are damaged."""
    folders = [(name, stage_dir / name.name) for _, name in seed_folders(stage_dir.path) if (name / METRICS).is_file()]
    return [(folder, read_metrics(source / METRICS)) for folder, source in folders]


def by_class(metrics: dict) -> tuple[list[str], list[list]]:
    """Header and a row a class of a result: its scores in percent, and its pixels."""
    keys = ("IoU", "F1", "precision", "recall")
    rows = [
        [starred(name, metrics["minority_classes"]), *(hundredths(of[key]) for key in keys), f"{of['pixels']:,}"]
        for name, of in metrics["classes"].items()
    ]
    return ["class", *keys, "pixels"], rows


def uses(log: list[dict]) -> tuple[list[str], list[list]]:
    """Header and a row for each time the test split was used."""
    rows = [
        [
            entry["time"].replace("T", " ").replace("+00:00", " UTC"),
            *(short(entry["checkpoint_digest"]), entry["seed"]),
            *(hundredths(entry["metrics"].get(key)) for key in KEYS),
            *(entry.get("reason") or "-", entry["command"]),
        ]
        for entry in log
    ]
    return ["when", "checkpoint", "seed", *KEYS, "reason", "command"], rows
