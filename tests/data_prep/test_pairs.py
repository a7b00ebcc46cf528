"""Pairs of images and masks, as users name them and lay them out."""

from pathlib import Path

import pytest

from common.errors import UserError
from data_prep import split_biodiversity
from data_prep.raw.pairs import Patterns, chosen_patterns, find_raw, raw_images, recorded_patterns


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
            "flair_aerial_train/*/*/img/IMG_*.tif", "flair_labels_train/*/*/msk/MSK_*.tif",  # FLAIR
            (
                "flair_aerial_train/D004_2021/Z1_NN/img/IMG_000001.tif",
                "flair_labels_train/D004_2021/Z1_NN/msk/MSK_000001.tif",
            ),
            "D004_2021_Z1_NN_000001",
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


@pytest.mark.parametrize(
    ("files", "ids"),
    [
        (("images/t00.tif", "masks/T00_MASK.PNG"), {"t00"}),
        (("images/IMG_t00.tif", "masks/msk_T00.png"), {"t00"}),
        (("images/north/IMG_1.tif", "masks/north/MSK_1.tif"), {"north_1"}),
        (("images/a.tif", "images/b_sat.jpg", "masks/a.png", "masks/b_mask.png"), {"a", "b"}),
        (("images/a.tif", "images/b.tif", "images/c.tif", "masks/a.png", "masks/b_gt.png", "masks/c_gt.png"), {*"abc"}),
        (("images/north/a.tif", "images/south/b.tif", "masks/a.png", "masks/b.png"), {"north_a", "south_b"}),
        (("images/north/a_img.tif", "masks/A_mask.png"), {"north_a"}),
        (("images/a.tif", "masks/north/a.png"), {"a"}),
        (("images/north/a.tif", "masks/north_a.png"), {"north_a"}),
        (
            ("images/north/1.tif", "images/south/1.tif", "masks/north_1.png", "masks/south_1.png"),
            {"north_1", "south_1"},
        ),
        (("images/x/_mask.tif", "masks/x/_mask.png"), {"x__mask"}),
    ],
)
def test_all_are_paired_by_the_rest_of_their_names_or_by_unique_file_names(tmp_path, files, ids):
    touch(tmp_path, *files)
    pairs, kinds = found(tmp_path)
    assert pairs.keys() == ids and not any(fatal for _, fatal in kinds)
    assert sorted(path for pair in pairs.values() for path in pair) == sorted(files)


@pytest.mark.parametrize(
    ("files", "paired", "problems"),
    [
        # one file name in two folders, and one mask
        (("images/north/1.tif", "images/south/1.tif", "masks/1.png"), {}, {"north_1", "south_1", "1"}),
        (("images/north/1.tif", "images/1.tif", "masks/1.png"), {"1"}, {"north_1"}),
        # the mate of each is missing
        (("images/north/1.tif", "masks/south/1.png"), {}, {"north_1", "south_1"}),
        (("images/a/b_c.tif", "masks/a_b/c.png"), {}, {"a_b_c"}),
        # with and without an ending
        (
            ("images/a.tif", "images/a_img.tif", "images/b_img.tif", "masks/a_mask.png", "masks/b_mask.png"),
            {"b"},
            {"a"},
        ),
        (("images/a.tif", "masks/a.png", "masks/a_gt.png"), {"a"}, {"a_gt"}),
        # alike but for case
        (("images/a.tif", "images/A.tif", "masks/a_mask.png", "masks/A.PNG"), {"a", "A"}, set()),
        (("images/ab.tif", "images/Ab.tif", "masks/AB.png"), {}, {"ab", "Ab", "AB"}),
    ],
)
def test_what_may_belong_to_several_is_a_problem_and_no_pair(tmp_path, files, paired, problems):
    touch(tmp_path, *files)
    tiles, told = find_raw(tmp_path)
    assert {tile.id for tile in tiles} == set(paired)
    assert {problem.tile_id for problem in told if problem.fatal} == problems


def test_files_that_do_not_pair_are_told_with_the_file_that_is_missing(tmp_path):
    touch(tmp_path, "images/n/a_img.tif", "masks/n/a_mask.png", "images/n/b_img.tif", "masks/n/c_mask.png")
    texts = [problem.text for problem in find_raw(tmp_path)[1] if problem.fatal]
    assert texts == [
        f"{tmp_path}/images/n/b_img.tif: has no mask {tmp_path}/masks/n/b_mask.png",
        f"{tmp_path}/masks/n/c_mask.png: has no image {tmp_path}/images/n/c_img.tif",
    ]
    _, problems = find_raw(tmp_path, patterns=Patterns("images/*/*_img.tif", "masks/*/*_mask.png"))
    texts = [problem.text for problem in problems]
    assert texts == [
        f"{tmp_path}/images/n/b_img.tif: has no mask with n/b for the asterisks of --masks masks/*/*_mask.png",
        f"{tmp_path}/masks/n/c_mask.png: has no image with n/c for the asterisks of --images images/*/*_img.tif",
    ]


def test_litter_of_network_drives_archives_and_gis_programs_is_passed_over(tmp_path):
    touch(tmp_path, "images/a.jpg", "masks/a.png", "images/@eaDir/a.jpg", "masks/__MACOSX/b.png", "images/.x/a.tif")
    sidecars = ("jgw", "JGW", "pngw", "jpw", "j2w", "tifw", "tfw", "jpg.aux.xml", "JPG.AUX.XML")
    touch(tmp_path, *(f"images/a.{suffix}" for suffix in sidecars))
    pairs = {"a": ("images/a.jpg", "masks/a.png")}
    assert found(tmp_path) == (pairs, [])
    assert found(tmp_path, Patterns("images/**/*.jpg", "masks/**/*.png")) == (pairs, [])


@pytest.mark.parametrize(
    ("images", "masks", "ids"),
    [
        ("./images/*.tif", "./masks//*.png", {"a1", "b2", "cx"}),
        ("image?/*.tif", "mask?/*.png", {"a1", "b2", "cx"}),
        ("images/?*.tif", "masks/?*.png", {"1", "2", "x"}),
        ("images/*[0-9].tif", "masks/*[0-9].png", {"a", "b"}),
        ("images/*[!0-9].tif", "masks/*[!0-9].png", {"c"}),
        ("images/*[]x^].tif", "masks/*[]x^].png", {"c"}),
        ("images/**/[ab]*.tif", "masks/**/[ab]*.png", {"1", "2"}),
        ("../raw/images/*.tif", "../raw/masks/*.png", {"a1", "b2", "cx"}),
    ],
)
def test_patterns_mean_what_they_mean_to_a_shell(tmp_path, images, masks, ids):
    for name in ("a1", "b2", "cx"):
        touch(tmp_path / "raw", f"images/{name}.tif", f"masks/{name}.png")
    tiles, problems = find_raw(tmp_path / "raw", patterns=Patterns(images, masks))
    assert {tile.id for tile in tiles} == ids and not problems


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ("/abs/*.tif", "--images /abs/*.tif: is an absolute pattern, expected one that is relative to --in-dir"),
        ("a**/*.tif", "** stands for folders"),
        ("images/**", "** stands for folders"),
        ("images/*[z-a].tif", "is no pattern"),
    ],
)
def test_what_is_no_pattern_below_the_raw_folder_is_refused_by_name(tmp_path, pattern, said):
    args = split_biodiversity.parse_args(["--images", pattern, "--masks", "m/*.png"])
    with pytest.raises(UserError) as stop:
        chosen_patterns(args)
    assert said in str(stop.value)
    assert raw_images(tmp_path, Patterns(pattern, "m/*.png")) == {}


@pytest.mark.parametrize("patterns", [None, Patterns("images/**/*.tif", "masks/**/*.png")])
def test_names_that_a_tile_cannot_have_are_problems_whatever_the_layout(tmp_path, patterns):
    long = "x" * 120
    for name in ("a\tb", "t\tab/a", f"{long}/{long}", "good"):
        touch(tmp_path, f"images/{name}.tif", f"masks/{name}.png")
    pairs, kinds = found(tmp_path, patterns)
    assert pairs.keys() == {"good"} and kinds == [("name", True)] * 6
    texts = [problem.text for problem in find_raw(tmp_path, patterns=patterns)[1]]
    assert not any("\t" in text for text in texts)
    assert sum("its name together with its folders has 241 bytes" in text for text in texts) == 2


def test_a_pattern_whose_asterisks_stand_for_nothing_gives_no_tile(tmp_path):
    touch(tmp_path, "i/a.tif", "m/a.png", "i/a.b.tif", "m/a.b.png")
    pairs, kinds = found(tmp_path, Patterns("i/a*.tif", "m/a*.png"))
    assert pairs == {} and kinds == [("name", True)] * 4


def test_images_by_id_are_those_of_the_tiles_and_the_patterns_those_of_a_manifest(tmp_path):
    assert raw_images(tmp_path) == {}
    touch(tmp_path, "images/n/a_sat.jpg", "masks/n/a_mask.png", "images/b.jp2", "masks/b.png", "images/c.tif")
    assert raw_images(tmp_path) == {"n_a": tmp_path / "images/n/a_sat.jpg", "b": tmp_path / "images/b.jp2"}
    recorded = recorded_patterns({"image_pattern": "images/*/*_sat.jpg", "mask_pattern": "masks/*/*_mask.png"})
    assert raw_images(tmp_path, recorded) == {"n_a": tmp_path / "images/n/a_sat.jpg"}
    assert recorded_patterns({}) is recorded_patterns({"image_pattern": None, "mask_pattern": None}) is None
