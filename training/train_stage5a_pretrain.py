r"""Stage 5A: stage 1 on Biodiversity train and relabelled OpenEarthMap together, as pretraining for 5B and 6.

The only change from stage 1 is the set of training tiles: data_prep.combine_biodiversity_oem wrote it.
Validation stays on Biodiversity.

    python -m training.train_stage5a_pretrain
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

STAGE = "stage5a_pretrain"


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = train_parser(
        STAGE,
        __doc__,
        train_dir="data/biodiversity_oem_combined/train",
        train_made_by="data_prep.combine_biodiversity_oem",
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
