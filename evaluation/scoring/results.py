"""What an evaluation leaves for each checkpoint, and reading it back without models or tiles."""

import re
import zipfile
import zlib
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from common.errors import UserError
from common.metrics import CALIBRATION_BINS
from common.tiles import TileSet

METRICS, CONFUSIONS, RUN_RECORD = "metrics.json", "tile_confusions.npz", "run.json"
PHOTOS = ("image.png", "image.jpg")  # of a tile in that folder, without loss and with
PREDICTIONS_INDEX = "predictions.json"  # of the folder of evaluation.plot_predictions
WHICH = ("last", "best")  # last.pt, the end of the schedule; best.pt, chosen on val


def seed_folders(stage_dir: Path) -> list[tuple[int, Path]]:
    """(seed, folder) of each ``seed<number>`` folder of a stage, by seed; none where the stage was not run."""
    if not stage_dir.is_dir():
        return []
    named = [(re.fullmatch(r"seed(\d+)", path.name), path) for path in stage_dir.iterdir() if path.is_dir()]
    return sorted((int(match[1]), path) for match, path in named if match)


def results_folder(seed_dir: Path, which: str) -> Path:
    """Where the results of last.pt or best.pt are: in the seed's folder, or in ``best`` below it."""
    return seed_dir if which == "last" else seed_dir / which


def describe_split(tiles: TileSet) -> dict:
    """What a reader must know of a split to judge a score on it."""
    return {
        "tiles": len(tiles),
        "blocks": len({tile.block for tile in tiles}),
        "strategy": tiles.manifest.get("split_strategy"),
        "block_size": tiles.manifest.get("block_size"),
        "blocks_shared_with_train": tiles.manifest.get("blocks_shared_with_train"),
    }


def shared_blocks_note(split: str, facts: dict) -> str | None:
    """A sentence on the blocks that a split shares with train; None where it shares none or it is not known."""
    shared = facts["blocks_shared_with_train"]
    if not shared:
        return None
    return (
        f"{shared} of {facts['blocks']} spatial blocks of {split} also have tiles in train ({facts['strategy']} "
        "split), so that scores are higher than on new ground."
    )


@dataclass(frozen=True)
class TileConfusions:
    """A checkpoint's pixel counts on each tile of a split, from which every metric can be computed again.

    ``confusions`` is (T, C, C) int64, rows truth; ``boundary`` (T, C, 2) int64, the intersection and the union of the
    boundary pixels of each class; ``calibration`` (T, B, 3) float64, for each bin of confidence its pixels, the sum of
    their confidence, and how many are right. All are in the order of ``tile_ids`` and ``blocks``; common.metrics has
    the scores they make.
    """

    tile_ids: list[str]
    blocks: list[str]
    confusions: np.ndarray
    class_names: list[str]
    split_digest: str
    checkpoint_digest: str
    boundary: np.ndarray
    calibration: np.ndarray

    def save(self, path: Path) -> None:
        """Write an npz that is read without pickle."""
        np.savez_compressed(
            path,
            tile_ids=np.array(self.tile_ids, dtype=str),
            blocks=np.array(self.blocks, dtype=str),
            confusions=self.confusions,
            class_names=np.array(self.class_names, dtype=str),
            split_digest=np.array(self.split_digest),
            checkpoint_digest=np.array(self.checkpoint_digest),
            boundary=self.boundary,
            calibration=self.calibration,
        )

    @classmethod
    def load(cls, path: Path) -> "TileConfusions":
        """Read what ``save`` wrote; UserError where the file is missing, lacks counts or is something else."""
        remedy = "Evaluate again: python -m evaluation.compute_metrics --overwrite"
        try:
            with np.load(path, allow_pickle=False) as arrays:
                lacking = [field.name for field in fields(cls) if field.name not in arrays]
                if lacking:
                    raise UserError(f"{path} holds no {', '.join(lacking)}. {remedy}")
                found = cls(
                    arrays["tile_ids"].tolist(),
                    arrays["blocks"].tolist(),
                    arrays["confusions"],
                    arrays["class_names"].tolist(),
                    str(arrays["split_digest"]),
                    str(arrays["checkpoint_digest"]),
                    arrays["boundary"],
                    arrays["calibration"],
                )
        except FileNotFoundError:
            raise UserError(f"{path} does not exist. {remedy}") from None
        except (ValueError, KeyError, EOFError, AttributeError, TypeError, zipfile.BadZipFile, zlib.error) as error:
            raise UserError(f"{path} cannot be read ({error}). {remedy}") from None
        tiles, classes = len(found.tile_ids), len(found.class_names)
        shapes = {
            "blocks": (tiles,),
            "confusions": (tiles, classes, classes),
            "boundary": (tiles, classes, 2),
            "calibration": (tiles, CALIBRATION_BINS, 3),
        }
        for name, shape in shapes.items():
            if np.shape(getattr(found, name)) != shape:
                raise UserError(f"{path} has {name} {np.shape(getattr(found, name))}, expected {shape}. {remedy}")
        return found
