"""Images that show one ground are found from their pixels: windows, flipped, turned and altered copies."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from common.rasters import read_image
from data_prep.resemblance import pairs, pictures, windows
from data_prep.resemblance.pairs import Proposal
from tests.helpers import write_tif
from tests.small_sets import noise_of, smooth_scene, turns


def test_anchors_do_not_change_with_flips_and_turns_and_say_where_they_are():
    image = noise_of("a", 150, 80)  # hashed in three strips
    hashes, rows, columns = windows.located_anchors(image)
    assert len(hashes) > 20 and (np.diff(hashes.astype(object)) > 0).all()
    assert rows.min() >= 2 and 64 + 64 < rows.max() <= 147 and columns.min() >= 2 and columns.max() <= 77
    for turned in turns(image):
        np.testing.assert_array_equal(windows.anchors(turned), hashes)
    cut, cut_rows, cut_columns = windows.located_anchors(image[:, 10:, 20:])
    at = {h: (r, c) for h, r, c in zip(hashes, rows, columns, strict=True)}
    assert len(cut) > 10
    assert all(at[h] == (r + 10, c + 20) for h, r, c in zip(cut, cut_rows, cut_columns, strict=True))
    other = image.copy()
    other[0] = image[1]
    other[1] = image[0]
    assert not set(windows.anchors(other).tolist()) & set(hashes.tolist())  # bands exchanged


def test_flat_neighbourhoods_are_no_anchors():
    ripple = (100 + np.random.default_rng(0).integers(0, 8, (3, 90, 90))).astype(np.uint8)
    assert len(windows.anchors(ripple)) == 0  # a range of 7
    assert not windows.same_window(ripple, ripple)  # nothing says how they lie on one another
    assert len(windows.anchors((ripple - 100) * 2 + 100)) > 20


@given(st.integers(0, 7), st.integers(0, 30), st.integers(0, 30))
def test_a_window_is_recognized_however_it_is_shifted_and_turned(way, down, right):
    scene = noise_of("scene", 110, 110)
    image, other = scene[:, :80, :80], scene[:, down : down + 80, right : right + 80]
    assert windows.same_window(image, list(turns(other))[way])
    assert windows.same_window(list(turns(image))[way], other)
    assert not windows.same_window(image, list(turns(noise_of("elsewhere", 80, 80)))[way])


def test_what_lies_on_the_window_must_be_equal_so_that_a_logo_is_no_ground():
    logo, here, there = noise_of("logo", 30, 30), noise_of("here", 80, 80), noise_of("there", 80, 80)
    for image in (here, there):
        image[:, 40:70, 40:70] = logo  # a seventh of the image
    assert len(np.intersect1d(windows.anchors(here), windows.anchors(there))) >= windows.AGREEING
    assert not any(windows.same_window(here, other) for other in turns(there))
    for image in (here, there):
        image[:, 30:, 30:] = noise_of("field", 50, 50)  # two fifths
    assert all(windows.same_window(here, other) for other in turns(there))


def test_images_that_are_mostly_without_data_share_no_window_by_that():
    here, there = np.zeros((2, 3, 80, 80), np.uint8)
    here[:, 50:, 50:], there[:, 50:, 50:] = noise_of("here", 30, 30), noise_of("there", 30, 30)
    assert not windows.same_window(here, there)


def tied(images):
    """({(i, j): kind} of the images that are found to show one ground, how many pairs were likely)."""
    anchors, thumbnails = [windows.anchors(i) for i in images], [pictures.thumbnail(i) for i in images]
    likely = pairs.likely_pairs(anchors, thumbnails, np.ones(len(images), bool), chained=True)
    kinds = {pair: pairs.confirm(proposal, lambda n: images[n]) for pair, proposal in likely.items()}
    return {pair: kind for pair, kind in kinds.items() if kind}, len(likely)


def in_colour(grey):
    """(3, H, W) uint8."""
    return np.clip(np.rint(np.stack([grey, 0.9 * grey, 0.8 * grey])), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("kind", ["empty", "nearly empty", "water", "still water"])
def test_a_logo_on_images_of_little_texture_is_no_ground(kind):
    rng = np.random.default_rng(0)
    images = []
    for number in range(6):
        image = in_colour(np.full((128, 128), 30.0 + (0 if kind == "empty" else number % 3)))
        if kind == "nearly empty":
            image[:] = 0
            image[:, :30, :30] = noise_of(f"scene {number}", 30, 30)
        if kind == "water":
            image = in_colour(30 + rng.normal(0, 0.7, (128, 128)))
        image[:, -28:, -56:] = noise_of("logo", 28, 56)  # 0.096 of the image
        images.append(image)
    assert tied(images) == ({}, 15)


@pytest.mark.parametrize("way", range(8))
@pytest.mark.parametrize("recorded", [1, 0.5, 0.2])
def test_a_turned_copy_or_a_narrow_window_is_found_though_much_of_it_is_void(way, recorded):
    scene = in_colour(60 + 60 * gaussian_filter(np.random.default_rng(0).normal(size=(160, 280)), 1))
    scene[:, int(160 * recorded) :] = 0
    image = scene[:, :, :160]
    for other in (image, scene[:, :, 140:], scene[:, :, 149:])[: 3 if recorded == 1 else 2]:  # by 20 and 11 pixels
        assert windows.same_window(image, list(turns(other))[way])
        assert windows.same_window(list(turns(image))[way], other)


def test_a_copy_that_was_turned_is_found_if_only_a_corner_of_it_is_recorded():
    image = np.zeros((3, 128, 128), np.uint8)
    image[:, :30, :30] = noise_of("scene", 30, 30)
    for other in list(turns(image))[1:]:
        assert windows.same_window(image, other)
        other[:, 60:64, 60:64] = 1
        assert not windows.same_window(image, other)


def test_equal_pixels_count_as_far_as_they_are_more_than_what_is_equal_aside():
    texture, other = noise_of("a", 100, 100), noise_of("b", 100, 100)
    for shared, own, same in ((0, 100, False), (12, 0, True), (8, 0, False), (20, 80, False), (30, 70, True)):
        image, twin = np.zeros((2, 3, 100, 100), np.uint8)
        image[:, :shared], twin[:, :shared] = texture[:, :shared], texture[:, :shared]
        image[:, shared : shared + own] = texture[:, shared : shared + own]
        twin[:, shared : shared + own] = other[:, shared : shared + own]
        assert windows.same_pixels(image, twin) == same
    period = np.tile(texture[:, :5, :5], (1, 20, 20))
    assert not windows.same_pixels(period, period)


def hashes(*values):
    return np.array(values, np.uint64)


def test_four_common_anchors_make_a_pair_of_which_one_is_held():
    images = [hashes(1, 2, 3, 4, 5), hashes(4, 5, 6, 7), hashes(1, 2, 3, 9)]
    images += [hashes(1, 2, 3, 4), hashes(4, 5, 6, 7, 8), hashes(1, 2, 3), hashes(), hashes(4, 5, 6, 7, 8)]
    held = np.arange(len(images)) < 3
    assert pairs.sharing(images, held) == [(0, 3), (1, 4), (1, 7)]
    assert pairs.sharing(images, ~held) == [(4, 7), (0, 3), (1, 4), (1, 7)]  # most anchors first
    assert pairs.sharing(images[:4], np.zeros(4, bool)) == pairs.sharing([], held[:0]) == []


def test_anchors_of_more_than_32_held_images_count_for_those_that_follow_one_another_if_they_are_chained():
    for count, among_all, chained in ((32, 32 * 31 // 2, 32 * 31 // 2), (33, 0, 32)):
        images = [hashes(1, 2, 3, 4)] * count
        held = np.ones(count, bool)
        assert len(pairs.sharing(images, held)) == among_all
        found = pairs.sharing(images, held, chained=True)
        assert len(found) == chained and {(n, n + 1) for n in range(count - 1)} <= set(found)
        more = [*images, *images[:5]]  # of which nothing is held
        assert len(pairs.sharing(more, np.arange(count + 5) < count)) == (among_all + 5 * 32 if among_all else 0)


def test_hashes_that_are_sorted_in_parts_give_the_same_pairs(monkeypatch):
    rng = np.random.default_rng(0)
    images = [np.unique(rng.integers(0, 2**40, 30, dtype=np.uint64) >> np.uint64(33)) for _ in range(40)]
    held = rng.random(40) < 0.5
    whole = pairs.meeting(images, held, fewest=2, common=9, chained=True)
    assert len(whole[0]) > 50 and whole[1].max() > 2
    monkeypatch.setattr(pairs, "AT_ONCE", 150)
    for one, other in zip(whole, pairs.meeting(images, held, fewest=2, common=9, chained=True), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("way", range(8))
def test_an_altered_copy_is_found_in_the_orientation_that_it_was_turned_to(way):
    image = smooth_scene(1)
    brighter = np.clip(1.2 * image + 5, 0, 255).astype(np.uint8)
    other = list(turns(brighter))[way]
    thumbnails = [pictures.thumbnail(one) for one in (image, other, smooth_scene(2))]
    assert [np.linalg.norm(one) for one in thumbnails] == pytest.approx([1, 1, 1])
    held = np.array([True, False, False])
    ((i, j, orientation),) = pairs.resembling(thumbnails, held)
    assert (i, j) == (0, 1)
    grey = list(pictures.orientations(image[0]))[orientation]
    np.testing.assert_array_equal(grey, list(turns(image))[way][0])
    assert pictures.same_picture(image, other, orientation)
    assert not pictures.same_picture(image, other, (orientation + 1) % 8)
    assert not pictures.same_picture(image, smooth_scene(2), orientation)


def test_thumbnails_that_resemble_one_another_are_named_by_their_positions_among_many():
    seeds = [*range(40), 90, 35, 3]
    thumbnails = [pictures.thumbnail(smooth_scene(seed)) for seed in seeds]
    thumbnails[7] = None  # flat
    found = pairs.resembling(thumbnails, np.arange(43) < 40)
    assert sorted(found) == [(3, 42, 0), (35, 41, 0)]
    assert pairs.resembling(thumbnails, np.arange(43) < 30) == [(3, 42, 0)]
    assert pairs.resembling([None, None], np.ones(2, bool)) == []


@pytest.mark.parametrize("way", range(8))
def test_codes_do_not_change_with_flips_and_turns(way):
    one = pictures.thumbnail(smooth_scene(1))
    turned = list(turns(one[None]))[way][0]
    codes, of_turned, of_other = pictures.codes(np.stack([one, turned, pictures.thumbnail(smooth_scene(2))]))
    assert len(np.intersect1d(codes, of_turned)) > 0.98 * len(codes)  # but for the rounding of sums
    assert len(np.intersect1d(codes, of_other)) < 3 and (np.diff(codes.astype(object)) > 0).all()


def noisy(image, rng):
    return np.clip(image * rng.uniform(0.6, 1.3) + rng.normal(0, 3, image.shape), 0, 255).astype(np.uint8)


def test_of_altered_copies_hardly_one_is_missed_that_comparing_each_with_each_finds():
    rng = np.random.default_rng(0)
    scenes = [smooth_scene(seed) for seed in range(150)]
    copies = [list(turns(noisy(image, rng)))[n % 8] for n, image in enumerate(scenes)]
    thumbnails = [pictures.thumbnail(image) for image in [*scenes, *copies]]
    views = np.stack([view.ravel() for one in thumbnails[:150] for view in pictures.orientations(one)])
    table = (views @ np.stack([one.ravel() for one in thumbnails[150:]]).T).reshape(150, 8, 150).max(axis=1)
    wanted = {(int(i), int(j) + 150) for i, j in np.argwhere(table >= pictures.LIKELY)}
    found = {(i, j) for i, j, _ in pairs.resembling(thumbnails, np.arange(300) < 150)}
    assert len(wanted) >= 150 and found <= wanted and len(found) >= 0.99 * len(wanted)


def test_blocks_that_have_detail_in_both_images_decide_by_their_median():
    rng = np.random.default_rng(0)
    image, other = rng.normal(0, 30, (2, 64, 64)).astype(np.float32)
    correlation = pictures.block_correlation
    assert correlation(image, image) == pytest.approx(1) and correlation(image, -image) == pytest.approx(-1)
    assert abs(correlation(image, other)) < 0.1
    half = np.where(np.arange(64) < 24, image, other)  # three of eight columns of blocks
    assert correlation(image, half) < 0.3
    half = np.where(np.arange(64) < 40, image, other)
    assert correlation(image, half) > 0.9
    few = np.zeros((64, 64), np.float32)
    few[:16, :] = image[:16]  # 16 blocks
    assert correlation(few * 1.0, np.where(np.arange(64)[:, None] < 12, few, 0)) == 0


def altered(image):
    """Turned and brighter."""
    return np.clip(1.2 * list(turns(image))[3] + 5, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("strength", [1, 3])
def test_stripes_of_the_sensor_make_no_copies_but_a_copy_of_striped_water_is_one(strength):
    rng = np.random.default_rng(0)
    stripes = strength * rng.normal(size=(1, 256))
    images = [in_colour(20 + n % 3 + stripes + rng.normal(0, 0.7, (256, 256))) for n in range(8)]
    assert tied(images) == ({}, 28)
    assert tied([images[0], altered(images[0])])[0] == {(0, 1): "altered copy"}


def test_the_same_darkening_towards_the_edges_makes_no_copies():
    y, x = np.mgrid[-1:1:256j, -1:1:256j]
    found, likely = tied([in_colour(40 + 5 * n - 12 * (y * y + x * x)) for n in range(8)])
    assert not found and likely > 10


def rows_of_crops(rng, side):
    y, x = np.mgrid[:side, :side]
    direction, phase = rng.uniform(0, np.pi), rng.uniform(0, 2 * np.pi)
    along = (x * np.cos(direction) + y * np.sin(direction)) / rng.choice([6, 8, 10])
    return in_colour(90 + 25 * np.sin(2 * np.pi * along + phase) + rng.normal(0, 4, (side, side)))


def test_fields_of_even_rows_are_not_copies_of_one_another_but_a_copy_of_one_is():
    rng = np.random.default_rng(0)
    images = [rows_of_crops(rng, 256) for _ in range(60)]
    found, likely = tied(images)
    assert not found and likely > 5
    assert all(tied([image, altered(image)])[0] == {(0, 1): "altered copy"} for image in images[:8])


def test_a_pair_of_files_is_confirmed_as_what_it_was_proposed_for(tmp_path):
    image = smooth_scene(1)
    write_tif(tmp_path / "a.tif", image)
    write_tif(tmp_path / "b.tif", np.clip(1.2 * image, 0, 255).astype(np.uint8))
    write_tif(tmp_path / "c.tif", np.roll(image, 20, axis=2))
    a, b, c = (tmp_path / f"{name}.tif" for name in "abc")
    for proposal, kind in (
        (Proposal(a, c, window=True), "overlapping window"),
        (Proposal(a, b, window=True, orientation=0), "altered copy"),
        (Proposal(a, c), None),
        (Proposal(a, b), None),
    ):
        assert pairs.confirm(proposal, read_image) == kind
    images = [read_image(path) for path in (a, b, c)]
    anchors, thumbnails = [windows.anchors(i) for i in images], [pictures.thumbnail(i) for i in images]
    assert pairs.likely_pairs(anchors, thumbnails, np.ones(3, bool)) == {
        (0, 2): Proposal(0, 2, window=True),
        (0, 1): Proposal(0, 1, orientation=0),
    }
