"""A run of a network without batch statistics, for tests that start it alone and under torchrun.

Beside the files of every run it leaves the tiles that each process drew, a line a step.
"""

import os
import signal
from pathlib import Path

import torch
from torch import nn

from common.cli import run
from common.croppers import MinorityCrop
from common.encoders import EncoderConstants
from common.losses import HardLoss
from common.models import SilenceVoid
from common.samplers import WeightedTiles
from training.engine import loop as engine
from training.engine.flags import train_parser
from training.engine.loop import fit
from training.engine.meters import DrawnCrops
from training.engine.preflight import open_train_and_val
from training.engine.recipe import Recipe


class SmallNetwork:
    """Starts from random weights; layers are normalised over the channels of one crop."""

    ancestors = ()

    def build(self, architecture, taxonomy, bands):
        network = nn.Sequential()
        network.encoder = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.GroupNorm(2, 8), nn.ReLU())
        EncoderConstants().install(network.encoder)
        network.head = nn.Sequential(nn.Conv2d(8, taxonomy.num_classes, 3, padding=1), SilenceVoid())
        return network

    def describe(self):
        return {"kind": "small"}


def parse_args(argv=None):
    parser = train_parser(
        "shared_run",
        __doc__,
        train_dir="data/biodiversity_split/train_rep",
        train_made_by="data_prep.replicate_minority",
    )
    parser.add_argument("--stop-at", type=int, help="step at which the last process is sent SIGTERM")
    return parser.parse_args(argv)


def watch_draws(folder: Path, stop_at: int | None) -> None:
    rank, last = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1)) - 1
    add, steps = DrawnCrops.add, []

    def add_and_note(drawn, batch):
        add(drawn, batch)
        steps.append(batch)
        with open(folder / f"drawn_by_{rank}.txt", "a") as file:
            print(*batch["tile"].tolist(), file=file)
        if rank == last and len(steps) == stop_at:
            signal.raise_signal(signal.SIGTERM)

    DrawnCrops.add = add_and_note


def plain_descent(model, settings) -> torch.optim.Optimizer:
    """Unlike AdamW it is moved by the size of the gradients, so that a wrong one shows."""
    return torch.optim.SGD(model.parameters(), lr=settings.lr)


def main(argv=None):
    args = parse_args(argv)
    train, val = open_train_and_val(args)
    sampler = WeightedTiles({tile_id: 1 + i % 4 for i, tile_id in enumerate(train.ids)})
    cropper = MinorityCrop(args.crop_size, [train.taxonomy.num_classes - 1])
    args.out_dir.mkdir(parents=True, exist_ok=True)
    engine.make_optimizer = plain_descent
    watch_draws(args.out_dir, args.stop_at)
    fit(Recipe("shared_run", train, sampler, cropper, SmallNetwork(), HardLoss()), val, args.settings, args.run)


if __name__ == "__main__":
    run(main)
