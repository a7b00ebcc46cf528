"""Crops for training and whole tiles for evaluation, and the one place where pixels become network input."""

import functools
import math
import signal
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from common.rasters import class_pixels
from common.samplers import AUGMENTATION_STREAM, WINDOW_STREAM, TileDraws, stream
from common.tiles import TileSet

# Fixed beforehand, the same in every stage, never tuned.
SCALE_RANGE = (0.8, 1.25)
BRIGHTNESS = 0.2
CONTRAST = 0.2
# Channel statistics of ImageNet, which the pretrained encoders of segmentation-models-pytorch expect.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
STRIDE = 32  # height and width that an encoder with five halvings accepts are multiples of it
PIXELS_PER_BATCH = {"cpu": 512 * 512, "cuda": 8 * 512 * 512}  # of whole tiles; on a CPU more take memory, not less time


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
    """(3, h, w) uint8 image and (h, w) uint8 mask → side ``size``; the image bilinear, the mask by nearest neighbour.

    torch's bilinear for bytes gives the pixels of Pillow's to one grey value, in a third of the time.
    """
    if mask.shape == (size, size):
        return image, mask
    image = F.interpolate(torch.from_numpy(image)[None], size=(size, size), mode="bilinear", antialias=True)
    mask = Image.fromarray(mask).resize((size, size), Image.Resampling.NEAREST)
    return image[0].numpy(), np.asarray(mask)


def network_input(images: torch.Tensor, photometric: torch.Tensor | None = None) -> torch.Tensor:
    """What the network sees, in training and in evaluation alike.

    Args:
        images: (N, 3, H, W) uint8.
        photometric: (N, 2) float brightness and contrast factors, or None for images as they are. As in
            torchvision's ColorJitter: brightness multiplies, contrast stretches about the mean of the image.

    Returns:
        (N, 3, H, W) float32, standardised by channel.
    """
    images = images.float().mul_(1 / 255)  # in place from here on: new memory costs more than the arithmetic
    if photometric is not None:
        brightness, contrast = (photometric[:, i, None, None, None] for i in (0, 1))
        images.mul_(brightness).clamp_(max=1)
        mean = images.mean(dim=(1, 2, 3), keepdim=True)
        images.mul_(contrast).add_(mean * (1 - contrast)).clamp_(0, 1)
    mean, std = _channel_statistics(images.device)
    return images.sub_(mean).div_(std)


@functools.cache  # made once, since copying to a device waits for it
def _channel_statistics(device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    return tuple(torch.tensor(values, device=device)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))


class CropDataset(Dataset):
    """The crops of a run by their position: crop n depends on the seed and on n alone."""

    def __init__(self, tiles: TileSet, draws: TileDraws, cropper, seed: int):
        self.tiles = tiles.tiles
        self.num_classes = tiles.taxonomy.num_classes
        self.draws = draws
        self.cropper = cropper
        self.seed = seed

    def __getitem__(self, positions: list[int]) -> dict[str, torch.Tensor]:
        """The batch of the crops at N positions; each is written to its place in it, without a copy in between.

        Returns:
            ``tile`` (N,) int64 index, ``pixels`` (N, C) int64 pixels of each class, ``image`` (N, 3, S, S) uint8,
            ``mask`` (N, S, S) uint8, ``photometric`` (N, 2) float32 as ``network_input`` takes it.
        """
        count, size = len(positions), self.cropper.size
        batch = {
            "tile": torch.empty(count, dtype=torch.int64),
            "pixels": torch.empty(count, self.num_classes, dtype=torch.int64),
            "image": torch.empty(count, 3, size, size, dtype=torch.uint8),
            "mask": torch.empty(count, size, size, dtype=torch.uint8),
            "photometric": torch.empty(count, 2),
        }
        for i, position in enumerate(positions):
            index = self.draws(position)
            tile = self.tiles[index]
            augmentation = Augmentation.draw(stream(self.seed, position, AUGMENTATION_STREAM))
            mask = tile.read_mask()
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
    return DataLoader(crops, batch_size=None, sampler=steps, **_loader_options(workers, device))


class StepSampler:
    """The crop positions of each optimizer step, for one of several processes that share a run.

    Step s of a run with global batch B has positions s·B … s·B + B − 1; process r of w takes its w-th part.
    """

    def __init__(self, first_step: int, last_step: int, batch_size: int, rank: int = 0, world: int = 1):
        self.steps = range(first_step, last_step)
        self.batch_size = batch_size
        self.share = batch_size // world
        self.rank = rank

    def __len__(self) -> int:
        return len(self.steps)

    def __iter__(self):
        for step in self.steps:
            first = step * self.batch_size + self.rank * self.share
            yield list(range(first, first + self.share))


def _loader_options(workers: int, device: torch.device) -> dict:
    """The DataLoader arguments that depend on the machine and never on the result."""
    return {"num_workers": workers, "pin_memory": device.type == "cuda", "worker_init_fn": _outlive_interrupts}


def _outlive_interrupts(worker: int) -> None:
    """Signals reach every process of a group; the main one stops the run, its workers serve it until then."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


class WholeTiles(Dataset):
    """Whole tiles in the order of a list, for evaluation: nothing is drawn and nothing is augmented."""

    def __init__(self, tiles: list):
        self.tiles = tiles

    def __len__(self) -> int:
        return len(self.tiles)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        """``tile`` () int64 index, ``image`` (3, H, W) uint8, ``mask`` (H, W) uint8."""
        tile = self.tiles[index]
        return {
            "tile": torch.tensor(index),
            "image": torch.from_numpy(tile.read_image()),
            "mask": torch.from_numpy(tile.read_mask()),
        }


def tile_loader(tiles: list, workers: int, device: torch.device) -> DataLoader:
    """Batches of whole tiles of one size each, as many as PIXELS_PER_BATCH allows.

    On the CPU there are no workers: reading takes a hundredth of the network's time, and its cores.
    """
    by_size: dict[tuple[int, int], list[int]] = {}
    for index, tile in enumerate(tiles):
        by_size.setdefault((tile.entry["height"], tile.entry["width"]), []).append(index)
    batches = []
    for (height, width), members in by_size.items():
        count = max(1, PIXELS_PER_BATCH[device.type] // (height * width))
        batches += [members[i : i + count] for i in range(0, len(members), count)]
    workers = workers if device.type == "cuda" else 0
    return DataLoader(WholeTiles(tiles), batch_sampler=batches, **_loader_options(workers, device))
