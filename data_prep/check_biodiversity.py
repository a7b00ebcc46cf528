r"""Audit the raw Biodiversity tiles: every problem of every tile, class shares, tiles that show the same area.

Writes audit.json, audit.png, bands.png, exclude.txt and groups.tsv; exit status 2 if a tile cannot be used as it is.
Masks that are likely wrong are warnings, with a contact sheet suspicious_labels.png to look at. Tiles that show the
same area, such as turned copies or windows that overlap, form groups, which the split never divides; groups.png shows
the largest. Of all bands of the images, also of those that are not chosen, it tells the values, and what they are.

    python -m data_prep.check_biodiversity
"""

import argparse
import dataclasses
import functools
from collections import Counter, defaultdict

import numpy as np

from common.cli import Parser, map_progress, run
from common.errors import UserError
from common.figures import png_bytes
from common.files import FolderKind, check_out_dir, json_text, new_folder, write_files
from common.ground import SLIVER, not_comparable, overlapping
from common.inputs import Command
from common.raw_images import PERCENTILES, Ranges, add_bands, chosen_reading, percentile_ranges, pixels_per_tile
from common.taxonomy import IGNORE_INDEX, Taxonomy, load_taxonomy
from common.text import some, table
from data_prep.audit.bands import SHARES, band_problems, band_rows, describe_bands, look_at_bands, plot_bands
from data_prep.audit.groups import describe_groups, find_groups
from data_prep.audit.sheets import plot_audit, plot_groups, plot_suspects
from data_prep.audit.suspects import find_suspects
from data_prep.raw.collection import (
    labels_without_data,
    looks_interpolated,
    looks_zero_based,
    mixed_systems,
    mixed_types,
    mixed_units,
    other_order,
    problem_lines,
    repeated_images,
)
from data_prep.raw.files import Problem
from data_prep.raw.inspect import Inspection, inspect
from data_prep.raw.masks import add_masks, chosen_masks
from data_prep.raw.pairs import add_patterns, chosen_patterns, find_raw
from data_prep.tile_sets.class_shares import class_shares, share_rows
from data_prep.tile_sets.groups import groups_text
from data_prep.tile_sets.slivers import add_overlaps

SHEET = "suspicious_labels"  # .png; _2.png and so on if there are more pages
AUDIT = FolderKind(
    "audit.json",
    lambda path: {
        "audit.json",
        "audit.png",
        "bands.png",
        "exclude.txt",
        "groups.tsv",
        "groups.png",
        *(sheet.name for sheet in path.glob(f"{SHEET}*.png")),
    },
    "--out",
)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(__doc__)
    parser.add_path("--in-dir", "data/biodiversity_raw", "folder with images/*.tif and masks/*.png", shared=True)
    written = "folder that gets audit.json, audit.png, exclude.txt and groups.tsv"
    parser.add_path("--out", "artifacts/audit", written, shared=True)
    add_bands(parser)
    add_masks(parser)
    add_patterns(parser)
    add_overlaps(parser)
    parser.add_argument(
        "--skip-suspicious", action="store_true", help="do not look for masks that are likely wrong, the longest part"
    )
    parser.add_workers()
    return parser.parse_args(argv)


def collection_problems(
    inspections: list[Inspection], repeated: dict[str, str], taxonomy: Taxonomy, overlaps: str
) -> list[Problem]:
    """What is odd about the tiles together, of which there is at least one; none of it keeps a tile from being used.

    ``repeated``: what ``repeated_images`` returned of them. ``overlaps``: what --overlaps says.
    """
    problems = [
        Problem(tile_id, "repeated image", f"{tile_id}: has the same image as {first}; it is left out", fatal=False)
        for tile_id, first in repeated.items()
    ]

    def add(kind: str, text: str | None) -> None:
        if text:
            problems.append(Problem("", kind, text, fatal=False))

    count = len(inspections)
    add("mixed types", mixed_types(inspections))
    add("order of bands", other_order(inspections))
    add("mixed units", mixed_units(inspections))
    add("mixed systems", mixed_systems(inspections))
    add("labels without data", labels_without_data(inspections))
    width, height = Counter((i.width, i.height) for i in inspections).most_common(1)[0][0]
    odd = [i.tile.id for i in inspections if (i.width, i.height) != (width, height)]
    if odd:
        add("sizes", f"{len(odd)} of {count} tiles are not {width} x {height} pixels: {some(odd)}")
    unlocated = [i.tile.id for i in inspections if not i.is_located]
    if unlocated:
        text = f"{len(unlocated)} of {count} tiles; a split by blocks needs a place: {some(unlocated)}"
        add("not georeferenced", text)
    kept = [i for i in inspections if i.tile.id not in repeated]
    footprints = [i.footprint for i in kept]
    pairs = [(kept[i].tile.id, kept[j].tile.id) for i, j in overlapping(footprints, footprints, SLIVER) if i < j]
    if pairs:
        shown = some([f"{a} and {b}" for a, b in pairs])
        kept_apart = "stay in one split together" if overlaps == "together" else "--overlaps ignore may part"
        add("overlapping ground", f"{len(pairs)} pairs of tiles, which {kept_apart}: {shown}")
    unknown = not_comparable(footprints, footprints) // 2
    if unknown:
        add(
            "ground not comparable", f"{unknown} pairs of tiles are in systems that cannot be compared with one another"
        )
    pixels = np.sum([i.pixels for i in inspections if i.pixels] or [[0] * taxonomy.num_classes], axis=0)
    absent = [name for name, of_class in zip(taxonomy.foreground, pixels[1:], strict=True) if not of_class]
    if absent:
        add("absent class", f"no tile has {', '.join(absent)}")
    add("ids from 0", looks_zero_based(pixels, taxonomy))
    add("made-up ids", looks_interpolated(inspections))
    return problems


def value_ranges(inspections: list[Inspection]) -> dict[str, dict]:
    """For each pixel type the lowest 2nd and the highest 98th percentile of a tile."""
    by_type = defaultdict(list)
    for i in inspections:
        by_type[i.dtype] += i.ranges or []
    return {
        dtype: {"percentiles": list(PERCENTILES), "low": min(r[0] for r in ranges), "high": max(r[1] for r in ranges)}
        for dtype, ranges in sorted(by_type.items())
        if ranges
    }


def ranges_by_tile(inspections: list[Inspection]) -> dict[str, Ranges | None]:
    """The range that scales each tile to 8 bit: one for all, or each tile's own if their units are mixed."""
    kept = [i.kept for i in inspections if i.kept is not None]
    if not kept or mixed_units(inspections):
        return {i.tile.id: i.ranges for i in inspections}
    pixels = np.concatenate(kept, axis=1)
    common = percentile_ranges(pixels) if pixels.size else None
    return {i.tile.id: common for i in inspections}


def print_problems(problems: list[Problem], fatal: bool) -> None:
    """Print the problems that keep tiles from being used, or the others, by kind."""
    shown = [problem for problem in problems if problem.fatal == fatal]
    if shown:
        print("\nerrors: tiles that cannot be used" if fatal else "\nwarnings: used all the same")
        print(problem_lines(shown, rest="more, in audit.json"))


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    taxonomy = load_taxonomy(args.root)
    check_out_dir(args.out, overwrite=True, inputs=[args.in_dir], kind=AUDIT)
    tiles, problems = find_raw(args.in_dir, chosen_masks(args, taxonomy), chosen_patterns(args))
    reading = chosen_reading(args.bands, args.alpha, [tile.image for tile in tiles])
    inspect_one = functools.partial(inspect, reading=reading, taxonomy=taxonomy, keep=pixels_per_tile(len(tiles)))
    inspections = list(map_progress(inspect_one, tiles, workers=args.workers, desc="Inspecting"))
    usable = [i for i in inspections if i.usable]
    repeated = repeated_images(usable)
    seen = look_at_bands([i.tile.image for i in usable], args.workers)
    problems += [*(problem for i in inspections for problem in i.problems), *band_problems(seen)]
    suspects, not_judged = [], "not looked for (--skip-suspicious)"
    if usable:
        problems += collection_problems(usable, repeated, taxonomy, args.overlaps)
    groups = find_groups(usable, reading, args.workers, by_place=args.overlaps == "together")
    ranges = ranges_by_tile(usable)
    usable = [dataclasses.replace(i, kept=None) for i in usable]
    if not args.skip_suspicious:
        suspects, not_judged = find_suspects(
            [i for i in usable if i.tile.id not in repeated],
            reading=reading,
            ranges=ranges,
            classes=taxonomy.classes,
            workers=args.workers,
        )
        problems += [Problem(s.tile_id, s.kind, f"{s.mask}: {s.reason}", fatal=False) for s in suspects]
    fatal = sorted({problem.tile_id for problem in problems if problem.fatal})
    exclude = sorted({*fatal, *repeated})
    pixels = np.array([i.pixels for i in usable], np.int64).reshape(len(usable), taxonomy.num_classes)
    shares = class_shares(pixels, taxonomy)
    systems = Counter(i.location["crs"] for i in usable if i.is_located)
    gsds = [i.location["gsd"] for i in usable if i.location["gsd"]]

    audit = {
        "in_dir": str(args.in_dir),
        "command": args.command,
        "bands": list(reading.bands),
        "alpha": reading.alpha,
        "overlaps": args.overlaps,
        **chosen_masks(args, taxonomy).entries(),
        "tiles": len(tiles),
        "usable": len(usable),
        "exclude": exclude,
        "problems": [{"tile_id": p.tile_id, "kind": p.kind, "fatal": p.fatal, "text": p.text} for p in problems],
        "suspicious": {"tiles": [s.tile_id for s in suspects], "not_judged": not_judged},
        "groups": [{"tiles": g.tiles, "tied_by": g.tied_by} for g in groups if len(g.tiles) > 1],
        "classes": shares,
        "void_share": float(pixels[:, IGNORE_INDEX].sum() / max(pixels.sum(), 1)),
        "tiles_without_label": int((pixels[:, 1:].sum(axis=1) == 0).sum()),
        "types": dict(Counter(f"{i.dtype} x {i.band_count}" for i in usable)),
        "sizes": dict(Counter(f"{i.width} x {i.height}" for i in usable)),
        "value_ranges": value_ranges(usable),
        "bands_found": [bands.to_json() for bands in seen],
        "stretch_tile_needed": any(p.kind == "mixed units" for p in problems),
        "georeferenced": sum(systems.values()),
        "systems": [{"crs": crs, "tiles": count} for crs, count in systems.most_common()],
        "gsd": float(np.median(gsds)) if gsds else None,
    }
    files: dict[str, str | bytes] = {
        "audit.json": json_text(audit),
        "exclude.txt": "".join(f"{t}\n" for t in exclude),
        "groups.tsv": groups_text([t.id for t in tiles], groups, {i.tile.id: i.content for i in usable}),
    }
    if usable:
        files["audit.png"] = png_bytes(plot_audit(usable, shares, taxonomy, reading), dpi=120)
    if seen:
        files["bands.png"] = png_bytes(plot_bands(seen), dpi=110)
    if any(len(group.tiles) > 1 for group in groups):
        files["groups.png"] = png_bytes(plot_groups(groups, {i.tile.id: i for i in usable}, reading), dpi=110)
    pages = plot_suspects(suspects, {i.tile.id: i for i in usable}, taxonomy, reading)
    for number, page in enumerate(pages, start=1):
        files[f"{SHEET}.png" if number == 1 else f"{SHEET}_{number}.png"] = png_bytes(page, dpi=110)
    with new_folder(args.out, overwrite=True, inputs=[args.in_dir], kind=AUDIT) as folder:
        write_files({folder / name: content for name, content in files.items()})

    print(table(["class", "pixels", "share of labelled", "tiles"], share_rows(shares, len(usable))))
    print(table(["type", "band", "colour", *(f"{share} %" for share in SHARES)], band_rows(seen)))
    print_problems(problems, fatal=False)
    print_problems(problems, fatal=True)
    warnings = sum(not problem.fatal for problem in problems)
    print(
        f"\n{args.in_dir}: {len(usable)} of {len(tiles)} pairs can be used; {len(fatal)} tiles with errors, "
        f"{warnings} warnings"
    )
    print("\n".join([*describe_bands(seen, reading.bands), describe_groups(groups)]))
    if suspects:
        print(f"{len(suspects)} masks are likely wrong: look at {args.out / SHEET}.png, and correct those that are")
    if not_judged:
        print(f"masks that are likely wrong: {not_judged}")
    names = [name for name in files if name != "exclude.txt"]
    print(f"{args.out}: {', '.join(names)}, exclude.txt ({len(exclude)} tiles)")
    if fatal:
        split = Command.of("data_prep.split_biodiversity", args.root, "--exclude", str(args.out / "exclude.txt"))
        raise UserError(
            f"{args.in_dir}: {len(fatal)} tiles cannot be used ({some(fatal)}). Correct them, or leave them out: "
            f"{split}"
        )


if __name__ == "__main__":
    run(main)
