"""Networks of more bands than three, and of fewer: how they start, how they learn, and what they can tell apart."""

import dataclasses
import json

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import torch
from torch import nn

from common.bands import BandStatistics
from common.checkpoints import Checkpoint, digest_tensors
from common.encoders import EncoderConstants, first_layer, for_bands
from common.errors import UserError
from common.losses import HardLoss
from common.models import Architecture, SelectedBands, build_model
from tests.conftest import ARCH, ENCODER, train
from tests.helpers import made, parser_of_a_stage
from tests.small_sets import write_set
from training import train_stage1_baseline
from training.engine.loop import make_optimizer

LITE0 = Architecture("unet", "timm-tf_efficientnet_lite0", (16, 16, 8, 8, 8))
SMALL = Architecture(ARCH, ENCODER)
FOUR = BandStatistics((0.1, 0.2, 0.3, 0.4), (0.1, 0.1, 0.1, 0.2))


def of(count: int) -> BandStatistics:
    return BandStatistics((0.4,) * count, (0.2,) * count)


# How they start


@pytest.mark.parametrize("count", [1, 2, 4, 6])
def test_the_first_layer_starts_from_what_the_library_makes_of_the_imagenet_weights(count):
    """Red, green and blue in turn, all times 3 / bands; for one band their sum."""
    colours = build_model(LITE0, 3, "imagenet").encoder
    network = build_model(LITE0, 3, "imagenet", bands=of(count)).encoder
    weight, adapted = first_layer(colours).weight, first_layer(network).weight
    library = nn.Sequential(nn.Conv2d(3, len(weight), weight.shape[-1]))
    library[0].weight.data.copy_(weight)
    smp.encoders._utils.patch_first_conv(library, count)
    assert torch.equal(adapted, library[0].weight)
    if count == 4:
        for band, colour in enumerate((0, 1, 2, 0)):
            torch.testing.assert_close(adapted[:, band], 0.75 * weight[:, colour])
    others = (
        {name: t for name, t in encoder.state_dict().items() if name != "conv_stem.weight"}
        for encoder in (colours, network)
    )
    assert digest_tensors(next(others)) == digest_tensors(next(others))


def test_an_encoder_file_of_three_bands_serves_networks_of_more_and_one_of_four_comes_back_as_it_was(tmp_path):
    three = build_model(SMALL, 3).encoder
    torch.save(three.state_dict(), tmp_path / "three.pt")
    four = build_model(SMALL, 3, str(tmp_path / "three.pt"), bands=FOUR).encoder
    torch.testing.assert_close(first_layer(four).weight[:, 3], 0.75 * first_layer(three).weight[:, 0])
    torch.save(four.state_dict(), tmp_path / "four.pt")
    again = build_model(SMALL, 3, str(tmp_path / "four.pt"), bands=FOUR).encoder
    assert digest_tensors(again.state_dict()) == digest_tensors(four.state_dict())
    with pytest.raises(UserError, match="has 1 tensor of other shapes"):
        build_model(SMALL, 3, str(tmp_path / "four.pt"))


def test_only_the_layer_that_sees_the_images_is_adapted():
    weights = {"stem": torch.ones(2, 3, 1, 1), "deep": torch.ones(2, 3, 1, 1), "norm": torch.ones(2)}
    wanted = {"stem": torch.zeros(2, 6, 1, 1), "deep": torch.zeros(2, 3, 1, 1), "norm": torch.zeros(2)}
    adapted = for_bands(weights, wanted)
    assert torch.equal(adapted["stem"], torch.full((2, 6, 1, 1), 0.5))
    assert adapted["deep"] is weights["deep"] and adapted["norm"] is weights["norm"]


def test_further_bands_are_standardised_by_train_and_the_first_three_as_the_weights_ask():
    asked = EncoderConstants((0.5, 0.4, 0.3), (0.25, 0.2, 0.1), 1e-3)
    four = asked.for_bands(FOUR)
    assert (four.mean, four.std, four.norm_eps) == ((0.5, 0.4, 0.3, 0.4), (0.25, 0.2, 0.1, 0.2), 1e-3)
    assert asked.for_bands(None) == asked.for_bands(of(3)) == asked
    two = asked.for_bands(of(2))
    assert (two.mean, two.std) == ((0.5, 0.4), (0.25, 0.2))
    one = asked.for_bands(of(1))
    assert one.mean == pytest.approx((0.4,)) and one.std == pytest.approx((0.55 / 3,))
    constant = asked.for_bands(BandStatistics((0.4,) * 4, (0.0,) * 4))
    assert constant.std[3] == 1 / 255


def test_a_network_sees_the_bands_that_it_was_given():
    network = SelectedBands(nn.Identity(), (3, 0, 0))
    images = torch.arange(4.0)[None, :, None, None]
    assert network(images).flatten().tolist() == [3, 0, 0]


# How they learn


def settings(**changes):
    flags = parser_of_a_stage().parse_args(["--preset", "demo", "--weight-decay", "0.3"])
    return dataclasses.replace(flags.settings, **changes)


def moved(model: nn.Module, steps: int = 1, **changes) -> torch.Tensor:
    """How far each weight of the first layer has moved after steps on one batch."""
    weight = first_layer(model.encoder).weight
    before = weight.detach().clone()
    optimizer = make_optimizer(model, settings(**changes))
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(2, weight.shape[1], 64, 64, generator=generator)
    mask = torch.randint(1, 3, (2, 64, 64), generator=generator)
    for _ in range(steps):
        (term,) = HardLoss().terms(model(images), {"mask": mask})
        optimizer.zero_grad(set_to_none=True)
        term.total.backward()
        optimizer.step()
    assert (weight.grad.abs().amax(dim=(0, 2, 3)) > 0).all()  # each band has a gradient
    return (weight.detach() - before).abs()


def test_the_first_step_moves_a_further_band_at_the_rate_of_the_decoder_and_the_colours_at_that_of_the_encoder():
    """Without decay the first step of Adam is the learning rate, for every number that has a gradient."""
    torch.manual_seed(0)
    far = moved(build_model(SMALL, 3, bands=FOUR), lr=1e-2, encoder_lr=1e-3, weight_decay=0.0)
    torch.testing.assert_close(far[:, 3].median(), torch.tensor(1e-2), rtol=1e-3, atol=0)
    torch.testing.assert_close(far[:, :3].median(), torch.tensor(1e-3), rtol=1e-2, atol=0)
    assert (far > 0).float().mean() > 0.99


def test_a_part_of_a_layer_learns_as_with_an_optimizer_of_its_own():
    """Over several steps, with decay: as if the colours and the further band were two tensors with two rates."""
    torch.manual_seed(0)
    model = build_model(SMALL, 3, bands=FOUR)
    weight = first_layer(model.encoder).weight
    colours, further = (nn.Parameter(part.clone()) for part in (weight.detach()[:, :3], weight.detach()[:, 3:]))
    rates = settings(lr=1e-2, encoder_lr=1e-3)
    optimizer = make_optimizer(model, rates)
    groups = [{"params": [colours], "lr": 1e-3}, {"params": [further], "lr": 1e-2}]
    apart = torch.optim.AdamW(groups, weight_decay=rates.weight_decay)
    generator = torch.Generator().manual_seed(1)
    for _ in range(5):
        for parameter in model.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        colours.grad, further.grad = weight.grad[:, :3].clone(), weight.grad[:, 3:].clone()
        optimizer.step()
        apart.step()
    torch.testing.assert_close(weight.detach(), torch.cat([colours, further], dim=1).detach(), rtol=1e-5, atol=1e-7)


def test_a_network_of_three_bands_learns_with_one_rate_for_its_encoder():
    torch.manual_seed(0)
    model = build_model(SMALL, 3)
    optimizer = make_optimizer(model, settings(lr=1e-2, encoder_lr=1e-3))
    slow, fast = ([id(p) for p in group["params"]] for group in optimizer.param_groups)
    assert slow == [id(p) for p in model.encoder.parameters()]
    assert sorted(slow + fast) == sorted(id(p) for p in model.parameters())
    torch.testing.assert_close(
        moved(model, lr=1e-2, encoder_lr=1e-3, weight_decay=0.0).median(), torch.tensor(1e-3), rtol=1e-2, atol=0
    )


# What they can tell apart

LOOK_ALIKE = (1, 2)  # classes of one colour, of which the second is bright in the fourth band


def write_look_alikes(root, bands: int) -> None:
    for split, seeds in (("train", range(8)), ("val", range(8, 11))):
        masks, images = {}, {}
        for seed in seeds:
            rng = np.random.default_rng(seed)
            mask = np.kron(rng.choice(LOOK_ALIKE, (4, 4)), np.ones((16, 16), int)).astype(np.uint8)
            colours = rng.normal(120, 20, (3, 64, 64))
            infrared = np.where(mask == LOOK_ALIKE[1], 190, 70) + rng.normal(0, 20, (64, 64))
            image = np.clip([*colours, infrared], 0, 255).astype(np.uint8)[:bands]
            masks[f"t{seed}"], images[f"t{seed}"] = mask, image
        statistics = {"mean": [0.47] * 3 + [0.5], "std": [0.08] * 3 + [0.25]}
        numbers = list(range(1, bands + 1))
        facts = {"bands": numbers, "band_statistics": {name: of_band[:bands] for name, of_band in statistics.items()}}
        write_set(root / f"data/biodiversity_split/{split}", masks, split=split, images=images, **facts)


@pytest.mark.parametrize(("bands", "right"), [(3, False), (4, True)])
def test_stage_1_tells_two_classes_apart_that_look_alike_in_red_green_and_blue(tmp_path, bands, right):
    write_look_alikes(tmp_path, bands)
    flags = ("--arch", "unet", "--decoder-channels", 32, 16, 16, 8, 8, "--lr", 5e-3, "--encoder-lr", 5e-3)
    train(train_stage1_baseline, tmp_path, "--iterations", 60, "--val-every", 60, "--warmup", 5, *flags)
    run = json.loads((tmp_path / "model_weights/biodiversity/stage1_baseline/seed42/run.json").read_text())
    assert (run["last"]["mIoU"] > 0.85) == right and (right or run["last"]["mIoU"] < 0.6)
    checkpoint = Checkpoint.load(made(tmp_path / "model_weights/biodiversity/stage1_baseline/seed42/last.pt"))
    assert checkpoint.bands == list(range(1, bands + 1)) and len(run["encoder_constants"]["mean"]) == bands
    assert checkpoint.build()(torch.rand(1, bands, 64, 64)).shape == (1, 6, 64, 64)
