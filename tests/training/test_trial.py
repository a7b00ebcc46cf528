"""What a network cannot do is one message before anything is written."""

import pytest
import torch
from torch import nn

from common.checkpoints import digest_tensors
from common.device import Processes
from common.errors import UserError
from common.losses import HardAndKDLoss, HardLoss
from common.models import Architecture, build_model
from common.tiles import TileSet
from tests.helpers import made, parser_of_a_stage
from training.engine.trial import try_networks

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def val(prepared) -> TileSet:
    return TileSet.open(made(prepared / "data/biodiversity_split/val"))


def crops(count: int, size: int) -> dict[str, torch.Tensor]:
    return {"image": torch.rand(count, 3, size, size), "mask": torch.ones(count, size, size, dtype=torch.int64)}


def tried(model, val, inputs, loss=None, arch="unet", encoder="resnet18") -> None:
    settings = parser_of_a_stage().parse_args(["--preset", "demo", "--arch", arch, "--encoder", encoder]).settings
    try_networks(model, loss or HardLoss(), inputs, val, settings, Processes(CPU))


@pytest.mark.parametrize(
    ("arch", "count", "size", "raised"),
    [
        ("pan", 2, 64, "RuntimeError: Given input size"),
        ("deeplabv3plus", 1, 64, "ValueError: Expected more than 1 value per channel"),
        ("upernet", 1, 64, "ValueError: Expected more than 1 value per channel"),
    ],
)
def test_crops_that_an_architecture_cannot_take_are_told_with_what_to_change(val, arch, count, size, raised):
    model = build_model(Architecture(arch, "resnet18"), 6)
    with pytest.raises(UserError) as error:
        tried(model, val, crops(count, size), arch=arch)
    message = str(error.value)
    assert message.startswith(f"--arch {arch} --encoder resnet18 cannot take a training step on {count} crop")
    assert f"of {size} px ({raised}" in message and "Give another --crop-size, at least two crops" in message
    assert "\n" not in message


class OneSize(nn.Module):
    """As an encoder whose position embeddings are of one size."""

    def __init__(self, side: int, num_classes: int = 6):
        super().__init__()
        self.side, self.head = side, nn.Conv2d(3, num_classes, 1)

    def forward(self, images):
        assert images.shape[-1] == self.side, f"Input width ({images.shape[-1]}) doesn't match model ({self.side})."
        return self.head(images)


class AnySize(OneSize):
    def forward(self, images):
        return self.head(images)


def test_a_size_of_val_that_a_network_cannot_predict_is_told(val):
    with pytest.raises(UserError, match=r"cannot predict \d+ x \d+ px, as tiles of .*val have \(Assertion"):
        tried(OneSize(32), val, crops(2, 32))


def test_the_sizes_of_the_smallest_and_the_largest_tile_are_predicted(val):
    predicted = []

    class Noting(AnySize):
        def forward(self, images):
            if not self.training:
                predicted.append(tuple(images.shape[-2:]))
            return super().forward(images)

    sides = {tile_id: (64, 64) for tile_id in val.ids}
    sides[val.ids[1]], sides[val.ids[2]] = (32, 64), (96, 64)
    entries = {
        tile.id: tile.entry | {"height": height, "width": width}
        for tile, (height, width) in zip(val, sides.values(), strict=True)
    }
    tried(Noting(32), TileSet(val.source, {**val.manifest, "tiles": entries}, val.taxonomy), crops(2, 32))
    assert sorted(predicted) == [(32, 64), (96, 64)]


def test_a_teacher_is_tried_too(val):
    loss = HardAndKDLoss(OneSize(64), torch.eye(6))
    with pytest.raises(UserError, match=r"The teacher cannot process 2 crops of 32 px.*--crop-size or --teacher"):
        tried(OneSize(32), val, crops(2, 32), loss)


def test_a_network_is_left_as_it_was(val):
    model = build_model(Architecture("unet", "resnet18"), 6).eval()
    before = digest_tensors(model.state_dict())
    tried(model, val, crops(2, 32))
    assert digest_tensors(model.state_dict()) == before and not model.training
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("CUDA out of memory. Tried to allocate")])
def test_a_lack_of_memory_is_no_matter_of_the_network(val, error):
    class Hungry(OneSize):
        def forward(self, images):
            raise error

    with pytest.raises(type(error)):
        tried(Hungry(32), val, crops(2, 32))


def test_an_output_of_another_size_and_a_backward_pass_that_fails_are_told(val):
    class Halved(OneSize):
        def forward(self, images):
            return self.head(images)[..., ::2, ::2]

    class Irreversible(OneSize):
        def forward(self, images):
            outputs = self.head(images)
            outputs.register_hook(lambda gradient: gradient.view(3, -1))
            return outputs

    with pytest.raises(UserError, match="cannot take a training step.*its output is 16 x 16 px"):
        tried(Halved(32), val, crops(2, 32))
    with pytest.raises(UserError, match="cannot take a training step.*RuntimeError"):
        tried(Irreversible(32), val, crops(2, 32))


def test_a_loss_may_hold_modules_that_are_no_networks(val):
    loss = HardLoss()
    loss.criterion = nn.CrossEntropyLoss()
    tried(AnySize(32), val, crops(2, 32), loss)


def test_a_defect_of_the_loss_keeps_its_traceback(val):
    class Broken(HardLoss):
        def terms(self, logits, batch):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        tried(OneSize(32), val, crops(2, 32), Broken())
