"""The part of the report on a map and its areas."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from common.errors import UserError
from common.inputs import Command, Input
from common.taxonomy import BIODIVERSITY
from evaluation.mapping.areas_read import read_map
from tests.evaluation.report_parts import section as section_of

RECORD = {
    "map": "map.tif", "command": "python -m evaluation.predict_map", "image": "ortho.tif",
    "checkpoints": [{"path": "w/best.pt", "stage": "stage6_distill", "seed": 42, "digest": "d", "step": 60}],
    "taxonomy": BIODIVERSITY.to_json(), "gsd": 0.5, "height": 10, "width": 10, "pixels": [0, 60, 40, 0, 0, 0],
    "square_metres": [0, 15, 10, 0, 0, 0], "mean_confidence": 0.8,
}  # fmt: skip
AREAS = {
    "command": "python -m evaluation.estimate_areas", "map": "map.tif", "unit": "ha",
    "map_command": "python -m evaluation.predict_map",
    "classes": {
        "Forest": {"counted": 15.0, "estimated": 10.0, "low": 8.0, "high": 12.5, "counting_off": 0.5},
        "Grassland": {"counted": 10.0, "estimated": 15.0, "low": None, "high": None, "counting_off": -1 / 3},
    },
    "warnings": ["this map shows <other> ground"],
}  # fmt: skip


def section(root):
    map_path = Input(root / "map.tif", Command.of("evaluation.predict_map", root), "--map")
    mapped = read_map(map_path, Command.of("evaluation.estimate_areas", root))
    return section_of("map", args=SimpleNamespace(map=map_path, root=root), mapped=mapped)


def made(root, areas=None):
    (root / "map.tif").touch()
    (root / "map.json").write_text(json.dumps(RECORD))
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(root / "map.png")
    if areas is not None:
        (root / "map_areas.json").write_text(json.dumps(areas))


def test_without_a_map_the_command_is_named(tmp_path):
    assert "No raster was mapped yet" in section(tmp_path) and "evaluation.predict_map" in section(tmp_path)


def test_a_map_without_areas_names_the_command_that_estimates_them(tmp_path):
    made(tmp_path)
    text = section(tmp_path)
    assert "map.tif: 10 x 10 pixels of 0.5 m" in text and "stage6_distill seed 42 best.pt" in text
    assert "<img" in text and "evaluation.estimate_areas" in text


def test_areas_stand_with_their_intervals_and_warnings(tmp_path):
    made(tmp_path, AREAS)
    text = section(tmp_path)
    for words in ("15.0", "10.0", "8.0 to 12.5", "+50%", "\u221233%", "this map shows &lt;other&gt; ground."):
        assert words in text


def test_areas_of_an_earlier_map_are_not_shown(tmp_path):
    made(tmp_path, AREAS | {"map_command": "python -m evaluation.predict_map --flips"})
    assert "The areas are of an earlier map" in section(tmp_path) and "12.5" not in section(tmp_path)


@pytest.mark.parametrize("change", [{"classes": {"Forest": {}}}, {"warnings": "none"}, {"unit": 3}])
def test_areas_of_another_form_are_refused(tmp_path, change):
    made(tmp_path, AREAS | change)
    with pytest.raises(UserError, match=r"map_areas.json is not of evaluation.estimate_areas"):
        section(tmp_path)
