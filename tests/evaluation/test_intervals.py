"""The rule for intervals and p-values: numbers worked by hand, a known truth that is covered, and Holm's correction."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from evaluation import simulate_coverage
from evaluation.simulate_coverage import World, simulate
from evaluation.study import intervals
from evaluation.study.comparisons import PLANNED
from evaluation.study.evidence import FEW_BLOCKS, SIGNIFICANT
from evaluation.study.intervals import Estimate, estimate, holm


def test_the_numbers_of_the_rule():
    assert intervals.LEVEL == 0.95 and pytest.approx(0.05) == SIGNIFICANT
    assert (intervals.FEWEST_SEEDS, intervals.FEWEST_BLOCKS, FEW_BLOCKS) == (3, 10, 5)


def test_an_interval_lies_around_its_value_and_excludes_zero_where_it_does_not_reach_it():
    found = Estimate(-0.03, 0.02, 0.01, 3, 10)
    assert (found.low, found.high) == (pytest.approx(-0.05), pytest.approx(-0.01)) and found.excludes_zero
    assert not Estimate(-0.02, 0.02, 0.05, 3, 10).excludes_zero and not Estimate(0.01, 0.02, 0.1, 3, 10).excludes_zero
    assert Estimate(0.021, 0.02, 0.04, 3, 10).excludes_zero


def test_blocks_alone_give_the_interval_of_a_mean():
    values = np.random.default_rng(0).normal(0.3, 0.1, 12)
    without = (values.sum() - values) / 11
    found = estimate(np.full(3, values.mean()), np.tile(without, (3, 1)))
    low, high = stats.t.interval(0.95, 11, values.mean(), stats.sem(values))
    assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))
    assert found.p == pytest.approx(stats.ttest_1samp(values, 0).pvalue)


def test_seeds_alone_give_the_interval_of_a_mean():
    values = np.array([0.02, 0.05, 0.03, 0.06])
    found = estimate(values, np.tile(values[:, None], (1, 10)))
    low, high = stats.t.interval(0.95, 3, values.mean(), stats.sem(values))
    assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))
    assert found.p == pytest.approx(stats.ttest_1samp(values, 0).pvalue)


def test_interval_and_p_agree_and_grow_with_the_variance_of_seeds():
    rng = np.random.default_rng(1)
    without = rng.normal(0.05, 0.002, 15)
    widths = []
    for scale in (0.0, 0.005, 0.02, 0.05, 0.2):
        values = 0.05 + scale * np.array([-1.0, 0.0, 1.0])
        found = estimate(values, values[:, None] + without - without.mean())
        assert (found.p < 0.05) == found.excludes_zero
        widths.append(found.half_width)
    assert widths == sorted(widths) and widths[0] < 0.05 < widths[-1]


@pytest.mark.parametrize(("seeds", "blocks"), [(2, 30), (5, 9), (1, 1)])
def test_no_interval_from_too_few_seeds_or_blocks(seeds, blocks):
    found = estimate(np.linspace(0, 1, seeds), np.random.default_rng(0).normal(size=(seeds, blocks)))
    assert found.value == pytest.approx(np.linspace(0, 1, seeds).mean())
    assert found.half_width is None and found.p is None and not found.excludes_zero
    assert (found.low, found.high) == (-np.inf, np.inf)


def test_holm_corrects_for_the_whole_family():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])  # Holm 1979 by hand
    assert holm([0.02, None]) == [0.04, None]  # a member that was not tested counts too
    assert holm([0.9, 0.8]) == [1.0, 1.0]


def test_the_bias_of_few_blocks_widens_the_interval():
    values = np.full(3, 0.4)
    spread = 0.01 * np.linspace(-1, 1, 12)
    straight = estimate(values, np.tile(0.4 + spread, (3, 1)))
    biased = estimate(values, np.tile(0.4 + spread - 0.01, (3, 1)))  # a jackknife bias of 11 points
    assert straight.value == biased.value
    variance = (straight.half_width / stats.t.ppf(0.975, 11)) ** 2
    assert biased.half_width == pytest.approx(stats.t.ppf(0.975, 11) * np.sqrt(variance + 0.11**2))


def crossed(of_seed, of_block):
    """(S,) means and (S, B) means without a block, of values that are a part of the seed and a part of the block."""
    values = np.add.outer(of_seed, of_block)
    return values.mean(axis=1), (values.sum(axis=1, keepdims=True) - values) / (values.shape[1] - 1)


def test_seeds_and_blocks_add_to_the_error_each_with_its_own_degrees_of_freedom():
    of_seed = np.array([0.01, 0.03, 0.02])  # variance of their mean 0.0001 / 3
    of_block = 0.02 * np.array([-1, 1] * 6)  # variance of their mean 0.0004 / 11
    seeds, blocks = 0.0001 / 3, 0.0004 / 11
    for sign in (1, -1):
        found = estimate(*crossed(sign * of_seed, of_block))
        assert found.value == pytest.approx(sign * 0.02) and (found.seeds, found.blocks) == (3, 12)
        t = (seeds * 4.302653 + blocks * 2.200985) / (seeds + blocks)  # 97.5 % of t with 2 and with 11
        assert found.half_width == pytest.approx(t * np.sqrt(seeds + blocks), rel=1e-6)
        tails = stats.t.isf(found.p / 2, [2, 11]) @ [seeds, blocks] / (seeds + blocks)
        assert tails == pytest.approx(0.02 / np.sqrt(seeds + blocks))  # two-sided


def test_p_is_1_of_no_difference_and_0_of_one_without_any_noise():
    nothing = estimate(np.zeros(3), np.zeros((3, 10)))
    assert (nothing.half_width, nothing.p) == (0, 1) and not nothing.excludes_zero
    for value in (0.5, -0.5):
        certain = estimate(np.full(3, value), np.full((3, 10), value))
        assert (certain.half_width, certain.p) == (0, 0) and certain.excludes_zero
    around_zero = estimate(*crossed(np.array([-0.01, 0.0, 0.01]), np.zeros(10)))
    assert around_zero.p == pytest.approx(1) and around_zero.half_width > 0
    far = estimate(*crossed(1e6 + np.array([-1e-6, 0.0, 1e-6]), 1e-6 * np.arange(10.0)))
    assert 0 <= far.p < 1e-9


@pytest.mark.parametrize(("seeds", "blocks", "given"), [(3, 10, True), (2, 10, False), (3, 9, False)])
def test_three_seeds_and_ten_blocks_are_enough_and_no_less(seeds, blocks, given):
    rng = np.random.default_rng(seeds)
    found = estimate(*crossed(rng.normal(size=seeds), rng.normal(size=blocks)))
    assert (found.half_width is not None) == (found.p is not None) == given
    assert (found.seeds, found.blocks) == (seeds, blocks)


@pytest.mark.parametrize(("of_seed", "of_block"), [(1.0, 0.02), (0.02, 1.0), (0.3, 1.0)])
def test_intervals_of_a_normal_model_cover_its_mean(of_seed, of_block):
    rng, seeds, blocks = np.random.default_rng(11), 4, 12
    covered, significant = [], []
    for _ in range(600):
        found = estimate(*crossed(rng.normal(5, of_seed, seeds), rng.normal(0, of_block, blocks)))
        covered.append(found.low <= 5 <= found.high)
        significant.append(estimate(*crossed(rng.normal(0, of_seed, seeds), rng.normal(0, of_block, blocks))).p < 0.05)
    assert 0.92 <= np.mean(covered) <= 0.98
    assert 0.02 <= np.mean(significant) <= 0.08


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


# The simulation of studies, by which the rule is judged


def draws(world: World, gains=(0.0, 0.25), seeds=40, blocks=60):
    counts = world.draw(np.random.default_rng(4), gains, seeds, blocks)
    assert counts.shape == (len(gains), seeds, blocks, 6, 6)
    return counts


def logit(share):
    return np.log(share / (1 - share))


def recalls_in_logits(counts):
    """(..., 5) recall of each foreground class in logits."""
    of = counts[..., 1:, 1:]
    return logit(np.diagonal(of, axis1=-2, axis2=-1) / of.sum(axis=-1))


QUIET = dict.fromkeys(("of_seed", "of_block", "of_arm_on_block", "of_run_on_block"), 0.0)


def test_without_noise_a_generated_network_has_the_recalls_that_are_asked_for():
    counts = draws(World(**QUIET), gains=(0.0, 0.5), seeds=2, blocks=3)
    assert (counts[..., 0, :] == 0).all() and (counts[..., 0] == 0).all() and (counts >= 0).all()
    wanted = logit(np.array([0.80, 0.75, 0.65, 0.60, 0.40]))
    np.testing.assert_allclose(recalls_in_logits(counts), np.broadcast_to(wanted, (2, 2, 3, 5)) + [[[[0]]], [[[0.5]]]])
    confused = counts[0, 0, 0, 1:, 1:] * (1 - np.eye(5))
    taken_for = [[0, 0.6, 0.2, 0.1, 0.1], [0.5, 0, 0.3, 0.1, 0.1], [0.2, 0.6, 0, 0.1, 0.1], [0.3, 0.3, 0.3, 0, 0.1]]
    np.testing.assert_allclose(
        confused / confused.sum(axis=1, keepdims=True), [*taken_for, [0.1, 0.5, 0.2, 0.2, 0]], atol=1e-9
    )
    assert (simulate_coverage.FOREGROUND, simulate_coverage.GAIN) == ([1, 2, 3, 4, 5], 0.25)


def test_all_arms_and_seeds_of_a_generated_study_see_the_same_ground():
    truth = draws(World(), blocks=400).sum(axis=-1)[..., 1:]
    np.testing.assert_allclose(truth, np.broadcast_to(truth[:1, :1], truth.shape))
    shares = truth[0, 0] / truth[0, 0].sum(axis=-1, keepdims=True)
    assert shares.mean(axis=0) == pytest.approx([0.38, 0.32, 0.17, 0.09, 0.04], abs=0.05)
    sizes = np.log(truth[0, 0].sum(axis=-1))
    assert sizes.mean() == pytest.approx(10, abs=0.1) and sizes.std() == pytest.approx(0.4, abs=0.05)
    even = draws(World(alike=20.0), blocks=400).sum(axis=-1)[0, 0, :, 1:]
    assert (even / even.sum(axis=-1, keepdims=True)).std(axis=0).max() < shares.std(axis=0).min()


@pytest.mark.parametrize(
    ("part", "size", "differ"),
    [
        ("of_seed", 0.25, (True, True, False)),
        ("of_block", 0.6, (False, False, True)),
        ("of_arm_on_block", 0.2, (True, False, True)),
        ("of_run_on_block", 0.15, (True, True, True)),
    ],
)
def test_each_part_of_the_noise_differs_between_arms_seeds_and_blocks_as_it_should(part, size, differ):
    assert getattr(World(), part) == size
    found = recalls_in_logits(draws(World(**QUIET | {part: size}), gains=(0.0, 0.0)))
    for axis, differs in enumerate(differ):
        spread = found.std(axis=axis).mean()
        assert (spread > 0.3 * size) if differs else (spread < 1e-6)
    whole = size * np.sqrt(2) if part == "of_seed" else size  # of the seed as a whole and of each of its classes
    assert found.std(axis=(0, 1, 2)) == pytest.approx(np.full(5, whole), rel=0.25)


def test_the_worlds_are_usual_and_uneven():
    usual, uneven = simulate_coverage.WORLDS["usual"], simulate_coverage.WORLDS["uneven"]
    assert usual == World(0.25, 0.6, 0.2, 0.15, 2.0, 0.4)
    assert uneven == World(0.05, 1.0, 0.2, 0.15, 0.7, 0.4)


def test_the_truth_of_a_quiet_world_is_the_score_of_its_recalls():
    recalls = np.array([0.80, 0.75, 0.65, 0.60, 0.40])
    shares = np.array([0.38, 0.32, 0.17, 0.09, 0.04])
    missed = shares * (1 - recalls)
    into = missed @ simulate_coverage.CONFUSED_WITH
    ious = shares * recalls / (shares + into)
    # many alike blocks have these very shares
    found = World(**QUIET, alike=1e4, size=0.01).truth(np.random.default_rng(0), (0.0,), repeats=2)
    assert found == pytest.approx([ious.mean()], abs=2e-3)


def test_simulated_shares_are_of_trials_and_of_the_family_that_is_planned(monkeypatch):
    """Estimates are put in whose interval or p is known for each call."""
    per_trial = 2 + len(PLANNED)
    calls = []

    def stand_in(by_seed, without_block):
        place = len(calls) % per_trial
        trial = len(calls) // per_trial
        calls.append(by_seed.shape)
        if place == 0:  # a score: holds the truth 0.5 in every second of four trials
            return Estimate(0.5 if trial % 2 else 0.9, 0.1, 0.5, 3, 10)
        if place == 1:  # a difference: holds the truth 0.2 in one of four trials
            return Estimate(0.2 if trial == 3 else 0.5, 0.1, 0.5, 3, 10)
        # of six p-values one is 0.009, which is 0.054 after correction; in one trial 0.008, which is 0.048
        small = 0.008 if trial == 1 else 0.009
        return Estimate(0.1, 0.1, small if place == per_trial - 1 else 0.5, 3, 10)

    monkeypatch.setattr(simulate_coverage, "estimate", stand_in)
    found = simulate(World(), np.random.default_rng(0), np.array([0.5, 0.7]), 3, 10, trials=4)
    assert found == {"mIoU": 0.5, "difference": 0.25, "family": 0.25}


def test_a_generated_difference_is_of_the_second_arm_over_the_first_with_the_same_blocks(monkeypatch):
    seen = []

    def look(by_seed, without_block):
        seen.append((by_seed, without_block))
        return Estimate(0.0, 1.0, 1.0, 3, 10)

    monkeypatch.setattr(simulate_coverage, "estimate", look)
    simulate(World(of_seed=0.0, of_run_on_block=0.0, of_arm_on_block=0.0), np.random.default_rng(0), [0, 0], 3, 10, 1)
    alone, difference, *family = seen
    assert (difference[0] > 0.02).all() and (difference[1] > 0.02).all()  # a gain of GAIN in logits
    assert alone[0].shape == (3,) and alone[1].shape == (3, 10) and 0.3 < alone[0].mean() < 0.7
    assert len(family) == 6
    for by_seed, without_block in family:  # arms that are alike, on the same ground
        assert by_seed == pytest.approx(0, abs=1e-9) and without_block == pytest.approx(0, abs=1e-9)


def test_each_line_of_the_simulation_is_a_world_a_number_of_seeds_and_of_blocks(monkeypatch, capsys):
    asked = []

    def stand_in(world, rng, truth, seeds, blocks, trials):
        asked.append((world, seeds, blocks, trials, truth.tolist(), rng.random()))
        return {"mIoU": 0.94, "difference": 0.95, "family": 0.01 * len(asked)}

    monkeypatch.setattr(simulate_coverage, "simulate", stand_in)
    monkeypatch.setattr(World, "truth", lambda self, rng, gains: np.array([self.of_block, self.of_block + gains[1]]))
    for _ in range(2):
        simulate_coverage.main(["--trials", "7", "--seeds", "3", "5", "--blocks", "10", "30", "--seed", "1"])
    first, again = asked[:8], asked[8:]
    assert first == again  # one seed gives one table
    usual, uneven = World(), World(of_seed=0.05, of_block=1.0, alike=0.7)
    cases = [(seeds, blocks) for seeds in (3, 5) for blocks in (10, 30)]
    assert [case[:4] for case in first] == [(w, s, b, 7) for w in (usual, uneven) for s, b in cases]
    assert [case[4] for case in first] == [[0.6, 0.85]] * 4 + [[1.0, 1.25]] * 4
    assert len({case[5] for case in first}) == 8  # each with draws of its own
    out = capsys.readouterr().out.splitlines()
    assert out[0] == "usual blocks: true mIoU 60.0%, true difference 25.0%"
    rows = [line.split() for line in out if line.startswith(("usual  ", "uneven "))][1:9]
    assert "usual 3 30 94.0% 95.0% 2.0%".split() in rows and "uneven 5 30 94.0% 95.0% 8.0%".split() in rows
    defaults = simulate_coverage.parse_args([])
    assert (defaults.trials, defaults.seeds, defaults.blocks, defaults.seed) == (500, [3, 5], [10, 30], 42)


@pytest.mark.parametrize(("seeds", "blocks"), [(3, 10), (5, 30)])
def test_intervals_cover_a_known_truth(seeds, blocks):
    rng, world = np.random.default_rng(3), World()
    truth = world.truth(rng, (0, 0.25), repeats=40)
    found = simulate(world, rng, truth, seeds, blocks, trials=200)
    assert 0.91 <= found["mIoU"] <= 0.99 and 0.91 <= found["difference"] <= 0.99  # of 500 trials: 0.92 to 0.98
    assert found["family"] <= 0.07


@pytest.mark.parametrize(
    ("world", "without"),
    [(World(of_seed=0.05, of_arm_on_block=0.6), "blocks"), (World(of_seed=0.5, of_arm_on_block=0.05), "seeds")],
)
def test_an_interval_that_forgets_seeds_or_blocks_does_not_cover(world, without, monkeypatch):
    def forgetful(by_seed, without_block):
        mean = by_seed.mean()
        if without == "seeds":
            return estimate(np.full_like(by_seed, mean), np.tile(without_block.mean(axis=0), (len(by_seed), 1)))
        return estimate(by_seed, np.tile(by_seed[:, None], (1, without_block.shape[1])))

    rng = np.random.default_rng(5)
    truth = world.truth(rng, (0, 0.25), repeats=40)
    found = simulate(world, rng, truth, 5, 12, trials=100)
    monkeypatch.setattr(simulate_coverage, "estimate", forgetful)
    wrong = simulate(world, rng, truth, 5, 12, trials=100)
    assert found["difference"] >= 0.9 and wrong["difference"] < 0.85
