"""A study at a glance: its differences in one figure, its stages by rank, and the best model."""

import argparse
import math
from collections.abc import Iterable
from typing import NamedTuple

from common.folds import fold_root
from common.inputs import Command
from common.stages import FINAL_STAGE, STAGES, Arm
from common.text import hundredths, signed, starred
from evaluation.study.comparisons import MINORITY, Family
from evaluation.study.evidence import BEYOND, ArmScores, Evidence, Finding
from evaluation.study.intervals import Estimate
from evaluation.study.wording import arm_name, tested_metrics

TICKS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)  # steps between the numbers below a figure of differences
MOST_TICKS = 7


class Cell(NamedTuple):
    """A cell of a table that is more than its text: ``below`` is a smaller line, ``link`` the id of a place."""

    text: str
    below: str | None = None
    bold: bool = False
    link: str | None = None


class Difference(NamedTuple):
    """A row of a figure of differences: shares, its ``value``, the two ends of its ``interval``, and each pair."""

    finding: Finding
    metric: str
    value: float
    interval: list[float]
    pairs: list[float]


class Differences(NamedTuple):
    """A figure of differences: rows by family (None for those that are not tested), and the ends of its axis."""

    groups: list[tuple[Family | None, list[Difference]]]
    low: float
    high: float
    step: float

    @property
    def ticks(self) -> list[float]:
        return [self.low + n * self.step for n in range(round((self.high - self.low) / self.step) + 1)]

    def at(self, value: float) -> float:
        """Where a value stands, in percent of the width."""
        return round(100 * (value - self.low) / (self.high - self.low), 2)


def differences(evidence: Evidence, groups: Iterable[tuple[Family | None, list[Finding]]]) -> Differences | None:
    """The figure of the findings of some families; None if nothing was compared."""
    rows = []
    for family, findings in groups:
        of_family = []
        for finding in findings:
            for metric in tested_metrics(finding) or finding.estimates.keys() & {"mIoU"}:
                found = finding.estimates[metric]
                interval = [found.low, found.high] if found.half_width is not None else []
                mine, theirs = (evidence.arms[arm.name] for arm in finding.comparison[:2])
                pairs = [v for v in mine.paired(theirs, metric, finding.seeds).tolist() if not math.isnan(v)]
                of_family.append(Difference(finding, metric, found.value, interval, pairs))
        rows += [(family, of_family)] if of_family else []
    if not rows:
        return None
    values = [v for _, of_family in rows for row in of_family for v in (0, row.value, *row.interval, *row.pairs)]
    step = next((step for step in TICKS if max(values) - min(values) < MOST_TICKS * step), 1)
    low, high = math.floor(min(values) / step), max(math.ceil(max(values) / step), 1)
    return Differences(rows, low * step, high * step, step)


def by_rank(evidence: Evidence, metrics: list[str]) -> list[tuple[ArmScores, list[Cell]]]:
    """The stages by rank, each with its scores; the highest of several is bold."""
    estimates = [[scores.estimate(metric) for metric in metrics] for scores in evidence.stages]
    columns = [[score.value for score in column] for column in zip(*estimates, strict=True)]
    known = [[value for value in column if not math.isnan(value)] for column in columns]
    best = [hundredths(max(column, default=None)) if len(estimates) > 1 else None for column in known]
    cells = [[_score(of, highest) for of, highest in zip(row, best, strict=True)] for row in estimates]
    return list(zip(evidence.stages, cells, strict=True))


def _score(score: Estimate, highest: str | None) -> Cell:
    """A score, bold if it is the highest of its column, and its interval below it."""
    interval = None if score.half_width is None else f"± {hundredths(score.half_width)}"
    return Cell(hundredths(score.value), interval, bold=hundredths(score.value) == highest)


def ranking(evidence: Evidence) -> tuple[list[str], list[list], list[list]]:
    """Header, a row a stage by rank, and a row for each stage that was not run."""
    means = ["mIoU", *([MINORITY] if evidence.minority else []), "mF1", "OA"]
    header = ["stage", "rank", f"{evidence.unit}s", *means, "best − last", "steps", *BEYOND]
    rows: list[list] = []
    for rank, (scores, cells) in enumerate(by_rank(evidence, means), 1):
        gap, beyond = scores.best_minus_last(), [hundredths(scores.mean_over_seeds(key)) for key in BEYOND]
        rows.append([Cell(arm_name(scores.arm), link=scores.arm.name), rank, len(scores.seeds), *cells])
        rows[-1] += ["-" if gap is None else signed(gap), f"{scores.steps:,}", *beyond]
    absent = [stage for stage in STAGES if stage.name not in evidence.arms]
    dashes = ["-"] * (len(header) - 2)
    return header, rows, [[arm_name(stage), evidence.status(stage.name), *dashes] for stage in absent]


def class_scores(evidence: Evidence) -> tuple[list[str], list[list]]:
    """Header, and for each stage by rank the IoU of each class."""
    scored = by_rank(evidence, [f"IoU {name}" for name in evidence.classes])
    rows = [[Cell(arm_name(scores.arm), link=scores.arm.name), *cells] for scores, cells in scored]
    return ["stage", *(starred(name, evidence.minority) for name in evidence.classes)], rows


class BestModel(NamedTuple):
    """The stage that ranks first, the command that makes a map with its networks, and which others score higher."""

    scores: ArmScores
    networks: int
    command: Command
    higher: list[Arm]


def best_model(evidence: Evidence, args: argparse.Namespace) -> BestModel | None:
    """What a user would make a map with: best.pt of each training of the first stage; None if no stage was run."""
    if not evidence.stages:
        return None
    scores = evidence.stages[0]
    which, results = ("best", scores.best) if scores.best else ("last", scores.last)
    paths = []
    for seed, result in results.items():
        home = fold_root(args.root, result.fold["fold"]) if result.fold else args.root
        paths.append(str(home / f"model_weights/biodiversity/{scores.arm.name}/seed{seed}/{which}.pt"))
    is_default = scores.arm.name == FINAL_STAGE and which == "best" and evidence.folds
    flags = ["--image", "ortho.tif", "--out", "map.tif", *([] if is_default else ["--checkpoint", *paths])]
    others = [of for of in evidence.arms.values() if not of.arm.number]
    higher = [of.arm for of in others if of.value("mIoU") > scores.value("mIoU")]
    return BestModel(scores, len(paths), Command.of("evaluation.predict_map", args.root, *flags), higher)
