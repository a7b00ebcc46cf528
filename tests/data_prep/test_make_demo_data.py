import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import rasterio
from PIL import Image

from common.errors import UserError
from common.taxonomy import BIODIVERSITY, OEM_BUILT_UP, OPENEARTHMAP
from data_prep import make_demo_data
from data_prep.demo import painting, scenes
from data_prep.demo.scenes import stretch

SMALL = ["--scenes", 2, "--tiles-per-side", 2, "--tile-size", 64, "--oem-tiles", 2, "--oem-tile-size", 64]
MEDIUM = ["--tiles-per-side", 6, "--tile-size", 64, "--oem-tiles", 6, "--oem-tile-size", 128]


def make(root: Path, *flags) -> Path:
    make_demo_data.main(["--root", root, *flags])
    return root / "data"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make(tmp_path_factory.mktemp("demo"), *MEDIUM)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return make(tmp_path_factory.mktemp("small"), *SMALL)


def digests(data: Path) -> dict[str, str]:
    files = sorted(path for path in data.rglob("*.*") if path.suffix in (".tif", ".png"))
    return {str(path.relative_to(data)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def masks(data: Path) -> dict[str, np.ndarray]:
    return {path.stem: np.asarray(Image.open(path)) for path in sorted((data / "biodiversity_raw/masks").iterdir())}


def images(data: Path) -> dict[str, np.ndarray]:
    found = {}
    for path in sorted((data / "biodiversity_raw/images").iterdir()):
        with rasterio.open(path) as file:
            found[path.stem] = file.read()
    return found


def as_rgb(tiles: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """8-bit RGB of every tile: the float ones by the range of all float ones, as a user would convert them."""
    floats = np.concatenate([tile[:3].reshape(3, -1) for tile in tiles.values() if tile.dtype == np.float32], axis=1)
    low, high = np.percentile(floats, (2, 98), axis=1)
    return {i: tile if tile.dtype == np.uint8 else stretch(tile[:3], low, high) for i, tile in tiles.items()}


def oem_region(data: Path, name: str, kind: str) -> list[Path]:
    return sorted((data / make_demo_data.OEM_TREE / name / kind).iterdir())


def test_one_seed_gives_one_data_set_whatever_the_workers(small, tmp_path):
    again = make(tmp_path / "again", *SMALL, "--workers", 2)
    assert digests(again) == digests(small)


def test_another_seed_gives_another_landscape(small, tmp_path):
    other = digests(make(tmp_path, *SMALL, "--seed", 43))
    first = digests(small)
    assert not any(other[name] == first[name] for name in first if name in other and "images" in name)


@pytest.mark.parametrize("kind", ["images", "masks"])
def test_every_tile_has_an_image_and_a_mask(data, kind):
    names = {path.stem for path in (data / "biodiversity_raw" / kind).iterdir()}
    assert names == {f"scene{s:02d}_r{r}_c{c}" for s in range(1, 7) for r in range(6) for c in range(6)}


def test_masks_are_8_bit_single_channel_ids_of_the_taxonomy(data):
    for path in (data / "biodiversity_raw/masks").iterdir():
        with Image.open(path) as mask:
            assert mask.mode == "L" and mask.size == (64, 64)
            assert np.asarray(mask).max() < BIODIVERSITY.num_classes


def test_shares_of_the_labelled_pixels_are_those_of_the_real_data(data):
    pixels = np.bincount(np.concatenate([mask.ravel() for mask in masks(data).values()]))
    shares = dict(zip(BIODIVERSITY.foreground, pixels[1:] / pixels[1:].sum(), strict=True))
    wanted = {"Forest": 0.14, "Grassland": 0.68, "Cropland": 0.06, "Settlement": 0.04, "Seminatural": 0.08}
    assert shares == pytest.approx(wanted, abs=0.02)
    assert 0.05 <= pixels[BIODIVERSITY.index("Background")] / pixels.sum() <= 0.10
    written = json.loads((data / "demo_data.json").read_text())["biodiversity"]["shares"]
    assert {name: written[name] for name in shares} == pytest.approx(shares)


@pytest.mark.parametrize("name", ["Cropland", "Settlement", "Seminatural"])
def test_minority_classes_lie_in_enough_blocks_for_three_splits_yet_not_everywhere(data, name):
    blocks = {}
    for tile_id, mask in masks(data).items():
        scene, row, column = tile_id.split("_")
        block = scene, int(row[1:]) // 2, int(column[1:]) // 2
        blocks[block] = blocks.get(block, 0) + np.count_nonzero(mask == BIODIVERSITY.index(name)) / mask.size / 4
    holding = [block for block, share in blocks.items() if share > 0.01]
    assert 9 <= len(holding) < len(blocks)
    assert len({scene for scene, _, _ in holding}) >= 3


def test_some_classes_occur_in_few_tiles_only(data):
    all_masks = list(masks(data).values())
    for name in ("Cropland", "Settlement"):
        assert np.mean([(mask == BIODIVERSITY.index(name)).any() for mask in all_masks]) < 0.5


def test_tiles_of_a_scene_touch_and_scenes_lie_apart(data):
    bounds = {}
    for path in (data / "biodiversity_raw/images").iterdir():
        with rasterio.open(path) as file:
            assert file.crs.to_epsg() == 32633 and file.res == (0.5, 0.5)
            bounds[path.stem] = file.bounds
    assert bounds["scene01_r0_c0"].right == bounds["scene01_r0_c1"].left
    assert bounds["scene01_r0_c0"].bottom == bounds["scene01_r1_c0"].top
    assert bounds["scene02_r0_c0"].left - bounds["scene01_r0_c0"].left == 10_000


def test_neighbouring_tiles_continue_each_other(data):
    tiles = masks(data)
    same = [np.mean(tiles[f"scene01_r{r}_c0"][:, -1] == tiles[f"scene01_r{r}_c1"][:, 0]) for r in range(6)]
    assert np.mean(same) > 0.9


def test_a_quarter_of_the_tiles_is_float32_with_four_bands_and_the_rest_8_bit_rgb(data):
    tiles = images(data)
    floats = [tile for tile in tiles.values() if tile.dtype == np.float32]
    assert len(floats) == len(tiles) // 4
    assert all(tile.shape == (4, 64, 64) and tile.min() >= 0 and tile.max() <= 1 for tile in floats)
    assert all(tile.shape == (3, 64, 64) for tile in tiles.values() if tile.dtype == np.uint8)
    assert {name[:7] for name, tile in tiles.items() if tile.dtype == np.float32} == {f"scene0{s}" for s in range(1, 7)}


def test_float_tiles_stretched_by_percentiles_look_like_their_8_bit_neighbours(data):
    tiles = images(data)
    rgb = as_rgb(tiles)
    steps = {"mixed": [], "plain": []}
    for name, tile in tiles.items():
        scene, row, column = name.split("_")
        neighbour = f"{scene}_{row}_c{int(column[1:]) + 1}"
        if neighbour in tiles:
            kind = "plain" if tile.dtype == tiles[neighbour].dtype else "mixed"
            difference = rgb[name][:, :, -2:].mean((1, 2)) - rgb[neighbour][:, :, :2].mean((1, 2))
            steps[kind].append(np.abs(difference).mean())
    assert len(steps["mixed"]) > 20
    assert np.mean(steps["mixed"]) < np.mean(steps["plain"]) + 5


def test_mean_colour_does_not_separate_the_classes(data):
    truth = masks(data)
    pixels = np.concatenate([tile.reshape(3, -1) for tile in as_rgb(images(data)).values()], axis=1).astype(np.float32)
    truth = np.concatenate([mask.ravel() for mask in truth.values()])
    pixels, truth = pixels[:, truth > 0], truth[truth > 0]
    ids = range(1, BIODIVERSITY.num_classes)
    means = np.stack([pixels[:, truth == i].mean(axis=1) for i in ids])
    guess = 1 + ((pixels.T[:, None] - means) ** 2).sum(-1).argmin(axis=1)
    hit = np.array([np.sum((truth == i) & (guess == i)) for i in ids])
    recall = hit / np.array([np.sum(truth == i) for i in ids])
    iou = hit / np.array([np.sum((truth == i) | (guess == i)) for i in ids])
    assert recall.max() < 0.85 and iou.mean() < 0.4


def test_seminatural_is_rougher_than_grassland_of_the_same_colour(data):
    rgb, truth = as_rgb(images(data)), masks(data)
    mean, roughness = {}, {}
    for name in ("Grassland", "Seminatural"):
        here = [truth[i] == BIODIVERSITY.index(name) for i in rgb]
        green = [rgb[i][1].astype(float) for i in rgb]
        mean[name] = np.mean(np.concatenate([g[h] for g, h in zip(green, here, strict=True)]))
        inner = [h[:, 4:] & h[:, :-4] for h in here]
        steps = [np.abs(g[:, 4:] - g[:, :-4])[h] for g, h in zip(green, inner, strict=True)]
        roughness[name] = np.mean(np.concatenate(steps))
    assert abs(mean["Grassland"] - mean["Seminatural"]) < 30
    assert roughness["Seminatural"] > 1.5 * roughness["Grassland"]


def test_every_openearthmap_class_occurs_and_images_match_labels_in_size_and_place(data):
    seen = set()
    for region in scenes.OEM_REGIONS:
        assert len(oem_region(data, region, "labels")) >= 5
        for path in oem_region(data, region, "labels"):
            with rasterio.open(path) as label:
                assert label.count == 1 and label.dtypes == ("uint8",)
                seen |= set(np.unique(label.read(1)).tolist())
                image_path = path.parents[1] / "images" / path.name
                if image_path.exists():
                    with rasterio.open(image_path) as image:
                        assert image.count == 3 and image.dtypes == ("uint8",) * 3
                        assert image.bounds == label.bounds and image.shape == label.shape
    assert seen == set(range(OPENEARTHMAP.num_classes))


def test_some_labels_have_no_image_and_some_images_no_label(data):
    labels, images = (
        {path.name for region in scenes.OEM_REGIONS for path in oem_region(data, region, kind)}
        for kind in ("labels", "images")
    )
    assert len(labels - images) >= 2 and len(images - labels) >= 2
    assert len(labels & images) > 20


def test_one_region_is_mostly_built_up_and_the_others_are_not(data):
    built = [OPENEARTHMAP.index(name) for name in OEM_BUILT_UP]
    over_half = {}
    for region in scenes.OEM_REGIONS:
        shares = []
        for path in oem_region(data, region, "labels"):
            with rasterio.open(path) as file:
                shares.append(np.isin(file.read(1), built).mean() > 0.5)
        over_half[region] = np.mean(shares)
    urban = max(over_half, key=over_half.get)
    assert over_half.pop(urban) > 0.7
    assert max(over_half.values()) < 0.4


def test_a_second_run_is_refused_and_names_overwrite(small):
    before = digests(small)
    with pytest.raises(UserError, match="--overwrite"):
        make_demo_data.main(["--root", small.parent, *SMALL, "--seed", 7])
    assert digests(small) == before


def test_overwrite_replaces_what_an_earlier_run_wrote(tmp_path):
    first = digests(make(tmp_path, *SMALL))
    second = digests(make(tmp_path, *SMALL, "--seed", 7, "--overwrite"))
    assert first != second
    assert json.loads((tmp_path / "data/demo_data.json").read_text())["flags"]["seed"] == 7
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == [
        "biodiversity_raw", "demo_data.json", "openearthmap_raw", "scene_raw",
    ]  # fmt: skip


def test_the_scene_to_map_is_on_ground_of_its_own_and_its_classes_lie_on_it(small):
    folder = small / "scene_raw"
    with rasterio.open(folder / "scene.tif") as src, rasterio.open(folder / "scene_classes.tif") as of:
        assert (src.count, src.dtypes[0], src.shape) == (4, "float32", of.shape)
        assert src.transform == of.transform and src.crs == of.crs
        assert len(np.unique(of.read(1))) == 6
        left = src.bounds.left
    for path in (small / "biodiversity_raw/images").iterdir():
        with rasterio.open(path) as tile:
            assert tile.bounds.right < left


def test_a_folder_of_the_user_is_never_replaced(tmp_path):
    tile = tmp_path / "data/biodiversity_raw/images/mine.tif"
    tile.parent.mkdir(parents=True)
    tile.write_bytes(b"mine")
    with pytest.raises(UserError, match="not written by make_demo_data"):
        make_demo_data.main(["--root", tmp_path, *SMALL, "--overwrite"])
    assert tile.read_bytes() == b"mine"
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["biodiversity_raw"]


def test_a_file_of_the_user_among_generated_tiles_stops_overwrite(tmp_path):
    data = make(tmp_path, *SMALL)
    mine = data / "biodiversity_raw/masks/mine.png"
    mine.write_bytes(b"mine")
    with pytest.raises(UserError, match="mine.png"):
        make_demo_data.main(["--root", tmp_path, *SMALL, "--overwrite"])
    assert mine.read_bytes() == b"mine"


def test_a_link_to_data_of_the_user_is_never_replaced(tmp_path):
    data = make(tmp_path / "root", *SMALL)
    elsewhere = tmp_path / "elsewhere"
    (data / "biodiversity_raw").rename(elsewhere)
    (data / "biodiversity_raw").symlink_to(elsewhere)
    with pytest.raises(UserError, match="not written by make_demo_data"):
        make_demo_data.main(["--root", tmp_path / "root", *SMALL, "--overwrite"])
    assert any(elsewhere.iterdir())


def test_a_run_that_fails_leaves_nothing_and_keeps_the_earlier_data(tmp_path, monkeypatch):
    data = make(tmp_path, *SMALL)
    before = digests(data)

    def fail(task):
        raise OSError("disk full")

    monkeypatch.setattr(make_demo_data, "make_region", fail)
    with pytest.raises(OSError):
        make_demo_data.main(["--root", tmp_path, *SMALL, "--seed", 7, "--overwrite"])
    assert digests(data) == before
    assert not (data / make_demo_data.STAGING).exists()


@pytest.mark.parametrize("flags", [["--tile-size", 16], ["--tile-size", 32, "--tiles-per-side", 2]])
def test_sizes_that_hold_no_landscape_are_refused(tmp_path, flags):
    with pytest.raises(UserError, match="--tile-size"):
        make_demo_data.main(["--root", tmp_path, *flags])
    assert not (tmp_path / "data").exists()


def test_the_summary_names_every_class_with_its_share(tmp_path, capsys):
    make(tmp_path, *SMALL)
    printed = capsys.readouterr().out
    assert all(f"{name} " in printed for name in (*BIODIVERSITY.classes, *OPENEARTHMAP.classes))
    assert "8 tiles of 64 px in 2 scenes, 2 of them float32" in printed


def test_with_near_infrared_all_tiles_have_a_fourth_band_and_the_others_stay_as_they_were(small, tmp_path):
    four = make(tmp_path, *SMALL, "--near-infrared")
    before = images(small)
    for name, tile in images(four).items():
        assert len(tile) == 4
        np.testing.assert_array_equal(tile[:3], before[name][:3])
    for path in sorted((four / "biodiversity_raw/images").iterdir()):
        with rasterio.open(path) as file:
            assert "alpha" not in [color.name for color in file.colorinterp]
    assert masks(four).keys() == masks(small).keys()
    with rasterio.open(four / "scene_raw/scene.tif") as file:
        assert file.count == 4


def test_leaves_are_bright_in_near_infrared_water_is_dark_and_soil_and_roofs_lie_between():
    """By the normalised difference of near infrared and red, as spectral libraries have it of such ground."""

    def index(color):
        return (color[3] - color[0]) / (color[3] + color[0])

    for leaves in (painting.LUSH, painting.LEAF, painting.CANOPY, painting.SHRUB):
        assert 0.6 < index(leaves) < 0.9
    assert 0.3 < index(painting.DRY) < 0.5 and 0.1 < index(painting.SOIL) < 0.25 < index(painting.STRAW) + 0.01 < 0.35
    for built in (painting.PAVED, painting.ASPHALT, *painting.ROOFS):
        assert 0 < index(built) < 0.12
    assert index(painting.WATER) < 0
