"""The classes that a checkpoint predicts on the tiles of a split: written and read back one tile at a time."""

import zipfile
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.inputs import Input
from evaluation.scoring.results import read_arrays

PREDICTED = "predicted_classes.npz"
FACTS = ("tile_ids", "split_digest", "checkpoint_digest")


@contextmanager
def new_predicted_classes(
    path: Path, *, tile_ids: list[str], split_digest: str, checkpoint_digest: str
) -> Generator[Callable[[int, np.ndarray], None]]:
    """Write an npz with FACTS and an array for each tile, named by its index in ``tile_ids``.

    Gives the function that takes an index and the (H, W) uint8 class ids predicted there, in any order of tiles.
    """
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:

        def put(name: str, array: np.ndarray) -> None:
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, array, allow_pickle=False)

        for name, value in zip(FACTS, (tile_ids, split_digest, checkpoint_digest), strict=True):
            put(name, np.array(value, dtype=str))
        yield lambda index, preds: put(str(index), preds)


@dataclass(frozen=True)
class PredictedClasses:
    """What a checkpoint predicted on the tiles of a split."""

    source: Input
    tile_ids: list[str]
    split_digest: str
    checkpoint_digest: str

    @classmethod
    def open(cls, source: Input) -> "PredictedClasses":
        """Read what the predictions are of; UserError if the file is missing or is something else."""
        return cls(source, *(array.tolist() for array in read_arrays(source, FACTS)))

    def of_tiles(self) -> Iterator[np.ndarray]:
        """Yield the (H, W) uint8 class ids of each tile in the order of the split; UserError if they cannot be read."""
        return read_arrays(self.source, map(str, range(len(self.tile_ids))))
