"""The crops of a run: which tile, which window and which augmentation, each a pure function of seed and position.

Tile, window and augmentation of the n-th crop come from three separate streams, so that changing one of them between
stages leaves the other two as they were.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from common.datasets import loader_options
from common.errors import UserError
from common.rasters import class_pixels
from common.tiles import TileSet
from training.engine.recipe import Cropper, Sampler

TILE_STREAM, WINDOW_STREAM, AUGMENTATION_STREAM = range(3)
MASKS_KEPT = 64 * 2**20  # bytes of decoded masks that a process keeps, of 256 tiles of 512 px


def stream(seed: int, position: int, which: int) -> np.random.Generator:
    """The random generator of one stream at one position; counter-based, so that no draw depends on another."""
    return np.random.Generator(np.random.Philox(key=[seed, which], counter=[0, position, 0, 0]))


class TileDraws:
    """Draws tiles with replacement by inverse CDF; a tile without a labelled pixel is never drawn."""

    def __init__(self, tiles: TileSet, sampler: Sampler, seed: int) -> None:
        labelled = np.array([tile.labelled > 0 for tile in tiles])
        if not labelled.any():
            raise UserError(f"{tiles.path}: none of its {len(tiles)} tiles has a labelled pixel; nothing to train on.")
        self.seed = seed
        self.without_label = int((~labelled).sum())
        weights = np.asarray(sampler.weights(tiles), float)
        drawable = weights[labelled] if weights.shape == (len(tiles),) else np.zeros(0)
        if not (drawable.size and np.isfinite(drawable).all() and drawable.min() >= 0 and drawable.sum() > 0):
            raise ValueError(
                f"{type(sampler).__name__} gave weights of shape {weights.shape} for {len(tiles)} tiles, expected one "
                "for each: finite, 0 or more, and not all 0"
            )
        self.cdf = np.cumsum(np.where(labelled, weights, 0.0))

    def __call__(self, position: int) -> int:
        """The index, in the set, of the tile of the crop at ``position``."""
        u = stream(self.seed, position, TILE_STREAM).random()
        return int(np.searchsorted(self.cdf, u * self.cdf[-1], side="right"))


# Fixed beforehand, the same in every stage, never tuned.
SCALE_RANGE = (0.8, 1.25)
BRIGHTNESS = 0.2
CONTRAST = 0.2


@dataclass(frozen=True)
class Augmentation:
    """What is done to one crop: enlargement, one of eight orientations, brightness and contrast factors."""

    scale: float
    orientation: int
    brightness: float
    contrast: float

    @classmethod
    def draw(cls, rng: np.random.Generator) -> "Augmentation":
        low, high = SCALE_RANGE
        return cls(
            scale=math.exp(rng.uniform(math.log(low), math.log(high))),
            orientation=int(rng.integers(8)),
            brightness=rng.uniform(1 - BRIGHTNESS, 1 + BRIGHTNESS),
            contrast=rng.uniform(1 - CONTRAST, 1 + CONTRAST),
        )

    def orient(self, pixels: np.ndarray) -> np.ndarray:
        """(..., H, W) → the same pixels flipped and turned by quarters."""
        turned = np.rot90(pixels, self.orientation % 4, axes=(-2, -1))
        return turned[..., ::-1] if self.orientation >= 4 else turned


def resize(image: np.ndarray, mask: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """(B, h, w) uint8 image and (h, w) uint8 mask → side ``size``; the image bilinear, the mask by nearest neighbour.

    torch's bilinear for bytes gives the pixels of Pillow's to one grey value, in a third of the time.
    """
    if mask.shape == (size, size):
        return image, mask
    resized = F.interpolate(torch.from_numpy(image)[None], size=(size, size), mode="bilinear", antialias=True)
    nearest = Image.fromarray(mask).resize((size, size), Image.Resampling.NEAREST)
    return resized[0].numpy(), np.asarray(nearest)


class CropDataset(Dataset):
    """The crops of a run by their position: crop n depends on the seed and on n alone."""

    def __init__(self, tiles: TileSet, draws: TileDraws, cropper: Cropper, seed: int) -> None:
        self.tiles = tiles.tiles
        self.num_classes = tiles.taxonomy.num_classes
        self.bands = len(tiles.bands)
        self.draws = draws
        self.cropper = cropper
        self.seed = seed
        self.masks: dict[int, np.ndarray] = {}
        self.room = MASKS_KEPT

    def _mask(self, index: int) -> np.ndarray:
        """The mask of a tile, kept if there is room: decoding it takes longer than all the rest of a crop."""
        if index in self.masks:
            return self.masks[index]
        mask = self.tiles[index].read_mask()
        if mask.nbytes <= self.room:
            self.masks[index] = mask
            self.room -= mask.nbytes
        return mask

    def __getitem__(self, positions: list[int]) -> dict[str, torch.Tensor]:
        """The batch of the crops at N positions; each is written to its place in it, without a copy in between.

        Returns:
            ``tile`` (N,) int64 index, ``pixels`` (N, C) int64 pixels of each class, ``image`` (N, B, S, S) uint8,
            ``mask`` (N, S, S) uint8, ``photometric`` (N, 2) float32 as ``network_input`` takes it.
        """
        count, size = len(positions), self.cropper.size
        batch = {
            "tile": torch.empty(count, dtype=torch.int64),
            "pixels": torch.empty(count, self.num_classes, dtype=torch.int64),
            "image": torch.empty(count, self.bands, size, size, dtype=torch.uint8),
            "mask": torch.empty(count, size, size, dtype=torch.uint8),
            "photometric": torch.empty(count, 2),
        }
        for i, position in enumerate(positions):
            index = self.draws(position)
            tile = self.tiles[index]
            augmentation = Augmentation.draw(stream(self.seed, position, AUGMENTATION_STREAM))
            mask = self._mask(index)
            row, column, side = self.cropper.window(
                mask, stream(self.seed, position, WINDOW_STREAM), augmentation.scale
            )
            image = tile.read_image((row, column, side))
            image, mask = resize(image, mask[row : row + side, column : column + side], size)
            batch["tile"][i] = index
            batch["image"][i].numpy()[:] = augmentation.orient(image)
            batch["mask"][i].numpy()[:] = augmentation.orient(mask)
            batch["pixels"][i] = torch.from_numpy(class_pixels(mask, self.num_classes))
            batch["photometric"][i] = torch.tensor([augmentation.brightness, augmentation.contrast])
        return batch


def crop_loader(crops: CropDataset, steps: "StepSampler", workers: int, device: torch.device) -> DataLoader:
    """Batches of crops, one a step; an item that a sampler asks for is the batch of a step."""
    return DataLoader(crops, batch_size=None, sampler=steps, **loader_options(workers, device))


class StepSampler:
    """The crop positions of each optimizer step, for one of several processes that share a run.

    Step s of a run with global batch B has positions s·B … s·B + B − 1; process r of w takes its w-th part.
    """

    def __init__(self, first_step: int, last_step: int, batch_size: int, rank: int = 0, world: int = 1) -> None:
        self.steps = range(first_step, last_step)
        self.batch_size = batch_size
        self.share = batch_size // world
        self.rank = rank

    def __len__(self) -> int:
        return len(self.steps)

    def __iter__(self) -> Iterator[list[int]]:
        for step in self.steps:
            first = step * self.batch_size + self.rank * self.share
            yield list(range(first, first + self.share))
