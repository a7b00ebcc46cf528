"""Items 2 and 7: training steps against a bare loop, and what validation costs.

On a GPU: python -m tests.benchmarks.run --only loop --preset paper --device cuda
"""

import argparse
import contextlib
import dataclasses
import io
import os
import tempfile
import time
from pathlib import Path

import torch

from common.croppers import MinorityCrop, RandomCrop
from common.datasets import network_input
from common.device import autocast, place, resolve_device
from common.inference import tile_confusions
from common.initial_weights import EncoderWeights
from common.losses import HardLoss
from common.models import Architecture
from common.samplers import UniformTiles, WeightedTiles
from common.tiles import TileSet
from tests.benchmarks.generated import SIDE, write_tile_set
from tests.benchmarks.measuring import Figure, at_least, at_most
from tests.helpers import made
from training.engine.crops import CropDataset, TileDraws
from training.engine.flags import PRESETS, train_parser
from training.engine.loop import fit, make_optimizer
from training.engine.recipe import Recipe

CPU_STEPS = 240  # about those of an arm: what the loop keeps, it has to read first
GPU_RUNS = 3
WARM = 2  # steps that are not counted: the loader's workers and the libraries' buffers begin
PAPER_VAL_TILES = 230  # a tenth of 2 300
VALIDATED_STEPS, VALIDATED_TILES = 3, 8


class Clock(HardLoss):
    """The hard loss, timing what lies between two calls: a step of the loop that calls it.

    ``aside`` is called at each step, outside that time.
    """

    def __init__(self, aside=lambda: None):
        super().__init__()
        self.aside = aside
        self.seconds: list[float] = []
        self.begin: float | None = None

    def terms(self, logits, batch):
        if self.begin is not None:
            self.seconds.append(time.perf_counter() - self.begin)
        self.aside()
        self.begin = time.perf_counter()
        return super().terms(logits, batch)

    @property
    def mean(self) -> float:
        return sum(self.seconds[WARM:]) / len(self.seconds[WARM:])


def parse(preset: str, device: str, steps: int, out_dir: Path, *more):
    flags = ["--preset", preset, "--device", device, "--encoder-weights", "none", "--overwrite"]
    flags += ["--iterations", steps, "--val-every", steps, "--out-dir", out_dir, *more]
    return train_parser("benchmark", "", train_dir="train", train_made_by="data_prep.replicate_minority").parse_args(
        [str(flag) for flag in flags]
    )


def real_loop(tiles: TileSet, val: TileSet, args, clock: Clock) -> None:
    """The loop of all stages, with weighted draws and the minority crop."""
    sampler = WeightedTiles({tile_id: 1 + i % 3 for i, tile_id in enumerate(tiles.ids)})
    cropper = MinorityCrop(args.crop_size, [tiles.taxonomy.num_classes - 1])
    recipe = Recipe("benchmark", tiles, sampler, cropper, EncoderWeights("none"), clock)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        fit(recipe, val, args.settings, args.run)


class BareLoop:
    """Training of the same network on one batch that stays in memory: the same arithmetic, and nothing around it."""

    def __init__(self, tiles: TileSet, args, device: torch.device):
        data = CropDataset(tiles, TileDraws(tiles, UniformTiles(), 0), RandomCrop(args.crop_size), 0)
        batch = {name: tensor.to(device) for name, tensor in data[range(args.batch_size)].items()}
        self.image, self.mask = network_input(batch["image"], batch["photometric"]), batch["mask"].long()
        architecture = Architecture(args.arch, args.encoder, args.decoder_channels)
        model = EncoderWeights("none").build(architecture, tiles.taxonomy, tiles.band_statistics)
        self.model = place(model, device).train()
        self.optimizer, self.args, self.device = make_optimizer(self.model, args), args, device
        self.clock = Clock()

    def step(self) -> None:
        with autocast(self.device):
            logits = self.model(self.image)
        (term,) = self.clock.terms(logits, {"mask": self.mask})
        self.optimizer.zero_grad(set_to_none=True)
        (term.total / term.count).backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.args.clip_norm)
        self.optimizer.step()

    def run(self, steps: int) -> float:
        """Seconds of a step."""
        for _ in range(steps):
            self.step()
        return self.clock.mean


def compare_step_by_step(tiles, val, args) -> tuple[float, float]:
    """Seconds of a step of the bare and of the real loop, which take turns, so that both see the same machine.

    The loader has no worker, which would work on while the bare loop's turn is timed.
    """
    args.run = dataclasses.replace(args.run, workers=0)
    bare, seconds = BareLoop(tiles, args, torch.device("cpu")), []

    def turn():
        begin = time.perf_counter()
        bare.step()
        seconds.append(time.perf_counter() - begin)

    clock = Clock(turn)
    real_loop(tiles, val, args, clock)
    return sum(seconds[WARM:]) / len(seconds[WARM:]), clock.mean


def compare_run_by_run(tiles, val, args, device: torch.device) -> tuple[float, float]:
    """The same where steps overlap with one another, as on a GPU: whole runs take turns, the first is not counted."""
    bare, real = [], []
    for _ in range(1 + GPU_RUNS):
        bare.append(BareLoop(tiles, args, device).run(args.iterations))
        real_loop(tiles, val, args, clock := Clock())
        real.append(clock.mean)
    return sum(bare[1:]) / GPU_RUNS, sum(real[1:]) / GPU_RUNS


def measure(preset: str = "laptop", device: str = "cpu") -> list[Figure]:
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    steps, goal = (CPU_STEPS, 0.95) if device == "cpu" else (300, 0.90)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_tile_set(root / "train", 256, split="train", distinct=256)
        write_tile_set(root / "val", 1, split="val", seed=1)
        tiles, val = TileSet.open(made(root / "train")), TileSet.open(made(root / "val"))
        args = parse(preset, device, steps, root / "out")
        if device == "cpu":
            bare, real = compare_step_by_step(tiles, val, args)
        else:
            bare, real = compare_run_by_run(tiles, val, args, torch.device(device))
        rates = f"{1 / real:.2f} and {1 / bare:.2f} steps/s, {args.batch_size / real:.0f} crops/s"
        if device != "cpu":
            rates += f", {torch.cuda.max_memory_allocated() / 2**20:.0f} MiB of GPU memory"
        name = f"training loop : bare loop ({preset}, {device})"
        loop = at_least("2", name, bare / real, goal, detail=f"{rates}, {args.run.workers} workers")
        return [loop, validation_share(tiles, resolve_device(device))]


def validation_share(tiles: TileSet, device: torch.device) -> Figure:
    """Validation's share of an arm in the paper preset, from the seconds of a step and of a validated tile."""
    paper = argparse.Namespace(**PRESETS["paper"], weight_decay=0.0, clip_norm=1.0)
    bare = BareLoop(tiles, paper, device)
    for step in range(WARM + VALIDATED_STEPS):
        if step == WARM:
            begin = now(device)
        bare.step()
    step_s = (now(device) - begin) / VALIDATED_STEPS
    for few in (tiles.tiles[:1], tiles.tiles[:VALIDATED_TILES]):  # the first is not counted
        begin = now(device)
        tile_confusions(bare.model, few, tiles.taxonomy.num_classes, device=device, workers=1)
        tile_s = (now(device) - begin) / len(few)
    validations = paper.iterations // paper.val_every
    share = 100 * validations * PAPER_VAL_TILES * tile_s / (paper.iterations * step_s)
    detail = (
        f"{validations} x {PAPER_VAL_TILES} tiles of {SIDE} px at {tile_s:.3g} s, {paper.iterations} x {step_s:.3g} s"
    )
    return at_most("7", f"validation in an arm of the paper preset ({device.type})", share, 10, "% of steps", detail)


def now(device: torch.device) -> float:
    """The time once the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()
