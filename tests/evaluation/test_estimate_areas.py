"""Areas of a map: the estimator against published numbers and known truths, and every way to be refused."""

import json
import shlex

import numpy as np
import pytest
from PIL import Image

from common.errors import UserError
from common.folds import fold_root
from common.taxonomy import BIODIVERSITY
from evaluation import estimate_areas, simulate_area_coverage
from evaluation.mapping.areas import area_spread, corrected, ends
from evaluation.mapping.areas import estimate_areas as estimated
from evaluation.mapping.likeness import unlike_confidence, unlike_shares
from evaluation.mapping.record import MapRecord
from evaluation.scoring.results import CONFUSIONS, TileCounts
from evaluation.simulate_area_coverage import CANDIDATES, CHOSEN, SHARES, UNLIKE_SHARES, Setting, draw, simulate
from tests.helpers import THREE_CLASSES, made, quiet
from tests.synthetic_results import VAL, checkpoint_digest, write_fold, write_result

ARM = "stage6_distill"
# Olofsson et al. 2014, table 8: rows are map classes, columns reference classes. Deforestation, forest gain, stable
# forest, stable non-forest; pixels of 30 m.
SAMPLES = np.array([[66, 0, 5, 4], [0, 55, 8, 12], [1, 0, 153, 11], [2, 1, 9, 313]])
MAPPED = np.array([200_000, 150_000, 3_200_000, 6_450_000])
HECTARES = 0.09


def with_void(values):
    """(..., C) or (..., C, C) counts of classes → the same with void in front."""
    values, square = np.asarray(values), np.ndim(values) > 1
    return np.pad(values, [(0, 0)] * (values.ndim - 1 - square) + [(1, 0)] * (1 + square))


def blocks_of(*confusions):
    """(B, 6, 6) confusions, rows truth, from 5 x 5 ones."""
    return with_void(np.array(confusions, float))


def study(seed=0, *, shares=SHARES, blocks=40, size=10.0, ground="alike"):
    """One generated study: (B, 6, 6) held-out confusions, (6,) true and mapped pixels."""
    of = draw(Setting(blocks, size, ground, 1), np.random.default_rng(seed), 1, shares)
    return with_void(of.counts[0]).round(), with_void(of.truth[0]), with_void(of.mapped[0]).round()


def checkpoint_of(arm=ARM, seed=42, which="last", root="."):
    path = f"{root}/model_weights/biodiversity/{arm}/seed{seed}/{which}.pt"
    return {"path": path, "stage": arm, "seed": seed, "digest": checkpoint_digest(arm, seed, which), "step": 20}


def write_map(root, mapped, *, checkpoints=None, metres=0.25, name="map", taxonomy=BIODIVERSITY, **changes):
    """A map's record, as evaluation.predict_map leaves it; ``metres`` are the square metres of a pixel."""
    pixels = [int(of) for of in mapped]
    record = {
        "map": f"{name}.tif",
        "command": "python -m evaluation.predict_map scene.tif",
        "image": "scene.tif",
        "checkpoints": checkpoints or [checkpoint_of()],
        "taxonomy": taxonomy.to_json(),
        "gsd": 0.5,
        "height": 1,
        "width": sum(pixels),
        "pixels": pixels,
        "square_metres": metres and [metres * of for of in pixels],
        "mean_confidence": None,
        **changes,
    }
    path = root / "evaluation" / "map" / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record))
    return path


def run(root, *flags):
    """What the script printed, and what it wrote as JSON."""
    out = quiet(estimate_areas.main, "--root", root, *flags)
    return out, json.loads((root / "evaluation/map/map_areas.json").read_text())


@pytest.fixture
def like(tmp_path):
    """A root with results on val of 40 blocks, and a map of ten times as much like ground."""
    counts, truth, mapped = study()
    write_result(tmp_path, ARM, 42, counts)
    write_map(tmp_path, mapped)
    return tmp_path, truth, mapped


# The estimator


def test_the_worked_example_of_olofsson_et_al_gives_its_published_areas():
    found = estimated(with_void(MAPPED) * HECTARES, with_void(MAPPED), with_void(SAMPLES.T)[None])
    shares = found.estimated[1:] / found.counted.sum()
    assert shares == pytest.approx([0.0235, 0.0130, 0.3175, 0.6460], abs=0.00005)
    assert found.estimated[1:] == pytest.approx([21158, 11686, 285770, 581386], abs=1)
    assert found.users[1:] == pytest.approx([0.88, 0.73, 0.93, 0.96], abs=0.005)
    assert found.estimated.sum() == pytest.approx(900_000) and found.estimated[0] == 0
    assert np.isnan(found.low).all() and np.isnan(found.error).all()  # of one block


def test_with_each_sample_as_a_block_the_errors_are_those_that_olofsson_et_al_publish():
    rows, columns = np.divmod(np.repeat(np.arange(16), SAMPLES.ravel()), 4)
    counts = np.zeros((len(rows), 4, 4))
    counts[np.arange(len(rows)), columns, rows] = 1
    found = estimated(with_void(MAPPED) * HECTARES, with_void(MAPPED), with_void(counts))
    assert 1.96 * found.error[1:] == pytest.approx([6158, 3756, 15510, 16282], rel=0.02)
    low, high = found.low[1], found.high[1]
    assert 21158 - 7500 < low < 21158 - 6158 and 21158 + 6158 < high < 21158 + 9000  # of a sum that few pixels make
    assert high - 21158 > 21158 - low


def test_areas_are_shared_as_the_held_out_predictions_are():
    areas, confusion = np.array([0, 100.0, 10.0, 5.0]), np.zeros((4, 4))
    confusion[1:3, 1:3] = [[80, 30], [20, 10]]  # class 3 was never predicted
    assert corrected(areas, confusion).tolist() == [0, 87.5, 22.5, 5]


def test_the_ends_of_an_interval_are_alike_on_the_scale_of_the_square_root():
    low, high = ends(np.array([100.0, 1.0, 0.0]), np.array([16.0, 9.0, 4.0]), np.full(3, np.inf), 0.025)
    assert low == pytest.approx([(10 - 1.96 * 4 / 20) ** 2, 0, 0], abs=1e-3)
    assert high == pytest.approx([(10 + 1.96 * 4 / 20) ** 2, (1 + 1.96 * 3 / 2) ** 2, 1.96 * 2], abs=1e-3)


def test_the_variance_is_what_blocks_say_of_the_held_out_ground_and_of_the_map():
    right, wrong = np.diag([0, 90.0, 10]), np.diag([0, 90.0, 10])
    wrong[2, 1], wrong[1, 1] = 10, 80
    counts = np.array([right, right, wrong])
    mapped = np.array([0, 2700.0, 300.0])  # ten times as much
    parts = area_spread(mapped, mapped, counts)
    without = 2700 * np.array([10 / 180, 10 / 180, 0])  # class 2 in what is mapped as class 1, a block left out
    assert parts.value[2] == pytest.approx(300 + 2700 * 10 / 270)
    assert parts.over_blocks[2] == pytest.approx(((without - without.mean()) ** 2).sum())
    off = np.array([-90 * 10 / 180, -90 * 10 / 180, 10])  # of each block, predicted from the others
    assert parts.of_map[2] == pytest.approx((off**2).sum() * 10)
    assert parts.over_blocks[1] == pytest.approx(parts.over_blocks[2])
    larger = area_spread(100 * mapped, 100 * mapped, counts)
    assert larger.over_blocks == pytest.approx(1e4 * parts.over_blocks)
    assert larger.of_map == pytest.approx(100 * parts.of_map)
    hectares = area_spread(HECTARES * mapped, mapped, counts)
    assert hectares.variance == pytest.approx(HECTARES**2 * parts.variance)


def test_degrees_of_freedom_are_fewer_than_the_blocks_that_hold_a_class_and_never_under_three():
    counts, _, mapped = study()
    counts[:6, 5, 5], counts[6:, 5] = 500, 0
    parts = area_spread(mapped, mapped, counts)
    assert parts.holders.tolist() == [0, 40, 40, 40, 40, 6]
    assert 3 <= parts.freedom[5] <= 5 < parts.freedom[1] <= 39
    counts[1:, 5] = 0
    assert area_spread(mapped, mapped, counts).freedom[5] == 3


def test_a_map_as_small_as_the_held_out_ground_has_wider_intervals():
    counts, _, mapped = study()
    wide, narrow = (estimated(mapped / n, mapped / n, counts) for n in (10, 1))
    assert wide.estimated == pytest.approx(narrow.estimated / 10)
    assert (wide.error[1:] > 1.2 * narrow.error[1:] / 10).all()


# The small form of the simulation


@pytest.fixture(scope="module")
def judged():
    rng = np.random.default_rng(3)
    cases = (20, 1.0, "uneven", 5), (30, 1.0, "alike", 1), (40, 10.0, "uneven", 1)
    return [simulate(Setting(*case), rng, 400) for case in cases]


def test_intervals_cover_a_known_truth(judged):
    for found in judged:
        assert all(0.91 <= share <= 0.99 for share in found["covered"][CHOSEN]), found["covered"][CHOSEN]


def test_rules_that_were_not_chosen_miss_the_truth(judged):
    assert all(found["covered"]["single pixels (Olofsson et al. 2014)"].max() < 0.1 for found in judged)
    assert judged[1]["covered"]["blocks alone; kurtosis and holders"].max() < 0.9
    assert min(found["covered"]["blocks and map by size; normal quantile"].min() for found in judged) < 0.9


def test_like_ground_is_seldom_called_unlike_and_unlike_ground_more_often(judged):
    for found in judged:
        assert found["like"] < 0.1 and found["unlike"] > 3 * found["like"]


def test_generated_ground_has_the_shares_and_the_few_blocks_that_are_asked_for():
    of = draw(Setting(20, 2.0, "alike", 1), np.random.default_rng(0), 3)
    assert of.counts.shape == (3, 20, 5, 5) and of.mapped.sum(axis=1) == pytest.approx(of.truth.sum(axis=1))
    assert of.counts.sum(axis=-1).sum(axis=1) / of.counts.sum(axis=(1, 2, 3))[:, None] == pytest.approx(
        np.broadcast_to(SHARES, (3, 5)), abs=0.1
    )
    few = draw(Setting(20, 2.0, "uneven", 5), np.random.default_rng(0), 3)
    assert ((few.counts[..., 4, :].sum(axis=-1) > 0).sum(axis=1) == 5).all()
    assert few.scored_by.tolist() == [0, 1, 2, 3, 4] * 4


def test_the_simulation_prints_a_line_for_each_setting_or_for_each_rule(capsys):
    small = ["--trials", "4", "--blocks", "12", "--sizes", "1"]
    simulate_area_coverage.main(small)
    first = capsys.readouterr().out
    assert sum(line.startswith("12 ") for line in first.splitlines()) == 4
    simulate_area_coverage.main(small)
    assert capsys.readouterr().out == first  # one seed gives one table
    simulate_area_coverage.main([*small, "--candidates"])
    out = capsys.readouterr().out
    assert all(name in out for name in CANDIDATES)
    with pytest.raises(SystemExit):
        simulate_area_coverage.main(["--blocks", "4"])


# Likeness


def test_like_ground_is_not_warned_of_and_unlike_ground_is_by_class():
    counts, _, mapped = study(2)
    assert unlike_shares(mapped, counts, BIODIVERSITY) == []
    _, _, other = study(1, shares=UNLIKE_SHARES)
    (line,) = [line for line in unlike_shares(other, counts, BIODIVERSITY) if line.startswith("Seminatural")]
    assert "of the map; " in line and "would be expected" in line


def test_a_small_map_may_differ_more():
    counts, _, mapped = study(2)
    mapped[5] *= 3
    assert unlike_shares(mapped, counts, BIODIVERSITY) != []
    assert unlike_shares(mapped / 400, counts, BIODIVERSITY) == []  # one block may well


def test_the_confidence_on_the_map_is_held_against_that_of_the_blocks():
    rng = np.random.default_rng(0)
    pixels = rng.lognormal(8, 0.4, 30)
    confidence = np.stack([pixels, pixels * rng.normal(0.8, 0.05, 30).clip(0, 1)], axis=1)
    assert unlike_confidence(0.81, 1e7, confidence) is None
    assert "75.0% on the map; " in unlike_confidence(0.75, 1e7, confidence)
    assert unlike_confidence(0.75, 2 * pixels.mean(), confidence) is None  # two blocks may well be less sure
    assert unlike_confidence(0.88, 1e7, confidence) is not None


# The script


def test_a_known_truth_is_found_where_counting_is_wrong(like):
    root, truth, mapped = like
    out, content = run(root)
    hectares = truth * 0.25 / 10_000
    for name, true, counted in zip(BIODIVERSITY.foreground, hectares[1:], mapped[1:] * 0.25e-4, strict=True):
        of = content["classes"][name]
        assert of["counted"] == pytest.approx(counted) and of["low"] < true < of["high"]
        assert of["low"] < of["estimated"] < of["high"]
        assert of["counting_off"] == pytest.approx(of["counted"] / of["estimated"] - 1)
    assert (content["unit"], content["warnings"]) == ("ha", [])
    assert content["held_out"]["blocks"] == 40 and content["held_out"]["results"][0]["split_digest"] == "the same tiles"
    assert content["held_out"]["results"][0]["checkpoint_digest"] == checkpoint_digest(ARM, 42)
    total = sum(of["estimated"] for of in content["classes"].values())
    assert total == pytest.approx(mapped.sum() * 0.25e-4)
    assert "counted ha" in out and "40 spatial blocks" in out and "Warning" not in out
    assert out.startswith((root / "evaluation/map/map_areas.txt").read_text().rstrip())
    assert shlex.split(content["command"])[-2:] == ["--root", str(root)]
    assert all(len(line) <= 120 for line in out.splitlines() if not line.startswith(("/", "python")))


def test_the_numbers_of_the_table_are_those_of_the_matrix(tmp_path):
    confusion = np.zeros((5, 5))
    confusion[:2, :2], confusion[2:, 2:] = [[60, 10], [20, 10]], np.diag([20, 20, 20])
    write_result(tmp_path, ARM, 42, np.repeat(blocks_of(confusion), 12, axis=0))
    write_map(tmp_path, [7, 8000, 2000, 2000, 2000, 2000], metres=25)
    out, content = run(tmp_path)
    forest = content["classes"]["Forest"]
    assert (forest["counted"], forest["estimated"]) == (20, pytest.approx(17.5))
    assert (forest["users_accuracy"], forest["producers_accuracy"]) == (pytest.approx(0.75), pytest.approx(6 / 7))
    row = next(line.split() for line in out.splitlines() if line.startswith("Forest"))
    assert row == ["Forest", "20.00", "17.50", "17.50", "to", "17.50", "+14", "75.0", "85.7", "12"]
    assert "16,000 pixels with a class (40.00 ha), 7 without" in out


def test_the_figure_is_written_beside_the_map_or_elsewhere(like, tmp_path):
    root, *_ = like
    run(root)
    with Image.open(root / "evaluation/map/map_areas.png") as picture:
        assert min(picture.size) > 400
    write_map(root, [0, 9, 9, 9, 9, 0], name="other")
    out = quiet(
        estimate_areas.main, "--root", root, "--map", root / "evaluation/map/other.tif", "--out-dir", tmp_path / "o"
    )
    assert {path.name for path in (tmp_path / "o").iterdir()} == {f"other_areas.{e}" for e in ("txt", "json", "png")}
    assert str(tmp_path / "o/other_areas.png") in out


def test_a_map_without_pixel_size_has_shares_in_place_of_hectares(like):
    root, _, mapped = like
    write_map(root, mapped, metres=None)
    out, content = run(root)
    assert content["unit"] == "% of map" and "The pixel size of the map is not known" in " ".join(out.split())
    assert sum(of["counted"] for of in content["classes"].values()) == pytest.approx(100)


def test_pixels_of_different_size_count_by_their_area(like):
    root, _, mapped = like
    write_map(root, mapped, square_metres=[0.0, *(mapped[1:4] * 0.5), *(mapped[4:] * 0.25)])
    _, content = run(root)
    assert content["classes"]["Forest"]["counted"] == pytest.approx(mapped[1] * 0.5e-4)
    assert content["classes"]["Seminatural"]["counted"] == pytest.approx(mapped[5] * 0.25e-4)


def test_a_class_that_was_never_predicted_on_held_out_ground_is_taken_as_counted(like):
    root, _, mapped = like
    counts, *_ = study()
    counts[:, :, 4] += counts[:, :, 5]
    counts[:, :, 5] = 0
    write_result(root, ARM, 42, counts)
    out, content = run(root)
    of, total = content["classes"]["Seminatural"], counts.sum(axis=0)
    missed = sum(mapped[i] * total[5, i] / total[:, i].sum() for i in range(1, 5))  # of it, in what is mapped otherwise
    assert of["counted"] == pytest.approx(mapped[5] * 0.25e-4)
    assert of["estimated"] == pytest.approx((mapped[5] + missed) * 0.25e-4)
    assert of["low"] is None and of["users_accuracy"] is None and not of["predicted_on_held_out_ground"]
    assert "Seminatural: never predicted on the held-out tiles" in " ".join(out.split())
    assert content["classes"]["Forest"]["low"] is not None


def test_a_class_in_few_blocks_and_a_study_of_few_blocks_have_no_interval(like):
    root, *_ = like
    counts, *_ = study()
    counts[4:, 4] = 0
    write_result(root, ARM, 42, counts)
    out, content = run(root)
    assert content["classes"]["Settlement"]["low"] is None and content["classes"]["Forest"]["low"] is not None
    assert "Settlement (4): in fewer than 5 held-out blocks" in " ".join(out.split())
    write_result(root, ARM, 42, study()[0][:9])
    out, content = run(root)
    assert all(of["low"] is None and of["standard_error"] is None for of in content["classes"].values())
    assert "no intervals: 9 held-out blocks" in " ".join(out.split())


def test_void_counts_nowhere_and_unlabelled_ground_is_told(like):
    root, *_ = like
    _, before = run(root)
    counts, _, mapped = study()
    counts[:, 0, 1:] = 3000
    mapped[0] = 10_000_000
    write_result(root, ARM, 42, counts)
    write_map(root, mapped)
    out, content = run(root)
    assert content["classes"] == before["classes"] and content["void_pixels"] == 10_000_000
    assert "of the held-out pixels are unlabelled" in " ".join(out.split())
    assert "are unlabelled" not in " ".join(before["notes"])


def test_unlike_ground_is_warned_of(like, capsys):
    root, *_ = like
    write_result(root, ARM, 42, study(2)[0])
    write_map(root, study(1, shares=UNLIKE_SHARES)[2])
    estimate_areas.main(["--root", str(root)])
    printed = capsys.readouterr()
    assert "warning: Seminatural is" in printed.err and "this map shows another" in printed.err
    assert "Warning: Seminatural is" in printed.out


def test_the_confidence_is_compared_for_one_network_alone(like):
    root, _, mapped = like
    write_map(root, mapped, mean_confidence=0.6)  # that of the results is 1 in all blocks
    _, content = run(root)
    assert any("mean confidence is 60.0% on the map" in line for line in content["warnings"])
    write_result(root, ARM, 42, study()[0], which="best")
    write_map(root, mapped, mean_confidence=0.6, checkpoints=[checkpoint_of(), checkpoint_of(which="best")])
    _, content = run(root)
    assert content["warnings"] == [] and len(content["held_out"]["results"]) == 2


# Which results belong to a map


def test_the_best_checkpoint_is_found_by_its_digest(like):
    root, _, mapped = like
    write_result(root, ARM, 42, study(5)[0], which="best")
    write_map(root, mapped, checkpoints=[checkpoint_of(which="best")])
    out, content = run(root)
    assert content["held_out"]["results"][0]["folder"].endswith(f"{ARM}/seed42/best")
    assert "best.pt is selected on val" in out and f"{ARM} seed 42 best.pt" in out


def test_networks_scored_on_the_same_blocks_are_averaged(like):
    root, _, mapped = like
    for seed, of in ((43, study(1)), (44, study(2))):
        write_result(root, ARM, seed, of[0])
    write_map(root, mapped, checkpoints=[checkpoint_of(), checkpoint_of(seed=43), checkpoint_of(seed=44)])
    out, content = run(root)
    total = np.mean([study(seed)[0].sum(axis=0) for seed in range(3)], axis=0)
    np.testing.assert_allclose(content["held_out"]["confusion"], total)
    assert content["held_out"]["blocks"] == 40 and "mean of 3 networks" in " ".join(out.split())


def test_the_networks_of_folds_are_pooled_out_of_fold(tmp_path):
    counts, truth, mapped = study()
    for number in range(1, 6):
        write_fold(tmp_path, ARM, number, 5, counts)
    checkpoints = [checkpoint_of(seed=41 + k, root=fold_root(tmp_path, k)) for k in range(1, 6)]
    write_map(tmp_path, mapped, checkpoints=checkpoints)
    out, content = run(tmp_path)
    np.testing.assert_allclose(content["held_out"]["confusion"], counts.sum(axis=0))
    assert content["held_out"]["blocks"] == 40 and "val of 5 folds: 40 spatial blocks" in out
    assert "that of the single networks" in " ".join(out.split())
    assert [of["blocks"] for of in content["held_out"]["results"]] == [8] * 5


def test_missing_results_are_refused_with_the_command_that_makes_them_in_the_root_of_the_checkpoint(tmp_path):
    write_fold(tmp_path, ARM, 1, 5, study()[0])
    home = fold_root(tmp_path, 2)
    weights = home / f"model_weights/biodiversity/{ARM}/seed43/last.pt"
    weights.parent.mkdir(parents=True)
    weights.touch()
    write_map(tmp_path, study()[2], checkpoints=[checkpoint_of(), checkpoint_of(seed=43, root=home)])
    with pytest.raises(UserError) as refused:
        run(tmp_path)
    told = str(refused.value)
    assert f"{ARM} seed 43 last.pt" in told and "seed 42" not in told
    assert told.endswith(f"python -m evaluation.compute_metrics --root {home} --split val")


def test_results_of_another_network_are_refused(like):
    root, *_ = like
    write_result(root, ARM, 42, study()[0], checkpoint_digest="another")
    with pytest.raises(UserError, match="is of another network than made map.tif") as refused:
        run(root)
    told = str(refused.value)
    assert "python -m evaluation.predict_map scene.tif" in told
    assert told.endswith(f"python -m evaluation.compute_metrics --root {root} --split val --stages {ARM} --overwrite")


def test_results_of_other_classes_or_of_two_evaluations_are_refused(like):
    root, _, mapped = like
    folder = write_result(root, ARM, 42, study()[0])
    write_map(root, [10] * 4, taxonomy=THREE_CLASSES)
    with pytest.raises(UserError, match="has the classes Nothing.* and .* Background"):
        run(root)
    write_map(root, mapped)
    counts = TileCounts.load(made(folder / CONFUSIONS))
    TileCounts(**{**vars(counts), "split_digest": "other tiles"}).save(folder / CONFUSIONS)
    with pytest.raises(UserError, match="are of two evaluations"):
        run(root)


def test_the_test_split_serves_the_final_stage(like):
    root, _, mapped = like
    with pytest.raises(UserError, match="--split test$"):
        run(root, "--split", "test")
    folder = write_result(root / "elsewhere", ARM, 42, study()[0], split="test")
    place = root / VAL.parent / "test" / ARM / "seed42"
    place.parent.mkdir(parents=True)
    folder.rename(place)
    _, content = run(root, "--split", "test")
    assert content["held_out"]["split"] == "test"
    write_map(root, mapped, checkpoints=[checkpoint_of("stage1_baseline")])
    with pytest.raises(UserError, match="the test split is for one network. Give --split val"):
        run(root, "--split", "test")
    write_map(root, mapped)
    with pytest.raises(UserError, match="is of the test split. Give --split test"):
        run(root, "--results-dir", root / VAL.parent / "test")


# The record of a map


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"pixels": [1, 2]}, "pixels of 2 classes, expected 6"),
        ({"square_metres": [1.0]}, "square_metres of 1 classes, expected 6"),
        ({"width": 3}, "60 pixels, but its height and width say 3"),
        ({"checkpoints": []}, "no checkpoint"),
        ({"pixels": [-1, 0, 0, 0, 0, 0]}, "is not the record of a map: its pixels"),
        ({"mean_confidence": 1.2}, "its mean_confidence: it is 1.2"),
    ],
)
def test_a_record_of_another_form_is_refused(tmp_path, changes, problem):
    path = write_map(tmp_path, [10] * 6)
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(UserError, match=problem):
        MapRecord.load(made(path))


def test_a_missing_map_and_a_map_of_void_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"map\.json does not exist\. Write it first: python -m evaluation.predict_map"):
        run(tmp_path)
    write_map(tmp_path, [10, 0, 0, 0, 0, 0])
    with pytest.raises(UserError, match="none of the map's 10 pixels has a class"):
        run(tmp_path)
