"""What a stage is made of."""

from dataclasses import dataclass

from common.tiles import TileSet


@dataclass
class Recipe:
    """What a stage is made of. Stages that are compared differ in one of the last five."""

    stage: str
    tiles: TileSet
    sampler: object
    cropper: object
    init: object
    loss: object

    def describe(self) -> dict:
        """The five components in plain values, as run.json holds them."""
        return {
            "tiles": {"folder": "/".join(self.tiles.path.resolve().parts[-2:]), "digest": self.tiles.digest},
            "sampler": self.sampler.describe(),
            "cropper": self.cropper.describe(),
            "init": self.init.describe(),
            "loss": self.loss.describe(),
        }
