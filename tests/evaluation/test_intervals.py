"""The rule for intervals and p-values, on numbers worked out by hand, and Holm's correction."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from evaluation.study import intervals
from evaluation.study.evidence import FEW_BLOCKS, SIGNIFICANT
from evaluation.study.intervals import (
    Estimate,
    Statistic,
    compare_family,
    difference,
    estimate,
    holm,
    on_one_split,
    spread,
)

T4 = 2.776445  # 97.5 % of t with four degrees of freedom


def crossed(of_seed, of_block):
    """Means of values that are a part of the seed and a part of the block, on one split."""
    values = np.add.outer(of_seed, of_block)
    without = (values.sum(axis=1, keepdims=True) - values) / (values.shape[1] - 1)
    return Statistic(values.mean(axis=1), without, on_one_split(*values.shape))


def by_folds(of_training, of_block, repeats=1):
    """Means over blocks, each with the part of the training that scored it: blocks are dealt in turn, then in runs."""
    per_repeat, blocks = len(of_training) // repeats, len(of_block)
    dealings = [np.arange(blocks) % per_repeat, np.arange(blocks) * per_repeat // blocks]
    scored_by = np.stack([dealings[r] + per_repeat * r for r in range(repeats)])
    values = np.asarray(of_training)[scored_by] + of_block
    without = (values.sum(axis=1, keepdims=True) - values) / (blocks - 1)
    return Statistic(values.mean(axis=1), without, scored_by, per_repeat)


def test_the_numbers_of_the_rule():
    assert intervals.LEVEL == 0.95 and pytest.approx(0.05) == SIGNIFICANT
    assert (intervals.FEWEST_SEEDS, intervals.FEWEST_BLOCKS, FEW_BLOCKS) == (3, 10, 5)
    assert (intervals.FEWEST_TESTED, intervals.POWER, intervals.EQUIVALENT) == (5, 0.8, 0.01)


def test_an_interval_lies_around_its_value_and_excludes_zero_where_it_does_not_reach_it():
    found = Estimate(-0.03, 0.02, 0.01, 3, 10)
    assert (found.low, found.high) == (pytest.approx(-0.05), pytest.approx(-0.01)) and found.excludes_zero
    assert not Estimate(-0.02, 0.02, 0.05, 3, 10).excludes_zero and not Estimate(0.01, 0.02, 0.1, 3, 10).excludes_zero
    assert Estimate(0.021, 0.02, 0.04, 3, 10).excludes_zero
    assert Estimate(0.021, 0.02, 0.04, 3, 10, better=0.9).without_interval() == Estimate(0.021, None, None, 3, 10)


def test_seeds_alone_give_the_interval_of_a_mean():
    values = np.array([0.02, 0.05, 0.03, 0.06])
    found = estimate(crossed(values, np.zeros(10)))
    low, high = stats.t.interval(0.95, 3, values.mean(), stats.sem(values))
    assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))
    assert found.p is None and found.cross_check is None


def test_blocks_alone_give_the_variance_of_a_mean_with_degrees_of_freedom_by_their_kurtosis():
    for values, freedom in (([-0.01, 0.01] * 8, 15), ([0.16] + [-0.01] * 15 + [0.0], 1.33)):
        found = spread(crossed(np.full(3, 0.4), np.array(values)))
        assert found.over_blocks == pytest.approx(np.var(values, ddof=1) / len(values))
        assert found.of_blocks == pytest.approx(freedom, abs=0.5) and found.over_trainings == pytest.approx(
            0, abs=1e-12
        )


def test_seeds_and_blocks_add_to_the_error_each_with_its_own_degrees_of_freedom():
    of_seed = np.array([0.01, 0.03, 0.02])  # variance of their mean 0.0001 / 3
    of_block = 0.02 * np.array([-1, 1] * 6)  # variance of their mean 0.0004 / 11; alike in size, so that 11 are free
    seeds, blocks = 0.0001 / 3, 0.0004 / 11
    found = estimate(crossed(of_seed, of_block))
    assert found.value == pytest.approx(0.02) and (found.trainings, found.blocks) == (3, 12)
    t = (seeds * 4.302653 + blocks * 2.200985) / (seeds + blocks)  # 97.5 % of t with 2 and with 11
    assert found.half_width == pytest.approx(t * np.sqrt(seeds + blocks), rel=1e-6)


def test_folds_that_differ_as_their_blocks_do_add_nothing_to_the_error_of_blocks():
    of_block = np.tile(np.repeat([-0.02, 0.02], 5), 3)  # each fold holds as many of either
    found = spread(by_folds(np.zeros(5), of_block))
    assert found.over_trainings == 0 and found.between < found.over_blocks
    assert found.variance == pytest.approx(0.0004 / 29)


def test_folds_that_differ_more_than_their_blocks_add_what_is_left():
    of_training, of_block = np.array([-0.05, 0.05, 0.0, 0.05, -0.05]), 0.01 * np.array([-1, 1] * 15)
    found = spread(by_folds(of_training, of_block))
    assert found.between == pytest.approx(0.01 / 4 / 5)  # variance 0.0025 of five, over five
    # The blocks of a fold vary with its training too: in all the error is that between folds, with its four degrees.
    assert found.variance == pytest.approx(found.between, rel=1e-6)
    assert found.of_trainings == 4 and found.over_trainings > 5 * found.over_blocks


def test_two_dealings_share_their_blocks_and_have_a_training_each():
    rng = np.random.default_rng(0)
    once, twice = [], []
    for _ in range(400):
        of_block = rng.normal(0, 0.05, 30)
        of_training = rng.normal(0, 0.05, 10)
        once.append(spread(by_folds(of_training[:5], of_block)).variance)
        twice.append(spread(by_folds(of_training, of_block, repeats=2)).variance)
    assert np.mean(once) == pytest.approx(0.0025 / 30 + 0.0025 / 5, rel=0.15)
    assert np.mean(twice) == pytest.approx(0.0025 / 30 + 0.0025 / 10, rel=0.15)


def test_nadeau_and_bengio_widen_the_interval_of_folds_by_the_training_ground_that_they_share():
    of_training = np.array([0.01, 0.05, 0.03, 0.02, 0.04])
    found = estimate(by_folds(of_training, np.zeros(30)))
    assert found.cross_check == pytest.approx(T4 * of_training.std(ddof=1) * np.sqrt(1 / 5 + 1 / 4))


def test_a_level_that_hangs_on_a_class_in_few_blocks_has_few_degrees_of_freedom():
    of_block = 0.01 * np.array([-1, 1] * 15)
    wide, narrow = (estimate(crossed(np.full(3, 0.4), of_block), holders).half_width for holders in (5, None))
    assert wide / narrow == pytest.approx(T4 / 2.045230)  # 97.5 % of t with 4 and with 29


@pytest.mark.parametrize(("seeds", "blocks", "given"), [(3, 10, True), (2, 10, False), (3, 9, False)])
def test_three_trainings_and_ten_blocks_are_enough_for_an_interval_and_no_less(seeds, blocks, given):
    rng = np.random.default_rng(seeds)
    statistic = crossed(rng.normal(size=seeds), rng.normal(size=blocks))
    for found in (estimate(statistic), difference(statistic), *compare_family([statistic], 6)):
        assert (found.half_width is not None) == given and found.p is None
        assert (found.trainings, found.blocks) == (seeds, blocks) and found.value == statistic.by_repeat.mean()
        assert given or ((found.low, found.high) == (-np.inf, np.inf) and not found.excludes_zero)


@pytest.mark.parametrize(("trainings", "given"), [(4, False), (5, True)])
def test_nothing_is_tested_under_five_paired_trainings(trainings, given):
    found = compare_family([crossed(np.linspace(0.1, 0.2, trainings), np.zeros(12))] * 2, 6)
    assert all((e.p is not None) == (e.smallest is not None) == (e.equivalent is not None) == given for e in found)
    assert all(e.half_width is not None and e.better is not None for e in found)


def test_a_family_tests_with_the_larger_of_own_and_pooled_variance_and_the_degrees_of_freedom_of_all():
    spreads = np.array([-2, -1, 0, 1, 2]) / 100
    calm, noisy = (crossed(0.03 + size * spreads, np.zeros(12)) for size in (1, 3))
    own = 0.00025 / 5  # variance of the calm pair's mean
    first, second, missing = compare_family([calm, noisy, None], 3)
    assert missing is None
    for found, variance in ((first, own * (1 + 9) / 2), (second, own * 9)):
        assert found.p == pytest.approx(2 * stats.t.sf(0.03 / np.sqrt(variance), 8))
        critical, power = stats.t.ppf(1 - 0.05 / 6, 8), stats.t.ppf(0.8, 8)
        assert found.smallest == pytest.approx((critical + power) * np.sqrt(variance))
    assert first.half_width == pytest.approx(T4 * np.sqrt(own)) and second.half_width == pytest.approx(
        3 * T4 * np.sqrt(own)
    )


def test_as_many_trainings_are_needed_as_make_the_smallest_difference_the_one_that_is_seen():
    values = 0.03 * np.array([-2, -1, 0, 1, 2])
    few, many, never = (compare_family([crossed(mean + values, np.zeros(12))], 1)[0] for mean in (0.3, 0.03, 0.0))
    for found in (few, many):
        freedom, variance = 4 * found.needed / 5, values.var(ddof=1) / found.needed
        reached = (stats.t.ppf(0.975, freedom) + stats.t.ppf(0.8, freedom)) * np.sqrt(variance)
        assert reached <= found.value
    assert few.needed < 5 < many.needed < 30 and never.needed is None


def test_equivalent_is_what_two_one_sided_tests_show_to_lie_within_a_point():
    values = np.array([-1, -0.5, 0, 0.5, 1]) * 0.005  # standard error 0.00177, 95 % of t with 4 is 2.132
    found = [compare_family([crossed(mean + values, np.zeros(12))], 1)[0] for mean in (0.0, 0.0062, 0.0063, -0.0063)]
    assert [e.equivalent for e in found] == [True, True, False, False]


def test_the_probability_to_be_better_is_that_of_one_more_fold():
    values = 0.02 + np.array([-0.02, -0.01, 0.0, 0.01, 0.02])
    found = difference(by_folds(values, np.zeros(30)))
    assert found.better == pytest.approx(stats.t.cdf(0.02 / values.std(ddof=1), 4), abs=0.01)
    of_block = 0.05 * np.array([-1, 1] * 15)
    found = difference(crossed(np.full(3, 0.02), of_block))  # another split of as many blocks
    assert found.better == pytest.approx(stats.t.cdf(0.02 / np.sqrt(0.0025 / 29), 29), abs=0.005)
    certain = [difference(crossed(np.full(3, value), np.zeros(12))).better for value in (0.1, 0.0, -0.1)]
    assert certain == pytest.approx([1.0, 0.5, 0.0])


def test_p_is_0_of_a_difference_without_any_noise_and_there_is_none_where_nothing_differs():
    for value, p in ((0.0, None), (0.5, 0.0), (-0.5, 0.0)):
        (found,) = compare_family([Statistic(np.full(5, value), np.full((5, 10), value), on_one_split(5, 10))], 6)
        assert (found.half_width, found.p, found.excludes_zero, found.is_void) == (0, p, value != 0, value == 0)


def test_a_void_comparison_makes_its_neighbours_no_more_significant():
    other = crossed(0.1 + 0.03 * np.array([-2, -1, 0, 1, 2]), 0.01 * np.arange(12))
    void = Statistic(np.zeros(5), np.zeros((5, 12)), on_one_split(5, 12))
    assert compare_family([other, void], 6)[0] == compare_family([other, None], 6)[0]


def test_scores_of_other_trainings_or_blocks_are_not_paired():
    folds, split = by_folds(np.zeros(5), np.zeros(30)), crossed(np.zeros(5), np.zeros(30))
    with pytest.raises(ValueError, match="cannot be paired"):
        folds - split
    halves = by_folds(np.arange(5.0), np.arange(30.0)) - by_folds(np.arange(5.0) / 2, np.arange(30.0) / 2)
    whole = by_folds(np.arange(5.0) / 2, np.arange(30.0) / 2)
    assert halves.by_repeat == pytest.approx(whole.by_repeat) and halves.without_block == pytest.approx(
        whole.without_block
    )


def test_a_block_that_a_repeat_did_not_score_changes_nothing_of_it():
    whole = by_folds(np.array([0.1, 0.2, 0.3, 0.4, 0.5] * 2), 0.01 * np.arange(30.0), repeats=2)
    scored_by, without = whole.scored_by.copy(), whole.without_block.copy()
    scored_by[1, whole.scored_by[1] == 5] = -1
    without[1, scored_by[1] == -1] = whole.by_repeat[1]
    found = spread(Statistic(whole.by_repeat, without, scored_by, 5))
    assert np.isfinite([found.variance, found.between]).all() and found.between > 0


def test_holm_corrects_for_the_whole_family():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])  # Holm 1979 by hand
    assert holm([0.02, None]) == [0.04, None]  # a member that was not tested counts too
    assert holm([0.9, 0.8]) == [1.0, 1.0]


P_VALUES = st.lists(st.none() | st.sampled_from([0.0, 0.004, 0.01, 0.02, 0.05, 0.4, 1.0]) | st.floats(0, 1), max_size=6)


@given(P_VALUES)
def test_holm_is_the_closed_test_of_all_subsets_by_bonferroni(p_values):
    """For each member the largest p of Bonferroni over the subsets that hold it; one not tested is as one with p 1."""
    members = range(len(p_values))
    subsets = [s for size in members for s in itertools.combinations(members, size + 1)]
    as_if = [1.0 if p is None else p for p in p_values]
    bonferroni = {subset: min(1.0, len(subset) * min(as_if[i] for i in subset)) for subset in subsets}
    wanted = [max(bonferroni[s] for s in subsets if i in s) if p_values[i] is not None else None for i in members]
    assert holm(p_values) == [None if p is None else pytest.approx(p) for p in wanted]
