"""What is run, for which seeds, in which order."""

import itertools
from collections import Counter
from dataclasses import dataclass, field

from reproduction.documents import Step

RUN_PER_SEED = "REPRODUCE_TRAINING.md"


@dataclass
class Run:
    """A step for one seed; ``seed`` is empty where the step runs once."""

    step: Step
    seed: str
    label: str  # names it in messages
    argv: list[str] = field(default_factory=list)
    can_resume: bool = False
    number: int = 0  # counts what is begun


def plan(steps: list[Step], seeds: list[str]) -> list[Run]:
    """Every step with its seed, in the order of one job: what runs once, one seed after the other, what runs once."""
    runs = []
    for document, group in itertools.groupby(steps, key=lambda step: step.document):
        group = list(group)
        for seed in seeds if document == RUN_PER_SEED else [""]:
            several = f" seed {seed}" if seed and len(seeds) > 1 else ""
            runs += [Run(step, seed, step.name + several) for step in group]
    return runs


def needs(step: Step, seed: str, other: Run) -> bool:
    """Whether a step of a seed builds on another.

    A training builds on what runs once before it, and of its own seed on the steps that its text names; where it names
    none, on all before it but controls. What runs once builds on all before it.
    """
    if step.position <= other.step.position:
        return False
    if not seed or not other.seed:
        return True
    if step.builds_on is not None and step.document == other.step.document:
        return seed == other.seed and other.step.number in step.builds_on
    return seed == other.seed and not other.step.is_control


def next_run(waiting: list[Run], running: list[Run], jobs: int) -> Run | None:
    """What a free place takes. With one job the next step; with several the one that most waiting steps build on, and
    of equal ones that of the seed with most steps left.

    None where no place is free, or where all that waits needs what runs.
    """
    if len(running) == jobs:
        return None
    ahead = [*waiting, *running]
    ready = [run for run in waiting if not any(needs(run.step, run.seed, other) for other in ahead)]

    left = Counter(run.seed for run in waiting)

    def urgency(run: Run) -> tuple[int, int]:
        return sum(needs(other.step, other.seed, run) for other in waiting), left[run.seed]

    return max(ready, key=urgency, default=None) if jobs > 1 else next(iter(ready), None)
