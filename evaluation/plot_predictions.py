r"""Draw val tiles beside their truth and what each stage predicts for them.

The tiles are those with the most pixels of minority classes, one of each spatial block before a second of any.
Stages are drawn by last.pt; a stage that was not run is left out and named. Beside the figure, in predictions/, every
tile lies with its truth and its predictions as pictures of their own, those of controls and rivals too, for
evaluation.build_report.

    python -m evaluation.plot_predictions
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image

from common.artifacts import read_distribution
from common.bands import add_show, shown_positions, three_bands, to_picture
from common.checkpoints import open_to_score
from common.cli import Parser, positive_int, run
from common.device import place, resolve_device
from common.errors import UserError
from common.figures import class_legend, color_mask, new_figure, save_figure
from common.files import FolderKind, new_folder, write_json
from common.inference import confusion_by_tile, predict_tiles
from common.inputs import Input
from common.metrics import score
from common.stages import ARMS, STAGES, Arm, training_command
from common.taxonomy import IGNORE_INDEX, Taxonomy, load_taxonomy
from common.text import count, hundredths
from common.tiles import Tile, TileSet
from evaluation.scoring.results import PHOTOS, PREDICTIONS_INDEX
from evaluation.scoring.score import run_folder

DIMMED = 0.25  # how much of a prediction's colour is left where the truth is void
LONGEST_SIDE = 1024  # of the pictures for the report; larger tiles are shown at fewer pixels
SMALL = 256  # images up to this side are stored without loss


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(__doc__)
    parser.add_argument("--split", choices=["val"], default="val", help="val alone: test tiles are not for looking at")
    parser.add_argument("--tiles", type=positive_int, default=6, help="number of tiles to draw")
    add_show(parser)
    split, train = "data_prep.split_biodiversity", "data_prep.analyze_class_distribution"
    parser.add_input("--data-dir", "data/biodiversity_split/{split}", "tile set to draw from", made_by=split)
    parser.add_path("--weights-dir", "model_weights/biodiversity", "folder of the stages' checkpoints")
    parser.add_input("--distribution", "artifacts/class_distribution.json", "minority classes", made_by=train)
    parser.add_path("--out", "evaluation/evaluation_results/{split}/predictions.png", "figure to write")
    parser.add_path("--out-dir", "evaluation/evaluation_results/{split}/predictions", "pictures for the report")
    parser.add_seed()
    parser.add_device()
    parser.add_workers()
    return parser.parse_args(argv)


def choose_tiles(tiles: list[Tile], minority: list[int], number: int) -> list[Tile]:
    """The tiles with the most pixels of the classes ``minority`` (ids), spread over as many blocks as there are."""
    ordered = sorted(tiles, key=lambda tile: (-tile.pixels[minority].sum(), -tile.labelled, tile.id))
    turn: dict[str, int] = {}
    turns = []
    for rank, tile in enumerate(ordered):
        turn[tile.block] = turn.get(tile.block, 0) + 1
        turns.append((turn[tile.block], rank))
    return [ordered[rank] for _, rank in sorted(turns)[:number]]


def predict(
    model: torch.nn.Module, tiles: list[Tile], *, device: torch.device, workers: int, desc: str
) -> list[np.ndarray]:
    """(H, W) uint8 class ids of each tile."""
    preds: dict[int, np.ndarray] = {}
    for index, _, logits in predict_tiles(place(model, device), tiles, device=device, workers=workers, desc=desc):
        for i, ids in zip(index.tolist(), logits.max(dim=1).indices.cpu().numpy(), strict=True):
            preds[i] = ids.astype(np.uint8)
    return [preds[i] for i in range(len(tiles))]


def dimmed(preds: np.ndarray, mask: np.ndarray, taxonomy: Taxonomy) -> np.ndarray:
    """(H, W, 3) uint8 colours of a prediction, pale where the truth is void and nothing is scored."""
    colors = color_mask(preds, taxonomy).astype(float)
    void = mask == IGNORE_INDEX
    colors[void] = DIMMED * colors[void] + (1 - DIMMED) * 255
    return colors.astype(np.uint8)


@dataclass(frozen=True)
class Predicted:
    """What a checkpoint predicts, for each tile that was chosen."""

    arm: Arm
    checkpoint_digest: str
    preds: list[np.ndarray]


def score_tile(preds: np.ndarray, mask: np.ndarray, taxonomy: Taxonomy) -> dict:
    """mIoU and OA of one tile; None if nothing of it is labelled."""
    truth, predicted = (torch.from_numpy(ids.astype(np.int64))[None] for ids in (mask, preds))
    scores = score(confusion_by_tile(truth, predicted, taxonomy.num_classes)[0].numpy(), taxonomy)
    return {key: scores[key] for key in ("mIoU", "OA")}


def _predictions_files(folder: Path) -> set[str]:
    index = json.loads((folder / PREDICTIONS_INDEX).read_text(encoding="utf-8"))
    arms = [f"{arm['name']}.png" for arm in index["arms"]]
    pictures = ((tile["id"], name) for tile in index["tiles"] for name in (tile["image"], "truth.png", *arms))
    return {PREDICTIONS_INDEX, *(f"{tile_id}/{name}" for tile_id, name in pictures)}


PREDICTIONS = FolderKind(PREDICTIONS_INDEX, _predictions_files)


def caption(preds: np.ndarray, mask: np.ndarray, taxonomy: Taxonomy) -> str:
    """mIoU and OA of one tile; empty if nothing of it is labelled."""
    scores = score_tile(preds, mask, taxonomy)
    return "" if scores["OA"] is None else f"mIoU {hundredths(scores['mIoU'], 0)}  OA {hundredths(scores['OA'], 0)}"


def shrink(picture: Image.Image, resample: Image.Resampling) -> Image.Image:
    """The picture with its longer side at most LONGEST_SIDE."""
    side = max(picture.size)
    if side <= LONGEST_SIDE:
        return picture
    return picture.resize([max(1, round(length * LONGEST_SIDE / side)) for length in picture.size], resample)


def write_ids(path: Path, ids: np.ndarray, taxonomy: Taxonomy) -> None:
    """Write (H, W) uint8 class ids as a PNG whose palette has the class colours, so that a pixel's value is its id."""
    picture = shrink(Image.fromarray(ids), Image.Resampling.NEAREST)
    picture.putpalette(taxonomy.rgb().tobytes())
    picture.save(path, optimize=True)


def write_photo(folder: Path, image: np.ndarray) -> str:
    """Write a (3, H, W) uint8 image, small ones as PNG and others as JPEG; returns the name of its file."""
    picture = shrink(Image.fromarray(np.moveaxis(image, 0, -1)), Image.Resampling.LANCZOS)
    without_loss, with_loss = PHOTOS
    if max(picture.size) <= SMALL:
        picture.save(folder / without_loss, optimize=True)
        return without_loss
    picture.save(folder / with_loss, quality=85)
    return with_loss


def write_pictures(
    folder: Path,
    tiles: list[Tile],
    predicted: list[Predicted],
    taxonomy: Taxonomy,
    about: dict,
    shown: Sequence[int] = (),
) -> None:
    """One folder per tile with its image, its truth and each stage's prediction, and an index of them.

    ``about`` goes to the index: what the tiles are, and what was drawn. ``shown``: the positions of the three bands
    that an image shows.
    """
    listed = []
    for index, tile in enumerate(tiles):
        mask, pictures = tile.read_mask(), folder / tile.id
        pictures.mkdir()
        image = write_photo(pictures, three_bands(tile.read_image(), shown))
        write_ids(pictures / "truth.png", mask, taxonomy)
        scores = {}
        for of_arm in predicted:
            write_ids(pictures / f"{of_arm.arm.name}.png", of_arm.preds[index], taxonomy)
            scores[of_arm.arm.name] = score_tile(of_arm.preds[index], mask, taxonomy)
        entry = {"id": tile.id, **{key: tile.entry[key] for key in ("height", "width")}, "block": tile.block}
        entry["pixels"] = dict(zip(taxonomy.classes, tile.pixels.tolist(), strict=True))
        listed.append({**entry, "image": image, "scores": scores})
    arms = [{"name": p.arm.name, "checkpoint_digest": p.checkpoint_digest} for p in predicted]
    write_json(folder / PREDICTIONS_INDEX, {**about, "taxonomy": taxonomy.to_json(), "arms": arms, "tiles": listed})


def predictions_figure(
    tiles: list[Tile],
    columns: list[tuple[str, list[np.ndarray]]],
    taxonomy: Taxonomy,
    note: str,
    shown: Sequence[int] = (),
) -> Figure:
    """Rows of tiles: image, truth, and a prediction for each of ``columns`` (title, predictions).

    ``shown``: the positions of the three bands that an image shows, the first three unless given.
    """
    side, across = 1.55, 2 + len(columns)
    tall = [tile.entry["height"] / tile.entry["width"] for tile in tiles]
    figure = new_figure(side * across + 0.2, sum(side * t + 0.22 for t in tall) + 0.95)
    grid = figure.subplots(len(tiles), across, squeeze=False, height_ratios=tall)
    figure.set_layout_engine("constrained", w_pad=0.02, h_pad=0.02, wspace=0.01, hspace=0.01)
    titles = ["Image", "Truth", *(title for title, _ in columns)]
    for axes, title in zip(grid[0], titles, strict=True):
        axes.set_title(title, fontsize=9.5)
    for index, (row, tile) in enumerate(zip(grid, tiles, strict=True)):
        mask = tile.read_mask()
        row[0].imshow(to_picture(tile.read_image(), shown))
        row[1].imshow(color_mask(mask, taxonomy), interpolation="nearest")
        row[0].set_xlabel(tile.id, fontsize=6.5, labelpad=2, color="#555555")
        for axes, (_, preds) in zip(row[2:], columns, strict=True):
            axes.imshow(dimmed(preds[index], mask, taxonomy), interpolation="nearest")
            axes.set_xlabel(caption(preds[index], mask, taxonomy), fontsize=7.5, labelpad=2)
        for axes in row:
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_color("#888888")
            axes.spines[:].set_linewidth(0.5)
    class_legend(figure, taxonomy, title=note, title_fontsize=8, fontsize=9)
    return figure


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    taxonomy = load_taxonomy(args.root)
    tiles = TileSet.open(args.data_dir).require_split(args.split).require_taxonomy(taxonomy)
    minority = read_distribution(args.distribution, taxonomy)["minority_classes"]
    shown = shown_positions(tiles.bands, args.show)
    device = resolve_device(args.device)
    chosen = choose_tiles(tiles.tiles, [taxonomy.index(name) for name in minority], args.tiles)

    predicted, not_run, failures = [], [], []
    for arm in ARMS:
        source = run_folder(args, arm.name, args.seed)
        if not source.path.is_dir():
            not_run += [arm.name] if arm.number else []
            continue
        try:
            checkpoint, model = open_to_score(source / "last.pt", arm.name, args.seed, tiles)
        except UserError as problem:
            failures.append(str(problem))
            continue
        preds = predict(model, chosen, device=device, workers=args.workers, desc=arm.name)
        predicted.append(Predicted(arm, checkpoint.digest, preds))
    problems = "".join(f"\n  {failure}" for failure in failures)
    columns = [(f"{p.arm.number}\n{p.arm.label}", p.preds) for p in predicted if p.arm.number]
    if not columns:
        weights = Input(args.weights_dir, training_command(args.root, STAGES[0].name, args.seed))
        raise UserError(f"{weights.missing(f'holds no last.pt of seed {args.seed} that can be drawn')}{problems}")
    note = f"val, seed {args.seed}, last.pt; below each prediction its scores on the tile, %; pale where unlabelled"
    about = {
        "command": args.command,
        "split": tiles.split,
        "split_digest": tiles.digest,
        "seed": args.seed,
        "which": "last",
        "minority_classes": minority,
        "bands": list(tiles.bands),
        "shown": [tiles.bands[at] for at in shown],
    }
    with new_folder(args.out_dir, overwrite=True, inputs=[args.data_dir], kind=PREDICTIONS) as folder:
        write_pictures(folder, chosen, predicted, taxonomy, about, shown)
        save_figure(predictions_figure(chosen, columns, taxonomy, note, shown), args.out, dpi=160)
    if not_run:
        print(f"not run with seed {args.seed}: {', '.join(not_run)}")
    blocks = len({tile.block for tile in chosen})
    print(f"{args.out}: {len(chosen)} tiles of {blocks} blocks, {len(columns)} stages; most {', '.join(minority)}")
    print(f"{args.out_dir}: the same as pictures of their own, for evaluation.build_report")
    if failures:
        raise UserError(f"{count(failures, 'stage')} could not be drawn, the others were:{problems}")


if __name__ == "__main__":
    run(main)
