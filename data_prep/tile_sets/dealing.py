"""Dealing units into folds of even size and class shares, each class in as many folds as can be."""

import itertools
import math

import numpy as np

from common.errors import UserError
from data_prep.tile_sets.stratify import iterative_stratification

MOST_TRIED = 50_000  # dealings, up to which all are gone through
FEWEST_STARTS, MOST_STARTS = 4, 12  # of the search if there are more; few units cost less each
NEIGHBOURS = 4000  # dealings that differ in one unit, or two exchanged, looked at in a step of the search
STEPS = 200
SAME_AGAIN = 0.2  # how uneven a repeat may be that has no two units together again, beside one that has all


def number_of_dealings(units: int, folds: int) -> int:
    """In how many ways so many units make so many folds, none empty, whatever their order (Stirling, second kind)."""
    signed = ((-1) ** (folds - i) * math.comb(folds, i) * i**units for i in range(folds + 1))
    return sum(signed) // math.factorial(folds)


def _all_dealings(units: int, folds: int) -> np.ndarray:
    """(D, U) fold of each unit in every dealing without an empty fold; a fold is numbered by its first unit."""
    rows = np.zeros((1, 1), np.int64)
    for unit in range(1, units):
        highest = rows.max(axis=1)
        grown = []
        for fold in range(folds):
            ways = rows[highest >= fold - 1]
            grown.append(np.column_stack([ways, np.full(len(ways), fold)]))
        rows = np.concatenate(grown)
        rows = rows[rows.max(axis=1) + (units - 1 - unit) >= folds - 1]  # the rest can still fill all folds
    return rows


def _numbered(dealing: np.ndarray) -> np.ndarray:
    """The same dealing with its folds numbered in the order of their first units."""
    _, first, of_unit = np.unique(dealing, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[of_unit]


class _Units:
    """What is dealt: ``pixels`` (U, C) int64 labelled ones of each class, ``sizes`` (U,) tiles, and their ``earlier``
    dealings (U,)."""

    def __init__(self, pixels: np.ndarray, sizes: np.ndarray, folds: int, earlier: list[np.ndarray]) -> None:
        self.present: np.ndarray = pixels > 0
        self.sizes = sizes
        self.folds = folds
        self.earlier = earlier
        were_in = [dealing == fold for dealing in earlier for fold in range(folds)]
        self.counted = np.column_stack([sizes, pixels, self.present, *were_in]).astype(float)
        self.occurs = np.asarray(self.present.any(axis=0))
        self.enough = self.present.sum(axis=0) >= folds
        self.overall = (pixels.sum(axis=0) / max(pixels.sum(), 1))[self.occurs]

    def __len__(self) -> int:
        return len(self.sizes)

    def totals(self, dealings: np.ndarray) -> np.ndarray:
        """(D, K, 1 + 2C + …) tiles of each fold, pixels of each class, units with it, and units of each earlier fold.

        ``dealings`` is (D, U).
        """
        return np.stack([(dealings == fold) @ self.counted for fold in range(self.folds)], axis=1)

    def judged(self, totals: np.ndarray) -> np.ndarray:
        """(D, 4), smaller is better, the first first: folds without a labelled pixel, classes of enough units that a
        fold lacks, classes that it lacks at all, and how uneven class shares and sizes are (chi-square distances).

        A repeat counts as more uneven the more units share a fold that shared one before.
        """
        tiles, rest = totals[..., 0], totals[..., 1:]
        pixels, holding, met = np.split(rest, [len(self.occurs), 2 * len(self.occurs)], axis=-1)
        lacking = holding == 0
        labelled = pixels.sum(axis=-1, keepdims=True)
        shares = (pixels / np.maximum(labelled, 1))[..., self.occurs]
        uneven = ((shares - self.overall) ** 2 / self.overall).sum(axis=(1, 2))
        uneven += ((tiles / self.sizes.sum() - 1 / self.folds) ** 2 * self.folds).sum(axis=1)
        if self.earlier:
            uneven += SAME_AGAIN * (met**2).sum(axis=(1, 2)) / (len(self.earlier) * len(self) ** 2 / self.folds)
        return np.column_stack(
            [
                (labelled[..., 0] == 0).sum(axis=1),
                lacking[..., self.enough].sum(axis=(1, 2)),
                lacking[..., self.occurs].sum(axis=(1, 2)),
                uneven,
            ]
        )


def _best_first(judged: np.ndarray) -> np.ndarray:
    return np.lexsort(judged.T[::-1])


def _neighbours(dealing: np.ndarray, folds: int, rng: np.random.Generator) -> np.ndarray:
    """(M, 4) steps (unit, its new fold, other unit, its new fold): one unit moved, or two of two folds exchanged.

    A move names its unit twice. Where there are many a sample is taken.
    """
    units = len(dealing)
    if units * (folds + units) <= 2 * NEIGHBOURS:
        first, to = (axis.ravel() for axis in np.indices((units, folds)))
        one, other = np.triu_indices(units, 1)
    else:
        first, to = rng.integers(units, size=NEIGHBOURS // 2), rng.integers(folds, size=NEIGHBOURS // 2)
        one, other = rng.integers(units, size=(2, NEIGHBOURS // 2))
    moves = np.column_stack([first, to, first, to])[dealing[first] != to]
    swaps = np.column_stack([one, dealing[other], other, dealing[one]])[dealing[one] != dealing[other]]
    return np.concatenate([moves, swaps])


def _improved(units: _Units, dealing: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The dealing that steps from this one to a better neighbour lead to, until none is better."""
    dealing = dealing.copy()
    totals = units.totals(dealing[None])[0]
    here = units.judged(totals[None])[0]
    for _ in range(STEPS):
        steps = _neighbours(dealing, units.folds, rng)
        trial = np.repeat(totals[None], len(steps), axis=0)
        row = np.arange(len(steps))
        for unit, to, counts in (
            (steps[:, 0], steps[:, 1], True),
            (steps[:, 2], steps[:, 3], steps[:, 0] != steps[:, 2]),
        ):
            moved = units.counted[unit] * np.reshape(counts, (-1, 1))
            trial[row, dealing[unit]] -= moved
            trial[row, to] += moved
        judged = units.judged(trial)
        best = _best_first(judged)[0]
        if tuple(judged[best]) >= tuple(here):
            break
        unit, to, other, other_to = steps[best]
        dealing[unit], dealing[other] = to, other_to
        totals, here = trial[best], judged[best]
    return dealing


def _candidates(units: _Units, rng: np.random.Generator) -> np.ndarray:
    """(D, U) dealings to choose from: all there are if they are few, else the ends of a search from many starts."""
    if number_of_dealings(len(units), units.folds) <= MOST_TRIED:
        return rng.permutation(_all_dealings(len(units), units.folds))  # of equal ones the seed decides
    fractions = np.full(units.folds, 1 / units.folds)
    found = []
    for _ in range(int(np.clip(20_000 // len(units), FEWEST_STARTS, MOST_STARTS))):
        start = iterative_stratification(units.present, units.sizes, fractions, rng)
        found.append(_numbered(_improved(units, start, rng)))
    return np.unique(found, axis=0)


def deal(units: np.ndarray, pixels: np.ndarray, folds: int, seed: int, repeat: int = 1) -> np.ndarray:
    """(N,) int64 fold of each tile, from 0: whole units, dealt so that each class is in as many folds as can be.

    A class that is in as many units as there are folds comes into every fold, if the other classes allow it. Of the
    dealings in which most classes are in most folds that is taken whose class shares and sizes are most even. A repeat
    is another dealing, in which few units share a fold that shared one before.

    Args:
        units: (N,) int64, numbered from 0; tiles with the same number stay together.
        pixels: (N, C) int64 labelled pixels of each class.
        folds: their number.
        seed, repeat: of the draws; the repeats of a seed differ.

    Raises:
        UserError: there are fewer units than folds, or no other dealing for this repeat.
    """
    count = int(units.max()) + 1 if len(units) else 0
    if count < folds:
        raise UserError(f"{count} units cannot be dealt into {folds} folds.")
    unit_pixels = np.zeros((count, pixels.shape[1]), np.int64)
    np.add.at(unit_pixels, units, pixels)
    sizes = np.bincount(units, minlength=count)
    chosen: list[np.ndarray] = []
    for number in range(1, repeat + 1):
        dealt = _Units(unit_pixels, sizes, folds, chosen)
        found = _candidates(dealt, np.random.default_rng([seed, number]))
        found = found[[not any(np.array_equal(one, other) for other in chosen) for one in found]]
        if len(found) == 0:
            raise UserError(
                f"{count} units can be dealt into {folds} folds in {len(chosen)} ways only, so that there is no repeat "
                f"{repeat}."
            )
        chosen.append(found[_best_first(dealt.judged(dealt.totals(found)))[0]])
    return chosen[-1][units]


def lacking_classes(pixels: np.ndarray, fold_of: np.ndarray, folds: int) -> list[list[int]]:
    """Of each fold the classes that occur in the tiles but in none of the fold's; arguments as for ``deal``."""
    occurs = pixels.any(axis=0)
    held = [pixels[fold_of == fold].any(axis=0) for fold in range(folds)]
    return [np.flatnonzero(occurs & ~of_fold).tolist() for of_fold in held]


def require_whole(units: np.ndarray, sides: np.ndarray) -> None:
    """Stop with a traceback if tiles of one unit are on two sides, since the dealing is wrong then.

    ``units`` and ``sides``: (N,) unit and side of each tile, as they are written.
    """
    order = np.lexsort((sides, units))
    for one, other in itertools.pairwise(order):
        if units[one] == units[other] and sides[one] != sides[other]:
            raise RuntimeError(f"tiles {one} and {other} of unit {units[one]} are on two sides")
