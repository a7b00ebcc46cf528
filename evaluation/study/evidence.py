"""What the results of a study show: scores with intervals, fair comparisons, and verdicts in words.

Reads only what evaluation.compute_metrics wrote. Every score is computed again from the confusion matrices of the
tiles, pooled over the split for each seed and then averaged over the seeds.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import numpy as np

from common.errors import UserError
from common.inputs import Input
from common.metrics import class_ratios
from common.stages import ARMS, CONTROLS, STAGE_NAMES, Arm
from common.taxonomy import Taxonomy
from evaluation.scoring.results import TileCounts, shared_blocks_note
from evaluation.study.comparability import LeftOut, Result, mixed_changes, read_results
from evaluation.study.comparisons import DESCRIPTIVE, PLANNED, Comparison
from evaluation.study.intervals import (
    LEVEL,
    Estimate,
    Statistic,
    compare_family,
    difference,
    estimate,
    holm,
    on_one_split,
)

KEYS = ("mIoU", "mF1", "OA")
BEYOND = ("boundary mIoU", "ECE")
MINORITY = "minority mIoU"
SIGNIFICANT = 1 - LEVEL
FEW_BLOCKS = 5  # a class in fewer blocks than this has an interval that says little


@dataclass(frozen=True)
class ArmScores:
    """An arm over its seeds: for each metric (S,) ``by_seed`` and (S, B) ``without_block``, in the order of seeds.

    ``unsettled`` names the metrics of classes that occur in too few blocks for an interval, ``holders`` is, of each
    metric, how many blocks hold its classes (their lower median).
    """

    arm: Arm
    last: dict[int, Result]
    best: dict[int, Result]
    by_seed: dict[str, np.ndarray]
    without_block: dict[str, np.ndarray]
    unsettled: frozenset[str]
    holders: dict[str, int] = field(default_factory=dict)

    @property
    def seeds(self) -> list[int]:
        return list(self.last)

    @property
    def steps(self) -> int:
        return next(iter(self.last.values())).metrics["cumulative_steps"]

    def estimate(self, metric: str) -> Estimate:
        return self.settle(metric, estimate(self.statistic(metric, self.seeds), self.holders.get(metric)))

    def statistic(self, metric: str, seeds: list[int]) -> Statistic:
        """A metric of the trainings with these seeds."""
        rows = [self.seeds.index(seed) for seed in seeds]
        without_block = self.without_block[metric][rows]
        return Statistic(self.by_seed[metric][rows], without_block, on_one_split(*without_block.shape))

    def mean_over_seeds(self, key: str) -> float | None:
        """Mean of a score of last.pt that has no interval; None where a seed lacks it."""
        values = [result.scores[key] for result in self.last.values()]
        return None if None in values else float(np.mean(values))

    def best_minus_last(self) -> float | None:
        """Mean over the seeds of the mIoU of best.pt minus that of last.pt."""
        gaps = [result.scores["mIoU"] - self.last[seed].scores["mIoU"] for seed, result in self.best.items()]
        return float(np.mean(gaps)) if gaps else None

    def paired(self, other: "ArmScores", metric: str, seeds: list[int]) -> np.ndarray:
        """(len(seeds),) difference to another arm with the same seed."""
        return self.against(other, metric, seeds).by_repeat

    def against(self, other: "ArmScores", metric: str, seeds: list[int]) -> Statistic:
        """This arm minus another, paired by seed and by block."""
        return self.statistic(metric, seeds) - other.statistic(metric, seeds)

    def settle(self, metric: str, uncut: Estimate) -> Estimate:
        """The estimate of a metric, without what cannot be had where its class is in too few blocks."""
        return uncut.without_interval() if metric in self.unsettled else uncut


def score_arm(
    arm: Arm, results: list[Result], present: list[int], minority: list[int], holders: dict[int, int]
) -> ArmScores:
    """The scores of an arm among all results; ``present`` and ``minority`` are class ids, ``holders`` their blocks."""
    last = {result.seed: result for result in results if (result.arm, result.which) == (arm.name, "last")}
    best = {r.seed: r for r in results if (r.arm, r.which) == (arm.name, "best") and r.seed in last}
    counts = np.stack([by_block(result.tiles) for result in last.values()])
    names = results[0].taxonomy.classes
    scores = crossed_scores(counts, results[0].taxonomy, present, minority)
    of_metric = {f"IoU {names[i]}": holders[i] for i in present}
    of_metric |= {name: _lower_median(holders[i] for i in ids) for name, ids in _means(present, minority).items()}
    unsettled = frozenset(f"IoU {names[i]}" for i in present if holders[i] < FEW_BLOCKS)
    return ArmScores(arm, last, best, *scores, unsettled, of_metric)


def _means(present: list[int], minority: list[int]) -> dict[str, list[int]]:
    """The classes that each mean runs over."""
    return {"mIoU": present, "mF1": present} | ({MINORITY: minority} if minority else {})


def _lower_median(counts: Iterable[int]) -> int:
    ordered = sorted(counts)
    return ordered[(len(ordered) - 1) // 2]


def crossed_scores(
    counts: np.ndarray, taxonomy: Taxonomy, present: list[int], minority: list[int]
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Scores of (S, B, C, C) confusion matrices of S seeds on B blocks, pooled over the blocks.

    Returns:
        By metric name the (S,) scores, and the (S, B) scores with one block left out.
    """

    def metrics(confusions: np.ndarray) -> dict[str, np.ndarray]:
        scores = class_ratios(confusions)
        means = {f"m{key}": scores[key][..., present].mean(axis=-1) for key in ("IoU", "F1")}
        rare = {MINORITY: scores["IoU"][..., minority].mean(axis=-1)} if minority else {}
        return {**means, "OA": scores["OA"], **rare} | {
            f"IoU {taxonomy.classes[i]}": scores["IoU"][..., i] for i in present
        }

    totals = counts.sum(axis=1)
    return metrics(totals), metrics(totals[:, None] - counts)


def by_block(tiles: TileCounts) -> np.ndarray:
    """(B, C, C) int64 confusion matrix of each spatial block with a labelled pixel, blocks sorted by name."""
    names, index = np.unique(tiles.blocks, return_inverse=True)
    summed = np.zeros((len(names), *tiles.confusions.shape[1:]), np.int64)
    np.add.at(summed, index, tiles.confusions)
    return summed[summed[:, 1:].sum(axis=(1, 2)) > 0]


@dataclass(frozen=True)
class Finding:
    """What came of a comparison: estimates of the difference by metric, over ``seeds``.

    ``refused`` says which pairs of runs are not comparable and why, ``missing`` what was not run. ``p_holm`` is the
    corrected p-value of mIoU of a planned one.
    """

    comparison: Comparison
    seeds: list[int] = field(default_factory=list)
    estimates: dict[str, Estimate] = field(default_factory=dict)
    refused: list[str] = field(default_factory=list)
    missing: str | None = None
    p_holm: float | None = None

    @property
    def mIoU(self) -> Estimate | None:
        return self.estimates.get("mIoU")

    @property
    def told_apart(self) -> bool:
        """Whether the corrected p-value of a planned comparison says that the two differ."""
        return self.p_holm is not None and self.p_holm < SIGNIFICANT


@dataclass(frozen=True)
class Evidence:
    """All that a study shows. ``cautions`` are what a reader must know before any number."""

    results: list[Result]
    arms: dict[str, ArmScores]
    planned: list[Finding]
    descriptive: list[Finding]
    minority: list[str]
    absent: list[str]
    left_out: list[LeftOut]
    cautions: list[str]

    @property
    def taxonomy(self) -> Taxonomy:
        return self.results[0].taxonomy

    @property
    def classes(self) -> list[str]:
        """The foreground classes that occur in the truth of the split."""
        return [name for name in self.taxonomy.foreground if name not in self.absent]

    @property
    def split_facts(self) -> dict:
        return self.results[0].metrics["split_facts"]

    @property
    def blocks(self) -> int:
        return next(iter(self.arms.values())).without_block["mIoU"].shape[1]

    @property
    def seeds(self) -> list[int]:
        return sorted({seed for arm in self.arms.values() for seed in arm.seeds})

    @property
    def stages(self) -> list[ArmScores]:
        """The stages that were run, controls apart, best first."""
        stages = [scores for name, scores in self.arms.items() if name in STAGE_NAMES]
        return sorted(stages, key=lambda scores: tuple(-scores.by_seed[key].mean() for key in KEYS))

    @property
    def findings(self) -> list[Finding]:
        return self.planned + self.descriptive

    def finding(self, arm: str, other: str) -> Finding | None:
        """The finding of a comparison that is planned or described."""
        of_pair = (f for f in self.findings if (f.comparison.arm.name, f.comparison.other.name) == (arm, other))
        return next(of_pair, None)

    def of_control(self, control: Arm) -> Finding:
        """The finding of the stage that a control is compared with, against the control."""
        finding = self.finding(control.compared_with or "", control.name)
        if finding is None:
            raise LookupError(f"evaluation/study/comparisons.py has no comparison of {control.compared_with} and it")
        return finding

    @property
    def has_intervals(self) -> bool:
        return any(scores.estimate("mIoU").half_width is not None for scores in self.arms.values())

    def status(self, arm: str) -> str:
        """Why an arm has no scores: ``not run`` or ``left out``."""
        return why_absent(arm, self.left_out)


def why_absent(arm: str, left_out: list[LeftOut]) -> str:
    return "left out" if any(out.arm == arm for out in left_out) else "not run"


def _compare(comparison: Comparison, arms: dict[str, ArmScores], left_out: list[LeftOut]) -> Finding:
    pair = comparison.arm.name, comparison.other.name
    lacking = [name for name in pair if name not in arms]
    if lacking:
        return Finding(comparison, missing=", ".join(f"{name} {why_absent(name, left_out)}" for name in lacking))
    mine, theirs = (arms[name] for name in pair)
    shared, refused = [seed for seed in mine.seeds if seed in theirs.seeds], []
    if not shared:
        return Finding(comparison, missing="no seed in common")
    for seed in list(shared):
        problem = mixed_changes(mine.last[seed], theirs.last[seed], comparison.component)
        if problem:
            shared.remove(seed)
            refused.append(problem)
    estimates = {
        metric: mine.settle(metric, difference(mine.against(theirs, metric, shared)))
        for metric in (mine.by_seed if shared else ())
    }
    return Finding(comparison, shared, estimates, refused)


def _tested(findings: list[Finding], arms: dict[str, ArmScores], metric: str, hypotheses: int) -> list[Finding]:
    """The findings of a family with a metric of theirs tested."""
    statistics = [
        arms[finding.comparison.arm.name].against(arms[finding.comparison.other.name], metric, finding.seeds)
        if metric in finding.estimates
        else None
        for finding in findings
    ]
    return [
        finding if estimate is None else replace(finding, estimates=finding.estimates | {metric: estimate})
        for finding, estimate in zip(findings, compare_family(statistics, hypotheses), strict=True)
    ]


def gather(results: list[Result], left_out: list[LeftOut]) -> Evidence:
    """Score and compare what ``read_results`` found."""
    taxonomy = results[0].taxonomy
    truth = by_block(results[0].tiles).sum(axis=2)
    present = [i for i in range(1, taxonomy.num_classes) if truth[:, i].sum() > 0]
    absent = [name for i, name in enumerate(taxonomy.foreground, 1) if i not in present]
    named = sorted({tuple(result.metrics["minority_classes"] or ()) for result in results})
    minority = list(named[0]) if len(named) == 1 else []
    minority_ids = [i for i in present if taxonomy.classes[i] in minority]
    with_last = {result.arm for result in results if result.which == "last"}
    holders = {i: int((truth[:, i] > 0).sum()) for i in present}
    few = [taxonomy.classes[i] for i in present if holders[i] < FEW_BLOCKS]
    arms = {arm.name: score_arm(arm, results, present, minority_ids, holders) for arm in ARMS if arm.name in with_last}

    planned = [_compare(comparison, arms, left_out) for comparison in PLANNED]
    planned = _tested(planned, arms, "mIoU", hypotheses=len(planned))
    corrected = holm([finding.mIoU.p if finding.mIoU else None for finding in planned])
    planned = [replace(finding, p_holm=p) for finding, p in zip(planned, corrected, strict=True)]
    descriptive = [_compare(comparison, arms, left_out) for comparison in DESCRIPTIVE]

    cautions = [f"left out: {out.reason}" for out in left_out]
    refused = dict.fromkeys(reason for finding in planned + descriptive for reason in finding.refused)
    cautions += [f"not compared: {reason}" for reason in refused]
    if len(named) > 1:
        cautions.append("results name different minority classes, so that their mean is left out")
    if few:
        cautions.append(
            f"{' and '.join(few)}: in fewer than {FEW_BLOCKS} blocks of val, so without an interval; the intervals of "
            "means that hold it are wide"
        )
    cautions += _mixed_devices(arms)
    shared = shared_blocks_note("val", results[0].metrics["split_facts"])
    if shared:
        cautions.append(shared)
    return Evidence(results, arms, planned, descriptive, minority, absent, left_out, cautions)


def _mixed_devices(arms: dict[str, ArmScores]) -> list[str]:
    """A sentence for each seed whose arms were trained on different devices, or numbers of threads."""
    used: dict[int, set[str]] = {}
    for scores in arms.values():
        for seed, result in scores.last.items():
            used.setdefault(seed, set()).add(str(result.run.get("device")))
    return [
        f"seed {seed}: arms were trained on {' and '.join(sorted(devices))}, which differ in rounding"
        for seed, devices in sorted(used.items())
        if len(devices) > 1
    ]


def gather_from(in_dir: Input) -> Evidence:
    """The evidence that the results under ``in_dir`` give; UserError where there is none."""
    results, left_out = read_results(in_dir)
    if not any(result.which == "last" for result in results):
        problem = "holds no results of a last.pt"
        error = in_dir.unusable(f"{in_dir} {problem} that can be compared") if left_out else in_dir.missing(problem)
        raise UserError("\n  ".join([str(error), *(out.reason for out in left_out)]))
    return gather(results, left_out)


def controls_run(evidence: Evidence) -> list[Arm]:
    return [control for control in CONTROLS if control.name in evidence.arms]
