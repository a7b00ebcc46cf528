r"""Score how difficult each training tile is for the stage 2 network; stages 3 to 6 draw tiles by these weights.

The score of a tile is its mean cross-entropy over labelled pixels under the last stage 2 checkpoint of the same
seed. A replica has the weight of its base, since it has the same pixels.

    python -m training.score_difficulty
"""

import argparse

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure

from common.artifacts import LARGEST_ALPHA, difficulty_text
from common.checkpoints import Checkpoint, finished_checkpoint
from common.cli import Parser, non_negative_float, run
from common.device import place, resolve_device
from common.errors import UserError
from common.figures import new_figure, png_bytes
from common.files import locked, write_files
from common.inference import predict_tiles
from common.samplers import difficulty_weights
from common.taxonomy import IGNORE_INDEX, load_taxonomy
from common.tiles import TileSet


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(__doc__)
    parser.add_input(
        "--train-dir",
        "data/biodiversity_split/train_rep",
        "tile set to score",
        made_by="data_prep.replicate_minority",
    )
    parser.add_input(
        "--checkpoint",
        "model_weights/biodiversity/stage2_replication/seed{seed}/last.pt",
        "stage 2 checkpoint",
        made_by="training.train_stage2_replication",
    )
    parser.add_path("--out", "artifacts/seed{seed}/tile_difficulty.tsv", "table of tile weights to write")
    parser.add_argument(
        "--alpha", type=non_negative_float, default=2.0, help="the most difficult tiles weigh 1 + alpha"
    )
    parser.add_seed()
    parser.add_device()
    parser.add_workers()
    parser.add_overwrite()
    args = parser.parse_args(argv)
    if args.alpha > LARGEST_ALPHA:
        parser.error(f"--alpha {args.alpha:g}: expected at most {LARGEST_ALPHA:g}")
    return args


def tile_losses(logits: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """(N, C, H, W) logits and (N, H, W) int64 mask → (N,) mean cross-entropy over labelled pixels; 0 without any."""
    labelled = mask != IGNORE_INDEX
    entropy = F.cross_entropy(logits[:, 1:], (mask - 1).clamp(min=0), reduction="none") * labelled
    return entropy.sum(dim=(1, 2)) / labelled.sum(dim=(1, 2)).clamp(min=1)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    if args.out.exists() and not args.overwrite:
        raise UserError(f"{args.out} exists. Replace it with --overwrite, or choose another --out.")
    tiles = TileSet.open(args.train_dir).require_split("train").require_taxonomy(load_taxonomy(args.root))
    checkpoint = finished_checkpoint(args.checkpoint, "stage2_replication", args.seed)
    if checkpoint.metadata["train"]["digest"] != tiles.digest:
        raise args.checkpoint.unusable(f"{args.checkpoint} was trained on other tiles than {args.train_dir} holds")
    with locked(args.out):
        score(tiles, checkpoint, args)


def score(tiles: TileSet, checkpoint: Checkpoint, args: argparse.Namespace) -> None:
    """Write the weights of all tiles, and a figure of them, at --out."""
    device = resolve_device(args.device)
    model = place(checkpoint.build(), device)

    bases = [tile for tile in tiles if tile.base == tile.id]
    loss_of = {}
    for index, mask, logits in predict_tiles(model, bases, device=device, workers=args.workers, desc="Scoring"):
        losses = tile_losses(logits, mask).tolist()
        loss_of |= {bases[i].id: loss for i, loss in zip(index.tolist(), losses, strict=True)}

    scored = [tile for tile in tiles if tile.labelled]
    difficulty, weight = difficulty_weights(np.array([loss_of[tile.base] for tile in scored]), args.alpha)
    row_of = {
        tile.id: (tile.labelled, f"{loss_of[tile.base]:.6f}", f"{d:.6f}", f"{w:.6f}")
        for tile, d, w in zip(scored, difficulty, weight, strict=True)
    }
    unscored = (0, "0", "0", "1")  # never drawn, since nothing in it is labelled
    table = difficulty_text([(tile.id, *row_of.get(tile.id, unscored)) for tile in tiles])
    figure = difficulty_figure(np.array([loss_of[tile.base] for tile in scored]), weight)
    write_files({args.out.with_suffix(".png"): png_bytes(figure), args.out: table})
    print(
        f"{args.out}: {len(tiles)} tiles; weight 1 for {np.sum(weight == 1)}, {1 + args.alpha:g} for "
        f"{np.sum(weight == 1 + args.alpha)}, mean {weight.mean():.2f}; {len(tiles) - len(scored)} without a label"
    )


def difficulty_figure(losses: np.ndarray, weights: np.ndarray) -> Figure:
    """How many tiles have which loss, and the weight that each loss gets; both (T,)."""
    figure = new_figure(7, 4)
    axes = figure.subplots()
    axes.hist(losses, bins=40, color="#9db4c0")
    axes.set(xlabel="mean cross-entropy of a tile (nats)", ylabel="tiles", title="Difficulty of the training tiles")
    order = np.argsort(losses)
    twin = axes.twinx()
    twin.plot(losses[order], weights[order], color="#b23a48")
    twin.set_ylabel("tile weight", color="#b23a48")
    twin.set_ylim(0, None)
    return figure


if __name__ == "__main__":
    run(main)
