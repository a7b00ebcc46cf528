r"""Measure the `paper` training on a GPU: the loop, precision and memory formats, the loader, evaluation, two GPUs.

It needs no connection: weights are random, tiles are generated. Each measurement is a process of its own, which is
ended after the seconds that LIMITS gives it; all of them together have --minutes. Its figures are printed and written
to --json as soon as it has ended, also those that it found before it failed or was cut off.

    python -m tests.benchmarks.gpu --json FILE
    python -m tests.benchmarks.gpu --device cpu --encoder resnet18 --crop-size 64 --batch-size 2 --seconds 2 --scored 4
"""

import argparse
import contextlib
import dataclasses
import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from rasterio.errors import NotGeoreferencedWarning

from common.croppers import MinorityCrop
from common.datasets import PIXELS_PER_BATCH, network_input
from common.device import autocast, cuda_problem, resolve_device
from common.inference import predict_logits, tile_confusions
from common.samplers import UniformTiles
from common.tiles import TileSet
from evaluation import compute_metrics
from evaluation.scoring.counts import tile_counts
from tests.benchmarks.generated import SIDE, write_tile_set
from tests.benchmarks.loop import PAPER_VAL_TILES, BareLoop, Clock, now, parse, real_loop
from tests.benchmarks.measuring import REPOSITORY, Figure, alternate, at_least, not_measured, write_figures
from tests.benchmarks.run import machine
from tests.helpers import made
from training.engine.crops import CropDataset, StepSampler, TileDraws, crop_loader

TRAIN_TILES, DISTINCT = 128, 48
ROUNDS = 2  # of what takes turns
WARM = 5  # steps that are not counted
FIGURE = "FIGURE "  # begins a line of a measurement's output that holds one
LEAST = 20  # seconds: with fewer left no measurement is begun
# Seconds after which a measurement is ended. What matters most comes first.
LIMITS = {
    "loop": 110,
    "eager": 45,
    "channels_last": 45,
    "evaluation": 90,
    "loader": 45,
    "compiled": 150,
    "compiled_channels_last": 150,
    "processes": 90,
}
FORMATS = {  # measurement: channels-last, torch.compile
    "eager": (False, False),
    "channels_last": (True, False),
    "compiled": (False, True),
    "compiled_channels_last": (True, True),
}


class Session:
    """What a measurement works on: the settings, the device, and the tile sets, which are written beforehand."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.device = resolve_device(args.device)
        self.train, self.scored = (TileSet.open(made(args.tiles / name)) for name in ("train", "scored"))
        self.val = TileSet.open(made(args.tiles / "val"))

    def settings(self, steps: int, out: str = "out") -> argparse.Namespace:
        """The parsed flags of a training of ``steps`` steps."""
        given = {name: getattr(self.args, name) for name in ("arch", "encoder", "crop_size", "batch_size", "workers")}
        flags = [(f"--{name.replace('_', '-')}", value) for name, value in given.items() if value is not None]
        return parse("paper", self.device.type, steps, self.args.tiles / out, *itertools.chain(*flags))

    def bare_loop(self, channels_last: bool = False, compiled: bool = False) -> BareLoop:
        bare = BareLoop(self.train, self.settings(1), self.device)
        if channels_last:
            bare.model.to(memory_format=torch.channels_last)
            bare.image = bare.image.to(memory_format=torch.channels_last)
        if compiled:
            bare.model = torch.compile(bare.model)
        return bare

    def steps_of(self, bare: BareLoop) -> int:
        """How many steps take the seconds of a measurement."""
        timed_steps(bare, WARM, self.device)
        return max(WARM + 2, round(self.args.seconds / timed_steps(bare, WARM, self.device)))

    def peak_gib(self) -> float | None:
        """GiB of GPU memory that tensors took at most, so far; None on the CPU."""
        return torch.cuda.max_memory_allocated() / 2**30 if self.device.type == "cuda" else None


def timed_steps(bare: BareLoop, steps: int, device: torch.device) -> float:
    """Seconds of a step, over ``steps`` of them."""
    begin = now(device)
    for _ in range(steps):
        bare.step()
    return (now(device) - begin) / steps


def memory_figure(session: Session, what: str) -> Figure:
    peak = session.peak_gib()
    if peak is None:
        return not_measured("9", what, "on the CPU there is no GPU memory")
    return Figure("9", what, peak, "GiB", detail=f"{torch.cuda.max_memory_reserved() / 2**30:.2f} GiB reserved")


def steady(clock: Clock) -> float:
    """Seconds of a step in the second half of a run."""
    half = clock.seconds[len(clock.seconds) // 2 :]
    return sum(half) / len(half)


def measure_loop(session: Session) -> Iterator[Figure]:
    """Whole runs of the loop and of the bare loop take turns; both are counted in their second halves."""
    real_loop(session.train, session.val, session.settings(2 * WARM), Clock())
    memory = memory_figure(session, "memory of the training loop")  # before there is a second network
    bare = session.bare_loop()
    steps = session.steps_of(bare)
    args, real, seconds = session.settings(steps), [], []
    for _ in range(ROUNDS):
        real_loop(session.train, session.val, args, clock := Clock())
        real.append(steady(clock))
        timed_steps(bare, WARM, session.device)
        seconds.append(timed_steps(bare, steps // 2, session.device))
    bare_s, real_s = sum(seconds) / ROUNDS, sum(real) / ROUNDS
    rates = f"{1 / real_s:.2f} and {1 / bare_s:.2f} steps/s, {args.batch_size / real_s:.0f} crops/s"
    detail = f"{rates}, --workers {args.run.workers}, {ROUNDS} x {steps} steps"
    yield at_least("9", "training loop : bare loop", bare_s / real_s, 0.90, detail=detail)
    yield memory


def measure_format(session: Session, name: str) -> Iterator[Figure]:
    """Steps a second of the bare loop in one combination of memory format and compilation."""
    channels_last, compiled = FORMATS[name]
    bare = session.bare_loop(channels_last, compiled)
    begin = now(session.device)
    bare.step()
    first = now(session.device) - begin
    steps = session.steps_of(bare)
    step_s = timed_steps(bare, steps, session.device)
    precision = "bf16" if session.device.type == "cuda" else "float32"  # as common.device.autocast has it
    with_it = [word for word, used in (("channels-last", channels_last), ("torch.compile", compiled)) if used]
    what = f"bare steps, {precision}{', ' if with_it else ''}{' and '.join(with_it)}"
    yield Figure("9", what, 1 / step_s, "steps/s", detail=f"{steps} steps; the first, not counted, took {first:.1f} s")
    yield memory_figure(session, f"memory of {what}")


def measure_loader(session: Session) -> Iterator[Figure]:
    """Crops a second of the loader alone, as stage 4 draws them, with the workers of a training and without."""
    args = session.settings(1)
    cropper = MinorityCrop(args.crop_size, [session.train.taxonomy.num_classes - 1])
    crops = CropDataset(session.train, TileDraws(session.train, UniformTiles(), 0), cropper, 0)
    for workers in dict.fromkeys((args.run.workers, 0)):
        batches = iter(crop_loader(crops, StepSampler(0, 10**6, args.batch_size), workers, session.device))
        for _ in range(WARM + 2 * workers):  # those that the workers read ahead
            next(batches)
        begin, count = time.perf_counter(), 0
        while time.perf_counter() - begin < session.args.seconds:
            next(batches)
            count += 1
        rate = count * args.batch_size / (time.perf_counter() - begin)
        detail = f"of {args.crop_size} px, {count} batches"
        yield Figure("9", f"crops of the loader, --workers {workers}", rate, "crops/s", detail=detail)
        del batches


def measure_evaluation(session: Session) -> Iterator[Figure]:
    """Scoring and validating whole tiles against forward passes of as many images that stay on the device, in turns."""
    device, tiles = session.device, session.scored.tiles
    classes, model = session.scored.taxonomy.num_classes, session.bare_loop().model.eval()
    batch = max(1, PIXELS_PER_BATCH[device.type] // SIDE**2)
    images = torch.stack([torch.from_numpy(tile.read_image()) for tile in tiles[:batch]]).to(device)
    default, many = compute_metrics.parse_args(["--split", "val"]).workers, session.settings(1).run.workers

    def forward() -> None:
        for _ in range(0, len(tiles), batch):
            predict_logits(model, images)
        now(device)

    @torch.no_grad()
    def mixed() -> None:
        with autocast(device):
            for _ in range(0, len(tiles), batch):
                model(network_input(images))
        now(device)

    def score(workers: int) -> None:
        tile_counts(model, tiles, classes, device=device, workers=workers)

    def validate() -> None:
        tile_confusions(model, tiles, classes, device=device, workers=many)

    for what, goal, function in (
        (f"evaluation : bare forward pass, --workers {default} (default)", 0.90, lambda: score(default)),
        (f"evaluation : bare forward pass, --workers {many}", None, lambda: score(many)),
        (f"validation in training : bare forward pass, --workers {many}", None, validate),
        ("bare forward pass with autocast : without", None, mixed),
    ):
        bare_s, seconds = alternate(ROUNDS, forward, function)
        rates = [ROUNDS * len(tiles) / s for s in (seconds, bare_s)]
        detail = f"{rates[0]:.1f} and {rates[1]:.1f} tiles/s of {SIDE} px, {len(tiles)} tiles, {batch} a batch"
        figure = at_least("9", what, bare_s / seconds, goal or 0.0, detail=detail)
        yield figure if goal else dataclasses.replace(figure, goal="", holds=None)
    yield memory_figure(session, "memory of evaluation")


def measure_share(session: Session) -> Iterator[Figure]:
    """The loop in this process, one of those that torchrun started or the only one: a figure of the first process."""
    steps, clock = session.args.steps, Clock()
    real_loop(session.train, session.val, session.settings(steps, "shared"), clock)
    if int(os.environ.get("RANK", 0)) == 0:
        yield Figure("9", "", 1 / steady(clock), "steps/s", detail=f"{steps} steps")


def measure_processes(session: Session) -> Iterator[Figure]:
    """The same run, of one global batch, in one process and shared by two under torchrun."""
    what = "two processes : one, the same batch"
    count = torch.cuda.device_count() if session.device.type == "cuda" else 2
    if count < 2:
        yield not_measured("9", what, "there is one GPU")
        return
    steps = session.steps_of(session.bare_loop())
    torch.cuda.empty_cache()
    rates = []
    for launcher in ([], ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]):
        command = [*launcher, "-m", "tests.benchmarks.gpu", *flags_of(session.args, "share"), "--steps", str(steps)]
        ended = subprocess.run([sys.executable, *command], cwd=REPOSITORY, text=True, capture_output=True)
        if ended.returncode:
            raise RuntimeError((ended.stdout + ended.stderr)[-2000:])
        rates += [figure.value for figure in figures_in(ended.stdout)]
    one, two = rates
    yield Figure("9", what, two / one, "", detail=f"{two:.2f} and {one:.2f} steps/s, {steps} steps each")


MEASUREMENTS: dict[str, Callable[[Session], Iterator[Figure]]] = {
    "loop": measure_loop,
    **{name: lambda session, name=name: measure_format(session, name) for name in FORMATS},
    "loader": measure_loader,
    "evaluation": measure_evaluation,
    "processes": measure_processes,
    "share": measure_share,  # a part of the one before
}


def figures_in(output: str) -> list[Figure]:
    """The figures that the lines of a measurement's output hold; a line that was cut off is none."""
    figures = []
    for line in output.splitlines():
        with contextlib.suppress(ValueError):
            if line.startswith(FIGURE):
                figures.append(Figure(**json.loads(line.removeprefix(FIGURE))))
    return figures


def flags_of(args: argparse.Namespace, measurement: str) -> list[str]:
    """The flags with which this script, started again, does one measurement."""
    names = ("device", "arch", "encoder", "crop_size", "batch_size", "workers", "seconds", "tiles")
    given = [
        (f"--{name.replace('_', '-')}", str(getattr(args, name))) for name in names if getattr(args, name) is not None
    ]
    return ["--measure", measurement, *itertools.chain(*given)]


def end_group(process: subprocess.Popen) -> None:
    """End what a process has started, and itself: asked first, since torchrun then ends its own processes."""
    with contextlib.suppress(ProcessLookupError):
        for number, seconds in ((signal.SIGTERM, 8), (signal.SIGKILL, 2)):
            os.killpg(process.pid, number)
            until = time.monotonic() + seconds
            while time.monotonic() < until:
                process.poll()
                os.killpg(process.pid, 0)
                time.sleep(0.1)


def run_measurement(name: str, args: argparse.Namespace, limit: float) -> list[Figure]:
    """The figures of a measurement in a process of its own, which has ``limit`` seconds."""
    command = [sys.executable, "-m", "tests.benchmarks.gpu", *flags_of(args, name)]
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(
            command, cwd=REPOSITORY, stdout=said, stderr=subprocess.STDOUT, start_new_session=True
        )
        problem = ""
        try:
            if process.wait(limit):
                problem = f"ended with {process.returncode}"
        except subprocess.TimeoutExpired:
            problem = f"cut off after {limit:.0f} s"
        finally:
            end_group(process)
        said.seek(0)
        output = said.read()
    figures = figures_in(output)
    if problem:
        rest = [line for line in output.splitlines() if line.strip() and not line.startswith(FIGURE)]
        last = f": {rest[-1].strip()[:300]}" if rest else ""
        figures.append(not_measured("9", f"{'the rest of ' if figures else ''}{name}", problem + last))
        if not problem.startswith("cut"):
            print(*rest[-12:], sep="\n", file=sys.stderr)
    return figures


def driver_version() -> str | None:
    """That of the NVIDIA driver; None where it cannot be asked."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    with contextlib.suppress(OSError):
        return subprocess.run(command, text=True, capture_output=True).stdout.partition("\n")[0].strip() or None
    return None


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="file for the figures, written after each measurement"
    )
    names = list(LIMITS)
    parser.add_argument("--only", nargs="+", choices=names, default=names, help="some of the measurements")
    parser.add_argument("--minutes", type=float, default=7.5, help="for all of them together; default 7.5")
    parser.add_argument("--patience", type=float, default=1.0, help="times LIMITS; more for a slow machine")
    parser.add_argument("--seconds", type=float, default=6.0, help="of counted work, about, each time; default 6")
    parser.add_argument("--scored", type=int, default=PAPER_VAL_TILES, help="tiles that evaluation scores")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda", help="cpu: to try this script itself")
    for flag, kind in (("--arch", str), ("--encoder", str), ("--crop-size", int), ("--batch-size", int)):
        parser.add_argument(flag, type=kind, help="default: that of the paper preset")
    parser.add_argument("--workers", type=int, help="of the loader; default: as in training")
    for flag, kind in (("--measure", str), ("--tiles", Path), ("--steps", int)):  # of the processes that it starts
        parser.add_argument(flag, type=kind, help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def measure_all(args: argparse.Namespace, begin: float) -> list[Figure]:
    """Do the measurements one after the other; what they find is printed and written as soon as it is there."""
    about = {**machine(), "cuda": torch.version.cuda, "driver": driver_version(), "gpus": torch.cuda.device_count()}
    print(", ".join(f"{name} {value}" for name, value in about.items()), flush=True)
    figures = []
    with tempfile.TemporaryDirectory() as folder:
        args.tiles = Path(folder)
        write_tile_set(args.tiles / "train", TRAIN_TILES, split="train", distinct=DISTINCT)
        write_tile_set(args.tiles / "scored", args.scored, split="val", distinct=DISTINCT, seed=1)
        write_tile_set(args.tiles / "val", 1, split="val", seed=2)
        print(f"tiles generated in {time.monotonic() - begin:.0f} s", flush=True)
        for name in args.only:
            since = time.monotonic()
            left = 60 * args.minutes - (since - begin)
            if left < LEAST:
                found = [not_measured("9", name, f"the {args.minutes:g} minutes were over")]
            else:
                found = run_measurement(name, args, min(left, args.patience * LIMITS[name]))
            figures += found
            print(f"{name} ({time.monotonic() - since:.0f} s)", *found, sep="\n", flush=True)
            if args.json:
                write_figures(args.json, figures, about)
    return figures


def main(argv: list[str] | None = None) -> None:
    args, begin = parse_args(argv), time.monotonic()
    warnings.simplefilter("ignore", NotGeoreferencedWarning)
    if args.device == "cuda" and (problem := cuda_problem()):
        print(f"error: {problem}; nothing was measured. --device cpu tries this script itself", file=sys.stderr)
        raise SystemExit(2)
    if args.measure:
        for figure in MEASUREMENTS[args.measure](Session(args)):
            print(f"\n{FIGURE}{json.dumps(dataclasses.asdict(figure))}", flush=True)
        return
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # so that the temporary folder goes
    figures = measure_all(args, begin)
    missed = sum(figure.holds is False for figure in figures)
    print(f"{len(figures)} figures in {time.monotonic() - begin:.0f} s; {missed} goals missed")


if __name__ == "__main__":
    main()
