"""What counts as shared between two sets, worked out on a few tiles: ids, images, ground, blocks, altered copies."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from rasterio.crs import CRS
from rasterio.warp import transform_bounds

from common.errors import UserError
from common.taxonomy import OPENEARTHMAP
from common.tiles import Tile, is_blank, is_openearthmap, shared_ids
from data_prep.check_leakage import shown
from data_prep.leakage import provenance, sets
from data_prep.leakage.provenance import untrue_entries
from data_prep.leakage.sets import ImageLook, MaskLook, Part, is_elsewhere, look_at_image, look_at_mask
from data_prep.leakage.shared import pairs_apart, shared_tiles
from tests.helpers import made, write_png, write_tif
from tests.small_sets import LEFT, TOP, noise_of, with_pixels, write_set
from training.engine.preflight import require_apart, shared_images, split_by_block

UTM33, WORLD = (CRS.from_epsg(code).to_wkt() for code in (32633, 4326))


# From manifests alone


def named(tile_id, **entry):
    return Tile(tile_id, Path("x"), {"block": None, **entry})


def test_tiles_share_an_id_where_any_of_id_and_base_of_the_one_is_any_of_the_other():
    val = [named("v"), named("w__rep1", base="w")]
    train = [named("a"), named("v__rep1", base="v"), named("w"), named("v"), named("w__rep1"), named("b", base="a")]
    train.append(named("v", base="z"))
    assert shared_ids(train, val) == ["v__rep1", "w", "v", "w__rep1", "v"]
    assert shared_ids([named("a")], [named("b")]) == []


def test_a_tile_is_openearthmaps_by_its_source_or_its_region():
    assert is_openearthmap(named("a", source="openearthmap")) and is_openearthmap(named("a", region="hills"))
    assert not is_openearthmap(named("oem_a", source="biodiversity")) and not is_openearthmap(named("a", region=""))


def manifests(*strategies):
    return [SimpleNamespace(manifest={} if said is None else {"split_strategy": said}) for said in strategies]


@pytest.mark.parametrize(
    ("strategies", "by_block"),
    [
        (("random", "random"), False),
        ((None, "random"), False),  # train_rep does not say
        (("blocks", "random"), True),
        (("blocks", "blocks"), True),
        ((None, None), True),  # the teacher
    ],
)
def test_blocks_count_unless_all_that_is_said_is_that_tiles_were_drawn(strategies, by_block):
    assert split_by_block(*manifests(*strategies)) == by_block


def one_class(side=8):
    return with_pixels(side, {1: side * side})


def two_sets(tmp_path, train, val, **settings):
    """Sets of single-class tiles; ``train`` and ``val`` say {id: changes of the entry}."""
    return [
        write_set(
            tmp_path / name, {tile_id: one_class() for tile_id in entries}, split=name, entries=entries, **settings
        )
        for name, entries in (("train", train), ("val", val))
    ]


def test_an_image_is_shared_by_its_file_or_its_pixels_unless_it_has_one_colour(tmp_path):
    train, val = two_sets(tmp_path, {"a": {}, "b": {}, "c": {}}, {"v": {}})
    assert shared_images(train, val) == []
    for key in ("sha256", "content_sha256"):
        of_val = val["v"].entry[key]
        spoilt, _ = two_sets(tmp_path / key, {"a": {}, "b": {key: of_val}, "c": {key: of_val}}, {"v": {}})
        assert shared_images(spoilt, val) == ["b", "c"]
        spoilt["b"].image_path.unlink()
        write_tif(spoilt["b"].image_path, np.full((3, 8, 8), 7, np.uint8))
        assert is_blank(spoilt["b"]) and not is_blank(spoilt["c"])
        assert shared_images(spoilt, val) == ["c"]
    spoilt["b"].image_path.unlink()
    nearly = np.full((3, 8, 8), 7, np.uint8)
    nearly[2, 7, 7] = 8
    write_tif(spoilt["b"].image_path, nearly)
    assert not is_blank(spoilt["b"])
    colour = np.broadcast_to(np.array([1, 2, 3], np.uint8)[:, None, None], (3, 8, 8))
    spoilt["c"].image_path.unlink()
    write_tif(spoilt["c"].image_path, colour)
    assert is_blank(spoilt["c"])  # of three different bands


def test_openearthmap_may_bear_the_names_of_val_tiles_and_the_teacher_learns_from_it(tmp_path):
    oem = {"source": "openearthmap", "region": "hills", "block": "hills/r0_c0"}
    train = write_set(
        tmp_path / "train", {"a": one_class(), "v": one_class()},
        split="train", entries={"v": oem}, images={"v": noise_of("other", 8, 8)},
    )  # fmt: skip
    val = write_set(tmp_path / "val", {"v": one_class()}, split="val", entries={"v": {"block": "r0_c0"}})
    report = made("leakage.json", "python -m data_prep.check_leakage")
    require_apart(train, val, report)
    others = {**oem, "block": "hills/r1_c0"}
    require_apart(*two_sets(tmp_path / "c", {"a": oem}, {"v": others}, taxonomy=OPENEARTHMAP), report)
    with pytest.raises(UserError, match="holds 1 OpenEarthMap tiles: w"):
        require_apart(*two_sets(tmp_path / "d", {"a": {}}, {"v": {}, "w": others}), report)
    with pytest.raises(UserError, match="share 1 tiles of one spatial block .first: a"):
        require_apart(*two_sets(tmp_path / "e", {"a": oem, "b": others}, {"v": oem}, taxonomy=OPENEARTHMAP), report)


# From the files


def part(name, role, tiles):
    looks = {tile.id: (look_at_image(tile.image_path), look_at_mask(tile.mask_path)) for tile in tiles}
    return Part(name, role, tiles, looks)


def test_what_is_held_out_must_be_apart_from_all_else_and_val_from_test_once():
    names = ["train", "val", "test", "train_rep", "combined", "OEM filtered", "OEM relabelled"]
    wanted = {("val", name) for name in names} | {("test", name) for name in names}
    wanted -= {("val", "val"), ("test", "test"), ("test", "val")}
    assert set(pairs_apart(dict.fromkeys(names))) == wanted
    teacher = ["OEM teacher train", "OEM teacher val"]
    more = {(held, name) for held in ("val", "test") for name in teacher} | {("OEM teacher val", "OEM teacher train")}
    found = pairs_apart(dict.fromkeys([*names, *teacher]))
    assert set(found) == wanted | more and len(found) == len(set(found))


def test_each_thing_that_two_sets_share_is_listed_with_the_tiles_that_share_it(tmp_path):
    origins = {"a": (LEFT, TOP), "v": (LEFT + 100, TOP), "w": (LEFT + 2, TOP - 2)}
    train, val = two_sets(tmp_path, {"a": {}, "v": {}}, {"v": {}, "w": {}}, origins=origins)
    found = shared_tiles(part("val", "val", val), part("train", "train", train))
    assert sorted(found) == [
        ("ground", "v", "v"), ("ground", "w", "a"), ("image file", "v", "v"), ("tile id", "v", "v"),
    ]  # fmt: skip
    oem = shared_tiles(part("val", "val", val), part("OEM filtered", "openearthmap", train))
    assert sorted(oem) == [("ground", "v", "v"), ("ground", "w", "a"), ("image file", "v", "v")]
    both = shared_tiles(part("OEM teacher val", "openearthmap", val), part("OEM teacher train", "openearthmap", train))
    assert ("tile id", "v", "v") in both


def test_equal_pixels_in_another_file_are_content(tmp_path):
    train, val = two_sets(tmp_path, {"a": {}}, {"v": {}})
    pixels = val["v"].read_image()
    train["a"].image_path.unlink()
    write_tif(train["a"].image_path, pixels, compress="deflate")
    assert shared_tiles(part("val", "val", val), part("train", "train", train)) == [("image content", "v", "a")]


def test_a_file_is_looked_at_for_what_it_holds_and_not_for_what_is_said_of_it(tmp_path):
    pixels = noise_of("a", 40, 50)
    write_tif(tmp_path / "a.tif", pixels, origin=(LEFT, TOP))
    image = look_at_image(tmp_path / "a.tif")
    assert image.location == {
        "crs": image.location["crs"], "bounds": [LEFT, TOP - 20, LEFT + 25, TOP], "gsd": 0.5, "height": 40, "width": 50,
    }  # fmt: skip
    assert not image.is_blank and len(image.anchors) > 4 and image.thumbnail.shape == (32, 32)
    write_tif(tmp_path / "b.tif", np.full((3, 40, 50), 3, np.uint8))
    blank = look_at_image(tmp_path / "b.tif")
    assert blank.is_blank and blank.thumbnail is None and len(blank.anchors) == 0
    mask = np.random.default_rng(0).integers(0, 8, (7, 9)).astype(np.uint8)
    write_png(tmp_path / "a.png", mask)
    look = look_at_mask(tmp_path / "a.png")
    assert look.size == (7, 9) and look.counts == tuple(np.bincount(mask.ravel(), minlength=256))


def test_an_entry_is_untrue_in_whatever_its_files_do_not_bear_out():
    place = {"crs": UTM33, "bounds": [0, 0, 9, 6], "gsd": 1.0}
    image = ImageLook(Path("a"), "f", "c", {**place, "height": 6, "width": 9}, bands=3, anchors=np.zeros(0))
    mask = MaskLook("m", (6, 9), (4, 50, *[0] * 254))
    entry = {"content_sha256": "c", "height": 6, "width": 9, "pixels": [4, 50, 0], **place}
    assert untrue_entries(entry, image, mask, 3) == []
    for change, said in (
        ({"content_sha256": "d"}, ["content_sha256"]),
        ({"height": 9, "width": 6}, ["size"]),
        ({"pixels": [50, 4, 0]}, ["pixels"]),
        ({"pixels": [4]}, ["pixels"]),  # the mask has ids beyond
        ({"bounds": [1, 0, 10, 6]}, ["place"]),
        ({"bounds": None, "crs": None}, ["place"]),
    ):
        assert untrue_entries({**entry, **change}, image, mask, 3) == said
    assert untrue_entries(entry, image, mask._replace(size=(9, 6)), 3) == ["size"]
    assert untrue_entries(entry, image._replace(anchors=None), mask, 3) == ["no 8-bit image of 3 bands"]
    assert untrue_entries(entry, image, MaskLook("m"), 3) == ["no 8-bit mask"]


def test_two_records_of_a_place_may_differ_by_a_hundredth_of_a_pixel_or_a_pixel_between_systems():
    place = {"crs": UTM33, "bounds": [500_000, 5_000_000, 500_100, 5_000_050], "gsd": 1.0, "height": 50, "width": 100}

    def moved(by, **more):
        left, bottom, right, top = place["bounds"]
        return {**place, "bounds": [left, bottom + by, right, top + by], **more}

    assert (
        not is_elsewhere(place, place) and not is_elsewhere(place, moved(0.009)) and is_elsewhere(place, moved(0.011))
    )
    assert is_elsewhere(place, moved(-0.011)) and is_elsewhere(place, {**place, "height": 51})
    assert is_elsewhere(place, {**place, "bounds": None}) and is_elsewhere({**place, "bounds": None}, place)
    assert not is_elsewhere({**place, "bounds": None}, {**place, "bounds": None})
    for by, elsewhere in ((0, False), (3, True)):
        there = moved(by)
        degrees = list(transform_bounds(UTM33, WORLD, *there["bounds"]))
        assert is_elsewhere(place, {**there, "crs": WORLD, "bounds": degrees}) == elsewhere


def test_openearthmap_tiles_in_what_is_held_out_and_strangers_in_what_is_made_of_train_are_findings(tmp_path):
    oem = {"source": "openearthmap", "region": "hills"}

    def parts_of(folder, **entries):
        parts = {}
        for name, of_tiles in entries.items():
            masks = {tile_id: one_class() for tile_id in of_tiles}
            split = "train" if name in ("train_rep", "combined") else name
            tiles = write_set(tmp_path / folder / name, masks, split=split, entries=of_tiles)
            parts[name] = part(name, split, tiles)
        return parts

    def found(parts):
        findings = provenance.origins(parts, tmp_path / "no raw tiles", 0)
        return sorted((f["kind"], *f["sets"], f["count"], f["text"].rpartition(": ")[2]) for f in findings)

    good = {"train": {"a": {}, "b": {}}, "val": {"v": {}}, "test": {"t": {}}}
    assert found(parts_of("good", **good, combined={"a": {}, "b": {}, "oem_x": oem})) == []
    for name in ("val", "test"):
        spoilt = {**good, name: {**good[name], "x": oem, "y": {"region": "hills"}}}
        assert found(parts_of(f"stranger in {name}", **spoilt)) == [("OpenEarthMap tile", name, 2, "x, y")]
    for name in ("train_rep", "combined"):
        orphans = found(parts_of(f"orphan in {name}", **good, **{name: {"a": {}, "c": {}}}))
        assert orphans == [("base", name, 1, "c"), ("base", name, 1, "c")]  # no base, and pixels of its own
        other = found(parts_of(f"changed in {name}", **good, **{name: {"a": {}, "c": {"base": "b"}}}))
        assert other == [("base", name, 1, "c"), ("base", name, 1, "c")]


@pytest.mark.parametrize(("one", "other"), [("val", "train"), ("test", "train"), ("test", "val")])
def test_a_block_in_two_sets_of_a_block_split_is_a_finding_and_of_a_random_split_a_count(tmp_path, one, other):
    cells = {"train": [(0, 0)], "val": [(0, 4)], "test": [(4, 0)]}  # (row, column) in tiles; a block is two by two
    row, column = cells[other][0]
    cells[one] = [*cells[one], (row, column + 1)]
    for strategy in ("blocks", "random"):
        parts = {}
        for name, of_set in cells.items():
            ids = [f"{name}{n}" for n in range(len(of_set))]
            parts[name] = part(name, name, write_set(
                tmp_path / strategy / name, dict.fromkeys(ids, one_class()), split=name,
                origins={i: (LEFT + 4 * c, TOP - 4 * r) for i, (r, c) in zip(ids, of_set, strict=True)},
                entries={i: {"block": f"r{r // 2}_c{c // 2}"} for i, (r, c) in zip(ids, of_set, strict=True)},
                split_strategy=strategy, block_size=None,
            ))  # fmt: skip
            parts[name].tiles.manifest["command"] = f"split --strategy {strategy}"
        findings, crossing = provenance.block_findings(parts)
        wanted = [("block", [one, other], 1)] if strategy == "blocks" else []
        assert [(f["kind"], f["sets"], f["count"]) for f in findings] == wanted
        assert crossing == {name: int(other == "train" and name == one) for name in ("val", "test")}
        parts[one].tiles.manifest["blocks_shared_with_train"] = 5
        assert any("its manifest says 5" in f["text"] for f in provenance.block_findings(parts)[0])


def test_ground_that_cannot_be_compared_is_not_shown_as_0():
    assert shown({"ground": 0, "ground not comparable": 0, "tile id": 3}, "ground") == "0"
    assert shown({"ground": 0, "ground not comparable": 4}, "ground") == "not comparable (4 pairs)"
    assert shown({"ground": 2, "ground not comparable": 4}, "ground") == "2 (4 pairs not comparable)"
    assert shown({"tile id": 3, "ground not comparable": 4}, "tile id") == "3"


def test_the_tables_of_sets_name_what_each_was_made_from():
    assert sets.PARENTS == {
        "train_rep": ["train"],
        "OEM relabelled": ["OEM filtered"],
        "OEM teacher train": ["OEM filtered"],
        "OEM teacher val": ["OEM filtered"],
        "combined": ["train", "OEM relabelled"],
    }
