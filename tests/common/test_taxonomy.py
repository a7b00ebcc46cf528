import json

import numpy as np
import pytest

from common.errors import UserError
from common.taxonomy import (
    BIODIVERSITY,
    IGNORE_INDEX,
    OEM_BUILT_UP,
    OPENEARTHMAP,
    load_taxonomy,
    parse_taxonomy,
    taxonomy_from_json,
)
from tests.helpers import THREE_CLASSES, write_taxonomy

# Written out once more: the position of a name is its pixel value.
CLASSES = ("Background", "Forest", "Grassland", "Cropland", "Settlement", "Seminatural")
OEM_CLASSES = (
    *("Unknown", "Bareland", "Rangeland", "Developed space", "Road", "Tree", "Water"),
    *("Agriculture land", "Building"),
)


def test_the_position_of_each_name_is_its_pixel_value_and_0_is_void():
    assert BIODIVERSITY.classes == CLASSES and OPENEARTHMAP.classes == OEM_CLASSES
    assert IGNORE_INDEX == 0 and (BIODIVERSITY.void, OPENEARTHMAP.void) == ("Background", "Unknown")
    assert BIODIVERSITY.foreground == CLASSES[1:] and BIODIVERSITY.num_classes == 6 and OPENEARTHMAP.num_classes == 9
    assert [BIODIVERSITY.index(name) for name in CLASSES] == [0, 1, 2, 3, 4, 5]


def test_each_class_has_its_colour_in_red_green_blue():
    assert BIODIVERSITY.colors == ("#000000", "#1b7837", "#a6d96a", "#f2b134", "#d7301f", "#7b5aa6")
    rgb = BIODIVERSITY.rgb()
    assert rgb.dtype == np.uint8
    wanted = [[0, 0, 0], [27, 120, 55], [166, 217, 106], [242, 177, 52], [215, 48, 31], [123, 90, 166]]
    assert rgb.tolist() == wanted
    # As OpenEarthMap publishes them.
    assert dict(zip(OEM_CLASSES, OPENEARTHMAP.colors, strict=True)) == {
        "Unknown": "#000000",
        "Bareland": "#800000",
        "Rangeland": "#00ff24",
        "Developed space": "#949494",
        "Road": "#ffffff",
        "Tree": "#226126",
        "Water": "#0045ff",
        "Agriculture land": "#4bb549",
        "Building": "#de1f07",
    }


def test_built_up_land_is_developed_space_road_and_building():
    assert sorted(OEM_BUILT_UP) == ["Building", "Developed space", "Road"]


def test_the_class_matrix_and_the_hard_labels_are_those_of_the_method():
    matrix = BIODIVERSITY.class_matrix()
    assert matrix.dtype == np.float32
    wanted = [
        [1, 0, 0, 0, 0, 0],  # Unknown
        [1, 0, 0, 0, 0, 0],  # Bareland
        [0, 0, 0.7, 0, 0, 0.3],  # Rangeland
        [0, 0, 0, 0, 1, 0],  # Developed space
        [0, 0, 0, 0, 1, 0],  # Road
        [0, 1, 0, 0, 0, 0],  # Tree
        [1, 0, 0, 0, 0, 0],  # Water
        [0, 0, 0, 1, 0, 0],  # Agriculture land
        [0, 0, 0, 0, 1, 0],  # Building
    ]
    np.testing.assert_allclose(matrix, wanted, atol=1e-7)
    lookup = BIODIVERSITY.hard_lookup()
    assert lookup.dtype == np.uint8 and lookup.tolist() == [0, 0, 2, 4, 4, 1, 0, 3, 4]


@pytest.mark.parametrize("taxonomy", [BIODIVERSITY, OPENEARTHMAP, THREE_CLASSES])
def test_what_is_recorded_of_a_taxonomy_gives_it_back(taxonomy):
    recorded = json.loads(json.dumps(taxonomy.to_json()))
    assert taxonomy_from_json(recorded, "manifest.json") == taxonomy
    assert list(recorded) == ["classes", "colors", "from_openearthmap"][: 2 + (taxonomy != OPENEARTHMAP)]


def test_a_record_that_is_nearly_that_of_openearthmap_is_refused():
    recorded = {**OPENEARTHMAP.to_json(), "colors": ["#000000"] * 9}
    with pytest.raises(UserError, match=r"manifest\.json: 'from_openearthmap' must give a row"):
        taxonomy_from_json(recorded, "manifest.json")


def test_without_a_file_the_built_in_classes_hold(tmp_path):
    assert load_taxonomy(tmp_path) == BIODIVERSITY


def test_a_taxonomy_file_replaces_the_built_in_classes(tmp_path):
    write_taxonomy(tmp_path, THREE_CLASSES)
    taxonomy = load_taxonomy(tmp_path)
    assert taxonomy == THREE_CLASSES
    assert taxonomy.classes[taxonomy.hard_lookup()[OPENEARTHMAP.index("Water")]] == "Wet"


def wrong(**changes):
    return {**json.loads(json.dumps(BIODIVERSITY.to_json())), **changes}


def row(name, shares):
    return wrong(from_openearthmap={**BIODIVERSITY.from_openearthmap, name: shares})


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ([], "JSON object"),
        (wrong(classes=["Void", "One"]), "expected void and 2 to 254"),
        (wrong(classes=["Void", "One", "One", "Two", "Three", "Four"]), "more than once"),
        (wrong(colors=["#000000"]), "must list 6 colours"),
        (wrong(colors=["red"] * 6), "colours like"),
        (wrong(from_openearthmap={"Tree": {"Forest": 1.0}}), "lacks rows"),
        (row("Tree", {"Woodland": 1.0}), "Woodland"),
        (row("Tree", {"Forest": 0.5}), "sums to 0.5"),
        (row("Tree", {"Forest": 0.5, "Grassland": 0.5}), "two largest shares"),
        (row("Tree", {"Forest": -1.0, "Grassland": 2.0}), "0 or more"),
        (row("Tree", {"Forest": True}), "not numbers"),
        (row("Tree", {"Forest": "1"}), "not numbers"),
        (row("Tree", {"Forest": float("nan")}), "not numbers"),
        (row("Tree", {}), "row of Tree must share it"),
        (row("Tree", "Forest"), "row of Tree must share it"),
        (row("Tree", {"Forest": 0.99999}), "row of Tree sums to 0.99999"),
        (row("Tree", {"Forest": 0.5, "Grassland": 0.50001}), "row of Tree sums to 1.00001"),
        (row("Tree", {"Forest": 0.5, "Grassland": 0.501}), "row of Tree sums to 1.001"),
        (row("Shrub", {"Forest": 1.0}), "not OpenEarthMap classes: .*Shrub"),
        (wrong(classes="Void"), "list of names"),
        (wrong(classes=["Void", "", "One"]), "list of names"),
        (wrong(classes=["Void", 1, 2]), "list of names"),
        (wrong(classes=["Void", "One ", "Two"]), "'One ' holds a line break, or a space"),
        (wrong(classes=["Void", " One", "Two"]), "' One' holds a line break, or a space"),
        (wrong(classes=["Void", "On\ne", "Two"]), "holds a line break"),
        (wrong(colors=["#000000"] * 5), "must list 6 colours"),
        (wrong(colors=["#00000g"] * 6), "colours like"),
        (wrong(colors=["0000000"] * 6), "colours like"),
        (wrong(colors=[0] * 6), "colours like"),
        (wrong(from_openearthmap=None), "must give a row"),
    ],
)
def test_what_is_wrong_with_a_taxonomy_file_is_named(content, said):
    with pytest.raises(UserError, match=said):
        parse_taxonomy(content, "taxonomy.json")


def test_a_broken_taxonomy_file_is_named(tmp_path):
    (tmp_path / "taxonomy.json").write_text("{")
    with pytest.raises(UserError, match="taxonomy.json: not valid JSON"):
        load_taxonomy(tmp_path)


def of_classes(count):
    """The content of a taxonomy file with this many classes."""
    names = [f"c{number}" for number in range(count)]
    return {
        "classes": names,
        "colors": ["#ABCDEF"] * count,
        "from_openearthmap": dict.fromkeys(OEM_CLASSES, {names[-1]: 1}),
    }


@pytest.mark.parametrize(("count", "accepted"), [(2, False), (3, True), (255, True), (256, False)])
def test_a_taxonomy_has_void_and_2_to_254_classes(count, accepted):
    if accepted:
        taxonomy = parse_taxonomy(of_classes(count), "x")
        assert taxonomy.num_classes == count and taxonomy.hard_lookup().tolist() == [count - 1] * 9
        assert set(taxonomy.colors) == {"#abcdef"}
    else:
        with pytest.raises(UserError, match=f"has {count} names"):
            parse_taxonomy(of_classes(count), "x")


def test_shares_with_six_decimals_are_near_enough_to_one_and_rows_are_kept_by_name():
    thirds = {"Forest": 0.333334, "Grassland": 0.333333, "Cropland": 0.3333335}
    content = row("Tree", thirds)
    content["from_openearthmap"] = dict(reversed(content["from_openearthmap"].items()))
    taxonomy = parse_taxonomy(content, "x")
    assert taxonomy.class_matrix()[5].tolist() == pytest.approx([0, *thirds.values(), 0, 0])
    assert list(taxonomy.from_openearthmap) == list(OEM_CLASSES)  # so that the order in the file changes no digest


@pytest.mark.parametrize("spoil", ["folder", "link", "latin-1", "deep"])
def test_a_taxonomy_that_cannot_be_read_is_never_taken_for_none(tmp_path, spoil):
    path = tmp_path / "taxonomy.json"
    if spoil == "folder":
        path.mkdir()
    elif spoil == "link":
        path.symlink_to(tmp_path / "gone.json")
    else:
        path.write_bytes(b'{"classes": ["\xe9"]}' if spoil == "latin-1" else b"[" * 100_000)
    with pytest.raises(UserError, match=r"taxonomy\.json"):
        load_taxonomy(tmp_path)
