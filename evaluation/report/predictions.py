"""Pictures of tiles for the report: image, truth, and the prediction of each stage, control and rival."""

from pathlib import Path
from typing import NamedTuple

from common.inputs import Input
from common.stages import ARM_OF, Arm
from common.taxonomy import IGNORE_INDEX
from evaluation.report.pictures import data_uri, open_picture
from evaluation.scoring.predictions_index import read_index
from evaluation.study.evidence import Evidence
from evaluation.study.wording import arm_name


class TilePictures(NamedTuple):
    """A tile: its entry in the index, its labelled share, its image and truth, and what each arm predicts for it.

    ``width`` and ``height`` are of the pictures, which are smaller than a large tile.
    """

    entry: dict
    labelled: float
    width: int
    height: int
    image: str
    truth: str
    predictions: list[tuple[Arm, str]]


class Predictions(NamedTuple):
    """The index of the pictures, the arm that is shown first, and the tiles."""

    index: dict
    start: str
    tiles: list[TilePictures]


def read_predictions(folder: Input, evidence: Evidence) -> tuple[Predictions | None, list[str]]:
    """What evaluation.plot_predictions left, None if there is nothing; and what is wrong with it.

    Raises:
        UserError: the index is broken, or a picture is.
    """
    index = read_index(folder)
    if index is None:
        return None, []
    digests = {arm["name"]: arm["checkpoint_digest"] for arm in index["arms"]}
    ranked = [scores.arm.name for scores in evidence.stages if scores.arm.name in digests]
    tiles = [tile_pictures(folder.path / entry["id"], entry, index) for entry in index["tiles"]]
    shown = Predictions(index, ranked[0] if ranked else next(iter(digests)), tiles)
    again = f"draw again: {folder.made_by}"
    if index["taxonomy"] != evidence.taxonomy or index["split_digest"] != evidence.results[0].tiles.split_digest:
        return shown, [f"the predictions shown are of other val tiles or classes than the scores; {again}"]
    stale = []
    for name, digest in digests.items():
        scored = evidence.arms[name].last.get(index["seed"]) if name in evidence.arms else None
        if scored and scored.tiles.checkpoint_digest != digest:
            stale.append(arm_name(ARM_OF[name]))
    if not stale:
        return shown, []
    return shown, [f"the predictions shown of {', '.join(stale)} are of other checkpoints than the scores; {again}"]


def tile_pictures(pictures: Path, entry: dict, index: dict) -> TilePictures:
    """The pictures of a tile, which lie in a folder; UserError if one is broken."""
    names = ["truth.png", *(f"{arm['name']}.png" for arm in index["arms"])]
    sizes = [open_picture(pictures / name).size for name in names]
    unlabelled = entry["pixels"][index["taxonomy"].classes[IGNORE_INDEX]]
    return TilePictures(
        entry,
        1 - unlabelled / (entry["height"] * entry["width"]),
        *sizes[0],
        data_uri(pictures / entry["image"]),
        data_uri(pictures / names[0]),
        [(ARM_OF[arm["name"]], data_uri(pictures / f"{arm['name']}.png")) for arm in index["arms"]],
    )
