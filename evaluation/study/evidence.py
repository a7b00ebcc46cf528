"""What the results of a study show: scores with intervals, fair comparisons, and what they say.

Reads only what evaluation.compute_metrics wrote. Every score is computed again from the confusion matrices of the
tiles: pooled over val for each seed and averaged over the seeds, or in a study by folds pooled over all folds.
"""

from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from common.errors import UserError
from common.inputs import Input
from common.stages import ARMS, CONTROLS, RIVALS, STAGE_NAMES, Arm
from common.taxonomy import Taxonomy
from common.text import count, some
from evaluation.scoring.results import shared_blocks_note
from evaluation.study.comparability import LeftOut, Result, mixed_changes, read_results
from evaluation.study.comparisons import AGAINST_RIVALS, DESCRIPTIVE, FAMILIES, PLANNED, Comparison, Family
from evaluation.study.intervals import (
    FEWEST_TESTED,
    LEVEL,
    Estimate,
    Statistic,
    compare_family,
    difference,
    estimate,
    holm,
)
from evaluation.study.pooling import FEW_BLOCKS, Scored, Trainings, by_block, trainings_of
from evaluation.study.void_checks import void_comparisons
from evaluation.study.where import not_compared, results_of

KEYS = ("mIoU", "mF1", "OA")
BEYOND = ("boundary mIoU", "ECE")
SIGNIFICANT = 1 - LEVEL


@dataclass(frozen=True)
class ArmScores:
    """An arm over its trainings: results by seed, and the confusion matrices of last.pt in the order of the seeds."""

    arm: Arm
    last: dict[int, Result]
    best: dict[int, Result]
    trainings: Trainings

    @property
    def seeds(self) -> list[int]:
        return list(self.last)

    @property
    def steps(self) -> int:
        return next(iter(self.last.values())).metrics["cumulative_steps"]

    @property
    def metrics(self) -> list[str]:
        return list(self.trainings.statistics())

    def value(self, metric: str) -> float:
        """The pooled score, which is also that of ``estimate``."""
        return float(self.trainings.statistics()[metric].by_repeat.mean())

    def by_training(self, metric: str) -> np.ndarray:
        """(T,) the score of each training on what it was scored on; NaN if that lacks the classes."""
        return self.trainings.by_training()[metric]

    def estimate(self, metric: str) -> Estimate:
        found = estimate(self.trainings.statistics()[metric], self.trainings.of.holders_of(metric))
        return self.settle(metric, found)

    def mean_over_seeds(self, key: str) -> float | None:
        """Mean of a score of last.pt that has no interval; None if a seed lacks it."""
        values = [result.scores[key] for result in self.last.values()]
        return None if None in values else float(np.mean(values))

    def best_minus_last(self) -> float | None:
        """Mean over the seeds of the mIoU of best.pt minus that of last.pt."""
        gaps = [result.scores["mIoU"] - self.last[seed].scores["mIoU"] for seed, result in self.best.items()]
        return float(np.mean(gaps)) if gaps else None

    def paired(self, other: "ArmScores", metric: str, seeds: list[int]) -> np.ndarray:
        """(len(seeds),) difference to another arm with the same seed, each on what it was scored on."""
        mine, theirs = (scores.of_seeds(seeds).by_training()[metric] for scores in (self, other))
        return mine - theirs

    def against(self, other: "ArmScores", metric: str, seeds: list[int]) -> Statistic:
        """This arm minus another, paired by training and by block."""
        mine, theirs = (scores.of_seeds(seeds).statistics()[metric] for scores in (self, other))
        return mine - theirs

    def of_seeds(self, seeds: list[int]) -> Trainings:
        return self.trainings.only([self.seeds.index(seed) for seed in seeds])

    def settle(self, metric: str, found: Estimate) -> Estimate:
        """The estimate of a metric, without the parts that need more blocks with its class than there are."""
        has_interval = self.trainings.of.is_settled(metric) and not np.isnan(found.value)
        return found if has_interval else found.without_interval()


@dataclass(frozen=True)
class Finding:
    """What came of a comparison: estimates of the difference by metric, over the trainings with ``seeds``.

    ``refused`` says which pairs of runs are not comparable and why, ``missing`` what was not run. ``family`` is that in
    which it is tested, None if it is described alone; ``corrected`` holds the corrected p-values by metric.
    """

    comparison: Comparison
    seeds: list[int] = field(default_factory=list)
    estimates: dict[str, Estimate] = field(default_factory=dict)
    refused: list[str] = field(default_factory=list)
    missing: str | None = None
    family: Family | None = None
    corrected: dict[str, float | None] = field(default_factory=dict)

    @property
    def mIoU(self) -> Estimate | None:
        return self.estimates.get("mIoU")

    @property
    def is_screening(self) -> bool:
        """Whether it would be tested if there were more trainings."""
        return self.family is not None and bool(self.estimates) and len(self.seeds) < FEWEST_TESTED

    def is_shown(self, metric: str = "mIoU") -> bool:
        """Whether the corrected p-value of a metric says that the two differ."""
        p = self.corrected.get(metric)
        return p is not None and p < SIGNIFICANT

    def is_equivalent(self, metric: str = "mIoU") -> bool:
        """Whether a metric is shown to differ by less than matters."""
        found = self.estimates.get(metric)
        return found is not None and bool(found.equivalent) and not self.is_shown(metric)


@dataclass(frozen=True)
class Evidence:
    """All that a study shows. ``cautions`` are what a reader must know before any number.

    ``families`` holds the findings of each family, in the order of FAMILIES.
    """

    results: list[Result]
    arms: dict[str, ArmScores]
    families: dict[Family, list[Finding]]
    descriptive: list[Finding]
    scored: Scored
    absent: list[str]
    left_out: list[LeftOut]
    cautions: list[str]

    @property
    def taxonomy(self) -> Taxonomy:
        return self.scored.taxonomy

    @property
    def minority(self) -> list[str]:
        return [self.taxonomy.classes[i] for i in self.scored.minority]

    @property
    def classes(self) -> list[str]:
        """The foreground classes that occur in the truth."""
        return [name for name in self.taxonomy.foreground if name not in self.absent]

    @property
    def split_facts(self) -> dict:
        return self.results[0].metrics["split_facts"]

    @property
    def _any(self) -> Trainings:
        return next(iter(self.arms.values())).trainings

    @property
    def folds(self) -> int | None:
        """How many folds the blocks were dealt into; None for several seeds on one split."""
        return self._any.folds if self._any.folds > 1 else None

    @property
    def unit(self) -> str:
        """What one training of an arm is: a fold, or a seed."""
        return "fold" if self.folds else "seed"

    @property
    def blocks(self) -> int:
        return self._any.counts.shape[1]

    @property
    def seeds(self) -> list[int]:
        return sorted({seed for arm in self.arms.values() for seed in arm.seeds})

    @property
    def stages(self) -> list[ArmScores]:
        """The stages that were run, controls and rivals apart, best first."""
        stages = [scores for name, scores in self.arms.items() if name in STAGE_NAMES]
        return sorted(stages, key=lambda scores: tuple(-scores.value(key) for key in KEYS))

    @property
    def run_families(self) -> dict[Family, list[Finding]]:
        """The families that the study is about: that of the rivals only if one was run."""
        return {
            family: found for family, found in self.families.items() if family is not AGAINST_RIVALS or rivals_run(self)
        }

    @property
    def planned(self) -> list[Finding]:
        """The findings of all families."""
        return [finding for findings in self.families.values() for finding in findings]

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
        for metric in (mine.metrics if shared else ())
    }
    known = {metric: found for metric, found in estimates.items() if not np.isnan(found.value)}
    return Finding(comparison, shared, known, refused)


def _test(family: Family, arms: dict[str, ArmScores], left_out: list[LeftOut]) -> list[Finding]:
    """The findings of a family, tested and corrected together."""
    findings = [_compare(comparison, arms, left_out) for comparison in family.comparisons]
    tested: list[dict[str, Estimate]] = [{} for _ in findings]
    for metric in family.metrics:
        statistics = [
            arms[f.comparison.arm.name].against(arms[f.comparison.other.name], metric, f.seeds)
            if metric in f.estimates
            else None
            for f in findings
        ]
        for of_finding, found in zip(tested, compare_family(statistics, family.hypotheses), strict=True):
            of_finding |= {metric: found} if found else {}
    keys = [(row, metric) for row in range(len(findings)) for metric in family.metrics]
    p_values = [tested[row][metric].p if metric in tested[row] else None for row, metric in keys]
    corrected = dict(zip(keys, holm(p_values), strict=True))
    return [
        replace(
            finding,
            family=family,
            estimates=finding.estimates | tested[row],
            corrected={metric: corrected[row, metric] for metric in tested[row]},
        )
        for row, finding in enumerate(findings)
    ]


def _minority(results: list[Result]) -> tuple[list[str], str | None]:
    """The minority classes, and a caution if results name different ones.

    They follow from the classes of train. In a study by folds, whose train differs a little, they are those that more
    than half of the results name.
    """
    named = Counter(tuple(result.metrics["minority_classes"] or ()) for result in results)
    if len(named) == 1:
        return list(next(iter(named))), None
    if any(result.fold is None for result in results):
        return [], "results name different minority classes, so their mean is missing"
    times = Counter(name for names, number in named.items() for name in names * number)
    taken = [name for name in results[0].taxonomy.foreground if 2 * times[name] > len(results)]
    differing = [name for name in results[0].taxonomy.foreground if 0 < times[name] < len(results)]
    return taken, (
        f"{' and '.join(differing)}: a minority class in the train of some folds and not of others; the mean of "
        f"minority classes runs over those of most folds, {', '.join(taken) or 'none'}"
    )


def _score(results: list[Result], minority: list[str]) -> tuple[Scored, dict[str, ArmScores]]:
    """What is scored, and the scores of each arm."""
    truth: dict[str, np.ndarray] = {}
    for result in results:
        truth |= {name: counts.sum(axis=1) for name, counts in by_block(result.tiles).items() if name not in truth}
    blocks, taxonomy = sorted(truth), results[0].taxonomy
    holders = (np.stack([truth[name] for name in blocks]) > 0).sum(axis=0)
    present = [i for i in range(1, taxonomy.num_classes) if holders[i]]
    scored = Scored(
        taxonomy,
        present,
        [i for i in present if taxonomy.classes[i] in minority],
        {i: int(holders[i]) for i in present},
    )
    arms = {}
    for arm in ARMS:
        last = {result.seed: result for result in results if (result.arm, result.which) == (arm.name, "last")}
        best = {r.seed: r for r in results if (r.arm, r.which) == (arm.name, "best") and r.seed in last}
        if last:
            repeats = [result.fold["repeat"] if result.fold else seed for seed, result in last.items()]
            folds = results[0].fold["folds"] if results[0].fold else 1
            trainings = trainings_of([r.tiles for r in last.values()], repeats, folds, blocks, scored)
            arms[arm.name] = ArmScores(arm, last, best, trainings)
    return scored, arms


def gather(results: list[Result], left_out: list[LeftOut]) -> Evidence:
    """Score and compare what ``read_results`` found."""
    minority, unlike_minority = _minority(results)
    scored, arms = _score(results, minority)
    taxonomy = scored.taxonomy
    absent = [name for i, name in enumerate(taxonomy.foreground, 1) if i not in scored.present]
    families = {family: _test(family, arms, left_out) for family in FAMILIES}
    descriptive = [_compare(comparison, arms, left_out) for comparison in DESCRIPTIVE]

    cautions = [f"left out: {reason}" for reason in dict.fromkeys(out.reason for out in left_out)]
    findings = [finding for of_family in families.values() for finding in of_family] + descriptive
    refused = dict.fromkeys(reason for finding in findings for reason in finding.refused)
    cautions += [f"not compared: {reason}" for reason in refused]
    cautions += [unlike_minority] if unlike_minority else []
    if scored.few:
        cautions.append(
            f"{' and '.join(scored.few)}: in fewer than {FEW_BLOCKS} blocks of val, so without an interval; the "
            "intervals of means that hold it are wide"
        )
    cautions += _missing_folds(arms)
    cautions += void_comparisons(results, PLANNED + DESCRIPTIVE)
    cautions += _mixed_devices(arms)
    cautions += _shared_blocks(results)
    return Evidence(results, arms, families, descriptive, scored, absent, left_out, cautions)


def _missing_folds(arms: dict[str, ArmScores]) -> list[str]:
    """A sentence on the folds that arms lack, which others have or the dealing holds."""
    have = {name: {r.fold["fold"]: r.fold for r in scores.last.values() if r.fold} for name, scores in arms.items()}
    all_of = {fold: facts for folds in have.values() for fold, facts in folds.items()}
    dealt = {
        fold
        for facts in all_of.values()
        for fold in range((facts["repeat"] - 1) * facts["folds"] + 1, facts["repeat"] * facts["folds"] + 1)
    }
    lacking: dict[tuple[int, ...], list[str]] = {}
    for name, folds in have.items():
        if dealt - folds.keys():
            lacking.setdefault(tuple(sorted(dealt - folds.keys())), []).append(name)
    sentences = []
    for folds, names in lacking.items():
        unmet = arms[names[0]].trainings.unmet
        without = f" and without {' and '.join(unmet)}, in no other fold" if unmet else ""
        missing = f"without fold {', '.join(map(str, folds))} of {count(dealt, 'fold')}"
        sentences.append(f"{some(names)}: {missing}, so scored on less area{without}")
    return sentences


def _shared_blocks(results: list[Result]) -> list[str]:
    """A sentence for each fold, or for the one split, whose val shares blocks with train."""
    notes = {}
    for result in results:
        fold, note = result.fold, shared_blocks_note("val", result.metrics["split_facts"])
        if note:
            notes.setdefault(f"fold {fold['fold']}: {note}" if fold else note)
    return list(notes)


def _mixed_devices(arms: dict[str, ArmScores]) -> list[str]:
    """A sentence for each seed whose arms were trained on different devices, or numbers of threads."""
    used: dict[int, set[str]] = {}
    for scores in arms.values():
        for seed, result in scores.last.items():
            used.setdefault(seed, set()).add(str(result.run.get("device")))
    return [
        f"seed {seed}: stages were trained on {' and '.join(sorted(devices))}, which differ in rounding"
        for seed, devices in sorted(used.items())
        if len(devices) > 1
    ]


def gather_from(in_dir: Input, root: Path) -> Evidence:
    """The evidence that the results of the study at ``root`` give: those of its folds, or those in ``in_dir``.

    Raises:
        UserError: there is none.
    """
    in_dirs = results_of(in_dir, root)
    results, left_out = read_results(in_dirs)
    if not any(result.which == "last" for result in results):
        first, problem = in_dirs[0], "holds no results of a last.pt"
        error = first.unusable(f"{first} {problem} that can be compared") if left_out else first.missing(problem)
        raise UserError("\n  ".join([str(error), *(out.reason for out in left_out)]))
    evidence = gather(results, left_out)
    return replace(evidence, cautions=[*not_compared(in_dir, root), *evidence.cautions])


def controls_run(evidence: Evidence) -> list[Arm]:
    return [control for control in CONTROLS if control.name in evidence.arms]


def rivals_run(evidence: Evidence) -> list[Arm]:
    return [rival for rival in RIVALS if rival.name in evidence.arms]
