"""Odd names of tiles and roots: those that no list can hold are refused, all others go through every step."""

import os
from pathlib import Path

from tests.faults.bad_input import files
from tests.faults.bad_input.shared import (
    ANALYZE,
    AUDIT,
    CHECK_LEAKAGE,
    IMAGE,
    IMAGES,
    MASK,
    REPLICATE,
    SPLITTING,
    Case,
    at,
    handled,
    image,
    kept,
    mask,
    raw_refusals,
)
from tests.helpers import write_groups

ODD_NAMES = ("a b", "été_Ωλ_日本", 'it\'s "odd"', "-rf", "--out-dir", "$HOME;x", "100%", "{seed}", "a.b.c")


def odd_names(root: Path) -> None:
    images = sorted((root / IMAGES).iterdir())
    for path, name in zip(images[: len(ODD_NAMES)], ODD_NAMES, strict=True):  # none is left untried
        mask(root, path.stem).rename(mask(root, name))
        path.rename(image(root, name))


def one_of_them_bad(root: Path) -> None:
    odd_names(root)
    files.cut(image(root, "-rf"))


def listed_as_bad(root: Path) -> None:
    one_of_them_bad(root)
    write_groups(root)
    (root / "out.txt").write_text("-rf\n")


REFUSED = [
    ("tab in a name", at(IMAGE, files.rename("a\tb.tif")), "a\\tb", "Rename"),
    ("newline in a name", at(MASK, files.rename("a\nb.png")), "a\\nb", "Rename"),
    ("name that is no UTF-8", at(IMAGE, files.rename(os.fsdecode(b"a.tif\xff.tif"))), "Rename"),
]
CASES = [
    *raw_refusals("", REFUSED),
    handled(
        "names with spaces, quotes, dashes and other letters, through all steps",
        odd_names,
        "no leakage found",
        module=CHECK_LEAKAGE,
        first=((AUDIT,), (SPLITTING,), (ANALYZE, "--minority-share", "0.9"), (REPLICATE,)),
        root_name='it\'s a "root" of Ωλ',
        holds=kept(*ODD_NAMES),
    ),
    Case(
        "the audit of an odd name in an odd root",
        "raw",
        one_of_them_bad,
        AUDIT,
        ("1 tiles cannot be used (-rf)", "split_biodiversity --root {root} --exclude"),
        writes=("artifacts",),
        root_name="it's a root",
    ),
    handled(
        "an odd name is left out as the audit says",
        listed_as_bad,
        "15 tiles",
        "1 excluded",
        first=(),
        flags=("--exclude", "{root}/out.txt"),
        root_name="it's a root",
    ),
]
