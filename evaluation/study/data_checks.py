"""What the data steps recorded of a study's splits, and whether it belongs to the scores."""

import argparse

import numpy as np

from common.artifacts import SHARED_KINDS, read_leakage
from common.bands import BANDS_FORM, RGB, named
from common.files import MANIFEST
from common.folds import fold_root
from common.inputs import Command, Input
from common.schema import is_count, is_number, is_text, list_of, misfit, optional
from common.taxonomy import Taxonomy
from common.text import hundredths, starred
from common.tiles import read_manifest
from evaluation.study.evidence import Evidence

SPLITS = ("train", "val", "test")
LEAKAGE, CHECK_LEAKAGE = "artifacts/leakage.json", "data_prep.check_leakage"
# What is told of a split beside what every tile set has.
SPLIT_FORM = {
    "command": is_text,
    "split_strategy?": optional(is_text),
    "block_size?": optional(is_number),
    "fractions?": optional(list_of(is_number)),
    "seed?": optional(is_count),
    "excluded?": optional(list_of(is_text)),
    "colors?": optional(list_of(is_text)),
    "bands?": optional(BANDS_FORM),
}


def read_manifests(split_dir: Input, taxonomy: Taxonomy) -> dict[str, dict]:
    """The manifest of each split that is there; UserError if one is broken, or not of this taxonomy."""
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


def data_cautions(
    evidence: Evidence, manifests: dict[str, dict], leakage: dict | None, args: argparse.Namespace
) -> list[str]:
    """What is wrong with the data of this study, or does not belong to it."""
    cautions, scored = [], evidence.results[0].tiles.split_digest
    if "val" in manifests and manifests["val"]["digest"] != scored:
        cautions.append(f"the scores are of another val split than {args.split_dir / 'val'} holds")
    return cautions + (leakage_cautions(leakage, scored, args.leakage) if leakage else [])


def leakage_cautions(leakage: dict, scored: str, source: Input) -> list[str]:
    """Sentences if a check for leakage failed, or was made of another val split than that with digest ``scored``."""
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


def split_rows(manifests: dict[str, dict], minority: list[str]) -> tuple[list[list], list[list]]:
    """By class and split its share of the labelled pixels, its pixels, and the tiles that hold it; then the totals."""
    names = next(iter(manifests.values()))["taxonomy"]["classes"]
    by_split = [np.array([tile["pixels"] for tile in of["tiles"].values()]) for of in manifests.values()]
    rows: list[list] = [[starred(name, minority)] for name in names[1:]]
    total, blank = ["labelled"], [f"{names[0]} (unlabelled)"]
    for pixels in by_split:
        labelled = pixels[:, 1:].sum(axis=1)
        for row, of_class in zip(rows, pixels[:, 1:].T, strict=True):
            share = hundredths(of_class.sum() / max(labelled.sum(), 1))
            row += [share, f"{of_class.sum():,}", int((of_class > 0).sum())]
        total += ["100.0", f"{labelled.sum():,}", int((labelled > 0).sum())]
        blank += ["-", f"{pixels[:, 0].sum():,}", int((pixels[:, 0] > 0).sum())]
    return rows, [total, blank]


def bands_of_tiles(manifest: dict) -> str:
    """Which bands of the raw images a split has, and what these call them, if it says so of each."""
    bands, colors = manifest.get("bands") or RGB, manifest.get("colors") or []
    if len(colors) != len(bands):
        return named(bands)
    return ", ".join(f"{band} ({color})" for band, color in zip(bands, colors, strict=True))


def blocks_of(manifest: dict) -> set[str]:
    """The spatial blocks of a split; a tile without one is a block of its own."""
    return {tile.get("unit") or tile["block"] or name for name, tile in manifest["tiles"].items()}


def leakage_table(leakage: dict) -> tuple[list[str], list[list]]:
    """Header and a row for each pair of sets: the cases of each kind that the two share."""
    rows = []
    for pair in leakage["compared"]:
        unknown = pair.get("ground not comparable", 0)
        counts = [f"{pair[kind]:,}" for kind in SHARED_KINDS]
        counts[-1] += f" ({unknown:,} pairs not comparable)" if unknown else ""
        rows.append([" and ".join(pair["sets"]), *counts])
    return ["sets", *SHARED_KINDS], rows
