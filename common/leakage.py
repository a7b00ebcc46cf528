"""What a training set and the set that it is validated on must not share, as far as their manifests tell."""

from pathlib import Path

from common.cli import UserError
from common.files import read_json
from common.splitting import overlapping
from common.text import some, warn
from common.tiles import Tile, TileSet, manifest_digest


def is_openearthmap(tile: Tile) -> bool:
    """Whether a tile's entry says that it comes from OpenEarthMap."""
    return tile.entry.get("source") == "openearthmap" or bool(tile.entry.get("region"))


def is_blank(tile: Tile) -> bool:
    """Whether an image has one colour throughout, so that its being in two splits tells nothing."""
    image = tile.read_image()
    return bool((image == image[:, :1, :1]).all())


def shared_ids(train: list[Tile], val: list[Tile]) -> list[str]:
    """The tiles of ``train`` that have an id or a base in ``val``, where a replica counts as its base."""
    held = {name for tile in val for name in (tile.id, tile.base)}
    return [tile.id for tile in train if {tile.id, tile.base} & held]


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
