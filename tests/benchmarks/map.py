r"""Item 10: time and memory of maps, against the network alone and against what others offer.

The others, geoai's predict_geotiff and torchgeo's GridGeoSampler with a plain stitch, are installed into an
environment of their own in the user's cache folder. Each map is made by a process of its own.

    python -m tests.benchmarks.run --only map
"""

import argparse
import contextlib
import io
import json
import os
import subprocess
import sys
import sysconfig
import tempfile
import time
import venv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import numpy as np
import torch
from rasterio.transform import Affine
from rasterio.windows import Window
from torch import nn

from common.checkpoints import Checkpoint, checkpoint_bytes
from common.models import Architecture, build_model
from common.rasters import open_raster
from common.taxonomy import BIODIVERSITY
from evaluation import predict_map
from tests.benchmarks import map_peers
from tests.benchmarks.generated import SCENE, scene
from tests.benchmarks.map_peers import OVERLAP, PALETTE, WINDOW, bare_seconds, peak_mib, small_network
from tests.benchmarks.measuring import REPOSITORY, Figure, at_most, not_measured
from training.engine.flags import PRESETS

SIDE, LONG = 8192, 65536  # pixels
NETWORK_SIDE = 3072  # of the raster of the `laptop` network
PARTS_SIZE = 16384, 1792  # rows and columns of the raster that two processes share
ROUNDS = 2
PEERS = ("geoai-py==0.40.0", "torchgeo==0.8.1")
THEY_NEED = ("geopandas", "einops", "rioxarray", "requests")  # of what they import for this and torch does not bring
GSD = 0.5
ROWS_AT_ONCE = 512


@dataclass
class Made:
    """A map was made: seconds of it, of the network alone on its windows, and the largest memory of the process."""

    seconds: float
    bare: float
    peak_mib: float


class Twice(nn.Module):
    """A network that sees each window once more, alone: the bare forward pass, by the same machine at that moment."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.seconds = network, 0.0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits = self.network(images)
        begin = time.perf_counter()
        self.network(images)
        self.seconds += time.perf_counter() - begin
        return logits


def write_raster(path: Path, height: int, width: int) -> None:
    """A landscape in the colours of PALETTE, uint8 in three bands, in blocks that are compressed."""
    ids, _ = scene(len(PALETTE), seed=0)
    grain = np.random.default_rng(0).integers(0, 16, (3, SCENE, SCENE), np.uint8).astype(np.uint16)
    grain = sum(np.roll(grain, shift, axis=(1, 2)) for shift in ((0, 0), (0, 1), (1, 0), (1, 1))) // 4
    image = (np.moveaxis(np.array(PALETTE, np.uint8)[ids], -1, 0) + grain).astype(np.uint8)
    profile = {"driver": "GTiff", "count": 3, "dtype": "uint8", "height": height, "width": width, "photometric": "RGB"}
    layout = {"tiled": True, "compress": "deflate", "zlevel": 1, "num_threads": "all_cpus"}
    transform = Affine(GSD, 0, 500_000, 0, -GSD, 5_000_000)
    columns = np.arange(width) % SCENE
    with open_raster(path, "w", **profile, **layout, crs="EPSG:32633", transform=transform) as dst:
        for top in range(0, height, ROWS_AT_ONCE):
            rows = np.arange(top, min(top + ROWS_AT_ONCE, height)) % SCENE
            dst.write(image[:, rows][:, :, columns], window=Window(0, top, width, len(rows)))


def write_checkpoint(path: Path) -> Path:
    """The `laptop` network with random weights; for the small one only what stands beside the weights counts."""
    preset = PRESETS["laptop"]
    architecture = Architecture(preset["arch"], preset["encoder"], tuple(preset["decoder_channels"]))
    settled = {"stage": "benchmark", "seed": 42, "step": 1, "iterations": 1, "cumulative_steps": 1, "stretch": None}
    images = {"bands": [1, 2, 3], "dtypes": ["uint8"], "colors": ["red", "green", "blue"], "gsd": GSD}
    metadata = {
        **settled, **architecture.to_json(), "val": {"digest": "of val"}, "taxonomy": BIODIVERSITY.to_json(),
        "images": images, "command": "python -m tests.benchmarks.map",
    }  # fmt: skip
    path.write_bytes(checkpoint_bytes(build_model(architecture, BIODIVERSITY.num_classes).state_dict(), metadata))
    return path


def peers_python() -> str:
    """The Python of an environment that has the others, and this environment's packages; made where it is not there.

    Raises SystemExit where it cannot be made, as without a connection.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / "classimbalance" / "-".join(PEERS).replace("==", "_")
    python, ready = str(folder / "bin/python"), folder / "ready"
    if not ready.exists():
        venv.create(folder, clear=True, with_pip=True)
        site = Path(sysconfig.get_path("purelib", vars={"base": str(folder)}))
        (site / "beside.pth").write_text(sysconfig.get_path("purelib") + "\n")
        for packages in (["--no-deps", *PEERS], THEY_NEED):
            install = [python, "-m", "pip", "install", "--disable-pip-version-check", "--quiet", *packages]
            call(install)
        ready.touch()
    return python


def call(command: Sequence[object], threads: int | None = None) -> None:
    """Run a command; its output is shown only where it fails."""
    with start(command, threads) as process:
        end(process)


def start(command: Sequence[object], threads: int | None = None) -> subprocess.Popen:
    environment = os.environ | {"OMP_NUM_THREADS": str(threads or len(os.sched_getaffinity(0)))}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(list(map(str, command)), cwd=REPOSITORY, env=environment, **pipes)


def end(process: subprocess.Popen) -> None:
    said, _ = process.communicate()
    if process.returncode:
        raise SystemExit(f"{' '.join(process.args)} ended with {process.returncode}:\n{said[-3000:]}")


class Maps:
    """Makes maps in a folder, each in a process of its own, and says what they took."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.checkpoint = write_checkpoint(folder / "checkpoint.pt")
        self.report = folder / "report.json"
        self.made = 0

    def raster(self, height: int, width: int) -> Path:
        path = self.folder / f"{height}x{width}.tif"
        if not path.exists():
            write_raster(path, height, width)
        return path

    def peer(self, python: str, name: str, raster: Path) -> Made:
        out = self.folder / "theirs.tif"
        call([python, map_peers.__file__, self.report, name, raster, out])
        return Made(**self._reported(self.report))

    def torch_alone(self) -> float:
        """MiB of a process that imports torch and makes the small network."""
        call([sys.executable, map_peers.__file__, self.report, "torch"])
        return self._reported(self.report)["peak_mib"]

    def ours(self, raster: Path, network: str) -> Made:
        (made,) = self.side_by_side(raster, network, [("--bare",)], self._new())
        return made

    def side_by_side(
        self, raster: Path, network: str, flags: Sequence[Sequence[str]], out: Path, threads: int | None = None
    ) -> list[Made]:
        """Processes that run at the same time, each with its own flags of predict_map."""
        reports = [out.with_suffix(f".report{n}") for n in range(len(flags))]
        fixed = ["--image", raster, "--out", out, "--checkpoint", self.checkpoint]
        command = [sys.executable, "-m", "tests.benchmarks.map", "--network", network]
        processes = [
            start([*command, "--report", report, *fixed, *own], threads)
            for report, own in zip(reports, flags, strict=True)
        ]
        for process in processes:
            end(process)
        return [Made(**self._reported(report)) for report in reports]

    def shared(self, raster: Path, network: str) -> tuple[float, list[float]]:
        """Seconds of a map by one process of one thread; by two such processes, each its part, and of joining them."""
        (whole,) = self.side_by_side(raster, network, [()], self._new(), threads=1)
        out = self._new()
        parts = self.side_by_side(raster, network, [("--part", "1/2"), ("--part", "2/2")], out, threads=1)
        (join,) = self.side_by_side(raster, network, [("--join",)], out, threads=1)
        return whole.seconds, [*(part.seconds for part in parts), join.seconds]

    def _new(self) -> Path:
        self.made += 1
        return self.folder / f"map{self.made}.tif"

    def _reported(self, report: Path) -> dict:
        found = json.loads(report.read_text())
        report.unlink()
        return found


def mean(made: list[Made]) -> Made:
    """Of several times the same map: mean seconds, largest memory."""
    seconds, bare = (fmean(getattr(one, name) for one in made) for name in ("seconds", "bare"))
    return Made(seconds, bare, max(one.peak_mib for one in made))


def against_the_network(maps: Maps) -> Figure:
    raster = maps.raster(NETWORK_SIDE, NETWORK_SIDE)
    made = mean([maps.ours(raster, "laptop") for _ in range(ROUNDS)])
    what = f"map of {NETWORK_SIDE} x {NETWORK_SIDE} px : bare forward passes (laptop, cpu)"
    return at_most("10", what, made.seconds / made.bare, 1.10, detail=f"{made.seconds:.1f} and {made.bare:.1f} s")


def against_others(maps: Maps) -> list[Figure]:
    """Figures of the small network on one raster: of this project, and of those of the others that can be had."""
    raster = maps.raster(SIDE, SIDE)
    made: dict[str, list[Made]] = {"this": [], "geoai": [], "torchgeo": []}
    problems = []
    for _ in range(ROUNDS):
        made["this"].append(maps.ours(raster, "small"))
        for name in [name for name in made if name != "this"]:
            try:
                made[name].append(maps.peer(peers_python(), name, raster))
            except SystemExit as problem:
                problems.append(f"{name}: {str(problem).strip().splitlines()[-1]}")
                del made[name]
    what = "all but the network : the faster of the others", "peak memory : the leaner of the others"
    means = {name: mean(runs) for name, runs in made.items()}
    this, others = means["this"], [one for name, one in means.items() if name != "this"]
    if not others:
        return [not_measured("10", one, "; ".join(problems)) for one in what]
    around = (this.seconds - this.bare) / min(one.seconds - one.bare for one in others)
    leanest, least = min(one.peak_mib for one in others), maps.torch_alone()
    seconds = [f"{name} {one.seconds - one.bare:.1f} of {one.seconds:.1f} s" for name, one in means.items()]
    mib = [f"{name} {one.peak_mib:.0f} MiB" for name, one in means.items()]
    beyond = (this.peak_mib - least) / (leanest - least)
    return [
        at_most("10", what[0], around, 1 / 3, detail="; ".join([*seconds, *problems])),
        at_most("10", what[1], this.peak_mib / leanest, 1 / 5, detail="; ".join(mib)),
        Figure("10", "the same, beyond torch and the network", beyond, "", detail=f"{least:.0f} MiB without a map"),
    ]


def measure() -> list[Figure]:
    with tempfile.TemporaryDirectory() as folder:
        maps = Maps(Path(folder))
        figures = [against_the_network(maps), *against_others(maps)]
        short, long = (maps.ours(maps.raster(height, SIDE), "small").peak_mib for height in (SIDE, LONG))
        what = f"peak memory, {LONG} rows of {SIDE} px : {SIDE}"
        figures.append(at_most("10", what, long / short, 1.1, detail=f"{long:.0f} and {short:.0f} MiB"))
        rows, columns = PARTS_SIZE
        whole, (first, second, join) = maps.shared(maps.raster(rows, columns), "laptop")
        detail = f"{first:.1f} and {second:.1f} s side by side, {join:.1f} s to join; {whole:.1f} s"
        what = f"two parts of {rows} x {columns} px, a thread each : one (laptop)"
        figures.append(at_most("10", what, (max(first, second) + join) / whole, 0.6, detail=detail))
    return figures


def make_one(network: str, report: Path, alone: bool, flags: list[str]) -> None:
    """Make a map in this process, timed from the opened raster and the ready network on.

    With ``alone`` the bare forward passes are timed as well: those of the small network, which takes less time than the
    reading, after the map.
    """
    if network == "small":
        Checkpoint.build = lambda _: small_network()
    open_networks, opened = predict_map.open_networks, []

    def ready(*args):
        networks = open_networks(*args)
        if network == "laptop" and alone:
            networks.models[:] = map(Twice, networks.models)
        opened.append((networks.models[0], time.perf_counter()))
        return networks

    predict_map.open_networks = ready
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        predict_map.main([*flags, "--device", "cpu", "--window", str(WINDOW), "--overlap", str(OVERLAP)])
    (model, since), now, peak = opened[0], time.perf_counter(), peak_mib()
    bare = 0.0
    if isinstance(model, Twice):
        bare = model.seconds
        now -= bare
    elif alone:
        bare = bare_seconds(model, Path(flags[flags.index("--image") + 1]))
    report.write_text(json.dumps({"seconds": now - since, "bare": bare, "peak_mib": peak}))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--network", choices=["small", "laptop"], required=True)
    parser.add_argument("--report", type=Path, required=True, help="file for what was measured")
    parser.add_argument("--bare", action="store_true", help="time bare forward passes as well")
    own, of_predict_map = parser.parse_known_args(sys.argv[1:])
    make_one(own.network, own.report, own.bare, of_predict_map)
