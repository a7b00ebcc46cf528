r"""Measure on generated studies what the intervals and tests of evaluation.aggregate_metrics cover.

Confusion matrices are drawn with a known truth. Each class has a recall that varies, on the logit scale, with the
training, with the block, with the arm on a block, and with all of them; blocks differ in size and in the classes they
hold. Half of what a training does, it does to all arms. With a correlation, that part of what all trainings of a
study do which comes from the training ground that they share is the same for all of them. Noisy arms have twice or
three times the noise of what is drawn anew with each training. On uneven ground the rarest class is in five blocks.
The truth is the score of the confusion matrix that is expected of endless trainings, each on ground of its own, and
endless ground.

Prints, for each setting, how often the 95 % intervals hold the truth: of mIoU, minority mIoU and their paired
differences, the lowest and the highest share among the kinds of arms; how often a family is significant after
correction if all arms are alike, the largest share of the families; and the power at 1 and 2 standard deviations
of a fold's paired difference.

    python -m evaluation.simulate_coverage
    python -m evaluation.simulate_coverage --folds 1 --trainings 3 5 --blocks 10 30
    python -m evaluation.simulate_coverage --ground strained
    python -m evaluation.simulate_coverage --candidates
"""

import argparse
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from scipy.special import ndtri, stdtrit
from tqdm import tqdm

from common.cli import Parser, fraction, positive_int, run
from common.errors import UserError
from common.text import percent, table
from evaluation.study.generated import CONFUSED_WITH, HELD_BY_FEW, RECALLS, SHARES
from evaluation.study.intervals import (
    EQUIVALENT,
    LEVEL,
    POWER,
    Spread,
    Statistic,
    family_variance,
    half_width,
    is_equivalent,
    smallest_shown,
    spread,
)

MINORITY = slice(3, None)
COMMON = 0.5  # of the variance of what a training does: the same in all arms
NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(60)

# Arms 0 to 7: stages 1 to 4, the control of 5B, 5B, 6 and the control of 6; then five rivals.
FAMILIES = {
    "primary": ((3, 0), (6, 4)),
    "components": ((1, 0), (2, 1), (3, 2), (5, 4), (6, 5), (6, 7)),
    "rivals": tuple((3, rival) for rival in range(8, 13)),
}
ON_BOTH = ("primary",)  # families tested on mIoU and on minority mIoU
PAIRS = tuple(itertools.chain(*FAMILIES.values()))
ARMS = 13
NOISE = {"equal": {}, "one three times": {3: 3.0}, "baseline twice": {0: 2.0, 4: 2.0}}
FINE = 0.1 * EQUIVALENT  # standard error of a study that can show two arms to be equivalent
AT_ONCE = 50  # studies


@dataclass(frozen=True)
class World:
    """Standard deviations in logits; how much blocks are alike (Dirichlet concentration) and vary in size.

    The sizes follow trials on real tiles: paired differences in mIoU of 13 blocks vary by some 4 points, those of two
    seeds on one split by 2. ``few`` blocks hold the rarest class, 0 for all.
    ``noise_is_shared``: a noisy arm has its factor on what its trainings share as well, so that they correlate as those
    of others do; else on what each draws anew, so that they correlate less.
    """

    of_training: float = 0.04
    of_training_on_class: float = 0.09
    of_block: float = 0.8
    of_arm_on_block: float = 0.7
    of_run_on_block: float = 0.4
    alike: float = 10.0
    size: float = 0.4
    few: int = 0
    noise_is_shared: bool = False

    def held(self, rng: np.random.Generator, studies: int, blocks: int) -> np.ndarray:
        """(N, B, C) pixels of each class."""
        if self.few:
            rest = rng.standard_gamma(
                self.alike * SHARES[:-1] / SHARES[:-1].sum(), size=(studies, blocks, len(SHARES) - 1)
            )
            rare = np.zeros((studies, blocks, 1))
            beta = self.alike * HELD_BY_FEW, self.alike * (1 - HELD_BY_FEW)
            rare[:, : self.few, 0] = rng.beta(*beta, size=(studies, self.few))
            shares = np.concatenate([(1 - rare) * rest / rest.sum(axis=-1, keepdims=True), rare], axis=-1)
        else:
            shares = rng.dirichlet(self.alike * SHARES, size=(studies, blocks))
        return shares * rng.lognormal(10, self.size, size=(studies, blocks, 1))

    def deal(self, rng: np.random.Generator, studies: int, repeats: int, blocks: int, folds: int) -> np.ndarray:
        """(N, R, B) which training scores a block; the few blocks with the rarest class are spread over the folds."""
        order = rng.random((studies, repeats, blocks))
        order[..., : self.few] -= 1
        return order.argsort(axis=-1).argsort(axis=-1) % folds + folds * np.arange(repeats)[:, None]

    def recalls(
        self,
        rng: np.random.Generator,
        gains: Sequence[float],
        noise: Sequence[float],
        scored_by: np.ndarray,
        correlation: float,
    ) -> np.ndarray:
        """(N, A, R, B, C); ``gains`` and ``noise`` are of the A arms, the first added in logits, the second factors."""
        studies, repeats, blocks = scored_by.shape
        arms, classes, trainings = len(gains), len(SHARES), int(scored_by.max()) + 1
        factor = np.reshape(noise, (arms, 1, 1))

        def effects(number: int, of_classes: int) -> np.ndarray:
            common = rng.normal(size=(studies, 1, number, of_classes))
            own = rng.normal(size=(studies, arms, number, of_classes))
            return np.sqrt(COMMON) * common + np.sqrt(1 - COMMON) * own

        def of_training(size: float, number: int) -> np.ndarray:
            shared = np.sqrt(correlation) * effects(1, number)
            if self.noise_is_shared:
                shared = factor * shared
            return size * (shared + factor * np.sqrt(1 - correlation) * effects(trainings, number))

        by_training = of_training(self.of_training, 1) + of_training(self.of_training_on_class, classes)
        index = scored_by[:, None, :, :, None]
        logits = (
            self.centres(gains, noise, correlation)[:, None, None]
            + np.take_along_axis(by_training[:, :, None], index, axis=3)
            + self.of_block * rng.normal(size=(studies, 1, 1, blocks, classes))
            + self.of_arm_on_block * rng.normal(size=(studies, arms, 1, blocks, classes))
            + factor[..., None] * self.of_run_on_block * rng.normal(size=(studies, arms, repeats, blocks, classes))
        )
        return 1 / (1 + np.exp(-logits))

    def deviation(self, noise: float, correlation: float) -> float:
        """Standard deviation of a recall, in logits."""
        of_training = self.of_training**2 + self.of_training_on_class**2
        of_training *= noise**2 if self.noise_is_shared else correlation + (1 - correlation) * noise**2
        return float(
            np.sqrt(of_training + self.of_block**2 + self.of_arm_on_block**2 + (noise * self.of_run_on_block) ** 2)
        )

    def centres(self, gains: Sequence[float], noise: Sequence[float], correlation: float) -> np.ndarray:
        """(A, C) logits around which recalls vary, such that arms of one gain have the same expected recalls."""
        rows = []
        for gain, factor in zip(gains, noise, strict=True):
            centre = np.log(RECALLS / (1 - RECALLS)) + gain
            wanted, deviation = expected(centre, self.deviation(1.0, correlation)), self.deviation(factor, correlation)
            for _ in range(20):
                slope = (expected(centre + 1e-4, deviation) - expected(centre, deviation)) / 1e-4
                centre = centre - (expected(centre, deviation) - wanted) / slope
            rows.append(centre)
        return np.array(rows)

    def truth(self, gain: float, blocks: int, correlation: float = 0.0) -> np.ndarray:
        """(2,) mIoU and minority mIoU of the expected confusion matrix."""
        shares = SHARES
        if self.few:
            rare = HELD_BY_FEW * self.few / blocks
            shares = np.append((1 - rare) * SHARES[:-1] / SHARES[:-1].sum(), rare)
        recalls = expected(np.log(RECALLS / (1 - RECALLS)) + gain, self.deviation(1.0, correlation))
        return means(shares * recalls, shares, shares * recalls + shares * (1 - recalls) @ CONFUSED_WITH)

    def draw(self, rng: np.random.Generator, gains: Sequence[float], seeds: int, blocks: int) -> np.ndarray:
        """(A, S, B, C, C) confusion matrices of one study with several seeds on one split, void first."""
        held, scored_by = self.held(rng, 1, blocks), self.deal(rng, 1, seeds, blocks, 1)
        recalls = self.recalls(rng, gains, [1.0] * len(gains), scored_by, 0.0)[0][..., None]
        counts = np.zeros((len(gains), seeds, blocks, len(SHARES) + 1, len(SHARES) + 1))
        counts[..., 1:, 1:] = ((1 - recalls) * CONFUSED_WITH + recalls * np.eye(len(SHARES))) * held[0][..., None]
        return counts


WORLDS = {
    "alike": World(),
    "uneven": World(of_block=1.2, alike=2.0, few=5),
    # Trainings make so much of the error that no rule holds with a correlation and without.
    "strained": World(
        of_training=0.07, of_training_on_class=0.16, of_block=0.6, of_arm_on_block=0.5, of_run_on_block=0.35
    ),
}


def expected(centre: np.ndarray, deviation: float) -> np.ndarray:
    """(C,) mean of 1 / (1 + exp(-x)) over normal x around ``centre``."""
    return (1 / (1 + np.exp(-(centre[:, None] + deviation * NODES)))) @ WEIGHTS / WEIGHTS.sum()


def means(hits: np.ndarray, truth: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """(2, ...) mIoU and minority mIoU of (..., C) pixels of each class."""
    iou = hits / np.maximum(truth + predicted - hits, 1e-9)
    return np.stack([iou.mean(axis=-1), iou[..., MINORITY].mean(axis=-1)])


class Setting(NamedTuple):
    trainings: int
    blocks: int
    noise: str
    ground: str
    correlation: float

    def study(
        self, rng: np.random.Generator, studies: int, folds: int, world: World, gains: Sequence[float]
    ) -> Statistic:
        """The scores of the arms: by_repeat (2, N, A, R), of mIoU and of minority mIoU."""
        noise = [NOISE[self.noise].get(arm, 1.0) for arm in range(len(gains))]
        scored_by = world.deal(rng, studies, self.trainings // folds, self.blocks, folds)
        truth = world.held(rng, studies, self.blocks)[:, None, None]
        hits = truth * world.recalls(rng, gains, noise, scored_by, self.correlation)
        counts = hits, truth, hits + (truth - hits) @ CONFUSED_WITH
        totals = [of.sum(axis=-2) for of in counts]
        without = [total[..., None, :] - of for total, of in zip(totals, counts, strict=True)]
        return Statistic(means(*totals), means(*without), scored_by[:, None], folds)


def arms_of(scores: Statistic, arms: Sequence[int]) -> Statistic:
    taken = list(arms)
    return Statistic(scores.by_repeat[:, :, taken], scores.without_block[:, :, taken], scores.scored_by, scores.folds)


def paired(scores: Statistic, pairs: Sequence[tuple[int, int]]) -> Statistic:
    first, second = zip(*pairs, strict=True)
    return arms_of(scores, first) - arms_of(scores, second)


class Rule(NamedTuple):
    """Half-widths of the intervals of a Spread, and what a family tests: (variances, critical value at a tail)."""

    width: Callable[[Spread, Statistic], np.ndarray]
    test: Callable[[Spread, Statistic, float], tuple[np.ndarray, np.ndarray | float]]


def _by(variance: Callable, quantile: Callable) -> Rule:
    def test(parts: Spread, statistic: Statistic, tail: float) -> tuple:
        return variance(parts, statistic), quantile(parts, tail)

    def width(parts: Spread, statistic: Statistic) -> np.ndarray:
        return quantile(parts, (1 - LEVEL) / 2) * np.sqrt(variance(parts, statistic))

    return Rule(width, test)


def _of_family(parts: Spread, statistic: Statistic, tail: float) -> tuple:
    tested = family_variance(parts.variance, parts.of_trainings)
    return tested.variance, -stdtrit(tested.freedom, tail)


def _pooled(parts: Spread, statistic: Statistic) -> np.ndarray:
    return np.broadcast_to(parts.variance.mean(axis=-1, keepdims=True), parts.variance.shape)


def _larger(parts: Spread, statistic: Statistic) -> np.ndarray:
    return np.maximum(parts.variance, _pooled(parts, statistic))


def _of_trainings(parts: Spread, tail: float) -> float:
    return -stdtrit(parts.of_trainings, tail)


def _of_pairs(parts: Spread, tail: float) -> float:
    return -stdtrit(parts.of_trainings * parts.variance.shape[-1], tail)


def _nadeau_bengio(parts: Spread, statistic: Statistic) -> np.ndarray:
    return parts.between * (1 + statistic.trainings / max(statistic.folds - 1, 1))


def _sum(parts: Spread, tail: float) -> np.ndarray:
    return parts._replace(over_trainings=parts.between).quantile(tail)


CHOSEN = "chosen: own for intervals, larger of own and pooled for tests"
CANDIDATES = {
    CHOSEN: Rule(lambda parts, _: half_width(parts), _of_family),
    "blocks alone": _by(lambda parts, _: parts.over_blocks, lambda parts, tail: -stdtrit(parts.of_blocks, tail)),
    "folds alone": _by(lambda parts, _: parts.between, _of_trainings),
    "folds alone, normal quantile": _by(lambda parts, _: parts.between, lambda _, tail: -ndtri(tail)),
    "folds alone, Nadeau and Bengio": _by(_nadeau_bengio, _of_trainings),
    "blocks plus folds": _by(lambda parts, _: parts.over_blocks + parts.between, _sum),
    "blocks and trainings, own": _by(lambda parts, _: parts.variance, lambda parts, tail: parts.quantile(tail)),
    "blocks and trainings, pooled": _by(_pooled, _of_pairs),
    "blocks and trainings, larger": _by(_larger, _of_pairs),
}


def simulate(
    setting: Setting, rng: np.random.Generator, studies: int, folds: int, world: World | None = None
) -> dict[str, dict[str, list[float]]]:
    """What each rule does, as shares of studies.

    Returns:
        By rule: ``level``, ``minority level``, ``difference``, ``minority difference`` hold the truth, of each kind of
        arm; ``family`` is significant, of each family; ``power``; and of the chosen one what ``_claims`` returns.
    """
    world = world or WORLDS[setting.ground]
    noisy = NOISE[setting.noise]
    truth = world.truth(0.0, setting.blocks, setting.correlation)
    drawn: dict[str, list[Statistic]] = {"arms": [], **{family: [] for family in FAMILIES}}
    for start in range(0, studies, AT_ONCE):
        scores = setting.study(rng, min(AT_ONCE, studies - start), folds, world, [0.0] * ARMS)
        drawn["arms"].append(arms_of(scores, (0, 1, 3)))
        for family, pairs in FAMILIES.items():
            drawn[family].append(paired(scores, pairs))
    joined = {name: (_joined([*map(spread, of)]), of[0]) for name, of in drawn.items()}
    # A level that hangs on a class in few blocks; of mIoU most classes are in many.
    arms, facts = joined["arms"]
    if world.few:
        capped = arms.of_blocks.copy()
        capped[1] = np.minimum(capped[1], world.few - 1)
        joined["arms"] = arms._replace(of_blocks=capped), facts
    found = {name: _judge(rule, joined, truth, noisy, folds) for name, rule in CANDIDATES.items()}
    found[CHOSEN] |= _claims(joined["components"][0])
    return found


def _joined(parts: list[Spread]) -> Spread:
    def column(name: str) -> np.ndarray:
        return np.concatenate([getattr(each, name) for each in parts], axis=1)

    names = "value", "over_blocks", "of_blocks", "over_trainings", "between"
    value, over_blocks, of_blocks, over_trainings, between = map(column, names)
    return Spread(value, over_blocks, of_blocks, over_trainings, parts[0].of_trainings, between)


def _judge(rule: Rule, joined: dict, truth: np.ndarray, noisy: dict[int, float], folds: int) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    arms, facts = joined["arms"]
    held = (np.abs(arms.value - truth[:, None, None]) <= rule.width(arms, facts)).mean(axis=1)
    kinds = [arm in noisy for arm in (0, 1, 3)]
    found["level"], found["minority level"] = ([*_by_kind(of, kinds)] for of in held)
    held = np.concatenate(
        [(np.abs(joined[name][0].value) <= rule.width(*joined[name])).mean(axis=1) for name in FAMILIES], axis=-1
    )
    kinds = [bool(noisy.keys() & set(pair)) for pair in PAIRS]
    found["difference"], found["minority difference"] = ([*_by_kind(of, kinds)] for of in held)
    found["family"] = []
    for name, pairs in FAMILIES.items():
        parts, facts = joined[name]
        metrics = 2 if name in ON_BOTH else 1
        variance, critical = rule.test(parts, facts, (1 - LEVEL) / 2 / (metrics * len(pairs)))
        significant = np.abs(parts.value) > critical * np.sqrt(variance)  # the first step of Holm's correction
        found["family"].append(float(significant[:metrics].any(axis=(0, -1)).mean()))
    parts, facts = joined["components"]
    variance, critical = rule.test(parts, facts, (1 - LEVEL) / 2 / parts.value.shape[-1])
    number = folds if folds > 1 else parts.of_trainings + 1  # a second dealing of the same blocks adds little
    of_fold = parts.value[0].std(axis=0) * np.sqrt(number)
    found["power"] = [
        float((np.abs(parts.value + size * of_fold) > critical * np.sqrt(variance))[0].mean()) for size in (1, 2)
    ]
    return found


def _by_kind(shares: np.ndarray, kinds: list[bool]) -> list[float]:
    """Means over the usual arms or pairs and over those with noise, of which there may be none."""
    return [float(shares[np.array(kinds) == kind].mean()) for kind in (False, True) if kind in kinds]


def _claims(parts: Spread) -> dict[str, list[float]]:
    """``shown``: power at the smallest difference that studies say they would show, at the median of what they say.
    ``equivalent``: how often a difference at the edge of equivalence is called equivalent, if studies can tell."""
    level = (1 - LEVEL) / parts.value.shape[-1]
    tested = family_variance(parts.variance, parts.of_trainings)
    smallest = np.median(smallest_shown(tested.variance, tested.freedom, level)[0], axis=0)
    shown = np.abs(parts.value[0] + smallest) > -stdtrit(tested.freedom, level / 2) * np.sqrt(tested.variance[0])
    scale = FINE / np.sqrt(np.median(parts.variance[0]))
    called = is_equivalent(EQUIVALENT + scale * parts.value[0], scale**2 * tested.variance[0], tested.freedom)
    return {"shown": [float(shown.mean())], "equivalent": [float(called.mean())]}


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(__doc__)
    parser.add_argument("--trials", type=positive_int, default=1000, help="generated studies for each line")
    parser.add_argument("--folds", type=positive_int, default=5, help="folds of a dealing; 1: seeds on one split")
    parser.add_argument("--trainings", type=positive_int, nargs="+", default=[5, 10], help="trainings of each stage")
    parser.add_argument("--blocks", type=positive_int, nargs="+", default=[30, 60], help="numbers of spatial blocks")
    grounds = ["alike", "uneven"]
    parser.add_argument("--ground", choices=WORLDS, nargs="+", default=grounds, help="kinds of landscape")
    parser.add_argument(
        "--correlation", type=fraction, nargs="+", default=[0.0, 0.5], help="between the trainings of a stage"
    )
    parser.add_argument(
        "--noise-is-shared", action="store_true", help="a noisy stage is also noisy in what its trainings share"
    )
    parser.add_argument("--candidates", action="store_true", help="all rules that were tried, over all lines")
    parser.add_seed()
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    for trainings in args.trainings:
        if trainings % args.folds or trainings < 2:
            raise UserError(f"--trainings {trainings}: expected at least 2, a multiple of --folds {args.folds}")
    cases = [
        Setting(*case) for case in itertools.product(args.trainings, args.blocks, NOISE, args.ground, args.correlation)
    ]
    found = {}
    for number, setting in enumerate(tqdm(cases, desc="Simulating", unit="line")):
        world = replace(WORLDS[setting.ground], noise_is_shared=args.noise_is_shared)
        rng = np.random.default_rng([args.seed, number])
        found[setting] = simulate(setting, rng, args.trials, args.folds, world)
    print(
        f"{args.trials} studies a line, intervals of {percent(LEVEL)}, differences shown with {percent(POWER)} power\n"
    )
    metrics = ["level", "minority level", "difference", "minority difference"]
    header = ["mIoU covered", "minority mIoU", "difference", "minority difference", "family", "power at 1", "at 2 sd"]
    if args.candidates:
        rows = []
        for name in CANDIDATES:
            of_rule = [of[name] for of in found.values()]
            powers = np.mean([of["power"] for of in of_rule], axis=0)
            spans = [_span([share for of in of_rule for share in of[key]]) for key in metrics]
            rows.append([name, *spans, percent(max(max(of["family"]) for of in of_rule)), *map(percent, powers)])
        print(table(["rule", *header], rows))
        return
    rows = [
        [
            *setting[:4],
            setting.correlation,
            *(_span(of[CHOSEN][key]) for key in metrics),
            percent(max(of[CHOSEN]["family"])),
            *map(percent, of[CHOSEN]["power"]),
            percent(of[CHOSEN]["shown"][0]),
            percent(of[CHOSEN]["equivalent"][0]),
        ]
        for setting, of in found.items()
    ]
    print(table(["trainings", "blocks", "noise", "ground", "correlation", *header, "at smallest", "equivalent"], rows))


def _span(shares: list[float]) -> str:
    low, high = percent(min(shares)), percent(max(shares))
    return low if low == high else f"{low} to {high}"


if __name__ == "__main__":
    run(main)
