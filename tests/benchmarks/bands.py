"""Item 11: crops and training steps of tiles of four bands against those of three, in turns in one process.

By the time of the processor, in one thread, so that what else runs on the machine counts little.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from common.croppers import RandomCrop
from common.samplers import UniformTiles
from common.tiles import TileSet
from tests.benchmarks.generated import write_tile_set
from tests.benchmarks.loop import BareLoop, parse
from tests.benchmarks.measuring import Figure, at_most
from tests.helpers import made
from training.engine.crops import CropDataset, TileDraws

TILES, CROPS, STEPS = 64, 64, 2  # in a turn
ROUNDS = 30
SIDE = 384  # of a crop in the paper preset


def in_turns(rounds: int, *functions: Callable[[], None]) -> np.ndarray:
    """(rounds, N) seconds of the processor of each function; the first turn is not counted."""
    seconds = np.zeros((rounds + 1, len(functions)))
    for row in seconds:
        for i, function in enumerate(functions):
            begin = time.process_time()
            function()
            row[i] = time.process_time() - begin
    return seconds[1:]


def ratio_of(seconds: np.ndarray) -> tuple[float, str]:
    """Median over turns of the second function's time by the first one's, and what it is made of.

    ``seconds``: as ``in_turns`` gives them for two functions.
    """
    ratios = seconds[:, 1] / seconds[:, 0]
    low, high = np.percentile(ratios, (25, 75))
    three, four = 1000 * np.median(seconds, axis=0)
    return float(np.median(ratios)), f"{four:.0f} and {three:.0f} ms a turn, half of the turns {low:.2f} to {high:.2f}"


def measure() -> list[Figure]:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        sets = []
        for bands in (3, 4):
            path = Path(folder) / str(bands)
            write_tile_set(path, TILES, split="train", distinct=TILES, bands=bands)
            sets.append(TileSet.open(made(path)))

        def crops(tiles: TileSet) -> Callable[[], None]:
            data = CropDataset(tiles, TileDraws(tiles, UniformTiles(), 0), RandomCrop(SIDE), 0)
            return lambda: [data[range(n, n + 8)] for n in range(0, CROPS, 8)] and None

        def steps(tiles: TileSet) -> Callable[[], None]:
            loop = BareLoop(tiles, parse("laptop", "cpu", 1, Path(folder) / "out"), torch.device("cpu"))
            return lambda: [loop.step() for _ in range(STEPS)] and None

        of_crops, said_of_crops = ratio_of(in_turns(ROUNDS, *map(crops, sets)))
        of_steps, said_of_steps = ratio_of(in_turns(ROUNDS // 2, *map(steps, sets)))
    return [
        at_most("11", f"a crop of {SIDE} px of four bands : of three", of_crops, 1.1, detail=said_of_crops),
        at_most("11", "a training step on four bands : on three (laptop, CPU)", of_steps, 1.1, detail=said_of_steps),
    ]
