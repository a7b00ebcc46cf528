r"""Rank the stages by their scores on val: metrics_summary.txt, metrics_summary.csv and ablation.png.

Reads only what evaluation.compute_metrics wrote; every score is computed again from the confusion matrices of the
tiles. Stages are ranked by last.pt: mean IoU, then mean F1, then overall accuracy, means over the seeds.

    python -m evaluation.aggregate_metrics
"""

import csv
import io
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.ticker import MaxNLocator, PercentFormatter

from common.cli import Parser, UserError, command_for, run
from common.figures import new_figure, save_figure
from common.files import read_json, write_text
from common.metrics import mean_iou_of, score
from common.results import (
    CONFUSIONS,
    METRICS,
    RUN_RECORD,
    WHICH,
    TileConfusions,
    results_folder,
    seed_folders,
    shared_blocks_note,
)
from common.stages import ARM_OF, FINAL_STAGE, STAGE_NAMES, STAGES
from common.taxonomy import Taxonomy, taxonomy_from_json
from common.text import table, warn

KEYS = ("mIoU", "mF1", "OA")
SEEDS_FOR_INTERVALS = 3


def parse_args(argv=None):
    parser = Parser(__doc__)
    parser.add_path("--in-dir", "evaluation/evaluation_results/val", "results of evaluation.compute_metrics")
    parser.add_path("--out-dir", "evaluation/evaluation_results/val", "folder for the summary")
    return parser.parse_args(argv)


@dataclass(frozen=True)
class Result:
    """One checkpoint's result as it lies on disk, its scores computed again."""

    stage: str
    seed: int
    which: str
    folder: Path
    facts: dict
    tiles: TileConfusions
    settings: dict
    recipe: dict

    @property
    def taxonomy(self) -> Taxonomy:
        return taxonomy_from_json(self.facts["taxonomy"], self.folder / METRICS)

    @property
    def ground(self) -> tuple:
        """What two results must have in common to be compared."""
        return self.tiles.split_digest, tuple(self.tiles.class_names)

    def scores(self, minority: list[str] | None) -> dict:
        """What ``common.metrics.score`` returns, and the mean IoU of the minority classes."""
        scores = score(self.tiles.confusions.sum(axis=0), self.taxonomy)
        return {**scores, "minority_mIoU": mean_iou_of(scores, minority or [])}


def read_result(folder: Path, stage: str, seed: int, which: str, remedy: str) -> Result:
    """The result in a folder; UserError where it is damaged, or its files are of different evaluations."""
    facts = read_json(folder / METRICS, remedy)
    tiles = TileConfusions.load(folder / CONFUSIONS)
    record = read_json(folder / RUN_RECORD, remedy)
    try:
        here = (facts["stage"], facts["seed"], facts["which"])
        digests = (facts["split_digest"], facts["checkpoint_digest"])
        names = taxonomy_from_json(facts["taxonomy"], folder / METRICS).classes
        facts["cumulative_steps"], facts["minority_classes"], facts["split_facts"]["blocks"]
        settings, recipe = record["settings"], record["recipe"]
    except (KeyError, TypeError):
        raise UserError(f"{folder / METRICS} is not of this project. Evaluate again: {remedy}") from None
    if here != (stage, seed, which):
        raise UserError(f"{folder / METRICS} is of {here[0]} seed {here[1]} {here[2]}.pt. Evaluate again: {remedy}")
    if digests != (tiles.split_digest, tiles.checkpoint_digest) or list(names) != tiles.class_names:
        raise UserError(f"{folder}: {METRICS} and {CONFUSIONS} are of two evaluations. Evaluate again: {remedy}")
    if facts["split"] != "val":
        raise UserError(f"{folder / METRICS} is of the {facts['split']} split; stages are compared on val alone.")
    return Result(stage, seed, which, folder, facts, tiles, settings, recipe)


def read_results(in_dir: Path, remedy: str) -> tuple[list[Result], list[str]]:
    """Every result under ``in_dir`` that can be compared, and why others are left out."""
    results, left_out = [], []
    for stage in STAGE_NAMES:
        for seed, seed_dir in seed_folders(in_dir / stage):
            for which in WHICH:
                folder = results_folder(seed_dir, which)
                if which == "best" and not folder.is_dir():
                    continue
                try:
                    results.append(read_result(folder, stage, seed, which, remedy))
                except UserError as problem:
                    left_out.append(str(problem))
    if not results:
        return [], left_out
    common, _ = Counter(result.ground for result in results).most_common(1)[0]
    for result in results:
        if result.ground != common:
            what = "val tiles" if result.ground[0] != common[0] else "classes"
            left_out.append(f"{result.folder} was scored on other {what} than most. Evaluate again: {remedy}")
    return [result for result in results if result.ground == common], left_out


def agreed_minority(results: list[Result]) -> list[str] | None:
    """The minority classes where all results name the same, else None."""
    named = {tuple(r.facts["minority_classes"]) if r.facts["minority_classes"] is not None else None for r in results}
    return list(named.pop() or ()) or None if len(named) == 1 else None


def differing_settings(results: list[Result]) -> list[str]:
    """A sentence for each stage that was trained with other settings than the one it is compared with."""
    of_stage: dict[str, list[dict]] = {}
    for result in results:
        of_stage.setdefault(result.stage, []).append(result.settings)
    sentences = []
    for stage in of_stage:
        other = ARM_OF[stage].compared_with
        known = of_stage[stage] + of_stage.get(other, [])
        names = sorted({name for settings in known for name in settings})
        differing = [name for name in names if len({str(settings.get(name)) for settings in known}) > 1]
        if differing:
            against = f"{stage} and {other}" if other in of_stage else f"the runs of {stage}"
            sentences.append(f"{against} were trained with different {', '.join(differing)}: not comparable.")
    return sentences


def differing_recipes(results: list[Result]) -> list[str]:
    """A sentence for each run that differs from the one it is compared with in more than its one component."""
    run_of = {(result.stage, result.seed): result for result in results}
    sentences = []
    for (name, seed), result in run_of.items():
        stage = ARM_OF[name]
        other = run_of.get((stage.compared_with, seed))
        if other is None:
            continue
        differing = [part for part in result.recipe if result.recipe[part] != other.recipe.get(part)]
        if differing != [stage.component]:
            found = ", ".join(differing) or "nothing"
            sentences.append(
                f"{name} seed {seed} differs from {other.stage} in {found}, expected {stage.component} alone: their "
                "difference mixes changes. Train again what was made from other artefacts."
            )
    return sentences


def mean(values) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


@dataclass(frozen=True)
class Arm:
    """A stage over its seeds: ``last`` and ``best`` are scores by seed, ``steps`` counts those of ancestors too."""

    stage: str
    last: dict[int, dict]
    best: dict[int, dict]
    steps: list[int]

    def mean(self, key: str) -> float | None:
        return mean(scores[key] for scores in self.last.values())

    def iou(self, name: str) -> float | None:
        return mean(scores["classes"].get(name, {}).get("IoU") for scores in self.last.values())

    def difference(self, other: "Arm | None") -> float | None:
        """Mean difference in mIoU over the seeds that both arms have."""
        if other is None:
            return None
        return mean(self.last[seed]["mIoU"] - other.last[seed]["mIoU"] for seed in self.last.keys() & other.last.keys())


def arms_of(results: list[Result], minority: list[str] | None) -> dict[str, Arm]:
    """The arms that have a last.pt, in stage order."""
    arms = {}
    for stage in STAGE_NAMES:
        by_which = {which: [r for r in results if (r.stage, r.which) == (stage, which)] for which in WHICH}
        if by_which["last"]:
            last, best = ({r.seed: r.scores(minority) for r in by_which[which]} for which in WHICH)
            arms[stage] = Arm(stage, last, best, sorted({r.facts["cumulative_steps"] for r in by_which["last"]}))
    return arms


def ranked(arms: dict[str, Arm]) -> list[Arm]:
    return sorted(arms.values(), key=lambda arm: tuple(-arm.mean(key) for key in KEYS))


def summary_table(arms: dict[str, Arm], classes: list[str], minority: list[str] | None) -> str:
    """One line an arm, by rank, then the stages that were not run; percentages."""
    header = ["stage", "rank", "seeds", *KEYS, "minority", "best.pt", *classes, "steps", "difference", "to"]
    rows = []
    for rank, arm in enumerate(ranked(arms), 1):
        other = ARM_OF[arm.stage].compared_with
        difference = arm.difference(arms.get(other))
        rows.append(
            [
                arm.stage,
                rank,
                len(arm.last),
                *(percent(arm.mean(key)) for key in (*KEYS, "minority_mIoU")),
                percent(mean(scores["mIoU"] for scores in arm.best.values())),
                *(percent(arm.iou(name)) for name in classes),
                " or ".join(f"{steps:,}" for steps in arm.steps),
                "-" if difference is None else f"{100 * difference:+.1f}",
                other or "-",
            ]
        )
    rows += [[stage, "not run", *["-"] * (len(header) - 2)] for stage in STAGE_NAMES if stage not in arms]
    keep = [i for i, name in enumerate(header) if name != "minority" or minority]
    starred = [f"{name} *" if name in (minority or []) else name for name in header]
    return table([starred[i] for i in keep], [[row[i] for i in keep] for row in rows])


def seeds_note(arms: dict[str, Arm]) -> str:
    """How far the differences can be trusted."""
    counts = {len(arm.last) for arm in arms.values()}
    fewest, under = min(counts), f"no interval is given under {SEEDS_FOR_INTERVALS} seeds."
    differ = len({tuple(sorted(arm.last)) for arm in arms.values()}) > 1
    note = "The stages have different seeds, so that the rank also compares seeds. " if differ else ""
    if fewest == 1:
        who = "Single run" if counts == {1} else "Stages of a single run"
        return f"{note}{who}: differences of a point or two are noise; {under}"
    return f"{note}Means over {fewest} seeds or more" + (f"; {under}" if fewest < SEEDS_FOR_INTERVALS else ".")


def summary(results: list[Result], arms: dict[str, Arm], minority, cautions: list[str], in_dir: Path, command) -> str:
    """metrics_summary.txt."""
    first = results[0]
    facts, scores = first.facts["split_facts"], score(first.tiles.confusions.sum(axis=0), first.taxonomy)
    classes = list(scores["classes"])
    split_by = f", split by {facts['strategy']}" if facts["strategy"] else ""
    lines = [
        f"Stages on val: {len(first.tiles.tile_ids)} tiles in {len(set(first.tiles.blocks))} spatial blocks{split_by}",
        f"mIoU and mF1 over {', '.join(classes)}; {first.taxonomy.void} counts nowhere",
        "",
        summary_table(arms, classes, minority),
        "",
        "Percentages. Ranked by mIoU, then mF1, then OA of last.pt, means over the seeds. Class columns: IoU.",
        "best.pt: mIoU of the checkpoint that was chosen on val itself; not for comparing stages.",
        "steps: optimizer steps with those of the ancestors. A stage that starts from 5A has seen twice the steps.",
        "difference: mIoU in points against the stage it is compared with, over the seeds that both have; descriptive.",
        seeds_note(arms),
    ]
    if minority:
        lines.append("minority: mean IoU of the classes marked *, which are minority classes of train.")
    if scores["absent"]:
        lines.append(f"Not in val, so neither scored nor averaged: {', '.join(scores['absent'])}.")
    if cautions:
        lines += ["", *(f"warning: {caution}" for caution in cautions)]
    test = in_dir.parent / "test" / FINAL_STAGE
    if test.is_dir():
        lines += ["", f"The final stage on test, which is no part of this ranking: {test}"]
    lines += ["", command]
    return "\n".join(lines) + "\n"


def tidy_rows(results: list[Result], minority: list[str] | None) -> list[list]:
    """stage, seed, checkpoint, metric, value of every score."""
    rows = []
    for result in results:
        scores = result.scores(minority)
        values = {key: scores[key] for key in KEYS}
        if minority:
            values["minority_mIoU"] = scores["minority_mIoU"]
        for name, of_class in scores["classes"].items():
            values |= {f"{key} {name}": value for key, value in of_class.items()}
        values["cumulative_steps"] = result.facts["cumulative_steps"]
        rows += [[result.stage, result.seed, result.which, key, value] for key, value in values.items()]
    return rows


def ablation_figure(arms: dict[str, Arm], classes: list[str], minority: list[str] | None):
    """mIoU of each stage in stage order, a dot a seed, beside the IoU of each class."""
    names = [f"{name} *" if name in (minority or []) else name for name in classes]
    turned = max(map(len, names)) > 14
    cell = 0.7 if turned else max(0.8, 0.085 * max(map(len, names)))
    figure = new_figure(6.6 + cell * len(classes), 0.46 * len(STAGES) + 1.5)
    left, right = figure.subplots(1, 2, width_ratios=[4.4, cell * len(classes)])
    drawn = [scores["mIoU"] for arm in arms.values() for scores in arm.last.values()]
    pad = max(0.01, 0.15 * (max(drawn) - min(drawn)))
    grid = np.full((len(STAGES), len(classes)), np.nan)
    in_row = left.get_yaxis_transform()
    for row, stage in enumerate(STAGES):
        arm = arms.get(stage.name)
        if arm is None:
            left.text(0.0, row, "not run", transform=in_row, va="center", color="#777777", style="italic")
            continue
        left.axhline(row, color="#eeeeee", linewidth=6, zorder=0)
        values = [scores["mIoU"] for scores in arm.last.values()]
        left.plot(values, [row] * len(values), "o", color="#1f4e79", alpha=0.75, markersize=7, zorder=3)
        if len(values) > 1:
            left.plot([arm.mean("mIoU")] * 2, [row - 0.3, row + 0.3], color="#1f4e79", linewidth=2, zorder=2)
        left.text(1.02, row, f"{arm.mean('mIoU'):.1%}", transform=in_row, va="center", weight="bold")
        grid[row] = [np.nan if arm.iou(name) is None else arm.iou(name) for name in classes]
    left.set_yticks(range(len(STAGES)), [stage.title for stage in STAGES], ha="left")
    left.tick_params(axis="y", length=0, pad=148)
    left.set_xlim(max(0.0, min(drawn) - pad), min(1.0, max(drawn) + pad))
    left.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    left.xaxis.set_major_formatter(PercentFormatter(1, decimals=None))
    left.grid(axis="x", color="#dddddd", linewidth=0.8)
    left.set_axisbelow(True)
    left.spines[["top", "right", "left"]].set_visible(False)
    several = any(len(arm.last) > 1 for arm in arms.values())
    left.set_xlabel("mIoU on val" + (" (dot: a seed; line and number: mean)" if several else " (one seed)"))
    left.set_title("Mean IoU", fontsize=11, loc="left")

    right.set_facecolor("#f2f2f2")
    right.imshow(grid, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for (row, column), value in np.ndenumerate(grid):
        text = "-" if np.isnan(value) else f"{100 * value:.1f}"
        right.text(column, row, text, ha="center", va="center", color="white" if value > 0.6 else "#222222")
    right.set_xticks(range(len(classes)), names, rotation=30 if turned else 0, ha="right" if turned else "center")
    right.set_yticks([])
    right.set_xticks(np.arange(len(classes) - 1) + 0.5, minor=True)
    right.set_yticks(np.arange(len(STAGES) - 1) + 0.5, minor=True)
    right.grid(which="minor", color="white", linewidth=2)
    right.tick_params(which="both", length=0)
    right.spines[:].set_visible(False)
    right.set_title("IoU of each class, %" + (" (* minority class)" if minority else ""), fontsize=11, loc="left")
    for axes in (left, right):
        axes.set_ylim(len(STAGES) - 0.5, -0.5)
    return figure


def main(argv=None):
    args = parse_args(argv)
    remedy = command_for("evaluation.compute_metrics", args) + " --split val --overwrite"
    results, left_out = read_results(args.in_dir, remedy)
    if not any(result.which == "last" for result in results):
        reasons = "".join(f"\n  {reason}" for reason in left_out)
        raise UserError(
            f"{args.in_dir} holds no results of a last.pt.{reasons}\nEvaluate first: "
            + command_for("evaluation.compute_metrics", args)
            + " --split val"
        )
    minority = agreed_minority(results)
    arms = arms_of(results, minority)
    cautions = [f"left out: {reason}" for reason in left_out]
    last = [result for result in results if result.which == "last"]
    cautions += differing_settings(last) + differing_recipes(last)
    if len({str(result.facts["minority_classes"]) for result in results}) > 1:
        cautions.append(f"results name different minority classes, their mean is left out. Evaluate again: {remedy}")
    shared = shared_blocks_note("val", results[0].facts["split_facts"])
    if shared:
        cautions.append(shared)

    text = summary(results, arms, minority, cautions, args.in_dir, args.command)
    write_text(args.out_dir / "metrics_summary.txt", text)
    lines = io.StringIO()
    writer = csv.writer(lines, lineterminator="\n")
    writer.writerow(["stage", "seed", "checkpoint", "metric", "value"])
    writer.writerows(tidy_rows(results, minority))
    write_text(args.out_dir / "metrics_summary.csv", lines.getvalue())
    classes = list(next(iter(next(iter(arms.values())).last.values()))["classes"])
    save_figure(ablation_figure(arms, classes, minority), args.out_dir / "ablation.png", dpi=200)
    for caution in cautions:
        warn(caution)
    print(text)
    for name in ("metrics_summary.txt", "metrics_summary.csv", "ablation.png"):
        print(args.out_dir / name)


if __name__ == "__main__":
    run(main)
