"""What a stage is made of. Read this before you add one.

A stage gives the loop a Recipe of five components. The loop asks of them what the four Protocols here say, and nothing
else: a class with these methods is a sampler, a cropper, a loss or a start, wherever it stands. Those there are stand
in common/samplers.py, common/croppers.py, common/losses.py and common/initial_weights.py.

Every component describes itself. The descriptions go into run.json. There a stage must differ from the one it is
compared with in the one component that common/stages.py names; so whatever changes what a component does belongs into
its description.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import nn

from common.bands import BandStatistics
from common.losses import LossTerm
from common.models import Architecture
from common.taxonomy import Taxonomy
from common.tiles import TileSet


class Component(Protocol):
    """Something that a recipe is made of."""

    def describe(self) -> dict:
        """What run.json says of it, in plain JSON values; two that act differently differ in it."""
        ...


class Sampler(Component, Protocol):
    """How often each tile is drawn."""

    def weights(self, tiles: TileSet) -> np.ndarray:
        """(T,) float64 weights of 0 or more in the order of the set; tiles are drawn in proportion to them.

        Tiles without a labelled pixel are never drawn, whatever their weight.
        """
        ...


class Cropper(Component, Protocol):
    """Which window of a tile becomes a crop."""

    @property
    def size(self) -> int:
        """Side in pixels of the crop that the network sees, a multiple of 32."""
        ...

    def window(self, mask: np.ndarray, rng: np.random.Generator, scale: float) -> tuple[int, int, int]:
        """Row, column and side in pixels of a square window inside the tile.

        Args:
            mask: (H, W) uint8 class ids of the complete tile, 0 where nothing is labelled.
            rng: the window stream of this crop; drawing from it is the only chance allowed.
            scale: how much the window is enlarged afterwards to become ``size``, 0.8 to 1.25; its side is
                ``size / scale``, or the shorter side of the tile if that is less.
        """
        ...


class InitialWeights(Component, Protocol):
    """Where the weights start."""

    @property
    def ancestors(self) -> Sequence[dict]:
        """Stage, steps, crops and digest of each earlier training, oldest first."""
        ...

    def build(self, architecture: Architecture, taxonomy: Taxonomy, bands: BandStatistics | None) -> nn.Module:
        """The network before the first step, on the CPU.

        Args:
            architecture: what it is made of.
            taxonomy: of its outputs.
            bands: mean and deviation of each band of the training tiles; None for red, green and blue of OpenEarthMap.

        It takes (N, B, H, W) float32 as ``network_input`` gives them, and returns (N, C, H, W) float32 logits, one
        output a class id. Its ``encoder`` has a learning rate of its own. Random weights come from torch's generator,
        which the loop has seeded.
        """
        ...


class Loss(Component, Protocol):
    """What training makes small."""

    def to(self, device: torch.device) -> "Loss":
        """The same loss with its tensors on a device."""
        ...

    def terms(self, logits: torch.Tensor, batch: dict[str, torch.Tensor]) -> list[LossTerm]:
        """The parts of the loss on a batch; it is the sum of weight · total / count over them.

        Args:
            logits: (N, C, H, W), float32 or bfloat16; output 0 is void and counts nowhere.
            batch: ``image`` (N, B, H, W) float32 as the network saw it; ``mask`` (N, H, W) int64 class ids, 0 where
                nothing is labelled.
        """
        ...


@dataclass(frozen=True)
class Recipe:
    """What a stage is made of. Stages that are compared differ in one of the last five."""

    stage: str
    tiles: TileSet
    sampler: Sampler
    cropper: Cropper
    init: InitialWeights
    loss: Loss

    def describe(self) -> dict:
        """The five components in plain values, as run.json holds them."""
        return {
            "tiles": {"folder": "/".join(self.tiles.path.resolve().parts[-2:]), "digest": self.tiles.digest},
            "sampler": self.sampler.describe(),
            "cropper": self.cropper.describe(),
            "init": self.init.describe(),
            "loss": self.loss.describe(),
        }
