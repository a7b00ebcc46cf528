"""Folders of raw tiles that are missing, empty or too small, and lists of tiles to leave out."""

import shutil
from pathlib import Path

from tests.faults.bad_input import files
from tests.faults.bad_input.shared import AUDIT, IMAGE, IMAGES, MASKS, SPLITTING, Case, at, mask, raw_refusals, refusals


def keep_tiles(count: int) -> files.Spoil:
    def spoil(root: Path) -> None:
        for path in sorted((root / IMAGES).iterdir())[count:]:
            path.unlink()
            mask(root, path.stem).unlink()

    return spoil


def damage_two_tiles(root: Path) -> None:
    files.cut(root / IMAGE)
    mask(root, "tile_2_2").unlink()


def list_every_tile(root: Path) -> None:
    (root / "out.txt").write_text("".join(f"{path.stem}\n" for path in (root / IMAGES).iterdir()))


FEW = [
    ("one tile in all", keep_tiles(1), "biodiversity_raw: 1 tiles make 1 blocks", "add tiles"),
    ("two tiles in all", keep_tiles(2), "2 tiles make 1 blocks", "add tiles"),
]
SETS = [
    ("tiles that are gone since the audit", keep_tiles(9), "groups.tsv names raw tiles that are gone", AUDIT),
    (
        "no table of the groups",
        at("artifacts/audit/groups.tsv", Path.unlink),
        "groups.tsv does not exist",
        AUDIT,
    ),
    ("a table of the groups that is cut off", at("artifacts/audit/groups.tsv", files.cut), "groups.tsv", AUDIT),
    (
        "empty images folder",
        at(IMAGES, files.empty_folder),
        "biodiversity_raw/images holds no image (.tif",
        "Put the raw images there",
    ),
    ("no masks folder", at(MASKS, shutil.rmtree), "biodiversity_raw/masks does not exist", "--in-dir"),
    ("images folder is a link in a circle", at(IMAGES, files.link("images")), "biodiversity_raw/images", "--in-dir"),
]
EXCLUDED = [
    (
        "--exclude of other tiles",
        at("out.txt", files.rewrite(b"elsewhere\n")),
        "--exclude",
        "out.txt names 1 tiles that are not in",
        AUDIT,
    ),
    ("--exclude that is no text", at("out.txt", files.rewrite(b"\xff\xfe\0")), "--exclude", "out.txt", AUDIT),
    ("--exclude of every tile", list_every_tile, "0 tiles (16 excluded", "Add tiles"),
]
CASES = [
    *refusals("raw", "", SPLITTING, FEW, first=((AUDIT, "--skip-suspicious"),)),
    *refusals("raw", "", SPLITTING, SETS),
    *refusals("raw", "", SPLITTING, EXCLUDED, flags=("--exclude", "{root}/out.txt")),
    *raw_refusals(MASKS, [("empty masks folder", files.empty_folder, "16 tiles", "has no mask")]),
    Case(
        "the audit of bad tiles",
        "raw",
        damage_two_tiles,
        AUDIT,
        ("2 tiles cannot be used", "split_biodiversity", "--exclude"),
        writes=("artifacts",),
    ),
]
