"""A trial before the first step: a network that cannot do it is refused before anything is written."""

import copy
from collections.abc import Generator
from contextlib import contextmanager

import torch
from torch import nn

from common.device import Processes, autocast
from common.errors import LIBRARY_REFUSALS, UserError, lacks_memory, one_line
from common.inference import predict_logits
from common.losses import HardAndKDLoss
from common.tiles import TileSet
from training.engine.flags import TrainSettings
from training.engine.recipe import Loss


def try_networks(
    model: nn.Module,
    loss: Loss,
    inputs: dict[str, torch.Tensor],
    val: TileSet,
    settings: TrainSettings,
    processes: Processes,
) -> None:
    """Take a training step with a copy of the network; predict images as large as the smallest and largest of ``val``.

    The tiles themselves are not read: val serves to validate and for nothing else.

    Args:
        model: the network as it starts, on its device; it is not changed.
        loss: on that device; its teacher, if it has one, is tried as well.
        inputs: a batch of crops as network and loss see them.

    Raises:
        UserError: one of the networks cannot take these sizes.
    """
    images = inputs["image"]
    count, size = len(images), images.shape[-1]
    crops = f"{count} crop{'' if count == 1 else 's'} of {size} px"
    another = "another --arch or --encoder"
    resize = f"Give another --crop-size, at least two crops a process (--batch-size), or {another}."
    trial = copy.deepcopy(model).train()
    network = processes.share(trial, images.device)
    training = f"{settings.architecture} cannot take a training step on {crops}"
    with _refusals_told(training, resize):
        with autocast(images.device):
            logits = network(images)
        if logits.shape[2:] != images.shape[2:]:
            raise ValueError(f"its output is {logits.shape[2]} x {logits.shape[3]} px")
    if isinstance(loss, HardAndKDLoss):
        with _refusals_told(f"The teacher cannot process {crops}", "Give another --crop-size or --teacher."):
            with torch.no_grad(), autocast(images.device):
                loss.teacher(images)
    terms = loss.terms(logits, inputs)
    total = torch.stack([term.weight * term.total for term in terms]).sum()
    with _refusals_told(training, resize):
        total.backward()
    by_area = sorted(val.tiles, key=lambda tile: tile.entry["height"] * tile.entry["width"])
    for height, width in {(tile.entry["height"], tile.entry["width"]) for tile in (by_area[0], by_area[-1])}:
        blank = torch.zeros(1, images.shape[1], height, width, dtype=torch.uint8, device=images.device)
        of_val = f"{settings.architecture} cannot predict {height} x {width} px, as tiles of {val.path} have"
        with _refusals_told(of_val, f"Give {another}."):
            predict_logits(trial.eval(), blank)


@contextmanager
def _refusals_told(problem: str, remedy: str) -> Generator[None]:
    """Turn what a network raises into one message. If memory ran out, the message does not blame the size."""
    try:
        yield
    except LIBRARY_REFUSALS as error:
        if lacks_memory(error):
            raise
        raise UserError(f"{problem} ({one_line(error)}). Nothing was written. {remedy}") from None
