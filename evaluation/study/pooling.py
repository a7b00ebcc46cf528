"""Scores of the trainings of an arm, pooled over the blocks that they were scored on.

On one split every training is scored on all blocks, and is a repeat by itself. In a study by folds a training is scored
on the blocks of its fold, and the folds of one dealing make a repeat.
"""

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from common.metrics import class_ratios
from common.taxonomy import Taxonomy
from evaluation.scoring.results import TileCounts
from evaluation.study.comparisons import MINORITY
from evaluation.study.intervals import Statistic

FEW_BLOCKS = 5  # a class in fewer blocks than this has an interval that says little


@dataclass(frozen=True)
class Scored:
    """What is scored in a study: its classes, and how many blocks hold each.

    ``present`` and ``minority`` are ids of classes that occur in the truth, ``holders`` the number of blocks by id.
    """

    taxonomy: Taxonomy
    present: list[int]
    minority: list[int]
    holders: dict[int, int]

    def metrics(self, confusions: np.ndarray, held: np.ndarray) -> dict[str, np.ndarray]:
        """By name (...) scores of (..., C, C) confusion matrices.

        Args:
            confusions: pixel counts, rows truth; a class without truth has 0.
            held: (..., C) bool, the classes that count; others have NaN, and are in no mean.
        """
        scores = class_ratios(confusions)
        iou, f1 = (np.where(held, scores[key], np.nan) for key in ("IoU", "F1"))
        means = {"mIoU": _mean(iou[..., self.present]), "mF1": _mean(f1[..., self.present]), "OA": scores["OA"]}
        means |= {MINORITY: _mean(iou[..., self.minority])} if self.minority else {}
        return means | {f"IoU {self.taxonomy.classes[i]}": iou[..., i] for i in self.present}

    @property
    def few(self) -> list[str]:
        """The classes that occur in too few blocks for an interval."""
        return [self.taxonomy.classes[i] for i in self.present if self.holders[i] < FEW_BLOCKS]

    def is_settled(self, metric: str) -> bool:
        """Whether the classes of a metric are in blocks enough for an interval."""
        return metric not in {f"IoU {name}" for name in self.few}

    def holders_of(self, metric: str) -> int | None:
        """Blocks that hold the classes of a metric: of a mean their lower median, None for a metric without classes."""
        means = {"mIoU": self.present, "mF1": self.present, MINORITY: self.minority}
        ids = means.get(metric, [i for i in self.present if metric == f"IoU {self.taxonomy.classes[i]}"])
        return sorted(self.holders[i] for i in ids)[(len(ids) - 1) // 2] if ids else None


def _mean(scores: np.ndarray) -> np.ndarray:
    """Mean over the last axis without NaN; NaN if there is nothing else."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return np.nanmean(scores, axis=-1)


@dataclass(frozen=True)
class Trainings:
    """Confusion matrices of T trainings on the B blocks of a study.

    Attributes:
        counts: (T, B, C, C) int64, rows truth, 0 where a training did not score a block.
        scored: (T, B) bool, which blocks each training scored.
        repeats: (T,) int, trainings of one number are pooled.
        folds: number of folds that the blocks were dealt into, 1 for one split.
        of: what is scored.
    """

    counts: np.ndarray
    scored: np.ndarray
    repeats: np.ndarray
    folds: int
    of: Scored
    _known: dict[str, Statistic] = field(default_factory=dict, repr=False, compare=False)

    def only(self, positions: Sequence[int]) -> "Trainings":
        """Those of the trainings at these positions."""
        if list(positions) == list(range(len(self.counts))):
            return self
        chosen = self.counts[positions], self.scored[positions], self.repeats[positions]
        return Trainings(*chosen, self.folds, self.of)

    @property
    def unmet(self) -> list[str]:
        """The classes of the study that do not occur in what these trainings scored."""
        met = self.counts.sum(axis=(0, 1)).any(axis=-1)
        return [self.of.taxonomy.classes[i] for i in self.of.present if not met[i]]

    def by_training(self) -> dict[str, np.ndarray]:
        """By metric (T,) the score of each training on the blocks that it scored; NaN where those lack the classes."""
        totals = self.counts.sum(axis=1)
        return self.of.metrics(totals, totals.any(axis=-1))

    def statistics(self) -> dict[str, Statistic]:
        """By metric the pooled scores, and those with a block left out, on the blocks that any training scored.

        A class that a repeat did not meet, as folds are missing, has NaN there.
        """
        if not self._known:
            numbers, repeat_of = np.unique(self.repeats, return_inverse=True)
            met = self.scored.any(axis=0)
            by_training, scored = self.counts[:, met], self.scored[:, met]
            counts = np.zeros((len(numbers), *by_training.shape[1:]), np.int64)
            scored_by = np.full(counts.shape[:2], -1)
            for training, repeat in enumerate(repeat_of):
                counts[repeat] += by_training[training]
                scored_by[repeat][scored[training]] = training
            totals = counts.sum(axis=1)
            held = totals.any(axis=-1)
            pooled = self.of.metrics(totals, held)
            without = self.of.metrics(totals[:, None] - counts, held[:, None])
            for metric, scores in pooled.items():
                self._known[metric] = Statistic(scores, without[metric], scored_by, self.folds)
        return self._known


def by_block(tiles: TileCounts) -> dict[str, np.ndarray]:
    """(C, C) int64 confusion matrix of each spatial block with a labelled pixel, by its name, sorted."""
    names, index = np.unique(tiles.blocks, return_inverse=True)
    summed = np.zeros((len(names), *tiles.confusions.shape[1:]), np.int64)
    np.add.at(summed, index, tiles.confusions)
    return {str(name): counts for name, counts in zip(names, summed, strict=True) if counts[1:].any()}


def trainings_of(
    tiles: Sequence[TileCounts], repeats: Iterable[int], folds: int, blocks: list[str], of: Scored
) -> Trainings:
    """The trainings whose results on val are ``tiles``, on a study's ``blocks``."""
    shape = len(tiles), len(blocks)
    counts = np.zeros((*shape, of.taxonomy.num_classes, of.taxonomy.num_classes), np.int64)
    scored = np.zeros(shape, bool)
    column = {name: n for n, name in enumerate(blocks)}
    for row, of_training in enumerate(tiles):
        for name, confusion in by_block(of_training).items():
            counts[row, column[name]], scored[row, column[name]] = confusion, True
    return Trainings(counts, scored, np.array(list(repeats)), folds, of)
