"""The networks that make a map: read from checkpoints, and held to the raster that they are given."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from common.bands import RGB, named
from common.checkpoints import METADATA_TO_SCORE, Checkpoint, UnfinishedRun
from common.device import place
from common.errors import UserError
from common.folds import FOLDS
from common.inference import forward
from common.inputs import Input
from common.raw_images import Ranges
from common.stages import FINAL_STAGE, training_command
from common.taxonomy import Taxonomy
from common.text import some, warn
from evaluation.mapping.raster import Raster, Scaling

GSD_APART = 1.25  # ratio of ground sampling distances from which a raster is not mapped as it is
COLOURS = {"red", "green", "blue"}
FLIPS = ((), (-1,), (-2,), (-2, -1))


def chosen_checkpoints(args: argparse.Namespace) -> list[Input]:
    """Those of --checkpoint; without it best.pt of the last stage, of the root or of each fold that has one."""
    if args.checkpoint:
        made_by = training_command(args.root, FINAL_STAGE, args.seed)
        return [Input(path, made_by, "--checkpoint") for path in args.checkpoint]
    below = f"model_weights/biodiversity/{FINAL_STAGE}"
    of_folds = sorted(args.root.glob(f"{FOLDS}/[0-9]*/{below}/seed*/best.pt"))
    paths = of_folds or [args.root / below / f"seed{args.seed}/best.pt"]
    return [Input(path, training_command(args.root, FINAL_STAGE, args.seed), "--checkpoint") for path in paths]


def load_checkpoints(sources: Sequence[Input]) -> list[Checkpoint]:
    """Finished checkpoints of one taxonomy. Raises UserError if one is missing, broken or of other classes."""
    found = []
    for source in sources:
        checkpoint = Checkpoint.load(source).require(METADATA_TO_SCORE)
        if checkpoint.training is not None:
            raise UnfinishedRun(f"{source} is of an unfinished run. Finish it: {checkpoint.command.resumed()}")
        if found and checkpoint.taxonomy != found[0].taxonomy:
            raise UserError(
                f"{source} was trained for the classes {', '.join(checkpoint.taxonomy.classes)}, but {found[0].path} "
                f"for {', '.join(found[0].taxonomy.classes)}: they cannot make one map."
            )
        found.append(checkpoint)
    return found


def bands_of(checkpoints: Sequence[Checkpoint]) -> list[int] | None:
    """The bands that networks were trained on; None if they do not say. UserError if these differ."""
    known = [checkpoint.bands for checkpoint in checkpoints]
    for checkpoint, bands in zip(checkpoints, known, strict=True):
        if bands != known[0]:
            raise UserError(
                f"{checkpoint.path} was trained on bands {bands}, {checkpoints[0].path} on {known[0]}: they cannot "
                "make one map."
            )
    return known[0]


def alpha_of(checkpoints: Sequence[Checkpoint]) -> str:
    """What --alpha auto means: what was decided for the training tiles, if some had a band that is called alpha."""
    hides = [(checkpoint.metadata.get("images") or {}).get("alpha") for checkpoint in checkpoints]
    return "no" if False in hides else "yes" if True in hides else "auto"


def gsd_of(checkpoints: Sequence[Checkpoint]) -> float | None:
    """The ground sampling distance in metres of the tiles that the first network was trained on, None if unknown."""
    return (checkpoints[0].metadata.get("images") or {}).get("gsd")


def require_fit(raster: Raster, checkpoint: Checkpoint, args: argparse.Namespace, gsd: float | None) -> None:
    """Refuse a raster of other colours, type or pixel size than the tiles that a network was trained on.

    With --as-it-is only the number of bands counts.

    Args:
        gsd: the width in metres of the pixels that are mapped; None if it is not known.
    """
    images = checkpoint.metadata.get("images") or {}
    declared, trained = raster.colors, tuple(images.get("colors") or ())
    seen = checkpoint.bands or list(RGB)
    if len(raster.bands) != len(seen):
        raise UserError(
            f"--bands {named(raster.bands)}: {checkpoint.path} was trained on the bands {named(seen)}. Give as many, "
            "in their order, or leave --bands out."
        )
    known = COLOURS <= set(declared) and COLOURS <= set(trained)
    if known and not args.bands and any(declared.index(color) != trained.index(color) for color in COLOURS):
        others = iter([band for band, color in zip(raster.bands, declared, strict=True) if color not in COLOURS])
        order = [raster.bands[declared.index(color)] if color in COLOURS else next(others) for color in trained]
        raise UserError(
            f"--image {raster.path}: its bands {' '.join(map(str, raster.bands))} are {', '.join(declared)}, those of "
            f"the training tiles {', '.join(trained)}. Give their order: --bands {' '.join(map(str, order))}"
        )
    if not images.get("bands") and not args.bands and raster.band_count != 3:
        raise UserError(
            f"--image {raster.path}: has {raster.band_count} bands, and {checkpoint.path}, of an earlier version, does "
            "not say on which it was trained. Name them: --bands 1 2 3"
        )
    if args.as_it_is:
        return
    dtypes = images.get("dtypes")
    if dtypes and raster.dtype not in dtypes and "uint8" in (raster.dtype, *dtypes):
        raise UserError(
            f"--image {raster.path}: holds {raster.dtype}, the training tiles {', '.join(dtypes)}, so that its values "
            "would be scaled otherwise than theirs. Give the raster from which the tiles come, or one in the same "
            "units; --as-it-is maps it anyway."
        )
    trained_gsd = images.get("gsd")
    if gsd is None or trained_gsd is None:
        whose = "the training tiles" if trained_gsd is None else "the raster"
        warn(f"the pixel size of {whose} is not known: make sure that both have the same.")
    elif max(gsd / trained_gsd, trained_gsd / gsd) > GSD_APART:
        raise UserError(
            f"--image {raster.path}: has pixels of {gsd:.4g} m, the training tiles of {checkpoint.path} of "
            f"{trained_gsd:.4g} m, so that objects have another size than those the network knows. --resample maps it "
            "at that of the tiles; --as-it-is maps it anyway."
        )


def scaling_of(checkpoint: Checkpoint, raster: Raster) -> Scaling:
    """How the raster becomes the 8-bit images that a network was trained on.

    Raises UserError if the raster is not 8-bit and nothing was scaled in training.
    """
    if raster.dtype == "uint8":
        return Scaling(raster.reading, None)
    stretch = checkpoint.metadata["stretch"]
    if stretch is None:
        raise UserError(
            f"--image {raster.path}: holds {raster.dtype}, but {checkpoint.path} was trained on 8-bit tiles, so that "
            "no range is known that becomes 0-255. Give the raster in 8 bit, scaled as the tiles were."
        )
    ranges: Ranges = stretch["ranges"] or raster.own_ranges()
    return Scaling(raster.reading, ranges)


def warn_of_units(raster: Raster, scaling: Scaling) -> None:
    """Warn if the raster's values lie beyond the range that was trained on."""
    ranges = scaling.ranges
    if ranges is None:
        return
    own = raster.own_ranges()
    beyond = [high_own < low or low_own > high for (low_own, high_own), (low, high) in zip(own, ranges, strict=True)]
    if any(beyond):
        seen = some([f"{low:.3g} to {high:.3g}" for low, high in own])
        wanted = some([f"{low:.3g} to {high:.3g}" for low, high in ranges])
        warn(f"{raster.path}: its values are {seen}, those of training {wanted}: it seems to be in other units.")


@dataclass(frozen=True)
class Networks:
    """Networks in eval mode on their device, and of each the number of its scaling in ``scalings``."""

    models: list[nn.Module]
    of_scaling: list[int]
    scalings: list[Scaling]
    taxonomy: Taxonomy
    device: torch.device
    flips: bool = False

    @classmethod
    def build(
        cls, checkpoints: Sequence[Checkpoint], scalings: Sequence[Scaling], device: torch.device, flips: bool
    ) -> "Networks":
        """Those of checkpoints, one scaling each; equal scalings are made once."""
        distinct = [scaling for n, scaling in enumerate(scalings) if scaling not in scalings[:n]]
        models = [place(checkpoint.build().eval(), device) for checkpoint in checkpoints]
        numbers = [distinct.index(scaling) for scaling in scalings]
        return cls(models, numbers, distinct, checkpoints[0].taxonomy, device, flips)

    @torch.no_grad()
    def probabilities(self, windows: Sequence[torch.Tensor], entropy: bool) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Mean of the probabilities of all networks, and with flips of the mirrored image too.

        Args:
            windows: for each scaling (N, B, H, W) uint8.
            entropy: whether to return that of the single networks as well.

        Returns:
            (N, C, H, W) float32; (N, 1, H, W) float32 mean entropy in nats, or None.
        """
        total, spread = torch.zeros(0), None
        for model, number in zip(self.models, self.of_scaling, strict=True):
            images = windows[number].to(self.device, non_blocking=True)
            found = torch.zeros(0)
            for axes in FLIPS if self.flips else FLIPS[:1]:
                seen = images.flip(axes) if axes else images
                of_flip = self._forward(model, seen).softmax(dim=1)
                of_flip = of_flip.flip(axes) if axes else of_flip
                found = found.add_(of_flip) if found.numel() else of_flip
            found = found / len(FLIPS) if self.flips else found
            if entropy:
                own = entropy_of(found)
                spread = own if spread is None else spread + own
            total = total.add_(found) if total.numel() else found
        if len(self.models) > 1:
            total = total / len(self.models)
            spread = None if spread is None else spread / len(self.models)
        return total, spread

    def _forward(self, model: nn.Module, images: torch.Tensor) -> torch.Tensor:
        """Logits. On the CPU one window after the other: there a sum may depend on how many are given at once."""
        if self.device.type == "cuda" or len(images) == 1:
            return forward(model, images)
        return torch.cat([forward(model, image[None]) for image in images])


def entropy_of(probabilities: torch.Tensor) -> torch.Tensor:
    """(N, C, H, W) → (N, 1, H, W) entropy in nats; a probability of 0 adds nothing."""
    return -torch.xlogy(probabilities, probabilities).sum(dim=1, keepdim=True)
