"""Items 4 and 6: memory and time of training and evaluation with 200, 2 000 and 20 000 tiles."""

import argparse
import contextlib
import functools
import io
import json
import sys
import tempfile
from pathlib import Path

import torch

from common.artifacts import difficulty_text, read_difficulty
from common.croppers import MinorityCrop
from common.device import Processes, resolve_device
from common.files import write_text
from common.samplers import WeightedTiles
from common.tiles import TileSet
from data_prep import analyze_class_distribution
from evaluation.scoring.counts import tile_counts
from tests.benchmarks.generated import write_tile_set
from tests.benchmarks.measuring import Figure, alternate, at_most, run_module
from tests.helpers import made
from training.engine.crops import CropDataset, StepSampler, TileDraws, crop_loader
from training.engine.meters import DrawnCrops

STEPS, BATCHES = 30, 40


def prepare(root: Path, count: int) -> None:
    """A root in which stage 4 can be trained on ``count`` tiles."""
    split = root / "data/biodiversity_split"
    write_tile_set(split / "train_rep", count, split="train")
    write_tile_set(split / "val", 8, split="val", seed=1)
    ids = TileSet.open(made(split / "train_rep")).ids
    rows = [(tile_id, 1, "1", "0.5", str(1 + i % 3)) for i, tile_id in enumerate(ids)]
    write_text(root / "artifacts/seed42/tile_difficulty.tsv", difficulty_text(rows))
    with contextlib.redirect_stdout(io.StringIO()):
        analyze_class_distribution.main(["--root", str(root), "--train-dir", str(split / "train_rep")])


def train(root: Path) -> dict[str, float]:
    flags = ("--preset", "laptop", "--device", "cpu", "--iterations", STEPS, "--val-every", STEPS, "--overwrite")
    flags += ("--workers", 0)  # so that the process that reads the tiles is the one whose memory is taken
    ended = run_module("training.train_stage4_minority_crop", "--root", root, *flags)
    run = json.loads((root / "model_weights/biodiversity/stage4_minority_crop/seed42/run.json").read_text())
    return {
        "start": ended.seconds - sum(run["seconds"].values()),
        "step": run["seconds"]["training"] / STEPS,
        "peak": ended.peak_mib,
    }


def compare_batches(roots: list[Path]) -> list[float]:
    """Milliseconds of drawing, reading and counting a batch of 8 crops of 128 px of each root, in turns."""
    loaders = []
    for root in roots:
        tiles = TileSet.open(made(root / "data/biodiversity_split/train_rep"))
        sampler = WeightedTiles(*read_difficulty(made(root / "artifacts/seed42/tile_difficulty.tsv"), tiles))
        crops = CropDataset(tiles, TileDraws(tiles, sampler, 0), MinorityCrop(128, [5]), 0)
        loaders.append(
            (
                crops,
                DrawnCrops(len(tiles), tiles.taxonomy.num_classes, Processes(torch.device("cpu")), torch.device("cpu")),
            )
        )

    def read(crops, drawn):
        for batch in crop_loader(crops, StepSampler(0, BATCHES, 8), 0, torch.device("cpu")):
            drawn.add(batch)

    seconds = alternate(5, *(functools.partial(read, *loader) for loader in loaders))
    return [1000 * value / (5 * BATCHES) for value in seconds]


def measure() -> list[Figure]:
    with tempfile.TemporaryDirectory() as folder:
        roots = {count: Path(folder) / str(count) for count in (200, 2_000, 20_000)}
        for count, root in roots.items():
            prepare(root, count)
        trained = {count: train(root) for count, root in roots.items()}
        few, many = compare_batches([roots[200], roots[20_000]])
        scored = {
            n: run_module("tests.benchmarks.sizes", "--score", roots[n] / "data/biodiversity_split/train_rep").peak_mib
            for n in (200, 2_000)
        }
    small, middle, large = trained.values()
    batches = f"{many:.1f} and {few:.1f} ms; a step took {large['step']:.3f} and {small['step']:.3f} s"
    starts = f"{small['start']:.1f} and {large['start']:.1f} s"
    return [
        at_most(
            *("4", "memory of training, 2 000 tiles : 200", 100 * (middle["peak"] / small["peak"] - 1), 5, "% more"),
            f"{small['peak']:.0f} and {middle['peak']:.0f} MiB; with 20 000 {large['peak']:.0f} MiB",
        ),
        at_most(
            *("4", "memory of evaluation, 2 000 tiles : 200", 100 * (scored[2_000] / scored[200] - 1), 5, "% more"),
            f"{scored[200]:.0f} and {scored[2_000]:.0f} MiB, a network of one layer",
        ),
        at_most("6", "all of a step but the network, 20 000 tiles : 200", many / few, 1.05, detail=batches),
        at_most("6", "start with 20 000 tiles, beyond that with 200", large["start"] - small["start"], 5, "s", starts),
    ]


def score(path: Path) -> None:
    """Count what a network of one layer predicts on the tiles of ``path``, as evaluation does."""
    tiles = TileSet.open(made(path))
    model = torch.nn.Conv2d(3, tiles.taxonomy.num_classes, 1)
    tile_counts(model, tiles.tiles, tiles.taxonomy.num_classes, device=resolve_device("cpu"), workers=1)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--score", type=Path, required=True, help="tile set, for the measurement of evaluation")
    score(parser.parse_args(sys.argv[1:]).score)
