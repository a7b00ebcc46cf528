"""Artifacts, manifests and results that hold no JSON or other JSON than they should."""

from pathlib import Path

from tests.faults.bad_input import files
from tests.faults.bad_input.shared import (
    ANALYZE,
    CHECK_LEAKAGE,
    CPU,
    METRICS,
    PREDICT,
    REPLICATE,
    SMALL,
    SPLIT,
    SPLITTING,
    Case,
    at,
)

DISTRIBUTION = Path("artifacts/class_distribution.json")
LEAKAGE = Path("artifacts/leakage.json")
RESULTS = Path("evaluation/evaluation_results/val")
SCORED = RESULTS / "stage2_replication/seed42"
STAGE4 = "training.train_stage4_minority_crop"
AGGREGATE, REPORT = "evaluation.aggregate_metrics", "evaluation.build_report"
NONSENSE = {
    "cut off": b'{"a": [1, ',
    "empty": b"",
    "a list for an object": b"[1, 2]",
    "null": b"null",
    "a number": b"3",
    "an object without keys": b"{}",
    "nested nonsense": b"[" * 50_000,
}
FILES = [  # of each a script that reads it, the one that its message names as the writer, and flags of the first
    (DISTRIBUTION, REPLICATE, ANALYZE, "--overwrite"),
    (DISTRIBUTION, STAGE4, ANALYZE, *SMALL),
    (DISTRIBUTION, METRICS, ANALYZE, "--overwrite", *CPU),
    (SPLIT / "train/manifest.json", ANALYZE, SPLITTING),
    (SPLIT / "val/manifest.json", CHECK_LEAKAGE, SPLITTING),
    (SCORED / "metrics.json", AGGREGATE, METRICS),
    (SCORED / "run.json", AGGREGATE, METRICS),
    (LEAKAGE, REPORT, CHECK_LEAKAGE),
    (RESULTS / "predictions/predictions.json", REPORT, PREDICT),
]
CASES = [
    Case(
        f"{path.name}, read by {reader}: {name}",
        "trained",
        at(path, files.rewrite(content)),
        reader,
        (path.name, writer),
        tuple(flags),
        quick=name == "a list for an object",
    )
    for path, reader, writer, *flags in FILES
    for name, content in NONSENSE.items()
]
