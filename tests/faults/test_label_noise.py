import json
import shutil

import numpy as np
import pytest
from scipy import ndimage

from common.taxonomy import BIODIVERSITY
from data_prep import check_biodiversity
from data_prep.audit.cells import fit_networks, log_probabilities, mask_key
from data_prep.audit.faults import MOVED, ONE, REPEATED, SWAPPED, best_move, likeliest_change, overlooked
from data_prep.audit.suspects import FEWEST_TILES
from tests.faults.label_noise import audit, moved, replaced
from tests.helpers import GSD, paint, quiet, write_png, write_tif

SIDE, ACROSS = 64, 6
FOREST, GRASSLAND, CROPLAND, _, SEMINATURAL = range(1, 6)


def patchwork(height: int, width: int, rng, scale: float = 9) -> np.ndarray:
    """(H, W) uint8: patches of the first three classes with irregular outlines."""
    fields = rng.normal(size=(3, height, width))
    return 1 + ndimage.gaussian_filter(fields, (0, scale, scale)).argmax(axis=0).astype(np.uint8)


def write_tile(raw, name: str, mask: np.ndarray, rng, origin=None, looks: np.ndarray | None = None) -> None:
    """A float32 tile whose image shows ``looks``, or what the mask says."""
    shown = mask if looks is None else looks
    image = paint(shown, BIODIVERSITY.num_classes, rng).astype(np.float32) / 1000
    write_tif(raw / "images" / f"{name}.tif", image, origin=origin)
    write_png(raw / "masks" / f"{name}.png", mask)


def make_tiles(root, across: int = ACROSS) -> dict[str, np.ndarray]:
    """Touching tiles cut from one patchwork; returns their masks."""
    rng = np.random.default_rng(0)
    scene = patchwork(across * SIDE, across * SIDE, rng)
    masks = {}
    for row in range(across):
        for column in range(across):
            name = f"tile_{row}_{column}"
            masks[name] = scene[row * SIDE :, column * SIDE :][:SIDE, :SIDE]
            origin = (500_000 + column * SIDE * GSD, 5_000_000 - row * SIDE * GSD)
            write_tile(root / "data/biodiversity_raw", name, masks[name], rng, origin)
    return masks


@pytest.fixture(scope="module")
def noisy(tmp_path_factory):
    """A root, the wrong masks in it by tile id, what the audit said of them, and what it wrote."""
    root = tmp_path_factory.mktemp("noisy")
    raw = root / "data/biodiversity_raw"
    masks = make_tiles(root)
    rng = np.random.default_rng(1)
    odd = patchwork(56, 96, rng)
    odd[:20, :30] = SEMINATURAL  # in this tile alone: nothing can be said of it
    write_tile(raw, "odd", odd, rng)
    write_tile(raw, "tiny", np.ones((5, 5), np.uint8), rng)
    kept = shutil.copytree(raw / "masks", root / "good_masks")
    wrong = {
        "tile_0_0": (MOVED, moved(masks["tile_0_0"], 9, -12)),
        "tile_1_3": (MOVED, moved(masks["tile_1_3"], -14, 0)),
        "tile_2_1": (SWAPPED, replaced(masks["tile_2_1"], {FOREST: CROPLAND, CROPLAND: FOREST})),
        "tile_4_3": (SWAPPED, replaced(masks["tile_4_3"], {CROPLAND: GRASSLAND})),
        "tile_3_4": (ONE, np.full((SIDE, SIDE), GRASSLAND, np.uint8)),
        "tile_5_5": (REPEATED, masks["tile_0_5"]),
    }
    for name, (_, mask) in wrong.items():
        write_png(raw / "masks" / f"{name}.png", mask)
    said = audit(root)
    out = root / "artifacts/audit"
    return {
        "root": root,
        "good": kept,
        "wrong": {name: kind for name, (kind, _) in wrong.items()},
        "said": said,
        "audit": json.loads((out / "audit.json").read_text()),
        "exclude": (out / "exclude.txt").read_text(),
        "sheets": sorted(path.name for path in out.glob("suspicious_labels*.png")),
    }


def test_each_kind_of_wrong_mask_is_found_and_no_good_one_is_accused(noisy):
    assert noisy["said"] == noisy["wrong"]


def test_a_warning_says_in_words_what_would_be_right_and_keeps_no_tile_out(noisy):
    texts = {p["tile_id"]: p["text"] for p in noisy["audit"]["problems"] if not p["fatal"]}
    assert "moved 9 px up and 12 px right" in near(texts["tile_0_0"], {8: 9, 10: 9, 14: 12})
    assert "Forest looks like Cropland here, and Cropland like Forest" in texts["tile_2_1"]
    assert "all Grassland, but its image also looks like" in texts["tile_3_4"]
    assert "same mask as that of tile_0_5" in texts["tile_5_5"]
    assert noisy["exclude"] == "" and noisy["audit"]["exclude"] == []
    assert sorted(noisy["audit"]["suspicious"]["tiles"]) == sorted(noisy["wrong"])


def near(text: str, cells: dict[int, int]) -> str:
    """The text with pixels that are whole cells replaced by the pixels meant."""
    for found, meant in cells.items():
        text = text.replace(f"{found} px", f"{meant} px")
    return text


def test_what_cannot_be_judged_is_said(noisy):
    not_judged = noisy["audit"]["suspicious"]["not_judged"]
    assert "Seminatural: in too few places" in not_judged and "1 of 38 labelled tiles" in not_judged


def test_once_the_masks_are_right_nothing_is_accused_and_no_stale_sheet_stays(noisy):
    assert noisy["sheets"] == ["suspicious_labels.png"]
    masks = noisy["root"] / "data/biodiversity_raw/masks"
    shutil.rmtree(masks)
    shutil.copytree(noisy["good"], masks)
    (noisy["root"] / "artifacts/audit/suspicious_labels_2.png").write_bytes(b"of an earlier run")
    assert audit(noisy["root"]) == {}
    assert not list((noisy["root"] / "artifacts/audit").glob("suspicious*"))


def test_too_few_tiles_are_said_to_be_too_few_and_repeated_masks_are_found_all_the_same(tmp_path):
    masks = make_tiles(tmp_path, across=3)
    write_png(tmp_path / "data/biodiversity_raw/masks/tile_0_0.png", masks["tile_2_2"])
    printed = quiet(check_biodiversity.main, "--root", tmp_path)
    assert f"9 labelled tiles that are large enough are too few to learn from, expected {FEWEST_TILES}" in printed
    assert "tile_0_0.png: the same mask as that of tile_2_2, though the images differ" in printed
    assert (tmp_path / "artifacts/audit/suspicious_labels.png").is_file()


def test_the_search_can_be_left_out(tmp_path):
    masks = make_tiles(tmp_path, across=2)
    write_png(tmp_path / "data/biodiversity_raw/masks/tile_0_0.png", masks["tile_1_1"])
    printed = quiet(check_biodiversity.main, "--root", tmp_path, "--skip-suspicious")
    assert "--skip-suspicious" in printed and "same mask" not in printed


def planes(mask: np.ndarray, num_classes: int = 4) -> np.ndarray:
    return (mask == np.arange(num_classes)[:, None, None]).astype(float)


@pytest.mark.parametrize(("down", "right"), [(5, -7), (-9, 0), (0, 11)])
def test_a_move_is_found_to_the_cell_even_where_part_of_the_image_is_missing(down, right):
    scene = patchwork(80, 90, np.random.default_rng(2), scale=5)
    image, mask = scene[15:65, 15:75], scene[15 + down : 65 + down, 15 + right : 75 + right]
    seen = np.ones(mask.shape, bool)
    seen[:, :8] = False
    move = best_move(np.log(0.8 * planes(image) + 0.05), planes(mask) * seen, seen)
    assert (move.down, move.right) == (down, right)
    assert move.gain > 0.3 and move.fit > 0.9


def test_a_mask_in_its_place_gains_nothing_by_moving():
    mask = patchwork(50, 50, np.random.default_rng(3), scale=5)
    assert best_move(np.log(0.8 * planes(mask) + 0.05), planes(mask), np.ones(mask.shape, bool)).gain == 0


def test_a_class_that_the_networks_have_not_seen_is_not_judged():
    mask = patchwork(50, 50, np.random.default_rng(4))
    as_the_image_shows = np.log(0.8 * planes(replaced(mask, {FOREST: GRASSLAND})) + 0.05)
    known = np.ones(4, bool)
    change = likeliest_change(as_the_image_shows, planes(mask), known)
    assert (change.given, change.likelier) == (FOREST, GRASSLAND)
    known[FOREST] = False
    change = likeliest_change(as_the_image_shows, planes(mask), known)
    assert change.given != FOREST and change.gain < 0
    assert overlooked(as_the_image_shows, planes(np.full_like(mask, FOREST)), known) is None


def test_plain_masks_have_no_key_and_drawn_ones_have_one_each():
    halves = np.ones((40, 40), np.uint8)
    halves[:, 13:] = 2
    assert mask_key(halves) is None
    first, second = (patchwork(40, 40, np.random.default_rng(seed)) for seed in (5, 6))
    assert mask_key(first) == mask_key(first.copy()) != mask_key(second)


def test_one_seed_gives_one_result():
    rng = np.random.default_rng(7)
    labels = rng.integers(0, 3, 600)
    features = (labels[:, None] + rng.normal(size=(600, 57))).astype(np.float32)
    tiles = rng.integers(0, 9, 600)
    image = features[:100].T.reshape(57, 10, 10)
    first, second = (
        log_probabilities(fit_networks(features, labels, tiles, 4, seed=3).wide, image, 4) for _ in range(2)
    )
    np.testing.assert_array_equal(first, second)
