r"""Time and memory of evaluation.aggregate_metrics on 7 stages, 5 seeds and 300 tiles, figures included.

Goal: under 15 seconds and 1 GiB on two cores.

    python -m tests.benchmarks.aggregate
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common.stages import STAGE_NAMES
from tests.synthetic_results import write_study

SEEDS, BLOCKS, TILES_A_BLOCK = 5, 30, 10
GOAL_SECONDS, GOAL_MIB = 15, 1024


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="file for the figures")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as root:
        write_study(Path(root), dict.fromkeys(STAGE_NAMES, 0.0), range(SEEDS), BLOCKS, tiles_a_block=TILES_A_BLOCK)
        begin = time.perf_counter()
        command = [sys.executable, "-m", "evaluation.aggregate_metrics", "--root", root]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        seconds = time.perf_counter() - begin
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    found = {"seconds": round(seconds, 2), "peak_mib": round(peak)}
    print(f"{len(STAGE_NAMES)} stages, {SEEDS} seeds, {BLOCKS * TILES_A_BLOCK} tiles")
    print(f"{seconds:.1f} s (goal: under {GOAL_SECONDS}), {peak:.0f} MiB (goal: under {GOAL_MIB})")
    if args.json:
        args.json.write_text(json.dumps({"aggregate": found}, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
