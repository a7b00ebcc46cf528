r"""Control of stage 6: distillation with the class matrix cycled.

The only change from stage 6 is the class matrix: its foreground columns are moved on by one, so that the teacher's
forest is taught as the next class, and so on. Pixels, confidence and alpha stay. What stage 6 gains over this control
is what the teacher knows of the classes; what this control gains over stage 5B, any smooth target would give.

    python -m training.train_control_kd_cycled
"""

import argparse

import torch

from common.cli import run
from training import train_stage6_distill

STAGE = "control_kd_cycled"


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    return train_stage6_distill.parse_args(argv, STAGE, __doc__)


def cycled(matrix: torch.Tensor) -> torch.Tensor:
    """(T, S) class matrix → the same shape: move each foreground class on by one; column 0, void, stays."""
    return torch.cat([matrix[:, :1], matrix[:, 1:].roll(1, dims=1)], dim=1)


def main(argv: list[str] | None = None) -> None:
    train_stage6_distill.distill(parse_args(argv), STAGE, cycled)


if __name__ == "__main__":
    run(main)
