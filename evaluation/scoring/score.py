"""Scoring a checkpoint on a split."""

import argparse
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch

from common.artifacts import read_distribution
from common.checkpoints import Checkpoint
from common.device import place, resolve_device
from common.errors import UserError
from common.inputs import Input
from common.metrics import boundary_score, calibration_score, mean_iou_of, score
from common.stages import training_command
from common.taxonomy import load_taxonomy
from common.text import warn
from common.tiles import TileSet
from evaluation.scoring.counts import tile_counts
from evaluation.scoring.predicted_classes import new_predicted_classes
from evaluation.scoring.results import TileCounts, describe_split, shared_blocks_note


@dataclass(frozen=True)
class Setting:
    """What all checkpoints of one call are scored on. ``minority`` is None if the classes are not known."""

    tiles: TileSet
    minority: list[str] | None
    device: torch.device
    workers: int
    command: str


def open_setting(args: argparse.Namespace) -> Setting:
    """The split, the minority classes if they are known, and the device.

    Raises:
        UserError: the split is missing, is another one or of other classes, or holds no labelled pixel.
    """
    taxonomy = load_taxonomy(args.root)
    tiles = TileSet.open(args.data_dir).require_split(args.split).require_taxonomy(taxonomy)
    if not any(tile.labelled for tile in tiles):
        raise UserError(f"{args.data_dir}: none of its {len(tiles)} tiles has a labelled pixel; nothing to score.")
    minority = None
    if args.distribution.path.exists():
        minority = read_distribution(args.distribution, taxonomy)["minority_classes"]
    else:
        warn(f"{args.distribution} does not exist: the minority classes are unknown, so their mean is missing.")
    note = shared_blocks_note(args.split, describe_split(tiles))
    if note:
        warn(note)
    return Setting(tiles, minority, resolve_device(args.device), args.workers, args.command)


def run_folder(args: argparse.Namespace, arm: str, seed: int) -> Input:
    """The folder of a run below --weights-dir, made by its own training."""
    return Input(args.weights_dir / arm / f"seed{seed}", training_command(args.root, arm, seed), "--weights-dir")


def evaluate(
    checkpoint: Checkpoint, model: torch.nn.Module, setting: Setting, predicted: Path | None = None
) -> TileCounts:
    """Count what the network of a checkpoint predicts on every tile of the split, and keep it in ``predicted``."""
    tiles = setting.tiles
    facts = {"tile_ids": tiles.ids, "split_digest": tiles.digest, "checkpoint_digest": checkpoint.digest}
    with new_predicted_classes(predicted, **facts) if predicted else nullcontext() as keep:
        counts = tile_counts(
            place(model, setting.device),
            tiles.tiles,
            tiles.taxonomy.num_classes,
            device=setting.device,
            workers=setting.workers,
            desc=f"{checkpoint.metadata['stage']} seed {checkpoint.metadata['seed']} {checkpoint.path.name}",
            keep=keep,
        )
    blocks = [tile.unit for tile in tiles]  # tiles of one ground are one observation
    return TileCounts(blocks=blocks, class_names=list(tiles.taxonomy.classes), **facts, **counts)


def metrics_of(checkpoint: Checkpoint, which: str, counts: TileCounts, setting: Setting) -> dict:
    """What metrics.json holds of a checkpoint: its scores, and what they are scores of."""
    tiles, minority = setting.tiles, setting.minority
    scores = score(counts.confusions.sum(axis=0), tiles.taxonomy)
    metadata = ("step", "iterations", "cumulative_steps", "arch", "encoder")
    return {
        "stage": checkpoint.metadata["stage"],
        "seed": checkpoint.metadata["seed"],
        "which": which,
        **{key: checkpoint.metadata[key] for key in metadata},
        "split": tiles.split,
        "split_digest": tiles.digest,
        "checkpoint_digest": counts.checkpoint_digest,
        **{key: scores[key] for key in ("mIoU", "mF1", "OA")},
        "minority_mIoU": mean_iou_of(scores, minority) if minority is not None else None,
        "minority_classes": minority,
        "classes_averaged": list(scores["classes"]),
        "classes": scores["classes"],
        "absent": scores["absent"],
        "boundary": boundary_score(counts.boundary.sum(axis=0), tiles.taxonomy, scores["classes"]),
        "calibration": calibration_score(counts.calibration.sum(axis=0)),
        "labelled_pixels": sum(tile.labelled for tile in tiles),
        "void_pixels": int(tiles.pixels[0]),
        "split_facts": describe_split(tiles),
        "taxonomy": tiles.taxonomy.to_json(),
        "command": setting.command,
    }
