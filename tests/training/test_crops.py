import signal
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import kstest, pearsonr

from common import datasets
from common.croppers import RandomCrop
from common.datasets import tile_loader
from common.samplers import UniformTiles
from common.taxonomy import BIODIVERSITY
from common.tiles import TileSet
from tests.helpers import made, write_png, write_tif
from training.engine import crops as engine_crops
from training.engine.crops import (
    AUGMENTATION_STREAM,
    WINDOW_STREAM,
    Augmentation,
    CropDataset,
    StepSampler,
    TileDraws,
    crop_loader,
    resize,
    stream,
)

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def tiles(tmp_path_factory) -> TileSet:
    """Nine tiles of noise, 48 by 56 pixels."""
    folder, rng, entries = tmp_path_factory.mktemp("tiles"), np.random.default_rng(0), {}
    for number in range(9):
        mask = rng.integers(0, 6, (48, 56), np.uint8)
        write_tif(folder / f"images/t{number}.tif", rng.integers(0, 256, (3, 48, 56), np.uint8))
        write_png(folder / f"masks/t{number}.png", mask)
        pixels = [int((mask == label).sum()) for label in range(6)]
        entries[f"t{number}"] = {"height": 48, "width": 56, "pixels": pixels}
    return TileSet(made(folder), {"tiles": entries}, BIODIVERSITY)


@pytest.fixture
def crops(tiles) -> CropDataset:
    return CropDataset(tiles, TileDraws(tiles, UniformTiles(), 42), RandomCrop(32), 42)


def test_the_numbers_of_augmentation_and_stride_are_those_that_the_method_fixes():
    assert (engine_crops.SCALE_RANGE, engine_crops.BRIGHTNESS, engine_crops.CONTRAST) == ((0.8, 1.25), 0.2, 0.2)
    assert datasets.STRIDE == 32


def test_a_crop_depends_on_its_position_alone(crops):
    alone, batch = crops[[17]], crops[[16, 17, 18]]
    assert all(torch.equal(alone[name][0], batch[name][1]) for name in alone)
    assert not torch.equal(batch["image"][1], batch["image"][2])


def turned_by_hand(pixels, orientation):
    """Quarter turns against the clock; from the fifth orientation on, left and right are exchanged after them."""
    for _ in range(orientation % 4):
        pixels = np.flip(np.swapaxes(pixels, -2, -1), -2)
    return np.flip(pixels, -1) if orientation >= 4 else pixels


def test_a_crop_is_its_window_of_its_tile_resized_and_turned_as_drawn(crops, tiles):
    positions = list(range(30))
    batch = crops[positions]
    seen = set()
    for i, position in enumerate(positions):
        tile = tiles.tiles[int(batch["tile"][i])]
        image, mask = tile.read_image(), tile.read_mask()
        drawn = Augmentation.draw(stream(42, position, AUGMENTATION_STREAM))
        row, column, side = RandomCrop(32).window(mask, stream(42, position, WINDOW_STREAM), drawn.scale)
        cut = (slice(row, row + side), slice(column, column + side))
        wanted_image, wanted_mask = resize(image[:, *cut], mask[cut], 32)
        np.testing.assert_array_equal(batch["image"][i], turned_by_hand(wanted_image, drawn.orientation))
        np.testing.assert_array_equal(batch["mask"][i], turned_by_hand(wanted_mask, drawn.orientation))
        assert batch["pixels"][i].tolist() == [(wanted_mask == label).sum() for label in range(6)]
        assert batch["photometric"][i].tolist() == pytest.approx([drawn.brightness, drawn.contrast])
        seen.add((drawn.orientation, side < 32, side > 32))
    assert len({orientation for orientation, *_ in seen}) == 8 and len(seen) > 10
    kinds = {name: (tuple(tensor.shape[1:]), tensor.dtype) for name, tensor in batch.items()}
    assert kinds == {
        "tile": ((), torch.int64),
        "pixels": ((6,), torch.int64),
        "image": ((3, 32, 32), torch.uint8),
        "mask": ((32, 32), torch.uint8),
        "photometric": ((2,), torch.float32),
    }


def test_tile_window_and_augmentation_of_a_crop_come_from_three_streams_of_its_seed_and_position(tiles):
    asked = []

    class Notes(RandomCrop):
        def window(self, mask, rng, scale):
            asked.append((mask.shape, rng.random(), scale))
            return 0, 0, 32

    crops = CropDataset(tiles, TileDraws(tiles, UniformTiles(), 5), Notes(32), 6)
    batch = crops[[11, 4]]
    for place, position in enumerate((11, 4)):
        scale = Augmentation.draw(stream(6, position, AUGMENTATION_STREAM)).scale
        assert asked[place] == ((48, 56), stream(6, position, WINDOW_STREAM).random(), scale)
        assert batch["tile"][place] == int(9 * stream(5, position, 0).random())


def test_two_crops_of_one_tile_differ_in_window_and_augmentation(tiles):
    batch = CropDataset(tiles, lambda position: 4, RandomCrop(32), 0)[[0, 1, 2]]
    assert batch["tile"].tolist() == [4, 4, 4]
    assert len({image.numpy().tobytes() for image in batch["image"]}) == 3
    assert len(set(map(tuple, batch["photometric"].tolist()))) == 3


@pytest.mark.parametrize("room", [0, 3 * 48 * 56 + 1, 2**20])
def test_masks_are_kept_while_there_is_room_and_change_no_crop(tiles, crops, monkeypatch, room):
    monkeypatch.setattr(engine_crops, "MASKS_KEPT", room)
    keeping = CropDataset(tiles, crops.draws, crops.cropper, crops.seed)
    for position in range(40):
        kept, fresh = keeping[[position]], CropDataset(tiles, crops.draws, crops.cropper, crops.seed)[[position]]
        assert all(torch.equal(kept[name], fresh[name]) for name in fresh)
    assert len(keeping.masks) == min(9, room // (48 * 56))


def test_a_batch_of_a_step_is_the_crops_at_its_positions(crops):
    batches = list(crop_loader(crops, StepSampler(1, 3, 4), 0, CPU))
    assert len(batches) == 2
    for batch, positions in zip(batches, ([4, 5, 6, 7], [8, 9, 10, 11]), strict=True):
        wanted = crops[positions]
        assert batch.keys() == wanted.keys() and all(torch.equal(batch[name], wanted[name]) for name in wanted)


def test_the_eight_orientations_are_different_and_keep_every_pixel():
    pixels = np.arange(16).reshape(1, 4, 4)
    turned = {Augmentation(1.0, orientation, 1.0, 1.0).orient(pixels).tobytes() for orientation in range(8)}
    assert len(turned) == 8
    assert {tuple(sorted(np.frombuffer(t, pixels.dtype))) for t in turned} == {tuple(range(16))}


@pytest.mark.parametrize("orientation", range(8))
def test_an_orientation_is_the_same_for_an_image_and_a_mask(orientation):
    mask = np.arange(12).reshape(3, 4)
    image = np.stack([mask, mask + 100, mask + 200])
    turn = Augmentation(1.0, orientation, 1.0, 1.0).orient
    np.testing.assert_array_equal(turn(mask), turned_by_hand(mask, orientation))
    np.testing.assert_array_equal(turn(image), [turn(mask), turn(mask) + 100, turn(mask) + 200])


def test_augmentation_is_drawn_evenly_and_each_part_by_itself():
    drawn = [Augmentation.draw(stream(1, n, AUGMENTATION_STREAM)) for n in range(2000)]
    scale = np.log([a.scale for a in drawn])  # as often halved as doubled, if it went so far
    brightness, contrast = (np.array([getattr(a, name) for a in drawn]) for name in ("brightness", "contrast"))
    orientation = np.array([a.orientation for a in drawn])
    for values, low, high in ((scale, np.log(0.8), np.log(1.25)), (brightness, 0.8, 1.2), (contrast, 0.8, 1.2)):
        assert kstest(values, "uniform", (low, high - low)).pvalue > 0.01
    parts = (scale, brightness, contrast, orientation % 4, orientation // 4)
    for i, first in enumerate(parts):
        for second in parts[:i]:
            assert abs(pearsonr(first, second)[0]) < 0.08
    assert np.bincount(orientation, minlength=8) == pytest.approx(250, abs=60)


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


def test_a_mask_is_resized_to_the_nearest_pixel():
    mask = np.random.default_rng(0).integers(0, 6, (12, 12), np.uint8)
    image = np.zeros((3, 12, 12), np.uint8)
    np.testing.assert_array_equal(resize(image, mask, 24)[1], np.kron(mask, np.ones((2, 2), np.uint8)))
    np.testing.assert_array_equal(resize(image, mask, 4)[1], mask[1::3, 1::3])  # the middle ones of three by three
    assert resize(image, mask, 4)[0].shape == (3, 4, 4)


def test_what_has_its_size_already_is_not_changed():
    rng = np.random.default_rng(0)
    image, mask = rng.integers(0, 256, (3, 9, 9), np.uint8), rng.integers(0, 6, (9, 9), np.uint8)
    same_image, same_mask = resize(image, mask, 9)
    assert np.array_equal(same_image, image) and np.array_equal(same_mask, mask)


def test_resizing_an_image_gives_the_pixels_of_pillow_to_one_grey_value():
    image = np.random.default_rng(0).integers(0, 256, (3, 50, 50), np.uint8)
    for side in (32, 64):
        wanted = Image.fromarray(image.transpose(1, 2, 0)).resize((side, side), Image.Resampling.BILINEAR)
        resized, _ = resize(image, image[0], side)
        assert np.abs(resized.transpose(1, 2, 0).astype(int) - np.asarray(wanted)).max() <= 1


def test_the_draws_of_several_processes_together_are_those_of_one():
    alone = list(StepSampler(0, 5, 8))
    shared = [list(StepSampler(0, 5, 8, rank, 4)) for rank in range(4)]
    assert [sum((shared[rank][step] for rank in range(4)), []) for step in range(5)] == alone


def test_each_process_takes_its_part_of_each_step():
    sampler = StepSampler(2, 4, 8, rank=1, world=4)
    assert list(sampler) == [[18, 19], [26, 27]] and len(sampler) == 2
    assert list(StepSampler(0, 2, 3)) == [[0, 1, 2], [3, 4, 5]]


def test_a_resumed_run_continues_the_sequence_of_draws():
    assert list(StepSampler(0, 3, 4)) + list(StepSampler(3, 6, 4)) == list(StepSampler(0, 6, 4))


def test_whole_tiles_come_once_each_as_they_are(tiles):
    batches = list(tile_loader(tiles.tiles, 0, CPU))
    assert sorted(sum((batch["tile"].tolist() for batch in batches), [])) == list(range(len(tiles)))
    for batch in batches:
        for index, image, mask in zip(batch["tile"].tolist(), batch["image"], batch["mask"], strict=True):
            np.testing.assert_array_equal(image, tiles.tiles[index].read_image())
            np.testing.assert_array_equal(mask, tiles.tiles[index].read_mask())


def test_batches_of_whole_tiles_hold_one_size_and_as_many_as_memory_allows():
    sizes = [(256, 256)] * 3 + [(256, 512), (512, 256)] + [(256, 256)] * 3 + [(600, 600)] * 2
    tiles = [SimpleNamespace(entry={"height": height, "width": width}) for height, width in sizes]
    on_cpu = [[0, 1, 2, 5], [6, 7], [3], [4], [8], [9]]  # 512 · 512 pixels, and a tile that is larger
    assert list(tile_loader(tiles, 0, CPU).batch_sampler) == on_cpu
    assert tile_loader(tiles, 1, CPU).num_workers == 0
    assert list(tile_loader(tiles, 1, torch.device("cuda")).batch_sampler) == [[0, 1, 2, 5, 6, 7], [3], [4], [8, 9]]


def test_workers_of_a_loader_serve_the_main_process_until_it_stops_them(crops, tiles, monkeypatch):
    loaders = [crop_loader(crops, StepSampler(0, 1, 2), 1, CPU), tile_loader(tiles.tiles, 1, torch.device("cuda"))]
    assert [(loader.num_workers, loader.pin_memory) for loader in loaders] == [(1, False), (1, True)]
    for loader in loaders:
        ignored = {}
        monkeypatch.setattr(signal, "signal", ignored.__setitem__)
        loader.worker_init_fn(0)
        assert ignored == dict.fromkeys((signal.SIGINT, signal.SIGTERM, signal.SIGHUP), signal.SIG_IGN)
