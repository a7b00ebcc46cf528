"""The polygons of a map against its pixels: every pixel is covered once, by a valid polygon of its class."""

import math
import sqlite3

import numpy as np
import pyogrio.raw
import pytest
import shapely
from rasterio import Affine
from rasterio.enums import MergeAlg
from rasterio.features import rasterize
from scipy.ndimage import label

from common.errors import UserError
from common.taxonomy import BIODIVERSITY
from evaluation.mapping import polygons
from evaluation.mapping.polygons import Patches, write_polygons
from tests.evaluation.maps import NORTH_UP, UTM, write_cog, write_map

SOUTH_UP = Affine(0.5, 0, 500_000, 0, 0.5, 5_000_000)
ROTATED = Affine(0.4, 0.3, 500_000, 0.3, -0.4, 5_000_000)
RNG = np.random.default_rng(0)
RINGS = np.add.outer(np.abs(np.arange(-9, 10)), np.abs(np.arange(-9, 10))) % 4
# Each of the 512 ways to lay a class in 3 x 3 pixels, with void between: among them rings that meet themselves.
PATTERNS = np.pad(
    np.unpackbits(np.arange(512, dtype=">u2").view(np.uint8)).reshape(512, 16)[:, 7:].reshape(-1, 3, 3), 1
)
MAPS = {
    "noise": RNG.integers(0, 6, (30, 40)),
    "noise of two classes": RNG.integers(1, 3, (40, 50)),
    "every pattern": PATTERNS[1:-1].reshape(16, 32, 5, 5).swapaxes(1, 2).reshape(80, 160),
    "checkerboard": 1 + np.indices((20, 21)).sum(axis=0) % 2,
    "blocks that touch in corners": np.kron(RNG.integers(0, 3, (20, 20)), np.ones((3, 3), int)),
    "rings": RINGS,
    "one class": np.full((5, 9), 3),
    "one pixel": np.array([[2]]),
    "void": np.zeros((5, 9), int),
}


def read(path):
    """The polygons of a GeoPackage, and its columns by name."""
    meta, _, geometry, columns = pyogrio.raw.read(path, layer="classes")
    return shapely.from_wkb(geometry), dict(zip(meta["fields"], columns, strict=True))


def polygons_of(tmp_path, ids, taxonomy=BIODIVERSITY, min_area=None, **place):
    out = tmp_path / "map.gpkg"
    written = write_polygons(write_map(tmp_path / "map.tif", ids, **place), out, taxonomy, min_area)
    return written, *read(out)


@pytest.mark.parametrize("transform", [NORTH_UP, SOUTH_UP, ROTATED], ids=["north up", "south up", "rotated"])
@pytest.mark.parametrize("name", MAPS)
def test_polygons_are_valid_and_cover_each_pixel_once(tmp_path, name, transform):
    ids = MAPS[name]
    written, shapes, columns = polygons_of(tmp_path, ids, transform=transform)
    assert shapely.is_valid(shapes).all() and {*shapely.get_type_id(shapes)} <= {shapely.GeometryType.POLYGON}
    patches = sum(label(ids == one)[1] for one in range(1, 6))  # that hang together by the sides of pixels
    assert written == (patches, 0, 0.0) and len(shapes) == patches
    for one in range(1, 6):
        of_class = columns["class_id"] == one
        assert columns["pixels"][of_class].sum() == (ids == one).sum()
        np.testing.assert_allclose(shapely.area(shapes[of_class]), 0.25 * columns["pixels"][of_class], rtol=1e-6)
    if len(shapes):
        drawn = zip(shapes, columns["class_id"].tolist(), strict=True)
        covered = rasterize(drawn, ids.shape, transform=transform, dtype="int32", merge_alg=MergeAlg.add)
        np.testing.assert_array_equal(covered, ids)


def test_a_polygon_names_its_class_its_hectares_and_its_pixels(tmp_path):
    ids = np.zeros((30, 40))
    ids[2:12, 3:23] = 4
    _, (shape,), columns = polygons_of(tmp_path, ids, transform=Affine(10, 0, 500_000, 0, -10, 5_000_000))
    assert {name: values.tolist() for name, values in columns.items()} == {
        "class_id": [4],
        "class": ["Settlement"],
        "hectares": [2.0],
        "pixels": [200],
    }
    assert shape.equals(shapely.box(500_030, 4_999_880, 500_230, 4_999_980))


def test_parts_that_are_written_one_after_another_are_the_same_polygons(tmp_path, monkeypatch):
    ids = MAPS["noise"][:12, :15]
    written, shapes, columns = polygons_of(tmp_path, ids)
    monkeypatch.setattr(polygons, "CORNERS", 200)
    again, shapes_again, columns_again = polygons_of(tmp_path, ids)
    assert written == again and shapely.equals_exact(shapes, shapes_again).all()
    for name in columns:
        np.testing.assert_array_equal(columns[name], columns_again[name])


def test_a_ring_that_meets_itself_in_a_corner_is_divided_there():
    # Eight pixels around one, of which a ninth, in the lower right corner, is missing too: its outline as one ring.
    ring = [(0, 0), (0, 3), (2, 3), (2, 2), (1, 2), (1, 1), (2, 1), (2, 2), (3, 2), (3, 0), (0, 0)]
    square = [(5, 5), (5, 6), (6, 6), (6, 5), (5, 5)]
    corners = np.array([*square, *ring, *square])
    patches = Patches(
        labels=np.array([1, 2, 3], np.uint8),
        corners=corners * 10.0,
        grid=corners,
        rings=np.array([0, 5, 16, 21]),
        members=np.array([0, 1, 2, 3]),
    )
    shapes = patches.polygons()
    assert shapely.is_valid(shapes).all()
    assert shapely.area(shapes).tolist() == [100, 700, 100]
    assert shapely.get_num_interior_rings(shapes).tolist() == [0, 1, 0]


# Areas


@pytest.mark.parametrize("crs, transform", [(None, None), (None, NORTH_UP), (UTM, None)])
def test_without_a_scale_hectares_are_null_and_a_smallest_area_is_refused(tmp_path, crs, transform):
    place = {"crs": crs, "transform": transform}
    _, _, columns = polygons_of(tmp_path, MAPS["rings"], **place)
    assert np.isnan(columns["hectares"]).all() and columns["pixels"].sum() == np.count_nonzero(RINGS)
    with pytest.raises(UserError, match="map.tif does not say how large its pixels are.*--min-area"):
        polygons_of(tmp_path, MAPS["rings"], min_area=1.0, **place)


@pytest.mark.parametrize(
    "crs, square_metres",
    [(UTM, 0.25), ("EPSG:2263", 0.25 * 0.304800609**2), ('LOCAL_CS["Site",UNIT["metre",1]]', 0.25)],
)
def test_hectares_follow_the_unit_of_the_map(tmp_path, crs, square_metres):
    _, _, columns = polygons_of(tmp_path, MAPS["rings"], crs=crs)
    np.testing.assert_allclose(columns["hectares"], columns["pixels"] * square_metres / 10_000, rtol=1e-7)


def ellipsoid_area(south: float, north: float, degrees: float) -> float:
    """Square metres of WGS 84 between two latitudes, over so many degrees of longitude (Snyder 1987, equation 3-12)."""
    a, e = 6_378_137.0, 0.0818191908426

    def q(latitude: float) -> float:
        s = math.sin(math.radians(latitude))
        return (1 - e * e) * (s / (1 - (e * s) ** 2) + math.atanh(e * s) / e)

    return math.radians(degrees) * a * a / 2 * (q(north) - q(south))


def two_latitudes() -> np.ndarray:
    """(600, 20) ids: a patch of 10 x 10 pixels at the top, one at the bottom."""
    ids = np.zeros((600, 20), np.uint8)
    ids[:10, :10], ids[-10:, :10] = 1, 2
    return ids


def test_hectares_in_degrees_are_those_of_the_ellipsoid_at_the_latitude_of_the_patch(tmp_path):
    grid = Affine(0.1, 0, 175, 0, -0.1, 62)  # 175 to 177 degrees east, 62 to 2 degrees north
    _, _, columns = polygons_of(tmp_path, two_latitudes(), crs="EPSG:4326", transform=grid)
    expected = [ellipsoid_area(61, 62, 1), ellipsoid_area(2, 3, 1)]
    np.testing.assert_allclose(columns["hectares"] * 10_000, expected, rtol=1e-9)


def test_hectares_reach_across_the_date_line(tmp_path):
    grid = Affine(0.1, 0, 179.5, 0, -0.1, 62)
    _, _, columns = polygons_of(tmp_path, two_latitudes(), crs="EPSG:4326", transform=grid)
    np.testing.assert_allclose(columns["hectares"][0] * 10_000, ellipsoid_area(61, 62, 1), rtol=1e-9)


def test_hectares_in_web_mercator_are_those_on_the_ground(tmp_path):
    side = 6_378_137 * math.pi / 1800  # of a tenth of a degree of longitude
    grid = Affine(side, 0, 0, 0, -side, 60 * 10 * side)
    _, _, columns = polygons_of(tmp_path, two_latitudes(), crs="EPSG:3857", transform=grid)

    def latitude(row: int) -> float:
        return math.degrees(math.atan(math.sinh(math.radians(60 - 0.1 * row))))

    expected = [ellipsoid_area(latitude(10), latitude(0), 1), ellipsoid_area(latitude(600), latitude(590), 1)]
    np.testing.assert_allclose(columns["hectares"] * 10_000, expected, rtol=1e-9)


def test_patches_below_the_smallest_area_leave_their_place_empty(tmp_path):
    ids = np.full((20, 20), 1)
    ids[2:4, 2:4], ids[10, 10], ids[15, 5:8] = 2, 3, 4  # 4, 1 and 3 pixels of a quarter of a square metre
    written, shapes, columns = polygons_of(tmp_path, ids, min_area=1.0)
    assert written == (2, 2, pytest.approx(4 * 0.25 / 10_000))
    assert columns["class_id"].tolist() == [2, 1] and columns["pixels"].tolist() == [4, 392]
    assert shapely.get_num_interior_rings(shapes).tolist() == [0, 3]


@pytest.mark.parametrize(
    "side, pixels, square_metres", [(0.1, 3, 0.03), (0.3, 7, 0.63), (0.7, 3, 1.47), (1.1, 10, 12.1)]
)
def test_a_patch_of_just_the_smallest_area_stays(tmp_path, side, pixels, square_metres):
    grid = Affine(side, 0, 500_000, 0, -side, 5_000_000)
    written, _, _ = polygons_of(tmp_path, np.ones((1, pixels)), min_area=square_metres, transform=grid)
    assert written == (1, 0, 0.0)


def test_all_patches_may_be_too_small(tmp_path):
    written, shapes, _ = polygons_of(tmp_path, MAPS["noise"], min_area=1e6)
    assert written.polygons == len(shapes) == 0 and written.left_out > 0


# The file


@pytest.mark.parametrize(
    "crs, expected",
    [
        (UTM, ("EPSG", 32633)),
        ("EPSG:4326", ("EPSG", 4326)),
        ("EPSG:3857", ("EPSG", 3857)),
        ("EPSG:2056", ("EPSG", 2056)),
        (None, ("NONE", -1)),
        ('LOCAL_CS["Site",UNIT["metre",1]]', ("NONE", 100_000)),
    ],
)
def test_the_coordinate_system_is_that_of_the_map(tmp_path, crs, expected):
    polygons_of(tmp_path, MAPS["rings"], crs=crs, transform=Affine(1e-4, 0, 8, 0, -1e-4, 47))
    with sqlite3.connect(tmp_path / "map.gpkg") as database:
        (found,) = database.execute(
            "SELECT organization, organization_coordsys_id FROM gpkg_spatial_ref_sys JOIN gpkg_geometry_columns "
            "USING (srs_id) WHERE table_name = 'classes'"
        )
    assert found == expected


def test_qgis_finds_the_colours_in_the_file(tmp_path):
    polygons_of(tmp_path, MAPS["rings"])
    with sqlite3.connect(tmp_path / "map.gpkg") as database:
        # The columns that QGIS 3 asks for, and the conditions under which it takes a style by itself.
        ((style,),) = database.execute(
            "SELECT styleQML FROM layer_styles WHERE f_table_schema = '' AND f_table_name = 'classes' "
            "AND f_geometry_column = (SELECT column_name FROM gpkg_geometry_columns) "
            "ORDER BY CASE WHEN useAsDefault THEN 1 ELSE 2 END, update_time DESC"
        )
    assert 'attr="class_id"' in style and 'label="Seminatural"' in style


def test_the_file_takes_the_place_of_an_earlier_one_and_of_what_lay_beside_that(tmp_path):
    for name in ("map.gpkg", "map.gpkg-wal", "map.gpkg-shm"):
        (tmp_path / name).write_text("of an earlier map")
    (tmp_path / ".map.gpkg.partial").mkdir()
    (tmp_path / ".map.gpkg.partial/polygons.gpkg").write_text("of a killed run")
    written, shapes, _ = polygons_of(tmp_path, MAPS["rings"])
    assert len(shapes) == written.polygons
    assert {path.name for path in tmp_path.iterdir()} == {"map.tif", "map.gpkg"}


@pytest.mark.parametrize("left", [slice(-300), slice(100)], ids=["part of a tile", "a part of its directory"])
def test_a_map_that_cannot_be_read_leaves_the_earlier_polygons(tmp_path, left):
    polygons_of(tmp_path, MAPS["noise"])
    before = (tmp_path / "map.gpkg").read_bytes()
    path = write_cog(tmp_path / "map.tif", MAPS["noise"])
    path.write_bytes(path.read_bytes()[left])
    with pytest.raises(UserError, match="map.tif: cannot be read as TIFF.*Make the map again"):
        write_polygons(path, tmp_path / "map.gpkg", BIODIVERSITY)
    assert (tmp_path / "map.gpkg").read_bytes() == before
    assert not list(tmp_path.glob(".*"))


def test_an_id_that_is_no_class_is_named(tmp_path):
    ids = MAPS["rings"].copy()
    ids[0, 0], ids[3, 3] = 6, 200
    with pytest.raises(UserError, match="map.tif: found ids 6, 200, expected 0 to 5"):
        polygons_of(tmp_path, ids)


def test_polygons_that_lack_pixels_are_refused(tmp_path, monkeypatch):
    whole = polygons.shapes  # GDAL's errors do not reach rasterio: it gives what there is
    monkeypatch.setattr(polygons, "shapes", lambda *args, **kwargs: list(whole(*args, **kwargs))[:-1])
    with pytest.raises(UserError, match=r"polygons hold 4 pixels, but it has 5 .*memory ran out"):
        polygons_of(tmp_path, np.array([[1, 1, 2, 2, 3]]))
    assert not (tmp_path / "map.gpkg").exists()


def test_a_disk_that_is_full_is_told(tmp_path, monkeypatch):
    def full(*_, **__):
        raise pyogrio.errors.FeatureError("failed to execute insert : database or disk is full")

    monkeypatch.setattr(pyogrio.raw, "write", full)
    with pytest.raises(UserError, match="map.gpkg cannot be written .*disk is full.* Make room"):
        polygons_of(tmp_path, MAPS["rings"])
    assert not list(tmp_path.glob("*.gpkg")) and not list(tmp_path.glob(".*"))
