import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from matplotlib.figure import Figure

from tests.faults.harness import scripts
from tests.helpers import prepare_root, quiet
from tests.small_pipeline import Pipeline
from training import (
    score_difficulty,
    train_control_5b_from_stage1,
    train_control_kd_cycled,
    train_control_kd_uniform,
    train_stage1_baseline,
    train_stage2_replication,
    train_stage3_difficulty,
    train_stage4_minority_crop,
    train_stage5a_pretrain,
    train_stage5b_finetune,
    train_stage6_distill,
    train_teacher,
)
from training.engine import run_folder

# The smallest network at hand. Its decoder drops channels at random while it trains, as larger encoders drop layers, so
# that these runs also show whether such draws are reproducible.
ARCH, ENCODER = "pspnet", "tu-test_resnet"
TRAIN_FLAGS = (
    *("--preset", "demo", "--arch", ARCH, "--encoder", ENCODER, "--crop-size", "32", "--batch-size", "4"),
    *("--iterations", "2", "--val-every", "1", "--warmup", "1", "--workers", "0", "--device", "cpu"),
)

# The same examples in every run, each in whatever time a busy machine takes.
settings.register_profile("repeatable", deadline=None, max_examples=50, derandomize=True)
settings.load_profile("repeatable")


def train(step, root: Path, *flags, curves: bool = False) -> str:
    """Run a training script for a few steps of a small network; returns what it printed.

    Without ``curves`` its curves.png is blank: to draw them takes longer than the few steps.
    """
    with pytest.MonkeyPatch.context() as patch:
        if not curves:
            patch.setattr(run_folder, "history_figure", lambda *_: Figure((1, 1)))
        return quiet(step.main, "--root", root, *TRAIN_FLAGS, *flags)


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    """Tiny networks gain nothing from threads and lose much where the machine is busy."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def prepared(tmp_path_factory) -> Path:
    """A root with every data step done; tests read it and write elsewhere."""
    return prepare_root(tmp_path_factory.mktemp("prepared"))


@pytest.fixture(scope="session")
def trained(prepared, tmp_path_factory) -> Path:
    """A root in which the teacher and all arms were trained for two steps; tests only read it."""
    root = tmp_path_factory.mktemp("trained") / "root"
    shutil.copytree(prepared, root)
    train_all(root)
    return root


def train_all(root: Path) -> None:
    """Train the teacher and all arms for two steps each, in a root with every data step done."""
    for step in (train_teacher, train_stage1_baseline, train_stage2_replication):
        train(step, root, curves=step is train_teacher)
    quiet(score_difficulty.main, "--root", root, "--device", "cpu")
    for step in (
        train_stage3_difficulty,
        train_stage4_minority_crop,
        train_stage5a_pretrain,
        train_stage5b_finetune,
        train_stage6_distill,
        train_control_5b_from_stage1,
        train_control_kd_cycled,
        train_control_kd_uniform,
    ):
        train(step, root, curves=step is train_stage6_distill)  # whose loss has several parts


@pytest.fixture(scope="session")
def script():
    """Runs a script to its end, as ``python -m`` would: script(module, *flags) → Ended."""
    with scripts("--plain-curves") as found:
        yield found


@pytest.fixture
def pipeline(tmp_path):
    return Pipeline(tmp_path)
