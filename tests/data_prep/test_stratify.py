"""Stratified draws: units stay whole, each class reaches each split, and shares are alike."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import UserError
from data_prep.tile_sets import stratify as stratification
from data_prep.tile_sets.stratify import joined, stratify


def test_blocks_with_overlapping_tiles_form_one_unit():
    assert joined(["a", "b", "c", "d"], [(0, 2)]).tolist() == [0, 1, 0, 2]
    assert joined([], []).tolist() == []


def test_every_class_in_three_units_reaches_each_split_and_units_stay_whole():
    rng = np.random.default_rng(3)
    units = np.repeat(np.arange(40), 4)
    pixels = np.zeros((160, 5), np.int64)
    pixels[:, 0] = 1000
    for k in range(1, 5):
        holders = rng.choice(40, 3, replace=False)
        pixels[np.isin(units, holders), k] = 50
    for seed in range(3):
        chosen = stratify(units, pixels, (0.8, 0.1, 0.1), seed, draws=8)
        for s in range(3):
            assert (pixels[chosen == s].sum(axis=0) > 0).all()
        assert all(len(set(chosen[units == unit])) == 1 for unit in range(40))
        assert abs(np.mean(chosen == 0) - 0.8) < 0.1


def test_stratified_draws_keep_shares_closer_than_a_random_draw():
    rng = np.random.default_rng(0)
    pixels = rng.gamma(0.3, 1000, (120, 4)).astype(np.int64)
    overall = pixels.sum(axis=0) / pixels.sum()

    def worst(chosen):
        return max(
            np.abs(pixels[chosen == s].sum(axis=0) / pixels[chosen == s].sum() - overall).max() for s in range(3)
        )

    drawn = worst(stratify(np.arange(120), pixels, (0.6, 0.2, 0.2), 0))
    by_chance = [worst(rng.choice(3, 120, p=[0.6, 0.2, 0.2])) for _ in range(50)]
    assert drawn < np.quantile(by_chance, 0.05)


@given(
    st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7)), max_size=12),
    st.lists(st.integers(0, 4), min_size=8, max_size=8),
)
def test_tiles_form_one_unit_where_groups_and_pairs_link_them_and_units_are_numbered_in_order(pairs, of_group):
    groups = [f"g{n}" for n in of_group]
    links = [*pairs, *((i, j) for i, j in itertools.combinations(range(8), 2) if groups[i] == groups[j])]
    first = list(range(8))  # of the tiles that each is linked to
    for _ in range(8):
        for i, j in links:
            first[i] = first[j] = min(first[i], first[j])
    units = joined(groups, pairs)
    assert units.dtype == np.int64
    assert units.tolist() == [sorted(set(first)).index(n) for n in first]  # numbered in the order of their first tiles


def drawn(present, fractions, seed, sizes=None):
    """One draw, before anything is repaired or chosen."""
    present = np.asarray(present, bool)
    sizes = np.ones(len(present), int) if sizes is None else np.asarray(sizes)
    return stratification.iterative_stratification(present, sizes, np.asarray(fractions), np.random.default_rng(seed))


def test_the_rarest_class_is_dealt_out_first():
    present = np.zeros((30, 2), bool)
    present[:, 0] = True
    present[:6, 1] = True  # six units hold the rare class, among the thirty of the common one
    for seed in range(10):
        chosen = drawn(present, [1 / 3] * 3, seed)
        assert np.bincount(chosen[:6], minlength=3).tolist() == [2, 2, 2]
        assert np.bincount(chosen, minlength=3).tolist() == [10, 10, 10]


@pytest.mark.parametrize(("holders", "wanted"), [(3, [1, 1, 1]), (4, [2, 1, 1]), (10, [8, 1, 1])])
def test_the_last_units_of_a_class_go_to_the_splits_that_have_none_of_it(holders, wanted):
    present = np.zeros((20, 1), bool)
    present[:holders] = True
    for seed in range(10):
        assert np.bincount(drawn(present, [0.8, 0.1, 0.1], seed)[:holders], minlength=3).tolist() == wanted


def test_which_units_and_which_of_equal_splits_come_first_is_left_to_the_seed():
    draws = [drawn(np.ones((4, 1), bool), [1 / 3] * 3, seed) for seed in range(30)]
    assert {int(np.bincount(chosen, minlength=3).argmax()) for chosen in draws} == {0, 1, 2}  # where the fourth goes
    firsts = [drawn(np.ones((10, 1), bool), [0.8, 0.1, 0.1], seed) for seed in range(30)]
    assert len({int(np.flatnonzero(chosen == 1)[0]) for chosen in firsts}) > 4
    assert all((chosen == drawn(np.ones((4, 1), bool), [1 / 3] * 3, seed)).all() for seed, chosen in enumerate(draws))


def test_units_of_unequal_size_fill_the_splits_by_tiles_not_by_units():
    sizes = [30] * 3 + [1] * 60
    for seed in range(10):
        chosen = drawn(np.zeros((63, 1), bool), [0.6, 0.2, 0.2], seed, sizes)
        filled = np.bincount(chosen, weights=sizes, minlength=3) / 150
        assert np.abs(filled - [0.6, 0.2, 0.2]).max() < 0.17  # a large unit of 30 comes on top at most
        same = drawn(np.ones((63, 1), bool), [0.6, 0.2, 0.2], seed, sizes)
        first, *others = np.bincount(same, minlength=3).tolist()  # of 37.8, 12.6 and 12.6
        assert first == 38 and sorted(others) == [12, 13]


def test_of_two_splits_that_want_a_class_alike_the_one_with_more_room_gets_the_unit():
    in_order = SimpleNamespace(permutation=np.arange, random=np.zeros)
    halves, sizes = np.array([0.5, 0.5]), np.array([8, 1, 8, 1])
    chosen = stratification.iterative_stratification(np.ones((4, 1), bool), sizes, halves, in_order)
    assert chosen.tolist() == [0, 1, 1, 0]  # nine tiles each


def test_unlabelled_units_fill_what_room_the_labelled_ones_leave():
    present = np.zeros((40, 1), bool)
    present[:10] = True
    chosen = drawn(present, [0.6, 0.2, 0.2], 3)
    assert np.bincount(chosen, minlength=3).tolist() == [24, 8, 8]


def test_a_class_in_as_many_units_as_there_are_splits_is_missed_in_each_that_lacks_it():
    present = np.array([[1, 1, 1], [1, 1, 0], [1, 0, 0], [0, 0, 0]], bool)
    chosen = np.array([0, 0, 0, 1])
    assert stratification._missing(chosen, present, 2) == [(1, 0), (1, 1)]  # the third is in one unit only
    assert stratification._missing(chosen, present, 3) == [(1, 0), (2, 0)]


def test_a_missing_class_is_brought_by_the_smallest_unit_that_helps():
    present = np.array([[1, 1], [1, 0], [1, 0], [0, 1]], bool)
    chosen, missing = stratification._repair(np.array([0, 0, 0, 1]), present, np.array([1, 5, 2, 9]), 2)
    assert missing == 0
    assert chosen.tolist() == [0, 0, 1, 1]  # the first would take the last unit of the second class with it
    kept, missing = stratification._repair(np.array([0, 1, 2, 0]), np.ones((4, 1), bool), np.ones(4, int), 3)
    assert kept.tolist() == [0, 1, 2, 0] and missing == 0


def test_what_no_move_can_mend_is_counted_and_left():
    present = np.array([[1, 1], [1, 1], [0, 0]], bool)
    chosen, missing = stratification._repair(np.array([0, 0, 1]), present, np.ones(3, int), 3)
    assert missing == 0 and chosen.tolist() == [0, 0, 1]  # two units cannot serve three splits
    # four classes in three units each of four; any three splits leave some class out
    triples = np.array([[1, 1, 1, 0], [1, 1, 0, 1], [1, 0, 1, 1], [0, 1, 1, 1]], bool)
    least = min(len(stratification._missing(np.array(c), triples, 3)) for c in itertools.product(range(3), repeat=4))
    _, missing = stratification._repair(np.array([0, 0, 0, 0]), triples, np.ones(4, int), 3)
    assert missing >= least > 0


def test_the_distance_of_a_split_adds_chi_square_distances_of_shares_and_sizes():
    pixels = np.array([[7, 3], [9, 1]])
    sizes = np.array([3, 1])
    # overall 0.8 and 0.2; each split is 0.1 off in both: 0.01 / 0.8 + 0.01 / 0.2 = 0.0625
    # sizes 0.75 and 0.25 of wanted halves: 0.0625 / 0.5 = 0.125 each
    halves = np.array([0.5, 0.5])
    assert stratification._distance(np.array([0, 1]), pixels, sizes, halves) == pytest.approx(2 * 0.0625 + 2 * 0.125)
    thirds = np.array([0.75, 0.25])
    assert stratification._distance(np.array([0, 1]), pixels, sizes, thirds) == pytest.approx(2 * 0.0625)
    with_absent = np.array([[7, 3, 0], [9, 1, 0]])
    assert stratification._distance(np.array([0, 1]), with_absent, sizes, thirds) == pytest.approx(2 * 0.0625)
    assert stratification._distance(np.array([0, 0]), pixels, sizes, thirds) == np.inf


def best_possible(units, pixels, splits):
    """The fewest (split, class) that are missing in any way to deal out the units, tried one by one."""
    holders = [set(units[pixels[:, k] > 0]) for k in range(pixels.shape[1])]
    count = units.max() + 1
    fewest = None
    for ways in itertools.product(range(splits), repeat=int(count)):
        if len(set(ways)) == splits:
            lacking = sum(len(set(range(splits)) - {ways[u] for u in h}) for h in holders if len(h) >= splits)
            fewest = lacking if fewest is None else min(fewest, lacking)
    return fewest


@settings(max_examples=30)
@given(
    splits=st.sampled_from([2, 3]),
    of_unit=st.lists(st.integers(0, 5), min_size=6, max_size=14),
    held=st.lists(st.lists(st.booleans(), min_size=4, max_size=4), min_size=14, max_size=14),
)
def test_units_stay_whole_and_as_few_classes_are_missing_as_can_be(splits, of_unit, held):
    units = np.unique([0, 1, 2, *of_unit], return_inverse=True)[1]
    pixels = 10 * np.array([*held, *held], np.int64)[: len(units)]
    fractions = {2: (0.7, 0.3), 3: (0.6, 0.2, 0.2)}[splits]
    chosen = stratify(units, pixels, fractions, seed=1, draws=48)
    assert all(len(set(chosen[units == unit])) == 1 for unit in units)
    assert set(chosen) == set(range(splits))
    lacking = 0
    for k in range(4):
        holders = set(units[pixels[:, k] > 0])
        if len(holders) >= splits:
            lacking += splits - len(set(chosen[pixels[:, k] > 0]))
    assert lacking == best_possible(units, pixels, splits)


def test_all_tiles_of_a_unit_say_what_classes_it_holds():
    """Each unit's class is in its first tile alone, the others of it being of the common class."""
    units = np.repeat(np.arange(9), 3)
    pixels = np.zeros((27, 4), np.int64)
    pixels[:, 0] = 100
    for unit in range(9):
        pixels[3 * unit, 1 + unit % 3] = 5
    for seed in range(5):
        chosen = stratify(units, pixels, (1 / 3, 1 / 3, 1 / 3), seed, draws=1)
        for s in range(3):
            assert (pixels[chosen == s].sum(axis=0) > 0).all() and np.sum(chosen == s) == 9


@pytest.mark.parametrize(("count", "draws"), [(3, 512), (97, 512), (200, 250), (782, 64), (3000, 64)])
def test_the_fewer_units_there_are_the_more_draws_are_made(count, draws, monkeypatch):
    streams = []

    def one_draw(present, sizes, fractions, rng):
        streams.append(rng.bit_generator.seed_seq.entropy)
        return np.arange(len(present)) % 3

    monkeypatch.setattr(stratification, "iterative_stratification", one_draw)
    stratify(np.arange(count), np.ones((count, 1), np.int64), (0.6, 0.2, 0.2), 7)
    assert streams == [[7, n] for n in range(draws)]


def test_of_many_draws_that_is_kept_which_lacks_least_and_then_is_closest(monkeypatch):
    """Five tiles of two classes: the draws to choose from are written out."""
    pixels = np.array([[8, 2], [8, 2], [8, 2], [10, 0], [6, 4], [8, 2]])
    empty = [0, 0, 0, 0, 0, 0]
    far = [0, 0, 0, 0, 1, 2]
    near = [0, 0, 1, 0, 0, 2]
    ways = iter([empty, far, near, far])
    monkeypatch.setattr(stratification, "iterative_stratification", lambda *_: np.array(next(ways)))
    monkeypatch.setattr(stratification, "_repair", lambda chosen, *_: (chosen, 0))
    assert stratify(np.arange(6), pixels, (4 / 6, 1 / 6, 1 / 6), 0, draws=4).tolist() == near
    ways = iter([near, far])
    lacking = iter([1, 0])
    monkeypatch.setattr(stratification, "_repair", lambda chosen, *_: (chosen, next(lacking)))
    assert stratify(np.arange(6), pixels, (4 / 6, 1 / 6, 1 / 6), 0, draws=2).tolist() == far


def test_fewer_units_than_splits_are_refused():
    pixels = np.ones((4, 1), np.int64)
    with pytest.raises(UserError, match="2 spatial blocks cannot make 3 splits"):
        stratify(np.array([0, 0, 1, 1]), pixels, (0.6, 0.2, 0.2), 0)
    assert set(stratify(np.array([0, 0, 1, 2]), pixels, (0.6, 0.2, 0.2), 0, draws=1)) == {0, 1, 2}


def test_a_split_follows_its_seed():
    pixels = np.ones((60, 1), np.int64)
    ways = [tuple(stratify(np.arange(60), pixels, (0.6, 0.2, 0.2), seed, draws=1)) for seed in (0, 1, 2, 0)]
    assert ways[0] == ways[3] and len(set(ways)) == 3
