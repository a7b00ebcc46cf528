r"""Audit the raw Biodiversity tiles: every problem of every tile, class shares, and example tiles.

Writes audit.json, audit.png and exclude.txt; exit status 2 where a tile cannot be used as it is.

    python -m data_prep.check_biodiversity
"""

import functools
import shlex
from collections import Counter, defaultdict

import numpy as np

from common.cli import Parser, UserError, command_for, map_progress, run
from common.figures import class_legend, color_mask, new_figure, save_figure
from common.files import write_json, write_text
from common.raw import (
    PERCENTILES,
    Inspection,
    Problem,
    add_bands,
    chosen_bands,
    find_raw,
    inspect,
    mixed_units,
    read_raw,
    repeated_images,
    to_8bit,
)
from common.splitting import not_comparable, overlapping
from common.taxonomy import IGNORE_INDEX, Taxonomy, load_taxonomy
from common.text import some, table
from common.tiles import read_mask

SHOWN = 5  # warnings of one kind on the screen; audit.json has all


def parse_args(argv=None):
    parser = Parser(__doc__)
    parser.add_path("--in-dir", "data/biodiversity_raw", "folder with images/*.tif and masks/*.png")
    parser.add_path("--out", "artifacts/audit", "folder that gets audit.json, audit.png and exclude.txt")
    add_bands(parser)
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


def example_tiles(found: list[Inspection], taxonomy: Taxonomy, count: int) -> list[Inspection]:
    """For one class after another the tile it shares most evenly with others, none twice, until there are ``count``."""
    chosen: list[Inspection] = []
    rank = 0
    pixels = np.array([i.pixels for i in found])
    shares = pixels / np.maximum(pixels.sum(axis=1, keepdims=True), 1)
    order = np.argsort(-shares * (1 - shares), axis=0, kind="stable")
    while len(chosen) < min(count, len(found)) and rank < len(found):
        for k in range(1, taxonomy.num_classes):
            candidate = found[order[rank, k]]
            if pixels[order[rank, k], k] and candidate not in chosen and len(chosen) < count:
                chosen.append(candidate)
        rank += 1
    return chosen


def draw(found: list[Inspection], shares: dict, taxonomy: Taxonomy, bands):
    """Figure of class shares and presence over example tiles with their masks."""
    examples = example_tiles(found, taxonomy, 6)
    figure = new_figure(12, 7.6)
    top, bottom = figure.subfigures(2, 1, height_ratios=[1, 1.7])
    left, right = top.subplots(1, 2, sharey=True)
    for axes, key, label in (
        (left, "share", "share of labelled pixels, %"),
        (right, "tile_presence", f"tiles that contain the class, % of {len(found)}"),
    ):
        values = [100 * shares[name][key] for name in taxonomy.foreground]
        bars = axes.barh(taxonomy.foreground, values, color=taxonomy.colors[1:], edgecolor="#444444", linewidth=0.5)
        axes.bar_label(
            bars, [f"{value:.1f}" if value >= 1 else f"{value:.2g}" for value in values], padding=3, fontsize=9
        )
        axes.set_xlim(0, 1.12 * max([*values, 1]))
        axes.set_xlabel(label)
        axes.spines[["top", "right"]].set_visible(False)
    left.invert_yaxis()
    grid = bottom.subplots(2, max(len(examples), 1), squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for column, example in enumerate(examples):
        raw = read_raw(example.tile.image, bands)
        grid[0, column].imshow(np.moveaxis(to_8bit(raw, example.ranges), 0, -1))
        grid[0, column].set_title(example.tile.id, fontsize=8)
        mask = np.where(raw.valid, read_mask(example.tile.mask), np.uint8(IGNORE_INDEX))
        grid[1, column].imshow(color_mask(mask, taxonomy), interpolation="nearest")
    class_legend(figure, taxonomy)
    return figure


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
    tiles, problems = find_raw(args.in_dir)
    look = functools.partial(inspect, bands=bands, taxonomy=taxonomy)
    inspected = list(map_progress(look, tiles, workers=args.workers, desc="Inspecting"))
    found = [i for i in inspected if i.usable]
    repeated = repeated_images(found)
    problems += [problem for i in inspected for problem in i.problems]
    if found:
        problems += collection_problems(found, repeated, taxonomy)
    fatal = sorted({problem.tile_id for problem in problems if problem.fatal})
    exclude = sorted({*fatal, *repeated})
    pixels = np.array([i.pixels for i in found], np.int64).reshape(len(found), taxonomy.num_classes)
    shares = class_shares(pixels, taxonomy)
    systems = Counter(i.place["crs"] for i in found if i.place["bounds"] is not None)
    gsds = [i.place["gsd"] for i in found if i.place["gsd"]]

    write_json(
        args.out / "audit.json",
        {
            "in_dir": str(args.in_dir),
            "command": args.command,
            "bands": list(bands),
            "tiles": len(tiles),
            "usable": len(found),
            "exclude": exclude,
            "problems": [{"tile_id": p.tile_id, "kind": p.kind, "fatal": p.fatal, "text": p.text} for p in problems],
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
        },
    )
    write_text(args.out / "exclude.txt", "".join(f"{tile_id}\n" for tile_id in exclude))
    if found:
        save_figure(draw(found, shares, taxonomy, bands), args.out / "audit.png", dpi=120)
    else:
        (args.out / "audit.png").unlink(missing_ok=True)

    rows = [[n, f"{c['pixels']:,}", f"{c['share']:.2%}", f"{c['tiles']} of {len(found)}"] for n, c in shares.items()]
    print(table(["class", "pixels", "share of labelled", "tiles"], rows))
    print_problems(problems, fatal=False)
    print_problems(problems, fatal=True)
    warnings = sum(not problem.fatal for problem in problems)
    print(
        f"\n{args.in_dir}: {len(found)} of {len(tiles)} pairs can be used; {len(fatal)} tiles with errors, "
        f"{warnings} warnings"
    )
    print(f"{args.out}: audit.json, {'audit.png, ' if found else ''}exclude.txt ({len(exclude)} tiles)")
    if fatal:
        without = shlex.join(["--exclude", str(args.out / "exclude.txt")])
        raise UserError(
            f"{args.in_dir}: {len(fatal)} tiles cannot be used ({some(fatal)}). Correct them, or leave them out: "
            f"{command_for('data_prep.split_biodiversity', args)} {without}"
        )


if __name__ == "__main__":
    run(main)
