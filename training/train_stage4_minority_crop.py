r"""Stage 4: stage 3 plus minority-aware cropping.

The only change from stage 3 is the cropper: with probability 0.5 a crop is placed so that it holds a pixel of a
minority class, where its tile has one. data_prep.analyze_class_distribution says which classes these are.

    python -m training.train_stage4_minority_crop
"""

from common.artifacts import minority_crop, read_difficulty
from common.cli import command_for, run
from common.initial_weights import EncoderWeights
from common.losses import HardLoss
from training.engine.flags import train_parser
from training.engine.loop import fit
from training.engine.preflight import open_train_and_val
from training.engine.recipe import Recipe

STAGE = "stage4_minority_crop"


def parse_args(argv=None):
    parser = train_parser(STAGE, __doc__, train_dir="data/biodiversity_split/train_rep")
    parser.add_path("--difficulty", "artifacts/seed{seed}/tile_difficulty.tsv", "tile weights of score_difficulty")
    parser.add_path("--distribution", "artifacts/class_distribution.json", "minority classes and their shares")
    return parser.parse_args(argv)


def main(argv=None):
    args = parse_args(argv)
    train, val = open_train_and_val(args, "data_prep.replicate_minority")
    recipe = Recipe(
        stage=STAGE,
        tiles=train,
        sampler=read_difficulty(args.difficulty, train, command_for("training.score_difficulty", args, "--seed")),
        cropper=minority_crop(
            args.crop_size, args.distribution, train, command_for("data_prep.analyze_class_distribution", args)
        ),
        init=EncoderWeights(args.encoder_weights),
        loss=HardLoss(),
    )
    fit(recipe, val, args)


if __name__ == "__main__":
    run(main)
