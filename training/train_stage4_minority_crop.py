r"""Stage 4: stage 3 plus minority-aware cropping.

The only change from stage 3 is the cropper: with probability 0.5 a crop is placed so that it holds a pixel of a
minority class, if its tile has one. data_prep.analyze_class_distribution says which classes these are.

    python -m training.train_stage4_minority_crop
"""

import argparse

from common.artifacts import read_difficulty, read_minority_classes
from common.cli import run
from common.croppers import MinorityCrop
from common.initial_weights import EncoderWeights
from common.losses import HardLoss
from common.samplers import WeightedTiles
from training.engine.flags import train_parser
from training.engine.loop import fit
from training.engine.preflight import open_train_and_val
from training.engine.recipe import Recipe

STAGE = "stage4_minority_crop"


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = train_parser(
        STAGE, __doc__, train_dir="data/biodiversity_split/train_rep", train_made_by="data_prep.replicate_minority"
    )
    parser.add_difficulty()
    parser.add_minority_crop()
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    train, val = open_train_and_val(args)
    recipe = Recipe(
        stage=STAGE,
        tiles=train,
        sampler=WeightedTiles(*read_difficulty(args.difficulty, train)),
        cropper=MinorityCrop(
            args.crop_size, *read_minority_classes(args.distribution, train), p=args.minority_probability
        ),
        init=EncoderWeights(args.encoder_weights),
        loss=HardLoss(args.label_smoothing),
    )
    fit(recipe, val, args.settings, args.run)


if __name__ == "__main__":
    run(main)
