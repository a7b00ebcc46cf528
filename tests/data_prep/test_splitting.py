"""Spatial blocks, common ground and stratified draws; and the split that is made of them."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.crs import CRS
from rasterio.warp import transform_bounds

from common.errors import UserError
from common.ground import block_side, not_comparable, overlapping, spatial_blocks, world_bounds
from data_prep import split_biodiversity
from data_prep.raw import images
from data_prep.tile_sets import stratify as stratification
from data_prep.tile_sets.stratify import joined, stratify
from tests.helpers import quiet, write_png
from tests.small_sets import LEFT, TOP, noise_of, split_sets, with_pixels, write_grid, write_raw

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


def test_blocks_with_overlapping_tiles_form_one_unit():
    assert joined(["a", "b", "c", "d"], [(0, 2)]).tolist() == [0, 1, 0, 2]
    assert joined([], []).tolist() == []


def test_every_class_in_three_units_reaches_each_split_and_units_stay_whole():
    rng = np.random.default_rng(3)
    units = np.repeat(np.arange(40), 4)
    pixels = np.zeros((160, 5), np.int64)
    pixels[:, 0] = 1000
    for k in range(1, 5):
        holders = rng.choice(40, 3, replace=False)
        pixels[np.isin(units, holders), k] = 50
    for seed in range(3):
        chosen = stratify(units, pixels, (0.8, 0.1, 0.1), seed, draws=8)
        for s in range(3):
            assert (pixels[chosen == s].sum(axis=0) > 0).all()
        assert all(len(set(chosen[units == unit])) == 1 for unit in range(40))
        assert abs(np.mean(chosen == 0) - 0.8) < 0.1


def test_stratified_draws_keep_shares_closer_than_a_random_draw():
    rng = np.random.default_rng(0)
    pixels = rng.gamma(0.3, 1000, (120, 4)).astype(np.int64)
    overall = pixels.sum(axis=0) / pixels.sum()

    def worst(chosen):
        return max(
            np.abs(pixels[chosen == s].sum(axis=0) / pixels[chosen == s].sum() - overall).max() for s in range(3)
        )

    drawn = worst(stratify(np.arange(120), pixels, (0.6, 0.2, 0.2), 0))
    by_chance = [worst(rng.choice(3, 120, p=[0.6, 0.2, 0.2])) for _ in range(50)]
    assert drawn < np.quantile(by_chance, 0.05)


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


@given(
    st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7)), max_size=12),
    st.lists(st.integers(0, 4), min_size=8, max_size=8),
)
def test_tiles_form_one_unit_where_groups_and_pairs_link_them_and_units_are_numbered_in_order(pairs, of_group):
    groups = [f"g{n}" for n in of_group]
    links = [*pairs, *((i, j) for i, j in itertools.combinations(range(8), 2) if groups[i] == groups[j])]
    first = list(range(8))  # of the tiles that each is linked to
    for _ in range(8):
        for i, j in links:
            first[i] = first[j] = min(first[i], first[j])
    units = joined(groups, pairs)
    assert units.dtype == np.int64
    assert units.tolist() == [sorted(set(first)).index(n) for n in first]  # numbered in the order of their first tiles


# Stratified draws


def drawn(present, fractions, seed, sizes=None):
    """One draw, before anything is repaired or chosen."""
    present = np.asarray(present, bool)
    sizes = np.ones(len(present), int) if sizes is None else np.asarray(sizes)
    return stratification._iterative_stratification(present, sizes, np.asarray(fractions), np.random.default_rng(seed))


def test_the_rarest_class_is_dealt_out_first():
    present = np.zeros((30, 2), bool)
    present[:, 0] = True
    present[:6, 1] = True  # six units hold the rare class, among the thirty of the common one
    for seed in range(10):
        chosen = drawn(present, [1 / 3] * 3, seed)
        assert np.bincount(chosen[:6], minlength=3).tolist() == [2, 2, 2]
        assert np.bincount(chosen, minlength=3).tolist() == [10, 10, 10]


@pytest.mark.parametrize(("holders", "wanted"), [(3, [1, 1, 1]), (4, [2, 1, 1]), (10, [8, 1, 1])])
def test_the_last_units_of_a_class_go_to_the_splits_that_have_none_of_it(holders, wanted):
    present = np.zeros((20, 1), bool)
    present[:holders] = True
    for seed in range(10):
        assert np.bincount(drawn(present, [0.8, 0.1, 0.1], seed)[:holders], minlength=3).tolist() == wanted


def test_which_units_and_which_of_equal_splits_come_first_is_left_to_the_seed():
    draws = [drawn(np.ones((4, 1), bool), [1 / 3] * 3, seed) for seed in range(30)]
    assert {int(np.bincount(chosen, minlength=3).argmax()) for chosen in draws} == {0, 1, 2}  # where the fourth goes
    firsts = [drawn(np.ones((10, 1), bool), [0.8, 0.1, 0.1], seed) for seed in range(30)]
    assert len({int(np.flatnonzero(chosen == 1)[0]) for chosen in firsts}) > 4
    assert all((chosen == drawn(np.ones((4, 1), bool), [1 / 3] * 3, seed)).all() for seed, chosen in enumerate(draws))


def test_units_of_unequal_size_fill_the_splits_by_tiles_not_by_units():
    sizes = [30] * 3 + [1] * 60
    for seed in range(10):
        chosen = drawn(np.zeros((63, 1), bool), [0.6, 0.2, 0.2], seed, sizes)
        filled = np.bincount(chosen, weights=sizes, minlength=3) / 150
        assert np.abs(filled - [0.6, 0.2, 0.2]).max() < 0.17  # a large unit of 30 comes on top at most
        same = drawn(np.ones((63, 1), bool), [0.6, 0.2, 0.2], seed, sizes)
        first, *others = np.bincount(same, minlength=3).tolist()  # of 37.8, 12.6 and 12.6
        assert first == 38 and sorted(others) == [12, 13]


def test_of_two_splits_that_want_a_class_alike_the_one_with_more_room_gets_the_unit():
    in_order = SimpleNamespace(permutation=np.arange, random=np.zeros)
    halves, sizes = np.array([0.5, 0.5]), np.array([8, 1, 8, 1])
    chosen = stratification._iterative_stratification(np.ones((4, 1), bool), sizes, halves, in_order)
    assert chosen.tolist() == [0, 1, 1, 0]  # nine tiles each


def test_unlabelled_units_fill_what_room_the_labelled_ones_leave():
    present = np.zeros((40, 1), bool)
    present[:10] = True
    chosen = drawn(present, [0.6, 0.2, 0.2], 3)
    assert np.bincount(chosen, minlength=3).tolist() == [24, 8, 8]


def test_a_class_in_as_many_units_as_there_are_splits_is_missed_in_each_that_lacks_it():
    present = np.array([[1, 1, 1], [1, 1, 0], [1, 0, 0], [0, 0, 0]], bool)
    chosen = np.array([0, 0, 0, 1])
    assert stratification._missing(chosen, present, 2) == [(1, 0), (1, 1)]  # the third is in one unit only
    assert stratification._missing(chosen, present, 3) == [(1, 0), (2, 0)]


def test_a_missing_class_is_brought_by_the_smallest_unit_that_helps():
    present = np.array([[1, 1], [1, 0], [1, 0], [0, 1]], bool)
    chosen, missing = stratification._repair(np.array([0, 0, 0, 1]), present, np.array([1, 5, 2, 9]), 2)
    assert missing == 0
    assert chosen.tolist() == [0, 0, 1, 1]  # the first would take the last unit of the second class with it
    kept, missing = stratification._repair(np.array([0, 1, 2, 0]), np.ones((4, 1), bool), np.ones(4, int), 3)
    assert kept.tolist() == [0, 1, 2, 0] and missing == 0


def test_what_no_move_can_mend_is_counted_and_left():
    present = np.array([[1, 1], [1, 1], [0, 0]], bool)
    chosen, missing = stratification._repair(np.array([0, 0, 1]), present, np.ones(3, int), 3)
    assert missing == 0 and chosen.tolist() == [0, 0, 1]  # two units cannot serve three splits
    # four classes in three units each of four; any three splits leave some class out
    triples = np.array([[1, 1, 1, 0], [1, 1, 0, 1], [1, 0, 1, 1], [0, 1, 1, 1]], bool)
    least = min(len(stratification._missing(np.array(c), triples, 3)) for c in itertools.product(range(3), repeat=4))
    _, missing = stratification._repair(np.array([0, 0, 0, 0]), triples, np.ones(4, int), 3)
    assert missing >= least > 0


def test_the_distance_of_a_split_adds_chi_square_distances_of_shares_and_sizes():
    pixels = np.array([[7, 3], [9, 1]])
    sizes = np.array([3, 1])
    # overall 0.8 and 0.2; each split is 0.1 off in both: 0.01 / 0.8 + 0.01 / 0.2 = 0.0625
    # sizes 0.75 and 0.25 of wanted halves: 0.0625 / 0.5 = 0.125 each
    halves = np.array([0.5, 0.5])
    assert stratification._distance(np.array([0, 1]), pixels, sizes, halves) == pytest.approx(2 * 0.0625 + 2 * 0.125)
    thirds = np.array([0.75, 0.25])
    assert stratification._distance(np.array([0, 1]), pixels, sizes, thirds) == pytest.approx(2 * 0.0625)
    with_absent = np.array([[7, 3, 0], [9, 1, 0]])
    assert stratification._distance(np.array([0, 1]), with_absent, sizes, thirds) == pytest.approx(2 * 0.0625)
    assert stratification._distance(np.array([0, 0]), pixels, sizes, thirds) == np.inf


def best_possible(units, pixels, splits):
    """The fewest (split, class) that are missing in any way to deal out the units, tried one by one."""
    holders = [set(units[pixels[:, k] > 0]) for k in range(pixels.shape[1])]
    count = units.max() + 1
    fewest = None
    for ways in itertools.product(range(splits), repeat=int(count)):
        if len(set(ways)) == splits:
            lacking = sum(len(set(range(splits)) - {ways[u] for u in h}) for h in holders if len(h) >= splits)
            fewest = lacking if fewest is None else min(fewest, lacking)
    return fewest


@settings(max_examples=30)
@given(
    splits=st.sampled_from([2, 3]),
    of_unit=st.lists(st.integers(0, 5), min_size=6, max_size=14),
    held=st.lists(st.lists(st.booleans(), min_size=4, max_size=4), min_size=14, max_size=14),
)
def test_units_stay_whole_and_as_few_classes_are_missing_as_can_be(splits, of_unit, held):
    units = np.unique([0, 1, 2, *of_unit], return_inverse=True)[1]
    pixels = 10 * np.array([*held, *held], np.int64)[: len(units)]
    fractions = {2: (0.7, 0.3), 3: (0.6, 0.2, 0.2)}[splits]
    chosen = stratify(units, pixels, fractions, seed=1, draws=48)
    assert all(len(set(chosen[units == unit])) == 1 for unit in units)
    assert set(chosen) == set(range(splits))
    lacking = 0
    for k in range(4):
        holders = set(units[pixels[:, k] > 0])
        if len(holders) >= splits:
            lacking += splits - len(set(chosen[pixels[:, k] > 0]))
    assert lacking == best_possible(units, pixels, splits)


def test_all_tiles_of_a_unit_say_what_classes_it_holds():
    """Each unit's class is in its first tile alone, the others of it being of the common class."""
    units = np.repeat(np.arange(9), 3)
    pixels = np.zeros((27, 4), np.int64)
    pixels[:, 0] = 100
    for unit in range(9):
        pixels[3 * unit, 1 + unit % 3] = 5
    for seed in range(5):
        chosen = stratify(units, pixels, (1 / 3, 1 / 3, 1 / 3), seed, draws=1)
        for s in range(3):
            assert (pixels[chosen == s].sum(axis=0) > 0).all() and np.sum(chosen == s) == 9


@pytest.mark.parametrize(("count", "draws"), [(3, 512), (97, 512), (200, 250), (782, 64), (3000, 64)])
def test_the_fewer_units_there_are_the_more_draws_are_made(count, draws, monkeypatch):
    streams = []

    def one_draw(present, sizes, fractions, rng):
        streams.append(rng.bit_generator.seed_seq.entropy)
        return np.arange(len(present)) % 3

    monkeypatch.setattr(stratification, "_iterative_stratification", one_draw)
    stratify(np.arange(count), np.ones((count, 1), np.int64), (0.6, 0.2, 0.2), 7)
    assert streams == [[7, n] for n in range(draws)]


def test_of_many_draws_that_is_kept_which_lacks_least_and_then_is_closest(monkeypatch):
    """Five tiles of two classes: the draws to choose from are written out."""
    pixels = np.array([[8, 2], [8, 2], [8, 2], [10, 0], [6, 4], [8, 2]])
    empty = [0, 0, 0, 0, 0, 0]
    far = [0, 0, 0, 0, 1, 2]
    near = [0, 0, 1, 0, 0, 2]
    ways = iter([empty, far, near, far])
    monkeypatch.setattr(stratification, "_iterative_stratification", lambda *_: np.array(next(ways)))
    monkeypatch.setattr(stratification, "_repair", lambda chosen, *_: (chosen, 0))
    assert stratify(np.arange(6), pixels, (4 / 6, 1 / 6, 1 / 6), 0, draws=4).tolist() == near
    ways = iter([near, far])
    lacking = iter([1, 0])
    monkeypatch.setattr(stratification, "_repair", lambda chosen, *_: (chosen, next(lacking)))
    assert stratify(np.arange(6), pixels, (4 / 6, 1 / 6, 1 / 6), 0, draws=2).tolist() == far


def test_fewer_units_than_splits_are_refused():
    pixels = np.ones((4, 1), np.int64)
    with pytest.raises(UserError, match="2 spatial blocks cannot make 3 splits"):
        stratify(np.array([0, 0, 1, 1]), pixels, (0.6, 0.2, 0.2), 0)
    assert set(stratify(np.array([0, 0, 1, 2]), pixels, (0.6, 0.2, 0.2), 0, draws=1)) == {0, 1, 2}


def test_a_split_follows_its_seed():
    pixels = np.ones((60, 1), np.int64)
    ways = [tuple(stratify(np.arange(60), pixels, (0.6, 0.2, 0.2), seed, draws=1)) for seed in (0, 1, 2, 0)]
    assert ways[0] == ways[3] and len(set(ways)) == 3


# The split of the raw tiles


@pytest.fixture
def few_draws(monkeypatch):
    """Splits are drawn in less time; that many draws are made by default is tested above."""
    monkeypatch.setattr(stratification, "MOST_DRAWS", 12)
    monkeypatch.setattr(stratification, "FEWEST_DRAWS", 12)


def split(root, *flags):
    printed = quiet(split_biodiversity.main, "--root", root, "--overwrite", *flags)
    return split_sets(root), printed


def side_of(sets):
    return {tile.id: s for s, tiles in enumerate(sets) for tile in tiles}


def test_tenths_are_held_out_from_100_blocks_on_however_many_tiles_there_are(few_draws, tmp_path):
    write_grid(tmp_path, 10, 10)
    (tmp_path / "exclude.txt").write_text("r04_c04\n")
    fifths, tenths = [0.6, 0.2, 0.2], [0.8, 0.1, 0.1]
    for flags, fractions, held_out in (
        (("--block-size", 4), tenths, 10),  # the side of a tile
        (("--block-size", 4, "--exclude", tmp_path / "exclude.txt"), fifths, 20),
        (("--block-size", 8), fifths, 20),
        (("--block-size", 8, "--strategy", "random"), fifths, 20),  # of 25 blocks, though 100 tiles are drawn
    ):
        sets, _ = split(tmp_path, *flags)
        assert sets[0].manifest["fractions"] == fractions
        assert all(abs(len(tiles) - held_out) <= 1 for tiles in sets[1:])


def test_val_needs_tiles_of_ten_blocks_for_an_interval(few_draws, tmp_path, capsys):
    write_grid(tmp_path, 5, 10)
    for fractions, count, warned in ((("0.6", "0.2", "0.2"), 10, False), (("0.62", "0.18", "0.2"), 9, True)):
        flags = ("--root", tmp_path, "--overwrite", "--block-size", 4, "--fractions", *fractions)
        split_biodiversity.main([str(flag) for flag in flags])
        said = capsys.readouterr()
        assert len(split_sets(tmp_path)[1]) == count
        assert ("no interval can be given" in said.err) == warned


def test_blocks_are_drawn_by_default_where_more_than_half_of_the_tiles_have_a_place(few_draws, tmp_path):
    for row, column in np.ndindex(4, 4):
        write_raw(tmp_path, f"t{row}{column}", np.full((8, 8), 1), origin=(LEFT + 4 * column, TOP - 4 * row))
    names = [f"t{row}{column}" for row, column in np.ndindex(4, 4)]
    for without, strategy in ((names[:7], "blocks"), (names[7:8], "random")):
        for name in without:
            (tmp_path / f"data/biodiversity_raw/images/{name}.tif").unlink()
            write_raw(tmp_path, name, np.full((8, 8), 1))
        assert split(tmp_path)[0][0].manifest["split_strategy"] == strategy


@pytest.mark.parametrize("strategy", ["blocks", "random"])
def test_tiles_that_overlap_are_never_divided(few_draws, tmp_path, strategy):
    """Rows of four tiles, each shifted by half a tile, over the edges of their blocks."""
    for row, n in np.ndindex(8, 4):
        origin = (LEFT + 2 * n, TOP - 8 * row)
        write_raw(tmp_path, f"row{row:02}_{n}", np.full((8, 8), 1 + row % 5), origin=origin)
    for seed in range(2):
        sets, _ = split(tmp_path, "--strategy", strategy, "--seed", seed)
        sides = side_of(sets)
        assert all(len({sides[f"row{row:02}_{n}"] for n in range(4)}) == 1 for row in range(8))
        assert all(len(tiles) > 0 for tiles in sets)


def test_each_split_has_a_class_of_three_blocks_and_one_of_fewer_is_named(few_draws, tmp_path, capsys):
    seminatural = {(0, 0), (3, 4), (5, 5)}  # three blocks
    cropland = {(1, 2), (4, 0)}  # two

    def mask_of(row, column):
        rare = 5 if (row, column) in seminatural else 3 if (row, column) in cropland else 1
        return with_pixels(8, {1: 30, 2: 20, 4: 10} | ({rare: 1} if rare > 1 else {}))

    write_grid(tmp_path, 6, 6, mask_of=mask_of)
    for seed in range(2):
        split_biodiversity.main(["--root", str(tmp_path), "--overwrite", "--seed", str(seed)])
        said = capsys.readouterr().err
        sets = split_sets(tmp_path)
        assert all((tiles.pixels[[1, 2, 4, 5]] > 0).all() for tiles in sets)
        lacking = [name for name, tiles in zip(("train", "val", "test"), sets, strict=True) if not tiles.pixels[3]]
        assert f"Cropland does not occur in {' and '.join(lacking)}: it is in 2 blocks only." in said
        assert said.count("does not occur in") == 1


def test_the_manifests_of_a_split_record_what_was_asked_for_and_what_was_left_out(few_draws, tmp_path):
    write_grid(tmp_path, 6, 6)
    again = noise_of("r00_c00", 8, 8)
    write_raw(tmp_path, "z_again", np.ones((8, 8)), image=again, origin=(LEFT + 1000, TOP))
    exclude = tmp_path / "exclude.txt"
    exclude.write_text("r05_c05\nr01_c01\n\n")
    flags = ("--seed", 5, "--exclude", exclude, "--fractions", "0.5", "0.25", "0.25", "--block-size", 4)
    sets, printed = split(tmp_path, *flags)
    for name, tiles in zip(("train", "val", "test"), sets, strict=True):
        manifest = tiles.manifest
        assert tiles.split == name and manifest["seed"] == 5 and manifest["split_strategy"] == "blocks"
        assert manifest["block_size"] == 4 and manifest["fractions"] == [0.5, 0.25, 0.25]
        assert manifest["excluded"] == ["r01_c01", "r05_c05"]
        assert manifest["repeated_images"] == {"z_again": "r00_c00"}
        assert manifest["bands"] == [1, 2, 3] and manifest["stretch"] is None
        assert manifest["inputs"] == [str(tmp_path / "data/biodiversity_raw")]
        assert "--seed 5" in manifest["command"]
        assert all(tile.entry["source"] == "biodiversity" for tile in tiles)
    assert "blocks_shared_with_train" not in sets[0].manifest
    sides = side_of(sets)
    assert len(sides) == 34 and not {"z_again", "r05_c05", "r01_c01"} & sides.keys()
    assert "left out: 2 excluded, 1 that repeat another image (z_again)" in printed
    for tiles in sets:
        for tile in tiles:
            row, column = int(tile.id[1:3]), int(tile.id[5:7])
            assert tile.block == f"r{row}_c{column}"


def test_the_table_of_a_split_gives_tiles_blocks_and_shares_of_labelled_pixels(few_draws, tmp_path):
    write_grid(tmp_path, 6, 6, mask_of=lambda *_: with_pixels(8, {1: 24, 2: 12, 4: 9, 5: 3}))
    sets, printed = split(tmp_path)
    rows = {line[:5].strip(): line[5:].split() for line in printed.splitlines()}
    for name, tiles in zip(("train", "val", "test"), sets, strict=True):
        blocks = len({tile.block for tile in tiles})
        # 48 of 64 pixels are labelled
        assert rows[name] == [f"{len(tiles)}", f"{blocks}", "50.0%", "25.0%", "0.0%", "18.8%", "6.2%", "25.0%"]


def test_neighbours_on_both_sides_are_counted_for_val_and_test_apart(few_draws, tmp_path, capsys):
    write_grid(tmp_path, 6, 6)
    split_biodiversity.main(["--root", str(tmp_path), "--strategy", "random", "--fractions", "0.7", "0.1", "0.2"])
    sets = split_sets(tmp_path)
    blocks = [{tile.block for tile in tiles} for tiles in sets]
    crossing = [len(blocks[s] & blocks[0]) for s in (1, 2)]
    assert [tiles.manifest["blocks_shared_with_train"] for tiles in sets[1:]] == crossing
    assert crossing[0] != crossing[1]
    assert f"tiles of val in {crossing[0]} places, and of test in {crossing[1]}, have" in capsys.readouterr().err


def test_the_presets_of_a_split_are_those_of_the_method():
    args = split_biodiversity.parse_args([])
    assert (args.seed, args.bands, args.stretch, args.mode) == (42, [1, 2, 3], "train", "link")
    assert args.strategy is args.block_size is args.fractions is args.exclude is None
    assert split_biodiversity.SPLITS == ("train", "val", "test")


def as_floats(tile_id, low, high):
    """(3, 8, 8) float32 noise; band n runs from n × low to n × high."""
    noise = noise_of(tile_id, 8, 8, np.float32)
    noise = (noise - noise.min(axis=(1, 2), keepdims=True)) / np.ptp(noise, axis=(1, 2), keepdims=True)
    return ((low + (high - low) * noise) * np.array([1, 2, 3], np.float32)[:, None, None]).astype(np.float32)


def test_the_scaling_of_train_is_that_of_all_its_labelled_and_unlabelled_pixels_by_band(few_draws, tmp_path):
    for row, column in np.ndindex(4, 4):
        name = f"t{row}{column}"
        write_raw(
            tmp_path, name, np.ones((8, 8)), image=as_floats(name, 0, 1000), origin=(LEFT + 4 * column, TOP - 4 * row)
        )
    sets, _ = split(tmp_path)
    wanted = []
    for band in range(3):  # every pixel of a tile of 64 is in its sample
        values = np.sort(np.concatenate([as_floats(tile.id, 0, 1000)[band].ravel() for tile in sets[0]]))
        at = [share * (len(values) - 1) for share in (0.02, 0.98)]
        wanted.append([values[int(a)] + (a % 1) * (values[int(a) + 1] - values[int(a)]) for a in at])
    assert np.array(sets[0].stretch["ranges"]) == pytest.approx(np.array(wanted), rel=1e-5)
    for tiles in sets:
        assert tiles.stretch == {"kind": "train", "percentiles": [2, 98], "ranges": sets[0].stretch["ranges"]}
        for tile in tiles:
            for band, (low, high) in enumerate(wanted):
                scaled = np.clip((as_floats(tile.id, 0, 1000)[band] - low) / (high - low), 0, 1) * 255
                assert np.abs(tile.read_image()[band] - scaled).max() <= 0.51


def test_tiles_that_need_scaling_while_train_has_none_are_refused(few_draws, tmp_path):
    write_grid(tmp_path, 4, 4)
    sets, _ = split(tmp_path)
    val = sets[1].tiles[0]
    image = tmp_path / f"data/biodiversity_raw/images/{val.id}.tif"
    left, _, _, top = val.entry["bounds"]
    image.unlink()
    write_raw(tmp_path, val.id, val.read_mask(), image=as_floats(val.id, 0, 9), origin=(left, top))
    with pytest.raises(UserError, match="none of them is in train.*Use --stretch tile"):
        split(tmp_path, "--strategy", "blocks")
    sets, printed = split(tmp_path, "--stretch", "tile")
    assert sets[0].stretch == {"kind": "tile", "percentiles": [2, 98], "ranges": None}
    assert "1 tiles scaled to 8 bit, each by its own range" in printed


def test_an_excluded_bad_tile_stands_in_nobodys_way_and_others_are_all_told(few_draws, tmp_path):
    write_grid(tmp_path, 4, 4)
    for name in ("r00_c00", "r01_c01"):
        write_png(tmp_path / f"data/biodiversity_raw/masks/{name}.png", np.full((8, 8), 9, np.uint8))
    with pytest.raises(UserError, match=r"2 tiles cannot be used:\n.*r00_c00.*\n.*r01_c01"):
        split(tmp_path)
    (tmp_path / "exclude.txt").write_text("r00_c00\n")
    with pytest.raises(UserError, match=r"1 tiles cannot be used:\n.*r01_c01"):
        split(tmp_path, "--exclude", tmp_path / "exclude.txt")
    (tmp_path / "exclude.txt").write_text("r00_c00\nr01_c01")
    assert sum(map(len, split(tmp_path, "--exclude", tmp_path / "exclude.txt")[0])) == 14


def test_pairs_of_tiles_that_cannot_be_compared_are_counted_once(few_draws, tmp_path, capsys):
    write_grid(tmp_path, 2, 3)
    for n in range(4):
        mask = np.tile(np.arange(8) % 5 + 1, (8, 1))
        write_raw(tmp_path, f"local{n}", mask, origin=(4 * n, 0), crs='LOCAL_CS["grid",UNIT["metre",1]]')
    split_biodiversity.main(["--root", str(tmp_path), "--block-size", "4"])
    said = capsys.readouterr().err
    assert (
        "24 pairs of tiles are not comparable" in said and "tiles are in 2 coordinate systems, 6 in EPSG:32633" in said
    )


def test_one_seed_makes_one_split_of_the_tiles_and_others_make_others(few_draws, tmp_path):
    write_grid(tmp_path, 4, 4)
    drawn_tiles = [[tiles.ids for tiles in split(tmp_path, "--seed", seed)[0]] for seed in (1, 2, 3, 1)]
    assert drawn_tiles[0] == drawn_tiles[3] and drawn_tiles[1] != drawn_tiles[0] != drawn_tiles[2]


def test_images_and_masks_are_linked_or_copied_as_is_asked_for(few_draws, tmp_path):
    write_grid(tmp_path, 4, 4)
    raw = tmp_path / "data/biodiversity_raw"
    for mode in ("link", "copy"):
        tile = split(tmp_path, "--mode", mode)[0][0].tiles[0]
        for path, folder in ((tile.image_path, "images"), (tile.mask_path, "masks")):
            assert path.samefile(raw / folder / path.name) == (mode == "link")
            assert path.read_bytes() == (raw / folder / path.name).read_bytes()


def test_a_tile_of_void_alone_is_drawn_and_counts_for_no_class(few_draws, tmp_path):
    write_grid(tmp_path, 6, 6, mask_of=lambda row, column: np.full((8, 8), 0 if column < 4 else 1))
    sets, _ = split(tmp_path)
    assert sum(map(len, sets)) == 36 and all(tiles.pixels[1] > 0 for tiles in sets)


def test_one_sample_of_pixels_serves_however_many_tiles_there_are(few_draws, tmp_path, monkeypatch):
    asked = []
    look = split_biodiversity.inspect

    def note(tile, *, keep, **settings):
        asked.append(keep)
        return look(tile, keep=keep, **settings)

    monkeypatch.setattr(split_biodiversity, "inspect", note)
    assert (images.SAMPLE_PER_TILE, images.SAMPLE_IN_ALL) == (4096, 4_000_000)
    write_grid(tmp_path, 4, 4)
    split(tmp_path)
    monkeypatch.setattr(images, "SAMPLE_IN_ALL", 160)
    split(tmp_path)
    split(tmp_path, "--stretch", "tile")
    assert asked == [4096] * 16 + [10] * 16 + [0] * 16
