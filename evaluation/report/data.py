"""The part of the report on the data: splits, their classes, and the check for leakage."""

from pathlib import Path

import numpy as np

from common.cli import command_for
from common.errors import UserError
from common.files import read_json
from common.schema import is_count, is_flag, is_number, is_object, is_text, list_of, misfit, optional, values_of
from common.taxonomy import Taxonomy
from evaluation.report.format import short, told
from evaluation.report.page import Html, el, facts_list, figure, fold, html_table, joined, listed, missing
from evaluation.study.evidence import Evidence
from evaluation.study.wording import about_the_split, sentence, starred

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
