"""What the results of a study show: scores with intervals, fair comparisons, and verdicts in words.

Reads only what evaluation.compute_metrics wrote. Every score is computed again from the confusion matrices of the
tiles, pooled over the split for each seed and then averaged over the seeds.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from common.cli import UserError
from common.metrics import class_ratios
from common.results import TileConfusions, shared_blocks_note
from common.stages import ARMS, CONTROLS, DESCRIPTIVE, PLANNED, STAGE_NAMES, Arm, Comparison
from common.taxonomy import Taxonomy
from evaluation.comparability import LeftOut, Result, mixed_changes, read_results
from evaluation.intervals import FEWEST_BLOCKS, FEWEST_SEEDS, LEVEL, Estimate, estimate, holm

KEYS = ("mIoU", "mF1", "OA")
BEYOND = ("boundary mIoU", "ECE")
MINORITY = "minority mIoU"
SIGNIFICANT = 1 - LEVEL
FEW_BLOCKS = 5  # a class in fewer blocks than this has an interval that says little


@dataclass(frozen=True)
class ArmScores:
    """An arm over its seeds: for each metric (S,) ``by_seed`` and (S, B) ``without_block``, in the order of seeds.

    ``unsettled`` names the metrics of classes that occur in too few blocks for an interval.
    """

    arm: Arm
    last: dict[int, Result]
    best: dict[int, Result]
    by_seed: dict[str, np.ndarray]
    without_block: dict[str, np.ndarray]
    unsettled: frozenset[str]

    @property
    def seeds(self) -> list[int]:
        return list(self.last)

    @property
    def steps(self) -> int:
        return next(iter(self.last.values())).facts["cumulative_steps"]

    def estimate(self, metric: str) -> Estimate:
        return self._settle(metric, estimate(self.by_seed[metric], self.without_block[metric]))

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
        mine, theirs = self._places(other, seeds)
        return self.by_seed[metric][mine] - other.by_seed[metric][theirs]

    def difference(self, other: "ArmScores", metric: str, seeds: list[int]) -> Estimate:
        """This arm minus another, paired by seed and by block."""
        mine, theirs = self._places(other, seeds)
        without_block = self.without_block[metric][mine] - other.without_block[metric][theirs]
        return self._settle(metric, estimate(self.paired(other, metric, seeds), without_block))

    def _settle(self, metric: str, found: Estimate) -> Estimate:
        return found._replace(half_width=None, p=None) if metric in self.unsettled else found

    def _places(self, other: "ArmScores", seeds: list[int]) -> tuple[list[int], list[int]]:
        return [self.seeds.index(seed) for seed in seeds], [other.seeds.index(seed) for seed in seeds]


def score_arm(arm: Arm, results: list[Result], present: list[int], minority: list[int], few: list[str]) -> ArmScores:
    """The scores of an arm among all results; ``present`` and ``minority`` are class ids, ``few`` class names."""
    last = {result.seed: result for result in results if (result.arm, result.which) == (arm.name, "last")}
    best = {r.seed: r for r in results if (r.arm, r.which) == (arm.name, "best") and r.seed in last}
    counts = np.stack([by_block(result.tiles) for result in last.values()])
    scores = crossed_scores(counts, results[0].taxonomy, present, minority)
    return ArmScores(arm, last, best, *scores, frozenset(f"IoU {name}" for name in few))


def crossed_scores(counts: np.ndarray, taxonomy: Taxonomy, present: list[int], minority: list[int]):
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


def by_block(tiles: TileConfusions) -> np.ndarray:
    """(B, C, C) int64 confusion matrix of each spatial block with a labelled pixel, blocks sorted by name."""
    names, place = np.unique(tiles.blocks, return_inverse=True)
    summed = np.zeros((len(names), *tiles.confusions.shape[1:]), np.int64)
    np.add.at(summed, place, tiles.confusions)
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

    def verdict(self) -> str:
        """The finding in words."""
        mine, theirs = short_name(self.comparison.arm), short_name(self.comparison.other)
        if not self.estimates:
            return f"{mine} and {theirs} are not compared: {self.missing or '; '.join(self.refused)}"
        found = self.mIoU
        points = f"{abs(100 * found.value):.1f} points of mIoU"
        above = f"{mine} is {points} {'above' if found.value >= 0 else 'below'} {theirs}"
        if found.half_width is None:
            return f"{above} in {count(self.seeds, 'seed')}, without an interval"
        interval = f"95 % interval {signed(found.low)} to {signed(found.high)}"
        if not self.comparison.planned:
            return f"{above} ({interval}; described, not tested)"
        p = f"p {_equals(p_text(self.p_holm))} after correction"
        if not self.told_apart:
            return f"{mine} cannot be told from {theirs} ({signed(found.value)} points of mIoU, {interval}, {p})"
        verb, against = ("gains", "over") if found.value > 0 else ("loses", "against")
        return f"{mine} {verb} {points} {against} {theirs} ({interval}, {p})"


def short_name(arm: Arm) -> str:
    """``Stage 5B`` or ``the control "6, uniform target"``, for sentences."""
    return f'the control "{arm.title}"' if arm.question else f"stage {arm.title.split('  ')[0]}"


def count(things, noun: str) -> str:
    return f"{len(things)} {noun}{'' if len(things) == 1 else 's'}"


def starred(name: str, minority: list[str]) -> str:
    """The name of a class, with a star where it is a minority class."""
    return f"{name} *" if name in minority else name


def percent(found: Estimate) -> str:
    """``43.1`` or ``43.1 ± 2.0``."""
    return f"{100 * found.value:.1f}" + ("" if found.half_width is None else f" ± {100 * found.half_width:.1f}")


def points(found: Estimate | None) -> str:
    """``+3.1`` or ``+3.1 [+1.2, +5.0]``; a dash where there is none."""
    if found is None:
        return "-"
    interval = "" if found.half_width is None else f" [{signed(found.low)}, {signed(found.high)}]"
    return signed(found.value) + interval


def signed(value: float) -> str:
    """A share as signed points, with a true minus."""
    return f"{100 * value:+.1f}".replace("-", "\u2212")


def p_text(p: float) -> str:
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def _equals(number: str) -> str:
    return number.replace("<", "< ") if number.startswith("<") else f"= {number}"


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
        return self.results[0].facts["split_facts"]

    @property
    def blocks(self) -> int:
        return next(iter(self.arms.values())).without_block["mIoU"].shape[1]

    @property
    def seeds(self) -> list[int]:
        return sorted({seed for arm in self.arms.values() for seed in arm.seeds})

    @property
    def stages(self) -> list[ArmScores]:
        """The stages that were run, controls apart, best first."""
        found = [scores for name, scores in self.arms.items() if name in STAGE_NAMES]
        return sorted(found, key=lambda scores: tuple(-scores.by_seed[key].mean() for key in KEYS))

    @property
    def findings(self) -> list[Finding]:
        return self.planned + self.descriptive

    def finding(self, arm: str, other: str) -> Finding | None:
        """The finding of a comparison that is planned or described."""
        known = [f for f in self.findings if (f.comparison.arm.name, f.comparison.other.name) == (arm, other)]
        return known[0] if known else None

    def without_intervals(self) -> str | None:
        """Why no interval is given, or not everywhere; None where all have one."""
        by_arm = min((len(arm.seeds) for arm in self.arms.values()), default=0)
        by_pair = min((len(finding.seeds) for finding in self.findings if finding.estimates), default=by_arm)
        lacking = []
        if min(by_arm, by_pair) < FEWEST_SEEDS:
            in_common = "" if by_arm < FEWEST_SEEDS else " in common"
            more = "(reproduce.py --seeds adds some)"
            lacking.append(f"{min(by_arm, by_pair)} of {FEWEST_SEEDS} seeds{in_common} {more}")
        if self.blocks < FEWEST_BLOCKS:
            lacking.append(f"{self.blocks} of {FEWEST_BLOCKS} spatial blocks in val (more tiles, or smaller blocks)")
        if not lacking:
            return None
        where = " for some arms or pairs" if self.has_intervals else ""
        return f"No interval and no p-value{where}: there are {' and '.join(lacking)}."

    @property
    def has_intervals(self) -> bool:
        return any(scores.estimate("mIoU").half_width is not None for scores in self.arms.values())

    def status(self, arm: str) -> str:
        """Why an arm has no scores: ``not run`` or ``left out``."""
        return why_absent(arm, self.left_out)

    def answer(self, control: Arm) -> str:
        """What a control that was run says to its question."""
        finding = self.finding(control.compared_with, control.name)
        said = f"{control.question} {sentence(finding.verdict())}"
        if finding.mIoU is None or finding.mIoU.half_width is None:
            return f"{said} That is no answer yet."
        if not (finding.told_apart if finding.comparison.planned else finding.mIoU.excludes_zero):
            return f"{said} {control.answers.alike}"
        return f"{said} {control.answers.better if finding.mIoU.value > 0 else control.answers.worse}"


def sentence(text: str) -> str:
    return text[0].upper() + text[1:] + ("" if text.endswith(".") else ".")


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
    found = {metric: mine.difference(theirs, metric, shared) for metric in mine.by_seed} if shared else {}
    return Finding(comparison, shared, found, refused)


def gather(results: list[Result], left_out: list[LeftOut]) -> Evidence:
    """Score and compare what ``read_results`` found."""
    taxonomy = results[0].taxonomy
    truth = by_block(results[0].tiles).sum(axis=2)
    present = [i for i in range(1, taxonomy.num_classes) if truth[:, i].sum() > 0]
    absent = [name for i, name in enumerate(taxonomy.foreground, 1) if i not in present]
    named = sorted({tuple(result.facts["minority_classes"] or ()) for result in results})
    minority = list(named[0]) if len(named) == 1 else []
    minority_ids = [i for i in present if taxonomy.classes[i] in minority]
    with_last = {result.arm for result in results if result.which == "last"}
    few = [taxonomy.classes[i] for i in present if (truth[:, i] > 0).sum() < FEW_BLOCKS]
    arms = {arm.name: score_arm(arm, results, present, minority_ids, few) for arm in ARMS if arm.name in with_last}

    planned = [_compare(comparison, arms, left_out) for comparison in PLANNED]
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
    shared = shared_blocks_note("val", results[0].facts["split_facts"])
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


def gather_from(in_dir: Path, remedy: str) -> Evidence:
    """The evidence that the results under ``in_dir`` give; UserError where there is none."""
    results, left_out = read_results(in_dir, remedy)
    if not any(result.which == "last" for result in results):
        reasons = "".join(f"\n  {out.reason}" for out in left_out)
        raise UserError(f"{in_dir} holds no results of a last.pt.{reasons}\nEvaluate first: {remedy}")
    return gather(results, left_out)


def controls_run(evidence: Evidence) -> list[Arm]:
    return [control for control in CONTROLS if control.name in evidence.arms]


def about_the_split(evidence: Evidence) -> list[str]:
    facts = evidence.split_facts
    split_by = f", split by {facts['strategy']}" if facts["strategy"] else ""
    lines = [
        f"Val: {facts['tiles']} tiles in {facts['blocks']} spatial blocks{split_by}. Seeds: "
        + ", ".join(map(str, evidence.seeds)),
        f"mIoU and mF1 over {', '.join(evidence.classes)}; {evidence.taxonomy.void} counts nowhere.",
    ]
    if evidence.absent:
        lines.append(f"Not in val, so neither scored nor averaged: {', '.join(evidence.absent)}.")
    return lines


def how_to_read(evidence: Evidence) -> list[str]:
    lines = [
        "Percentages and points, from confusion matrices pooled over val for each seed, means over the seeds. Ranked "
        "by mIoU, then mF1, then OA of last.pt.",
    ]
    lacking = evidence.without_intervals()
    if lacking:
        lines.append(lacking)
    if evidence.has_intervals:
        lines.append(
            "± and [ ]: 95 % intervals over seeds and spatial blocks together, each for itself. p: how often a "
            "difference in mIoU as large as this would come about if there were none in truth; corrected by Holm for "
            f"the {len(PLANNED)} planned comparisons, run or not. The rest is described, not tested."
        )
    if len({tuple(scores.seeds) for scores in evidence.arms.values()}) > 1:
        lines.append("The arms have different seeds, so that the rank also compares seeds; differences are paired.")
    if evidence.seeds and len(evidence.seeds) == 1:
        lines.append("One seed: differences of a point or two are noise, on small sets more.")
    lines += [
        "best - last: points that best.pt has over last.pt; best.pt is chosen on val itself, so that it flatters.",
        "steps: optimizer steps with those of the ancestors. boundary mIoU: IoU near the contours of the classes. ECE: "
        "expected calibration error, how far confidence is from being right; lower is better.",
    ]
    if evidence.minority:
        lines.append(f"* minority class of train; {MINORITY} is the mean of these.")
    return lines
