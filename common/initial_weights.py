"""Where the weights of a training start: an encoder's, or those of an earlier stage, as they are or adjusted."""

from pathlib import Path

import numpy as np
import torch
from torch import nn

from common.bands import BandStatistics
from common.checkpoints import finished_checkpoint, lineage
from common.files import sha256_file
from common.inputs import Input
from common.models import Architecture, build_model, output_bias
from common.taxonomy import Taxonomy
from common.tiles import TileSet


class EncoderWeights:
    """Start from an encoder's weights, or from none; the rest of the network is random."""

    ancestors: tuple[dict, ...] = ()

    def __init__(self, source: str) -> None:
        self.source = source

    def build(self, architecture: Architecture, taxonomy: Taxonomy, bands: BandStatistics | None = None) -> nn.Module:
        return build_model(architecture, taxonomy.num_classes, self.source, bands=bands)

    def describe(self) -> dict:
        file = {} if self.source in ("imagenet", "none") else {"sha256": sha256_file(Path(self.source))}
        return {"kind": "encoder", "weights": self.source, **file}


class StageWeights:
    """Start from every tensor of an earlier stage's last checkpoint, ``source``.

    Raises:
        UserError: the checkpoint is missing, broken, of an unfinished run, another seed, other bands, another split
            (what it was trained on could be in ``val`` or test here), or of another network or taxonomy.
    """

    def __init__(self, source: Input, stage: str, seed: int, val: TileSet) -> None:
        self.checkpoint = finished_checkpoint(source, stage, seed)
        metadata = self.checkpoint.require_bands_of(val).metadata
        if metadata["val"]["digest"] != val.digest or metadata["stretch"] != val.stretch:
            raise source.unusable(f"{source} was trained under another split than that of {val.path}")
        self.ancestors = tuple(lineage(self.checkpoint))

    def build(self, architecture: Architecture, taxonomy: Taxonomy, bands: BandStatistics | None = None) -> nn.Module:
        source, classes = self.checkpoint.source, self.checkpoint.taxonomy.classes
        if self.checkpoint.taxonomy != taxonomy:
            raise source.unusable(f"{source} was trained for {', '.join(classes)}, not for this taxonomy")
        return self.checkpoint.load_into(architecture)

    def describe(self) -> dict:
        return {"kind": "stage", "stage": self.checkpoint.metadata["stage"], "digest": self.checkpoint.digest}


class LogitAdjustment(StageWeights):
    """The network of an earlier stage with tau · log(share) of each class subtracted from its logits.

    That is done once and for all in the bias of the last convolution, so that whatever reads the checkpoint has it. A
    class that train does not hold keeps its logit: it has no share whose logarithm could be taken.

    Args:
        source, stage, seed, val: as for StageWeights, but for any checkpoint of a finished run.
        shares: (C,) of each class id among the labelled pixels of train.
        tau: 1 evens out the frequencies of train, 0 changes nothing.

    Source: Menon et al. 2021, arXiv:2007.07314 (post hoc).
    """

    def __init__(self, source: Input, stage: str, seed: int, val: TileSet, shares: np.ndarray, tau: float) -> None:
        super().__init__(source, stage, seed, val)
        self.shares = shares
        self.tau = tau

    @property
    def offsets(self) -> torch.Tensor:
        """(C,) float64, what is subtracted from each logit."""
        return torch.from_numpy(self.tau * np.log(np.where(self.shares > 0, self.shares, 1.0)))

    def build(self, architecture: Architecture, taxonomy: Taxonomy, bands: BandStatistics | None = None) -> nn.Module:
        model = super().build(architecture, taxonomy, bands)
        bias = output_bias(model, architecture, taxonomy.num_classes)
        with torch.no_grad():
            bias.copy_(bias.double() - self.offsets)
        return model

    def describe(self) -> dict:
        return {**super().describe(), "kind": "logit_adjustment", "tau": self.tau, "shares": self.shares[1:].tolist()}
