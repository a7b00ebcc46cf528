r"""The OpenEarthMap teacher of stage 6, trained in the native OpenEarthMap classes.

The same loop, budget and augmentation as the stages; only stage 6 uses it, and only its predictions.

    python -m training.train_teacher
"""

import argparse

from common.cli import run
from common.croppers import RandomCrop
from common.initial_weights import EncoderWeights
from common.losses import HardLoss
from common.samplers import UniformTiles
from common.taxonomy import OPENEARTHMAP
from training.engine.flags import train_parser
from training.engine.loop import fit
from training.engine.preflight import open_train_and_val
from training.engine.recipe import Recipe

STAGE = "teacher"


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = train_parser(
        STAGE,
        __doc__,
        train_dir="data/openearthmap_teacher/train",
        train_made_by="data_prep.prepare_oem_teacher",
        val_dir="data/openearthmap_teacher/val",
        val_made_by="data_prep.prepare_oem_teacher",
        out_dir="model_weights/openearthmap",
        shared=True,
    )
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    train, val = open_train_and_val(args, OPENEARTHMAP)
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
