"""Intervals and tests for scores from a few trainings and a few spatial blocks.

A study scores T trainings. They form R repeats, in each of which every block is scored once: by the one training of
that repeat (several seeds on one split), or by the training in whose fold the block was left out. A score is that of
the confusion matrix pooled over a repeat, mean over the repeats. Its interval is for the score that endless
trainings, each on training ground of its own, would reach in endless other areas of the same kind.

The error has two parts. ``over_blocks`` is the jackknife over blocks (Efron and Tibshirani 1993, chapter 11).
``over_trainings`` is by how much the contributions of the trainings to a score vary more than those of sets of blocks
drawn at random: where a training scores all blocks, the variance of a mean over seeds; where it scores a fold, what
is left of the variance between folds once the blocks in them are accounted for. (Their sum is the variance of two
crossed clusters, Cameron, Gelbach and Miller 2011, without its negative values.) The quantile of t is mixed from
those of both, each with its part of the variance (Cochran and Cox 1950), T - 1 degrees of freedom for trainings, and
for blocks as many as the kurtosis of their influences allows (Satterthwaite 1946): few where a score hangs on a few
blocks.

A test takes the larger of the variance of its pair and of the mean over the pairs of its family, with the degrees of
freedom of all pairs, T - 1 for each. Training ground that all folds share adds an error that no rule can see from one
study (Bengio and Grandvalet 2004). ``cross_check`` is the interval of Nadeau and Bengio 2003, which allows for it.
``evaluation.simulate_coverage`` measures what all this covers.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.optimize import brentq
from scipy.special import stdtr, stdtrit

LEVEL = 0.95
FEWEST_SEEDS, FEWEST_BLOCKS = 3, 10
FEWEST_TESTED = 5  # paired trainings; under them a study is a screening
POWER = 0.8
EQUIVALENT = 0.01  # a difference of less than this, in mIoU, is none that matters
MOST_TRAININGS = 10_000


class Estimate(NamedTuple):
    """A score or a paired difference; None stands for what the trainings or blocks are too few for.

    ``half_width`` is of its interval and ``cross_check`` of that of Nadeau and Bengio, for folds alone. A difference
    also has ``better``, the probability that in one more fold (a training of each arm, on as many new blocks as a
    fold holds) the first arm scores higher. One that was tested has ``p``, not corrected (that it is 0);
    ``equivalent``, whether two one-sided tests at 5 %, not corrected, show it to lie within ± EQUIVALENT; ``smallest``,
    the difference that this study would show with 80 % power; and ``needed``, the trainings of an arm that would show
    with that power the difference seen if each brings as much new ground as these, None if more than MOST_TRAININGS.
    """

    value: float
    half_width: float | None
    p: float | None
    trainings: int
    blocks: int
    cross_check: float | None = None
    better: float | None = None
    equivalent: bool | None = None
    smallest: float | None = None
    needed: int | None = None

    @property
    def low(self) -> float:
        """The lower end of its interval, which has none if it is not known."""
        return self.value - (math.inf if self.half_width is None else self.half_width)

    @property
    def high(self) -> float:
        return self.value + (math.inf if self.half_width is None else self.half_width)

    def without_interval(self) -> "Estimate":
        """The value alone."""
        return Estimate(self.value, None, None, self.trainings, self.blocks)

    @property
    def is_void(self) -> bool:
        """Whether, as a difference, it is 0 in every block: the two predict the same, and nothing was compared."""
        return self.value == 0 and self.half_width == 0

    @property
    def excludes_zero(self) -> bool:
        return self.half_width is not None and abs(self.value) > self.half_width


@dataclass(frozen=True)
class Statistic:
    """A score, or a difference of two that are paired by training and block; leading axes (...) are of several studies.

    Attributes:
        by_repeat: (..., R) the score of each repeat, pooled over its blocks.
        without_block: (..., R, B) the same with one block left out; that of the repeat if it did not score the block.
        scored_by: (..., R, B) int, which of the trainings 0 to T - 1 scored a block, -1 for none.
        folds: number of folds that the blocks were dealt into, 1 for one split.
    """

    by_repeat: np.ndarray
    without_block: np.ndarray
    scored_by: np.ndarray
    folds: int = 1

    def __sub__(self, other: "Statistic") -> "Statistic":
        if self.scored_by.shape != other.scored_by.shape or (self.scored_by != other.scored_by).any():
            raise ValueError("scores are of other trainings or blocks, and cannot be paired")
        by_repeat, without = self.by_repeat - other.by_repeat, self.without_block - other.without_block
        return Statistic(by_repeat, without, self.scored_by, self.folds)

    @property
    def trainings(self) -> int:
        return int(self.scored_by.max()) + 1

    @property
    def blocks(self) -> int:
        return self.without_block.shape[-1]


def on_one_split(seeds: int, blocks: int) -> np.ndarray:
    """(S, B) ``scored_by`` of seeds each of which scored all blocks."""
    return np.repeat(np.arange(seeds)[:, None], blocks, axis=1)


class Spread(NamedTuple):
    """Parts of the variance of a Statistic's mean over repeats, each (...), with their degrees of freedom.

    ``between`` is the variance between trainings by itself, with the blocks that they scored.
    """

    value: np.ndarray
    over_blocks: np.ndarray
    of_blocks: np.ndarray
    over_trainings: np.ndarray
    of_trainings: int
    between: np.ndarray

    @property
    def variance(self) -> np.ndarray:
        return self.over_blocks + self.over_trainings

    def quantile(self, tail: float | np.ndarray) -> np.ndarray:
        """The value that the ratio of an error to its estimate exceeds with this probability."""
        whole = np.where(self.variance > 0, self.variance, 1.0)
        share = self.over_trainings / whole
        return -share * stdtrit(self.of_trainings, tail) - (1 - share) * stdtrit(self.of_blocks, tail)


def jackknife(without_block: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(..., B) values with one of B blocks left out, B at least 2 → (...) variance over blocks, degrees of freedom."""
    blocks = without_block.shape[-1]
    squares = (without_block - without_block.mean(axis=-1, keepdims=True)) ** 2
    over_blocks = (blocks - 1) / blocks * squares.sum(axis=-1)
    fourth = np.where(over_blocks > 0, (squares**2).sum(axis=-1), 1.0)
    return over_blocks, np.clip(3 * squares.sum(axis=-1) ** 2 / fourth - 2, 1, blocks - 1)


def spread(statistic: Statistic) -> Spread:
    """Parts of the variance of a statistic of T trainings on B blocks, T and B at least 2."""
    by_repeat, without, scored_by = statistic.by_repeat, statistic.without_block, statistic.scored_by
    repeats = without.shape[-2]
    trainings = statistic.trainings
    value = by_repeat.mean(axis=-1)

    over_blocks, of_blocks = jackknife(without.mean(axis=-2))

    scored = (scored_by[..., None] == np.arange(trainings)).astype(float)  # (..., R, B, T)
    sizes = scored.sum(axis=-2)
    of_repeat = sizes.sum(axis=-1)  # (..., R) blocks
    number = (sizes > 0).sum(axis=-1)  # (..., R) trainings
    within = scored.sum(axis=-1)
    mean = (without * within).sum(axis=-1) / of_repeat
    less_one = ((of_repeat - 1) / of_repeat)[..., None]
    each = (mean[..., None] - without) * within * less_one  # what a block adds to the score of a repeat
    of_training = np.einsum("...rb,...rbt->...rt", each, scored)
    of_training += (sizes > 0) * ((by_repeat - value[..., None]) / number)[..., None]
    factor = trainings / (trainings - 1) / repeats**2
    between = factor * (of_training**2).sum(axis=(-2, -1))
    drawn = (of_repeat - (sizes**2).sum(axis=-1) / of_repeat) / (of_repeat - 1)  # of a random dealing of the blocks
    expected = factor * ((each**2).sum(axis=-1) * drawn).sum(axis=-1)
    return Spread(value, over_blocks, of_blocks, np.maximum(between - expected, 0), trainings - 1, between)


def half_width(parts: Spread) -> np.ndarray:
    """(...) half-width of the interval."""
    return parts.quantile((1 - LEVEL) / 2) * np.sqrt(parts.variance)


class Tested(NamedTuple):
    """What a family tests its members with: (..., M) variances of the M members, and degrees of freedom."""

    variance: np.ndarray
    freedom: int

    def p_values(self, values: np.ndarray) -> np.ndarray:
        """(..., M) two-sided, not corrected."""
        error = np.sqrt(np.where(self.variance > 0, self.variance, 1.0))
        certain = np.where(values == 0, 1.0, 0.0)
        return np.where(self.variance > 0, 2 * stdtr(self.freedom, -np.abs(values) / error), certain)


def family_variance(variances: np.ndarray, of_trainings: int) -> Tested:
    """The larger of own and pooled variance: (..., M) own ones of M pairs, each with as many degrees of freedom."""
    pooled = variances.mean(axis=-1, keepdims=True)
    return Tested(np.maximum(variances, pooled), variances.shape[-1] * of_trainings)


def smallest_shown(variance: np.ndarray | float, freedom: float, level: float) -> np.ndarray:
    """(...) the difference that a two-sided test at ``level`` with this variance shows with POWER."""
    return -(stdtrit(freedom, level / 2) + stdtrit(freedom, 1 - POWER)) * np.sqrt(variance)


def cross_check_width(statistic: Statistic, parts: Spread) -> np.ndarray | None:
    """(...) half-width by Nadeau and Bengio 2003, with 1 / T + test / train for 1 / T; None without folds."""
    if statistic.folds == 1:
        return None
    shared = statistic.trainings / (statistic.folds - 1)
    return -stdtrit(parts.of_trainings, (1 - LEVEL) / 2) * np.sqrt(parts.between * (1 + shared))


def is_equivalent(values: np.ndarray | float, variance: np.ndarray | float, freedom: float) -> np.ndarray:
    """(...) whether two one-sided tests at 5 % show a difference to lie within ± EQUIVALENT (Schuirmann 1987)."""
    return np.abs(values) - stdtrit(freedom, 1 - LEVEL) * np.sqrt(variance) < EQUIVALENT


def _better(statistic: Statistic, parts: Spread) -> float:
    per_repeat = statistic.trainings / statistic.by_repeat.shape[-1]
    of_one = np.array([statistic.trainings * parts.over_trainings, per_repeat * parts.over_blocks])
    variance = of_one.sum()
    if variance == 0:
        return 0.5 + 0.5 * float(np.sign(parts.value))
    freedom = variance**2 / (of_one**2 / [parts.of_trainings, parts.of_blocks]).sum()
    return float(stdtr(freedom, parts.value / np.sqrt(variance)))


def estimate(statistic: Statistic, holders: int | None = None) -> Estimate:
    """The score of an arm.

    Args:
        statistic: of one study.
        holders: blocks that hold the classes scored (of a mean, the lower median over its classes), which the degrees
            of freedom of blocks stay below.

    Returns:
        An Estimate; without an interval under FEWEST_SEEDS trainings or FEWEST_BLOCKS blocks.
    """
    if statistic.trainings < FEWEST_SEEDS or statistic.blocks < FEWEST_BLOCKS:
        value = float(statistic.by_repeat.mean())
        return Estimate(value, None, None, statistic.trainings, statistic.blocks)
    parts = spread(statistic)
    if holders is not None:
        parts = parts._replace(of_blocks=np.minimum(parts.of_blocks, max(holders - 1, 1)))
    check = cross_check_width(statistic, parts)
    return Estimate(
        float(parts.value),
        float(half_width(parts)),
        None,
        statistic.trainings,
        statistic.blocks,
        cross_check=None if check is None else float(check),
    )


def difference(statistic: Statistic) -> Estimate:
    """A paired difference that is described, not tested."""
    described = estimate(statistic)
    if described.half_width is None:
        return described
    return described._replace(better=_better(statistic, spread(statistic)))


def compare_family(statistics: Sequence[Statistic | None], hypotheses: int) -> list[Estimate | None]:
    """Paired differences of one metric in a family of comparisons, tested if there are enough trainings and blocks.

    Args:
        statistics: one for each comparison, None for one that was not made. One that is void counts as not made.
        hypotheses: how many the family holds, with those of other metrics and those that were not made.
    """
    described = [None if statistic is None else difference(statistic) for statistic in statistics]
    members = [
        (i, estimate, spread(statistic))
        for i, (statistic, estimate) in enumerate(zip(statistics, described, strict=True))
        if statistic is not None
        and estimate is not None
        and estimate.half_width is not None
        and not estimate.is_void
        and estimate.trainings >= FEWEST_TESTED
    ]
    if not members:
        return described
    of_trainings = min(parts.of_trainings for _, _, parts in members)
    tested = family_variance(np.array([parts.variance for _, _, parts in members]), of_trainings)
    p_values = tested.p_values(np.array([parts.value for _, _, parts in members]))
    level = (1 - LEVEL) / hypotheses
    for (i, seen, _), p, variance in zip(members, p_values, tested.variance, strict=True):
        described[i] = seen._replace(
            p=float(p),
            equivalent=bool(is_equivalent(seen.value, variance, tested.freedom)),
            smallest=float(smallest_shown(variance, tested.freedom, level)),
            needed=_needed(seen, variance, tested.freedom, level),
        )
    return described


def _needed(seen: Estimate, variance: float, freedom: int, level: float) -> int | None:
    """Trainings, with ground in proportion, that show the difference seen with POWER; None above MOST_TRAININGS."""

    def lacks(number: float) -> float:
        share = number / seen.trainings
        return float(smallest_shown(variance / share, freedom * share, level) - abs(seen.value))

    if lacks(MOST_TRAININGS) > 0:
        return None
    return 2 if lacks(2) <= 0 else math.ceil(brentq(lacks, 2, MOST_TRAININGS))


def holm(p_values: list[float | None]) -> list[float | None]:
    """p-values corrected for a family (Holm 1979); None, a member that was not tested, still counts.

    Returns:
        For each p the smallest family-wise error rate at which it is rejected.
    """
    corrected: list[float | None] = [None] * len(p_values)
    largest = 0.0
    tested = [(p, index) for index, p in enumerate(p_values) if p is not None]
    for rank, (p, index) in enumerate(sorted(tested)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p))
        corrected[index] = largest
    return corrected
