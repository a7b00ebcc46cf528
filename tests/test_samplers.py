import numpy as np
import pytest

from common.cli import UserError
from common.files import write_text
from common.samplers import (
    AUGMENTATION_STREAM,
    TILE_STREAM,
    WINDOW_STREAM,
    TileDraws,
    UniformTiles,
    WeightedTiles,
    difficulty_text,
    difficulty_weights,
    read_difficulty,
    stream,
)
from common.taxonomy import BIODIVERSITY
from common.tiles import TileSet


def tile_set(tmp_path, labelled: dict[str, int]) -> TileSet:
    """A tile set without files: ids and their numbers of labelled pixels."""
    entries = {tile_id: {"pixels": [100 - n, n, 0, 0, 0, 0]} for tile_id, n in labelled.items()}
    return TileSet(tmp_path, {"tiles": entries}, BIODIVERSITY)


def shares(draws: TileDraws, count: int) -> np.ndarray:
    drawn = [draws(n) for n in range(count)]
    return np.bincount(drawn, minlength=len(draws.cdf)) / count


def test_a_stream_is_a_pure_function_of_seed_position_and_kind():
    first = stream(42, 7, TILE_STREAM).random(5)
    assert np.array_equal(first, stream(42, 7, TILE_STREAM).random(5))
    others = [stream(43, 7, TILE_STREAM), stream(42, 8, TILE_STREAM)]
    others += [stream(42, 7, WINDOW_STREAM), stream(42, 7, AUGMENTATION_STREAM)]
    assert all(not np.array_equal(first, other.random(5)) for other in others)


def test_long_draws_at_one_position_do_not_run_into_the_next_position():
    long = stream(1, 0, WINDOW_STREAM).random(1000)
    assert not np.isin(stream(1, 1, WINDOW_STREAM).random(100), long).any()


def test_uniform_sampling_draws_every_tile_equally_often(tmp_path):
    tiles = tile_set(tmp_path, {f"t{i}": 100 for i in range(5)})
    assert shares(TileDraws(tiles, UniformTiles(), 0), 5000) == pytest.approx(0.2, abs=0.02)


def test_hard_tiles_are_drawn_in_proportion_to_their_weights(tmp_path):
    tiles = tile_set(tmp_path, {"easy": 100, "hard": 100, "middle": 100})
    draws = TileDraws(tiles, WeightedTiles({"easy": 1.0, "middle": 2.0, "hard": 3.0}), 0)
    by_id = dict(zip(tiles.ids, shares(draws, 6000), strict=True))
    assert by_id == pytest.approx({"easy": 1 / 6, "middle": 2 / 6, "hard": 3 / 6}, abs=0.025)


def test_a_tile_without_a_labelled_pixel_is_never_drawn_and_is_counted(tmp_path):
    tiles = tile_set(tmp_path, {"a": 10, "void": 0, "z_void": 0, "b": 10})
    draws = TileDraws(tiles, UniformTiles(), 0)
    assert draws.without_label == 2
    assert {tiles.ids[draws(n)] for n in range(200)} == {"a", "b"}


def test_a_set_without_any_label_is_refused(tmp_path):
    with pytest.raises(UserError, match="labelled pixel"):
        TileDraws(tile_set(tmp_path, {"a": 0}), UniformTiles(), 0)


def test_weights_run_from_one_to_one_plus_alpha_and_one_outlier_does_not_flatten_them():
    losses = np.concatenate([np.linspace(1, 2, 99), [1000.0]])
    difficulty, weights = difficulty_weights(losses, alpha=2.0)
    assert weights.min() == 1 and weights.max() == 3
    assert np.all(np.diff(weights) >= 0)
    assert difficulty[50] == pytest.approx(0.5, abs=0.05)


def test_equal_losses_give_equal_weights():
    assert difficulty_weights(np.full(10, 0.7), alpha=2.0)[1].tolist() == [1.0] * 10


def good_rows(*ids):
    return [(tile_id, 100, "0.5", "0.25", "1.5") for tile_id in ids]


def test_weights_are_joined_by_tile_id_whatever_the_order_of_lines(tmp_path):
    tiles = tile_set(tmp_path, {"a": 1, "b": 1, "c": 1})
    rows = [("c", 1, "0", "0", "3.0"), ("a", 1, "0", "0", "1.0"), ("b", 1, "0", "0", "2.0")]
    write_text(tmp_path / "d.tsv", difficulty_text(rows))
    assert read_difficulty(tmp_path / "d.tsv", tiles, "again").weights(tiles).tolist() == [1.0, 2.0, 3.0]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (good_rows("a"), "no weight for 1 of 2 training tiles"),
        (good_rows("a", "b", "c"), "does not hold"),
        (good_rows("a", "b", "b"), "already"),
        ([*good_rows("a"), ("b", 100, "0.5", "0.25", "nan")], "not above 0"),
        ([*good_rows("a"), ("b", 100, "0.5", "0.25", "-1")], "not above 0"),
        ([*good_rows("a"), ("b", 100, "0.5")], "line 3"),
    ],
)
def test_a_difficulty_table_that_does_not_fit_is_refused_with_the_command_to_mend_it(tmp_path, rows, said):
    write_text(tmp_path / "d.tsv", difficulty_text(rows))
    with pytest.raises(UserError, match=said) as error:
        read_difficulty(tmp_path / "d.tsv", tile_set(tmp_path, {"a": 1, "b": 1}), "python -m again")
    assert "python -m again" in str(error.value) and "d.tsv" in str(error.value)
