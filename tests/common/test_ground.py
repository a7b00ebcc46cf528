"""Ground of tiles: the blocks they lie in, and which of them share ground."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rasterio.crs import CRS
from rasterio.warp import transform_bounds

from common.errors import UserError
from common.ground import block_side, not_comparable, overlapping, spatial_blocks, world_bounds

WORLD = CRS.from_epsg(4326).to_wkt()
UTM33 = CRS.from_epsg(32633).to_wkt()
LOCAL = 'LOCAL_CS["grid",UNIT["metre",1]]'
NOWHERE = {"crs": None, "bounds": None, "gsd": None, "height": 10, "width": 10}


def tile_at(left, bottom, right, top, *, crs="a", gsd=None, size=(10, 10), **more):
    return {"crs": crs, "bounds": [left, bottom, right, top], "gsd": gsd, "height": size[0], "width": size[1], **more}


def grid(rows, columns, side=100.0, crs="a"):
    """Touching square tiles of 10 x 10 pixels."""
    return [
        {"crs": crs, "bounds": [c * side, -(r + 1) * side, (c + 1) * side, -r * side], "gsd": side / 10}
        | {"height": 10, "width": 10}
        for r in range(rows)
        for c in range(columns)
    ]


def test_a_block_is_two_by_two_tiles_unless_another_size_is_asked_for():
    blocks = np.array(spatial_blocks(grid(4, 6))).reshape(4, 6)
    assert len(set(blocks.ravel())) == 6
    assert len(set(blocks[:2, :2].ravel())) == 1 and blocks[0, 1] != blocks[0, 2]


def test_rounding_of_coordinates_moves_no_tile_to_another_block():
    places = grid(4, 4, side=0.1)  # 0.1 has no exact binary form
    assert spatial_blocks(places) == spatial_blocks(grid(4, 4, side=1.0))


def test_tiles_without_a_place_have_no_block_and_systems_do_not_share_blocks():
    nowhere = {"crs": None, "bounds": None, "gsd": None, "height": 10, "width": 10}
    blocks = spatial_blocks([*grid(2, 2), *grid(2, 2, crs="b"), nowhere])
    assert len(set(blocks[:4])) == len(set(blocks[4:8])) == 1
    assert blocks[0] != blocks[4] and blocks[8] is None


def test_tiles_that_touch_share_no_ground_and_tiles_that_overlap_do():
    places = grid(1, 3)
    assert overlapping(places[:1], places[1:]) == []
    shifted = {**places[1], "bounds": [x + (50 if k % 2 == 0 else 0) for k, x in enumerate(places[1]["bounds"])]}
    assert overlapping([shifted], places) == [(0, 1), (0, 2)]
    assert overlapping([{**shifted, "crs": "b"}], places) == []


def test_systems_that_cover_one_region_share_one_grid_of_blocks():
    utm, world = CRS.from_epsg(32633).to_wkt(), CRS.from_epsg(4326)
    places = [
        {**p, "bounds": [x + (500_000, 5_000_000)[k % 2] for k, x in enumerate(p["bounds"])], "crs": utm}
        for p in grid(4, 4)
    ]
    mixed = [
        {**p, "crs": world.to_wkt(), "bounds": list(transform_bounds(utm, world, *p["bounds"]))} if i % 2 else p
        for i, p in enumerate(places)
    ]
    names = np.array(spatial_blocks(mixed)).reshape(4, 4)
    assert len(set(names.ravel())) == 4 and len(set(names[:2, :2].ravel())) == 1
    assert (0, 0) in overlapping(
        places[:1],
        [{**mixed[0], "crs": world.to_wkt()} | {"bounds": list(transform_bounds(utm, world, *places[0]["bounds"]))}],
    )
    assert not_comparable(places, grid(1, 2, crs='LOCAL_CS["grid",UNIT["metre",1]]')) == 32


# Blocks


def test_blocks_are_counted_from_the_upper_left_and_take_two_tiles_along_each_side_of_oblong_tiles():
    oblong = [tile_at(c * 30, -(r + 1) * 10, (c + 1) * 30, -r * 10) for r in range(4) for c in range(6)]
    blocks = np.array(spatial_blocks(oblong, prefix="hills/")).reshape(4, 6)
    assert blocks[0, 0] == blocks[1, 1] == "hills/r0_c0"
    assert blocks[2, 4] == blocks[3, 5] == "hills/r1_c2"
    assert blocks[0, 5] == "hills/r0_c2" and blocks[3, 0] == "hills/r1_c0"
    assert block_side(oblong, None) == (60, 20)


def test_the_side_of_blocks_follows_the_usual_tile_not_the_largest():
    places = [*grid(1, 5), tile_at(0, -1000, 1000, 0)]
    assert block_side(places, None) == (200, 200)


def test_a_tile_belongs_to_the_block_in_which_its_centre_lies():
    side = 100.0
    places = [*grid(4, 4), tile_at(150, -100, 250, 0), tile_at(149, -100, 249, 0), tile_at(0, -249, 100, -149)]
    assert block_side(places, None) == (2 * side, 2 * side)
    assert spatial_blocks(places)[16:] == ["r0_c1", "r0_c0", "r0_c0"]


def test_a_centre_on_the_edge_of_two_blocks_lies_in_the_later_one_whatever_the_rounding():
    for off, column in ((-1e-5, 1), (0, 1), (1e-5, 1), (-0.1, 0)):
        places = [*grid(4, 4), tile_at(150 + off, -100, 250 + off, 0)]
        assert spatial_blocks(places)[16] == f"r0_c{column}"
    for off, row in ((-1e-5, 1), (0, 1), (1e-5, 1), (0.1, 0)):
        places = [*grid(4, 4), tile_at(0, -250 + off, 100, -150 + off)]
        assert spatial_blocks(places)[16] == f"r{row}_c0"


@given(
    shift=st.tuples(*[st.floats(-1e6, 1e6)] * 2),
    scale=st.floats(0.01, 1000),
    cells=st.sets(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=30),
)
def test_blocks_do_not_depend_on_where_a_grid_lies_and_in_what_unit_it_is_measured(shift, scale, cells):
    cells = sorted(cells)
    places = [
        tile_at(*(scale * x + shift[k % 2] * scale for k, x in enumerate((c, -r - 1, c + 1, -r)))) for r, c in cells
    ]
    first_row, first_column = (min(cell[k] for cell in cells) for k in (0, 1))
    wanted = [f"r{(r - first_row) // 2}_c{(c - first_column) // 2}" for r, c in cells]
    assert spatial_blocks(places) == wanted


def test_the_side_of_a_block_in_metres_is_turned_into_the_unit_of_the_tiles():
    foot = 0.3048
    in_feet = [tile_at(0, 0, 100, 100, gsd=10 * foot, crs=UTM33)]  # pixels of 10 feet
    assert block_side(in_feet, 30.48) == pytest.approx((100, 100))
    # 64 columns of 0.5 m at 60 degrees north, where a degree of longitude has 55660 m, and one of latitude 111320
    in_degrees = [tile_at(15, 60, 15 + 32 / 55_660, 60 + 32 / 111_320, gsd=0.5, size=(64, 64), crs=WORLD)]
    assert block_side(in_degrees, 100) == pytest.approx((100 / 55_660, 100 / 111_320))
    unknown = [{**in_feet[0], "gsd": None}] * 3
    assert block_side([*unknown, *in_feet], 30.48) == pytest.approx((100, 100))
    with pytest.raises(UserError, match="does not say what its unit is. Leave --block-size out"):
        block_side(unknown, 30.48)
    of_height = [{**in_feet[0], "height": 2}]  # the side of a pixel is measured along x
    assert block_side(of_height, 30.48) == pytest.approx((100, 100))


def test_a_block_is_no_smaller_than_a_pixel():
    places = [tile_at(0, 0, 5, 5, gsd=0.5, crs=UTM33)]
    assert block_side(places, 0.5) == pytest.approx((0.5, 0.5))
    with pytest.raises(UserError, match=r"--block-size 0\.49 is smaller than a pixel of 0\.5 metres"):
        block_side(places, 0.49)


def in_utm(places):
    """The same places near 15 degrees east, 45 degrees north."""
    moved = [[x + (500_000, 5_000_000)[k % 2] for k, x in enumerate(p["bounds"])] for p in places]
    return [{**p, "bounds": bounds, "crs": UTM33} for p, bounds in zip(places, moved, strict=True)]


def in_degrees(place):
    return {**place, "crs": WORLD, "bounds": list(transform_bounds(UTM33, WORLD, *place["bounds"]))}


def test_systems_of_regions_apart_keep_grids_and_names_of_their_own():
    here = in_utm(grid(2, 2))
    for x, y in ((0, 50), (50, 0), (0, -50)):  # the same longitudes, the same latitudes, the same again to the south
        there = [in_degrees(p) for p in here]
        there = [{**p, "bounds": [b + (x, y)[k % 2] for k, b in enumerate(p["bounds"])]} for p in there]
        blocks = spatial_blocks([*here, *there])
        assert len(set(blocks[:4])) == len(set(blocks[4:])) == 1 and blocks[0] != blocks[4]
        assert {blocks[0], blocks[4]} == {"crs0_r0_c0", "crs1_r0_c0"}


def test_of_three_systems_the_two_that_cover_one_region_share_a_grid_and_the_third_has_its_own():
    zone34 = CRS.from_epsg(32634).to_wkt()
    places = in_utm(grid(4, 4))
    mixed = [
        {**p, "crs": zone34, "bounds": list(transform_bounds(UTM33, zone34, *p["bounds"]))} if i % 2 else p
        for i, p in enumerate(places)
    ]
    far = [tile_at(100 + c / 1000, 10, 100 + (c + 1) / 1000, 10 + 1 / 1000, crs=WORLD) for c in range(4)]
    blocks = spatial_blocks([*mixed, *far])
    assert None not in blocks and not set(blocks[:16]) & set(blocks[16:])
    local = [tile_at(0, 0, 100, 100, crs=LOCAL)]
    blocks = spatial_blocks([*mixed, *local])
    assert len(set(blocks[:16])) == 4 and blocks[16] in ("crs0_r0_c0", "crs1_r0_c0")
    assert blocks[16][:4] not in {name[:4] for name in blocks[:16]}


# Common ground


def test_bounds_are_given_in_longitude_and_latitude_where_a_system_is_known():
    # By definition of zone 33 its easting of 500 km lies on 15 degrees east, and its northing of 0 on the equator.
    left, bottom, right, top = world_bounds(UTM33, (500_000, 0, 501_000, 1000))
    assert (left, bottom) == pytest.approx((15, 0), abs=1e-6)
    assert right - left == pytest.approx(1000 / 0.9996 / 111_320, rel=2e-3)
    assert top - bottom == pytest.approx(1000 / 0.9996 / 110_574, rel=1e-3)
    assert world_bounds(None, (0, 0, 1, 1)) is world_bounds(LOCAL, (0, 0, 1, 1)) is None
    assert world_bounds("a", (0, 0, 1, 1)) is None


def test_tiles_that_share_a_hundredth_of_a_pixel_share_ground_along_both_sides_alike():
    side, pixels = 100.0, 20  # pixels of 5
    place = tile_at(0, 0, side, side, size=(pixels, pixels))
    for shared, meets in ((0.02, True), (0.005, False), (-1, False)):
        beyond = side - 5 * shared
        beside = tile_at(beyond, 0, beyond + side, side, size=(pixels, pixels))
        above = tile_at(0, beyond, side, beyond + side, size=(pixels, pixels))
        for other in (beside, above):
            assert overlapping([place], [other]) == overlapping([other], [place]) == ([(0, 0)] if meets else [])
    diagonal = tile_at(150, 150, 250, 250)
    assert overlapping([place], [diagonal]) == []
    assert overlapping([place], [tile_at(40, 40, 60, 60)]) == [(0, 0)]  # one within the other
    oblong = tile_at(0, 99.9, 400, 199.9, size=(1000, 4))  # pixels 100 wide and 0.1 high: a whole row is shared
    assert overlapping([place], [oblong]) == [(0, 0)]
    assert overlapping([place], [tile_at(99.9, 0, 499.9, 100, size=(1000, 4))]) == []  # a thousandth of a column


def test_tiles_without_a_system_share_ground_only_with_those_of_their_source():
    place = tile_at(0, 0, 100, 100, crs=None, source="biodiversity")
    others = [NOWHERE, {**place, "source": "openearthmap"}, place, {**place, "crs": UTM33}]
    assert overlapping([NOWHERE, place], others) == [(1, 2)]
    assert not_comparable([NOWHERE, place], others) == 2  # of another source, and in another system
    assert not_comparable([{**place, "crs": UTM33}], [{**place, "crs": WORLD}]) == 0
    assert not_comparable([{**place, "crs": UTM33}] * 2, [{**place, "crs": LOCAL}] * 3) == 6
    assert not_comparable([{**place, "crs": LOCAL}] * 2, [{**place, "crs": LOCAL}] * 3) == 0


def test_pairs_of_two_systems_are_named_by_their_positions_among_all_tiles():
    places = in_utm(grid(1, 4))
    others = [NOWHERE, *(in_degrees(p) for p in places[::-1]), tile_at(0, 0, 1, 1, crs=LOCAL)]
    pairs = set(overlapping([NOWHERE, *places], others))
    assert {(1, 4), (2, 3), (3, 2), (4, 1)} <= pairs
    assert not {(1, 1), (1, 2), (4, 4), (4, 3)} & pairs  # boxes are larger by parts of a pixel, not by tiles
    both = overlapping(places[:1], [in_degrees(places[0]), places[0]])
    assert sorted(both) == [(0, 0), (0, 1)]
