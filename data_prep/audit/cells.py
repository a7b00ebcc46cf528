"""Small cells of tiles, their colour and texture, and what a class usually looks like."""

import hashlib
import warnings
from typing import NamedTuple

import numpy as np
from scipy import ndimage
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from common.bands import three_bands
from common.raw_images import Ranges, Reading, read_raw
from data_prep.raw.inspect import Inspection

FEWEST_HOLDERS = 3  # tiles that show a class to the networks, or its masks are not judged
CELLS_ACROSS = 50  # of a tile: fine enough for its outlines, coarse enough to hold some texture
SMALLEST_CELL = 2  # pixels
LARGEST_SIDE = 2048  # pixels; of a larger tile the middle is judged
WINDOWS = (1, 3, 7, 15)  # cells around a cell whose means and spreads describe it
SHARP_WINDOWS = 2  # how many of them tell where a class ends; larger ones blur that, but help to tell which it is
PURE = 0.8  # share of a cell that its class covers where it is learned from
FLOOR = 0.1  # of each probability, shared by all classes: the labels learned from have errors, too
FEWEST_CORNERS = 8  # of a mask that cannot equal another's by chance


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

    ``image``: (3, H, W) uint8.
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
    """What one fold is judged by. learned: (C,) bool, classes that enough of the tiles learned from have."""

    sharp: Pipeline | None
    wide: Pipeline | None
    learned: np.ndarray


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
    learned = np.array([count >= FEWEST_HOLDERS for count in holders])
    used = learned[labels]
    features, labels = features[used], labels[used]
    if learned.sum() < 2:
        return Networks(None, None, np.zeros(num_classes, bool))

    def fit(inputs: np.ndarray) -> Pipeline:
        network = MLPClassifier(
            (64,), alpha=1e-2, learning_rate_init=4e-3, batch_size=min(512, len(labels)), max_iter=12, random_state=seed
        )
        return make_pipeline(StandardScaler(), network).fit(inputs, labels)

    with warnings.catch_warnings(), threadpool_limits(1):  # one thread: the sums are the same on every machine
        warnings.simplefilter("ignore", ConvergenceWarning)  # a dozen passes are enough, and more learn errors by heart
        return Networks(fit(sharp(features.T).T), fit(features), learned)


def log_probabilities(network: Pipeline, features: np.ndarray, num_classes: int) -> np.ndarray:
    """(D, h, w) features → (C, h, w) float log-probabilities, not under FLOOR; 0 for classes not learned."""
    rows = features.reshape(len(features), -1).T
    classes = network.classes_
    with threadpool_limits(1):
        probs = network.predict_proba(rows)
    logs = np.zeros((num_classes, len(rows)))
    logs[classes] = np.log((1 - FLOOR) * probs.T + FLOOR / len(classes))
    return logs.reshape(num_classes, *features.shape[1:])


class TileReader(NamedTuple):
    """How a tile is read: the bands, the range of tiles that are not 8-bit (None for 8-bit ones), cells, classes."""

    inspection: Inspection
    reading: Reading
    ranges: Ranges | None
    cell: int
    num_classes: int

    def read(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Features, shares of classes and cells with an image; of a large tile those of its middle."""
        raw = read_raw(self.inspection.tile.image, self.reading)
        image, mask, valid = three_bands(raw.to_8bit(self.ranges)), self.inspection.tile.read_mask(), raw.valid
        middle = tuple(
            slice(max(0, (side - LARGEST_SIDE) // 2), max(0, (side - LARGEST_SIDE) // 2) + LARGEST_SIDE)
            for side in mask.shape
        )
        shares, seen = cell_shares(mask[middle], valid[middle], self.cell, self.num_classes)
        return cell_features(image[:, *middle], self.cell), shares, seen


class TileCells(NamedTuple):
    """A tile's mask_key, and features and classes of some of its cells."""

    key: str | None
    features: np.ndarray
    labels: np.ndarray


def learn_from(item: tuple[TileReader, int]) -> TileCells:
    """A tile's mask_key, and features and classes of ``count`` of its pure cells."""
    reader, count = item
    key = mask_key(reader.inspection.tile.read_mask())
    if not count:
        return TileCells(key, np.zeros((0, 0), np.float32), np.zeros(0, np.uint8))
    features, shares, seen = reader.read()
    pure = np.flatnonzero((shares.max(axis=0) > PURE).ravel() & seen.ravel())
    digest = hashlib.sha256(reader.inspection.tile.id.encode()).digest()
    chosen = np.random.default_rng(list(digest[:8])).permutation(pure)[:count]
    labels = shares.argmax(axis=0).ravel()[chosen].astype(np.uint8)
    return TileCells(key, features.reshape(len(features), -1).T[chosen], labels)
