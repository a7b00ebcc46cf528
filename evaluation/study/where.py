"""Where the results of a study lie: those of one split, or those of its folds."""

from pathlib import Path

from common.folds import FOLDS, fold_number, fold_root
from common.inputs import Command, Input

VAL = Path("evaluation/evaluation_results/val")
SCORE_VAL = "evaluation.compute_metrics --split val"


def folds_with_results(root: Path) -> list[Path]:
    """The roots of the folds of a study whose val was scored, in order."""
    numbers = sorted(fold_number(path) or 0 for path in (root / FOLDS).glob("*"))
    return [home for number in numbers if number and (home := fold_root(root, number)).joinpath(VAL).is_dir()]


def results_of(in_dir: Input, root: Path) -> list[Input]:
    """The results of each fold of the study at ``root`` if there are any; ``in_dir`` if not, or if it was chosen."""
    folds = folds_with_results(root) if in_dir.path == root / VAL else []
    return [Input(home / VAL, Command.of(SCORE_VAL, home), in_dir.flag) for home in folds] or [in_dir]
