r"""Give the rural OpenEarthMap tiles the Biodiversity classes.

Each OpenEarthMap class becomes the largest entry of its row in the class matrix, the one that distillation uses.

    python -m data_prep.relabel_oem
"""

import argparse
import functools
from pathlib import Path

import numpy as np

from common.cli import Parser, map_progress, run
from common.errors import UserError
from common.files import check_out_dir, link_or_copy, sha256_file
from common.rasters import class_pixels, unknown_ids, write_mask
from common.taxonomy import OPENEARTHMAP, Taxonomy, load_taxonomy
from common.text import table
from common.tiles import Tile, TileSet
from data_prep.tile_sets.resampling import add_gsd, compare_gsd, raw_gsd, require_gsd, write_resampled
from data_prep.tile_sets.writer import add_mode, new_tile_set


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(__doc__)
    filtered = "data/openearthmap_filtered"
    maker = "data_prep.filter_oem_rural"
    parser.add_input("--in-dir", filtered, "tile set in OpenEarthMap's classes", made_by=maker, shared=True)
    parser.add_path("--out-dir", "data/openearthmap_relabelled", "tile set to write", shared=True)
    add_gsd(parser)
    add_mode(parser)
    parser.add_workers()
    parser.add_overwrite()
    return parser.parse_args(argv)


def relabel(label: np.ndarray, lookup: np.ndarray, source: Path) -> np.ndarray:
    """(H, W) uint8 OpenEarthMap ids → (H, W) uint8 Biodiversity ids; UserError on any other id.

    Args:
        label: (H, W) uint8 OpenEarthMap ids.
        lookup: (T,) uint8, the class that each OpenEarthMap id becomes.
        source: the file that the label comes from, for the message.
    """
    unknown = unknown_ids(label, len(lookup))
    if unknown:
        raise UserError(f"{source}: ids {unknown} are not OpenEarthMap classes, expected 0-{len(lookup) - 1}.")
    return lookup[label]


def write_tile(
    item: tuple[Tile, Path, Path], *, lookup: np.ndarray, gsd: float | None, taxonomy: Taxonomy, mode: str
) -> dict:
    """Write a tile with its new ids; returns its manifest entry. ``lookup`` as of ``relabel``, ``gsd`` in metres."""
    tile, image_path, mask_path = item
    mask = relabel(tile.read_mask(), lookup, tile.mask_path)
    if gsd:
        return write_resampled(tile, mask, gsd, image_path, mask_path, taxonomy)
    link_or_copy(tile.image_path, image_path, mode)
    write_mask(mask_path, mask)
    pixels = class_pixels(mask, taxonomy.num_classes).tolist()
    return {**tile.entry, "mask_sha256": sha256_file(mask_path), "pixels": pixels}


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    taxonomy = load_taxonomy(args.root)
    source = TileSet.open(args.in_dir).require_taxonomy(OPENEARTHMAP)
    require_gsd(source, args.gsd)
    check_out_dir(args.out_dir, args.overwrite, inputs=[source.path])
    compare_gsd(source, raw_gsd(args.raw_dir, args.root), args.gsd)
    lookup = taxonomy.hard_lookup()
    entries = {"gsd": args.gsd}
    with new_tile_set(args.out_dir, args, taxonomy=taxonomy, split="pool", made_from=[source], **entries) as out:
        items = [(tile, *out.claim(tile.id)) for tile in source]
        write = functools.partial(write_tile, lookup=lookup, gsd=args.gsd, taxonomy=taxonomy, mode=args.mode)
        written = map_progress(write, items, workers=args.workers, desc="Relabelling")
        for tile, entry in zip(source, written, strict=True):
            out.record(tile.id, entry)

    before = source.pixels
    rows = [
        [name, taxonomy.classes[lookup[i]], f"{before[i] / before.sum():.1%}"]
        for i, name in enumerate(OPENEARTHMAP.classes)
    ]
    print(table(["OpenEarthMap", "becomes", "share of all pixels"], rows))
    empty = sum(not any(entry["pixels"][1:]) for entry in out.entries.values())
    print(f"{empty} of {len(out)} tiles are {taxonomy.void} throughout; they are kept, and never drawn in training")
    print(out.summary())


if __name__ == "__main__":
    run(main)
