"""Whatever is killed leaves what can be gone on from."""

import signal

import pytest

from common.checkpoints import Checkpoint
from common.errors import UserError
from data_prep import filter_oem_rural
from tests.conftest import ENCODER, train
from tests.faults.harness import refusal_problem, wait_for
from tests.faults.interrupted_steps import STEPS, kill_steps
from tests.faults.killed_runs import RUN, kill_problem, outcome, resume_problem
from tests.helpers import THREE_CLASSES, made, make_oem, prepare_root, quiet
from training import train_stage1_baseline, train_stage3_difficulty
from training.engine.run_folder import RUN_FILES

STAGE1 = "training.train_stage1_baseline"


@pytest.fixture(scope="module")
def whole(script, prepared, tmp_path_factory):
    """What an uninterrupted run of stage 1 leaves."""
    out_dir = tmp_path_factory.mktemp("whole") / "out"
    assert script(STAGE1, "--root", prepared, *RUN, "--out-dir", out_dir).status == 0
    return outcome(out_dir)


@pytest.mark.parametrize("name", ["split_biodiversity", "relabel_oem"])
def test_a_data_step_that_is_killed_leaves_the_old_output_or_none_and_can_be_run_again(
    script, prepared, tmp_path, name
):
    step = [step for step in STEPS if step.name == name]
    kills = list(kill_steps(script, prepared, tmp_path, tuple(step), points=3, seed=1))
    assert len(kills) >= 6 and not [kill for kill in kills if kill[2]]


@pytest.mark.parametrize("spec", ["step@4", "validation@2", "kill@9", "kill@18", "kill@23", "kill@25", "kill@38"])
def test_a_training_that_is_killed_and_resumed_ends_as_the_one_that_was_not(script, prepared, tmp_path, whole, spec):
    """In the first checkpoint changes 6 to 15 write beside the places, 16 to 20 remove old files, 21 to 25 rename."""
    flags = ("--root", prepared, *RUN, "--out-dir", tmp_path / "out")
    assert kill_problem(script, STAGE1, flags, spec, whole, tmp_path / "out") is None


@pytest.mark.parametrize(("ending", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_training_that_is_stopped_saves_and_says_how_to_go_on(script, prepared, tmp_path, whole, ending, status):
    flags = ("--root", prepared, *RUN, "--out-dir", tmp_path / "out")
    ended = script("tests.faults.fault", f"{ending.name}@3", STAGE1, *flags)
    assert ended.status == status and "Traceback" not in ended.err
    assert "Stopped at step 3. Continue with: python -m" in ended.err and "--resume" in ended.err
    assert Checkpoint.load(made(tmp_path / "out/last.pt")).metadata["step"] == 3
    assert resume_problem(script, STAGE1, flags, whole, tmp_path / "out") is None


def test_a_data_step_that_is_ended_clears_away_what_it_began(script, prepared, tmp_path):
    make_oem(tmp_path, size=512)
    running = script.start("data_prep.filter_oem_rural", "--root", tmp_path, "--workers", "2")
    wait_for(lambda: list(tmp_path.glob("data/.openearthmap_filtered.partial/images/*.tif")))
    running.kill(signal.SIGTERM)
    ended = running.wait()
    assert ended.status == 143 and "Traceback" not in ended.err
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == ["openearthmap_raw"]


@pytest.fixture
def killed(script, trained, tmp_path):
    """Flags of a run of stage 3 that was killed after two of its steps."""
    out_dir = tmp_path / "out"
    flags = ("--root", trained, *RUN, "--out-dir", out_dir)
    assert script("tests.faults.fault", "step@4", "training.train_stage3_difficulty", *flags).status == -9
    assert Checkpoint.load(made(out_dir / "last.pt")).metadata["step"] == 2
    return ("--out-dir", out_dir, *RUN[-4:])


def other_weights(trained, folder):
    lines = (trained / "artifacts/seed42/tile_difficulty.tsv").read_text().splitlines()
    (folder / "weights.tsv").write_text("\n".join([*lines[:-1], lines[-1].rpartition("\t")[0] + "\t1.5\n"]))
    return ("--difficulty", folder / "weights.tsv")


def test_resuming_with_other_flags_data_or_weights_is_refused_and_names_the_difference(trained, killed, tmp_path):
    before = (tmp_path / "out/last.pt").read_bytes()
    train_dir = trained / "data/biodiversity_split/train"
    for other, said in (
        (("--lr", "0.1"), r"settings\.lr: 0\.002 there, 0\.1 asked for"),
        (("--iterations", "8"), r"settings\.iterations: 6 there, 8 asked for"),
        (("--crop-size", "64"), "not larger"),
        (("--encoder", "resnet18"), rf"settings\.encoder: {ENCODER} there, resnet18 asked for"),
        (other_weights(trained, tmp_path), r"recipe\.sampler\.sha256"),
        (("--train-dir", train_dir), "has weights for"),
    ):
        with pytest.raises(UserError, match=said):
            train(train_stage3_difficulty, trained, *killed, "--resume", *other)
    with pytest.raises(UserError, match=r"another stage: stage3_difficulty there, stage1_baseline asked for"):
        train(train_stage1_baseline, trained, *killed, "--resume")
    assert (tmp_path / "out/last.pt").read_bytes() == before


def test_resuming_with_another_class_list_is_refused_and_names_it(script, prepared, tmp_path):
    flags = (*RUN, "--out-dir", tmp_path / "out")
    assert script("tests.faults.fault", "step@4", STAGE1, "--root", prepared, *flags).status == -9
    other = prepare_root(tmp_path / "other", taxonomy=THREE_CLASSES)
    with pytest.raises(UserError, match=r"another taxonomy.classes: .*Forest.* there, .*Wet.* asked for"):
        train(train_stage1_baseline, other, *flags, "--resume")


def test_a_folder_that_a_run_writes_to_is_refused_to_a_second_while_the_first_lives(script, prepared, tmp_path):
    flags = ("--root", prepared, *RUN, "--iterations", "2000", "--workers", "1", "--out-dir", tmp_path / "out")
    first = script.start(STAGE1, *flags)
    wait_for((tmp_path / "out/last.pt").exists)
    for again in ("--resume", "--overwrite"):
        ended = script(STAGE1, *flags, again)
        assert refusal_problem(ended, str(tmp_path / "out"), f"process {first.pid}", "Wait for its end") is None
    first.kill()  # its loader process may live on for some seconds
    second = script.start(STAGE1, *flags, "--resume")
    first.wait()
    seen = (tmp_path / "out/last.pt").stat().st_mtime_ns
    wait_for(lambda: (tmp_path / "out/last.pt").stat().st_mtime_ns > seen)
    second.kill(signal.SIGTERM)
    assert second.wait().status == 143


def test_two_data_steps_do_not_write_one_folder(script, prepared, tmp_path, monkeypatch):
    holder = script.start("tests.faults.processes", tmp_path / "out")
    wait_for(lambda: (tmp_path / ".out.lock").exists() and (tmp_path / ".out.lock").read_text())
    with pytest.raises(UserError, match=f"is being written by another run .process {holder.pid} on"):
        quiet(filter_oem_rural.main, "--root", prepared, "--out-dir", tmp_path / "out")
    holder.kill()
    holder.wait()
    quiet(filter_oem_rural.main, "--root", prepared, "--out-dir", tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


def test_an_overwriting_run_that_is_killed_before_its_first_checkpoint_leaves_the_earlier_one(
    script, trained, tmp_path
):
    flags = ("--root", trained, *RUN, "--out-dir", tmp_path / "out")
    assert script(STAGE1, *flags).status == 0
    before = {name: (tmp_path / "out" / name).read_bytes() for name in RUN_FILES}
    assert script("tests.faults.fault", "step@2", STAGE1, *flags, "--overwrite", "--seed", "43").status == -9
    assert {name: (tmp_path / "out" / name).read_bytes() for name in RUN_FILES} == before
