r"""Stage 5B: stage 4 started from the stage 5A network, trained on Biodiversity alone.

The only change from stage 4 is the initial weights: every tensor is that of the last stage 5A checkpoint of
the same seed. Together with stage 5A this stage has seen twice the steps of stage 4.

    python -m training.train_stage5b_finetune
"""

import argparse

from common.artifacts import read_difficulty, read_minority_classes
from common.cli import run
from common.croppers import MinorityCrop
from common.initial_weights import StageWeights
from common.losses import HardLoss
from common.samplers import WeightedTiles
from training.engine.flags import train_parser
from training.engine.loop import fit
from training.engine.preflight import open_train_and_val
from training.engine.recipe import Recipe

STAGE = "stage5b_finetune"
START = "stage5a_pretrain"


def parse_args(
    argv: list[str] | None = None, stage: str = STAGE, doc: str | None = __doc__, start: str = START
) -> argparse.Namespace:
    parser = train_parser(
        stage, doc, train_dir="data/biodiversity_split/train_rep", train_made_by="data_prep.replicate_minority"
    )
    parser.add_difficulty()
    parser.add_minority_crop()
    parser.add_input(
        "--init",
        f"model_weights/biodiversity/{start}/seed{{seed}}/last.pt",
        f"checkpoint of {start} to start from",
        made_by=f"training.train_{start}",
    )
    return parser.parse_args(argv)


def finetune(args: argparse.Namespace, stage: str = STAGE, start: str = START) -> None:
    """Train stage 4's recipe from the weights of ``start``."""
    train, val = open_train_and_val(args)
    recipe = Recipe(
        stage=stage,
        tiles=train,
        sampler=WeightedTiles(*read_difficulty(args.difficulty, train)),
        cropper=MinorityCrop(
            args.crop_size, *read_minority_classes(args.distribution, train), p=args.minority_probability
        ),
        init=StageWeights(args.init, start, args.seed, val),
        loss=HardLoss(args.label_smoothing),
    )
    fit(recipe, val, args.settings, args.run)


def main(argv: list[str] | None = None) -> None:
    finetune(parse_args(argv))


if __name__ == "__main__":
    run(main)
