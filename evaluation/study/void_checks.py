"""Checks that catch a comparison which says nothing, whatever its statistics say.

They read the results of ``last.pt`` and what lies beside them, and answer in sentences. A run is a seed, or in a study
by folds a fold and its seed; arms are paired by run.
"""

import csv
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from common.stages import ARM_OF
from common.taxonomy import IGNORE_INDEX
from common.text import count, hundredths, some
from evaluation.scoring.agreement import Pair, read_agreement
from evaluation.scoring.results import AGREEMENT, HISTORY
from evaluation.study.comparability import Result
from evaluation.study.comparisons import Comparison

# Fixed before any result was looked at.
ZERO = 0.005  # an IoU below it is 0 % when rounded
LEARNED = 0.05  # a class below it in the middle of training has nothing to lose
FALLEN = 1 / 3  # a class that ends below this share of its IoU in the middle has collapsed
MOST_VALUES = 12  # of a curve that are shown


def pairs_of(comparisons: Iterable[Comparison]) -> list[Pair]:
    """The names of the two arms of each comparison, each pair once."""
    return list(dict.fromkeys((comparison.arm.name, comparison.other.name) for comparison in comparisons))


def by_run(results: Iterable[Result]) -> dict[str, dict[str, Result]]:
    """The results of last.pt by run and arm."""
    runs: dict[str, dict[str, Result]] = {}
    for result in results:
        if result.which == "last":
            runs.setdefault(result.run_name, {})[result.arm] = result
    return runs


def _paired(results: Iterable[Result], pair: Pair) -> list[tuple[Result, Result]]:
    """The results of two arms in each run that both have."""
    mine, theirs = pair
    return [(arms[mine], arms[theirs]) for arms in by_run(results).values() if mine in arms and theirs in arms]


def _agreement(mine: Result, theirs: Result) -> dict | None:
    """The counts of agreement.json of these two checkpoints; None if there are none."""
    content = read_agreement(mine.folder / AGREEMENT, len(mine.tiles.class_names)) or {}
    digests = mine.tiles.split_digest, mine.tiles.checkpoint_digest
    of_pair = content.get("with", {}).get(theirs.arm, {})
    if (content.get("split_digest"), content.get("checkpoint_digest")) != digests:
        return None
    return of_pair if of_pair.get("checkpoint_digest") == theirs.tiles.checkpoint_digest else None


def _predict_alike(mine: Result, theirs: Result) -> bool:
    """Whether two checkpoints predict one class on every labelled pixel, or by all counts of all tiles seem to."""
    agreement = _agreement(mine, theirs)
    if agreement is not None:
        return not any(sum(agreement[key]) for key in ("mine_right", "theirs_right", "different"))
    counts = ("confusions", "boundary", "calibration")
    return all(np.array_equal(getattr(mine.tiles, name), getattr(theirs.tiles, name)) for name in counts)


def identical_predictions(results: Sequence[Result], pairs: Iterable[Pair]) -> list[str]:
    """A sentence for each two arms that predict the same in some run."""
    sentences = []
    for pair in pairs:
        runs = [mine.run_name for mine, theirs in _paired(results, pair) if _predict_alike(mine, theirs)]
        if runs:
            sentences.append(
                f"{pair[0]} predicts exactly what {pair[1]} predicts in {', '.join(runs)}: their comparison is void "
                f"there. Find out why what sets {pair[0]} apart had no effect"
            )
    return sentences


def _start(result: Result) -> str | None:
    """The digest of the weights before the first step, None if it was not recorded."""
    digest = result.run.get("initial_digest")
    return digest if isinstance(digest, str) else None


def unlike_starts(results: Sequence[Result]) -> list[str]:
    """A sentence for each start of a run that its arms should share, by their recipes, and do not."""
    sentences = []
    for run, arms in by_run(results).items():
        starts: dict[str, dict[str, str]] = {}
        for arm, result in arms.items():
            digest = _start(result)
            if digest is not None:
                starts.setdefault(json.dumps(result.run["recipe"].get("init"), sort_keys=True), {})[arm] = digest
        for text, digests in starts.items():
            init = json.loads(text)
            of_stage = init.get("digest") if isinstance(init, dict) else None
            expected = of_stage or Counter(digests.values()).most_common(1)[0][0]
            others = [arm for arm, digest in digests.items() if digest != expected]
            alike = init["stage"] if of_stage else ", ".join(arm for arm in digests if arm not in others)
            if others:
                sentences.append(
                    f"{run}: {', '.join(others)} did not start from the weights of {alike}, as the recipes say "
                    "(initial_digest in run.json): their difference is also one of initial weights"
                )
    return sentences


class Curve(NamedTuple):
    """The IoU of a class on val at each validation of a run."""

    steps: list[int]
    values: list[float]

    @property
    def middle(self) -> int:
        """The index of the validation nearest to the middle of training, the earlier of two."""
        return min(range(len(self.steps)), key=lambda i: abs(self.steps[i] - self.steps[-1] / 2))

    @property
    def collapses(self) -> bool:
        """Whether the class falls, from the middle to the end, from at least LEARNED to less than FALLEN of it."""
        before = self.values[self.middle]
        return before >= LEARNED and self.values[-1] < FALLEN * before

    def __str__(self) -> str:
        """``12.1 30.4 4.0 0.3 % at steps 70 140 210 280``; of a long curve its middle, its highest and some others."""
        shown = range(len(self.steps))
        if len(self.steps) > MOST_VALUES:
            evenly = np.linspace(0, len(self.steps) - 1, MOST_VALUES).round().astype(int).tolist()
            shown = sorted({*evenly, self.middle, self.values.index(max(self.values))})
        values = " ".join(hundredths(self.values[i]) for i in shown)
        return f"{values} % at steps {' '.join(str(self.steps[i]) for i in shown)}"


def read_curves(result: Result) -> dict[str, Curve] | None:
    """The curve of each class that occurs in the truth; None if they are not recorded, or cannot be read."""
    try:
        with open(result.folder / HISTORY, encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        steps = [int(row["step"]) for row in rows]
        curves = {name: [float(row[f"IoU {name}"]) for row in rows] for name in result.scores["classes"]}
    except (OSError, ValueError, KeyError, TypeError, csv.Error):
        return None
    return {name: Curve(steps, values) for name, values in curves.items()} if steps else None


def _last_by_arm(results: Iterable[Result]) -> dict[str, list[Result]]:
    arms: dict[str, list[Result]] = {}
    for result in results:
        if result.which == "last":
            arms.setdefault(result.arm, []).append(result)
    return arms


def _classes(results: Sequence[Result]) -> list[str]:
    return list(dict.fromkeys(name for result in results for name in result.scores["classes"]))


def classes_at_zero(results: Sequence[Result]) -> list[str]:
    """A sentence for each class whose IoU ends below ZERO in every run of some arm, with its highest curve."""
    sentences = []
    for name in _classes(results):
        arms, curves = [], []
        for arm, of_arm in _last_by_arm(results).items():
            runs = [result for result in of_arm if name in result.scores["classes"]]
            if runs and all(result.scores["classes"][name]["IoU"] < ZERO for result in runs):
                arms.append(arm)
                read = [(read_curves(result), result) for result in runs]
                curves += [(of_run[name], result) for of_run, result in read if of_run]
        if arms:
            highest = max(curves, key=lambda curve: max(curve[0].values), default=None)
            text = f". Where it stood highest, {highest[1].arm} {highest[1].run_name}: {highest[0]}" if highest else ""
            sentences.append(
                f"{name} ends at 0 IoU (below {hundredths(ZERO)} %) in every run of {', '.join(arms)}{text}"
            )
    return sentences


def collapsed_classes(results: Sequence[Result]) -> list[str]:
    """A sentence for each class and arm in which it collapses in some run, with its curves."""
    sentences = []
    for arm, of_arm in _last_by_arm(results).items():
        curves: dict[str, list[str]] = {}
        for result in of_arm:
            for name, curve in (read_curves(result) or {}).items():
                if curve.collapses:
                    curves.setdefault(name, []).append(f"{result.run_name}: {curve}")
        sentences += [
            f"{name} collapses in {arm}, to less than a third of its IoU in the middle of training. {'; '.join(texts)}"
            for name, texts in curves.items()
        ]
    return sentences


def void_comparisons(results: Sequence[Result], comparisons: Iterable[Comparison]) -> list[str]:
    """All sentences on what makes a comparison void, or nearly so."""
    identical = identical_predictions(results, pairs_of(comparisons))
    return [*identical, *unlike_starts(results), *classes_at_zero(results), *collapsed_classes(results)]


class Agreement(NamedTuple):
    """How two arms err together, in pixels summed over runs.

    ``both_wrong_by_chance``: if they erred independently, each as often as it does on each true class.
    ``alike_by_chance``: of ``both_wrong``, if each chose among the wrong classes as it does on each true class.
    ``most``: truth and prediction, by name, of most pixels of ``alike``, and how many they are.
    """

    pair: Pair
    runs: list[str]
    labelled: int
    both_wrong: int
    both_wrong_by_chance: float
    alike: int
    alike_by_chance: float
    most: tuple[str, str, int]


def _by_chance(mine: Result, theirs: Result, both_wrong: np.ndarray) -> tuple[float, float]:
    """Pixels expected of both wrong, and of (C,) ``both_wrong`` by truth those alike, if errors were independent."""
    errors = []
    for result in (mine, theirs):
        confusion = result.tiles.confusions.sum(axis=0).astype(float)
        confusion[IGNORE_INDEX] = 0
        errors.append(confusion)
    truth = np.maximum(errors[0].sum(axis=1), 1)
    for confusion in errors:
        np.fill_diagonal(confusion, 0)
    wrong = [confusion.sum(axis=1) for confusion in errors]
    same = (errors[0] * errors[1]).sum(axis=1) / np.maximum(wrong[0] * wrong[1], 1)
    return float((wrong[0] * wrong[1] / truth).sum()), float((both_wrong * same).sum())


def agreement_of(results: Sequence[Result], pair: Pair) -> Agreement | None:
    """How two arms err together, over the runs in which it was recorded; None if there is none."""
    recorded = [(mine, theirs, _agreement(mine, theirs)) for mine, theirs in _paired(results, pair)]
    counted = [(mine, theirs, counts) for mine, theirs, counts in recorded if counts is not None]
    if not counted:
        return None
    labelled = both_wrong = 0
    chance, alike = np.zeros(2), np.zeros_like(np.array(counted[0][2]["alike"]))
    for mine, theirs, counts in counted:
        same = np.array(counts["alike"])
        labelled += int(same.sum() + sum(map(sum, (counts["mine_right"], counts["theirs_right"], counts["different"]))))
        np.fill_diagonal(same, 0)
        wrong = same.sum(axis=1) + counts["different"]
        both_wrong += int(wrong.sum())
        chance += _by_chance(mine, theirs, wrong)
        alike += same
    truth, said = np.unravel_index(alike.argmax(), alike.shape)
    names = counted[0][0].tiles.class_names
    most = names[truth], names[said], int(alike.max())
    runs = [mine.run_name for mine, *_ in counted]
    return Agreement(pair, runs, labelled, both_wrong, float(chance[0]), int(alike.sum()), float(chance[1]), most)


def _recorded_agreements(results: Sequence[Result], comparisons: Iterable[Comparison]) -> list[Agreement]:
    found = [agreement_of(results, pair) for pair in pairs_of(comparisons)]
    return [agreement for agreement in found if agreement is not None and agreement.labelled]


def agreement_table(results: Sequence[Result], comparisons: Iterable[Comparison]) -> tuple[list[str], list[list]]:
    """Header and a row for each two arms whose agreement was recorded: shares in percent."""
    header = ["agreement", "with", "runs", "both wrong", "by chance", "of these alike", "by chance", "most of these"]
    rows = []
    for of_pair in _recorded_agreements(results, comparisons):
        wrong, labelled = of_pair.both_wrong, of_pair.labelled
        row = [*of_pair.pair, len(of_pair.runs), *_shares(labelled, wrong, of_pair.both_wrong_by_chance)]
        truth, said, pixels = of_pair.most
        most = f"{truth} as {said} {hundredths(pixels / of_pair.alike)}" if of_pair.alike else "-"
        rows.append([*row, *_shares(wrong, of_pair.alike, of_pair.alike_by_chance), most])
    return header, rows


def _shares(whole: int, *parts: float) -> list[str]:
    return [hundredths(part / whole if whole else None) for part in parts]


def ceiling_in_words(results: Sequence[Result], comparisons: Iterable[Comparison]) -> str | None:
    """What the agreement of networks against the labels means; None if none was recorded."""
    shares = [agreement.alike / agreement.labelled for agreement in _recorded_agreements(results, comparisons)]
    if not shares:
        return None
    return (
        f"On at least {hundredths(min(shares))} % of the labelled pixels, two networks that were trained differently "
        "agree with each other against the label. These pixels are candidates for wrong labels, though two networks "
        "can also share a mistake. By these pixels, the ceiling that label noise sets, the OA of a map that is right "
        f"everywhere, lies between {hundredths(1 - min(shares))} % (all of these labels are wrong) and 100 % (none is)."
    )


def not_recorded(results: Sequence[Result], comparisons: Iterable[Comparison]) -> list[str]:
    """Sentences on what could not be checked, as a version before these checks trained or scored it."""
    last = [result for result in results if result.which == "last" and ARM_OF[result.arm].trained]
    starts = [f"{result.arm} {result.run_name}" for result in last if _start(result) is None]
    curves = [f"{result.arm} {result.run_name}" for result in last if read_curves(result) is None]
    agreements = [
        f"{pair[0]} with {pair[1]}, {mine.run_name}"
        for pair in pairs_of(comparisons)
        for mine, theirs in _paired(results, pair)
        if _agreement(mine, theirs) is None
    ]
    sentences = []
    if starts:
        sentences.append(f"initial weights not recorded by the version that trained {some(starts)}")
    for what, names in (("curves of classes", curves), ("agreement", agreements)):
        if names:
            sentences.append(f"{what} not recorded, score again: {some(names)}")
    return sentences


def checks_in_words(results: Sequence[Result], comparisons: Sequence[Comparison]) -> list[str]:
    """What was checked, what came of it, and how to read ``agreement_table``."""
    found = void_comparisons(results, comparisons)
    lines = [
        "Looked for in every run: stages that predict exactly what their opponent predicts; initial weights that "
        f"should be the same and are not; classes that end at 0 IoU (below {hundredths(ZERO)} %) in every run of a "
        f"stage; classes that fall from an IoU of {hundredths(LEARNED)} % or more in the middle of training to less "
        "than a third of it at the end. Found: " + (f"{count(found, 'case')}, see the warnings." if found else "none.")
    ]
    ceiling = ceiling_in_words(results, comparisons)
    if ceiling:
        lines += [
            "Both wrong: share of the labelled pixels. Of these alike: share on which both say the same class. By "
            "chance: what it would be if the two erred independently of each other, each as often on each true class, "
            "and taking it for the same other classes, as it does. Hard pixels are hard for both, so that the first is "
            "above chance anyway.",
            ceiling,
        ]
    return lines
