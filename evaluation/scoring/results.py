"""What an evaluation leaves for each checkpoint, and reading it back without models or tiles."""

import re
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from common.files import read_json
from common.inputs import Input
from common.metrics import CALIBRATION_BINS
from common.schema import is_count, is_number, is_object, is_text, list_of, misfit, optional, values_of
from common.tiles import TileSet

METRICS, CONFUSIONS, RUN_RECORD = "metrics.json", "tile_confusions.npz", "run.json"
HISTORY, AGREEMENT = "history.csv", "agreement.json"  # beside the results of last.pt
PHOTOS = ("image.png", "image.jpg")  # of a tile in that folder, without loss and with
PREDICTIONS_INDEX = "predictions.json"  # of the folder of evaluation.plot_predictions
WHICH = ("last", "best")  # last.pt, the end of the schedule; best.pt, chosen on val

METRICS_FORM = {
    **dict.fromkeys(("stage", "which", "split", "split_digest", "checkpoint_digest"), is_text),
    **dict.fromkeys(("seed", "cumulative_steps"), is_count),
    **dict.fromkeys(("mIoU", "mF1", "OA"), is_number),
    "classes": values_of({**dict.fromkeys(("IoU", "F1", "precision", "recall"), is_number), "pixels": is_count}),
    "absent": list_of(is_text),
    "minority_classes": optional(list_of(is_text)),
    "split_facts": {
        **dict.fromkeys(("tiles", "blocks"), is_count),
        "strategy": optional(is_text),
        "blocks_shared_with_train": optional(is_count),
        "fold?": optional(dict.fromkeys(("fold", "folds", "repeat", "seed"), is_count)),
        "dealing?": optional(is_text),
    },
    "taxonomy": is_object,
    "command?": is_text,
    "step?": is_count,
}

Folder = TypeVar("Folder", Path, Input)


def seed_folders(stage_dir: Path) -> list[tuple[int, Path]]:
    """(seed, folder) of each ``seed<number>`` folder of a stage, by seed; none if the stage was not run."""
    if not stage_dir.is_dir():
        return []
    named = [(re.fullmatch(r"seed(\d+)", path.name), path) for path in stage_dir.iterdir() if path.is_dir()]
    return sorted((int(match[1]), path) for match, path in named if match)


def results_folder(seed_dir: Folder, which: str) -> Folder:
    """Where the results of last.pt or best.pt are: in the seed's folder, or in ``best`` below it."""
    return seed_dir if which == "last" else seed_dir / which


def read_metrics(source: Input) -> dict:
    """A metrics.json. Raises UserError if it is missing, broken or something else."""
    metrics = read_json(source)
    problem = misfit(metrics, METRICS_FORM)
    if problem:
        raise source.unusable(f"{source} is not of this project: {problem}")
    return metrics


def describe_split(tiles: TileSet) -> dict:
    """What a reader must know of a split to judge a score on it: ``split_facts`` of metrics.json.

    Of a fold it says which one it is.
    """
    fold = tiles.manifest.get("fold")
    return {
        "tiles": len(tiles),
        "blocks": len({tile.unit for tile in tiles}),
        "strategy": tiles.manifest.get("split_strategy"),
        "block_size": tiles.manifest.get("block_size"),
        "blocks_shared_with_train": tiles.manifest.get("blocks_shared_with_train"),
        **({"overlaps": "ignored"} if tiles.manifest.get("overlaps") == "ignore" else {}),
        **({"fold": fold, "dealing": tiles.manifest.get("dealing")} if fold else {}),
    }


def shared_blocks_note(split: str, description: dict) -> str | None:
    """A sentence on the blocks that a described split shares with train; None if it is not known to share any."""
    if description.get("overlaps") == "ignored":
        return (
            f"tiles that share ground were split as if they did not (--overlaps ignore), so that those of {split} may "
            "show ground of train, and scores be higher than on new ground."
        )
    shared = description["blocks_shared_with_train"]
    if not shared:
        return None
    return (
        f"{shared} of {description['blocks']} spatial blocks of {split} also have tiles in train "
        f"({description['strategy']} split), so that scores are higher than in a new area."
    )


def read_arrays(source: Input, names: Iterable[str]) -> Iterator[np.ndarray]:
    """Yield arrays of an npz by name, one after the other; UserError if it is missing, lacks one or cannot be read."""
    names = list(names)
    try:
        with np.load(source, allow_pickle=False) as arrays:
            lacking = [name for name in names if name not in arrays]
            if lacking:
                raise source.unusable(f"{source} holds no {', '.join(lacking)}")
            for name in names:
                yield arrays[name]
    except FileNotFoundError:
        raise source.missing() from None
    except (ValueError, KeyError, EOFError, AttributeError, TypeError, zipfile.BadZipFile, zlib.error) as error:
        raise source.unusable(f"{source} cannot be read ({error})") from None


@dataclass(frozen=True)
class TileCounts:
    """A checkpoint's pixel counts on each of T tiles of a split, from which every metric can be computed again.

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
        arrays: dict[str, Any] = {
            name: value if isinstance(value, np.ndarray) else np.array(value, dtype=str)
            for name, value in vars(self).items()
        }
        np.savez_compressed(path, **arrays)

    @classmethod
    def load(cls, source: Input) -> "TileCounts":
        """Read what ``save`` wrote. Raises UserError if the file is missing, lacks counts or is something else."""
        fields = cls.__dataclass_fields__
        values: dict[str, Any] = {
            name: array if fields[name].type is np.ndarray else array.tolist()
            for name, array in zip(fields, read_arrays(source, fields), strict=True)
        }
        tiles, classes = np.size(values["tile_ids"]), np.size(values["class_names"])
        shapes = {
            "tile_ids": (tiles,),
            "class_names": (classes,),
            "blocks": (tiles,),
            "confusions": (tiles, classes, classes),
            "boundary": (tiles, classes, 2),
            "calibration": (tiles, CALIBRATION_BINS, 3),
        }
        for name, shape in shapes.items():
            if np.shape(values[name]) != shape:
                raise source.unusable(f"{source} has {name} {np.shape(values[name])}, expected {shape}")
        return cls(**values)
