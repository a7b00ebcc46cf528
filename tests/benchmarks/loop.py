"""Items 2 and 7: training steps against a bare loop, and what validation costs.

On a GPU: python -m tests.benchmarks.run --only loop --preset paper --device cuda
"""

import argparse
import contextlib
import io
import os
import tempfile
import time
from pathlib import Path

import torch

from common.croppers import MinorityCrop
from common.datasets import CropDataset, network_input
from common.device import autocast
from common.engine import Recipe, fit, make_optimizer
from common.losses import HardLoss
from common.models import EncoderWeights
from common.presets import PRESETS, train_parser
from common.samplers import TileDraws, WeightedTiles
from common.tiles import TileSet
from tests.benchmarks.generated import SIDE, write_tile_set
from tests.benchmarks.measuring import Figure, at_least, at_most

WARM = 3  # steps that are not counted: the loader's workers and the libraries' buffers begin
PAPER_VAL_TILES = 230  # a tenth of 2 300


class Clock(HardLoss):
    """The hard loss, noting when each step asks for it."""

    def __init__(self):
        self.times: list[float] = []

    def terms(self, logits, batch):
        self.times.append(time.perf_counter())
        return super().terms(logits, batch)

    def seconds_a_step(self) -> float:
        return (self.times[-1] - self.times[WARM]) / (len(self.times) - 1 - WARM)


def parse(preset: str, device: str, steps: int, out_dir: Path):
    flags = ["--preset", preset, "--device", device, "--encoder-weights", "none", "--overwrite"]
    flags += ["--iterations", steps, "--val-every", steps, "--out-dir", out_dir]
    return train_parser("benchmark", "", train_dir="train").parse_args([str(flag) for flag in flags])


def real_loop(tiles: TileSet, val: TileSet, args) -> float:
    """Seconds of a step of the loop of all stages, with weighted draws and the minority crop."""
    sampler = WeightedTiles({tile_id: 1 + i % 3 for i, tile_id in enumerate(tiles.ids)})
    clock = Clock()
    cropper = MinorityCrop(args.crop_size, [tiles.taxonomy.num_classes - 1])
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        fit(Recipe("benchmark", tiles, sampler, cropper, EncoderWeights("none"), clock), val, args)
    return clock.seconds_a_step()


def bare_loop(tiles: TileSet, args, device: torch.device, steps: int) -> float:
    """Seconds of a step of the same network, loss and optimizer on one batch that stays in memory."""
    sampler = WeightedTiles(dict.fromkeys(tiles.ids, 1.0))
    data = CropDataset(tiles, TileDraws(tiles, sampler, 0), MinorityCrop(args.crop_size, [5]), 0)
    batch = {name: tensor.to(device) for name, tensor in data[range(args.batch_size)].items()}
    image, mask = network_input(batch["image"], batch["photometric"]), batch["mask"].long()
    model = EncoderWeights("none").build(args.arch, args.encoder, tiles.taxonomy).to(device).train()
    optimizer, clock = make_optimizer(model, args), Clock()
    for _ in range(steps):
        with autocast(device):
            logits = model(image)
        (term,) = clock.terms(logits, {"mask": mask})
        optimizer.zero_grad(set_to_none=True)
        (term.total / term.count).backward()
        optimizer.step()
        if device.type == "cuda" and len(clock.times) % 10 == 0:
            torch.cuda.synchronize()
    return clock.seconds_a_step()


def measure(preset: str = "laptop", device: str = "cpu") -> list[Figure]:
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    steps, rounds, goal = (24, 4, 0.95) if device == "cpu" else (200, 3, 0.90)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_tile_set(root / "train", 256, split="train", distinct=256)
        write_tile_set(root / "val", 1, split="val", seed=1)
        tiles, val = TileSet.open(root / "train", ""), TileSet.open(root / "val", "")
        args = parse(preset, device, steps, root / "out")
        bare, real = 0.0, 0.0
        for turn in range(rounds + 1):
            seconds = bare_loop(tiles, args, torch.device(device), steps), real_loop(tiles, val, args)
            if turn:
                bare, real = bare + seconds[0] / rounds, real + seconds[1] / rounds
        detail = f"{1 / real:.2f} and {1 / bare:.2f} steps/s, {args.batch_size / real:.0f} crops/s, {args.workers} workers"
        name = f"training loop : bare loop ({preset}, {device})"
        return [at_least("2", name, bare / real, goal, detail=detail), validation_share(tiles, device)]


def validation_share(tiles: TileSet, device: str) -> Figure:
    """Validation's share of an arm in the paper preset, from the seconds of a step and of a tile of its network."""
    paper = argparse.Namespace(**PRESETS["paper"], weight_decay=0.0)
    where = torch.device(device)
    step = bare_loop(tiles, paper, where, steps=WARM + 3)
    model = EncoderWeights("none").build(paper.arch, paper.encoder, tiles.taxonomy).to(where).eval()
    images = torch.stack([torch.from_numpy(tile.read_image()) for tile in tiles.tiles[:8]]).to(where)
    with torch.no_grad():
        model(network_input(images))
        begin = time.perf_counter()
        int(model(network_input(images)).max(dim=1).indices.sum())
        tile = (time.perf_counter() - begin) / len(images)
    validations = paper.iterations // paper.val_every
    share = 100 * validations * PAPER_VAL_TILES * tile / (paper.iterations * step)
    detail = f"{validations} times {PAPER_VAL_TILES} tiles of {SIDE} px at {tile:.3g} s; {paper.iterations} steps of {step:.3g} s"
    return at_most("7", f"validation in an arm of the paper preset ({device})", share, 10, "% of steps", detail)
