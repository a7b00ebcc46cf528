import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from matplotlib.figure import Figure

from common.stages import ARMS
from tests.faults.harness import scripts
from tests.helpers import doors, prepare_root, quiet
from tests.small_pipeline import Pipeline
from training.engine import run_folder

# The smallest network at hand. Its decoder drops channels at random while it trains, as larger encoders drop layers, so
# that these runs also show whether such draws are reproducible.
ARCH, ENCODER = "pspnet", "tu-test_resnet"
TRAIN_FLAGS = (
    *("--preset", "demo", "--arch", ARCH, "--encoder", ENCODER, "--encoder-weights", "none", "--crop-size", "32"),
    *("--batch-size", "4"),
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
    """A root in which the teacher and all arms were trained for two steps, or made of these; tests only read it."""
    root = tmp_path_factory.mktemp("trained") / "root"
    shutil.copytree(prepared, root)
    train_all(root)
    return root


def train_all(root: Path) -> None:
    """Train the teacher and all arms for two steps each, in a root with every data step done; make the untrained."""
    scripts_of = doors()
    train(scripts_of["training.train_teacher"], root, curves=True)
    for arm in ARMS:
        script = scripts_of[f"training.train_{arm.name}"]
        if arm.trained:
            train(script, root, curves=arm.name == "stage6_distill")  # of several losses
        else:
            quiet(script.main, "--root", root, "--device", "cpu")
        if arm.name == "stage2_replication":
            quiet(scripts_of["training.score_difficulty"].main, "--root", root, "--device", "cpu")


@pytest.fixture(scope="session")
def script():
    """Runs a script to its end, as ``python -m`` would: script(module, *flags) → Ended."""
    with scripts("--plain-curves") as found:
        yield found


@pytest.fixture
def pipeline(tmp_path):
    return Pipeline(tmp_path)
