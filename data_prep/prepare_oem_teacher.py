r"""Split the rural OpenEarthMap tiles into train and val of the teacher, in OpenEarthMap's own classes.

python -m data_prep.prepare_oem_teacher --val-fraction 0.1 --seed 42
"""

import argparse

import numpy as np
from tqdm import tqdm

from common.cli import Parser, fraction, run
from common.errors import UserError
from common.files import check_out_dirs, new_folders
from common.ground import overlapping
from common.taxonomy import OPENEARTHMAP
from common.text import table
from common.tiles import TileSet
from data_prep.tile_sets.class_shares import percentages
from data_prep.tile_sets.resampling import add_gsd, compare_gsd, raw_gsd, require_gsd, write_resampled
from data_prep.tile_sets.stratify import joined, stratify
from data_prep.tile_sets.writer import TileSetWriter, add_mode

SPLITS = ("train", "val")


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(__doc__)
    parser.add_input(
        "--in-dir", "data/openearthmap_filtered", "tile set to split", made_by="data_prep.filter_oem_rural", shared=True
    )
    parser.add_path("--out-dir", "data/openearthmap_teacher", "folder that gets train and val", shared=True)
    parser.add_argument("--val-fraction", type=fraction, default=0.1, help="share of the tiles, drawn by spatial block")
    add_gsd(parser)
    add_mode(parser)
    parser.add_seed()
    parser.add_overwrite()
    args = parser.parse_args(argv)
    if not 0 < args.val_fraction < 1:
        parser.error(f"--val-fraction {args.val_fraction:g} must lie between 0 and 1")
    return args


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    source = TileSet.open(args.in_dir).require_taxonomy(OPENEARTHMAP)
    require_gsd(source, args.gsd)
    out_dirs = [args.out_dir / split for split in SPLITS]
    check_out_dirs(out_dirs, args.overwrite, inputs=[source.path])
    compare_gsd(source, raw_gsd(args.raw_dir, args.root), args.gsd)
    locations = [tile.entry for tile in source]
    units = joined([tile.block for tile in source], overlapping(locations, locations))
    if units.max() == 0:
        sides = [tile.entry["width"] * tile.entry["gsd"] for tile in source if tile.entry["gsd"]]
        problem = (
            f"{source.path}: its {len(source)} tiles form one spatial block (tiles that overlap belong together), "
            "which cannot be split. Unpack more regions"
        )
        if not sides:
            raise UserError(f"{problem}.")
        raise args.in_dir.unusable(f"{problem}, or use a smaller --block-size", "--block-size", f"{min(sides):g}")
    pixels = np.array([tile.pixels[1:] for tile in source])
    chosen = stratify(units, pixels, (1 - args.val_fraction, args.val_fraction), args.seed)
    with new_folders(out_dirs, args.overwrite, inputs=[source.path]) as folders:
        writers = [
            TileSetWriter(path, folder, OPENEARTHMAP, args.mode) for path, folder in zip(out_dirs, folders, strict=True)
        ]
        for tile, s in zip(tqdm(source, desc="Splitting", unit="tile"), chosen, strict=True):
            out = writers[s]
            if args.gsd:
                image_path, mask_path = out.claim(tile.id)
                entry = write_resampled(tile, tile.read_mask(), args.gsd, image_path, mask_path, OPENEARTHMAP)
                out.record(tile.id, entry)
            else:
                out.add(tile)
        for split, writer in zip(SPLITS, writers, strict=True):
            entries = {"seed": args.seed, "val_fraction": args.val_fraction, "gsd": args.gsd}
            writer.write_manifest(args, split, made_from=[source], inputs=[], **entries)

    rows = []
    for s, (split, writer) in enumerate(zip(SPLITS, writers, strict=True)):
        blocks = {tile.block for tile, c in zip(source, chosen, strict=True) if c == s}
        rows.append([split, len(writer), len(blocks), *percentages(writer.pixels)])
    print(table(["split", "tiles", "blocks", *OPENEARTHMAP.foreground], rows))
    print(f"{args.out_dir}: {len(source)} tiles")


if __name__ == "__main__":
    run(main)
