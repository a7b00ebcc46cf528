r"""Measure what this project promises of its speed and its memory, each figure beside its goal.

python -m tests.benchmarks.run --json FILE
python -m tests.benchmarks.run --only loop --preset paper --device cuda
"""

import argparse
import os
import platform
import time
import warnings
from pathlib import Path

import torch
from rasterio.errors import NotGeoreferencedWarning

from tests.benchmarks import aggregate, bands, counting, crops, data_steps, groups, loop, sizes
from tests.benchmarks import map as maps
from tests.benchmarks.measuring import write_figures

BENCHMARKS = {
    "crops": crops.measure,
    "bands": bands.measure,
    "loop": loop.measure,
    "counting": counting.measure,
    "sizes": sizes.measure,
    "data_steps": data_steps.measure,
    "groups": groups.measure,
    "aggregate": aggregate.measure,
    "map": maps.measure,
}


def machine() -> dict:
    models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return {
        "processor": models[0].partition(":")[2].strip() if models else platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="file for the figures")
    parser.add_argument("--only", nargs="+", choices=list(BENCHMARKS), default=list(BENCHMARKS), help="some of them")
    parser.add_argument("--preset", default="laptop", help="of the benchmark loop")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="of the benchmark loop")
    args = parser.parse_args(argv)
    warnings.simplefilter("ignore", NotGeoreferencedWarning)
    begin, figures = time.monotonic(), []
    for name in args.only:
        since = time.monotonic()
        found = BENCHMARKS[name](**({"preset": args.preset, "device": args.device} if name == "loop" else {}))
        figures += found
        print(f"{name} ({time.monotonic() - since:.0f} s)", *found, sep="\n", flush=True)
    if "loop" in args.only and args.device == "cpu":
        print("2   training loop on a GPU, paper preset: not measured; --only loop --preset paper --device cuda does")
    missed = sum(figure.holds is False for figure in figures)
    print(f"{len(figures)} figures in {time.monotonic() - begin:.0f} s; {missed} goals missed")
    if args.json:
        write_figures(args.json, figures, machine())


if __name__ == "__main__":
    main()
