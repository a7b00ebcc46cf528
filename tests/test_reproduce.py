"""reproduce.py runs steps in order with their flags, logs them, and stops where one fails or is interrupted."""

import signal
import time

import pytest

from tests.small_pipeline import alive, step, wait


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


def test_rivals_run_only_with_rivals_and_controls_without_them(pipeline):
    pipeline.module("train.rival", flags="parser.add_seed()")
    pipeline.document(
        "REPRODUCE_TRAINING.md",
        step(1, "Baseline", "python -m train.stage1"),
        step(2, "Something else (control)", "python -m train.control"),
        step(3, "Instead of it (rival)", "python -m train.rival"),
    )
    for flags, marked in (
        ((), []),
        (("--controls",), ["control"]),
        (("--rivals",), ["rival"]),
        (("--rivals", "--controls"), ["control", "rival"]),
    ):
        listed = pipeline.run("--list", *flags).out
        assert [name for name in ("control", "rival") if f"] {name}: " in listed] == marked
        commands = pipeline.run("--root", "demo", "--dry-run", *flags).out.splitlines()
        assert [line.split()[2] for line in commands[1:-2]] == [f"train.{name}" for name in ("stage1", *marked)]
        assert "[5/6] score-val" in listed  # a step has one number
    assert "rival is a rival. Give --rivals as well" in pipeline.run("--from", "rival", "--controls", status=2).err
    assert "control is a control. Give --controls" in pipeline.run("--to", "control", "--rivals", status=2).err
    assert "rival" not in pipeline.run("--from", "no_such_step", "--controls", status=2).err
    pipeline.run("--root", "demo", "--rivals", "--from", "rival", "--to", "rival")
    assert pipeline.ran() == ["train.rival --root demo"]


def test_flags_go_to_the_commands_that_take_them_and_win_over_the_document(pipeline):
    pipeline.run("--root", "demo", "--seed", "0", "--preset", "demo", "--overwrite")
    assert pipeline.ran() == [
        "prep.split --root demo",
        "train.stage1 --seed 1 --root demo --preset demo --seed 0",
        "train.score --split val --root demo --seed 0",
        "train.score --split test --root demo --seed 0",
    ]


def test_bands_go_to_the_commands_that_take_them_word_by_word(pipeline):
    pipeline.module("prep.split", flags="parser.add_argument('--bands', type=int, nargs='+')")
    pipeline.module("train.score", flags="parser.add_argument('--split'); parser.add_argument('--show', nargs=3)")
    pipeline.run("--root", "demo", "--bands", "4", "1", "2", "3", "--show", "1", "2", "3")
    assert pipeline.ran()[0] == "prep.split --root demo --bands 4 1 2 3"
    assert pipeline.ran()[-1] == "train.score --split test --root demo --show 1 2 3"
    assert "bands" not in pipeline.ran()[1]


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


def test_a_defect_in_a_step_exits_1_and_shows_its_traceback_from_the_log(pipeline):
    pipeline.module("prep.split", body="1 / 0")
    process = pipeline.start("--root", "demo")
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "    ZeroDivisionError: division by zero" in err and 'reproduce.py", line' not in err


def test_a_killed_step_is_named_with_its_signal(pipeline):
    pipeline.module("prep.split", body="import os; os.kill(os.getpid(), 9)")
    assert "signal SIGKILL" in pipeline.run("--root", "demo", status=1).err


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
    begin = lines.index("[2/4] stage1: Baseline  (elapsed 0:00)")
    shown = [line.strip() for line in lines[begin + 1 : begin + 5]]
    assert shown == ["warning: few blocks", "line 6", "line 7", "line 8"]


def test_summary_has_time_status_and_memory_of_each_step_and_survives_a_restart(pipeline):
    pipeline.module("train.stage1", flags="parser.add_seed()", body="held = bytearray(120 * 2**20); sys.exit(1)")
    pipeline.run("--root", "demo", status=1)
    pipeline.module("train.stage1", flags="parser.add_seed()", body="held = bytearray(120 * 2**20); time.sleep(0.5)")
    pipeline.run("--root", "demo", "--from", "stage1")
    rows = pipeline.summary()
    assert rows[0] == ["step", "fold", "seed", "seconds", "exit_status", "peak_memory_mb", "command"]
    assert [(row[0], row[2], row[4]) for row in rows[1:]] == [
        ("split", "", "0"), ("stage1", "42", "0"), ("score-val", "", "0"), ("score-test", "", "0"),
    ]  # fmt: skip
    assert rows[1][6] == "python -m prep.split --root demo"
    assert 0.5 <= float(rows[2][3]) < 10
    assert 120 < int(rows[2][5]) < 300 and 0 < int(rows[1][5]) < 120


def test_the_end_names_the_results_and_the_report_of_this_run(pipeline):
    body = """results = args.root / "evaluation" / "evaluation_results" / "val"
    results.mkdir(parents=True, exist_ok=True)
    (results / "metrics_summary.txt").write_text(f"ranked {args.split}")
    (results / "report.html").touch()"""
    pipeline.module("train.score", flags="parser.add_argument('--split')", body=body)
    out = pipeline.run("--root", "demo").out
    assert "4 steps in 0:0" in out and "\nranked test\n" in out and "metrics_summary.txt\n" in out
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
    wait(lambda: pid.exists() and pid.read_text())
    process.send_signal(ending)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "python reproduce.py --root demo --resume\n" in err and "Traceback" not in err
    assert "# exit status 130" in pipeline.log("seed42/02_stage1")
    wait(lambda: not alive(int(pid.read_text())))


def test_a_step_that_ends_its_work_in_spite_of_an_interrupt_has_finished(pipeline):
    body = "import signal; signal.signal(signal.SIGINT, lambda *_: None); (args.root / 'began').touch(); time.sleep(1)"
    pipeline.module("train.stage1", flags="parser.add_seed()", body=body)
    process = pipeline.start("--root", "demo")
    wait(lambda: (pipeline.folder / "demo" / "began").exists())
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == 130
    assert [row[4] for row in pipeline.summary()[1:]] == ["0", "0"]


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
