"""Complete tiles for evaluation, and the one place where pixels become network input."""

import signal
from collections.abc import Sequence

import torch
from torch.utils.data import DataLoader, Dataset

from common.bands import RGB
from common.tiles import Tile

STRIDE = 32  # height and width that an encoder with five halvings accepts are multiples of it
PIXELS_PER_BATCH = {"cpu": 512 * 512, "cuda": 8 * 512 * 512}  # on a CPU more take memory, not less time


def network_input(images: torch.Tensor, photometric: torch.Tensor | None = None) -> torch.Tensor:
    """What a network takes, in training and in evaluation alike; its encoder standardises it.

    Args:
        images: (N, B, H, W) uint8.
        photometric: (N, 2) float brightness and contrast factors, or None for images as they are. As in
            torchvision's ColorJitter: brightness multiplies, contrast stretches about the mean of the image. They act
            on the first three bands alone, which look as in a network of three; on inner blocks of train that was
            better than on all bands alike by 1.6 points of mIoU, with a standard error of 0.9.

    Returns:
        (N, B, H, W) float32 with values of 0 to 1.
    """
    images = images.float().mul_(1 / 255)  # in place from here on: new memory costs more than the arithmetic
    if photometric is not None:
        brightness, contrast = (photometric[:, i, None, None, None] for i in (0, 1))
        colours = images[:, : len(RGB)]
        colours.mul_(brightness).clamp_(max=1)
        mean = colours.mean(dim=(1, 2, 3), keepdim=True)
        colours.mul_(contrast).add_(mean * (1 - contrast)).clamp_(0, 1)
    return images


def loader_options(workers: int, device: torch.device) -> dict:
    """The DataLoader arguments that depend on the machine and never on the result."""
    return {"num_workers": workers, "pin_memory": device.type == "cuda", "worker_init_fn": outlive_interrupts}


def outlive_interrupts(worker: int) -> None:
    """Signals reach every process of a group; the main one stops the run, its workers serve it until then."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


class WholeTiles(Dataset):
    """Whole tiles in the order of a list, for evaluation: nothing is drawn and nothing is augmented."""

    def __init__(self, tiles: Sequence[Tile]) -> None:
        self.tiles = tiles

    def __len__(self) -> int:
        return len(self.tiles)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        """``tile`` () int64 index, ``image`` (B, H, W) uint8, ``mask`` (H, W) uint8."""
        tile = self.tiles[index]
        return {
            "tile": torch.tensor(index),
            "image": torch.from_numpy(tile.read_image()),
            "mask": torch.from_numpy(tile.read_mask()),
        }


def tile_loader(tiles: Sequence[Tile], workers: int, device: torch.device) -> DataLoader:
    """Batches of complete tiles of one size each, as many as PIXELS_PER_BATCH allows.

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
    return DataLoader(WholeTiles(tiles), batch_sampler=batches, **loader_options(workers, device))
