r"""Audit the raw Biodiversity tiles: every problem of every tile, class shares, and example tiles.

Writes audit.json, audit.png and exclude.txt; exit status 2 where a tile cannot be used as it is. Masks that are likely
wrong are warnings, with a contact sheet suspicious_labels.png to look at.

    python -m data_prep.check_biodiversity
"""

import dataclasses
import functools
import shlex
from collections import Counter, defaultdict

import numpy as np

from common.cli import Parser, command_for, map_progress, run
from common.errors import UserError
from common.figures import png_bytes
from common.files import FolderKind, check_out_dir, json_text, new_folder, write_files
from common.ground import not_comparable, overlapping
from common.taxonomy import IGNORE_INDEX, Taxonomy, load_taxonomy
from common.text import some, table
from data_prep.audit.sheets import draw, draw_suspects
from data_prep.audit.suspects import find_suspects
from data_prep.raw.files import Problem, find_raw
from data_prep.raw.images import PERCENTILES, SAMPLE_IN_ALL, SAMPLE_PER_TILE, add_bands, chosen_bands, percentile_ranges
from data_prep.raw.inspect import Inspection, inspect, mixed_units, repeated_images

SHOWN = 5  # warnings of one kind on the screen; audit.json has all
SHEET = "suspicious_labels"  # .png; _2.png and so on where there are more pages
AUDIT = FolderKind(
    "audit.json",
    lambda path: {"audit.json", "audit.png", "exclude.txt", *(sheet.name for sheet in path.glob(f"{SHEET}*.png"))},
    "--out",
)


def parse_args(argv=None):
    parser = Parser(__doc__)
    parser.add_path("--in-dir", "data/biodiversity_raw", "folder with images/*.tif and masks/*.png")
    parser.add_path("--out", "artifacts/audit", "folder that gets audit.json, audit.png and exclude.txt")
    add_bands(parser)
    parser.add_argument(
        "--skip-suspicious", action="store_true", help="do not look for masks that are likely wrong, the longest part"
    )
    parser.add_workers()
    return parser.parse_args(argv)


def usual(values: list):
    """The most frequent value, and how many differ from it."""
    value, count = Counter(values).most_common(1)[0]
    return value, len(values) - count


def collection_problems(found: list[Inspection], repeated: dict[str, str], taxonomy: Taxonomy) -> list[Problem]:
    """What is odd about the tiles together; none of it keeps a tile from being used."""
    problems = [
        Problem(tile_id, "repeated image", f"{tile_id}: has the same image as {first}; it is left out", fatal=False)
        for tile_id, first in repeated.items()
    ]

    def add(kind, text):
        problems.append(Problem("", kind, text, fatal=False))

    types = Counter(f"{i.dtype} with {i.band_count} bands" for i in found)
    if len(types) > 1:
        add("mixed types", "; ".join(f"{count} tiles are {name}" for name, count in types.most_common()))
    units = mixed_units(found)
    if units:
        add("mixed units", units)
    sizes = [(i.width, i.height) for i in found]
    (width, height), other = usual(sizes)
    if other:
        odd = some([i.tile.id for i, size in zip(found, sizes, strict=True) if size != (width, height)])
        add("sizes", f"{other} of {len(found)} tiles are not {width} x {height} pixels: {odd}")
    unplaced = [i.tile.id for i in found if i.place["bounds"] is None]
    if unplaced:
        add(
            "not georeferenced",
            f"{len(unplaced)} of {len(found)} tiles; a split by blocks needs a place: {some(unplaced)}",
        )
    systems = {i.place["crs"] for i in found if i.place["bounds"] is not None}
    if len(systems) > 1:
        add(
            "mixed systems", f"tiles are in {len(systems)} coordinate systems; those of one region share spatial blocks"
        )
    kept = [i for i in found if i.tile.id not in repeated]
    places = [{**i.place, "height": i.height, "width": i.width} for i in kept]
    pairs = [(kept[i].tile.id, kept[j].tile.id) for i, j in overlapping(places, places) if i < j]
    if pairs:
        shown = some([f"{a} and {b}" for a, b in pairs])
        add("overlapping ground", f"{len(pairs)} pairs of tiles, which stay in one split together: {shown}")
    unknown = not_comparable(places, places) // 2
    if unknown:
        add(
            "ground not comparable", f"{unknown} pairs of tiles are in systems that cannot be compared with one another"
        )
    pixels = np.sum([i.pixels for i in found if i.pixels] or [[0] * taxonomy.num_classes], axis=0)
    absent = [name for name, count in zip(taxonomy.foreground, pixels[1:], strict=True) if not count]
    if absent:
        add("absent class", f"no tile has {', '.join(absent)}")
    return problems


def class_shares(pixels: np.ndarray, taxonomy: Taxonomy) -> dict:
    """Pixels, share of labelled pixels, tiles and tile presence of each class; pixels is (N, C) int64, void first."""
    total = pixels.sum(axis=0)
    labelled = max(int(total[1:].sum()), 1)
    tiles = (pixels > 0).sum(axis=0)
    return {
        name: {
            "pixels": int(total[k]),
            "share": float(total[k] / labelled),
            "tiles": int(tiles[k]),
            "tile_presence": float(tiles[k] / max(len(pixels), 1)),
        }
        for k, name in enumerate(taxonomy.classes)
        if k != IGNORE_INDEX
    }


def value_ranges(found: list[Inspection]) -> dict:
    """For each pixel type the lowest 2nd and the highest 98th percentile of a tile."""
    ranges = defaultdict(list)
    for i in found:
        ranges[i.dtype] += i.ranges or []
    return {
        dtype: {"percentiles": list(PERCENTILES), "low": min(r[0] for r in here), "high": max(r[1] for r in here)}
        for dtype, here in sorted(ranges.items())
        if here
    }


def ranges_by_tile(found: list[Inspection]) -> dict[str, list | None]:
    """The range that scales each tile to 8 bit: one for all, or each tile's own where their units are mixed."""
    kept = [i.kept for i in found if i.kept is not None]
    if not kept or mixed_units(found):
        return {i.tile.id: i.ranges for i in found}
    pixels = np.concatenate(kept, axis=1)
    common = percentile_ranges(pixels) if pixels.size else None
    return {i.tile.id: common for i in found}


def print_problems(problems: list[Problem], fatal: bool) -> None:
    by_kind = defaultdict(list)
    for problem in problems:
        if problem.fatal == fatal:
            by_kind[problem.kind].append(problem.text)
    if by_kind:
        print("\nerrors: tiles that cannot be used" if fatal else "\nwarnings: used all the same")
    for kind, texts in by_kind.items():
        print(f"  {kind} ({len(texts)})")
        limit = None if fatal else SHOWN
        for text in texts[:limit]:
            print(f"    {text}")
        if len(texts) > len(texts[:limit]):
            print(f"    and {len(texts) - SHOWN} more, in audit.json")


def main(argv=None):
    args = parse_args(argv)
    taxonomy = load_taxonomy(args.root)
    bands = chosen_bands(args)
    check_out_dir(args.out, overwrite=True, inputs=[args.in_dir], kind=AUDIT)
    tiles, problems = find_raw(args.in_dir)
    keep = 0 if args.skip_suspicious else min(SAMPLE_PER_TILE, max(1, SAMPLE_IN_ALL // max(len(tiles), 1)))
    look = functools.partial(inspect, bands=bands, taxonomy=taxonomy, keep=keep)
    inspected = list(map_progress(look, tiles, workers=args.workers, desc="Inspecting"))
    found = [i for i in inspected if i.usable]
    repeated = repeated_images(found)
    problems += [problem for i in inspected for problem in i.problems]
    suspects, not_judged = [], "not looked for (--skip-suspicious)"
    if found:
        problems += collection_problems(found, repeated, taxonomy)
    if not args.skip_suspicious:
        ranges = ranges_by_tile(found)
        found = [dataclasses.replace(i, kept=None) for i in found]
        suspects, not_judged = find_suspects(
            [i for i in found if i.tile.id not in repeated],
            bands=bands,
            ranges=ranges,
            classes=taxonomy.classes,
            workers=args.workers,
        )
        problems += [Problem(s.tile_id, s.kind, f"{s.mask}: {s.reason}", fatal=False) for s in suspects]
    fatal = sorted({problem.tile_id for problem in problems if problem.fatal})
    exclude = sorted({*fatal, *repeated})
    pixels = np.array([i.pixels for i in found], np.int64).reshape(len(found), taxonomy.num_classes)
    shares = class_shares(pixels, taxonomy)
    systems = Counter(i.place["crs"] for i in found if i.place["bounds"] is not None)
    gsds = [i.place["gsd"] for i in found if i.place["gsd"]]

    audit = {
        "in_dir": str(args.in_dir),
        "command": args.command,
        "bands": list(bands),
        "tiles": len(tiles),
        "usable": len(found),
        "exclude": exclude,
        "problems": [{"tile_id": p.tile_id, "kind": p.kind, "fatal": p.fatal, "text": p.text} for p in problems],
        "suspicious": {"tiles": [s.tile_id for s in suspects], "not_judged": not_judged},
        "classes": shares,
        "void_share": float(pixels[:, IGNORE_INDEX].sum() / max(pixels.sum(), 1)),
        "tiles_without_label": int((pixels[:, 1:].sum(axis=1) == 0).sum()),
        "types": dict(Counter(f"{i.dtype} x {i.band_count}" for i in found)),
        "sizes": dict(Counter(f"{i.width} x {i.height}" for i in found)),
        "value_ranges": value_ranges(found),
        "stretch_tile_needed": any(p.kind == "mixed units" for p in problems),
        "georeferenced": sum(systems.values()),
        "systems": [{"crs": crs, "tiles": count} for crs, count in systems.most_common()],
        "gsd": float(np.median(gsds)) if gsds else None,
    }
    files = {"audit.json": json_text(audit), "exclude.txt": "".join(f"{t}\n" for t in exclude)}
    if found:
        files["audit.png"] = png_bytes(draw(found, shares, taxonomy, bands), dpi=120)
    pages = draw_suspects(suspects, {i.tile.id: i for i in found}, taxonomy, bands)
    for number, page in enumerate(pages, start=1):
        files[f"{SHEET}.png" if number == 1 else f"{SHEET}_{number}.png"] = png_bytes(page, dpi=110)
    with new_folder(args.out, overwrite=True, inputs=[args.in_dir], kind=AUDIT) as folder:
        write_files({folder / name: content for name, content in files.items()})

    rows = [[n, f"{c['pixels']:,}", f"{c['share']:.2%}", f"{c['tiles']} of {len(found)}"] for n, c in shares.items()]
    print(table(["class", "pixels", "share of labelled", "tiles"], rows))
    print_problems(problems, fatal=False)
    print_problems(problems, fatal=True)
    warnings = sum(not problem.fatal for problem in problems)
    print(
        f"\n{args.in_dir}: {len(found)} of {len(tiles)} pairs can be used; {len(fatal)} tiles with errors, "
        f"{warnings} warnings"
    )
    if suspects:
        print(f"{len(suspects)} masks are likely wrong: look at {args.out / SHEET}.png, and correct those that are")
    if not_judged:
        print(f"masks that are likely wrong: {not_judged}")
    names = [name for name in files if name != "exclude.txt"]
    print(f"{args.out}: {', '.join(names)}, exclude.txt ({len(exclude)} tiles)")
    if fatal:
        without = shlex.join(["--exclude", str(args.out / "exclude.txt")])
        raise UserError(
            f"{args.in_dir}: {len(fatal)} tiles cannot be used ({some(fatal)}). Correct them, or leave them out: "
            f"{command_for('data_prep.split_biodiversity', args)} {without}"
        )


if __name__ == "__main__":
    run(main)
