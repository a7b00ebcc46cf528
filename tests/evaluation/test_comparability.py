"""Which results may be compared: the rules one by one, on made-up results."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from common.errors import UserError
from common.stages import STAGE_NAMES
from common.taxonomy import BIODIVERSITY, Taxonomy
from evaluation.study.comparability import OF_ONE_SEED, Result, mixed_changes, read_result, read_results, unlike_most
from tests.helpers import made
from tests.synthetic_results import SETTINGS, STEPS, VAL, recipe_of, write_result

ONE, TWO, THREE, FOUR, FIVE_A, FIVE_B, SIX = STAGE_NAMES[:7]
ROWS = np.full((2, 6, 6), 10)


def result(arm, seed=1, recipe=None):
    metrics, run = {"split_facts": {}}, {"recipe": recipe or recipe_of(arm, seed)}
    return Result(arm, seed, "last", Path(arm), metrics, SimpleNamespace(), run)


def changed(arm, path, value, seed=1):
    """A result of an arm with an entry of its recipe, named by its dotted path, changed or (None) taken out."""
    recipe = json.loads(json.dumps(recipe_of(arm, seed)))
    *parents, name = path.split(".")
    within = recipe
    for parent in parents:
        within = within[parent]
    within.pop(name, None)
    if value is not None:
        within[name] = value
    return result(arm, seed, recipe)


@pytest.mark.parametrize(
    ("mine", "theirs", "component"),
    [
        (result(TWO), result(ONE), "tiles"),
        (result(THREE), result(TWO), "sampler"),
        (result(FOUR), result(THREE), "cropper"),
        (result(FIVE_B), result(FOUR), "init"),
        (result(FIVE_B), result("control_5b_from_stage1"), "init"),
        (result(SIX), result(FIVE_B), "loss.kd"),
        (result(SIX), result("control_kd_uniform"), "loss.kd.remap"),
        (result(SIX), result(ONE), None),
        (changed(TWO, "tiles.digest", "other"), result(TWO), "tiles"),
    ],
)
def test_runs_that_differ_in_the_component_alone_are_compared(mine, theirs, component):
    assert mixed_changes(mine, theirs, component) is None


@pytest.mark.parametrize(
    ("mine", "theirs", "component", "reason"),
    [
        (result(TWO), result(TWO), "tiles", "in nothing"),
        (result(THREE), result(TWO), "cropper", "also in sampler.kind, sampler.sha256"),
        (changed(FOUR, "sampler.sha256", "other"), result(THREE), "cropper", "also in sampler.sha256"),
        (changed(FIVE_B, "loss.hard.dice", None), result(FOUR), "init", "also in loss.hard.dice"),
        (changed(FIVE_B, "loss.more", 1), result(FOUR), "init", "also in loss.more"),
        (changed(SIX, "loss.hard.dice", 2), result(FIVE_B), "loss.kd", "also in loss.hard.dice"),
        (changed(SIX, "loss.kdx", 2), result(FIVE_B), "loss.kd", "also in loss.kdx"),
        (changed("control_kd_uniform", "loss.kd.alpha", 0.5), result(SIX), "loss.kd.remap", "also in loss.kd.alpha"),
        (changed(TWO, "init.weights", "imagenet"), result(ONE), "tiles", "also in init.weights"),
    ],
)
def test_runs_that_differ_in_more_or_in_nothing_are_not(mine, theirs, component, reason):
    said = mixed_changes(mine, theirs, component)
    assert said == f"{mine.arm} seed 1 differs from {theirs.arm} {reason}, expected {component} alone"


def things(*keys):
    return [SimpleNamespace(arm=f"{place}", seed=place, folder=place, key=key) for place, key in enumerate(keys)]


@pytest.mark.parametrize(
    ("keys", "others"),
    [("aab", [2]), ("baa", [0]), ("abab", [1, 3]), ("abb", [0]), ("abcc", [0, 1]), ("a", []), ("", [])],
)
def test_what_is_unlike_most_is_found_and_of_equally_many_the_first_count(keys, others):
    found = unlike_most(things(*keys), lambda thing: thing.key, lambda thing, most: f"{thing.key} for {most.key}")
    assert list(found) == others
    for place, out in found.items():
        assert (out.arm, out.seed) == (str(place), place) and out.reason.startswith(f"{keys[place]} for ")
        assert keys.count(out.reason[-1]) == max(keys.count(key) for key in keys)


def test_three_entries_of_a_recipe_are_of_its_seed():
    assert OF_ONE_SEED == ("sampler.sha256", "init.digest", "loss.kd.teacher_digest")


def reasons(root):
    return [out.reason for out in read_results([made(root / VAL)])[1]]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"checkpoint_digest": "another"}, "metrics.json and tile_confusions.npz are of two evaluations"),
        ({"split_digest": "another"}, "metrics.json and tile_confusions.npz are of two evaluations"),
        (
            {"taxonomy": BIODIVERSITY.to_json() | {"classes": ["Background", *BIODIVERSITY.classes[:0:-1]]}},
            "metrics.json and tile_confusions.npz are of two evaluations",
        ),
        ({"which": "best"}, f"is of {ONE} seed 1 best.pt"),
        ({"seed": 2}, f"is of {ONE} seed 2 last.pt"),
        ({"stage": TWO}, f"is of {TWO} seed 1 last.pt"),
        ({"split": "test"}, "is of the test split; stages are compared on val alone"),
        ({"cumulative_steps": -1}, "is not of this project"),
    ],
)
def test_files_of_two_evaluations_or_of_another_run_are_refused(tmp_path, changes, message):
    folder = write_result(tmp_path, ONE, 1, ROWS)
    read_result(made(folder), ONE, 1, "last")
    metrics = json.loads((folder / "metrics.json").read_text())
    (folder / "metrics.json").write_text(json.dumps(metrics | changes))
    with pytest.raises(UserError, match=message):
        read_result(made(folder), ONE, 1, "last")


@pytest.mark.parametrize("lacking", ["settings", "recipe"])
def test_a_run_without_its_settings_or_recipe_is_left_out(tmp_path, lacking):
    folder = write_result(tmp_path, ONE, 1, ROWS)
    run = json.loads((folder / "run.json").read_text())
    del run[lacking]
    (folder / "run.json").write_text(json.dumps(run))
    (reason,) = reasons(tmp_path)
    assert reason.startswith(f"{folder / 'run.json'} is not of this project: it has no {lacking}")


def write_arms(root, *arms, seeds=(1, 2)):
    for arm in arms:
        for seed in seeds:
            write_result(root, arm, seed, ROWS)


def test_a_setting_that_only_one_run_has_is_a_difference(tmp_path):
    write_arms(tmp_path, ONE, TWO)
    write_result(tmp_path, TWO, 2, ROWS, settings=SETTINGS | {"ema": 0.99})
    assert reasons(tmp_path) == [f"{TWO} seed 2 was trained with ema 0.99 (most: None)"]
    write_result(tmp_path, TWO, 2, ROWS, settings={key: value for key, value in SETTINGS.items() if key != "lr"})
    assert reasons(tmp_path) == [f"{TWO} seed 2 was trained with lr None (most: 0.001)"]


@pytest.mark.parametrize("more", [{"steps": STEPS + 1}, {"steps": STEPS - 1}, {"crops": 8 * STEPS + 1}])
def test_a_budget_that_differs_by_one_is_refused(tmp_path, more):
    write_arms(tmp_path, ONE, TWO)
    write_result(tmp_path, TWO, 2, ROWS, **({"crops": 8 * STEPS} | more))
    (reason,) = reasons(tmp_path)
    assert f"{TWO} seed 2 has seen " in reason and "but 20 and 160 were expected" in reason


def test_arms_of_two_trainings_have_twice_the_budget_and_no_other(tmp_path):
    write_arms(tmp_path, ONE, TWO, FIVE_A, FIVE_B, "control_5b_from_stage1")
    assert reasons(tmp_path) == []
    write_result(tmp_path, FIVE_B, 2, ROWS, steps=STEPS, crops=8 * STEPS)
    assert reasons(tmp_path) == [
        f"{FIVE_B} seed 2 has seen 20 steps and 160 crops with those of its ancestors, but 40 and 320 were expected"
    ]


def test_seeds_may_differ_in_what_comes_from_their_own_seed_and_in_nothing_else(tmp_path):
    write_arms(tmp_path, ONE, TWO, THREE, FOUR, FIVE_A, FIVE_B, SIX, seeds=(1, 2, 3))
    assert reasons(tmp_path) == []
    recipe = recipe_of(THREE, 3)
    recipe["sampler"]["alpha"] = 2
    write_result(tmp_path, THREE, 3, ROWS, recipe=recipe)
    assert reasons(tmp_path) == [f"{THREE} seed 3 was trained with another sampler.alpha than most runs of its stage"]


def test_a_run_of_another_ancestor_is_left_out_and_one_whose_ancestor_was_not_scored_is_not(tmp_path):
    write_arms(tmp_path, ONE, TWO, FIVE_B)
    assert reasons(tmp_path) == []  # 5A was not scored
    write_result(tmp_path, FIVE_A, 2, ROWS, checkpoint_digest="trained again")
    assert reasons(tmp_path) == [f"{FIVE_B} seed 2 starts from another {FIVE_A} than the one that is scored here"]


def test_a_run_is_left_out_with_the_run_that_it_starts_from(tmp_path):
    write_arms(tmp_path, ONE, TWO, THREE, FIVE_A, FIVE_B, SIX)
    write_result(tmp_path, FIVE_A, 2, ROWS, settings=SETTINGS | {"lr": 1})
    left_out = {(out.arm, out.seed): out.reason for out in read_results([made(tmp_path / VAL)])[1]}
    assert left_out == {
        (FIVE_A, 2): f"{FIVE_A} seed 2 was trained with lr 1 (most: 0.001)",
        (FIVE_B, 2): f"{FIVE_B} seed 2 starts from {FIVE_A} seed 2, which is left out",
        (SIX, 2): f"{SIX} seed 2 starts from {FIVE_A} seed 2, which is left out",
    }


def test_best_is_left_out_with_the_last_of_its_run(tmp_path):
    write_arms(tmp_path, ONE, TWO)
    for seed in (1, 2):
        write_result(tmp_path, TWO, seed, ROWS, which="best")
    write_result(tmp_path, TWO, 2, ROWS, settings=SETTINGS | {"lr": 1})
    results, _ = read_results([made(tmp_path / VAL)])
    assert [(r.arm, r.seed, r.which) for r in results] == [
        (ONE, 1, "last"),
        (ONE, 2, "last"),
        (TWO, 1, "last"),
        (TWO, 1, "best"),
    ]


def test_results_on_other_ground_do_not_decide_what_is_usual(tmp_path):
    """Of five runs the two on other tiles, which agree in lr 1, are left out first; then lr 0.001 is that of most."""
    write_arms(tmp_path, ONE)
    for arm in (TWO, THREE):
        write_result(tmp_path, arm, 1, ROWS, split_digest="other tiles", settings=SETTINGS | {"lr": 1})
    write_result(tmp_path, FOUR, 1, ROWS, settings=SETTINGS | {"lr": 1})
    found = reasons(tmp_path)
    assert [name for name in STAGE_NAMES if any(name in reason for reason in found)] == [TWO, THREE, FOUR]
    assert sum("was scored on other val tiles than most" in reason for reason in found) == 2
    assert f"{FOUR} seed 1 was trained with lr 1 (most: 0.001)" in found


def test_the_scores_of_a_result_come_from_its_counts(tmp_path):
    folder = write_result(tmp_path, ONE, 1, ROWS, mIoU=0.99, OA=0.99)
    found = read_result(made(folder), ONE, 1, "last").scores
    # of each class 10 of 60 labelled pixels are right, and 40 labelled ones of other classes are taken for it
    assert (found["mIoU"], found["OA"]) == (pytest.approx(10 / 100), pytest.approx(10 / 60))
    assert (found["boundary mIoU"], found["ECE"]) == (1.0, 0.0)


def test_a_taxonomy_of_other_names_is_other_ground(tmp_path):
    write_arms(tmp_path, ONE, TWO)
    rows = {name: {"a": 1.0} for name in BIODIVERSITY.from_openearthmap}
    renamed = Taxonomy(("Background", *"abcde"), BIODIVERSITY.colors, rows)
    write_result(tmp_path, TWO, 2, ROWS, taxonomy=renamed)
    (reason,) = reasons(tmp_path)
    assert "was scored on other classes, or classes in another order, than most" in reason
