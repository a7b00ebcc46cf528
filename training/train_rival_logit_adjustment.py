r"""Rival: the stage 1 network with its logits shifted by the class shares of train, without training.

The only change from stage 1 is its network: tau · log(share of the class in train) is subtracted from each logit (Menon
et al. 2021, post hoc), so that rare classes are predicted more often. It takes last.pt and best.pt of stage 1 of the
same seed, and writes both, adjusted. best.pt is chosen by the scores before that.

    python -m training.train_rival_logit_adjustment
"""

import argparse

from common.class_frequencies import ClassFrequencies
from common.cli import Parser, non_negative_float, run
from common.device import resolve_device
from common.files import new_folder
from common.initial_weights import LogitAdjustment
from common.taxonomy import load_taxonomy
from common.tiles import TileSet
from training.engine.adjusted_run import ADJUSTED_RUN, require_of_one_run, write_adjusted_run

STAGE = "rival_logit_adjustment"
START = "stage1_baseline"
LARGEST_TAU = 100.0  # far beyond it only the rarest class is predicted


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(__doc__)
    weights, split = "model_weights/biodiversity", "data_prep.split_biodiversity"
    parser.add_input("--train-dir", "data/biodiversity_split/train", "tile set of the class shares", made_by=split)
    parser.add_input("--val-dir", "data/biodiversity_split/val", "tile set to score on", made_by=split)
    parser.add_input(
        "--init", f"{weights}/{START}/seed{{seed}}", "folder of the stage 1 run", made_by=f"training.train_{START}"
    )
    parser.add_path("--out-dir", f"{weights}/{STAGE}/seed{{seed}}", "folder for checkpoints and run.json")
    parser.add_argument("--tau", type=non_negative_float, default=1.0, help="how much is subtracted; 0 changes nothing")
    parser.add_seed()
    parser.add_device()
    parser.add_workers()
    parser.add_overwrite()
    args = parser.parse_args(argv)
    if args.tau > LARGEST_TAU:
        parser.error(f"--tau {args.tau:g}: expected at most {LARGEST_TAU:g}")
    return args


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    device, taxonomy = resolve_device(args.device), load_taxonomy(args.root)
    train = TileSet.open(args.train_dir).require_split("train").require_taxonomy(taxonomy)
    val = TileSet.open(args.val_dir).require_split("val").require_taxonomy(taxonomy)
    inputs = [source.path for source in (args.init, args.train_dir, args.val_dir)]
    with new_folder(args.out_dir, args.overwrite, inputs=inputs, kind=ADJUSTED_RUN) as folder:
        shares = ClassFrequencies.of(train).shares
        last, best = (
            LogitAdjustment(args.init / name, START, args.seed, val, shares, args.tau)
            for name in ("last.pt", "best.pt")
        )
        require_of_one_run(last.checkpoint, best.checkpoint, train)
        said = write_adjusted_run(folder, STAGE, last, best, val, args, device)
    print(f"{args.out_dir}: {said}")


if __name__ == "__main__":
    run(main)
