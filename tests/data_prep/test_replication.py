"""Which classes are minority, which tiles are repeated for them, and what the repeated set holds."""

import copy
import json

import numpy as np
import pytest
from matplotlib.colors import to_hex

from common.artifacts import read_distribution
from common.errors import UserError
from common.taxonomy import BIODIVERSITY
from common.tiles import TileSet
from data_prep import analyze_class_distribution, replicate_minority
from data_prep.analyze_class_distribution import class_distribution, plot_distribution
from data_prep.replicate_minority import replica_ids, tiles_to_replicate
from tests.helpers import made, quiet
from tests.small_sets import with_pixels, write_set

STRETCH = {"kind": "train", "percentiles": [2, 98], "ranges": [[0.0, 1.0]] * 3}


def test_minority_classes_follow_from_the_shares_and_absent_classes_are_none():
    pixels = np.array([[5, 90, 5, 0, 0, 0], [0, 50, 50, 0, 0, 0], [10, 96, 0, 4, 0, 0]])
    found = class_distribution(["a", "b", "c"], pixels, BIODIVERSITY, minority_share=0.1, tile_share=0.045)
    rare, common, absent = BIODIVERSITY.classes[3], BIODIVERSITY.classes[2], BIODIVERSITY.classes[5]
    assert found["minority_classes"] == [rare]
    assert found["classes"][common]["share"] == pytest.approx(55 / 295)
    assert found["classes"][common]["tiles"] == 2 and found["classes"][absent]["tile_presence"] == 0
    assert found["tiles_to_replicate"] == {}
    found = class_distribution(["a", "b", "c"], pixels, BIODIVERSITY, minority_share=0.2, tile_share=0.045)
    assert found["minority_classes"] == [common, rare]
    assert sorted(found["tiles_to_replicate"]) == ["a", "b"]


def found_in(rows, minority_share=0.1, tile_share=0.05):
    rows = np.array(rows)
    return class_distribution([f"t{n}" for n in range(len(rows))], rows, BIODIVERSITY, minority_share, tile_share)


def test_a_class_is_minority_under_the_share_and_not_at_it():
    # of 1000 labelled pixels; void, of which there is most, counts nowhere
    found = found_in([[5000, 700, 100, 101, 99, 0]])
    assert found["minority_classes"] == ["Settlement"]
    assert [found["classes"][name]["share"] for name in BIODIVERSITY.foreground] == [0.7, 0.1, 0.101, 0.099, 0]
    assert found["classes"]["Settlement"]["pixels"] == 99


def test_a_tile_is_repeated_from_the_share_on_of_its_labelled_pixels():
    common = [0, 100_000, 0, 0, 0, 0]
    # each of 1000 labelled pixels; the last two have as many void ones
    rows = [[0, 950, 0, 0, 50, 0], [0, 951, 0, 0, 49, 0], [1000, 950, 0, 0, 0, 50], [1000, 951, 0, 0, 0, 49]]
    found = found_in([common, *rows])
    assert found["minority_classes"] == ["Settlement", "Seminatural"]
    assert found["tiles_to_replicate"] == {"t1": {"Settlement": 0.05}, "t3": {"Seminatural": 0.05}}


def test_the_shares_of_two_minority_classes_are_not_added_and_each_is_told():
    found = found_in([[0, 100_000, 0, 0, 0, 0], [0, 940, 0, 0, 30, 30], [0, 650, 0, 0, 150, 200]])
    assert found["tiles_to_replicate"] == {"t2": {"Settlement": 0.15, "Seminatural": 0.2}}


def test_a_common_class_is_no_reason_to_repeat_a_tile_nor_is_a_minority_class_that_is_not_there():
    found = found_in([[0, 900, 50, 0, 0, 0], [0, 0, 0, 0, 0, 0]], tile_share=0.0)
    assert found["minority_classes"] == ["Grassland"] and found["tiles_to_replicate"] == {"t0": {"Grassland": 0.052632}}


def test_presence_is_the_part_of_all_tiles_that_hold_a_class_in_however_few_pixels():
    found = found_in([[1, 9, 1, 0, 0, 0], [0, 9, 0, 0, 0, 0], [10, 0, 0, 0, 0, 0], [0, 5, 3, 1, 0, 0]])
    told = {name: (of["tiles"], of["tile_presence"]) for name, of in found["classes"].items()}
    assert told == {
        "Forest": (3, 0.75), "Grassland": (2, 0.5), "Cropland": (1, 0.25), "Settlement": (0, 0), "Seminatural": (0, 0),
    }  # fmt: skip


def test_the_thresholds_are_a_tenth_of_all_and_a_twentieth_of_a_tile_and_two_copies_are_made():
    args = analyze_class_distribution.parse_args([])
    assert (args.minority_share, args.tile_share) == (0.10, 0.05)
    assert replicate_minority.parse_args([]).copies == 2 and replicate_minority.parse_args([]).mode == "link"


def test_the_figure_shows_the_shares_the_threshold_and_the_presence_of_each_class():
    found = found_in([[0, 900, 50, 30, 20, 0], [0, 1000, 0, 0, 0, 0]])
    left, right = plot_distribution(found, BIODIVERSITY, 2).axes
    shares = [95, 2.5, 1.5, 1]
    ends = [bar.get_x() + bar.get_width() for bar in left.patches if isinstance(bar.get_width(), float)]
    assert ends[:4] == pytest.approx(shares)
    assert left.get_xscale() == "log" and left.lines[0].get_xdata() == pytest.approx([10, 10])
    bars = [bar.get_width() for bar in right.patches]
    assert bars[:5] == pytest.approx([100, 50, 50, 50, 0])
    assert [label.get_text() for label in left.get_yticklabels()] == [
        "Forest", "Grassland *", "Cropland *", "Settlement *", "Seminatural",
    ]  # fmt: skip
    assert [to_hex(bar.get_facecolor()) for bar in right.patches[:5]] == list(BIODIVERSITY.colors[1:])
    assert "% of 2" in right.get_xlabel()


@pytest.fixture
def train_root(tmp_path):
    """A root whose train has two tiles to repeat, one of them for two classes, among four."""
    masks = {
        "a": with_pixels(40, {1: 1000, 2: 500}),
        "b": with_pixels(40, {1: 900, 4: 60, 5: 40}),  # 6 % and 4 %
        "c": with_pixels(40, {1: 800, 2: 100, 5: 100}),
        "d": with_pixels(40, {1: 1590, 4: 10}),
    }
    entries = {"c": {"block": "r0_c0"}, "b": {"base": "b"}}
    write_set(tmp_path / "data/biodiversity_split/train", masks, split="train", entries=entries, stretch=STRETCH)
    return tmp_path


def sets(root):
    parts = root / "data/biodiversity_split"
    return TileSet.open(made(parts / "train")), TileSet.open(made(parts / "train_rep"))


def analyze(root, *flags):
    with pytest.MonkeyPatch.context() as patch:  # the figure has a test of its own, and takes longest
        patch.setattr(analyze_class_distribution, "plot_distribution", lambda *_: None)
        patch.setattr(analyze_class_distribution, "png_bytes", lambda _: b"figure")
        return quiet(analyze_class_distribution.main, "--root", root, *flags)


def test_what_is_found_in_train_is_written_with_the_version_of_train(train_root):
    printed = analyze(train_root)
    found = json.loads((train_root / "artifacts/class_distribution.json").read_text())
    pixels = {name: of["pixels"] for name, of in found["classes"].items()}
    assert pixels == {"Forest": 4290, "Grassland": 600, "Cropland": 0, "Settlement": 70, "Seminatural": 140}
    # 5100 labelled pixels: Grassland has 11.8 %
    assert found["minority_classes"] == ["Settlement", "Seminatural"]
    assert found["tiles_to_replicate"] == {"b": {"Settlement": 0.06}, "c": {"Seminatural": 0.1}}
    assert found["train_digest"] == sets_digest(train_root)
    assert (found["minority_share"], found["tile_share"]) == (0.1, 0.05)
    assert "tiles to replicate (at least 5% minority): 2 of 4" in printed
    row = next(line.split() for line in printed.splitlines() if line.startswith("Settlement"))
    assert row == ["Settlement", "70", "1.37%", "2", "of", "4", "minority"]
    assert (train_root / "artifacts/class_distribution.png").read_bytes() == b"figure"


def sets_digest(root):
    return TileSet.open(made(root / "data/biodiversity_split/train")).digest


def test_other_thresholds_are_used_and_recorded(train_root):
    analyze(train_root, "--minority-share", "0.2", "--tile-share", "0.01")
    found = json.loads((train_root / "artifacts/class_distribution.json").read_text())
    assert (found["minority_share"], found["tile_share"]) == (0.2, 0.01)
    assert found["minority_classes"] == ["Grassland", "Settlement", "Seminatural"]
    assert sorted(found["tiles_to_replicate"]) == ["a", "b", "c"]  # d has 0.6 %


def test_a_class_that_does_not_occur_is_named_and_so_is_a_set_without_minority_class(train_root, capsys):
    analyze_class_distribution.main(["--root", str(train_root), "--minority-share", "0.001"])
    said = capsys.readouterr().err
    assert "Cropland does not occur in" in said and said.count("does not occur") == 1
    assert "no class is under 0.1%" in said
    assert (train_root / "artifacts/class_distribution.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize("copies", [1, 3])
def test_the_repeated_set_is_train_and_so_many_copies_of_each_listed_tile(train_root, copies):
    analyze(train_root)
    printed = quiet(replicate_minority.main, "--root", train_root, "--copies", copies)
    train, repeated = sets(train_root)
    wanted = [*"abcd", *(f"{name}__rep{n}" for name in "bc" for n in range(1, copies + 1))]
    assert repeated.ids == sorted(wanted)
    for tile in repeated:
        original = train[tile.id[0]]
        assert tile.base == original.id and tile.block == original.block
        assert {**tile.entry, "base": None} == {**original.entry, "base": None}
        for path, source in ((tile.image_path, original.image_path), (tile.mask_path, original.mask_path)):
            assert path.samefile(source)
    manifest = repeated.manifest
    assert (repeated.split, repeated.stretch) == ("train", STRETCH)
    assert (manifest["copies"], manifest["replicated_tiles"]) == (copies, 2)
    assert [source["digest"] for source in manifest["made_from"]] == [train.digest]
    # Settlement is 70 of 5100, and 60 of the 1000 labelled pixels of each copy of b; a copy of c has 1000, too
    after = (70 + 60 * copies) / (5100 + 2000 * copies)
    row = next(line.split() for line in printed.splitlines() if line.startswith("Settlement"))
    assert row == ["Settlement", "1.37%", f"{after:.2%}", "minority"]
    assert f"4 tiles, 2 of them {copies} times more, {4 + 2 * copies} in all" in printed


def test_copies_share_no_file_where_that_is_asked_for(train_root):
    analyze(train_root)
    quiet(replicate_minority.main, "--root", train_root, "--mode", "copy")
    train, repeated = sets(train_root)
    for name in ("b", "b__rep1", "b__rep2"):
        assert not repeated[name].image_path.samefile(train["b"].image_path)
        assert repeated[name].image_path.read_bytes() == train["b"].image_path.read_bytes()
        assert repeated[name].mask_path.read_bytes() == train["b"].mask_path.read_bytes()


def test_up_to_a_thousand_copies_are_made():
    assert replicate_minority.parse_args(["--copies", "1000"]).copies == 1000
    for copies in ("1001", "0", "-1"):
        with pytest.raises(SystemExit):
            replicate_minority.parse_args(["--copies", copies])
    assert replica_ids("t", 1) == ["t__rep1"] and replica_ids("t", 3) == ["t__rep1", "t__rep2", "t__rep3"]


def test_tiles_to_replicate_must_be_tiles_of_this_train(train_root):
    analyze(train_root)
    train = TileSet.open(made(train_root / "data/biodiversity_split/train"))
    found = json.loads((train_root / "artifacts/class_distribution.json").read_text())
    source = made("F", "python -m data_prep.analyze_class_distribution")
    again = f"Write it again: {source.made_by}"
    assert tiles_to_replicate(found, train, source) == ["b", "c"]
    with pytest.raises(UserError, match=f"F was written for another version of .*train. {again}"):
        tiles_to_replicate({**found, "train_digest": "other"}, train, source)
    with pytest.raises(UserError, match=f"F lists tiles that are not in .*train: z. {again}"):
        tiles_to_replicate({**found, "tiles_to_replicate": {"b": {}, "z": {}}}, train, source)
    with pytest.raises(
        UserError, match=r"Settlement, Seminatural.*higher --minority-share than 0\.1 or a lower"
    ) as stop:
        tiles_to_replicate({**found, "tiles_to_replicate": {}}, train, source)
    assert str(stop.value).endswith(f"{again} --tile-share 0.025")


def test_only_train_is_analyzed_and_repeated(train_root):
    analyze(train_root)
    val = train_root / "data/biodiversity_split/val"
    write_set(val, {"v": with_pixels(8, {1: 50, 4: 14})}, split="val")
    for step in (analyze_class_distribution, replicate_minority):
        with pytest.raises(UserError, match="--train-dir .*its manifest says it is 'val', expected 'train'"):
            quiet(step.main, "--root", train_root, "--train-dir", val)


def distribution_of(root):
    analyze(root)
    return root / "artifacts/class_distribution.json"


def spoilt(known, change):
    changed = copy.deepcopy(known)
    change(changed)
    return changed


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda d: d.pop("train_digest"), "it has no train_digest"),
        (lambda d: d["classes"].pop("Cropland"), "its classes: it has no Cropland"),
        (lambda d: d["classes"].update(Moor=d["classes"]["Cropland"]), "its classes are .*Moor"),
        (lambda d: d["classes"]["Forest"].update(share=0.9), r"their shares sum to 1\.05"),
        (lambda d: d["classes"]["Forest"].update(share=0.84117), r"their shares sum to 0\.99999"),
        (lambda d: d["classes"]["Forest"].update(pixels=-1), "its Forest: its pixels: it is -1"),
        (lambda d: d["classes"]["Forest"].update(tile_presence=1.1), "its tile_presence"),
        (lambda d: d.update(minority_classes=["Settlement", "Settlement"]), "its minority_classes"),
        (lambda d: d.update(minority_classes=["Background"]), "its minority_classes"),
        (lambda d: d.update(minority_classes=["Tree"]), "its minority_classes"),
        (lambda d: d.update(minority_classes="Settlement"), "its minority_classes"),
        (lambda d: d.update(minority_classes=["Settlement", "Cropland"]), "a class without a pixel is no minority"),
        (lambda d: d.update(minority_share=10), "its minority_share: it is 10"),
        (lambda d: d.update(tile_share=None), "its tile_share: it is None"),
        (lambda d: d.update(tiles_to_replicate=["b"]), "its tiles_to_replicate"),
    ],
)
def test_a_class_distribution_that_was_edited_into_nonsense_is_refused(train_root, change, said):
    path = distribution_of(train_root)
    known = json.loads(path.read_text())
    assert read_distribution(made(path), BIODIVERSITY) == known
    path.write_text(json.dumps(spoilt(known, change)))
    with pytest.raises(UserError, match=f"is not a class distribution of this taxonomy: .*{said}.*Write it again: C"):
        read_distribution(made(path, "C"), BIODIVERSITY)


def test_a_distribution_of_tiles_without_a_labelled_pixel_is_read(train_root):
    path = distribution_of(train_root)
    known = json.loads(path.read_text())
    for of in known["classes"].values():
        of.update(share=0.0, pixels=0)
    path.write_text(json.dumps({**known, "minority_classes": []}))
    assert read_distribution(made(path), BIODIVERSITY)["minority_classes"] == []
