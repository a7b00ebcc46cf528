"""Intervals and tests for scores from a few seeds and a few spatial blocks.

Seeds and blocks are crossed: every seed is scored on the same blocks. Both are samples, of trainings and of ground, so
that both add to the error of a score: Var = V_seed + V_block + bias², where V_block and the bias are those of the
jackknife over blocks (Efron and Tibshirani 1993, An Introduction to the Bootstrap, chapter 11) and V_seed is that of a
mean over seeds. A quantile of t is mixed from those with S - 1 and B - 1 degrees of freedom, each with its part of the
variance (Cochran and Cox 1950, Experimental Designs). ``evaluation.simulate_coverage`` measures what this covers.
"""

import math
from typing import NamedTuple

import numpy as np
from scipy.optimize import brentq
from scipy.special import stdtrit

LEVEL = 0.95
FEWEST_SEEDS, FEWEST_BLOCKS = 3, 10


class Estimate(NamedTuple):
    """A mean over seeds; ``half_width`` of its interval and ``p`` (that it is 0) are None where neither can be had."""

    value: float
    half_width: float | None
    p: float | None
    seeds: int
    blocks: int

    @property
    def low(self) -> float:
        """The lower end of its interval, which has none where it is not known."""
        return self.value - (math.inf if self.half_width is None else self.half_width)

    @property
    def high(self) -> float:
        return self.value + (math.inf if self.half_width is None else self.half_width)

    @property
    def excludes_zero(self) -> bool:
        return self.half_width is not None and abs(self.value) > self.half_width


def estimate(by_seed: np.ndarray, without_block: np.ndarray) -> Estimate:
    """Mean over seeds of a statistic that is pooled over blocks, with its interval.

    Args:
        by_seed: (S,) the statistic of each seed over all blocks; for a paired difference, the differences.
        without_block: (S, B) the same with one block left out.

    Returns:
        An Estimate; without an interval under FEWEST_SEEDS seeds or FEWEST_BLOCKS blocks.
    """
    seeds, blocks = without_block.shape
    value = float(by_seed.mean())
    if seeds < FEWEST_SEEDS or blocks < FEWEST_BLOCKS:
        return Estimate(value, None, None, seeds, blocks)
    over_seeds = by_seed.var(ddof=1) / seeds
    left_out = without_block.mean(axis=0)
    bias = (blocks - 1) * (left_out.mean() - value)
    over_blocks = (blocks - 1) * left_out.var() + bias**2
    error = float(np.sqrt(over_seeds + over_blocks))
    if error == 0:
        return Estimate(value, 0.0, 1.0 if value == 0 else 0.0, seeds, blocks)
    share = over_seeds / error**2

    def quantile(tail: float) -> float:
        return -share * stdtrit(seeds - 1, tail) - (1 - share) * stdtrit(blocks - 1, tail)

    ratio = min(abs(value) / error, quantile(1e-12))
    tail = brentq(lambda tail: quantile(tail) - ratio, 1e-12, 0.5) if value else 0.5
    return Estimate(value, float(quantile((1 - LEVEL) / 2) * error), 2 * tail, seeds, blocks)


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
