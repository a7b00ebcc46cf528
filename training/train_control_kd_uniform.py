r"""Control of stage 6: distillation with a uniform target.

The only change from stage 6 is the class matrix: the foreground share of each teacher class is spread evenly over all
foreground classes. The pixels that count and alpha stay. What stage 6 gains over this control is the teacher's; what
this control gains over stage 5B, label smoothing would give.

    python -m training.train_control_kd_uniform
"""

import argparse

import torch

from common.cli import run
from training import train_stage6_distill

STAGE = "control_kd_uniform"


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    return train_stage6_distill.parse_args(argv, STAGE, __doc__)


def uniform(matrix: torch.Tensor) -> torch.Tensor:
    """(T, S) class matrix → the same shape: spread the foreground share of each row evenly; column 0, void, stays."""
    foreground = matrix[:, 1:]
    return torch.cat([matrix[:, :1], foreground.mean(dim=1, keepdim=True).expand_as(foreground)], dim=1)


def main(argv: list[str] | None = None) -> None:
    train_stage6_distill.distill(parse_args(argv), STAGE, uniform)


if __name__ == "__main__":
    run(main)
