"""Intervals, fair comparisons, and the summary, on generated results."""

import csv
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from common.cli import UserError
from common.metrics import mean_iou_of, score
from common.stages import ARM_OF, CONTROLS, DESCRIPTIVE, PLANNED, STAGE_NAMES, STAGES
from common.taxonomy import BIODIVERSITY, Taxonomy
from evaluation import aggregate_metrics
from evaluation.evidence import MINORITY, crossed_scores, gather, read_results
from evaluation.intervals import estimate, holm
from evaluation.simulate_coverage import World, simulate
from tests.synthetic_results import SETTINGS, STEPS, VAL, recipe_of, write_result, write_study

SEEDS = [42, 43, 44]
ONE, TWO, THREE, FOUR, FIVE_A, FIVE_B, SIX = STAGE_NAMES
GAINS = {ONE: 0.0, TWO: 0.6, THREE: 0.6, FOUR: 0.8, FIVE_A: 0.0, FIVE_B: 0.9, SIX: 1.4}
GAINS |= {control.name: 0.7 for control in CONTROLS}
FIGURES = ("ablation.png", "comparisons.png", "class_gains.png", "draws.png")
COUNTS = np.array([[0] * 6, *(np.full((5, 6), 10) + 90 * np.eye(6, dtype=int)[1:])])


@pytest.fixture
def study(tmp_path, without_figures):
    """All arms with three seeds on twelve blocks, in a folder that the test may change."""
    write_study(tmp_path, GAINS, SEEDS, 12)
    return tmp_path


@pytest.fixture
def without_figures(monkeypatch):
    """Leave the figures out, which take most of the time; one test draws them."""
    for name in ("ablation_figure", "comparisons_figure", "class_gains_figure", "draws_figure"):
        monkeypatch.setattr(aggregate_metrics, name, lambda *_: None)


def evidence_of(root):
    return gather(*read_results(root / VAL, "evaluate again"))


def summarise(root, suffix="txt"):
    aggregate_metrics.main(["--root", str(root)])
    return (root / VAL / f"metrics_summary.{suffix}").read_text()


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
    assert found.half_width is None and found.p is None and found.low is None and not found.excludes_zero


def test_holm_corrects_for_the_whole_family():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])  # Holm 1979 by hand
    assert holm([0.02, None]) == [0.04, None]  # a member that was not tested counts too
    assert holm([0.9, 0.8]) == [1.0, 1.0]


@pytest.mark.parametrize(("seeds", "blocks"), [(3, 10), (5, 30)])
def test_intervals_cover_a_known_truth(seeds, blocks):
    rng, world = np.random.default_rng(3), World()
    truth = world.truth(rng, (0, 0.25), repeats=40)
    found = simulate(world, rng, truth, seeds, blocks, trials=200)
    assert 0.91 <= found["mIoU"] <= 0.99 and 0.91 <= found["difference"] <= 0.99  # 500 trials: 0.92 to 0.98
    assert found["family"] <= 0.07
    overconfident = simulate(World(of_seed=1.5), rng, truth, seeds, blocks, trials=50)
    assert overconfident["mIoU"] != found["mIoU"]


def test_scores_are_those_of_the_pooled_matrix():
    counts = World().draw(np.random.default_rng(0), [0.0], 2, 5)[0].astype(np.int64)
    present, minority = [1, 2, 3, 4, 5], [4, 5]
    by_seed, without_block = crossed_scores(counts, BIODIVERSITY, present, minority)
    names = [BIODIVERSITY.classes[i] for i in minority]
    for seed, block in np.ndindex(2, 5):
        whole = score(counts[seed].sum(axis=0), BIODIVERSITY)
        rest = score(np.delete(counts[seed], block, axis=0).sum(axis=0), BIODIVERSITY)
        for scores, found in ((whole, by_seed), (rest, {key: value[:, block] for key, value in without_block.items()})):
            expected = {key: scores[key] for key in ("mIoU", "mF1", "OA")} | {MINORITY: mean_iou_of(scores, names)}
            expected |= {f"IoU {name}": scores["classes"][name]["IoU"] for name in scores["classes"]}
            assert {key: value[seed] for key, value in found.items()} == pytest.approx(expected)


def test_differences_are_paired_by_seed_and_block(tmp_path):
    write_study(tmp_path, {ONE: 0.0, TWO: 0.3}, SEEDS, 12, world=World(of_seed=0.02))
    evidence = evidence_of(tmp_path)
    mine, theirs = evidence.arms[TWO], evidence.arms[ONE]
    found = evidence.finding(TWO, ONE)
    pairs = mine.by_seed["mIoU"] - theirs.by_seed["mIoU"]
    assert found.mIoU.value == pytest.approx(pairs.mean()) and found.seeds == SEEDS
    alone = min(arm.estimate("mIoU").half_width for arm in (mine, theirs))
    assert found.mIoU.half_width < alone  # what the blocks have in common cancels


def test_planned_comparisons_get_corrected_p_values_and_no_others(study):
    evidence = evidence_of(study)
    assert [f.comparison for f in evidence.planned] == list(PLANNED) and len(PLANNED) == 6
    raw = [finding.mIoU.p for finding in evidence.planned]
    assert [finding.p_holm for finding in evidence.planned] == holm(raw)
    assert [f.comparison for f in evidence.descriptive] == list(DESCRIPTIVE)
    assert all(finding.p_holm is None for finding in evidence.descriptive)
    family = {(c.arm.name, c.other.name) for c in PLANNED}
    assert family == {
        (TWO, ONE),
        (THREE, TWO),
        (FOUR, THREE),
        (FIVE_B, "control_5b_from_stage1"),
        (SIX, FIVE_B),
        (SIX, "control_kd_uniform"),
    }


def test_the_summary_ranks_stages_and_answers_the_questions_of_controls(study):
    text = summarise(study)
    ranking = text.split("\n\n")[1].splitlines()
    scores = evidence_of(study).arms
    by_mean = sorted(STAGE_NAMES, key=lambda name: -scores[name].by_seed["mIoU"].mean())
    assert [line.split()[0] for line in ranking[1:]] == by_mean
    assert not any(control.name in line for line in ranking for control in CONTROLS)
    for control in CONTROLS:
        answer = next(line for line in text.splitlines() if control.question in line)
        assert f'the control "{control.title}"' in answer and "points of mIoU" in answer
    first = scores[ONE].estimate("mIoU")
    assert f"{100 * first.value:.1f} ± {100 * first.half_width:.1f}" in text
    five_to_four = next(line for line in text.splitlines() if line.startswith(FIVE_B) and FOUR in line)
    assert "twice the steps" in five_to_four
    assert sum("twice the steps" in line for line in text.splitlines() if line.startswith("stage")) == 3


def test_every_output_is_written(tmp_path):
    write_study(tmp_path, GAINS, SEEDS, 12)
    study, text = tmp_path, summarise(tmp_path, "md")
    assert text.count("| ---") >= 3 and all(name in text for name in ARM_OF)
    for name in FIGURES:
        with Image.open(study / VAL / name) as picture:
            assert min(picture.size) > 400
    with open(study / VAL / "metrics_summary.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    keys = [(row["stage"], row["seed"], row["checkpoint"], row["metric"]) for row in rows]
    assert len(set(keys)) == len(keys)
    assert {(arm, str(seed)) for arm in ARM_OF for seed in SEEDS} == {(arm, seed) for arm, seed, *_ in keys}
    found = {key: float(row["value"]) for key, row in zip(keys, rows, strict=True)}
    last = evidence_of(study).arms[SIX].by_seed
    assert found[SIX, "43", "last", "mIoU"] == pytest.approx(last["mIoU"][1])
    assert found[SIX, "44", "last", MINORITY] == pytest.approx(last[MINORITY][2])


def test_scores_come_from_the_matrices_and_the_gap_to_best_is_told(tmp_path, without_figures):
    better = COUNTS + 400 * np.eye(6, dtype=int)
    better[0] = 0
    write_result(tmp_path, ONE, 1, [COUNTS], mIoU=0.987)
    write_result(tmp_path, ONE, 1, [better], which="best")
    text = summarise(tmp_path)
    mine, best = (score(counts, BIODIVERSITY)["mIoU"] for counts in (COUNTS, better))
    row = next(line for line in text.splitlines() if line.startswith(ONE)).split()
    assert f"{100 * mine:.1f}" in row and f"{100 * (best - mine):+.1f}" in row and "98.7" not in text


def test_under_three_seeds_or_ten_blocks_it_says_what_is_missing(tmp_path):
    write_study(tmp_path, {ONE: 0.0, TWO: 0.5}, [42, 43], 6)
    text = summarise(tmp_path)
    assert "2 of 3 seeds" in text and "6 of 10 spatial blocks" in text and "--seeds" in text
    assert "±" not in text and "[" not in text.replace("[ ]", "")
    assert "in 2 seeds, without an interval" in text
    assert [line.split()[1:3] for line in text.splitlines() if line.startswith(SIX)] == [["not", "run"]]
    assert "Planned and not run: " in text and "Described" not in text
    assert (tmp_path / VAL / "ablation.png").exists()


def left_out(root):
    return read_results(root / VAL, "evaluate again")[1]


def test_a_run_with_more_steps_is_refused(study, capsys):
    write_result(study, FOUR, 43, COUNTS[None].repeat(12, 0), settings=SETTINGS | {"iterations": 2 * STEPS})
    (reason,) = left_out(study)
    assert reason == f"{FOUR} seed 43 was trained with iterations {2 * STEPS} (most: {STEPS})"
    text = summarise(study)
    assert f"warning: left out: {reason}" in text and reason in capsys.readouterr().err
    assert evidence_of(study).finding(FOUR, THREE).seeds == [42, 44]


def test_a_run_whose_ancestor_was_trained_for_longer_is_refused(study):
    write_result(study, FIVE_B, 42, COUNTS[None].repeat(12, 0), steps=5 * STEPS)
    (reason,) = left_out(study)
    assert reason == f"{FIVE_B} seed 42 has seen 100 steps with those of its ancestors, where 40 were expected"
    assert evidence_of(study).finding(FIVE_B, "control_5b_from_stage1").seeds == [43, 44]
    assert evidence_of(study).arms[FIVE_B].best.keys() == {43, 44}


@pytest.mark.parametrize("setting", ["batch_size", "crop_size", "arch", "lr"])
def test_a_run_with_another_setting_is_refused(study, setting):
    write_result(study, TWO, 42, COUNTS[None].repeat(12, 0), settings=SETTINGS | {setting: "another"})
    (reason,) = left_out(study)
    assert reason.startswith(f"{TWO} seed 42 was trained with {setting} another (most: ")


def test_a_run_on_another_split_is_refused(study):
    folder = write_result(study, TWO, 42, COUNTS[None].repeat(12, 0), split_digest="other tiles")
    (reason,) = left_out(study)
    assert reason.startswith(f"{folder} was scored on other val tiles than most") and "evaluate again" in reason
    assert evidence_of(study).arms[TWO].seeds == [43, 44]


def test_a_run_with_the_classes_in_another_order_is_refused(study):
    turned = Taxonomy(
        (BIODIVERSITY.classes[0], *BIODIVERSITY.classes[:0:-1]), BIODIVERSITY.colors, BIODIVERSITY.from_openearthmap
    )
    folder = write_result(study, SIX, 44, COUNTS[None].repeat(12, 0), taxonomy=turned)
    (reason,) = left_out(study)
    assert reason.startswith(f"{folder} was scored on other classes, or classes in another order")
    assert evidence_of(study).finding(SIX, FIVE_B).seeds == [42, 43]


def test_a_difference_that_would_mix_changes_is_refused(study):
    rows = COUNTS[None].repeat(12, 0)
    write_result(study, THREE, 42, rows, recipe=recipe_of(THREE) | {"cropper": "another"})
    evidence = evidence_of(study)
    assert evidence.finding(THREE, TWO).seeds == [43, 44] and evidence.finding(THREE, ONE).seeds == SEEDS
    expected = f"{THREE} seed 42 differs from {TWO} in sampler, cropper, expected sampler alone"
    assert f"not compared: {expected}" in evidence.cautions
    for seed in SEEDS:
        write_result(study, SIX, seed, rows, recipe=recipe_of(FIVE_B))
    verdict = evidence_of(study).finding(SIX, FIVE_B).verdict()
    assert verdict.startswith("stage 6 and stage 5B are not compared") and "in nothing, expected loss alone" in verdict
    assert "not comparable, see the warnings" in summarise(study)


def test_damaged_and_foreign_results_are_left_out_by_name(study, capsys):
    (study / VAL / TWO / "seed42" / "tile_confusions.npz").write_bytes(b"not a matrix")
    (study / VAL / THREE / "seed42").rename(study / VAL / THREE / "seed7")
    write_result(study, FOUR, 42, COUNTS[None].repeat(12, 0), split="test")
    reasons = left_out(study)
    assert [name for name in (TWO, THREE, FOUR) if any(name in reason for reason in reasons)] == [TWO, THREE, FOUR]
    assert any("cannot be read" in reason for reason in reasons)
    assert any(f"is of {THREE} seed 42 last.pt" in reason for reason in reasons)
    assert any("arms are compared on val alone" in reason for reason in reasons)
    summarise(study)
    assert all(f"warning: left out: {reason}" in capsys.readouterr().err for reason in reasons[:1])


def test_nothing_to_summarise_says_what_to_run(tmp_path):
    with pytest.raises(UserError, match=r"holds no results.*\n.*evaluation.compute_metrics"):
        aggregate_metrics.main(["--root", str(tmp_path)])


def test_what_a_reader_must_know_is_a_warning(tmp_path, without_figures):
    counts = World().draw(np.random.default_rng(0), [0.0], 1, 12)[0, 0]
    counts[3:, 5] = 0
    counts[:, 2] = 0
    write_result(tmp_path, ONE, 1, counts, minority_classes=["Settlement"])
    write_result(tmp_path, TWO, 1, counts)
    facts = {"tiles": 12, "blocks": 12, "strategy": "random", "block_size": None, "blocks_shared_with_train": 3}
    write_result(tmp_path, THREE, 2, counts, split_facts=facts)
    evidence = evidence_of(tmp_path)
    name, gone = BIODIVERSITY.classes[5], BIODIVERSITY.classes[2]
    assert evidence.absent == [gone] and gone not in evidence.classes and evidence.minority == []
    assert any(caution.startswith(f"{name}: in fewer than 5 blocks") for caution in evidence.cautions)
    assert any("different minority classes" in caution for caution in evidence.cautions)
    text = summarise(tmp_path)
    assert f"Not in val, so neither scored nor averaged: {gone}." in text and "different seeds" in text


def test_verdicts_are_words_about_intervals(study):
    evidence = evidence_of(study)
    for finding in evidence.findings:
        told, verdict = finding.told_apart, finding.verdict()
        assert ("cannot be told" in verdict) != told and "95 % interval" in verdict
        assert told == (finding.p_holm < 0.05 if finding.comparison.planned else finding.mIoU.excludes_zero)
    assert {finding.told_apart for finding in evidence.findings} == {True, False}
    better = next(f for f in evidence.findings if f.told_apart and f.mIoU.value > 0)
    assert f" gains {100 * better.mIoU.value:.1f} points of mIoU over " in better.verdict()


def test_the_summary_needs_no_torch():
    code = "import sys, evaluation.aggregate_metrics; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_stages_and_comparisons_are_those_of_the_design():
    assert [stage.trainings for stage in STAGES] == [1, 1, 1, 1, 1, 2, 2]
    assert all(control.trainings == 2 and control.question for control in CONTROLS)
    assert {c.unequal for c in PLANNED} == {None}
    to_first = {c.arm.name for c in (*PLANNED, *DESCRIPTIVE) if c.other.name == ONE}
    assert to_first == set(STAGE_NAMES[1:])
