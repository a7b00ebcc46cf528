"""What the report says of the data: the splits, the check for leakage, and that they are those of the scores."""

from types import SimpleNamespace

import pytest

from common.errors import UserError
from common.files import write_json
from common.taxonomy import BIODIVERSITY
from evaluation.study import data_checks
from tests.evaluation.report_parts import ARGS, ARMS, FOREGROUND, evidence_of, plain, rows, section
from tests.helpers import made


def manifest(*tiles, **more):
    """The manifest of tiles of one row, given as (pixels per class, block)."""
    entry = dict.fromkeys(("sha256", "mask_sha256", "content_sha256"), "s")
    entry |= {"height": 1, **dict.fromkeys(("crs", "bounds", "gsd"))}
    by_id = {
        f"t{n}": {**entry, "width": sum(pixels), "pixels": list(pixels), "block": block}
        for n, (pixels, block) in enumerate(tiles)
    }
    about = {"split": "val", "made_from": [], "stretch": None, "taxonomy": BIODIVERSITY.to_json()}
    return {"digest": "d" * 64, "command": "split it", "tiles": by_id, **about, **more}


MANIFESTS = {
    "train": manifest(
        ([5, 60, 0, 0, 0, 0], "a"),
        ([0, 20, 15, 0, 0, 5], "a"),
        ([9, 0, 0, 0, 0, 0], "b"),
        split_strategy="blocks",
        block_size=256.0,
        fractions=[0.8, 0.1, 0.1],
        seed=7,
        excluded=["x", "y"],
    ),
    "val": manifest(([1, 0, 0, 0, 30, 10], None), ([0, 0, 0, 0, 10, 0], None)),
}


def data_section(manifests=MANIFESTS, distribution=None, leakage=None, args=None, **more):
    args = args or SimpleNamespace(**vars(ARGS), distribution=made("distribution.json"))
    evidence = evidence_of(*ARMS, **more)
    return section("data", evidence, args=args, manifests=manifests, distribution=distribution, leakage=leakage)


def test_the_split_table_counts_pixels_and_tiles_of_each_class():
    html = data_section(minority=["Settlement"])
    header, *found_rows = rows(html)[1:]
    assert header == ["class", *["%", "pixels", "tiles"] * 2]
    assert found_rows == [
        ["Forest", "80.0", "80", "2", "0.0", "0", "0"],
        ["Grassland", "15.0", "15", "1", "0.0", "0", "0"],
        ["Cropland", "0.0", "0", "0", "0.0", "0", "0"],
        ["Settlement *", "0.0", "0", "0", "80.0", "40", "2"],
        ["Seminatural", "5.0", "5", "1", "20.0", "10", "1"],
        ["labelled", "100.0", "100", "2", "100.0", "50", "2"],
        ["Background (unlabelled)", "-", "14", "2", "-", "1", "1"],
    ]
    said = plain(html)
    assert "train 3 tiles in 2 blocks; val 2 tiles in 2 blocks" in said and "block side 256 m" in said
    assert "80% / 10% / 10%" in said and "seed of the split 7" in said and "left out of the raw tiles 2" in said


KINDS = ("tile id", "image file", "image content", "overlapping window", "altered copy", "ground")


def leakage(passed=True, digest="of val", **more):
    pair = {"sets": ["train", "val"], **{kind: n for n, kind in enumerate(KINDS)}, "ground not comparable": 8}
    found = {"passed": passed, "findings": [] if passed else [{"text": "they share a tile"}], "compared": [pair]}
    return found | {"sets": {"val": {"digest": digest}, "train": {"digest": "of val"}}, **more}


def test_the_check_for_leakage_is_shown_with_what_it_counted():
    html = data_section({}, leakage=leakage(blocks_shared_with_train={"val": 3, "test": 0}))
    assert "Check for leakage passed" in plain(html) and "Blocks shared with train: val 3, test 0." in plain(html)
    assert rows(html) == [["sets", *KINDS], ["train and val", "0", "1", "2", "3", "4", "5 (8 pairs not comparable)"]]
    failed = plain(data_section({}, leakage=leakage(False)))
    assert "Check for leakage failed." in failed and "they share a tile" in failed and "not known" in failed
    assert "The check for leakage was not made" in plain(data_section({}))


@pytest.mark.parametrize(
    ("manifests", "found", "cautions"),
    [
        ({}, None, []),
        ({"val": {"digest": "of val"}, "train": {"digest": "x"}}, leakage(), []),
        ({"val": {"digest": "of another"}}, leakage(), ["the scores are of another val split than split/val holds"]),
        ({}, leakage(False), ["the check for leakage failed: they share a tile"]),
        ({}, leakage(digest="of another"), ["the check for leakage was made of another val split than was scored"]),
        ({}, leakage() | {"sets": {}}, ["the check for leakage was made of another val split than was scored"]),
        (
            {"val": {"digest": "x"}},
            leakage(False, "x"),
            ["the scores are of another val", "the check for leakage failed", "the check for leakage was made of"],
        ),
    ],
)
def test_data_that_are_not_those_of_the_scores_are_a_caution(manifests, found, cautions):
    said = data_checks.data_cautions(evidence_of(*ARMS), manifests, found, ARGS)
    assert len(said) == len(cautions)
    assert all(one.startswith(start) for one, start in zip(said, cautions, strict=True))


def test_a_manifest_of_other_classes_is_refused(tmp_path):
    path = tmp_path / "val/manifest.json"
    path.parent.mkdir()
    write_json(path, MANIFESTS["val"])
    assert data_checks.read_manifests(made(tmp_path), BIODIVERSITY) == {"val": MANIFESTS["val"]}
    turned = BIODIVERSITY.to_json() | {"classes": list(reversed(BIODIVERSITY.classes))}
    write_json(path, MANIFESTS["val"] | {"taxonomy": turned})
    with pytest.raises(UserError, match="does not count the pixels of Background, Forest.* again: python -m some.step"):
        data_checks.read_manifests(made(tmp_path), BIODIVERSITY)


@pytest.mark.parametrize(
    "change", [{"fractions": "80"}, {"tiles": {}}, {"command": None}, {"tiles": {"t": {"pixels": [1]}}}]
)
def test_a_manifest_of_another_form_is_refused(tmp_path, change):
    (tmp_path / "val").mkdir()
    write_json(tmp_path / "val/manifest.json", MANIFESTS["val"] | change)
    with pytest.raises(UserError, match=r"val.manifest.json is not .*of this project: .*: python -m some.step"):
        data_checks.read_manifests(made(tmp_path), BIODIVERSITY)


def test_classes_and_replication_of_train_are_told(tmp_path):
    classes = {name: {"share": share} for name, share in zip(FOREGROUND, (0.5, 0.3, 0.1, 0.06, 0.04), strict=True)}
    distribution = {"classes": classes, "minority_classes": ["Settlement", "Seminatural"], "minority_share": 0.1}
    distribution |= {"tile_share": 0.05, "tiles_to_replicate": {"a": 1, "b": 2}}
    args = SimpleNamespace(**vars(ARGS), distribution=made(tmp_path / "distribution.json"))
    said = plain(data_section(distribution=distribution, args=args))
    assert "under 10% of its labelled pixels: Settlement, Seminatural. Replicated: 2 tiles, in which" in said
    assert "covers at least 5%" in said and "No manifest of test" in said and "30 tiles in 12 spatial blocks" in said
