"""The stages in the order of the study, and which one each is compared with."""

from typing import NamedTuple


class Stage(NamedTuple):
    """``title`` is what figures and tables call it; ``compared_with`` names the arm that lacks its one component."""

    name: str
    title: str
    compared_with: str | None


STAGES = (
    Stage("stage1_baseline", "1  Baseline", None),
    Stage("stage2_replication", "2  + Replication", "stage1_baseline"),
    Stage("stage3_difficulty", "3  + Difficulty sampling", "stage2_replication"),
    Stage("stage4_minority_crop", "4  + Minority crop", "stage3_difficulty"),
    Stage("stage5a_pretrain", "5A  OEM pretraining", "stage1_baseline"),
    Stage("stage5b_finetune", "5B  Finetuned from 5A", "stage4_minority_crop"),
    Stage("stage6_distill", "6  + Distillation", "stage5b_finetune"),
)
STAGE_NAMES = tuple(stage.name for stage in STAGES)
STAGE_OF = {stage.name: stage for stage in STAGES}
FINAL_STAGE = STAGES[-1].name
