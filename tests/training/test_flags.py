from dataclasses import fields

import pytest

from tests.helpers import parser_of_a_stage
from training.engine.flags import LARGEST, PRESETS, TrainSettings

# Presets


def test_the_presets_are_those_of_the_method():
    paper = {"arch": "unet", "encoder": "efficientnet-b4", "decoder_channels": None, "encoder_weights": "imagenet"}
    paper |= {"lr": 6e-4, "encoder_lr": 6e-5, "crop_size": 384, "batch_size": 8, "iterations": 20_000, "warmup": 500}
    assert PRESETS["paper"] == paper | {"val_every": 1_000}
    small = {"arch": "unet", "encoder": "timm-tf_efficientnet_lite0", "decoder_channels": (128, 64, 32, 24, 16)}
    small |= {"encoder_weights": "imagenet", "lr": 2e-3, "encoder_lr": 1e-3, "batch_size": 8}
    laptop = {"crop_size": 128, "iterations": 240, "warmup": 20, "val_every": 60}
    demo = {"crop_size": 64, "iterations": 60, "warmup": 10, "val_every": 30}
    assert PRESETS["laptop"] == small | laptop and PRESETS["demo"] == small | demo
    args = parser_of_a_stage().parse_args([])
    assert (args.preset, args.seed, args.weight_decay, args.clip_norm) == ("paper", 42, 2.5e-4, 1.0)
    assert (args.settings.label_smoothing, args.settings.average) == (0.05, 0.1)
    assert {field.name for field in fields(TrainSettings)} == {
        *paper,
        *("val_every", "weight_decay", "clip_norm", "label_smoothing", "average"),
    }


def test_the_decoder_channels_of_a_preset_are_those_of_its_own_architecture():
    parse = parser_of_a_stage().parse_args
    for flags, wanted in (
        ((), (128, 64, 32, 24, 16)),
        (("--arch", "UNet"), (128, 64, 32, 24, 16)),
        (("--arch", "fpn"), None),
        (("--arch", "pan", "--decoder-channels", "48"), (48,)),
        (("--decoder-channels", *map(str, (64, 48, 32, 16, 8))), (64, 48, 32, 16, 8)),
    ):
        args = parse(["--preset", "laptop", *flags])
        assert args.settings.decoder_channels == args.settings.architecture.decoder_channels == wanted
    assert parse([]).settings.decoder_channels is None


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
