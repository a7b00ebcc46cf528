r"""Stage 1: supervised training on Biodiversity alone, the baseline of every comparison.

Tiles are drawn uniformly, windows at random; the loss is cross-entropy + Dice.

    python -m training.train_stage1_baseline
"""

import argparse

from common.cli import run
from common.croppers import RandomCrop
from common.initial_weights import EncoderWeights
from common.losses import HardLoss
from common.samplers import UniformTiles
from training.engine.flags import train_parser
from training.engine.loop import fit
from training.engine.preflight import open_train_and_val
from training.engine.recipe import Recipe

STAGE = "stage1_baseline"


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = train_parser(
        STAGE, __doc__, train_dir="data/biodiversity_split/train", train_made_by="data_prep.split_biodiversity"
    )
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    train, val = open_train_and_val(args)
    recipe = Recipe(
        stage=STAGE,
        tiles=train,
        sampler=UniformTiles(),
        cropper=RandomCrop(args.crop_size),
        init=EncoderWeights(args.encoder_weights),
        loss=HardLoss(args.label_smoothing),
    )
    fit(recipe, val, args.settings, args.run)


if __name__ == "__main__":
    run(main)
