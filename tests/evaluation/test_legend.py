"""What GIS programs read beside a map: names and colours of the classes; and the layout of its file."""

import json
import subprocess
import sys
import xml.etree.ElementTree as ET

import numpy as np
import pytest
import rasterio.shutil
from rasterio.enums import ColorInterp, Resampling

from common.rasters import open_raster
from common.taxonomy import BIODIVERSITY, Taxonomy
from evaluation.mapping.cog import tile_side
from evaluation.mapping.legend import legend_files, polygon_style
from tests.evaluation.cog import cog_problems
from tests.evaluation.maps import write_cog
from tests.helpers import REPOSITORY

AWKWARD = Taxonomy(("Void", 'Höhe & "Tal" <1>', "Dry, or wet"), ("#000000", "#0a0b0c", "#fefdfc"))


def fields(element: ET.Element) -> list[list[str | None]]:
    return [[value.text for value in row.iter("F")] for row in element.iter("Row")]


@pytest.mark.parametrize("taxonomy", [BIODIVERSITY, AWKWARD])
def test_the_sidecar_names_each_id(taxonomy):
    band = ET.fromstring(legend_files(taxonomy, "map.tif")["map.tif.aux.xml"]).find("PAMRasterBand[@band='1']")
    assert band is not None
    assert [category.text for category in band.iter("Category")] == list(taxonomy.classes)  # its place is its id
    assert [(c.findtext("Name"), c.findtext("Usage")) for c in band.iter("FieldDefn")] == [
        ("Value", "5"),
        ("Class_Name", "2"),
        ("Red", "6"),
        ("Green", "7"),
        ("Blue", "8"),
    ]
    assert fields(band) == [
        [str(label), name, *(str(value) for value in taxonomy.rgb()[label])]
        for label, name in enumerate(taxonomy.classes)
    ]


@pytest.mark.parametrize("taxonomy", [BIODIVERSITY, AWKWARD])
def test_the_qgis_style_has_name_and_colour_of_each_class_but_void(taxonomy):
    style = legend_files(taxonomy, "map.tif")["map.qml"]
    renderer = ET.fromstring(style.partition("\n")[2]).find("pipe/rasterrenderer[@type='paletted']")
    assert renderer is not None and renderer.get("band") == "1"
    found = [(e.get("value"), e.get("label"), e.get("color"), e.get("alpha")) for e in renderer.iter("paletteEntry")]
    classes = zip(taxonomy.classes, taxonomy.colors, strict=True)
    assert found == [(str(label), name, color, "255") for label, (name, color) in enumerate(classes)][1:]


def test_the_files_lie_where_programs_look_for_them():
    assert [*legend_files(BIODIVERSITY, "area.v2.tif")] == ["area.v2.qml", "area.v2.tif.aux.xml"]


def test_the_style_of_polygons_fills_each_class_with_its_colour():
    style = ET.fromstring(polygon_style(AWKWARD, "class_id").partition("\n")[2])
    renderer = style.find("renderer-v2[@type='categorizedSymbol'][@attr='class_id']")
    assert renderer is not None
    colors = {s.get("name"): s.find("layer/prop[@k='color']").get("v") for s in renderer.iter("symbol")}
    found = [(c.get("value"), c.get("label"), colors[c.get("symbol")]) for c in renderer.iter("category")]
    assert found == [("1", AWKWARD.classes[1], "10,11,12,255"), ("2", AWKWARD.classes[2], "254,253,252,255")]


@pytest.mark.parametrize("sidecars", [True, False])
def test_a_map_keeps_its_tags_colours_and_no_data_beside_its_sidecars(tmp_path, sidecars):
    ids = np.random.default_rng(0).integers(0, 3, (40, 50))
    with open_raster(write_cog(tmp_path / "map.tif", ids, AWKWARD), sidecars=sidecars) as src:
        np.testing.assert_array_equal(src.read(1), ids)
        assert {f"CLASS_{label}": name for label, name in enumerate(AWKWARD.classes)}.items() <= src.tags().items()
        assert src.nodata == 0 and src.colorinterp == (ColorInterp.palette,)
        assert [src.colormap(1)[label] for label in range(3)] == [(0, 0, 0, 0), (10, 11, 12, 255), (254, 253, 252, 255)]


def test_gdal_reads_the_names_from_the_sidecar(tmp_path):
    path = write_cog(tmp_path / "map.tif", np.ones((40, 50)), AWKWARD)
    vrt = tmp_path / "map.vrt"  # into which GDAL copies what it knows of a band
    rasterio.shutil.copy(path, vrt, driver="VRT")
    assert [category.text for category in ET.parse(vrt).iter("Category")] == list(AWKWARD.classes)


# The layout of the file


@pytest.mark.parametrize(
    "width, height, side",
    [
        (400, 300, 512),
        (512, 512, 512),
        (3000, 300, 512),
        (1200, 1300, 512),
        (1024, 2048, 256),  # with tiles of 512, the overview of 512 x 1024 would seem to lie in strips
        (512, 1000, 256),
        (512, 2048, 128),
        (1025, 2400, 128),
    ],
)
def test_maps_are_cloud_optimised(tmp_path, width, height, side):
    ids = np.kron(np.random.default_rng(0).integers(0, 6, (height // 50 + 1, width // 50 + 1)), np.ones((50, 50)))
    path = write_cog(tmp_path / "map.tif", ids[:height, :width])
    assert tile_side(width, height) == side
    assert cog_problems(path) == []


def test_a_map_that_no_side_of_a_tile_fits_has_the_largest_tiles():
    assert tile_side(512, 5000) == 512


def test_overviews_show_a_class_that_is_there(tmp_path):
    ids = np.where(np.indices((1200, 1200)).sum(axis=0) % 3 == 0, 1, 5)
    with open_raster(write_cog(tmp_path / "map.tif", ids)) as src:
        assert src.overviews(1) == [2, 4]
    with open_raster(tmp_path / "map.tif", overview_level=0) as src:
        assert {*np.unique(src.read(1)).tolist()} <= {1, 5}


def test_what_is_not_cloud_optimised_is_seen(tmp_path):
    write_cog(tmp_path / "map.tif", np.random.default_rng(0).integers(0, 6, (1100, 1200)))
    plain, edited = tmp_path / "plain.tif", tmp_path / "map.tif"
    assert "no overviews" in cog_problems(plain)
    with open_raster(plain, "r+") as dst:
        dst.build_overviews([2, 4], Resampling.mode)
    assert "pixels do not follow the directories, smallest overview first" in cog_problems(plain)
    with open_raster(edited, "r+", IGNORE_COG_LAYOUT_BREAK="YES") as dst:
        dst.update_tags(note="n" * 500)
    assert "it was edited after it was made" in cog_problems(edited)


def test_rasterio_and_pyogrio_get_along_in_either_order():
    """Each brings its own GDAL and PROJ."""
    script = (
        "import json, {0}, {1}; from rasterio.warp import transform; from pyogrio.raw import write; "
        "print(json.dumps(transform('EPSG:3857', 'EPSG:4326', [1e6], [6e6])))"
    )
    for order in (("rasterio", "pyogrio"), ("pyogrio", "rasterio")):
        command = [sys.executable, "-c", script.format(*order)]
        done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
        np.testing.assert_allclose(json.loads(done.stdout), [[8.98315284], [47.35370470]])
