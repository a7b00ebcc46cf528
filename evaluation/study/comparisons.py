"""Which arms are compared with which, and which of the comparisons are tested together."""

from typing import NamedTuple

from common.stages import ARM_OF, RIVALS, STAGE_NAMES, Arm

MINORITY = "minority mIoU"


class Comparison(NamedTuple):
    """``arm`` against ``other``. Their recipes may differ below ``component`` alone, or anywhere if it is None."""

    arm: Arm
    other: Arm
    component: str | None

    @property
    def unequal(self) -> str | None:
        """A remark if the two have not seen the same number of steps, which is known beforehand."""
        return "twice the steps" if self.arm.trainings == 2 * self.other.trainings else None


class Family(NamedTuple):
    """Comparisons whose p-values are corrected together, for each of ``metrics``."""

    title: str
    about: str
    comparisons: tuple[Comparison, ...]
    metrics: tuple[str, ...]

    @property
    def hypotheses(self) -> int:
        """How many tests the family holds, made or not."""
        return len(self.comparisons) * len(self.metrics)


def _comparison(arm: str, other: str, component: str | None) -> Comparison:
    return Comparison(ARM_OF[arm], ARM_OF[other], component)


PRIMARY = Family(
    "Primary comparisons",
    "what the recipe as a whole brings at an equal number of steps",
    (
        _comparison("stage4_minority_crop", "stage1_baseline", None),
        _comparison("stage6_distill", "control_5b_from_stage1", None),
    ),
    ("mIoU", MINORITY),
)
COMPONENTS = Family(
    "Components",
    "what each one change brings",
    (
        _comparison("stage2_replication", "stage1_baseline", "tiles"),
        _comparison("stage3_difficulty", "stage2_replication", "sampler"),
        _comparison("stage4_minority_crop", "stage3_difficulty", "cropper"),
        _comparison("stage5b_finetune", "control_5b_from_stage1", "init"),
        _comparison("stage6_distill", "stage5b_finetune", "loss.kd"),
        _comparison("stage6_distill", "control_kd_uniform", "loss.kd.remap"),
    ),
    ("mIoU",),
)
AGAINST_RIVALS = Family(
    "Rivals",
    "whether the stages do better than what one would use instead, at an equal number of steps",
    tuple(_comparison("stage4_minority_crop", rival.name, None) for rival in RIVALS),
    ("mIoU",),
)
FAMILIES = (PRIMARY, COMPONENTS, AGAINST_RIVALS)  # fixed before any result was looked at
PLANNED = tuple(comparison for family in FAMILIES for comparison in family.comparisons)
_DESCRIBED = (
    _comparison("stage5a_pretrain", "stage1_baseline", "tiles"),
    _comparison("stage5b_finetune", "stage4_minority_crop", "init"),
    _comparison("control_5b_from_stage1", "stage4_minority_crop", "init"),
    _comparison("stage6_distill", "control_kd_cycled", "loss.kd.remap"),
    _comparison("control_kd_cycled", "stage5b_finetune", "loss.kd"),
    _comparison("control_kd_uniform", "stage5b_finetune", "loss.kd"),
    *(_comparison(rival.name, "stage1_baseline", rival.component) for rival in RIVALS),
)
_COMPARED = {(comparison.arm.name, comparison.other.name) for comparison in PLANNED + _DESCRIBED}
DESCRIPTIVE = _DESCRIBED + tuple(
    _comparison(stage, "stage1_baseline", None)
    for stage in STAGE_NAMES[1:]
    if (stage, "stage1_baseline") not in _COMPARED
)
