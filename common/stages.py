"""The arms of a study, that is its stages, controls and rivals, and what each is compared with."""

from pathlib import Path
from typing import NamedTuple

from common.inputs import Command


class Answers(NamedTuple):
    """What it means that a stage is better than its control, worse, or cannot be told from it."""

    better: str
    worse: str
    alike: str


class Arm(NamedTuple):
    """A stage, a control or a rival.

    A stage has a ``number`` (``5A``), the others have none; ``label`` is what figures and tables call each beside it.
    ``compared_with`` names the arm that lacks its one component, and ``component`` the entry of the recipe (tiles,
    sampler, cropper, init or loss) in which the two differ, None for several. ``starts_from`` names the arm whose
    weights it starts with.
    A control has a ``question`` and ``answers``. A rival is what one would use instead of the stages; it has a
    ``source``, and ``trained`` is False if it changes the network of ``starts_from`` without a step of training.
    """

    name: str
    number: str | None
    label: str
    compared_with: str | None
    component: str | None
    starts_from: str | None = None
    question: str | None = None
    answers: Answers | None = None
    source: str | None = None
    trained: bool = True

    @property
    def is_control(self) -> bool:
        return self.question is not None

    @property
    def is_rival(self) -> bool:
        return self.source is not None

    @property
    def kind(self) -> str:
        """``stage``, ``control`` or ``rival``."""
        return "control" if self.is_control else "rival" if self.is_rival else "stage"

    @property
    def short(self) -> str:
        """``5A``, or the label of a control or rival."""
        return self.number or self.label

    @property
    def title(self) -> str:
        """``5A OEM pretraining``, or the label of a control or rival."""
        return f"{self.number} {self.label}" if self.number else self.label

    @property
    def trainings(self) -> int:
        """How many trainings are behind its weights, its own included: 2 for a stage that starts from another's."""
        return int(self.trained) + (ARM_OF[self.starts_from].trainings if self.starts_from else 0)


STAGES = (
    Arm("stage1_baseline", "1", "Baseline", None, None),
    Arm("stage2_replication", "2", "+ Replication", "stage1_baseline", "tiles"),
    Arm("stage3_difficulty", "3", "+ Difficulty sampling", "stage2_replication", "sampler"),
    Arm("stage4_minority_crop", "4", "+ Minority crop", "stage3_difficulty", "cropper"),
    Arm("stage5a_pretrain", "5A", "OEM pretraining", "stage1_baseline", "tiles"),
    Arm("stage5b_finetune", "5B", "Finetuned from 5A", "stage4_minority_crop", "init", "stage5a_pretrain"),
    Arm("stage6_distill", "6", "+ Distillation", "stage5b_finetune", "loss", "stage5a_pretrain"),
)
CONTROLS = (
    Arm(
        "control_5b_from_stage1",
        None,
        "5B from stage 1",
        "stage5b_finetune",
        "init",
        "stage1_baseline",
        "Is it the OpenEarthMap data that matter for 5B, or twice the steps?",
        Answers(
            better="So the OpenEarthMap data give more than the same steps on Biodiversity alone.",
            worse="So the same steps on Biodiversity alone give more than the OpenEarthMap data.",
            alike="So whatever sets 5B apart from stage 4 may be the longer training alone.",
        ),
    ),
    Arm(
        "control_kd_cycled",
        None,
        "6, classes cycled",
        "stage6_distill",
        "loss",
        "stage5a_pretrain",
        "Is it what the teacher knows that matters for stage 6, or would any smooth target do?",
        Answers(
            better="So it matters what the teacher says of the classes.",
            worse="So a teacher who mistakes the classes served better here than one who knows them.",
            alike="So any smooth target may do as well.",
        ),
    ),
    Arm(
        "control_kd_uniform",
        None,
        "6, uniform target",
        "stage6_distill",
        "loss",
        "stage5a_pretrain",
        "Is it the teacher that matters for stage 6, or label smoothing?",
        Answers(
            better="So the teacher gives more than label smoothing on the same pixels.",
            worse="So label smoothing on the same pixels gives more than the teacher.",
            alike="So whatever sets stage 6 apart from 5B may be label smoothing alone.",
        ),
    ),
)


def _rival(name: str, label: str, component: str | None, source: str) -> Arm:
    return Arm(f"rival_{name}", None, label, "stage1_baseline", component, source=source)


RIVALS = (
    _rival("class_weights", "Class weights", "loss", "Eigen and Fergus 2015, arXiv:1411.4734"),
    _rival("focal", "Focal loss", "loss", "Lin et al. 2017, arXiv:1708.02002"),
    _rival("rare_class_sampling", "Rare class sampling", None, "Hoyer et al. 2022, arXiv:2111.14887"),
    _rival("foreground_crop", "Foreground crop", "cropper", "Isensee et al. 2021, doi:10.1038/s41592-020-01008-z"),
    _rival("logit_adjustment", "Logit adjustment", "init", "Menon et al. 2021, arXiv:2007.07314")._replace(
        starts_from="stage1_baseline", trained=False
    ),
)
ARMS = STAGES + CONTROLS + RIVALS
ARM_OF = {arm.name: arm for arm in ARMS}
STAGE_NAMES = tuple(stage.name for stage in STAGES)
FINAL_STAGE = "stage6_distill"  # the one that goes to the test split, fixed beforehand


def training_command(root: Path, arm: str, seed: int) -> Command:
    """The command that trains an arm with a seed, with the default preset."""
    return Command.of(f"training.train_{arm}", root, "--seed", str(seed))
