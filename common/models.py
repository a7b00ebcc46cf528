"""Networks from segmentation-models-pytorch, and state dicts loaded into them strictly."""

import logging
import os
import warnings
from pathlib import Path

import segmentation_models_pytorch as smp
import torch
from torch import nn

from common.encoder_files import read_encoder_file
from common.errors import UserError
from common.taxonomy import IGNORE_INDEX
from common.text import some

GIVE_ITS_NETWORK = "Give the --arch and --encoder it was made with."
VOID_LOGIT = -1e4  # its softmax is 0 in every precision, and unlike -inf it leaves no NaN in products


class SilenceVoid(nn.Module):
    """Fixes output IGNORE_INDEX at VOID_LOGIT, so that it is neither trained nor ever predicted."""

    def forward(self, logits: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) → the same shape."""
        logits = logits.clone()
        logits[:, IGNORE_INDEX] = VOID_LOGIT
        return logits


def build_model(arch: str, encoder: str, num_classes: int, encoder_weights: str = "none") -> nn.Module:
    """A network with an output for each class id, of which that of void is silent.

    Args:
        arch, encoder: names in segmentation-models-pytorch, such as unet and efficientnet-b4.
        num_classes: number of class ids, void included.
        encoder_weights: none (random), imagenet (downloaded by the library), or a file, see ``read_encoder_file``.

    Raises:
        UserError: a name that the library does not know, weights that cannot be had or do not fit.
    """
    source = "imagenet" if encoder_weights == "imagenet" else None
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # its retries; the failure itself is told below
    try:
        with warnings.catch_warnings(action="ignore"):
            model = smp.create_model(arch, encoder, encoder_weights=source, classes=num_classes)
    except OSError as error:  # first, since older clients of the hub raise one that is a ValueError as well
        raise UserError(
            f"--encoder-weights imagenet: the weights of {encoder} could not be downloaded "
            f"({type(error).__name__}: {str(error).splitlines()[0][:200]}). Without a connection: "
            "--encoder-weights none starts from random weights, --encoder-weights FILE from a state dict that you "
            "saved with torch.save(model.encoder.state_dict(), FILE) where there is one."
        ) from None
    except (KeyError, ValueError) as error:
        raise UserError(f"--arch {arch} --encoder {encoder}: {error}") from None
    if encoder_weights not in ("imagenet", "none"):
        try:
            state, left_out = read_encoder_file(Path(encoder_weights), model.encoder)
        except UserError as error:
            raise UserError(f"--encoder-weights: {error}") from None
        nn.Module.load_state_dict(model.encoder, state)  # some of smp's own versions of it do not know strict=True
        if left_out and not int(os.environ.get("RANK", 0)):
            print(f"--encoder-weights {encoder_weights}: left out {some(left_out)}, which the encoder does not have.")
    model.segmentation_head = nn.Sequential(model.segmentation_head, SilenceVoid())
    return model


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
