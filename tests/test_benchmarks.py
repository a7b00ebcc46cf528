"""The benchmarks still fit what they measure; what they measure is not looked at here."""

import importlib
from pathlib import Path

import pytest
import torch

from tests.benchmarks import loop
from tests.conftest import ARCH, ENCODER
from tests.small_sets import write_set

MODULES = sorted(path.stem for path in Path(loop.__file__).parent.glob("[a-z]*.py"))
SMALL = ("--arch", ARCH, "--encoder", ENCODER, "--crop-size", 32, "--batch-size", 4, "--workers", 0)


@pytest.mark.parametrize("name", MODULES)
def test_a_benchmark_can_be_imported(name):
    importlib.import_module(f"tests.benchmarks.{name}")


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """train and val of noise."""
    root = tmp_path_factory.mktemp("sets")
    mask = torch.arange(40).remainder(5).add(1).expand(40, 40).numpy()
    return [write_set(root / split, {f"{split}{n}": mask for n in range(3)}, split=split) for split in ("train", "val")]


@pytest.fixture
def args(tmp_path, monkeypatch):
    """Two steps of the smallest network, both of them timed."""
    monkeypatch.setattr(loop, "WARM", 0)
    return loop.parse("demo", "cpu", 2, tmp_path / "out", *SMALL)


def test_the_bare_loop_and_the_real_one_are_timed_step_by_step(sets, args):
    assert all(seconds > 0 for seconds in loop.compare_step_by_step(*sets, args))
    assert args.run.workers == 0


def test_the_bare_loop_and_the_real_one_are_timed_run_by_run(sets, args, monkeypatch):
    monkeypatch.setattr(loop, "GPU_RUNS", 1)
    assert all(seconds > 0 for seconds in loop.compare_run_by_run(*sets, args, torch.device("cpu")))


def test_the_share_of_validation_is_of_the_steps_and_tiles_that_were_timed(sets, args, monkeypatch):
    monkeypatch.setitem(loop.PRESETS, "paper", {name: getattr(args, name) for name in loop.PRESETS["paper"]})
    monkeypatch.setattr(loop, "VALIDATED_STEPS", 1)
    figure = loop.validation_share(sets[0], torch.device("cpu"))
    assert figure.value > 0 and f"1 x {loop.PAPER_VAL_TILES} tiles" in figure.detail
