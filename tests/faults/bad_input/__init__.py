"""Bad input: a copy of a good root is spoilt in one way, and the real command refuses it or handles it as documented.

Each module is the table of one subject, but ``shared``, what a case is, and ``files``, how a file is spoilt. All tables
serve both tests/faults/test_bad_input.py and ``inject``.
"""

import shutil
from pathlib import Path

from evaluation import aggregate_metrics, compute_metrics, plot_predictions
from tests.faults.bad_input import (
    checkpoints,
    difficulty,
    flags,
    json_files,
    names,
    openearthmap,
    outputs,
    raw_images,
    raw_masks,
    raw_pixels,
    raw_sets,
    taxonomy,
)
from tests.faults.bad_input.shared import CPU, RAW, SIDE, SMALL
from tests.faults.harness import Family, scripts
from tests.helpers import OEM_RAW, make_biodiversity, make_oem, quiet, run_data_steps, write_groups
from training import score_difficulty, train_stage2_replication, train_stage5a_pretrain, train_teacher

CASES = [
    *(*raw_images.CASES, *raw_masks.CASES, *raw_pixels.CASES, *raw_sets.CASES, *names.CASES),
    *(*openearthmap.CASES, *outputs.CASES, *taxonomy.CASES, *flags.CASES),
    *(*checkpoints.CASES, *difficulty.CASES, *json_files.CASES),
]


def make_roots(folder: Path) -> dict[str, Path]:
    """Good roots by name, which cases copy: ``raw`` tiles, ``oem`` raw, all ``data`` sets, ``trained`` networks too."""
    roots = {name: folder / name for name in ("raw", "oem", "data", "trained")}
    make_biodiversity(roots["raw"], rows=4, columns=4, size=SIDE)
    write_groups(roots["raw"])
    make_oem(roots["oem"], size=SIDE * 2)
    trained = roots["trained"]
    make_biodiversity(trained, rows=6, columns=6, size=SIDE * 3 // 2)
    make_oem(trained, size=SIDE * 2)
    run_data_steps(trained)
    for raw in (RAW, OEM_RAW):
        shutil.rmtree(trained / raw)
    shutil.copytree(trained, roots["data"])
    for stage in (train_teacher, train_stage2_replication, train_stage5a_pretrain):
        quiet(stage.main, "--root", trained, *SMALL)
    quiet(score_difficulty.main, "--root", trained, *CPU)
    quiet(compute_metrics.main, "--root", trained, "--stages", "stage2_replication", *CPU)
    quiet(plot_predictions.main, "--root", trained, "--tiles", "1", *CPU)
    quiet(aggregate_metrics.main, "--root", trained)
    return roots


def inject(folder: Path) -> list[Family]:
    """Every case in a folder of its own below ``folder``."""
    family = Family("bad input", "refused with file and remedy, or handled as documented; nothing executed or written")
    roots = make_roots(folder / "good")
    with scripts() as script:
        for number, case in enumerate(CASES):
            case_folder = folder / f"case{number}"
            case_folder.mkdir()
            family.record(case.name, case.problem(roots, script, case_folder))
            shutil.rmtree(case_folder)
    return [family]
