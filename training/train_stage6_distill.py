r"""Stage 6: stage 5B plus distillation from the OpenEarthMap teacher.

The only change from stage 5B is the loss: (1 - alpha) * hard + alpha * KD. The teacher's probabilities go through
the class matrix of the taxonomy; pixels that it takes for Bareland, Water or Unknown teach nothing.

    python -m training.train_stage6_distill
"""

import argparse
from collections.abc import Callable

import torch

from common.artifacts import read_difficulty, read_minority_classes
from common.bands import add_oem_bands, chosen_oem_bands, named, positions
from common.checkpoints import load_teacher
from common.cli import fraction, positive_float, run
from common.croppers import MinorityCrop
from common.initial_weights import StageWeights
from common.losses import KD_ALPHA, KD_TEMPERATURE, MAX_MAPPED_VOID, HardAndKDLoss, HardLoss
from common.models import SelectedBands
from common.samplers import WeightedTiles
from training.engine.flags import train_parser
from training.engine.loop import fit
from training.engine.preflight import open_train_and_val
from training.engine.recipe import Recipe

STAGE = "stage6_distill"


def parse_args(argv: list[str] | None = None, stage: str = STAGE, doc: str | None = __doc__) -> argparse.Namespace:
    parser = train_parser(
        stage, doc, train_dir="data/biodiversity_split/train_rep", train_made_by="data_prep.replicate_minority"
    )
    parser.add_difficulty()
    parser.add_minority_crop()
    add_oem_bands(parser)
    parser.add_input(
        "--init",
        "model_weights/biodiversity/stage5a_pretrain/seed{seed}/last.pt",
        "stage 5A checkpoint to start from",
        made_by="training.train_stage5a_pretrain",
    )
    parser.add_input(
        "--teacher",
        "model_weights/openearthmap/teacher/seed{seed}/last.pt",
        "teacher checkpoint",
        made_by="training.train_teacher",
        shared=True,
    )
    parser.add_argument(
        "--kd-alpha", type=fraction, default=KD_ALPHA, help="weight of the KD loss; the hard loss has the rest"
    )
    parser.add_argument(
        "--temperature", type=positive_float, default=KD_TEMPERATURE, help="softmax temperature of the KD loss"
    )
    parser.add_argument(
        "--max-mapped-void",
        type=fraction,
        default=MAX_MAPPED_VOID,
        help="a pixel teaches nothing if the mapped void class has this probability or more",
    )
    return parser.parse_args(argv)


def distill(
    args: argparse.Namespace, stage: str = STAGE, remap: Callable[[torch.Tensor], torch.Tensor] | None = None
) -> None:
    """Train stage 5B's recipe with the KD loss; ``remap``, if given, changes the class matrix (a control)."""
    train, val = open_train_and_val(args)
    teacher = load_teacher(args.teacher, args.seed)
    network, oem_bands = teacher.build(), chosen_oem_bands(train.bands, args.oem_bands)
    matrix = torch.from_numpy(train.taxonomy.class_matrix())
    origin = {"teacher_digest": teacher.digest}
    if oem_bands != train.bands:
        network = SelectedBands(network, positions(train.bands, oem_bands, "--oem-bands"))
        origin["oem_bands"] = named(oem_bands)
        print(f"The teacher sees the bands {named(oem_bands)} of {named(train.bands)} as red, green and blue.")
    if remap is not None:
        matrix, origin["remap"] = remap(matrix), remap.__name__
    recipe = Recipe(
        stage=stage,
        tiles=train,
        sampler=WeightedTiles(*read_difficulty(args.difficulty, train)),
        cropper=MinorityCrop(
            args.crop_size, *read_minority_classes(args.distribution, train), p=args.minority_probability
        ),
        init=StageWeights(args.init, "stage5a_pretrain", args.seed, val),
        loss=HardAndKDLoss(
            network,
            matrix,
            hard=HardLoss(args.label_smoothing),
            alpha=args.kd_alpha,
            temperature=args.temperature,
            max_mapped_void=args.max_mapped_void,
            origin=origin,
        ),
    )
    fit(recipe, val, args.settings, args.run)


def main(argv: list[str] | None = None) -> None:
    distill(parse_args(argv))


if __name__ == "__main__":
    run(main)
