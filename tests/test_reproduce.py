"""reproduce.py on small documents and modules that record what they were called with."""

import importlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

import reproduce
from common.errors import UserError
from common.inputs import Input

SCRIPT = """
'''Another script takes --preset; this one says so only here.'''
import sys, time
from pathlib import Path
from tqdm import tqdm
from common.cli import Parser, UserError, run

def parse_args(argv=None):
    parser = Parser(__doc__)
    {flags}
    return parser.parse_args(argv)

def main(argv=None):
    args = parse_args(argv)
    with (args.root / "ran.txt").open("a") as out:
        print(__spec__.name, *sys.argv[1:], file=out)
    {body}

if __name__ == "__main__":
    run(main)
"""


class Pipeline:
    """A repository in a temporary folder: reproduce.py, three documents and the modules that they name."""

    def __init__(self, folder: Path):
        self.folder = folder
        source = Path(reproduce.__file__).parent
        (folder / "common").mkdir()
        for name in (
            "reproduce.py",
            *(f"common/{module}.py" for module in ("__init__", "cli", "errors", "files", "inputs")),
        ):
            shutil.copy(source / name, folder / name)
        (folder / "demo").mkdir()
        for package in ("prep", "train"):
            (folder / package).mkdir()
            (folder / package / "__init__.py").touch()
        self.module("prep.split")
        self.module("train.stage1", flags="parser.add_seed(); parser.add_argument('--preset', choices=['demo'])")
        self.module("train.score", flags="parser.add_argument('--split'); parser.add_seed()")
        self.module("train.control", flags="parser.add_seed()")
        self.document("REPRODUCE_DATA.md", step(1, "Split", "python -m prep.split"))
        self.document(
            "REPRODUCE_TRAINING.md",
            step(1, "Baseline", "python -m train.stage1 --seed 1"),
            step(2, "Something else (control)", "python -m train.control"),
        )
        self.document(
            "REPRODUCE_EVALUATION.md",
            step(1, "Validation", "python -m train.score \\\n    --split val  # all stages"),
            step(2, "Test", "python -m train.score --split test"),
        )

    def module(self, name: str, flags: str = "pass", body: str = "pass"):
        path = self.folder.joinpath(*name.split(".")).with_suffix(".py")
        path.write_text(SCRIPT.format(flags=flags, body=body))

    def document(self, name: str, *parts: str):
        (self.folder / name).write_text("# Title\n\n## Prerequisites\n\nText.\n\n" + "\n".join(parts))

    def start(self, *flags, cwd=None):
        command = [sys.executable, str(self.folder / "reproduce.py"), *map(str, flags)]
        return subprocess.Popen(
            command, cwd=cwd or self.folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            preexec_fn=reproduce.heed_interrupts,  # these tests may themselves run as a job in the background
        )  # fmt: skip

    def run(self, *flags, status=0, cwd=None):
        process = self.start(*flags, cwd=cwd)
        process.out, process.err = process.communicate(timeout=60)
        assert process.returncode == status, process.out + process.err
        assert "Traceback" not in process.err
        return process

    def ran(self) -> list[str]:
        path = self.folder / "demo" / "ran.txt"
        return path.read_text().splitlines() if path.exists() else []

    def ran_briefly(self) -> list[str]:
        """What ran, without --root."""
        return [line.replace(" --root demo", "") for line in self.ran()]

    def forget(self):
        (self.folder / "demo" / "ran.txt").unlink()

    def log(self, name: str) -> str:
        return (self.folder / "demo" / "logs" / f"{name}.log").read_text()

    def summary(self) -> list[list[str]]:
        lines = (self.folder / "demo" / "logs" / "summary.tsv").read_text().splitlines()
        return [line.split("\t") for line in lines]

    def two_stages(self, body="pass", flags="parser.add_seed()"):
        """A training document of two stages that take --seed, with another body, and a control."""
        for name in ("stage1", "stage2"):
            self.module(f"train.{name}", flags=flags, body=body)
        self.document(
            "REPRODUCE_TRAINING.md",
            step(1, "Baseline", "python -m train.stage1"),
            step(2, "Replication", "python -m train.stage2"),
            step(3, "Something else (control)", "python -m train.control"),
        )


def step(number: int, title: str, command: str) -> str:
    return f"## {number}. {title}\n\nWhat it does.\n\n```bash\n{command}\n```\n"


@pytest.fixture
def pipeline(tmp_path):
    return Pipeline(tmp_path)


def test_steps_run_in_the_order_of_the_documents_with_root_added(pipeline):
    pipeline.run("--root", "demo")
    assert pipeline.ran() == [
        "prep.split --root demo",
        "train.stage1 --seed 1 --root demo",
        "train.score --split val --root demo",
        "train.score --split test --root demo",
    ]


def test_console_blocks_are_not_run(pipeline):
    block = "```console\n$ torchrun --nproc_per_node 2 -m prep.split\n```\n"
    pipeline.document("REPRODUCE_DATA.md", block, step(1, "Split", "python -m prep.split"), block)
    pipeline.run("--root", "demo", "--to", "split")
    assert len(pipeline.ran()) == 1


def test_control_steps_run_only_with_controls(pipeline):
    assert "control" not in pipeline.run("--list").out
    pipeline.run("--root", "demo", "--controls")
    assert [line.split()[0] for line in pipeline.ran()] == [
        "prep.split", "train.stage1", "train.control", "train.score", "train.score",
    ]  # fmt: skip


def test_flags_go_to_the_commands_that_take_them_and_win_over_the_document(pipeline):
    pipeline.run("--root", "demo", "--seed", "0", "--preset", "demo", "--overwrite")
    assert pipeline.ran() == [
        "prep.split --root demo",
        "train.stage1 --seed 1 --root demo --preset demo --seed 0",
        "train.score --split val --root demo --seed 0",
        "train.score --split test --root demo --seed 0",
    ]


def test_dry_run_prints_what_a_run_executes_and_runs_nothing(pipeline):
    commands = pipeline.run("--root", "demo", "--seed", "7", "--dry-run").out.splitlines()
    assert pipeline.ran() == []
    assert not (pipeline.folder / "demo" / "logs").exists()
    pipeline.run("--root", "demo", "--seed", "7")
    assert [f"python -m {line}" for line in pipeline.ran()] == commands


def test_a_flag_value_that_a_script_refuses_stops_before_the_first_step(pipeline):
    error = pipeline.run("--root", "demo", "--preset", "tiny", status=2).err
    assert "REPRODUCE_TRAINING.md, step 1 (Baseline)" in error and "invalid choice: 'tiny'" in error
    assert pipeline.ran() == []


def test_root_is_taken_from_the_folder_of_the_user(pipeline, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "mine").mkdir()
    pipeline.run("--root", "mine", "--to", "1", cwd=elsewhere)
    assert (elsewhere / "mine" / "ran.txt").read_text() == f"prep.split --root {elsewhere / 'mine'}\n"
    assert (elsewhere / "mine" / "logs" / "01_split.log").exists()


def test_a_root_that_is_not_there_is_refused(pipeline):
    assert "--root dmeo: no such folder" in pipeline.run("--root", "dmeo", status=2).err
    assert not (pipeline.folder / "dmeo").exists()


def test_a_failing_step_stops_the_run_and_says_how_to_go_on(pipeline):
    pipeline.module("train.stage1", flags="parser.add_seed()", body="raise UserError('tiles.tsv holds no tile')")
    failed = pipeline.run("--root", "demo", "--seed", "3", status=2)
    assert "step 2 of 4, stage1, ended with exit status 2" in failed.err
    assert "error: tiles.tsv holds no tile" in failed.err
    assert "demo/logs/seed3/02_stage1.log" in failed.err
    assert "python reproduce.py --root demo --seed 3 --resume\n" in failed.err
    assert len(pipeline.ran()) == 2

    pipeline.module("train.stage1", flags="parser.add_seed()")
    pipeline.run("--root", "demo", "--seed", "3", "--from", "stage1")
    assert [line.split()[0] for line in pipeline.ran()[2:]] == ["train.stage1", "train.score", "train.score"]


RESUMABLE = (
    "parser.add_seed(); g = parser.add_mutually_exclusive_group();"
    "[g.add_argument(flag, action='store_true') for flag in ('--overwrite', '--resume')]"
)


def test_an_interrupted_stage_is_resumed_and_what_comes_after_it_replaces_what_an_earlier_run_left(pipeline):
    pipeline.two_stages(flags=RESUMABLE)
    pipeline.run("--root", "demo")
    pipeline.module("train.stage1", flags=RESUMABLE, body="raise KeyboardInterrupt")
    hint = "python reproduce.py --root demo --overwrite --resume"
    assert f"{hint}\n" in pipeline.run("--root", "demo", "--overwrite", status=130).err
    assert [row[3] for row in pipeline.summary()] == ["exit_status", "0", "130", "outdated", "outdated", "outdated"]
    pipeline.module("train.stage1", flags=RESUMABLE)
    pipeline.forget()
    pipeline.run(*hint.split()[2:])
    assert pipeline.ran_briefly() == [
        "train.stage1 --resume", "train.stage2 --overwrite", "train.score --split val", "train.score --split test",
    ]  # fmt: skip


def test_from_with_resume_continues_the_stage_that_is_named(pipeline):
    pipeline.two_stages(flags=RESUMABLE)
    pipeline.run("--root", "demo", "--from", "stage1", "--to", "stage1", "--resume")
    assert pipeline.ran_briefly() == ["train.stage1 --resume"]


def test_a_defect_in_a_step_exits_1_and_shows_its_traceback_from_the_log(pipeline):
    pipeline.module("prep.split", body="1 / 0")
    process = pipeline.start("--root", "demo")
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "    ZeroDivisionError: division by zero" in err and 'reproduce.py", line' not in err


def test_a_killed_step_is_named_with_its_signal(pipeline):
    pipeline.module("prep.split", body="import os; os.kill(os.getpid(), 9)")
    assert "signal SIGKILL" in pipeline.run("--root", "demo", status=1).err


def test_from_and_to_take_names_and_numbers(pipeline):
    pipeline.run("--root", "demo", "--from", "2", "--to", "score-val")
    assert [line.split()[0] for line in pipeline.ran()] == ["train.stage1", "train.score"]


def test_an_unknown_step_is_refused_with_the_names_that_are_near(pipeline):
    error = pipeline.run("--from", "stage11", status=2).err
    assert "--from stage11" in error and "Did you mean stage1?" in error and "score-val, score-test" in error
    assert "--to 9: no such step" in pipeline.run("--to", "9", status=2).err


def test_from_behind_to_is_refused(pipeline):
    assert "nothing to run" in pipeline.run("--from", "4", "--to", "2", status=2).err


def test_a_step_has_one_number_with_and_without_controls(pipeline):
    assert all("[4/5] score-val" in pipeline.run("--list", *flags).out for flags in ([], ["--controls"]))
    assert "control is a control. Give --controls as well" in pipeline.run("--from", "3", status=2).err


def test_a_module_used_twice_gives_two_names(pipeline):
    assert [s.name for s in reproduce.read_steps(pipeline.folder)] == [
        "split", "stage1", "control", "score-val", "score-test",
    ]  # fmt: skip


def test_the_same_command_twice_is_refused(pipeline):
    pipeline.document("REPRODUCE_DATA.md", *(step(n, "Split", "python -m prep.split") for n in (1, 2)))
    with pytest.raises(UserError, match="2 steps have the same command"):
        reproduce.read_steps(pipeline.folder)


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (step(1, "A", "python -m prep.split") + step(3, "B", "python -m prep.split"), "found step 3 where step 2"),
        (step(2, "A", "python -m prep.split"), "found step 2 where step 1"),
        ("```bash\npython -m prep.split\n```\n", "bash block outside the numbered steps"),
        (step(1, "A", "python -m prep.split") + "## Notes\n```bash\npython -m prep.split\n```\n", "outside the"),
        (step(1, "A", "python -m prep.split") + "```bash\npython -m prep.split\n```\n", "second bash block"),
        ("## 1. A\n\nNothing.\n\n" + step(2, "B", "python -m prep.split"), r"step 1 \(A\) has no bash block"),
        ("## 1. A\n\nNothing.\n", r"step 1 \(A\) has no bash block"),
        (step(1, "A", "python -m prep.split\npython -m train.score"), "holds one command"),
        (step(1, "A", "python -m prep.split > out.txt"), "without other shell syntax"),
        (step(1, "A", "torchrun -m prep.split"), "of the form python -m"),
        (step(1, "A", "python -m prep.split --name 'open"), "REPRODUCE_DATA.md: .*'open"),
        (step(1, "A", "python -m prep.spilt"), r"step 1 \(A\): there is no module prep.spilt"),
        ("## 1. A\n```bash\npython -m prep.split\n", "never closed"),
        ("Nothing to do.\n", "there is no numbered step"),
    ],
)
def test_a_document_of_another_form_is_refused(pipeline, document, message):
    pipeline.document("REPRODUCE_DATA.md", document)
    with pytest.raises(UserError, match=message):
        reproduce.read_steps(pipeline.folder)


def test_a_script_that_cannot_be_imported_is_named_with_its_step(pipeline):
    (pipeline.folder / "prep" / "split.py").write_text("import no_such_package\n")
    error = pipeline.run("--root", "demo", status=2).err
    assert "REPRODUCE_DATA.md, step 1 (Split)" in error and "No module named 'no_such_package'" in error


def test_the_log_holds_command_time_all_output_and_the_last_state_of_a_bar(pipeline):
    body = "print('first'); [None for _ in tqdm(range(3), desc='Tiles', mininterval=0)]; print('42 tiles')"
    pipeline.module("prep.split", body=body)
    out = pipeline.run("--root", "demo", "--to", "1").out
    log = pipeline.log("01_split")
    lines = log.splitlines()
    assert lines[0] == "# python -m prep.split --root demo"
    assert lines[1].startswith("# begun 20")
    assert lines[2] == "first" and lines[3].startswith("Tiles: 100%") and lines[4] == "42 tiles"
    assert lines[5].startswith("# exit status 0 after ")
    assert "\r" not in log and log.count("Tiles:") == 1
    assert "first\n" in out and "42 tiles\n" in out and "Tiles" not in out


def test_progress_names_the_step_and_shows_its_last_lines_and_its_warnings(pipeline):
    body = "print('warning: few blocks'); [print('line', n) for n in range(9)]"
    pipeline.module("train.stage1", flags="parser.add_seed()", body=body)
    lines = pipeline.run("--root", "demo").out.splitlines()
    begin = lines.index("[2/4] stage1  (elapsed 0:00)")
    shown = [line.strip() for line in lines[begin + 1 : begin + 5]]
    assert shown == ["warning: few blocks", "line 6", "line 7", "line 8"]


def test_summary_has_time_status_and_memory_of_each_step_and_survives_a_restart(pipeline):
    pipeline.module("train.stage1", flags="parser.add_seed()", body="held = bytearray(120 * 2**20); sys.exit(1)")
    pipeline.run("--root", "demo", status=1)
    pipeline.module("train.stage1", flags="parser.add_seed()", body="held = bytearray(120 * 2**20); time.sleep(0.5)")
    pipeline.run("--root", "demo", "--from", "stage1")
    rows = pipeline.summary()
    assert rows[0] == ["step", "seed", "seconds", "exit_status", "peak_memory_mb", "command"]
    assert [(row[0], row[1], row[3]) for row in rows[1:]] == [
        ("split", "", "0"), ("stage1", "42", "0"), ("score-val", "", "0"), ("score-test", "", "0"),
    ]  # fmt: skip
    assert rows[1][5] == "python -m prep.split --root demo"
    assert 0.5 <= float(rows[2][2]) < 10
    assert 120 < int(rows[2][4]) < 300 and 0 < int(rows[1][4]) < 120


def test_the_end_names_the_results_and_the_report_of_this_run(pipeline):
    body = """results = args.root / "evaluation" / "evaluation_results" / "val"
    results.mkdir(parents=True, exist_ok=True)
    (results / "metrics_summary.txt").write_text(f"ranked {args.split}")
    (results / "report.html").touch()"""
    pipeline.module("train.score", flags="parser.add_argument('--split')", body=body)
    out = pipeline.run("--root", "demo").out
    assert "4 steps in 0:0" in out and "metrics_summary.txt\n\nranked test" in out
    assert out.splitlines()[-1] == "Report: demo/evaluation/evaluation_results/val/report.html"
    out = pipeline.run("--root", "demo", "--to", "split", "--overwrite").out
    assert "ranked" not in out and "Report" not in out


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_stops_the_step_with_its_workers_and_says_how_to_go_on(pipeline, ending):
    worker = "import subprocess; w = subprocess.Popen(['sleep', '60'])"
    body = f"{worker}; (args.root / 'pid').write_text(str(w.pid)); time.sleep(60)"
    pipeline.module("train.stage1", flags="parser.add_seed()", body=body)
    process = pipeline.start("--root", "demo")
    pid = pipeline.folder / "demo" / "pid"
    _wait(lambda: pid.exists() and pid.read_text())
    process.send_signal(ending)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "python reproduce.py --root demo --resume\n" in err and "Traceback" not in err
    assert "# exit status 130" in pipeline.log("seed42/02_stage1")
    _wait(lambda: not _alive(int(pid.read_text())))


def test_seeds_are_trained_one_after_the_other_and_everything_else_runs_once_with_the_first(pipeline):
    pipeline.two_stages()
    commands = pipeline.run("--root", "demo", "--seeds", "7", "3", "--controls", "--dry-run").out.splitlines()
    out = pipeline.run("--root", "demo", "--seeds", "7", "3", "--controls").out
    assert pipeline.ran_briefly() == [
        "prep.split",
        *(f"train.{name} --seed 7" for name in ("stage1", "stage2", "control")),
        *(f"train.{name} --seed 3" for name in ("stage1", "stage2", "control")),
        "train.score --split val --seed 7",
        "train.score --split test --seed 7",
    ]
    assert [f"python -m {line}" for line in pipeline.ran()] == commands
    assert "[5/9] stage1 seed 3  (elapsed" in out
    logs = pipeline.folder / "demo" / "logs"
    assert sorted(str(path.relative_to(logs)) for path in logs.rglob("*.log")) == [
        "01_split.log", "05_score-val.log", "06_score-test.log",
        *(f"seed{seed}/{name}.log" for seed in "37" for name in ("02_stage1", "03_stage2", "04_control")),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--seed", "1", "--seeds", "1", "2"], "not allowed with"),
        (["--seeds", "1", "2", "1"], "--seeds: 1 2 1 holds a seed twice"),
        (["--seeds", "1", "two"], "'two' is not a whole number"),
        (["--jobs", "0"], "--jobs: '0' is not a whole number above 0"),
    ],
)
def test_seeds_and_jobs_that_mean_nothing_are_refused(pipeline, flags, message):
    assert message in pipeline.run(*flags, status=2).err
    assert pipeline.ran() == []


def test_a_training_step_that_takes_no_seed_is_refused_with_several(pipeline):
    pipeline.two_stages(flags="pass")
    error = pipeline.run("--root", "demo", "--seeds", "1", "2", status=2).err
    assert "step 1 (Baseline): it takes no --seed" in error


EVENTS = """def event(what):
        with (args.root / 'events.txt').open('a') as out:
            print(what, __spec__.name[6:], args.seed, file=out)
    def events():
        return (args.root / 'events.txt').read_text().splitlines()
    event('begin')
    {between}
    event('end')"""


def events(pipeline) -> list[tuple[str, str, str]]:
    return [tuple(line.split()) for line in (pipeline.folder / "demo" / "events.txt").read_text().splitlines()]


def test_two_seeds_run_side_by_side_and_the_steps_of_each_in_order(pipeline):
    meet = """until = time.monotonic() + 20
    while 'stage2' in __spec__.name and f'begin stage2 {3 - args.seed}' not in events():
        assert time.monotonic() < until, 'waited in vain for the other seed'
        time.sleep(0.02)"""
    pipeline.two_stages(EVENTS.format(between=meet))
    pipeline.run("--root", "demo", "--seeds", "1", "2", "--jobs", "2")
    seen, running, most = events(pipeline), set(), 0
    for what, name, seed in seen:
        if what == "begin":
            assert seed not in {other for _, other in running}
            running.add((name, seed))
        else:
            running.remove((name, seed))
        most = max(most, len(running))
    assert most == 2 and len(seen) == 8
    for seed in "12":
        assert [(what, name) for what, name, other in seen if other == seed] == [
            ("begin", "stage1"), ("end", "stage1"), ("begin", "stage2"), ("end", "stage2"),
        ]  # fmt: skip
    assert [line.split()[0] for line in pipeline.ran()[:1] + pipeline.ran()[-2:]] == [
        "prep.split", "train.score", "train.score",
    ]  # fmt: skip


def test_independent_steps_of_one_seed_run_side_by_side(pipeline):
    meet = """until = time.monotonic() + 20
    while not {'begin stage1 1', 'begin stage2 1'} <= set(events()):
        assert time.monotonic() < until, 'waited in vain for the other step'
        time.sleep(0.02)"""
    pipeline.two_stages(EVENTS.format(between=meet))
    path = pipeline.folder / "REPRODUCE_TRAINING.md"
    path.write_text(path.read_text().replace("What it does.", "Builds on no other step.", 2))
    pipeline.run("--root", "demo", "--seeds", "1", "--jobs", "2")
    assert len(events(pipeline)) == 4


def test_each_training_says_that_it_builds_on_the_steps_whose_files_it_takes():
    """Of the default paths of its flags those below model_weights/ and artifacts/seed, which other trainings write."""
    steps = reproduce.read_document(reproduce.REPOSITORY, "REPRODUCE_TRAINING.md")
    made_by, takes = {}, {}
    for one in steps:
        args = vars(importlib.import_module(one.module).parse_args([]))
        output = args.get("out_dir") or args["out"]
        made_by[output] = one.number
        takes[one.number] = [source.path for source in args.values() if isinstance(source, Input)]
    used = {
        number: {made_by[out] for path in paths for out in made_by if out == path or out in path.parents}
        for number, paths in takes.items()
    }
    assert used[9] == {1, 4, 7} and used[4] == {3}
    for one in steps:
        assert used[one.number] <= one.builds_on, one
        direct = used[one.number].union(*(steps[n - 1].builds_on for n in used[one.number]))
        assert one.builds_on == direct, one


def test_a_free_place_goes_to_the_idle_seed_with_most_steps_left(pipeline):
    controls = (
        step(n, f"Control {n} (control)", f"python -m train.{name}") for n, name in [(2, "control"), (3, "score")]
    )
    pipeline.document("REPRODUCE_TRAINING.md", step(1, "Baseline", "python -m train.stage1"), *controls)
    steps = [one for one in reproduce.read_steps(pipeline.folder) if one.document == reproduce.RUN_PER_SEED]
    waiting, running, order = reproduce.plan(steps, ["1", "2", "3"]), [], []
    while waiting or running:
        while run := reproduce.next_run(waiting, running, 2):
            waiting.remove(run)
            running.append(SimpleNamespace(run=run))
            order.append((run.step.number, run.seed))
        assert len(running) <= 2
        running.pop(0)  # the one that began first ends first
    assert order == [(number, seed) for number in (1, 2, 3) for seed in "123"]


def training_steps(pipeline, *lines: str) -> list[reproduce.Step]:
    """The steps of a training document, each with one of ``lines`` in its text."""
    parts = [
        step(n, f"Part {n}", f"python -m train.score --split {n}").replace("\n\n", f"\n\n{line}\n\n", 1)
        for n, line in enumerate(lines, 1)
    ]
    pipeline.document("REPRODUCE_TRAINING.md", *parts)
    return [one for one in reproduce.read_steps(pipeline.folder) if one.document == reproduce.RUN_PER_SEED]


def test_a_step_waits_for_what_it_says_it_builds_on_and_for_what_that_builds_on(pipeline):
    lines = (
        "Builds on no other step.",
        "",
        "Builds on no other step.",
        "Builds on step 3. More.",
        "Builds on steps 1 and 4.",
    )
    steps = training_steps(pipeline, *lines)
    assert [one.builds_on for one in steps] == [set(), None, set(), {3}, {1, 3, 4}]
    plan = reproduce.plan(steps, ["1"])
    needed = [[other.step.number for other in plan if reproduce.needs(run.step, "1", other)] for run in plan]
    assert needed == [[], [1], [], [3], [1, 3, 4]]
    assert not reproduce.needs(steps[4], "2", plan[3])
    first = reproduce.next_run(plan, [], 2)
    assert first.step.number == 1 and reproduce.next_run(plan[1:], [SimpleNamespace(run=first)], 2).step.number == 3


@pytest.mark.parametrize("line", ["Builds on step 2.", "Builds on steps 0 and 1.", "Builds on the teacher."])
def test_a_step_that_builds_on_itself_or_on_none_is_refused(pipeline, line):
    with pytest.raises(UserError, match=f"REPRODUCE_TRAINING.md: line [0-9]+: found '{line}'"):
        training_steps(pipeline, "Builds on no other step.", line)


def test_steps_side_by_side_share_the_cores_unless_the_user_says_otherwise(pipeline, monkeypatch):
    pipeline.two_stages("import os; print('threads', os.environ.get('OMP_NUM_THREADS'))")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    pipeline.run("--root", "demo", "--seeds", "1", "2", "--to", "stage1", "--jobs", "2")
    assert f"threads {max(1, reproduce.cpu_count() // 2)}\n" in pipeline.log("seed2/02_stage1")
    pipeline.run("--root", "demo", "--seed", "1", "--to", "stage1", "--overwrite")
    assert "threads None\n" in pipeline.log("seed1/02_stage1")
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    pipeline.run("--root", "demo", "--seeds", "1", "2", "--to", "stage1", "--jobs", "2", "--overwrite")
    assert "threads 5\n" in pipeline.log("seed1/02_stage1")


def test_resume_skips_what_was_finished_and_adds_seeds_and_controls(pipeline):
    pipeline.two_stages(flags=RESUMABLE)
    pipeline.run("--root", "demo")  # seed 42, the default
    pipeline.forget()
    out = pipeline.run("--root", "demo", "--seeds", "42", "43", "--controls", "--jobs", "1", "--resume").out
    assert pipeline.ran_briefly() == [
        "train.control --seed 42",
        "train.stage1 --seed 43 --resume",
        "train.stage2 --seed 43 --resume",
        "train.control --seed 43",
        "train.score --split val --seed 42",
        "train.score --split test --seed 42",
    ]
    assert "Skipped 3 steps that were finished before\n" in out and "[4/9] control seed 42" in out
    pipeline.forget()
    out = pipeline.run("--root", "demo", "--seeds", "42", "43", "--controls", "--workers", "0", "--resume").out
    assert pipeline.ran() == [] and "nothing is left to run" in out
    assert [(row[0], row[1]) for row in pipeline.summary()[1:]] == [
        ("split", ""), ("stage1", "42"), ("stage2", "42"), ("control", "42"),
        ("stage1", "43"), ("stage2", "43"), ("control", "43"), ("score-val", ""), ("score-test", ""),
    ]  # fmt: skip


def test_resume_runs_what_builds_on_a_step_that_runs(pipeline):
    pipeline.two_stages()
    pipeline.run("--root", "demo", "--seeds", "1", "2")
    pipeline.run("--root", "demo", "--seeds", "1", "--from", "stage1", "--to", "stage1", "--overwrite")
    pipeline.forget()
    refused = pipeline.run("--root", "demo", "--seeds", "1", "2", "--from", "split", status=2).err
    assert "stage1 of seed 1 was finished by" in refused and "with --resume" in refused
    assert pipeline.ran() == []
    pipeline.run("--root", "demo", "--seeds", "1", "2", "--resume")
    assert pipeline.ran_briefly() == [
        "train.stage2 --seed 1", "train.score --split val --seed 1", "train.score --split test --seed 1",
    ]  # fmt: skip


def test_resume_runs_a_step_again_whose_command_changed_where_it_may_replace_its_output(pipeline):
    pipeline.two_stages(flags=f"{RESUMABLE}; parser.add_argument('--preset')")
    pipeline.run("--root", "demo", "--preset", "laptop")
    pipeline.forget()
    error = pipeline.run("--root", "demo", "--preset", "demo", "--resume", status=2).err
    assert "stage1 of seed 42 was finished by\n    python -m train.stage1 --root demo --preset laptop\n" in error
    assert "    python -m train.stage1 --root demo --preset demo\n" in error and "--overwrite" in error
    assert pipeline.ran() == []
    pipeline.run("--root", "demo", "--preset", "demo", "--resume", "--overwrite")
    assert pipeline.ran_briefly() == [
        "train.stage1 --preset demo --overwrite", "train.stage2 --preset demo --overwrite",
        "train.score --split val", "train.score --split test",
    ]  # fmt: skip


def test_a_step_that_nobody_saw_end_is_continued(pipeline):
    pipeline.two_stages("(args.root / 'began').touch(); time.sleep(60)", flags=RESUMABLE)
    process = pipeline.start("--root", "demo", "--overwrite")
    _wait(lambda: (pipeline.folder / "demo" / "began").exists())
    process.kill()
    process.communicate()
    assert pipeline.summary()[2][3] == "running"
    pipeline.two_stages(flags=RESUMABLE)
    pipeline.forget()
    pipeline.run("--root", "demo", "--overwrite", "--resume")
    assert pipeline.ran_briefly()[0] == "train.stage1 --resume"


def test_one_seed_fails_and_the_other_ends_its_step(pipeline):
    between = """while len(events()) < 2:
        time.sleep(0.02)
    if args.seed == 1:
        raise UserError('no memory left')
    time.sleep(0.5)"""
    pipeline.two_stages(EVENTS.format(between=between))
    failed = pipeline.run("--root", "demo", "--seeds", "1", "2", "--jobs", "2", status=2)
    assert ("end", "stage1", "2") in events(pipeline) and not any(name == "stage2" for _, name, _ in events(pipeline))
    assert "waited for: stage1 seed 2" in failed.out
    assert "stage1 seed 1, ended with exit status 2" in failed.err and "error: no memory left" in failed.err
    assert failed.err.count("To go on from here") == 1
    assert [(row[0], row[1], row[3]) for row in pipeline.summary()[1:]] == [
        ("split", "", "0"), ("stage1", "1", "2"), ("stage1", "2", "0"),
    ]  # fmt: skip
    pipeline.two_stages()
    pipeline.forget()
    pipeline.run("--root", "demo", "--seeds", "1", "2", "--jobs", "2", "--resume")
    assert sorted(pipeline.ran_briefly()[:3]) == [
        "train.stage1 --seed 1", "train.stage2 --seed 1", "train.stage2 --seed 2",
    ]  # fmt: skip


def test_an_interrupt_stops_all_that_run(pipeline):
    body = "import os; (args.root / f'pid{args.seed}').write_text(str(os.getpid())); time.sleep(60)"
    pipeline.two_stages(body)
    process = pipeline.start("--root", "demo", "--seeds", "1", "2", "--jobs", "2")
    pids = [pipeline.folder / "demo" / f"pid{seed}" for seed in (1, 2)]
    _wait(lambda: all(pid.exists() and pid.read_text() for pid in pids))
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "--seeds 1 2 --jobs 2 --resume\n" in err and "Traceback" not in err
    assert all(f"stage1 seed {seed}, ended with exit status 130" in err for seed in (1, 2))
    assert not any(_alive(int(pid.read_text())) for pid in pids)
    assert [row[3] for row in pipeline.summary()[1:]] == ["0", "130", "130"]


def test_a_step_that_ends_its_work_in_spite_of_an_interrupt_has_finished(pipeline):
    body = "import signal; signal.signal(signal.SIGINT, lambda *_: None); (args.root / 'began').touch(); time.sleep(1)"
    pipeline.module("train.stage1", flags="parser.add_seed()", body=body)
    process = pipeline.start("--root", "demo")
    _wait(lambda: (pipeline.folder / "demo" / "began").exists())
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == 130
    assert [row[3] for row in pipeline.summary()[1:]] == ["0", "0"]


def _wait(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    state = Path(f"/proc/{pid}/stat")
    return not state.exists() or state.read_text().rpartition(")")[2].split()[0] != "Z"  # a zombie does not run


def test_a_root_on_which_another_run_works_is_refused(pipeline):
    pipeline.module("prep.split", body="time.sleep(60)")
    first = pipeline.start("--root", "demo")
    lock = pipeline.folder / "demo/.logs.lock"
    until = time.monotonic() + 30
    while not (lock.exists() and lock.read_text()) and time.monotonic() < until:
        time.sleep(0.05)
    second = pipeline.run("--root", "demo", status=2)
    assert f"is being written by another run (process {first.pid} on " in second.err
    first.send_signal(signal.SIGINT)
    first.communicate()
    assert first.returncode == 130 and not lock.exists()
