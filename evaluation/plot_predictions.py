r"""Draw val tiles beside their truth and what each stage predicts for them.

The tiles are those with the most pixels of minority classes, one of each spatial block before a second of any.
Stages are drawn by last.pt; a stage that was not run is left out and named.

    python -m evaluation.plot_predictions
"""

import numpy as np
import torch

from common.cli import Parser, UserError, command_for, positive_int, run
from common.device import resolve_device
from common.figures import class_legend, color_mask, new_figure, save_figure
from common.inference import confusion_by_tile, open_to_score, predict_tiles
from common.metrics import score
from common.results import read_minority
from common.stages import STAGES, training_command
from common.taxonomy import IGNORE_INDEX, Taxonomy, load_taxonomy
from common.tiles import Tile, TileSet

DIMMED = 0.25  # how much of a prediction's colour is left where the truth is void


def parse_args(argv=None):
    parser = Parser(__doc__)
    parser.add_argument("--split", choices=["val"], default="val", help="test tiles are not for looking at")
    parser.add_argument("--tiles", type=positive_int, default=6, help="number of tiles to draw")
    parser.add_path("--data-dir", "data/biodiversity_split/{split}", "tile set to draw from")
    parser.add_path("--weights-dir", "model_weights/biodiversity", "folder of the stages' checkpoints")
    parser.add_path("--distribution", "artifacts/class_distribution.json", "minority classes")
    parser.add_path("--out", "evaluation/evaluation_results/{split}/predictions.png", "figure to write")
    parser.add_seed()
    parser.add_device()
    parser.add_workers()
    return parser.parse_args(argv)


def choose_tiles(tiles: list[Tile], minority: list[int], count: int) -> list[Tile]:
    """The tiles with the most pixels of the classes ``minority`` (ids), spread over as many blocks as there are."""
    ordered = sorted(tiles, key=lambda tile: (-tile.pixels[minority].sum(), -tile.labelled, tile.id))
    turn: dict[str, int] = {}
    turns = []
    for place, tile in enumerate(ordered):
        turn[tile.block] = turn.get(tile.block, 0) + 1
        turns.append((turn[tile.block], place))
    return [ordered[place] for _, place in sorted(turns)[:count]]


def predict(model, tiles: list[Tile], *, device, workers: int, desc: str) -> list[np.ndarray]:
    """(H, W) uint8 class ids of each tile."""
    preds: dict[int, np.ndarray] = {}
    for index, _, logits in predict_tiles(model.to(device), tiles, device=device, workers=workers, desc=desc):
        for i, ids in zip(index.tolist(), logits.argmax(dim=1).cpu().numpy(), strict=True):
            preds[i] = ids.astype(np.uint8)
    return [preds[i] for i in range(len(tiles))]


def dimmed(preds: np.ndarray, mask: np.ndarray, taxonomy: Taxonomy) -> np.ndarray:
    """(H, W, 3) uint8 colours of a prediction, pale where the truth is void and nothing is scored."""
    colors = color_mask(preds, taxonomy).astype(float)
    void = mask == IGNORE_INDEX
    colors[void] = DIMMED * colors[void] + (1 - DIMMED) * 255
    return colors.astype(np.uint8)


def caption(preds: np.ndarray, mask: np.ndarray, taxonomy: Taxonomy) -> str:
    """mIoU and OA of one tile; empty where nothing of it is labelled."""
    pair = (torch.from_numpy(a.astype(np.int64))[None] for a in (mask, preds))
    scores = score(confusion_by_tile(*pair, taxonomy.num_classes)[0].numpy(), taxonomy)
    return "" if scores["OA"] is None else f"mIoU {100 * scores['mIoU']:.0f}  OA {100 * scores['OA']:.0f}"


def draw(tiles: list[Tile], columns: list[tuple[str, list[np.ndarray]]], taxonomy: Taxonomy, note: str):
    """Rows of tiles: image, truth, and a prediction for each of ``columns`` (title, predictions)."""
    side, across = 1.55, 2 + len(columns)
    tall = [tile.entry["height"] / tile.entry["width"] for tile in tiles]
    figure = new_figure(side * across + 0.2, sum(side * t + 0.22 for t in tall) + 0.95)
    grid = figure.subplots(len(tiles), across, squeeze=False, height_ratios=tall)
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02, wspace=0.01, hspace=0.01)
    titles = ["Image", "Truth", *(title for title, _ in columns)]
    for axes, title in zip(grid[0], titles, strict=True):
        axes.set_title(title, fontsize=9.5)
    for row, tile in zip(grid, tiles, strict=True):
        mask = tile.read_mask()
        row[0].imshow(np.moveaxis(tile.read_image(), 0, -1))
        row[1].imshow(color_mask(mask, taxonomy), interpolation="nearest")
        row[0].set_xlabel(tile.id, fontsize=6.5, labelpad=2, color="#555555")
        for axes, (_, preds) in zip(row[2:], columns, strict=True):
            found = preds[tiles.index(tile)]
            axes.imshow(dimmed(found, mask, taxonomy), interpolation="nearest")
            axes.set_xlabel(caption(found, mask, taxonomy), fontsize=7.5, labelpad=2)
        for axes in row:
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_color("#888888")
            axes.spines[:].set_linewidth(0.5)
    class_legend(figure, taxonomy, title=note, title_fontsize=8, fontsize=9)
    return figure


def main(argv=None):
    args = parse_args(argv)
    taxonomy = load_taxonomy(args.root)
    tiles = TileSet.open(args.data_dir, command_for("data_prep.split_biodiversity", args))
    tiles.require_split(args.split, "--data-dir").require_taxonomy(taxonomy)
    minority = read_minority(args.distribution, taxonomy, command_for("data_prep.analyze_class_distribution", args))
    device = resolve_device(args.device)
    chosen = choose_tiles(tiles.tiles, [taxonomy.index(name) for name in minority], args.tiles)

    columns, not_run, failures = [], [], []
    for stage in STAGES:
        path = args.weights_dir / stage.name / f"seed{args.seed}" / "last.pt"
        if not path.parent.is_dir():
            not_run.append(stage.name)
            continue
        command = training_command(args.root, stage.name, args.seed)
        try:
            _, model = open_to_score(path, stage.name, args.seed, tiles, command)
        except UserError as problem:
            failures.append(str(problem))
            continue
        preds = predict(model, chosen, device=device, workers=args.workers, desc=stage.name)
        columns.append(("\n".join(stage.title.split("  ", 1)), preds))
    problems = "".join(f"\n  {failure}" for failure in failures)
    if not columns:
        raise UserError(
            f"{args.weights_dir} holds no last.pt of seed {args.seed} that can be drawn.{problems}\nTrain one first: "
            + command_for("training.train_stage1_baseline", args, "--seed")
        )
    note = f"val, seed {args.seed}, last.pt; below each prediction its scores on the tile, %; pale where unlabelled"
    save_figure(draw(chosen, columns, taxonomy, note), args.out, dpi=160)
    if not_run:
        print(f"not run with seed {args.seed}: {', '.join(not_run)}")
    blocks = len({tile.block for tile in chosen})
    print(f"{args.out}: {len(chosen)} tiles of {blocks} blocks, {len(columns)} stages; most {', '.join(minority)}")
    if failures:
        count = f"{len(failures)} stage{'s' if len(failures) > 1 else ''}"
        raise UserError(f"{count} could not be drawn, the others were:{problems}")


if __name__ == "__main__":
    run(main)
