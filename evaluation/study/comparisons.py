"""Which arms are compared with which, and which of the comparisons are tested."""

from typing import NamedTuple

from common.stages import ARM_OF, STAGE_NAMES, Arm


class Comparison(NamedTuple):
    """``arm`` against ``other``; a planned one is tested.

    ``component``: the path in the recipe below which alone the two may differ, None for any.
    """

    arm: Arm
    other: Arm
    planned: bool
    component: str | None

    @property
    def unequal(self) -> str | None:
        """A remark where the two have not seen the same number of steps, as is known of them beforehand."""
        return "twice the steps" if self.arm.trainings == 2 * self.other.trainings else None


def _comparison(arm: str, other: str, component: str | None, *, planned: bool = False) -> Comparison:
    return Comparison(ARM_OF[arm], ARM_OF[other], planned, component)


PLANNED = (
    _comparison("stage2_replication", "stage1_baseline", "tiles", planned=True),
    _comparison("stage3_difficulty", "stage2_replication", "sampler", planned=True),
    _comparison("stage4_minority_crop", "stage3_difficulty", "cropper", planned=True),
    _comparison("stage5b_finetune", "control_5b_from_stage1", "init", planned=True),
    _comparison("stage6_distill", "stage5b_finetune", "loss.kd", planned=True),
    _comparison("stage6_distill", "control_kd_uniform", "loss.kd.remap", planned=True),
)
_DESCRIBED = (
    _comparison("stage5a_pretrain", "stage1_baseline", "tiles"),
    _comparison("stage5b_finetune", "stage4_minority_crop", "init"),
    _comparison("control_5b_from_stage1", "stage4_minority_crop", "init"),
    _comparison("stage6_distill", "control_kd_cycled", "loss.kd.remap"),
    _comparison("control_kd_cycled", "stage5b_finetune", "loss.kd"),
    _comparison("control_kd_uniform", "stage5b_finetune", "loss.kd"),
)
_COMPARED = {(comparison.arm.name, comparison.other.name) for comparison in PLANNED + _DESCRIBED}
DESCRIPTIVE = _DESCRIBED + tuple(
    _comparison(stage, "stage1_baseline", None)
    for stage in STAGE_NAMES[1:]
    if (stage, "stage1_baseline") not in _COMPARED
)
