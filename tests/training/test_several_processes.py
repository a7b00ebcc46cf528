"""One run shared by two processes, on the CPU with gloo, against the same run in one."""

import csv
import json
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from common.checkpoints import Checkpoint
from common.device import Processes
from common.models import Architecture, build_model
from common.tiles import TileSet
from tests.conftest import TRAIN_FLAGS
from tests.faults.harness import Ended
from tests.helpers import ONE_THREAD, made
from training.engine import loop as engine
from training.engine.run_folder import RUN_FILES

CPU = torch.device("cpu")
STEPS = 6
FLAGS = [*TRAIN_FLAGS, "--iterations", str(STEPS), "--average", "0.5", "--val-every", "1"]
FLAGS += ["--lr", "0.1", "--clip-norm", "1000"]
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]


def start(script, root: Path, out_dir: Path, processes: int, *flags) -> list[Ended]:
    """Run the processes of a run to their ends, each with the environment that torchrun would give it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(processes)}
    command = ("tests.shared_run", "--root", root, "--out-dir", out_dir, *FLAGS, *flags)
    running = [script.start(*command, **place, RANK=str(rank), LOCAL_RANK=str(rank)) for rank in range(processes)]
    return [one.wait() for one in running]


def finish(script, root: Path, out_dir: Path, processes: int, *flags) -> Path:
    for ended in start(script, root, out_dir, processes, *flags):
        assert ended.status == 0, ended.err
    return out_dir


def stop(script, root: Path, out_dir: Path, processes: int, at: int, of: int, *flags) -> None:
    """Have one of the processes receive SIGTERM at its step ``at``, which is step ``of`` of the run."""
    ended = start(script, root, out_dir, processes, "--stop-at", str(at), *flags)
    assert [one.status for one in ended] == [143] * processes, ended
    assert f"Stopped at step {of}" in ended[0].err
    assert last(out_dir).metadata["step"] == of and last(out_dir).training is not None


@pytest.fixture(scope="module")
def alone(script, prepared, tmp_path_factory) -> Path:
    return finish(script, prepared, tmp_path_factory.mktemp("alone") / "out", 1)


@pytest.fixture(scope="module")
def shared(script, prepared, tmp_path_factory) -> Path:
    return finish(script, prepared, tmp_path_factory.mktemp("shared") / "out", 2)


def last(folder: Path) -> Checkpoint:
    return Checkpoint.load(made(folder / "last.pt"))


def drawn(folder: Path, processes: int) -> list[list[str]]:
    """The tiles of each step, those of all processes in turn."""
    lines = [(folder / f"drawn_by_{rank}.txt").read_text().splitlines() for rank in range(processes)]
    return [" ".join(step).split() for step in zip(*lines, strict=True)]


def history(folder: Path) -> list[dict]:
    with open(folder / "history.csv", newline="") as file:
        return list(csv.DictReader(file))


def assert_same_run(one: Path, other: Path) -> None:
    """Losses, validation and weights agree to rounding, and what was drawn exactly."""
    losses = [[float(row["loss"]) for row in history(folder)] for folder in (one, other)]
    np.testing.assert_allclose(*losses, rtol=1e-4)
    runs = [json.loads((folder / "run.json").read_text()) for folder in (one, other)]
    for key in ("drawn", "crops", "initial_digest"):
        assert runs[0][key] == runs[1][key]
    assert runs[0]["last"]["mIoU"] == pytest.approx(runs[1]["last"]["mIoU"], abs=5e-3)
    for name, tensor in last(one).state.items():
        torch.testing.assert_close(last(other).state[name], tensor, rtol=1e-3, atol=1e-5)


def test_the_draws_of_two_processes_together_are_those_of_one(alone, shared):
    assert len(drawn(alone, 1)) == STEPS and drawn(shared, 2) == drawn(alone, 1)
    assert len({tile for step in drawn(alone, 1) for tile in step}) > 4


def test_two_processes_learn_what_one_learns_where_there_are_no_batch_statistics(alone, shared):
    assert_same_run(alone, shared)


def test_only_one_process_writes_and_checkpoints_are_laid_out_alike(alone, shared):
    assert {path.name for path in shared.iterdir()} == {*RUN_FILES, "drawn_by_0.txt", "drawn_by_1.txt"}
    one, two = last(alone), last(shared)
    assert list(one.state) == list(two.state) and one.metadata.keys() == two.metadata.keys()
    assert [t.shape for t in one.state.values()] == [t.shape for t in two.state.values()]
    assert [row["step"] for row in history(shared)] == [str(step) for step in range(1, STEPS + 1)]


def test_a_run_of_two_processes_is_resumed_by_one_and_by_two_again(script, prepared, alone, tmp_path):
    """Stopped by a signal to one of the processes, and by one to the only process."""
    out = tmp_path / "out"
    stop(script, prepared, out, 2, 2, 2)
    stop(script, prepared, out, 1, 2, 4, "--resume")
    finish(script, prepared, out, 2, "--resume")
    assert_same_run(alone, out)


def test_a_stage_with_batch_statistics_runs_under_torchrun_and_draws_what_it_draws_alone(trained, tmp_path):
    command = [sys.executable, *TORCHRUN, "-m", "training.train_stage4_minority_crop", "--root", trained]
    command += [*TRAIN_FLAGS, "--out-dir", tmp_path / "out"]
    subprocess.run(command, check=True, capture_output=True, env=ONE_THREAD, timeout=200)
    alone = trained / "model_weights/biodiversity/stage4_minority_crop/seed42"
    one, two = (json.loads((folder / "run.json").read_text()) for folder in (alone, tmp_path / "out"))
    assert one["drawn"] == two["drawn"] and one["crops"] == two["crops"]
    assert list(last(alone).state) == list(last(tmp_path / "out").state)


def test_processes_validate_with_the_same_batch_statistics(prepared, monkeypatch):
    """Those of the first process, which are the ones that it saves."""
    sent = []
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda tensor: tensor)
    monkeypatch.setattr(torch.distributed, "broadcast", lambda tensor, source: sent.append((tensor, source)))
    processes = Processes(CPU)
    processes.world = 2
    val = TileSet.open(made(prepared / "data/biodiversity_split/val"))
    model = build_model(Architecture("unet", "resnet18"), val.taxonomy.num_classes)
    engine.validate(model, val, processes, CPU, 0)
    assert [(tensor.data_ptr(), source) for tensor, source in sent] == [(b.data_ptr(), 0) for b in model.buffers()]
