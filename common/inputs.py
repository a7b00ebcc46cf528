"""Commands of this project, and paths that know which command makes what lies there.

What to do if an input is missing, or is not what it should be, is worded here and nowhere else.
"""

import shlex
from dataclasses import dataclass
from pathlib import Path

from common.errors import UserError
from common.folds import FOLDS_MODULE, fold_number, number_of_folds, study_root

# Steps that replace their small files without --overwrite.
REPLACES_UNASKED = {
    "data_prep.analyze_class_distribution",
    "data_prep.check_biodiversity",
    "data_prep.check_leakage",
    "evaluation.aggregate_metrics",
    "evaluation.build_report",
    "evaluation.estimate_areas",
    "evaluation.plot_predictions",
}


@dataclass(frozen=True)
class Command:
    """A command line, as a user would type it."""

    words: tuple[str, ...]

    @classmethod
    def of(cls, module: str, root: Path, *flags: str) -> "Command":
        """That of a script (``training.train_teacher``, or with flags of its own) for a root.

        A fold is split from the root of its study.
        """
        script, *own = shlex.split(module)
        fold = fold_number(root)
        if fold is not None and script == FOLDS_MODULE:
            root = study_root(root)
            own += ["--folds", str(number_of_folds(root)), "--fold", str(fold)]
        where = () if root == Path(".") else ("--root", str(root))
        return cls(("python", "-m", script, *where, *own, *flags))

    @classmethod
    def read(cls, text: str) -> "Command":
        """What ``str`` made of a command. Raises ValueError if it is none."""
        return cls(tuple(shlex.split(text)))

    def __str__(self) -> str:
        return shlex.join(self.words)

    def plus(self, *flags: str) -> "Command":
        return Command((*self.words, *flags))

    def without(self, flag: str) -> "Command":
        """This command without a flag and its value."""
        words = list(self.words)
        if flag in words:
            del words[words.index(flag) : words.index(flag) + 2]
        return Command(tuple(words))

    def again(self, *flags: str) -> "Command":
        """This command for an output that exists already."""
        unasked = len(self.words) > 2 and self.words[2] in REPLACES_UNASKED
        return self._afresh().plus(*flags, *(() if unasked else ("--overwrite",)))

    def resumed(self) -> "Command":
        """This command, to continue a training that was interrupted."""
        return self._afresh().plus("--resume")

    def _afresh(self) -> "Command":
        return Command(tuple(word for word in self.words if word not in ("--overwrite", "--resume")))


@dataclass(frozen=True)
class Input:
    """A file or folder that a script of this project writes: its path, and the command that makes it.

    It works wherever Python takes a path. ``flag`` is the one by which a user chooses it.
    """

    path: Path
    made_by: Command
    flag: str = ""

    def __fspath__(self) -> str:
        return str(self.path)

    def __str__(self) -> str:
        return str(self.path)

    def __truediv__(self, name: str) -> "Input":
        """What lies below it, made by the same command."""
        return Input(self.path / name, self.made_by, self.flag)

    @property
    def _make(self) -> str:
        return "Train" if "training.train_" in str(self.made_by) else "Write"

    def missing(self, problem: str = "does not exist") -> UserError:
        """The error for a file that does not exist, with the command that makes it."""
        return UserError(f"{self.path} {problem}. {self._make} it first: {self.made_by}")

    def unusable(self, problem: str, *flags: str) -> UserError:
        """The error for a file that cannot be used: what is wrong with it, and the command that makes it again.

        Args:
            problem: a sentence without its full stop, in which the path is named.
            flags: more of them for the command, if only other settings help.
        """
        return UserError(f"{problem}. {self._make} it again: {self.made_by.again(*flags)}")
