"""The log of every use of the test split."""

import json
import os
from pathlib import Path

from common.errors import UserError
from common.text import percent

TEST_LOG = Path("evaluation/evaluation_results/test/test_log.jsonl")  # under the study's root, whatever --out-dir is


def read_test_log(path: Path) -> list[dict]:
    """The recorded uses of the test split, oldest first. Raises UserError if compute_metrics did not write an entry."""
    if not path.exists():
        return []
    try:
        entries = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        for entry in entries:
            entry["time"], entry["seed"], entry["checkpoint_digest"], entry["split_digest"], entry["command"]
            entry["metrics"]["mIoU"], entry["reason"]
    except (ValueError, KeyError, TypeError):
        raise UserError(
            f"{path} is damaged: a line of it is not an entry that compute_metrics wrote. It records how often the "
            "test split was used; restore it from a copy."
        ) from None
    return entries


def append_log(path: Path, entry: dict) -> None:
    """Add a line to the test log and see it on disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(entry) + "\n")
        file.flush()
        os.fsync(file.fileno())


def describe_use(entry: dict) -> str:
    """A log entry in words."""
    scores = ", ".join(f"{key} {percent(entry['metrics'][key], 2)}" for key in ("mIoU", "mF1", "OA"))
    reason = f"\n  reason: {entry['reason']}" if entry["reason"] else ""
    return (
        f"{entry['stage']} seed {entry['seed']} best.pt on test: {scores}\n"
        f"  recorded {entry['time']}; checkpoint {entry['checkpoint_digest'][:12]}, "
        f"tiles {entry['split_digest'][:12]}\n"
        f"  {entry['command']}{reason}"
    )
