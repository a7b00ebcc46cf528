"""Whole tiles of any size are predicted at their own size."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from common import inference
from common.checkpoints import METADATA_TO_SCORE, Checkpoint, UnfinishedRun, open_to_score
from common.datasets import STRIDE, network_input
from common.errors import UserError
from common.models import Architecture, build_model
from common.rasters import write_image, write_mask
from common.taxonomy import BIODIVERSITY
from common.tiles import Tile
from data_prep.tile_sets.writer import describe_tile
from evaluation.scoring import counts
from tests.helpers import made, save_checkpoint

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
    model = build_model(Architecture("linknet", "mobilenet_v2"), 6).eval()
    logits = inference.predict_logits(model, images_of(height, width))
    assert logits.shape == (2, 6, height, width)
    assert logits.isfinite().all()
    assert not (logits.argmax(dim=1) == 0).any()


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_padding_moves_no_pixel(height, width):
    model, images = Pointwise(), images_of(height, width)
    torch.testing.assert_close(inference.predict_logits(model, images), direct(model, images))


class Looking(nn.Module):
    """Keeps what it is given."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, images):
        self.seen.append(images)
        return images.new_zeros(len(images), 6, *images.shape[-2:])


@pytest.mark.parametrize(
    ("height", "width", "padded"),
    [(64, 96, (64, 96)), (50, 96, (64, 96)), (33, 65, (64, 96)), (10, 20, (32, 32)), (1, 40, (32, 64))],
)
def test_tiles_are_padded_by_reflection_at_the_bottom_and_the_right_and_no_more_than_needed(height, width, padded):
    model, images = Looking(), images_of(height, width)
    inference.predict_logits(model, images)
    (seen,) = model.seen
    margins = [(0, 0), (0, 0), (0, padded[0] - height), (0, padded[1] - width)]
    wanted = np.pad(network_input(images).numpy(), margins, mode="reflect" if height > 1 else "symmetric")
    if height == 1:  # nothing to reflect along this side: its one row is repeated
        wanted = np.broadcast_to(wanted[:, :, :1], (2, 3, *padded))
        assert (seen[..., :width].numpy() == wanted[..., :width]).all() and seen.shape[-2:] == padded
    else:
        np.testing.assert_array_equal(seen.numpy(), wanted)


def test_windows_are_of_1024_pixels_share_256_and_cover_a_side_to_its_end():
    assert (inference.WINDOW, inference.OVERLAP, STRIDE) == (1024, 256, 32)
    wanted = {
        1: [0],
        1024: [0],
        1025: [0, 1],
        1792: [0, 768],
        1793: [0, 384, 769],
        2048: [0, 512, 1024],
        3000: [0, 658, 1317, 1976],
    }
    assert {length: inference.WindowAxis(length).starts for length in wanted} == wanted


@given(st.integers(1, 400), st.integers(1, 64), st.data())
def test_windows_cover_a_side_and_share_enough_and_their_shares_sum_to_one(length, window, data):
    overlap = data.draw(st.integers(0, window - 1))
    axis = inference.WindowAxis(length, window, overlap)
    total = np.zeros(length)
    for start, shares in zip(axis.starts, axis.shares(), strict=True):
        assert shares.dtype == np.float32 and (shares > 0).all()
        total[start : start + axis.side] += shares
    np.testing.assert_allclose(total, 1, rtol=1e-6)
    assert all(before + axis.side - after >= overlap for before, after in itertools.pairwise(axis.starts))
    assert len(axis.starts) == max(1, -(-(length - overlap) // (window - overlap)))


def test_large_tiles_are_seen_in_windows_and_smaller_ones_whole(monkeypatch):
    monkeypatch.setattr(inference, "WINDOW", 64)
    monkeypatch.setattr(inference, "OVERLAP", 16)
    for size, windows in (((64, 64), [(64, 64)]), ((64, 100), [(64, 64)] * 2), ((32, 65), [(32, 64)] * 2)):
        model = Looking()
        assert inference.predict_logits(model, images_of(*size)).shape == (2, 6, *size)
        assert [tuple(seen.shape[-2:]) for seen in model.seen] == windows
    model = Looking()
    images = images_of(100, 130, count=1)
    inference.predict_logits(model, images)
    starts = [(top, left) for top in (0, 36) for left in (0, 33, 66)]
    for seen, (top, left) in zip(model.seen, starts, strict=True):
        torch.testing.assert_close(seen, network_input(images[..., top : top + 64, left : left + 64]))


def test_a_network_predicts_in_eval_mode_and_without_gradients(tiles):
    model = Pointwise().train()
    found = list(inference.predict_tiles(model, tiles, device=torch.device("cpu"), workers=0))
    assert not model.training
    assert not any(logits.requires_grad for *_, logits in found)
    assert sorted(i for index, *_ in found for i in index.tolist()) == [0, 1, 2, 3]
    for index, mask, logits in found:
        assert mask.dtype == torch.int64 and logits.shape == (len(index), 6, *mask.shape[1:])
        for i, of_tile in zip(index.tolist(), mask, strict=True):
            np.testing.assert_array_equal(of_tile, tiles[i].read_mask())


@pytest.mark.parametrize(("height", "width"), [(204, 204), (64, 150), (65, 64), (50, 203), (1, 130)])
def test_windows_of_a_pointwise_network_equal_the_whole(monkeypatch, height, width):
    monkeypatch.setattr(inference, "WINDOW", 64)
    monkeypatch.setattr(inference, "OVERLAP", 16)
    model, images = Pointwise(), images_of(height, width)
    probabilities = inference.predict_logits(model, images).softmax(dim=1)
    torch.testing.assert_close(probabilities, direct(model, images).softmax(dim=1))


def test_probabilities_are_blended_where_windows_overlap(monkeypatch):
    monkeypatch.setattr(inference, "WINDOW", 64)
    monkeypatch.setattr(inference, "OVERLAP", 32)

    class Brightness(nn.Module):
        def forward(self, images):
            sure = 3 * images.mean(dim=(1, 2, 3), keepdim=True).expand(-1, 1, *images.shape[-2:])
            return torch.cat([torch.zeros_like(sure), sure], dim=1)

    images = torch.zeros(1, 3, 64, 96, dtype=torch.uint8)
    images[..., 64:] = 255
    probabilities = inference.predict_logits(Brightness(), images)[0, 1, 0].exp()
    first, second = probabilities[0], probabilities[95]
    assert second > first
    weight, of_second = torch.arange(32, 0, -1) ** 2, torch.arange(1, 33) ** 2  # the first window ends at 64
    share = weight / (weight + of_second)
    torch.testing.assert_close(probabilities[32:64], first * share + second * (1 - share))


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
    found = counts.tile_counts(model, tiles, 6, **where)
    assert model.passes == len(tiles)
    assert (found["confusions"] == inference.tile_confusions(model, tiles, 6, **where)).all()
    for tile, boundary, calibration in zip(tiles, found["boundary"], found["calibration"], strict=True):
        logits = direct(model, torch.from_numpy(tile.read_image())[None])[0]
        truth, preds = torch.from_numpy(tile.read_mask().astype(np.int64)), logits.argmax(dim=0)
        assert boundary.tolist() == counts.boundary_counts(truth, preds, 6).tolist()
        np.testing.assert_allclose(calibration, counts.calibration_counts(truth, preds, logits), rtol=1e-6)
        assert calibration[:, 0].sum() == tile.labelled
    assert [found[name].dtype for name in ("confusions", "boundary", "calibration")] == [np.int64, np.int64, np.float64]


METADATA = {
    "stage": "stage2_replication",
    "seed": 42,
    "step": 20,
    "iterations": 20,
    "cumulative_steps": 20,
    "arch": "unet",
    "encoder": "resnet18",
    "taxonomy": BIODIVERSITY.to_json(),
    "stretch": {"kind": "train", "low": [0, 0, 0], "high": [1, 1, 1]},
    "val": {"digest": "of val"},
    "command": "python -m training.train_stage2_replication --seed 42",
}


def open_saved(
    tmp_path, monkeypatch, *, split="val", digest="of val", training=None, lacking=(), bands=None, **changes
):
    """What ``open_to_score`` says of a checkpoint of stage 2 seed 42 whose metadata are changed so."""
    metadata = {key: value for key, value in (METADATA | changes).items() if key not in lacking}
    path = tmp_path / "last.pt"
    save_checkpoint(path, {"w": torch.ones(2)}, metadata, training)
    monkeypatch.setattr(Checkpoint, "build", lambda self: ("network of", self.path))
    tiles = SimpleNamespace(
        taxonomy=BIODIVERSITY,
        stretch=METADATA["stretch"],
        split=split,
        digest=digest,
        path=tmp_path / split,
        manifest={"bands": bands},
        bands=tuple(bands or (1, 2, 3)),
    )
    return open_to_score(made(path), "stage2_replication", 42, tiles)


def test_the_checkpoint_of_the_run_that_is_asked_for_is_opened(tmp_path, monkeypatch):
    found, model = open_saved(tmp_path, monkeypatch)
    assert found.state["w"].tolist() == [1, 1] and model == ("network of", tmp_path / "last.pt")
    open_saved(tmp_path, monkeypatch, split="test", digest="of test")  # has another digest than val


def test_a_checkpoint_of_other_bands_than_the_tiles_is_refused(tmp_path, monkeypatch):
    images = {"dtypes": None, "colors": None, "gsd": None}
    for trained, bands in (([1, 2, 3, 4], [1, 2, 3]), ([1, 2, 3], [3, 2, 1]), (None, [1, 2, 3, 4])):
        with pytest.raises(UserError, match=r"was trained on the bands .*, but .* has the bands"):
            open_saved(tmp_path, monkeypatch, images=images | {"bands": trained}, bands=bands)
    for trained, bands in (([4, 1], [4, 1]), (None, None), (None, [3, 2, 1]), ([1, 2, 3], None)):
        open_saved(tmp_path, monkeypatch, images=images | {"bands": trained}, bands=bands)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"stage": "stage3_difficulty"},
            "is of stage3_difficulty with seed 42, expected stage2_replication with seed 42",
        ),
        ({"seed": 43}, "is of stage2_replication with seed 43, expected stage2_replication with seed 42"),
        ({"taxonomy": BIODIVERSITY.to_json() | {"colors": ["#111111"] * 6}}, "was trained for the classes"),
        ({"stretch": None}, "scaled to 8 bit otherwise"),
        ({"stretch": METADATA["stretch"] | {"high": [1, 1, 2]}}, "scaled to 8 bit otherwise"),
        ({"val": {"digest": "of another"}}, "was trained beside another val split"),
    ],
)
def test_a_checkpoint_that_is_not_comparable_is_refused(tmp_path, monkeypatch, changes, message):
    with pytest.raises(UserError, match=message) as refused:
        open_saved(tmp_path, monkeypatch, **changes)
    assert "python -m training.train_stage2_replication --seed 42 --overwrite" in str(refused.value)
    assert not isinstance(refused.value, UnfinishedRun)


@pytest.mark.parametrize("step", [5, 20])
def test_a_checkpoint_of_an_unfinished_run_is_refused_at_any_step(tmp_path, monkeypatch, step):
    with pytest.raises(UnfinishedRun, match=f"at step {step} of 20. Finish it: .* --resume"):
        open_saved(tmp_path, monkeypatch, training={"optimizer": {}}, step=step)


@pytest.mark.parametrize("lacking", list(METADATA))
def test_a_checkpoint_that_does_not_say_what_scores_need_is_refused(tmp_path, monkeypatch, lacking):
    assert set(METADATA_TO_SCORE) == set(METADATA)
    with pytest.raises(UserError, match=f"does not say its {lacking}. .*again: python -m some.step --overwrite"):
        open_saved(tmp_path, monkeypatch, lacking=[lacking])
