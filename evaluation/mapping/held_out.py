"""The confusion of a map's own networks on held-out tiles, from what evaluation.compute_metrics wrote."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.errors import UserError
from common.folds import study_root
from common.inputs import Command, Input
from common.stages import ARM_OF, FINAL_STAGE
from common.text import some
from evaluation.mapping.areas import holders
from evaluation.mapping.record import MapCheckpoint, MapRecord
from evaluation.scoring.results import (
    CONFUSIONS,
    METRICS,
    WHICH,
    TileCounts,
    read_metrics,
    results_folder,
    seed_folders,
    shared_blocks_note,
)
from evaluation.study.pooling import by_block
from evaluation.study.where import VAL, folds_with_results

WEIGHTS = ("model_weights", "biodiversity")  # where checkpoints lie below a root, in stage/seed<seed>/


@dataclass(frozen=True)
class Found:
    """The results of one of a map's networks on a split."""

    checkpoint: MapCheckpoint
    source: Input
    metrics: dict
    tiles: TileCounts


@dataclass(frozen=True)
class HeldOut:
    """Counts of B held-out blocks, mean over the networks that scored a block.

    Attributes:
        blocks: names, sorted.
        counts: (B, C, C) float64 confusions, rows truth, nothing in the row of void.
        confidence: (B, 2) float64, labelled pixels and the sum of their confidence.
        unlabelled: share of the pixels that are void in the truth.
        found: the results of each network.
    """

    blocks: list[str]
    counts: np.ndarray
    confidence: np.ndarray
    unlabelled: float
    found: list[Found]

    @property
    def pixels(self) -> float:
        """Labelled pixels."""
        return float(self.counts.sum())

    @property
    def holders(self) -> np.ndarray:
        """(C,) blocks that hold each class."""
        return holders(self.counts)

    @property
    def grounds(self) -> int:
        """Tile sets that were scored: one for each fold."""
        return len({of.tiles.split_digest for of in self.found})

    @property
    def notes(self) -> list[str]:
        """What a reader must know of these results."""
        split = self.found[0].metrics["split"]
        lines = [shared_blocks_note(split, of.metrics["split_facts"]) for of in self.found]
        if any(of.metrics["which"] == "best" for of in self.found) and split == "val":
            lines.append("best.pt is selected on val, so its confusion on val is optimistic; that on test is not.")
        if len(self.found) > 1:
            lines.append(
                f"The map is made by the mean of {len(self.found)} networks, its confusion is that of the single "
                "networks, each on tiles that it was not trained on. Together they err less, so the correction may "
                "go too far."
            )
        if self.unlabelled >= 0.005:
            lines.append(
                f"{self.unlabelled:.0%} of the held-out pixels are unlabelled and count nowhere; the map has a class "
                "in such areas as well, and nothing is known of its errors there."
            )
        return list(dict.fromkeys(filter(None, lines)))


def held_out(record: MapRecord, split: str, root: Path, results_dir: Input | None = None) -> HeldOut:
    """The held-out confusion of a map's networks.

    Args:
        split: ``val`` or ``test``.
        root: of a study or of one of its folds; results are also looked for in the roots of its folds, and in those
            that the map's checkpoints lay in.
        results_dir: the one folder to look in instead, with a folder for each stage.

    Raises:
        UserError: there are no results of one of the networks, those there are of another network or of other classes,
            or a file is broken.
    """
    if results_dir:
        results_dir = Input(results_dir.path, results_dir.made_by.plus("--split", split), results_dir.flag)
    found, problems = [], []
    for checkpoint in {of.digest: of for of in record.checkpoints}.values():
        folders = [results_dir] if results_dir else _folders(checkpoint, split, root)
        try:
            found.append(_find(checkpoint, folders, split, record))
        except UserError as problem:
            problems.append(str(problem))
    if problems:
        raise UserError("\n".join(dict.fromkeys(problems)))
    for of in found:
        if of.tiles.class_names != list(record.taxonomy.classes):
            raise record.source.unusable(
                f"{record.source} has the classes {some(list(record.taxonomy.classes))}, and {of.source} "
                f"{some(of.tiles.class_names)}"
            )
    return pooled(found)


def pooled(found: Sequence[Found]) -> HeldOut:
    """Counts by block, mean over the networks that scored it; UserError if no pixel is labelled."""
    counts: dict[str, list[np.ndarray]] = {}
    sums: dict[str, list[np.ndarray]] = {}
    for of in found:
        names = np.array(of.tiles.blocks)
        sure = of.tiles.calibration[..., :2].sum(axis=1)
        for name, confusion in by_block(of.tiles).items():
            counts.setdefault(name, []).append(confusion)
            sums.setdefault(name, []).append(sure[names == name].sum(axis=0))
    if not counts:
        raise found[0].source.unusable(f"{found[0].source} holds no labelled pixel")
    blocks = sorted(counts)
    mean = np.array([np.mean(counts[name], axis=0) for name in blocks])
    labelled = mean.copy()
    labelled[:, 0] = 0
    confidence = np.array([np.mean(sums[name], axis=0) for name in blocks])
    every = sum(of.tiles.confusions.sum() for of in found)
    void = sum(of.tiles.confusions[:, 0].sum() for of in found)
    return HeldOut(blocks, labelled, confidence, float(void / every), list(found))


def _home(checkpoint: MapCheckpoint) -> Path | None:
    """The root that a checkpoint lies in; None if it is gone, or its path does not say."""
    path = Path(checkpoint.path)
    at = len(path.parts) - len(WEIGHTS) - 3  # stage, seed and file
    says = at >= 0 and path.parts[at : at + len(WEIGHTS)] == WEIGHTS
    return path.parents[len(WEIGHTS) + 2] if says and path.is_file() else None


def _folders(checkpoint: MapCheckpoint, split: str, root: Path) -> list[Input]:
    """Where results of a checkpoint may lie, the most likely place first."""
    homes = [_home(checkpoint) or root, root]
    homes = [*homes, *folds_with_results(root)] if split == "val" else [study_root(of) for of in homes]
    places = {os.path.abspath(of): of for of in reversed(homes)}
    made_by = f"evaluation.compute_metrics --split {split}"
    return [Input(of / VAL.parent / split, Command.of(made_by, of)) for of in reversed(places.values())]


def _find(checkpoint: MapCheckpoint, folders: list[Input], split: str, record: MapRecord) -> Found:
    others = []
    for folder in folders:
        of_seed = folder / checkpoint.stage / f"seed{checkpoint.seed}"
        for which in WHICH:
            source = results_folder(of_seed, which)
            if not (source / METRICS).path.is_file():
                continue
            metrics = read_metrics(source / METRICS)
            if metrics["checkpoint_digest"] == checkpoint.digest:
                return _read(checkpoint, source, metrics, split)
            others.append(source)
    if split == "test" and (others or any(seed_folders(folder.path / FINAL_STAGE) for folder in folders)):
        raise UserError(
            f"{folders[0]} holds no results of {checkpoint.name} (digest {checkpoint.digest[:12]}), which made "
            f"{record.map}: the test split is for one network. Give --split val."
        )
    if others:
        source = others[0]
        stage = ("--stages", checkpoint.stage) if checkpoint.stage in ARM_OF else ()
        raise source.unusable(
            f"{source} is of another network than made {record.map}: that is {checkpoint.name}, digest "
            f"{checkpoint.digest[:12]}. If it was trained again since, make the map again ({record.command}), and "
            "the results, too",
            *stage,
        )
    missing = folders[0] / checkpoint.stage / f"seed{checkpoint.seed}"
    raise missing.missing(
        f"does not exist. The areas of {record.map} need the confusion of {checkpoint.name}, which made it, on tiles "
        "that it was not trained on"
    )


def _read(checkpoint: MapCheckpoint, source: Input, metrics: dict, split: str) -> Found:
    if metrics["split"] != split:
        raise UserError(f"{source / METRICS} is of the {metrics['split']} split. Give --split {metrics['split']}.")
    tiles = TileCounts.load(source / CONFUSIONS)
    if (metrics["split_digest"], metrics["checkpoint_digest"]) != (tiles.split_digest, tiles.checkpoint_digest):
        raise source.unusable(f"{source}: {METRICS} and {CONFUSIONS} are of two evaluations")
    return Found(checkpoint, source, metrics, tiles)
