"""Where the results of a study lie: those of one split, or those of its folds."""

import os
from pathlib import Path

from common.folds import FOLDS, fold_number, fold_root
from common.inputs import Command, Input
from common.stages import ARM_OF
from evaluation.scoring.results import seed_folders

VAL = Path("evaluation/evaluation_results/val")
SCORE_VAL = "evaluation.compute_metrics --split val"


def folds_with_results(root: Path) -> list[Path]:
    """The roots of the folds of a study whose val was scored, in order."""
    numbers = sorted(fold_number(path) or 0 for path in (root / FOLDS).glob("*"))
    return [home for number in numbers if number and (home := fold_root(root, number)).joinpath(VAL).is_dir()]


def results_of(in_dir: Input, root: Path) -> list[Input]:
    """The results of each fold of the study at ``root`` if there are any; ``in_dir`` if not, or if it was chosen."""
    folds = folds_with_results(root) if os.path.abspath(in_dir.path) == os.path.abspath(root / VAL) else []
    return [Input(home / VAL, Command.of(SCORE_VAL, home), in_dir.flag) for home in folds] or [in_dir]


def not_compared(in_dir: Input, root: Path) -> list[str]:
    """A sentence if results of one split lie beside those of the folds that are compared."""
    beside = results_of(in_dir, root) != [in_dir] and any(seed_folders(in_dir.path / arm) for arm in ARM_OF)
    return [f"{in_dir}: the results of one split there are no part of the comparison of the folds"] if beside else []


def fold_of(in_dir: Path) -> int | None:
    """The fold in whose root results lie; None for those of one split, and for a folder that was chosen."""
    path = Path(os.path.abspath(in_dir))
    return fold_number(path.parents[len(VAL.parts) - 1]) if path.parts[-len(VAL.parts) :] == VAL.parts else None
