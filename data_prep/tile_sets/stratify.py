"""Splits drawn so that each has every class, and tiles that belong together stay together."""

import math
from collections.abc import Iterable

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from common.errors import UserError

FEWEST_DRAWS, MOST_DRAWS = 64, 512  # few units need more draws until one fits, and cost less each


def joined(groups: list[str], pairs: list[tuple[int, int]]) -> np.ndarray:
    """(N,) int64 unit of each tile: tiles of one group, and groups linked by a pair, form one unit.

    Units are numbered in the order of their first tiles.
    """
    number = {name: n for n, name in enumerate(dict.fromkeys(groups))}
    of_tile = np.array([number[name] for name in groups], np.int64)
    first, second = of_tile[np.array(pairs, np.int64).reshape(-1, 2)].T
    links = coo_array((np.ones(len(pairs)), (first, second)), shape=(len(number), len(number)))
    return connected_components(links, directed=False)[1].astype(np.int64)[of_tile]


def iterative_stratification(
    present: np.ndarray, sizes: np.ndarray, fractions: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """One draw of Sechidis, Tsoumakas & Vlahavas 2011 (ECML PKDD), algorithm 1, over units of unequal size.

    The last units of a class go to the splits that have none of it.
    """
    units, classes = present.shape
    chosen = np.full(units, -1)
    wanted = np.outer(fractions, present.sum(axis=0)).tolist()
    room = (fractions * sizes.sum()).tolist()
    has = np.zeros((len(fractions), classes), bool)
    order = rng.permutation(units)
    labels = [np.flatnonzero(row).tolist() for row in present]
    free = present.astype(bool).copy()
    jitter = rng.random((units, len(fractions))).tolist()

    def put(unit: int, candidates: Iterable[int], label: int | None) -> None:
        split = max(
            candidates, key=lambda s: (wanted[s][label] if label is not None else room[s], room[s], jitter[unit][s])
        )
        chosen[unit] = split
        room[split] -= sizes[unit]
        for k in labels[unit]:
            wanted[split][k] -= 1
            has[split, k] = True
        free[unit] = False

    everywhere = range(len(fractions))
    while free.any():
        left = free.sum(axis=0)
        label = int(np.where(left > 0, left, units + 1).argmin())
        remaining = [int(unit) for unit in order if free[unit, label]]
        for n, unit in enumerate(remaining):
            lacking = [s for s in everywhere if not has[s, label]]
            put(unit, lacking if lacking and len(remaining) - n <= len(lacking) else everywhere, label)
    for unit in order:
        if chosen[unit] < 0:
            put(int(unit), everywhere, None)
    return chosen


def _missing(chosen: np.ndarray, present: np.ndarray, splits: int) -> list[tuple[int, int]]:
    """(split, class) of each class that a split lacks though it occurs in enough units for all."""
    enough = np.flatnonzero(present.sum(axis=0) >= splits)
    return [(s, int(k)) for s in range(splits) for k in enough if not present[chosen == s][:, k].any()]


def _repair(chosen: np.ndarray, present: np.ndarray, sizes: np.ndarray, splits: int) -> tuple[np.ndarray, int]:
    """Move single units so that fewer classes are missing, as long as a move helps; and how many are missing still.

    Small units are moved first.
    """
    chosen = chosen.copy()
    missing = _missing(chosen, present, splits)
    improved = True
    while missing and improved:
        improved = False
        for split, label in missing:
            for unit in sorted(np.flatnonzero(present[:, label]), key=lambda u: (sizes[u], u)):
                trial = chosen.copy()
                trial[unit] = split
                left = _missing(trial, present, splits)
                if len(left) < len(missing):
                    chosen, missing, improved = trial, left, True
                    break
            if improved:
                break
    return chosen, len(missing)


def _distance(chosen: np.ndarray, pixels: np.ndarray, sizes: np.ndarray, fractions: np.ndarray) -> float:
    """How far the splits' class shares and sizes are from those asked for: chi-square distances, added."""
    overall = pixels.sum(axis=0) / max(pixels.sum(), 1)
    occurs = overall > 0
    total = 0.0
    for split, fraction in enumerate(fractions):
        of_split = pixels[chosen == split].sum(axis=0)
        if not of_split.any():
            return math.inf
        shares = of_split / of_split.sum()
        total += float((((shares - overall) ** 2)[occurs] / overall[occurs]).sum())
        total += (sizes[chosen == split].sum() / sizes.sum() - fraction) ** 2 / fraction
    return total


def stratify(
    units: np.ndarray, pixels: np.ndarray, fractions: tuple[float, ...], seed: int, draws: int | None = None
) -> np.ndarray:
    """(N,) int64 split of each tile, drawn so that each split has every class in about its overall share.

    Whole units are drawn by iterative stratification over the classes they contain; of many draws the one
    is kept in which the fewest classes are missing from a split, and of those the one whose shares are closest.

    Args:
        units: (N,) int64; tiles with the same number stay together.
        pixels: (N, K) int64 labelled pixels of each class.
        fractions: share of the tiles of each split; sums to 1.
        seed: of the draws.
        draws: how many to choose from; None takes 64 to 512, the more the fewer units there are.

    Raises:
        UserError: there are fewer units than splits.
    """
    wanted = np.asarray(fractions, float)
    count = int(units.max()) + 1
    splits = len(wanted)
    if count < splits:
        raise UserError(f"{count} spatial blocks cannot make {splits} splits: blocks must be smaller, or tiles more.")
    sizes = np.bincount(units, minlength=count)
    unit_pixels = np.zeros((count, pixels.shape[1]), np.int64)
    np.add.at(unit_pixels, units, pixels)
    present = unit_pixels > 0
    best, best_key = np.zeros(count, int), (math.inf, math.inf, math.inf)
    for draw in range(draws or int(np.clip(50_000 // count, FEWEST_DRAWS, MOST_DRAWS))):
        rng = np.random.default_rng([seed, draw])
        chosen = iterative_stratification(present, sizes, wanted, rng)
        chosen, missing = _repair(chosen, present, sizes, splits)
        empty = splits - len(np.unique(chosen))
        key = (empty, missing, _distance(chosen, unit_pixels, sizes, wanted))
        if key < best_key:
            best, best_key = chosen, key
    return best[units]
