import numpy as np
import pytest
import torch
from PIL import Image

from common.croppers import RandomCrop
from common.datasets import Augmentation, CropDataset, StepSampler, network_input, resize, tile_loader
from common.samplers import AUGMENTATION_STREAM, TileDraws, UniformTiles, stream
from common.tiles import TileSet

CPU = torch.device("cpu")


@pytest.fixture
def tiles(prepared) -> TileSet:
    return TileSet.open(prepared / "data/biodiversity_split/train", "data_prep.split_biodiversity")


@pytest.fixture
def crops(tiles) -> CropDataset:
    return CropDataset(tiles, TileDraws(tiles, UniformTiles(), 42), RandomCrop(32), 42)


def test_a_crop_depends_on_its_position_alone(crops):
    alone, batch = crops[[17]], crops[[16, 17, 18]]
    assert all(torch.equal(alone[name][0], batch[name][1]) for name in alone)
    assert not torch.equal(batch["image"][1], batch["image"][2])


def test_image_and_mask_of_a_crop_show_the_same_ground(crops, tiles):
    """Every pixel of an unscaled crop is found in its tile with the colour and the class it has in the crop."""
    crop = {name: tensor[0] for name, tensor in crops[[3]].items()}
    tile = tiles.tiles[int(crop["tile"])]
    image, mask = tile.read_image(), tile.read_mask()
    scale = Augmentation.draw(stream(42, 3, AUGMENTATION_STREAM)).scale
    row, column, side = crops.cropper.window(mask, stream(42, 3, 1), scale)
    window = (slice(row, row + side), slice(column, column + side))
    wanted_image, wanted_mask = resize(image[:, *window], mask[window], 32)
    found = False
    for orientation in range(8):
        turn = Augmentation(1.0, orientation, 1.0, 1.0).orient
        if np.array_equal(turn(wanted_mask), crop["mask"]) and np.array_equal(turn(wanted_image), crop["image"]):
            found = True
    assert found


def test_the_eight_orientations_are_different_and_keep_every_pixel():
    pixels = np.arange(16).reshape(1, 4, 4)
    turned = {Augmentation(1.0, orientation, 1.0, 1.0).orient(pixels).tobytes() for orientation in range(8)}
    assert len(turned) == 8
    assert {tuple(sorted(np.frombuffer(t, pixels.dtype))) for t in turned} == {tuple(range(16))}


def test_augmentation_keeps_to_its_ranges_and_uses_them():
    drawn = [Augmentation.draw(stream(0, n, AUGMENTATION_STREAM)) for n in range(500)]
    for values, low, high in (
        ([a.scale for a in drawn], 0.8, 1.25),
        ([a.brightness for a in drawn], 0.8, 1.2),
        ([a.contrast for a in drawn], 0.8, 1.2),
    ):
        assert low <= min(values) < low + 0.03 and high - 0.03 < max(values) <= high
    assert {a.orientation for a in drawn} == set(range(8))


def test_resizing_a_mask_makes_no_new_class():
    mask = np.random.default_rng(0).choice(np.array([1, 5], np.uint8), (40, 40))
    _, resized = resize(np.zeros((3, 40, 40), np.uint8), mask, 32)
    assert resized.shape == (32, 32) and set(np.unique(resized)) == {1, 5}


def test_resizing_an_image_gives_the_pixels_of_pillow_to_one_grey_value():
    image = np.random.default_rng(0).integers(0, 256, (3, 50, 50), np.uint8)
    for side in (32, 64):
        wanted = Image.fromarray(image.transpose(1, 2, 0)).resize((side, side), Image.Resampling.BILINEAR)
        resized, _ = resize(image, image[0], side)
        assert np.abs(resized.transpose(1, 2, 0).astype(int) - np.asarray(wanted)).max() <= 1


def test_neutral_brightness_and_contrast_change_nothing():
    images = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8)
    assert torch.allclose(network_input(images, torch.ones(2, 2)), network_input(images), atol=1e-5)


def test_brightness_and_contrast_act_on_each_image_by_itself():
    images = torch.full((2, 3, 4, 4), 100, dtype=torch.uint8)
    brighter = network_input(images, torch.tensor([[1.2, 1.0], [1.0, 1.0]]))
    assert (brighter[0] > brighter[1]).all() and torch.allclose(brighter[1], network_input(images)[1], atol=1e-5)


def test_the_draws_of_several_processes_together_are_those_of_one():
    alone = list(StepSampler(0, 5, 8))
    shared = [list(StepSampler(0, 5, 8, rank, 4)) for rank in range(4)]
    assert [sum((shared[rank][step] for rank in range(4)), []) for step in range(5)] == alone


def test_a_resumed_run_continues_the_sequence_of_draws():
    assert list(StepSampler(0, 3, 4)) + list(StepSampler(3, 6, 4)) == list(StepSampler(0, 6, 4))


def test_whole_tiles_come_once_each_and_batches_hold_one_size(tiles):
    seen = [batch["tile"].tolist() for batch in tile_loader(tiles.tiles, 0, CPU)]
    assert sorted(sum(seen, [])) == list(range(len(tiles)))
