r"""Rival: stage 1 with the focal loss in place of the cross-entropy.

The only change from stage 1 is the loss: a pixel weighs (1 - p)^gamma, p being the probability of its class, so that
those that are predicted well count little (Lin et al. 2017). Dice stays.

    python -m training.train_rival_focal
"""

import argparse

from common.cli import non_negative_float, run
from common.croppers import RandomCrop
from common.initial_weights import EncoderWeights
from common.losses import FOCAL_GAMMA, FocalLoss
from common.samplers import UniformTiles
from training.engine.flags import train_parser
from training.engine.loop import fit
from training.engine.preflight import open_train_and_val
from training.engine.recipe import Recipe

STAGE = "rival_focal"


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = train_parser(
        STAGE,
        __doc__,
        train_dir="data/biodiversity_split/train",
        train_made_by="data_prep.split_biodiversity",
        label_smoothing="recorded, so that the settings equal those of the others; the focal loss smooths no label",
    )
    parser.add_argument(
        "--gamma",
        type=non_negative_float,
        default=FOCAL_GAMMA,
        help="exponent of the focal loss; 0 is the cross-entropy",
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
        loss=FocalLoss(args.gamma),
    )
    fit(recipe, val, args.settings, args.run)


if __name__ == "__main__":
    run(main)
