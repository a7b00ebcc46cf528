"""The generated studies by which the rule of intervals and tests is judged, and a small form of the judgement."""

import numpy as np
import pytest

from common.errors import UserError
from common.metrics import class_ratios
from evaluation import simulate_coverage
from evaluation.simulate_coverage import CANDIDATES, CHOSEN, WORLDS, Setting, World, means, simulate

QUIET = dict.fromkeys(("of_training", "of_training_on_class", "of_block", "of_arm_on_block", "of_run_on_block"), 0.0)
# Trainings make most of the error, where a rule goes wrong that takes a normal quantile or too small a variance.
RESTLESS = World(of_training=0.3, of_training_on_class=0.3, of_block=0.2, of_arm_on_block=0.05, of_run_on_block=0.05)


def recalls(world, gains=(0.0, 0.0), noise=(1.0, 1.0), trainings=10, blocks=60, correlation=0.0, studies=40):
    rng = np.random.default_rng(4)
    scored_by = world.deal(rng, studies, trainings // 5, blocks, 5)
    return world.recalls(rng, gains, noise, scored_by, correlation), scored_by


def logit(share):
    return np.log(share / (1 - share))


def test_without_noise_a_generated_network_has_the_recalls_that_are_asked_for():
    counts = World(**QUIET).draw(np.random.default_rng(0), (0.0, 0.5), 2, 3)
    assert counts.shape == (2, 2, 3, 6, 6) and (counts[..., 0, :] == 0).all() and (counts[..., 0] == 0).all()
    of = counts[..., 1:, 1:]
    found = logit(np.diagonal(of, axis1=-2, axis2=-1) / of.sum(axis=-1))
    wanted = logit(np.array([0.80, 0.75, 0.65, 0.60, 0.40]))
    np.testing.assert_allclose(found, np.broadcast_to(wanted, (2, 2, 3, 5)) + [[[[0]]], [[[0.5]]]])
    missed = of[0, 0, 0, 0, 1:] / of[0, 0, 0, 0, 1:].sum()
    assert missed == pytest.approx([0.6, 0.2, 0.1, 0.1])


def test_means_are_those_of_the_matrices():
    counts = World().draw(np.random.default_rng(0), [0.0], 2, 5).sum(axis=2)
    of = counts[..., 1:, 1:]
    found = means(np.diagonal(of, axis1=-2, axis2=-1), of.sum(axis=-1), of.sum(axis=-2))
    iou = class_ratios(counts)["IoU"][..., 1:]
    np.testing.assert_allclose(found, [iou.mean(axis=-1), iou[..., 3:].mean(axis=-1)])


@pytest.mark.parametrize("world", WORLDS)
def test_the_truth_is_the_score_of_much_ground_and_many_trainings(world):
    rng, setting = np.random.default_rng(0), Setting(5, 60, "equal", world, 0.0)
    scores = [setting.study(rng, 100, 5, WORLDS[world], [0.0, 0.4]).by_repeat.mean(axis=(1, 3)) for _ in range(4)]
    found = np.mean(scores, axis=0).T  # pooled scores of 60 blocks have a bias of up to a point
    wanted = [WORLDS[world].truth(gain, 60) for gain in (0.0, 0.4)]
    assert found == pytest.approx(np.array(wanted), abs=0.015)
    assert found[1] - found[0] == pytest.approx(wanted[1] - wanted[0], abs=0.005)


def test_five_blocks_hold_the_rarest_class_and_each_fold_scores_one_of_them():
    rng, world = np.random.default_rng(0), WORLDS["uneven"]
    held, scored_by = world.held(rng, 20, 30), world.deal(rng, 20, 2, 30, 5)
    assert ((held[..., 4] > 0).sum(axis=1) == 5).all() and (held[:, :5, 4] > 0).all()
    assert (np.sort(scored_by[..., :5], axis=-1) == np.array([[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]])).all()
    assert (np.sort(scored_by, axis=-1)[:, 0] == np.repeat(np.arange(5), 6)).all()
    assert (scored_by[:, 0] != scored_by[:, 1] - 5).any()


@pytest.mark.parametrize(
    ("part", "arms", "trainings", "blocks"),
    [
        ("of_training", True, True, False),
        ("of_block", False, False, True),
        ("of_arm_on_block", True, False, True),
        ("of_run_on_block", True, True, True),
    ],
)
def test_each_part_of_the_noise_differs_between_arms_trainings_and_blocks_as_it_should(part, arms, trainings, blocks):
    found, scored_by = recalls(World(**QUIET | {part: 0.3}))
    found = logit(found)[..., 0]  # (N, A, R, B)
    assert found.std(axis=(0, 1, 2, 3)) == pytest.approx(0.3, rel=0.2)
    assert (found.std(axis=1).mean() > 0.05) == arms
    assert (found.std(axis=2).mean() > 0.05) == trainings
    first = found[:, :, 0][np.broadcast_to(scored_by[:, None, 0] == 0, found[:, :, 0].shape)].reshape(40, 2, -1)
    assert (first.std(axis=-1).mean() > 0.05) == blocks


def test_trainings_of_an_arm_correlate_between_folds_and_noise_is_of_what_is_drawn_anew():
    world = World(**QUIET | {"of_training": 0.3})
    for correlation, factor in ((0.0, 1.0), (0.5, 1.0), (0.5, 3.0)):
        found, scored_by = recalls(world, noise=(1.0, factor), correlation=correlation, studies=2000, blocks=10)
        of_fold = np.stack(
            [logit(found)[:, 1, 0, :, 0][np.arange(2000), (scored_by[:, 0] == fold).argmax(axis=1)] for fold in (0, 1)]
        )
        common, own = 0.09 * correlation, 0.09 * (1 - correlation) * factor**2
        np.testing.assert_allclose(
            np.cov(of_fold), [[common + own, common], [common, common + own]], atol=0.1 * (common + own)
        )


def test_noise_of_shared_ground_leaves_the_correlation_of_trainings_as_it_is():
    world = World(**QUIET | {"of_training": 0.3}, noise_is_shared=True)
    found, scored_by = recalls(world, noise=(1.0, 3.0), correlation=0.5, studies=2000, blocks=10)
    of_fold = [logit(found)[:, 1, 0, :, 0][np.arange(2000), (scored_by[:, 0] == k).argmax(axis=1)] for k in (0, 1)]
    np.testing.assert_allclose(np.cov(of_fold), 0.81 * np.array([[1, 0.5], [0.5, 1]]), atol=0.1)


@pytest.mark.parametrize("shared", [False, True])
def test_noisy_arms_have_the_expected_recalls_of_the_others(shared):
    found, _ = recalls(World(of_training=1.0, noise_is_shared=shared), noise=(1.0, 3.0), studies=4000, blocks=5)
    first, second = found.mean(axis=(0, 2, 3))
    assert first == pytest.approx(second, abs=0.02)


# The small form: the rule against a truth that is known


@pytest.fixture(scope="module")
def judged():
    """By rule, a setting like real tiles and one in which trainings make most of the error."""
    rng = np.random.default_rng(3)
    usual = simulate(Setting(5, 30, "one three times", "uneven", 0.5), rng, 300, 5)
    restless = simulate(Setting(5, 30, "one three times", "alike", 0.0), rng, 300, 5, RESTLESS)
    return usual, restless


def test_intervals_cover_a_known_truth(judged):
    for found in judged:
        for key in ("level", "minority level", "difference", "minority difference"):
            assert all(0.91 <= share <= 0.99 for share in found[CHOSEN][key]), (key, found[CHOSEN][key])


def test_a_family_of_arms_that_are_alike_is_seldom_significant_and_one_that_differs_often(judged):
    for found in judged:
        assert max(found[CHOSEN]["family"]) <= 0.06
        assert found[CHOSEN]["power"][1] >= 0.7


def test_what_the_rule_says_of_itself_holds(judged):
    for found in judged:
        assert 0.7 <= found[CHOSEN]["shown"][0] <= 0.88 and found[CHOSEN]["equivalent"][0] <= 0.06


@pytest.mark.parametrize(
    ("name", "key", "bound"),
    [
        ("blocks alone", "difference", 0.8),
        ("folds alone, normal quantile", "difference", 0.91),
    ],
)
def test_rules_that_were_not_chosen_miss_the_truth_where_trainings_make_the_error(judged, name, key, bound):
    assert min(judged[1][name][key]) < bound < min(judged[1][CHOSEN][key])


def test_plain_pooling_finds_what_is_not_there_where_one_arm_is_noisy(judged):
    assert max(judged[1]["blocks and trainings, pooled"]["family"]) > 0.1


def test_the_script_prints_a_line_for_each_setting_or_for_each_rule(capsys):
    small = ["--trials", "4", "--trainings", "5", "--blocks", "12", "--correlation", "0"]
    simulate_coverage.main(small)
    first = capsys.readouterr().out
    assert sum(line.startswith("5 ") for line in first.splitlines()) == 6
    simulate_coverage.main(small)
    assert capsys.readouterr().out == first  # one seed gives one table
    simulate_coverage.main([*small, "--candidates"])
    out = capsys.readouterr().out
    assert all(name in out for name in CANDIDATES)
    defaults = simulate_coverage.parse_args([])
    assert (defaults.trials, defaults.folds, defaults.trainings, defaults.blocks) == (1000, 5, [5, 10], [30, 60])
    with pytest.raises(UserError, match="a multiple of --folds 5"):
        simulate_coverage.main(["--trainings", "7"])
