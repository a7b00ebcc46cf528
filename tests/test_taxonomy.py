import json

import numpy as np
import pytest

from common.cli import UserError
from common.taxonomy import BIODIVERSITY, OPENEARTHMAP, load_taxonomy, parse_taxonomy
from tests.helpers import THREE_CLASSES, write_taxonomy

BECOMES = {
    "Unknown": "Background",
    "Bareland": "Background",
    "Rangeland": "Grassland",
    "Developed space": "Settlement",
    "Road": "Settlement",
    "Tree": "Forest",
    "Water": "Background",
    "Agriculture land": "Cropland",
    "Building": "Settlement",
}


def test_each_openearthmap_class_becomes_the_class_of_the_method_by_name():
    lookup = BIODIVERSITY.hard_lookup()
    assert {name: BIODIVERSITY.classes[lookup[OPENEARTHMAP.index(name)]] for name in OPENEARTHMAP.classes} == BECOMES


def test_rows_of_the_class_matrix_sum_to_one_and_rangeland_is_shared():
    matrix = BIODIVERSITY.class_matrix()
    np.testing.assert_allclose(matrix.sum(axis=1), 1, atol=1e-6)
    rangeland = matrix[OPENEARTHMAP.index("Rangeland")]
    assert rangeland[BIODIVERSITY.index("Grassland")] == pytest.approx(0.7)
    assert rangeland[BIODIVERSITY.index("Seminatural")] == pytest.approx(0.3)


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
    ],
)
def test_what_is_wrong_with_a_taxonomy_file_is_named(content, said):
    with pytest.raises(UserError, match=said):
        parse_taxonomy(content, "taxonomy.json")


def test_a_broken_taxonomy_file_is_named(tmp_path):
    (tmp_path / "taxonomy.json").write_text("{")
    with pytest.raises(UserError, match="taxonomy.json: not valid JSON"):
        load_taxonomy(tmp_path)
