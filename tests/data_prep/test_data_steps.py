import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from common.errors import UserError
from common.rasters import open_raster, read_mask
from common.taxonomy import OPENEARTHMAP, load_taxonomy
from common.tiles import TileSet
from data_prep import (
    analyze_class_distribution,
    check_biodiversity,
    filter_oem_rural,
    relabel_oem,
    replicate_minority,
    split_biodiversity,
)
from tests.helpers import (
    OEM_RAW,
    THREE_CLASSES,
    audited_split,
    made,
    make_biodiversity,
    make_raw,
    prepare_root,
    quiet,
    run_data_steps,
    write_tif,
)

REAL_DATA = Path(__file__).resolve().parents[3] / "shared" / "real_data"
SPLITS = ("train", "val", "test")


@pytest.fixture
def root(prepared, tmp_path):
    """A copy of the prepared root that a test may change."""
    shutil.copytree(prepared, tmp_path / "root")
    return tmp_path / "root"


def tiles(root, *parts):
    return TileSet.open(made(root.joinpath("data", *parts)))


def splits(root):
    return [tiles(root, "biodiversity_split", name) for name in SPLITS]


def share(tile_set, name):
    pixels = tile_set.pixels[1:]
    return pixels[tile_set.taxonomy.foreground.index(name)] / pixels.sum()


# Splitting


def test_the_splits_share_the_tiles_out_by_whole_blocks_and_all_have_every_class(prepared):
    train, val, test = splits(prepared)
    assert len(train) + len(val) + len(test) == 64
    blocks = [{tile.block for tile in part} for part in (train, val, test)]
    assert not (blocks[0] & blocks[1] or blocks[0] & blocks[2] or blocks[1] & blocks[2])
    assert sum(map(len, blocks)) == 16
    for part in (train, val, test):
        assert (part.pixels[1:] > 0).all()
        assert part.manifest["split_strategy"] == "blocks" and part.manifest["fractions"] == [0.6, 0.2, 0.2]
    assert val.manifest["blocks_shared_with_train"] == 0


def test_one_seed_gives_one_split_and_another_seed_another(root):
    before = [part.digest for part in splits(root)]
    quiet(audited_split, "--root", root, "--overwrite", "--workers", 2)
    assert [part.digest for part in splits(root)] == before
    quiet(audited_split, "--root", root, "--overwrite", "--seed", 1)
    assert [part.digest for part in splits(root)] != before


def test_tiles_without_a_place_are_split_one_by_one(tmp_path):
    make_biodiversity(tmp_path, rows=4, columns=4, size=32)
    for path in (tmp_path / "data" / "biodiversity_raw" / "images").iterdir():
        with open_raster(path) as src:
            pixels = src.read()
        path.unlink()
        write_tif(path, pixels)
    quiet(audited_split, "--root", tmp_path)
    train, _, _ = splits(tmp_path)
    assert train.manifest["split_strategy"] == "random"
    assert len({tile.block for tile in train}) == len(train)


def rewrite(root, change):
    """Write every raw tile again where ``change(row, column, (left, top))`` puts it; None leaves it without a place."""
    for path in sorted((root / "data" / "biodiversity_raw" / "images").iterdir()):
        with open_raster(path) as src:
            pixels, origin = src.read(), (src.bounds.left, src.bounds.top)
        path.unlink()
        row, column = map(int, path.stem.split("_")[1:])
        write_tif(path, pixels, origin=change(row, column, origin))


def test_one_tile_without_a_place_among_many_is_named_and_keeps_the_blocks_of_the_others(tmp_path, capsys):
    make_biodiversity(tmp_path, size=32)
    rewrite(tmp_path, lambda row, column, origin: None if (row, column) == (0, 0) else origin)
    audited_split(["--root", str(tmp_path)])
    assert "1 of 64 tiles are not georeferenced" in (said := capsys.readouterr().err) and "tile_0_0" in said
    assert splits(tmp_path)[0].manifest["split_strategy"] == "blocks"


def test_tiles_that_all_overlap_are_named_as_the_cause(tmp_path):
    make_biodiversity(tmp_path, rows=6, columns=6, size=32)
    top = 5_000_000
    rewrite(tmp_path, lambda row, column, _: (500_000 + column * 12, top - row * 12))
    with pytest.raises(UserError, match=r"1 blocks to draw.*36 tiles overlap their neighbours by more than 2 pixels"):
        quiet(audited_split, "--root", tmp_path)


def test_blocks_that_hang_together_are_counted_as_one(tmp_path, capsys):
    make_biodiversity(tmp_path, size=32)
    shift = 3.0  # the two rightmost columns of each row of blocks cover common ground across the edge of two blocks
    rewrite(tmp_path, lambda row, column, o: (o[0] - shift, o[1]) if column == 6 else o)
    audited_split(["--root", str(tmp_path)])
    said = capsys.readouterr()
    drawn = [int(line.split()[2]) for line in said.out.splitlines() if line.startswith(SPLITS)]
    assert sum(drawn) == 12  # of 16 blocks four hang together with their neighbour
    assert f"val has tiles of {drawn[1]} spatial blocks; under 10" in said.err


def test_a_random_split_warns_of_tiles_not_of_blocks(tmp_path, capsys):
    make_biodiversity(tmp_path, rows=4, columns=4, size=32)
    rewrite(tmp_path, lambda *_: None)
    audited_split(["--root", str(tmp_path)])
    said = capsys.readouterr().err
    assert "val has 3 tiles; under 10" in said and "block" not in said


@pytest.mark.parametrize("split_that_fails", SPLITS)
def test_a_split_that_fails_while_writing_leaves_the_earlier_one(root, monkeypatch, split_that_fails):
    before = [part.digest for part in splits(root)]
    write = split_biodiversity.write_tile

    def full_disk(item, **settings):
        if f".{split_that_fails}.partial" in str(item[1]):
            raise OSError("disk full")
        return write(item, **settings)

    monkeypatch.setattr(split_biodiversity, "write_tile", full_disk)
    with pytest.raises(OSError, match="disk full"):
        quiet(audited_split, "--root", root, "--overwrite", "--seed", 5)
    assert [part.digest for part in splits(root)] == before
    assert not [p.name for p in (root / "data" / "biodiversity_split").iterdir() if p.name.startswith(".")]


def test_an_existing_split_is_refused_before_any_tile_is_read(root, monkeypatch):
    monkeypatch.setattr(split_biodiversity, "inspect_all", lambda *_: pytest.fail("read tiles"))
    with pytest.raises(UserError, match="--overwrite"):
        quiet(audited_split, "--root", root)


def test_a_split_without_a_labelled_pixel_is_refused(tmp_path):
    make_biodiversity(tmp_path, rows=4, columns=4, size=32)
    masks = sorted((tmp_path / "data" / "biodiversity_raw" / "masks").iterdir())
    for path in masks[1:]:
        shutil.copyfile(masks[0], path)
        from_first = np.zeros((32, 32), np.uint8)
        path.unlink()
        split_biodiversity.write_mask(path, from_first)
    with pytest.raises(UserError, match="would have a labelled pixel"):
        quiet(audited_split, "--root", tmp_path)


@pytest.mark.parametrize("fractions", [("0.5", "0.2", "0.2"), ("1", "0", "0"), ("0.8", "0.3", "-0.1")])
def test_fractions_that_do_not_share_out_all_tiles_are_wrong_use(fractions):
    with pytest.raises(SystemExit) as stop:
        split_biodiversity.parse_args(["--fractions", *fractions])
    assert stop.value.code == 2


def test_remedies_name_the_root(root):
    with pytest.raises(UserError, match=f"python -m data_prep.check_biodiversity --root {root}"):
        quiet(audited_split, "--root", root, "--overwrite", "--exclude", root / "none.txt")
    shutil.rmtree(root / "data" / "openearthmap_filtered")
    with pytest.raises(UserError, match=f"python -m data_prep.filter_oem_rural --root {root}"):
        quiet(relabel_oem.main, "--root", root, "--overwrite")
    (root / "artifacts" / "class_distribution.json").unlink()
    with pytest.raises(UserError, match=f"python -m data_prep.analyze_class_distribution --root {root}"):
        quiet(replicate_minority.main, "--root", root, "--overwrite")


# Replication


def test_replication_raises_the_share_of_every_minority_class_and_copies_only_listed_tiles(prepared):
    train, repeated = tiles(prepared, "biodiversity_split", "train"), tiles(prepared, "biodiversity_split", "train_rep")
    distribution = json.loads((prepared / "artifacts" / "class_distribution.json").read_text())
    assert len(distribution["minority_classes"]) == 3
    for name in distribution["minority_classes"]:
        assert share(repeated, name) > 1.5 * share(train, name)
    listed = distribution["tiles_to_replicate"]
    assert len(repeated) == len(train) + 2 * len(listed)
    replicas = [tile for tile in repeated if tile.id != tile.base]
    assert {tile.base for tile in replicas} == set(listed)
    for tile in replicas:
        assert tile.image_path.samefile(train[tile.base].image_path) and tile.block == train[tile.base].block


def test_no_step_reads_val_or_test_to_find_minority_classes(root):
    before = (root / "artifacts" / "class_distribution.json").read_text()
    shutil.rmtree(root / "data" / "biodiversity_split" / "val")
    shutil.rmtree(root / "data" / "biodiversity_split" / "test")
    quiet(analyze_class_distribution.main, "--root", root)
    assert (root / "artifacts" / "class_distribution.json").read_text() == before
    with pytest.raises(UserError, match="'test', expected 'train'"):
        train = root / "data" / "biodiversity_split" / "train"
        manifest = json.loads((train / "manifest.json").read_text())
        (train / "manifest.json").write_text(json.dumps({**manifest, "split": "test"}))
        quiet(analyze_class_distribution.main, "--root", root)


# OpenEarthMap


def test_files_of_one_region_do_not_take_the_ids_of_another(root):
    for folder in ("images", "labels"):
        os.rename(root / OEM_RAW / "hills" / folder / "hills_0.tif", root / OEM_RAW / "hills" / folder / "hillside.tif")
    quiet(filter_oem_rural.main, "--root", root, "--overwrite")
    assert "hills_hillside" in tiles(root, "openearthmap_filtered")
    before = {p: p.read_bytes() for p in (root / OEM_RAW).rglob("*.tif")}
    for folder in ("images", "labels"):
        shutil.copyfile(root / OEM_RAW / "town" / folder / "town_0.tif", root / OEM_RAW / "hills" / folder / "1.tif")
    with pytest.raises(
        UserError, match=r"hills/images/1\.tif.*would both become the tile hills_1|hills_1\.tif.*hills_1"
    ):
        quiet(filter_oem_rural.main, "--root", root, "--overwrite")
    assert all(path.read_bytes() == content for path, content in before.items())


def test_every_damaged_image_of_openearthmap_is_named_and_nothing_is_written(root):
    before = (root / "data/openearthmap_filtered/manifest.json").read_text()
    for name in ("fields_1", "fields_3"):
        path = root / OEM_RAW / "fields" / "images" / f"{name}.tif"
        content = path.read_bytes()
        path.unlink()
        path.write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=r"(?s)2 tiles cannot be used.*fields_1\.tif.*fields_3\.tif.*Unpack"):
        quiet(filter_oem_rural.main, "--root", root, "--overwrite")
    assert (root / "data/openearthmap_filtered/manifest.json").read_text() == before
    assert not [path for path in (root / "data").iterdir() if path.name.startswith(".")]


def test_nodata_of_an_openearthmap_image_is_unknown_in_its_label(root):
    path = root / OEM_RAW / "fields" / "images" / "fields_0.tif"
    with open_raster(path) as src:
        pixels, origin = np.maximum(src.read(), 1), (src.bounds.left, src.bounds.top)
    pixels[:, :10] = 0
    path.unlink()
    write_tif(path, pixels, origin=origin, nodata=0)
    quiet(filter_oem_rural.main, "--root", root, "--overwrite")
    mask = tiles(root, "openearthmap_filtered")["fields_0"].read_mask()
    assert (mask[:10] == 0).all() and mask[10:].any()


def test_a_region_with_labels_alone_is_counted_and_an_empty_one_is_named(root):
    shutil.rmtree(root / OEM_RAW / "town" / "images")
    printed = quiet(filter_oem_rural.main, "--root", root, "--overwrite")
    assert [line.split()[1:4] for line in printed.splitlines() if line.startswith("town")] == [["0", "0", "6"]]
    shutil.rmtree(root / OEM_RAW / "town" / "labels")
    with pytest.raises(UserError, match="town has neither an images nor a labels folder"):
        quiet(filter_oem_rural.main, "--root", root, "--overwrite")


# The whole chain


def test_the_data_are_on_disk_once(prepared):
    images = [p for p in (prepared / "data").rglob("*.tif") if "labels" not in p.parts]
    assert len(images) > 200
    assert len({p.stat().st_ino for p in images}) == 64 + 17  # one for each raw image


def test_the_chain_runs_with_another_number_of_classes(tmp_path):
    prepare_root(tmp_path, taxonomy=THREE_CLASSES)
    quiet(check_biodiversity.main, "--root", tmp_path)
    train = tiles(tmp_path, "biodiversity_split", "train")
    assert train.taxonomy == load_taxonomy(tmp_path) == THREE_CLASSES
    distribution = json.loads((tmp_path / "artifacts" / "class_distribution.json").read_text())
    assert distribution["minority_classes"] == ["Bright"]
    relabelled = tiles(tmp_path, "openearthmap_relabelled")
    water = tiles(tmp_path, "openearthmap_filtered").pixels[OPENEARTHMAP.index("Water")]
    assert relabelled.pixels[THREE_CLASSES.index("Wet")] == water > 0
    (tmp_path / "taxonomy.json").unlink()
    with pytest.raises(UserError, match="Two taxonomies"):
        quiet(analyze_class_distribution.main, "--root", tmp_path)


def test_raw_tiles_are_never_changed(prepared, tmp_path):
    make_raw(tmp_path)
    raw = [p for p in (tmp_path / "data").rglob("*.*") if p.is_file()]
    assert {"biodiversity_raw", "openearthmap_raw"} == {p.relative_to(tmp_path).parts[1] for p in raw}
    for path in raw:
        assert path.read_bytes() == (prepared / path.relative_to(tmp_path)).read_bytes()


def test_the_chain_runs_on_real_tiles(tmp_path):
    if not REAL_DATA.is_dir():
        pytest.skip("the real tiles are not beside the repository")
    (tmp_path / "data").mkdir()
    for name in ("biodiversity_raw", "openearthmap_raw"):
        (tmp_path / "data" / name).symlink_to(REAL_DATA / name)
    shutil.copyfile(REAL_DATA / "taxonomy.json", tmp_path / "taxonomy.json")
    run_data_steps(tmp_path)
    train, val, test = splits(tmp_path)
    assert len(train) + len(val) + len(test) == 216
    assert all((part.pixels[1:] > 0).all() for part in (train, val, test))
    assert len({tile.block for tile in val}) >= 10
    distribution = json.loads((tmp_path / "artifacts" / "class_distribution.json").read_text())
    assert distribution["minority_classes"] == ["Urban", "Barren"]
    assert len(tiles(tmp_path, "openearthmap_filtered")) < 108
    assert read_mask(val.tiles[0].mask_path).shape == (204, 204)
