"""Whole tiles of any size are predicted at their own size."""

import numpy as np
import pytest
import torch
from torch import nn

from common import inference
from common.datasets import STRIDE, network_input
from common.models import build_model
from common.taxonomy import BIODIVERSITY
from common.tiles import Tile, describe_tile, write_image, write_mask

SIZES = [(204, 204), (50, 50), (1, 1), (1, 50), (33, 204)]


def images_of(height, width, count=2):
    generator = torch.Generator().manual_seed(height * 1000 + width)
    return torch.randint(0, 256, (count, 3, height, width), dtype=torch.uint8, generator=generator)


class Pointwise(nn.Module):
    """Each output pixel depends on its input pixel alone; sides must be multiples of STRIDE, as encoders ask."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(6, 3, 1, 1, generator=torch.Generator().manual_seed(0)))

    def forward(self, images):
        assert images.shape[-2] % STRIDE == 0 and images.shape[-1] % STRIDE == 0
        return torch.tanh(nn.functional.conv2d(images, self.weight))


def direct(model, images):
    return torch.tanh(nn.functional.conv2d(network_input(images), model.weight)).detach()


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_logits_have_the_size_of_the_tile(height, width):
    torch.manual_seed(0)
    model = build_model("linknet", "mobilenet_v2", 6).eval()
    logits = inference.predict_logits(model, images_of(height, width))
    assert logits.shape == (2, 6, height, width)
    assert logits.isfinite().all()
    assert not (logits.argmax(dim=1) == 0).any()


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_padding_moves_no_pixel(height, width):
    model, images = Pointwise(), images_of(height, width)
    torch.testing.assert_close(inference.predict_logits(model, images), direct(model, images))


@pytest.mark.parametrize(("height", "width"), [(204, 204), (64, 150), (65, 64), (50, 203), (1, 130)])
def test_windows_of_a_pointwise_network_equal_the_whole(monkeypatch, height, width):
    monkeypatch.setattr(inference, "WINDOW", 64)
    monkeypatch.setattr(inference, "OVERLAP", 16)
    model, images = Pointwise(), images_of(height, width)
    torch.testing.assert_close(inference.predict_logits(model, images), direct(model, images))


def test_logits_are_averaged_where_windows_overlap(monkeypatch):
    monkeypatch.setattr(inference, "WINDOW", 64)
    monkeypatch.setattr(inference, "OVERLAP", 32)

    class Brightness(nn.Module):
        def forward(self, images):
            return images.mean(dim=(1, 2, 3), keepdim=True).expand(-1, 6, *images.shape[-2:])

    images = torch.zeros(1, 3, 64, 96, dtype=torch.uint8)
    images[..., 64:] = 255
    logits = inference.predict_logits(Brightness(), images)[0, 0, 0]
    first, both, second = logits[0], logits[48], logits[95]
    assert second > first
    assert both == pytest.approx((first + second).item() / 2, abs=1e-6)


@pytest.fixture
def tiles(tmp_path):
    """Four tiles of three sizes."""
    rng = np.random.default_rng(1)
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    tiles = []
    for number, (height, width) in enumerate([(40, 40), (33, 50), (40, 40), (1, 7)]):
        tile = Tile(f"t{number}", tmp_path, {})
        image = rng.integers(0, 256, (3, height, width), dtype=np.uint8)
        mask = rng.integers(0, 6, (height, width), dtype=np.uint8)
        write_image(tile.image_path, image)
        write_mask(tile.mask_path, mask)
        entry = describe_tile(image, mask, tile.image_path, tile.mask_path, {"bounds": None}, 6)
        tiles.append(Tile(tile.id, tmp_path, entry))
    return tiles


def test_confusions_of_tiles_of_several_sizes_keep_their_order(tiles):
    model = Pointwise()
    found = inference.tile_confusions(model, tiles, BIODIVERSITY.num_classes, device=torch.device("cpu"), workers=0)
    assert found.dtype == np.int64
    for tile, confusion in zip(tiles, found, strict=True):
        assert confusion.sum(axis=1).tolist() == tile.pixels.tolist()
        preds = direct(model, torch.from_numpy(tile.read_image())[None]).argmax(dim=1)
        truth = torch.from_numpy(tile.read_mask().astype(np.int64))[None]
        assert (confusion == inference.confusion_by_tile(truth, preds, 6)[0].numpy()).all()


def test_all_counts_of_tiles_come_from_one_forward_pass(tiles):
    class Counting(Pointwise):
        passes = 0

        def forward(self, images):
            self.passes += len(images)
            return super().forward(images)

    model, where = Counting(), {"device": torch.device("cpu"), "workers": 0}
    found = inference.tile_counts(model, tiles, 6, **where)
    assert model.passes == len(tiles)
    assert (found.confusions == inference.tile_confusions(model, tiles, 6, **where)).all()
    for tile, boundary, calibration in zip(tiles, found.boundary, found.calibration, strict=True):
        logits = direct(model, torch.from_numpy(tile.read_image())[None])[0]
        truth, preds = torch.from_numpy(tile.read_mask().astype(np.int64)), logits.argmax(dim=0)
        assert boundary.tolist() == inference.boundary_counts(truth, preds, 6).tolist()
        np.testing.assert_allclose(calibration, inference.calibration_counts(truth, preds, logits), rtol=1e-6)
        assert calibration[:, 0].sum() == tile.labelled
    assert (found.confusions.dtype, found.boundary.dtype, found.calibration.dtype) == (np.int64, np.int64, np.float64)
