r"""Rival: stage 1 with a cross-entropy in which rare classes weigh more.

The only change from stage 1 is the loss: each pixel weighs as much as its class, by median frequency balancing (Eigen
and Fergus 2015): the median of the class frequencies over that of the class, at most --largest-weight. Dice stays.

    python -m training.train_rival_class_weights
"""

import argparse

from common.class_frequencies import LARGEST_CLASS_WEIGHT, ClassFrequencies, median_frequency_weights
from common.cli import positive_float, run
from common.croppers import RandomCrop
from common.initial_weights import EncoderWeights
from common.losses import ClassWeightedLoss
from common.samplers import UniformTiles
from training.engine.flags import train_parser
from training.engine.loop import fit
from training.engine.preflight import open_train_and_val
from training.engine.recipe import Recipe

STAGE = "rival_class_weights"


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = train_parser(
        STAGE, __doc__, train_dir="data/biodiversity_split/train", train_made_by="data_prep.split_biodiversity"
    )
    parser.add_argument(
        "--largest-weight", type=positive_float, default=LARGEST_CLASS_WEIGHT, help="largest weight of a class"
    )
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    train, val = open_train_and_val(args)
    weights = median_frequency_weights(ClassFrequencies.of(train), args.largest_weight)
    recipe = Recipe(
        stage=STAGE,
        tiles=train,
        sampler=UniformTiles(),
        cropper=RandomCrop(args.crop_size),
        init=EncoderWeights(args.encoder_weights),
        loss=ClassWeightedLoss(
            weights.tolist(), args.label_smoothing, {"kind": "median_frequency", "largest": args.largest_weight}
        ),
    )
    fit(recipe, val, args.settings, args.run)


if __name__ == "__main__":
    run(main)
