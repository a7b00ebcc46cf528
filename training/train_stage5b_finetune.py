r"""Stage 5B: stage 4 started from the stage 5A network, trained on Biodiversity alone.

The only change from stage 4 is where the weights start: every tensor is that of the last stage 5A checkpoint of
the same seed. Together with stage 5A this arm has seen twice the steps of stage 4.

    python -m training.train_stage5b_finetune
"""

from common.artifacts import minority_crop, read_difficulty
from common.cli import command_for, run
from common.initial_weights import StageWeights
from common.losses import HardLoss
from training.engine.flags import train_parser
from training.engine.loop import fit
from training.engine.preflight import open_train_and_val
from training.engine.recipe import Recipe

STAGE = "stage5b_finetune"
START = "stage5a_pretrain"


def parse_args(argv=None, stage=STAGE, doc=__doc__, start=START):
    parser = train_parser(stage, doc, train_dir="data/biodiversity_split/train_rep")
    parser.add_path("--difficulty", "artifacts/seed{seed}/tile_difficulty.tsv", "tile weights of score_difficulty")
    parser.add_path("--distribution", "artifacts/class_distribution.json", "minority classes and their shares")
    parser.add_path(
        "--init", f"model_weights/biodiversity/{start}/seed{{seed}}/last.pt", f"checkpoint of {start} to start from"
    )
    return parser.parse_args(argv)


def finetune(args, stage=STAGE, start=START) -> None:
    """Train stage 4's recipe from the weights of ``start``."""
    train, val = open_train_and_val(args, "data_prep.replicate_minority")
    recipe = Recipe(
        stage=stage,
        tiles=train,
        sampler=read_difficulty(args.difficulty, train, command_for("training.score_difficulty", args, "--seed")),
        cropper=minority_crop(
            args.crop_size, args.distribution, train, command_for("data_prep.analyze_class_distribution", args)
        ),
        init=StageWeights(
            args.init, start, args.seed, val, command_for(f"training.train_{start}", args, "--preset", "--seed")
        ),
        loss=HardLoss(),
    )
    fit(recipe, val, args)


def main(argv=None):
    finetune(parse_args(argv))


if __name__ == "__main__":
    run(main)
