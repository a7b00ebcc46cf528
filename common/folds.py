"""Studies by folds: ``R/folds/<k>`` is the root of fold k; files that no fold changes lie below R itself."""

import json
import os
from pathlib import Path

FOLDS = "folds"  # folder of a study's root
RECORD = "folds.json"  # in it: how many folds the tiles were dealt into
USUAL_FOLDS = 5
FOLDS_MODULE = "data_prep.split_biodiversity"  # the script that is called with the study's root for each fold


def fold_root(study: Path, fold: int) -> Path:
    """The root of a fold of the study whose root is ``study``."""
    return study / FOLDS / str(fold)


def fold_number(root: Path) -> int | None:
    """The fold whose root this is: 3 for ``R/folds/3``; None for any other folder."""
    path = Path(os.path.abspath(root))
    is_fold = path.parent.name == FOLDS and path.name.isascii() and path.name.isdigit() and path.name[0] != "0"
    return int(path.name) if is_fold else None


def study_root(root: Path) -> Path:
    """R for ``R/folds/3``, and any other folder itself: the home of files that no fold changes."""
    if fold_number(root) is None:
        return root
    spelled = len(root.parts) > 1 and root.parts[-2] == FOLDS  # not if root is given as . or as 3
    return root.parent.parent if spelled else Path(os.path.abspath(root)).parent.parent


def repeat_of(fold: int, folds: int) -> int:
    """Which dealing a fold belongs to: of five folds 1 to 5 to the first, 6 to 10 to the second."""
    return (fold - 1) // folds + 1


def number_of_folds(study: Path) -> int:
    """How many folds the tiles of a study were dealt into; the usual number if its record does not say."""
    try:
        folds = json.loads((study / FOLDS / RECORD).read_text(encoding="utf-8"))["folds"]
    except (OSError, ValueError, KeyError, TypeError):
        return USUAL_FOLDS
    return folds if isinstance(folds, int) and folds > 1 else USUAL_FOLDS
