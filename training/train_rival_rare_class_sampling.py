r"""Rival: stage 1 with rare class sampling, as DAFormer has it.

The change from stage 1 is how crops are drawn: a class c with a chance in proportion to exp((1 - share of c) / T), then
a tile that holds it, then a window that holds a pixel of it (Hoyer et al. 2022). Sampler and cropper do it together.

    python -m training.train_rival_rare_class_sampling
"""

import argparse

from common.class_frequencies import RARE_CLASS_TEMPERATURE, ClassFrequencies
from common.cli import positive_float, run
from common.croppers import RareClassCrop
from common.initial_weights import EncoderWeights
from common.losses import HardLoss
from common.samplers import RareClassTiles
from training.engine.flags import train_parser
from training.engine.loop import fit
from training.engine.preflight import open_train_and_val
from training.engine.recipe import Recipe

STAGE = "rival_rare_class_sampling"


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = train_parser(
        STAGE, __doc__, train_dir="data/biodiversity_split/train", train_made_by="data_prep.split_biodiversity"
    )
    parser.add_argument(
        "--class-temperature",
        type=positive_float,
        default=RARE_CLASS_TEMPERATURE,
        help="temperature T: the smaller it is, the more often the rarest class is drawn",
    )
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    train, val = open_train_and_val(args)
    recipe = Recipe(
        stage=STAGE,
        tiles=train,
        sampler=RareClassTiles(args.class_temperature),
        cropper=RareClassCrop(args.crop_size, ClassFrequencies.of(train), args.class_temperature),
        init=EncoderWeights(args.encoder_weights),
        loss=HardLoss(args.label_smoothing),
    )
    fit(recipe, val, args.settings, args.run)


if __name__ == "__main__":
    run(main)
