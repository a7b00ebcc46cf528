"""Which of many images are likely to show the same area, without comparing each with each, and whether they do."""

import math
from collections.abc import Callable, Hashable, Iterator
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from data_prep.resemblance import pictures
from data_prep.resemblance.windows import AGREEING, same_window

COMMON = 32  # images that share an anchor; it is then a pattern of the sensor or the file, or of an area that many show
COMMON_CODE = 256  # images that share a code of their thumbnails; to compare thumbnails costs little
AGREEING_CODES = 2  # two thumbnails of independent areas seldom share more than one
AT_ONCE = 4_000_000  # hashes that are sorted at a time: 100 MB
PAIRS_AT_ONCE = 2048  # thumbnails that are compared at a time


def _shared(hashes: list[np.ndarray]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield (owners, starts): the images that have a hash in common, in order, and where each hash begins.

    ``hashes``: of each image, in order, each once. All of them are looked at in parts, by value.
    """
    top = max((int(of_one[-1]) for of_one in hashes if len(of_one)), default=0)
    parts = math.ceil(sum(map(len, hashes)) / AT_ONCE)
    inner = np.array([top * part // max(parts, 1) for part in range(1, parts)], np.uint64)
    cuts = [np.searchsorted(of_one, inner) for of_one in hashes]
    for part in range(parts):
        first = [cut[part - 1] if part else 0 for cut in cuts]
        last = [cut[part] if part < parts - 1 else len(h) for cut, h in zip(cuts, hashes, strict=True)]
        owners = np.repeat(np.arange(len(hashes), dtype=np.int32), np.subtract(last, first))
        values = np.concatenate([h[a:b] for h, a, b in zip(hashes, first, last, strict=True)])
        order = np.argsort(values, kind="stable")
        values, owners = values[order], owners[order]
        same = np.concatenate([[False], values[1:] == values[:-1], [False]])
        kept = same[1:] | same[:-1]
        yield owners[kept], np.flatnonzero(~same[:-1][kept])


def meeting(
    hashes: list[np.ndarray], held: np.ndarray, *, fewest: int, common: int, chained: bool
) -> tuple[np.ndarray, np.ndarray]:
    """(P, 2) int64 pairs i < j of images that share ``fewest`` hashes or more, and (P,) how many they share.

    Args:
        hashes: uint64 of each image, in order, each once.
        held: (N,) bool; of each pair one is held at least.
        fewest: of hashes.
        common: a hash that more held images have does not count, or not for all pairs of them.
        chained: it counts for held images that follow one another among those that have it, so that images that show
            the same area stay linked however many they are.
    """
    count, found = len(hashes), [np.zeros(0, np.int64)]
    for owners, starts in _shared(hashes):
        if not owners.size:
            continue
        run = np.repeat(np.arange(len(starts)), np.diff([*starts, len(owners)]))
        of_held = np.flatnonzero(held[owners])
        held_run = run[of_held]
        in_run = np.bincount(held_run, minlength=len(starts))
        before = np.cumsum(in_run) - in_run
        links = []
        rare = (in_run <= common)[run]
        for nth in range(int(in_run[in_run <= common].max(initial=0))):
            entries = np.flatnonzero(rare & (in_run[run] > nth))
            one = of_held[before[run[entries]] + nth]
            once = (entries > one) | ~held[owners[entries]]
            links.append((owners[one[once]], owners[entries[once]]))
        if chained:
            follows = (held_run[1:] == held_run[:-1]) & (in_run[held_run[1:]] > common)
            links.append((owners[of_held[:-1][follows]], owners[of_held[1:][follows]]))
        for one, other in links:
            found.append(np.minimum(one, other).astype(np.int64) * count + np.maximum(one, other))
    keys, shared = np.unique(np.concatenate(found), return_counts=True)
    enough = shared >= fewest
    return np.stack(np.divmod(keys[enough], max(count, 1)), axis=1), shared[enough]


class Proposal(NamedTuple):
    """Two images, by what they are read from, that may have something in common.

    window: whether they may hold a window of the same area. orientation: that of the first in which they may be one
    picture, if in any.
    """

    first: Hashable
    second: Hashable
    window: bool = False
    orientation: int | None = None


def sharing(anchors: list[np.ndarray], held: np.ndarray, *, chained: bool = False) -> list[tuple[int, int]]:
    """Pairs i < j of images that may hold a window of the same area, those that share most anchors first.

    Args:
        anchors: of each image, as ``windows.anchors`` gives them.
        held, chained: as ``meeting`` takes them.
    """
    pairs, shared = meeting(anchors, held, fewest=AGREEING, common=COMMON, chained=chained)
    return [(int(i), int(j)) for i, j in pairs[np.argsort(-shared, kind="stable")]]


def resembling(
    thumbnails: list[np.ndarray | None], held: np.ndarray, *, chained: bool = False
) -> list[tuple[int, int, int]]:
    """(i, j, orientation) of pairs i < j of images of which the first, turned so, may be the second altered.

    Args:
        thumbnails: of each image, as ``pictures.thumbnail`` gives them.
        held, chained: as ``meeting`` takes them.
    """
    numbers = np.array([n for n, one in enumerate(thumbnails) if one is not None], np.int64)
    if not numbers.size:
        return []
    stacked = np.stack([one for one in thumbnails if one is not None])
    codes = pictures.codes(stacked)
    pairs, _ = meeting(codes, held[numbers], fewest=AGREEING_CODES, common=COMMON_CODE, chained=chained)
    found = []
    for start in range(0, len(pairs), PAIRS_AT_ONCE):
        part = pairs[start : start + PAIRS_AT_ONCE]
        likeness, orientation = pictures.best_orientation(stacked[part[:, 0]], stacked[part[:, 1]])
        likely = likeness >= pictures.LIKELY
        named = numbers[part[likely]].tolist()
        found += [(i, j, o) for (i, j), o in zip(named, orientation[likely].tolist(), strict=True)]
    return found


def likely_pairs(
    anchors: list[np.ndarray], thumbnails: list[np.ndarray | None], held: np.ndarray, *, chained: bool = False
) -> dict[tuple[int, int], Proposal]:
    """{(i, j): what they may have in common} of images i < j, the likeliest windows first; see ``confirm``.

    Args:
        anchors, thumbnails: of each image.
        held, chained: as ``meeting`` takes them.
    """
    found = {pair: Proposal(*pair, window=True) for pair in sharing(anchors, held, chained=chained)}
    for i, j, orientation in resembling(thumbnails, held, chained=chained):
        found[i, j] = found.get((i, j), Proposal(i, j))._replace(orientation=orientation)
    return found


@lru_cache(maxsize=32)
def _read(read: Callable[[Any], np.ndarray], source: Hashable) -> np.ndarray:
    return read(source)


def confirm(proposal: Proposal, read: Callable[[Any], np.ndarray]) -> str | None:
    """What two images have in common: "overlapping window", "altered copy", or None.

    ``read``: gives the (3, H, W) uint8 image of what the proposal names.
    """
    image, twin = _read(read, proposal.first), _read(read, proposal.second)
    if proposal.window and same_window(image, twin):
        return "overlapping window"
    orientation = proposal.orientation
    return "altered copy" if orientation is not None and pictures.same_picture(image, twin, orientation) else None
