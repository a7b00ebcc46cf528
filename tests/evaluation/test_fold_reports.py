"""The summary and the report of a study by folds, from results that were made up."""

import csv
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from common.errors import UserError
from common.files import write_json
from common.folds import fold_root
from common.stages import CONTROLS, STAGE_NAMES
from evaluation import aggregate_metrics, build_report
from evaluation.study.ablation_figures import FIGURES
from tests.evaluation.test_report import report_of, write_predictions
from tests.evaluation.test_report_data import leakage, manifest
from tests.helpers import quiet
from tests.synthetic_results import VAL, distribution_of, write_fold, write_folds, write_result

ONE, TWO, THREE, FOUR, FIVE_A, FIVE_B, SIX = STAGE_NAMES[:7]
GAINS = {ONE: 0.0, TWO: 0.6, THREE: 0.6, FOUR: 0.8, FIVE_A: 0.0, FIVE_B: 0.9, SIX: 1.4}
GAINS |= {control.name: 0.7 for control in CONTROLS}
BEFORE = "Before you read a number"


def write_around(root, number):
    """What other steps leave in the root of a fold: its split, and a check for leakage that passed."""
    home, digest = fold_root(root, number), f"val of fold {number}"
    for split in ("train", "val", "test"):
        folder = home / "data" / "biodiversity_split" / split
        folder.mkdir(parents=True)
        about = {"digest": digest, "split": split, "command": f"split fold {number}", "split_strategy": "blocks"}
        write_json(folder / "manifest.json", manifest(([0, 9, 9, 9, 9, 9 + number], f"r{number}_c0"), **about))
    write_leakage(root, number)


def write_leakage(root, number, **changes):
    path = fold_root(root, number) / "artifacts" / "leakage.json"
    path.parent.mkdir(exist_ok=True)
    write_json(path, leakage(digest=changes.pop("digest", f"val of fold {number}"), **changes))


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    """All arms in five folds, compared."""
    root = tmp_path_factory.mktemp("folds")
    write_folds(root, GAINS, 5, 20)
    quiet(aggregate_metrics.main, "--root", root)
    return root


@pytest.fixture
def two_arms(tmp_path):
    """Two arms in five folds, with their splits and checks for leakage."""
    write_folds(tmp_path, {ONE: 0.0, TWO: 0.4}, 5, 20)
    for number in range(1, 6):
        write_around(tmp_path, number)
    return tmp_path


def test_the_summary_of_folds_lies_in_the_root_of_the_study(scored):
    text = (scored / VAL / "metrics_summary.txt").read_text()
    joined = " ".join(text.split())
    assert "All but test: 20 tiles in 20 spatial blocks, in 5 folds" in joined and "== Primary comparisons" in text
    assert "Holm's correction over 4 tests." in joined and "Holm's correction over 6 tests." in joined
    assert "pooled over all folds, each scored by the training that left it out" in joined and "N-B" in text
    assert all(len(line) <= 120 for line in text.splitlines()) and "== Warnings" not in text
    assert "no effect." not in joined.replace("never that there is no effect.", "")
    for name in FIGURES:
        with Image.open(scored / VAL / name) as picture:
            assert min(picture.size) > 400
    with open(scored / VAL / "metrics_summary.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {(row["fold"], row["seed"]) for row in rows} == {(str(k), str(41 + k)) for k in range(1, 6)}
    markdown = (scored / VAL / "metrics_summary.md").read_text()
    assert "| difference | to | metric | folds | points | N-B | p |" in markdown and "P(better) |" in markdown
    assert not (fold_root(scored, 1) / VAL / "metrics_summary.txt").exists()


def test_the_summary_names_the_test_of_the_study_and_results_that_lie_beside(two_arms):
    (two_arms / VAL.parent / "test" / SIX).mkdir(parents=True)
    write_result(two_arms, ONE, 7, np.ones((4, 6, 6)))
    said = " ".join(quiet(aggregate_metrics.main, "--root", two_arms).split())
    assert f"no part of this ranking: {two_arms / VAL.parent / 'test' / SIX}" in said
    assert "the results of one split there are no part of the comparison of the folds" in said


def test_a_report_of_folds_shows_the_split_and_the_pictures_of_the_first(scored):
    for number in range(1, 6):
        write_around(scored, number)
    home = fold_root(scored, 1)
    write_json(home / "artifacts" / "class_distribution.json", distribution_of(["Cropland"]))
    write_predictions(home, GAINS, split_digest="val of fold 1")
    page = report_of(scored)
    assert BEFORE not in page.text and "Seeds: 42, 43, 44, 45, 46, one per fold" in page.text
    assert "fold 1 seed 42" in page.text and "fold 5 seed 46" in page.text and "over 5 folds" in page.text
    assert "split fold 1" in page.text and "split fold 2" not in page.text
    assert "Minority classes of train, those under 10% of its labelled pixels: Cropland." in page.text
    assert "Check for leakage passed" in page.text and "Primary comparisons: what the recipe as a whole" in page.text
    assert all(f"val of fold {number}" in page.text for number in range(1, 6))
    assert len([a for a in page.all("input") if a["type"] == "radio" and a["name"] == "tile-1"]) == 2 + len(GAINS)
    assert not (home / VAL / "report.html").exists()
    given = report_of(scored, "--split-dir", fold_root(scored, 2) / "data" / "biodiversity_split")
    assert "split fold 2" in given.text and f"of another val split than {fold_root(scored, 2)}" in given.text


def test_what_a_study_of_folds_lacks_is_made_in_the_first_fold(tmp_path):
    write_folds(tmp_path, {ONE: 0.0, TWO: 0.4}, 5, 20)
    text, home = report_of(tmp_path).text, fold_root(tmp_path, 1)
    for command in (
        f"evaluation.plot_predictions --root {home}",
        f"evaluation.compute_metrics --root {home} --split test",
        f"data_prep.split_biodiversity --root {tmp_path} --folds 5 --fold 1",
        f"data_prep.analyze_class_distribution --root {home}",
        f"training.train_stage3_difficulty --root {home} --seed 42",
        f"training.train_control_kd_uniform --root {home} --seed 42",
        f"evaluation.aggregate_metrics --root {tmp_path}",
    ):
        assert f"python -m {command}" in text
    for number in range(1, 6):
        command = f"python -m data_prep.check_leakage --root {fold_root(tmp_path, number)}"
        assert f"Fold {number}: the check for leakage was not made; run it: {command}" in text


def test_a_check_for_leakage_that_failed_in_any_fold_is_a_caution(two_arms):
    assert BEFORE not in report_of(two_arms).text
    write_leakage(two_arms, 3, passed=False)
    write_leakage(two_arms, 4, digest="val of an earlier dealing")
    (fold_root(two_arms, 5) / "artifacts" / "leakage.json").unlink()
    text = report_of(two_arms).text
    first = text[text.index(BEFORE) : text.index("ranks first")]
    assert "Fold 3: the check for leakage failed: they share a tile." in first
    again = f"run it again: python -m data_prep.check_leakage --root {fold_root(two_arms, 4)}."
    assert f"Fold 4: the check for leakage was made of another val split than was scored; {again}" in first
    assert "Fold 5: the check for leakage was not made" in first and first.count("check for leakage") == 3
    assert "Check for leakage passed" in text[text.index("ranks first") :]  # that of fold 1
    write_leakage(two_arms, 1, passed=False)
    first = report_of(two_arms).text.partition("ranks first")[0]
    assert first.count("he check for leakage failed: they share a tile") == 2
    (fold_root(two_arms, 2) / "artifacts" / "leakage.json").write_text("[]")
    with pytest.raises(UserError, match=r"folds/2/artifacts/leakage.json is not a report of check_leakage"):
        quiet(build_report.main, "--root", two_arms)


def test_the_first_fold_of_a_report_is_the_first_that_is_compared(two_arms):
    for arm in (ONE, TWO):
        (fold_root(two_arms, 1) / VAL / arm / "seed42" / "tile_confusions.npz").write_bytes(b"no counts")
    text = report_of(two_arms).text
    assert "split fold 2" in text and "split fold 1" not in text and "another val split" not in text
    assert f"training.train_stage3_difficulty --root {fold_root(two_arms, 2)} --seed 43" in text
    assert "without fold 1 of 5 folds" in text and "left out" in text.lower()


def test_a_class_that_folds_lack_is_a_dash_and_not_a_number(tmp_path):
    counts = np.repeat(np.diag([0, 90, 90, 90, 90, 90])[None] + 10, 20, axis=0)
    counts[np.arange(20) % 5 != 2, 5] = 0  # Seminatural is in fold 3 alone
    for arm, better in ((ONE, 0), (TWO, 9)):
        for number in range(1, 6):
            if (arm, number) != (TWO, 3):
                write_fold(tmp_path, arm, number, 5, counts + np.diag([0, 1, 1, 1, 1, 0]) * better)
    said = quiet(aggregate_metrics.main, "--root", tmp_path)
    text = report_of(tmp_path).text
    for words in (said, text, (tmp_path / VAL / "metrics_summary.md").read_text()):
        assert "nan" not in words.lower().split() and "without Seminatural, in no other fold" in " ".join(words.split())


def test_the_report_of_folds_shows_what_was_used_of_test(scored):
    folder = scored / VAL.parent / "test"
    folder.mkdir()
    use = {"time": "2030-01-02T03:04:05+00:00", "seed": 42, "checkpoint_digest": "a" * 64, "split_digest": "b" * 64}
    use |= {"reason": None, "metrics": {"mIoU": 0.5, "mF1": 0.6, "OA": 0.7}, "command": "python -m x"}
    (folder / "test_log.jsonl").write_text(json.dumps(use) + "\n", "utf-8")
    assert "The test split was used once." in report_of(scored).text


def test_folds_of_another_dealing_are_left_out_and_not_those_of_most(two_arms):
    for number in range(1, 6):
        for path in (fold_root(two_arms, number) / VAL).rglob("metrics.json"):
            metrics = json.loads(path.read_text("utf-8"))
            metrics["split_facts"]["dealing"] = "first dealing" if number == 1 else "second dealing"
            write_json(path, metrics)
    said = " ".join(quiet(aggregate_metrics.main, "--root", two_arms).split())
    assert "dealing first de" in said and "but most are of fold 2 of 5 (seed 42), dealing second d" in said
    assert "Fold 2, 3, 4, 5: " in said


def test_an_unfinished_dealing_counts_once_it_is_whole(two_arms):
    whole = quiet(aggregate_metrics.main, "--root", two_arms)
    write_folds(two_arms, {ONE: 0.0, TWO: 0.4}, 5, 20, repeats=2)
    for number in (8, 9, 10):
        shutil.rmtree(fold_root(two_arms, number))
    said = " ".join(quiet(aggregate_metrics.main, "--root", two_arms).split())
    assert said.count("left out: fold 6, 7: counts once all folds of its dealing are there") == 1
    assert [line for line in whole.splitlines() if line.startswith("stage1_baseline  ")][0].split()[2] == "5"
    assert "in 5 folds" in said and "dealt 2 times" not in said
    write_folds(two_arms, {ONE: 0.0, TWO: 0.4}, 5, 20, repeats=2)
    assert "dealt 2 times into 5 folds" in " ".join(quiet(aggregate_metrics.main, "--root", two_arms).split())


def test_arms_that_predict_the_same_are_void_and_not_equivalent(tmp_path):
    write_folds(tmp_path, {ONE: 0.0, FOUR: 0.4}, 5, 20)
    counts = np.repeat(np.diag([0, 90, 90, 90, 90, 90])[None] + 10, 20, axis=0)
    for arm in (ONE, TWO):
        for number in range(1, 6):
            write_fold(tmp_path, arm, number, 5, counts)
    said = " ".join(quiet(aggregate_metrics.main, "--root", tmp_path).split())
    assert "Stage 2 scores exactly as stage 1 in every block: their comparison is void." in said
    assert "void" in report_of(tmp_path).text and "±0.0" not in said and "± 0.0" not in said


def test_the_report_of_one_fold_is_that_of_its_own_root(two_arms):
    home = fold_root(two_arms, 2)
    text = report_of(home).text
    assert "split fold 2" in text and "Fold 2: 4 tiles in 4 spatial blocks" in text
    assert f"training.train_stage3_difficulty --root {home} --seed 43" in text
