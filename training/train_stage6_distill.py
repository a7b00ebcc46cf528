r"""Stage 6: stage 5B plus distillation from the OpenEarthMap teacher.

The only change from stage 5B is the loss: (1 - alpha) * hard + alpha * KD. The teacher's probabilities go through
the class matrix of the taxonomy; pixels that it takes for Bareland, Water or Unknown teach nothing.

    python -m training.train_stage6_distill
"""

import torch

from common.artifacts import minority_crop, read_difficulty
from common.checkpoints import load_teacher
from common.cli import command_for, fraction, positive_float, run
from common.initial_weights import StageWeights
from common.losses import KD_ALPHA, KD_TEMPERATURE, HardAndKDLoss
from training.engine.flags import train_parser
from training.engine.loop import fit
from training.engine.preflight import open_train_and_val
from training.engine.recipe import Recipe

STAGE = "stage6_distill"


def parse_args(argv=None, stage=STAGE, doc=__doc__):
    parser = train_parser(stage, doc, train_dir="data/biodiversity_split/train_rep")
    parser.add_path("--difficulty", "artifacts/seed{seed}/tile_difficulty.tsv", "tile weights of score_difficulty")
    parser.add_path("--distribution", "artifacts/class_distribution.json", "minority classes and their shares")
    parser.add_path(
        "--init", "model_weights/biodiversity/stage5a_pretrain/seed{seed}/last.pt", "stage 5A checkpoint to start from"
    )
    parser.add_path("--teacher", "model_weights/openearthmap/teacher/seed{seed}/last.pt", "teacher checkpoint")
    parser.add_argument(
        "--kd-alpha", type=fraction, default=KD_ALPHA, help="weight of the KD loss; the hard loss has the rest"
    )
    parser.add_argument(
        "--temperature", type=positive_float, default=KD_TEMPERATURE, help="softmax temperature of the KD loss"
    )
    return parser.parse_args(argv)


def distill(args, stage=STAGE, remap=None) -> None:
    """Train stage 5B's recipe with the KD loss; ``remap``, where given, changes the class matrix (a control)."""
    train, val = open_train_and_val(args, "data_prep.replicate_minority")
    teacher = load_teacher(args.teacher, args.seed, command_for("training.train_teacher", args, "--preset", "--seed"))
    matrix = torch.from_numpy(train.taxonomy.class_matrix())
    facts = {"teacher_digest": teacher.digest}
    if remap is not None:
        matrix, facts["remap"] = remap(matrix), remap.__name__
    recipe = Recipe(
        stage=stage,
        tiles=train,
        sampler=read_difficulty(args.difficulty, train, command_for("training.score_difficulty", args, "--seed")),
        cropper=minority_crop(
            args.crop_size, args.distribution, train, command_for("data_prep.analyze_class_distribution", args)
        ),
        init=StageWeights(
            args.init,
            "stage5a_pretrain",
            args.seed,
            val,
            command_for("training.train_stage5a_pretrain", args, "--preset", "--seed"),
        ),
        loss=HardAndKDLoss(teacher.build(), matrix, alpha=args.kd_alpha, temperature=args.temperature, **facts),
    )
    fit(recipe, val, args)


def main(argv=None):
    distill(parse_args(argv))


if __name__ == "__main__":
    run(main)
