"""The tables and figures over all arms: each number in its row and column, each mark in its place."""

import csv
import re
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.colors import to_hex

from common.files import read_json, write_json
from common.stages import ARM_OF, CONTROLS, STAGE_NAMES, STAGES
from common.taxonomy import BIODIVERSITY
from evaluation import aggregate_metrics
from evaluation.study import tables
from evaluation.study.ablation_figures import (
    FIGURES,
    ablation_figure,
    class_gains_figure,
    comparisons_figure,
    draws_figure,
)
from evaluation.study.comparability import read_results
from evaluation.study.comparisons import COMPONENTS, DESCRIPTIVE, MINORITY, PRIMARY
from evaluation.study.evidence import gather
from evaluation.study.wording import finding_in_words
from tests.helpers import made, quiet
from tests.synthetic_results import VAL, WORLD, write_result, write_study

ONE, TWO, THREE, FOUR, FIVE_A, FIVE_B, SIX = STAGE_NAMES[:7]
SEEDS = (42, 43, 44, 45, 46)
# Ranks that are not the order of stages; 5A was not run.
GAINS = {ONE: 0.5, TWO: 0.1, THREE: 0.9, FOUR: 0.3, FIVE_B: 0.7, SIX: 0.0}
GAINS |= {control.name: 0.4 for control in CONTROLS}
RANKED = [THREE, FIVE_B, ONE, FOUR, TWO, SIX]
STARRED = ["Forest", "Grassland", "Cropland", "Settlement *", "Seminatural *"]
COLORS = ["#1b7837", "#a6d96a", "#f2b134", "#d7301f", "#7b5aa6"]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Results of all arms but 5A, each of which drew other pixels."""
    root = tmp_path_factory.mktemp("ablation")
    write_study(root, GAINS, SEEDS, 12, world=replace(WORLD, of_training=0.03, of_training_on_class=0.03))
    for place, arm in enumerate(GAINS):
        for seed in SEEDS:
            folder = root / VAL / arm / f"seed{seed}"
            run = read_json(made(folder / "run.json"))
            shares = np.array([5, 4, 3, 2, 1 + place + seed - 43])
            for key, values in (("pixel_share", shares / shares.sum()), ("crops_with_class", shares / 20)):
                run["drawn"][key] = dict(zip(BIODIVERSITY.foreground, values.tolist(), strict=True))
            write_json(folder / "run.json", run)
    return root


@pytest.fixture(scope="module")
def evidence(root):
    return gather(*read_results([made(root / VAL)]))


def means(evidence, metric, arms):
    return [100 * float(np.mean(evidence.arms[arm].by_training(metric))) for arm in arms]


def leading(cell: str) -> float:
    """The first number of a cell, with a true minus."""
    return float(re.match("[+\u2212]?[0-9.]+", cell)[0].replace("\u2212", "-"))


def columns(header, rows):
    return {name: [row[place] for row in rows] for place, name in enumerate(header)}


def test_the_ranking_holds_each_stage_by_rank_with_its_own_means(evidence):
    found = columns(*tables.ranking(evidence))
    assert list(found) == ["stage", "rank", "seeds", "mIoU", "mF1", "OA", MINORITY, "best - last", "steps"]
    assert found["stage"] == [*RANKED, FIVE_A] and found["rank"] == [1, 2, 3, 4, 5, 6, "not run"]
    assert found["seeds"] == [5] * 6 + ["-"] and found["best - last"] == ["+0.0"] * 6 + ["-"]
    assert found["steps"] == [f"{20 * ARM_OF[arm].trainings:,}" for arm in RANKED] + ["-"]
    for metric in ("mIoU", "mF1", "OA", MINORITY):
        assert [leading(cell) for cell in found[metric][:6]] == pytest.approx(
            means(evidence, metric, RANKED), abs=0.051
        )
        assert all(" ± " in cell for cell in found[metric][:6]) and found[metric][6] == "-"


def test_the_table_of_classes_heads_each_column_with_the_stage_that_fills_it(evidence):
    header, rows = tables.class_scores(evidence)
    assert header == ["IoU", "1", "2", "3", "4", "5B", "6"]
    assert [row[0] for row in rows] == [*STARRED, "boundary mIoU", "ECE"]
    for row, name in zip(rows[:5], BIODIVERSITY.foreground, strict=True):
        wanted = means(evidence, f"IoU {name}", GAINS)[:6]
        assert [leading(cell) for cell in row[1:]] == pytest.approx(wanted, abs=0.051)
    assert rows[5][1:] == ["100.0"] * 6 and rows[6][1:] == ["0.0"] * 6


def corrected_by_hand(p_values, hypotheses):
    """Holm 1979, step by step."""
    worst, corrected = 0.0, {}
    for step, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        worst = max(worst, min(1.0, (hypotheses - step) * p_values[place]))
        corrected[place] = worst
    return corrected


@pytest.mark.parametrize(("family", "hypotheses"), [(PRIMARY, 4), (COMPONENTS, 6)])
def test_each_comparison_and_metric_has_a_row_with_its_difference_and_both_p_values(evidence, family, hypotheses):
    header, rows = tables.tested(evidence, evidence.families[family])
    assert header[:8] == ["difference", "to", "metric", "seeds", "points", "p", "p corrected", "finding"]
    assert header[8:] == ["could show", "needed", "P(better)"]
    wanted = [[c.arm.name, c.other.name, metric, 5] for c in family.comparisons for metric in family.metrics]
    assert [row[:4] for row in rows] == wanted and len(rows) == hypotheses
    estimates = [f.estimates[metric] for f in evidence.families[family] for metric in family.metrics]
    corrected = corrected_by_hand([found.p for found in estimates], hypotheses)
    for place, (row, found) in enumerate(zip(rows, estimates, strict=True)):
        (mine,), (theirs,) = (means(evidence, row[2], [arm]) for arm in row[:2])
        assert leading(row[4]) == pytest.approx(mine - theirs, abs=0.051)
        low, high = (leading(end) for end in re.findall("[+\u2212][0-9.]+", row[4])[1:])
        assert low < leading(row[4]) < high
        for p, cell in ((found.p, row[5]), (corrected[place], row[6])):
            assert cell == ("<0.001" if p < 0.001 else f"{p:.3f}")
        assert (row[7] == "shown") == (corrected[place] < 0.05)
        needed = "-" if found.needed is None else str(found.needed)
        assert row[8:] == [f"{100 * found.smallest:.1f}", needed, f"{found.better:.2f}"]
    assert any(row[5] != row[6] for row in rows)


def test_a_comparison_keeps_its_row_where_some_pairs_of_it_are_refused(evidence):
    findings = evidence.families[COMPONENTS]
    refused = [replace(finding, refused=["one pair mixes changes"]) for finding in findings]
    assert tables.tested(evidence, refused) == tables.tested(evidence, findings)
    void = replace(findings[0], refused=["all pairs do"], estimates={}, corrected={}, seeds=[])
    (row,) = tables.tested(evidence, [void])[1]
    assert row == [TWO, ONE, "-", 0, "-", "-", "-", "not comparable, see the warnings", "-", "-", "-"]
    assert tables.tested(evidence, [replace(void, missing="not run", refused=[])])[1] == []


def test_described_comparisons_have_a_remark_and_no_p(evidence):
    header, rows = tables.described(evidence)
    assert header == ["difference", "to", "seeds", "mIoU", MINORITY, "remark"]
    made = [c for c in DESCRIPTIVE if c.arm.name in evidence.arms]
    assert [row[:2] for row in rows] == [[c.arm.name, c.other.name] for c in made]
    assert [row[-1] for row in rows] == ["twice the steps" if c.unequal else "" for c in made]
    for row in rows:
        for metric, cell in (("mIoU", row[3]), (MINORITY, row[4])):
            (mine,), (theirs,) = (means(evidence, metric, [arm]) for arm in row[:2])
            assert leading(cell) == pytest.approx(mine - theirs, abs=0.051)
    void = replace(evidence.descriptive[-1], estimates={}, refused=["mixes changes"])
    (row,) = tables.described(replace(evidence, descriptive=[void]))[1]
    assert row[3:] == ["-", "-", "not comparable, see the warnings"]


def test_a_table_that_is_too_wide_stands_in_pieces_that_each_name_their_rows():
    header, rows = ["a", "b", *"cdef"], [["x" * 20, "y" * 20, *(c * 30 for c in "cdef")]]
    first, space, second = aggregate_metrics.narrow(header, rows, names=2)
    assert space == "" and all(len(line) <= 120 for line in [*first.splitlines(), *second.splitlines()])
    assert first.splitlines()[0].split() == ["a", "b", "c", "d"] and second.splitlines()[0].split() == [*"abef"]
    assert second.splitlines()[1].split() == ["x" * 20, "y" * 20, "e" * 30, "f" * 30]
    assert len(aggregate_metrics.narrow(header, [["x"] * 6], names=2)) == 1
    assert len(aggregate_metrics.narrow(["a", "b"], [["x" * 200, "y"]], names=1)) == 1  # cannot be had narrower


def test_controls_have_a_table_of_their_own(evidence):
    found = columns(*tables.control_scores(evidence))
    names = [control.name for control in CONTROLS]
    assert found["control"] == names and found["steps"] == ["40"] * 3
    for metric in ("mIoU", "mF1", "OA", MINORITY):
        assert [leading(cell) for cell in found[metric]] == pytest.approx(means(evidence, metric, names), abs=0.051)


def test_the_summary_says_what_was_planned_and_not_made_and_that_test_is_apart(tmp_path):
    write_study(tmp_path, {ONE: 0.0, TWO: 0.4}, SEEDS, 12)
    (tmp_path / VAL.parent / "test" / SIX).mkdir(parents=True)
    evidence = gather(*read_results([made(tmp_path / VAL)]))
    text = aggregate_metrics.summary(aggregate_metrics.parts_of(evidence, tmp_path / VAL, "python -m the.command"))
    joined = " ".join(text.split())
    lacking = f"{THREE} to {TWO} ({THREE} not run); {FOUR} to {THREE} ({FOUR} not run, {THREE} not run); {FIVE_B} to "
    assert f"Planned and not made: {lacking}" in joined
    assert f"{SIX} to control_kd_uniform ({SIX} not run, control_kd_uniform not run)." in joined
    assert "The final stage on test, which is no part of this ranking: " in joined
    assert text.endswith("python -m the.command\n")
    titles = [line for line in text.splitlines() if line.startswith("== ")]
    wanted = ["Stages by rank", "Classes", "Primary comparisons", "Components", "Checks", "How to read it"]
    assert titles == [f"== {title}" for title in wanted]  # what would be empty is left out
    (finding, *_) = (f for f in evidence.planned if f.estimates)
    said = finding_in_words(finding)
    assert f"- {said[0].upper()}{said[1:]}." in joined


def test_a_table_in_markdown_has_a_cell_for_each_and_no_more():
    assert aggregate_metrics.markdown_table(["a", "b"], [[1, "x|y"]]).split("\n") == [
        "| a | b |",
        "| --- | --- |",
        "| 1 | x/y |",
    ]


def test_the_csv_holds_every_score_of_last_and_best(tmp_path):
    counts = np.zeros((1, 6, 6), int)
    counts[0, 1, 1], counts[0, 4, 4], counts[0, 4, 1], counts[0, 5, 5] = 10, 6, 2, 1
    write_result(tmp_path, ONE, 1, counts)
    counts[0, 5, 1] = 3
    write_result(tmp_path, ONE, 1, counts, which="best")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(aggregate_metrics, "FIGURES", dict.fromkeys(FIGURES, lambda _: None))
        quiet(aggregate_metrics.main, "--root", tmp_path)
    with open(tmp_path / VAL / "metrics_summary.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["stage", "fold", "seed", "checkpoint", "metric", "value"]
    found = {which: {r["metric"]: float(r["value"]) for r in rows if r["checkpoint"] == which} for which in
             ("last", "best")}  # fmt: skip
    assert found["last"] == pytest.approx(
        {
            "mIoU": (10 / 12 + 6 / 8 + 1) / 3,
            "mF1": (20 / 22 + 12 / 14 + 1) / 3,
            "OA": 17 / 19,
            "boundary mIoU": 1,
            "ECE": 0,
            MINORITY: (6 / 8 + 1) / 2,
            **{"IoU Forest": 10 / 12, "F1 Forest": 20 / 22, "precision Forest": 10 / 12, "recall Forest": 1},
            **{"IoU Settlement": 0.75, "F1 Settlement": 12 / 14, "precision Settlement": 1, "recall Settlement": 0.75},
            **{"IoU Seminatural": 1, "F1 Seminatural": 1, "precision Seminatural": 1, "recall Seminatural": 1},
            **{"pixels Forest": 10, "pixels Settlement": 8, "pixels Seminatural": 1},
            "cumulative_steps": 20,
        }
    )
    assert found["best"][MINORITY] == pytest.approx((6 / 8 + 1 / 4) / 2)
    assert {(row["stage"], row["seed"]) for row in rows} == {(ONE, "1")}


def test_figures_of_an_earlier_call_that_are_not_drawn_any_more_are_removed(tmp_path, monkeypatch):
    write_result(tmp_path, ONE, 1, np.ones((1, 6, 6), int))
    old = tmp_path / VAL / "class_gains.png"
    old.write_bytes(b"of an earlier call")
    quiet(aggregate_metrics.main, "--root", tmp_path)
    assert not old.exists() and (tmp_path / VAL / "ablation.png").exists() and (tmp_path / VAL / "draws.png").exists()


# Figures


def marks(axes):
    """By row: the place of the mean, of the dots, and of the ends of the interval (None without one)."""
    found: dict[int, dict] = {}
    for line in axes.lines:
        x, y = np.asarray(line.get_xdata(), float), np.asarray(line.get_ydata(), float)
        row = found.setdefault(round(y.mean()), {"interval": None})
        if line.get_linewidth() == 5 and line.get_solid_capstyle() == "butt" and len(set(y)) == 1:
            row["interval"] = x.tolist()
        elif line.get_marker() == "o":
            row["dots"] = x.tolist()
        elif len(set(x)) == 1 and abs(np.ptp(y) - 0.56) < 1e-9:
            row["mean"] = x[0]
            row["color"] = to_hex(line.get_color())
    return {row: of for row, of in found.items() if "mean" in of}


def labels(axes):
    return [label.get_text() for label in axes.get_yticklabels()]


def rows_run_down(axes, count):
    assert axes.get_ylim() == (count - 0.5, -0.5) and list(axes.get_yticks()) == list(range(count))


def test_the_ablation_shows_each_stage_in_its_row(evidence):
    miou, minority, classes = ablation_figure(evidence).axes
    assert labels(miou) == [f"{stage.number}  {stage.label}" for stage in STAGES] and labels(minority) == [""] * 7
    for axes, metric in ((miou, "mIoU"), (minority, MINORITY)):
        rows_run_down(axes, 7)
        found = marks(axes)
        assert sorted(found) == [0, 1, 2, 3, 5, 6]
        said = {round(y): text.get_text() for text in axes.texts for y in [text.get_position()[1]]}
        for row, of_row in found.items():
            scores = evidence.arms[STAGES[row].name]
            by_seed = 100 * scores.by_training(metric)
            assert of_row["dots"] == pytest.approx(by_seed) and of_row["mean"] == pytest.approx(by_seed.mean())
            estimate = scores.estimate(metric)
            ends = [of_row["mean"] - 100 * estimate.half_width, of_row["mean"] + 100 * estimate.half_width]
            assert of_row["interval"] == pytest.approx(ends)
            assert said[row] == f"{by_seed.mean():.1f}"
        assert said[4] == "not run" and axes.get_title(loc="left") == f"{metric} on val, %"
    grid = classes.images[0].get_array().filled(np.nan)
    wanted = [
        [means(evidence, f"IoU {name}", [stage])[0] / 100 if stage != FIVE_A else np.nan for name in
         BIODIVERSITY.foreground] for stage in STAGE_NAMES
    ]  # fmt: skip
    np.testing.assert_allclose(grid, wanted)
    assert [label.get_text() for label in classes.get_xticklabels()] == STARRED
    assert classes.images[0].get_clim() == (0, 1) and classes.get_ylim() == (6.5, -0.5)
    cells = {text.get_position(): text.get_text() for text in classes.texts}
    assert cells[3, 0] == f"{100 * wanted[0][3]:.1f}" and cells[0, 4] == "-"


def test_comparisons_are_drawn_with_their_sign_the_planned_ones_first(evidence):
    (axes,) = comparisons_figure(evidence).axes
    made = [finding for finding in [*evidence.planned, *evidence.descriptive] if finding.estimates]
    rows_run_down(axes, len(made))
    found = marks(axes)
    said = {round(text.get_position()[1]): text for text in axes.texts}
    assert len(found) == len(made) == 16
    for row, finding in enumerate(made):
        arms = finding.comparison.arm.name, finding.comparison.other.name
        mine, theirs = (100 * evidence.arms[arm].by_training("mIoU") for arm in arms)
        assert found[row]["dots"] == pytest.approx(mine - theirs)
        assert found[row]["mean"] == pytest.approx((mine - theirs).mean())
        low, high = found[row]["interval"]
        assert (low + high) / 2 == pytest.approx(found[row]["mean"])
        assert (high - low) / 2 == pytest.approx(100 * finding.mIoU.half_width)
        assert found[row]["color"] == ("#1f4e79" if row < 8 else "#777777")
        assert leading(said[row].get_text()) == pytest.approx(found[row]["mean"], abs=0.051)
        assert (said[row].get_weight() == "bold") == (row < 8 and finding.corrected["mIoU"] < 0.05)
    assert labels(axes)[0] == "4 + Minority crop  to  1 Baseline"
    assert labels(axes)[7] == "6 + Distillation  to  6, uniform target (control)"
    assert "5B Finetuned from 5A  to  4 + Minority crop (twice the steps)" in labels(axes)
    dashed = [line.get_ydata()[0] for line in axes.lines if line.get_linestyle() == "--"]
    assert dashed == [7.5] and "above the dashed line the planned" in axes.get_title(loc="left")


def test_a_difference_is_bold_only_where_it_holds_after_correction(evidence):
    for p_holm, bold in ((0.2, 0), (0.01, 8)):
        families = {
            family: [replace(finding, corrected={"mIoU": p_holm}) for finding in findings]
            for family, findings in evidence.families.items()
        }
        assert any(finding.mIoU.excludes_zero for findings in families.values() for finding in findings)
        (axes,) = comparisons_figure(replace(evidence, families=families)).axes
        assert sum(text.get_weight() == "bold" for text in axes.texts) == bold


def test_gains_of_each_class_are_over_stage_1_in_its_colour(evidence):
    panels = class_gains_figure(evidence).axes
    stages = [TWO, THREE, FOUR, FIVE_B, SIX]
    assert labels(panels[0]) == [
        f"{ARM_OF[stage].number}  {ARM_OF[stage].label}" + (" (twice the steps)" if stage in (FIVE_B, SIX) else "")
        for stage in stages
    ]
    for axes, name, starred, color in zip(panels, BIODIVERSITY.foreground, STARRED, COLORS, strict=True):
        rows_run_down(axes, 5)
        assert axes.get_title(loc="left") == starred
        assert [to_hex(line.get_color()) for line in axes.lines if line.get_transform() == axes.transAxes] == [color]
        found = marks(axes)
        for row, stage in enumerate(stages):
            by_seed = 100 * evidence.arms[stage].paired(evidence.arms[ONE], f"IoU {name}", list(SEEDS))
            assert found[row]["dots"] == pytest.approx(by_seed) and found[row]["mean"] == pytest.approx(by_seed.mean())
            low, high = found[row]["interval"]
            half = evidence.finding(stage, ONE).estimates[f"IoU {name}"].half_width
            assert (high - low) / 2 == pytest.approx(100 * half)


def test_what_was_drawn_is_the_mean_over_the_seeds_of_each_arm(evidence):
    left, right = draws_figure(evidence).axes
    arms = list(GAINS)
    rows_run_down(left, len(arms))
    assert labels(left)[0] == "1 Baseline" and labels(left)[-1] == "6, uniform target (control)"
    shares = np.array([[5, 4, 3, 2, 1 + place + change] for place in range(9) for change in (-1, 0, 1, 2, 3)]) / 1.0
    pixels = 100 * (shares / shares.sum(axis=1, keepdims=True)).reshape(9, 5, 5).mean(axis=1)
    drawn = np.array([[bar.get_x(), bar.get_width(), bar.get_y() + bar.get_height() / 2] for bar in left.patches])
    drawn = drawn.reshape(5, 9, 3)  # a class after the other
    np.testing.assert_allclose(drawn[..., 1].T, pixels)
    np.testing.assert_allclose(drawn[..., 0].T, np.cumsum(pixels, axis=1) - pixels, atol=1e-9)
    np.testing.assert_allclose(drawn[..., 2], np.broadcast_to(np.arange(9), (5, 9)), atol=1e-9)
    assert [to_hex(bar.get_facecolor()) for bar in left.patches[::9]] == COLORS
    said = {(text.get_text(), round(text.get_position()[1])) for text in left.texts}
    assert (f"{pixels[0, 0]:.0f}", 0) in said and (f"{pixels[8, 4]:.0f}", 8) in said
    crops = (shares / 20).reshape(9, 5, 5).mean(axis=1)
    np.testing.assert_allclose(right.images[0].get_array(), crops)
    assert [label.get_text() for label in right.get_xticklabels()] == STARRED


def test_an_arm_that_does_not_say_what_it_drew_is_not_drawn(tmp_path):
    write_study(tmp_path, {ONE: 0.0, TWO: 0.1}, (1, 2), 3)
    path = tmp_path / VAL / TWO / "seed2" / "run.json"
    run = read_json(made(path))
    del run["drawn"]
    write_json(path, run)
    found = gather(*read_results([made(tmp_path / VAL)]))
    assert labels(draws_figure(found).axes[0]) == ["1 Baseline"]
    assert comparisons_figure(found) is not None and class_gains_figure(found) is not None


def test_there_is_no_figure_of_comparisons_where_none_was_made(tmp_path):
    write_result(tmp_path, TWO, 1, np.ones((3, 6, 6), int))
    found = gather(*read_results([made(tmp_path / VAL)]))
    assert comparisons_figure(found) is None and class_gains_figure(found) is None
    (dots,) = [of["dots"] for of in marks(ablation_figure(found).axes[0]).values()]
    assert dots == pytest.approx([10.0])  # one seed is shown as a dot; every class has IoU 1 / 10
