"""Nothing that is read makes a script write outside its output, or runs code."""

import json
import shutil

import numpy as np
import pytest

from tests.faults.harness import Bomb, refusal_problem, snapshot
from tests.faults.leaks import edit

SPLIT = "data/biodiversity_split"
OUTSIDE = "../../../../escaped"


@pytest.fixture
def root(prepared, tmp_path):
    """A copy of the prepared root, deep enough for a path to lead out of it."""
    return shutil.copytree(prepared, tmp_path / "deep/er/root")


def rename_first_tile(folder, name):
    """Have a manifest call its first tile something else, as if a step had written it so."""

    def rename(manifest):
        tiles = manifest["tiles"]
        tiles[name] = tiles.pop(min(tiles))

    edit(folder, rename)


@pytest.mark.parametrize("name", [OUTSIDE, "/tmp/escaped", "a/b", "..", "", "a\\b", "a\nb", "a\tb"])
def test_a_manifest_whose_tile_id_is_a_path_is_refused(script, root, tmp_path, name):
    rename_first_tile(root / SPLIT / "train", name)
    before = snapshot(tmp_path)
    ended = script("data_prep.combine_biodiversity_oem", "--root", root, "--overwrite")
    no_name = f"tile {name!r}: this is no name for a tile"
    assert refusal_problem(ended, "train/manifest.json", no_name, "Write it first") is None
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize(
    ("module", "folder"),
    [
        ("data_prep.replicate_minority", f"{SPLIT}/train"),
        ("data_prep.relabel_oem", "data/openearthmap_filtered"),
        ("data_prep.prepare_oem_teacher", "data/openearthmap_filtered"),
        ("data_prep.analyze_class_distribution", f"{SPLIT}/train"),
        ("data_prep.check_leakage", f"{SPLIT}/val"),
        ("training.train_stage2_replication", f"{SPLIT}/train_rep"),
    ],
)
def test_every_script_that_opens_a_manifest_refuses_a_path_in_it(script, root, tmp_path, module, folder):
    rename_first_tile(root / folder, OUTSIDE)
    before = snapshot(tmp_path)
    flags = ("--preset", "demo", "--crop-size", "32") if module.startswith("training") else ()
    ended = script(module, "--root", root, *flags)
    flags += ("--overwrite",) if "--overwrite" in ended.err else ()
    ended = script(module, "--root", root, *flags)
    assert refusal_problem(ended, "this is no name for a tile") is None
    assert snapshot(tmp_path) == before


def test_a_list_of_tiles_to_replicate_that_holds_a_path_is_refused(script, root, tmp_path):
    path = root / "artifacts/class_distribution.json"
    found = json.loads(path.read_text())
    found["tiles_to_replicate"][OUTSIDE] = {}
    path.write_text(json.dumps(found))
    before = snapshot(tmp_path)
    ended = script("data_prep.replicate_minority", "--root", root, "--overwrite")
    assert refusal_problem(ended, "class_distribution.json", "escaped", "analyze_class_distribution") is None
    assert snapshot(tmp_path) == before


def test_an_output_that_is_a_link_to_elsewhere_is_not_written_through(script, root, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    (root / SPLIT / "train_rep").rename(elsewhere)
    (root / SPLIT / "train_rep").symlink_to(elsewhere)
    before = snapshot(elsewhere)
    ended = script("data_prep.replicate_minority", "--root", root, "--overwrite")
    assert refusal_problem(ended, "train_rep was not written by this project", "Move it away") is None
    assert snapshot(elsewhere) == before


def test_an_array_file_that_holds_code_is_refused_and_runs_nothing(script, trained, tmp_path):
    root = shutil.copytree(trained, tmp_path / "root")
    ended = script("evaluation.compute_metrics", "--root", root, "--stages", "stage1_baseline", "--device", "cpu")
    assert ended.status == 0
    path = root / "evaluation/evaluation_results/val/stage1_baseline/seed42/tile_confusions.npz"
    with np.load(path) as arrays:
        content = dict(arrays)
    np.savez(path, **{**content, "confusions": np.array([Bomb(tmp_path / "exploded")], dtype=object)})
    ended = script("evaluation.aggregate_metrics", "--root", root)
    assert ended.status == 2 and "tile_confusions.npz" in ended.err + ended.out
    assert not (tmp_path / "exploded").exists()
