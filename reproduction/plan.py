"""What is run, for which folds or seeds, in which order."""

import itertools
from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

from reproduction.documents import FIRST, ONCE, Step

RUN_PER_SEED = "REPRODUCE_TRAINING.md"
DOCUMENTED_SEED = "42"  # the default of every script


class Place(NamedTuple):
    """The fold and the seed that a step is run for; both are empty if it runs once, the fold in a study by seeds."""

    fold: str = ""
    seed: str = ""

    def __str__(self) -> str:
        """The folder of its logs."""
        return f"fold{self.fold}" if self.fold else f"seed{self.seed}" if self.seed else ""


ONE_PLACE = Place()


@dataclass
class Run:
    """A step for one seed, or for one fold and its seed; ``seed`` is empty if the step runs once."""

    step: Step
    seed: str
    label: str  # names it in messages
    argv: list[str] = field(default_factory=list)
    can_resume: bool = False
    number: int = 0  # counts what is begun
    fold: str = ""

    @property
    def place(self) -> Place:
        return Place(self.fold, self.seed)


def plan(steps: list[Step], seeds: list[str]) -> list[Run]:
    """Every step with its seed, in the order of one job: what runs once, one seed after the other, what runs once."""
    runs = []
    for document, group in itertools.groupby(steps, key=lambda step: step.document):
        group = list(group)
        for seed in seeds if document == RUN_PER_SEED else [""]:
            several = f" seed {seed}" if seed and len(seeds) > 1 else ""
            runs += [Run(step, seed, step.name + several) for step in group]
    return runs


def plan_folds(steps: list[Step], folds: list[int], seed: int) -> list[Run]:
    """Every step with its fold, in the order of one job: document by document, one fold after the other.

    Fold k runs with the seed ``seed`` + k - 1, whatever the others are. What runs once stands before what builds on it.
    """
    runs = []
    for _, group in itertools.groupby(steps, key=lambda step: step.document):
        group = list(group)
        runs += [Run(step, "", step.name) for step in group if step.where == ONCE]
        for fold in folds:
            here = [step for step in group if step.where != ONCE and (fold == 1 or step.where != FIRST)]
            runs += [Run(step, str(seed + fold - 1), f"{step.name} fold {fold}", fold=str(fold)) for step in here]
    ordered = []
    while runs:
        ready = next(run for run in runs if not any(needs(run.step, run.place, other) for other in runs))
        runs.remove(ready)
        ordered.append(ready)
    return ordered


def of_folds_alone(runs: list[Run]) -> list[Run]:
    """Without what runs once after the folds, such as their comparison; what the folds build on stays."""
    of_folds = [run for run in runs if run.fold]
    return [run for run in runs if run.fold or not any(needs(run.step, run.place, other) for other in of_folds)]


def needs(step: Step, place: Place, other: Run) -> bool:
    """Whether a step, run in a place, builds on another run.

    It builds on the steps of its own fold or seed, and on what runs once: of its document on those that its text names,
    of earlier documents on all. Where its text names none it builds on all before it, but on controls and rivals only
    if it runs once or they are in another document. What runs once builds on steps of all folds and seeds.
    """
    if step.position <= other.step.position:
        return False
    both_of_many = ONE_PLACE not in (place, other.place)
    if both_of_many and place != other.place:
        return False
    if step.document != other.step.document:
        return True
    if step.builds_on is not None:
        return other.step.number in step.builds_on
    return not (both_of_many and other.step.mark)


def next_run(waiting: list[Run], running: list[Run], jobs: int) -> Run | None:
    """What a free place takes. With one job the next step; with several the one that most waiting steps build on, and
    of equal ones that of the fold or seed with most steps left.

    None if no place is free, or if all that waits needs what runs.
    """
    if len(running) == jobs:
        return None
    ahead = [*waiting, *running]
    ready = [run for run in waiting if not any(needs(run.step, run.place, other) for other in ahead)]

    left = Counter(run.place for run in waiting)

    def urgency(run: Run) -> tuple[int, int]:
        return sum(needs(other.step, other.place, run) for other in waiting), left[run.place]

    return max(ready, key=urgency, default=None) if jobs > 1 else next(iter(ready), None)
