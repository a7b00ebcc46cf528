"""Masks that are likely wrong: moved against their image, a class read as another, one class only, another tile's mask.

Small networks learn from cells of a few pixels what each class looks like. Each tile is judged by networks that have
seen neither it nor its neighbours: is its mask much likelier when it is moved, or when classes change places? Source
of the idea: confident learning, Northcutt et al. 2021, arXiv:1911.00068, here for regions of tiles.
"""

import hashlib
import math
import warnings
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy import fft, ndimage
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from common.cli import map_progress
from common.raw import Inspection, read_raw, to_8bit
from common.splitting import joined, overlapping, spatial_blocks
from common.taxonomy import IGNORE_INDEX
from common.tiles import read_mask

FEWEST_TILES = 20  # below this the networks see too little of each class to judge others by
FEWEST_HOLDERS = 3  # tiles that show a class to the networks, or its masks are not judged
FOLDS = 5
CELLS_ACROSS = 50  # of a tile: fine enough for its outlines, coarse enough to hold some texture
SMALLEST_CELL = 2  # pixels
FEWEST_CELLS = 12  # across a tile that is judged
LARGEST_SIDE = 2048  # pixels; of a larger tile the middle is judged
WINDOWS = (1, 3, 7, 15)  # cells around a cell whose means and spreads describe it
SHARP_WINDOWS = 2  # how many of them tell where a class ends; larger ones blur that, but help to tell which it is
PURE = 0.8  # share of a cell that its class covers where it is learned from
CELLS_PER_TILE, CELLS_IN_ALL = 200, 30_000
FLOOR = 0.1  # of each probability, shared by all classes: the labels learned from have errors, too

# What is suspicious: numbers chosen on generated tiles and on one set of real ones, and measured on another set.
NATS = math.log(10)  # a class must be ten times as likely as the given one, in geometric mean over a region
REGION = 0.25  # share of the tile that a region must cover to be judged alone; smaller ones are often drawn coarsely
EXCHANGED_REGION = 0.05  # and each of two regions that explain one another
EXCHANGED_NATS = 0.25
ONE_CLASS = 0.98  # of the labelled cells; such a mask is said to have one class
ONE_CLASS_NATS = math.log(2)  # the likeliest classes must be twice as likely as the given one, in mean over the tile
STRUCTURE = 0.1  # share of a tile that its second largest class must cover for a move to show
MOVE_GAIN = 0.05  # in correlation of mask and log-probabilities
MOVED_FIT = 0.3  # correlation at the better place; where it is lower, the networks hardly see the outlines
NEAR = 2  # cells: outlines are drawn no better
FEWEST_CORNERS = 8  # of a mask that cannot equal another's by chance

MOVED, SWAPPED, ONE, REPEATED = "moved mask", "swapped class", "one-class mask", "repeated mask"
KINDS = (MOVED, SWAPPED, ONE, REPEATED)


class Move(NamedTuple):
    """How much better a mask fits ``down`` and ``right`` of its place; in cells."""

    gain: float
    down: int
    right: int
    fit: float  # there: 0 none, 1 perfect


class Change(NamedTuple):
    """How many nats a cell of class ``given`` gains as class ``likelier``; both ways where ``exchanged``."""

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


def cell_size(sides: list[int]) -> int:
    """Side of a cell in pixels for tiles with these sides; one size for all, so that features compare."""
    return max(SMALLEST_CELL, round(min(float(np.median(sides)), LARGEST_SIDE) / CELLS_ACROSS))


def cell_means(planes: np.ndarray, cell: int) -> np.ndarray:
    """(..., H, W) → (..., h, w) means over squares of ``cell`` pixels; what is left at the far edges is dropped."""
    height, width = (side // cell for side in planes.shape[-2:])
    cut = planes[..., : height * cell, : width * cell]
    return cut.reshape(*cut.shape[:-2], height, cell, width, cell).mean((-3, -1), dtype=np.float32)


def cell_features(image: np.ndarray, cell: int) -> np.ndarray:
    """(D, h, w) float32 colour and texture of each cell, of the windows around it, and of the tile.

    Features of the SHARP_WINDOWS come first, then those of the tile; ``sharp`` cuts there.
    """
    rgb = image.astype(np.float32) / 255
    grey = rgb.mean(axis=0)
    smooth = ndimage.uniform_filter(grey, 3)
    planes = [
        *rgb,
        *(rgb[1:] / (rgb.sum(axis=0) + np.float32(0.05))),
        np.abs(np.diff(grey, axis=0, prepend=grey[:1])),
        np.abs(np.diff(grey, axis=1, prepend=grey[:, :1])),
        np.abs(grey - smooth),
        np.abs(smooth - ndimage.uniform_filter(grey, 9)),
    ]
    base = cell_means(np.stack(planes), cell)
    squares = np.concatenate([cell_means(grey[None] ** 2, cell), base[3:5] ** 2])
    windows = []
    for side in WINDOWS:
        size = (1, side, side)
        mean = ndimage.uniform_filter(base, size)
        middle = np.concatenate([mean[:3].mean(axis=0, keepdims=True), mean[3:5]])
        variance = ndimage.uniform_filter(squares, size) - middle**2
        windows.append(np.concatenate([mean, np.sqrt(np.maximum(variance, 0))]))
    tile = np.broadcast_to(base.mean(axis=(1, 2), keepdims=True), base.shape)
    return np.concatenate([*windows[:SHARP_WINDOWS], tile, *windows[SHARP_WINDOWS:]])


def sharp(features: np.ndarray) -> np.ndarray:
    """The features that tell where a class ends; features along the first axis."""
    count = len(features)
    each = (count - 9) // len(WINDOWS)
    return features[: SHARP_WINDOWS * each + 9]


def cell_shares(mask: np.ndarray, valid: np.ndarray, cell: int, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """(C, h, w) float32 share of each class in each cell, and (h, w) bool cells that have an image; else 0."""
    seen = cell_means(valid, cell) > 0.5
    shares = np.stack([cell_means(mask == label, cell) for label in range(num_classes)])
    return shares * seen, seen


def best_move(log_probs: np.ndarray, shares: np.ndarray, seen: np.ndarray) -> Move:
    """Where within a third of the tile a mask fits best: its correlation with the log-probabilities of its classes.

    Correlation rather than likelihood, since that would also be raised by moving a wrongly labelled area out of the
    tile. For each move only the cells count that lie on one another.

    Args:
        log_probs, shares: (C, h, w) float; classes that are not known are 0 in both.
        seen: (h, w) bool, cells with an image.

    Returns:
        The gain over the best place within NEAR cells of the given one; 0 gain where no inner place is better.
    """
    reach = min(seen.shape) // 3
    size = [fft.next_fast_len(side + reach, real=True) for side in seen.shape]
    at = np.arange(-reach, reach + 1)

    def transform(planes):
        return fft.rfft2(planes * seen, size)

    def correlate(first, second):
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


def likeliest_change(log_probs: np.ndarray, shares: np.ndarray, known: np.ndarray) -> Change | None:
    """The change of classes that gains most over its threshold; None where nothing can be judged.

    One class is read as another where it covers REGION of the tile; two classes are exchanged where each covers
    EXCHANGED_REGION and each is likelier as the other.

    Args:
        log_probs, shares: (C, h, w) float, void first.
        known: (C,) bool, classes that the networks have seen.
    """
    num_classes = len(shares)
    cover = shares.mean(axis=(1, 2))
    sums = np.einsum("ahw,bhw->ab", shares, log_probs) / shares[0].size
    gain = (sums - np.diag(sums)[:, None]) / np.maximum(
        cover[:, None], 1e-9
    )  # nats a cell of class row gains as column
    judged = [k for k in range(num_classes) if k != IGNORE_INDEX and known[k]]
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


def overlooked(log_probs: np.ndarray, shares: np.ndarray, known: np.ndarray) -> tuple[float, int, list[int]] | None:
    """For a mask of one class: nats that the likeliest classes gain over it, that class, and the classes seen instead.

    None where the mask has several classes, or one that is not known. Arguments as of ``likeliest_change``.
    """
    cover = shares.mean(axis=(1, 2))
    cover[IGNORE_INDEX] = 0
    given = int(cover.argmax())
    if cover[given] < 0.5 or cover[given] < ONE_CLASS * cover.sum() or not known[given]:
        return None
    judged = [k for k in range(len(shares)) if k != IGNORE_INDEX and known[k]]
    labelled = shares[given] > 0.5
    here = log_probs[judged][:, labelled]
    best = here.argmax(axis=0)
    gain = float((here.max(axis=0) - log_probs[given][labelled]).mean())
    parts = np.bincount(best, minlength=len(judged)) / max(best.size, 1)
    others = [judged[i] for i in np.argsort(-parts, kind="stable") if judged[i] != given and parts[i] >= 0.1]
    return gain, given, others


def mask_key(mask: np.ndarray) -> str | None:
    """A digest that equal masks share; None for a mask so plain that others equal it by chance.

    A few straight edges along rows or columns may be the border of a data set; corners are drawn.
    """
    steps_down, steps_right = mask[1:] != mask[:-1], mask[:, 1:] != mask[:, :-1]
    corners = (steps_down[:, 1:] | steps_down[:, :-1]) & (steps_right[1:] | steps_right[:-1])
    if np.count_nonzero(corners) < FEWEST_CORNERS:
        return None
    return hashlib.sha256(f"{mask.shape}".encode() + np.ascontiguousarray(mask).tobytes()).hexdigest()


class Networks(NamedTuple):
    """What one fold is judged by. known: (C,) bool, classes that enough of the tiles learned from have."""

    sharp: Pipeline | None
    wide: Pipeline | None
    known: np.ndarray


def fit_networks(features: np.ndarray, labels: np.ndarray, tiles: np.ndarray, num_classes: int, seed: int) -> Networks:
    """Networks that tell classes from features of cells.

    Args:
        features: (N, D) float32.
        labels: (N,) class ids.
        tiles: (N,) number of the tile each cell is of.
        num_classes: void included.
        seed: of weights and order.
    """
    holders = [len(np.unique(tiles[labels == k])) for k in range(num_classes)]
    known = np.array([count >= FEWEST_HOLDERS for count in holders])
    used = known[labels]
    features, labels = features[used], labels[used]
    if known.sum() < 2:
        return Networks(None, None, np.zeros(num_classes, bool))

    def fit(inputs):
        network = MLPClassifier(
            (64,), alpha=1e-2, learning_rate_init=4e-3, batch_size=min(512, len(labels)), max_iter=12, random_state=seed
        )
        return make_pipeline(StandardScaler(), network).fit(inputs, labels)

    with warnings.catch_warnings(), threadpool_limits(1):  # one thread: the sums are the same on every machine
        warnings.simplefilter("ignore", ConvergenceWarning)  # a dozen passes are enough, and more learn errors by heart
        return Networks(fit(sharp(features.T).T), fit(features), known)


def log_probabilities(network: Pipeline, features: np.ndarray, num_classes: int) -> np.ndarray:
    """(D, h, w) features → (C, h, w) float log-probabilities, not under FLOOR; 0 for classes not known."""
    rows = features.reshape(len(features), -1).T
    classes = network.classes_
    with threadpool_limits(1):
        probs = network.predict_proba(rows)
    logs = np.zeros((num_classes, len(rows)))
    logs[classes] = np.log((1 - FLOOR) * probs.T + FLOOR / len(classes))
    return logs.reshape(num_classes, *features.shape[1:])


class _Look(NamedTuple):
    """How a tile is read: the bands, the range of tiles that are not 8-bit (None for 8-bit ones), cells, classes."""

    inspection: Inspection
    bands: tuple[int, int, int]
    ranges: list | None
    cell: int
    num_classes: int

    def read(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Features, shares of classes and cells with an image; of a large tile those of its middle."""
        raw = read_raw(self.inspection.tile.image, self.bands)
        image, mask, valid = to_8bit(raw, self.ranges), read_mask(self.inspection.tile.mask), raw.valid
        middle = tuple(
            slice(max(0, (side - LARGEST_SIDE) // 2), max(0, (side - LARGEST_SIDE) // 2) + LARGEST_SIDE)
            for side in mask.shape
        )
        shares, seen = cell_shares(mask[middle], valid[middle], self.cell, self.num_classes)
        return cell_features(image[:, *middle], self.cell), shares, seen


class _Learned(NamedTuple):
    """A tile's mask_key, and features and classes of some of its cells."""

    key: str | None
    features: np.ndarray
    labels: np.ndarray


class _Judged(NamedTuple):
    """What the networks say of one tile: mean log-likelihood of its mask, and what is suspicious of it."""

    fit: float
    suspects: list[Suspect]


def learn_from(item: tuple[_Look, int]) -> _Learned:
    """A tile's mask_key, and features and classes of ``count`` of its pure cells."""
    look, count = item
    key = mask_key(read_mask(look.inspection.tile.mask))
    if not count:
        return _Learned(key, np.zeros((0, 0), np.float32), np.zeros(0, np.uint8))
    features, shares, seen = look.read()
    pure = np.flatnonzero((shares.max(axis=0) > PURE).ravel() & seen.ravel())
    digest = hashlib.sha256(look.inspection.tile.id.encode()).digest()
    chosen = np.random.default_rng(list(digest[:8])).permutation(pure)[:count]
    labels = shares.argmax(axis=0).ravel()[chosen].astype(np.uint8)
    return _Learned(key, features.reshape(len(features), -1).T[chosen], labels)


def _direction(down: int, right: int) -> str:
    parts = [f"{abs(down)} px {'down' if down > 0 else 'up'}"] if down else []
    parts += [f"{abs(right)} px {'right' if right > 0 else 'left'}"] if right else []
    return " and ".join(parts)


def judge(item: tuple[_Look, Networks, tuple[str, ...]]) -> _Judged:
    """Compare a tile's mask with moved and changed ones, by networks that have not seen it."""
    look, networks, classes = item
    tile = look.inspection.tile
    features, shares, seen = look.read()
    known = networks.known
    wide = log_probabilities(networks.wide, features, look.num_classes) * seen
    expected = np.where(known[:, None, None], wide, -np.inf).argmax(axis=0).astype(np.uint8)
    expected[~seen] = IGNORE_INDEX
    shares = shares * known[:, None, None]
    suspects = []

    def add(kind, score, reason, **facts):
        if score >= 1:
            suspects.append(Suspect(tile.id, tile.mask, kind, reason, float(score), expected=expected, **facts))

    single = overlooked(wide, shares, known)
    change = likeliest_change(wide, shares, known)
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
        narrow = log_probabilities(networks.sharp, sharp(features), look.num_classes)
        move = best_move(narrow, shares, seen)
        down, right = move.down * look.cell, move.right * look.cell
        text = f"fits the image better when moved {_direction(down, right)}"
        if move.fit >= MOVED_FIT:
            add(MOVED, move.gain / MOVE_GAIN, text, move=(down, right))
    return _Judged(float((shares * wide).sum() / max(shares.sum(), 1)), suspects)


def folds_of(found: list[Inspection], seed: int) -> np.ndarray:
    """(N,) fold of each tile; tiles of one spatial block, and tiles that overlap, share a fold."""
    places = [{**i.place, "height": i.height, "width": i.width} for i in found]
    names = [block or f"tile {i.tile.id}" for block, i in zip(spatial_blocks(places), found, strict=True)]
    units = joined(names, overlapping(places, places))
    order = np.random.default_rng(seed).permutation(units.max() + 1)
    folds = np.zeros(len(order), int)
    sizes = np.bincount(units)
    filled = np.zeros(FOLDS, int)
    for unit in order:  # the largest units of a random order would be no better: each goes where there is most room
        folds[unit] = filled.argmin()
        filled[folds[unit]] += sizes[unit]
    return folds[units]


def repeated_masks(keys: dict[str, str], fits: dict[str, float], masks: dict[str, Path]) -> list[Suspect]:
    """Tiles whose mask equals that of another tile whose image it fits better.

    Args:
        keys: ``mask_key`` by tile id, for masks with structure.
        fits: mean log-likelihood of its mask by tile id; all tiles of a group are named where they are not known.
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
        owner = max(members, key=fits.get) if judged else members[0]
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


def find_suspects(
    found: list[Inspection],
    *,
    bands: tuple[int, int, int],
    ranges: dict[str, list | None],
    classes: tuple[str, ...],
    workers: int,
    seed: int = 42,
) -> tuple[list[Suspect], str]:
    """Masks that are likely wrong, the most suspicious first, and what could not be judged (empty where all was).

    Reads every tile twice. Holds some cells of each tile, CELLS_IN_ALL in all, and a few tiles at a time.

    Args:
        found: usable tiles, no image twice.
        bands: as ``read_raw`` takes them.
        ranges: of each tile id, as ``to_8bit`` takes them.
        classes: names by class id.
        workers: processes.
        seed: of folds and networks.
    """
    number = len(classes)
    cell = cell_size([min(i.height, i.width) for i in found] or [SMALLEST_CELL])
    looks = [_Look(i, bands, ranges[i.tile.id], cell, number) for i in found]
    labelled = [i for i in found if any(i.pixels[IGNORE_INDEX + 1 :])]
    fitting = [i for i in labelled if min(i.height, i.width) >= FEWEST_CELLS * cell and i.invalid_share < 0.5]
    enough = len(fitting) >= FEWEST_TILES
    count = min(CELLS_PER_TILE, math.ceil(CELLS_IN_ALL / len(fitting))) if enough else 0
    used = {i.tile.id for i in fitting}
    items = [(look, count * (look.inspection.tile.id in used)) for look in looks]
    cells = list(map_progress(learn_from, items, workers=workers, desc="Sampling tiles"))
    masks = {i.tile.id: i.tile.mask for i in found}
    keys = {tile_id: c.key for tile_id, c in zip(masks, cells, strict=True) if c.key is not None}
    if not enough:
        why = (
            f"{len(fitting)} labelled tiles that are large enough are too few to learn from, expected {FEWEST_TILES}; "
            "only masks that repeat another tile's were looked for"
        )
        return most_suspicious_first(repeated_masks(keys, {}, masks)), why
    looks = [look for look in looks if look.inspection.tile.id in used]
    cells = [c for c, tile_id in zip(cells, masks, strict=True) if tile_id in used]
    folds = folds_of(fitting, seed)
    features = np.concatenate([c.features for c in cells])
    labels = np.concatenate([c.labels for c in cells])
    tiles = np.repeat(np.arange(len(cells)), [len(c.labels) for c in cells])
    networks = []
    for fold in tqdm(range(FOLDS), desc="Learning classes", unit="fold"):
        rows = (folds != fold)[tiles]
        networks.append(fit_networks(features[rows], labels[rows], tiles[rows], number, seed + fold))
    judged_by = [networks[fold] for fold in folds]
    items = [(look, by, classes) for look, by in zip(looks, judged_by, strict=True) if by.known[1:].sum() > 1]
    judged = list(map_progress(judge, items, workers=workers, desc="Judging masks"))
    fits = {item[0].inspection.tile.id: result.fit for item, result in zip(items, judged, strict=True)}
    suspects = [s for result in judged for s in result.suspects] + repeated_masks(keys, fits, masks)
    present = np.any([i.pixels for i in fitting], axis=0)
    unsure = [classes[k] for k in range(1, number) if present[k] and not all(by.known[k] for by in networks)]
    why = []
    if len(items) < len(labelled):
        why.append(
            f"{len(labelled) - len(items)} of {len(labelled)} labelled tiles, too small or mostly without an image"
        )
    if unsure:
        why.append(f"{', '.join(unsure)}: in too few places to be known by its looks")
    return most_suspicious_first(suspects), "; ".join(why)
