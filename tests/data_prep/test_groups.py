"""Tiles that show one ground are found before anything is split, and never divided."""

import json

import numpy as np
import pytest

from common.errors import UserError
from common.raw_images import Reading
from common.taxonomy import BIODIVERSITY
from data_prep import check_biodiversity, check_leakage, split_biodiversity
from data_prep.audit import groups as audit_groups
from data_prep.audit.groups import describe_groups, next_pairs
from data_prep.audit.sheets import plot_groups
from data_prep.raw.inspect import inspect
from data_prep.raw.pairs import find_raw
from data_prep.tile_sets.groups import TileGroup
from tests.helpers import audited_split, quiet, ungroup, write_groups
from tests.small_sets import LEFT, TOP, noise_of, smooth_scene, split_sets, turns, write_raw

SIDE = 80
STRIPES = np.tile(np.arange(SIDE, dtype=np.uint8) % 5 + 1, (SIDE, 1))


def brightened(image):
    return np.clip(1.2 * image + 6, 0, 255)


def write_copies(root, scenes=24, dtype=np.uint8):
    """Tiles without a place: four of each of the first scenes, one of each other; returns the true groups."""
    true = []
    for number in range(scenes):
        scene = smooth_scene(number, 120)
        tile = scene[:, :SIDE, :SIDE]
        images = {"a": tile}
        if number < 6:
            turned = list(turns(tile))
            images |= {"b": turned[1 + number % 7], "c": scene[:, 24 : 24 + SIDE, 30 : 30 + SIDE]}
            images["d"] = brightened(turned[7 - number])
        true.append([f"{letter}{number:02}" for letter in images])
        for name, image in zip(true[-1], images.values(), strict=True):
            image = image.astype(np.uint8)
            write_raw(root, name, STRIPES, image=image if dtype == np.uint8 else (image * 11.3).astype(dtype))
    return true


def audit(root, *flags):
    return quiet(check_biodiversity.main, "--root", root, "--skip-suspicious", *flags)


def table(root):
    lines = (root / "artifacts/audit/groups.tsv").read_text().splitlines()
    assert lines[0] == "tile\tgroup\timage"
    return {tile: group for tile, group, _ in (line.split("\t") for line in lines[1:])}


def edit_table(root, change):
    path = root / "artifacts/audit/groups.tsv"
    path.write_text(change(path.read_text()))


def sides(root):
    return {tile.id: tiles.split for tiles in split_sets(root) for tile in tiles}


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.uint16])
def test_copies_that_are_turned_shifted_or_brightened_stay_together_and_nothing_leaks(tmp_path, dtype):
    true = write_copies(tmp_path, dtype=dtype)
    printed = audit(tmp_path)
    assert "24 of 42 tiles show the area of others, in 6 groups (tied by " in printed
    found = table(tmp_path)
    assert {tile: of_tile[0] for of_tile in true for tile in of_tile} == found
    listed = json.loads((tmp_path / "artifacts/audit/audit.json").read_text())["groups"]
    assert [tuple(group["tiles"]) for group in listed] == [tuple(of_tile) for of_tile in true[:6]]
    assert all(group["tied_by"] == ["altered copy", "overlapping window"] for group in listed)
    assert (tmp_path / "artifacts/audit/groups.png").is_file()

    printed = quiet(split_biodiversity.main, "--root", tmp_path)
    assert "never divided: 24 tiles in 6 groups" in printed
    side_of = sides(tmp_path)
    assert all(len({side_of[tile] for tile in of_tile}) == 1 for of_tile in true)
    for tiles in split_sets(tmp_path):
        path = str(tmp_path / "artifacts/audit/groups.tsv")
        assert tiles.manifest["groups"] == {"from": [path], "groups": 6, "tiles": 24}
    assert "no leakage found" in quiet(check_leakage.main, "--root", tmp_path)

    ungroup(tmp_path)
    quiet(split_biodiversity.main, "--root", tmp_path, "--overwrite")
    with pytest.raises(UserError, match="share overlapping window in"):
        quiet(check_leakage.main, "--root", tmp_path)


def test_the_audit_ties_by_place_and_by_equal_pixels_as_well_but_no_blank_tiles(tmp_path):
    write_raw(tmp_path, "a", STRIPES, origin=(LEFT, TOP))
    write_raw(tmp_path, "b", STRIPES, origin=(LEFT + 20, TOP))
    write_raw(tmp_path, "c", STRIPES, origin=(LEFT + 60, TOP))  # touches b
    write_raw(tmp_path, "d", STRIPES, origin=(LEFT + 900, TOP), image=noise_of("c", SIDE, SIDE))
    for name in "ef":
        write_raw(tmp_path, name, STRIPES, image=np.full((3, SIDE, SIDE), 9, np.uint8))
    audit(tmp_path)
    assert table(tmp_path) == {"a": "a", "b": "a", "c": "c", "d": "c", "e": "e", "f": "f"}


def test_tiles_of_two_units_are_each_scaled_as_others_of_their_unit(tmp_path):
    """Turned copies among reflectances and among counts, in one collection."""
    for number in range(6):
        image = smooth_scene(number)[:, :SIDE, :SIDE].astype(np.float32)
        factor = 1 / 255 if number < 3 else 20
        write_raw(tmp_path, f"a{number}", STRIPES, image=image * factor)
        write_raw(tmp_path, f"b{number}", STRIPES, image=list(turns(image))[number] * factor)
    assert "different units" in audit(tmp_path)
    assert table(tmp_path) == {f"{letter}{n}": f"a{n}" for letter in "ab" for n in range(6)}


def test_a_pattern_on_most_tiles_ties_none_and_a_scene_on_most_tiles_ties_all(tmp_path):
    logo = noise_of("logo", 24, 24)
    for number in range(40):
        image = noise_of(f"ground {number}", SIDE, SIDE)
        image[:, 50:74, 50:74] = logo
        write_raw(tmp_path / "logo", f"t{number:02}", STRIPES, image=image)
        scene = noise_of("scene", SIDE + 5, SIDE)[:, number // 8 : number // 8 + SIDE]  # 40 tiles have most of it
        write_raw(tmp_path / "scene", f"t{number:02}", STRIPES, image=list(turns(scene))[number % 8])
    for name, count in (("logo", 40), ("scene", 1)):
        write_groups(tmp_path / name)
        assert len(set(table(tmp_path / name).values())) == count


def test_only_pairs_that_would_tie_something_are_compared():
    units = np.array([0, 1, 2, 0, 3, 3])
    pairs = np.array([[0, 3], [0, 1], [1, 3], [1, 2], [0, 2], [4, 5], [2, 4]])
    assert next_pairs(pairs, units).tolist() == [1, 3, 6]
    assert next_pairs(pairs[[0, 5]], units).tolist() == next_pairs(pairs[:0], units).tolist() == []


def test_many_copies_are_not_compared_each_with_each(tmp_path, monkeypatch):
    compared = []
    confirm = audit_groups.confirm
    monkeypatch.setattr(audit_groups, "confirm", lambda *a, **more: compared.append(a) or confirm(*a, **more))
    scene = noise_of("scene", SIDE + 20, SIDE)
    for number in range(20):
        write_raw(tmp_path, f"t{number:02}", STRIPES, image=scene[:, number : number + SIDE])
    write_groups(tmp_path)
    assert len(set(table(tmp_path).values())) == 1 and len(compared) == 19


def test_what_was_found_is_said_in_a_sentence():
    single = [TileGroup(("x",), ()), TileGroup(("y",), ())]
    assert describe_groups(single) == "no two of 2 tiles were found to show the same area"
    groups = [TileGroup(("a", "b"), ("ground",)), TileGroup(("c", "d", "e"), ("altered copy", "ground")), *single]
    assert describe_groups(groups) == (
        "5 of 7 tiles show the area of others, in 2 groups (tied by ground in 2, altered copy in 1; the largest has "
        "3: c, d, e)"
    )


def test_the_sheet_shows_the_largest_groups_first(tmp_path):
    write_raw(tmp_path, "t", STRIPES)
    (tile,), _ = find_raw(tmp_path / "data/biodiversity_raw")
    one = inspect(tile, reading=Reading((1, 2, 3)), taxonomy=BIODIVERSITY)
    groups = [TileGroup(tuple(f"g{size}_{n}" for n in range(size)), ("ground",)) for size in [2, 10, 1, *[3] * 8]]
    reading = Reading((1, 2, 3))
    figure = plot_groups(groups, {tile_id: one for group in groups for tile_id in group.tiles}, reading)
    titles = [axes.get_title() for axes in figure.axes if axes.get_title()]
    assert titles[:9] == [*(f"g10_{n}" for n in range(8)), "g3_0"] and len(titles) == 8 + 7 * 3
    assert "the 8 largest of 10 groups" in figure.get_suptitle()
    assert figure.axes[0].texts[0].get_text() == "ground, 2 more"


# The split


@pytest.fixture
def twelve(tmp_path):
    """Twelve tiles without a place, audited."""
    for number in range(12):
        write_raw(tmp_path, f"t{number:02}", STRIPES)
    write_groups(tmp_path)
    return tmp_path


def refused(root, *flags):
    with pytest.raises(UserError) as stop:
        quiet(split_biodiversity.main, "--root", root, "--overwrite", *flags)
    return str(stop.value)


def test_without_the_table_the_split_names_the_audit_before_it_reads_a_tile(twelve, monkeypatch):
    (twelve / "artifacts/audit/groups.tsv").unlink()
    monkeypatch.setattr(split_biodiversity, "inspect_all", lambda *_: pytest.fail("read tiles"))
    message = refused(twelve)
    assert (
        f"groups.tsv does not exist. Write it first: python -m data_prep.check_biodiversity --root {twelve}" in message
    )


def test_a_table_of_other_tiles_or_images_is_out_of_date(twelve):
    again = f"Write it again: python -m data_prep.check_biodiversity --root {twelve}"
    write_raw(twelve, "new", STRIPES)
    assert "groups.tsv does not know new, so that it is out of date. " + again in refused(twelve)
    write_groups(twelve)
    write_raw(twelve, "t03", STRIPES, image=noise_of("another", SIDE, SIDE))
    assert "was written for other images, or other --bands, --alpha or --overlaps, of t03, so" in refused(twelve)
    (twelve / "exclude.txt").write_text("t03\n")
    quiet(split_biodiversity.main, "--root", twelve, "--exclude", twelve / "exclude.txt")
    for folder, suffix in (("images", "tif"), ("masks", "png")):
        (twelve / f"data/biodiversity_raw/{folder}/t03.{suffix}").unlink()
    assert "names raw tiles that are gone: t03, so" in refused(twelve)
    write_groups(twelve)
    message = refused(twelve, "--bands", 3, 2, 1)
    assert message.endswith(f"{again} --bands 3 2 1")


def test_a_tile_that_could_not_be_used_when_it_was_audited_has_no_digest(twelve):
    write_raw(twelve, "bad", np.full((SIDE, SIDE), 77))
    write_groups(twelve)
    write_raw(twelve, "bad", STRIPES)
    assert "or --overlaps, of bad, so" in refused(twelve)


def test_a_broken_table_is_refused_with_the_line(twelve):
    for change, words in (
        (lambda text: text.replace("group", "unit"), "the first line names tile, unit, image, expected the"),
        (lambda text: text + "t99\tt99\n", "line 14: has 2 values, expected 3"),
        (lambda text: text.replace("t05\tt05", "t05\t"), "line 7: a value is empty"),
        (lambda text: text.replace("t05\tt05", "t04\tt04"), "line 7: t04 is in a line above already"),
    ):
        edit_table(twelve, change)
        message = refused(twelve)
        assert words in message and "Write it again: python -m data_prep.check_biodiversity" in message
        write_groups(twelve)
    (twelve / "artifacts/audit/groups.tsv").write_bytes(b"\xff\xfe")
    assert "is no table in UTF-8" in refused(twelve)


@pytest.mark.parametrize("strategy", ["blocks", "random"])
def test_groups_of_a_file_are_joined_with_those_of_the_audit(twelve, strategy):
    def tie(text):
        return text.replace("t01\tt01", "t01\tt00")

    edit_table(twelve, tie)
    own = twelve / "own.tsv"
    own.write_text("place\tgroup\ttile\nnorth\tA\tt01\nnorth\tA\tt02\n\nsouth\tB\tt07\nsouth\tB\tt08\nwest\tC\tt09\n")
    for seed in range(3):
        flags = ("--strategy", strategy, "--groups", own, "--seed", seed, "--overwrite")
        printed = quiet(split_biodiversity.main, "--root", twelve, *flags)
        side_of = sides(twelve)
        assert side_of["t00"] == side_of["t01"] == side_of["t02"] and side_of["t07"] == side_of["t08"]
        assert "never divided: 5 tiles in 2 groups" in printed
        recorded = split_sets(twelve)[0].manifest["groups"]
        assert recorded["from"] == [str(twelve / "artifacts/audit/groups.tsv"), str(own)]
        assert (recorded["groups"], recorded["tiles"]) == (2, 5)
        tiles = {tile.id: tile for tiles in split_sets(twelve) for tile in tiles}
        assert len({tiles[tile_id].unit for tile_id in ("t00", "t01", "t02")}) == 1  # one observation
        assert tiles["t07"].unit == tiles["t08"].unit != tiles["t00"].unit
        assert "unit" not in tiles["t10"].entry and tiles["t10"].unit == tiles["t10"].block


def test_a_file_of_groups_that_will_not_do_is_refused_by_name(twelve):
    own = twelve / "own.tsv"
    for text, words in (
        ("tile,group\n", "the first line names tile,group, expected the tab-separated columns tile and group"),
        ("tile\tgroup\nt77\tA\nt01\tA\n", "names 1 tiles that are not in --in-dir: t77"),
        ("tile\tgroup\nt01\n", "line 2: has 1 values, expected 2"),
    ):
        own.write_text(text)
        message = refused(twelve, "--groups", own)
        assert words in message and "--groups" in message and str(own) in message
    assert "own.csv is no file" in refused(twelve, "--groups", twelve / "own.csv")
    (twelve / "exclude.txt").write_text("t01\n")
    own.write_text("tile\tgroup\nt01\tA\nt02\tA\n")
    printed = quiet(split_biodiversity.main, "--root", twelve, "--exclude", twelve / "exclude.txt", "--groups", own)
    assert "never divided" not in printed


def test_groups_that_leave_too_little_to_draw_are_named_as_the_cause(tmp_path):
    scene = noise_of("scene", SIDE + 20, SIDE)
    for number in range(4):
        write_raw(tmp_path, f"t{number}", STRIPES, image=scene[:, number : number + SIDE])
    with pytest.raises(
        UserError, match="4 tiles are in 1 groups that are never divided, the largest of 4 .*groups.tsv"
    ):
        quiet(audited_split, "--root", tmp_path)
