"""What two trainings of one arm, by an earlier build and by this one, say of each other."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean

from tests.benchmarks.measuring import Figure, at_most


@dataclass
class Arm:
    """A training that took turns with another; its seconds are those in which it had the turn.

    ``seconds`` are those of its ``start``, ``training``, ``validation`` and ``saving``, ``processor`` those that its
    threads took of the processor meanwhile; ``validations`` hold ``step``, seconds of ``training`` before it, ``mIoU``
    and the IoU of ``classes``. ``own_validations`` is how many its preset asks for, if more were done. ``memory`` is
    the largest of the process in MiB, as run.json has it; it counts that of the process which started it, too, which
    is therefore kept small.
    """

    steps: int
    seconds: dict[str, float]
    processor: dict[str, float]
    validations: list[dict]
    own_validations: int
    memory: float

    def whole(self, seconds: dict[str, float]) -> float:
        """Seconds of the training with as many validations, each with its saving, as the preset asks for."""
        validating = (seconds["validation"] + seconds["saving"]) / len(self.validations)
        return seconds["training"] + self.own_validations * validating

    @property
    def final(self) -> dict:
        return self.validations[-1]

    def final_of(self, classes: Sequence[str]) -> float:
        """The mean IoU, at the end, of those of the classes that occur; NaN where none does."""
        ious = [self.final["classes"][name] for name in classes if name in self.final["classes"]]
        return fmean(ious) if ious else math.nan


def own_validations(preset: dict) -> int:
    """How many validations a training with this preset does, that after the last step included."""
    return math.ceil(preset["iterations"] / preset["val_every"])


def first_stays_above(curve: Sequence[tuple[float, float]], level: float) -> float:
    """The first time from which on all values are above a level; infinite where the last one is not.

    ``curve`` holds (time, value) in the order of time.
    """
    first = math.inf
    for time, value in reversed(curve):
        if value <= level:
            break
        first = time
    return first


def compare_arms(pairs: list[tuple[str, int, list[Arm]]], minority: Sequence[str]) -> list[Figure]:
    """Figures of the pairs (stage, seed, [arm of the earlier build, arm of this one]), stage by stage."""
    figures = []
    for stage in dict.fromkeys(stage for stage, _, _ in pairs):
        of_stage = [(seed, *arms) for name, seed, arms in pairs if name == stage]
        figures += [
            *_time_until(stage, of_stage),
            *_ratios(stage, [(earlier, this) for _, earlier, this in of_stage]),
            *_scores(stage, of_stage, minority),
        ]
    return figures


def _time_until(stage: str, arms: list[tuple[int, Arm, Arm]]) -> list[Figure]:
    figures, what = [], f"{stage}: time until above the earlier final mIoU"
    for seed, earlier, this in arms:
        at = first_stays_above(
            [(point["training"], point["mIoU"]) for point in this.validations], earlier.final["mIoU"]
        )
        step = next((point["step"] for point in this.validations if point["training"] == at), None)
        when = f"after {at:.0f} s, at step {step} of {this.steps}" if step else "never"
        detail = (
            f"{when}; above {earlier.final['mIoU']:.1%}, the end of {earlier.seconds['training']:.0f} s; validation "
            f"beside it {this.seconds['validation']:.0f} s in {len(this.validations)}"
        )
        figures.append(Figure("8", f"{what}, seed {seed}", at / earlier.seconds["training"], "", detail=detail))
    ratios = [figure.value for figure in figures]
    never = sum(map(math.isinf, ratios))
    detail = f"{never} of {len(ratios)} seeds never" if never else f"{len(ratios)} seeds"
    return [*figures, at_most("8", f"{what}, mean", fmean(ratios), 0.25, "", detail)]


def _ratios(stage: str, arms: list[tuple[Arm, Arm]]) -> list[Figure]:
    """Time and memory of this build : the earlier one."""

    def means(value: Callable[[Arm], float]) -> tuple[float, float, float]:
        """Ratio, and the means over seeds of this build and of the earlier one."""
        earlier, this = (fmean(map(value, side)) for side in zip(*arms, strict=True))
        return this / earlier, this, earlier

    whole, *wholes = means(lambda arm: arm.whole(arm.seconds))
    processor, *processors = means(lambda arm: arm.whole(arm.processor))
    memory, *memories = means(lambda arm: arm.memory)
    parts = [
        f"{part} {this:.0f} and {earlier:.0f} s"
        for part in ("training", "validation", "start")
        for _, this, earlier in [means(lambda arm, part=part: arm.seconds[part])]
    ]
    _, *steps = means(lambda arm: 1000 * arm.seconds["training"] / arm.steps)
    of_it = f"{wholes[0]:.0f} and {wholes[1]:.0f} s; a step {steps[0]:.0f} and {steps[1]:.0f} ms"
    all_of_it = f"{processors[0]:.0f} and {processors[1]:.0f} s; all that was done: {', '.join(parts)}"
    return [
        at_most("8", f"{stage}: time of a whole arm", whole, 0.5, "", of_it),
        Figure("8", "the same in seconds of processor", processor, "", detail=all_of_it),
        at_most("8", f"{stage}: peak memory", memory, 1, "", f"{memories[0]:.0f} and {memories[1]:.0f} MiB"),
    ]


def _scores(stage: str, arms: list[tuple[int, Arm, Arm]], minority: Sequence[str]) -> list[Figure]:
    figures = []
    for seed, earlier, this in arms:
        for what, now, before in (
            ("mIoU", this.final["mIoU"], earlier.final["mIoU"]),
            ("minority mIoU", this.final_of(minority), earlier.final_of(minority)),
        ):
            figures.append(
                Figure("8", f"{stage}: {what} at the end, seed {seed}", 100 * now, "%", detail=f"before {before:.1%}")
            )
    return figures
