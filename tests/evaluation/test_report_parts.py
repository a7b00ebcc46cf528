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
from evaluation.report import format, on_test, overview, provenance, stages
from evaluation.study.comparisons import COMPONENTS, MINORITY
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
)
from tests.helpers import made
from tests.synthetic_results import KNOWN, finding_of


def test_words_for_digests_times_and_shares():
    assert format.short("0123456789abcdef") == "0123456789ab" and format.short("0123456789abcdef-dirty").endswith(
        "b-dirty"
    )
    assert [format.duration(s) for s in (None, 90, 5999, 6000)] == [None, "1.5 min", "100.0 min", "1.7 h"]
    assert [hundredths(v) for v in (None, 0.4567, 0)] == ["-", "45.7", "0.0"]
    assert format.value_text({"kind": "minority", "p": 0.5, "of": [1, 2]}) == "minority, p 0.5, of 1 2"
    assert format.value_text("a" * 64) == "a" * 12 and format.value_text(0.00012345) == "0.000123"
    assert format.part_text({"kind": "minority", "classes": [4, 5]}, BIODIVERSITY) == (
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
    assert plain(format.mark(finding)) == sign


def test_the_ablation_table_ranks_and_sets_the_highest_of_each_column_bold():
    html = overview.ablation_table(evidence_of(*ARMS))
    header, *found_rows = rows(html)[1:]
    names = [name + (" *" if name in ("Settlement", "Seminatural") else "") for name in FOREGROUND]
    assert header == (
        [
            "stage",
            "rank",
            "seeds",
            "mIoU",
            MINORITY,
            "mF1",
            "OA",
            "best − last",
            "steps",
            *names,
            "boundary mIoU",
            "ECE",
        ]
    )
    assert [row[:3] for row in found_rows[:3]] == [
        ["3 + Difficulty sampling", "1", "3"],
        ["1 Baseline", "2", "3"],
        ["2 + Replication", "3", "3"],
    ]
    for row, miou in zip(found_rows[:3], (70, 40, 20), strict=True):
        means = [float(row[3 + n].split(" ± ")[0]) for n in range(4)]
        assert means == pytest.approx([miou, miou - 3, miou - 1, miou - 2])
        classes = [float(cell.split(" ± ")[0]) for cell in row[9:14]]
        assert classes == pytest.approx([miou - n for n in range(4, 9)])
        assert row[7:9] == ["-", "20"] and row[14:] == ["33.0", "4.4"]
    assert [row[:2] for row in found_rows[3:]] == [
        [name, "not run"] for name in ("4 + Minority crop", "5A OEM pretraining", "5B Finetuned from 5A",
                                       "6 + Distillation")
    ]  # fmt: skip
    bold = re.findall("<b>(.*?)</b>", html)
    assert bold == ["70.0", "67.0", "69.0", "68.0", "66.0", "65.0", "64.0", "63.0", "62.0"]
    assert "<b>" not in overview.ablation_table(evidence_of(ARMS[0]))


def test_the_tables_of_comparisons_follow_the_families(monkeypatch):
    finding = finding_of(FOUR, ONE, 0.05, 0.02, p=0.004, p_holm=0.016, smallest=0.04, needed=4, better=0.987)
    finding.estimates[MINORITY] = Estimate(-0.01, 0.03, 0.5, 5, 12, smallest=0.06)
    finding.corrected[MINORITY] = 1.0
    monkeypatch.setattr(overview, "ablation_table", lambda _: None)  # has a test of its own
    lacking = Finding(KNOWN[TWO, ONE], missing="x", family=COMPONENTS)
    descriptive = [finding_of(FIVE_B, FOUR, 0.05)]
    evidence = evidence_of(*ARMS, planned=[finding, lacking], descriptive=descriptive, minority=["Settlement"])
    html = "".join(map(str, filter(None, overview.ablation(evidence))))
    assert rows(html) == [
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
    assert captions[0].endswith("corrected over 4 tests") and captions[1].startswith("Described, not tested")
    assert len(captions) == 2 and "How to read the numbers" in html


def test_each_seed_has_its_own_row_with_its_best_beside_it():
    scores = arm(TWO, [0.3, 0.4], (7, 8))
    scores.best[8] = SimpleNamespace(scores=scores_of(0.45), metrics={"step": 1500})
    header, first, second = rows(stages.seeds_table(scores))
    assert header[:6] == ["run", "mIoU", "mF1", "OA", "boundary mIoU", "ECE"]
    assert header[6:] == ["best.pt at step", "mIoU of best.pt", "best − last", "training"]
    assert first == ["seed 7", "30.0", "40.0", "50.0", "33.0", "4.4", "-", "-", "-", "1.0 min"]
    assert second == ["seed 8", "40.0", "50.0", "60.0", "33.0", "4.4", "1,500", "45.0", "+5.0", "2.0 min"]


def test_scores_by_class_are_means_over_seeds_beside_what_was_drawn():
    shares = {name: 0.01 * n for n, name in enumerate(FOREGROUND, 1)}
    html = stages.classes_table(arm(TWO, [0.3, 0.4], (7, 8)), evidence_of(*ARMS), shares)
    header, *found_rows = rows(html)
    assert header == (
        ["class", "IoU", "F1", "precision", "recall", "share of train", "share of pixels drawn", "crops that hold it"]
    )
    assert found_rows[0] == ["Forest", "55.0", "60.0", "70.0", "80.0", "1.0", "15.0", "40.0"]
    assert found_rows[4] == ["Seminatural *", "59.0", "64.0", "74.0", "80.0", "5.0", "15.0", "40.0"]


def test_the_facts_of_a_run_name_its_one_change_and_means_over_seeds():
    said = plain(stages.run_description(arm(FOUR, [0.3, 0.4, 0.5]), BIODIVERSITY))
    assert "compared with 3 + Difficulty sampling" in said
    assert "cropper (its one change): minority, classes Settlement" in said and "sampler: weighted" in said
    assert "distinct tiles drawn (mean) 31 " in said and "crops from replicas (mean) 25.0 %" in said
    assert "unlabelled pixels drawn (mean) 12.5 %" in said and "training (mean) 2.0 min" in said
    assert "crops drawn 160" in said and "training tiles 40" in said and "steps 20 " in said
    twice = plain(stages.run_description(arm(FIVE_B, [0.3], (1,)), BIODIVERSITY))
    assert "20 of its own, 40 with those of the weights it starts from (5A OEM pretraining)" in twice
    assert "(mean)" not in twice


def test_a_mean_over_runs_is_none_where_one_lacks_the_number():
    runs = [SimpleNamespace(run={"a": {"b": value}}) for value in (1, 4)]
    assert stages.mean_of(runs, "a", "b") == 2.5 and stages.mean_of([], "a") is None
    assert stages.mean_of([*runs, SimpleNamespace(run={"a": {}})], "a", "b") is None


def test_what_differs_between_runs_is_told_with_the_number_of_runs():
    runs = [SimpleNamespace(run=run) for run in ({"d": "x"}, {"d": "y"}, {"d": "x"}, {})]
    assert provenance.shared_values(runs, "d") == "x (2 runs); y (1 runs)"
    assert provenance.shared_values(runs[:1], "d") == "x" and provenance.shared_values(runs, "e") is None


def test_a_confusion_in_words_names_what_most_of_the_wrong_pixels_are_taken_for():
    confusion = np.zeros((6, 6), int)
    confusion[0, 3] = 999
    confusion[1, 1:] = [60, 10, 0, 30, 0]
    confusion[3, 3] = 7
    confusion[5, 1:] = [0, 3, 0, 0, 1]
    assert stages.confusion_in_words(confusion, BIODIVERSITY) == (
        "Forest 60% right, taken for Settlement in 30%; Cropland 100% right; "
        "Seminatural 25% right, taken for Grassland in 75%"
    )


def test_what_the_study_shows_begins_with_cautions_and_the_first_of_the_ranking():
    findings = [finding_of(TWO, ONE, 0.05, p_holm=0.01)]
    html = "".join(map(str, filter(None, overview.verdict(evidence_of(*ARMS, planned=findings), ["beware"]))))
    said = plain(html)
    assert said.startswith("Before you read a number Beware. Stage 3 + Difficulty sampling ranks first of 3 stages")
    assert "mean IoU 70.0 ± " in said and "over 3 seeds" in said
    assert "Primary comparisons: what the recipe as a whole brings" in said
    assert "Components: what each one change brings ▲ gain shown Stage 2 gains 5.0 points of mIoU over stage 1" in said
    primary = finding_of(FOUR, ONE, 0.05, p_holm=0.01)
    primary.estimates[MINORITY], primary.corrected[MINORITY] = Estimate(-0.07, 0.01, 0.01, 5, 12), 0.02
    said = plain("".join(map(str, filter(None, overview.verdict(evidence_of(*ARMS, planned=[primary]), [])))))
    assert "▲ gain shown Stage 4 gains 5.0 points of mIoU" in said
    assert "▼ loss shown Stage 4 loses 7.0 points of minority mIoU" in said
    alone = plain("".join(map(str, filter(None, overview.verdict(evidence_of(*ARMS), [])))))
    assert "Before you read" not in alone


def test_a_control_is_shown_with_its_finding_and_answer_or_the_command_that_makes_it():
    control = CONTROLS[0]
    planned = [finding_of(FIVE_B, control.name, -0.05, p_holm=0.01)]
    evidence = evidence_of(arm(control.name, [0.4] * 3), arm(ONE, [0.1] * 3, (5, 6, 7)), planned=planned)
    said = plain("".join(map(str, stages.controls(evidence, ARGS))))
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
    return "".join(map(str, on_test.on_test(evidence_of(final), args)))


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


def test_the_same_checkpoint_again_is_no_other_look(tmp_path):
    said = plain(section_on_test(tmp_path, [use("best of 42"), use("best of 42")]))
    assert "The test split was used 2 times." in said


def test_figures_that_are_not_drawn_or_older_than_the_scores_are_named(tmp_path):
    evidence = evidence_of(*ARMS, planned=[finding_of(TWO, ONE, 0.05, 0.02, p_holm=0.01)])
    folder = tmp_path / "results"
    write_json(folder / "metrics.json", {})
    evidence.results[0].folder = folder
    for name, seconds in (("ablation.png", -10), ("comparisons.png", 10), ("draws.png", 10)):
        Image.new("RGB", (20, 10)).save(tmp_path / name)
        time = (folder / "metrics.json").stat().st_mtime + seconds
        os.utime(tmp_path / name, (time, time))
    args = SimpleNamespace(in_dir=made(tmp_path), root=Path("."))
    note, *drawn = overview.figures(evidence, args)
    assert "Not drawn: class_gains.png" in plain(note) and "python -m evaluation.aggregate_metrics" in plain(note)
    assert "Drawn before the newest of the results was written: ablation.png. Draw again" in plain(note)
    assert [picture is None for picture in drawn] == [False, False, True, False]
    alts = [unescape(re.search('alt="(.*?)"', str(found))[1]) for found in drawn[:2]]
    assert "1 Baseline 40.0 ± " in alts[0] and "3 + Difficulty sampling 70.0 ± " in alts[0]
    assert "2 + Replication against 1 Baseline +5.0 [+3.0, +7.0]" in alts[1]


def test_each_run_is_named_with_its_checkpoint_and_what_trained_it(tmp_path):
    scores = arm(TWO, [0.3, 0.4], (7, 8))
    for seed, result in scores.last.items():
        result.folder = tmp_path / str(seed)
        write_json(result.folder / "metrics.json", {})
        os.utime(result.folder / "metrics.json", (1893553445 + seed, 1893553445 + seed))
        result.run["command"] = f"train {seed}"
        result.metrics = result.metrics | {"command": "score it"}
    html = "".join(map(str, provenance.provenance(evidence_of(scores), ARGS)))
    settings, runs = rows(html)[:3], rows(html)[3:]
    assert settings == [["setting", "value"], ["iterations", "20"], ["lr", "0.001"]]
    when = "2030-01-02 03:04"
    assert runs[1:] == [
        ["2 + Replication", str(seed), f"{TWO} {seed}"[:12], "c" * 12, "20", when, f"train {seed}"] for seed in (7, 8)
    ]
    assert "val tiles of val" in plain(html) and "scored by score it" in plain(html) and "seeds 7, 8" in plain(html)


def test_each_arm_is_folded_with_its_rank_and_the_shares_of_train(monkeypatch):
    seen = []
    monkeypatch.setattr(
        stages, "stage_fold", lambda scores, _, rank, shares, __: seen.append((scores.arm.name, rank, shares))
    )
    evidence = evidence_of(*ARMS, arm("control_kd_uniform", [0.9] * 3))
    shares = {name: n / 10 for n, name in enumerate(FOREGROUND)}
    (*_, absent) = stages.stages(evidence, {"classes": {name: {"share": of} for name, of in shares.items()}}, ARGS)
    assert seen == [(ONE, 2, shares), (THREE, 1, shares), (TWO, 3, shares), ("control_kd_uniform", None, shares)]
    assert "4 + Minority crop was not run: python -m training.train_stage4_minority_crop --seed 1" in plain(absent)
