"""What the results of a study show: scores with intervals, fair comparisons, and verdicts in words.

Reads only what evaluation.compute_metrics wrote. Every score is computed again from the confusion matrices of the
tiles, pooled over the split for each seed and then averaged over the seeds.
"""

from collections import Counter
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from common.cli import UserError
from common.files import read_json
from common.metrics import boundary_score, calibration_score, class_ratios, score
from common.results import (
    CONFUSIONS,
    METRICS,
    RUN_RECORD,
    WHICH,
    TileConfusions,
    results_folder,
    seed_folders,
    shared_blocks_note,
)
from common.stages import ARM_OF, ARMS, CONTROLS, DESCRIPTIVE, PLANNED, STAGE_NAMES, Arm, Comparison
from common.taxonomy import Taxonomy, taxonomy_from_json
from common.text import some
from evaluation.intervals import FEWEST_BLOCKS, FEWEST_SEEDS, LEVEL, Estimate, estimate, holm

KEYS = ("mIoU", "mF1", "OA")
BEYOND = ("boundary mIoU", "ECE")
MINORITY = "minority mIoU"
SIGNIFICANT = 1 - LEVEL
FEW_BLOCKS = 5  # a class in fewer blocks than this has an interval that says little


@dataclass(frozen=True)
class Result:
    """One checkpoint's result as it lies on disk."""

    arm: str
    seed: int
    which: str
    folder: Path
    facts: dict
    tiles: TileConfusions
    run: dict

    @property
    def name(self) -> str:
        return f"{self.arm} seed {self.seed}"

    @cached_property
    def taxonomy(self) -> Taxonomy:
        return taxonomy_from_json(self.facts["taxonomy"], self.folder / METRICS)

    @cached_property
    def scores(self) -> dict:
        """What ``common.metrics.score`` returns, ``boundary mIoU`` and ``ECE``."""
        found = score(self.tiles.confusions.sum(axis=0), self.taxonomy)
        boundary = boundary_score(self.tiles.boundary.sum(axis=0), self.taxonomy, found["classes"])
        calibration = calibration_score(self.tiles.calibration.sum(axis=0))
        return {**found, "boundary mIoU": boundary["mIoU"], "ECE": calibration["ECE"]}

    @property
    def ground(self) -> tuple:
        """What two results must have in common to be compared at all."""
        return self.tiles.split_digest, tuple(self.tiles.class_names), tuple(self.tiles.tile_ids)


def read_result(folder: Path, arm: str, seed: int, which: str, remedy: str) -> Result:
    """The result in a folder; UserError where it is damaged, or its files are of different evaluations."""
    facts = read_json(folder / METRICS, remedy)
    tiles = TileConfusions.load(folder / CONFUSIONS)
    run = read_json(folder / RUN_RECORD, remedy)
    try:
        here = (facts["stage"], facts["seed"], facts["which"])
        digests = (facts["split_digest"], facts["checkpoint_digest"])
        names = taxonomy_from_json(facts["taxonomy"], folder / METRICS).classes
        facts["cumulative_steps"] + 0, facts["minority_classes"], facts["split_facts"]["blocks"]
        dict(run["settings"]), dict(run["recipe"])
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{folder / METRICS} is not of this project. Evaluate again: {remedy}") from None
    if here != (arm, seed, which):
        raise UserError(f"{folder / METRICS} is of {here[0]} seed {here[1]} {here[2]}.pt. Evaluate again: {remedy}")
    if digests != (tiles.split_digest, tiles.checkpoint_digest) or list(names) != tiles.class_names:
        raise UserError(f"{folder}: {METRICS} and {CONFUSIONS} are of two evaluations. Evaluate again: {remedy}")
    if facts["split"] != "val":
        raise UserError(f"{folder / METRICS} is of the {facts['split']} split; arms are compared on val alone.")
    return Result(arm, seed, which, folder, facts, tiles, run)


def read_results(in_dir: Path, remedy: str) -> tuple[list[Result], list[str]]:
    """Every result under ``in_dir`` that can be compared with most others, and why the rest is left out."""
    results, left_out = [], []
    for arm in ARM_OF:
        for seed, seed_dir in seed_folders(in_dir / arm):
            for which in WHICH:
                folder = results_folder(seed_dir, which)
                if which == "best" and not folder.is_dir():
                    continue
                try:
                    results.append(read_result(folder, arm, seed, which, remedy))
                except UserError as problem:
                    left_out.append(str(problem))
    results, foreign = _like_most(results, lambda result: result.ground, _other_ground)
    for key, explain in ((lambda r: _plain(r.run["settings"]), _other_settings), (_steps_a_training, _other_steps)):
        last = [result for result in results if result.which == "last"]
        alike, reasons = _like_most(last, key, explain)
        left_out += reasons
        dropped = {(r.arm, r.seed) for r in last} - {(r.arm, r.seed) for r in alike}
        results = [result for result in results if (result.arm, result.seed) not in dropped]
    return results, [f"{reason}. Evaluate again: {remedy}" for reason in foreign] + left_out


def _plain(settings: dict) -> tuple:
    return tuple(sorted((name, str(value)) for name, value in settings.items()))


def _steps_a_training(result: Result) -> float:
    return result.facts["cumulative_steps"] / ARM_OF[result.arm].trainings


def _like_most(results: list[Result], key, explain) -> tuple[list[Result], list[str]]:
    """The results with the most common ``key``, and a sentence for each of the others."""
    counts = Counter(map(key, results))
    if len(counts) < 2:
        return results, []
    common, _ = counts.most_common(1)[0]  # of equally many, that of the earliest arm
    most = next(result for result in results if key(result) == common)
    return [r for r in results if key(r) == common], [explain(r, most) for r in results if key(r) != common]


def _other_ground(result: Result, most: Result) -> str:
    if result.ground[0] != most.ground[0]:
        return f"{result.folder} was scored on other val tiles than most (split digest {result.ground[0][:12]})"
    what = "classes, or classes in another order," if result.ground[1] != most.ground[1] else "val tiles"
    return f"{result.folder} was scored on other {what} than most ({some(result.tiles.class_names)})"


def _other_settings(result: Result, most: Result) -> str:
    there, here = result.run["settings"], most.run["settings"]
    differing = [name for name in {**here, **there} if str(there.get(name)) != str(here.get(name))]
    found = ", ".join(f"{name} {there.get(name)} (most: {here.get(name)})" for name in differing)
    return f"{result.name} was trained with {found}"


def _other_steps(result: Result, most: Result) -> str:
    seen, expected = result.facts["cumulative_steps"], round(_steps_a_training(most) * ARM_OF[result.arm].trainings)
    return f"{result.name} has seen {seen:,} steps with those of its ancestors, where {expected:,} were expected"


def mixed_changes(result: Result, other: Result, component: str | None) -> str | None:
    """Why the difference of two runs would mix changes: what differs in their recipes beside ``component``."""
    mine, theirs = result.run["recipe"], other.run["recipe"]
    differing = [part for part in {**theirs, **mine} if mine.get(part) != theirs.get(part)]
    if component is None or differing == [component]:
        return None
    found = ", ".join(differing) or "nothing"
    return f"{result.name} differs from {other.arm} in {found}, expected {component} alone"


@dataclass(frozen=True)
class ArmScores:
    """An arm over its seeds: for each metric (S,) ``by_seed`` and (S, B) ``without_block``, in the order of seeds."""

    arm: Arm
    last: dict[int, Result]
    best: dict[int, Result]
    by_seed: dict[str, np.ndarray]
    without_block: dict[str, np.ndarray]

    @property
    def seeds(self) -> list[int]:
        return list(self.last)

    @property
    def steps(self) -> int:
        return next(iter(self.last.values())).facts["cumulative_steps"]

    def estimate(self, metric: str) -> Estimate:
        return estimate(self.by_seed[metric], self.without_block[metric])

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
        return estimate(self.paired(other, metric, seeds), without_block)

    def _places(self, other: "ArmScores", seeds: list[int]) -> tuple[list[int], list[int]]:
        return [self.seeds.index(seed) for seed in seeds], [other.seeds.index(seed) for seed in seeds]


def score_arm(
    arm: Arm, results: list[Result], taxonomy: Taxonomy, present: list[int], minority: list[int]
) -> ArmScores:
    """The scores of an arm among all results; ``present`` and ``minority`` are class ids."""
    last = {result.seed: result for result in results if (result.arm, result.which) == (arm.name, "last")}
    best = {r.seed: r for r in results if (r.arm, r.which) == (arm.name, "best") and r.seed in last}
    counts = np.stack([by_block(result.tiles) for result in last.values()])
    return ArmScores(arm, last, best, *crossed_scores(counts, taxonomy, present, minority))


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
        """Whether the two differ: by the corrected p-value where it is planned, else by the interval."""
        if self.comparison.planned:
            return self.p_holm is not None and self.p_holm < SIGNIFICANT
        return bool(self.mIoU) and self.mIoU.excludes_zero

    def verdict(self) -> str:
        """The finding in words."""
        mine, theirs = short_name(self.comparison.arm), short_name(self.comparison.other)
        if not self.estimates:
            return f"{mine} and {theirs} are not compared: {self.missing or '; '.join(self.refused)}"
        found = self.mIoU
        points = f"{abs(100 * found.value):.1f} points of mIoU"
        if found.half_width is None:
            more = "more" if found.value >= 0 else "less"
            return f"{mine} has {points} {more} than {theirs} in {count(self.seeds, 'seed')}, without an interval"
        interval = f"95 % interval {signed(found.low)} to {signed(found.high)}"
        p = "" if self.p_holm is None else f", p {_equals(p_text(self.p_holm))} after correction"
        if not self.told_apart:
            return f"{mine} cannot be told from {theirs} ({signed(found.value)} points of mIoU, {interval}{p})"
        verb = "gains" if found.value > 0 else "loses"
        return f"{mine} {verb} {points} {'over' if found.value > 0 else 'against'} {theirs} ({interval}{p})"


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
        """Why no interval is given, or None where they are."""
        fewest = min((len(arm.seeds) for arm in self.arms.values()), default=0)
        lacking = []
        if fewest < FEWEST_SEEDS:
            lacking.append(f"{fewest} of {FEWEST_SEEDS} seeds (reproduce.py --seeds adds some)")
        if self.blocks < FEWEST_BLOCKS:
            lacking.append(f"{self.blocks} of {FEWEST_BLOCKS} spatial blocks in val (more tiles, or smaller blocks)")
        if not lacking:
            return None
        where = " for some arms" if self.has_intervals else ""
        return f"No interval and no p-value{where}: there are {' and '.join(lacking)}."

    @property
    def has_intervals(self) -> bool:
        return any(scores.estimate("mIoU").half_width is not None for scores in self.arms.values())

    def answer(self, control: Arm) -> str:
        """What a control that was run says to its question."""
        finding = self.finding(control.compared_with, control.name)
        return f"{control.question} {sentence(finding.verdict())}"


def sentence(text: str) -> str:
    return text[0].upper() + text[1:] + ("" if text.endswith(".") else ".")


def _compare(comparison: Comparison, arms: dict[str, ArmScores]) -> Finding:
    pair = comparison.arm.name, comparison.other.name
    missing = [name for name in pair if name not in arms]
    if missing:
        return Finding(comparison, missing=f"{' and '.join(missing)} not run")
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


def gather(results: list[Result], left_out: list[str]) -> Evidence:
    """Score and compare what ``read_results`` found."""
    taxonomy = results[0].taxonomy
    truth = by_block(results[0].tiles).sum(axis=2)
    present = [i for i in range(1, taxonomy.num_classes) if truth[:, i].sum() > 0]
    absent = [name for i, name in enumerate(taxonomy.foreground, 1) if i not in present]
    named = sorted({tuple(result.facts["minority_classes"] or ()) for result in results})
    minority = list(named[0]) if len(named) == 1 else []
    minority_ids = [i for i in present if taxonomy.classes[i] in minority]
    with_last = {result.arm for result in results if result.which == "last"}
    arms = {arm.name: score_arm(arm, results, taxonomy, present, minority_ids) for arm in ARMS if arm.name in with_last}

    planned = [_compare(comparison, arms) for comparison in PLANNED]
    corrected = holm([finding.mIoU.p if finding.mIoU else None for finding in planned])
    planned = [replace(finding, p_holm=p) for finding, p in zip(planned, corrected, strict=True)]
    descriptive = [_compare(comparison, arms) for comparison in DESCRIPTIVE]

    cautions = [f"left out: {reason}" for reason in left_out]
    refused = [
        reason for finding in planned + descriptive if finding.comparison.component for reason in finding.refused
    ]
    cautions += [f"not compared: {reason}" for reason in dict.fromkeys(refused) if not reason.endswith("not run")]
    if len(named) > 1:
        cautions.append("results name different minority classes, so that their mean is left out")
    in_few = [taxonomy.classes[i] for i in present if (truth[:, i] > 0).sum() < FEW_BLOCKS]
    if in_few:
        cautions.append(f"{' and '.join(in_few)}: in fewer than {FEW_BLOCKS} blocks of val; intervals say little there")
    shared = shared_blocks_note("val", results[0].facts["split_facts"])
    if shared:
        cautions.append(shared)
    return Evidence(results, arms, planned, descriptive, minority, absent, cautions)


def gather_from(in_dir: Path, remedy: str) -> Evidence:
    """The evidence that the results under ``in_dir`` give; UserError where there is none."""
    results, left_out = read_results(in_dir, remedy)
    if not any(result.which == "last" for result in results):
        reasons = "".join(f"\n  {reason}" for reason in left_out)
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
            "± and [ ]: 95 % intervals over seeds and spatial blocks together. p: that the true difference in mIoU is "
            f"0; corrected by Holm for the {len(PLANNED)} planned comparisons, run or not. The rest is descriptive."
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
