import json
import os
import shutil

import numpy as np
import pytest
from rasterio.crs import CRS
from rasterio.warp import transform_bounds

from common.cli import UserError
from common.files import place, sha256_file
from common.tiles import TileSet, describe_tile, manifest_digest, write_image, write_mask
from data_prep import check_leakage, prepare_oem_teacher, split_biodiversity
from tests.helpers import prepare_root, quiet


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    return prepare_root(tmp_path_factory.mktemp("prepared"))


@pytest.fixture
def root(prepared, tmp_path):
    shutil.copytree(prepared, tmp_path / "root")
    return tmp_path / "root"


def folder(root, name):
    return root / "data" / "biodiversity_split" / name


def tiles(root, name):
    return TileSet.open(folder(root, name), command="x")


def edit(path, change):
    """Change a manifest as if a step had written it so."""
    manifest = json.loads((path / "manifest.json").read_text())
    change(manifest)
    manifest["digest"] = manifest_digest(manifest)
    (path / "manifest.json").write_text(json.dumps(manifest))


def bring(root, tile, name, tile_id, **changes):
    """Put a tile of another set into the set ``name``."""
    target = folder(root, name)
    place(tile.image_path, target / "images" / f"{tile_id}.tif", "copy")
    place(tile.mask_path, target / "masks" / f"{tile_id}.png", "copy")
    edit(target, lambda manifest: manifest["tiles"].update({tile_id: {**tile.entry, **changes}}))


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


NOWHERE = {"crs": None, "bounds": None, "gsd": None, "block": None}


def test_clean_splits_pass_and_the_report_says_what_was_compared(prepared):
    printed = quiet(check_leakage.main, "--root", prepared)
    report = json.loads((prepared / "artifacts" / "leakage.json").read_text())
    assert report["passed"] and report["findings"] == []
    assert len(report["sets"]) == 9 and report["sets"]["val"]["digest"] == tiles(prepared, "val").digest
    assert ["test", "combined"] in [row["sets"] for row in report["compared"]]
    assert "no leakage found" in printed


def test_a_train_tile_under_another_name_in_val_is_found(root):
    bring(root, tiles(root, "train").tiles[0], "val", "innocent", **NOWHERE)
    found = leaks(root)
    assert ("val", "train") in found["image file"] and ("val", "train_rep") in found["image file"]
    assert ("val", "combined") in found["image file"] and "tile id" not in found


def test_the_same_pixels_in_another_file_are_found(root):
    tile = tiles(root, "train").tiles[0]
    image, mask = tile.read_image(), tile.read_mask()
    target = folder(root, "test")
    image_path, mask_path = target / "images" / "again.tif", target / "masks" / "again.png"
    write_image(image_path, image)
    write_mask(mask_path, mask)
    assert sha256_file(image_path) != tile.entry["sha256"]
    entry = describe_tile(image, mask, image_path, mask_path, NOWHERE, 6)
    edit(target, lambda manifest: manifest["tiles"].update(again=entry))
    found = leaks(root)
    assert ("test", "train") in found["image content"] and "image file" not in found


def test_a_shared_tile_id_is_found(root):
    train, val = tiles(root, "train"), tiles(root, "val")
    bring(root, val.tiles[0], "val", train.ids[0])
    assert ("val", "train") in leaks(root)["tile id"]


def test_a_replica_of_a_val_tile_in_train_rep_is_found(root):
    val = tiles(root, "val")
    bring(root, val.tiles[0], "train_rep", f"{val.ids[0]}__rep1", base=val.ids[0])
    found = leaks(root)
    assert ("train_rep",) in found["base"]
    assert ("val", "train_rep") in found["tile id"] and ("val", "train_rep") in found["image file"]


def test_a_replica_without_base_in_train_is_found(root):
    edit(folder(root, "train_rep"), lambda m: next(iter(m["tiles"].values())).update(base="gone"))
    assert leaks(root) == {"base": [("train_rep",)]}


def test_an_openearthmap_tile_in_val_is_found(root):
    oem = TileSet.open(root / "data" / "openearthmap_relabelled", command="x")
    bring(root, oem.tiles[0], "val", "field")
    found = leaks(root)
    assert found["OpenEarthMap tile"] == [("val",)]
    assert ("val", "combined") in found["image file"] and ("val", "OEM relabelled") in found["ground"]


def test_overlapping_ground_is_found_although_no_pixel_is_equal(root):
    train = tiles(root, "train")

    def move(manifest):
        entry = next(iter(manifest["tiles"].values()))
        left, bottom, right, top = train.tiles[0].entry["bounds"]
        entry["bounds"] = [left + 8, bottom + 8, right + 8, top + 8]

    edit(folder(root, "val"), move)
    assert ("val", "train") in leaks(root)["ground"]


def test_a_block_on_both_sides_of_a_block_split_is_found(root):
    block = tiles(root, "train").tiles[0].block
    edit(folder(root, "test"), lambda m: next(iter(m["tiles"].values())).update(block=block))
    assert leaks(root) == {"block": [("test", "train")]}


def test_neighbours_of_a_random_split_are_counted_and_pass(root):
    quiet(split_biodiversity.main, "--root", root, "--overwrite", "--strategy", "random")
    for name in ("biodiversity_split/train_rep", "biodiversity_oem_combined"):
        shutil.rmtree(root / "data" / name)
    printed = quiet(check_leakage.main, "--root", root)
    report = json.loads((root / "artifacts" / "leakage.json").read_text())
    count = tiles(root, "val").manifest["blocks_shared_with_train"]
    assert report["passed"] and report["blocks_shared_with_train"]["val"] == count > 0
    assert f"val and train {count}" in printed


@pytest.mark.parametrize(("sub", "suffix"), [("images", ".tif"), ("masks", ".png")])
def test_a_file_that_was_changed_afterwards_is_found(root, sub, suffix):
    path = folder(root, "val") / sub / f"{tiles(root, 'val').ids[0]}{suffix}"
    content = bytearray(path.read_bytes())
    content[-1] ^= 255
    os.unlink(path)  # the same file may be linked elsewhere
    path.write_bytes(content)
    assert leaks(root) == {"changed file": [("val",)]}


def test_a_manifest_that_was_changed_by_hand_is_found(root):
    path = folder(root, "val") / "manifest.json"
    manifest = json.loads(path.read_text())
    next(iter(manifest["tiles"].values()))["pixels"][1] += 1
    path.write_text(json.dumps(manifest))
    assert leaks(root) == {"changed manifest": [("val",)]}


def test_sets_made_from_another_train_are_found(root):
    quiet(split_biodiversity.main, "--root", root, "--overwrite", "--seed", 3)
    found = leaks(root)
    assert sorted(found["stale"]) == [("combined",), ("train_rep",)]
    assert ("train_rep",) in found["base"]


def test_blank_images_in_two_splits_are_no_leak(root):
    for name, value in (("train", 1), ("val", 2)):
        image, mask = np.zeros((3, 64, 64), np.uint8), np.full((64, 64), value, np.uint8)
        paths = [
            folder(root, name) / sub / f"blank_{name}{end}" for sub, end in (("images", ".tif"), ("masks", ".png"))
        ]
        write_image(paths[0], image)
        write_mask(paths[1], mask)
        entry = describe_tile(image, mask, *paths, NOWHERE, 6)
        edit(folder(root, name), lambda m, n=name, e=entry: m["tiles"].update({f"blank_{n}": e}))
    for name in ("biodiversity_split/train_rep", "biodiversity_oem_combined"):
        shutil.rmtree(root / "data" / name)
    quiet(check_leakage.main, "--root", root)


def test_a_missing_split_is_named(root):
    shutil.rmtree(folder(root, "val"))
    with pytest.raises(UserError, match="val is not a finished tile set"):
        quiet(check_leakage.main, "--root", root)


def test_a_split_under_another_name_or_scaling_is_found(root):
    edit(folder(root, "val"), lambda m: m.update(split="test"))
    edit(folder(root, "test"), lambda m: m.update(stretch={"kind": "tile", "percentiles": [2, 98], "ranges": None}))
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
    assert leaks(root) == {"resolution": [("OEM relabelled", "OEM teacher train")]}


def test_ground_in_two_systems_is_compared_on_the_world(root):
    tile = tiles(root, "train").tiles[0]
    left, bottom, right, top = transform_bounds("EPSG:32633", "EPSG:4326", *tile.entry["bounds"])
    world = {"crs": CRS.from_epsg(4326).to_wkt(), "bounds": [left, bottom, right, top]}
    edit(folder(root, "val"), lambda m: next(iter(m["tiles"].values())).update(world))
    assert ("val", "train") in leaks(root)["ground"]


def test_ground_in_a_system_that_cannot_be_compared_is_not_called_disjoint(root):
    local = 'LOCAL_CS["grid",UNIT["metre",1]]'
    edit(folder(root, "val"), lambda m: [entry.update(crs=local) for entry in m["tiles"].values()])
    printed = quiet(check_leakage.main, "--root", root)
    count = len(tiles(root, "val")) * len(tiles(root, "train"))
    row = next(line for line in printed.splitlines() if line.startswith("val and train "))
    assert row.endswith(f"not comparable ({count} pairs)")
