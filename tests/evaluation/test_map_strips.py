"""Rows of a map: blended without seams, with the same bytes however the work is cut."""

import itertools

import numpy as np
import pytest
import torch
from PIL import Image
from rasterio.transform import Affine
from torch import nn

from common import inference
from common.inference import WindowAxis
from common.raw_images import Reading
from common.taxonomy import BIODIVERSITY
from evaluation.mapping.networks import Networks
from evaluation.mapping.raster import Place, Raster, Scaling
from evaluation.mapping.resampled import Resampled, taps
from evaluation.mapping.strips import NO_DATA, STEPS, Plan, StripMaker, to_bytes
from tests.helpers import write_tif

RGB = Scaling(Reading((1, 2, 3)), None)
CPU = torch.device("cpu")


class Held:
    """A raster in memory; counts the rows that are read."""

    def __init__(self, image, valid=None):
        self.image, self.valid = image, np.ones(image.shape[1:], bool) if valid is None else valid
        self.height, self.width = image.shape[1:]
        self.place, self.pixel_size = Place(None, Affine.identity()), None
        self.rows_read = 0

    def read(self, top, bottom, scalings):
        self.rows_read += bottom - top
        return [self.image[:, top:bottom] for _ in scalings], self.valid[top:bottom]


class Pointwise(nn.Module):
    """Class 1 in dark pixels to class 5 in bright ones; counts what it is given."""

    def __init__(self, factor=20.0):
        super().__init__()
        self.factor, self.seen = factor, []

    def forward(self, images):
        self.seen.append(tuple(images.shape))
        steps = torch.linspace(0.1, 0.9, 5)[None, :, None, None]
        logits = -self.factor * (images.mean(dim=1, keepdim=True) - steps).abs()
        return torch.cat([torch.full_like(logits[:, :1], -1e4), logits], dim=1)


class Constant(nn.Module):
    """The same probabilities everywhere."""

    def __init__(self, *probabilities):
        super().__init__()
        self.logits = torch.tensor([0.0, *probabilities]).clamp(min=1e-30).log()
        self.logits[0] = -1e4

    def forward(self, images):
        return self.logits[None, :, None, None].expand(len(images), -1, *images.shape[-2:]).clone()


class Convolved(nn.Module):
    """A network with a wide view, whose borders are padded by zeros."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.layers = nn.Sequential(*[nn.Conv2d(3 if n == 0 else 6, 6, 5, padding=2) for n in range(4)])

    def forward(self, images):
        logits = 4 * self.layers(images - 0.5)
        logits[:, 0] = -1e4
        return logits


def networks(*models, flips=False):
    return Networks([model.eval() for model in models], [0] * len(models), [RGB], BIODIVERSITY, CPU, flips)


def plan_of(source, window=64, overlap=16, layers=(), batch=1):
    return Plan(
        WindowAxis(source.height, window, overlap), WindowAxis(source.width, window, overlap), tuple(layers), batch
    )


def mapped(source, of, first=0, last=None, **settings):
    """By name the layers of strips ``first`` to before ``last``, one below the other."""
    plan = plan_of(source, **settings)
    strips = list(StripMaker(source, of, plan).strips(first, plan.strips if last is None else last))
    return {name: np.concatenate([s.layers[name] for s in strips], axis=-2) for name in strips[0].layers}


def noise(height, width, seed=0):
    """(3, H, W) uint8 of patches, some wider and some narrower than a window's overlap."""
    rng = np.random.default_rng(seed)
    fine, coarse = rng.integers(0, 128, (3, height, width)), rng.integers(0, 128, (3, height // 8 + 1, width // 8 + 1))
    return (fine + np.kron(coarse, np.ones((8, 8), int))[:, :height, :width]).astype(np.uint8)


ALL = ("confidence", "entropy", "disagreement", "probabilities")
SIZES = [(1, 1), (1, 90), (90, 1), (33, 47), (64, 64), (65, 64), (64, 200), (200, 130), (113, 70)]


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_a_raster_of_any_size_is_mapped_pixel_by_pixel(height, width):
    image = noise(height, width)
    found = mapped(Held(image), networks(Pointwise()), layers=ALL)
    steps = np.linspace(0.1, 0.9, 5)[:, None, None]
    distance = np.abs(image.astype(np.float32).mean(axis=0) / 255 - steps)
    wanted = 1 + distance.argmin(axis=0)
    nearest, second = np.sort(distance, axis=0)[:2]
    clear = second - nearest > 1e-4
    assert found["classes"].shape == (height, width) and found["classes"].dtype == np.uint8
    np.testing.assert_array_equal(found["classes"][clear], wanted[clear])
    assert found["probabilities"].shape == (5, height, width)


@pytest.mark.parametrize(("window", "overlap"), [(64, 16), (64, 0), (32, 24), (50, 20), (64, 33)])
def test_the_map_of_a_constant_network_is_constant(window, overlap):
    source = Held(noise(150, 171))
    found = mapped(source, networks(Constant(0.3, 0.05, 0.4, 0.05, 0.2)), window=window, overlap=overlap, layers=ALL)
    assert np.unique(found["classes"]).tolist() == [3]
    assert np.unique(found["confidence"]).tolist() == [round(0.4 * STEPS)]
    assert [np.unique(band).tolist() for band in found["probabilities"]] == [[76], [13], [102], [13], [51]]
    assert np.unique(found["disagreement"]).tolist() == [0]


def test_bytes_are_rounded_not_cut():
    assert to_bytes(torch.tensor([0.0, 0.49 / STEPS, 0.51 / STEPS, 0.999, 1.0])).tolist() == [0, 0, 1, 254, 254]


@pytest.mark.parametrize("size", [(200, 130), (130, 200), (97, 64)])
def test_strips_are_what_blending_the_whole_raster_would_be(size, monkeypatch):
    image = noise(*size)
    monkeypatch.setattr(inference, "WINDOW", 64)
    monkeypatch.setattr(inference, "OVERLAP", 16)
    model = Convolved().eval()
    probabilities = inference.predict_logits(model, torch.from_numpy(image)[None])[0].exp()
    found = mapped(Held(image), networks(model), layers=("probabilities",))
    np.testing.assert_allclose(found["probabilities"] / STEPS, probabilities[1:].numpy(), atol=0.51 / STEPS)
    best = probabilities.sort(dim=0).values
    clear = ((best[-1] - best[-2]) > 1e-5).numpy()
    np.testing.assert_array_equal(found["classes"][clear], probabilities.argmax(dim=0).numpy()[clear])


def same(one, other):
    for name in one:
        np.testing.assert_array_equal(one[name], other[name])


def test_the_bytes_are_the_same_however_the_strips_are_shared_or_batched():
    source, of = Held(noise(300, 170)), networks(Convolved())
    whole = mapped(source, of, layers=ALL)
    strips = plan_of(source).strips
    assert strips > 4
    for cut in range(1, strips):
        parts = [mapped(source, of, 0, cut, layers=ALL), mapped(source, of, cut, layers=ALL)]
        same({name: np.concatenate([part[name] for part in parts], axis=-2) for name in whole}, whole)
    for batch in (2, 3, 7):
        same(mapped(source, of, layers=ALL, batch=batch), whole)


@pytest.mark.parametrize("overlap", [40, 63])
def test_windows_that_lie_three_deep_are_shared_too(overlap):
    source, of = Held(noise(150, 66)), networks(Convolved())
    plan = plan_of(source, overlap=overlap)
    assert plan.first_needed(plan.strips - 1) < plan.strips - 2
    whole, last = mapped(source, of, overlap=overlap), mapped(source, of, plan.strips - 1, overlap=overlap)
    np.testing.assert_array_equal(last["classes"], whole["classes"][plan.bounds(plan.strips - 1)[0] :])


def changed_at_borders(overlap, shift=32):
    """Share of labels that a shift of the origin changes within 4 pixels of windows' borders, and elsewhere.

    The shift is one that the strides of a network would not notice; what changes, changes by where windows end.
    """
    size, of = 400, networks(Convolved())
    image = noise(size + shift, size + shift)
    first, moved = (
        mapped(Held(image[:, at : at + size, at : at + size]), of, overlap=overlap)["classes"] for at in (0, shift)
    )
    starts = WindowAxis(size, 64, overlap).starts
    at = np.zeros(size + shift, bool)
    for border in {b + d for s in starts for b in (s, s + 64) for d in (0, shift)}:
        at[max(border - 4, 0) : border + 4] = True
    inner = slice(shift + 32, size - 32)  # the raster's own borders have moved as well
    near = (at[:, None] | at)[inner, inner]
    changed = (first[shift:, shift:] != moved[:-shift, :-shift])[32 : size - shift - 32, 32 : size - shift - 32]
    return changed[near].mean(), changed[~near].mean()


def test_no_seams_show(monkeypatch):
    near, elsewhere = changed_at_borders(overlap=32)
    assert near <= elsewhere + 0.002
    near, _ = changed_at_borders(overlap=12)  # in which no pixel is out of sight of a window's end

    def cut(self):
        """Each pixel from one window alone."""
        ends = [*self.starts[1:], self.length]
        return [(np.arange(a, a + self.side) < b).astype(np.float32) for a, b in zip(self.starts, ends, strict=True)]

    monkeypatch.setattr(WindowAxis, "shares", cut)
    with_seams, _ = changed_at_borders(overlap=12)
    assert near < 0.7 * with_seams


def test_pixels_without_data_are_void_and_windows_without_data_cost_nothing():
    image = noise(300, 300)
    valid = np.zeros((300, 300), bool)
    valid[:40, :40], valid[150:160, 200:290] = True, True
    of = networks(Pointwise())
    found = mapped(Held(image, valid), of, layers=ALL)
    assert ((found["classes"] > 0) == valid).all()
    for layer in ("confidence", "entropy", "disagreement"):
        assert ((found[layer] != NO_DATA) == valid).all()
    assert ((found["probabilities"] != NO_DATA) == valid).all()
    windows = sum(shape[0] for shape in of.models[0].seen)
    rows, columns = WindowAxis(300, 64, 16).starts, WindowAxis(300, 64, 16).starts
    assert windows == sum(valid[a : a + 64, b : b + 64].any() for a, b in itertools.product(rows, columns)) < 20
    island = mapped(Held(image), networks(Pointwise()), layers=ALL)
    np.testing.assert_array_equal(found["classes"][valid], island["classes"][valid])
    nothing = mapped(Held(image, np.zeros_like(valid)), networks(Pointwise()))
    assert not nothing["classes"].any()


def test_each_row_of_the_raster_is_read_once():
    source = Held(noise(300, 70))
    mapped(source, networks(Pointwise()))
    assert source.rows_read == 300


def test_layers_of_a_known_ensemble():
    sure, other = Constant(1.0, 0, 0, 0, 0), Constant(0, 1.0, 0, 0, 0)
    found = mapped(Held(noise(80, 80)), networks(sure, sure, other), layers=ALL)
    share = np.array([2 / 3, 1 / 3])
    entropy = -(share * np.log(share)).sum() / np.log(5)
    assert np.unique(found["classes"]).tolist() == [1]
    assert np.unique(found["confidence"]).tolist() == [round(STEPS * 2 / 3)]
    assert np.unique(found["entropy"]).tolist() == [round(STEPS * entropy)]
    assert np.unique(found["disagreement"]).tolist() == [round(STEPS * entropy)]  # each alone is sure
    assert [np.unique(band).item() for band in found["probabilities"]] == [169, 85, 0, 0, 0]
    undecided = Constant(0.5, 0.5, 0, 0, 0)
    found = mapped(Held(noise(80, 80)), networks(undecided, undecided), layers=("entropy", "disagreement"))
    assert np.unique(found["entropy"]).tolist() == [round(STEPS * np.log(2) / np.log(5))]
    assert np.unique(found["disagreement"]).tolist() == [0]


def test_flips_average_over_the_mirrored_window():
    class Left(nn.Module):
        """Class 1 in the left half of what it sees, class 2 in the right."""

        def forward(self, images):
            logits = torch.full((len(images), 6, *images.shape[-2:]), -1e4)
            logits[:, 1, :, :32], logits[:, 2, :, 32:] = 0, 0
            return logits

    source = Held(noise(64, 64))
    assert [np.unique(h).item() for h in np.hsplit(mapped(source, networks(Left()))["classes"], 2)] == [1, 2]
    both = mapped(source, networks(Left(), flips=True), layers=("probabilities",))["probabilities"]
    assert np.unique(both[:2]).item() == STEPS / 2
    same(mapped(source, networks(Pointwise(), flips=True)), mapped(source, networks(Pointwise())))


def test_confidence_is_summed_over_pixels_with_data():
    valid = np.zeros((100, 100), bool)
    valid[20:50, 30:90] = True
    source = Held(noise(100, 100), valid)
    plan = plan_of(source)
    strips = StripMaker(source, networks(Constant(0.5, 0.3, 0.2, 0, 0)), plan).strips(0, plan.strips)
    assert sum(strip.confidence for strip in strips) == pytest.approx(0.5 * valid.sum(), rel=1e-5)


def test_new_pixels_are_means_of_old_ones_and_do_not_depend_on_where_reading_begins(tmp_path):
    image = noise(120, 90)
    write_tif(tmp_path / "a.tif", image, origin=(500_000, 5_000_000), gsd=0.5)
    with Raster(tmp_path / "a.tif", [1, 2, 3]) as raster:
        half = Resampled(raster, 1.0)
        assert (half.height, half.width, half.pixel_size) == (60, 45, (1.0, 1.0))
        assert half.place.transform == Affine(1, 0, 500_000, 0, -1, 5_000_000)
        (whole,), valid = half.read(0, 60, [RGB])
        assert valid.all()
        np.testing.assert_allclose(whole.mean(), image.mean(), atol=0.5)
        for top, bottom in ((7, 20), (59, 60), (0, 1)):
            np.testing.assert_array_equal(half.read(top, bottom, [RGB])[0][0], whole[:, top:bottom])
        same_size = Resampled(raster, 0.5).read(0, 120, [RGB])[0][0]
        np.testing.assert_array_equal(same_size, image)


def test_resampling_is_that_of_the_tiles():
    image = noise(97, 64)[0]
    rows, of_rows = taps(0, 60, 97 / 60, 97)
    columns, of_columns = taps(0, 100, 64 / 100, 64)
    wide = sum(image[:, columns[:, t]] * of_columns[:, t] for t in range(columns.shape[1]))
    found = sum(wide[rows[:, t]] * of_rows[:, t, None] for t in range(rows.shape[1]))
    wanted = np.asarray(Image.fromarray(image).resize((100, 60), Image.Resampling.BILINEAR))
    np.testing.assert_allclose(found, wanted, atol=1.01)


def test_where_most_of_a_new_pixel_has_no_data_it_has_none(tmp_path):
    image = np.full((3, 40, 40), 100, np.uint8)
    image[:, :, 20:] = 0
    write_tif(tmp_path / "a.tif", image, origin=(1000, 2000), gsd=1, nodata=0)
    with Raster(tmp_path / "a.tif", [1, 2, 3]) as raster:
        (found,), valid = Resampled(raster, 4.0).read(0, 10, [RGB])
    assert valid[:, :5].all() and not valid[:, 5:].any()
    assert np.unique(found[:, :, :5]).tolist() == [100]  # not darkened by what is no data
