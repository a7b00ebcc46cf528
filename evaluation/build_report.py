r"""Write the report of a study: one HTML file with its tables, figures, predictions and provenance.

Reads what the other steps of the evaluation wrote, and the manifests and counts of the data steps; no model, no tile.
Everything is inside the file, so that it can be sent on and opens without a network. What was not made yet is named
with the command that makes it.

    python -m evaluation.build_report
"""

import re
from datetime import UTC, datetime
from pathlib import Path
from string import Template

import numpy as np

from common.cli import Parser, UserError, command_for, run
from common.distribution import read_distribution
from common.files import MANIFEST, read_json, write_text
from common.forms import is_count, is_flag, is_number, is_object, is_text, list_of, misfit, optional, values_of
from common.results import METRICS, read_test_log, seed_folders, shared_blocks_note
from common.stages import ARM_OF, CONTROLS, FINAL_STAGE, STAGES, training_command
from common.taxonomy import Taxonomy
from common.text import warn
from evaluation.evidence import (
    BEYOND,
    KEYS,
    MINORITY,
    ArmScores,
    Evidence,
    Finding,
    Result,
    about_the_split,
    count,
    gather_from,
    how_to_read,
    p_text,
    percent,
    points,
    sentence,
    signed,
    starred,
)
from evaluation.intervals import Estimate
from evaluation.page import Html, el, facts_list, figure, flat, fold, html_table, joined, listed, missing, nowrap
from evaluation.panels import predictions, read_predictions

TEMPLATE = Path(__file__).with_name("report_template.html")
TITLE = "Land cover under class imbalance: what each stage gains"
SPLITS = ("train", "val", "test")
SHARED_KINDS = ("tile id", "image file", "image content", "overlapping window", "altered copy", "ground")
OF_MANIFEST = {
    **dict.fromkeys(("digest", "command"), is_text),
    "tiles": values_of({"pixels": list_of(is_count), "block": optional(is_text)}),
    "pixels_per_class": values_of(is_count),
    "split_strategy?": optional(is_text),
    "block_size?": optional(is_number),
    "fractions?": optional(list_of(is_number)),
    "seed?": optional(is_count),
    "excluded?": optional(list_of(is_text)),
    "stretch?": optional(is_object),
}
OF_LEAKAGE = {
    "passed": is_flag,
    "findings": list_of({"text": is_text}),
    "compared": list_of(
        {"sets": list_of(is_text), **dict.fromkeys(SHARED_KINDS, is_count), "ground not comparable?": is_count}
    ),
    "sets": values_of({"digest": is_text}),
    "blocks_shared_with_train?": values_of(is_count),
}


def short(digest: str) -> str:
    """The first digits of a digest or commit, with the word that the commit had changes beside it."""
    return digest[:12] + ("-dirty" if digest.endswith("-dirty") else "")


def duration(seconds) -> str | None:
    if seconds is None:
        return None
    minutes = seconds / 60
    return f"{minutes:.1f} min" if minutes < 100 else f"{minutes / 60:.1f} h"


def hundredths(value: float | None) -> str:
    """A share as a percentage without its sign."""
    return "-" if value is None else f"{100 * value:.1f}"


def estimated(found: Estimate, best: bool = False) -> Html:
    """A score, bold where it is the best of its column, and its interval below it."""
    value = el("b", hundredths(found.value)) if best else Html(hundredths(found.value))
    interval = None if found.half_width is None else el("span", f"± {100 * found.half_width:.1f}", class_="pm")
    return joined([value, interval])


def difference(found: Estimate | None) -> Html | str:
    """A difference in points and its interval below it."""
    if found is None:
        return "-"
    interval = None if found.half_width is None else f"[{signed(found.low)}, {signed(found.high)}]"
    return joined([signed(found.value), el("span", interval, class_="pm") if interval else None])


def parse_args(argv=None):
    parser = Parser(__doc__)
    parser.add_path("--in-dir", "evaluation/evaluation_results/val", "results and figures on val")
    parser.add_path("--predictions-dir", "evaluation/evaluation_results/val/predictions", "pictures of predictions")
    parser.add_path("--test-dir", "evaluation/evaluation_results/test", "results and log of the test split")
    parser.add_path("--split-dir", "data/biodiversity_split", "folder with train, val and test")
    parser.add_path(
        "--distribution", "artifacts/class_distribution.json", "class counts of train, its figure beside it"
    )
    parser.add_path("--leakage", "artifacts/leakage.json", "what data_prep.check_leakage found")
    parser.add_path("--out", "evaluation/evaluation_results/val/report.html", "file to write")
    return parser.parse_args(argv)


def mark(finding: Finding) -> Html:
    """What came of a comparison in a word and a sign that need no colour."""
    if not finding.estimates:
        return el("span", "– not compared", class_="mark open")
    if finding.mIoU.half_width is None:
        return el("span", "? no interval", class_="mark open")
    if not finding.comparison.planned:
        return el("span", "described", class_="mark open")
    if not finding.told_apart:
        return el("span", "≈ not told apart", class_="mark open")
    return el("span", "▲ gain" if finding.mIoU.value > 0 else "▼ loss", class_="mark")


def verdict(evidence: Evidence, cautions: list[str]) -> list:
    """What the study shows, in words; cautions before any number."""
    warned = el("h3", "Before you read a number") + listed(map(sentence, cautions)) if cautions else None
    ranked = evidence.stages
    first = None
    if ranked:
        score = percent(ranked[0].estimate("mIoU"))
        seeds = count(ranked[0].seeds, "seed")
        first = el(
            "p",
            el("strong", f"Stage {flat(ranked[0].arm)} ranks first"),
            f" of {count(ranked, 'stage')}: mean IoU {score} % over {seeds}. "
            "The comparisons below say which differences are more than noise.",
            class_="lead",
        )
    findings = [joined([mark(f), el("span", sentence(f.verdict()))]) for f in evidence.planned]
    lacking = evidence.without_intervals()
    return [
        el("div", warned, class_="caution", role="note") if warned else None,
        first,
        el("p", lacking) if lacking else None,
        el("h3", "Planned comparisons, each of one change"),
        listed(findings, class_="verdicts"),
    ]


def ablation_table(evidence: Evidence) -> Html:
    """The stages by rank with the IoU of each class, then those that were not run."""
    means = ["mIoU", *([MINORITY] if evidence.minority else []), "mF1", "OA"]
    metrics = [*means, *(f"IoU {name}" for name in evidence.classes)]
    found = {scores.arm.name: {metric: scores.estimate(metric) for metric in metrics} for scores in evidence.stages}
    best = {
        metric: max((hundredths(f[metric].value) for f in found.values()), key=float, default="") for metric in metrics
    }
    header = ["stage", "rank", "seeds", *means, "best − last", "steps"]
    header += [nowrap(starred(name, evidence.minority)) for name in evidence.classes] + list(BEYOND)
    groups = [("", 3), ("means, %", len(means)), ("", 2), ("IoU of each class, %", len(evidence.classes))]
    groups += [("also, %", len(BEYOND))]
    rows = []
    for rank, scores in enumerate(evidence.stages, 1):
        gap = scores.best_minus_last()
        of_arm = found[scores.arm.name]
        cells = {m: estimated(of_arm[m], hundredths(of_arm[m].value) == best[m] and len(found) > 1) for m in metrics}
        row = [el("a", nowrap(flat(scores.arm)), href=f"#{scores.arm.name}"), rank, len(scores.seeds)]
        row += [cells[metric] for metric in means] + ["-" if gap is None else signed(gap), f"{scores.steps:,}"]
        row += [cells[f"IoU {name}"] for name in evidence.classes]
        rows.append(row + [hundredths(scores.mean_over_seeds(key)) for key in BEYOND])
    absent = [stage for stage in STAGES if stage.name not in found]
    rows += [[flat(stage), evidence.status(stage.name), *["-"] * (len(header) - 2)] for stage in absent]
    note = el("span", "Bold: highest of its column, which need not mean that it differs.", class_="note")
    caption = joined(["Stages by rank, last.pt on val. ", note])
    return html_table(caption, header, rows, groups=groups, first=0, dense=True)


def comparison_table(caption: str, findings: list[Finding], evidence: Evidence, planned: bool) -> Html | None:
    """A row a comparison with its differences; None where there is none."""
    header = ["stage", "against", "seeds", "mIoU, points", *([f"{MINORITY}, points"] if evidence.minority else [])]
    header += ["p", "p corrected"] if planned else ["remark"]
    header += ["finding"]
    rows = []
    for finding in findings:
        found, comparison = finding.mIoU, finding.comparison
        row = [flat(comparison.arm), flat(comparison.other), len(finding.seeds) or "-", difference(found)]
        row += [difference(finding.estimates.get(MINORITY))] if evidence.minority else []
        p = found.p if found else None
        if planned:
            row += ["-", "-"] if p is None else [p_text(p), p_text(finding.p_holm)]
        else:
            row += [comparison.unequal or ""]
        rows.append([*row, mark(finding)])
    return html_table(caption, header, rows, text=("against", "remark", "finding")) if rows else None


def ablation(evidence: Evidence) -> list:
    described = [finding for finding in evidence.descriptive if not finding.missing]
    return [
        ablation_table(evidence),
        comparison_table("Planned comparisons: one change each, tested", evidence.planned, evidence, True),
        comparison_table("Described, not tested; several may change at once", described, evidence, False),
        el("h3", "How to read the numbers"),
        listed(map(sentence, how_to_read(evidence)), class_="notes"),
    ]


def figures(evidence: Evidence, args) -> list:
    """The figures that evaluation.aggregate_metrics draws, with what they show in words."""
    command = command_for("evaluation.aggregate_metrics", args)
    by_stage = ", ".join(f"{flat(s.arm)} {percent(s.estimate('mIoU'))} %" for s in evidence.arms.values())
    told = [
        f"{flat(f.comparison.arm)} against {flat(f.comparison.other)} {points(f.mIoU)}"
        for f in evidence.findings
        if f.estimates
    ]
    known = [
        (
            "ablation.png",
            f"Mean IoU of each stage on val: {by_stage}.",
            "Scores of each stage in the order of the stages. Left: each dot is a seed, the line their mean, the bar "
            "the 95 % interval where there is one. Right: the darker a cell, the higher the IoU of the class; * marks "
            "minority classes.",
        ),
        (
            "comparisons.png",
            f"Differences in mean IoU, points: {'; '.join(told) or 'none'}.",
            "Each row is a stage against another. A bar that does not touch 0 is a difference larger than the noise of "
            "seeds and ground; above the dashed line stand the planned comparisons, which count as tests.",
        ),
        (
            "class_gains.png",
            "Points of IoU of each class that each stage has over stage 1; the numbers are those of the table above.",
            "What each class gains over stage 1: right of the line it gains, left of it it loses. A stage that helps "
            "the minority classes (*) at the cost of others shows it here.",
        ),
        (
            "draws.png",
            "Class shares of the pixels that training drew, and share of crops that hold each class, by stage; the "
            "folds of the stages give the numbers.",
            "What the networks were shown. Replication, difficulty sampling and minority crops act by changing these "
            "shares; where they did not change, the component cannot have helped.",
        ),
    ]
    made = [figure(args.in_dir / name, alt, caption) for name, alt, caption in known]
    lacking = [name for (name, _, _), found in zip(known, made, strict=True) if found is None]
    note = missing(f"Not drawn: {', '.join(lacking)}", command) if lacking else None
    newest = max((result.folder / METRICS).stat().st_mtime for result in evidence.results)
    older = [n for n, _, _ in known if (args.in_dir / n).is_file() and (args.in_dir / n).stat().st_mtime < newest]
    if older:
        again = ["Drawn before the newest of the results was written: ", ", ".join(older), ". Draw again: "]
        note = joined([note, el("p", *again, el("code", command), class_="missing")])
    return [note, *made]


def told(value) -> str:
    """A value of a record in words; digests cut."""
    if isinstance(value, dict):
        return ", ".join(f"{name.replace('_', ' ')} {told(of)}".removeprefix("kind ") for name, of in value.items())
    if isinstance(value, list):
        return " ".join(map(told, value))
    if isinstance(value, float):
        return f"{value:.3g}"
    return short(value) if re.fullmatch("[0-9a-f]{40,64}(-dirty)?", str(value)) else str(value)


def told_part(how, taxonomy: Taxonomy) -> str:
    """A part of a recipe in words, with the names of classes for their ids."""
    if isinstance(how, dict) and isinstance(how.get("classes"), list):
        how = how | {"classes": [taxonomy.classes[i] for i in how["classes"]]}
    return told(how)


def mean_of(results: list[Result], *keys: str) -> float | None:
    """Mean over runs of a number in run.json; None where one lacks it."""
    values = []
    for result in results:
        value = result.run
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        if value is None:
            return None
        values.append(value)
    return float(np.mean(values)) if values else None


def run_facts(scores: ArmScores, taxonomy: Taxonomy) -> Html:
    """What is the same for all runs of an arm, or their mean."""
    arm, runs = scores.arm, list(scores.last.values())
    changed = arm.component
    recipe = [
        el("strong", f"{part} (its one change): {told_part(how, taxonomy)}")
        if part == changed
        else f"{part}: {told_part(how, taxonomy)}"
        for part, how in runs[0].run["recipe"].items()
    ]

    def average(form: str, *keys: str, scale: float = 1) -> str | None:
        value = mean_of(runs, *keys)
        return None if value is None else form.format(value * scale)

    own = runs[0].run.get("iterations") or runs[0].run["settings"].get("iterations")
    steps = f"{scores.steps:,}"
    if own is not None and own != scores.steps:
        start = f" ({flat(ARM_OF[arm.starts_from])})" if arm.starts_from else ""
        steps = f"{own:,} of its own, {steps} with those of the weights it starts from{start}"
    mean = "" if len(runs) == 1 else " (mean of the seeds)"
    return facts_list(
        {
            "compared with": flat(ARM_OF[arm.compared_with]) if arm.compared_with else None,
            "recipe": joined(recipe, between="<br>"),
            "steps": steps,
            "crops drawn": average("{:,.0f}", "crops"),
            "training tiles": average("{:,.0f}", "train", "tiles"),
            f"distinct tiles drawn{mean}": average("{:,.0f}", "drawn", "distinct_tiles"),
            f"crops from replicas{mean}": average("{:.1f} %", "drawn", "replica_share", scale=100),
            f"unlabelled pixels drawn{mean}": average("{:.1f} %", "drawn", "void_share", scale=100),
            f"training{mean}": duration(mean_of(runs, "seconds", "training")),
            f"peak memory{mean}": average("{:,.0f} MB", "peak_memory_mb"),
            f"peak GPU memory{mean}": average("{:,.0f} MB", "peak_gpu_memory_mb"),
        }
    )


def seeds_table(scores: ArmScores) -> Html:
    """The scores of each seed, and what best.pt has over last.pt."""
    header = ["seed", *KEYS, *BEYOND, "best.pt at step", "mIoU of best.pt", "best − last", "training"]
    rows = []
    for seed, result in scores.last.items():
        best, row = scores.best.get(seed), [seed, *(hundredths(result.scores[key]) for key in (*KEYS, *BEYOND))]
        gap = "-" if best is None else signed(best.scores["mIoU"] - result.scores["mIoU"])
        step = "-" if best is None else f"{best.facts.get('step', 0):,}"
        row += [step, hundredths(best.scores["mIoU"] if best else None), gap]
        rows.append([*row, duration(mean_of([result], "seconds", "training")) or "-"])
    return html_table("Scores of each seed on val, last.pt, %", header, rows)


def classes_table(scores: ArmScores, evidence: Evidence, shares: dict[str, float]) -> Html:
    """By class its scores, and what was drawn of it; means over the seeds."""
    runs = list(scores.last.values())
    keys = ("IoU", "F1", "precision", "recall")
    drawn = any("drawn" in result.run for result in runs)
    header = ["class", *keys, *(["share of train", "share of pixels drawn", "crops that hold it"] if drawn else [])]
    rows = []
    for name in evidence.classes:
        of_seeds = [result.scores["classes"][name] for result in runs]
        row = [starred(name, evidence.minority), *(hundredths(float(np.mean([s[k] for s in of_seeds]))) for k in keys)]
        if drawn:
            row += [hundredths(shares.get(name))]
            row += [hundredths(mean_of(runs, "drawn", key, name)) for key in ("pixel_share", "crops_with_class")]
        rows.append(row)
    mean = "" if len(runs) == 1 else ", means over the seeds"
    return html_table(f"Scores by class{', and what training drew' if drawn else ''}, %{mean}", header, rows)


def confusion_in_words(confusion: np.ndarray, taxonomy: Taxonomy) -> str:
    """Of each true class how much is right, and what most of the rest is taken for."""
    counts, found = confusion[1:, 1:], []
    for place, name in enumerate(taxonomy.foreground):
        total = counts[place].sum()
        if not total:
            continue
        wrong = np.where(np.arange(len(counts)) == place, 0, counts[place])
        words = f"{name} {counts[place, place] / total:.0%} right"
        if wrong.any():
            words += f", taken for {taxonomy.foreground[wrong.argmax()]} in {wrong.max() / total:.0%}"
        found.append(words)
    return "; ".join(found)


def result_figures(folder: Path, about: str, confusion: np.ndarray, taxonomy: Taxonomy) -> Html | None:
    """The figures of one checkpoint that are there; boundary bars hold those of IoU too."""
    bars = "class_boundary_iou.png"
    bars = bars if (folder / bars).is_file() else "class_iou_scores.png"
    said = f"Confusion matrix of {about}: {confusion_in_words(confusion, taxonomy)}."
    made = [
        figure(folder / "confusion_matrix.png", said),
        figure(folder / bars, f"Bars of the IoU of each class, {about}; the table of its classes has the numbers."),
        figure(folder / "reliability_diagram.png", f"Reliability diagram of {about}: accuracy against confidence."),
    ]
    made = [found for found in made if found]
    return el("div", *made, class_="pictures") if made else None


def stage_fold(scores: ArmScores, evidence: Evidence, rank: int | None, shares: dict[str, float], args) -> Html:
    """All of one arm, folded away."""
    arm, pictures = scores.arm, []
    for seed, result in scores.last.items():
        confusion = result.tiles.confusions.sum(axis=0)
        found = result_figures(result.folder, f"{flat(arm)}, seed {seed}, last.pt on val", confusion, evidence.taxonomy)
        if found and len(scores.last) > 1:
            found = fold(el("h4", f"Figures of seed {seed}"), found)
        pictures.append(found)
    if not any(pictures):
        again = command_for("evaluation.compute_metrics", args) + " --split val --overwrite"
        pictures = [missing("The figures of this stage are not there", again)]
    summary = f"mIoU {percent(scores.estimate('mIoU'))}, {count(scores.seeds, 'seed')}"
    summary += f", rank {rank}" if rank else ""
    title = el("h3", flat(arm)) + el("span", summary, class_="note")
    tables = seeds_table(scores), classes_table(scores, evidence, shares)
    return fold(title, run_facts(scores, evidence.taxonomy), *tables, *pictures, identity=arm.name)


def stages(evidence: Evidence, distribution: dict | None, args) -> list:
    ranks = {scores.arm.name: rank for rank, scores in enumerate(evidence.stages, 1)}
    shares = {name: of["share"] for name, of in (distribution or {}).get("classes", {}).items()}
    folds = [stage_fold(scores, evidence, ranks.get(name), shares, args) for name, scores in evidence.arms.items()]
    absent = [stage for stage in STAGES if stage.name not in evidence.arms]
    commands = [
        joined(
            [
                f"{flat(stage)} was {evidence.status(stage.name)}: ",
                el("code", training_command(args.root, stage.name, evidence.seeds[0])),
            ]
        )
        for stage in absent
    ]
    return [*folds, listed(commands)]


def optional_json(path: Path, command: str, form: dict) -> dict | None:
    """What a JSON file holds, None where there is none; UserError where it has another form."""
    if not path.is_file():
        return None
    content = read_json(path, command)
    wrong = misfit(content, form)
    if wrong:
        raise UserError(f"{path} is not of this project: {wrong}. Write it again: {command}")
    return content


def read_manifest(path: Path, taxonomy: Taxonomy, command: str) -> dict | None:
    """The manifest of a split, None where there is none; UserError where it is none of this taxonomy."""
    found = optional_json(path, command, OF_MANIFEST)
    names = list(taxonomy.classes)
    if found is not None and (
        list(found["pixels_per_class"]) != names
        or not all(len(tile["pixels"]) == len(names) for tile in found["tiles"].values())
    ):
        raise UserError(
            f"{path} does not count the pixels of {', '.join(names)}. Write it again: {command} --overwrite"
        )
    return found


def split_table(manifests: dict[str, dict], minority: list[str]) -> Html:
    """By class and split its share of the labelled pixels and the tiles that hold it."""
    names = list(next(iter(manifests.values()))["pixels_per_class"])
    held = {split: np.array([t["pixels"] for t in known["tiles"].values()]) for split, known in manifests.items()}
    labelled = {split: max(int(pixels[:, 1:].sum()), 1) for split, pixels in held.items()}
    rows = []
    for place, name in enumerate(names[1:], 1):
        row = [starred(name, minority)]
        for split, pixels in held.items():
            of_class = int(pixels[:, place].sum())
            row += [f"{100 * of_class / labelled[split]:.1f}", f"{of_class:,}", int((pixels[:, place] > 0).sum())]
        rows.append(row)
    total = ["labelled"]
    blank = [f"{names[0]} (unlabelled)"]
    for split, pixels in held.items():
        total += ["100.0", f"{labelled[split]:,}", int((pixels[:, 1:].sum(axis=1) > 0).sum())]
        blank += ["-", f"{int(pixels[:, 0].sum()):,}", int((pixels[:, 0] > 0).sum())]
    header = ["class", *["%", "pixels", "tiles"] * len(held)]
    groups = [("", 1), *((split, 3) for split in held)]
    caption = "Share of the labelled pixels, pixels, and tiles that hold the class"
    return html_table(caption, header, [*rows, total, blank], groups=groups)


def split_facts(manifests: dict[str, dict]) -> Html:
    known = next(iter(manifests.values()))
    blocks = {split: {t["block"] or name for name, t in m["tiles"].items()} for split, m in manifests.items()}
    sizes = [f"{split} {len(m['tiles'])} tiles in {len(blocks[split])} blocks" for split, m in manifests.items()]
    fractions = known.get("fractions")
    return facts_list(
        {
            "tiles": "; ".join(sizes),
            "split by": known.get("split_strategy"),
            "block side": f"{known['block_size']:g} m" if known.get("block_size") else None,
            "fractions asked for": " / ".join(f"{share:.0%}" for share in fractions) if fractions else None,
            "seed of the split": known.get("seed"),
            "left out of the raw tiles": len(known.get("excluded") or []),
            "stretch to 8 bit": told(known["stretch"]) if known.get("stretch") else "none, tiles are 8-bit",
            "digests": joined((f"{split} {short(m['digest'])}" for split, m in manifests.items()), ", "),
            "command": el("code", known["command"]),
        }
    )


def leakage_result(found: dict | None, args) -> Html:
    """What the check for leakage says of the sets it compared."""
    command = command_for("data_prep.check_leakage", args)
    if found is None:
        return missing("The check for leakage was not made", command, args.leakage)
    said = "passed: the sets that must be apart share nothing" if found["passed"] else "failed"
    rows = []
    for row in found["compared"]:
        unknown = row.get("ground not comparable", 0)
        shown = [f"{row[kind]:,}" for kind in SHARED_KINDS]
        shown[-1] += f" ({unknown:,} pairs not comparable)" if unknown else ""
        rows.append([" and ".join(row["sets"]), *shown])
    crossing = found.get("blocks_shared_with_train", {})
    blocks = ", ".join(f"{name} {number}" for name, number in crossing.items())
    return joined(
        [
            el("p", el("strong", f"Check for leakage {said}."), f" Blocks shared with train: {blocks or 'not known'}."),
            listed(finding["text"] for finding in found["findings"]),
            fold(
                el("h4", f"What was compared: {len(rows)} pairs of sets"),
                html_table("Cases that two sets share", ["sets", *SHARED_KINDS], rows),
            ),
        ]
    )


def data(evidence: Evidence, distribution: dict | None, manifests: dict[str, dict], leakage: dict | None, args) -> list:
    parts = [el("p", " ".join(map(sentence, about_the_split(evidence))))]
    if manifests:
        parts += [split_facts(manifests), split_table(manifests, evidence.minority)]
    lacking = [split for split in SPLITS if split not in manifests]
    if lacking:
        split = command_for("data_prep.split_biodiversity", args)
        parts.append(missing(f"No manifest of {' and '.join(lacking)}", split, args.split_dir))
    if distribution is None:
        command = command_for("data_prep.analyze_class_distribution", args)
        parts.append(missing("No class statistics of train", command, args.distribution))
    else:
        named = ", ".join(distribution["minority_classes"]) or "none"
        parts.append(
            el(
                "p",
                f"Minority classes of train, those under {distribution['minority_share']:.0%} of its labelled pixels: "
                f"{named}. Replicated: {len(distribution['tiles_to_replicate']):,} tiles, in which one of them covers "
                f"at least {distribution['tile_share']:.0%}.",
            )
        )
        shares = ", ".join(f"{name} {of['share']:.1%}" for name, of in distribution["classes"].items())
        caption = (
            "Classes of train: share of the labelled pixels (log scale) and share of the tiles that hold the class."
        )
        parts.append(
            figure(args.distribution.with_suffix(".png"), f"Pixel share of each class in train: {shares}.", caption)
        )
    return [*parts, el("h3", "Leakage"), leakage_result(leakage, args)]


def controls(evidence: Evidence, args) -> list:
    parts = []
    for control in CONTROLS:
        parts += [el("h3", f"Control: {control.title}"), el("p", el("em", control.question))]
        scores = evidence.arms.get(control.name)
        if scores is None:
            command = training_command(args.root, control.name, evidence.seeds[0])
            parts.append(missing(evidence.status(control.name).capitalize(), command))
            continue
        finding = evidence.finding(control.compared_with, control.name)
        known = ", ".join(f"{key} {percent(scores.estimate(key))}" for key in KEYS)
        answer = evidence.answer(control).removeprefix(control.question).strip()
        parts.append(
            facts_list(
                {
                    "result": f"{known} over {count(scores.seeds, 'seed')}, {scores.steps:,} steps",
                    "finding": mark(finding),
                    "answer": answer,
                    "more": el("a", "its scores, figures and runs", href=f"#{control.name}"),
                }
            )
        )
    return parts


def scores_on_test(seed: int, folder: Path, evidence: Evidence) -> Html:
    facts = read_json(folder / METRICS, "python -m evaluation.compute_metrics --split test")
    try:
        names, minority = facts["classes"], facts.get("minority_classes") or []
        means = {key: hundredths(facts[key]) for key in KEYS}
        rows = [
            [
                starred(name, minority),
                *(hundredths(of[key]) for key in ("IoU", "F1", "precision", "recall")),
                f"{of['pixels']:,}",
            ]
            for name, of in names.items()
        ]
        split, absent, note = facts["split_facts"], facts["absent"], shared_blocks_note("test", facts["split_facts"])
    except (KeyError, TypeError):
        raise UserError(f"{folder / METRICS} is not of this project.") from None
    final = evidence.arms.get(FINAL_STAGE)
    beside = final.best.get(seed) if final else None
    same = None
    if beside:
        same = f"on val it has mIoU {hundredths(beside.scores['mIoU'])}, where it was chosen"
        if beside.tiles.checkpoint_digest != facts.get("checkpoint_digest"):
            same = f"best.pt on val is another checkpoint by now, with mIoU {hundredths(beside.scores['mIoU'])}"
    about = f"{flat(ARM_OF[FINAL_STAGE])}, seed {seed}, best.pt on test"
    pictures = [
        figure(folder / "confusion_matrix.png", f"Confusion matrix of {about}."),
        figure(folder / "reliability_diagram.png", f"Reliability diagram of {about}: accuracy against confidence."),
    ]
    by_class = html_table("Test, by class, %", ["class", "IoU", "F1", "precision", "recall", "pixels"], rows)
    return joined(
        [
            el(
                "p",
                el("strong", f"mIoU {means['mIoU']}, mF1 {means['mF1']}, OA {means['OA']} %"),
                f" for best.pt of stage {flat(ARM_OF[FINAL_STAGE])}, seed {seed}, on {split['tiles']} tiles in "
                f"{split['blocks']} blocks" + (f"; {same}." if same else "."),
                class_="lead",
            ),
            el("p", note) if note else None,
            el("p", f"Not in test, so not scored: {', '.join(absent)}.") if absent else None,
            el("div", by_class, *pictures, class_="pictures"),
        ]
    )


def on_test(evidence: Evidence, args) -> list:
    """The final stage on test, apart from the ranking, and how often test was used."""
    folders = [(s, f) for s, f in seed_folders(args.test_dir / FINAL_STAGE) if (f / METRICS).is_file()]
    entries = read_test_log(args.test_dir / "test_log.jsonl")
    command = command_for("evaluation.compute_metrics", args) + " --split test"
    if not folders and not entries:
        return [missing("The test split was not used yet", command)]
    header = ["when", "checkpoint", "seed", "mIoU", "mF1", "OA", "reason", "command"]
    rows = [
        [
            el("span", entry["time"].replace("T", " ").replace("+00:00", " UTC"), class_="nowrap"),
            el("code", short(entry["checkpoint_digest"]), class_="nowrap"),
            entry["seed"],
            *(hundredths(entry["metrics"].get(key)) for key in KEYS),
            entry.get("reason") or "-",
            el("code", entry["command"]),
        ]
        for entry in entries
    ]
    checkpoints = len({entry["checkpoint_digest"] for entry in entries})
    used = f"The test split was used {'once' if len(entries) == 1 else f'{len(entries)} times'}"
    used += (
        f", with {checkpoints} checkpoints: its scores are no longer those of a first look." if checkpoints > 1 else "."
    )
    return [
        el("p", "No part of the ranking: no stage was chosen by it."),
        el(
            "div",
            *(scores_on_test(seed, folder, evidence) for seed, folder in folders),
            None if folders else missing("The files of the result are not there", command),
            el("p", used) if entries else missing("The log of its use is not there", command),
            html_table("Uses of the test split", header, rows, text=header) if rows else None,
            class_="test",
        ),
    ]


def shared_values(results: list[Result], key: str) -> str | None:
    """What the runs say of ``key``; where they differ, each value with the number of its runs."""
    values = [told(value) for result in results if (value := result.run.get(key)) is not None]
    counts = {value: values.count(value) for value in values}
    if len(counts) < 2:
        return next(iter(counts), None)
    return "; ".join(f"{value} ({number} runs)" for value, number in counts.items())


def provenance(evidence: Evidence, args) -> list:
    last = [result for scores in evidence.arms.values() for result in scores.last.values()]
    settings = last[0].run["settings"]
    pairs = [[name, told(value)] for name, value in settings.items()]
    rows = []
    for result in last:
        written = datetime.fromtimestamp((result.folder / METRICS).stat().st_mtime, UTC)
        rows.append(
            [
                flat(ARM_OF[result.arm]),
                result.seed,
                el("code", short(result.tiles.checkpoint_digest), class_="nowrap"),
                el("code", short(result.run["git_commit"]), class_="nowrap") if result.run.get("git_commit") else "-",
                f"{result.facts['cumulative_steps']:,}",
                el("span", f"{written:%Y-%m-%d %H:%M}", class_="nowrap"),
                el("code", result.run.get("command", "-")),
            ]
        )
    header = ["arm", "seed", "last.pt", "commit", "steps", "scored, UTC", "trained by"]
    return [
        facts_list(
            {
                "this report": joined([el("code", args.command), f", {datetime.now(UTC):%Y-%m-%d %H:%M} UTC"]),
                "scored by": shared_commands(last),
                "val tiles": el("code", evidence.results[0].tiles.split_digest),
                "seeds": ", ".join(map(str, evidence.seeds)),
                "preset": shared_values(last, "preset"),
                "commits trained with": shared_values(last, "git_commit"),
                "versions": shared_values(last, "versions"),
                "devices": shared_values(last, "device"),
            }
        ),
        fold(
            el("h3", "Settings that all arms share"),
            html_table("Every arm was trained with these", ["setting", "value"], pairs, text=("value",)),
        ),
        fold(
            el("h3", f"Runs and checkpoints ({len(rows)})"),
            html_table("last.pt of every run", header, rows, text=("last.pt", "commit", "scored, UTC", "trained by")),
        ),
    ]


def shared_commands(results: list[Result]) -> Html | None:
    commands = dict.fromkeys(r.facts["command"] for r in results if r.facts.get("command"))
    return joined((el("code", command) for command in commands), "<br>") if commands else None


def page_header(evidence: Evidence, args, contents: dict[str, str]) -> Html:
    """The title, what the study is of, and links to the sections ``contents``."""
    name = args.root.resolve().name if args.root != Path(".") else None
    facts = evidence.split_facts
    about = [
        f"{facts['tiles']} val tiles in {facts['blocks']} spatial blocks",
        f"{count(evidence.seeds, 'seed')}: {', '.join(map(str, evidence.seeds))}",
        f"{len(evidence.classes)} classes: {', '.join(starred(n, evidence.minority) for n in evidence.classes)}"
        + (" (* minority)" if evidence.minority else ""),
    ]
    links = [el("li", el("a", title, href=f"#{identity}")) for identity, title in contents.items()]
    return el(
        "header",
        el("h1", TITLE),
        el("p", (f"{name} · " if name else "") + " · ".join(about), class_="about"),
        el("nav", el("ol", *links), class_="contents", aria_label="Contents"),
        class_="top",
    )


def build(evidence: Evidence, args) -> tuple[str, list[str]]:
    """The whole report as HTML, and the cautions that it begins with."""
    split, analyze, check = (
        command_for(f"data_prep.{module}", args)
        for module in ("split_biodiversity", "analyze_class_distribution", "check_leakage")
    )
    manifests = {name: read_manifest(args.split_dir / name / MANIFEST, evidence.taxonomy, split) for name in SPLITS}
    manifests = {name: manifest for name, manifest in manifests.items() if manifest is not None}
    distribution = None
    if args.distribution.is_file():
        distribution = read_distribution(args.distribution, evidence.taxonomy, analyze)
    leakage = optional_json(args.leakage, check, OF_LEAKAGE)
    index, stale = read_predictions(args, evidence)
    cautions = [*evidence.cautions, *stale, *data_cautions(evidence, manifests, leakage, args)]
    sections = {
        "short": ("In short", verdict(evidence, cautions)),
        "ablation": ("The ablation", ablation(evidence)),
        "figures": ("Figures", figures(evidence, args)),
        "predictions": ("Predictions", predictions(evidence, index, args)),
        "stages": ("Each stage", stages(evidence, distribution, args)),
        "data": ("Split and classes", data(evidence, distribution, manifests, leakage, args)),
        "controls": ("Controls", controls(evidence, args)),
        "test": ("The test split", on_test(evidence, args)),
        "provenance": ("Provenance", provenance(evidence, args)),
    }
    made = [el("section", el("h2", title), *parts, id=name) for name, (title, parts) in sections.items()]
    top = page_header(evidence, args, {name: title for name, (title, _) in sections.items()})
    body = joined([top, el("main", *made)], "\n")
    return Template(TEMPLATE.read_text("utf-8")).substitute(title=TITLE, body=body), cautions


def data_cautions(evidence: Evidence, manifests: dict[str, dict], leakage: dict | None, args) -> list[str]:
    """What is wrong with the data of this study, or does not belong to it."""
    found, scored = [], evidence.results[0].tiles.split_digest
    if "val" in manifests and manifests["val"]["digest"] != scored:
        found.append(f"the scores are of another val split than {args.split_dir / 'val'} holds")
    if leakage is not None:
        if not leakage["passed"]:
            found.append(f"the check for leakage failed: {'; '.join(f['text'] for f in leakage['findings'])}")
        if leakage["sets"].get("val", {}).get("digest") != scored:
            found.append(
                "the check for leakage was made of another val split than was scored; run it again: "
                + command_for("data_prep.check_leakage", args)
            )
    return found


def main(argv=None):
    args = parse_args(argv)
    evidence = gather_from(args.in_dir, command_for("evaluation.compute_metrics", args) + " --split val --overwrite")
    text, cautions = build(evidence, args)
    write_text(args.out, text)
    for caution in cautions:
        warn(caution)
    print(f"{args.out}: {len(text.encode()) / 2**20:.1f} MB, {count(evidence.stages, 'stage')}; open it in a browser")


if __name__ == "__main__":
    run(main)
