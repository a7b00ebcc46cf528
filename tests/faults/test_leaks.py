"""Whatever leaks is named, by whatever name it goes and whatever the manifests say."""

import json

import numpy as np
import pytest

from common.errors import UserError
from common.files import write_json
from common.inputs import Input
from tests.conftest import TRAIN_FLAGS
from tests.faults.harness import copy_root, refusal_problem
from tests.faults.leaks import LEAKS, bring, edit, edit_entry, folder_of, problems, put, spoil, tiles_of
from tests.helpers import made
from training.engine.preflight import require_apart, require_checked

COMMAND = "python -m data_prep.check_leakage"


def report_of(root) -> Input:
    """The report of check_leakage."""
    return made(root / "artifacts/leakage.json", COMMAND)


@pytest.fixture
def root(prepared, tmp_path):
    return copy_root(prepared, tmp_path / "root")


@pytest.mark.parametrize("leak", LEAKS, ids=lambda leak: leak.name)
def test_a_leak_is_named_openly_and_where_the_manifests_were_edited_to_hide_it(script, root, leak):
    assert problems(script, root, leak, seed=0) == [None, None, None]


@pytest.mark.parametrize(
    ("module", "leak", "said"),
    [
        ("train_stage1_baseline", "neighbour of one block", "share 1 tiles of one spatial block"),
        ("train_stage2_replication", "replica whose base is in val", "share 1 images"),
        ("train_stage5a_pretrain", "val tile called OEM in pretraining", "share 1 images"),
        ("train_teacher", "teacher's val tile in its train", "share 1 images"),
    ],
)
def test_no_training_starts_on_a_leak(script, root, tmp_path, module, leak, said):
    spoil(root, next(known for known in LEAKS if known.name == leak), hidden=False, seed=0)
    ended = script(f"training.{module}", "--root", root, *TRAIN_FLAGS, "--out-dir", tmp_path / "out")
    assert refusal_problem(ended, said, "See all of it: python -m data_prep.check_leakage") is None
    assert not (tmp_path / "out").exists()


def test_no_training_starts_where_check_leakage_found_what_manifests_do_not_tell(script, root, tmp_path):
    spoil(root, next(known for known in LEAKS if known.name == "replica of an edited val tile"), hidden=True, seed=0)
    assert script("data_prep.check_leakage", "--root", root).status == 2
    flags = ("--root", root, *TRAIN_FLAGS, "--out-dir", tmp_path / "out")
    ended = script("training.train_stage2_replication", *flags)
    assert refusal_problem(ended, "leakage.json", "val and train_rep share overlapping window in 1 cases") is None
    assert not (tmp_path / "out").exists()


def refused(root, train="train", val="val") -> str:
    with pytest.raises(UserError) as stop:
        require_apart(tiles_of(root, train), tiles_of(root, val), report_of(root))
    assert COMMAND in str(stop.value) or "Make both from one split" in str(stop.value)
    return str(stop.value)


@pytest.mark.parametrize(
    ("train", "val"),
    [("train", "val"), ("train_rep", "val"), ("combined", "val"), ("OEM teacher train", "OEM teacher val")],
)
def test_a_training_starts_on_good_sets(prepared, train, val, capsys):
    sets = tiles_of(prepared, train), tiles_of(prepared, val)
    require_apart(*sets, report_of(prepared))
    require_checked(*sets, report_of(prepared))
    assert capsys.readouterr().err == ""


def test_a_training_is_refused_what_its_manifests_share_and_is_told_what(root):
    val = tiles_of(root, "val").tiles[0]
    first = tiles_of(root, "train").ids[0]
    for changes, said in (
        (
            {"bounds": [bound + 1 for bound in val.entry["bounds"]]},
            f"share 1 tiles that show the same area (first: {first})",
        ),
        ({"block": val.block}, f"share 1 tiles of one spatial block (first: {first})"),
        ({"base": val.id}, f"share 1 tile ids (first: {first})"),
        ({"content_sha256": val.entry["content_sha256"]}, f"share 1 images (first: {first})"),
        ({"sha256": val.entry["sha256"]}, f"share 1 images (first: {first})"),
    ):
        edit_entry(root, "train", first, **changes)
        assert said in refused(root)


def test_a_training_is_refused_a_manifest_that_was_edited_or_is_of_another_scaling(root):
    path = folder_of(root, "val") / "manifest.json"
    manifest = json.loads(path.read_text())
    edit(folder_of(root, "val"), lambda m: m.update(stretch={"kind": "tile", "percentiles": [2, 98], "ranges": None}))
    assert "scaled to 8 bit by another range" in refused(root)
    manifest["tiles"].pop(next(iter(manifest["tiles"])))
    write_json(path, manifest)
    for suffix in ("images/*.tif", "masks/*.png"):
        min(path.parent.glob(suffix)).unlink()
    assert "its manifest was changed after it was written" in refused(root)


def test_neighbours_of_a_random_split_are_trained_on(root):
    val = tiles_of(root, "val")
    edit_entry(root, "train", tiles_of(root, "train").ids[0], block=val.tiles[0].block)
    for name in ("train", "val"):
        edit(folder_of(root, name), lambda manifest: manifest.update(split_strategy="random"))
    require_apart(tiles_of(root, "train"), tiles_of(root, "val"), report_of(root))
    edit(folder_of(root, "val"), lambda manifest: manifest.update(split_strategy="blocks"))
    assert "one spatial block" in refused(root)


def test_images_of_one_colour_on_both_sides_are_trained_on(root):
    for name, label in (("train", 1), ("val", 2)):
        put(root, name, f"blank_{name}", np.zeros((3, 64, 64), np.uint8), np.full((64, 64), label, np.uint8))
    require_apart(tiles_of(root, "train"), tiles_of(root, "val"), report_of(root))


def test_an_openearthmap_tile_in_val_is_trained_against_by_no_one_but_the_teacher(root):
    bring(root, tiles_of(root, "OEM relabelled").tiles[0], "val", "field")
    assert "holds 1 OpenEarthMap tiles: field" in refused(root)


def checked(root, train="train"):
    sets = tiles_of(root, train), tiles_of(root, "val")
    require_checked(*sets, report_of(root))


def test_a_training_is_refused_what_check_leakage_found(root):
    report = root / "artifacts/leakage.json"
    content = json.loads(report.read_text())
    write_json(report, {**content, "passed": False, "findings": [{"text": "val and train share ground"}]})
    with pytest.raises(UserError, match="has 1 findings:\n  val and train share ground\n"):
        checked(root)
    for nonsense in ([], {"sets": {}}, {**content, "findings": ["x"]}, {**content, "sets": {"val": 3}}):
        write_json(report, nonsense)
        with pytest.raises(UserError, match="is not a report of check_leakage: .* Write it again: "):
            checked(root)


def test_a_report_passes_only_where_it_says_so_and_has_no_finding(root):
    report = root / "artifacts/leakage.json"
    content = json.loads(report.read_text())
    for passed, findings in ((False, []), (True, [{"text": "val and train share ground"}])):
        write_json(report, {**content, "passed": passed, "findings": findings})
        with pytest.raises(UserError, match=f"has {len(findings)} findings"):
            checked(root)
    write_json(report, {**content, "passed": "true"})
    with pytest.raises(UserError, match="its passed: it is 'true'"):
        checked(root)


def test_a_training_on_sets_that_nobody_checked_is_warned_of(root, capsys):
    edit_entry(root, "train", tiles_of(root, "train").ids[0], gsd=0.6)
    checked(root)
    assert f"leakage.json is of other versions of {folder_of(root, 'train')}" in capsys.readouterr().err
    checked(root, "train_rep")
    assert capsys.readouterr().err == ""
    (root / "artifacts/leakage.json").unlink()
    checked(root)
    assert f"leakage.json does not exist: the leakage check has not been run. Write it: {COMMAND}" in (
        capsys.readouterr().err
    )
