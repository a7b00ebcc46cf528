"""Parts of the report, one by one: each number stands in its row and column, and a caution where one is due."""

import json
import os
import re
from html import unescape
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from common.files import write_json
from common.stages import CONTROLS
from common.taxonomy import BIODIVERSITY
from common.text import hundredths
from evaluation.report import pictures
from evaluation.scoring.usage_log import TEST_LOG, read_test_log
from evaluation.study import on_test, overview, records, tables, wording
from evaluation.study.comparisons import COMPONENTS, MINORITY, PRIMARY
from evaluation.study.evidence import Finding
from evaluation.study.intervals import Estimate
from tests.evaluation.report_parts import (
    ARGS,
    ARMS,
    FACTS,
    FIVE_A,
    FIVE_B,
    FOREGROUND,
    FOUR,
    ONE,
    SIX,
    THREE,
    TWO,
    arm,
    evidence_of,
    plain,
    rows,
    scores_of,
    section,
)
from tests.helpers import made
from tests.synthetic_results import KNOWN, finding_of


def test_words_for_digests_times_and_shares():
    assert records.short("0123456789abcdef") == "0123456789ab" and records.short("0123456789abcdef-dirty").endswith(
        "b-dirty"
    )
    assert [records.minutes(s) for s in (None, 90, 6000)] == [None, "1.5 min", "100.0 min"]
    assert [hundredths(v) for v in (None, 0.4567, 0)] == ["-", "45.7", "0.0"]
    assert records.value_text({"kind": "minority", "p": 0.5, "of": [1, 2]}) == "minority, p 0.5, of 1 2"
    assert records.value_text("a" * 64) == "a" * 12 and records.value_text(0.00012345) == "0.000123"
    assert records.part_text({"kind": "minority", "classes": [4, 5]}, BIODIVERSITY) == (
        "minority, classes Settlement Seminatural"
    )


@pytest.mark.parametrize(
    ("finding", "sign"),
    [
        (finding_of(TWO, ONE, 0.05, p_holm=0.01), "▲ gain shown"),
        (finding_of(TWO, ONE, -0.05, p_holm=0.01), "▼ loss shown"),
        (finding_of(TWO, ONE, 0.05, p=0.001, p_holm=0.2), "? not shown"),
        (finding_of(TWO, ONE, 0.001, p_holm=0.8, equivalent=True), "≈ equivalent within ±1 point"),
        (finding_of(TWO, ONE, 0.05, seeds=(1, 2, 3)), "? screening"),
        (finding_of(TWO, ONE, 0.05, None), "? no interval"),
        (finding_of(FIVE_A, ONE, 0.05), "described"),
        (Finding(KNOWN[TWO, ONE], missing="x"), "– not compared"),
    ],
)
def test_a_finding_has_a_sign_that_follows_its_verdict(finding, sign):
    assert wording.mark(finding) == sign


@pytest.mark.parametrize(
    ("finding", "said"),
    [
        (finding_of(TWO, ONE, 0.05, p_holm=0.01), "mIoU is shown to rise by 5.0 points (95 % interval +3.8 to "),
        (finding_of(TWO, ONE, -0.05, p_holm=0.01), "mIoU is shown to fall by 5.0 points (95 % interval −6.2 "),
        (finding_of(TWO, ONE, 0.01, p_holm=0.2), "no change of mIoU is shown (+1.0 points, 95 % interval −0.2"),
        (finding_of(TWO, ONE, 0.001, p_holm=0.8, equivalent=True), "mIoU is shown to change by less than 1 point ("),
        (finding_of(TWO, ONE, 0.05, seeds=(1, 2, 3)), "+6.2), but 3 seeds are too few for a test."),
        (finding_of(TWO, ONE, -0.05, None), "mIoU falls by 5.0 points, without an interval."),
        (finding_of(TWO, ONE, 0.0, 0.0), "mIoU is the same in every block, so that nothing was compared."),
        (finding_of(FIVE_A, ONE, 0.05), "mIoU rises by 5.0 points (95 % interval +3.8 to +6.2), which is not tested."),
        (Finding(KNOWN[TWO, ONE], missing="2 not run"), "Stage 2 and stage 1 are not compared: 2 not run."),
    ],
)
def test_a_verdict_in_short_is_one_sentence(finding, said):
    text = wording.verdict_in_short(finding)
    assert said in text and text.startswith(("With stage 2 in place of stage 1, ", "With stage 5A", "Stage 2 and"))


def test_confusions_of_a_training_are_shares_of_its_true_classes():
    header, found_rows = tables.confusions(arm(TWO, [0.3], (1,)).last[1])
    assert header == ["true class", *(f"as {name}" for name in FOREGROUND), "IoU", "boundary IoU", "pixels"]
    assert found_rows[0][:6] == ["Forest", 1, 0, 0, 0, 0] and found_rows[2][:6] == ["Cropland", 0.25, 0, 0.75, 0, 0]
    assert found_rows[2][6:] == ["52.0", "100.0", "8"]


@pytest.fixture
def no_figures(monkeypatch):
    """Sections without their figures, which have tests of their own."""
    monkeypatch.setattr(overview, "differences", lambda *_: None)
    monkeypatch.setattr(pictures, "study_figure", lambda *_: (None, False))


def test_the_stages_are_ranked_and_the_highest_of_each_column_is_bold(no_figures):
    html = section("components", evidence_of(*ARMS))
    header, *found_rows = rows(html)
    assert header == (
        ["stage", "rank", "seeds", "mIoU", MINORITY, "mF1", "OA", "best − last", "steps", "boundary mIoU", "ECE"]
    )
    assert [row[:3] for row in found_rows[:3]] == [
        ["3 + Difficulty sampling", "1", "3"],
        ["1 Baseline", "2", "3"],
        ["2 + Replication", "3", "3"],
    ]
    for row, miou in zip(found_rows[:3], (70, 40, 20), strict=True):
        means = [float(row[3 + n].split(" ± ")[0]) for n in range(4)]
        assert means == pytest.approx([miou, miou - 3, miou - 1, miou - 2])
        assert row[7:] == ["-", "20", "33.0", "4.4"]
    assert [row[:2] for row in found_rows[3:]] == [
        [name, "not run"] for name in ("4 + Minority crop", "5A OEM pretraining", "5B Finetuned from 5A",
                                       "6 + Distillation")
    ]  # fmt: skip
    assert re.findall("<b>(.*?)</b>", html) == ["70.0", "67.0", "69.0", "68.0"]
    assert "<b>" not in section("components", evidence_of(ARMS[0]))


def test_the_classes_of_each_stage_are_those_of_its_row_and_column(no_figures):
    html = section("classes", evidence_of(*ARMS))
    header, *found_rows = rows(html)
    assert header == ["stage", *(name + (" *" if name in ("Settlement", "Seminatural") else "") for name in FOREGROUND)]
    assert [row[0] for row in found_rows] == ["3 + Difficulty sampling", "1 Baseline", "2 + Replication"]
    for row, miou in zip(found_rows, (70, 40, 20), strict=True):
        classes = [float(cell.split(" ± ")[0]) for cell in row[1:]]
        assert classes == pytest.approx([miou - n for n in range(4, 9)])
    assert re.findall("<b>(.*?)</b>", html) == ["66.0", "65.0", "64.0", "63.0", "62.0"]


def test_the_tables_of_comparisons_follow_the_families(monkeypatch, no_figures):
    finding = finding_of(FOUR, ONE, 0.05, 0.02, p=0.004, p_holm=0.016, smallest=0.04, needed=4, better=0.987)
    finding.estimates[MINORITY] = Estimate(-0.01, 0.03, 0.5, 5, 12, smallest=0.06)
    finding.corrected[MINORITY] = 1.0
    monkeypatch.setattr(overview, "ranking", lambda _: ([""], [], []))  # has a test of its own
    lacking = Finding(KNOWN[TWO, ONE], missing="x", family=COMPONENTS)
    descriptive = [finding_of(FIVE_B, FOUR, 0.05)]
    evidence = evidence_of(*ARMS, planned=[finding, lacking], descriptive=descriptive, minority=["Settlement"])
    html = section("components", evidence)
    assert [row for row in rows(html) if row != [""]] == [
        [*("difference", "to", "metric", "seeds", "points", "p", "p corrected", "finding"),
         *("could show", "needed", "P(better)")],
        ["4 + Minority crop", "1 Baseline", "mIoU", "5", "+5.0 [+3.0, +7.0]", "0.004", "0.016", "shown", "4.0", "4",
         "0.99"],
        ["4 + Minority crop", "1 Baseline", MINORITY, "5", "−1.0 [−4.0, +2.0]", "0.500", "1.000", "not shown", "6.0",
         "-", "-"],
        ["difference", "to", "seeds", "mIoU", MINORITY, "remark"],
        ["5B Finetuned from 5A", "4 + Minority crop", "5", "+5.0 [+3.8, +6.2]", "-", "twice the steps"],
    ]  # fmt: skip
    captions = [plain(found) for found in re.findall("<caption>(.*?)</caption>", html)]
    assert captions[0].startswith("Primary comparisons: what the recipe as a whole brings at an equal number of steps")
    assert captions[0].endswith("corrected over 4 tests") and captions[-1].startswith("Described, not tested")
    assert len(captions) == 3 and "How to read the numbers" in html


def test_each_seed_has_its_own_row_with_its_best_beside_it():
    scores = arm(TWO, [0.3, 0.4], (7, 8))
    scores.best[8] = SimpleNamespace(scores=scores_of(0.45), metrics={"step": 1500})
    header, first, second = [list(map(str, row)) for row in [tables.trainings(scores)[0], *tables.trainings(scores)[1]]]
    assert header[:6] == ["run", "mIoU", "mF1", "OA", "boundary mIoU", "ECE"]
    assert header[6:] == ["best.pt at step", "mIoU of best.pt", "best − last", "training"]
    assert first == ["seed 7", "30.0", "40.0", "50.0", "33.0", "4.4", "-", "-", "-", "1.0 min"]
    assert second == ["seed 8", "40.0", "50.0", "60.0", "33.0", "4.4", "1,500", "45.0", "+5.0", "2.0 min"]


def test_scores_by_class_are_means_over_seeds_beside_what_was_drawn():
    shares = {name: 0.01 * n for n, name in enumerate(FOREGROUND, 1)}
    distribution = {"classes": {name: {"share": share} for name, share in shares.items()}}
    header, found_rows = tables.classes_of(arm(TWO, [0.3, 0.4], (7, 8)), evidence_of(*ARMS), distribution)
    assert header == (
        ["class", "IoU", "F1", "precision", "recall", "share of train", "share of pixels drawn", "crops that hold it"]
    )
    assert found_rows[0] == ["Forest", "55.0", "60.0", "70.0", "80.0", "1.0", "15.0", "40.0"]
    assert found_rows[4] == ["Seminatural *", "59.0", "64.0", "74.0", "80.0", "5.0", "15.0", "40.0"]


def test_the_facts_of_a_run_name_its_one_change_and_means_over_seeds():
    said = plain(section("stages", evidence_of(arm(FOUR, [0.3, 0.4, 0.5])), distribution=None))
    assert "compared with 3 + Difficulty sampling" in said
    assert "cropper (its one change): minority, classes Settlement" in said and "sampler: weighted" in said
    assert "distinct tiles drawn (mean) 31 " in said and "crops from replicas (mean) 25.0 %" in said
    assert "unlabelled pixels drawn (mean) 12.5 %" in said and "training (mean) 2.0 min" in said
    assert "crops drawn 160" in said and "training tiles 40" in said and "steps 20 " in said
    twice = plain(section("stages", evidence_of(arm(FIVE_B, [0.3], (1,))), distribution=None))
    assert "20 of its own, 40 with those of the weights it starts from (5A OEM pretraining)" in twice
    assert "(mean)" not in twice


def test_a_mean_over_runs_is_none_where_one_lacks_the_number():
    runs = [SimpleNamespace(run={"a": {"b": value}}) for value in (1, 4)]
    assert records.mean_of(runs, "a", "b") == 2.5 and records.mean_of([], "a") is None
    assert records.mean_of([*runs, SimpleNamespace(run={"a": {}})], "a", "b") is None


def test_what_differs_between_runs_is_told_with_the_number_of_runs():
    runs = [SimpleNamespace(run=run) for run in ({"d": "x"}, {"d": "y"}, {"d": "x"}, {})]
    assert records.shared_values(runs, "d") == "x (2 runs); y (1 runs)"
    assert records.shared_values(runs[:1], "d") == "x" and records.shared_values(runs, "e") is None


def test_a_confusion_in_words_names_what_most_of_the_wrong_pixels_are_taken_for():
    confusion = np.zeros((6, 6), int)
    confusion[0, 3] = 999
    confusion[1, 1:] = [60, 10, 0, 30, 0]
    confusion[3, 3] = 7
    confusion[5, 1:] = [0, 3, 0, 0, 1]
    assert wording.confusion_in_words(confusion, BIODIVERSITY) == (
        "Forest 60% right, taken for Settlement in 30%; Cropland 100% right; "
        "Seminatural 25% right, taken for Grassland in 75%"
    )


FIVE_SEEDS = [arm(name, [0.3, 0.4, 0.5, 0.6, 0.7], (1, 2, 3, 4, 5)) for name in (ONE, TWO, FOUR)]


def test_the_report_begins_with_cautions_verdicts_and_the_first_of_the_ranking():
    primary = finding_of(FOUR, ONE, 0.05, p_holm=0.01)
    primary.estimates[MINORITY], primary.corrected[MINORITY] = Estimate(-0.07, 0.01, 0.01, 5, 12), 0.02
    evidence = evidence_of(*FIVE_SEEDS, planned=[primary, finding_of(TWO, ONE, 0.05, p_holm=0.01)])
    said = plain(section("short", evidence, cautions=["beware"]))
    assert said.startswith("Before you read a number Beware. Primary comparisons: what the recipe as a whole brings")
    assert "4 + Minority crop against 1 Baseline. With stage 4 in place of stage 1, mIoU is shown to rise by" in said
    assert "Stage 1 Baseline ranks first of 3 stages: mean IoU 50.0 ± " in said and "over 5 seeds" in said
    assert said.index("is shown to rise") < said.index("ranks first")
    assert "4 + Minority crop against 1 Baseline, minority mIoU −7.0 [−8.0, −6.0] ▼ loss shown" in said
    alone = plain(section("short", evidence, cautions=[]))
    assert "Before you read" not in alone


def test_each_comparison_of_a_family_is_told_with_its_sign(no_figures):
    primary = finding_of(FOUR, ONE, 0.05, p_holm=0.01)
    primary.estimates[MINORITY], primary.corrected[MINORITY] = Estimate(-0.07, 0.01, 0.01, 5, 12), 0.02
    evidence = evidence_of(*FIVE_SEEDS, planned=[primary, finding_of(TWO, ONE, 0.05, p_holm=0.01)])
    said = plain(section("components", evidence))
    assert "Components: what each one change brings ▲ gain shown Stage 2 gains 5.0 points of mIoU over stage 1" in said
    assert "▲ gain shown Stage 4 gains 5.0 points of mIoU" in said
    assert "▼ loss shown Stage 4 loses 7.0 points of minority mIoU" in said


def test_the_figure_of_differences_has_each_value_in_its_position():
    findings = [finding_of(FOUR, ONE, 0.05, 0.02, p_holm=0.01), finding_of(TWO, ONE, -0.03, None)]
    evidence = evidence_of(*FIVE_SEEDS)
    assert overview.differences(evidence, [(COMPONENTS, [])]) is None
    figure = overview.differences(evidence, [(PRIMARY, findings[:1]), (None, findings[1:])])
    assert [family for family, _ in figure.groups] == [PRIMARY, None]
    assert [100 * tick for tick in figure.ticks] == pytest.approx([-4, -2, 0, 2, 4, 6, 8])
    (four,), (two,) = (rows for _, rows in figure.groups)
    assert figure.at(four.value) == 75 and [figure.at(end) for end in four.interval] == pytest.approx([58.33, 91.67])
    assert figure.at(two.value) == pytest.approx(8.33) and two.interval == [] and two.pairs == [0.0] * 5
    said = plain(section("short", evidence_of(*FIVE_SEEDS, planned=findings), cautions=[]))
    assert "4 + Minority crop against 1 Baseline +5.0 [+3.0, +7.0] ▲ gain shown" in said


def command_of_best(*arms):
    return overview.best_model(evidence_of(*arms), ARGS)


def test_the_best_model_is_the_first_stage_with_the_command_that_maps_with_its_networks():
    control = arm(CONTROLS[0].name, [0.9], (7,))
    best = command_of_best(arm(ONE, [0.3, 0.4], (7, 8)), arm(TWO, [0.1, 0.2], (7, 8)), control)
    weights = "model_weights/biodiversity/stage1_baseline"
    assert str(best.command) == (
        "python -m evaluation.predict_map --image ortho.tif --out map.tif "
        f"--checkpoint {weights}/seed7/last.pt {weights}/seed8/last.pt"
    )
    assert best.networks == 2 and [arm.name for arm in best.higher] == [CONTROLS[0].name]
    chosen = arm(SIX, [0.3, 0.4], (7, 8))
    chosen.best[8] = SimpleNamespace(fold=None)
    best = command_of_best(chosen)
    assert str(best.command).endswith("--checkpoint model_weights/biodiversity/stage6_distill/seed8/best.pt")
    chosen.best[8] = SimpleNamespace(fold={"fold": 2})
    best = command_of_best(chosen)
    assert str(best.command).endswith("--checkpoint folds/2/model_weights/biodiversity/stage6_distill/seed8/best.pt")
    assert command_of_best(arm(CONTROLS[0].name, [0.9], (7,))) is None


def test_a_control_is_shown_with_its_finding_and_answer_or_the_command_that_makes_it():
    control = CONTROLS[0]
    planned = [finding_of(FIVE_B, control.name, -0.05, p_holm=0.01)]
    evidence = evidence_of(arm(control.name, [0.4] * 3), arm(ONE, [0.1] * 3, (5, 6, 7)), planned=planned)
    said = plain(section("controls", evidence))
    assert "result mIoU 40.0, mF1 39.0, OA 38.0 over 3 seeds, 40 steps" in said
    assert "finding ▼ loss shown" in said and f"correction). {control.answers.worse}" in said
    assert said.count("Not run. To have it, run python -m training.train_control_kd_") == 2 and "--seed 1" in said


def section_on_test(tmp_path, uses, checkpoint="best of 42"):
    folder = tmp_path / SIX / "seed42"
    folder.mkdir(parents=True)
    scores = scores_of(0.5)
    metrics = {**scores, "checkpoint_digest": checkpoint, "minority_classes": ["Settlement"], "absent": ["Cropland"]}
    metrics |= {"stage": SIX, "seed": 42, "which": "best", "cumulative_steps": 40, "taxonomy": BIODIVERSITY.to_json()}
    metrics |= {"split": "test", "split_digest": "of test", "split_facts": FACTS | {"blocks_shared_with_train": 2}}
    write_json(folder / "metrics.json", metrics)
    (tmp_path / "test_log.jsonl").write_text("".join(f"{json.dumps(use)}\n" for use in uses))
    final = arm(SIX, [0.4] * 3, (42, 43, 44))
    final.best[42] = SimpleNamespace(scores=scores_of(0.55), tiles=SimpleNamespace(checkpoint_digest="best of 42"))
    final.best[43] = SimpleNamespace(scores=scores_of(0.99), tiles=SimpleNamespace(checkpoint_digest="best of 43"))
    args = SimpleNamespace(test_dir=made(tmp_path), root=Path("."))
    tested, log = on_test.tested(args.test_dir / SIX), read_test_log(tmp_path / TEST_LOG.name)
    return section("test", evidence_of(final), args=args, tested=tested, test_log=log)


def use(digest, reason=None):
    metrics = {"mIoU": 0.5, "mF1": 0.6, "OA": 0.7}
    known = {"time": "2030-01-02T03:04:05+00:00", "seed": 42, "checkpoint_digest": digest, "split_digest": "s"}
    return known | {"metrics": metrics, "reason": reason, "command": "python"}


def test_scores_on_test_stand_apart_beside_those_of_the_same_checkpoint_on_val(tmp_path):
    html = section_on_test(tmp_path, [use("best of 42")])
    said = plain(html)
    assert "mIoU 50.0, mF1 60.0, OA 70.0 % for best.pt of stage 6 + Distillation, seed 42, on 30 tiles" in said
    assert "on val it has mIoU 55.0, where it was chosen" in said and "The test split was used once." in said
    assert (
        "2 of 12 spatial blocks of test also have tiles in train" in said and "Not in test, so not scored: Crop" in said
    )
    table = rows(html)
    assert table[0] == ["class", "IoU", "F1", "precision", "recall", "pixels"]
    assert table[4] == ["Settlement *", "53.0", "63.0", "73.0", "80.0", "10"]
    assert ["2030-01-02 03:04:05 UTC", "best of 42", "42", "50.0", "60.0", "70.0", "-", "python"] in table


def test_another_look_at_test_is_told(tmp_path):
    said = plain(section_on_test(tmp_path, [use("a"), use("b", "a defect"), use("b")], checkpoint="b"))
    assert "The test split was used 3 times, with 2 checkpoints: its scores are no longer those of a first" in said
    assert "best.pt on val is another checkpoint by now, with mIoU 55.0" in said and "a defect" in said


def test_each_use_of_test_stands_with_its_own_scores():
    second = use("b") | {"metrics": {"mIoU": 0.25, "mF1": 0.6, "OA": 0.7}}
    _, found_rows = on_test.uses([use("a"), second])
    assert [(row[1], row[3]) for row in found_rows] == [("a", "50.0"), ("b", "25.0")]


def test_the_same_checkpoint_again_is_no_other_look(tmp_path):
    said = plain(section_on_test(tmp_path, [use("best of 42"), use("best of 42")]))
    assert "The test split was used 2 times." in said


def test_figures_that_are_not_drawn_or_older_than_the_scores_are_named(tmp_path):
    evidence = evidence_of(*ARMS)
    folder = tmp_path / "results"
    write_json(folder / "metrics.json", {})
    evidence.results[0].folder = folder
    for name, seconds in (("ablation.png", -10), ("draws.png", 10)):
        Image.new("RGB", (20, 10)).save(tmp_path / name)
        time = (folder / "metrics.json").stat().st_mtime + seconds
        os.utime(tmp_path / name, (time, time))
    args = SimpleNamespace(**{**vars(ARGS), "in_dir": made(tmp_path)})
    classes = section("classes", evidence, args=args)
    assert "Not drawn: class_gains.png. To have it, run python -m evaluation.aggregate_metrics" in plain(classes)
    components = section("components", evidence, args=args)
    assert "Drawn before the newest of the results was written: ablation.png. Draw again" in plain(components)
    assert "draws.png" not in plain(components) and "<img" not in classes
    alts = [unescape(alt) for alt in re.findall('alt="(.*?)"', components)]
    assert len(alts) == 2 and "1 Baseline 40.0 ± " in alts[0] and "3 + Difficulty sampling 70.0 ± " in alts[0]


def test_each_run_is_named_with_its_checkpoint_and_what_trained_it(tmp_path):
    scores = arm(TWO, [0.3, 0.4], (7, 8))
    for seed, result in scores.last.items():
        result.folder = tmp_path / str(seed)
        write_json(result.folder / "metrics.json", {})
        os.utime(result.folder / "metrics.json", (1893553445 + seed, 1893553445 + seed))
        result.run["command"] = f"train {seed}"
        result.metrics = result.metrics | {"command": "score it"}
    html = section("provenance", evidence_of(scores), now="now")
    settings, runs = rows(html)[:3], rows(html)[3:]
    assert settings == [["setting", "value"], ["iterations", "20"], ["lr", "0.001"]]
    when = "2030-01-02 03:04"
    assert runs[1:] == [
        ["2 + Replication", str(seed), f"{TWO} {seed}"[:12], "c" * 12, "20", when, f"train {seed}"] for seed in (7, 8)
    ]
    assert "val tiles of val" in plain(html) and "scored by score it" in plain(html) and "seeds 7, 8" in plain(html)


def test_each_arm_is_folded_with_its_rank_and_the_shares_of_train():
    evidence = evidence_of(*ARMS, arm("control_kd_uniform", [0.9] * 3))
    distribution = {"classes": {name: {"share": n / 10} for n, name in enumerate(FOREGROUND)}}
    html = section("stages", evidence, distribution=distribution)
    folds = html.split('<details id="')[1:]
    assert [part.partition('"')[0] for part in folds] == [ONE, THREE, TWO, "control_kd_uniform"]
    ranks = [re.search(r", rank (\d)", part.partition("</summary>")[0]) for part in folds]
    assert [rank and rank[1] for rank in ranks] == ["2", "1", "3", None]
    assert ["Cropland", "20.0"] in [[row[0], row[5]] for row in rows(html) if len(row) == 8]
    assert "4 + Minority crop was not run. To have it, run python -m training.train_stage4_minority_crop --seed 1" in (
        plain(html)
    )
