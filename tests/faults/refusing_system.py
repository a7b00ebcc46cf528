"""Full disks, folders that may not be written to, input that vanishes: one message, and earlier outputs as they were.

python -m tests.faults.refusing_system
"""

import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.faults import interrupted_steps
from tests.faults.harness import Family, Scripts, changed_problem, count_changes, print_families, scripts, snapshot
from tests.faults.killed_runs import RUN, prepare

POINTS = 3  # refusals of each script and error
ERRORS = {"ENOSPC": "No space left on device. Make room", "EACCES": "Permission denied. Check the permissions"}
SPLIT, WEIGHTS, RESULTS = "data/biodiversity_split", "model_weights/biodiversity", "evaluation/evaluation_results/val"
OVER = "--overwrite"
# Scripts with flags that have each write over what it wrote before.
SCRIPTS = (
    *((step.module, (*step.other, *([OVER] if step.overwrites else []))) for step in interrupted_steps.STEPS),
    ("training.train_stage1_baseline", (*RUN, "--val-every", "6", OVER)),  # one checkpoint
    ("training.score_difficulty", ("--device", "cpu", OVER)),
    ("evaluation.compute_metrics", ("--device", "cpu", "--stages", "stage1_baseline", OVER)),  # one folder
    ("evaluation.aggregate_metrics", ()),
    ("evaluation.plot_predictions", ("--device", "cpu")),
    ("evaluation.build_report", ()),
)


def prepare_scored(script: Scripts, root: Path) -> Path:
    """A root in which every script has run."""
    prepare(script, root)
    script("data_prep.check_biodiversity", "--root", root)
    for module in ("compute_metrics", "aggregate_metrics", "plot_predictions", "build_report"):
        ended = script(f"evaluation.{module}", "--root", root)
        assert ended.status == 0, ended.err
    return root


def refuse_creation(script: Scripts, root: Path, points: int, seed: int) -> Iterator[tuple[str, str | None]]:
    """Have the system refuse to create files from some moment on, in each script."""
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory() as scratch:
        for module, flags in SCRIPTS:
            trial = shutil.copytree(root, Path(scratch) / "trial")
            arguments = (module, "--root", trial, *flags)
            _, total = count_changes(script, trial, *arguments)
            shutil.rmtree(trial)
            shutil.copytree(root, trial)
            for error, said in ERRORS.items():
                for at in sorted(rng.sample(range(1, total + 1), min(points, total))):
                    before = snapshot(trial)
                    ended = script("tests.faults.fault", f"{error}@{at}", *arguments, FAULT_BELOW=str(trial))
                    problem = changed_problem(ended, trial, before, said, str(trial))
                    yield f"{module}, {error} from file {at} of {total}", problem
                    if problem:
                        shutil.rmtree(trial)
                        shutil.copytree(root, trial)
            shutil.rmtree(trial)


def file_limit_problem(script: Scripts, root: Path) -> str | None:
    """The system itself cuts off what a training writes: its checkpoint becomes larger than a file may be."""
    before = snapshot(root)
    ended = script("tests.faults.fault", "fsize=200000", "training.train_stage1_baseline", "--root", root, *RUN, OVER)
    return changed_problem(ended, root, before, ".pt: File too large", "ulimit -f")


def small_disk_problems(script: Scripts, root: Path, folder: Path) -> Iterator[tuple[str, str | None]]:
    """A file system of its own that becomes full; nothing is yielded where this process may not mount one."""
    disk = folder / "disk"
    disk.mkdir()
    size = sum(path.stat().st_size for path in root.rglob("*") if path.is_file()) + 400 * 4096
    options = ["mount", "-t", "tmpfs", "-o", f"size={size + 2_000_000}", "tmpfs", str(disk)]
    if sys.platform != "linux" or subprocess.run(options, capture_output=True).returncode:
        return
    try:
        trial = disk / "root"
        shutil.copytree(root, trial)
        free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_bsize
        (disk / "ballast").write_bytes(bytes(max(0, free - 150_000)))
        for module, flags in (
            ("training.train_stage1_baseline", (*RUN, OVER)),
            ("data_prep.split_biodiversity", ("--seed", "7", "--mode", "copy", OVER)),
            ("data_prep.relabel_oem", ("--gsd", "0.4", OVER)),
        ):
            before = snapshot(trial)
            ended = script(module, "--root", trial, *flags)
            yield f"{module} on a full disk", changed_problem(ended, trial, before, ERRORS["ENOSPC"], str(trial))
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def rights_problems(script: Scripts, root: Path) -> Iterator[tuple[str, str | None]]:
    """Folders that may not be written to, and files that may not be read."""
    tile = root / SPLIT / "train/images"
    tile = min(tile.iterdir())
    for what, path, mode, module, flags, said in (
        ("a folder without the right to write", root / SPLIT, 0o555, *SCRIPTS[1], "Permission denied. Check the"),
        (
            "checkpoints in a folder without the right to write",
            root / WEIGHTS / "stage1_baseline/seed42",
            0o555,
            "training.train_stage1_baseline",
            (*RUN, OVER),
            "Permission denied. Check the permissions",
        ),
        ("a manifest that may not be read", root / SPLIT / "train/manifest.json", 0, *SCRIPTS[2], "Permission denied"),
        (
            "a tile that may not be read",
            tile,
            0,
            "training.train_stage1_baseline",
            (*RUN, "--iterations", "60", "--val-every", "60", OVER),
            f"{tile.name}: cannot be read as TIFF",
        ),
    ):
        before, right = snapshot(root), path.stat().st_mode
        path.chmod(mode)
        ended = script("tests.faults.fault", "unprivileged", module, "--root", root, *flags)
        path.chmod(right)
        yield what, changed_problem(ended, root, before, said)


def vanish_problems(script: Scripts, root: Path, folder: Path) -> Iterator[tuple[str, str | None]]:
    """Input that is removed while a script works on it."""
    victims = {
        "data_prep.split_biodiversity": (f"{min((root / 'data/biodiversity_raw/images').iterdir())}", "cannot be"),
        "data_prep.relabel_oem": (f"{max((root / 'data/openearthmap_filtered/masks').iterdir())}", "cannot be read"),
        "data_prep.combine_biodiversity_oem": (f"{max((root / SPLIT / 'train/images').iterdir())}", "No such file"),
    }
    for module, (victim, said) in victims.items():
        trial = folder / "vanishing"
        shutil.copytree(root, trial)
        gone = trial / Path(victim).relative_to(root)
        before = snapshot(trial)
        del before[gone.relative_to(trial).as_posix()]
        flags = (f"vanish@6={gone}", module, "--root", trial, OVER)
        ended = script("tests.faults.fault", *flags, FAULT_BELOW=str(trial))
        yield f"{module} whose {gone.parent.name} vanish", changed_problem(ended, trial, before, gone.name, said)
        shutil.rmtree(trial)


def inject(folder: Path) -> list[Family]:
    """Refuse each script the creation of files at several moments, and the other refusals once each."""
    created = Family("no room, no rights (made)", "exit status 2, one message, every earlier file as it was")
    real = Family("no room, no rights (real)", "the same, where the system itself refuses")
    gone = Family("input vanishes", "the same, and the file is named")
    with scripts() as script:
        root = prepare_scored(script, folder / "root")
        for fault, problem in refuse_creation(script, root, POINTS, seed=0):
            created.record(fault, problem)
        real.record("a checkpoint larger than a file may be", file_limit_problem(script, root))
        for fault, problem in [*rights_problems(script, root), *small_disk_problems(script, root, folder)]:
            real.record(fault, problem)
        if not any("full disk" in fault for fault in real.faults):
            real.remark = "without a full file system: this process may not mount one"
        for fault, problem in vanish_problems(script, root, folder):
            gone.record(fault, problem)
    return [created, real, gone]


if __name__ == "__main__":
    print_families(inject)
