"""Checks that catch a void comparison: each fires on results made for it, and is silent on sound ones."""

import json

import numpy as np
import pytest

from common.files import write_json
from common.stages import STAGE_NAMES
from common.taxonomy import BIODIVERSITY
from evaluation.aggregate_metrics import checks, parts_of
from evaluation.scoring.agreement import describe_pair, pair_counts, read_agreement
from evaluation.study import void_checks
from evaluation.study.comparability import read_result, read_results
from evaluation.study.comparisons import DESCRIPTIVE, PLANNED
from evaluation.study.evidence import gather
from evaluation.study.void_checks import Curve
from evaluation.study.wording import sentence
from tests.evaluation.report_parts import section
from tests.helpers import made
from tests.synthetic_results import VAL, checkpoint_digest, recipe_of, write_result

ONE, TWO, FIVE_A, FIVE_B = (STAGE_NAMES[i] for i in (0, 1, 4, 5))
ALL = PLANNED + DESCRIPTIVE
SEEDS = (42, 43)
STEPS = (70, 140, 210, 280)
STEADY = (0.3, 0.4, 0.5, 0.5)


def counts_of(place, blocks=3):
    """(B, C, C) counts of blocks that are right on most pixels, unlike those of another place."""
    right = 60 + np.arange(6) + 2 * place
    return np.tile(np.where(np.eye(6), right, (100 - right[:, None]) / 5), (blocks, 1, 1)) * (np.arange(6) > 0)[:, None]


def complete(folder, start, **curves):
    """Put beside a result what later versions record: the digest of its start, and curves of classes."""
    run = json.loads((folder / "run.json").read_text())
    write_json(folder / "run.json", run | {"initial_digest": start})
    of_class = {name: curves.get(name, STEADY) for name in BIODIVERSITY.foreground}
    lines = [["step", "loss", *(f"IoU {name}" for name in of_class)]]
    lines += [[step, 1.0, *(values[i] for values in of_class.values())] for i, step in enumerate(STEPS)]
    (folder / "history.csv").write_text("".join(",".join(map(str, line)) + "\n" for line in lines))


def start_of(arm, seed):
    return checkpoint_digest(FIVE_A, seed) if arm == FIVE_B else f"random network of seed {seed}"


@pytest.fixture
def study(tmp_path):
    """Sound results of four arms with two seeds, without agreement."""
    for place, arm in enumerate((ONE, TWO, FIVE_A, FIVE_B)):
        for seed in SEEDS:
            complete(write_result(tmp_path, arm, seed, counts_of(place)), start_of(arm, seed))
    return tmp_path


def folder_of(root, arm, seed=42):
    return root / VAL / arm / f"seed{seed}"


def found(root, check=void_checks.void_comparisons):
    results, left_out = read_results([made(root / VAL)])
    assert left_out == []
    return check(results, ALL)


def write_agreement(root, mine, theirs, seed=42, *, alike=None, mine_right=0, theirs_right=0, different=0, **changes):
    """agreement.json of two arms: pixels on which both say a class, and of class 1 those of the other cases."""
    by_truth = {"mine_right": mine_right, "theirs_right": theirs_right, "different": different}
    of_pair = {
        "checkpoint_digest": checkpoint_digest(theirs, seed),
        "alike": (np.zeros((6, 6), int) if alike is None else np.asarray(alike)).tolist(),
        **{name: [0, pixels, 0, 0, 0, 0] for name, pixels in by_truth.items()},
    }
    content = {"split_digest": "the same tiles", "checkpoint_digest": checkpoint_digest(mine, seed)}
    write_json(folder_of(root, mine, seed) / "agreement.json", content | {"with": {theirs: of_pair}} | changes)


def test_sound_results_raise_no_objection(study):
    assert found(study) == []
    write_agreement(study, TWO, ONE, alike=np.diag([0, 9, 9, 9, 9, 9]), mine_right=1, theirs_right=1)
    assert found(study) == []


def test_what_was_chosen_on_val_is_not_looked_at(study):
    for arm in (ONE, TWO):
        write_result(study, arm, 42, counts_of(0), which="best")
        write_result(study, arm, 43, without_class(0, 4), which="best")
    assert found(study) == []


def test_an_arm_that_predicts_what_its_opponent_predicts_is_named_with_the_runs(study):
    complete(write_result(study, TWO, 43, counts_of(0)), start_of(TWO, 43))
    (sentence,) = found(study)
    assert sentence.startswith(f"{TWO} predicts exactly what {ONE} predicts in seed 43: their comparison is void there")
    complete(write_result(study, TWO, 42, counts_of(0)), start_of(TWO, 42))
    (sentence,) = found(study)
    assert f"{ONE} predicts in seed 42, seed 43:" in sentence


def test_arms_that_are_not_compared_may_predict_the_same(study):
    complete(write_result(study, FIVE_B, 42, counts_of(1)), start_of(FIVE_B, 42))  # as stage 2
    assert found(study) == []


@pytest.mark.parametrize("case", ["mine_right", "theirs_right", "different"])
def test_one_pixel_that_differs_by_the_predictions_outweighs_equal_counts(study, case):
    complete(write_result(study, TWO, 42, counts_of(0)), start_of(TWO, 42))
    assert len(found(study)) == 1
    write_agreement(study, TWO, ONE, alike=np.diag([0, 9, 9, 9, 9, 9]), **{case: 1})
    assert found(study) == []
    write_agreement(study, TWO, ONE, alike=np.full((6, 6), 9))
    assert len(found(study)) == 1


def test_initial_weights_that_should_agree_are_named_by_run(study):
    complete(folder_of(study, TWO, 43), "another network")
    (sentence,) = found(study)
    assert sentence.startswith(f"seed 43: {TWO} did not start from the weights of {ONE}, {FIVE_A}, as the recipes say")


def test_an_arm_starts_from_the_very_checkpoint_that_its_recipe_names(study):
    complete(folder_of(study, FIVE_B), start_of(ONE, 42))
    (sentence,) = found(study)
    assert sentence.startswith(f"seed 42: {FIVE_B} did not start from the weights of {FIVE_A}, as the recipes say")


def test_arms_of_another_encoder_need_not_start_alike(tmp_path):
    for place, arm in enumerate((ONE, TWO)):
        recipe = recipe_of(arm, 42) | {"init": {"kind": "encoder", "weights": arm}}
        complete(write_result(tmp_path, arm, 42, counts_of(place), recipe=recipe), f"start of {arm}")
    assert found(tmp_path) == []


def without_class(place, label, pixels=0):
    """``counts_of``, in which ``pixels`` of 100 a block of a class are right and the others are taken for class 1."""
    counts = counts_of(place)
    counts[:, :, 1] += counts[:, :, label]
    counts[:, :, label] = 0
    counts[:, label, label], counts[:, label, 1] = pixels, counts[:, label, 1] - pixels
    return counts


def test_a_class_that_ends_at_zero_in_every_run_is_named_with_its_highest_curve(study):
    name = BIODIVERSITY.classes[4]
    for seed, curve in zip(SEEDS, ((0.0, 0.004, 0.0, 0.0), (0.0, 0.021, 0.003, 0.0)), strict=True):
        complete(write_result(study, TWO, seed, without_class(1, 4)), start_of(TWO, seed), **{name: curve})
        sentences = found(study)
        assert len(sentences) == (seed == 43)  # with the first seed alone it is not so in every run
    assert sentences == [
        f"{name} ends at 0 IoU (below 0.5 %) in every run of {TWO}. Where it stood highest, {TWO} seed 43: "
        "0.0 2.1 0.3 0.0 % at steps 70 140 210 280"
    ]
    (folder_of(study, TWO, 42) / "history.csv").unlink()
    (folder_of(study, TWO, 43) / "history.csv").write_text("step\n")
    assert found(study) == [f"{name} ends at 0 IoU (below 0.5 %) in every run of {TWO}"]


@pytest.mark.parametrize(("pixels", "fires"), [(0.4, True), (0.6, False)])
def test_zero_is_what_rounds_to_no_percent(study, pixels, fires):
    counts = 1000 * without_class(1, 4, pixels)
    for seed in SEEDS:
        complete(write_result(study, TWO, seed, counts), start_of(TWO, seed))
    assert bool(found(study)) == fires


def test_a_class_that_collapses_between_middle_and_end_is_named_with_its_curve(study):
    name = BIODIVERSITY.classes[4]
    complete(folder_of(study, TWO), start_of(TWO, 42), **{name: (0.121, 0.304, 0.04, 0.1)})
    assert found(study) == [
        f"{name} collapses in {TWO}, to less than a third of its IoU in the middle of training. seed 42: "
        "12.1 30.4 4.0 10.0 % at steps 70 140 210 280"
    ]


@pytest.mark.parametrize(
    ("values", "fires"),
    [
        ((0.9, 0.3, 0.2, 0.099), True),
        ((0.9, 0.3, 0.2, 0.101), False),  # a third is left; what was before the middle does not count
        ((0.0, 0.049, 0.0, 0.0), False),  # never learned
        ((0.0, 0.05, 0.0, 0.0), True),
        ((0.0, 0.0, 0.6, 0.1), False),
    ],
)
def test_what_is_called_a_collapse(values, fires):
    assert Curve(list(STEPS), list(values)).collapses is fires


def test_the_middle_is_the_validation_nearest_to_half_of_the_steps():
    assert Curve([100, 110, 120, 200], [0.0, 0.0, 0.0, 0.0]).middle == 0
    assert Curve([10, 90, 110, 200], [0.0] * 4).middle == 1  # the earlier of two
    assert Curve([200], [0.5]).collapses is False


@pytest.mark.parametrize("highest", [13000, 14000])
def test_a_long_curve_is_shown_in_parts_with_its_middle_its_highest_and_its_ends(highest):
    steps = list(range(1000, 41000, 1000))
    values = [0.9 if step == highest else step / 100_000 for step in steps]
    text = str(Curve(steps, values))
    shown = [int(step) for step in text.partition(" at steps ")[2].split()]
    assert 12 <= len(shown) <= 14 and {1000, highest, 20000, 40000} <= set(shown)
    assert text.split(" % ")[0].split() == ["90.0" if step == highest else f"{step / 1000:.1f}" for step in shown]


def in_fold(root, fold, arm, place):
    """A result of fold 1 or 2, each of which is a root of its own with a seed and val tiles of its own."""
    seed, below = 41 + fold, root / "folds" / str(fold)
    facts = {"tiles": 3, "blocks": 3, "strategy": "blocks", "blocks_shared_with_train": 0}
    facts["fold"] = {"fold": fold, "folds": 2, "repeat": 1, "seed": 42}
    counts = counts_of(place, blocks=2 + fold)
    folder = write_result(below, arm, seed, counts, split_facts=facts, split_digest=f"val of {fold}")
    complete(folder, start_of(arm, seed))
    return read_result(made(folder), arm, seed, "last")


def test_runs_may_be_folds_with_tiles_of_their_own(tmp_path):
    sound = [in_fold(tmp_path, fold, arm, place) for fold in (1, 2) for place, arm in enumerate((ONE, TWO))]
    assert void_checks.void_comparisons(sound, ALL) == []
    void = [*sound[:3], in_fold(tmp_path, 2, TWO, 0)]
    (sentence,) = void_checks.void_comparisons(void, ALL)
    assert f"{TWO} predicts exactly what {ONE} predicts in fold 2 seed 43:" in sentence


# How far two networks agree where both are wrong


def test_pixels_are_counted_by_who_is_right():
    truth, mine, theirs = np.array(
        [[1, 1, 1, 1, 2, 2, 3, 0], [1, 1, 2, 2, 1, 1, 1, 1], [1, 2, 1, 2, 1, 2, 2, 1]], np.uint8
    ).reshape(3, 2, 4)
    counts = describe_pair(pair_counts(truth, mine, theirs, 4))
    assert counts["alike"] == [[0] * 4, [0, 1, 1, 0], [0, 1, 0, 0], [0] * 4]  # void counts nowhere
    assert counts["mine_right"] == [0, 1, 0, 0] and counts["theirs_right"] == [0, 1, 1, 0]
    assert counts["different"] == [0, 0, 0, 1]


def one_class(as_two, as_three):
    """Counts of one block with 100 pixels of class 1, some taken for classes 2 and 3, and 100 of class 2, all right."""
    counts = np.zeros((1, 6, 6))
    counts[0, 1, 1:4] = 100 - as_two - as_three, as_two, as_three
    counts[0, 2, 2] = 100
    counts[0, 0, 1] = 50
    return counts


@pytest.fixture
def erring(tmp_path):
    """Stage 2 errs on 20 of 100 pixels and stage 1 on 40 of them; both on 10, of which they take 7 for class 2."""
    complete(write_result(tmp_path, TWO, 42, one_class(10, 10)), start_of(TWO, 42))
    complete(write_result(tmp_path, ONE, 42, one_class(30, 10)), start_of(ONE, 42))
    alike = np.zeros((6, 6), int)
    alike[1, 1:4] = 50, 7, 1
    alike[2, 2] = 100
    write_agreement(tmp_path, TWO, ONE, alike=alike, mine_right=30, theirs_right=10, different=2)
    return tmp_path


def test_agreement_against_the_labels_stands_beside_what_chance_would_bring(erring):
    header, (row,) = found(erring, void_checks.agreement_table)
    assert len(header) == len(row)
    # 8 of 200 pixels by chance: 100 · 0.2 · 0.4; of both wrong alike: 0.5 · 0.75 + 0.5 · 0.25
    names = BIODIVERSITY.classes
    assert row == [TWO, ONE, 1, "5.0", "4.0", "80.0", "50.0", f"{names[1]} as {names[2]} 87.5"]
    text = found(erring, void_checks.ceiling_in_words)
    assert text.startswith("On at least 4.0 % of the labelled pixels") and "between 96.0 % (all" in text


def test_agreement_is_summed_over_the_runs_that_have_it(erring):
    for arm, counts in ((TWO, one_class(0, 20)), (ONE, one_class(0, 20))):
        complete(write_result(erring, arm, 43, counts), start_of(arm, 43))
    alike = np.zeros((6, 6), int)
    alike[1, 1:4], alike[2, 2] = (70, 0, 10), 100
    write_agreement(erring, TWO, ONE, 43, alike=alike, mine_right=10, theirs_right=10)
    _, (row,) = found(erring, void_checks.agreement_table)
    assert row[2:7] == [2, "5.0", "3.0", "90.0", "75.0"]  # 20 of 400, 8 + 4 by chance, 18 and 5 + 10 of 20 alike


def test_networks_without_a_common_error_have_dashes(erring):
    write_agreement(erring, TWO, ONE, alike=np.diag([0, 40, 100, 0, 0, 0]), mine_right=40, theirs_right=20)
    _, (row,) = found(erring, void_checks.agreement_table)
    assert row[3:] == ["0.0", "4.0", "-", "-", "-"]


@pytest.mark.parametrize(
    "changes",
    [
        {"split_digest": "other tiles"},
        {"checkpoint_digest": "trained again"},
        {"with": {}},
        {"with": 5},
        {"with": {ONE: {"checkpoint_digest": "x"}}},
    ],
)
def test_agreement_of_something_else_is_not_recorded(erring, changes):
    write_agreement(erring, TWO, ONE, **changes)
    assert found(erring, void_checks.agreement_table)[1] == [] and found(erring, void_checks.ceiling_in_words) is None
    assert found(erring, void_checks.not_recorded) == [
        f"agreement not recorded, score again: {TWO} with {ONE}, seed 42",
    ]


def test_agreement_with_an_opponent_that_was_trained_again_is_not_recorded(erring):
    write_result(erring, ONE, 42, one_class(30, 10), checkpoint_digest="trained again")
    assert found(erring, void_checks.agreement_table)[1] == []


def test_agreement_of_other_classes_or_none_is_not_read(erring):
    path = folder_of(erring, TWO) / "agreement.json"
    assert read_agreement(path, 6) and read_agreement(path, 5) is None and read_agreement(path / "x", 6) is None
    path.write_text("{")
    assert read_agreement(path, 6) is None


def test_an_arm_that_is_not_trained_lacks_no_start_and_no_curve(tmp_path):
    write_result(tmp_path, "rival_logit_adjustment", 42, counts_of(0))
    assert found(tmp_path, void_checks.not_recorded) == []
    write_result(tmp_path, ONE, 42, counts_of(0))
    assert "rival_logit_adjustment seed 42," not in str(found(tmp_path, void_checks.not_recorded))
    assert f"{ONE} seed 42" in str(found(tmp_path, void_checks.not_recorded))


def test_results_of_earlier_versions_are_compared_and_what_they_lack_is_told(tmp_path):
    for place, arm in enumerate((ONE, TWO)):
        for seed in SEEDS:
            write_result(tmp_path, arm, seed, counts_of(place))
    assert found(tmp_path) == []
    runs = ", ".join(f"{arm} seed {seed}" for arm in (ONE, TWO) for seed in SEEDS)
    assert found(tmp_path, void_checks.not_recorded) == [
        f"initial weights not recorded by the version that trained {runs}",
        f"curves of classes not recorded, score again: {runs}",
        f"agreement not recorded, score again: {TWO} with {ONE}, seed 42, {TWO} with {ONE}, seed 43",
    ]


def test_the_summary_says_what_was_looked_for_and_warnings_what_was_found(erring):
    part = found(erring, checks)
    assert part.lines[0].endswith("Found: none.") and "ceiling" in part.lines[-1]
    assert len(part.table[1]) == 1 and part.items == []
    complete(folder_of(erring, ONE), "another network")
    assert found(erring, checks).lines[0].endswith("Found: 1 case, see the warnings.")
    cautions = gather(*read_results([made(erring / VAL)])).cautions
    assert sum("did not start from the weights of" in caution for caution in cautions) == 1


def test_the_checks_are_a_part_of_the_summary_and_of_the_report(study):
    write_agreement(study, TWO, ONE, alike=np.diag([0, 9, 9, 9, 9, 9]) + 1, mine_right=1, theirs_right=1)
    evidence = gather(*read_results([made(study / VAL)]))
    part = next(part for part in parts_of(evidence, study / VAL, "python -m x") if part.title == "Checks")
    page = section("checks", evidence)
    for text in (*part.lines, *map(str, part.table[1][0]), *map(sentence, part.items)):
        assert text in page
    assert len(part.items) == 1 and f"{TWO} with {ONE}, seed 43" in part.items[0]
