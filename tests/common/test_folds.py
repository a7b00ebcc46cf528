"""Roots of folds: which they are, what of them lies below the study's root, and which command makes what is missing."""

import importlib
import json
from pathlib import Path

import pytest

from common.cli import Parser
from common.folds import fold_number, fold_root, number_of_folds, repeat_of, study_root
from common.inputs import Command, Input
from common.taxonomy import load_taxonomy
from tests.helpers import THREE_CLASSES, write_taxonomy

FOLD = Path("demo/folds/3")


@pytest.mark.parametrize(
    ("root", "fold", "study"),
    [
        ("demo/folds/3", 3, "demo"),
        ("folds/12", 12, "."),
        ("/data/demo/folds/1", 1, "/data/demo"),
        ("demo", None, "demo"),
        (".", None, "."),
        ("demo/folds", None, "demo/folds"),
        ("demo/folds/03", None, "demo/folds/03"),
        ("demo/folds/0", None, "demo/folds/0"),
        ("demo/folds/last", None, "demo/folds/last"),
        ("demo/folds/³", None, "demo/folds/³"),
        ("demo/folds/3/data", None, "demo/folds/3/data"),
    ],
)
def test_a_numbered_folder_of_folds_is_the_root_of_a_fold_of_the_root_above(root, fold, study):
    assert fold_number(Path(root)) == fold and study_root(Path(root)) == Path(study)
    if fold:
        assert fold_root(Path(study), fold) == Path(root)


def test_a_fold_is_known_by_its_place_however_it_is_spelled(tmp_path, monkeypatch):
    (tmp_path / "folds/3").mkdir(parents=True)
    for folder, root in (("folds/3", "."), ("folds", "3"), ("folds/3", "../3")):
        monkeypatch.chdir(tmp_path / folder)
        assert fold_number(Path(root)) == 3 and study_root(Path(root)) == tmp_path


def test_folds_above_their_number_belong_to_further_dealings():
    assert [repeat_of(fold, 5) for fold in (1, 5, 6, 10, 11)] == [1, 1, 2, 2, 3]
    assert [repeat_of(fold, 2) for fold in (1, 2, 3)] == [1, 1, 2]


@pytest.mark.parametrize("content", [None, "", "[]", '{"folds": "7"}', '{"folds": 1}', '{"seed": 7}'])
def test_the_number_of_folds_is_the_recorded_one_or_five(tmp_path, content):
    (tmp_path / "folds").mkdir()
    if content is not None:
        (tmp_path / "folds/folds.json").write_text(content)
    assert number_of_folds(tmp_path) == 5
    (tmp_path / "folds/folds.json").write_text(json.dumps({"folds": 7}))
    assert number_of_folds(tmp_path) == 7


def parsed(root):
    parser = Parser("what it does")
    parser.add_path("--own", "own", "of the fold")
    parser.add_path("--common", "common/seed{seed}", "of all folds", shared=True)
    parser.add_input("--tiles", "tiles", "of the fold", made_by="wing.cut")
    parser.add_input("--split", "split", "of the fold", made_by="data_prep.split_biodiversity")
    parser.add_input("--teacher", "teacher/seed{seed}", "of all folds", made_by="training.train_teacher", shared=True)
    parser.add_seed()
    return parser.parse_args(["--root", str(root), "--seed", "44"])


def test_what_is_shared_and_its_command_hang_from_the_root_of_the_study():
    args = parsed(FOLD)
    assert args.own == FOLD / "own" and args.common == Path("demo/common/seed44")
    assert args.tiles == Input(FOLD / "tiles", Command.read("python -m wing.cut --root demo/folds/3"), "--tiles")
    made_by = Command.read("python -m training.train_teacher --root demo --seed 44")
    assert args.teacher == Input(Path("demo/teacher/seed44"), made_by, "--teacher")
    args = parsed("demo")
    assert (args.own, args.common) == (Path("demo/own"), Path("demo/common/seed44"))
    assert str(args.teacher.made_by) == str(made_by)


def test_a_fold_is_split_from_the_root_of_its_study(tmp_path):
    root = tmp_path / "folds/8"
    split = f"python -m data_prep.split_biodiversity --root {tmp_path}"
    assert str(parsed(root).split.made_by) == f"{split} --folds 5 --fold 8"
    (tmp_path / "folds").mkdir()
    (tmp_path / "folds/folds.json").write_text('{"folds": 4}')
    assert str(parsed(root).split.made_by) == f"{split} --folds 4 --fold 8"
    assert str(parsed(tmp_path).split.made_by) == split
    assert str(parsed("folds/2").split.made_by) == "python -m data_prep.split_biodiversity --folds 5 --fold 2"


def test_a_fold_has_the_classes_of_its_study(tmp_path):
    write_taxonomy(tmp_path, THREE_CLASSES)
    assert load_taxonomy(tmp_path / "folds/1") == load_taxonomy(tmp_path) == THREE_CLASSES


SHARED = {
    "data_prep.check_biodiversity": {"in_dir", "out"},
    "data_prep.split_biodiversity": {"in_dir", "audit_groups"},
    "data_prep.filter_oem_rural": {"in_dir", "out_dir"},
    "data_prep.prepare_oem_teacher": {"in_dir", "raw_dir", "out_dir"},
    "data_prep.relabel_oem": {"in_dir", "raw_dir", "out_dir"},
    "data_prep.combine_biodiversity_oem": {"oem_dir"},
    "data_prep.check_leakage": {"filtered_dir", "relabelled_dir", "teacher_dir", "raw_dir"},
    "training.train_teacher": {"train_dir", "val_dir", "out_dir"},
    "training.train_stage6_distill": {"teacher"},
    "training.train_control_kd_cycled": {"teacher"},
    "training.train_control_kd_uniform": {"teacher"},
}
OF_FOLD = (
    "data_prep.analyze_class_distribution",
    "data_prep.replicate_minority",
    "training.train_stage1_baseline",
    "training.score_difficulty",
    "training.train_stage5b_finetune",
    "training.train_control_5b_from_stage1",
    "training.train_rival_class_weights",
    "training.train_rival_logit_adjustment",
    "evaluation.compute_metrics",
    "evaluation.plot_predictions",
)


@pytest.mark.parametrize("name", [*SHARED, *OF_FOLD])
def test_of_the_paths_of_a_script_those_are_shared_that_no_fold_changes(name):
    if name == "data_prep.split_biodiversity":  # refuses the root of a fold, which another command makes
        return
    args = vars(importlib.import_module(name).parse_args(["--root", str(FOLD)]))
    paths = {flag: value.path if isinstance(value, Input) else value for flag, value in args.items()}
    below = {flag: path for flag, path in paths.items() if isinstance(path, Path) and flag != "root"}
    assert all(path.is_relative_to("demo") for path in below.values())
    assert {flag for flag, path in below.items() if not path.is_relative_to(FOLD)} == SHARED.get(name, set())


def test_the_results_on_test_are_those_of_the_study():
    parse_args = importlib.import_module("evaluation.compute_metrics").parse_args
    results = "evaluation/evaluation_results"
    assert parse_args(["--root", str(FOLD), "--split", "test"]).out_dir == Path("demo", results, "test")
    assert parse_args(["--root", str(FOLD)]).out_dir == FOLD / results / "val"
    assert parse_args(["--split", "test"]).out_dir == Path(results, "test")
    assert parse_args(["--root", str(FOLD), "--split", "test", "--out-dir", "here"]).out_dir == Path("here")
