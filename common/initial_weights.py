"""Where the weights of a training start: an encoder's, or those of an earlier stage."""

from pathlib import Path

from torch import nn

from common.checkpoints import finished_checkpoint, lineage
from common.files import sha256_file
from common.inputs import Input
from common.models import Architecture, build_model
from common.taxonomy import Taxonomy
from common.tiles import TileSet


class EncoderWeights:
    """Start from an encoder's weights, or from none; the rest of the network is random."""

    ancestors: tuple[dict, ...] = ()

    def __init__(self, source: str) -> None:
        self.source = source

    def build(self, architecture: Architecture, taxonomy: Taxonomy) -> nn.Module:
        return build_model(architecture, taxonomy.num_classes, self.source)

    def describe(self) -> dict:
        file = {} if self.source in ("imagenet", "none") else {"sha256": sha256_file(Path(self.source))}
        return {"kind": "encoder", "weights": self.source, **file}


class StageWeights:
    """Start from every tensor of an earlier stage's last checkpoint, ``source``.

    Raises:
        UserError: the checkpoint is missing, broken, of an unfinished run, another seed, another split (what it
            was trained on could be in ``val`` or test here), or of another network or taxonomy.
    """

    def __init__(self, source: Input, stage: str, seed: int, val: TileSet) -> None:
        self.checkpoint = finished_checkpoint(source, stage, seed)
        metadata = self.checkpoint.metadata
        if metadata["val"]["digest"] != val.digest or metadata["stretch"] != val.stretch:
            raise source.unusable(f"{source} was trained under another split than that of {val.path}")
        self.ancestors = tuple(lineage(self.checkpoint))

    def build(self, architecture: Architecture, taxonomy: Taxonomy) -> nn.Module:
        source, classes = self.checkpoint.source, self.checkpoint.taxonomy.classes
        if self.checkpoint.taxonomy != taxonomy:
            raise source.unusable(f"{source} was trained for {', '.join(classes)}, not for this taxonomy")
        return self.checkpoint.load_into(architecture)

    def describe(self) -> dict:
        return {"kind": "stage", "stage": self.checkpoint.metadata["stage"], "digest": self.checkpoint.digest}
