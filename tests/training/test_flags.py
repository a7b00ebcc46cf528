from dataclasses import fields

import pytest

from tests.helpers import parser_of_a_stage
from training.engine.flags import LARGEST, PRESETS, TrainSettings

# Presets


def test_the_presets_are_those_of_the_method():
    paper = {"arch": "unet", "encoder": "efficientnet-b4", "encoder_weights": "imagenet", "lr": 6e-4}
    paper |= {"encoder_lr": 6e-5, "crop_size": 384, "batch_size": 8, "iterations": 20_000, "warmup": 500}
    assert PRESETS["paper"] == paper | {"val_every": 1_000}
    small = {"arch": "unet", "encoder": "resnet18", "encoder_weights": "none", "lr": 1.5e-3, "encoder_lr": 1.5e-3}
    small |= {"batch_size": 8}
    laptop = {"crop_size": 128, "iterations": 360, "warmup": 20, "val_every": 90}
    demo = {"crop_size": 64, "iterations": 100, "warmup": 10, "val_every": 50}
    assert PRESETS["laptop"] == small | laptop and PRESETS["demo"] == small | demo
    args = parser_of_a_stage().parse_args([])
    assert (args.preset, args.seed, args.weight_decay, args.clip_norm) == ("paper", 42, 2.5e-4, 1.0)
    assert {field.name for field in fields(TrainSettings)} == {
        *paper,
        "val_every",
        "weight_decay",
        "clip_norm",
        "label_smoothing",
    }


@pytest.mark.parametrize("name", [name for name in PRESETS["paper"] if isinstance(PRESETS["paper"][name], int | float)])
def test_a_flag_beside_a_preset_wins_over_it(name):
    flag = f"--{name.replace('_', '-')}"
    args = parser_of_a_stage().parse_args(["--preset", "demo", flag, "7"])
    assert getattr(args, name) == 7
    assert all(getattr(args, other) == value for other, value in PRESETS["demo"].items() if other != name)


@pytest.mark.parametrize("name", LARGEST)
def test_values_that_can_only_be_a_slip_are_wrong_use(name, capsys):
    argv = [f"--{name.replace('_', '-')}", str(type(LARGEST[name])(2 * LARGEST[name]))]
    with pytest.raises(SystemExit):
        parser_of_a_stage().parse_args(argv)
    assert "expected at most" in capsys.readouterr().err
