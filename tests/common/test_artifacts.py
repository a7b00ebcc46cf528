import hashlib
import json

import pytest

from common.artifacts import complete_run_record, difficulty_text, read_difficulty, read_minority_classes
from common.croppers import MinorityCrop
from common.errors import UserError
from common.files import write_text
from common.samplers import UniformTiles, WeightedTiles
from common.taxonomy import BIODIVERSITY
from common.tiles import TileSet
from tests.helpers import made
from tests.small_sets import tile_set


def good_rows(*ids):
    return [(tile_id, 100, "0.5", "0.25", "1.5") for tile_id in ids]


def test_weights_are_joined_by_tile_id_whatever_the_order_of_lines(tmp_path):
    tiles = tile_set(tmp_path, {"a": 1, "b": 1, "c": 1})
    rows = [("c", 1, "0", "0", "3.0"), ("a", 1, "0", "0", "1.0"), ("b", 1, "0", "0", "2.0")]
    write_text(tmp_path / "d.tsv", difficulty_text(rows))
    assert WeightedTiles(*read_difficulty(made(tmp_path / "d.tsv"), tiles)).weights(tiles).tolist() == [1.0, 2.0, 3.0]


def test_a_difficulty_table_is_tab_separated_under_a_header():
    text = difficulty_text([("a", 3, "0.5", "0.25", "1.5"), ("b", 0, "0", "0", "1")])
    header = "tile_id\tlabelled_pixels\tloss\tdifficulty\tweight\n"
    assert text == header + "a\t3\t0.5\t0.25\t1.5\nb\t0\t0\t0\t1\n"


def test_samplers_record_what_they_draw_by(tmp_path):
    text = difficulty_text(good_rows("a"))
    write_text(tmp_path / "d.tsv", text)
    weighted = WeightedTiles(*read_difficulty(made(tmp_path / "d.tsv"), tile_set(tmp_path, {"a": 1})))
    digest = hashlib.sha256(text.encode()).hexdigest()
    assert weighted.describe() == {"kind": "weighted", "weights_from": "difficulty", "sha256": digest}
    assert UniformTiles().describe() == {"kind": "uniform"}


@pytest.mark.parametrize(
    ("weight", "accepted"),
    [("0", False), ("1e-9", True), ("1", True), ("1000001", True), ("1000001.1", False), ("inf", False), ("x", False)],
)
def test_a_weight_is_above_0_and_at_most_1_plus_a_million(tmp_path, weight, accepted):
    tiles = tile_set(tmp_path, {"a": 1})
    write_text(tmp_path / "d.tsv", difficulty_text([("a", 100, "0.5", "0.25", weight)]))
    if accepted:
        assert WeightedTiles(*read_difficulty(made(tmp_path / "d.tsv"), tiles)).weights(tiles).tolist() == [
            float(weight)
        ]
    else:
        with pytest.raises(UserError, match="line 2"):
            WeightedTiles(*read_difficulty(made(tmp_path / "d.tsv"), tiles))


HEADER = b"tile_id\tlabelled_pixels\tloss\tdifficulty\tweight\n"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "does not exist. Write it first: python -m again"),
        (b"", "the first line must name tile_id, labelled_pixels, loss, difficulty, weight"),
        (b"a\t1\t0\t0\t1\n", "the first line must name"),
        (HEADER.replace(b"loss\tdifficulty", b"difficulty\tloss") + b"a\t1\t0\t0\t1\n", "the first line must name"),
        (HEADER + b"a\t1\t0\t0\t1.00", "cut off"),
        (HEADER + b"\xff\t1\t0\t0\t1\n", "UTF-8"),
        (HEADER + b"a\t1\t0\t0\t1\t2\n", "line 2: expected 5 values"),
        (HEADER + b"a\t1\t0\t0\t1\n\n", "line 3: expected 5 values"),
    ],
)
def test_a_file_that_is_no_difficulty_table_is_refused(tmp_path, content, said):
    if content is not None:
        (tmp_path / "d.tsv").write_bytes(content)
    with pytest.raises(UserError, match=said) as error:
        WeightedTiles(*read_difficulty(made(tmp_path / "d.tsv", "python -m again"), tile_set(tmp_path, {"a": 1})))
    assert "python -m again" in str(error.value)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (good_rows("a"), "no weight for 1 of 2 training tiles"),
        (good_rows("a", "b", "c"), "does not hold"),
        (good_rows("a", "b", "b"), "already"),
        ([*good_rows("a"), ("b", 100, "0.5", "0.25", "nan")], "not above 0"),
        ([*good_rows("a"), ("b", 100, "0.5", "0.25", "-1")], "not above 0"),
        ([*good_rows("a"), ("b", 100, "0.5")], "line 3"),
    ],
)
def test_a_difficulty_table_that_does_not_fit_is_refused_with_the_command_to_mend_it(tmp_path, rows, said):
    write_text(tmp_path / "d.tsv", difficulty_text(rows))
    with pytest.raises(UserError, match=said) as error:
        WeightedTiles(
            *read_difficulty(made(tmp_path / "d.tsv", "python -m again"), tile_set(tmp_path, {"a": 1, "b": 1}))
        )
    assert "python -m again" in str(error.value) and "d.tsv" in str(error.value)


# From the table of classes to the crop

SHARES = {"Forest": 0.5, "Grassland": 0.3, "Cropland": 0.16, "Settlement": 0.03, "Seminatural": 0.01}


def distribution(tmp_path, digest="train", names=("Settlement", "Seminatural")):
    """The path of a class distribution as analyze_class_distribution writes it."""
    content = {
        "train_digest": digest,
        "classes": {
            name: {"pixels": round(1000 * share), "share": share, "tiles": 1, "tile_presence": 0.5}
            for name, share in SHARES.items()
        },
        "minority_classes": list(names),
        "minority_share": 0.1,
        "tile_share": 0.01,
        "tiles_to_replicate": {},
    }
    (tmp_path / "class_distribution.json").write_text(json.dumps(content))
    return tmp_path / "class_distribution.json"


def tiles_with(tmp_path, digest, *parents):
    made_from = [{"path": "x", "digest": parent} for parent in parents]
    return TileSet(made(tmp_path), {"tiles": {}, "digest": digest, "made_from": made_from}, BIODIVERSITY)


@pytest.mark.parametrize(("digest", "parents"), [("train", ()), ("train_rep", ("other", "train"))])
def test_the_minority_crop_seeks_the_classes_found_in_train_by_their_ids_and_shares(tmp_path, digest, parents):
    cropper = MinorityCrop(
        64, *read_minority_classes(made(distribution(tmp_path)), tiles_with(tmp_path, digest, *parents))
    )
    assert cropper.size == 64
    assert cropper.describe() == {"kind": "minority", "classes": [4, 5], "shares": [0.03, 0.01], "p": 0.5}


def test_a_class_distribution_of_another_split_is_refused(tmp_path):
    with pytest.raises(UserError, match="another train split. Write it again: python -m again"):
        MinorityCrop(
            64,
            *read_minority_classes(
                made(distribution(tmp_path, "old"), "python -m again"), tiles_with(tmp_path, "train_rep", "train")
            ),
        )


def test_a_class_distribution_without_a_minority_class_is_refused_with_the_flag_that_helps(tmp_path):
    with pytest.raises(UserError, match="names no minority class.*python -m again --minority-share"):
        MinorityCrop(
            64,
            *read_minority_classes(
                made(distribution(tmp_path, names=()), "python -m again"), tiles_with(tmp_path, "train")
            ),
        )


def test_a_run_of_before_counts_as_trained_with_what_it_could_not_choose():
    kd = {"alpha": 0.3, "temperature": 2.0}
    before = {"settings": {"lr": 1.0}, "recipe": {"loss": {"hard": {}, "kd": kd}}}
    now = complete_run_record(before)
    assert now["settings"] == {"lr": 1.0, "label_smoothing": 0.05, "decoder_channels": None, "average": 0.0}
    assert now["recipe"]["loss"]["kd"] == {**kd, "max_mapped_void": 0.5}
    assert "label_smoothing" not in before["settings"] and "max_mapped_void" not in kd
    settings = {"label_smoothing": 0.1, "decoder_channels": [16], "average": 0.2}
    chosen = {"settings": settings, "recipe": {"loss": {"kd": {"max_mapped_void": 0.9}}}}
    assert complete_run_record(chosen) == chosen
    assert complete_run_record({"settings": {}, "recipe": {"loss": {"hard": {}}}})["recipe"] == {"loss": {"hard": {}}}
