"""Pictures of predictions: which tiles, whose predictions, in which colours, under which names and scores."""

import base64
import io
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from common.errors import UserError
from common.files import read_json, write_json
from common.stages import ARM_OF, CONTROLS, STAGE_NAMES, STAGES
from common.taxonomy import BIODIVERSITY
from common.tiles import TileSet
from evaluation import plot_predictions
from evaluation.plot_predictions import (
    Predicted,
    caption,
    choose_tiles,
    dimmed,
    predictions_figure,
    score_tile,
    write_pictures,
)
from evaluation.report.predictions import read_predictions
from evaluation.scoring.results import PREDICTIONS_INDEX
from tests.evaluation.report_parts import section
from tests.helpers import made, quiet
from tests.synthetic_results import VAL

ONE, TWO, THREE = STAGE_NAMES[:3]
CONTROL = "control_kd_uniform"
COLORS = BIODIVERSITY.rgb()


def tile(name, block, pixels):
    return SimpleNamespace(id=name, block=block, pixels=np.array(pixels), labelled=sum(pixels[1:]))


def test_tiles_with_most_of_the_minority_come_first_a_block_after_the_other():
    tiles = [
        tile("a", "north", [0, 9, 0, 0, 4, 0]),
        tile("b", "north", [0, 0, 0, 0, 5, 3]),
        tile("c", "south", [0, 99, 0, 9, 1, 0]),
        tile("d", "north", [0, 0, 0, 0, 3, 3]),
        tile("e", "east", [9, 9, 9, 0, 0, 0]),
        tile("f", "west", [0, 19, 9, 0, 0, 0]),
    ]
    assert [t.id for t in choose_tiles(tiles, [4, 5], 9)] == ["b", "c", "f", "e", "d", "a"]
    assert [t.id for t in choose_tiles(tiles, [4, 5], 2)] == ["b", "c"]
    assert [t.id for t in choose_tiles(tiles, [3], 1)] == ["c"]
    same = [tile("z", "x", [0, 5, 0, 0, 0, 0]), tile("y", "w", [0, 5, 0, 0, 0, 0])]
    assert [t.id for t in choose_tiles(same, [4], 2)] == ["y", "z"]


def test_predictions_stand_in_the_order_of_the_tiles(monkeypatch):
    def predict_tiles(model, tiles, **_):
        for places in ([2, 0], [1]):
            logits = torch.zeros(len(places), 6, 1, 2)
            for n, place in enumerate(places):
                logits[n, place + 1, 0, 0] = logits[n, 5, 0, 1] = 1
            yield torch.tensor(places), None, logits

    monkeypatch.setattr(plot_predictions, "predict_tiles", predict_tiles)
    found = plot_predictions.predict(torch.nn.Identity(), [0, 1, 2], device=torch.device("cpu"), workers=0, desc="x")
    assert [ids.tolist() for ids in found] == [[[1, 5]], [[2, 5]], [[3, 5]]] and found[0].dtype == np.uint8


MASK = np.array([[0, 1, 1, 2]], np.uint8)
PREDS = np.array([[3, 1, 2, 2]], np.uint8)


def test_the_scores_of_a_tile_are_over_its_own_labelled_pixels_and_classes():
    # 1: one of two found; 2: one found, one too many
    assert score_tile(PREDS, MASK, BIODIVERSITY) == pytest.approx({"mIoU": 0.5, "OA": 2 / 3})
    more = np.array([[1, 3, 2, 2]], np.uint8)  # 3 does not occur in the truth
    assert score_tile(more, MASK, BIODIVERSITY) == pytest.approx({"mIoU": 0.25, "OA": 1 / 3})
    assert caption(PREDS, MASK, BIODIVERSITY) == "mIoU 50  OA 67"
    nothing = np.zeros((1, 4), np.uint8)
    assert score_tile(PREDS, nothing, BIODIVERSITY) == {"mIoU": None, "OA": None}
    assert caption(PREDS, nothing, BIODIVERSITY) == ""


def test_predictions_are_pale_where_the_truth_is_void_and_in_full_colour_elsewhere():
    found = dimmed(PREDS, MASK, BIODIVERSITY)
    np.testing.assert_array_equal(found[0, 1:], COLORS[[1, 2, 2]])
    np.testing.assert_array_equal(found[0, 0], (0.25 * COLORS[3] + 0.75 * 255).astype(np.uint8))


def drawn_tile(name, mask, block="north"):
    mask = np.asarray(mask, np.uint8)
    image = np.stack([mask * 40, mask * 0 + 7, mask * 20])
    return SimpleNamespace(
        id=name,
        entry={"height": mask.shape[0], "width": mask.shape[1]},
        block=block,
        pixels=np.bincount(mask.ravel(), minlength=6),
        read_mask=lambda: mask,
        read_image=lambda: image,
    )


TILES = [drawn_tile("a", [[0, 1, 2, 3], [4, 5, 1, 1]]), drawn_tile("b", [[5, 5, 5], [1, 1, 1], [2, 2, 0]], "south")]
OF_ARM = {name: [np.full(t.read_mask().shape, label, np.uint8) for t in TILES] for label, name in ((1, ONE), (5, TWO))}
OF_ARM[CONTROL] = [np.maximum(t.read_mask(), 1) for t in TILES]
FOUND = [Predicted(ARM_OF[name], f"digest of {name}", preds) for name, preds in OF_ARM.items()]


def test_the_figure_shows_image_truth_and_each_stage_in_its_column():
    columns = [(p.arm.title, p.preds) for p in FOUND if not p.arm.is_control]
    assert [title for title, _ in columns] == ["1 Baseline", "2 + Replication"]  # no control
    figure = predictions_figure(TILES, columns, BIODIVERSITY, "note")
    axes = np.array(figure.axes[:8]).reshape(2, 4)
    assert [a.get_title() for a in axes[0]] == ["Image", "Truth", "1 Baseline", "2 + Replication"]
    for row, one in zip(axes, TILES, strict=True):
        np.testing.assert_array_equal(row[0].images[0].get_array(), np.moveaxis(one.read_image(), 0, -1))
        np.testing.assert_array_equal(row[1].images[0].get_array(), COLORS[one.read_mask()])
        assert row[0].get_xlabel() == one.id
        labelled = one.read_mask() > 0
        for a, label in ((row[2], 1), (row[3], 5)):
            shown = a.images[0].get_array()
            assert (shown[labelled] == COLORS[label]).all()
            right = (one.read_mask()[labelled] == label).mean()
            assert a.get_xlabel().endswith(f"OA {100 * right:.0f}")
    assert figure.legends[0].get_title().get_text() == "note"


def test_pictures_and_index_hold_each_arm_of_each_tile(tmp_path):
    write_pictures(tmp_path, TILES, FOUND, BIODIVERSITY, {"seed": 42})
    index = read_json(made(tmp_path / "predictions.json"))
    assert index["seed"] == 42 and index["taxonomy"] == BIODIVERSITY.to_json()
    assert index["arms"] == [{"name": name, "checkpoint_digest": f"digest of {name}"} for name in OF_ARM]
    for place, (one, known) in enumerate(zip(TILES, index["tiles"], strict=True)):
        mask = one.read_mask()
        assert (known["id"], known["block"], known["image"]) == (one.id, one.block, "image.png")
        assert (known["height"], known["width"]) == mask.shape
        assert known["pixels"] == {name: int((mask == i).sum()) for i, name in enumerate(BIODIVERSITY.classes)}
        pictures = {"truth": mask, **{name: preds[place] for name, preds in OF_ARM.items()}}
        for name, ids in pictures.items():
            with Image.open(tmp_path / one.id / f"{name}.png") as picture:
                np.testing.assert_array_equal(np.array(picture), ids)
                np.testing.assert_array_equal(np.array(picture.convert("RGB")), COLORS[ids])
        with Image.open(tmp_path / one.id / "image.png") as picture:
            np.testing.assert_array_equal(np.moveaxis(np.array(picture), -1, 0), one.read_image())
        for label, name in ((1, ONE), (5, TWO)):
            wanted = (mask[mask > 0] == label).mean()
            assert known["scores"][name]["OA"] == pytest.approx(wanted)
        assert known["scores"][CONTROL] == {"mIoU": 1, "OA": 1}


def test_predictions_are_those_of_last_of_the_seed_that_is_asked_for(prepared, tmp_path, monkeypatch):
    asked = []

    def open_to_score(source, arm, seed, tiles):
        asked.append((source.path, arm, seed, tiles.split, str(source.made_by)))
        return SimpleNamespace(digest=f"digest of {arm}"), None

    monkeypatch.setattr(plot_predictions, "open_to_score", open_to_score)
    ones = [np.ones((64, 64), np.uint8)] * 3
    monkeypatch.setattr(plot_predictions, "predict", lambda *_, **__: ones)
    drawn = []
    monkeypatch.setattr(plot_predictions, "predictions_figure", lambda *parts: drawn.append(parts[:2]))
    monkeypatch.setattr(plot_predictions, "save_figure", lambda *_, **__: None)
    weights, out = tmp_path / "weights", tmp_path / "out"
    for arm, seed in ((ONE, 7), (THREE, 7), (CONTROL, 7), (TWO, 8)):
        (weights / arm / f"seed{seed}").mkdir(parents=True)
    flags = ("--weights-dir", weights, "--out", tmp_path / "p.png", "--out-dir", out, "--tiles", 3, "--seed", 7)
    said = quiet(plot_predictions.main, "--root", prepared, *flags)
    assert [(path, arm, seed, split) for path, arm, seed, split, _ in asked] == [
        (weights / arm / "seed7" / "last.pt", arm, 7, "val") for arm in (ONE, THREE, CONTROL)
    ]
    assert all(f"training.train_{arm} " in command and "--seed 7" in command for _, arm, _, _, command in asked)
    assert f"not run with seed 7: {TWO}, " in said and CONTROL not in said.split("not run")[1].splitlines()[0]
    (tiles, columns), index = drawn[0], read_json(made(out / "predictions.json"))
    assert [title for title, _ in columns] == ["1\nBaseline", "3\n+ Difficulty sampling"]
    known = read_json(made(prepared / "artifacts/class_distribution.json"))["minority_classes"]
    val = TileSet.open(made(prepared / "data/biodiversity_split/val"))
    minority = [BIODIVERSITY.index(name) for name in known]
    most = max(int(one.pixels[minority].sum()) for one in val)
    assert tiles[0].pixels[minority].sum() == most and index["minority_classes"] == known
    assert [(index[key]) for key in ("split", "split_digest", "seed", "which")] == ["val", val.digest, 7, "last"]
    assert [one["id"] for one in index["tiles"]] == [one.id for one in tiles]


# Panels of the report


def evidence_with(digests, ranked=(), minority=("Settlement",)):
    """What panels need of the evidence: digests of scored checkpoints by arm for seed 42, and the stages by rank."""
    scored = {
        name: SimpleNamespace(last={42: SimpleNamespace(tiles=SimpleNamespace(checkpoint_digest=digest))})
        for name, digest in digests.items()
    }
    return SimpleNamespace(
        arms=scored,
        taxonomy=BIODIVERSITY,
        results=[SimpleNamespace(tiles=SimpleNamespace(split_digest="of val"))],
        stages=[SimpleNamespace(arm=ARM_OF[name]) for name in ranked],
        minority=list(minority),
    )


@pytest.fixture
def folder(tmp_path):
    facts = {"split": "val", "split_digest": "of val", "seed": 42, "minority_classes": ["Settlement"]}
    write_pictures(tmp_path, TILES, FOUND, BIODIVERSITY, facts)
    return tmp_path


SCORED = {name: f"digest of {name}" for name in OF_ARM}


def test_predictions_of_the_checkpoints_that_were_scored_need_no_word(folder):
    for scored in (SCORED, {ONE: SCORED[ONE]}, {}):
        shown, said = read_predictions(made(folder), evidence_with(scored))
        assert said == [] and [arm["name"] for arm in shown.index["arms"]] == list(OF_ARM)
    assert read_predictions(made(folder / "not there"), evidence_with(SCORED)) == (None, [])


def test_predictions_of_other_checkpoints_tiles_or_classes_are_told(folder):
    _, said = read_predictions(made(folder), evidence_with(SCORED | {TWO: "new", CONTROL: "new"}))
    assert len(said) == 1
    assert "of 2 + Replication, control: 6, uniform target are of other checkpoints than the scores" in said[0]
    other_seed = evidence_with(SCORED | {TWO: "new"})
    other_seed.arms[TWO].last = {43: other_seed.arms[TWO].last[42]}
    assert read_predictions(made(folder), other_seed)[1] == []
    path = folder / "predictions.json"
    index = read_json(made(path))
    write_json(path, index | {"split_digest": "of another"})
    assert "of other val tiles or classes" in read_predictions(made(folder), evidence_with(SCORED))[1][0]
    colors = BIODIVERSITY.to_json() | {"colors": ["#101010", *BIODIVERSITY.colors[1:]]}
    write_json(path, index | {"taxonomy": colors})
    assert "of other val tiles or classes" in read_predictions(made(folder), evidence_with(SCORED))[1][0]


def test_an_index_that_lacks_arms_or_counts_other_classes_is_refused(folder):
    path = folder / "predictions.json"
    index = read_json(made(path))
    other = {"Water": 1, **index["tiles"][0]["pixels"]}
    for change in ({"arms": []}, {"tiles": [index["tiles"][0] | {"pixels": other}]}):
        write_json(path, index | change)
        with pytest.raises(UserError, match="lacks arms, scores or pixels of a tile"):
            read_predictions(made(folder), evidence_with(SCORED))


def panels(folder, evidence):
    """The section of the report, and the part of it that is its first tile."""
    html = section("predictions", evidence, predictions=read_predictions(made(folder), evidence)[0])
    return html, html.split("<article")[1]


def test_a_panel_shows_each_arm_with_its_picture_and_scores(folder):
    _, html = panels(folder, evidence_with(SCORED, [TWO]))
    views = html.split("<figure")[1:]
    assert [view.partition('data-view="')[2].split('"')[0] for view in views] == ["image", "truth", *OF_ARM]
    mask = TILES[0].read_mask()
    for view, ids in zip(views[1:], [mask, *(preds[0] for preds in OF_ARM.values())], strict=True):
        uri = view.partition("base64,")[2].split('"')[0]
        np.testing.assert_array_equal(picture_in(uri), ids)
    assert "2 + Replication: mIoU 3, OA 14" in html and "6, uniform target: mIoU 100, OA 100" in html
    assert "4 × 2\npixels, 88% labelled, block north" in html and f'data-void="{BIODIVERSITY.colors[0]}"' in html
    chosen = [part for part in html.split("<input")[1:] if "checked" in part.split(">")[0]]
    assert len(chosen) == 1 and f'value="{TWO}"' in chosen[0]


def picture_in(uri: str) -> np.ndarray:
    return np.array(Image.open(io.BytesIO(base64.b64decode(uri))))


@pytest.mark.parametrize(("ranked", "start"), [([THREE, TWO, ONE], TWO), ([ONE, TWO], ONE), ([THREE], ONE), ([], ONE)])
def test_the_large_view_begins_with_the_best_stage_that_was_drawn(folder, ranked, start):
    html, _ = panels(folder, evidence_with(SCORED, ranked))
    chosen = [part.split(">")[0] for part in html.split("<input")[1:] if "checked" in part.split(">")[0]]
    assert len(chosen) == 4 and 'name="class" value=""' in chosen.pop(1)
    assert all(f'value="{start}"' in one for one in chosen)  # for all tiles, and for each
    legend = [part.split('"')[0] for part in html.split('data-color="')[1:]]
    names = [part.split('"')[0] for part in html.split('data-name="')[1:]]
    assert legend == list(BIODIVERSITY.colors) and names == list(BIODIVERSITY.classes)
    assert "Background (unlabelled)" in html and "Settlement *" in html
    assert "2 val tiles with most pixels of Settlement" in html and "seed 42" in html


@pytest.fixture
def drawable(prepared, tmp_path, monkeypatch):
    """A root with tiles and folders of checkpoints, whose networks find the first class everywhere."""
    shutil.copytree(prepared, tmp_path, dirs_exist_ok=True)
    arms = [STAGES[0], STAGES[2], CONTROLS[2]]
    for arm in arms:
        (tmp_path / "model_weights" / "biodiversity" / arm.name / "seed42").mkdir(parents=True)

    def open_to_score(source, arm, *_):
        return SimpleNamespace(digest=f"digest of {arm}"), None

    def predict(model, tiles, **_):
        return [np.ones((tile.entry["height"], tile.entry["width"]), np.uint8) for tile in tiles]

    monkeypatch.setattr(plot_predictions, "open_to_score", open_to_score)
    monkeypatch.setattr(plot_predictions, "predict", predict)
    return tmp_path


def test_predictions_lie_beside_their_figure_as_pictures_and_are_replaced(drawable):
    folder = drawable / VAL / "predictions"
    for count in (3, 2):
        said = quiet(plot_predictions.main, "--root", drawable, "--tiles", count)
        index = read_json(made(folder / PREDICTIONS_INDEX))
        names = [arm["name"] for arm in index["arms"]]
        assert names == [STAGES[0].name, STAGES[2].name, CONTROLS[2].name]
        assert [arm["checkpoint_digest"] for arm in index["arms"]] == [f"digest of {name}" for name in names]
        assert sorted(p.name for p in folder.iterdir() if p.is_dir()) == sorted(t["id"] for t in index["tiles"])
        assert len(index["tiles"]) == count and f"{count} tiles" in said and "2 stages" in said
    assert not [path.name for path in folder.parent.iterdir() if path.name.startswith(".")]
    for tile in index["tiles"]:
        with (
            Image.open(folder / tile["id"] / "truth.png") as truth,
            Image.open(folder / tile["id"] / tile["image"]) as image,
        ):
            mask = np.array(
                Image.open(drawable / "data" / "biodiversity_split" / "val" / "masks" / f"{tile['id']}.png")
            )
            assert truth.mode == "P" and (np.array(truth) == mask).all() and image.size == truth.size
            assert (np.array(truth.convert("RGB")) == BIODIVERSITY.rgb()[mask]).all()
        scores = tile["scores"][STAGES[0].name]
        assert scores["OA"] == pytest.approx((mask == 1).sum() / (mask > 0).sum())


def test_a_folder_of_somebody_else_is_not_replaced_by_predictions(drawable):
    other = drawable / "mine"
    other.mkdir()
    (other / "letter.txt").write_text("dear")
    with pytest.raises(UserError, match="not written by this project"):
        quiet(plot_predictions.main, "--root", drawable, "--out-dir", other)
    assert (other / "letter.txt").read_text() == "dear"


def test_large_tiles_are_stored_smaller_and_photographs_as_jpeg(tmp_path):
    ids = np.zeros((40, 3000), np.uint8)
    ids[:, 1500:] = 5
    plot_predictions.write_ids(tmp_path / "ids.png", ids, BIODIVERSITY)
    with Image.open(tmp_path / "ids.png") as picture:
        assert picture.size == (1024, 14) and set(np.unique(picture)) == {0, 5}
    assert plot_predictions.write_photo(tmp_path, np.zeros((3, 300, 20), np.uint8)) == "image.jpg"
    assert plot_predictions.write_photo(tmp_path, np.zeros((3, 200, 256), np.uint8)) == "image.png"


# Other bands than three


def test_the_bands_that_are_asked_for_are_shown_and_the_report_says_which(tmp_path, folder):
    tiles = []
    for one in TILES:
        image = np.concatenate([one.read_image(), one.read_image()[:1] + 9])
        tiles.append(SimpleNamespace(**vars(one) | {"read_image": lambda image=image: image}))
    pictures = tmp_path / "shown"
    pictures.mkdir()
    write_pictures(pictures, tiles, FOUND, BIODIVERSITY, {}, (3, 0, 1))
    for one in tiles:
        with Image.open(pictures / one.id / "image.png") as picture:
            np.testing.assert_array_equal(np.array(picture), np.moveaxis(one.read_image()[[3, 0, 1]], 0, -1))
    figure = predictions_figure(tiles, [("x", OF_ARM[ONE])], BIODIVERSITY, "note", (3, 0, 1))
    shown = figure.axes[0].images[0].get_array()
    np.testing.assert_array_equal(shown, np.moveaxis(tiles[0].read_image()[[3, 0, 1]], 0, -1))
    evidence = evidence_with({ONE: f"digest of {ONE}"})
    plain_index = read_json(made(folder / PREDICTIONS_INDEX))
    for bands, told in (
        ({}, None),
        ({"bands": [1, 2, 3], "shown": [1, 2, 3]}, None),
        ({"bands": [1, 2, 3, 4], "shown": [4, 1, 2]}, "The images show the bands 4 1 2 of 1 2 3 4."),
        ({"bands": [1, 2, 3], "shown": [3, 2, 1]}, "The images show the bands 3 2 1 of 1 2 3."),
    ):
        write_json(folder / PREDICTIONS_INDEX, plain_index | bands)
        html, _ = panels(folder, evidence)
        assert ("The images show the bands" in html) == (told is not None) and (told or "") in html
