import json
import os
import shutil

import numpy as np
import pytest
from rasterio.warp import transform_bounds

from common.errors import UserError
from common.rasters import georeference, open_raster, read_image
from data_prep import check_leakage, prepare_oem_teacher, split_biodiversity
from data_prep.tile_sets.writer import describe_tile
from tests.faults.harness import copy_root
from tests.faults.leaks import NOWHERE, bring, edit, edit_entry, folder_of, put, tiles_of
from tests.helpers import (
    CRS,
    audited_split,
    make_biodiversity,
    make_raw,
    quiet,
    run_data_steps,
    ungroup,
    write_groups,
    write_tif,
)


@pytest.fixture
def root(prepared, tmp_path):
    return copy_root(prepared, tmp_path / "root")


def leaks(root):
    """What check_leakage finds: {kind: the sets concerned}."""
    with pytest.raises(UserError) as stop:
        quiet(check_leakage.main, "--root", root)
    report = json.loads((root / "artifacts" / "leakage.json").read_text())
    assert not report["passed"]
    for finding in report["findings"]:
        assert finding["text"] in str(stop.value)
    kinds = {}
    for finding in report["findings"]:
        kinds.setdefault(finding["kind"], []).append(tuple(finding["sets"]))
    return kinds


def test_clean_splits_pass_and_the_report_says_what_was_compared(prepared):
    printed = quiet(check_leakage.main, "--root", prepared)
    report = json.loads((prepared / "artifacts" / "leakage.json").read_text())
    assert report["passed"] and report["findings"] == []
    assert len(report["sets"]) == 9 and report["sets"]["val"]["digest"] == tiles_of(prepared, "val").digest
    assert ["test", "combined"] in [row["sets"] for row in report["compared"]]
    assert "no leakage found" in printed


def test_a_shared_tile_id_is_found(root):
    train, val = tiles_of(root, "train"), tiles_of(root, "val")
    bring(root, val.tiles[0], "val", train.ids[0])
    assert ("val", "train") in leaks(root)["tile id"]


def test_a_replica_without_base_in_train_is_found(root):
    edit(folder_of(root, "train_rep"), lambda m: next(iter(m["tiles"].values())).update(base="gone"))
    assert leaks(root) == {"base": [("train_rep",)]}


def lay(root, name, tile, **place):
    """Write a tile's image anew at another place, and have the manifest say so."""
    image = tile.read_image()
    tile.image_path.unlink()
    write_tif(tile.image_path, image, **place)
    entry = describe_tile(image, tile.read_mask(), tile.image_path, tile.mask_path, {}, len(tile.pixels))
    with open_raster(tile.image_path) as src:
        edit_entry(root, name, tile.id, **entry | georeference(src) | {"block": tile.entry["block"]})


def test_overlapping_ground_is_found_although_no_pixel_is_equal(root):
    left, _, _, top = tiles_of(root, "train").tiles[0].entry["bounds"]
    lay(root, "val", tiles_of(root, "val").tiles[0], origin=(left + 8, top + 8))
    assert ("val", "train") in leaks(root)["ground"]


def test_neighbours_of_a_random_split_are_counted_and_pass(root):
    quiet(audited_split, "--root", root, "--overwrite", "--strategy", "random")
    for name in ("biodiversity_split/train_rep", "biodiversity_oem_combined"):
        shutil.rmtree(root / "data" / name)
    printed = quiet(check_leakage.main, "--root", root)
    report = json.loads((root / "artifacts" / "leakage.json").read_text())
    count = tiles_of(root, "val").manifest["blocks_shared_with_train"]
    assert report["passed"] and report["blocks_shared_with_train"]["val"] == count > 0
    assert f"val and train {count}" in printed


@pytest.mark.parametrize(("sub", "suffix"), [("images", ".tif"), ("masks", ".png")])
def test_a_file_that_was_changed_afterwards_is_found(root, sub, suffix):
    path = folder_of(root, "val") / sub / f"{tiles_of(root, 'val').ids[0]}{suffix}"
    content = bytearray(path.read_bytes())
    content[-1] ^= 255
    os.unlink(path)  # the same file may be linked elsewhere
    path.write_bytes(content)
    assert leaks(root)["changed file"] == [("val",)]


def test_a_manifest_that_was_changed_by_hand_is_found(root):
    path = folder_of(root, "val") / "manifest.json"
    manifest = json.loads(path.read_text())
    next(iter(manifest["tiles"].values()))["source"] = "elsewhere"
    path.write_text(json.dumps(manifest))
    assert leaks(root) == {"changed manifest": [("val",)]}


def test_an_entry_that_its_files_do_not_bear_out_is_found(root):
    tile = tiles_of(root, "val").tiles[0]
    left, bottom, right, top = tile.entry["bounds"]
    moved = [left + 1000, bottom, right + 1000, top]
    changes = ({"content_sha256": "0" * 64}, {"pixels": tile.entry["pixels"][::-1]}, {"bounds": moved}, NOWHERE)
    for change, what in zip(changes, ("content_sha256", "pixels", "place", "place"), strict=True):
        edit_entry(root, "val", tile.id, **{**tile.entry, **change, "block": tile.entry["block"]})
        assert leaks(root)["untrue entry"] == [("val",)]
        report = json.loads((root / "artifacts" / "leakage.json").read_text())
        assert f"{tile.id} ({what})" in "".join(finding["text"] for finding in report["findings"])


def test_sets_made_from_another_train_are_found(root):
    quiet(audited_split, "--root", root, "--overwrite", "--seed", 3)
    found = leaks(root)
    assert sorted(found["stale"]) == [("combined",), ("train_rep",)]
    assert ("train_rep",) in found["base"]


def test_blank_images_in_two_splits_are_no_leak(root):
    for name, label in (("train", 1), ("val", 2)):
        put(root, name, f"blank_{name}", np.zeros((3, 64, 64), np.uint8), np.full((64, 64), label, np.uint8))
    for name in ("biodiversity_raw", "biodiversity_split/train_rep", "biodiversity_oem_combined"):
        shutil.rmtree(root / "data" / name)
    quiet(check_leakage.main, "--root", root)


def test_tiles_that_no_raw_tile_is_are_found_unless_others_were_split(root, capsys):
    raw = root / "data" / "biodiversity_raw" / "images"
    for tile in tiles_of(root, "test"):
        (raw / f"{tile.id}.tif").unlink()
    assert leaks(root) == {"origin": [("test",)]}
    for tile in tiles_of(root, "train"):
        (raw / f"{tile.id}.tif").unlink()
    check_leakage.main(["--root", str(root)])
    assert "biodiversity_raw holds other tiles than those that were split" in capsys.readouterr().err


def test_raw_tiles_of_other_kinds_and_layouts_are_compared(root, capsys):
    raw = root / "data/biodiversity_raw"
    for path in (raw / "images").iterdir():
        path.rename(path.with_name(f"{path.stem}_sat.jpg"))
    for path in (raw / "masks").iterdir():
        path.rename(path.with_name(f"{path.stem}_mask.png"))
    check_leakage.main(["--root", str(root)])
    assert "warning" not in capsys.readouterr().err
    (raw / "images").rename(raw / "rgb")
    check_leakage.main(["--root", str(root)])
    assert "biodiversity_raw holds no raw tiles" in capsys.readouterr().err
    edit(folder_of(root, "train"), lambda m: m.update(image_pattern="rgb/*_sat.jpg", mask_pattern="masks/*_mask.png"))
    check_leakage.main(["--root", str(root)])
    assert "warning" not in capsys.readouterr().err
    (raw / "rgb" / f"{tiles_of(root, 'test').tiles[0].id}_sat.jpg").unlink()
    assert leaks(root) == {"origin": [("test",)]}


def test_raw_tiles_that_overlap_unknown_to_the_split_are_named_with_the_remedy(tmp_path):
    make_biodiversity(tmp_path)
    rng = np.random.default_rng(3)
    ground = rng.integers(0, 256, (3, 64, 64 + 4 * 63), dtype=np.uint8)
    raw = tmp_path / "data/biodiversity_raw/images"
    write_groups(tmp_path)
    for n, path in enumerate(sorted(raw.iterdir())):
        path.unlink()
        write_tif(path, ground[:, :, 4 * n : 4 * n + 64])
    with pytest.raises(UserError, match="is out of date"):
        quiet(split_biodiversity.main, "--root", tmp_path)
    write_groups(tmp_path)
    ungroup(tmp_path)
    quiet(split_biodiversity.main, "--root", tmp_path)
    with pytest.raises(UserError) as stop:
        quiet(check_leakage.main, "--root", tmp_path)
    assert "val and train share overlapping window in" in str(stop.value)
    assert "split_biodiversity --groups FILE" in str(stop.value)


def test_a_missing_split_is_named(root):
    shutil.rmtree(folder_of(root, "val"))
    with pytest.raises(UserError, match="val is not a finished tile set"):
        quiet(check_leakage.main, "--root", root)


def test_a_split_under_another_name_or_scaling_is_found(root):
    edit(folder_of(root, "val"), lambda m: m.update(split="test"))
    edit(folder_of(root, "test"), lambda m: m.update(stretch={"kind": "tile", "percentiles": [2, 98], "ranges": None}))
    found = leaks(root)
    assert found["split"] == [("val",)] and found["stretch"] == [("test",)]


@pytest.mark.parametrize(
    ("child", "parent", "module"),
    [
        ("biodiversity_oem_combined/train", "OEM relabelled", "combine_biodiversity_oem"),
        ("openearthmap_relabelled", "OEM filtered", "relabel_oem"),
        ("openearthmap_teacher/val", "OEM filtered", "prepare_oem_teacher"),
    ],
)
def test_a_folder_made_from_an_earlier_version_of_another_names_the_command_to_run(root, child, parent, module):
    def forget(manifest):
        manifest["made_from"] = [{**source, "digest": "earlier"} for source in manifest["made_from"]]

    edit(root / "data" / child, forget)
    with pytest.raises(UserError) as stop:
        quiet(check_leakage.main, "--root", root)
    command = f"python -m data_prep.{module} --root {root} --overwrite"
    assert f"was made from another version of {parent}; make it again: {command}" in str(stop.value)


def test_a_teacher_of_another_resolution_than_the_relabelled_tiles_is_found(root):
    quiet(prepare_oem_teacher.main, "--root", root, "--overwrite", "--gsd", "1.0")
    assert leaks(root)["resolution"] == [("OEM relabelled", "OEM teacher train")]


def test_ground_in_two_systems_is_compared_on_the_world(root):
    tile = tiles_of(root, "train").tiles[0]
    left, bottom, right, top = transform_bounds(CRS, "EPSG:4326", *tile.entry["bounds"])
    place = {"origin": (left, top), "crs": "EPSG:4326", "gsd": (right - left) / 64}
    lay(root, "val", tiles_of(root, "val").tiles[0], **place)
    assert ("val", "train") in leaks(root)["ground"]


def test_ground_in_a_system_that_cannot_be_compared_is_not_called_disjoint(tmp_path):
    make_raw(tmp_path)
    images = sorted((tmp_path / "data/biodiversity_raw/images").iterdir())
    for n, path in enumerate(images[:16]):
        image = read_image(path)
        path.unlink()
        write_tif(path, image, origin=(32 * (n % 8), -32 * (n // 8)), crs='LOCAL_CS["grid",UNIT["metre",1]]')
    run_data_steps(tmp_path)
    report = json.loads((tmp_path / "artifacts" / "leakage.json").read_text())
    local = {n: sum("LOCAL" in tile.entry["crs"] for tile in tiles_of(tmp_path, n)) for n in ("train", "val")}
    count = local["val"] * (len(tiles_of(tmp_path, "train")) - local["train"])
    count += local["train"] * (len(tiles_of(tmp_path, "val")) - local["val"])
    assert report["compared"][0]["sets"] == ["val", "train"] and count
    assert report["compared"][0]["ground not comparable"] == count
    printed = quiet(check_leakage.main, "--root", tmp_path)
    row = next(line for line in printed.splitlines() if line.startswith("val and train "))
    assert row.endswith(f"not comparable ({count} pairs)")
