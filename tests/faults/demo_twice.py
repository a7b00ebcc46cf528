"""The whole demo, twice: the same pixel counts of every checkpoint of every arm.

python -m tests.faults.demo_twice
"""

import subprocess
import sys
from pathlib import Path

from common.stages import ARMS
from tests.faults.harness import REPOSITORY, Family, print_families

RESULTS = "evaluation/evaluation_results/val"


def run_demo(root: Path) -> None:
    """What ``make demo`` does, with the controls and the rivals."""
    for command in (
        ["-m", "data_prep.make_demo_data", "--root", root],
        ["reproduce.py", "--root", root, "--preset", "demo", "--jobs", "2", "--controls", "--rivals"],
    ):
        subprocess.run([sys.executable, *map(str, command)], cwd=REPOSITORY, check=True, stdout=subprocess.DEVNULL)


def inject(folder: Path) -> list[Family]:
    """Compare two runs of the demo, checkpoint by checkpoint."""
    family = Family("the demo run twice", "tile_confusions.npz of last.pt and best.pt are the same, byte for byte")
    roots = [folder / "first", folder / "second"]
    for root in roots:
        run_demo(root)
    for arm in ARMS:
        for name in ("tile_confusions.npz", "best/tile_confusions.npz"):
            paths = [root / RESULTS / arm.name / "seed42" / name for root in roots]
            whole = all(path.is_file() for path in paths)
            same = whole and paths[0].read_bytes() == paths[1].read_bytes()
            family.record(f"{arm.name}, {name}", None if same else "they differ" if whole else "one is missing")
    return [family]


if __name__ == "__main__":
    print_families(inject)
