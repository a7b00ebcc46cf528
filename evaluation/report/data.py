"""The part of the report on the data: splits, their classes, and the check for leakage."""

import argparse

import numpy as np

from common.artifacts import SHARED_KINDS, read_leakage
from common.bands import RGB, named
from common.files import MANIFEST
from common.folds import fold_root
from common.inputs import Command, Input
from common.schema import is_count, is_number, is_text, list_of, misfit, optional
from common.taxonomy import Taxonomy
from common.text import hundredths, percent, starred
from common.tiles import read_manifest
from evaluation.report.format import short, value_text
from evaluation.report.page import Html, described, el, figure, fold, html_table, joined, listed, missing
from evaluation.study.evidence import Evidence
from evaluation.study.wording import about_the_split, sentence

SPLITS = ("train", "val", "test")
LEAKAGE, CHECK_LEAKAGE = "artifacts/leakage.json", "data_prep.check_leakage"
# What the report says of a split beside what every tile set has.
SPLIT_FORM = {
    "command": is_text,
    "split_strategy?": optional(is_text),
    "block_size?": optional(is_number),
    "fractions?": optional(list_of(is_number)),
    "seed?": optional(is_count),
    "excluded?": optional(list_of(is_text)),
    "colors?": optional(list_of(is_text)),
}


def read_manifests(split_dir: Input, taxonomy: Taxonomy) -> dict[str, dict]:
    """The manifest of each split that is there; UserError where one is broken, or none of this taxonomy."""
    manifests = {}
    for split in SPLITS:
        source = split_dir / split
        if not (source.path / MANIFEST).is_file():
            continue
        manifests[split] = read_manifest(source)
        problem = misfit(manifests[split], SPLIT_FORM)
        if problem:
            raise source.unusable(f"{source / MANIFEST} is not of this project: {problem}")
        if manifests[split]["taxonomy"]["classes"] != list(taxonomy.classes):
            raise source.unusable(f"{source / MANIFEST} does not count the pixels of {', '.join(taxonomy.classes)}")
    return manifests


def split_table(manifests: dict[str, dict], minority: list[str]) -> Html:
    """By class and split its share of the labelled pixels and the tiles that hold it."""
    names = next(iter(manifests.values()))["taxonomy"]["classes"]
    by_split = {split: np.array([t["pixels"] for t in m["tiles"].values()]) for split, m in manifests.items()}
    labelled = {split: max(int(pixels[:, 1:].sum()), 1) for split, pixels in by_split.items()}
    rows = []
    for label, name in enumerate(names[1:], 1):
        row = [starred(name, minority)]
        for split, pixels in by_split.items():
            of_class = int(pixels[:, label].sum())
            row += [hundredths(of_class / labelled[split]), f"{of_class:,}", int((pixels[:, label] > 0).sum())]
        rows.append(row)
    total = ["labelled"]
    blank = [f"{names[0]} (unlabelled)"]
    for split, pixels in by_split.items():
        total += ["100.0", f"{labelled[split]:,}", int((pixels[:, 1:].sum(axis=1) > 0).sum())]
        blank += ["-", f"{int(pixels[:, 0].sum()):,}", int((pixels[:, 0] > 0).sum())]
    header = ["class", *["%", "pixels", "tiles"] * len(by_split)]
    groups = [("", 1), *((split, 3) for split in by_split)]
    caption = "Share of the labelled pixels, pixels, and tiles that hold the class"
    return html_table(caption, header, [*rows, total, blank], groups=groups)


def bands_of_tiles(manifest: dict) -> str:
    """Which bands of the raw images a split has, and what these call them, if known."""
    bands, colors = manifest.get("bands") or RGB, manifest.get("colors") or []
    names = [f"{band} ({color})" for band, color in zip(bands, colors, strict=False)]
    return ", ".join(names) or named(bands)


def split_description(manifests: dict[str, dict]) -> Html:
    """How the split was made, and what it holds."""
    first = next(iter(manifests.values()))
    blocks = {
        split: {t.get("unit") or t["block"] or name for name, t in m["tiles"].items()} for split, m in manifests.items()
    }
    sizes = [f"{split} {len(m['tiles'])} tiles in {len(blocks[split])} blocks" for split, m in manifests.items()]
    fractions = first.get("fractions")
    return described(
        {
            "tiles": "; ".join(sizes),
            "bands": bands_of_tiles(first),
            "split by": first.get("split_strategy"),
            "block side": f"{first['block_size']:g} m" if first.get("block_size") else None,
            "fractions asked for": " / ".join(percent(share, 0) for share in fractions) if fractions else None,
            "seed of the split": first.get("seed"),
            "left out of the raw tiles": len(first.get("excluded") or []),
            "stretch to 8 bit": value_text(first["stretch"]) if first.get("stretch") else "none, tiles are 8-bit",
            "digests": joined((f"{split} {short(m['digest'])}" for split, m in manifests.items()), ", "),
            "command": el("code", first["command"]),
        }
    )


def leakage_result(leakage: dict | None, args: argparse.Namespace) -> Html:
    """What the check for leakage says of the sets it compared."""
    if leakage is None:
        return missing("The check for leakage was not made", args.leakage.made_by, args.leakage)
    verdict = "passed: the sets that must be apart share nothing" if leakage["passed"] else "failed"
    rows = []
    for pair in leakage["compared"]:
        unknown = pair.get("ground not comparable", 0)
        counts = [f"{pair[kind]:,}" for kind in SHARED_KINDS]
        counts[-1] += f" ({unknown:,} pairs not comparable)" if unknown else ""
        rows.append([" and ".join(pair["sets"]), *counts])
    crossing = leakage.get("blocks_shared_with_train", {})
    blocks = ", ".join(f"{name} {number}" for name, number in crossing.items()) or "not known"
    return joined(
        [
            el("p", el("strong", f"Check for leakage {verdict}."), f" Blocks shared with train: {blocks}."),
            listed(finding["text"] for finding in leakage["findings"]),
            fold(
                el("h4", f"What was compared: {len(rows)} pairs of sets"),
                html_table("Cases that two sets share", ["sets", *SHARED_KINDS], rows),
            ),
        ]
    )


def class_statistics(distribution: dict | None, args: argparse.Namespace) -> list[Html | None]:
    """The minority classes of train, what was replicated, and the figure of the class shares."""
    if distribution is None:
        return [missing("No class statistics of train", args.distribution.made_by, args.distribution)]
    named = ", ".join(distribution["minority_classes"]) or "none"
    text = (
        f"Minority classes of train, those under {percent(distribution['minority_share'], 0)} of its labelled pixels: "
        f"{named}. Replicated: {len(distribution['tiles_to_replicate']):,} tiles, in which one of them covers "
        f"at least {percent(distribution['tile_share'], 0)}."
    )
    shares = ", ".join(f"{name} {percent(of['share'])}" for name, of in distribution["classes"].items())
    caption = "Classes of train: share of the labelled pixels (log scale) and share of the tiles that hold the class."
    picture = args.distribution.path.with_suffix(".png")
    return [el("p", text), figure(picture, f"Pixel share of each class in train: {shares}.", caption)]


def data(
    evidence: Evidence,
    distribution: dict | None,
    manifests: dict[str, dict],
    leakage: dict | None,
    args: argparse.Namespace,
) -> list[Html | None]:
    """The section on splits, classes and leakage."""
    parts = [el("p", " ".join(map(sentence, about_the_split(evidence))))]
    if manifests:
        parts += [split_description(manifests), split_table(manifests, evidence.minority)]
    lacking = [split for split in SPLITS if split not in manifests]
    if lacking:
        parts.append(missing(f"No manifest of {' and '.join(lacking)}", args.split_dir.made_by, args.split_dir))
    parts += class_statistics(distribution, args)
    return [*parts, el("h3", "Leakage"), leakage_result(leakage, args)]


def data_cautions(
    evidence: Evidence, manifests: dict[str, dict], leakage: dict | None, args: argparse.Namespace
) -> list[str]:
    """What is wrong with the data of this study, or does not belong to it."""
    cautions, scored = [], evidence.results[0].tiles.split_digest
    if "val" in manifests and manifests["val"]["digest"] != scored:
        cautions.append(f"the scores are of another val split than {args.split_dir / 'val'} holds")
    return cautions + (leakage_cautions(leakage, scored, args.leakage) if leakage else [])


def leakage_cautions(leakage: dict, scored: str, source: Input) -> list[str]:
    """Where a check for leakage failed, or was made of another val split than that with the digest ``scored``."""
    cautions = []
    if not leakage["passed"]:
        cautions.append(f"the check for leakage failed: {'; '.join(f['text'] for f in leakage['findings'])}")
    if leakage["sets"].get("val", {}).get("digest") != scored:
        again = f"run it again: {source.made_by}"
        cautions.append(f"the check for leakage was made of another val split than was scored; {again}")
    return cautions


def leakage_of_folds(evidence: Evidence, args: argparse.Namespace) -> list[str]:
    """What is wrong with the checks for leakage of the folds, but for what ``data_cautions`` says of that of the first.

    Raises:
        UserError: a file is there and is something else.
    """
    if args.home == args.root:
        return []
    scored = {result.fold["fold"]: result.tiles.split_digest for result in evidence.results if result.fold}
    cautions = []
    for number, digest in sorted(scored.items()):
        home = fold_root(args.root, number)
        is_first = home == args.home
        source = args.leakage if is_first else Input(home / LEAKAGE, Command.of(CHECK_LEAKAGE, home))
        leakage = read_leakage(source)
        if leakage is None:
            cautions.append(f"fold {number}: the check for leakage was not made; run it: {source.made_by}")
        elif not is_first:
            cautions += [f"fold {number}: {problem}" for problem in leakage_cautions(leakage, digest, source)]
    return cautions
