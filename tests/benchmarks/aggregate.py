"""Time and memory of evaluation.aggregate_metrics on 7 stages, 5 seeds and 300 tiles, figures included."""

import tempfile
from pathlib import Path

from common.stages import STAGE_NAMES
from tests.benchmarks.measuring import Figure, at_most, run_module
from tests.synthetic_results import write_study

SEEDS, BLOCKS, TILES_A_BLOCK = 5, 30, 10


def measure() -> list[Figure]:
    with tempfile.TemporaryDirectory() as root:
        write_study(Path(root), dict.fromkeys(STAGE_NAMES, 0.0), range(SEEDS), BLOCKS, tiles_a_block=TILES_A_BLOCK)
        ended = run_module("evaluation.aggregate_metrics", "--root", root)
    what = f"summary of {len(STAGE_NAMES)} stages, {SEEDS} seeds, {BLOCKS * TILES_A_BLOCK} tiles"
    return [at_most("", what, ended.seconds, 15, "s"), at_most("", "its memory", ended.peak_mib, 1024, "MiB")]
