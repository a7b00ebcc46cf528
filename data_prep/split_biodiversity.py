r"""Split the raw Biodiversity tiles into train, val and test.

Whole spatial blocks are drawn if the tiles are georeferenced, so that neighbours stay on one side. Tiles that show
the same area, as the audit found or --groups says, are never divided. Each split gets every class in about its overall
share. Images become 8-bit here, once, with the bands of --bands; the scaling comes from train alone. Pixels that are
nodata, transparent, NaN, infinite or beyond 1e30 become Background; a value that fills gaps and is not declared as
nodata, such as -9999, is refused. A band that is constant but for rounding stays constant.

With --folds 5 --fold 1 the tiles of test are the same; all others are dealt into five folds, each class into as many
as can be, and the first is val. The fold has a root of its own, ROOT/folds/1.

    python -m data_prep.split_biodiversity --seed 42
    python -m data_prep.split_biodiversity --folds 5 --fold 1
"""

import argparse
import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from common.cli import Parser, fraction, map_progress, positive_float, run
from common.errors import UserError
from common.files import check_out_dirs, link_or_copy, new_folders
from common.ground import SLIVER, not_comparable, overlapping, spatial_blocks
from common.inputs import Command, Input
from common.rasters import write_mask
from common.raw_images import (
    SAMPLE_PER_TILE,
    Reading,
    add_bands,
    chosen_reading,
    percentile_ranges,
    pixels_per_tile,
    read_raw,
    sample,
    write_8bit,
)
from common.taxonomy import IGNORE_INDEX, Taxonomy, load_taxonomy
from common.text import some, table, warn
from data_prep.raw.collection import (
    declared,
    lost_labels,
    mixed_systems,
    mixed_types,
    other_order,
    problem_lines,
    repeated_images,
)
from data_prep.raw.files import RawTile
from data_prep.raw.inspect import Inspection, inspect
from data_prep.raw.masks import add_masks, chosen_masks, read_raw_mask
from data_prep.raw.pairs import add_patterns, chosen_patterns, find_raw
from data_prep.tile_sets.class_shares import percentages
from data_prep.tile_sets.folds import add_folds, check_folds, deal_folds, record_folds, split_home, tell_folds
from data_prep.tile_sets.groups import GroupTables, group_sizes
from data_prep.tile_sets.odd import Look, band_statistics, look_at, odd_tiles, tell_odd
from data_prep.tile_sets.slivers import Outline, add_overlaps, outline_for, shared_strips, strips_to_cut, without_strips
from data_prep.tile_sets.stratify import joined, stratify
from data_prep.tile_sets.stretch import choose_stretch, print_stretch
from data_prep.tile_sets.writer import TileSetWriter, add_mode, describe_tile

SPLITS = ("train", "val", "test")
MANY_BLOCKS, FEW_BLOCKS = (0.8, 0.1, 0.1), (0.6, 0.2, 0.2)
BLOCKS_FOR_TENTHS = 100
BLOCKS_FOR_INTERVALS = 10
AUDIT = "data_prep.check_biodiversity"
OUT_DIR = "data/biodiversity_split"
ODD_TILES = "artifacts/odd_tiles.png"


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(__doc__)
    parser.add_path("--in-dir", "data/biodiversity_raw", "folder with images/*.tif and masks/*.png", shared=True)
    parser.add_argument(
        "--out-dir",
        type=Path,
        metavar="PATH",
        help=f"folder that gets train, val and test (default: ROOT/{OUT_DIR}, with --fold ROOT/folds/FOLD/{OUT_DIR})",
    )
    add_folds(parser)
    parser.add_argument(
        "--strategy",
        choices=["blocks", "random"],
        help="draw whole spatial blocks, or single tiles (default: blocks if most tiles are georeferenced)",
    )
    parser.add_argument(
        "--block-size", type=positive_float, metavar="METRES", help="side of a block (default: two tile sides)"
    )
    parser.add_argument(
        "--fractions",
        type=fraction,
        nargs=3,
        metavar=("TRAIN", "VAL", "TEST"),
        help=f"shares of the tiles (default: 0.8 0.1 0.1, or 0.6 0.2 0.2 under {BLOCKS_FOR_TENTHS} blocks); with "
        "--folds only that of test counts",
    )
    parser.add_argument(
        "--stretch",
        choices=["train", "tile"],
        default="train",
        help="range that becomes 0-255 in images that are not 8-bit: one for all, from train, or each tile's own",
    )
    add_bands(parser)
    add_masks(parser)
    add_patterns(parser)
    parser.add_input("--exclude", None, "tile ids to leave out, one a line", made_by=AUDIT)
    parser.add_input(
        "--audit-groups",
        "artifacts/audit/groups.tsv",
        "tiles that show the same area, as the audit found",
        made_by=AUDIT,
        shared=True,
    )
    parser.add_argument(
        "--groups",
        type=Path,
        metavar="FILE",
        help="more tiles to keep together: a tab-separated table with the columns tile and group",
    )
    add_overlaps(parser)
    add_mode(parser)
    parser.add_seed()
    parser.add_workers()
    parser.add_overwrite()
    args = parser.parse_args(argv)
    if args.fractions is not None and (abs(sum(args.fractions) - 1) > 1e-6 or min(args.fractions) == 0):
        parser.error(f"--fractions {' '.join(map(str, args.fractions))} must be above 0 and sum to 1")
    check_folds(parser, args)
    args.out_dir = args.out_dir or split_home(args) / OUT_DIR
    return args


def read_excluded(source: Input | None, raw_ids: set[str]) -> set[str]:
    """The tile ids of an exclude file, none without one.

    Raises:
        UserError: the file is missing or no text, or names tiles that are not in ``raw_ids``.
    """
    if source is None:
        return set()
    try:
        lines = source.path.read_text(encoding="utf-8").split("\n")
    except (FileNotFoundError, IsADirectoryError):
        raise source.missing(f"({source.flag}) is no file") from None
    except UnicodeDecodeError as error:
        raise source.unusable(f"--exclude {source} is no text in UTF-8 ({error})") from None
    ids = {line if line in raw_ids else line.strip() for line in lines} - {""}
    strange = sorted(ids - raw_ids)
    if strange:
        raise source.unusable(
            f"--exclude {source} names {len(strange)} tiles that are not in --in-dir: {some(strange)}"
        )
    return ids


def inspect_all(
    args: argparse.Namespace, taxonomy: Taxonomy
) -> tuple[list[Inspection], Reading, set[str], dict[str, str]]:
    """Inspections of the tiles to split, how they are read, the excluded ids, and the repeated images left out.

    Raises:
        UserError: a tile that is not excluded cannot be used.
    """
    tiles, problems = find_raw(args.in_dir, chosen_masks(args, taxonomy), chosen_patterns(args))
    excluded = read_excluded(args.exclude, {t.id for t in tiles} | {p.tile_id for p in problems})
    tiles = [tile for tile in tiles if tile.id not in excluded]
    keep = pixels_per_tile(len(tiles)) if args.stretch == "train" else 0
    reading = chosen_reading(args.bands, args.alpha, [tile.image for tile in tiles])
    inspect_one = functools.partial(inspect, reading=reading, taxonomy=taxonomy, keep=keep)
    inspections = list(map_progress(inspect_one, tiles, workers=args.workers, desc="Inspecting"))
    problems = [p for p in problems if p.tile_id not in excluded] + [p for i in inspections for p in i.problems]
    fatal = [problem for problem in problems if problem.fatal]
    if fatal:
        raise UserError(
            f"{args.in_dir}: {len({p.tile_id for p in fatal})} tiles cannot be used:\n"
            f"{problem_lines(fatal, rest='more')}\n"
            f"See all of them, and get a list for --exclude: {Command.of(AUDIT, args.root)}"
        )
    repeated = repeated_images(inspections)
    return [i for i in inspections if i.tile.id not in repeated], reading, excluded, repeated


def write_tile(
    item: tuple[RawTile, Path, Path, Sequence[Outline]],
    *,
    reading: Reading,
    stretch: dict | None,
    mode: str,
    num_classes: int,
) -> tuple[dict, Look | None]:
    """Write a raw tile's image and mask as the pipeline reads them.

    ``item``: the tile, the files to write, and outlines of other tiles in which its mask becomes void.

    Returns:
        The manifest entry, with ``lost_labels`` if some are, and how the image looks.
    """
    tile, image_path, mask_path, strips = item
    raw = read_raw(tile.image, reading)
    found = read_raw_mask(tile.mask, tile.masks)
    mask = found.ids.astype(np.uint8, copy=False)
    ranges = None
    if raw.needs_stretch and raw.valid.any() and stretch:
        ranges = stretch["ranges"] or percentile_ranges(sample(raw, SAMPLE_PER_TILE))
    image = write_8bit(raw, ranges, tile.image, image_path, mode)
    if strips and raw.transform is not None:
        mask = without_strips(mask, raw.transform, strips)
    mask = np.where(raw.valid, mask, np.uint8(IGNORE_INDEX))
    lost = int(np.count_nonzero(found.ids) - np.count_nonzero(mask))
    if lost or not found.as_it_is:
        write_mask(mask_path, mask)
    else:
        link_or_copy(tile.mask, mask_path, mode)
    entry = describe_tile(image, mask, image_path, mask_path, raw.location, num_classes)
    return {**entry, **({"lost_labels": lost} if lost else {})}, look_at(image, raw.valid)


def warn_of_absent(taxonomy: Taxonomy, chosen: np.ndarray, pixels: np.ndarray, units: np.ndarray, unit: str) -> None:
    """Name the classes that a split lacks; ``unit`` is what was drawn, tiles or blocks.

    ``chosen`` and ``units``: (N,) split and unit of each tile; ``pixels``: (N, C - 1) labelled ones of each class.
    """
    for k, name in enumerate(taxonomy.foreground):
        lacking = [split for s, split in enumerate(SPLITS) if not pixels[chosen == s, k].any()]
        holders = np.unique(units[pixels[:, k] > 0])
        if lacking:
            warn(f"{name} does not occur in {' and '.join(lacking)}: it is in {len(holders)} {unit} only.")


def units_by_name(names: list[str], areas: np.ndarray) -> list[dict[str, str]]:
    """Of each tile ``unit``, the first block of its area, if that ties several blocks together; else nothing.

    ``names``: of the blocks; ``areas``: (N,) int.
    """
    of_area: dict[int, list[str]] = {}
    for name, area in zip(names, areas.tolist(), strict=True):
        of_area.setdefault(area, []).append(name)
    return [{"unit": of_area[area][0]} if len(set(of_area[area])) > 1 else {} for area in areas.tolist()]


def overlap_cause(inspections: list[Inspection], pairs: list[tuple[int, int]]) -> str:
    """A sentence on the tiles that overlap and the remedy, empty if none do."""
    together = sorted({i for pair in pairs if pair[0] != pair[1] for i in pair})
    if not together:
        return ""
    tile_ids = some([inspections[i].tile.id for i in together])
    return (
        f" {len(together)} tiles overlap their neighbours by more than {SLIVER:g} pixels and have to stay together "
        f"({tile_ids}): cut them so that they only touch, or leave some out with --exclude."
    )


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    taxonomy = load_taxonomy(args.root)
    out_dirs = [args.out_dir / split for split in SPLITS]
    check_out_dirs(out_dirs, args.overwrite, inputs=[args.in_dir])
    groups = GroupTables.read(args.audit_groups, args.groups, args.bands)
    inspections, reading, excluded, repeated = inspect_all(args, taxonomy)
    count = len(inspections)
    footprints = [i.footprint for i in inspections]
    pixels = np.array([i.pixels[1:] for i in inspections], np.int64).reshape(count, taxonomy.num_classes - 1)

    unlocated = [i.tile.id for i in inspections if not i.is_located]
    strategy = args.strategy or ("blocks" if 2 * len(unlocated) < count else "random")
    blocks = spatial_blocks(footprints, args.block_size)
    names = [block or f"tile {i.tile.id}" for block, i in zip(blocks, inspections, strict=True)]
    if strategy == "blocks" and unlocated:
        warn(
            f"{len(unlocated)} of {count} tiles are not georeferenced, so that each of them is a block of its own: "
            f"{some(unlocated)}"
        )
    overlaps = overlapping(footprints, footprints, SLIVER) if args.overlaps == "together" else []
    strips = shared_strips(footprints)
    pairs = overlaps + groups.pairs(inspections, excluded | repeated.keys())
    singles = joined([i.tile.id for i in inspections], pairs)
    together = group_sizes(singles)
    unknown = not_comparable(footprints, footprints) // 2
    if unknown:
        warn(f"{unknown} pairs of tiles are not comparable: their systems do not say whether they share an area.")
    systems = mixed_systems(inspections)
    if systems:
        warn(systems)
    areas = joined(names, pairs)
    units = areas if strategy == "blocks" else singles
    unit = "blocks" if strategy == "blocks" else "groups and single tiles" if together else "tiles"
    fractions = tuple(args.fractions or (MANY_BLOCKS if len(set(areas)) >= BLOCKS_FOR_TENTHS else FEW_BLOCKS))
    cause = overlap_cause(inspections, overlaps) + groups.cause(together)
    if len(set(units)) < len(SPLITS):
        larger = "Use a smaller --block-size or --strategy random, or add tiles." if strategy == "blocks" else ""
        left_out = f" ({len(excluded)} excluded, {len(repeated)} repeat another image)" if excluded or repeated else ""
        raise UserError(
            f"{args.in_dir}: {count} tiles{left_out} make {len(set(units))} {unit} to draw, which cannot make "
            "three splits." + (cause or f" {larger or 'Add tiles.'}")
        )
    chosen = stratify(units, pixels, fractions, args.seed)
    dealing = None
    if args.folds:
        if args.fractions:
            print(f"--fractions: with --folds only the share of test counts, {fractions[2]:g}")
        dealing = deal_folds(args, [i.tile.id for i in inspections], units, pixels, chosen == 2, unit)
        tell_folds(dealing, taxonomy, pixels, areas, units, unit)
        chosen = dealing.sides
    for s, split in enumerate(SPLITS):
        if not pixels[chosen == s].any():
            raise UserError(
                f"{args.in_dir}: no tile of {split} would have a labelled pixel ({int((pixels.sum(axis=1) > 0).sum())} "
                f"of {count} tiles have any). Label more tiles"
                + (", or use a smaller --block-size." if strategy == "blocks" else ".")
                + cause
            )
    stretch = choose_stretch(args, inspections, chosen == 0)
    inspections = [dataclasses.replace(i, kept=None) for i in inspections]

    block_sets = [{names[i] for i in np.flatnonzero(chosen == s)} for s in range(len(SPLITS))]
    write = functools.partial(
        write_tile, reading=reading, stretch=stretch, mode=args.mode, num_classes=taxonomy.num_classes
    )
    if dealing:
        record_folds(args.root, dealing, Command.read(args.command), args.overwrite)
    with new_folders(out_dirs, args.overwrite, inputs=[args.in_dir]) as folders:
        writers = [
            TileSetWriter(path, folder, taxonomy, args.mode) for path, folder in zip(out_dirs, folders, strict=True)
        ]
        cut = strips_to_cut(strips, chosen)
        items = [
            (
                i.tile,
                *writers[s].claim(i.tile.id),
                [outline_for(footprints[other], footprints[n]) for other in cut.get(n, ())],
            )
            for n, (i, s) in enumerate(zip(inspections, chosen, strict=True))
        ]
        written = map_progress(write, items, workers=args.workers, desc="Writing")
        of_block = zip(blocks, units_by_name(names, areas), strict=True)
        looks = []
        for i, s, (block, tied), (entry, look) in zip(inspections, chosen, of_block, written, strict=True):
            looks.append((i.tile.id, out_dirs[s] / "images" / f"{i.tile.id}.tif", look))
            writers[s].record(i.tile.id, {**entry, "block": block, **tied, "source": "biodiversity"})
        statistics = band_statistics(look for (_, _, look), s in zip(looks, chosen, strict=True) if s == 0)
        for s, writer in enumerate(writers):
            shared = {} if s == 0 else {"blocks_shared_with_train": len(block_sets[s] & block_sets[0])}
            writer.write_manifest(
                args,
                SPLITS[s],
                made_from=[],
                inputs=[args.in_dir],
                stretch=stretch,
                bands=list(reading.bands),
                band_statistics=statistics.to_json(),
                alpha=reading.alpha,
                image_pattern=args.images,
                mask_pattern=args.masks,
                **chosen_masks(args, taxonomy).entries(),
                **declared(inspections),
                groups={"from": groups.sources, "groups": len(together), "tiles": sum(together)},
                split_strategy=strategy,
                overlaps=args.overlaps,
                slivers={"pairs": len(strips), "tiles_cut": len(cut)},
                block_size=args.block_size,
                seed=args.seed,
                fractions=list(fractions),
                excluded=sorted(excluded),
                repeated_images=repeated,
                **shared,
                **(dealing.entries(taxonomy) if dealing else {}),
            )

    drawn = [len(set(areas[chosen == s])) for s in range(len(SPLITS))]
    rows = []
    for s, (split, writer) in enumerate(zip(SPLITS, writers, strict=True)):
        void = f"{writer.pixels[0] / writer.pixels.sum():.1%}"
        rows.append([split, len(writer), drawn[s], *percentages(writer.pixels), void])
    header = ["split", "tiles", "blocks", *taxonomy.foreground, f"{taxonomy.void} (of all)"]
    print(table(header, rows))
    shares = f"fractions {' '.join(f'{f:g}' for f in fractions)}"
    made = f"fold {args.fold}, share of test {fractions[2]:g}" if dealing else shares
    print(f"{args.out_dir}: {count} tiles, strategy {strategy}, {made}")
    if together:
        print(f"never divided: {sum(together)} tiles in {len(together)} groups that share an area or belong together")
    if excluded or repeated:
        repeats = f"{len(repeated)} that repeat another image ({some(list(repeated)) or '-'})"
        print(f"left out: {len(excluded)} excluded, {repeats}")
    if strips:
        print(
            f"{len(strips)} pairs of tiles share a strip of up to {SLIVER:g} pixels and are taken to touch; where they "
            f"are in two splits, it is not labelled in the tile of the earlier one ({len(cut)} tiles)"
        )
    if args.overlaps == "ignore":
        print("--overlaps ignore: tiles whose places overlap were not kept together")
    entries = {tile_id: entry for writer in writers for tile_id, entry in writer.entries.items()}
    for problem in filter(None, (lost_labels(entries), mixed_types(inspections), other_order(inspections))):
        warn(problem)
    edges = [problem for i in inspections for problem in i.problems if problem.kind == "constant edge"]
    if edges:
        warn(f"tiles with a labelled area of one value at the edge:\n{problem_lines(edges, rest='more')}")
    tell_odd(odd_tiles(looks), split_home(args) / ODD_TILES)
    if stretch:
        print_stretch(stretch, sum(i.needs_stretch for i in inspections))
    warn_of_absent(taxonomy, chosen, pixels, units, unit)
    scored, of, share = drawn[1], "val has", "a larger share"
    if dealing:  # in which each fold is val once
        scored, of, share = drawn[0] + drawn[1], "all folds together have", "a smaller share of test"
    if scored < BLOCKS_FOR_INTERVALS:
        if len(unlocated) == count:
            has, smaller = f"{scored} tiles", ""
        else:
            has, smaller = f"tiles of {scored} spatial blocks", ", or a smaller --block-size"
        warn(
            f"{of} {has}; under {BLOCKS_FOR_INTERVALS} no interval can be given for a difference between stages. "
            f"Use {share} in --fractions{smaller}.{cause}"
        )
    if dealing and strategy == "random" and unlocated:
        warn(
            f"{len(unlocated)} of {count} tiles have no place: neighbours among them may sit in val and in train, and "
            "then scores are higher than in new areas."
        )
    crossing = [len(block_sets[s] & block_sets[0]) for s in (1, 2)]
    if any(crossing):
        warn(
            f"tiles of val in {crossing[0]} places, and of test in {crossing[1]}, have neighbours in train, so that "
            "scores are higher than in new areas. --strategy blocks keeps neighbours together."
        )


if __name__ == "__main__":
    run(main)
