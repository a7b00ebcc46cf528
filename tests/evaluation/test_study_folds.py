"""Studies by folds as they lie on disk: what is pooled, paired, left out and said of them."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from common.errors import UserError
from common.folds import fold_root
from common.metrics import mean_iou_of, score
from common.stages import STAGE_NAMES
from common.taxonomy import BIODIVERSITY
from evaluation.study import tables
from evaluation.study.ablation_figures import FIGURES
from evaluation.study.comparisons import COMPONENTS, MINORITY, PRIMARY
from evaluation.study.evidence import gather_from
from evaluation.study.intervals import compare_family, holm
from evaluation.study.where import fold_of, folds_with_results, not_compared, results_of
from evaluation.study.wording import about_the_split, finding_in_words, how_to_read, verdict, why_no_intervals
from tests.helpers import made
from tests.synthetic_results import SETTINGS, VAL, WORLD, recipe_of, write_fold, write_folds, write_result

ONE, TWO, THREE, FOUR, FIVE_A, FIVE_B, SIX = STAGE_NAMES[:7]
SMALL = replace(WORLD, of_training=0.03, of_training_on_class=0.03)
EQUAL = np.array([[0] * 6, *(np.full((5, 6), 10) + 90 * np.eye(6, dtype=int)[1:])])
COUNTS = np.repeat(EQUAL[None], 20, axis=0) + np.arange(20)[:, None, None] * np.diag([0, 1, 1, 1, 1, 1])


def evidence_of(root):
    return gather_from(made(root / VAL, f"python -m evaluation.compute_metrics --split val --root {root}"), root)


def results_folder(root, number, arm=ONE):
    return fold_root(root, number) / VAL / arm / f"seed{41 + number}"


def write_arms(root, *arms, folds=5, counts=COUNTS, trainings=None, **more):
    """An arm after the other, each a little better than the one before."""
    for place, arm in enumerate(arms):
        better = counts * (1 + np.eye(6, dtype=int) * place)
        for number in range(1, (trainings or folds) + 1):
            write_fold(root, arm, number, folds, better, **more)


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


# What is pooled


def test_every_block_is_scored_once_by_the_training_that_left_it_out(tmp_path):
    write_folds(tmp_path, {ONE: 0.0, TWO: 0.4}, 5, 20, tiles_a_block=2)
    evidence = evidence_of(tmp_path)
    assert (evidence.folds, evidence.unit, evidence.blocks) == (5, "fold", 20)
    assert evidence.seeds == [42, 43, 44, 45, 46] and evidence.cautions == []
    scores = evidence.arms[TWO]
    pooled = sum(result.tiles.confusions.sum(axis=0) for result in scores.last.values())
    wanted = score(pooled, BIODIVERSITY)
    assert scores.value("mIoU") == pytest.approx(wanted["mIoU"]) and scores.value("OA") == pytest.approx(wanted["OA"])
    assert scores.value(MINORITY) == pytest.approx(mean_iou_of(wanted, evidence.minority))
    each = [result.scores["mIoU"] for result in scores.last.values()]
    assert scores.by_training("mIoU") == pytest.approx(each) and scores.value("mIoU") != pytest.approx(np.mean(each))
    assert scores.estimate("mIoU").cross_check > 0
    ground, _, seeds = about_the_split(evidence)[0].partition(". ")
    assert ground == "All but test: 40 tiles in 20 spatial blocks, in 5 folds, split by blocks"
    assert seeds == "Seeds: 42, 43, 44, 45, 46, one per fold"
    assert not any("One split" in line for line in about_the_split(evidence))
    assert any("Nadeau and Bengio" in line for line in how_to_read(evidence)) and why_no_intervals(evidence) is None
    header, rows = tables.ranking(evidence)
    assert header[2] == "folds" and rows[0][:3] == [TWO, 1, 5]
    rows = [row for row in tables.tidy_rows(evidence) if row[:1] == [TWO] and row[4] == "mIoU"]
    assert [row[:4] for row in rows] == [[TWO, k, 41 + k, "last"] for k in range(1, 6)]


def test_in_two_repeats_scores_are_means_of_two_pooled_ones(tmp_path):
    write_folds(tmp_path, {ONE: 0.0, TWO: 0.4}, 5, 20, repeats=2)
    evidence = evidence_of(tmp_path)
    assert evidence.folds == 5 and len(evidence.arms[ONE].seeds) == 10 and evidence.cautions == []
    last = list(evidence.arms[ONE].last.values())
    of_repeats = [sum(r.tiles.confusions.sum(axis=0) for r in last[5 * n : 5 * n + 5]) for n in (0, 1)]
    wanted = np.mean([score(confusion, BIODIVERSITY)["mIoU"] for confusion in of_repeats])
    assert evidence.arms[ONE].value("mIoU") == pytest.approx(wanted)
    assert about_the_split(evidence)[0].startswith(
        "All but test: 20 tiles in 20 spatial blocks, dealt 2 times into 5 folds"
    )
    assert evidence.finding(TWO, ONE).mIoU.trainings == 10


def test_a_class_of_one_fold_counts_in_all_that_is_pooled_and_drawn(tmp_path):
    counts = COUNTS.copy()
    counts[np.arange(20) % 5 != 2, 5] = 0  # Seminatural is in fold 3 alone
    write_arms(tmp_path, ONE, TWO, counts=counts)
    evidence = evidence_of(tmp_path)
    assert evidence.classes == list(BIODIVERSITY.foreground)
    pooled = score(sum(r.tiles.confusions.sum(axis=0) for r in evidence.arms[ONE].last.values()), BIODIVERSITY)
    assert evidence.arms[ONE].value("IoU Seminatural") == pytest.approx(pooled["classes"]["Seminatural"]["IoU"])
    assert evidence.arms[ONE].value("mIoU") == pytest.approx(pooled["mIoU"])
    assert np.isnan(evidence.arms[ONE].by_training("IoU Seminatural")).tolist() == [True, True, False, True, True]
    assert evidence.arms[ONE].estimate("IoU Seminatural").half_width is None  # in 4 blocks
    assert any(caution.startswith("Seminatural: in fewer than 5 blocks of val") for caution in evidence.cautions)
    for draw in FIGURES.values():
        assert draw(evidence) is not None


# What is paired


def test_arms_are_paired_over_the_folds_that_both_have(tmp_path):
    write_arms(tmp_path, ONE, TWO, FOUR)
    shutil.rmtree(results_folder(tmp_path, 2, TWO))
    evidence = evidence_of(tmp_path)
    finding = evidence.finding(TWO, ONE)
    assert finding.seeds == [42, 44, 45, 46] and finding.is_screening and finding.corrected == {"mIoU": None}
    sums = [
        sum(r.tiles.confusions.sum(axis=0) for s, r in evidence.arms[arm].last.items() if s != 43) for arm in (TWO, ONE)
    ]
    mine, theirs = (score(confusion, BIODIVERSITY)["mIoU"] for confusion in sums)
    assert finding.mIoU.value == pytest.approx(mine - theirs) and finding.mIoU.blocks == 16
    assert evidence.finding(FOUR, ONE).seeds == [42, 43, 44, 45, 46]
    assert evidence.cautions == [f"{TWO}: without fold 2 of 5 folds, so scored on less area"]
    assert any("The stages have different folds" in line for line in how_to_read(evidence))
    assert "a screening of 4 folds, tested from 5 on" in finding_in_words(finding, unit="fold")
    assert why_no_intervals(evidence).startswith("A screening, without p-values: 4 folds; a test needs 5")


def test_a_class_that_an_arm_lacks_with_its_fold_is_told_and_has_no_score_there(tmp_path):
    counts = COUNTS.copy()
    counts[np.arange(20) % 5 != 2, 5] = 0
    counts[np.arange(20) % 5 != 2, 4] = 0  # both minority classes are in fold 3 alone
    write_arms(tmp_path, ONE, TWO, counts=counts)
    shutil.rmtree(results_folder(tmp_path, 3, TWO))
    evidence = evidence_of(tmp_path)
    lacking = f"{TWO}: without fold 3 of 5 folds, so scored on less area and without Settlement and Seminatural, in no"
    assert any(caution.startswith(lacking) for caution in evidence.cautions)
    rest = score(sum(r.tiles.confusions.sum(axis=0) for r in evidence.arms[TWO].last.values()), BIODIVERSITY)
    assert evidence.arms[TWO].value("mIoU") == pytest.approx(rest["mIoU"])  # of the three classes that are there
    assert MINORITY not in evidence.finding(TWO, ONE).estimates and evidence.finding(TWO, ONE).mIoU.half_width
    rows = {row[0]: row[1:] for row in tables.class_scores(evidence)[1]}
    assert rows["Seminatural *"][1] == "-" and rows["Seminatural *"][0] != "-"
    assert {row[0]: row[6] for row in tables.ranking(evidence)[1][:2]}[TWO] == "-"
    for draw in FIGURES.values():
        assert draw(evidence) is not None


def test_an_incomplete_second_repeat_is_left_out_and_a_fold_that_no_arm_has_is_told(tmp_path):
    write_arms(tmp_path, ONE, trainings=7)
    write_arms(tmp_path, TWO, trainings=5, counts=COUNTS + np.diag([0, 9, 9, 9, 9, 9]))
    evidence = evidence_of(tmp_path)
    assert evidence.cautions == ["left out: fold 6, 7: counts once all folds of its dealing are there"]
    assert about_the_split(evidence)[0].startswith("All but test: 20 tiles in 20 spatial blocks, in 5 folds")
    for arm, seed in ((ONE, 45), (TWO, 45)):
        shutil.rmtree(fold_root(tmp_path, seed - 41) / VAL / arm)
    evidence = evidence_of(tmp_path)  # no dealing is whole, so that all that is there counts
    assert evidence.cautions == [
        f"{ONE}: without fold 4, 8, 9, 10 of 10 folds, so scored on less area",
        f"{TWO}: without fold 4, 6, 7, 8, 9, 10 of 10 folds, so scored on less area",
    ]
    ground = "16 tiles in 16 spatial blocks, dealt 2 times into 5 folds of which others are missing"
    assert about_the_split(evidence)[0].startswith(f"Fold 1, 2, 3, 5, 6, 7: {ground}")


# What is tested


def test_in_five_folds_families_are_tested_and_comparisons_that_were_not_made_count(tmp_path):
    write_folds(tmp_path, {ONE: 0.0, FOUR: 0.5, TWO: 0.02, THREE: 0.0}, 5, 40, world=SMALL)
    evidence = evidence_of(tmp_path)
    primary, components = evidence.families[PRIMARY], evidence.families[COMPONENTS]
    raw = [primary[0].estimates[metric].p for metric in ("mIoU", MINORITY)]
    assert list(primary[0].corrected.values()) == holm([*raw, None, None])[:2] and None not in raw
    pair = evidence.arms[FOUR].against(evidence.arms[ONE], "mIoU", evidence.seeds)
    assert primary[0].mIoU == compare_family([pair, None], 4)[0] != compare_family([pair, None], 2)[0]
    assert primary[1].missing and [f.missing is None for f in components] == [True] * 3 + [False] * 3
    raw = [f.mIoU.p for f in components[:3]]
    assert [f.corrected["mIoU"] for f in components[:3]] == holm([*raw, None, None, None])[:3]
    assert verdict(primary[0]) == "shown" and verdict(primary[0], MINORITY) == "shown"
    said = finding_in_words(next(f for f in components if verdict(f) == "not shown"), unit="fold")
    assert "this study would have shown " in said and "would show the difference seen" in said and "fold" in said
    header, rows = tables.tested(evidence, primary)
    assert header[3:6] == ["folds", "points", "N-B"] and len(rows) == 2
    assert rows[0][5] == f"{100 * primary[0].mIoU.cross_check:.1f}"


def test_arms_that_differ_by_next_to_nothing_are_shown_to_be_equivalent(tmp_path):
    rng = np.random.default_rng(0)
    for arm in (ONE, TWO):
        moved = COUNTS + rng.integers(0, 3, COUNTS.shape) * (np.arange(6) > 0)[:, None]
        write_arms(tmp_path, arm, counts=moved)
    finding = evidence_of(tmp_path).finding(TWO, ONE)
    assert verdict(finding) == "equivalent within ±1 point" and finding.mIoU.equivalent
    assert ": equivalent within ±1 point (95 % interval" in finding_in_words(finding)


@pytest.mark.parametrize(("folds", "screening"), [(2, False), (3, True), (4, True)])
def test_under_five_folds_nothing_is_tested(tmp_path, folds, screening):
    write_arms(tmp_path, ONE, TWO, FOUR, folds=folds)
    evidence = evidence_of(tmp_path)
    for finding in (evidence.finding(TWO, ONE), evidence.finding(FOUR, ONE)):
        assert finding.is_screening and finding.mIoU.p is None and set(finding.corrected.values()) == {None}
        assert verdict(finding) == ("screening" if screening else "no interval")
    assert f"{folds}" in why_no_intervals(evidence) and "--repeats 2" in why_no_intervals(evidence)


# What is left out


def test_minority_classes_are_those_of_most_folds(tmp_path):
    for number, named in enumerate([["Cropland"], ["Cropland", "Settlement"], ["Settlement"], ["Cropland"], []], 1):
        write_fold(tmp_path, ONE, number, 5, COUNTS, minority_classes=named)
    evidence = evidence_of(tmp_path)
    assert evidence.minority == ["Cropland"]
    assert evidence.cautions[0] == (
        "Cropland and Settlement: a minority class in the train of some folds and not of others; the mean of minority "
        "classes runs over those of most folds, Cropland"
    )
    for number in (1, 4):
        edit(results_folder(tmp_path, number) / "metrics.json", minority_classes=[])
    evidence = evidence_of(tmp_path)
    assert evidence.minority == [] and "those of most folds, none" in evidence.cautions[0]


def reasons(root):
    return [out.reason for out in evidence_of(root).left_out]


def test_results_of_another_fold_than_their_folder_are_left_out(tmp_path):
    write_arms(tmp_path, ONE)
    shutil.rmtree(fold_root(tmp_path, 2))
    shutil.copytree(fold_root(tmp_path, 3), fold_root(tmp_path, 2))
    folder = fold_root(tmp_path, 2) / VAL / ONE / "seed44"
    (reason,) = reasons(tmp_path)
    assert reason.startswith(f"{folder} is of fold 3 of 5 (seed 42), not of fold 2. Write it again: python -m ")
    assert f"--root {fold_root(tmp_path, 2)} " in reason
    evidence = evidence_of(tmp_path)
    assert evidence.arms[ONE].seeds == [42, 44, 45, 46] and evidence.arms[ONE].last[44].fold["fold"] == 3


def test_results_without_a_fold_among_folds_are_left_out(tmp_path):
    write_arms(tmp_path, ONE)
    write_result(fold_root(tmp_path, 4), ONE, 45, COUNTS)
    (reason,) = reasons(tmp_path)
    assert "is of a split without folds, not of fold 4" in reason


def test_results_of_another_dealing_are_left_out(tmp_path):
    write_arms(tmp_path, ONE)
    for changes, told in (({"folds": 4}, "fold 5 of 4 (seed 42)"), ({"seed": 7}, "fold 5 of 5 (seed 7)")):
        fold = {"fold": 5, "folds": 5, "repeat": 1, "seed": 42} | changes
        write_fold(tmp_path, ONE, 5, 5, COUNTS, facts={"fold": fold})
        (reason,) = reasons(tmp_path)
        assert f"is of {told}, with classes" in reason and "but most are of fold 1 of 5 (seed 42)" in reason


def test_a_second_seed_in_a_fold_does_not_count_its_ground_twice(tmp_path):
    write_arms(tmp_path, ONE, TWO)
    metrics, recipe = json.loads((results_folder(tmp_path, 3) / "metrics.json").read_text()), recipe_of(ONE, 99)
    more = {"numbers": [2, 7, 12, 17], "facts": metrics["split_facts"], "split_digest": metrics["split_digest"]}
    write_result(fold_root(tmp_path, 3), ONE, 99, COUNTS[2::5], recipe=recipe, **more)
    assert reasons(tmp_path) == [f"{ONE} fold 3 seed 99 was trained with another seed than most runs of its fold (44)"]
    assert evidence_of(tmp_path).arms[ONE].trainings.counts.sum() == COUNTS[:, 1:].sum()


def test_folds_with_tiles_or_seeds_in_common_are_left_out(tmp_path):
    write_arms(tmp_path, ONE, TWO)
    for arm in (ONE, TWO):
        write_fold(tmp_path, arm, 4, 5, COUNTS, order=[*range(3), 2, *range(4, 20)])  # block 2 is of fold 3 as well
    found = reasons(tmp_path)
    assert len(found) == 2 and all(
        "fold 4 has the val tiles tile002_0 in common with fold 3 seed 44" in r for r in found
    )
    assert evidence_of(tmp_path).arms[TWO].seeds == [42, 43, 44, 46]
    for number in (6, 7):  # another repeat looks at the same ground
        write_fold(tmp_path, ONE, number, 5, COUNTS)
    assert len(reasons(tmp_path)) == 2
    shutil.rmtree(fold_root(tmp_path, 4))
    write_fold(tmp_path, ONE, 4, 5, COUNTS)
    folder = results_folder(tmp_path, 4)
    edit(folder / "metrics.json", seed=42)
    folder.rename(folder.with_name("seed42"))
    assert [r.partition(": ")[2] for r in reasons(tmp_path)] == ["fold 4 has seed 42 in common with fold 1 seed 42"]


def test_what_cannot_be_read_in_one_fold_is_left_out_there_alone(tmp_path):
    write_arms(tmp_path, ONE, TWO)
    (results_folder(tmp_path, 2, TWO) / "tile_confusions.npz").write_bytes(b"no counts")
    (results_folder(tmp_path, 5, ONE) / "metrics.json").write_text("{")
    evidence = evidence_of(tmp_path)
    assert [(out.arm, out.seed) for out in evidence.left_out] == [(TWO, 43), (ONE, 46)]
    assert evidence.arms[ONE].seeds == [42, 43, 44, 45] and evidence.arms[TWO].seeds == [42, 44, 45, 46]
    assert sum("so scored on less area" in caution for caution in evidence.cautions) == 2


def test_a_run_of_another_length_in_one_fold_is_left_out(tmp_path):
    write_arms(tmp_path, ONE, TWO)
    write_fold(tmp_path, TWO, 3, 5, COUNTS, settings=SETTINGS | {"lr": 1})
    assert reasons(tmp_path) == [f"{TWO} fold 3 seed 44 was trained with lr 1 (most: 0.001)"]


def test_recipes_may_differ_between_folds_in_what_comes_from_their_train_alone(tmp_path):
    write_arms(tmp_path, ONE, TWO, THREE, FOUR)
    for number in (1, 2):
        recipe = recipe_of(FOUR, 41 + number, f" of fold {number}")
        recipe["cropper"] |= {"classes": [4, number], "shares": [0.1, 0.2]}
        write_fold(tmp_path, FOUR, number, 5, COUNTS, recipe=recipe)
    assert not any("another cropper" in reason for reason in reasons(tmp_path))
    recipe["cropper"]["p"] = 0.9
    write_fold(tmp_path, FOUR, 2, 5, COUNTS, recipe=recipe)
    assert f"{FOUR} fold 2 seed 43 was trained with another cropper.p than most runs of its stage" in reasons(tmp_path)


def test_val_that_shares_blocks_with_train_is_told_of_each_fold(tmp_path):
    write_arms(tmp_path, ONE)
    for number in (2, 4):
        path = results_folder(tmp_path, number) / "metrics.json"
        edit(path, split_facts=json.loads(path.read_text())["split_facts"] | {"blocks_shared_with_train": number})
    said = [caution.partition(" spatial")[0] for caution in evidence_of(tmp_path).cautions]
    assert said == ["fold 2: 2 of 4", "fold 4: 4 of 4"]


# Where results lie


def test_results_lie_below_the_folds_that_were_scored(tmp_path):
    in_dir = made(tmp_path / VAL)
    assert results_of(in_dir, tmp_path) == [in_dir] and folds_with_results(tmp_path) == []
    write_fold(tmp_path, ONE, 10, 5, COUNTS)
    write_fold(tmp_path, ONE, 2, 5, COUNTS)
    fold_root(tmp_path, 3).mkdir()  # without results
    for name in ("07", "x", "folds.json"):
        (tmp_path / "folds" / name / VAL).mkdir(parents=True)
    homes = [fold_root(tmp_path, number) for number in (2, 10)]
    assert folds_with_results(tmp_path) == homes
    found = results_of(in_dir, tmp_path)
    assert [source.path for source in found] == [home / VAL for home in homes]
    assert str(found[0].made_by) == f"python -m evaluation.compute_metrics --root {homes[0]} --split val"
    chosen = made(tmp_path / "elsewhere")
    assert results_of(chosen, tmp_path) == [chosen]
    assert [fold_of(path) for path in (homes[1] / VAL, tmp_path / VAL, homes[0] / "x/y/val", homes[0] / VAL / ONE)] == [
        10,
        None,
        None,
        None,
    ]


def test_results_of_one_split_beside_folds_are_named_and_not_compared(tmp_path):
    write_arms(tmp_path, ONE)
    assert not_compared(made(tmp_path / VAL), tmp_path) == []
    (tmp_path / VAL).mkdir(parents=True)
    assert not_compared(made(tmp_path / VAL), tmp_path) == []  # a summary lies there
    write_result(tmp_path, ONE, 7, COUNTS)
    evidence = evidence_of(tmp_path)
    assert evidence.cautions == [
        f"{tmp_path / VAL}: the results of one split there are no part of the comparison of the folds"
    ]
    assert 7 not in evidence.arms[ONE].seeds
    alone = tmp_path / "alone"
    write_result(alone, ONE, 7, COUNTS)
    assert not_compared(made(alone / VAL), alone) == [] and evidence_of(alone).folds is None


def test_the_root_of_a_fold_is_a_study_of_which_other_folds_are_missing(tmp_path):
    write_arms(tmp_path, ONE, TWO)
    evidence = evidence_of(fold_root(tmp_path, 3))
    assert evidence.left_out == [] and evidence.arms[ONE].seeds == [44]
    assert f"{ONE}, {TWO}: without fold 1, 2, 4, 5 of 5 folds, so scored on less area" in evidence.cautions
    assert about_the_split(evidence)[0].startswith(
        "Fold 3: 4 tiles in 4 spatial blocks, in 5 folds of which others are"
    )
    assert verdict(evidence.finding(TWO, ONE)) == "no interval"


def test_folds_without_a_result_that_can_be_compared_name_the_command(tmp_path):
    (fold_root(tmp_path, 2) / VAL).mkdir(parents=True)
    with pytest.raises(
        UserError, match=rf"holds no results.*compute_metrics --root {fold_root(tmp_path, 2)} --split val"
    ):
        evidence_of(tmp_path)
