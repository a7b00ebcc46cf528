import hashlib
import itertools

import numpy as np
import pytest

from common.artifacts import difficulty_text, read_difficulty
from common.errors import UserError
from common.files import write_text
from common.samplers import UniformTiles, WeightedTiles, difficulty_weights
from common.taxonomy import BIODIVERSITY
from common.tiles import TileSet
from tests.helpers import made
from training.engine import crops
from training.engine.crops import AUGMENTATION_STREAM, TILE_STREAM, WINDOW_STREAM, TileDraws, stream


def tile_set(tmp_path, labelled: dict[str, int]) -> TileSet:
    """A tile set without files: ids and their numbers of labelled pixels."""
    entries = {tile_id: {"pixels": [100 - n, n, 0, 0, 0, 0]} for tile_id, n in labelled.items()}
    return TileSet(made(tmp_path), {"tiles": entries}, BIODIVERSITY)


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


def test_weights_run_from_one_to_one_plus_alpha_and_one_outlier_does_not_flatten_them():
    losses = np.concatenate([np.linspace(1, 2, 99), [1000.0]])
    difficulty, weights = difficulty_weights(losses, alpha=2.0)
    assert weights.min() == 1 and weights.max() == 3
    assert np.all(np.diff(weights) >= 0)
    assert difficulty[50] == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("alpha", [0.5, 2.0])
def test_difficulty_is_scaled_between_the_5th_and_the_95th_percentile_and_keeps_the_order_of_tiles(alpha):
    losses = np.random.default_rng(0).permutation(np.arange(101.0))  # whose percentiles are 0, 1, 2, ... 100
    difficulty, weights = difficulty_weights(losses, alpha)
    by_loss = {0: 0, 4: 0, 5: 0, 6: 1 / 90, 14: 0.1, 50: 0.5, 94: 89 / 90, 95: 1, 96: 1, 100: 1}
    for loss, wanted in by_loss.items():
        (place,) = np.flatnonzero(losses == loss)
        assert (difficulty[place], weights[place]) == pytest.approx((wanted, 1 + alpha * wanted))


def test_equal_losses_give_equal_weights():
    assert difficulty_weights(np.full(10, 0.7), alpha=2.0)[1].tolist() == [1.0] * 10


def good_rows(*ids):
    return [(tile_id, 100, "0.5", "0.25", "1.5") for tile_id in ids]


def test_weights_are_joined_by_tile_id_whatever_the_order_of_lines(tmp_path):
    tiles = tile_set(tmp_path, {"a": 1, "b": 1, "c": 1})
    rows = [("c", 1, "0", "0", "3.0"), ("a", 1, "0", "0", "1.0"), ("b", 1, "0", "0", "2.0")]
    write_text(tmp_path / "d.tsv", difficulty_text(rows))
    assert WeightedTiles(*read_difficulty(made(tmp_path / "d.tsv"), tiles)).weights(tiles).tolist() == [1.0, 2.0, 3.0]


def test_a_difficulty_table_is_tab_separated_under_a_header():
    text = difficulty_text([("a", 3, "0.5", "0.25", "1.5"), ("b", 0, "0", "0", "1")])
    header = "tile_id\tlabelled_pixels\tloss\tdifficulty\tweight\n"
    assert text == header + "a\t3\t0.5\t0.25\t1.5\nb\t0\t0\t0\t1\n"


def test_samplers_record_what_they_draw_by(tmp_path):
    text = difficulty_text(good_rows("a"))
    write_text(tmp_path / "d.tsv", text)
    weighted = WeightedTiles(*read_difficulty(made(tmp_path / "d.tsv"), tile_set(tmp_path, {"a": 1})))
    digest = hashlib.sha256(text.encode()).hexdigest()
    assert weighted.describe() == {"kind": "weighted", "weights_from": "difficulty", "sha256": digest}
    assert UniformTiles().describe() == {"kind": "uniform"}


@pytest.mark.parametrize(
    ("weight", "accepted"),
    [("0", False), ("1e-9", True), ("1", True), ("1000001", True), ("1000001.1", False), ("inf", False), ("x", False)],
)
def test_a_weight_is_above_0_and_at_most_1_plus_a_million(tmp_path, weight, accepted):
    tiles = tile_set(tmp_path, {"a": 1})
    write_text(tmp_path / "d.tsv", difficulty_text([("a", 100, "0.5", "0.25", weight)]))
    if accepted:
        assert WeightedTiles(*read_difficulty(made(tmp_path / "d.tsv"), tiles)).weights(tiles).tolist() == [
            float(weight)
        ]
    else:
        with pytest.raises(UserError, match="line 2"):
            WeightedTiles(*read_difficulty(made(tmp_path / "d.tsv"), tiles))


HEADER = b"tile_id\tlabelled_pixels\tloss\tdifficulty\tweight\n"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "does not exist. Write it first: python -m again"),
        (b"", "the first line must name tile_id, labelled_pixels, loss, difficulty, weight"),
        (b"a\t1\t0\t0\t1\n", "the first line must name"),
        (HEADER.replace(b"loss\tdifficulty", b"difficulty\tloss") + b"a\t1\t0\t0\t1\n", "the first line must name"),
        (HEADER + b"a\t1\t0\t0\t1.00", "cut off"),
        (HEADER + b"\xff\t1\t0\t0\t1\n", "UTF-8"),
        (HEADER + b"a\t1\t0\t0\t1\t2\n", "line 2: expected 5 values"),
        (HEADER + b"a\t1\t0\t0\t1\n\n", "line 3: expected 5 values"),
    ],
)
def test_a_file_that_is_no_difficulty_table_is_refused(tmp_path, content, said):
    if content is not None:
        (tmp_path / "d.tsv").write_bytes(content)
    with pytest.raises(UserError, match=said) as error:
        WeightedTiles(*read_difficulty(made(tmp_path / "d.tsv", "python -m again"), tile_set(tmp_path, {"a": 1})))
    assert "python -m again" in str(error.value)


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
        WeightedTiles(
            *read_difficulty(made(tmp_path / "d.tsv", "python -m again"), tile_set(tmp_path, {"a": 1, "b": 1}))
        )
    assert "python -m again" in str(error.value) and "d.tsv" in str(error.value)
