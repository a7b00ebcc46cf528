"""The stages in the order of the study, which one each is compared with, and in what the two differ."""

import argparse
from pathlib import Path
from typing import NamedTuple

from common.cli import command_for


class Stage(NamedTuple):
    """``title`` is what figures and tables call it.

    ``compared_with`` names the arm that lacks its one component, and ``component`` the entry of the recipe (tiles,
    sampler, cropper, init or loss) in which the two differ.
    """

    name: str
    title: str
    compared_with: str | None
    component: str | None


STAGES = (
    Stage("stage1_baseline", "1  Baseline", None, None),
    Stage("stage2_replication", "2  + Replication", "stage1_baseline", "tiles"),
    Stage("stage3_difficulty", "3  + Difficulty sampling", "stage2_replication", "sampler"),
    Stage("stage4_minority_crop", "4  + Minority crop", "stage3_difficulty", "cropper"),
    Stage("stage5a_pretrain", "5A  OEM pretraining", "stage1_baseline", "tiles"),
    Stage("stage5b_finetune", "5B  Finetuned from 5A", "stage4_minority_crop", "init"),
    Stage("stage6_distill", "6  + Distillation", "stage5b_finetune", "loss"),
)
STAGE_NAMES = tuple(stage.name for stage in STAGES)
STAGE_OF = {stage.name: stage for stage in STAGES}
FINAL_STAGE = STAGES[-1].name


def training_command(root: Path, stage: str, seed: int) -> str:
    """The command that trains a stage with a seed, with the default preset."""
    return command_for(f"training.train_{stage}", argparse.Namespace(root=root, seed=seed), "--seed")
