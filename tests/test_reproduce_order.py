"""What reproduce.py runs, in which order, with which flags, and what it takes for done: without starting anything."""

import json
import shlex
import signal
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

import reproduce
from common.errors import UserError
from reproduction.commands import complete, complete_commands
from reproduction.documents import DOCUMENTS, REPOSITORY, Step, read_document, read_steps
from reproduction.plan import (
    DOCUMENTED_SEED,
    RUN_PER_SEED,
    Place,
    Run,
    needs,
    next_run,
    plan,
)
from reproduction.record import Record, Row, choose, continue_trainings, keep_trainings
from reproduction.telling import clock, how_ended, how_to_go_on, tell_failures

DATA, TRAINING, EVALUATION = "REPRODUCE_DATA.md", "REPRODUCE_TRAINING.md", "REPRODUCE_EVALUATION.md"


def steps_of(*training: tuple[str, set | None]) -> list[Step]:
    """Two data steps, the given trainings (name, what it builds on), and one step of evaluation."""
    named = [(DATA, "split", None), (DATA, "count", None), *((TRAINING, *one) for one in training)]
    named.append((EVALUATION, "score", None))
    steps, numbers = [], {}
    for position, (document, name, builds_on) in enumerate(named, 1):
        numbers[document] = numbers.get(document, 0) + 1
        mark = name.partition("_")[0]
        title = f"{name} ({mark})" if mark in ("control", "rival") else name
        argv = ["python", "-m", f"wing.{name}"]
        steps.append(Step(document, numbers[document], title, argv, name, position, builds_on))
    return steps


STEPS = steps_of(("teacher", set()), ("first", set()), ("second", {2}), ("control_a", {2, 3}), ("last", {1, 2, 3}))
BY_NAME = {step.name: step for step in STEPS}


def run(name: str, seed: str = "", *flags: str, can_resume: bool = False) -> Run:
    step = BY_NAME[name]
    return Run(step, seed, f"{name} {seed}".strip(), [*step.argv, *flags], can_resume)


def test_the_documents_are_data_training_and_evaluation_and_training_runs_once_a_seed():
    assert (DATA, TRAINING, EVALUATION) == DOCUMENTS and RUN_PER_SEED == TRAINING
    assert DOCUMENTED_SEED == "42" and reproduce.SECONDS_TO_STOP == 60
    everywhere = ("--preset", "--device", "--workers", "--overwrite")
    assert (*everywhere, "--bands", "--oem-bands", "--show", "--gsd") == reproduce.PASSED_ON
    steps = read_steps(REPOSITORY)
    assert [step.document for step in steps] == sorted((s.document for s in steps), key=DOCUMENTS.index)
    assert [step.position for step in steps] == list(range(1, len(steps) + 1))


def test_each_seed_is_trained_after_the_other_and_all_else_runs_once():
    found = [(run.step.name, run.seed, run.label) for run in plan(STEPS, ["7", "3"])]
    trainings = ["teacher", "first", "second", "control_a", "last"]
    assert found == [
        ("split", "", "split"),
        ("count", "", "count"),
        *((name, seed, f"{name} seed {seed}") for seed in ("7", "3") for name in trainings),
        ("score", "", "score"),
    ]
    assert [run.label for run in plan(STEPS[2:3], ["7"])] == ["teacher"]


@pytest.mark.parametrize(
    ("name", "seed", "other", "wanted"),
    [
        ("count", "", run("split"), True),
        ("split", "", run("count"), False),
        ("first", "1", run("split"), True),
        ("split", "", run("first", "1"), False),
        ("first", "1", run("teacher", "1"), False),
        ("second", "1", run("first", "1"), True),
        ("second", "1", run("first", "2"), False),
        ("second", "1", run("second", "1"), False),
        ("last", "1", run("control_a", "1"), False),
        ("score", "", run("last", "2"), True),
        ("score", "", run("control_a", "2"), True),
    ],
)
def test_a_training_builds_on_the_data_and_on_its_own_seed_and_evaluation_on_everything(name, seed, other, wanted):
    assert needs(BY_NAME[name], Place("", seed), other) == wanted


def test_a_training_that_names_nothing_builds_on_all_before_it_but_controls_and_rivals():
    steps = steps_of(("first", None), ("control_a", None), ("rival_a", None), ("last", None))
    runs = {one.step.name: one for one in plan(steps, ["1"])}
    found = [name for name in runs if needs(runs["last"].step, Place("", "1"), runs[name])]
    assert found == [
        "split",
        "count",
        "first",
    ]


def order(jobs: int, seeds: list[str], ends_first=0) -> list[tuple[str, str]]:
    """The order in which runs begin where of those that run always the one at this place ends first."""
    waiting, running, begun = plan(STEPS, seeds), [], []
    while waiting or running:
        while one := next_run(waiting, [job.run for job in running], jobs):
            assert not any(needs(one.step, one.place, other) for other in [*waiting, *(j.run for j in running)])
            waiting.remove(one)
            running.append(SimpleNamespace(run=one))
            begun.append((one.step.name, one.seed))
        assert 0 < len(running) <= jobs
        running.pop(min(ends_first, len(running) - 1))
    return begun


def test_with_one_job_the_order_is_that_of_the_documents():
    assert order(1, ["1", "2"]) == [(run.step.name, run.seed) for run in plan(STEPS, ["1", "2"])]


@pytest.mark.parametrize("ends_first", [0, 1])
def test_with_several_jobs_what_most_waits_for_comes_first_and_evaluation_last(ends_first):
    found = order(2, ["1", "2"], ends_first)
    assert found[:2] == [("split", ""), ("count", "")] and found[-1] == ("score", "")
    # of each seed the first step that 3 others and evaluation build on, before the teacher that one builds on
    assert found[2:4] == [("first", "1"), ("first", "2")]
    assert sorted(found) == sorted((run.step.name, run.seed) for run in plan(STEPS, ["1", "2"]))


def test_of_steps_that_as_many_wait_for_that_of_the_seed_with_most_left_comes_first():
    waiting = [run("control_a", "1"), run("control_a", "2"), run("last", "2")]
    assert next_run(waiting, [], 2).seed == "2"
    assert next_run(waiting, [], 1).seed == "1"
    assert next_run(waiting, [run("teacher", "3")] * 2, 2) is None


# What was recorded


def record_of(tmp_path, *rows) -> Record:
    """A record of runs: name, seed, status and command words after the module."""
    path = tmp_path / "summary.tsv"
    lines = ["\t".join(Row._fields)]
    for name, seed, status, *flags in rows:
        command = shlex.join([*BY_NAME[name].argv, *flags])
        lines.append("\t".join([name, "", seed, "1.5", status, "100", command]))
    path.write_text("\n".join(lines) + "\n")
    return Record(path, STEPS)


@pytest.mark.parametrize(
    ("recorded", "now", "same"),
    [
        (["--root", "demo"], ["--root", "elsewhere"], True),
        (["--workers", "4"], ["--workers", "0"], True),
        (["--overwrite"], ["--resume"], True),
        ([], ["--seed", "42"], True),
        ([], ["--seed", "43"], False),
        ([], ["--seed", "142"], False),
        (["--preset", "laptop"], ["--preset", "demo"], False),
        (["--preset", "laptop"], [], False),
        (["--device", "cpu"], [], False),
        (["--bands", "1", "2", "3", "4"], ["--bands", "1", "2", "3"], False),
        (["--root", "demo", "--preset", "demo"], ["--preset", "demo"], True),
    ],
)
def test_a_step_is_done_where_the_same_command_ended_well(tmp_path, recorded, now, same):
    record = record_of(tmp_path, ("first", "42", "0", *recorded))
    assert record.has_finished(run("first", "42", *now)) == same


@pytest.mark.parametrize("status", ["1", "2", "130", "-9", "running", "outdated", ""])
def test_a_step_that_did_not_end_well_is_not_done(tmp_path, status):
    record = record_of(tmp_path, ("first", "42", status))
    assert not record.has_finished(run("first", "42")) and not record.has_finished(run("second", "42"))


def test_a_step_of_another_seed_is_not_done(tmp_path):
    record = record_of(tmp_path, ("first", "42", "0"))
    assert record.has_finished(run("first", "42")) and not record.has_finished(run("first", "43"))


def names(runs):
    return [(run.step.name, run.seed) for run in runs]


def test_resume_chooses_what_is_not_done_and_what_builds_on_that(tmp_path):
    runs = plan(STEPS, ["42", "43"])
    for one in runs:
        one.argv = list(one.step.argv)
    everything = [(run.step.name, run.seed, "0") for run in runs]
    assert choose(runs, record_of(tmp_path, *everything), resume=True) == []
    assert choose(runs, record_of(tmp_path, *everything), resume=False) == runs
    broken = [(name, seed, "1" if (name, seed) == ("second", "43") else "0") for name, seed, _ in everything]
    assert names(choose(runs, record_of(tmp_path, *broken), resume=True)) == [
        ("second", "43"),
        ("control_a", "43"),
        ("last", "43"),
        ("score", ""),
    ]
    teacher = [(name, seed, "1" if (name, seed) == ("teacher", "42") else "0") for name, seed, _ in everything]
    assert names(choose(runs, record_of(tmp_path, *teacher), resume=True)) == [
        ("teacher", "42"),
        ("last", "42"),
        ("score", ""),
    ]


def test_what_begins_makes_what_was_built_on_it_outdated(tmp_path):
    record = record_of(
        tmp_path,
        ("first", "42", "0"),
        ("second", "42", "0"),
        ("teacher", "42", "0"),
        ("second", "43", "0"),
        ("score", "", "0"),
    )
    record.begin(run("first", "42", "--flag"))
    found = {(row.step, row.seed): row.exit_status for row in Record(record.path, STEPS).rows.values()}
    assert found == {
        ("first", "42"): "running",
        ("second", "42"): "outdated",
        ("teacher", "42"): "0",
        ("second", "43"): "0",
        ("score", ""): "outdated",
    }
    record.write(run("first", "42", "--flag"), "2.5", 0, 321)
    lines = record.path.read_text().splitlines()
    assert lines[0].split("\t") == ["step", "fold", "seed", "seconds", "exit_status", "peak_memory_mb", "command"]
    assert [line.split("\t")[:3:2] for line in lines[1:]] == [
        ["teacher", "42"],
        ["first", "42"],
        ["second", "42"],
        ["second", "43"],
        ["score", ""],
    ]
    assert lines[2].split("\t") == ["first", "", "42", "2.5", "0", "321", "python -m wing.first --flag"]


def test_a_finished_training_is_not_made_again_unasked(tmp_path):
    record = record_of(tmp_path, ("split", "", "0"), ("first", "42", "0"), ("second", "42", "130"), ("score", "", "0"))
    keep_trainings([run("second", "42"), run("score")], record, resume=False)
    for chosen, resume, advice in (
        (run("first", "42"), False, "with --resume"),
        (run("first", "42"), True, "by the flags that were given then"),
        (run("split"), True, "by the flags that were given then"),  # the training builds on it
    ):
        with pytest.raises(UserError, match=f"first of seed 42 was finished by\n.*\n.*\n.*\nKeep it {advice}"):
            keep_trainings([run("second", "42"), chosen], record, resume)
    keep_trainings([run("first", "43"), run("split")], record_of(tmp_path, ("score", "", "0")), resume=True)


@pytest.mark.parametrize(
    ("status", "flags", "wanted"),
    [
        (None, [], ["--resume"]),
        ("130", [], ["--resume"]),
        ("130", ["--overwrite"], ["--resume"]),
        ("running", ["--overwrite"], ["--resume"]),
        ("1", ["--overwrite"], ["--resume"]),
        ("0", ["--overwrite"], ["--overwrite"]),
        ("2", ["--overwrite"], ["--overwrite"]),
        ("outdated", ["--overwrite"], ["--overwrite"]),
        ("outdated", [], ["--resume"]),
        (None, ["--overwrite"], ["--resume"]),
    ],
)
def test_an_interrupted_training_is_continued_and_an_outdated_one_replaced(tmp_path, status, flags, wanted):
    record = record_of(tmp_path, *([("first", "42", status)] if status else []))
    chosen = [run("first", "42", *flags, can_resume=True), run("second", "42", *flags)]
    continue_trainings(chosen, record)
    assert chosen[0].argv[3:] == wanted and chosen[1].argv[3:] == flags  # the second takes no --resume


def test_a_record_keeps_rows_of_known_steps_alone(tmp_path):
    record = record_of(tmp_path, ("first", "42", "0"))
    with record.path.open("a") as file:
        file.write("gone\t\t42\t1\t0\t1\tpython\nhalf a line\n")
    assert list(Record(record.path, STEPS).rows) == [("first", Place("", "42"))]
    assert Record(tmp_path / "not there.tsv", STEPS).rows == {}


# Running them


class MadeUpJob:
    """Ends after so many looks at it with the status that is wanted; ``ongoing`` says what runs at each beginning."""

    statuses, ongoing, threads, alive = {}, [], [], []

    def __init__(self, run, logs, threads):
        self.run, self.seconds, self.memory, self.lines, self.log_path = run, 1.0, 9, ["said"], logs
        self.looks = 2 if run.label in self.statuses else 4  # what fails does so while others run
        self.alive.append(self)
        self.ongoing.append([job.run.label for job in self.alive])
        self.threads.append(threads)

    def has_ended(self):
        self.looks -= 1
        return self.looks <= 0

    def close(self, interrupted):
        self.status = self.statuses.get(self.run.label, 0)
        self.alive.remove(self)

    def kill(self):
        raise AssertionError("nothing is to be killed here")

    def output(self):
        return ""

    last_line = output


def run_all(tmp_path, monkeypatch, jobs, **statuses):
    """Run everything with seeds 1 and 2: exit status, what ran at each beginning, and the record."""
    for name in ("ongoing", "threads", "alive"):
        monkeypatch.setattr(MadeUpJob, name, [])
    monkeypatch.setattr(MadeUpJob, "statuses", {name.replace("_", " "): of for name, of in statuses.items()})
    monkeypatch.setattr(reproduce, "Job", MadeUpJob)
    monkeypatch.setattr(reproduce.time, "sleep", lambda _: None)
    monkeypatch.setattr(reproduce, "cpu_count", lambda: 8)
    runs = plan(STEPS, ["1", "2"])
    record = Record(tmp_path / "logs" / "summary.tsv", STEPS)
    record.path.parent.mkdir()
    for one in runs:
        one.argv = list(one.step.argv)
    status = reproduce.run_all(runs, 4, SimpleNamespace(jobs=jobs, given=[], root=tmp_path), record)
    return status, MadeUpJob.ongoing, {(row.step, row.seed): row.exit_status for row in record.rows.values()}


def test_with_one_job_the_steps_run_one_by_one_and_are_recorded(tmp_path, monkeypatch, capsys):
    status, ongoing, recorded = run_all(tmp_path, monkeypatch, 1)
    assert status == 0 and ongoing == [[run.label] for run in plan(STEPS, ["1", "2"])]
    assert set(recorded.values()) == {"0"} and len(recorded) == 13 and set(MadeUpJob.threads) == {None}
    out = capsys.readouterr().out
    assert "[ 5/17] split" in out and "[17/17] score" in out and "13 steps in 0:00" in out  # 4 were skipped


def test_with_two_jobs_two_trainings_at_most_run_side_by_side_and_share_the_cores(tmp_path, monkeypatch):
    status, ongoing, recorded = run_all(tmp_path, monkeypatch, 2)
    assert status == 0 and len(recorded) == 13
    assert max(map(len, ongoing)) == 2 and ongoing[:2] == [["split"], ["count"]] and ongoing[-1] == ["score"]
    assert MadeUpJob.threads == [4] * 13


@pytest.mark.parametrize(("status", "whole"), [(1, 1), (2, 2), (-9, 1), (-15, 1)])
@pytest.mark.parametrize("jobs", [1, 2])
def test_nothing_begins_after_a_step_that_failed_or_was_killed(tmp_path, monkeypatch, jobs, status, whole):
    found, ongoing, recorded = run_all(tmp_path, monkeypatch, jobs, first_seed_1=status)
    assert found == whole and recorded["first", "1"] == str(status)
    begun = {labels[-1] for labels in ongoing}
    beside = {"teacher seed 1"} if jobs == 1 else {"first seed 2"}
    assert begun == {"split", "count", "first seed 1"} | beside
    assert all(recorded[one.step.name, one.seed] == "0" for one in plan(STEPS, ["1", "2"]) if one.label in beside)


# How it ends


@pytest.mark.parametrize(
    ("statuses", "wanted"), [([2], 2), ([130], 130), ([1], 1), ([3], 1), ([-9], 1), ([2, 1], 2), ([], 130)]
)
def test_the_exit_status_is_2_of_wrong_use_130_of_an_interrupt_and_1_of_anything_else(statuses, wanted, capsys):
    failed = [
        SimpleNamespace(run=run("first", "42"), status=status, log_path="log", lines=["said"]) for status in statuses
    ]
    assert tell_failures(failed, 9, SimpleNamespace(given=["--root", "demo"])) == wanted
    assert "--root demo --resume" in capsys.readouterr().err


def test_a_signal_is_told_by_name_and_a_kill_as_a_lack_of_memory():
    assert how_ended(SimpleNamespace(status=3)) == "exit status 3"
    assert how_ended(SimpleNamespace(status=-signal.SIGTERM)) == "signal SIGTERM"
    assert "memory runs out" in how_ended(SimpleNamespace(status=-signal.SIGKILL))


def test_times_are_told_as_on_a_clock():
    assert [clock(seconds) for seconds in (0, 59.9, 61, 3599, 3661, 36000)] == [
        "0:00",
        "0:59",
        "1:01",
        "59:59",
        "1:01:01",
        "10:00:00",
    ]


def test_to_go_on_the_same_flags_are_given_and_resume_once():
    assert how_to_go_on(["--seeds", "1", "2"]).endswith("reproduce.py --seeds 1 2 --resume")
    assert how_to_go_on(["--resume", "--jobs", "2"]).endswith("reproduce.py --resume --jobs 2")


def test_flags_go_to_the_scripts_that_take_them_and_a_seed_to_each_run_its_own(monkeypatch):
    asked = []

    def answer(command, **how):
        questions = json.loads(how["input"])
        asked.extend(questions)
        taken = ["--seed", "--resume", "--root"]
        answers = [(argv + ["x"], taken, None) for argv, *_ in questions]
        return SimpleNamespace(returncode=0, stderr="", stdout=json.dumps(answers))

    monkeypatch.setattr(subprocess, "run", answer)
    runs = plan(STEPS[1:4], ["7", "3"])
    complete_commands(runs, "demo", [["--preset", "demo"]], ["7", "3"])
    seeds = {(run.step.name, run.seed): flags[-1] for run, (_, _, flags, _) in zip(runs, asked, strict=True)}
    assert seeds == {
        ("count", ""): ["--seed", "7"],
        ("teacher", "7"): ["--seed", "7"],
        ("first", "7"): ["--seed", "7"],
        ("teacher", "3"): ["--seed", "3"],
        ("first", "3"): ["--seed", "3"],
    }
    assert all(root == ["--root", "demo"] and flags[0] == ["--preset", "demo"] for _, root, flags, _ in asked)
    assert all(one.can_resume and one.argv[-1] == "x" for one in runs)
    asked.clear()
    complete_commands(plan(STEPS[:1], ["42"]), "demo", [], [])
    assert asked == [[STEPS[0].argv, ["--root", "demo"], [], None]]  # without --seeds the scripts' own default holds


def test_a_real_script_is_given_the_flags_that_it_takes():
    argv = ["python", "-m", "evaluation.aggregate_metrics"]
    given = [["--preset", "demo"], ["--in-dir", "here"], ["--overwrite"]]
    command, taken, problem = complete(argv, ["--root", "demo"], given)
    assert command == [*argv, "--root", "demo", "--in-dir", "here"] and problem is None
    assert {"--root", "--in-dir", "--out-dir"} <= set(taken) and "--preset" not in taken
    _, _, problem = complete([*argv, "--no-such-flag"], ["--root", "demo"], [])
    assert "--no-such-flag" in problem
    _, _, problem = complete(["python", "-m", "evaluation.nothing"], [], [])
    assert "cannot be imported" in problem


def test_what_the_readme_of_training_says_a_step_builds_on_holds_with_what_that_builds_on():
    steps = {step.number: step for step in read_document(Path(REPOSITORY), TRAINING)}
    for step in steps.values():
        for number in step.builds_on:
            assert number < step.number and steps[number].builds_on <= step.builds_on
