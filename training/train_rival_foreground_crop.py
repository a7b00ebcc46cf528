r"""Rival: stage 1 with the foreground crops of nnU-Net.

The only change from stage 1 is the cropper: a third of the windows lie around a pixel of a class of the tile, each
class equally likely (Isensee et al. 2021). Stage 4 seeks minority classes alone, in half of the windows.

    python -m training.train_rival_foreground_crop
"""

import argparse

from common.cli import fraction, run
from common.croppers import FOREGROUND_PROBABILITY, ForegroundCrop
from common.initial_weights import EncoderWeights
from common.losses import HardLoss
from common.samplers import UniformTiles
from training.engine.flags import train_parser
from training.engine.loop import fit
from training.engine.preflight import open_train_and_val
from training.engine.recipe import Recipe

STAGE = "rival_foreground_crop"


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = train_parser(
        STAGE, __doc__, train_dir="data/biodiversity_split/train", train_made_by="data_prep.split_biodiversity"
    )
    parser.add_argument(
        "--foreground-probability",
        type=fraction,
        default=FOREGROUND_PROBABILITY,
        help="share of the crops around a pixel of a class of the tile",
    )
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    train, val = open_train_and_val(args)
    recipe = Recipe(
        stage=STAGE,
        tiles=train,
        sampler=UniformTiles(),
        cropper=ForegroundCrop(args.crop_size, train.taxonomy.num_classes, args.foreground_probability),
        init=EncoderWeights(args.encoder_weights),
        loss=HardLoss(args.label_smoothing),
    )
    fit(recipe, val, args.settings, args.run)


if __name__ == "__main__":
    run(main)
