"""Intervals, fair comparisons, and the summary, on generated results."""

import csv
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from common.errors import UserError
from common.files import read_json, write_json
from common.metrics import score
from common.stages import ARM_OF, CONTROLS, RIVALS, STAGE_NAMES
from common.taxonomy import BIODIVERSITY, Taxonomy
from evaluation import aggregate_metrics
from evaluation.scoring.results import RUN_RECORD
from evaluation.study.comparability import read_results
from evaluation.study.comparisons import AGAINST_RIVALS, COMPONENTS, DESCRIPTIVE, MINORITY, PRIMARY
from evaluation.study.evidence import gather
from evaluation.study.intervals import holm
from evaluation.study.wording import finding_in_words, verdict
from tests.helpers import made
from tests.synthetic_results import SETTINGS, STEPS, VAL, WORLD, recipe_of, write_result, write_study

SEEDS = [42, 43, 44]
ONE, TWO, THREE, FOUR, FIVE_A, FIVE_B, SIX = STAGE_NAMES[:7]
GAINS = {ONE: 0.0, TWO: 0.6, THREE: 0.6, FOUR: 0.8, FIVE_A: 0.0, FIVE_B: 0.9, SIX: 1.4}
GAINS |= {control.name: 0.7 for control in CONTROLS}
GAINS |= {rival.name: 0.8 for rival in RIVALS}
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
    monkeypatch.setattr(aggregate_metrics, "FIGURES", dict.fromkeys(FIGURES, lambda _: None))


def evidence_of(root):
    return gather(*read_results([made(root / VAL)]))


def summarise(root, suffix="txt"):
    aggregate_metrics.main(["--root", str(root)])
    return (root / VAL / f"metrics_summary.{suffix}").read_text()


def test_differences_are_narrower_than_scores_where_blocks_have_much_in_common(tmp_path):
    write_study(
        tmp_path, {ONE: 0.0, TWO: 0.3}, SEEDS, 12, world=replace(WORLD, of_training=0.02, of_training_on_class=0.02)
    )
    evidence = evidence_of(tmp_path)
    alone = min(evidence.arms[arm].estimate("mIoU").half_width for arm in (ONE, TWO))
    assert evidence.finding(TWO, ONE).mIoU.half_width < alone


def test_each_family_is_corrected_by_itself_and_nothing_else_is_tested(tmp_path):
    write_study(tmp_path, GAINS, range(42, 47), 12)
    evidence = evidence_of(tmp_path)
    assert list(evidence.families) == list(evidence.run_families) == [PRIMARY, COMPONENTS, AGAINST_RIVALS]
    primary, components, rivals = evidence.families.values()
    pairs = [[(f.comparison.arm.name, f.comparison.other.name) for f in of] for of in (primary, components, rivals)]
    assert pairs[0] == [(FOUR, ONE), (SIX, "control_5b_from_stage1")]
    assert pairs[1] == [
        (TWO, ONE),
        (THREE, TWO),
        (FOUR, THREE),
        (FIVE_B, "control_5b_from_stage1"),
        (SIX, FIVE_B),
        (SIX, "control_kd_uniform"),
    ]
    assert pairs[2] == [(FOUR, rival.name) for rival in RIVALS]
    both = [(finding, metric) for finding in primary for metric in ("mIoU", MINORITY)]
    raw = holm([finding.estimates[metric].p for finding, metric in both])
    assert [finding.corrected[metric] for finding, metric in both] == raw and None not in raw
    assert [f.corrected for f in components] == [{"mIoU": p} for p in holm([f.mIoU.p for f in components])]
    assert all(f.estimates[MINORITY].p is None for f in components)
    assert [f.comparison for f in evidence.descriptive] == list(DESCRIPTIVE)
    assert all(f.corrected == {} and f.mIoU.p is None and f.family is None for f in evidence.descriptive)


def test_comparisons_that_were_not_made_still_count_in_the_correction(tmp_path):
    write_study(tmp_path, {ONE: 0.0, FOUR: 0.3, TWO: 0.1}, range(42, 47), 12)
    evidence = evidence_of(tmp_path)
    primary, components, _ = evidence.families.values()
    assert list(evidence.run_families) == [PRIMARY, COMPONENTS]  # it is not about rivals
    p = sorted((primary[0].estimates[metric].p, metric) for metric in ("mIoU", MINORITY))
    first, second = (primary[0].corrected[metric] for _, metric in p)
    assert first == pytest.approx(min(1, 4 * p[0][0])) and second == pytest.approx(max(first, min(1, 3 * p[1][0])))
    assert components[0].corrected["mIoU"] == pytest.approx(min(1, 6 * components[0].mIoU.p))
    assert primary[1].missing and primary[1].corrected == {} and not primary[1].is_shown()


def test_the_summary_ranks_stages_and_answers_the_questions_of_controls(study):
    text = summarise(study)
    ranking = text.split("== ")[1].split("\n\n")[1].splitlines()
    scores = evidence_of(study).arms
    by_mean = sorted(STAGE_NAMES, key=lambda name: -scores[name].value("mIoU"))
    assert [line.split()[0] for line in ranking[1:]] == by_mean
    assert not any(control.name in line for line in ranking for control in (*CONTROLS, *RIVALS))
    joined = " ".join(text.split())
    for control in CONTROLS:
        answer = joined.split(control.question)[1].split("- Is it")[0]
        assert f'the control "{control.title}"' in answer and "points of mIoU" in answer
        planned = control.name != "control_kd_cycled"
        assert sum(words in answer for words in control.answers) == (not planned)
        assert ("That is no answer yet." in answer) == planned  # three seeds are a screening
    first = scores[ONE].estimate("mIoU")
    assert f"{100 * first.value:.1f} ± {100 * first.half_width:.1f}" in text
    five_to_four = next(line for line in text.splitlines() if line.startswith(FIVE_B) and FOUR in line)
    assert "twice the steps" in five_to_four
    assert sum("twice the steps" in line for line in text.splitlines() if line.startswith("stage")) == 3
    assert all(len(line) <= 120 for line in text.splitlines())


def test_every_output_is_written(tmp_path):
    write_study(tmp_path, GAINS, SEEDS, 12)
    study, text = tmp_path, summarise(tmp_path, "md")
    assert text.count("| ---") >= 5 and all(name in text for name in ARM_OF) and text.count("### ") >= 6
    for name in FIGURES:
        with Image.open(study / VAL / name) as picture:
            assert min(picture.size) > 400
    with open(study / VAL / "metrics_summary.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["fold"] for row in rows} == {""}
    keys = [(row["stage"], row["seed"], row["checkpoint"], row["metric"]) for row in rows]
    assert len(set(keys)) == len(keys)
    assert {(arm, str(seed)) for arm in ARM_OF for seed in SEEDS} == {(arm, seed) for arm, seed, *_ in keys}
    found = {key: float(row["value"]) for key, row in zip(keys, rows, strict=True)}
    last = evidence_of(study).arms[SIX]
    assert found[SIX, "43", "last", "mIoU"] == pytest.approx(last.by_training("mIoU")[1])
    assert found[SIX, "44", "last", MINORITY] == pytest.approx(last.by_training(MINORITY)[2])


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
    assert "2 of 3 seeds" in text and "6 of 10 spatial blocks" in text and "reproduce.py --folds 5 makes enough" in text
    assert "±" not in text and "[" not in text and "above stage 1 in 2 seeds, without an interval" in text
    assert [line.split()[1:3] for line in text.splitlines() if line.startswith(SIX)] == [["not", "run"]]
    assert "Planned and not made: " in text and "Described" not in text
    assert (tmp_path / VAL / "ablation.png").exists()


def left_out(root):
    return [out.reason for out in read_results([made(root / VAL)])[1]]


ROWS = COUNTS[None].repeat(12, 0)


def test_pairs_without_enough_seeds_in_common_say_so(tmp_path, without_figures):
    write_study(tmp_path, {ONE: 0.0}, [1, 2, 3], 12)
    write_study(tmp_path, {TWO: 0.4}, [2, 3, 4], 12)
    text = " ".join(summarise(tmp_path).split())
    assert "No interval and no p-value for some stages or pairs: there are 2 of 3 seeds in common" in text
    assert "That is no answer" not in text and evidence_of(tmp_path).finding(TWO, ONE).seeds == [2, 3]


def test_a_run_on_other_bands_is_refused(study):
    folder = write_result(study, TWO, 42, ROWS)
    write_json(folder / RUN_RECORD, read_json(made(folder / RUN_RECORD)) | {"images": {"bands": [4, 2, 3]}})
    assert f"{TWO} seed 42 was trained on the bands 4 2 3 (most: 1 2 3)" in left_out(study)


def test_a_run_with_more_steps_is_refused(study, capsys):
    write_result(study, FOUR, 43, ROWS, settings=SETTINGS | {"iterations": 2 * STEPS})
    (reason,) = left_out(study)
    assert reason == f"{FOUR} seed 43 was trained with iterations {2 * STEPS} (most: {STEPS})"
    text = summarise(study)
    assert f"- left out: {reason}" in text and f"warning: left out: {reason}" in capsys.readouterr().err
    assert evidence_of(study).finding(FOUR, THREE).seeds == [42, 44]


@pytest.mark.parametrize("more", [{"steps": 5 * STEPS}, {"crops": 1000 * STEPS}])
def test_a_run_whose_ancestor_was_trained_for_longer_is_refused(study, more):
    write_result(study, FIVE_B, 42, ROWS, **more)
    (reason,) = left_out(study)
    steps, crops = more.get("steps", 40), more.get("crops", 800 if "steps" in more else 320)
    seen = f"{FIVE_B} seed 42 has seen {steps:,} steps and {crops:,} crops with those of its ancestors"
    assert reason == f"{seen}, but 40 and 320 were expected"
    assert evidence_of(study).finding(FIVE_B, "control_5b_from_stage1").seeds == [43, 44]
    assert evidence_of(study).arms[FIVE_B].best.keys() == {43, 44}


def test_what_starts_from_a_refused_or_another_run_is_refused(study):
    write_result(study, FIVE_A, 42, ROWS, settings=SETTINGS | {"lr": 1})
    write_result(study, FIVE_A, 43, ROWS, checkpoint_digest="trained again")
    reasons = left_out(study)
    heirs = [FIVE_B, SIX, "control_kd_cycled", "control_kd_uniform"]
    assert {f"{arm} seed 42 starts from {FIVE_A} seed 42, which is left out" for arm in heirs} < set(reasons)
    assert {f"{arm} seed 43 starts from another {FIVE_A} than the one that is scored here" for arm in heirs} < set(
        reasons
    )
    assert len(reasons) == 1 + 2 * len(heirs) and evidence_of(study).arms[SIX].seeds == [44]


@pytest.mark.parametrize("setting", ["batch_size", "crop_size", "arch", "lr"])
def test_a_run_with_another_setting_is_refused(study, setting):
    write_result(study, TWO, 42, ROWS, settings=SETTINGS | {setting: "another"})
    (reason,) = left_out(study)
    assert reason.startswith(f"{TWO} seed 42 was trained with {setting} another (most: ")


def test_an_arm_that_is_refused_altogether_is_not_called_not_run(study):
    for seed in SEEDS:
        write_result(study, FOUR, seed, ROWS, settings=SETTINGS | {"batch_size": 64})
    text = summarise(study)
    row = next(line for line in text.splitlines() if line.startswith(FOUR))
    assert row.split()[1:3] == ["left", "out"] and f"{FOUR} left out" in " ".join(text.split())


def test_a_run_on_another_split_is_refused(study):
    folder = write_result(study, TWO, 42, ROWS, split_digest="other tiles")
    (reason,) = left_out(study)
    assert (
        reason.startswith(f"{folder} was scored on other val tiles than most")
        and ". Write it again: python -m some.step --overwrite" in reason
    )
    assert evidence_of(study).arms[TWO].seeds == [43, 44]


def test_a_run_on_other_tiles_under_the_same_digest_is_refused(study):
    folder = write_result(study, TWO, 42, ROWS[:11])
    (reason,) = left_out(study)
    assert reason.startswith(f"{folder} was scored on other val tiles than most")


def test_a_run_with_the_classes_in_another_order_is_refused(study):
    turned = Taxonomy(
        (BIODIVERSITY.classes[0], *BIODIVERSITY.classes[:0:-1]), BIODIVERSITY.colors, BIODIVERSITY.from_openearthmap
    )
    folder = write_result(study, SIX, 44, ROWS, taxonomy=turned)
    (reason,) = left_out(study)
    assert reason.startswith(f"{folder} was scored on other classes, or classes in another order")
    assert evidence_of(study).finding(SIX, FIVE_B).seeds == [42, 43]


def test_a_difference_that_would_mix_changes_is_refused(study):
    for seed in SEEDS:
        write_result(study, THREE, seed, ROWS, recipe=recipe_of(THREE, seed) | {"cropper": {"kind": "another"}})
    evidence = evidence_of(study)
    assert evidence.finding(THREE, TWO).seeds == [] and evidence.finding(THREE, ONE).seeds == SEEDS
    expected = f"{THREE} seed 42 differs from {TWO} also in cropper.kind, expected sampler alone"
    assert f"not compared: {expected}" in evidence.cautions
    for seed in SEEDS:
        write_result(study, SIX, seed, ROWS, recipe=recipe_of(FIVE_B, seed))
    verdict = finding_in_words(evidence_of(study).finding(SIX, FIVE_B))
    assert (
        verdict.startswith("stage 6 and stage 5B are not compared") and "in nothing, expected loss.kd alone" in verdict
    )
    assert "not comparable, see the warnings" in summarise(study)


@pytest.mark.parametrize("fact", ["alpha", "teacher_digest"])
def test_a_control_with_another_alpha_or_teacher_is_refused(study, fact):
    for seed in SEEDS:
        recipe = recipe_of("control_kd_uniform", seed)
        recipe["loss"]["kd"][fact] = "another"
        write_result(study, "control_kd_uniform", seed, ROWS, recipe=recipe)
    finding = evidence_of(study).finding(SIX, "control_kd_uniform")
    assert not finding.estimates and f"also in loss.kd.{fact}, expected loss.kd.remap alone" in finding.refused[0]


def test_a_seed_with_another_recipe_than_its_arm_is_refused(study):
    recipe = recipe_of(FOUR, 44)
    recipe["cropper"]["p"] = 0.9
    write_result(study, FOUR, 44, ROWS, recipe=recipe)
    assert left_out(study) == [f"{FOUR} seed 44 was trained with another cropper.p than most runs of its stage"]


def test_arms_trained_on_different_devices_are_named(study):
    write_result(study, FOUR, 44, ROWS, device="CPU, 2 threads")
    assert "seed 44: stages were trained on CPU, 1 threads and CPU, 2 threads, which differ in rounding" in (
        evidence_of(study).cautions
    )
    assert sum("differ in rounding" in caution for caution in evidence_of(study).cautions) == 1


def test_damaged_and_foreign_results_are_left_out_by_name(study, capsys):
    (study / VAL / TWO / "seed42" / "tile_confusions.npz").write_bytes(b"not a matrix")
    (study / VAL / THREE / "seed42").rename(study / VAL / THREE / "seed7")
    write_result(study, FOUR, 42, COUNTS[None].repeat(12, 0), split="test")
    reasons = left_out(study)
    assert [name for name in (TWO, THREE, FOUR) if any(name in reason for reason in reasons)] == [TWO, THREE, FOUR]
    assert any("cannot be read" in reason for reason in reasons)
    assert any(f"is of {THREE} seed 42 last.pt" in reason for reason in reasons)
    assert any("stages are compared on val alone" in reason for reason in reasons)
    summarise(study)
    printed = capsys.readouterr().err
    assert all(f"warning: left out: {reason.split(' Write it again')[0]}" in printed for reason in reasons)


def test_nothing_to_summarise_says_what_to_run(tmp_path):
    with pytest.raises(UserError, match=r"holds no results.*evaluation.compute_metrics"):
        aggregate_metrics.main(["--root", str(tmp_path)])


def test_what_a_reader_must_know_is_a_warning(tmp_path, without_figures):
    counts = WORLD.draw(np.random.default_rng(0), [0.0], 1, 12)[0, 0]
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
    text = " ".join(summarise(tmp_path).split())
    assert f"Not in val, so neither scored nor averaged: {gone}." in text and "different seeds" in text
    assert "in 12 spatial" in text and text.count("3 of 12 spatial blocks of val also have tiles in train") == 1
    write_result(tmp_path, THREE, 2, counts)
    assert not any("also have tiles" in caution for caution in evidence_of(tmp_path).cautions)


def test_verdicts_are_words_about_intervals(tmp_path):
    seeds = range(42, 47)
    write_study(tmp_path, GAINS, seeds, 12, world=replace(WORLD, of_training=0.05, of_training_on_class=0.05))
    evidence = evidence_of(tmp_path)
    for finding in evidence.planned:
        for metric in finding.family.metrics:
            shown, said = finding.is_shown(metric), finding_in_words(finding, metric)
            assert (": shown (" in said) == shown and "95 % interval" in said and f"points of {metric}" in said
            assert shown == (finding.corrected[metric] < 0.05) == (verdict(finding, metric) == "shown")
    assert {finding.is_shown() for finding in evidence.planned} == {True, False}
    for finding in evidence.descriptive:
        assert "described, not tested" in finding_in_words(finding) and not finding.is_shown()
    better = next(f for f in evidence.findings if f.is_shown() and f.mIoU.value > 0)
    assert f" gains {100 * better.mIoU.value:.1f} points of mIoU over " in finding_in_words(better)


def test_three_seeds_are_a_screening_in_which_nothing_is_tested(study):
    evidence = evidence_of(study)
    for finding in evidence.planned:
        for metric in finding.family.metrics:
            found = finding.estimates[metric]
            assert found.half_width is not None and found.p is None and finding.corrected[metric] is None
            assert "a screening of 3 seeds, tested from 5 on" in finding_in_words(finding, metric)
            assert finding.is_screening and not finding.is_shown(metric) and verdict(finding, metric) == "screening"
    assert "A screening, without p-values: 3 seeds; a test needs 5" in " ".join(summarise(study).split())


def test_the_summary_needs_no_torch():
    code = "import sys, evaluation.aggregate_metrics; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
