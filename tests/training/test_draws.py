import itertools

import numpy as np
import pytest

from common.errors import UserError
from common.samplers import UniformTiles, WeightedTiles
from tests.small_sets import tile_set
from training.engine import crops
from training.engine.crops import AUGMENTATION_STREAM, TILE_STREAM, WINDOW_STREAM, TileDraws, stream


def shares(draws: TileDraws, count: int) -> np.ndarray:
    drawn = [draws(n) for n in range(count)]
    return np.bincount(drawn, minlength=len(draws.cdf)) / count


def test_a_stream_is_a_pure_function_of_seed_position_and_kind():
    first = stream(42, 7, TILE_STREAM).random(5)
    assert np.array_equal(first, stream(42, 7, TILE_STREAM).random(5))
    others = [stream(43, 7, TILE_STREAM), stream(42, 8, TILE_STREAM)]
    others += [stream(42, 7, WINDOW_STREAM), stream(42, 7, AUGMENTATION_STREAM)]
    assert all(not np.array_equal(first, other.random(5)) for other in others)


def test_no_two_streams_of_neighbouring_seeds_and_positions_are_alike():
    """Also not the stream of one seed and another stream of the next, or of a seed beyond 32 bits."""
    positions = (*range(8), 255, 256, 65_536, 160_000, 2**32)
    keys = list(itertools.product((0, 1, 2, 3, 42, 43, 2**32, 2**32 + 1), positions, range(3)))
    assert len({stream(seed, position, which).random() for seed, position, which in keys}) == len(keys)


@pytest.mark.parametrize(
    ("seed", "position", "which", "first"),
    [
        (42, 0, TILE_STREAM, 15129985323320379406),
        (42, 0, WINDOW_STREAM, 8185685891515899014),
        (42, 0, AUGMENTATION_STREAM, 7875269822477881160),
        (42, 1, TILE_STREAM, 3809309834464079265),
        (7, 123456, AUGMENTATION_STREAM, 17014510611852992904),
    ],
)
def test_the_streams_of_a_seed_are_those_of_the_published_runs(seed, position, which, first):
    assert stream(seed, position, which).bit_generator.random_raw() == first


def test_tile_window_and_augmentation_have_three_streams():
    assert len({TILE_STREAM, WINDOW_STREAM, AUGMENTATION_STREAM}) == 3


def test_long_draws_at_one_position_do_not_run_into_the_next_position():
    long = stream(1, 0, WINDOW_STREAM).random(1000)
    assert not np.isin(stream(1, 1, WINDOW_STREAM).random(100), long).any()


def test_uniform_sampling_draws_every_tile_equally_often(tmp_path):
    tiles = tile_set(tmp_path, {f"t{i}": labelled for i, labelled in enumerate((100, 1, 50, 2, 99))})
    assert shares(TileDraws(tiles, UniformTiles(), 0), 5000) == pytest.approx(0.2, abs=0.02)


def test_the_tile_of_a_crop_follows_from_the_tile_stream_of_its_seed_and_position(tmp_path):
    """Of tiles that weigh the same, the share of the unit interval below a draw says which."""
    tiles = tile_set(tmp_path, {f"t{i}": 20 * i + 1 for i in range(5)})
    for seed in (7, 8):
        draws = TileDraws(tiles, UniformTiles(), seed)
        wanted = [int(5 * stream(seed, n, TILE_STREAM).random()) for n in range(50)]
        assert [draws(n) for n in range(50)] == wanted


@pytest.mark.parametrize(("u", "drawn"), [(0.0, 1), (0.2499, 1), (0.25, 3), (0.9999, 3), (1 - 2**-53, 3)])
def test_a_draw_falls_on_the_tile_whose_share_of_the_unit_interval_holds_it(tmp_path, monkeypatch, u, drawn):
    """Weights 1 and 3 between tiles without a label, which have no share, whatever their weight."""
    tiles = tile_set(tmp_path, {"a": 0, "b": 1, "c": 0, "d": 100, "e": 0})

    class Fixed:
        def random(self):
            return u

    monkeypatch.setattr(crops, "stream", lambda *_: Fixed())
    assert TileDraws(tiles, WeightedTiles({"a": 9.0, "b": 1.0, "c": 9.0, "d": 3.0, "e": 9.0}), 0)(0) == drawn


def test_hard_tiles_are_drawn_in_proportion_to_their_weights(tmp_path):
    tiles = tile_set(tmp_path, {"easy": 100, "hard": 100, "middle": 100})
    draws = TileDraws(tiles, WeightedTiles({"easy": 1.0, "middle": 2.0, "hard": 3.0}), 0)
    by_id = dict(zip(tiles.ids, shares(draws, 6000), strict=True))
    assert by_id == pytest.approx({"easy": 1 / 6, "middle": 2 / 6, "hard": 3 / 6}, abs=0.025)


def test_a_tile_without_a_labelled_pixel_is_never_drawn_and_is_counted(tmp_path):
    tiles = tile_set(tmp_path, {"a": 10, "void": 0, "z_void": 0, "b": 10, "c": 1})
    draws = TileDraws(tiles, UniformTiles(), 0)
    assert draws.without_label == 2
    assert {tiles.ids[draws(n)] for n in range(200)} == {"a", "b", "c"}


def test_a_set_without_any_label_is_refused(tmp_path):
    with pytest.raises(UserError, match="labelled pixel"):
        TileDraws(tile_set(tmp_path, {"a": 0}), UniformTiles(), 0)


@pytest.mark.parametrize(
    "weights", [[1.0, 1.0], 1.0, [1.0, -1.0, 1.0], [1.0, np.nan, 1.0], [1.0, np.inf, 1.0], [0, 0, 0]]
)
def test_a_sampler_whose_weights_cannot_be_drawn_by_is_named(tmp_path, weights):
    class Odd:
        def weights(self, tiles):
            return np.array(weights)

    with pytest.raises(ValueError, match="Odd gave weights"):
        TileDraws(tile_set(tmp_path, {"a": 1, "b": 1, "c": 1}), Odd(), 0)


def test_weights_of_tiles_without_a_label_are_not_looked_at(tmp_path):
    class OfLabelled:
        def weights(self, tiles):
            return np.array([1.0, np.nan])

    draws = TileDraws(tile_set(tmp_path, {"a": 1, "void": 0}), OfLabelled(), 0)
    assert {draws(position) for position in range(20)} == {0}
