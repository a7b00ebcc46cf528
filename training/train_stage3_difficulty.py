r"""Stage 3: stage 2 plus difficulty-weighted tile sampling.

The only change from stage 2 is the sampler: tiles are drawn in proportion to the weights that
training.score_difficulty wrote from the stage 2 checkpoint of the same seed.

    python -m training.train_stage3_difficulty
"""

import argparse

from common.artifacts import read_difficulty
from common.cli import run
from common.croppers import RandomCrop
from common.initial_weights import EncoderWeights
from common.losses import HardLoss
from common.samplers import WeightedTiles
from training.engine.flags import train_parser
from training.engine.loop import fit
from training.engine.preflight import open_train_and_val
from training.engine.recipe import Recipe

STAGE = "stage3_difficulty"


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = train_parser(
        STAGE, __doc__, train_dir="data/biodiversity_split/train_rep", train_made_by="data_prep.replicate_minority"
    )
    parser.add_difficulty()
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    train, val = open_train_and_val(args)
    recipe = Recipe(
        stage=STAGE,
        tiles=train,
        sampler=WeightedTiles(*read_difficulty(args.difficulty, train)),
        cropper=RandomCrop(args.crop_size),
        init=EncoderWeights(args.encoder_weights),
        loss=HardLoss(args.label_smoothing),
    )
    fit(recipe, val, args.settings, args.run)


if __name__ == "__main__":
    run(main)
