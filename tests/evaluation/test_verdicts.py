"""Findings in words, the order of stages, and which scores they come from, on numbers worked out by hand."""

from types import SimpleNamespace

import numpy as np
import pytest

from common.stages import CONTROLS, STAGE_NAMES
from common.taxonomy import BIODIVERSITY
from common.text import count, hundredths, percent, signed, starred
from evaluation.study import wording
from evaluation.study.comparability import LeftOut, read_results
from evaluation.study.comparisons import COMPONENTS, FAMILIES, MINORITY
from evaluation.study.evidence import BEYOND, KEYS, Evidence, Finding, controls_run, gather
from evaluation.study.intervals import Estimate, difference
from evaluation.study.pooling import Scored
from evaluation.study.wording import (
    about_the_split,
    answer_of_control,
    difference_text,
    finding_in_words,
    findings_in_words,
    how_to_read,
    p_text,
    score_text,
    verdict,
    why_no_intervals,
)
from tests.helpers import made
from tests.synthetic_results import KNOWN, VAL, arm_of, finding_of, recipe_of, write_result

ONE, TWO, THREE, FOUR, FIVE_A, FIVE_B, SIX = STAGE_NAMES[:7]


NUMBERS = {"smallest": 0.042, "needed": 23, "better": 0.91}
BETWEEN = "95 % interval +1.9 to +4.3"


@pytest.mark.parametrize(
    ("finding", "said", "words"),
    [
        (
            finding_of(SIX, FIVE_B, 0.031, p_holm=0.0312),
            "shown",
            f"stage 6 gains 3.1 points of mIoU over stage 5B: shown ({BETWEEN}, p = 0.031 after correction)",
        ),
        (
            finding_of(SIX, FIVE_B, -0.031, p_holm=0.0001, equivalent=True),
            "shown",
            "stage 6 loses 3.1 points of mIoU against stage 5B: shown (95 % interval −4.3 to −1.9, "
            "p < 0.001 after correction)",
        ),
        (
            finding_of(TWO, ONE, 0.031, p_holm=0.06, **NUMBERS),
            "not shown",
            f"stage 2 against stage 1, +3.1 points of mIoU: not shown ({BETWEEN}, p = 0.060 after correction; "
            "this study would have shown 4.2 points; 23 seeds, on as much more area, would show the difference seen)",
        ),
        (
            finding_of(TWO, ONE, -0.0001, p_holm=1.0, smallest=0.042),
            "not shown",
            "stage 2 against stage 1, −0.0 points of mIoU: not shown (95 % interval −1.2 to +1.2, p = 1.000 after "
            "correction; this study would have shown 4.2 points; no number of seeds that one could train would show "
            "the difference seen)",
        ),
        (
            finding_of(TWO, ONE, 0.002, 0.005, p_holm=0.5, equivalent=True, **NUMBERS),
            "equivalent within ±1 point",
            "stage 2 against stage 1, +0.2 points of mIoU: equivalent within ±1 point (95 % interval −0.3 to +0.7, "
            "p = 0.500 after correction)",
        ),
        (
            finding_of(TWO, ONE, 0.031, seeds=(1, 2, 3, 4)),
            "screening",
            f"stage 2 is 3.1 points of mIoU above stage 1 ({BETWEEN}; a screening of 4 seeds, tested from 5 on)",
        ),
        (
            finding_of(SIX, "control_kd_cycled", -0.031),
            "described",
            'stage 6 is 3.1 points of mIoU below the control "6, classes cycled" '
            "(95 % interval −4.3 to −1.9; described, not tested)",
        ),
        (
            finding_of(FIVE_A, ONE, 0.004),
            "described",
            "stage 5A is 0.4 points of mIoU above stage 1 (95 % interval −0.8 to +1.6; described, not tested)",
        ),
        (
            finding_of(TWO, ONE, 0.05, None, seeds=(1, 2)),
            "no interval",
            "stage 2 is 5.0 points of mIoU above stage 1 in 2 seeds, without an interval",
        ),
        (
            finding_of(TWO, ONE, -0.05, None, seeds=(1,)),
            "no interval",
            "stage 2 is 5.0 points of mIoU below stage 1 in 1 seed, without an interval",
        ),
        (
            Finding(KNOWN[TWO, ONE], missing=f"{TWO} not run"),
            "not compared",
            f"stage 2 and stage 1 are not compared: {TWO} not run",
        ),
        (
            Finding(KNOWN[TWO, ONE], refused=["a", "b"]),
            "not compared",
            "stage 2 and stage 1 are not compared: a; b",
        ),
    ],
)
def test_a_finding_in_words(finding, said, words):
    assert (verdict(finding), finding_in_words(finding)) == (said, words)
    assert "no effect" not in words
    folds = finding_in_words(finding, unit="fold")
    assert folds == words.replace("seed", "fold")


def test_a_finding_speaks_of_the_metric_that_is_asked_for():
    finding = finding_of(FOUR, ONE, 0.05, p_holm=0.01)
    finding.estimates[MINORITY] = Estimate(-0.02, 0.05, 0.3, 5, 12, smallest=0.09, needed=70)
    finding.corrected[MINORITY] = 0.6
    finding.estimates["OA"] = Estimate(0.01, 0.005, None, 5, 12)
    assert [verdict(finding, metric) for metric in ("mIoU", MINORITY, "OA", "mF1")] == [
        "shown",
        "not shown",
        "described",
        "not compared",
    ]
    assert wording.tested_metrics(finding) == ["mIoU", MINORITY]
    assert findings_in_words(finding, "fold") == [
        "Stage 4 gains 5.0 points of mIoU over stage 1: shown (95 % interval +3.8 to +6.2, p = 0.010 after "
        "correction).",
        "Stage 4 against stage 1, −2.0 points of minority mIoU: not shown (95 % interval −7.0 to +3.0, p = 0.600 "
        "after correction; this study would have shown 9.0 points; 70 folds, on as much more area, would show the "
        "difference seen).",
    ]
    described = finding_of(FIVE_A, ONE, 0.004)
    assert wording.tested_metrics(described) == [] and len(findings_in_words(described, "fold")) == 1


@pytest.mark.parametrize(("p_holm", "shown"), [(None, False), (0.0, True), (0.0499, True), (0.0501, False), (1, False)])
def test_a_difference_is_shown_by_the_corrected_p_value_alone(p_holm, shown):
    for p in (0.001, 0.9):
        finding = finding_of(TWO, ONE, 0.05, p=p, p_holm=p_holm, equivalent=True)
        assert finding.is_shown() == shown and finding.is_equivalent() != shown
        assert not finding.is_shown(MINORITY) and not finding.is_equivalent(MINORITY)


@pytest.mark.parametrize(("seeds", "screening"), [((1, 2, 3), True), ((1, 2, 3, 4), True), ((1, 2, 3, 4, 5), False)])
def test_under_five_trainings_a_planned_comparison_is_a_screening(seeds, screening):
    assert finding_of(TWO, ONE, 0.05, seeds=seeds).is_screening == screening
    assert not finding_of(FIVE_A, ONE, 0.05, seeds=seeds).is_screening
    assert not Finding(KNOWN[TWO, ONE], missing="x", family=COMPONENTS).is_screening


def test_numbers_are_told_as_points_and_percentages():
    assert [signed(value) for value in (0.0312, -0.0312, 0.0)] == ["+3.1", "\u22123.1", "+0.0"]
    assert [p_text(p) for p in (0.00099, 0.001, 0.0456, 1.0)] == ["<0.001", "0.001", "0.046", "1.000"]
    estimates = [Estimate(0.431, half, None, 3, 10) for half in (0.0204, None)]
    assert [score_text(e) for e in estimates] == ["43.1 ± 2.0", "43.1"]
    assert [difference_text(e) for e in (*estimates, None)] == ["+43.1 [+41.1, +45.1]", "+43.1", "-"]
    assert [starred(name, ["a"]) for name in "ab"] == ["a *", "b"] and starred("a", None) == "a"
    assert (percent(0.4316), percent(0.4316, 2), percent(None)) == ("43.2%", "43.16%", "-")
    assert (hundredths(0.4316), hundredths(0.4316, 0), hundredths(None)) == ("43.2", "43", "-")
    assert hundredths(float("nan")) == "-"
    assert (count([7], "seed"), count([], "seed"), count("ab", "seed")) == ("1 seed", "0 seeds", "2 seeds")
    assert (KEYS, BEYOND, MINORITY) == (("mIoU", "mF1", "OA"), ("boundary mIoU", "ECE"), "minority mIoU")


def evidence_of(*arms, planned=(), descriptive=(), minority=(), absent=(), left_out=()):
    results = [SimpleNamespace(metrics=next(iter(arms[0].last.values())).metrics)]
    by_name = {scores.arm.name: scores for scores in arms}
    present = [i for i, name in enumerate(BIODIVERSITY.foreground, 1) if name not in absent]
    scored = Scored(BIODIVERSITY, present, [BIODIVERSITY.index(name) for name in minority], dict.fromkeys(present, 12))
    families = {family: [f for f in planned if f.family is family] for family in FAMILIES}
    return Evidence(results, by_name, families, list(descriptive), scored, list(absent), list(left_out), [])


def test_stages_rank_by_miou_then_mf1_then_oa_and_controls_do_not_rank():
    evidence = evidence_of(
        arm_of(ONE, [[0.5, 0.5], [0.6, 0.6], [0.9, 0.9]], (1, 2)),
        arm_of(TWO, [[0.4, 0.6], [0.7, 0.7], [0.1, 0.1]], (1, 2)),
        arm_of(THREE, [[0.5, 0.5], [0.7, 0.7], [0.2, 0.2]], (1, 2)),
        arm_of(FOUR, [[0.6, 0.5], [0.1, 0.1], [0.1, 0.1]], (1, 2)),
        arm_of("control_kd_uniform", [[0.9, 0.9], [0.9, 0.9], [0.9, 0.9]], (1, 2)),
        arm_of(FIVE_A, [[0.9, 0.0], [0.9, 0.9], [0.9, 0.9]], (1, 2)),
    )
    assert [scores.arm.name for scores in evidence.stages] == [FOUR, THREE, TWO, ONE, FIVE_A]
    assert controls_run(evidence) == [CONTROLS[2]]


@pytest.mark.parametrize("control", CONTROLS, ids=lambda control: control.name)
def test_a_control_answers_by_sign_and_only_where_a_difference_is_shown(control):
    planned = control.name != "control_kd_cycled"
    assert planned == (KNOWN[control.compared_with, control.name] in COMPONENTS.comparisons)

    def answer(*numbers, **more):
        finding = finding_of(control.compared_with, control.name, *numbers, **more)
        of = {"planned": [finding]} if planned else {"descriptive": [finding]}
        said = answer_of_control(evidence_of(arm_of(ONE, [[0.5] * 3] * 3), **of), control)
        assert said.startswith("Stage ")
        return said.partition(" points of mIoU")[2]

    answers = control.answers
    assert answer(0.05, 0.01, p_holm=0.01).endswith(answers.better)
    assert answer(-0.05, 0.01, p_holm=0.01).endswith(answers.worse)
    assert answer(0.05, 0.09, p_holm=0.4).endswith(answers.alike)
    # of a planned comparison the corrected p-value decides, of another one its interval
    assert answer(0.05, 0.01, p_holm=0.4).endswith(answers.alike if planned else answers.better)
    assert answer(0.05, None).endswith("That is no answer yet.")
    screening = answer(0.05, 0.01, seeds=(1, 2, 3, 4))
    assert screening.endswith("That is no answer yet." if planned else answers.better)


def test_a_control_that_could_not_be_compared_gives_no_answer():
    control = CONTROLS[0]
    lacking = Finding(KNOWN[FIVE_B, control.name], missing=f"{FIVE_B} not run", family=COMPONENTS)
    said = answer_of_control(evidence_of(arm_of(ONE, [[0.5] * 3] * 3), planned=[lacking]), control)
    assert said.endswith(f"are not compared: {FIVE_B} not run. That is no answer yet.")


@pytest.mark.parametrize(
    ("seeds", "blocks", "paired", "said"),
    [
        ((1, 2, 3, 4, 5), 10, (1, 2, 3, 4, 5), None),
        (
            (1, 2, 3, 4, 5),
            10,
            (1, 2, 3, 4),
            "A screening, without p-values: 4 seeds; a test needs 5 (reproduce.py --folds 5 makes enough).",
        ),
        (
            (1, 2),
            10,
            (1, 2),
            "No interval and no p-value: there are 2 of 3 seeds (reproduce.py --folds 5 makes enough).",
        ),
        (
            (1, 2, 3),
            9,
            (1, 2, 3),
            "No interval and no p-value: there are 9 of 10 spatial blocks in val (more tiles, or smaller blocks).",
        ),
        (
            (1, 2, 3),
            10,
            (1, 2),
            "No interval and no p-value for some stages or pairs: there are 2 of 3 seeds in common "
            "(reproduce.py --folds 5 makes enough).",
        ),
    ],
)
def test_what_lacks_for_intervals_is_told(seeds, blocks, paired, said):
    of_arm = arm_of(ONE, [np.linspace(0.4, 0.6, len(seeds))] * 3, seeds, blocks)
    evidence = evidence_of(of_arm, planned=[finding_of(TWO, ONE, 0.1, seeds=paired)])
    assert why_no_intervals(evidence) == said
    assert evidence.has_intervals == (len(seeds) >= 3 and blocks == 10)


def test_scores_without_an_interval_are_means_over_seeds_and_best_is_told_by_its_gap():
    scores = arm_of(ONE, [[0.5, 0.6]] * 3, (7, 8))
    for seed, ece in ((7, 0.1), (8, 0.4)):
        scores.last[seed].scores = {"ECE": ece, "boundary mIoU": None if seed == 8 else 0.3, "mIoU": 0.5 + seed / 100}
    assert scores.mean_over_seeds("ECE") == pytest.approx(0.25) and scores.mean_over_seeds("boundary mIoU") is None
    assert scores.best_minus_last() is None and scores.steps == 20 and scores.seeds == [7, 8]
    scores.best[7] = SimpleNamespace(scores={"mIoU": 0.60})
    assert scores.best_minus_last() == pytest.approx(0.03)
    scores.best[8] = SimpleNamespace(scores={"mIoU": 0.53})
    assert scores.best_minus_last() == pytest.approx((0.03 - 0.05) / 2)


def test_seeds_are_paired_by_their_number_and_blocks_by_their_place():
    mine, theirs = arm_of(TWO, [[0.5, 0.7, 0.9]] * 3, (1, 2, 3)), arm_of(ONE, [[0.8, 0.4, 0.65]] * 3, (3, 1, 2))
    of_block = np.linspace(-0.2, 0.2, 12)
    for scores in (mine, theirs):
        scores.trainings.statistics()["mIoU"].without_block[:] += of_block
    assert mine.paired(theirs, "mIoU", [2, 3]) == pytest.approx([0.05, 0.1])
    found = difference(mine.against(theirs, "mIoU", [1, 2, 3]))
    assert found.value == pytest.approx((0.1 + 0.05 + 0.1) / 3)
    # blocks are alike for both, so that the seeds alone count: their sd 0.0289, t 4.303 with two degrees of freedom
    assert found.half_width == pytest.approx(4.302653 * 0.0288675 / np.sqrt(3), rel=1e-5)


def test_the_reader_is_told_the_split_the_classes_and_what_the_numbers_are():
    gone = BIODIVERSITY.foreground[1]
    evidence = evidence_of(
        arm_of(ONE, [[0.5, 0.51, 0.52]] * 3),
        arm_of(TWO, [[0.5] * 2] * 3, (4, 5)),
        minority=["Settlement"],
        absent=[gone],
    )
    rest = "Forest, Cropland, Settlement, Seminatural"
    assert evidence.classes == rest.split(", ") and evidence.seeds == [1, 2, 3, 4, 5]
    assert about_the_split(evidence) == [
        "Val: 30 tiles in 12 spatial blocks, split by blocks. Seeds: 1, 2, 3, 4, 5",
        "One split: all seeds are scored on the same area, so the findings hold less for other areas than those of a "
        "study by folds would (reproduce.py --folds 5).",
        f"mIoU and mF1 over {rest}; Background counts nowhere.",
        "Not in val, so neither scored nor averaged: Grassland.",
    ]
    said = " ".join(how_to_read(evidence))
    assert "corrected by Holm for the tests of its family, run or not (4 of primary comparisons and 6 of comp" in said
    assert "95 % intervals over trainings and spatial blocks" in said and "Nadeau" not in said
    assert "needed: seeds that would show" in said and "never that there is no effect" in said
    assert "The stages have different seeds" in said and "One seed" not in said
    assert "* minority class of train; minority mIoU is the mean of these." in said
    alone = " ".join(how_to_read(evidence_of(arm_of(ONE, [[0.5]] * 3, (1,)))))
    assert "One seed" in alone and "different seeds" not in alone and "Holm" not in alone and "minority" not in alone


# From counts on disk

SHARE = 10  # blocks
RIGHT_AND_MISSED = {1: (100, 0), 2: (100, 100), 3: (100, 300), 4: (100, 0), 5: (100, 900)}  # missed: taken for 1
IOUS = {"Forest": 1 / 14, "Grassland": 0.5, "Cropland": 0.25, "Settlement": 1.0, "Seminatural": 0.1}


def counts(factor=1, without=(), blocks=SHARE) -> np.ndarray:
    """(B, 6, 6) counts, the same on every block."""
    one = np.zeros((6, 6), int)
    for label, (right, missed) in RIGHT_AND_MISSED.items():
        if label not in without:
            one[label, label] += factor * right
            one[label, 1] += missed
    return np.repeat(one[None], blocks, axis=0)


def evidence_in(root):
    return gather(*read_results([made(root / VAL)]))


def test_each_score_is_that_of_its_own_classes(tmp_path):
    write_result(tmp_path, ONE, 1, counts())
    scores = evidence_in(tmp_path).arms[ONE]
    found = {metric: scores.value(metric) for metric in scores.metrics}
    f1 = [2 * iou / (1 + iou) for iou in IOUS.values()]
    assert found == pytest.approx(
        {
            "mIoU": sum(IOUS.values()) / 5,
            "mF1": sum(f1) / 5,
            "OA": 500 / 1800,
            MINORITY: (1.0 + 0.1) / 2,  # of Settlement and Seminatural
            **{f"IoU {name}": iou for name, iou in IOUS.items()},
        }
    )


def test_every_tile_of_a_block_counts_and_a_block_without_a_label_does_not(tmp_path):
    of_blocks = counts(blocks=12)
    of_blocks[[3, 7]] = 0
    of_blocks[3, 0, 2] = 900  # predicted where nothing is labelled
    write_result(tmp_path, ONE, 1, of_blocks, tiles_a_block=3)
    evidence = evidence_in(tmp_path)
    assert evidence.blocks == 10
    cropland = evidence.arms[ONE].trainings.statistics()["IoU Cropland"]
    assert cropland.by_repeat == pytest.approx([0.25])
    assert cropland.without_block == pytest.approx(np.full((1, 10), 0.25))
    assert evidence.arms[ONE].last[1].tiles.confusions.shape[0] == 36


@pytest.mark.parametrize(
    ("named", "without", "wanted"),
    [
        (["Cropland"], (), 0.25),
        (["Seminatural", "Grassland"], (), 0.3),
        (["Settlement", "Cropland"], (3,), 1.0),
        (["Cropland"], (3,), None),
        ([], (), None),
    ],
)
def test_the_minority_mean_is_of_the_named_classes_that_occur(tmp_path, named, without, wanted):
    write_result(tmp_path, ONE, 1, counts(without=without), minority_classes=named)
    evidence = evidence_in(tmp_path)
    scores = evidence.arms[ONE]
    gone = [BIODIVERSITY.classes[label] for label in without]
    assert evidence.minority == sorted(set(named) - set(gone), key=BIODIVERSITY.index)
    assert (MINORITY in scores.metrics) == (wanted is not None)
    assert wanted is None or scores.value(MINORITY) == pytest.approx(wanted)


def test_the_ablation_is_made_of_last_and_best_counts_beside_its_own_last(tmp_path):
    write_result(tmp_path, ONE, 1, counts())
    write_result(tmp_path, ONE, 1, counts(factor=9), which="best")
    write_result(tmp_path, ONE, 2, counts(factor=9), which="best")  # has no last
    write_result(tmp_path, TWO, 1, counts(factor=9), which="best")
    evidence = evidence_in(tmp_path)
    assert list(evidence.arms) == [ONE] and evidence.arms[ONE].seeds == [1] and list(evidence.arms[ONE].best) == [1]
    assert evidence.arms[ONE].by_training("IoU Cropland") == pytest.approx([0.25])
    assert evidence.arms[ONE].best_minus_last() > 0.1


@pytest.mark.parametrize(("holding", "has_interval"), [(4, False), (5, True)])
def test_a_class_needs_five_blocks_for_an_interval(tmp_path, holding, has_interval):
    of_blocks = counts()
    of_blocks[holding:, 5] = 0
    for seed in (1, 2, 3):
        write_result(tmp_path, ONE, seed, of_blocks + seed * np.diag([0, 1, 1, 1, 1, 0]))
    evidence = evidence_in(tmp_path)
    assert (evidence.arms[ONE].estimate("IoU Seminatural").half_width is not None) == has_interval
    assert evidence.arms[ONE].estimate("IoU Settlement").half_width is not None
    few = [caution for caution in evidence.cautions if "in fewer than 5 blocks" in caution]
    assert [caution.partition(":")[0] for caution in few] == ([] if has_interval else ["Seminatural"])


def test_a_pair_of_runs_that_mixes_changes_counts_in_no_difference(tmp_path):
    for seed, factor in ((1, 1), (2, 9), (3, 2)):
        write_result(tmp_path, THREE, seed, counts())
        recipe = recipe_of(FOUR, seed)
        if seed == 2:
            recipe["sampler"]["sha256"] = "weights of another training"
        write_result(tmp_path, FOUR, seed, counts(factor), recipe=recipe)
    finding = evidence_in(tmp_path).finding(FOUR, THREE)
    assert finding.seeds == [1, 3] and finding.mIoU.trainings == 2
    assert finding.refused == [f"{FOUR} seed 2 differs from {THREE} also in sampler.sha256, expected cropper alone"]
    # from 1/4 to 2/5 and from 1/10 to 2/11 in the third seed, and nothing in the first
    assert finding.estimates["IoU Cropland"].value == pytest.approx((2 / 5 - 1 / 4) / 2)
    assert finding.estimates["IoU Seminatural"].value == pytest.approx((2 / 11 - 1 / 10) / 2)


def test_differences_are_of_the_first_arm_over_the_second(tmp_path):
    write_result(tmp_path, ONE, 1, counts())
    write_result(tmp_path, TWO, 1, counts(9))
    write_result(tmp_path, FIVE_A, 1, counts(3))
    evidence = evidence_in(tmp_path)
    assert evidence.finding(TWO, ONE).estimates["IoU Cropland"].value == pytest.approx(9 / 12 - 1 / 4)
    assert evidence.finding(FIVE_A, ONE).estimates["IoU Cropland"].value == pytest.approx(3 / 6 - 1 / 4)
    assert evidence.finding(THREE, TWO).missing == f"{THREE} not run" and evidence.finding(ONE, TWO) is None
    write_result(tmp_path, THREE, 2, counts())
    assert evidence_in(tmp_path).finding(THREE, TWO).missing == "no seed in common"


def test_an_arm_that_is_not_there_was_not_run_or_left_out():
    evidence = evidence_of(arm_of(ONE, [[0.5]] * 3, (1,)), left_out=[LeftOut(TWO, 1, "why")])
    assert (evidence.status(TWO), evidence.status(THREE)) == ("left out", "not run")
