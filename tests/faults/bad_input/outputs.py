"""Outputs of data steps that would destroy an input, or a folder of somebody else."""

import shutil
from pathlib import Path

from tests.faults.bad_input import files
from tests.faults.bad_input.shared import (
    FILTER,
    PREPARE_TEACHER,
    RAW,
    RELABEL,
    REPLICATE,
    SPLIT,
    SPLITTING,
    Case,
    at,
    nothing,
)
from tests.helpers import OEM_RAW

COMBINE = "data_prep.combine_biodiversity_oem"
TRAIN, FILTERED = SPLIT / "train", Path("data/openearthmap_filtered")
STEPS = (  # of each the root, the flag of an input, that input and an output
    (SPLITTING, "raw", "--in-dir", RAW, TRAIN),
    (FILTER, "oem", "--in-dir", OEM_RAW, FILTERED),
    (REPLICATE, "data", "--train-dir", TRAIN, SPLIT / "train_rep"),
    (PREPARE_TEACHER, "data", "--in-dir", FILTERED, Path("data/openearthmap_teacher/train")),
    (RELABEL, "data", "--in-dir", FILTERED, Path("data/openearthmap_relabelled")),
    (COMBINE, "data", "--train-dir", TRAIN, Path("data/biodiversity_oem_combined/train")),
)
NESTED = ("--out-dir", "lie in one another", "Choose another --out-dir")


def bury(folder: Path) -> files.Spoil:
    """Moves an input to where an output would lie above it."""

    def spoil(root: Path) -> None:
        (root / "new/train").mkdir(parents=True)
        (root / folder).rename(root / "new/train/old")

    return spoil


def replace_by_foreign(folder: Path) -> None:
    """Put a folder of somebody else, with a file of worth in it, in the place of an output."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "thesis.txt").write_text("years of work")


CASES = [
    Case(f"{module}: {name}", base, spoil, module, words, flags, quick=quick)
    for module, base, in_flag, source, output in STEPS
    for name, spoil, flags, words, quick in (
        ("--out-dir inside its input", nothing, ("--out-dir", f"{{root}}/{source}/new"), NESTED, module == COMBINE),
        (
            "--out-dir above its input",
            bury(source),
            ("--overwrite", in_flag, "{root}/new/train/old", "--out-dir", "{root}/new"),
            NESTED,
            module == SPLITTING,
        ),
        (
            "--overwrite of a folder of somebody else",
            at(output, replace_by_foreign),
            ("--overwrite",),
            (str(output), "not deleted", "Move it away"),
            True,
        ),
    )
]
