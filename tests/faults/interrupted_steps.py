"""Data steps that are killed at a change of any file: the old output or none, and the next run makes the new one.

python -m tests.faults.interrupted_steps
"""

import json
import random
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from common.errors import UserError
from common.files import sha256_file
from common.tiles import TileSet, manifest_digest
from tests.faults.harness import Family, Scripts, count_changes, print_families, scripts
from tests.helpers import made, prepare_root

SPLIT = "data/biodiversity_split"
POINTS = 6  # kills of each step from nothing, and of each that replaces what is there


@dataclass(frozen=True)
class Step:
    """A data step, what it writes below the root, and flags with which it writes something else."""

    module: str
    outputs: tuple[str, ...]
    other: tuple[str, ...] = ()
    overwrites: bool = True  # takes --overwrite

    @property
    def name(self) -> str:
        return self.module.split(".")[-1]


STEPS = (
    Step("data_prep.check_biodiversity", ("artifacts/audit",), ("--bands", "3", "2", "1"), overwrites=False),
    Step(
        "data_prep.split_biodiversity", tuple(f"{SPLIT}/{name}" for name in ("train", "val", "test")), ("--seed", "7")
    ),
    Step(
        "data_prep.analyze_class_distribution", ("artifacts/class_distribution.json",), ("--tile-share", "0.1"), False
    ),
    Step("data_prep.replicate_minority", (f"{SPLIT}/train_rep",), ("--copies", "1")),
    Step("data_prep.filter_oem_rural", ("data/openearthmap_filtered",), ("--max-built", "0.9")),
    Step(
        "data_prep.prepare_oem_teacher",
        ("data/openearthmap_teacher/train", "data/openearthmap_teacher/val"),
        ("--seed", "7", "--val-fraction", "0.4"),
    ),
    Step("data_prep.relabel_oem", ("data/openearthmap_relabelled",), ("--gsd", "0.6")),
    Step("data_prep.combine_biodiversity_oem", ("data/biodiversity_oem_combined/train",)),
    Step("data_prep.check_leakage", ("artifacts/leakage.json",), overwrites=False),
)


def content(root: Path, output: str) -> str | None:
    """What an output below a root holds, as text that differs where it does; None where it is not there.

    Raises:
        ValueError: it is half of something.
    """
    path = root / output
    if not path.exists():
        return None
    if path.is_dir() and (path / "images").exists():
        tiles = TileSet.open(made(path))
        for tile in tiles:
            files = {"sha256": tile.image_path, "mask_sha256": tile.mask_path}
            if any(sha256_file(file) != tile.entry[key] for key, file in files.items()):
                raise ValueError(f"{path}: {tile.id} is not what its manifest says")
        if tiles.digest != manifest_digest(tiles.manifest):
            raise ValueError(f"{path}: its manifest does not have its digest")
        return tiles.digest
    said = []
    for file in [path, path.with_suffix(".png")] if path.is_file() else sorted(path.iterdir()):
        if file.suffix == ".json":
            known = json.loads(
                re.sub(rf"{re.escape(str(root.parent))}/\w+", ".", file.read_text())
            )  # where it was copied
            said.append(json.dumps({key: value for key, value in known.items() if key != "command"}))
        elif path.is_dir():
            said.append(sha256_file(file))
        elif file.suffix == ".png" and file.exists():
            with Image.open(file) as picture:
                picture.load()
    return "".join(said)


def left_over(root: Path) -> list[str]:
    return [path.relative_to(root).as_posix() for path in root.rglob(".*")]


def kill_problem(script: Scripts, root: Path, step: Step, flags: tuple, at: int, allowed: list[dict]) -> str | None:
    """Kill a step at its ``at``-th change of a file and run it again; what went wrong, None where nothing did.

    ``allowed`` are the contents of the outputs before the step, and those that it makes.
    """
    ended = script("tests.faults.fault", f"kill@{at}", step.module, "--root", root, *flags, FAULT_BELOW=str(root))
    if ended.status != -9:
        return f"was not killed, but ended with {ended.status}: {ended.err[-300:]}"
    before, after = allowed
    try:
        found = {output: content(root, output) for output in step.outputs}
    except (ValueError, KeyError, OSError, UserError) as half:
        return f"left half of something: {half}"
    strange = [name for name, value in found.items() if value not in (None, before[name], after[name])]
    if strange:
        return f"left something else: {strange}"
    olds = [n for n, v in found.items() if v is not None and v == before[n] != after[n]]
    news = [n for n, v in found.items() if v is not None and v == after[n] != before[n]]
    if olds and news:
        return f"left {olds} of the earlier run beside {news} of this one"
    complete = found == after and "--overwrite" not in flags
    ended = script(step.module, "--root", root, *flags, *(["--overwrite"] if complete and step.overwrites else []))
    if ended.status:
        return f"could not be run again: {ended.err[-300:]}"
    found = {output: content(root, output) for output in step.outputs}
    if found != after:
        return "the next run made something else"
    hidden = left_over(root)
    return f"left behind {hidden}" if hidden else None


def kill_steps(
    script: Scripts, prepared: Path, folder: Path, steps: tuple[Step, ...], points: int, seed: int
) -> Iterator[tuple]:
    """Yield (step, place of the kill, problem) for each step from nothing, and over an earlier output.

    ``prepared`` is a root in which all of ``steps`` have run; copies of it in ``folder`` are worked on.
    """
    rng = random.Random(seed)
    for step in steps:
        before = {output: content(prepared, output) for output in step.outputs}
        scenarios = {"from nothing": ()}
        if step.other:
            scenarios["over an earlier output"] = (*step.other, *(["--overwrite"] if step.overwrites else []))
        for scenario, flags in scenarios.items():
            start = folder / "start"
            shutil.copytree(prepared, start)
            if not flags:
                for output in step.outputs:
                    shutil.rmtree(start / output) if (start / output).is_dir() else (start / output).unlink()
            there = before if flags else dict.fromkeys(step.outputs)
            whole = shutil.copytree(start, folder / "whole")
            total, _ = count_changes(script, whole, step.module, "--root", whole, *flags)
            after = {output: content(whole, output) for output in step.outputs}
            ends = range(max(1, total - 9), total + 1)  # where the folders change places
            places = {*rng.sample(range(1, total + 1), min(points - points // 2, total))}
            for at in sorted(places | {*rng.sample(ends, min(points // 2, len(ends)))}):
                shutil.copytree(start, folder / "root")
                problem = kill_problem(script, folder / "root", step, flags, at, [there, after])
                yield step.name, f"{scenario}, change {at} of {total}", problem
                shutil.rmtree(folder / "root")
            shutil.rmtree(start)
            shutil.rmtree(whole)


def inject(folder: Path) -> list[Family]:
    """Kill each data step at ``POINTS`` places from nothing, and as many over an earlier output."""
    family = Family("data steps killed", "the old output or none is left, and running it again makes the new one")
    with scripts() as script:
        prepared = prepare_root(folder / "prepared")
        script("data_prep.check_biodiversity", "--root", prepared)
        for step, place, problem in kill_steps(script, prepared, folder, STEPS, POINTS, seed=0):
            family.record(f"{step}, {place}", problem)
    return [family]


if __name__ == "__main__":
    print_families(inject)
