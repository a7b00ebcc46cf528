r"""Control of stage 5B: the same recipe started from the stage 1 network.

The only change from stage 5B is the initial weights. Both have seen twice the steps of one training, so that their
difference is what the OpenEarthMap tiles of stage 5A brought, and not the longer training.

    python -m training.train_control_5b_from_stage1
"""

import argparse

from common.cli import run
from training import train_stage5b_finetune

STAGE = "control_5b_from_stage1"
START = "stage1_baseline"


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    return train_stage5b_finetune.parse_args(argv, STAGE, __doc__, START)


def main(argv: list[str] | None = None) -> None:
    train_stage5b_finetune.finetune(parse_args(argv), STAGE, START)


if __name__ == "__main__":
    run(main)
