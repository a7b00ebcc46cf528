"""Scoring a checkpoint on a split."""

from dataclasses import dataclass

from common.artifacts import read_minority
from common.checkpoints import Checkpoint
from common.cli import command_for
from common.device import resolve_device
from common.errors import UserError
from common.metrics import boundary_score, calibration_score, mean_iou_of, score
from common.taxonomy import load_taxonomy
from common.text import warn
from common.tiles import TileSet
from evaluation.scoring.counts import tile_counts
from evaluation.scoring.results import TileConfusions, describe_split, shared_blocks_note


@dataclass(frozen=True)
class Setting:
    """What all checkpoints of one call are scored on."""

    tiles: TileSet
    minority: list[str] | None
    device: object
    workers: int
    command: str


def open_setting(args) -> Setting:
    """The split, the minority classes where they are known, and the device."""
    taxonomy = load_taxonomy(args.root)
    tiles = TileSet.open(args.data_dir, command_for("data_prep.split_biodiversity", args))
    tiles.require_split(args.split, "--data-dir").require_taxonomy(taxonomy)
    if not any(tile.labelled for tile in tiles):
        raise UserError(f"{args.data_dir}: none of its {len(tiles)} tiles has a labelled pixel; nothing to score.")
    minority = None
    if args.distribution.exists():
        command = command_for("data_prep.analyze_class_distribution", args)
        minority = read_minority(args.distribution, taxonomy, command)
    else:
        warn(f"{args.distribution} does not exist: the minority classes are not known, their mean is left out.")
    note = shared_blocks_note(args.split, describe_split(tiles))
    if note:
        warn(note)
    return Setting(tiles, minority, resolve_device(args.device), args.workers, args.command)


def metrics_of(checkpoint: Checkpoint, which: str, digest: str, confusions: TileConfusions, setting: Setting) -> dict:
    """What metrics.json holds of a checkpoint: its scores, and what they are scores of."""
    tiles, known = setting.tiles, checkpoint.metadata
    scores = score(confusions.confusions.sum(axis=0), tiles.taxonomy)
    names = setting.minority
    return {
        "stage": known["stage"],
        "seed": known["seed"],
        "which": which,
        "step": known["step"],
        "iterations": known["iterations"],
        "cumulative_steps": known["cumulative_steps"],
        "arch": known["arch"],
        "encoder": known["encoder"],
        "split": tiles.split,
        "split_digest": tiles.digest,
        "checkpoint_digest": digest,
        **{key: scores[key] for key in ("mIoU", "mF1", "OA")},
        "minority_mIoU": mean_iou_of(scores, names) if names is not None else None,
        "minority_classes": names,
        "classes_averaged": list(scores["classes"]),
        "classes": scores["classes"],
        "absent": scores["absent"],
        "boundary": boundary_score(confusions.boundary.sum(axis=0), tiles.taxonomy, scores["classes"]),
        "calibration": calibration_score(confusions.calibration.sum(axis=0)),
        "labelled_pixels": sum(tile.labelled for tile in tiles),
        "void_pixels": int(tiles.pixels[0]),
        "split_facts": describe_split(tiles),
        "taxonomy": tiles.taxonomy.to_json(),
        "command": setting.command,
    }


def evaluate(checkpoint: Checkpoint, model, digest: str, setting: Setting) -> TileConfusions:
    """Predict every tile of the split."""
    tiles = setting.tiles
    counts = tile_counts(
        model.to(setting.device),
        tiles.tiles,
        tiles.taxonomy.num_classes,
        device=setting.device,
        workers=setting.workers,
        desc=f"{checkpoint.metadata['stage']} seed {checkpoint.metadata['seed']} {checkpoint.path.name}",
    )
    blocks = [tile.block for tile in tiles]
    names = list(tiles.taxonomy.classes)
    return TileConfusions(
        tiles.ids, blocks, counts.confusions, names, tiles.digest, digest, counts.boundary, counts.calibration
    )
