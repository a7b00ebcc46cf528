"""What the records of runs (run.json) say, in words."""

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np

from common.stages import ARM_OF
from common.taxonomy import Taxonomy
from evaluation.scoring.results import METRICS
from evaluation.study.comparability import Result
from evaluation.study.evidence import ArmScores
from evaluation.study.wording import arm_name


def short(digest: str) -> str:
    """The first digits of a digest or commit, with the word that the commit had changes beside it."""
    return digest[:12] + ("-dirty" if digest.endswith("-dirty") else "")


def minutes(seconds: float | None) -> str | None:
    """``12.5 min``; None for none."""
    return None if seconds is None else f"{seconds / 60:,.1f} min"


def value_text(value: object) -> str:
    """A value of a record in words; digests cut."""
    if isinstance(value, dict):
        pairs = (f"{name.replace('_', ' ')} {value_text(of)}".removeprefix("kind ") for name, of in value.items())
        return ", ".join(pairs)
    if isinstance(value, list):
        return " ".join(map(value_text, value))
    if isinstance(value, float):
        return f"{value:.3g}"
    text = str(value)
    return short(text) if re.fullmatch("[0-9a-f]{40,64}(-dirty)?", text) else text


def part_text(part: object, taxonomy: Taxonomy) -> str:
    """A part of a recipe in words, with the names of classes for their ids."""
    if isinstance(part, dict) and isinstance(part.get("classes"), list):
        part = part | {"classes": [taxonomy.classes[i] for i in part["classes"]]}
    return value_text(part)


def mean_of(results: Sequence[Result], *keys: str) -> float | None:
    """Mean over runs of a number in run.json; None if one lacks it."""
    values = []
    for result in results:
        value: Any = result.run
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        if value is None:
            return None
        values.append(value)
    return float(np.mean(values)) if values else None


def settings_of(result: Result) -> list[list[str]]:
    """The settings of a run, a name and a value each."""
    return [[name, value_text(value)] for name, value in result.run["settings"].items()]


def shared_values(results: Sequence[Result], key: str) -> str | None:
    """What the runs say of ``key``; if they differ, each value with the number of its runs."""
    values = [value_text(value) for result in results if (value := result.run.get(key)) is not None]
    counts = {value: values.count(value) for value in values}
    if len(counts) < 2:
        return next(iter(counts), None)
    return "; ".join(f"{value} ({number} runs)" for value, number in counts.items())


def recipe_in_words(scores: ArmScores, taxonomy: Taxonomy) -> list[tuple[str, bool]]:
    """Each part of an arm's recipe, and whether it is the one in which it differs from what it is compared with."""
    changed, recipe = scores.arm.component, next(iter(scores.last.values())).run["recipe"]
    return [
        (f"{part}{' (its one change)' if part == changed else ''}: {part_text(value, taxonomy)}", part == changed)
        for part, value in recipe.items()
    ]


def run_facts(scores: ArmScores) -> dict[str, str | None]:
    """What the runs of an arm have in common, or their mean, by name; None for what is not recorded."""
    arm, runs = scores.arm, list(scores.last.values())

    def average(form: str, *keys: str, scale: float = 1) -> str | None:
        value = mean_of(runs, *keys)
        return None if value is None else form.format(value * scale)

    own = runs[0].run.get("iterations", runs[0].run["settings"].get("iterations"))
    steps = f"{scores.steps:,}"
    if own is not None and own != scores.steps:
        start = f" ({arm_name(ARM_OF[arm.starts_from])})" if arm.starts_from else ""
        steps = f"{own:,} of its own, {steps} with those of the weights it starts from{start}"
    mean = "" if len(runs) == 1 else " (mean)"
    return {
        "steps": steps,
        "crops drawn": average("{:,.0f}", "crops"),
        "training tiles": average("{:,.0f}", "train", "tiles"),
        f"distinct tiles drawn{mean}": average("{:,.0f}", "drawn", "distinct_tiles"),
        f"crops from replicas{mean}": average("{:.1f} %", "drawn", "replica_share", scale=100),
        f"unlabelled pixels drawn{mean}": average("{:.1f} %", "drawn", "void_share", scale=100),
        f"training{mean}": minutes(mean_of(runs, "seconds", "training")),
        f"peak memory{mean}": average("{:,.0f} MB", "peak_memory_mb"),
        f"peak GPU memory{mean}": average("{:,.0f} MB", "peak_gpu_memory_mb"),
    }


def runs_table(results: Sequence[Result]) -> tuple[list[str], list[list]]:
    """Header and a row for each run: its checkpoint, and the command that trained it."""
    rows = []
    for result in results:
        written = datetime.fromtimestamp((result.folder / METRICS).stat().st_mtime, UTC)
        of_run = [short(result.tiles.checkpoint_digest), short(result.run.get("git_commit") or "-")]
        of_run += [f"{result.metrics['cumulative_steps']:,}", f"{written:%Y-%m-%d %H:%M}"]
        rows.append([arm_name(ARM_OF[result.arm]), result.seed, *of_run, result.run.get("command", "-")])
    return ["run of", "seed", "last.pt", "commit", "steps", "scored, UTC", "trained by"], rows
