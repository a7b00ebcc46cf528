"""The flags of the training scripts, with the defaults of each preset."""

import argparse
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from common.cli import Parser, fraction, non_negative_float, non_negative_int, positive_float, positive_int
from common.croppers import MINORITY_PROBABILITY
from common.inputs import Command
from common.losses import LABEL_SMOOTHING
from common.models import Architecture

AVERAGE = 0.1
_SMALL = {
    "arch": "unet",
    "encoder": "timm-tf_efficientnet_lite0",
    "decoder_channels": (128, 64, 32, 24, 16),
    "encoder_weights": "imagenet",
    "lr": 2e-3,
    "encoder_lr": 1e-3,
}
PRESETS = {
    "paper": {
        "arch": "unet",
        "encoder": "efficientnet-b4",
        "decoder_channels": None,
        "encoder_weights": "imagenet",
        "lr": 6e-4,
        "encoder_lr": 6e-5,  # pretrained layers are moved ten times more carefully
        "crop_size": 384,
        "batch_size": 8,
        "iterations": 20_000,
        "warmup": 500,
        "val_every": 1_000,
    },
    "laptop": {**_SMALL, "crop_size": 128, "batch_size": 8, "iterations": 240, "warmup": 20, "val_every": 60},
    "demo": {**_SMALL, "crop_size": 64, "batch_size": 8, "iterations": 60, "warmup": 10, "val_every": 30},
}
# Beyond these a run fills the memory, never ends or learns nothing: a slip of the fingers.
LARGEST = {
    "crop_size": 8192,
    "decoder_channels": 8192,
    "batch_size": 4096,
    "iterations": 10**9,
    "warmup": 10**9,
    "val_every": 10**9,
}
LARGEST |= {"seed": 2**32 - 1, "lr": 10.0, "encoder_lr": 10.0, "weight_decay": 10.0, "clip_norm": 1e6}


@dataclass(frozen=True)
class TrainSettings:
    """What two runs must share to be comparable; run.json holds it, and the report compares it.

    ``crop_size`` is a side in pixels, ``batch_size`` crops of a step over all processes, ``iterations``, ``warmup`` and
    ``val_every`` optimizer steps, ``lr`` and ``encoder_lr`` the highest learning rates, ``average`` the share of the
    steps over which weights are averaged.
    """

    arch: str
    encoder: str
    decoder_channels: tuple[int, ...] | None
    encoder_weights: str
    lr: float
    encoder_lr: float
    crop_size: int
    batch_size: int
    iterations: int
    warmup: int
    val_every: int
    weight_decay: float
    clip_norm: float
    label_smoothing: float
    average: float

    @property
    def architecture(self) -> Architecture:
        return Architecture(self.arch, self.encoder, self.decoder_channels)


@dataclass(frozen=True)
class RunOptions:
    """Which run this is, its folder and its device: what two comparable runs may differ in."""

    out_dir: Path
    seed: int
    preset: str
    command: Command
    device: str
    workers: int
    resume: bool
    overwrite: bool


def _shown(value: object) -> str:
    """The default of a preset, as its flag would take it."""
    if value is None:
        return "the library's"
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


class TrainParser(Parser):
    """A Parser whose unset flags take the values of the chosen preset."""

    def add_preset_flag(self, flag: str, kind: Callable[[str], object], help: str, *, many: bool = False) -> None:
        name = flag[2:].replace("-", "_")
        values = ", ".join(f"{preset} {_shown(values[name])}" for preset, values in PRESETS.items())
        self.add_argument(flag, type=kind, nargs="+" if many else None, help=f"{help} (default: {values})")

    def add_difficulty(self) -> None:
        self.add_input(
            "--difficulty",
            "artifacts/seed{seed}/tile_difficulty.tsv",
            "tile weights of score_difficulty",
            made_by="training.score_difficulty",
        )

    def add_minority_crop(self) -> None:
        self.add_input(
            "--distribution",
            "artifacts/class_distribution.json",
            "minority classes and their shares",
            made_by="data_prep.analyze_class_distribution",
        )
        self.add_argument(
            "--minority-probability",
            type=fraction,
            default=MINORITY_PROBABILITY,
            help="share of the crops that seek a minority class",
        )

    def parse_args(
        self, args: Sequence[object] | None = None, namespace: argparse.Namespace | None = None
    ) -> argparse.Namespace:
        parsed = super().parse_args(args, namespace)
        preset = PRESETS[parsed.preset]
        parsed.arch = parsed.arch and parsed.arch.lower()  # as the library reads it
        if parsed.arch not in (None, preset["arch"]):  # another decoder, whose channels the preset does not know
            preset = preset | {"decoder_channels": None}
        for name, value in preset.items():
            if getattr(parsed, name) is None:
                setattr(parsed, name, value)
        parsed.decoder_channels = parsed.decoder_channels and tuple(parsed.decoder_channels)
        for name, most in LARGEST.items():
            value = getattr(parsed, name)
            largest = max(value) if isinstance(value, tuple) else value
            if largest is not None and largest > most:
                self.error(f"--{name.replace('_', '-')} {largest:g}: expected at most {most:g}")
        parsed.settings = TrainSettings(**{field.name: getattr(parsed, field.name) for field in fields(TrainSettings)})
        options = {field.name: getattr(parsed, field.name) for field in fields(RunOptions)}
        parsed.run = RunOptions(**options | {"command": Command.read(parsed.command)})
        return parsed


def train_parser(
    stage: str,
    doc: str | None,
    *,
    train_dir: str,
    train_made_by: str,
    val_dir: str = "data/biodiversity_split/val",
    val_made_by: str = "data_prep.split_biodiversity",
    out_dir: str = "model_weights/biodiversity",
    shared: bool = False,
    label_smoothing: str = "of the cross-entropy in the hard loss",
) -> TrainParser:
    """The flags that all training scripts share.

    Beside them it parses ``settings``, a TrainSettings, and ``run``, RunOptions.

    Args:
        stage: names the folder below ``out_dir``.
        doc: the script's docstring, for --help.
        train_dir, val_dir: default tile sets, below --root, and the data steps that make them.
        out_dir: default folder for the runs of all stages.
        shared: whether these three lie below the root of the study if --root is that of a fold.
        label_smoothing: its help text.
    """
    parser = TrainParser(doc)
    parser.add_input("--train-dir", train_dir, "tile set to train on", made_by=train_made_by, shared=shared)
    parser.add_input("--val-dir", val_dir, "tile set to validate on", made_by=val_made_by, shared=shared)
    parser.add_input(
        "--leakage", "artifacts/leakage.json", "report of check_leakage", made_by="data_prep.check_leakage"
    )
    run_dir = f"{out_dir}/{stage}/seed{{seed}}"
    parser.add_path("--out-dir", run_dir, "folder for checkpoints, run.json and curves", shared=shared)
    parser.add_seed()
    parser.add_device()
    parser.add_workers(default=max(1, min(8, (os.cpu_count() or 1) - 1)))
    again = parser.add_mutually_exclusive_group()
    again.add_argument("--overwrite", action="store_true", help="replace the output of an earlier run")
    again.add_argument("--resume", action="store_true", help="continue an interrupted run")
    parser.add_argument(
        "--preset",
        choices=list(PRESETS),
        default="paper",
        help="values of the flags below that are not given: paper for one GPU, laptop and demo for two CPU cores",
    )
    parser.add_preset_flag("--arch", str, "architecture of segmentation-models-pytorch")
    parser.add_preset_flag("--encoder", str, "encoder of segmentation-models-pytorch")
    parser.add_preset_flag(
        "--decoder-channels", positive_int, "channels of the decoder, deepest first, 5 for unet", many=True
    )
    parser.add_preset_flag("--encoder-weights", str, "imagenet (from a package or downloaded), none, or a file")
    parser.add_preset_flag("--crop-size", positive_int, "side of a crop in pixels, a multiple of 32")
    parser.add_preset_flag("--batch-size", positive_int, "crops of an optimizer step, over all processes")
    parser.add_preset_flag("--iterations", positive_int, "optimizer steps")
    parser.add_preset_flag("--warmup", non_negative_int, "steps over which the learning rate rises")
    parser.add_preset_flag("--val-every", positive_int, "steps between validations, which are also the resume points")
    parser.add_preset_flag("--lr", positive_float, "highest learning rate of decoder and head")
    parser.add_preset_flag("--encoder-lr", positive_float, "highest learning rate of the encoder")
    parser.add_argument(
        "--average",
        type=fraction,
        default=AVERAGE,
        help="length of the moving average of the weights, as a share of the steps; 0 saves those of the last step",
    )
    parser.add_argument("--weight-decay", type=non_negative_float, default=2.5e-4, help="weight decay of AdamW")
    parser.add_argument("--clip-norm", type=positive_float, default=1.0, help="largest norm of the gradient")
    parser.add_argument("--label-smoothing", type=fraction, default=LABEL_SMOOTHING, help=label_smoothing)
    return parser
