"""Checks before a training begins: a device, two tile sets that share nothing, tiles larger than the crops."""

import argparse

import torch

from common.artifacts import read_leakage
from common.device import cuda_problem, resolve_device
from common.errors import UserError
from common.ground import SLIVER, overlapping
from common.inputs import Input
from common.taxonomy import Taxonomy, load_taxonomy
from common.text import some, warn
from common.tiles import TileSet, is_blank, is_openearthmap, manifest_digest, shared_ids
from training.engine.flags import RunOptions


def open_train_and_val(args: argparse.Namespace, taxonomy: Taxonomy | None = None) -> tuple[TileSet, TileSet]:
    """The tile sets of --train-dir and --val-dir; ``taxonomy`` is that of the root unless given.

    Raises:
        UserError: the device cannot be used, a set is missing, is not the split it is used as, has other classes,
            shares something with the other, or its tiles are not larger than the crop.
    """
    training_device(args.run)  # stops before anything is read if the preset cannot run here
    taxonomy = taxonomy or load_taxonomy(args.root)
    train = TileSet.open(args.train_dir).require_split("train").require_taxonomy(taxonomy)
    val = TileSet.open(args.val_dir).require_split("val").require_taxonomy(taxonomy)
    require_apart(train, val, args.leakage)
    require_checked(train, val, args.leakage)
    small = [tile.id for tile in train if min(tile.entry["height"], tile.entry["width"]) <= args.crop_size]
    if small:
        raise UserError(
            f"--crop-size {args.crop_size}: {len(small)} of {len(train)} tiles of {args.train_dir} are not larger "
            f"(first: {small[0]}), so a crop would be the complete tile. Give a smaller --crop-size."
        )
    if not any(tile.labelled for tile in val):
        raise UserError(f"{args.val_dir}: no tile has a labelled pixel, so nothing can be validated.")
    return train, val


def training_device(run: RunOptions) -> torch.device:
    """The device of a run. Raises UserError if it cannot be used, or is no GPU for the paper preset."""
    device = resolve_device(run.device)
    if run.preset == "paper" and device.type == "cpu" and run.device == "auto":
        raise UserError(
            f"--preset paper is meant for a GPU: {cuda_problem()}. On the CPU choose --preset laptop, "
            "or give --device cpu to train the paper setting there anyway."
        )
    return device


def shared_images(train: TileSet, val: TileSet) -> list[str]:
    """The tiles of ``train`` whose file or pixels are also in ``val``; images of one colour do not count."""
    shared = set()
    for key in ("sha256", "content_sha256"):
        of_val = {tile.entry[key] for tile in val}
        shared |= {tile.id for tile in train if tile.entry[key] in of_val}
    return [tile_id for tile_id in sorted(shared) if not is_blank(train[tile_id])]


def split_by_block(train: TileSet, val: TileSet) -> bool:
    """Whether blocks were drawn: always for a teacher; for others unless their manifests say that tiles were drawn."""
    strategies = {tiles.manifest.get("split_strategy") for tiles in (train, val)} - {None}
    return strategies != {"random"}


def require_apart(train: TileSet, val: TileSet, report: Input) -> None:
    """Refuse to train and validate on sets that share tiles, images, areas or spatial blocks, by their manifests.

    ``report`` is that of check_leakage, which reads the tiles, too; messages name its command.

    Raises:
        UserError: the first thing that is shared; a manifest that was changed after it was written; images of other
            bands or another scaling; OpenEarthMap tiles among those that Biodiversity classes are validated on.
    """
    for tiles in (train, val):
        if tiles.digest != manifest_digest(tiles.manifest):
            error = tiles.source.unusable(f"{tiles.path}: its manifest was changed after it was written")
            raise UserError(f"{error}\nThen: {report.made_by}")
    if train.stretch != val.stretch:
        raise val.source.unusable(
            f"{val.path} was scaled to 8 bit by another range than {train.path}. Make both from one split, then all "
            "that was made from them"
        )
    val.require_bands_of(train)
    own = list(train)
    if val.taxonomy.from_openearthmap is not None:
        own = [tile for tile in train if not is_openearthmap(tile)]
        foreign = [tile.id for tile in val if is_openearthmap(tile)]
        if foreign:
            raise UserError(
                f"{val.path} holds {len(foreign)} OpenEarthMap tiles: {some(foreign)}. See: {report.made_by}"
            )
    val_blocks = {tile.block for tile in val} if split_by_block(train, val) else set()
    ignored = val.manifest.get("overlaps") == "ignore"
    overlaps = [] if ignored else overlapping([tile.entry for tile in train], [tile.entry for tile in val], SLIVER)
    for shared, names in (
        ("images", shared_images(train, val)),
        ("tile ids", shared_ids(own, list(val))),
        ("tiles of one spatial block", [tile.id for tile in train if tile.block in val_blocks]),
        ("tiles that show the same area", sorted({train.ids[i] for i, _ in overlaps})),
    ):
        if names:
            raise UserError(
                f"{train.path} and {val.path} share {len(names)} {shared} (first: {names[0]}). "
                f"See all of it: {report.made_by}"
            )


def require_checked(train: TileSet, val: TileSet, source: Input) -> None:
    """Refuse to train on sets in which check_leakage found something; warn if it did not look at these.

    ``source`` is its report.

    Raises:
        UserError: the report names findings, or is none.
    """
    report = read_leakage(source)
    if report is None:
        warn(f"{source} does not exist: the leakage check has not been run. Write it: {source.made_by}")
        return
    findings = [finding["text"] for finding in report["findings"]]
    if not {train.digest, val.digest} <= {part["digest"] for part in report["sets"].values()}:
        warn(f"{source} is of other versions of {train.path} or {val.path}. Write it again: {source.made_by}")
    elif not report["passed"] or findings:
        lines = "\n".join(f"  {text}" for text in findings)
        raise UserError(
            f"{source} has {len(findings)} findings:\n{lines}\n"
            f"Make the tile sets again in the order of REPRODUCE_DATA.md, then: {source.made_by}"
        )
