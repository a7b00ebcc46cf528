"""Faults of masks that a network can tell: moved, exchanged, of one class, repeated."""

import math
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy import fft, ndimage

from common.taxonomy import IGNORE_INDEX
from data_prep.audit.cells import Networks, TileReader, log_probabilities, sharp

# What is suspicious: numbers chosen on generated tiles and on one set of real ones, and measured on another set.
NATS = math.log(10)  # a class must be ten times as likely as the given one, in geometric mean over a region
REGION = 0.25  # share of the tile that a region must cover to be judged alone; smaller ones are often drawn coarsely
EXCHANGED_REGION = 0.05  # and each of two regions that explain one another
EXCHANGED_NATS = 0.25
ONE_CLASS = 0.98  # of the labelled cells; such a mask is said to have one class
ONE_CLASS_NATS = math.log(2)  # the likeliest classes must be twice as likely as the given one, in mean over the tile
STRUCTURE = 0.1  # share of a tile that its second largest class must cover for a move to show
MOVE_GAIN = 0.05  # in correlation of mask and log-probabilities
MOVED_FIT = 0.3  # correlation when moved; where it is lower, the networks hardly see the outlines
NEAR = 2  # cells: outlines are drawn no better

MOVED, SWAPPED, ONE, REPEATED = "moved mask", "swapped class", "one-class mask", "repeated mask"
KINDS = (MOVED, SWAPPED, ONE, REPEATED)


class Move(NamedTuple):
    """How much better a mask fits when moved ``down`` and ``right``; in cells."""

    gain: float
    down: int
    right: int
    fit: float  # when moved: 0 none, 1 perfect


class Change(NamedTuple):
    """How many nats a cell of class ``given`` gains as class ``likelier``; both ways if ``exchanged``."""

    gain: float
    given: int
    likelier: int
    exchanged: bool


@dataclass(frozen=True)
class Suspect:
    """A mask that is likely wrong.

    score: how far over its threshold, 1 and more. move: (down, right) pixels. expected: (h, w) uint8 class of each
    cell as the networks see it. twin: id of the tile with the same mask. Those that do not apply are None.
    """

    tile_id: str
    mask: Path
    kind: str
    reason: str
    score: float
    move: tuple[int, int] | None = None
    expected: np.ndarray | None = None
    twin: str | None = None


def best_move(log_probs: np.ndarray, shares: np.ndarray, seen: np.ndarray) -> Move:
    """Where within a third of the tile a mask fits best: its correlation with the log-probabilities of its classes.

    Correlation rather than likelihood, since that would also be raised by moving a wrongly labelled area out of the
    tile. For each move only the cells count that lie on one another.

    Args:
        log_probs, shares: (C, h, w) float; classes that were not learned are 0 in both.
        seen: (h, w) bool, cells with an image.

    Returns:
        The gain over the best position within NEAR cells of the given one; 0 gain if no inner one is better.
    """
    reach = min(seen.shape) // 3
    size = [fft.next_fast_len(side + reach, real=True) for side in seen.shape]
    at = np.arange(-reach, reach + 1)

    def transform(planes: np.ndarray) -> np.ndarray:
        return fft.rfft2(planes * seen, size)

    def correlate(first: np.ndarray, second: np.ndarray) -> np.ndarray:
        return fft.irfft2(first * second.conj(), size)[..., at[:, None], at]

    one = transform(np.ones(seen.shape))
    count = np.maximum(correlate(one, one), 1)
    a, b = transform(log_probs), transform(shares)
    sum_a, sum_b = correlate(a, one), correlate(one, b)
    covariance = (correlate(a, b) - sum_a * sum_b / count).sum(axis=0)
    spread_a = (correlate(transform(log_probs**2), one) - sum_a**2 / count).sum(axis=0)
    spread_b = (correlate(one, transform(shares**2)) - sum_b**2 / count).sum(axis=0)
    lowest = 1e-6 * count
    fit = covariance / np.sqrt(np.maximum(spread_a, lowest) * np.maximum(spread_b, lowest))
    fit[count < seen.sum() / 4] = -1
    near = np.hypot(at[:, None], at) <= NEAR
    summit = fit == ndimage.maximum_filter(fit, 3)  # not a slope that goes on outside
    summit[[0, -1]] = summit[:, [0, -1]] = False
    summit |= near
    down, right = np.unravel_index(np.where(summit, fit, -np.inf).argmax(), fit.shape)
    best = float(fit[down, right])
    return Move(best - float(fit[near].max()), int(at[down]), int(at[right]), best)


def likeliest_change(log_probs: np.ndarray, shares: np.ndarray, learned: np.ndarray) -> Change | None:
    """The change of classes that gains most over its threshold; None if nothing can be judged.

    One class is read as another if it covers REGION of the tile; two classes are exchanged if each covers
    EXCHANGED_REGION and each is likelier as the other.

    Args:
        log_probs, shares: (C, h, w) float, void first.
        learned: (C,) bool, classes that the networks have seen.
    """
    num_classes = len(shares)
    cover = shares.mean(axis=(1, 2))
    sums = np.einsum("ahw,bhw->ab", shares, log_probs) / shares[0].size
    # nats that a cell of the row's class gains as one of the column's
    gain = (sums - np.diag(sums)[:, None]) / np.maximum(cover[:, None], 1e-9)
    judged = [k for k in range(num_classes) if k != IGNORE_INDEX and learned[k]]
    changes = [Change(gain[a, b], a, b, False) for a in judged if cover[a] >= REGION for b in judged if a != b]
    changes += [
        Change((gain[a, b] * cover[a] + gain[b, a] * cover[b]) / (cover[a] + cover[b]), a, b, True)
        for a in judged
        for b in judged
        if a < b and min(cover[a], cover[b]) >= EXCHANGED_REGION and min(gain[a, b], gain[b, a]) > 0
    ]
    return max(changes, key=_change_score, default=None)


def _change_score(change: Change) -> float:
    return change.gain / (EXCHANGED_NATS if change.exchanged else NATS)


def overlooked(log_probs: np.ndarray, shares: np.ndarray, learned: np.ndarray) -> tuple[float, int, list[int]] | None:
    """For a mask of one class: nats that the likeliest classes gain over it, that class, and the classes seen instead.

    None if the mask has several classes, or one that was not learned. Arguments as of ``likeliest_change``.
    """
    cover = shares.mean(axis=(1, 2))
    cover[IGNORE_INDEX] = 0
    given = int(cover.argmax())
    if cover[given] < 0.5 or cover[given] < ONE_CLASS * cover.sum() or not learned[given]:
        return None
    judged = [k for k in range(len(shares)) if k != IGNORE_INDEX and learned[k]]
    labelled = shares[given] > 0.5
    likelihoods = log_probs[judged][:, labelled]
    best = likelihoods.argmax(axis=0)
    gain = float((likelihoods.max(axis=0) - log_probs[given][labelled]).mean())
    parts = np.bincount(best, minlength=len(judged)) / max(best.size, 1)
    others = [judged[i] for i in np.argsort(-parts, kind="stable") if judged[i] != given and parts[i] >= 0.1]
    return gain, given, others


class Judgement(NamedTuple):
    """What the networks say of one tile: mean log-likelihood of its mask, and what is suspicious of it."""

    fit: float
    suspects: list[Suspect]


def _direction(down: int, right: int) -> str:
    parts = [f"{abs(down)} px {'down' if down > 0 else 'up'}"] if down else []
    parts += [f"{abs(right)} px {'right' if right > 0 else 'left'}"] if right else []
    return " and ".join(parts)


def judge(item: tuple[TileReader, Networks, tuple[str, ...]]) -> Judgement:
    """Compare a tile's mask with moved and changed ones, by networks that have not seen it."""
    reader, networks, classes = item
    tile = reader.inspection.tile
    features, shares, seen = reader.read()
    learned = networks.learned
    wide = log_probabilities(networks.wide, features, reader.num_classes) * seen
    expected = np.where(learned[:, None, None], wide, -np.inf).argmax(axis=0).astype(np.uint8)
    expected[~seen] = IGNORE_INDEX
    shares = shares * learned[:, None, None]
    suspects = []

    def add(kind: str, score: float, reason: str, move: tuple[int, int] | None = None) -> None:
        if score >= 1:
            suspects.append(Suspect(tile.id, tile.mask, kind, reason, float(score), move, expected))

    single = overlooked(wide, shares, learned)
    change = likeliest_change(wide, shares, learned)
    if single is not None and single[2]:
        gain, given, others = single
        names = " and ".join(classes[k] for k in others)
        add(ONE, gain / ONE_CLASS_NATS, f"is all {classes[given]}, but its image also looks like {names}")
    if change is not None:
        given, likelier = classes[change.given], classes[change.likelier]
        text = f"{given} looks like {likelier} here"
        text += f", and {likelier} like {given}: exchanged?" if change.exchanged else ""
        add(SWAPPED, _change_score(change), text)
    if np.sort(shares.mean(axis=(1, 2)))[-2] >= STRUCTURE:
        narrow = log_probabilities(networks.sharp, sharp(features), reader.num_classes)
        move = best_move(narrow, shares, seen)
        down, right = move.down * reader.cell, move.right * reader.cell
        text = f"fits the image better when moved {_direction(down, right)}"
        if move.fit >= MOVED_FIT:
            add(MOVED, move.gain / MOVE_GAIN, text, move=(down, right))
    return Judgement(float((shares * wide).sum() / max(shares.sum(), 1)), suspects)


def repeated_masks(keys: dict[str, str], fits: dict[str, float], masks: dict[str, Path]) -> list[Suspect]:
    """Tiles whose mask equals that of another tile whose image it fits better.

    Args:
        keys: ``mask_key`` by tile id, for masks with structure.
        fits: mean log-likelihood of its mask by tile id; all tiles of a group are named if it is missing.
        masks: mask file by tile id.
    """
    groups = defaultdict(list)
    for tile_id in sorted(keys):
        groups[keys[tile_id]].append(tile_id)
    suspects = []
    for members in groups.values():
        if len(members) < 2:
            continue
        judged = all(tile_id in fits for tile_id in members)
        owner = max(members, key=fits.__getitem__) if judged else members[0]
        for tile_id in members:
            if tile_id == owner and judged:
                continue
            twin = owner if tile_id != owner else members[1]
            why = "which seems to fit that image better" if judged else "though the images differ"
            reason = f"the same mask as that of {twin}, {why}"
            suspects.append(Suspect(tile_id, masks[tile_id], REPEATED, reason, math.inf, twin=twin))
    return suspects


def most_suspicious_first(suspects: list[Suspect]) -> list[Suspect]:
    """One suspect a tile, the one with the highest score, in falling order of score."""
    best: dict[str, Suspect] = {}
    for suspect in suspects:
        if suspect.tile_id not in best or suspect.score > best[suspect.tile_id].score:
            best[suspect.tile_id] = suspect
    return sorted(best.values(), key=lambda s: (-s.score, s.tile_id))
