"""The benchmarks still fit what they measure; what they measure is not looked at here."""

import importlib
import json
import math
import os
from pathlib import Path

import pytest
import torch
from torch import nn

from common.inference import WindowAxis
from tests.benchmarks import arithmetic, comparing, gpu, loop, map_peers, two_builds
from tests.benchmarks import map as maps
from tests.benchmarks.measuring import Figure, not_measured, write_figures
from tests.benchmarks.turns import Turns
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


@pytest.mark.parametrize(
    ("values", "level", "at"),
    [
        ([0.1, 0.2, 0.3], 0.15, 20),  # from the second on
        ([0.1, 0.3, 0.1, 0.3, 0.4], 0.2, 40),  # it has fallen again after the second
        ([0.3, 0.4], 0.2, 10),  # from the first on
        ([0.3, 0.2], 0.2, math.inf),  # to reach it is not to be above it
        ([0.1, 0.1], 0.2, math.inf),
    ],
)
def test_the_time_counts_from_which_on_all_validations_are_above(values, level, at):
    curve = [(10 * n, value) for n, value in enumerate(values, 1)]
    assert comparing.first_stays_above(curve, level) == at


def arm(values: list[float], seconds: float, own_validations: int = 2, memory: float = 100) -> comparing.Arm:
    """An arm that was validated every ten steps, with these mIoU, one minority class and twice that of the other."""
    spent = {"start": 5.0, "training": seconds, "validation": 3.0 * len(values), "saving": 1.0 * len(values)}
    validations = [
        {
            "step": 10 * n,
            "training": seconds * n / len(values),
            "mIoU": value,
            "classes": {"Rare": value / 2, "Wide": value},
        }
        for n, value in enumerate(values, 1)
    ]
    return comparing.Arm(10 * len(values), spent, spent, validations, own_validations, memory)


def test_two_arms_are_compared_in_time_memory_and_scores():
    pairs = [("stage", 42, [arm([0.1, 0.3], 100), arm([0.2, 0.4, 0.5, 0.6, 0.7], 50, memory=90)])]
    pairs += [("stage", 43, [arm([0.1, 0.3], 100), arm([0.2, 0.2, 0.4, 0.5, 0.6], 50, memory=80)])]
    figures = {figure.what: figure for figure in comparing.compare_arms(pairs, ["Rare", "Absent"])}
    until = "stage: time until above the earlier final mIoU"
    assert [figures[f"{until}, seed {seed}"].value for seed in (42, 43)] == [0.2, 0.3]
    assert figures[f"{until}, mean"].value == pytest.approx(0.25) and figures[f"{until}, mean"].holds
    assert figures["stage: time of a whole arm"].value == (50 + 2 * 4) / (100 + 2 * 4)  # two validations of five
    assert figures["stage: peak memory"].value == pytest.approx(0.85)
    assert figures["stage: mIoU at the end, seed 42"].value == 70
    assert figures["stage: minority mIoU at the end, seed 43"].value == 30


def test_a_seed_that_never_stays_above_misses_the_goal_and_is_named(tmp_path):
    pairs = [("stage", 42, [arm([0.3], 100), arm([0.4, 0.2], 50)]), ("stage", 43, [arm([0.1], 100), arm([0.4], 5)])]
    figures = comparing.compare_arms(pairs, [])
    mean = next(figure for figure in figures if figure.what.endswith("mean"))
    assert mean.holds is False and mean.detail == "1 of 2 seeds never"
    write_figures(tmp_path / "figures.json", [mean, not_measured("9", "another", "no GPU")], {})
    written = json.loads((tmp_path / "figures.json").read_text())["figures"]
    assert [figure["value"] for figure in written] == ["infinite", None]


def test_validations_of_a_preset_count_the_one_after_the_last_step():
    assert [comparing.own_validations({"iterations": n, "val_every": 90}) for n in (360, 361, 30)] == [4, 5, 1]


def test_the_arithmetic_of_a_grouped_convolution_is_that_of_its_groups():
    layers = nn.Sequential(nn.Conv2d(4, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.Conv2d(8, 2, 1))
    counted = arithmetic.multiply_adds(layers, torch.rand(2, 4, 5, 5))
    pixels, dense, grouped, last = 2 * 5 * 5, 8 * 4 * 9, 8 * 9, 2 * 8
    assert counted.forward == pixels * (dense + grouped + last)
    assert counted.backward == pixels * (dense + 2 * grouped + 2 * last)  # the images need no gradient
    assert counted.operations == 2 * (counted.forward + counted.backward)


def test_arithmetic_is_compared_with_the_product_of_matrices(monkeypatch):
    monkeypatch.setattr(arithmetic, "MATRIX_SIDES", (8, 16))
    found = arithmetic.compare_with_matrices(nn.Conv2d(3, 2, 3), torch.rand(1, 3, 8, 8), rounds=1)
    assert found["operations"] == 2 * 2 * 2 * 36 * 27 and found["side"] in (8, 16)


def test_processes_take_turns_and_the_last_goes_on_alone():
    (read, write), (other_read, other_write) = os.pipe(), os.pipe()
    turns = Turns(read, other_write)
    os.write(write, b"..")  # the first turn, and the one that the other passes back
    turns.wait()
    with turns.doing("validation"):
        pass
    turns.pass_on()
    assert os.read(other_read, 9) == b"." and not turns.alone
    os.close(write)  # the other has ended
    os.close(other_read)
    turns.pass_on()
    turns.pass_on()
    assert turns.alone and turns.activity == "start"


def test_two_builds_train_in_turns(prepared, tmp_path):
    """This build beside itself: the same seed gives the same curve, whoever has the turn."""
    preset = {"iterations": 3, "val_every": 2}
    builds = [
        two_builds.Build(name, two_builds.REPOSITORY, two_builds.copy_sets(prepared, tmp_path / name), preset)
        for name in ("earlier", "this")
    ]
    flags = f"--arch {ARCH} --encoder {ENCODER} --encoder-weights none --crop-size 32 --batch-size 4"
    args = two_builds.parse_args(["--preset", "demo", "--val-every", "1", "--flags", flags])
    earlier, this = two_builds.train_in_turns(builds, "stage1_baseline", 42, args)
    assert [point["step"] for point in earlier.validations] == [2, 3]
    assert [point["step"] for point in this.validations] == [1, 2, 3]
    assert earlier.final["classes"] == this.final["classes"] and earlier.own_validations == 2
    assert all(seconds > 0 for arm in (earlier, this) for seconds in arm.seconds.values())
    figure = two_builds.measure_network(builds[1], args)
    assert 0 < figure.value


def test_a_commit_that_is_not_in_the_history_is_told(tmp_path):
    with pytest.raises(SystemExit, match="git fetch --unshallow"):
        two_builds.clone("0" * 40, tmp_path / "tree")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_the_gpu_benchmark_says_so(capsys):
    with pytest.raises(SystemExit) as ended:
        gpu.main([])
    assert ended.value.code == 2 and "--device cpu" in capsys.readouterr().err


def test_figures_of_a_measurement_that_was_cut_off_are_kept():
    figure = Figure("9", "crops", 2.0, "crops/s")
    line = gpu.FIGURE + json.dumps(vars(figure))
    assert gpu.figures_in(f"a warning\n{line}\n{line[:-9]}") == [figure]


def test_a_measurement_that_fails_or_takes_too_long_says_so(monkeypatch, capsys):
    args = gpu.parse_args(["--device", "cpu"])
    monkeypatch.setattr(gpu, "flags_of", lambda *_: ["--none"])
    (figure,) = gpu.run_measurement("loop", args, limit=60)
    assert figure.value is None and figure.detail.startswith("ended with 2: ")
    (figure,) = gpu.run_measurement("loop", args, limit=0.1)
    assert figure.detail.startswith("cut off after 0 s")


def test_a_map_is_timed_against_its_network_alone_and_in_parts(tmp_path):
    made = maps.Maps(tmp_path)
    raster = made.raster(300, 200)
    one = made.ours(raster, "small")
    assert one.seconds > 0 and one.bare > 0 and one.peak_mib > 0
    whole, parts = made.shared(raster, "small")
    assert whole > 0 and len(parts) == 3 and all(seconds > 0 for seconds in parts)


def test_windows_of_the_bare_network_cover_a_side():
    assert map_peers.spans(300) == [(0, 300)]
    assert map_peers.spans(1800) == [(0, 1024), (768, 1792), (776, 1800)]
    assert len(map_peers.spans(maps.SIDE)) == len(WindowAxis(maps.SIDE).starts)
