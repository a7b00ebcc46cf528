"""What must hold before a training begins: a device, two tile sets that share nothing, tiles larger than the crops."""

from pathlib import Path

import torch

from common.cli import command_for
from common.device import cuda_problem, resolve_device
from common.errors import UserError
from common.files import read_json
from common.ground import overlapping
from common.taxonomy import Taxonomy, load_taxonomy
from common.text import some, warn
from common.tiles import TileSet, is_blank, is_openearthmap, manifest_digest, shared_ids

LEAKAGE_REPORT = "artifacts/leakage.json"


def open_train_and_val(args, made_by: str, taxonomy: Taxonomy | None = None) -> tuple[TileSet, TileSet]:
    """The tile sets of --train-dir and --val-dir.

    ``made_by`` is the data step that writes --train-dir; ``taxonomy`` that of the root unless given.

    Raises:
        UserError: the device cannot be used, a set is missing, is not the split it is used as, has other classes,
            shares something with the other, or its tiles are not larger than the crop.
    """
    _device(args)  # stops before anything is read where the preset cannot run here
    taxonomy = taxonomy or load_taxonomy(args.root)
    train = TileSet.open(args.train_dir, command_for(made_by, args)).require_split("train", "--train-dir")
    train.require_taxonomy(taxonomy)
    val_made_by = made_by if taxonomy.from_openearthmap is None else "data_prep.split_biodiversity"
    val = TileSet.open(args.val_dir, command_for(val_made_by, args)).require_split("val", "--val-dir")
    val.require_taxonomy(taxonomy)
    check = command_for("data_prep.check_leakage", args)
    require_apart(train, val, check)
    require_checked(args.root / LEAKAGE_REPORT, train, val, check)
    small = [tile.id for tile in train if min(tile.entry["height"], tile.entry["width"]) <= args.crop_size]
    if small:
        raise UserError(
            f"--crop-size {args.crop_size}: {len(small)} of {len(train)} tiles of {args.train_dir} are not larger "
            f"(first: {small[0]}), so that cropping would mean nothing. Give a smaller --crop-size."
        )
    if not any(tile.labelled for tile in val):
        raise UserError(f"{args.val_dir}: no tile has a labelled pixel, so nothing can be validated.")
    return train, val


def _device(args) -> torch.device:
    device = resolve_device(args.device)
    if args.preset == "paper" and device.type == "cpu" and args.device == "auto":
        raise UserError(
            f"--preset paper is meant for a GPU: {cuda_problem()}. On the CPU choose --preset laptop, "
            "or give --device cpu to train the paper setting there all the same."
        )
    return device


def shared_images(train: TileSet, val: TileSet) -> list[str]:
    """The tiles of ``train`` whose file or pixels are also in ``val``; images of one colour do not count."""
    found = set()
    for key in ("sha256", "content_sha256"):
        held = {tile.entry[key] for tile in val}
        found |= {tile.id for tile in train if tile.entry[key] in held}
    return [name for name in sorted(found) if not is_blank(train[name])]


def split_by_block(train: TileSet, val: TileSet) -> bool:
    """Whether blocks were drawn: always for a teacher; for others unless their manifests say that tiles were drawn."""
    said = {tiles.manifest.get("split_strategy") for tiles in (train, val)} - {None}
    return said != {"random"}


def require_apart(train: TileSet, val: TileSet, command: str) -> None:
    """Refuse to train and validate on sets that share tiles, images, ground or spatial blocks, from manifests alone.

    ``command`` is that of ``check_leakage``, which reads the tiles, too; the message names it.

    Raises:
        UserError: the first thing that is shared; a manifest that was changed after it was written; images of another
            scaling; OpenEarthMap tiles among those that Biodiversity classes are validated on.
    """
    for tiles in (train, val):
        if tiles.digest != manifest_digest(tiles.manifest):
            raise UserError(
                f"{tiles.path}: its manifest was changed after it was written. Make the folder again with "
                f"--overwrite, then: {command}"
            )
    if train.stretch != val.stretch:
        raise UserError(
            f"{val.path} was scaled to 8 bit by another range than {train.path}. Make both from one split: "
            "data_prep.split_biodiversity --overwrite, and the steps after it."
        )
    own = list(train)
    if val.taxonomy.from_openearthmap is not None:
        own = [tile for tile in train if not is_openearthmap(tile)]
        strangers = [tile.id for tile in val if is_openearthmap(tile)]
        if strangers:
            raise UserError(f"{val.path} holds {len(strangers)} OpenEarthMap tiles: {some(strangers)}. See: {command}")
    held = {tile.block for tile in val} if split_by_block(train, val) else set()
    for what, names in (
        ("images", shared_images(train, val)),
        ("tile ids", shared_ids(own, list(val))),
        ("tiles of one spatial block", [tile.id for tile in train if tile.block in held]),
        ("tiles of one ground", sorted({train.ids[i] for i, _ in _common_ground(train, val)})),
    ):
        if names:
            raise UserError(
                f"{train.path} and {val.path} share {len(names)} {what} (first: {names[0]}). See all of it: {command}"
            )


def _common_ground(train: TileSet, val: TileSet) -> list[tuple[int, int]]:
    return overlapping([tile.entry for tile in train], [tile.entry for tile in val])


def require_checked(report_path: Path, train: TileSet, val: TileSet, command: str) -> None:
    """Refuse to train on sets in which ``check_leakage`` found something; warn where it did not look at these.

    ``command`` is that of ``check_leakage``.

    Raises:
        UserError: the report names findings, or is none.
    """
    if not report_path.is_file():
        warn(f"{report_path} does not exist: nobody has looked whether val is in train. Write it: {command}")
        return
    report = read_json(report_path, command)
    try:
        digests = {part["digest"] for part in report["sets"].values()}
        passed, findings = report["passed"], [finding["text"] for finding in report["findings"]]
    except (TypeError, KeyError, AttributeError):
        raise UserError(f"{report_path} is not a report of check_leakage. Write it again: {command}") from None
    if not {train.digest, val.digest} <= digests:
        warn(f"{report_path} is of other versions of {train.path} or {val.path}. Write it again: {command}")
    elif passed is not True or findings:
        lines = "\n".join(f"  {text}" for text in findings)
        raise UserError(
            f"{report_path} has {len(findings)} findings:\n{lines}\n"
            f"Make the tile sets again in the order of REPRODUCE_DATA.md, then: {command}"
        )
