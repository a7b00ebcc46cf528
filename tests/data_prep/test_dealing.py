"""Dealing units into folds: whole, every class in as many folds as can be, then even; and repeats that differ."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import UserError
from data_prep.tile_sets import dealing
from data_prep.tile_sets.dealing import deal, lacking_classes, number_of_dealings, require_whole


def partition(fold_of):
    return {frozenset(np.flatnonzero(fold_of == fold).tolist()) for fold in set(fold_of.tolist())}


def every_partition(units, folds):
    """All ways to put units into folds without an empty one, by brute force."""
    ways = (np.array(way) for way in itertools.product(range(folds), repeat=units))
    return {frozenset(partition(way)) for way in ways if len(set(way.tolist())) == folds}


@pytest.mark.parametrize(("units", "folds"), [(3, 3), (4, 2), (5, 3), (6, 4), (7, 2)])
def test_all_dealings_are_gone_through_once(units, folds):
    rows = dealing._all_dealings(units, folds)
    assert len(rows) == number_of_dealings(units, folds)
    assert {frozenset(partition(row)) for row in rows} == every_partition(units, folds)
    assert [number_of_dealings(5, k) for k in range(1, 6)] == [1, 15, 25, 10, 1]


def holding(*holders, units):
    """(U, C) pixels: of each class the units that hold it, ten pixels each; the first class is everywhere."""
    pixels = np.zeros((units, 1 + len(holders)), np.int64)
    pixels[:, 0] = 100
    for k, of_class in enumerate(holders, 1):
        pixels[list(of_class), k] = 10
    return pixels


@pytest.mark.parametrize("most_tried", [0, 50_000])  # by search, and by going through all
def test_classes_in_as_many_units_as_folds_come_into_every_fold(monkeypatch, most_tried):
    monkeypatch.setattr(dealing, "MOST_TRIED", most_tried)
    pixels = holding((0, 1, 2), (2, 3, 4), (0, 4, 5), (6, 7), units=8)
    for seed in range(5):
        fold_of = deal(np.arange(8), pixels, 3, seed)
        assert lacking_classes(pixels[:, :4], fold_of, 3) == [[], [], []]
        assert sum(map(len, lacking_classes(pixels, fold_of, 3))) == 1  # two units of the last class, in two folds
        assert sorted(np.bincount(fold_of)) == [2, 3, 3]


def test_a_class_in_as_many_units_as_folds_goes_before_any_number_of_rarer_ones():
    """Ten classes of two units would put 0 and 1 into one fold: both must lie apart from 3 and 4, and these too."""
    apart = [(0, 3), (0, 4), (3, 4), (1, 3), (1, 4)]
    pixels = holding((0, 1, 2), *apart, *apart, units=5)
    fold_of = deal(np.arange(5), pixels, 3, 42)
    assert len(set(fold_of[:3])) == 3
    fold_of = deal(np.arange(5), np.delete(pixels, 1, axis=1), 3, 42)
    assert fold_of[0] == fold_of[1]


def test_a_large_unit_makes_one_large_fold_and_the_others_alike():
    units = np.concatenate([np.zeros(90, int), np.arange(1, 61)])  # one of 90 tiles, sixty of one
    fold_of = deal(units, np.full((150, 1), 10), 3, 42)
    assert sorted(np.bincount(fold_of)) == [30, 30, 90]
    units = np.concatenate([np.zeros(40, int), np.arange(1, 111)])
    assert sorted(np.bincount(deal(units, np.full((150, 1), 10), 3, 42))) == [50, 50, 50]


def test_of_few_units_the_most_even_dealing_is_found():
    sizes = np.array([5, 4, 3, 3, 2, 2, 1])  # 20 in two folds: 10 and 10 is possible
    units = np.repeat(np.arange(7), sizes)
    assert sorted(np.bincount(deal(units, np.full((20, 1), 7), 2, 1))) == [10, 10]


def judge(pixels, sizes, fold_of, folds):
    """Folds without a labelled pixel, classes lacking and the chi-square distances, reckoned one by one."""
    overall = pixels.sum(axis=0) / pixels.sum()
    empty = lacking = enough = 0
    uneven = 0.0
    for fold in range(folds):
        mine = pixels[fold_of == fold].sum(axis=0)
        empty += not mine.any()
        for k, share in enumerate(overall):
            if share:
                missing = mine[k] == 0
                lacking += missing
                enough += missing and (pixels[:, k] > 0).sum() >= folds
                uneven += (mine[k] / max(mine.sum(), 1) - share) ** 2 / share
        uneven += (sizes[fold_of == fold].sum() / sizes.sum() - 1 / folds) ** 2 * folds
    return empty, enough, lacking, uneven


units_of_tiles = st.lists(
    st.tuples(st.integers(1, 4), st.lists(st.sampled_from([0, 0, 3, 50]), min_size=3, max_size=3)),
    min_size=4,
    max_size=6,
)


@given(units_of_tiles, st.integers(2, 4), st.integers(0, 3))
def test_no_dealing_of_few_units_is_better(content, folds, seed):
    sizes = np.array([size for size, _ in content])
    of_unit = np.array([pixels for _, pixels in content]) + [1, 0, 0]
    units = np.repeat(np.arange(len(sizes)), sizes)
    pixels = np.zeros((len(units), 3), np.int64)
    pixels[np.searchsorted(units, np.arange(len(sizes)))] = of_unit
    fold_of = deal(units, pixels, folds, seed)
    require_whole(units, fold_of)
    mine = judge(of_unit, sizes, fold_of[np.searchsorted(units, np.arange(len(sizes)))], folds)
    for way in every_partition(len(sizes), folds):
        other = np.zeros(len(sizes), int)
        for fold, members in enumerate(way):
            other[list(members)] = fold
        found = judge(of_unit, sizes, other, folds)
        assert mine[:3] <= found[:3]
        assert mine[:3] < found[:3] or mine[3] <= found[3] + 1e-9


def test_a_search_ends_near_the_best_there_is(monkeypatch):
    rng = np.random.default_rng(1)
    pixels = rng.gamma(0.5, 100, (9, 3)).astype(np.int64) + [1, 0, 0]
    sizes = rng.integers(1, 4, 9)
    units = np.repeat(np.arange(9), sizes)
    of_tile = np.zeros((len(units), 3), np.int64)
    of_tile[np.searchsorted(units, np.arange(9))] = pixels
    first = np.searchsorted(units, np.arange(9))
    best = judge(pixels, sizes, deal(units, of_tile, 3, 5)[first], 3)
    monkeypatch.setattr(dealing, "MOST_TRIED", 0)
    found = judge(pixels, sizes, deal(units, of_tile, 3, 5)[first], 3)
    assert found[:3] == best[:3] and found[3] <= 1.2 * best[3] + 1e-9


def test_a_sample_of_steps_serves_where_there_are_many_units(monkeypatch):
    monkeypatch.setattr(dealing, "NEIGHBOURS", 100)
    rng = np.random.default_rng(2)
    pixels = holding(rng.choice(60, 5, replace=False), rng.choice(60, 7, replace=False), units=60)
    fold_of = deal(np.arange(60), pixels, 5, 42)
    assert lacking_classes(pixels, fold_of, 5) == [[]] * 5
    assert np.bincount(fold_of).max() - np.bincount(fold_of).min() <= 2


@pytest.mark.parametrize(("units", "folds"), [(8, 3), (30, 5)])
def test_repeats_are_other_dealings_and_a_seed_makes_the_same_ones_again(units, folds):
    rng = np.random.default_rng(0)
    pixels = rng.integers(1, 100, (units, 3))
    dealt = [deal(np.arange(units), pixels, folds, 7, repeat) for repeat in (1, 2, 3)]
    assert len({frozenset(partition(one)) for one in dealt}) == 3
    assert all(np.array_equal(one, deal(np.arange(units), pixels, folds, 7, n)) for n, one in enumerate(dealt, 1))
    together = [
        sum(dealt[0][i] == dealt[0][j] and other[i] == other[j] for i, j in itertools.combinations(range(units), 2))
        for other in dealt
    ]
    assert max(together[1:]) <= 0.5 * together[0]


@pytest.mark.parametrize("units", [8, 30])
def test_other_seeds_make_other_folds_where_several_are_as_good(units):
    dealt = {frozenset(partition(deal(np.arange(units), np.ones((units, 1), int), 4, seed))) for seed in range(4)}
    assert len(dealt) == 4


def test_a_repeat_that_there_is_not_is_refused():
    pixels = np.ones((5, 1), np.int64)
    assert sorted(deal(np.arange(5), pixels, 5, 42)) == [0, 1, 2, 3, 4]
    with pytest.raises(UserError, match="5 units can be dealt into 5 folds in 1 ways only"):
        deal(np.arange(5), pixels, 5, 42, repeat=2)
    with pytest.raises(UserError, match="5 units cannot be dealt into 6 folds"):
        deal(np.arange(5), pixels, 6, 42)


def test_folds_without_a_label_are_avoided_and_a_class_nowhere_is_lacked_by_none():
    pixels = np.array([[9, 0], [0, 0], [0, 0], [9, 0]])
    for seed in range(4):
        fold_of = deal(np.arange(4), pixels, 2, seed)
        assert fold_of[0] != fold_of[3]
        assert lacking_classes(pixels, fold_of, 2) == [[], []]


def test_a_unit_on_two_sides_is_a_defect():
    require_whole(np.array([0, 1, 0]), np.array([2, 1, 2]))
    with pytest.raises(RuntimeError, match="unit 0 are on two sides"):
        require_whole(np.array([0, 1, 0]), np.array([2, 1, 1]))


def test_ten_units_in_five_folds_are_gone_through_and_eleven_are_searched():
    assert (dealing.MOST_TRIED, number_of_dealings(10, 5) <= dealing.MOST_TRIED) == (50_000, True)
    assert number_of_dealings(11, 5) > dealing.MOST_TRIED
