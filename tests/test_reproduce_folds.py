"""reproduce.py with folds: what runs in each, once or in the first alone, with which root and seed; what is kept."""

import importlib
import json
import re
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

import reproduce
from common.errors import UserError
from reproduction.commands import complete, complete_commands
from reproduction.documents import EACH, FIRST, ONCE, REPOSITORY, Step, read_steps
from reproduction.plan import ONE_PLACE, Place, needs, next_run, of_folds_alone, plan_folds
from reproduction.record import Record, choose
from tests.small_pipeline import step, wait

DATA, TRAINING, EVALUATION = "REPRODUCE_DATA.md", "REPRODUCE_TRAINING.md", "REPRODUCE_EVALUATION.md"


def steps_of(*described) -> list[Step]:
    """Steps of (document, name, where, what it builds on)."""
    numbers, steps = {}, []
    for position, (document, name, where, builds_on) in enumerate(described, 1):
        numbers[document] = numbers.get(document, 0) + 1
        title = f"{name} (control)" if name.startswith("control") else name
        argv = ["python", "-m", f"wing.{name}"]
        steps.append(Step(document, numbers[document], title, argv, name, position, builds_on, where))
    return steps


STEPS = steps_of(
    (DATA, "audit", ONCE, set()),
    (DATA, "split", EACH, None),
    (DATA, "filter", ONCE, set()),
    (DATA, "combine", EACH, {2, 3}),
    (TRAINING, "first", EACH, set()),
    (TRAINING, "control_a", EACH, {1}),
    (EVALUATION, "score", EACH, None),
    (EVALUATION, "rank", ONCE, None),
    (EVALUATION, "test", FIRST, set()),
    (EVALUATION, "report", ONCE, None),
)


def brief(runs):
    return [(run.step.name, run.fold, run.seed) for run in runs]


def test_fold_k_runs_with_its_own_seed_and_shared_steps_run_once_where_what_they_build_on_is_there():
    assert brief(plan_folds(STEPS, [1, 2], 42)) == [
        ("audit", "", ""),
        ("filter", "", ""),
        *(("split", "1", "42"), ("combine", "1", "42"), ("split", "2", "43"), ("combine", "2", "43")),
        *(("first", "1", "42"), ("control_a", "1", "42"), ("first", "2", "43"), ("control_a", "2", "43")),
        *(("score", "1", "42"), ("test", "1", "42"), ("score", "2", "43")),
        ("rank", "", ""),
        ("report", "", ""),
    ]
    runs = plan_folds(STEPS, [7], 10)
    assert {(run.fold, run.seed) for run in runs if run.fold} == {("7", "16")}
    assert "test" not in {run.step.name for run in runs}  # of fold 1 alone
    assert [run.label for run in runs[:3]] == ["audit", "filter", "split fold 7"]


def needed_by(name, place=ONE_PLACE):
    runs = plan_folds(STEPS, [1, 2], 42)
    step = next(step for step in STEPS if step.name == name)
    return {f"{run.step.name}{run.fold}" for run in runs if needs(step, place, run)}


def test_a_step_of_a_fold_builds_on_its_fold_and_on_what_runs_once():
    assert needed_by("filter") == set()
    assert needed_by("split", Place("2", "43")) == {"audit"}
    assert needed_by("combine", Place("2", "43")) == {"split2", "filter"}
    assert needed_by("first", Place("2", "43")) == {"audit", "filter", "split2", "combine2"}
    assert needed_by("score", Place("1", "42")) == {
        *("audit", "filter", "split1", "combine1", "first1", "control_a1"),
    }
    assert {"score1", "score2", "first2"} <= needed_by("rank") and "rank" in needed_by("report")
    assert "rank" not in needed_by("test", Place("1", "42"))


def test_one_fold_alone_leaves_out_what_compares_all():
    kept = brief(of_folds_alone(plan_folds(STEPS, [2], 42)))
    assert [name for name, *_ in kept] == ["audit", "filter", "split", "combine", "first", "control_a", "score"]


def test_trainings_of_two_folds_run_side_by_side_and_the_order_of_each_holds():
    waiting, running, together = plan_folds(STEPS, [1, 2], 42), [], set()
    while waiting or running:
        while run := next_run(waiting, running, 2):
            waiting.remove(run)
            running.append(run)
        together.add(tuple(sorted(run.label for run in running)))
        running.pop(0)
    assert ("first fold 1", "first fold 2") in together


def record_of(path, *rows, shared=True):
    lines = ["step\tfold\tseed\tseconds\texit_status\tpeak_memory_mb\tcommand"]
    lines += [
        "\t".join([name, fold, seed, "1", status, "9", f"python -m wing.{name}"]) for name, fold, seed, status in rows
    ]
    path.write_text("\n".join(lines) + "\n")
    return Record(path, STEPS, shared=shared)


def completed(folds):
    runs = plan_folds(STEPS, folds, 42)
    for run in runs:
        run.argv = list(run.step.argv)
    return runs


def test_folds_that_are_added_run_beside_those_that_are_finished(tmp_path):
    done = [(*row, "0") for row in brief(completed([1, 2]))]
    record = record_of(tmp_path / "summary.tsv", *done)
    assert choose(completed([1, 2]), record, resume=True) == []
    added = brief(choose(completed([1, 2, 3]), record, resume=True))
    of_third = [("split", "3", "44"), ("combine", "3", "44"), ("first", "3", "44"), ("control_a", "3", "44")]
    assert added == [*of_third, ("score", "3", "44"), ("rank", "", ""), ("report", "", "")]
    alone = of_folds_alone(completed([3]))
    assert brief(choose(alone, record, resume=False, keep_once=True)) == added[:-2]


def test_runs_of_several_folds_write_one_record(tmp_path):
    path = tmp_path / "summary.tsv"
    record_of(path, ("audit", "", "", "0"))
    first, second = Record(path, STEPS, shared=True), Record(path, STEPS, shared=True)
    of = {(run.step.name, run.fold): run for run in completed([1, 2])}
    first.begin(of["split", "1"])
    second.begin(of["split", "2"])
    first.write(of["split", "1"], "2.0", 0, 5)
    second.write(of["split", "2"], "3.0", 1, 5)
    found = {(row.step, row.fold): row.exit_status for row in Record(path, STEPS).rows.values()}
    assert found == {("audit", ""): "0", ("split", "1"): "0", ("split", "2"): "1"}
    assert not list(tmp_path.glob(".*"))


def test_a_record_without_folds_is_read(tmp_path):
    path = tmp_path / "summary.tsv"
    header = "step\tseed\tseconds\texit_status\tpeak_memory_mb\tcommand"
    path.write_text(f"{header}\naudit\t\t1\t0\t9\tpython -m wing.audit\nfirst\t43\t1\t0\t9\tx\nfirst\t44\n")
    assert list(Record(path, STEPS).rows) == [("audit", Place()), ("first", Place("", "43"))]


def test_a_fold_has_its_root_and_seed_and_what_makes_it_those_of_the_study(monkeypatch):
    asked = []

    def answer(command, **how):
        asked.extend(json.loads(how["input"]))
        return SimpleNamespace(returncode=0, stderr="", stdout=json.dumps([[q[0], [], None] for q in asked]))

    monkeypatch.setattr(subprocess, "run", answer)
    complete_commands(plan_folds(STEPS[:2], [7], 42), "demo", [["--preset", "demo"]], ["42"], 5)
    preset = ["--preset", "demo"]
    assert asked[0] == [STEPS[0].argv, ["--root", "demo"], [preset, ["--seed", "42"]], None]
    making = [preset, ["--folds", "5"], ["--fold", "7"], ["--seed", "42"]]
    assert asked[1] == [
        STEPS[1].argv, ["--root", "demo/folds/7"], [preset, ["--seed", "48"]], [["--root", "demo"], making],
    ]  # fmt: skip


def test_the_real_scripts_take_the_fold_where_they_make_it():
    given, of_study = [["--seed", "44"]], (["--root", "demo"], [["--folds", "5"], ["--fold", "3"], ["--seed", "42"]])
    split, count = (["python", "-m", f"data_prep.{name}"] for name in ("split_biodiversity", "replicate_minority"))
    command, _, problem = complete(split, ["--root", "demo/folds/3"], given, of_study)
    assert command[3:] == ["--root", "demo", "--folds", "5", "--fold", "3", "--seed", "42"] and problem is None
    command, _, problem = complete(count, ["--root", "demo/folds/3"], given, of_study)
    assert command[3:] == ["--root", "demo/folds/3"] and problem is None


def test_the_documents_say_what_runs_once_and_what_in_the_first_fold():
    steps = {step.name: step for step in read_steps(REPOSITORY)}
    once = {name for name, step in steps.items() if step.where == ONCE}
    of_evaluation = ("aggregate_metrics", "predict_map", "estimate_areas", "build_report")
    assert once == {
        *("check_biodiversity", "filter_oem_rural", "prepare_oem_teacher", "relabel_oem"),
        *of_evaluation,
    }
    assert {name for name, step in steps.items() if step.where == FIRST} == {"plot_predictions", "compute_metrics-test"}
    runs = plan_folds(list(steps.values()), [1, 2], 42)
    for run in runs:
        if run.step.name in once - set(of_evaluation):
            assert not any(needs(run.step, run.place, other) for other in runs if other.fold), run.label


def test_what_runs_once_reads_and_writes_no_path_of_a_fold():
    for one in read_steps(REPOSITORY):
        if one.where == ONCE and one.document == DATA:
            args = vars(importlib.import_module(one.module).parse_args(["--root", "demo/folds/3"]))
            paths = [getattr(value, "path", value) for flag, value in args.items() if flag != "root"]
            below = [path for path in paths if isinstance(path, Path)]
            assert below and not [path for path in below if path.is_relative_to("demo/folds/3")], one.module


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--folds", "5", "--seeds", "1", "2"], "--folds and several --seeds exclude one another"),
        (["--folds", "1"], "--folds: found 1, expected 2 or more"),
        (["--folds", "0"], "'0' is not a whole number above 0"),
        (["--fold", "1"], "--fold is for a study by folds: give --folds K as well"),
        (["--repeats", "2"], "--repeats is for a study by folds"),
        (["--folds", "5", "--fold", "6"], "--fold: found 6, expected 1 to 5, or more --repeats than 1"),
        (["--folds", "5", "--fold", "2", "2"], "--fold: 2 2 holds a fold twice"),
    ],
)
def test_flags_that_mean_no_folds_are_refused(capsys, flags, message):
    with pytest.raises(SystemExit) as stopped:
        reproduce.parse_args(flags)
    assert stopped.value.code == 2 and message in capsys.readouterr().err


def test_folds_to_run_are_all_of_all_repeats_or_those_that_are_named():
    def folds(*flags):
        args = reproduce.parse_args(list(flags))
        return args.fold, args.some_folds

    assert folds("--folds", "5") == ([1, 2, 3, 4, 5], False)
    assert folds("--folds", "2", "--repeats", "2", "--seed", "7") == ([1, 2, 3, 4], False)
    assert folds("--folds", "2", "--repeats", "2", "--fold", "4", "1") == ([1, 4], True)
    assert folds() == ([], False)


FOLD_FLAGS = "parser.add_argument('--folds'); parser.add_argument('--fold'); parser.add_seed()"
MAKE_FOLD = "(args.root / 'folds' / args.fold).mkdir(parents=True, exist_ok=True) if args.fold else None"


@pytest.fixture
def by_folds(pipeline):
    """A pipeline with steps of every kind; steps of a fold note that they ran in the root of the fold."""
    pipeline.module("prep.split", flags=FOLD_FLAGS, body=MAKE_FOLD)
    pipeline.module("prep.oem")
    pipeline.module("train.stage1", flags="parser.add_seed()")
    pipeline.module("train.rank")
    pipeline.document(
        DATA,
        step(1, "Split", "python -m prep.split"),
        step(2, "OEM", "python -m prep.oem").replace("What", "Once for all folds.\n\n- Needs: nothing.\n\nWhat"),
    )
    pipeline.document(TRAINING, step(1, "Baseline", "python -m train.stage1"))
    pipeline.document(
        EVALUATION,
        step(1, "Validation", "python -m train.score --split val"),
        step(2, "Rank", "python -m train.rank").replace("What", "Once for all folds.\n\nWhat"),
    )
    return pipeline


def ran(pipeline, fold=None):
    path = pipeline.folder / "demo" / (f"folds/{fold}" if fold else "") / "ran.txt"
    return path.read_text().splitlines() if path.exists() else []


def test_a_study_by_folds_runs_and_folds_are_added_to_it(by_folds):
    assert "[2/5] oem: OEM (once for all folds)" in by_folds.run("--folds", "2", "--list").out
    flags = ("--root", "demo", "--folds", "2")
    commands = by_folds.run(*flags, "--dry-run").out.splitlines()
    assert ran(by_folds) == [] and len(commands) == 8
    out = by_folds.run(*flags).out
    assert "[4/8] stage1 fold 1: Baseline  (elapsed" in out
    of_study = [
        "prep.oem --root demo",
        *(f"prep.split --root demo --folds 2 --fold {fold} --seed 42" for fold in (1, 2)),
    ]
    assert ran(by_folds) == [*of_study, "train.rank --root demo"]
    for fold in (1, 2):
        assert ran(by_folds, fold) == [
            f"train.stage1 --root demo/folds/{fold} --seed {41 + fold}",
            f"train.score --split val --root demo/folds/{fold} --seed {41 + fold}",
        ]
    logs = by_folds.folder / "demo/logs"
    assert sorted(str(path.relative_to(logs)) for path in logs.rglob("*.log")) == [
        "02_oem.log", "05_rank.log",
        *(f"fold{fold}/{name}.log" for fold in (1, 2) for name in ("01_split", "03_stage1", "04_score")),
    ]  # fmt: skip
    assert [row[:3] for row in by_folds.summary()[:4]] == [
        ["step", "fold", "seed"], ["oem", "", ""], ["split", "1", "42"], ["split", "2", "43"],
    ]  # fmt: skip
    error = by_folds.run(*flags, status=2).err
    assert "stage1 of fold 1 was finished by" in error

    by_folds.forget()
    by_folds.run(*flags, "--repeats", "2", "--resume", "--jobs", "2")
    assert sorted(ran(by_folds)) == [
        *(f"prep.split --root demo --folds 2 --fold {fold} --seed 42" for fold in (3, 4)), "train.rank --root demo",
    ]  # fmt: skip
    assert len(ran(by_folds, 1)) == 2 and ran(by_folds, 4)[0].endswith("--seed 45")


def test_a_fold_alone_makes_shared_steps_once_and_compares_nothing(by_folds):
    flags = ("--root", "demo", "--folds", "2", "--fold")
    by_folds.run(*flags, "2")
    assert ran(by_folds) == ["prep.oem --root demo", "prep.split --root demo --folds 2 --fold 2 --seed 42"]
    by_folds.run(*flags, "1")
    assert ran(by_folds)[2:] == ["prep.split --root demo --folds 2 --fold 1 --seed 42"]
    by_folds.run("--root", "demo", "--folds", "2", "--resume")
    assert ran(by_folds)[3:] == ["train.rank --root demo"]


def test_a_fold_runs_beside_another_but_not_twice(by_folds):
    by_folds.run("--root", "demo", "--folds", "3", "--to", "oem")
    by_folds.module("train.stage1", flags="parser.add_seed()", body="time.sleep(60 if args.seed == 42 else 0)")
    first = by_folds.start("--root", "demo", "--folds", "3", "--fold", "1")
    wait(lambda: ran(by_folds, 1))
    by_folds.run("--root", "demo", "--folds", "3", "--fold", "2")
    assert len(ran(by_folds, 2)) == 2
    error = by_folds.run("--root", "demo", "--folds", "3", "--fold", "1", status=2).err
    assert "demo/logs/fold1 is being written by another run" in error
    first.terminate()
    first.communicate()
    rows = {(row[0], row[1]): row[4] for row in by_folds.summary()[1:]}
    assert rows["stage1", "2"] == "0" and rows["stage1", "1"] == "130" and rows["score", "2"] == "0"


def dry_run(capsys, tmp_path, *flags) -> dict[str, str]:
    """The flags of each real step of fold 1, by its name, as reproduce.py would give them."""
    reproduce.main(["--root", str(tmp_path), "--folds", "5", "--fold", "1", "--dry-run", *flags])
    commands = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("python ")]
    return {words[2].split(".")[-1]: " ".join(words[3:]) for words in commands}


def test_flags_of_raw_tiles_go_to_the_audit_and_the_split_of_each_fold_alone(capsys, tmp_path):
    shown = "--void 255 -1 --images img/*.jpg --alpha no --block-size 500 --gsd 2 --groups".split()
    commands = dry_run(capsys, tmp_path, *shown, str(tmp_path / "groups.tsv"), "--to", "score_difficulty")
    audit, split = commands["check_biodiversity"], commands["split_biodiversity"]
    assert "--void 255 -1 --images" in audit and "--groups" not in audit
    assert all(part in split for part in ("--void 255 -1", "--alpha no", "--block-size 500", "--folds 5 --fold 1"))
    assert f"--groups {tmp_path / 'groups.tsv'}" in split
    assert "--block-size" not in commands["filter_oem_rural"] and "--alpha" not in commands["score_difficulty"]
    assert {name for name, flags in commands.items() if "--gsd 2" in flags} == {"prepare_oem_teacher", "relabel_oem"}


def test_files_are_named_as_the_repository_sees_them(monkeypatch):
    monkeypatch.chdir(REPOSITORY / "tests")
    args = reproduce.parse_args(["--exclude", "list.txt", "--groups", "../groups.tsv", "--void", "255"])
    assert reproduce.given_flags(args, reproduce.RAW_FLAGS) == [
        ["--void", "255"], ["--exclude", "tests/list.txt"], ["--groups", "groups.tsv"],
    ]  # fmt: skip


def test_without_openearthmap_no_step_is_run_that_reads_what_is_made_of_it():
    steps = read_steps(REPOSITORY)
    without = {step.name for step in steps if not step.needs_openearthmap}
    made = {"openearthmap", "oem", "teacher", "stage5", "stage6", "kd", "compute_metrics-test", "predict_map", "areas"}
    assert without == {step.name for step in steps if not any(part in step.name for part in made)}
    assert {"train_stage4_minority_crop", "train_control_5b_from_stage1", "check_leakage", "build_report"} <= without


def test_no_openearthmap_leaves_those_steps_out(capsys):
    listed = []
    for flags in (("--map",), ("--no-openearthmap",)):
        reproduce.main(["--list", "--controls", "--rivals", *flags])
        listed.append(set(re.findall(r"\] ([\w-]+):", capsys.readouterr().out)))
    assert listed[0] - listed[1] == {step.name for step in read_steps(REPOSITORY) if step.needs_openearthmap}


def test_a_map_without_openearthmap_is_refused_with_the_command_for_another_stage():
    with pytest.raises(UserError, match=r"Leave out --map, and then map with another stage: python -m evaluation"):
        reproduce.main(["--list", "--map", "--no-openearthmap"])
