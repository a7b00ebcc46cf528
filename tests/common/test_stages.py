"""The plan of the study, written out once more: arms, what each is compared with and in what, and what controls say."""

from pathlib import Path
from types import ModuleType

import pytest

from common import stages
from common.stages import ARM_OF, ARMS, CONTROLS, FINAL_STAGE, RIVALS, STAGE_NAMES, training_command
from evaluation.study.comparisons import DESCRIPTIVE, FAMILIES, PLANNED
from tests.helpers import REPOSITORY

# name, number, label, compared with, the one component, starts from, trainings
PLAN = [
    ("stage1_baseline", "1", "Baseline", None, None, None, 1),
    ("stage2_replication", "2", "+ Replication", "stage1_baseline", "tiles", None, 1),
    ("stage3_difficulty", "3", "+ Difficulty sampling", "stage2_replication", "sampler", None, 1),
    ("stage4_minority_crop", "4", "+ Minority crop", "stage3_difficulty", "cropper", None, 1),
    ("stage5a_pretrain", "5A", "OEM pretraining", "stage1_baseline", "tiles", None, 1),
    ("stage5b_finetune", "5B", "Finetuned from 5A", "stage4_minority_crop", "init", "stage5a_pretrain", 2),
    ("stage6_distill", "6", "+ Distillation", "stage5b_finetune", "loss", "stage5a_pretrain", 2),
    ("control_5b_from_stage1", None, "5B from stage 1", "stage5b_finetune", "init", "stage1_baseline", 2),
    ("control_kd_cycled", None, "6, classes cycled", "stage6_distill", "loss", "stage5a_pretrain", 2),
    ("control_kd_uniform", None, "6, uniform target", "stage6_distill", "loss", "stage5a_pretrain", 2),
    ("rival_class_weights", None, "Class weights", "stage1_baseline", "loss", None, 1),
    ("rival_focal", None, "Focal loss", "stage1_baseline", "loss", None, 1),
    ("rival_rare_class_sampling", None, "Rare class sampling", "stage1_baseline", None, None, 1),
    ("rival_foreground_crop", None, "Foreground crop", "stage1_baseline", "cropper", None, 1),
    ("rival_logit_adjustment", None, "Logit adjustment", "stage1_baseline", "init", "stage1_baseline", 1),
]


def test_the_arms_are_those_of_the_method_in_their_order():
    assert [(*arm[:6], arm.trainings) for arm in ARMS] == PLAN
    assert list(ARM_OF) == [name for name, *_ in PLAN]
    assert list(STAGE_NAMES) == [name for name, number, *_ in PLAN if number] and FINAL_STAGE == "stage6_distill"
    for kind, arms in (("control", CONTROLS), ("rival", RIVALS)):
        assert [arm.name for arm in arms] == [name for name, *_ in PLAN if name.startswith(f"{kind}_")]
    assert [(arm.is_control, arm.is_rival) for arm in ARMS] == [(False, False)] * 7 + [(True, False)] * 3 + [
        (False, True)
    ] * 5
    assert [arm.name for arm in ARMS if not arm.trained] == ["rival_logit_adjustment"]


def test_every_training_script_is_an_arm_and_every_arm_has_its_script():
    scripts = {path.stem for path in (REPOSITORY / "training").glob("train_*.py")} - {"train_teacher"}
    assert scripts == {f"train_{name}" for name in ARM_OF}, "list the arm in common/stages.py, or write its script"


def test_no_two_arms_are_compared_twice_and_every_control_is():
    pairs = [(comparison.arm.name, comparison.other.name) for comparison in PLANNED + DESCRIPTIVE]
    assert len(pairs) == len(set(pairs))
    assert {(control.compared_with, control.name) for control in CONTROLS} <= set(pairs)


def test_an_arm_is_called_by_its_number_and_its_label():
    assert ARM_OF["stage5b_finetune"].title == "5B Finetuned from 5A" and not ARM_OF["stage5b_finetune"].is_control
    assert ARM_OF["control_kd_cycled"].title == "6, classes cycled" and ARM_OF["control_kd_cycled"].is_control


def test_a_rival_names_its_source():
    sources = ("Eigen and Fergus 2015", "Lin et al. 2017", "Hoyer et al. 2022", "Isensee et al. 2021", "Menon et al.")
    assert all(rival.source.startswith(source) for rival, source in zip(RIVALS, sources, strict=True))


def test_a_stage_that_is_added_at_the_end_is_not_the_one_that_goes_to_the_test_split():
    source = Path(stages.__file__).read_text(encoding="utf-8")
    more = '    Arm("stage7_more", "7", "+ More", "stage6_distill", "loss"),\n'
    longer = ModuleType("longer")
    exec(source.replace(")\nCONTROLS", f"{more})\nCONTROLS"), vars(longer))
    assert longer.STAGE_NAMES[-1] == "stage7_more" and longer.FINAL_STAGE == FINAL_STAGE == "stage6_distill"


def rows_of(comparisons):
    return [(c.arm.name, c.other.name, c.component, c.unequal) for c in comparisons]


def test_the_families_are_those_that_were_fixed_beforehand():
    assert [(family.title, family.metrics, family.hypotheses) for family in FAMILIES] == [
        ("Primary comparisons", ("mIoU", "minority mIoU"), 4),
        ("Components", ("mIoU",), 6),
        ("Rivals", ("mIoU",), 5),
    ]
    primary, components, rivals = (rows_of(family.comparisons) for family in FAMILIES)
    assert primary == [  # equal budgets each
        ("stage4_minority_crop", "stage1_baseline", None, None),
        ("stage6_distill", "control_5b_from_stage1", None, None),
    ]
    assert components == [
        ("stage2_replication", "stage1_baseline", "tiles", None),
        ("stage3_difficulty", "stage2_replication", "sampler", None),
        ("stage4_minority_crop", "stage3_difficulty", "cropper", None),
        ("stage5b_finetune", "control_5b_from_stage1", "init", None),
        ("stage6_distill", "stage5b_finetune", "loss.kd", None),
        ("stage6_distill", "control_kd_uniform", "loss.kd.remap", None),
    ]
    assert rivals == [("stage4_minority_crop", rival.name, None, None) for rival in RIVALS]
    assert rows_of(PLANNED) == primary + components + rivals


def test_all_other_comparisons_are_described_and_unequal_steps_remarked_on():
    twice = "twice the steps"
    assert rows_of(DESCRIPTIVE) == [
        ("stage5a_pretrain", "stage1_baseline", "tiles", None),
        ("stage5b_finetune", "stage4_minority_crop", "init", twice),
        ("control_5b_from_stage1", "stage4_minority_crop", "init", twice),
        ("stage6_distill", "control_kd_cycled", "loss.kd.remap", None),
        ("control_kd_cycled", "stage5b_finetune", "loss.kd", None),
        ("control_kd_uniform", "stage5b_finetune", "loss.kd", None),
        *((rival.name, "stage1_baseline", rival.component, None) for rival in RIVALS),
        ("stage3_difficulty", "stage1_baseline", None, None),
        ("stage5b_finetune", "stage1_baseline", None, twice),
        ("stage6_distill", "stage1_baseline", None, twice),
    ]


@pytest.mark.parametrize(
    ("name", "question", "better", "worse", "alike"),
    [  # better: the stage is better than its control
        (
            "control_5b_from_stage1",
            "OpenEarthMap data that matter for 5B, or twice the steps",
            "the OpenEarthMap data give more than the same steps",
            "the same steps on Biodiversity alone give more than the OpenEarthMap data",
            "may be the longer training alone",
        ),
        (
            "control_kd_cycled",
            "what the teacher knows that matters for stage 6, or would any smooth target do",
            "it matters what the teacher says of the classes",
            "a teacher who mistakes the classes served better",
            "any smooth target may do as well",
        ),
        (
            "control_kd_uniform",
            "the teacher that matters for stage 6, or label smoothing",
            "the teacher gives more than label smoothing",
            "label smoothing on the same pixels gives more than the teacher",
            "may be label smoothing alone",
        ),
    ],
)
def test_a_control_says_what_it_means_that_the_stage_is_better_worse_or_alike(name, question, better, worse, alike):
    control = ARM_OF[name]
    assert question in control.question
    assert better in control.answers.better and worse in control.answers.worse and alike in control.answers.alike


def test_the_command_of_a_training_names_its_script_root_and_seed():
    command = training_command(Path("my study"), "stage3_difficulty", 7)
    assert str(command) == "python -m training.train_stage3_difficulty --root 'my study' --seed 7"
