"""How far two checkpoints that are compared agree with each other: where both are right, and where both are wrong.

``agreement.json`` lies beside the results of each stage, with the counts against each one that it is compared with.
"""

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from tqdm import tqdm

from common.errors import UserError
from common.files import write_json
from common.inputs import Command, Input
from common.schema import is_count, is_text, list_of, misfit, values_of
from common.taxonomy import IGNORE_INDEX
from common.text import warn
from common.tiles import TileSet
from evaluation.scoring.predicted_classes import PREDICTED, PredictedClasses
from evaluation.scoring.results import AGREEMENT

Pair = tuple[str, str]  # names of the arm that is compared and of its opponent

BY_TRUTH = ("mine_right", "theirs_right", "different")
OF_PAIR = {
    "checkpoint_digest": is_text,
    "alike": list_of(list_of(is_count)),
    **dict.fromkeys(BY_TRUTH, list_of(is_count)),
}
AGREEMENT_FORM = {"split_digest": is_text, "checkpoint_digest": is_text, "with": values_of(OF_PAIR)}


def pair_counts(truth: np.ndarray, mine: np.ndarray, theirs: np.ndarray, num_classes: int) -> np.ndarray:
    """(H, W) uint8 class ids of truth and of two predictions → (C, C, C) int64 labelled pixels by these three."""
    cells = (truth.astype(np.uint32) * num_classes + mine) * num_classes + theirs
    counts = np.bincount(cells.ravel(), minlength=num_classes**3).reshape((num_classes,) * 3)
    counts[IGNORE_INDEX] = 0
    return counts


def describe_pair(counts: np.ndarray) -> dict[str, list]:
    """What agreement.json keeps of (C, C, C) pixel counts by truth, my class and theirs.

    Returns:
        ``alike``: (C, C) pixels on which both say one class, rows truth, so that its diagonal is where both are right
        and the rest where both are wrong and alike; and (C,) pixels by truth of the other three cases: ``mine_right``
        and ``theirs_right``, in which the other is wrong, and ``different``, in which both are wrong in two ways.
    """
    alike = np.einsum("tcc->tc", counts)
    both_right = np.diagonal(alike)
    mine_right = np.einsum("ttc->t", counts) - both_right
    theirs_right = np.einsum("tct->t", counts) - both_right
    different = counts.sum(axis=(1, 2)) - alike.sum(axis=1) - mine_right - theirs_right
    arrays = {"alike": alike, "mine_right": mine_right, "theirs_right": theirs_right, "different": different}
    return {name: array.tolist() for name, array in arrays.items()}


def read_agreement(path: Path, num_classes: int) -> dict | None:
    """The content of an agreement.json; None if it is missing, broken or of another number of classes."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    if misfit(content, AGREEMENT_FORM):
        return None
    for of_pair in content["with"].values():
        lengths = {len(row) for row in (*of_pair["alike"], *(of_pair[key] for key in BY_TRUTH), of_pair["alike"])}
        if lengths != {num_classes}:
            return None
    return content


def count_agreement(out_dir: Path, root: Path, tiles: TileSet, seeds: Iterable[int], pairs: Iterable[Pair]) -> None:
    """Write what lacks of agreement.json for each of ``pairs`` and ``seeds`` whose predictions were kept.

    Counts of the same two checkpoints on the same tiles are kept. One tile of two networks is in memory at a time.
    """
    opponents: dict[str, list[str]] = {}
    for mine, theirs in dict.fromkeys(pairs):
        opponents.setdefault(mine, []).append(theirs)
    made_by = Command.of("evaluation.compute_metrics --split val", root)
    for seed in seeds:
        kept = {}
        for arm in dict.fromkeys([*opponents, *(other for others in opponents.values() for other in others)]):
            predicted = _usable(Input(out_dir / arm / f"seed{seed}", made_by), tiles)
            if predicted is not None:
                kept[arm] = predicted
        for arm in (arm for arm in opponents if arm in kept):
            others = {other: kept[other] for other in opponents[arm] if other in kept}
            _update(out_dir / arm / f"seed{seed}" / AGREEMENT, kept[arm], others, tiles)


def _usable(folder: Input, tiles: TileSet) -> PredictedClasses | None:
    """The predictions in a folder of results; None if there are none, of these tiles and readable."""
    if not (folder / PREDICTED).path.is_file():
        return None
    try:
        predicted = PredictedClasses.open(folder / PREDICTED)
    except UserError as problem:
        warn(f"{problem}\nIts agreement with others is not counted.")
        return None
    return predicted if predicted.split_digest == tiles.digest else None


def _update(path: Path, mine: PredictedClasses, others: dict[str, PredictedClasses], tiles: TileSet) -> None:
    """Count what a file of agreement lacks, or has of other checkpoints or tiles."""
    classes, recorded = tiles.taxonomy.num_classes, {}
    checkpoint = {"split_digest": tiles.digest, "checkpoint_digest": mine.checkpoint_digest}
    earlier = read_agreement(path, classes)
    if earlier is not None and earlier.items() >= checkpoint.items():
        recorded = {
            other: earlier["with"][other]
            for other, theirs in others.items()
            if earlier["with"].get(other, {}).get("checkpoint_digest") == theirs.checkpoint_digest
        }
    lacking = {other: theirs for other, theirs in others.items() if other not in recorded}
    for other, theirs in lacking.items():
        counts = np.zeros((classes,) * 3, np.int64)
        title = f"Agreement of {path.parent.parent.name} with {other}"
        try:
            both = zip(mine.of_tiles(), theirs.of_tiles(), strict=True)
            for tile, (of_mine, of_theirs) in zip(tqdm(tiles, title, leave=False), both, strict=True):
                counts += pair_counts(tile.read_mask(), of_mine, of_theirs, classes)
        except UserError as problem:
            warn(f"{problem}\n{title} is not counted.")
            continue
        recorded[other] = {"checkpoint_digest": theirs.checkpoint_digest, **describe_pair(counts)}
    if lacking:
        write_json(path, {**checkpoint, "with": recorded})
