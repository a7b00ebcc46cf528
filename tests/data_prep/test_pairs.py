"""Pairs of images and masks, as users name them and lay them out."""

from pathlib import Path

import pytest

from common.errors import UserError
from data_prep import split_biodiversity
from data_prep.raw.pairs import Patterns, chosen_patterns, find_raw


def touch(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def found(root, patterns=None):
    tiles, problems = find_raw(root, patterns=patterns)
    pairs = {t.id: (t.image.relative_to(root).as_posix(), t.mask.relative_to(root).as_posix()) for t in tiles}
    return pairs, [(p.kind, p.fatal) for p in problems]


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("a_img.tif", "a_mask.png"),
        ("a_sat.jpg", "a_mask.png"),
        ("a_RGB.tif", "a_label.tif"),
        ("a.tif", "a_mask.png"),
        ("IMG_a.tif", "MSK_a.tif"),
        ("a_image.jp2", "a.png"),
    ],
)
def test_names_that_end_or_begin_otherwise_are_paired_and_it_is_told(tmp_path, image, mask):
    alone = image.replace("a", "b", 1) if image[0] == "a" else "IMG_b.tif"
    touch(tmp_path, f"images/{image}", f"masks/{mask}", f"images/{alone}")
    pairs, kinds = found(tmp_path)
    assert pairs == {"a": (f"images/{image}", f"masks/{mask}")}
    assert ("names", False) in kinds and ("no mask", True) in kinds


def test_names_in_another_case_and_in_sub_folders_are_paired(tmp_path):
    touch(tmp_path, "images/Tile_1.TIF", "masks/tile_1.PNG", "images/north/a.tif", "masks/north/a.png")
    pairs, kinds = found(tmp_path)
    assert pairs == {
        "Tile_1": ("images/Tile_1.TIF", "masks/tile_1.PNG"),
        "north_a": ("images/north/a.tif", "masks/north/a.png"),
    }
    assert kinds == []


def test_a_picture_beside_a_geotiff_of_its_name_is_passed_over_and_litter_is_one_line(tmp_path):
    litter = [f"images/{n}.txt" for n in range(9)]
    touch(tmp_path, "images/a.tif", "images/a.png", "masks/a.png", "images/a.tif.aux.xml", "images/.DS_Store", *litter)
    pairs, kinds = found(tmp_path)
    assert pairs == {"a": ("images/a.tif", "masks/a.png")}
    assert kinds == [("other file", False)] * 2


@pytest.mark.parametrize(
    ("images", "masks", "files", "tile_id"),
    [
        ("images/*.tif", "masks/*.tif", ("images/M-33-7-A.tif", "masks/M-33-7-A.tif"), "M-33-7-A"),  # LandCover.ai
        (
            "Train/*/images_png/*.png", "Train/*/masks_png/*.png",  # LoveDA
            ("Train/Rural/images_png/0.png", "Train/Rural/masks_png/0.png"), "Rural_0",
        ),
        ("train/*_sat.jpg", "train/*_mask.png", ("train/855_sat.jpg", "train/855_mask.png"), "855"),  # DeepGlobe
        (
            "**/img/IMG_*.tif", "**/msk/MSK_*.tif",  # FLAIR
            ("D004_2021/Z1_NN/img/IMG_000001.tif", "D004_2021/Z1_NN/msk/MSK_000001.tif"), "D004_2021_Z1_NN_000001",
        ),
    ],
)  # fmt: skip
def test_layouts_of_public_data_sets_are_found_by_patterns(tmp_path, images, masks, files, tile_id):
    touch(tmp_path, *files, "elsewhere/readme.txt")
    pairs, kinds = found(tmp_path, Patterns(images, masks))
    assert pairs == {tile_id: files} and kinds == []


def test_patterns_are_given_together_with_an_asterisk():
    assert chosen_patterns(split_biodiversity.parse_args([])) is None
    for flags in (["--images", "*.tif"], ["--images", "a.tif", "--masks", "*.png"]):
        with pytest.raises(UserError, match="given together, each with an asterisk"):
            chosen_patterns(split_biodiversity.parse_args(flags))
    args = split_biodiversity.parse_args(["--images", "i/*.tif", "--masks", "m/*.png"])
    assert chosen_patterns(args) == Patterns("i/*.tif", "m/*.png")
    with pytest.raises(UserError, match=r"no file matches --images i/\*.tif"):
        find_raw(Path("/nowhere"), patterns=chosen_patterns(args))
