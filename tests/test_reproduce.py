"""reproduce.py on small documents and modules that record what they were called with."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import reproduce
from common.cli import UserError

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
        for name in ("reproduce.py", "common/__init__.py", "common/cli.py"):
            shutil.copy(source / name, folder / name)
        (folder / "demo").mkdir()
        for package in ("prep", "train"):
            (folder / package).mkdir()
            (folder / package / "__init__.py").touch()
        self.module("prep.split")
        self.module("train.stage1", flags="parser.add_seed(); parser.add_argument('--preset', choices=['demo'])")
        self.module("train.score", flags="parser.add_argument('--split'); parser.add_seed()")
        self.module("train.control")
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

    def log(self, name: str) -> str:
        return (self.folder / "demo" / "logs" / f"{name}.log").read_text()


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
    assert "demo/logs/02_stage1.log" in failed.err
    assert "python reproduce.py --root demo --seed 3 --from stage1\n" in failed.err
    assert len(pipeline.ran()) == 2

    pipeline.module("train.stage1", flags="parser.add_seed()")
    pipeline.run("--root", "demo", "--seed", "3", "--from", "stage1")
    assert [line.split()[0] for line in pipeline.ran()[2:]] == ["train.stage1", "train.score", "train.score"]


def test_an_interrupted_stage_is_resumed_and_the_steps_after_it_are_not(pipeline):
    resumable = "g = parser.add_mutually_exclusive_group()"
    resumable += "; [g.add_argument(flag, action='store_true') for flag in ('--overwrite', '--resume')]"
    pipeline.module("train.score", flags=f"parser.add_argument('--split'); {resumable}")
    flags = f"parser.add_seed(); {resumable}"
    pipeline.module("train.stage1", flags=flags, body="raise KeyboardInterrupt")
    hint = "python reproduce.py --root demo --overwrite --from stage1 --resume"
    assert f"{hint}\n" in pipeline.run("--root", "demo", "--overwrite", status=130).err
    pipeline.module("train.stage1", flags=flags)
    pipeline.run(*hint.split()[2:])
    assert pipeline.ran()[2:] == [
        "train.stage1 --seed 1 --root demo --resume",
        "train.score --split val --root demo --overwrite",
        "train.score --split test --root demo --overwrite",
    ]


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
    assert "nothing to run" in pipeline.run("--from", "3", "--to", "2", status=2).err


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
    lines = (pipeline.folder / "demo" / "logs" / "summary.tsv").read_text().splitlines()
    rows = [line.split("\t") for line in lines]
    assert rows[0] == ["step", "seconds", "exit_status", "peak_memory_mb"]
    assert [(row[0], row[2]) for row in rows[1:]] == [
        ("split", "0"), ("stage1", "0"), ("score-val", "0"), ("score-test", "0"),
    ]  # fmt: skip
    assert 0.5 <= float(rows[2][1]) < 10
    assert 120 < int(rows[2][3]) < 300 and 0 < int(rows[1][3]) < 120


def test_the_end_names_the_results_of_this_run(pipeline):
    body = """results = args.root / "evaluation" / "evaluation_results" / "val" / "metrics_summary.txt"
    results.parent.mkdir(parents=True, exist_ok=True)
    results.write_text(f"ranked {args.split}")"""
    pipeline.module("train.score", flags="parser.add_argument('--split')", body=body)
    out = pipeline.run("--root", "demo").out
    assert "4 steps in 0:0" in out and "metrics_summary.txt\n\nranked test" in out
    assert "ranked" not in pipeline.run("--root", "demo", "--to", "stage1").out


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
    assert "python reproduce.py --root demo --from stage1" in err and "Traceback" not in err
    assert "# exit status 130" in pipeline.log("02_stage1")
    _wait(lambda: not _alive(int(pid.read_text())))


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
